//! Arithmetic of variational dropout, lanes; see [`variational`](zoo_engine::variational).

use zoo_engine_simd::random::philox;
use zoo_model::random::Purpose;

use super::dropout::{Draw, Dropout};
use super::layers::Layer;
use zoo_engine_simd::functions::{add_noise, exp, kl_gradient, normals};
use zoo_engine_simd::{Kernel, Simd};

/// Adds noise to a layer's sums: `mean + sqrt(variance) * draw`, one draw a sum.
pub struct AddNoise<'a, S: Simd> {
    /// The lanes' keys.
    pub dropout: &'a Dropout<S>,
    /// Number of the layer.
    pub layer: u8,
    /// Place in the random draws.
    pub draw: Draw,
    /// Place in the mini-batch.
    pub sample: usize,
    /// Means (positions before pooling, outputs); becomes the noisy sums.
    pub sums: &'a mut [S::F],
    /// Variances; becomes the derivatives of the sums by them.
    pub variances: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for AddNoise<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let blocks = self.sums.len().div_ceil(4);
        let sums = self.sums.chunks_mut(4).zip(self.variances.chunks_mut(4));
        for (block, (sums, variances)) in sums.enumerate() {
            let block = (self.sample * blocks + block) as u32;
            let counter = [block, self.draw.step, self.draw.epoch, Purpose::Noise(self.layer).word()];
            let draws = normals(s, philox(s, counter, &self.dropout.keys));
            for ((sum, variance), draw) in sums.iter_mut().zip(variances).zip(draws) {
                (*sum, *variance) = add_noise(s, *sum, *variance, draw);
            }
        }
    }
}

/// The maximum over 2x2 windows of noisy sums.
pub struct PoolNoisy<'a, S: Simd> {
    /// The layer.
    pub layer: &'a Layer,
    /// Sums (positions before pooling, outputs).
    pub sums: &'a [S::F],
    /// Their derivatives by the variance.
    pub derivatives: &'a [S::F],
    /// Output (positions, outputs).
    pub output: &'a mut [S::F],
    /// Where the winning patch begins in the input, as the bits of a u32.
    pub winners: &'a mut [S::F],
    /// Derivative of the output by the winner's variance.
    pub by_variance: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for PoolNoisy<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (layer, outputs) = (self.layer, self.layer.outputs);
        let [rows, columns] = layer.output_map();
        let width = layer.width + 1 - layer.kernel[1];
        for y in 0..rows {
            for x in 0..columns {
                let unit = (y * columns + x) * outputs;
                let corner = 2 * (y * layer.input_row() + x * layer.channels);
                let first = 2 * (y * width + x) * outputs;
                let window = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(down, right)| {
                    let patch = corner + down * layer.input_row() + right * layer.channels;
                    (first + (down * width + right) * outputs, s.splat_bits(patch as u32))
                });
                for o in 0..outputs {
                    let candidate =
                        |p: usize| (self.sums[window[p].0 + o], window[p].1, self.derivatives[window[p].0 + o]);
                    let (mut best, mut winner, mut by_variance) = candidate(0);
                    for p in 1..4 {
                        let (sum, patch, derivative) = candidate(p);
                        let wins = s.exceeds(sum, best);
                        best = s.select(wins, sum, best);
                        winner = s.select(wins, patch, winner);
                        by_variance = s.select(wins, derivative, by_variance);
                    }
                    self.output[unit + o] = best;
                    self.winners[unit + o] = winner;
                    self.by_variance[unit + o] = by_variance;
                }
            }
        }
    }
}

/// `out = a * b`, or a * a.
pub struct Product<'a, S: Simd> {
    /// Factors.
    pub a: &'a [S::F],
    /// Factors.
    pub b: &'a [S::F],
    /// Products.
    pub out: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for Product<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for ((out, &a), &b) in self.out.iter_mut().zip(self.a).zip(self.b) {
            *out = s.mul(a, b);
        }
    }
}

/// Derivatives of squares: `out = 2 x * derivative`.
pub struct OfSquares<'a, S: Simd> {
    /// What was squared.
    pub x: &'a [S::F],
    /// Its derivatives.
    pub derivative: &'a [S::F],
    /// Those of the squares.
    pub out: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for OfSquares<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for ((out, &x), &derivative) in self.out.iter_mut().zip(self.x).zip(self.derivative) {
            *out = s.mul(s.add(x, x), derivative);
        }
    }
}

/// Gradient of an input from those by it and by its square: `gradient + 2 x by_square`.
pub struct AddOfSquares<'a, S: Simd> {
    /// Gradient by the input, added to.
    pub gradient: &'a mut [S::F],
    /// The input.
    pub x: &'a [S::F],
    /// Gradient by its square.
    pub by_square: &'a [S::F],
}

impl<S: Simd> Kernel<S> for AddOfSquares<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for ((gradient, &x), &by_square) in self.gradient.iter_mut().zip(self.x).zip(self.by_square) {
            *gradient = s.fma(s.add(x, x), by_square, *gradient);
        }
    }
}

/// `out = e^x`.
pub struct Exp<'a, S: Simd> {
    /// Exponents.
    pub x: &'a [S::F],
    /// Powers.
    pub out: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for Exp<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = exp(s, x);
        }
    }
}

/// From the gradients of the cross entropy to those of the loss with the divergence, by the weights
/// and by log sigma^2.
pub struct AddDivergence<'a, S: Simd> {
    /// Weights and biases.
    pub parameters: &'a [S::F],
    /// Log sigma^2.
    pub log_sigma2: &'a [S::F],
    /// Sigma^2.
    pub sigma2: &'a [S::F],
    /// Weight of the divergence.
    pub kl_weight: S::F,
    /// Gradients by the parameters.
    pub gradients: &'a mut [S::F],
    /// Gradients by sigma^2; become those by log sigma^2.
    pub noise_gradients: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for AddDivergence<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let gradients = self.gradients.iter_mut().zip(self.noise_gradients);
        let noise = self.log_sigma2.iter().zip(self.sigma2);
        for (((gradient, noise_gradient), (&log_sigma2, &sigma2)), &parameter) in
            gradients.zip(noise).zip(self.parameters)
        {
            let [by_weight, by_noise] = kl_gradient(s, parameter, log_sigma2);
            *gradient = s.fma(self.kl_weight, by_weight, *gradient);
            *noise_gradient = s.fma(self.kl_weight, by_noise, s.mul(*noise_gradient, sigma2));
        }
    }
}
