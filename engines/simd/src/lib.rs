//! Vectors for engines on the processor.
//!
//! [`Simd`] is what kernels need of a processor. Every method computes in each lane what IEEE
//! 754 prescribes for one operation, so that a lane's bits depend neither on the processor nor on
//! the number of lanes. (Only the sign and payload of a NaN may differ; the engines hand out none
//! but the canonical one.)
//!
//! A value of an implementing type is a token: it exists only where the processor has the
//! instructions, which is what makes the methods safe to call.

#![allow(unsafe_code)]

pub mod functions;
mod portable;
pub mod random;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Portable;

/// Elements of a [`Simd::Row`]: a piece of one model's data, the same for every processor.
pub const ROW: usize = 8;

/// Something to run in [`Simd::vectorize`].
///
/// A function that is generic over [`Simd`] is compiled for an instruction set only where it is
/// inlined into code that is; so `run`, and all that it calls, must be `#[inline(always)]`.
pub trait Kernel<S: Simd> {
    /// What it computes.
    type Output;

    /// Computes it.
    fn run(self, s: S) -> Self::Output;
}

/// See the module.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Models in a vector.
    const LANES: usize;
    /// Output channels of which a pooled convolution computes all four positions at once: as many
    /// as leave the accumulators in registers.
    const BLOCK: usize;

    /// One f32 a lane: `LANES` consecutive f32 in memory.
    type F: Copy + Send + Sync;
    /// One bool a lane.
    type M: Copy;
    /// One u32 a lane.
    type U: Copy + Send + Sync;
    /// [`ROW`] consecutive values of one model.
    type Row: Copy;

    /// Runs a kernel, compiled for the instructions of this token.
    fn vectorize<K: Kernel<Self>>(self, kernel: K) -> K::Output;

    /// Asks for bytes to be brought to the caches.
    fn prefetch(self, _bytes: &[u8]) {}

    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::F;
    /// The same bits in every lane, as they are.
    fn splat_bits(self, bits: u32) -> Self::F;
    /// One value per lane, of at least `LANES`.
    fn load(self, values: &[f32]) -> Self::F;
    /// Stores to the first `LANES` of `values`.
    fn store(self, a: Self::F, values: &mut [f32]);
    /// `LANES` consecutive values, of any alignment of an f32.
    ///
    /// # Safety
    /// They must lie in one allocation, be initialised, and not be written to meanwhile.
    unsafe fn load_from(self, values: *const f32) -> Self::F;
    /// Stores to `LANES` consecutive values, of any alignment of an f32.
    ///
    /// # Safety
    /// They must lie in one allocation, and nothing else may access them meanwhile.
    unsafe fn store_to(self, a: Self::F, values: *mut f32);
    /// a + b.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Square root.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// |a|.
    fn abs(self, a: Self::F) -> Self::F;
    /// |a| with the sign of `sign`.
    fn copysign(self, a: Self::F, sign: Self::F) -> Self::F;
    /// 2^n for an integral n in -126..=127; anything else for other n.
    fn pow2(self, n: Self::F) -> Self::F;
    /// a < b; false for NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// a = b; false for NaN.
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// a <= b; false for NaN.
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    /// a > b, or a is NaN and b is not: whether a takes the maximum from b, as in PyTorch.
    fn exceeds(self, a: Self::F, b: Self::F) -> Self::M;
    /// Where one of them holds.
    fn or(self, a: Self::M, b: Self::M) -> Self::M;
    /// `a` where `mask`, else `b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// The same word in every lane.
    fn splat_u32(self, word: u32) -> Self::U;
    /// One word per lane, of at least `LANES`.
    fn load_u32(self, words: &[u32]) -> Self::U;
    /// An f32 of these bits.
    fn as_f32(self, a: Self::U) -> Self::F;
    /// The bits of an f32.
    fn as_u32(self, a: Self::F) -> Self::U;
    /// a >> N, zeros coming in.
    fn shift_right<const N: u32>(self, a: Self::U) -> Self::U;
    /// Bitwise and.
    fn and_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// Bitwise exclusive or.
    fn xor_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// High and low word of the product of each lane with `factor`.
    fn mul_wide(self, a: Self::U, factor: u32) -> (Self::U, Self::U);
    /// `value` where `word` >= `threshold` (unsigned), else 0.
    fn keep_at_least(self, word: Self::U, threshold: Self::U, value: Self::F) -> Self::F;

    /// The same value in every element.
    fn row_splat(self, value: f32) -> Self::Row;
    /// [`ROW`] values.
    ///
    /// # Safety
    /// They must lie in one allocation.
    unsafe fn row_load(self, values: *const f32) -> Self::Row;
    /// Stores [`ROW`] values.
    ///
    /// # Safety
    /// They must lie in one allocation that nothing else refers to.
    unsafe fn row_store(self, a: Self::Row, values: *mut f32);
    /// a * b + c, rounded once.
    fn row_fma(self, a: Self::Row, b: Self::Row, c: Self::Row) -> Self::Row;

    /// The vectors' values in memory: lane l of vector i at `i * LANES + l`.
    fn values(vectors: &[Self::F]) -> &[f32] {
        assert_eq!(size_of::<Self::F>(), Self::LANES * size_of::<f32>());
        // SAFETY: an `F` is `LANES` consecutive f32, all of whose bits are initialised.
        unsafe { std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len() * Self::LANES) }
    }

    /// [`values`](Self::values), to write to.
    fn values_mut(vectors: &mut [Self::F]) -> &mut [f32] {
        assert_eq!(size_of::<Self::F>(), Self::LANES * size_of::<f32>());
        // SAFETY: as above; any f32 make an `F`.
        unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * Self::LANES) }
    }

    /// Of [`ROW`] vectors, every lane's values side by side: lane l's at `rows[l * stride..]`.
    fn to_rows(self, vectors: &[Self::F; ROW], rows: &mut [f32], stride: usize);
    /// The inverse of [`to_rows`](Self::to_rows).
    fn turn_rows(self, rows: &[f32], stride: usize) -> [Self::F; ROW];
}

/// The instruction sets that the engines know, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// 16 lanes.
    Avx512,
    /// 8 lanes.
    Avx2,
    /// 8 lanes in plain Rust, for any processor.
    Portable,
}

impl InstructionSet {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// Name, as the environment variable `ZOO_SIMD` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Models that its vectors hold.
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 | Self::Portable => 8,
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// The best that this processor has.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|set| set.is_available()).unwrap_or(Self::Portable)
    }

    /// The best that this processor has, or the one that the environment variable `ZOO_SIMD` names
    /// (`avx512`, `avx2` or `portable`), if the processor has it; a warning says if not.
    pub fn chosen() -> Self {
        let Ok(wanted) = std::env::var("ZOO_SIMD") else { return Self::best() };
        let named = Self::ALL.into_iter().find(|set| set.name() == wanted && set.is_available());
        named.unwrap_or_else(|| {
            tracing::warn!(
                "ZOO_SIMD={wanted} is not available on this processor; using the best instruction set that is"
            );
            Self::best()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f32; 20] = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        3.5,
        1e-40,
        -1e-45,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.1,
        -0.3,
        126.0,
        -126.0,
        127.0,
        16_777_217.0,
        -7.25,
    ];

    fn bits(values: Vec<f32>) -> Vec<u32> {
        values.into_iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
    }

    /// Every operation on all pairs of values (and a third, for three operands), lane by lane. Long, as a
    /// list of them all.
    fn all_operations<S: Simd>(s: S) -> Vec<Vec<u32>> {
        let lanes = |offset: usize, stride: usize| -> Vec<Vec<f32>> {
            let all: Vec<f32> = (0..400).map(|i| VALUES[(i / stride + offset * i) % 20]).collect();
            // 400 is a multiple of every number of lanes.
            all.chunks(S::LANES).map(<[f32]>::to_vec).collect()
        };
        let (a, b, c) = (lanes(0, 20), lanes(0, 1), lanes(3, 7));
        let words: Vec<Vec<u32>> =
            a.iter().map(|v| v.iter().map(|x| x.to_bits().wrapping_mul(2_654_435_761)).collect()).collect();
        let each = |f: &dyn Fn(S::F, S::F, S::F) -> S::F| -> Vec<u32> {
            let mut out = Vec::new();
            for ((a, b), c) in a.iter().zip(&b).zip(&c) {
                let mut values = vec![0.0; S::LANES];
                s.store(f(s.load(a), s.load(b), s.load(c)), &mut values);
                out.extend(bits(values));
            }
            out
        };
        let mask = |m| s.select(m, s.splat(1.0), s.splat(2.0));
        let mut found = vec![
            each(&|a, b, _| s.add(a, b)),
            each(&|a, b, _| s.sub(a, b)),
            each(&|a, b, _| s.mul(a, b)),
            each(&|a, b, _| s.div(a, b)),
            each(&|a, b, c| s.fma(a, b, c)),
            each(&|a, _, _| s.sqrt(a)),
            each(&|a, _, _| s.round(a)),
            each(&|a, _, _| s.abs(a)),
            each(&|a, b, _| s.copysign(a, b)),
            each(&|a, b, _| mask(s.lt(a, b))),
            each(&|a, b, _| mask(s.eq(a, b))),
            each(&|a, b, _| mask(s.le(a, b))),
            each(&|a, b, c| mask(s.or(s.lt(a, b), s.lt(b, c)))),
            each(&|a, b, _| mask(s.exceeds(a, b))),
            each(&|a, b, c| s.select(s.lt(a, b), c, a)),
            each(&|_, _, _| s.splat_bits(0x3f80_0001)),
            each(&|a, b, _| s.as_f32(s.and_u32(s.shift_right::<3>(s.as_u32(a)), s.as_u32(b)))),
        ];
        let powers: Vec<f32> = (0..256).map(|n| (n % 254) as f32 - 126.0).collect();
        let pow2 = powers.chunks(S::LANES).flat_map(|n| {
            let mut values = vec![0.0; S::LANES];
            s.store(s.pow2(s.load(n)), &mut values);
            values
        });
        found.push(bits(pow2.collect()));
        let kept = words.iter().flat_map(|w| {
            let mut values = vec![0.0; 3 * S::LANES];
            let (high, low) = s.mul_wide(s.load_u32(w), 0xD251_1F53);
            let mixed = s.xor_u32(high, s.splat_u32(0x8000_0001));
            for (i, word) in [high, low, mixed].into_iter().enumerate() {
                let kept = s.keep_at_least(word, s.splat_u32(0x7000_0000), s.splat(3.0));
                s.store(kept, &mut values[i * S::LANES..]);
            }
            // Lane by lane, so that the order does not depend on the number of lanes.
            (0..S::LANES)
                .flat_map(|l| [values[l], values[S::LANES + l], values[2 * S::LANES + l]])
                .collect::<Vec<f32>>()
        });
        found.push(bits(kept.collect()));
        found
    }

    fn pointers<S: Simd>(s: S) {
        // At every place, whatever its alignment, and without touching the neighbours.
        let values: Vec<f32> = (0..3 * S::LANES).map(|i| i as f32).collect();
        for at in 0..2 * S::LANES {
            let mut stored = vec![-1.0; values.len()];
            // SAFETY: `LANES` values follow the place in both.
            unsafe { s.store_to(s.load_from(values[at..].as_ptr()), stored[at..].as_mut_ptr()) };
            let mut expected = vec![-1.0; values.len()];
            expected[at..][..S::LANES].copy_from_slice(&values[at..][..S::LANES]);
            assert_eq!(stored, expected);
        }
    }

    fn rows_and_back<S: Simd>(s: S) {
        let stride = 11;
        let rows: Vec<f32> = (0..S::LANES * stride + ROW).map(|i| i as f32).collect();
        let mut again = vec![-1.0; rows.len()];
        let mut lanes = vec![0.0; S::LANES];
        let vectors = s.turn_rows(&rows, stride);
        s.store(vectors[3], &mut lanes);
        s.to_rows(&vectors, &mut again, stride);
        assert_eq!(S::values(&vectors)[3 * S::LANES..][..S::LANES], lanes);
        for lane in 0..S::LANES {
            assert_eq!(lanes[lane], rows[lane * stride + 3]);
            assert_eq!(again[lane * stride..][..ROW], rows[lane * stride..][..ROW]);
            assert_eq!(again[lane * stride + ROW], -1.0, "wrote past the row");
        }
        let a: Vec<f32> = VALUES[..8].to_vec();
        let b: Vec<f32> = VALUES[8..16].to_vec();
        let mut fused = vec![0.0; ROW];
        // SAFETY: all three hold `ROW` values.
        unsafe {
            let product = s.row_fma(s.row_load(a.as_ptr()), s.row_load(b.as_ptr()), s.row_splat(0.5));
            s.row_store(product, fused.as_mut_ptr());
        }
        let expected = a.iter().zip(&b).map(|(a, b)| a.mul_add(*b, 0.5)).collect();
        assert_eq!(bits(fused), bits(expected));
    }

    #[test]
    fn every_instruction_set_computes_the_same_bits() {
        let scalar = all_operations(Portable::<1>);
        assert_eq!(all_operations(Portable::<8>), scalar);
        rows_and_back(Portable::<8>);
        pointers(Portable::<8>);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(avx2) = Avx2::detect() {
                assert_eq!(all_operations(avx2), scalar);
                rows_and_back(avx2);
                pointers(avx2);
            }
            if let Some(avx512) = Avx512::detect() {
                assert_eq!(all_operations(avx512), scalar);
                rows_and_back(avx512);
                pointers(avx512);
            }
        }
        assert!(InstructionSet::best().is_available());
    }

    /// All tests compare the instruction sets that the processor has; this one says when that is not
    /// all of them.
    #[test]
    #[ignore = "needs a processor with AVX-512, or tools/avx512_emulated.sh"]
    fn every_instruction_set_is_tested() {
        for set in InstructionSet::ALL {
            let name = set.name();
            assert!(set.is_available(), "{name} is not tested on this processor: run tools/avx512_emulated.sh");
        }
    }
}
