//! Variational dropout (Molchanov, Ashukha and Vetrov 2017, arXiv 1701.05369): what does not depend
//! on an engine.
//!
//! Each weight w has a noise of variance sigma^2 of its own, in the additive form: a layer's sum is
//! normal with mean `b + sum of w x` and variance `sum of sigma^2 x^2` (local reparameterisation).
//! Training minimises cross entropy + [`kl_weight`] x [`kl`]; a weight whose log alpha = log sigma^2
//! - 2 log |w| reaches [`THRESHOLD`] is all noise, and zero in evaluation and in kept states.

use zoo_model::random::{philox, Purpose};
use zoo_model::Network;

/// Log sigma^2 of every weight before the first step.
pub const INITIAL_LOG_SIGMA2: f64 = -10.0;

/// Log sigma^2 of a bias, which has no noise: sigma^2 rounds to zero in f32, and log alpha is
/// clamped whatever the bias, so that the divergence has no gradient there.
pub const NO_NOISE: f64 = -200.0;

/// A weight with at least this log alpha is removed.
pub const THRESHOLD: f64 = 3.0;

/// Log alpha is clamped to plus and minus this; beyond, the divergence has no gradient.
pub const LOG_ALPHA_LIMIT: f64 = 8.0;

/// Added to |w|, so that its logarithm is finite.
pub const SMALLEST: f64 = 1e-15;

/// Added to variances before the root is taken, so that its derivative is finite.
pub const VARIANCE_FLOOR: f64 = 1e-8;

/// Constants of the approximation of the divergence, k1 to k3.
pub const K: [f64; 3] = [0.63576, 1.8732, 1.48695];

/// How a model is sparsified by variational dropout.
#[derive(Debug, Clone, PartialEq)]
pub struct Variational {
    /// Epochs over which the weight of the divergence rises.
    pub epochs: u32,
}

impl Variational {
    /// Weight of the divergence in the loss of epoch `epoch` (from 1): min(1, 0.01 epoch / epochs).
    pub fn kl_weight(&self, epoch: u32) -> f64 {
        f64::min(1.0, 0.01 * f64::from(epoch) / f64::from(self.epochs.max(1)))
    }
}

/// Log alpha of a weight, clamped.
pub fn log_alpha(weight: f64, log_sigma2: f64) -> f64 {
    (log_sigma2 - 2.0 * libm::log(weight.abs() + SMALLEST)).clamp(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)
}

/// Whether a weight is kept. NaN is.
pub fn is_kept(weight: f64, log_sigma2: f64) -> bool {
    let log_alpha = log_alpha(weight, log_sigma2);
    log_alpha.is_nan() || log_alpha < THRESHOLD
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// The divergence of one weight's noise from the log-uniform prior, up to a constant (equation 14
/// of the paper); 0 for an infinite alpha.
pub fn kl(log_alpha: f64) -> f64 {
    let [k1, k2, k3] = K;
    k1 - k1 * sigmoid(k2 + k3 * log_alpha) + 0.5 * libm::log1p(libm::exp(-log_alpha))
}

/// Derivatives of [`kl`] by the weight and by log sigma^2.
pub fn kl_gradient(weight: f64, log_sigma2: f64) -> [f64; 2] {
    let [k1, k2, k3] = K;
    let log_alpha = log_alpha(weight, log_sigma2);
    if log_alpha.abs() >= LOG_ALPHA_LIMIT {
        return [0.0, 0.0];
    }
    let s = sigmoid(k2 + k3 * log_alpha);
    let by_log_alpha = -(k1 * k3 * s * (1.0 - s) + 0.5 * sigmoid(-log_alpha));
    let sign = if weight == 0.0 { 0.0 } else { weight.signum() };
    [by_log_alpha * -2.0 * sign / (weight.abs() + SMALLEST), by_log_alpha]
}

/// Four independent standard normal draws from the four words of a Philox block (Box and Muller
/// 1958): of each pair, the top 23 bits of the first word give the radius, of the second the angle.
///
/// Both are exact in f32, so that engines of either precision draw the same numbers but for
/// rounding.
pub fn normals(words: [u32; 4]) -> [f64; 4] {
    let unit = |word: u32| f64::from(word >> 9) / f64::from(1 << 23);
    let pair = |radius: u32, angle: u32| {
        let radius = libm::sqrt(-2.0 * libm::log(unit(radius) + 0.5 / f64::from(1 << 23)));
        let angle = std::f64::consts::TAU * unit(angle);
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    };
    let ([a, b], [c, d]) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

/// What the noise of a mini-batch in a layer depends on.
#[derive(Debug, Clone, Copy)]
pub struct NoiseKey {
    /// The model's seed.
    pub seed: u64,
    /// Number of the layer that has weights.
    pub layer: u8,
    /// Epoch, from 1, those before fine-tuning counted in.
    pub epoch: u32,
    /// Step in the epoch.
    pub step: u32,
}

/// The noise of one sample's sums in a layer: one draw per sum, in the order (row, column, channel) of
/// the map before pooling. `sample` is the place in the mini-batch, whose samples begin at whole
/// Philox blocks of the stream (seed, noise of the layer, epoch, step).
pub fn noise(key: NoiseKey, sample: usize, sums: usize) -> Vec<f64> {
    let NoiseKey { seed, layer, epoch, step } = key;
    let blocks = sums.div_ceil(4);
    let block = |block: usize| {
        let counter = [(sample * blocks + block) as u32, step, epoch, Purpose::Noise(layer).word()];
        normals(philox(counter, [seed as u32, (seed >> 32) as u32]))
    };
    let mut draws: Vec<f64> = (0..blocks).flat_map(block).collect();
    draws.truncate(sums);
    draws
}

/// Log sigma^2 of a model before its first step: one value per parameter, [`NO_NOISE`] for biases.
pub fn initial_log_sigma2(network: &Network) -> Vec<f64> {
    let mut log_sigma2 = vec![NO_NOISE; network.parameter_count()];
    for weight in network.weights() {
        log_sigma2[weight.range.clone()].fill(INITIAL_LOG_SIGMA2);
    }
    log_sigma2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        for weight in [-1.3, -0.2, 0.01, 0.4] {
            for log_sigma2 in [-9.0, -4.0, 0.0, 2.5] {
                let of = |w: f64, l: f64| kl(log_alpha(w, l));
                let step = 1e-6;
                let expected = [
                    (of(weight + step, log_sigma2) - of(weight - step, log_sigma2)) / (2.0 * step),
                    (of(weight, log_sigma2 + step) - of(weight, log_sigma2 - step)) / (2.0 * step),
                ];
                let found = kl_gradient(weight, log_sigma2);
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{weight} {log_sigma2}");
                }
            }
        }
        assert_eq!(kl_gradient(0.0, 0.0), [0.0; 2]);
        assert_eq!(kl_gradient(0.01, NO_NOISE), [0.0; 2]);
        // So little noise that log alpha of a zero weight is within its limits.
        assert_eq!(kl_gradient(0.0, -69.0)[0], 0.0);
        assert!(is_kept(0.0, NO_NOISE) && is_kept(f64::NAN, 0.0) && !is_kept(1e-3, 0.0));
    }

    #[test]
    fn normals_have_the_right_moments() {
        let draws = noise(NoiseKey { seed: 1, layer: 0, epoch: 1, step: 0 }, 3, 100_001);
        assert_eq!(draws.len(), 100_001);
        let moment = |n: i32| draws.iter().map(|z| z.powi(n)).sum::<f64>() / draws.len() as f64;
        let moments = [1, 2, 3, 4].map(moment);
        for (found, expected) in moments.iter().zip([0.0, 1.0, 0.0, 3.0]) {
            assert!((found - expected).abs() < 0.06, "{moments:?}");
        }
        assert!(normals([0; 4]).iter().chain(&normals([u32::MAX; 4])).all(|z| z.is_finite()));
    }

    #[test]
    fn the_divergence_weighs_more_each_epoch() {
        let twin = Variational { epochs: 25 };
        assert_eq!([1, 25, 5000].map(|e| twin.kl_weight(e)), [0.0004, 0.01, 1.0]);
    }

    #[test]
    fn the_divergence_has_the_papers_values() {
        for (log_alpha, expected) in
            [(-2.0, 1.540_532_741_238_367), (0.0, 0.431_238_950_990_308_8), (1.5, 0.111_034_221_998_032_67)]
        {
            assert!((kl(log_alpha) - expected).abs() < 1e-14, "{log_alpha}");
        }
    }

    #[test]
    fn a_weight_is_removed_at_the_threshold() {
        let at_threshold = THRESHOLD + 2.0 * libm::log(1.0 + SMALLEST);
        assert_eq!(log_alpha(1.0, at_threshold), THRESHOLD);
        assert!(!is_kept(1.0, at_threshold) && !is_kept(-1.0, at_threshold) && is_kept(1.0, 2.999));
        assert_eq!([-100.0, 100.0].map(|log_sigma2| log_alpha(1.0, log_sigma2)), [-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT]);
    }

    #[test]
    fn normals_are_box_and_mullers() {
        let found = normals([0x8000_0000, 0x4000_0000, 0xc000_0000, 0]);
        let [first, second] = [2.0 * 2f64.ln(), -2.0 * 0.75f64.ln()].map(f64::sqrt);
        for (found, expected) in found.iter().zip([0.0, first, second, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn a_samples_noise_is_a_stretch_of_whole_blocks_of_its_stream() {
        let block = |block| normals(philox([block, 9, 8, Purpose::Noise(2).word()], [5, 1]));
        let expected: Vec<f64> = [block(6), block(7)].concat();
        let key = NoiseKey { seed: (1 << 32) + 5, layer: 2, epoch: 8, step: 9 };
        assert_eq!(noise(key, 3, 5), expected[..5]);
    }

    #[test]
    fn weights_have_noise_from_the_start_and_biases_none() {
        let network = zoo_model::Hyperparameters::default().network([1, 28, 28], 10).unwrap();
        let log_sigma2 = initial_log_sigma2(&network);
        let of = |value| log_sigma2.iter().filter(|&&l| l == value).count();
        assert_eq!((of(-10.0), of(NO_NOISE)), (2416, 48));
        assert_eq!((log_sigma2[0], log_sigma2[200]), (-10.0, NO_NOISE));
    }
}
