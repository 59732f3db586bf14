//! The arithmetic of a layer, forward and backward, in the two layouts of the engine.
//!
//! *Lanes*: element i of every model side by side in one vector; forward passes, and everything
//! that is not pooled. *Rows*: one model's elements side by side; the backward passes of pooled
//! convolutions, where every model has other winners. Maps are channels-last in both, so that a
//! kernel row is contiguous: `kernel columns x channels` values.
//!
//! Sums run in the order in which `reference.rs` writes them down.

#![allow(unsafe_code)]

use std::ops::Range;

use zoo_model::Activation;

use super::functions::{activate, exp};
use super::layers::Layer;
use super::simd::{Kernel, Simd, ROW};
use crate::optimizer::{BETA1, BETA2, EPSILON};

/// Output channels of one block of a layer's weights, which lie as (tap, channel of the block).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First output channel.
    pub first: usize,
    /// Number of them, at most [`Block::MOST`].
    pub size: usize,
}

impl Block {
    /// Most output channels in a block.
    pub const MOST: usize = 6;

    /// `count` in as few blocks of at most `most` as possible, equal within one.
    pub fn split(count: usize, most: usize) -> impl Iterator<Item = Self> {
        let blocks = count.div_ceil(most);
        let start = move |b: usize| b * count / blocks;
        (0..blocks).map(move |b| Self { first: start(b), size: start(b + 1) - start(b) })
    }
}

/// Calls a method with the constant that equals a number from 1 to [`Block::MOST`].
macro_rules! with_constant {
    ($n:expr, $self:ident.$method:ident($($argument:expr),*)) => {
        match $n {
            1 => $self.$method::<1>($($argument),*),
            2 => $self.$method::<2>($($argument),*),
            3 => $self.$method::<3>($($argument),*),
            4 => $self.$method::<4>($($argument),*),
            5 => $self.$method::<5>($($argument),*),
            6 => $self.$method::<6>($($argument),*),
            n => unreachable!("a block of {n}"),
        }
    };
}

/// Repeats a block for `$i` from 0 to `$n - 1`, `$n` a constant of at most [`Block::MOST`]. In
/// source rather than by the optimiser, which leaves an array that it did not fully unroll in
/// memory, not in registers.
macro_rules! unrolled {
    ($n:ident, |$i:ident| $body:block) => {
        unrolled!(@ $n, $i, $body, 0, 1, 2, 3, 4, 5)
    };
    (@ $n:ident, $i:ident, $body:block, $($value:literal),*) => {
        $(if $value < $n {
            let $i = $value;
            $body
        })*
    };
}

/// A pooled convolution's forward pass, lanes, for one block of its outputs.
pub struct PooledForward<'a, S: Simd, const TRAINING: bool> {
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
    /// If training: where the winning patch begins in the input, as the bits of a u32, for each
    /// output.
    pub winners: &'a mut [S::F],
}

impl<S: Simd, const TRAINING: bool> Kernel<S> for PooledForward<'_, S, TRAINING> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        with_constant!(self.block.size, self.of_block(s))
    }
}

impl<S: Simd, const TRAINING: bool> PooledForward<'_, S, TRAINING> {
    #[inline(always)]
    fn of_block<const B: usize>(self, s: S) {
        let layer = self.layer;
        let [rows, columns] = layer.output_map();
        let (right, below) = (layer.channels, layer.input_row());
        let bias: [S::F; B] = std::array::from_fn(|o| self.bias[o]);
        assert!(layer.pooled && self.weight.len() == layer.taps() * B && self.input.len() >= layer.inputs());
        let end_of_patch = (layer.kernel[0] - 1) * below + layer.tap_row();
        assert!(layer.tap_offsets.len() == layer.taps() && layer.tap_offsets.iter().all(|&o| o < end_of_patch));
        for y in 0..rows {
            for x in 0..columns {
                let corner = 2 * (y * below + x * right);
                let corners = [corner, corner + right, corner + below, corner + below + right];
                let (mut a, mut b, mut c, mut d) = (bias, bias, bias, bias);
                // SAFETY: the window's last patch ends within the input, since output_map() gives
                // 2 * rows <= height - kernel rows + 1, and likewise columns; the offsets lie in a
                // patch; there are taps() * B weights.
                unsafe {
                    let patches = corners.map(|c| self.input.as_ptr().add(c));
                    let mut weight = self.weight.as_ptr();
                    // One loop over all taps: two nested ones would spill sums between the rows.
                    for &offset in &layer.tap_offsets {
                        // All weights and one value at a time are in registers, beside the sums.
                        let w: [S::F; B] = std::array::from_fn(|o| *weight.add(o));
                        let value = *patches[0].add(offset);
                        unrolled!(B, |o| { a[o] = s.fma(w[o], value, a[o]) });
                        let value = *patches[1].add(offset);
                        unrolled!(B, |o| { b[o] = s.fma(w[o], value, b[o]) });
                        let value = *patches[2].add(offset);
                        unrolled!(B, |o| { c[o] = s.fma(w[o], value, c[o]) });
                        let value = *patches[3].add(offset);
                        unrolled!(B, |o| { d[o] = s.fma(w[o], value, d[o]) });
                        weight = weight.add(B);
                    }
                }
                let unit = (y * columns + x) * layer.outputs + self.block.first;
                let output = &mut self.output[unit..unit + B];
                let winners = if TRAINING { &mut self.winners[unit..unit + B] } else { &mut [] };
                unrolled!(B, |o| {
                    let (best, winner) = largest(s, [a[o], b[o], c[o], d[o]], corners);
                    output[o] = best;
                    if TRAINING {
                        winners[o] = winner;
                    }
                });
            }
        }
    }
}

/// The largest of a window's values, NaN being larger than any number, and the bits of its corner.
/// The first of equals wins.
#[inline(always)]
fn largest<S: Simd>(s: S, values: [S::F; 4], corners: [usize; 4]) -> (S::F, S::F) {
    let better = |(best, winner): (S::F, S::F), p: usize| {
        let wins = s.exceeds(values[p], best);
        (s.select(wins, values[p], best), s.select(wins, s.splat_bits(corners[p] as u32), winner))
    };
    let first = (values[0], s.splat_bits(corners[0] as u32));
    better(better(better(first, 1), 2), 3)
}

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

/// A layer's activation in place, lanes, and its derivative if training.
pub struct Activate<'a, S: Simd, const TRAINING: bool> {
    /// The function.
    pub activation: Activation,
    /// Its argument, then its value.
    pub output: &'a mut [S::F],
    /// Its derivative.
    pub derivative: &'a mut [S::F],
}

impl<S: Simd, const TRAINING: bool> Kernel<S> for Activate<'_, S, TRAINING> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        // The choice stands outside the loop.
        match self.activation {
            Activation::Tanh => self.by(s, Activation::Tanh),
            Activation::Relu => self.by(s, Activation::Relu),
            Activation::Sigmoid => self.by(s, Activation::Sigmoid),
            Activation::Gelu => self.by(s, Activation::Gelu),
            Activation::LeakyRelu => self.by(s, Activation::LeakyRelu),
            Activation::Silu => self.by(s, Activation::Silu),
        }
    }
}

impl<S: Simd, const TRAINING: bool> Activate<'_, S, TRAINING> {
    #[inline(always)]
    fn by(self, s: S, activation: Activation) {
        if TRAINING {
            for (unit, derivative) in self.output.iter_mut().zip(self.derivative) {
                (*unit, *derivative) = activate(s, activation, *unit);
            }
        } else {
            for unit in self.output {
                *unit = activate(s, activation, *unit).0;
            }
        }
    }
}

/// Multiplies `values` by `factors`, lanes.
pub struct Scale<'a, S: Simd> {
    /// To be multiplied.
    pub values: &'a mut [S::F],
    /// As many factors.
    pub factors: &'a [S::F],
}

impl<S: Simd> Kernel<S> for Scale<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (value, &factor) in self.values.iter_mut().zip(self.factors) {
            *value = s.mul(*value, factor);
        }
    }
}

/// Gradient of the mean cross entropy of a mini-batch by one sample's logits, lanes:
/// (softmax - one hot) / batch.
pub struct CrossEntropyGradient<'a, S: Simd> {
    /// Logits, (classes).
    pub logits: &'a [S::F],
    /// One label a lane.
    pub labels: &'a [u16],
    /// Samples in the mini-batch.
    pub batch: usize,
    /// The gradient.
    pub gradient: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for CrossEntropyGradient<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (first, others) = self.logits.split_first().expect("there are classes");
        let largest = others.iter().fold(*first, |m, &l| s.select(s.exceeds(l, m), l, m));
        let mut sum = s.splat(0.0);
        for (g, &logit) in self.gradient.iter_mut().zip(self.logits) {
            *g = exp(s, s.sub(logit, largest));
            sum = s.add(sum, *g);
        }
        for g in self.gradient.iter_mut() {
            *g = s.div(*g, sum);
        }
        let probabilities = S::values_mut(self.gradient);
        for (lane, &label) in self.labels.iter().enumerate() {
            probabilities[usize::from(label) * S::LANES + lane] -= 1.0;
        }
        let batch = s.splat(self.batch as f32);
        for g in self.gradient {
            *g = s.div(*g, batch);
        }
    }
}

/// Outputs whose kernels are added to the input's gradient together, window by window; their
/// weights fit a first-level cache.
pub const OUTPUTS_AT_ONCE: usize = 8;

/// One model's backward pass of a pooled convolution, rows.
///
/// Only the winning patches have a gradient. The weight gradient of one output is a sum of patches
/// of the input, each times the output's gradient; the input gradient is a sum of the outputs'
/// kernels at the winning patches.
pub struct PooledBackward<'a> {
    layer: &'a Layer,
    /// Input of the layer, and [`ROW`] values after it.
    input: &'a [f32],
    /// Gradient of the output, (positions, outputs), and [`ROW`] values after it.
    gradient: &'a [f32],
    /// As [`PooledForward`] recorded them.
    winners: &'a [f32],
    /// Added to: (outputs, segments, [`ROW`]), the last segment of a kernel row padded with what
    /// comes after it in the input.
    weight_gradient: &'a mut [f32],
    /// Added to: (outputs), rounded up to whole [`ROW`]s.
    bias_gradient: &'a mut [f32],
    below: Option<Below<'a>>,
}

/// What is needed for the gradient of the layer before.
pub struct Below<'a> {
    /// Weights of the layer, (outputs, framed kernel): see [`Layer::framed_taps`].
    pub weight: &'a [f32],
    /// Derivative of the activation before.
    pub derivative: &'a [f32],
    /// The gradient of the sums before that activation.
    pub gradient: &'a mut [f32],
}

impl<'a> PooledBackward<'a> {
    /// Checks the sizes.
    ///
    /// # Safety
    /// `winners` must be what [`PooledForward`] recorded for this layer.
    pub unsafe fn new(
        layer: &'a Layer,
        input: &'a [f32],
        [gradient, winners]: [&'a [f32]; 2],
        [weight_gradient, bias_gradient]: [&'a mut [f32]; 2],
        below: Option<Below<'a>>,
    ) -> Self {
        assert!(input.len() >= layer.inputs() + ROW && gradient.len() >= layer.units() + ROW);
        let weight_gradient = &mut weight_gradient[..layer.outputs * layer.segments() * ROW];
        let below = below.map(|b| Below {
            weight: &b.weight[..layer.outputs * layer.framed_taps()],
            derivative: &b.derivative[..layer.inputs()],
            gradient: &mut b.gradient[..layer.inputs()],
        });
        Self {
            layer,
            input,
            gradient,
            winners: &winners[..layer.units()],
            weight_gradient,
            bias_gradient: &mut bias_gradient[..layer.outputs.next_multiple_of(ROW)],
            below,
        }
    }
}

impl<S: Simd> Kernel<S> for PooledBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self, s: S) {
        let layer = self.layer;
        self.biases(s);
        for tile in Block::split(layer.segments(), Block::MOST) {
            with_constant!(tile.size, self.weights(s, tile.first));
        }
        if let Some(below) = self.below.take() {
            self.input(s, below);
        }
    }
}

impl PooledBackward<'_> {
    /// Adds to the bias gradients, [`ROW`] at a time.
    #[inline(always)]
    fn biases(&mut self, s: impl Simd) {
        let (outputs, one) = (self.layer.outputs, s.row_splat(1.0));
        for first in (0..outputs).step_by(ROW) {
            let sums = self.bias_gradient[first..][..ROW].as_mut_ptr();
            // SAFETY: `sums` was checked; there are ROW values after the last unit's gradient.
            unsafe {
                let mut sum = s.row_load(sums);
                for unit in (first..self.layer.units()).step_by(outputs) {
                    sum = s.row_fma(s.row_load(self.gradient.as_ptr().add(unit)), one, sum);
                }
                s.row_store(sum, sums);
            }
        }
    }

    /// Adds to T segments, from `first` on, of every output's weight gradient.
    #[inline(always)]
    fn weights<const T: usize>(&mut self, s: impl Simd, first: usize) {
        let row_segments = self.layer.tap_row().div_ceil(ROW);
        let offset = |segment: usize| segment / row_segments * self.layer.input_row() + segment % row_segments * ROW;
        let offsets: [usize; T] = std::array::from_fn(|t| offset(first + t));
        // Two outputs at a time, so that there are sums enough to hide an addition's latency.
        for output in (0..self.layer.outputs).step_by(2) {
            if output + 1 < self.layer.outputs {
                self.weights_of_two(s, first, offsets, output);
            } else {
                self.weights_of_one(s, first, offsets, output);
            }
        }
    }

    #[inline(always)]
    fn weights_of_two<const T: usize>(&mut self, s: impl Simd, first: usize, offsets: [usize; T], output: usize) {
        let (a_at, b_at) =
            ((output * self.layer.segments() + first) * ROW, ((output + 1) * self.layer.segments() + first) * ROW);
        assert!(b_at + T * ROW <= self.weight_gradient.len());
        let (sums, input) = (self.weight_gradient.as_mut_ptr(), self.input.as_ptr());
        let units = self.gradient.chunks_exact(self.layer.outputs).zip(self.winners.chunks_exact(self.layer.outputs));
        // SAFETY: `sums` was checked; a winner's patch lies in the input, with ROW values after it.
        unsafe {
            let mut a_sums: [_; T] = std::array::from_fn(|t| s.row_load(sums.add(a_at + t * ROW)));
            let mut b_sums: [_; T] = std::array::from_fn(|t| s.row_load(sums.add(b_at + t * ROW)));
            for (gradient, winners) in units {
                let a_patch = input.add(winners[output].to_bits() as usize);
                let b_patch = input.add(winners[output + 1].to_bits() as usize);
                let (a_gradient, b_gradient) = (s.row_splat(gradient[output]), s.row_splat(gradient[output + 1]));
                unrolled!(T, |t| {
                    a_sums[t] = s.row_fma(a_gradient, s.row_load(a_patch.add(offsets[t])), a_sums[t]);
                    b_sums[t] = s.row_fma(b_gradient, s.row_load(b_patch.add(offsets[t])), b_sums[t]);
                });
            }
            unrolled!(T, |t| {
                s.row_store(a_sums[t], sums.add(a_at + t * ROW));
                s.row_store(b_sums[t], sums.add(b_at + t * ROW));
            });
        }
    }

    #[inline(always)]
    fn weights_of_one<const T: usize>(&mut self, s: impl Simd, first: usize, offsets: [usize; T], output: usize) {
        let at = (output * self.layer.segments() + first) * ROW;
        let target = &mut self.weight_gradient[at..][..T * ROW];
        let units = self.gradient.chunks_exact(self.layer.outputs).zip(self.winners.chunks_exact(self.layer.outputs));
        // SAFETY: `target` holds T rows; a winner's patch lies in the input, with ROW values after it.
        unsafe {
            let mut sums: [_; T] = std::array::from_fn(|t| s.row_load(target.as_ptr().add(t * ROW)));
            for (gradient, winners) in units {
                let patch = self.input.as_ptr().add(winners[output].to_bits() as usize);
                let gradient = s.row_splat(gradient[output]);
                unrolled!(T, |t| { sums[t] = s.row_fma(gradient, s.row_load(patch.add(offsets[t])), sums[t]) });
            }
            unrolled!(T, |t| { s.row_store(sums[t], target.as_mut_ptr().add(t * ROW)) });
        }
    }

    /// Window by window, the sums of its patch (kernel rows + 1, kernel columns + 1, channels) are
    /// kept in registers while the outputs' kernels are added, each where its winner is: a frame of
    /// zeros around the kernels covers the rest of the patch.
    #[inline(always)]
    fn input<S: Simd>(&self, s: S, below: Below) {
        let layer = self.layer;
        let length = layer.tap_row() + layer.channels;
        below.gradient.fill(0.0);
        for first in (0..layer.outputs).step_by(OUTPUTS_AT_ONCE) {
            let outputs = first..layer.outputs.min(first + OUTPUTS_AT_ONCE);
            for tile in Block::split(length / ROW, Block::MOST) {
                let at = tile.first * ROW;
                with_constant!(tile.size, self.add_kernels(s, outputs.clone(), at, below.weight, below.gradient));
            }
            for at in length / ROW * ROW..length {
                self.add_kernels_at(outputs.clone(), at, below.weight, below.gradient);
            }
        }
        for (gradient, &derivative) in below.gradient.iter_mut().zip(below.derivative) {
            *gradient *= derivative;
        }
    }

    /// Calls `add(patch, kernels)` for each window: where its patch begins in the input, and where
    /// each output's kernel, moved to its winner, begins in the framed weights.
    #[inline(always)]
    fn windows(&self, outputs: Range<usize>, mut add: impl FnMut(usize, &[usize], &[f32])) {
        let layer = self.layer;
        let [rows, columns] = layer.output_map();
        let (right, down, frame_row) = (layer.channels, layer.input_row(), layer.framed_row());
        for y in 0..rows {
            for x in 0..columns {
                let corner = 2 * (y * down + x * right);
                let units = (y * columns + x) * layer.outputs;
                let units = units + outputs.start..units + outputs.end;
                let mut kernels = [0; OUTPUTS_AT_ONCE];
                for ((kernel, winner), output) in
                    kernels.iter_mut().zip(&self.winners[units.clone()]).zip(outputs.clone())
                {
                    let moved = (winner.to_bits() as usize).wrapping_sub(corner);
                    let moved_down = usize::from(moved >= down);
                    let moved_right = usize::from(moved != moved_down * down);
                    *kernel = output * layer.framed_taps() + (1 - moved_down) * frame_row + (1 - moved_right) * right;
                }
                add(corner, &kernels[..units.len()], &self.gradient[units]);
            }
        }
    }

    /// Adds to T [`ROW`]s of every patch row, from value `at` on, the outputs' kernels, each times
    /// its gradient.
    #[inline(always)]
    fn add_kernels<const T: usize>(
        &self,
        s: impl Simd,
        outputs: Range<usize>,
        at: usize,
        weight: &[f32],
        input_gradient: &mut [f32],
    ) {
        let (down, frame_row, kernel_rows) = (self.layer.input_row(), self.layer.framed_row(), self.layer.kernel[0]);
        let (weight, sums) = (weight.as_ptr(), input_gradient.as_mut_ptr());
        self.windows(outputs, |corner, kernels, gradients| {
            // Two rows at a time, so that there are sums enough to hide an addition's latency.
            for row in (0..=kernel_rows).step_by(2) {
                // SAFETY: the patch lies in the input; a framed kernel that begins at most one row
                // and one column into its frame has as many rows and columns as the patch.
                unsafe {
                    let (patch, weight) = (sums.add(corner + row * down + at), weight.add(row * frame_row + at));
                    let mut a: [_; T] = std::array::from_fn(|t| s.row_load(patch.add(t * ROW)));
                    if row < kernel_rows {
                        let mut b: [_; T] = std::array::from_fn(|t| s.row_load(patch.add(down + t * ROW)));
                        for (&kernel, &gradient) in kernels.iter().zip(gradients) {
                            let (upper, gradient) = (weight.add(kernel), s.row_splat(gradient));
                            let lower = upper.add(frame_row);
                            unrolled!(T, |t| {
                                a[t] = s.row_fma(gradient, s.row_load(upper.add(t * ROW)), a[t]);
                                b[t] = s.row_fma(gradient, s.row_load(lower.add(t * ROW)), b[t]);
                            });
                        }
                        unrolled!(T, |t| { s.row_store(b[t], patch.add(down + t * ROW)) });
                    } else {
                        for (&kernel, &gradient) in kernels.iter().zip(gradients) {
                            let (weight, gradient) = (weight.add(kernel), s.row_splat(gradient));
                            unrolled!(T, |t| { a[t] = s.row_fma(gradient, s.row_load(weight.add(t * ROW)), a[t]) });
                        }
                    }
                    unrolled!(T, |t| { s.row_store(a[t], patch.add(t * ROW)) });
                }
            }
        });
    }

    /// [`add_kernels`](Self::add_kernels) for one value of every patch row.
    #[inline(always)]
    fn add_kernels_at(&self, outputs: Range<usize>, at: usize, weight: &[f32], input_gradient: &mut [f32]) {
        let (down, frame_row, kernel_rows) = (self.layer.input_row(), self.layer.framed_row(), self.layer.kernel[0]);
        self.windows(outputs, |corner, kernels, gradients| {
            for row in 0..=kernel_rows {
                let sum = &mut input_gradient[corner + row * down + at];
                for (&kernel, g) in kernels.iter().zip(gradients) {
                    *sum = g.mul_add(weight[kernel + row * frame_row + at], *sum);
                }
            }
        });
    }
}

/// Adam, with PyTorch's order of operations, lanes.
pub struct Adam<'a, S: Simd> {
    /// Parameters.
    pub parameters: &'a mut [S::F],
    /// Their gradients.
    pub gradients: &'a [S::F],
    /// Means of gradients.
    pub mean: &'a mut [S::F],
    /// Means of squared gradients.
    pub square: &'a mut [S::F],
    /// Weight decay.
    pub weight_decay: S::F,
    /// See [`adam_rates`](crate::optimizer::adam_rates).
    pub step_size: S::F,
    /// See [`adam_rates`](crate::optimizer::adam_rates).
    pub correction: f32,
}

impl<S: Simd> Kernel<S> for Adam<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (rate1, rate2) = (s.splat((1.0 - BETA1) as f32), s.splat((1.0 - BETA2) as f32));
        let (beta2, epsilon) = (s.splat(BETA2 as f32), s.splat(EPSILON as f32));
        let correction = s.splat(self.correction);
        let moments = self.mean.iter_mut().zip(self.square);
        for ((p, &g), (m, v)) in self.parameters.iter_mut().zip(self.gradients).zip(moments) {
            let g = s.fma(self.weight_decay, *p, g);
            *m = s.fma(s.sub(g, *m), rate1, *m);
            *v = s.fma(*v, beta2, s.mul(s.mul(g, g), rate2));
            let denominator = s.add(s.div(s.sqrt(*v), correction), epsilon);
            *p = s.sub(*p, s.mul(self.step_size, s.div(*m, denominator)));
        }
    }
}

/// SGD with momentum, with PyTorch's order of operations, lanes.
pub struct Sgd<'a, S: Simd> {
    /// Parameters.
    pub parameters: &'a mut [S::F],
    /// Their gradients.
    pub gradients: &'a [S::F],
    /// Momentum buffer.
    pub buffer: &'a mut [S::F],
    /// Weight decay.
    pub weight_decay: S::F,
    /// Momentum.
    pub momentum: S::F,
    /// Learning rate.
    pub learning_rate: S::F,
}

impl<S: Simd> Kernel<S> for Sgd<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for ((p, &g), b) in self.parameters.iter_mut().zip(self.gradients).zip(self.buffer) {
            let g = s.fma(self.weight_decay, *p, g);
            *b = s.fma(self.momentum, *b, g);
            *p = s.sub(*p, s.mul(self.learning_rate, *b));
        }
    }
}

/// Sets values to zero where the mask is zero, lanes.
pub struct ApplyMask<'a, S: Simd> {
    /// Parameters.
    pub values: &'a mut [S::F],
    /// 1 where a parameter may differ from zero, else 0.
    pub mask: &'a [S::F],
}

impl<S: Simd> Kernel<S> for ApplyMask<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (p, &m) in self.values.iter_mut().zip(self.mask) {
            *p = s.select(s.lt(s.splat(0.0), m), *p, s.splat(0.0));
        }
    }
}

/// Lanes to rows: each lane's values, rounded up to whole [`ROW`]s, at `rows[lane * stride..]`.
pub struct ToRows<'a, S: Simd> {
    /// Lanes.
    pub vectors: &'a [S::F],
    /// Rows.
    pub rows: &'a mut [f32],
    /// Distance of two rows.
    pub stride: usize,
}

impl<S: Simd> Kernel<S> for ToRows<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (whole, rest) = self.vectors.as_chunks::<ROW>();
        for (i, vectors) in whole.iter().enumerate() {
            s.to_rows(vectors, &mut self.rows[i * ROW..], self.stride);
        }
        if let Some(&last) = rest.last() {
            let mut padded = [last; ROW];
            padded[..rest.len()].copy_from_slice(rest);
            s.to_rows(&padded, &mut self.rows[whole.len() * ROW..], self.stride);
        }
    }
}

/// The inverse of [`ToRows`].
pub struct FromRows<'a, S: Simd> {
    /// Rows.
    pub rows: &'a [f32],
    /// Distance of two rows.
    pub stride: usize,
    /// Lanes.
    pub vectors: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for FromRows<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (i, vectors) in self.vectors.chunks_mut(ROW).enumerate() {
            let turned = s.turn_rows(&self.rows[i * ROW..], self.stride);
            vectors.copy_from_slice(&turned[..vectors.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_few_and_nearly_equal() {
        let sizes = |count, most| Block::split(count, most).map(|b| b.size).collect::<Vec<_>>();
        assert_eq!(sizes(8, 3), [2, 3, 3]);
        assert_eq!(sizes(6, 3), [3, 3]);
        assert_eq!(sizes(16, 6), [5, 5, 6]);
        assert_eq!(sizes(20, 6), [5, 5, 5, 5]);
        assert_eq!(Block::split(15, 3).last(), Some(Block { first: 12, size: 3 }));
    }
}
