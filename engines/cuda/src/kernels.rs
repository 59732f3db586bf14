//! Source that the kernels of engines share: the beginning of every [`KernelSource`](super::KernelSource),
//! after what it defines.

use zoo_model::Activation;

/// What a C compiler and CUDA name differently. Needs `THREADS` and `BLOCKS`, the number of blocks that a
/// multiprocessor should have room for.
pub const CUDA: &str = include_str!("kernels/cuda.h");

/// Integers, and the loop `EACH` over what is dealt to the threads.
pub const TYPES: &str = include_str!("kernels/types.cu");

/// exp, tanh, erf and others in f32, the activation named by `ACTIVATION` ([`activation_name`]), exp and ln in
/// f64: the bits of the functions on the processor.
pub const FUNCTIONS: &str = include_str!("kernels/functions.cu");

/// Philox4x32-10. Needs [`TYPES`].
pub const RANDOM: &str = include_str!("kernels/random.cu");

/// An activation as [`FUNCTIONS`] names it.
pub fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Tanh => "TANH",
        Activation::Relu => "RELU",
        Activation::Sigmoid => "SIGMOID",
        Activation::Gelu => "GELU",
        Activation::LeakyRelu => "LEAKY_RELU",
        Activation::Silu => "SILU",
    }
}
