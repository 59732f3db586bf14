//! Vectors in plain Rust: correct on every processor, and what the others are measured against.

use super::{Kernel, Simd, ROW};

/// `N` lanes; with one lane, the engines' scalar arithmetic.
#[derive(Debug, Clone, Copy)]
pub struct Portable<const N: usize>;

#[inline(always)]
fn map<const N: usize, T: Copy, R>(a: [T; N], f: impl Fn(T) -> R) -> [R; N] {
    a.map(f)
}

#[inline(always)]
fn zip<const N: usize, T: Copy, R>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> R) -> [R; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl<const N: usize> Simd for Portable<N> {
    const LANES: usize = N;
    const BLOCK: usize = 3;

    type F = [f32; N];
    type M = [bool; N];
    type U = [u32; N];
    type Row = [f32; ROW];

    #[inline(always)]
    fn vectorize<K: Kernel<Self>>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; N]
    }
    #[inline(always)]
    fn splat_bits(self, bits: u32) -> Self::F {
        [f32::from_bits(bits); N]
    }
    #[inline(always)]
    fn load(self, values: &[f32]) -> Self::F {
        *values.first_chunk().expect("one value per lane")
    }
    #[inline(always)]
    fn store(self, a: Self::F, values: &mut [f32]) {
        values[..N].copy_from_slice(&a);
    }
    #[inline(always)]
    unsafe fn load_from(self, values: *const f32) -> Self::F {
        // SAFETY: the caller promises `N` values; any alignment of f32 is that of the array.
        unsafe { *values.cast::<[f32; N]>() }
    }
    #[inline(always)]
    unsafe fn store_to(self, a: Self::F, values: *mut f32) {
        // SAFETY: as for `load_from`.
        unsafe { *values.cast::<[f32; N]>() = a }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn copysign(self, a: Self::F, sign: Self::F) -> Self::F {
        zip(a, sign, f32::copysign)
    }
    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        map(n, |n| f32::from_bits((n as i32).wrapping_add(127).wrapping_shl(23) as u32))
    }
    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn eq(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn le(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a <= b)
    }
    #[inline(always)]
    fn exceeds(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a > b || (a.is_nan() && !b.is_nan()))
    }
    #[inline(always)]
    fn or(self, a: Self::M, b: Self::M) -> Self::M {
        zip(a, b, |a, b| a || b)
    }
    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn splat_u32(self, word: u32) -> Self::U {
        [word; N]
    }
    #[inline(always)]
    fn load_u32(self, words: &[u32]) -> Self::U {
        *words.first_chunk().expect("one word per lane")
    }
    #[inline(always)]
    fn as_f32(self, a: Self::U) -> Self::F {
        map(a, f32::from_bits)
    }
    #[inline(always)]
    fn as_u32(self, a: Self::F) -> Self::U {
        map(a, f32::to_bits)
    }
    #[inline(always)]
    fn shift_right<const BITS: u32>(self, a: Self::U) -> Self::U {
        map(a, |a| a >> BITS)
    }
    #[inline(always)]
    fn and_u32(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn xor_u32(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn mul_wide(self, a: Self::U, factor: u32) -> (Self::U, Self::U) {
        let product = map(a, |a| u64::from(a) * u64::from(factor));
        (map(product, |p| (p >> 32) as u32), map(product, |p| p as u32))
    }
    #[inline(always)]
    fn keep_at_least(self, word: Self::U, threshold: Self::U, value: Self::F) -> Self::F {
        std::array::from_fn(|i| if word[i] >= threshold[i] { value[i] } else { 0.0 })
    }

    #[inline(always)]
    fn row_splat(self, value: f32) -> Self::Row {
        [value; ROW]
    }
    #[inline(always)]
    unsafe fn row_load(self, values: *const f32) -> Self::Row {
        // SAFETY: the caller promises `ROW` values; any alignment of f32 is that of the array.
        unsafe { *values.cast::<[f32; ROW]>() }
    }
    #[inline(always)]
    unsafe fn row_store(self, a: Self::Row, values: *mut f32) {
        // SAFETY: as for `row_load`.
        unsafe { *values.cast::<[f32; ROW]>() = a }
    }
    #[inline(always)]
    fn row_fma(self, a: Self::Row, b: Self::Row, c: Self::Row) -> Self::Row {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn to_rows(self, vectors: &[Self::F; ROW], rows: &mut [f32], stride: usize) {
        for lane in 0..N {
            for (value, vector) in rows[lane * stride..][..ROW].iter_mut().zip(vectors) {
                *value = vector[lane];
            }
        }
    }
    #[inline(always)]
    fn turn_rows(self, rows: &[f32], stride: usize) -> [Self::F; ROW] {
        std::array::from_fn(|i| std::array::from_fn(|lane| rows[lane * stride + i]))
    }
}
