//! Random draws of dropout, in the engine's order.

use zoo_model::random::{dropout_threshold, Purpose, Stream};

use crate::backend::Real;

/// What a dropout mask depends on, besides the module.
#[derive(Clone, Copy)]
pub struct DropoutKey {
    pub seed: u64,
    pub epoch: u32,
    pub step: u32,
}

/// The values of a batch between two modules.
#[derive(Clone, Copy)]
pub struct Units {
    pub batch: usize,
    pub positions: usize,
    pub channels: usize,
}

/// Factors 0 or 1 / (1 - p) in the engine's order (sample, position, channel); the n-th random
/// word belongs to the n-th unit in PyTorch's order (sample, channel, position).
pub fn dropout_factors(key: DropoutKey, module: u8, p: f64, units: Units) -> Vec<Real> {
    let Units { batch, positions, channels } = units;
    let threshold = dropout_threshold(p);
    let kept = 1.0 / (1.0 - p);
    let mut words = Stream::new(key.seed, Purpose::Dropout(module), key.epoch, key.step);
    let mut factors = vec![0.0; batch * positions * channels];
    for sample in factors.chunks_exact_mut(positions * channels) {
        for channel in 0..channels {
            for position in 0..positions {
                if words.next_u32() >= threshold {
                    sample[position * channels + channel] = kept;
                }
            }
        }
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_draws_one_word_a_unit_in_pytorch_order() {
        let key = DropoutKey { seed: 1, epoch: 2, step: 3 };
        let factors = dropout_factors(key, 0, 0.5, Units { batch: 2, positions: 3, channels: 4 });
        let mut words = Stream::new(1, Purpose::Dropout(0), 2, 3);
        let unit = |s: usize, c: usize, p: usize| factors[(s * 3 + p) * 4 + c];
        for sample in 0..2 {
            for channel in 0..4 {
                for position in 0..3 {
                    let kept = words.next_u32() >= 1 << 31;
                    assert_eq!(unit(sample, channel, position), if kept { 2.0 } else { 0.0 });
                }
            }
        }
    }
}
