//! How much device memory models take.

use zoo_model::{Dataset, Split};

use super::source::ModelKernels;

/// Samples that are evaluated between two checks for an interruption.
pub const EVALUATION_CHUNK: usize = 1000;

/// Bytes of device memory that a model takes.
pub fn bytes_per_model(kernels: &ModelKernels, data: &Dataset) -> usize {
    let vector = kernels.places.len() * size_of::<f32>();
    let states = 2 * (1 + kernels.moments) * vector;
    let constants = 6 * size_of::<f64>() + 2 * size_of::<f64>();
    let evaluation = EVALUATION_CHUNK * (data.classes() * size_of::<f32>() + size_of::<u16>());
    states + kernels.places.len() + constants + evaluation + data.len(Split::Train) * size_of::<u32>()
}
