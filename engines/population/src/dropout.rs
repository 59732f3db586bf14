//! Dropout masks, drawn for all lanes at once: Philox4x32-10 with the models' seeds as keys.

use zoo_model::random::{dropout_threshold, Purpose, ROUND_KEYS};
use zoo_model::Hyperparameters;

use super::layers::Layer;
use super::simd::{Kernel, Simd};

/// The lanes' keys and probabilities.
#[derive(Clone)]
pub struct Dropout<S: Simd> {
    /// The keys of Philox's ten rounds.
    pub(super) keys: [[S::U; 2]; 10],
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
        let words = |f: &dyn Fn(&Hyperparameters) -> u32| s.load_u32(&lanes.iter().map(|h| f(h)).collect::<Vec<u32>>());
        let keys = std::array::from_fn(|round| {
            let [low, high] = ROUND_KEYS.map(|bump| bump.wrapping_mul(round as u32));
            [words(&|h| (h.seed as u32).wrapping_add(low)), words(&|h| ((h.seed >> 32) as u32).wrapping_add(high))]
        });
        let kept: Vec<f32> = lanes.iter().map(|h| (1.0 / (1.0 - h.dropout)) as f32).collect();
        Self { keys, threshold: words(&|h| dropout_threshold(h.dropout)), kept: s.load(&kept) }
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

/// [`zoo_model::random::philox`] with a key a lane, given as the keys of the ten rounds.
#[inline(always)]
pub(super) fn philox<S: Simd>(s: S, counter: [u32; 4], keys: &[[S::U; 2]; 10]) -> [S::U; 4] {
    let mut c = counter.map(|word| s.splat_u32(word));
    for key in keys {
        let (high0, low0) = s.mul_wide(c[0], 0xD251_1F53);
        let (high1, low1) = s.mul_wide(c[2], 0xCD9E_8D57);
        c = [s.xor_u32(s.xor_u32(high1, c[1]), key[0]), low1, s.xor_u32(s.xor_u32(high0, c[3]), key[1]), low0];
    }
    c
}
