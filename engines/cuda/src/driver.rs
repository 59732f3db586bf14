//! What engines need of a device.

use std::any::Any;
use std::sync::Arc;

use zoo_engine::DeviceError;

use super::source::KernelSource;

/// Memory of a device, given back when it is dropped.
pub struct Buffer {
    /// Where it begins in the device's memory.
    pub address: u64,
    /// Its size.
    pub bytes: usize,
    /// What keeps it.
    pub owner: Box<dyn Any + Send + Sync>,
}

/// Compiled kernels.
pub trait Program: Any + Send + Sync {
    /// For the driver that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A device.
pub trait Driver: Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> String;

    /// Bytes of memory that are free.
    fn free_bytes(&self) -> Result<usize, DeviceError>;

    /// Maximum number of bytes of shared memory that a block can have.
    fn shared_bytes(&self) -> usize;

    /// Maximum number of seconds that a kernel may run.
    fn launch_seconds(&self) -> f64;

    /// Compiles kernels.
    fn compile(&self, source: &KernelSource) -> Result<Arc<dyn Program>, DeviceError>;

    /// A new queue of operations.
    fn queue(&self) -> Result<Box<dyn Queue>, DeviceError>;
}

/// Operations that a device does one after the other. They may be under way when a method returns,
/// but for `download` and `wait`.
pub trait Queue: Send {
    /// Memory, all zeros.
    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError>;

    /// Copies to the beginning of a buffer.
    fn upload(&self, from: &[u8], to: &mut Buffer) -> Result<(), DeviceError>;

    /// Copies from the beginning of a buffer.
    fn download(&self, from: &Buffer, to: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies one buffer to another of the same size.
    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<(), DeviceError>;

    /// Sets a buffer to zeros.
    fn clear(&self, buffer: &mut Buffer) -> Result<(), DeviceError>;

    /// Runs one of the program's kernels on `grid` blocks.
    ///
    /// # Panics
    /// The program's source does not list the kernel.
    ///
    /// # Safety
    /// `arguments` must be the bytes of the kernel's argument as its source declares it, with addresses
    /// of buffers that are large enough and live until the kernel has run.
    unsafe fn launch(
        &self,
        program: &dyn Program,
        kernel: &str,
        grid: [u32; 2],
        arguments: &[u64],
    ) -> Result<(), DeviceError>;

    /// Waits until all operations are done.
    fn wait(&self) -> Result<(), DeviceError>;
}
