//! Differentiable operations on dfdx's tape that dfdx offers only on nightly compilers, or with
//! other tie and NaN rules than PyTorch's.
//!
//! Activations are matrices of (batch * positions) rows and one column a channel, so that a
//! convolution is [`patches`] followed by a matrix product.

use std::sync::Arc;

use dfdx::prelude::*;

/// What the engine computes in: f64, so that a pool's winner or a ReLU's sign is decided as exact
/// arithmetic decides it. Float32 summation tosses a few of these decisions in every thousand
/// steps, after which trajectories part ways.
pub type Real = f64;

/// A matrix with dimensions known at run time; `T` records the tape.
pub type Matrix<T = NoneTape> = Tensor<(usize, usize), Real, Cpu, T>;

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

    /// The map after a valid convolution of stride 1.
    pub fn convolved(self, kernel: usize) -> Self {
        Self { height: self.height + 1 - kernel, width: self.width + 1 - kernel }
    }

    /// The map after pooling 2x2 windows.
    pub fn pooled(self) -> Self {
        Self { height: self.height / 2, width: self.width / 2 }
    }
}

fn to_vec<T>(x: &Matrix<T>) -> Vec<Real> {
    let (rows, columns) = *x.shape();
    let mut values = vec![0.0; rows * columns];
    x.copy_into(&mut values);
    values
}

/// Records `y = f(x)`, where `backward(grad_x, grad_y)` adds to the gradient of `x`.
fn record<T: Tape<Real, Cpu>>(
    x: Matrix<T>,
    y: Matrix,
    backward: impl 'static + FnOnce(&mut [Real], &[Real]),
) -> Matrix<T> {
    let (x, mut tape) = x.split_tape();
    let y_leaf = y.clone();
    tape.add_backward_op(move |gradients| {
        // Nothing reads the gradient of an intermediate result after its own backward step.
        let grad_y = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_leaf)?);
        backward(gradients.get_or_alloc_mut(&x)?, &grad_y);
        Ok(())
    });
    y.put_tape(tape)
}

/// Calls `copy(from, to, length)` for every contiguous piece of every patch: rows of `kernel`
/// pixels, all channels of a pixel side by side.
fn for_each_piece(batch: usize, map: Map, channels: usize, kernel: usize, mut copy: impl FnMut(usize, usize, usize)) {
    let out = map.convolved(kernel);
    let piece = kernel * channels;
    let mut to = 0;
    for sample in 0..batch {
        for y in 0..out.height {
            for x in 0..out.width {
                for ky in 0..kernel {
                    let pixel = (sample * map.height + y + ky) * map.width + x;
                    copy(pixel * channels, to, piece);
                    to += piece;
                }
            }
        }
    }
}

/// Patches of a map that needs no gradient, as values: (batch * positions, kernel * kernel * C).
pub fn patch_values(values: &[Real], batch: usize, map: Map, channels: usize, kernel: usize) -> Vec<Real> {
    let mut out = vec![0.0; batch * map.convolved(kernel).positions() * kernel * kernel * channels];
    for_each_piece(batch, map, channels, kernel, |from, to, n| {
        out[to..to + n].copy_from_slice(&values[from..from + n])
    });
    out
}

/// Every `kernel` x `kernel` patch of a map as a row: (batch * positions, C) to
/// (batch * positions after a valid convolution, kernel * kernel * C), columns in the order
/// (row, column, channel).
pub fn patches<T: Tape<Real, Cpu>>(x: Matrix<T>, map: Map, kernel: usize) -> Matrix<T> {
    let (rows, channels) = *x.shape();
    let batch = rows / map.positions();
    let values = patch_values(&to_vec(&x), batch, map, channels, kernel);
    let shape = (batch * map.convolved(kernel).positions(), kernel * kernel * channels);
    let y = x.device().tensor_from_vec(values, shape);
    record(x, y, move |grad_x, grad_y| {
        for_each_piece(batch, map, channels, kernel, |from, to, n| {
            for (gx, gy) in grad_x[from..from + n].iter_mut().zip(&grad_y[to..to + n]) {
                *gx += gy;
            }
        });
    })
}

/// Maximum over 2x2 windows, (batch * positions, C) to (batch * pooled positions, C).
///
/// As in PyTorch, the first of equal values wins and receives the whole gradient (windows over a
/// constant background tie exactly), and NaN is larger than any number.
pub fn max_pool<T: Tape<Real, Cpu>>(x: Matrix<T>, map: Map) -> Matrix<T> {
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
pub fn add_bias<T: Tape<Real, Cpu>>(x: Matrix<T>, bias: &Matrix) -> Matrix<T> {
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
        let grad_y = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_leaf)?);
        let grad_bias = gradients.get_or_alloc_mut(&bias)?;
        for row in grad_y.chunks_exact(columns) {
            add(grad_bias, row);
        }
        add(gradients.get_or_alloc_mut(&x)?, &grad_y);
        Ok(())
    });
    y.put_tape(tape)
}

fn add(total: &mut [Real], values: &[Real]) {
    for (total, value) in total.iter_mut().zip(values) {
        *total += value;
    }
}

/// Multiplies by a fixed factor an element: dropout with a mask from our own generator.
pub fn scale<T: Tape<Real, Cpu>>(x: Matrix<T>, factors: Vec<Real>) -> Matrix<T> {
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
fn elementwise<T: Tape<Real, Cpu>>(
    x: Matrix<T>,
    function: impl Fn(Real) -> Real,
    derivative: impl 'static + Fn(Real) -> Real,
) -> Matrix<T> {
    let values = to_vec(&x);
    let y = x.device().tensor_from_vec(values.iter().map(|&v| function(v)).collect(), *x.shape());
    record(x, y, move |grad_x, grad_y| {
        for ((gx, gy), &v) in grad_x.iter_mut().zip(grad_y).zip(&values) {
            *gx += gy * derivative(v);
        }
    })
}

/// ReLU that lets NaN through, as PyTorch's does; its gradient at 0 is 0.
pub fn relu<T: Tape<Real, Cpu>>(x: Matrix<T>) -> Matrix<T> {
    elementwise(x, |v| if v <= 0.0 { 0.0 } else { v }, |v| if v <= 0.0 { 0.0 } else { 1.0 })
}

/// x for positive x, 0.01 x otherwise.
pub fn leaky_relu<T: Tape<Real, Cpu>>(x: Matrix<T>) -> Matrix<T> {
    const SLOPE: Real = 0.01;
    elementwise(x, |v| if v > 0.0 { v } else { v * SLOPE }, |v| if v > 0.0 { 1.0 } else { SLOPE })
}

/// Exact GELU, x Phi(x). (The derivative of dfdx 0.13's `accurate_gelu` is wrong.)
pub fn gelu<T: Tape<Real, Cpu>>(x: Matrix<T>) -> Matrix<T> {
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
        f: impl Fn(Matrix<OwnedTape<Real, Cpu>>) -> Matrix<OwnedTape<Real, Cpu>>,
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
        let x: Matrix = device.tensor_from_vec(values.clone(), (rows, columns));
        let y = f(x.leaky_trace());
        let (n, m) = *y.shape();
        let weights: Matrix = device.tensor_from_vec((0..n * m).map(weight).collect(), (n, m));
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

    #[test]
    fn gradients_match_finite_differences() {
        check_gradient(|x| patches(x, MAP, 2), 2 * 20, 3);
        check_gradient(|x| max_pool(x, MAP), 2 * 20, 3);
        for activation in [relu, leaky_relu, gelu] {
            check_gradient(activation, 4, 5);
        }
        check_gradient(|x| scale(x, (0..20).map(|i| (i % 2 * 2) as Real).collect()), 4, 5);
        let bias: Matrix = Cpu::default().tensor_from_vec(vec![0.5, -0.5, 0.25], (1, 3));
        check_gradient(move |x| add_bias(x, &bias), 6, 3);
    }

    #[test]
    fn patches_list_pixels_row_by_row() {
        let x: Matrix = Cpu::default().tensor_from_vec((0..6).map(|i| i as Real).collect(), (6, 1));
        let y = patches(x, Map { height: 2, width: 3 }, 2);
        assert_eq!(to_vec(&y), [0., 1., 3., 4., 1., 2., 4., 5.]);
    }

    #[test]
    fn a_bias_gets_the_sum_of_its_rows_gradients() {
        let device = Cpu::default();
        let x: Matrix = device.zeros_like(&(3, 2));
        let bias: Matrix = device.tensor_from_vec(vec![0.5, 1.5], (1, 2));
        let y = add_bias(x.leaky_trace(), &bias);
        assert_eq!(to_vec(&y), [0.5, 1.5, 0.5, 1.5, 0.5, 1.5]);
        assert_eq!(to_vec(&y.sum::<Rank0, _>().backward().get(&bias)), [3.0, 3.0]);
    }

    #[test]
    fn the_first_of_equal_values_wins_and_nan_spreads() {
        let device = Cpu::default();
        let map = Map { height: 2, width: 2 };
        let ties: Matrix = device.tensor_from_vec(vec![1.0; 4], (4, 1));
        let gradient = max_pool(ties.leaky_trace(), map).sum::<Rank0, _>().backward().get(&ties);
        assert_eq!(to_vec(&gradient), [1.0, 0.0, 0.0, 0.0]);
        let nan: Matrix = device.tensor_from_vec(vec![1.0, Real::NAN, 3.0, 2.0], (4, 1));
        assert!(to_vec(&max_pool(nan.clone(), map))[0].is_nan());
        assert!(to_vec(&relu(nan))[1].is_nan());
    }
}
