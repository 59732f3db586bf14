//! Buffers in which each lane's values lie side by side.

use super::kernels::ToRows;
use zoo_engine_simd::{Simd, ROW};

/// Values of a cache line, at whose boundaries rows begin.
const LINE: usize = 16;

/// One model's values side by side, for each lane, with [`ROW`] values to spare after them for
/// whole-row loads that begin at the last one.
pub struct Rows {
    buffer: Vec<f32>,
    /// Where the first row begins in the buffer.
    start: usize,
    stride: usize,
}

impl Rows {
    /// Zeros, `length` values per lane.
    pub fn new(lanes: usize, length: usize) -> Self {
        let stride = (length.next_multiple_of(ROW) + ROW).next_multiple_of(LINE);
        let buffer = vec![0.0; lanes * stride + LINE];
        let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { buffer, start, stride }
    }

    /// All rows, [`stride`](Self::stride) apart.
    pub fn values(&self) -> &[f32] {
        &self.buffer[self.start..]
    }

    /// All rows, [`stride`](Self::stride) apart.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..]
    }

    /// Distance of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// One lane's values.
    pub fn lane(&self, lane: usize) -> &[f32] {
        &self.values()[lane * self.stride..][..self.stride]
    }

    /// One lane's values.
    pub fn lane_mut(&mut self, lane: usize) -> &mut [f32] {
        let stride = self.stride;
        &mut self.values_mut()[lane * stride..][..stride]
    }

    /// Takes over what stands in lanes.
    pub fn load<S: Simd>(&mut self, s: S, vectors: &[S::F]) {
        let stride = self.stride;
        s.vectorize(ToRows { vectors, rows: self.values_mut(), stride });
    }
}
