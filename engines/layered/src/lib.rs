//! Layer by layer: every architecture, one model at a time over whole mini-batches.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`graph`] | a network as a list of operations |
//! | [`geometry`] | the shapes of what they work on, and the order of sums |
//! | [`cuda`] | CUDA devices |
//! | [`kernels`] | what is needed of a device |
//! | [`mod@reference`] | the same in plain scalar code: the oracle of all devices |

pub mod cuda;
pub mod geometry;
pub mod graph;
pub mod kernels;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
