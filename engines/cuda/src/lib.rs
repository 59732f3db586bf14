//! CUDA devices for engines. An engine generates the source of its kernels; this crate compiles them
//! when the program runs, and holds what all cohorts of a device share.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`source`] | kernels to be compiled |
//! | [`kernels`] | source that engines share, in what C and CUDA have in common |
//! | [`driver`] | what is needed of a device |
//! | [`gpu`] | a GPU, through libcuda and NVRTC, both found when the program runs |
//! | `emulated` | the kernels on the processor, by a C compiler, for tests (feature `testing`) |
//! | [`device`] | what the cohorts of a device share |
//! | [`fallback`] | engines on the device that was asked for, and on the processor if it fails |

#![allow(unsafe_code)]

pub mod device;
pub mod driver;
#[cfg(feature = "testing")]
pub mod emulated;
pub mod fallback;
pub mod gpu;
pub mod kernels;
pub mod source;

pub use device::{Device, Images, Lease};
pub use driver::{Buffer, Driver, Program, Queue};
pub use fallback::Fallback;
pub use source::{KernelSource, KernelSpec};
