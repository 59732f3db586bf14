//! Convolutions that are not pooled, and linear layers, lanes.

use super::super::layers::Layer;
use super::Block;
use zoo_engine_simd::{Kernel, Simd};

/// Positions of an unpooled layer's output, each with where its patch begins in the input.
#[inline(always)]
fn corners(layer: &Layer) -> impl Iterator<Item = (usize, usize)> + '_ {
    let [rows, columns] = layer.output_map();
    let corner = move |(y, x): (usize, usize)| (y * columns + x, y * layer.input_row() + x * layer.channels);
    (0..rows).flat_map(move |y| (0..columns).map(move |x| (y, x))).map(corner)
}

/// The forward pass of a convolution or linear layer, lanes, for one block of its outputs.
pub struct DenseForward<'a, S: Simd> {
    /// The layer.
    pub layer: &'a Layer,
    /// The outputs.
    pub block: Block,
    /// Their weights, (taps, outputs of the block).
    pub weight: &'a [S::F],
    /// Their biases.
    pub bias: &'a [S::F],
    /// Input of the layer.
    pub input: &'a [S::F],
    /// Output of the layer, (positions, outputs).
    pub output: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for DenseForward<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        with_constant!(self.block.size, self.of_block(s))
    }
}

impl<S: Simd> DenseForward<'_, S> {
    #[inline(always)]
    fn of_block<const B: usize>(self, s: S) {
        let (layer, tap_row) = (self.layer, self.layer.tap_row());
        let bias: [S::F; B] = std::array::from_fn(|o| self.bias[o]);
        for (position, corner) in corners(layer) {
            let mut sums = bias;
            for ky in 0..layer.kernel[0] {
                let patch = &self.input[corner + ky * layer.input_row()..][..tap_row];
                let weight = &self.weight[ky * tap_row * B..][..tap_row * B];
                for (&value, w) in patch.iter().zip(weight.chunks_exact(B)) {
                    for o in 0..B {
                        sums[o] = s.fma(w[o], value, sums[o]);
                    }
                }
            }
            self.output[position * layer.outputs + self.block.first..][..B].copy_from_slice(&sums);
        }
    }
}

/// The backward pass of [`DenseForward`]: adds to the gradients.
pub struct DenseBackward<'a, S: Simd> {
    /// The layer.
    pub layer: &'a Layer,
    /// The outputs.
    pub block: Block,
    /// Their weights, (taps, outputs of the block).
    pub weight: &'a [S::F],
    /// Input of the layer.
    pub input: &'a [S::F],
    /// Gradient of the output, (positions, outputs).
    pub gradient: &'a [S::F],
    /// Gradient of the weights.
    pub weight_gradient: &'a mut [S::F],
    /// Gradient of the biases.
    pub bias_gradient: &'a mut [S::F],
    /// Gradient of the input.
    pub input_gradient: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for DenseBackward<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        with_constant!(self.block.size, self.of_block(s))
    }
}

impl<S: Simd> DenseBackward<'_, S> {
    #[inline(always)]
    fn of_block<const B: usize>(self, s: S) {
        let (layer, tap_row) = (self.layer, self.layer.tap_row());
        for (position, corner) in corners(layer) {
            let unit = position * layer.outputs + self.block.first;
            let g: [S::F; B] = std::array::from_fn(|o| self.gradient[unit + o]);
            for (sum, &g) in self.bias_gradient.iter_mut().zip(&g) {
                *sum = s.add(*sum, g);
            }
            for ky in 0..layer.kernel[0] {
                let at = corner + ky * layer.input_row();
                let patch = self.input[at..][..tap_row].iter().zip(&mut self.input_gradient[at..][..tap_row]);
                let taps = ky * tap_row * B..(ky + 1) * tap_row * B;
                let weights = self.weight[taps.clone()].chunks_exact(B);
                let weights = weights.zip(self.weight_gradient[taps].chunks_exact_mut(B));
                for ((&value, value_gradient), (w, wg)) in patch.zip(weights) {
                    for o in 0..B {
                        wg[o] = s.fma(g[o], value, wg[o]);
                        *value_gradient = s.fma(w[o], g[o], *value_gradient);
                    }
                }
            }
        }
    }
}
