//! Which position wins a window's maximum, where rounding to f32 must not decide.
//!
//! The sums of two candidates are sometimes as near each other as rounding is coarse: a few times
//! in a thousand steps, f32 would pick another winner than exact arithmetic, from where two
//! trajectories part ways. Such windows are decided here in f64, from the pixels on, with weights
//! to which what rounding took from them is added back; of the network below, only what the window
//! sees is computed.

use std::ops::Range;
use std::rc::Rc;

use zoo_model::random::{dropout_threshold, philox, Purpose};
use zoo_model::Hyperparameters;

use super::dropout::Draw;
use super::layers::Layer;
use zoo_engine::functions::activate;

/// A candidate is close to a window's maximum if it differs by less than this times 1 + the
/// maximum's magnitude: some times what rounding does to sums of a few hundred terms.
pub const CLOSE: f32 = 1.0 / (1 << 19) as f32;

/// The corners of a window, relative to its own, in the order in which equals win.
pub const WINDOW: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// The first of the largest sums, NaN being larger than any number.
pub fn largest_of(sums: [f32; 4]) -> usize {
    let better = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
    (1..4).fold(0, |w, p| if better(sums[p], sums[w]) { p } else { w })
}

/// Whether rounding may have decided a window: two candidates are close to the largest, of those
/// whose patches are `distinct` from all before them.
///
/// In a pruned model equal sums are no such candidates: few weights are left in a kernel, and what
/// they see is often the same.
pub fn is_open(sums: [f32; 4], pruned: bool, distinct: [bool; 3]) -> bool {
    let best = sums[largest_of(sums)];
    let bound = best - best.abs().mul_add(CLOSE, CLOSE);
    let close = |p: usize| bound < sums[p] && (p == 0 || distinct[p - 1]);
    let mut pairs = (0..4).flat_map(|q| (0..q).map(move |p| (p, q)));
    pairs.any(|(p, q)| close(p) && close(q) && (sums[p] != sums[q] || !pruned))
}

/// A window is open only where the derivative of its output is at least this: through a saturated
/// or dropped unit hardly any gradient passes to the winner.
pub const SIGNIFICANT: f32 = 1.0 / (1 << 12) as f32;

/// Most open units of a layer and sample that are decided exactly. Models whose maps hardly vary
/// leave more open than it is worth to decide; they keep the winners of f32.
pub const MOST_OPEN: usize = 4;

/// Weights of some outputs of a layer, (taps, outputs), and their biases.
struct Kernels {
    weights: Vec<f64>,
    biases: Vec<f64>,
}

/// The input of a layer, (height, width, channels), as far as it is known.
struct Map {
    values: Vec<f64>,
    /// (height, width)
    known: Vec<bool>,
}

/// One model's pooled layers on one sample, in f64, computed as far as asked for.
pub struct Exact<'a, P> {
    layers: &'a [Layer],
    parameter: P,
    dropout: Option<(&'a Hyperparameters, Draw, usize)>,
    /// One a layer, of all outputs, of those that lie below a window that was asked for.
    kernels: Vec<Option<Rc<Kernels>>>,
    /// One a layer.
    inputs: Vec<Map>,
}

impl<'a, P: Fn(usize) -> f64> Exact<'a, P> {
    /// `parameter(place)` is the value at a place of PyTorch's flat vector, `image` the input
    /// (height, width, channels); `dropout` is the place of the sample in the random draws.
    pub fn new(
        layers: &'a [Layer],
        parameter: P,
        image: Vec<f64>,
        dropout: Option<(&'a Hyperparameters, Draw, usize)>,
    ) -> Self {
        let unknown = |l: &Layer| Map { values: vec![0.0; l.inputs()], known: vec![false; l.height * l.width] };
        let pooled = layers.iter().take_while(|l| l.pooled).skip(1);
        let known = Map { values: image, known: vec![true; layers[0].height * layers[0].width] };
        let inputs: Vec<Map> = std::iter::once(known).chain(pooled.map(unknown)).collect();
        Self { layers, parameter, dropout, kernels: vec![None; inputs.len()], inputs }
    }

    /// Which candidate wins the window of a unit (position x outputs + output): the first of the
    /// largest.
    pub fn winner(&mut self, layer: usize, unit: usize) -> usize {
        let (outputs, [_, columns]) = (self.layers[layer].outputs, self.layers[layer].output_map());
        let (position, output) = (unit / outputs, unit % outputs);
        let kernels = self.kernels(layer, output..output + 1);
        let sums = self.window(layer, &kernels, position / columns, position % columns);
        (1..4).fold(0, |w, p| if sums[p][0] > sums[w][0] { p } else { w })
    }

    fn kernels(&self, layer: usize, outputs: Range<usize>) -> Kernels {
        let layer = &self.layers[layer];
        let of_tap = |tap| outputs.clone().map(move |o| layer.weight_place(o, tap));
        Kernels {
            weights: (0..layer.taps()).flat_map(of_tap).map(&self.parameter).collect(),
            biases: layer.bias.clone().skip(outputs.start).take(outputs.len()).map(&self.parameter).collect(),
        }
    }

    /// The sums (outputs of the kernels) of a window's four positions.
    fn window(&mut self, layer: usize, kernels: &Kernels, row: usize, column: usize) -> [Vec<f64>; 4] {
        WINDOW.map(|(down, right)| self.sums(layer, kernels, 2 * row + down, 2 * column + right))
    }

    /// Bias + sum of weight x input (outputs of the kernels), before pooling.
    fn sums(&mut self, layer: usize, kernels: &Kernels, row: usize, column: usize) -> Vec<f64> {
        let here = &self.layers[layer];
        let [rows, columns] = here.kernel;
        for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            self.know(layer, row + y, column + x);
        }
        let mut sums = kernels.biases.clone();
        let mut weights = kernels.weights.chunks_exact(sums.len());
        for y in 0..rows {
            let start = (row + y) * here.input_row() + column * here.channels;
            for (value, weights) in self.inputs[layer].values[start..][..here.tap_row()].iter().zip(&mut weights) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += weight * value;
                }
            }
        }
        sums
    }

    /// Computes the layer's input (channels) at a position, if it is not known.
    fn know(&mut self, layer: usize, row: usize, column: usize) {
        let position = row * self.layers[layer].width + column;
        if self.inputs[layer].known[position] {
            return;
        }
        let before = &self.layers[layer - 1];
        let kernels = self.kernels[layer - 1].clone();
        let kernels = kernels.unwrap_or_else(|| Rc::new(self.kernels(layer - 1, 0..before.outputs)));
        self.kernels[layer - 1] = Some(kernels.clone());
        let sums = self.window(layer - 1, &kernels, row, column);
        for o in 0..before.outputs {
            let sum = sums.iter().map(|sums| sums[o]).fold(f64::NEG_INFINITY, |m, sum| if sum > m { sum } else { m });
            let value = before.activation.map_or(sum, |activation| activate(activation, sum));
            let unit = position * before.outputs + o;
            self.inputs[layer].values[unit] = value * self.dropout_factor(before, unit);
        }
        self.inputs[layer].known[position] = true;
    }

    fn dropout_factor(&self, layer: &Layer, unit: usize) -> f64 {
        let (Some((h, draw, sample)), Some(module)) = (self.dropout, layer.dropout) else { return 1.0 };
        let (position, channel) = (unit / layer.outputs, unit % layer.outputs);
        let index = sample * layer.units() + channel * layer.positions() + position;
        let counter = [(index / 4) as u32, draw.step, draw.epoch, Purpose::Dropout(module).word()];
        let word = philox(counter, [h.seed as u32, (h.seed >> 32) as u32])[index % 4];
        if word >= dropout_threshold(h.dropout) {
            1.0 / (1.0 - h.dropout)
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_and_unequal_candidates_leave_a_window_open() {
        let open = |sums| is_open(sums, false, [true; 3]);
        assert!(!open([1.0, 3.0, 2.0, 0.0]));
        assert!(open([1.0, 1.0 + 1e-6, 0.0, 0.0]));
        assert!(open([1.0, 0.0, 1.0, 0.0]));
        assert!(!open([1.0, f32::NAN, 2.0, f32::NAN]));
        assert!(open([1e9, 1e9 - 512.0, 0.0, 0.0]));
        assert!(!is_open([1.0, 0.0, 1.0, 0.0], false, [true, false, true]));
        assert!(!is_open([1.0, 0.0, 1.0, 0.0], true, [true; 3]));
        assert!(is_open([1.0, 1.0 + 1e-6, 0.0, 0.0], true, [true; 3]));
        assert_eq!(largest_of([1.0, f32::NAN, 2.0, f32::NAN]), 1);
    }
}
