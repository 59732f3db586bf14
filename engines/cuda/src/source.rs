//! Kernels to be compiled.

use std::fmt::{Display, Write};

/// Kernels that are compiled together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSource {
    /// Definitions, [`kernels::CUDA`](super::kernels::CUDA) and the kernels: for NVRTC, or for a C
    /// compiler with `shim.h`. Among the definitions are `THREADS`, and `SHARED_FLOATS`, the floats of
    /// shared memory of a block.
    pub text: String,
    /// Threads of a block, `THREADS`.
    pub threads: u32,
    /// Bytes of shared memory of a block of the kernels that use it.
    pub shared_bytes: usize,
    /// The kernels that can be launched.
    pub kernels: Vec<KernelSpec>,
}

/// A kernel of a [`KernelSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSpec {
    /// Name in the source.
    pub name: &'static str,
    /// Whether its blocks use shared memory.
    pub is_shared: bool,
}

/// Appends the definition of a macro.
pub fn define(text: &mut String, name: &str, value: impl Display) {
    writeln!(text, "#define {name} {value}").expect("a string takes all");
}
