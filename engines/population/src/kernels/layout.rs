//! From lanes to rows and back.

use zoo_engine_simd::{Kernel, Simd, ROW};

/// Lanes to rows: each lane's values, rounded up to whole [`ROW`]s, at `rows[lane * stride..]`.
pub struct ToRows<'a, S: Simd> {
    /// Lanes.
    pub vectors: &'a [S::F],
    /// Rows.
    pub rows: &'a mut [f32],
    /// Distance of two rows.
    pub stride: usize,
}

impl<S: Simd> Kernel<S> for ToRows<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (whole, rest) = self.vectors.as_chunks::<ROW>();
        for (i, vectors) in whole.iter().enumerate() {
            s.to_rows(vectors, &mut self.rows[i * ROW..], self.stride);
        }
        if let Some(&last) = rest.last() {
            let mut padded = [last; ROW];
            padded[..rest.len()].copy_from_slice(rest);
            s.to_rows(&padded, &mut self.rows[whole.len() * ROW..], self.stride);
        }
    }
}

/// The inverse of [`ToRows`].
pub struct FromRows<'a, S: Simd> {
    /// Rows.
    pub rows: &'a [f32],
    /// Distance of two rows.
    pub stride: usize,
    /// Lanes.
    pub vectors: &'a mut [S::F],
}

impl<S: Simd> Kernel<S> for FromRows<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (i, vectors) in self.vectors.chunks_mut(ROW).enumerate() {
            let turned = s.turn_rows(&self.rows[i * ROW..], self.stride);
            vectors.copy_from_slice(&turned[..vectors.len()]);
        }
    }
}
