//! Random draws for all lanes at once: Philox4x32-10 with the models' seeds as keys.

use zoo_model::random::ROUND_KEYS;

use super::Simd;

/// The keys of Philox's ten rounds; the low and the high word of each.
pub type Keys<S> = [[<S as Simd>::U; 2]; 10];

/// The keys of these seeds, one per lane.
pub fn round_keys<S: Simd>(s: S, seeds: &[u64]) -> Keys<S> {
    let words = |f: &dyn Fn(u64) -> u32| s.load_u32(&seeds.iter().map(|&seed| f(seed)).collect::<Vec<u32>>());
    std::array::from_fn(|round| {
        let [low, high] = ROUND_KEYS.map(|bump| bump.wrapping_mul(round as u32));
        [words(&|seed| (seed as u32).wrapping_add(low)), words(&|seed| ((seed >> 32) as u32).wrapping_add(high))]
    })
}

/// [`zoo_model::random::philox`] with a key a lane, given as the keys of the ten rounds.
#[inline(always)]
pub fn philox<S: Simd>(s: S, counter: [u32; 4], keys: &Keys<S>) -> [S::U; 4] {
    let mut c = counter.map(|word| s.splat_u32(word));
    for key in keys {
        let (high0, low0) = s.mul_wide(c[0], 0xD251_1F53);
        let (high1, low1) = s.mul_wide(c[2], 0xCD9E_8D57);
        c = [s.xor_u32(s.xor_u32(high1, c[1]), key[0]), low1, s.xor_u32(s.xor_u32(high0, c[3]), key[1]), low0];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::*;

    #[test]
    fn every_lane_draws_with_its_seed() {
        let s = Portable::<4>;
        let seeds = [0, 1, u64::MAX, 0x0123_4567_89ab_cdef];
        let counter = [7, 0, 3, 5 | 2 << 8];
        let words = philox(s, counter, &round_keys(s, &seeds));
        for (lane, seed) in seeds.into_iter().enumerate() {
            let expected = zoo_model::random::philox(counter, [seed as u32, (seed >> 32) as u32]);
            assert_eq!(words.map(|w| w[lane]), expected, "{seed}");
        }
    }
}
