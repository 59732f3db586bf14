//! Pooled convolutions: forward in lanes, backward in rows over the winning patches.

#![allow(unsafe_code)]

use std::ops::Range;

use super::super::layers::Layer;
use super::Block;
use zoo_engine_simd::{Kernel, Simd, ROW};

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

/// Outputs whose kernels are added to the input's gradient together, window by window; their
/// weights fit a first-level cache.
pub const OUTPUTS_PER_PASS: usize = 8;

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

/// What the forward pass and the layer after left of a layer's units.
pub struct PooledUnits<'a> {
    /// Gradient of the sums before the activation.
    pub gradient: &'a [f32],
    /// What [`PooledForward`] recorded.
    pub winners: &'a [f32],
}

/// Where a layer's gradients are added up, laid out as in [`PooledBackward`].
pub struct ParameterGradients<'a> {
    /// Of the weights.
    pub weight: &'a mut [f32],
    /// Of the biases.
    pub bias: &'a mut [f32],
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
        units: PooledUnits<'a>,
        gradients: ParameterGradients<'a>,
        below: Option<Below<'a>>,
    ) -> Self {
        let PooledUnits { gradient, winners } = units;
        assert!(input.len() >= layer.inputs() + ROW && gradient.len() >= layer.units() + ROW);
        let weight_gradient = &mut gradients.weight[..layer.outputs * layer.segments() * ROW];
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
            bias_gradient: &mut gradients.bias[..layer.outputs.next_multiple_of(ROW)],
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
        for tile in Block::split(layer.segments(), Block::MAX_SIZE) {
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
        for first in (0..layer.outputs).step_by(OUTPUTS_PER_PASS) {
            let outputs = first..layer.outputs.min(first + OUTPUTS_PER_PASS);
            for tile in Block::split(length / ROW, Block::MAX_SIZE) {
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
                let mut kernels = [0; OUTPUTS_PER_PASS];
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
