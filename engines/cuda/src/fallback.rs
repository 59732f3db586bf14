//! Engines whose bits do not depend on the device: where they are built, and what happens when a device fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use zoo_engine::{BuiltEngine, DeviceError, DeviceName, Engine};

use crate::{gpu, Device};

/// What happens when a device fails.
#[derive(Debug, Clone, Default)]
pub struct Fallback {
    /// Whether the device was asked for, so that its failure is an error; otherwise the processor takes over.
    pub is_required: bool,
    has_warned: Arc<AtomicBool>,
}

impl Fallback {
    /// For devices that were asked for.
    pub fn none() -> Self {
        Self { is_required: true, has_warned: Arc::default() }
    }

    /// Lets the processor train where a device failed, with a warning, unless the device is required.
    ///
    /// # Errors
    /// It is.
    pub fn fall_back(&self, error: DeviceError) -> Result<(), DeviceError> {
        if self.is_required {
            return Err(error);
        }
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("training on the processor: {error}");
        }
        Ok(())
    }
}

/// An engine on a device, which `make` makes of the GPUs to use, none for the processor.
///
/// # Errors
/// The GPU that was asked for cannot be used.
pub fn build<E: Engine + 'static>(
    device: DeviceName,
    make: impl FnOnce(Vec<Arc<Device>>, Fallback) -> E,
) -> Result<BuiltEngine, DeviceError> {
    match device {
        DeviceName::Cpu => Ok(make(Vec::new(), Fallback::default()).into()),
        DeviceName::Cuda(number) => Ok(make(gpu::devices(number)?, Fallback::none()).into()),
        DeviceName::Auto => {
            let (devices, place) = match gpu::devices(None) {
                Ok(devices) => {
                    let names: Vec<String> = devices.iter().map(|d| d.driver.name()).collect();
                    (devices, names.join(", "))
                }
                Err(why) => (Vec::new(), format!("the processor: {why}")),
            };
            let engine = Box::new(make(devices, Fallback::default()));
            Ok(BuiltEngine { engine, notice: Some(format!("training on {place}")) })
        }
    }
}
