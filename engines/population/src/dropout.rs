//! Dropout masks, drawn for all lanes at once: Philox4x32-10 with the models' seeds as keys.

use zoo_engine_simd::random::{philox, round_keys, Keys};
use zoo_model::random::{dropout_threshold, Purpose};
use zoo_model::Hyperparameters;

use super::layers::Layer;
use zoo_engine_simd::{Kernel, Simd};

/// The lanes' keys and probabilities.
#[derive(Clone)]
pub struct Dropout<S: Simd> {
    /// The keys of Philox's ten rounds.
    pub(super) keys: Keys<S>,
    threshold: S::U,
    /// 1 / (1 - p), the factor of a unit that is kept.
    kept: S::F,
}

/// A mini-batch's place in the random draws.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Epoch, from 1, those before fine-tuning counted in.
    pub epoch: u32,
    /// Step in the epoch.
    pub step: u32,
}

impl<S: Simd> Dropout<S> {
    /// For models with these hyperparameters, one per lane.
    pub fn new(s: S, lanes: &[&Hyperparameters]) -> Self {
        let seeds: Vec<u64> = lanes.iter().map(|h| h.seed).collect();
        let thresholds: Vec<u32> = lanes.iter().map(|h| dropout_threshold(h.dropout)).collect();
        let kept: Vec<f32> = lanes.iter().map(|h| (1.0 / (1.0 - h.dropout)) as f32).collect();
        Self { keys: round_keys(s, &seeds), threshold: s.load_u32(&thresholds), kept: s.load(&kept) }
    }
}

/// Drops units of one sample, lanes: multiplies `output` and `derivative` (positions, outputs) by 0
/// or 1 / (1 - p).
///
/// As in every engine, the n-th word is that of the n-th unit of the mini-batch, in the order
/// (sample, channel, row, column).
pub struct Drop<'a, S: Simd> {
    /// Keys and probabilities.
    pub dropout: &'a Dropout<S>,
    /// The layer whose output it is.
    pub layer: &'a Layer,
    /// Number of the dropout module.
    pub module: u8,
    /// Place in the random draws.
    pub draw: Draw,
    /// Place in the mini-batch.
    pub sample: usize,
    /// Output.
    pub output: &'a mut [S::F],
    /// Its derivative.
    pub derivative: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for Drop<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (positions, units) = (self.layer.positions(), self.layer.units());
        let first = self.sample * units;
        let (mut unit, mut place, mut position) = (0, 0, 0);
        for block in first / 4..(first + units).div_ceil(4) {
            let counter = [block as u32, self.draw.step, self.draw.epoch, Purpose::Dropout(self.module).word()];
            let words = philox(s, counter, &self.dropout.keys);
            let skipped = first.saturating_sub(4 * block);
            for word in words.into_iter().skip(skipped).take(units - unit) {
                let factor = s.keep_at_least(word, self.dropout.threshold, self.dropout.kept);
                self.output[place] = s.mul(self.output[place], factor);
                self.derivative[place] = s.mul(self.derivative[place], factor);
                unit += 1;
                position += 1;
                place += self.layer.outputs;
                if position == positions {
                    position = 0;
                    place = unit / positions;
                }
            }
        }
    }
}
