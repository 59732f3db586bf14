//! Optimiser steps and masks, lanes.

use zoo_engine::optimizer::{BETA1, BETA2, EPSILON};
use zoo_engine_simd::{Kernel, Simd};

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
    /// See [`adam_rates`](zoo_engine::optimizer::adam_rates).
    pub step_size: S::F,
    /// See [`adam_rates`](zoo_engine::optimizer::adam_rates).
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
