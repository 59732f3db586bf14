//! AVX2 and FMA: eight lanes.

use std::arch::x86_64::*;

use super::{Kernel, Simd, ROW};

/// Proof that the processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if the processor has them.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma")]
fn run<K: Kernel<Avx2>>(s: Avx2, kernel: K) -> K::Output {
    kernel.run(s)
}

/// The transpose of an 8x8 matrix.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    let low = |a, b| _mm256_unpacklo_ps(a, b);
    let high = |a, b| _mm256_unpackhi_ps(a, b);
    let t = [
        low(r[0], r[1]),
        high(r[0], r[1]),
        low(r[2], r[3]),
        high(r[2], r[3]),
        low(r[4], r[5]),
        high(r[4], r[5]),
        low(r[6], r[7]),
        high(r[6], r[7]),
    ];
    let even = |a, b| _mm256_shuffle_ps::<0x44>(a, b);
    let odd = |a, b| _mm256_shuffle_ps::<0xee>(a, b);
    let q = [
        even(t[0], t[2]),
        odd(t[0], t[2]),
        even(t[1], t[3]),
        odd(t[1], t[3]),
        even(t[4], t[6]),
        odd(t[4], t[6]),
        even(t[5], t[7]),
        odd(t[5], t[7]),
    ];
    let first = |a, b| _mm256_permute2f128_ps::<0x20>(a, b);
    let second = |a, b| _mm256_permute2f128_ps::<0x31>(a, b);
    [
        first(q[0], q[4]),
        first(q[1], q[5]),
        first(q[2], q[6]),
        first(q[3], q[7]),
        second(q[0], q[4]),
        second(q[1], q[5]),
        second(q[2], q[6]),
        second(q[3], q[7]),
    ]
}

/// An intrinsic that a token vouches for.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` exists only where the processor has AVX2 and FMA.
        unsafe { $call }
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const BLOCK: usize = 3;

    type F = __m256;
    type M = __m256;
    type U = __m256i;
    type Row = __m256;

    #[inline(always)]
    fn vectorize<K: Kernel<Self>>(self, kernel: K) -> K::Output {
        intrinsic!(run(self, kernel))
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8]) {
        for line in bytes.chunks(64) {
            intrinsic!(_mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()));
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        intrinsic!(_mm256_set1_ps(value))
    }
    #[inline(always)]
    fn splat_bits(self, bits: u32) -> __m256 {
        intrinsic!(_mm256_castsi256_ps(_mm256_set1_epi32(bits as i32)))
    }
    #[inline(always)]
    fn load(self, values: &[f32]) -> __m256 {
        let values: &[f32; 8] = values.first_chunk().expect("one value per lane");
        // SAFETY: `values` holds eight; the token vouches for AVX.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: __m256, values: &mut [f32]) {
        let values: &mut [f32; 8] = values.first_chunk_mut().expect("one value per lane");
        // SAFETY: `values` holds eight; the token vouches for AVX.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), a) }
    }
    #[inline(always)]
    unsafe fn load_from(self, values: *const f32) -> __m256 {
        // SAFETY: the caller promises the values; the token vouches for AVX.
        unsafe { _mm256_loadu_ps(values) }
    }
    #[inline(always)]
    unsafe fn store_to(self, a: __m256, values: *mut f32) {
        // SAFETY: the caller promises the values; the token vouches for AVX.
        unsafe { _mm256_storeu_ps(values, a) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn copysign(self, a: __m256, sign: __m256) -> __m256 {
        let mask = self.splat(-0.0);
        intrinsic!(_mm256_or_ps(_mm256_andnot_ps(mask, a), _mm256_and_ps(mask, sign)))
    }
    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        intrinsic!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
            _mm256_cvtps_epi32(n),
            _mm256_set1_epi32(127)
        ))))
    }
    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn eq(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn le(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_cmp_ps::<_CMP_LE_OQ>(a, b))
    }
    #[inline(always)]
    fn exceeds(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(a, b), _mm256_cmp_ps::<_CMP_ORD_Q>(b, b)))
    }
    #[inline(always)]
    fn or(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_or_ps(a, b))
    }
    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_blendv_ps(b, a, mask))
    }

    #[inline(always)]
    fn splat_u32(self, word: u32) -> __m256i {
        intrinsic!(_mm256_set1_epi32(word as i32))
    }
    #[inline(always)]
    fn load_u32(self, words: &[u32]) -> __m256i {
        let words: &[u32; 8] = words.first_chunk().expect("one word per lane");
        // SAFETY: `words` holds eight; the token vouches for AVX.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }
    #[inline(always)]
    fn as_f32(self, a: __m256i) -> __m256 {
        intrinsic!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    fn as_u32(self, a: __m256) -> __m256i {
        intrinsic!(_mm256_castps_si256(a))
    }
    #[inline(always)]
    fn shift_right<const N: u32>(self, a: __m256i) -> __m256i {
        intrinsic!(_mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn and_u32(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsic!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn xor_u32(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsic!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn mul_wide(self, a: __m256i, factor: u32) -> (__m256i, __m256i) {
        let factor = self.splat_u32(factor);
        let even = intrinsic!(_mm256_mul_epu32(a, factor));
        let odd = intrinsic!(_mm256_mul_epu32(_mm256_srli_epi64::<32>(a), factor));
        let high = intrinsic!(_mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd));
        let low = intrinsic!(_mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd)));
        (high, low)
    }
    #[inline(always)]
    fn keep_at_least(self, word: __m256i, threshold: __m256i, value: __m256) -> __m256 {
        // word >= threshold, unsigned: the larger of the two is word.
        let kept = intrinsic!(_mm256_cmpeq_epi32(_mm256_max_epu32(word, threshold), word));
        intrinsic!(_mm256_and_ps(_mm256_castsi256_ps(kept), value))
    }

    #[inline(always)]
    fn row_splat(self, value: f32) -> __m256 {
        self.splat(value)
    }
    #[inline(always)]
    unsafe fn row_load(self, values: *const f32) -> __m256 {
        // SAFETY: the caller promises eight values; the token vouches for AVX.
        unsafe { _mm256_loadu_ps(values) }
    }
    #[inline(always)]
    unsafe fn row_store(self, a: __m256, values: *mut f32) {
        // SAFETY: the caller promises eight values; the token vouches for AVX.
        unsafe { _mm256_storeu_ps(values, a) }
    }
    #[inline(always)]
    fn row_fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.fma(a, b, c)
    }

    #[inline(always)]
    fn to_rows(self, vectors: &[__m256; ROW], rows: &mut [f32], stride: usize) {
        let turned = intrinsic!(transpose(*vectors));
        for (lane, row) in turned.into_iter().enumerate() {
            self.store(row, &mut rows[lane * stride..]);
        }
    }
    #[inline(always)]
    fn turn_rows(self, rows: &[f32], stride: usize) -> [__m256; ROW] {
        let loaded = std::array::from_fn(|lane| self.load(&rows[lane * stride..]));
        intrinsic!(transpose(loaded))
    }
}
