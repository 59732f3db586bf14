//! The gradient of the loss, lanes.

use zoo_engine_simd::functions::exp;
use zoo_engine_simd::{Kernel, Simd};

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
