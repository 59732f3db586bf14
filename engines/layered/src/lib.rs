//! Layer by layer: every architecture, one model at a time over whole mini-batches.

pub mod geometry;
pub mod kernels;
pub mod cuda;
