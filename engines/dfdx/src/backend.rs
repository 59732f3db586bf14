//! The devices of dfdx that the engine runs on.
//!
//! Matrix products, tanh, sigmoid and the sums of the loss are dfdx's, on the device. Everything else
//! is computed on the host in a fixed order: dfdx's own kernels add up gradients in no fixed order on
//! a GPU.

use dfdx::prelude::*;

/// What the engine computes in: f64, so that a pool's winner or a ReLU's sign is decided as exact
/// arithmetic decides it. Float32 summation tosses a few of these decisions in every thousand
/// steps, after which trajectories part ways.
pub type Real = f64;

/// A device's storage of a gradient.
type Gradient<D> = <D as Storage<Real>>::Vec;

/// A device, and access to gradients on it.
pub trait Backend: Device<Real> {
    /// Takes the values of a gradient that nothing reads any more.
    fn take_gradient(gradient: &mut Gradient<Self>) -> Result<Vec<Real>, Self::Err>;

    /// Changes the values of a gradient.
    fn update_gradient(gradient: &mut Gradient<Self>, change: impl FnOnce(&mut [Real])) -> Result<(), Self::Err>;
}

impl Backend for Cpu {
    fn take_gradient(gradient: &mut Gradient<Self>) -> Result<Vec<Real>, Self::Err> {
        Ok(std::mem::take(&mut **gradient))
    }

    fn update_gradient(gradient: &mut Gradient<Self>, change: impl FnOnce(&mut [Real])) -> Result<(), Self::Err> {
        change(gradient);
        Ok(())
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use dfdx::prelude::*;
    use dfdx::tensor::CudaError;

    use super::{Backend, Gradient, Real};

    impl Backend for Cuda {
        fn take_gradient(gradient: &mut Gradient<Self>) -> Result<Vec<Real>, Self::Err> {
            gradient.device().dtoh_sync_copy(gradient).map_err(CudaError::Driver)
        }

        fn update_gradient(gradient: &mut Gradient<Self>, change: impl FnOnce(&mut [Real])) -> Result<(), Self::Err> {
            let mut values = Self::take_gradient(gradient)?;
            change(&mut values);
            gradient.device().htod_sync_copy_into(&values, gradient).map_err(CudaError::Driver)
        }
    }
}
