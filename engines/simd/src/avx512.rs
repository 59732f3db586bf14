//! AVX-512 (F, VL, DQ, BW): sixteen lanes.

use std::arch::x86_64::*;

use super::avx2::transpose;
use super::{Kernel, Simd, ROW};

/// Proof that the processor has AVX-512 F, VL, DQ and BW, AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if the processor has them.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn run<K: Kernel<Avx512>>(s: Avx512, kernel: K) -> K::Output {
    kernel.run(s)
}

/// An intrinsic that a token vouches for.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` exists only where the processor has AVX-512 F, VL, DQ and BW, AVX2 and FMA.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const BLOCK: usize = 6;

    type F = __m512;
    type M = __mmask16;
    type U = __m512i;
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
    fn splat(self, value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn splat_bits(self, bits: u32) -> __m512 {
        intrinsic!(_mm512_castsi512_ps(_mm512_set1_epi32(bits as i32)))
    }
    #[inline(always)]
    fn load(self, values: &[f32]) -> __m512 {
        let values: &[f32; 16] = values.first_chunk().expect("one value per lane");
        // SAFETY: `values` holds sixteen; the token vouches for AVX-512.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: __m512, values: &mut [f32]) {
        let values: &mut [f32; 16] = values.first_chunk_mut().expect("one value per lane");
        // SAFETY: `values` holds sixteen; the token vouches for AVX-512.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), a) }
    }
    #[inline(always)]
    unsafe fn load_from(self, values: *const f32) -> __m512 {
        // SAFETY: the caller promises the values; the token vouches for AVX-512.
        unsafe { _mm512_loadu_ps(values) }
    }
    #[inline(always)]
    unsafe fn store_to(self, a: __m512, values: *mut f32) {
        // SAFETY: the caller promises the values; the token vouches for AVX-512.
        unsafe { _mm512_storeu_ps(values, a) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // Scale 0 in the high bits; 8: no exceptions, 0: to nearest, ties to even.
        intrinsic!(_mm512_roundscale_ps::<8>(a))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_andnot_ps(_mm512_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn copysign(self, a: __m512, sign: __m512) -> __m512 {
        let mask = self.splat(-0.0);
        intrinsic!(_mm512_or_ps(_mm512_andnot_ps(mask, a), _mm512_and_ps(mask, sign)))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        intrinsic!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(n),
            _mm512_set1_epi32(127)
        ))))
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn le(self, a: __m512, b: __m512) -> __mmask16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b))
    }
    #[inline(always)]
    fn exceeds(self, a: __m512, b: __m512) -> __mmask16 {
        let larger = intrinsic!(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(a, b));
        intrinsic!(_mm512_mask_cmp_ps_mask::<_CMP_ORD_Q>(larger, b, b))
    }
    #[inline(always)]
    fn or(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn splat_u32(self, word: u32) -> __m512i {
        intrinsic!(_mm512_set1_epi32(word as i32))
    }
    #[inline(always)]
    fn load_u32(self, words: &[u32]) -> __m512i {
        let words: &[u32; 16] = words.first_chunk().expect("one word per lane");
        // SAFETY: `words` holds sixteen; the token vouches for AVX-512.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }
    #[inline(always)]
    fn as_f32(self, a: __m512i) -> __m512 {
        intrinsic!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn as_u32(self, a: __m512) -> __m512i {
        intrinsic!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    fn shift_right<const N: u32>(self, a: __m512i) -> __m512i {
        intrinsic!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn and_u32(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsic!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn xor_u32(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsic!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn mul_wide(self, a: __m512i, factor: u32) -> (__m512i, __m512i) {
        let factor = self.splat_u32(factor);
        let even = intrinsic!(_mm512_mul_epu32(a, factor));
        let odd = intrinsic!(_mm512_mul_epu32(_mm512_srli_epi64::<32>(a), factor));
        let high = intrinsic!(_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(even), odd));
        let low = intrinsic!(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd)));
        (high, low)
    }
    #[inline(always)]
    fn keep_at_least(self, word: __m512i, threshold: __m512i, value: __m512) -> __m512 {
        let kept = intrinsic!(_mm512_cmpge_epu32_mask(word, threshold));
        intrinsic!(_mm512_maskz_mov_ps(kept, value))
    }

    #[inline(always)]
    fn row_splat(self, value: f32) -> __m256 {
        intrinsic!(_mm256_set1_ps(value))
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
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn to_rows(self, vectors: &[__m512; ROW], rows: &mut [f32], stride: usize) {
        let halves = [
            intrinsic!(transpose(vectors.map(|v| _mm512_castps512_ps256(v)))),
            intrinsic!(transpose(vectors.map(|v| _mm512_extractf32x8_ps::<1>(v)))),
        ];
        for (lane, row) in halves.into_iter().flatten().enumerate() {
            let target: &mut [f32; ROW] = rows[lane * stride..].first_chunk_mut().expect("one row per lane");
            // SAFETY: `target` holds eight; the token vouches for AVX.
            unsafe { _mm256_storeu_ps(target.as_mut_ptr(), row) }
        }
    }
    #[inline(always)]
    fn turn_rows(self, rows: &[f32], stride: usize) -> [__m512; ROW] {
        let half = |first: usize| {
            let loaded = std::array::from_fn(|lane| {
                let row: &[f32; ROW] = rows[(first + lane) * stride..].first_chunk().expect("one row per lane");
                // SAFETY: `row` holds eight; the token vouches for AVX.
                unsafe { _mm256_loadu_ps(row.as_ptr()) }
            });
            intrinsic!(transpose(loaded))
        };
        let (low, high) = (half(0), half(8));
        std::array::from_fn(|i| intrinsic!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(low[i]), high[i])))
    }
}
