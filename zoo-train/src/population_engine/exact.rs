//! Which position wins a window's maximum, where rounding to f32 must not decide.
//!
//! The sums of two candidates are sometimes as near each other as rounding is coarse: a few times
//! in a thousand steps, f32 would pick another winner than exact arithmetic, from where two
//! trajectories part ways. Such windows are decided here in f64, from the pixels on, with weights
//! to which what rounding took from them is added back; of the network below, only what the window
//! sees is computed.

use std::collections::HashMap;
use std::rc::Rc;

use zoo_model::random::{dropout_threshold, philox, Purpose};
use zoo_model::{Activation, Hyperparameters};

use super::dropout::Draw;
use super::layers::Layer;

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

/// Whether rounding may have decided a window: of two candidates that are close to the largest, the
/// patches are not `equal`.
///
/// In a pruned model equal sums are no such candidates: few weights are left in a kernel, and what
/// they see is often the same.
pub fn is_open(sums: [f32; 4], pruned: bool, equal: impl Fn(usize, usize) -> bool) -> bool {
    let best = sums[largest_of(sums)];
    let bound = best - best.abs().mul_add(CLOSE, CLOSE);
    let mut pairs = (0..4).flat_map(|q| (0..q).map(move |p| (p, q)));
    pairs.any(|(p, q)| bound < sums[p] && bound < sums[q] && (sums[p] != sums[q] || !pruned) && !equal(p, q))
}

/// Most open units of a layer and sample that are decided exactly. Saturated models, whose maps
/// hardly vary, leave more open than it is worth to decide; they keep the winners of f32.
pub const MOST_OPEN: usize = 4;

/// One model's pooled layers on one sample, in f64, computed as far as asked for.
pub struct Exact<'a> {
    layers: &'a [Layer],
    /// For each pooled layer (taps, outputs).
    weights: Vec<Vec<f64>>,
    biases: Vec<Vec<f64>>,
    /// (height, width, channels).
    image: Vec<f64>,
    dropout: Option<(&'a Hyperparameters, Draw, usize)>,
    /// Outputs at a layer's position.
    known: HashMap<(usize, usize, usize), Rc<[f64]>>,
}

impl<'a> Exact<'a> {
    /// `parameter(place)` is the value at a place of PyTorch's flat vector; `dropout` is the place
    /// of the sample in the random draws.
    pub fn new(
        layers: &'a [Layer],
        parameter: impl Fn(usize) -> f64,
        image: Vec<f64>,
        dropout: Option<(&'a Hyperparameters, Draw, usize)>,
    ) -> Self {
        let pooled = layers.iter().filter(|l| l.pooled);
        let weights = pooled.clone().map(|layer| {
            let taps = (0..layer.taps()).flat_map(|tap| (0..layer.outputs).map(move |o| (tap, o)));
            taps.map(|(tap, o)| parameter(layer.weight_place(o, tap))).collect()
        });
        let biases = pooled.map(|layer| layer.bias.clone().map(&parameter).collect());
        let (weights, biases) = (weights.collect(), biases.collect());
        Self { layers, weights, biases, image, dropout, known: HashMap::new() }
    }

    /// Which candidate wins the window of a unit (position x outputs + output): the first of the
    /// largest.
    pub fn winner(&mut self, layer: usize, unit: usize) -> usize {
        let (outputs, [_, columns]) = (self.layers[layer].outputs, self.layers[layer].output_map());
        let (position, output) = (unit / outputs, unit % outputs);
        let sums = self.window(layer, position / columns, position % columns);
        (1..4).fold(0, |w, p| if sums[p][output] > sums[w][output] { p } else { w })
    }

    /// The sums (outputs) of a window's four positions.
    fn window(&mut self, layer: usize, row: usize, column: usize) -> [Vec<f64>; 4] {
        WINDOW.map(|(down, right)| self.sums(layer, 2 * row + down, 2 * column + right))
    }

    /// Bias + sum of weight x input (outputs), before pooling.
    fn sums(&mut self, layer: usize, row: usize, column: usize) -> Vec<f64> {
        let [rows, columns] = self.layers[layer].kernel;
        let (outputs, channels) = (self.layers[layer].outputs, self.layers[layer].channels);
        let mut sums = self.biases[layer].clone();
        for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            let input = self.input(layer, row + y, column + x);
            let taps = (y * columns + x) * channels;
            let weights = self.weights[layer][taps * outputs..].chunks_exact(outputs);
            for (value, weights) in input.iter().zip(weights) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += weight * value;
                }
            }
        }
        sums
    }

    /// The layer's input (channels) at a position.
    fn input(&mut self, layer: usize, row: usize, column: usize) -> Rc<[f64]> {
        let (width, channels) = (self.layers[layer].width, self.layers[layer].channels);
        let position = row * width + column;
        if layer == 0 {
            return self.image[position * channels..][..channels].into();
        }
        let key = (layer, row, column);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let sums = self.window(layer - 1, row, column);
        let before = &self.layers[layer - 1];
        let output = |o: usize| {
            let sum = (1..4).fold(sums[0][o], |m, p| if sums[p][o] > m { sums[p][o] } else { m });
            let value = before.activation.map_or(sum, |activation| activate(activation, sum));
            value * self.dropout_factor(before, position * before.outputs + o)
        };
        let outputs: Rc<[f64]> = (0..before.outputs).map(output).collect();
        self.known.insert(key, outputs.clone());
        outputs
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

/// An activation in f64, by `libm`, whose bits are the same on every platform.
fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    match activation {
        Activation::Tanh => libm::tanh(x),
        Activation::Relu => x.max(0.0),
        Activation::Sigmoid => sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::LeakyRelu => {
            if x > 0.0 {
                x
            } else {
                0.01 * x
            }
        }
        Activation::Silu => x * sigmoid(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_and_unequal_candidates_leave_a_window_open() {
        let open = |sums| is_open(sums, false, |_, _| false);
        assert!(!open([1.0, 3.0, 2.0, 0.0]));
        assert!(open([1.0, 1.0 + 1e-6, 0.0, 0.0]));
        assert!(open([1.0, 0.0, 1.0, 0.0]));
        assert!(!open([1.0, f32::NAN, 2.0, f32::NAN]));
        assert!(open([1e9, 1e9 - 512.0, 0.0, 0.0]));
        assert!(!is_open([1.0, 0.0, 1.0, 0.0], false, |p, q| (p, q) == (0, 2)));
        assert!(!is_open([1.0, 0.0, 1.0, 0.0], true, |_, _| false));
        assert!(is_open([1.0, 1.0 + 1e-6, 0.0, 0.0], true, |_, _| false));
        assert_eq!(largest_of([1.0, f32::NAN, 2.0, f32::NAN]), 1);
    }
}
