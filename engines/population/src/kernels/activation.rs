//! Activations, lanes.

use zoo_model::Activation;

use zoo_engine_simd::functions::activate;
use zoo_engine_simd::{Kernel, Simd};

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
