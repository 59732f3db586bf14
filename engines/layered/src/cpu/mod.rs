//! The engine's arithmetic on processors.

pub mod convolution;
