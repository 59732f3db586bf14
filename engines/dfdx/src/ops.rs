//! Differentiable operations on dfdx's tape that dfdx offers only on nightly compilers, or with
//! other tie and NaN rules than PyTorch's.
//!
//! Activations are matrices of (batch * positions) rows and one column per channel, so that a
//! convolution is a matrix product of patches.

use std::sync::Arc;

use dfdx::prelude::*;

use super::backend::{Backend, Real};

/// A matrix with dimensions known at run time, on device `D`; `T` records the tape.
pub type Matrix<D, T = NoneTape> = Tensor<(usize, usize), Real, D, T>;

/// Height and width of a map of activations, or of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl Map {
    /// Number of positions.
    pub fn positions(self) -> usize {
        self.height * self.width
    }

    /// The map after pooling 2x2 windows.
    pub fn pooled(self) -> Self {
        Self { height: self.height / 2, width: self.width / 2 }
    }
}

fn to_vec<D: Backend, T>(x: &Matrix<D, T>) -> Vec<Real> {
    let (rows, columns) = *x.shape();
    let mut values = vec![0.0; rows * columns];
    x.copy_into(&mut values);
    values
}

/// Records `y = f(x)`, where `backward(grad_x, grad_y)` adds to the gradient of `x`.
fn record<D: Backend, T: Tape<Real, D>>(
    x: Matrix<D, T>,
    y: Matrix<D>,
    backward: impl 'static + FnOnce(&mut [Real], &[Real]),
) -> Matrix<D, T> {
    let (x, mut tape) = x.split_tape();
    let y_leaf = y.clone();
    tape.add_backward_op(move |gradients| {
        // Nothing reads the gradient of an intermediate result after its own backward step.
        let grad_y = D::take_gradient(gradients.get_or_alloc_mut(&y_leaf)?)?;
        D::update_gradient(gradients.get_or_alloc_mut(&x)?, |grad_x| backward(grad_x, &grad_y))
    });
    y.put_tape(tape)
}

/// Where the patches of a convolution lie on its input.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    /// The input.
    pub map: Map,
    /// Its channels.
    pub channels: usize,
    /// Side of a patch.
    pub kernel: usize,
    /// Pixels from one patch to the next.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

impl Patches {
    /// One patch a position.
    pub fn output(self) -> Map {
        let side = |n: usize| (n + 2 * self.padding - self.kernel) / self.stride + 1;
        Map { height: side(self.map.height), width: side(self.map.width) }
    }

    /// Values of a patch, in the order (row, column, channel).
    fn values(self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    /// Values of a sample.
    fn sample(self) -> usize {
        self.map.positions() * self.channels
    }

    /// Calls `copy(from, to, length)` for every contiguous piece of every patch of a sample that
    /// lies on the input: a row of a patch, all channels of a pixel side by side.
    fn for_each_piece(self, mut copy: impl FnMut(usize, usize, usize)) {
        let Self { map, channels, kernel, stride, padding } = self;
        let out = self.output();
        for y in 0..out.height {
            for x in 0..out.width {
                let patch = (y * out.width + x) * self.values();
                // Columns of the patch that lie on the input.
                let first = padding.saturating_sub(x * stride);
                let end = kernel.min((map.width + padding).saturating_sub(x * stride));
                for row in 0..kernel {
                    let Some(from_y) = (y * stride + row).checked_sub(padding).filter(|&y| y < map.height) else {
                        continue;
                    };
                    if first < end {
                        let pixel = from_y * map.width + x * stride + first - padding;
                        copy(pixel * channels, patch + (row * kernel + first) * channels, (end - first) * channels);
                    }
                }
            }
        }
    }

    /// Samples whose patches are made together: as many as stay within the caches.
    fn chunk(self) -> usize {
        const VALUES: usize = 1 << 19;
        (VALUES / (self.output().positions() * self.values())).max(1)
    }

    /// The patches of some samples, (samples * positions, values).
    fn gather(self, samples: &[Real]) -> Vec<Real> {
        let length = self.output().positions() * self.values();
        let mut patches = vec![0.0; samples.len() / self.sample() * length];
        for (sample, patches) in samples.chunks_exact(self.sample()).zip(patches.chunks_exact_mut(length)) {
            self.for_each_piece(|from, to, n| patches[to..to + n].copy_from_slice(&sample[from..from + n]));
        }
        patches
    }

    /// Adds the gradient of [`gather`](Self::gather)'s patches to that of the samples.
    fn scatter(self, patches: &[Real], samples: &mut [Real]) {
        let length = self.output().positions() * self.values();
        for (sample, patches) in samples.chunks_exact_mut(self.sample()).zip(patches.chunks_exact(length)) {
            self.for_each_piece(|from, to, n| add(&mut sample[from..from + n], &patches[to..to + n]));
        }
    }
}

/// Convolution: maps (batch * positions, C) and weights (out, values of a patch) to (batch *
/// patches, out). Patches are made in chunks, and again in the backward pass: all of them at once
/// would be many times the activations.
///
/// The gradient of `x` is left out if it `is_input` of the network.
pub fn conv2d<D: Backend, T: Tape<Real, D>>(
    x: Matrix<D, T>,
    weight: &Matrix<D>,
    at: Patches,
    is_input: bool,
) -> Matrix<D, T> {
    let device = x.device().clone();
    let (outputs, values) = *weight.shape();
    let positions = at.output().positions();
    let input = to_vec(&x);
    let batch = input.len() / at.sample();
    let mut output = vec![0.0; batch * positions * outputs];
    let chunks = move |x: &[Real]| x.len().div_ceil(at.chunk() * at.sample());
    let matrix = move |values: Vec<Real>, columns: usize| {
        let rows = values.len() / columns;
        device.tensor_from_vec(values, (rows, columns))
    };
    let transposed = weight.clone().permute::<_, Axes2<1, 0>>();
    for chunk in 0..chunks(&input) {
        let samples = chunk_of(&input, chunk, at.chunk() * at.sample());
        let product: Matrix<D> = matrix(at.gather(&input[samples]), values).matmul(transposed.clone());
        let rows = chunk_of(&output, chunk, at.chunk() * positions * outputs);
        product.copy_into(&mut output[rows]);
    }
    let y = matrix(output, outputs);
    let (x, mut tape) = x.split_tape();
    let (weight, y_leaf) = (weight.clone(), y.clone());
    tape.add_backward_op(move |gradients| {
        let grad_y = D::take_gradient(gradients.get_or_alloc_mut(&y_leaf)?)?;
        let input = to_vec(&x);
        let mut grad_weight: Matrix<D> = matrix(vec![0.0; outputs * values], values);
        for chunk in 0..chunks(&input) {
            let samples = chunk_of(&input, chunk, at.chunk() * at.sample());
            let rows = chunk_of(&grad_y, chunk, at.chunk() * positions * outputs);
            let grad_product: Matrix<D> = matrix(grad_y[rows].to_vec(), outputs);
            let patches = matrix(at.gather(&input[samples.clone()]), values);
            grad_weight = grad_weight + grad_product.clone().permute::<_, Axes2<1, 0>>().matmul(patches);
            if !is_input {
                let grad_patches = to_vec(&grad_product.matmul(weight.clone()));
                D::update_gradient(gradients.get_or_alloc_mut(&x)?, |grad_x| {
                    at.scatter(&grad_patches, &mut grad_x[samples])
                })?;
            }
        }
        D::update_gradient(gradients.get_or_alloc_mut(&weight)?, |gradient| add(gradient, &to_vec(&grad_weight)))
    });
    y.put_tape(tape)
}

/// The range of chunk `index` of chunks of `length` values.
fn chunk_of(values: &[Real], index: usize, length: usize) -> std::ops::Range<usize> {
    index * length..values.len().min((index + 1) * length)
}

/// Mean and variance of each channel over a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics {
    /// Means, (C).
    pub mean: Vec<Real>,
    /// Variances, the sums of squares divided by one less than the number of values, (C).
    pub variance: Vec<Real>,
}

/// What is done to normalised values.
pub struct Affine<'a, D: Backend> {
    /// Factors, (1, C).
    pub scale: &'a Matrix<D>,
    /// Added after that, (1, C).
    pub shift: &'a Matrix<D>,
}

/// Added to a variance before its root is taken, as in PyTorch.
const EPSILON: Real = 1e-5;

/// Batch normalisation by the batch's own statistics: `scale * (x - mean) / sqrt(var + eps) +
/// shift` for x (N, C), scale and shift (1, C).
pub fn normalize_batch<D: Backend, T: Tape<Real, D>>(
    x: Matrix<D, T>,
    &Affine { scale, shift }: &Affine<D>,
) -> (Matrix<D, T>, BatchStatistics) {
    let (rows, channels) = *x.shape();
    let mut values = to_vec(&x);
    let n = rows as Real;
    let mut mean = vec![0.0; channels];
    values.chunks_exact(channels).for_each(|row| add(&mut mean, row));
    mean.iter_mut().for_each(|m| *m /= n);
    let mut squares = vec![0.0; channels];
    for row in values.chunks_exact(channels) {
        for ((square, value), mean) in squares.iter_mut().zip(row).zip(&mean) {
            *square += (value - mean) * (value - mean);
        }
    }
    let inverse: Vec<Real> = squares.iter().map(|s| 1.0 / (s / n + EPSILON).sqrt()).collect();
    let statistics =
        BatchStatistics { mean: mean.clone(), variance: squares.iter().map(|s| s / (n - 1.0).max(1.0)).collect() };
    let (factors, offsets) = (to_vec(scale), to_vec(shift));
    for row in values.chunks_exact_mut(channels) {
        for (c, value) in row.iter_mut().enumerate() {
            *value = (*value - mean[c]) * inverse[c] * factors[c] + offsets[c];
        }
    }
    let y = x.device().tensor_from_vec(values, (rows, channels));
    let (x, mut tape) = x.split_tape();
    let (scale, shift, y_leaf) = (scale.clone(), shift.clone(), y.clone());
    tape.add_backward_op(move |gradients| {
        let grad_y = D::take_gradient(gradients.get_or_alloc_mut(&y_leaf)?)?;
        let values = to_vec(&x);
        let normal = |value: Real, c: usize| (value - mean[c]) * inverse[c];
        let (mut grad_scale, mut grad_shift) = (vec![0.0; channels], vec![0.0; channels]);
        for (row, grad_row) in values.chunks_exact(channels).zip(grad_y.chunks_exact(channels)) {
            for c in 0..channels {
                grad_scale[c] += grad_row[c] * normal(row[c], c);
                grad_shift[c] += grad_row[c];
            }
        }
        D::update_gradient(gradients.get_or_alloc_mut(&x)?, |grad_x| {
            let rows = values.chunks_exact(channels).zip(grad_y.chunks_exact(channels));
            for (grad_x, (row, grad_row)) in grad_x.chunks_exact_mut(channels).zip(rows) {
                for c in 0..channels {
                    let centred = grad_row[c] - (grad_shift[c] + normal(row[c], c) * grad_scale[c]) / n;
                    grad_x[c] += factors[c] * inverse[c] * centred;
                }
            }
        })?;
        D::update_gradient(gradients.get_or_alloc_mut(&scale)?, |gradient| add(gradient, &grad_scale))?;
        D::update_gradient(gradients.get_or_alloc_mut(&shift)?, |gradient| add(gradient, &grad_shift))
    });
    (y.put_tape(tape), statistics)
}

/// Batch normalisation by given means and variances (C), those of training, which are constants.
pub fn normalize<D: Backend, T: Tape<Real, D>>(
    x: Matrix<D, T>,
    &Affine { scale, shift }: &Affine<D>,
    BatchStatistics { mean, variance }: &BatchStatistics,
) -> Matrix<D, T> {
    let (rows, channels) = *x.shape();
    let inverse = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt());
    let factors: Vec<Real> = inverse.zip(to_vec(scale)).map(|(i, s)| i * s).collect();
    let offsets = to_vec(shift);
    let mut values = to_vec(&x);
    for row in values.chunks_exact_mut(channels) {
        for (c, value) in row.iter_mut().enumerate() {
            *value = (*value - mean[c]) * factors[c] + offsets[c];
        }
    }
    let y = x.device().tensor_from_vec(values, (rows, channels));
    record(x, y, move |grad_x, grad_y| {
        for (grad_x, grad_y) in grad_x.chunks_exact_mut(channels).zip(grad_y.chunks_exact(channels)) {
            for c in 0..channels {
                grad_x[c] += grad_y[c] * factors[c];
            }
        }
    })
}

/// Mean over the positions of each sample, (batch * positions, C) to (batch, C).
pub fn global_avg_pool<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>, map: Map) -> Matrix<D, T> {
    let (rows, channels) = *x.shape();
    let positions = map.positions();
    let mut means = vec![0.0; rows / positions * channels];
    for (sample, mean) in to_vec(&x).chunks_exact(positions * channels).zip(means.chunks_exact_mut(channels)) {
        sample.chunks_exact(channels).for_each(|row| add(mean, row));
        mean.iter_mut().for_each(|m| *m /= positions as Real);
    }
    let y = x.device().tensor_from_vec(means, (rows / positions, channels));
    record(x, y, move |grad_x, grad_y| {
        for (grad_x, grad_y) in grad_x.chunks_exact_mut(positions * channels).zip(grad_y.chunks_exact(channels)) {
            for row in grad_x.chunks_exact_mut(channels) {
                for (grad_x, grad_y) in row.iter_mut().zip(grad_y) {
                    *grad_x += grad_y / positions as Real;
                }
            }
        }
    })
}

/// The sum of two matrices of one shape, whose tapes may share a beginning.
pub fn sum<D: Backend, T: Tape<Real, D>>(a: Matrix<D, T>, b: Matrix<D, T>) -> Matrix<D, T> {
    let mut values = to_vec(&a);
    add(&mut values, &to_vec(&b));
    let y = a.device().tensor_from_vec(values, *a.shape());
    let (a, tape) = a.split_tape();
    let (b, other) = b.split_tape();
    let mut tape = tape.merge(other);
    let y_leaf = y.clone();
    tape.add_backward_op(move |gradients| {
        let grad_y = D::take_gradient(gradients.get_or_alloc_mut(&y_leaf)?)?;
        D::update_gradient(gradients.get_or_alloc_mut(&a)?, |gradient| add(gradient, &grad_y))?;
        D::update_gradient(gradients.get_or_alloc_mut(&b)?, |gradient| add(gradient, &grad_y))
    });
    y.put_tape(tape)
}

/// Maximum over 2x2 windows, (batch * positions, C) to (batch * pooled positions, C).
///
/// As in PyTorch, the first of equal values wins and receives the whole gradient (windows over a
/// constant background tie exactly), and NaN is larger than any number.
pub fn max_pool<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>, map: Map) -> Matrix<D, T> {
    let (rows, channels) = *x.shape();
    let batch = rows / map.positions();
    let pooled = map.pooled();
    let values = to_vec(&x);
    let mut winners = Vec::with_capacity(batch * pooled.positions() * channels);
    for sample in 0..batch {
        for y in 0..pooled.height {
            for x in 0..pooled.width {
                let first = ((sample * map.height + 2 * y) * map.width + 2 * x) * channels;
                let below = first + map.width * channels;
                for channel in 0..channels {
                    let mut winner = first + channel;
                    for other in [first + channels, below, below + channels].map(|p| p + channel) {
                        let (best, value) = (values[winner], values[other]);
                        if value > best || (value.is_nan() && !best.is_nan()) {
                            winner = other;
                        }
                    }
                    winners.push(winner as u32);
                }
            }
        }
    }
    let pooled_values = winners.iter().map(|&w| values[w as usize]).collect::<Vec<_>>();
    let y = x.device().tensor_from_vec(pooled_values, (batch * pooled.positions(), channels));
    record(x, y, move |grad_x, grad_y| {
        for (&winner, gradient) in winners.iter().zip(grad_y) {
            grad_x[winner as usize] += gradient;
        }
    })
}

/// Adds a bias to every row: (N, M) and (1, M) to (N, M).
pub fn add_bias<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>, bias: &Matrix<D>) -> Matrix<D, T> {
    let (rows, columns) = *x.shape();
    let offsets = to_vec(bias);
    let mut values = to_vec(&x);
    for row in values.chunks_exact_mut(columns) {
        add(row, &offsets);
    }
    let y = x.device().tensor_from_vec(values, (rows, columns));
    let (x, mut tape) = x.split_tape();
    let (bias, y_leaf) = (bias.clone(), y.clone());
    tape.add_backward_op(move |gradients| {
        let grad_y = D::take_gradient(gradients.get_or_alloc_mut(&y_leaf)?)?;
        D::update_gradient(gradients.get_or_alloc_mut(&bias)?, |grad_bias| {
            for row in grad_y.chunks_exact(columns) {
                add(grad_bias, row);
            }
        })?;
        D::update_gradient(gradients.get_or_alloc_mut(&x)?, |gradient| add(gradient, &grad_y))
    });
    y.put_tape(tape)
}

fn add(total: &mut [Real], values: &[Real]) {
    for (total, value) in total.iter_mut().zip(values) {
        *total += value;
    }
}

/// Multiplies by a fixed factor an element: dropout with a mask from our own generator.
pub fn scale<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>, factors: Vec<Real>) -> Matrix<D, T> {
    let factors = Arc::new(factors);
    let values = to_vec(&x).iter().zip(factors.iter()).map(|(v, f)| v * f).collect::<Vec<_>>();
    let y = x.device().tensor_from_vec(values, *x.shape());
    record(x, y, move |grad_x, grad_y| {
        for ((gx, gy), factor) in grad_x.iter_mut().zip(grad_y).zip(factors.iter()) {
            *gx += gy * factor;
        }
    })
}

/// An element-wise function and its derivative.
fn elementwise<D: Backend, T: Tape<Real, D>>(
    x: Matrix<D, T>,
    function: impl Fn(Real) -> Real,
    derivative: impl 'static + Fn(Real) -> Real,
) -> Matrix<D, T> {
    let values = to_vec(&x).into_iter().map(function).collect();
    let y = x.device().tensor_from_vec(values, *x.shape());
    let (x, tape) = x.split_tape();
    // Shares its values with the tensor that the operation before keeps.
    let kept = x.clone();
    record(x.put_tape(tape), y, move |grad_x, grad_y| {
        for ((gx, gy), v) in grad_x.iter_mut().zip(grad_y).zip(to_vec(&kept)) {
            *gx += gy * derivative(v);
        }
    })
}

/// ReLU that lets NaN through, as PyTorch's does; its gradient at 0 is 0.
pub fn relu<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>) -> Matrix<D, T> {
    elementwise(x, |v| if v <= 0.0 { 0.0 } else { v }, |v| if v <= 0.0 { 0.0 } else { 1.0 })
}

/// x for positive x, 0.01 x otherwise.
pub fn leaky_relu<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>) -> Matrix<D, T> {
    const SLOPE: Real = 0.01;
    elementwise(x, |v| if v > 0.0 { v } else { v * SLOPE }, |v| if v > 0.0 { 1.0 } else { SLOPE })
}

/// Exact GELU, x Phi(x). (The derivative of dfdx 0.13's `accurate_gelu` is wrong.)
pub fn gelu<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>) -> Matrix<D, T> {
    use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
    let cdf = |v: Real| 0.5 * (1.0 + libm::erf(v * FRAC_1_SQRT_2));
    let density = |v: Real| (-0.5 * v * v).exp() * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * 0.5;
    elementwise(x, move |v| v * cdf(v), move |v| cdf(v) + v * density(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a recorded gradient with central differences of sum(f(x) * weights).
    fn check_gradient(
        f: impl Fn(Matrix<Cpu, OwnedTape<Real, Cpu>>) -> Matrix<Cpu, OwnedTape<Real, Cpu>>,
        rows: usize,
        columns: usize,
    ) {
        let device = Cpu::default();
        // Distinct, well separated values: no ties, no kinks near.
        let values: Vec<Real> = (0..rows * columns).map(|i| ((i * 37 % 101) as Real - 50.0) / 10.0 + 0.03).collect();
        let weight = |i: usize| ((i * 7 % 13) as Real - 6.0) / 3.0;
        let loss = |values: &[Real]| {
            let y = f(device.tensor_from_vec(values.to_vec(), (rows, columns)).leaky_traced());
            to_vec(&y).iter().enumerate().map(|(i, v)| v * weight(i)).sum::<Real>()
        };
        let x: Matrix<Cpu> = device.tensor_from_vec(values.clone(), (rows, columns));
        let y = f(x.leaky_trace());
        let (n, m) = *y.shape();
        let weights: Matrix<Cpu> = device.tensor_from_vec((0..n * m).map(weight).collect(), (n, m));
        let gradient = to_vec(&(y * weights).sum::<Rank0, _>().backward().get(&x));
        for i in 0..values.len() {
            let moved = |step: Real| {
                let mut v = values.clone();
                v[i] += step;
                loss(&v)
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((gradient[i] - expected).abs() < 1e-6, "{i}: {} {expected}", gradient[i]);
        }
    }

    const MAP: Map = Map { height: 4, width: 5 };

    fn at(map: Map, channels: usize, kernel: usize, stride: usize, padding: usize) -> Patches {
        Patches { map, channels, kernel, stride, padding }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let device = Cpu::default();
        let draw = |n: usize| (0..n).map(|i| ((i * 29 % 83) as Real - 41.0) / 40.0).collect::<Vec<_>>();
        for (kernel, stride, padding) in [(2, 1, 0), (3, 1, 1), (3, 2, 1), (1, 2, 0)] {
            let values = kernel * kernel * 3;
            let weight: Matrix<Cpu> = device.tensor_from_vec(draw(4 * values), (4, values));
            let at = at(MAP, 3, kernel, stride, padding);
            let kept = weight.clone();
            check_gradient(move |x| conv2d(x, &kept, at, false), 2 * 20, 3);
            // Linear in the weights: their gradient is the same at any point.
            let x: Matrix<Cpu> = device.tensor_from_vec(draw(2 * 20 * 3), (40, 3));
            let y = conv2d(x.clone().leaky_traced(), &weight, at, true);
            let total = to_vec(&y).iter().sum::<Real>();
            let gradient = to_vec(&y.sum::<Rank0, _>().backward().get(&weight));
            let product: Real = gradient.iter().zip(to_vec(&weight)).map(|(g, w)| g * w).sum();
            assert!((product - total).abs() < 1e-9 && gradient.iter().any(|g| g.abs() > 1e-3));
        }
        let gamma: Matrix<Cpu> = device.tensor_from_vec(vec![0.5, -2.0, 1.5], (1, 3));
        let beta: Matrix<Cpu> = device.tensor_from_vec(vec![0.1, 0.2, -0.3], (1, 3));
        let affine = Affine { scale: &gamma, shift: &beta };
        check_gradient(|x| normalize_batch(x, &affine).0, 6, 3);
        let statistics = BatchStatistics { mean: vec![0.1, 0.2, 0.3], variance: vec![1.0, 2.0, 0.5] };
        check_gradient(|x| normalize(x, &affine, &statistics), 6, 3);
        check_gradient(|x| global_avg_pool(x, MAP), 2 * 20, 3);
        check_gradient(|x| sum(gelu(x.with_empty_tape()), x), 4, 5);
        check_gradient(|x| max_pool(x, MAP), 2 * 20, 3);
        for activation in [relu, leaky_relu, gelu] {
            check_gradient(activation, 4, 5);
        }
        check_gradient(|x| scale(x, (0..20).map(|i| (i % 2 * 2) as Real).collect()), 4, 5);
        let bias: Matrix<Cpu> = Cpu::default().tensor_from_vec(vec![0.5, -0.5, 0.25], (1, 3));
        check_gradient(move |x| add_bias(x, &bias), 6, 3);
    }

    #[test]
    fn patches_list_pixels_row_by_row_with_zeros_around() {
        let x: Vec<Real> = (1..7).map(|i| i as Real).collect();
        let map = Map { height: 2, width: 3 };
        assert_eq!(at(map, 1, 2, 1, 0).gather(&x), [1., 2., 4., 5., 2., 3., 5., 6.]);
        let padded = at(map, 1, 3, 2, 1);
        assert_eq!(padded.output(), Map { height: 1, width: 2 });
        assert_eq!(padded.gather(&x), [0., 0., 0., 0., 1., 2., 0., 4., 5., 0., 0., 0., 2., 3., 0., 5., 6., 0.]);
    }

    #[test]
    fn normalisation_gives_scale_and_shift_and_tells_the_batchs_statistics() {
        let device = Cpu::default();
        let x: Matrix<Cpu> = device.tensor_from_vec(vec![1.0, 3.0, 5.0, 7.0], (4, 1));
        let one = |v: Real| -> Matrix<Cpu> { device.tensor_from_vec(vec![v], (1, 1)) };
        let (y, statistics) = normalize_batch(x.clone(), &Affine { scale: &one(2.0), shift: &one(1.0) });
        assert_eq!((statistics.mean[0], statistics.variance[0]), (4.0, 20.0 / 3.0));
        let expected = [-3.0, -1.0, 1.0, 3.0].map(|d: Real| 2.0 * d / (5.0 + 1e-5f64).sqrt() + 1.0);
        assert!(to_vec(&y).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        let y = to_vec(&normalize(
            x,
            &Affine { scale: &one(2.0), shift: &one(1.0) },
            &BatchStatistics { mean: vec![4.0], variance: vec![5.0] },
        ));
        assert!(y.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn a_bias_gets_the_sum_of_its_rows_gradients() {
        let device = Cpu::default();
        let x: Matrix<Cpu> = device.zeros_like(&(3, 2));
        let bias: Matrix<Cpu> = device.tensor_from_vec(vec![0.5, 1.5], (1, 2));
        let y = add_bias(x.leaky_trace(), &bias);
        assert_eq!(to_vec(&y), [0.5, 1.5, 0.5, 1.5, 0.5, 1.5]);
        assert_eq!(to_vec(&y.sum::<Rank0, _>().backward().get(&bias)), [3.0, 3.0]);
    }

    #[test]
    fn the_first_of_equal_values_wins_and_nan_spreads() {
        let device = Cpu::default();
        let map = Map { height: 2, width: 2 };
        let ties: Matrix<Cpu> = device.tensor_from_vec(vec![1.0; 4], (4, 1));
        let gradient = max_pool(ties.leaky_trace(), map).sum::<Rank0, _>().backward().get(&ties);
        assert_eq!(to_vec(&gradient), [1.0, 0.0, 0.0, 0.0]);
        let nan: Matrix<Cpu> = device.tensor_from_vec(vec![1.0, Real::NAN, 3.0, 2.0], (4, 1));
        assert!(to_vec(&max_pool(nan.clone(), map))[0].is_nan());
        assert!(to_vec(&relu(nan))[1].is_nan());
    }
}
