//! The one source of randomness: Philox4x32-10, a counter-based generator.
//!
//! Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a pure
//! function of (seed, purpose, epoch, index), so it is the same on any thread, in any cohort and
//! after any interruption, and lanes and GPU threads can compute it on their own.

/// What a stream of draws is for; streams of different purposes never share a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Seeds of models, when a manifest asks for one of its own per model.
    ModelSeed,
    /// Split of the published training part into train and validation.
    Split,
    /// Initial weights; the index is the parameter tensor's.
    Init,
    /// Order of the samples in an epoch.
    Shuffle,
    /// Dropout masks of the n-th dropout module; the index is the step in the epoch.
    Dropout(u8),
    /// Choice of models to replay or retrain when verifying.
    Sample,
    /// Random changes of a training image; the index is the sample's.
    Augment,
    /// Noise of the n-th layer's sums in variational dropout; the index is the step in the epoch.
    Noise(u8),
}

impl Purpose {
    /// The last word of the streams' counters.
    pub fn word(self) -> u32 {
        match self {
            Self::ModelSeed => 1,
            Self::Split => 2,
            Self::Init => 3,
            Self::Shuffle => 4,
            Self::Dropout(module) => 5 | u32::from(module) << 8,
            Self::Sample => 6,
            Self::Augment => 7,
            Self::Noise(layer) => 8 | u32::from(layer) << 8,
        }
    }
}

/// What is added to the two words of the key after each round.
pub const ROUND_KEYS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox4x32-10 bijection: 128 random bits of a 128-bit counter and a 64-bit key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(ROUND_KEYS[0]), key[1].wrapping_add(ROUND_KEYS[1])];
        }
        let product0 = u64::from(counter[0]) * 0xD251_1F53;
        let product1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
    }
    counter
}

/// The draws of one (seed, purpose, epoch, index), in order.
///
/// Word `i` is word `i % 4` of `philox([i / 4, index, epoch, purpose], [seed low, seed high])`.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream keyed by these four.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, index: u32) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        Self { key, counter: [0, index, epoch, purpose.word()], block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// A number below `bound` (> 0), without bias (Lemire 2019, arXiv 1805.10941).
    pub fn below(&mut self, bound: u32) -> u32 {
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            if product as u32 >= bound.wrapping_neg() % bound {
                return (product >> 32) as u32;
            }
        }
    }

    /// Uniform in [0, 1), a multiple of 2^-24: exact in f32.
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.next_u32() >> 8) / f64::from(1 << 24)
    }

    /// Two independent standard normal draws (Box and Muller 1958).
    ///
    /// Logarithm and cosine are `libm`'s, whose bits are the same on every platform.
    pub fn normal_pair(&mut self) -> [f64; 2] {
        let open = (f64::from(self.next_u32()) + 0.5) / 4_294_967_296.0;
        let angle = std::f64::consts::TAU * f64::from(self.next_u32()) / 4_294_967_296.0;
        let radius = libm::sqrt(-2.0 * libm::log(open));
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }

    /// A uniformly random order (Fisher and Yates; Durstenfeld 1964).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

/// The order of `samples` training samples in `epoch` (from 1) of the model with this seed.
pub fn epoch_order(seed: u64, epoch: u32, samples: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..samples as u32).collect();
    Stream::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
    order
}

/// A unit is kept if its random word is at least this: `floor(p * 2^32)`.
pub fn dropout_threshold(probability: f64) -> u32 {
    (probability * 4_294_967_296.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        // Random123's kat_vectors, philox4x32 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn an_epochs_order_is_a_permutation_of_its_own() {
        let first = epoch_order(3, 1, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &v)| i as u32 == v));
        assert_ne!(first, epoch_order(3, 2, 1000));
        assert_ne!(first, epoch_order(4, 1, 1000));
        assert_eq!(first, epoch_order(3, 1, 1000));
    }

    #[test]
    fn draws_have_the_right_moments() {
        let mut stream = Stream::new(1, Purpose::Init, 0, 0);
        let n = 100_000;
        let normal: Vec<f64> = (0..n / 2).flat_map(|_| stream.normal_pair()).collect();
        let mean = normal.iter().sum::<f64>() / n as f64;
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let uniform = (0..n).map(|_| stream.uniform()).sum::<f64>() / n as f64;
        assert!((uniform - 0.5).abs() < 0.005);
        let below = (0..n).map(|_| f64::from(stream.below(7))).sum::<f64>() / n as f64;
        assert!((below - 3.0).abs() < 0.03);
    }

    #[test]
    fn thresholds_keep_the_right_share() {
        assert_eq!(dropout_threshold(0.0), 0);
        assert_eq!(dropout_threshold(0.5), 1 << 31);
    }

    #[test]
    fn a_stream_is_blocks_of_its_own_counter() {
        let mut stream = Stream::new((7 << 32) + 5, Purpose::Dropout(3), 2, 9);
        let found: Vec<u32> = (0..9).map(|_| stream.next_u32()).collect();
        let block = |block| philox([block, 9, 2, 3 << 8 | 5], [5, 7]);
        assert_eq!(found, [block(0), block(1), block(2)].concat()[..9]);
    }

    #[test]
    fn no_two_purposes_share_a_counter() {
        use Purpose::{Augment, Dropout, Init, ModelSeed, Noise, Sample, Shuffle, Split};
        let words = [ModelSeed, Split, Init, Shuffle, Dropout(0), Sample, Augment, Noise(0)].map(Purpose::word);
        assert_eq!(words, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!([Dropout(255), Noise(1)].map(Purpose::word), [0xff05, 0x108]);
    }

    #[test]
    fn draws_are_computed_from_words_as_documented() {
        let words: Vec<u32> = {
            let mut stream = Stream::new(1, Purpose::Sample, 0, 0);
            (0..200).map(|_| stream.next_u32()).collect()
        };
        let stream = || Stream::new(1, Purpose::Sample, 0, 0);
        assert_eq!(stream().uniform(), f64::from(words[0] >> 8) / 16_777_216.0);

        let [open, angle] = [f64::from(words[0]) + 0.5, f64::from(words[1])].map(|word| word / 2f64.powi(32));
        let radius = (-2.0 * open.ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * angle).sin_cos();
        for (found, expected) in stream().normal_pair().into_iter().zip([radius * cos, radius * sin]) {
            assert!((found - expected).abs() < 1e-12);
        }

        // 3 * 2^30 leaves a remainder of 2^30: a quarter of the words are drawn again.
        let bound = 3 << 30;
        let mut below = stream();
        let found: Vec<u32> = (0..100).map(|_| below.below(bound)).collect();
        let products = words.iter().map(|&word| u128::from(word) * u128::from(bound));
        let fair = products.filter(|product| product % (1 << 32) >= 1 << 30).map(|product| (product >> 32) as u32);
        assert_eq!(found, fair.take(100).collect::<Vec<_>>());
        assert!(words.iter().take(100).any(|&word| u128::from(word) * u128::from(bound) % (1 << 32) < 1 << 30));
    }

    #[test]
    fn shuffling_swaps_from_the_end_with_what_is_drawn() {
        let mut draws = Stream::new(5, Purpose::Shuffle, 1, 0);
        let mut expected: Vec<u32> = (0..6).collect();
        for last in [5u32, 4, 3, 2, 1] {
            expected.swap(last as usize, draws.below(last + 1) as usize);
        }
        assert_eq!(epoch_order(5, 1, 6), expected);
    }
}
