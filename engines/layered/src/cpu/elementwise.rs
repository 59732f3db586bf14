//! Functions of single values.

use rayon::prelude::*;
use zoo_engine::optimizer::{BETA2, EPSILON};
use zoo_engine_simd::functions::{exp, kl_gradient};
use zoo_engine_simd::{Kernel, Simd};

use super::PIECE;
use crate::kernels::{Update, VARIANCE_FLOOR};

/// A function of a vector of values and of what lies beside it in other buffers.
pub trait Elementwise<S: Simd>: Sync {
    /// Of the vector that begins at `i`.
    fn at(&self, s: S, i: usize, value: S::F) -> S::F;
}

/// `to[i] = function(to[i])`, in parallel.
pub fn each<S: Simd>(s: S, to: &mut [f32], function: impl Elementwise<S>) {
    to.par_chunks_mut(PIECE).enumerate().for_each(|(piece, to)| {
        s.vectorize(Piece { to, first: piece * PIECE, function: &function });
    });
}

struct Piece<'a, E> {
    to: &'a mut [f32],
    first: usize,
    function: &'a E,
}

impl<S: Simd, E: Elementwise<S>> Kernel<S> for Piece<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (i, values) in self.to.chunks_exact_mut(S::LANES).enumerate() {
            let value = self.function.at(s, self.first + i * S::LANES, s.load(values));
            s.store(value, values);
        }
    }
}

/// `value + other`.
pub struct Add<'a>(pub &'a [f32]);

impl<S: Simd> Elementwise<S> for Add<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, value: S::F) -> S::F {
        s.add(value, s.load(&self.0[i..]))
    }
}

/// `value * other`.
pub struct Multiply<'a>(pub &'a [f32]);

impl<S: Simd> Elementwise<S> for Multiply<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, value: S::F) -> S::F {
        s.mul(value, s.load(&self.0[i..]))
    }
}

/// `other * other`.
pub struct Square<'a>(pub &'a [f32]);

impl<S: Simd> Elementwise<S> for Square<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, _: S::F) -> S::F {
        let x = s.load(&self.0[i..]);
        s.mul(x, x)
    }
}

/// `value + 2 x by_squares`.
pub struct AddOfSquares<'a> {
    /// What was squared.
    pub x: &'a [f32],
    /// Gradient by its squares.
    pub by_squares: &'a [f32],
}

impl<S: Simd> Elementwise<S> for AddOfSquares<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, value: S::F) -> S::F {
        let x = s.load(&self.x[i..]);
        s.fma(s.add(x, x), s.load(&self.by_squares[i..]), value)
    }
}

/// `e^other`.
pub struct Exp<'a>(pub &'a [f32]);

impl<S: Simd> Elementwise<S> for Exp<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, _: S::F) -> S::F {
        exp(s, s.load(&self.0[i..]))
    }
}

/// `1 / sqrt(other + floor)`.
pub struct InverseDeviation<'a>(pub &'a [f32]);

impl<S: Simd> Elementwise<S> for InverseDeviation<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, _: S::F) -> S::F {
        s.div(s.splat(1.0), s.sqrt(s.add(s.load(&self.0[i..]), s.splat(VARIANCE_FLOOR))))
    }
}

/// `other / count`, of rows that repeat.
pub struct Share<'a> {
    /// What is shared out.
    pub of: &'a [f32],
    /// Among this many.
    pub count: f32,
}

impl<S: Simd> Elementwise<S> for Share<'_> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, _: S::F) -> S::F {
        s.div(s.load(&self.of[i % self.of.len()..]), s.splat(self.count))
    }
}

/// An optimiser's step on a piece of a tensor.
pub struct Step<'a> {
    /// Which step.
    pub update: Update,
    /// Gradients.
    pub gradient: &'a [f32],
    /// 1 where a parameter may differ from zero.
    pub mask: Option<&'a [f32]>,
    /// Parameters.
    pub parameters: &'a mut [f32],
    /// Momentum, or mean.
    pub first: &'a mut [f32],
    /// Mean square; empty without one.
    pub second: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for i in (0..self.parameters.len()).step_by(S::LANES) {
            let (p, g) = (s.load(&self.parameters[i..]), s.load(&self.gradient[i..]));
            let kept = self.mask.map(|mask| s.lt(s.splat(0.0), s.load(&mask[i..])));
            let first = s.load(&self.first[i..]);
            let (p, moved) = match self.update {
                Update::Adam { step_size, correction, mean_rate, weight_decay } => {
                    let square = s.load(&self.second[i..]);
                    let (p, moved, squared) =
                        adam(s, [step_size, correction, mean_rate, weight_decay], p, g, first, square);
                    let squared = kept.map_or(squared, |kept| s.select(kept, squared, square));
                    s.store(squared, &mut self.second[i..]);
                    (p, moved)
                }
                Update::Sgd { learning_rate, momentum, weight_decay } => {
                    let g = s.fma(s.splat(weight_decay), p, g);
                    let moved = s.fma(s.splat(momentum), first, g);
                    (s.sub(p, s.mul(s.splat(learning_rate), moved)), moved)
                }
            };
            s.store(kept.map_or(p, |kept| s.select(kept, p, s.splat(0.0))), &mut self.parameters[i..]);
            s.store(kept.map_or(moved, |kept| s.select(kept, moved, first)), &mut self.first[i..]);
        }
    }
}

#[inline(always)]
fn adam<S: Simd>(
    s: S,
    [step_size, correction, mean_rate, weight_decay]: [f32; 4],
    p: S::F,
    g: S::F,
    mean: S::F,
    square: S::F,
) -> (S::F, S::F, S::F) {
    let g = s.fma(s.splat(weight_decay), p, g);
    let mean = s.fma(s.sub(g, mean), s.splat(mean_rate), mean);
    let square = s.fma(square, s.splat(BETA2 as f32), s.mul(s.mul(g, g), s.splat((1.0 - BETA2) as f32)));
    let denominator = s.add(s.div(s.sqrt(square), s.splat(correction)), s.splat(EPSILON as f32));
    (s.sub(p, s.mul(s.splat(step_size), s.div(mean, denominator))), mean, square)
}

/// The divergence's gradient, added on a piece of a tensor; see
/// [`Kernels::add_divergence`](crate::kernels::Kernels::add_divergence).
pub struct AddDivergence<'a> {
    /// Weights.
    pub weights: &'a [f32],
    /// Log sigma^2.
    pub log_sigma2: &'a [f32],
    /// Sigma^2.
    pub sigma2: &'a [f32],
    /// The divergence's weight.
    pub kl_weight: f32,
    /// Gradients by the weights.
    pub by_weights: &'a mut [f32],
    /// Gradients by sigma^2; become those by log sigma^2.
    pub by_noise: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for AddDivergence<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let kl_weight = s.splat(self.kl_weight);
        for i in (0..self.weights.len()).step_by(S::LANES) {
            let [dw, dl] = kl_gradient(s, s.load(&self.weights[i..]), s.load(&self.log_sigma2[i..]));
            let by_weights = s.fma(kl_weight, dw, s.load(&self.by_weights[i..]));
            let by_noise = s.mul(s.load(&self.by_noise[i..]), s.load(&self.sigma2[i..]));
            s.store(by_weights, &mut self.by_weights[i..]);
            s.store(s.fma(kl_weight, dl, by_noise), &mut self.by_noise[i..]);
        }
    }
}
