//! A device without a GPU: the kernels compiled by the system's C compiler behind `shim.h`, for
//! tests. Slow, and with the bits and the traps of a GPU: threads that race give results that depend
//! on the order in which they take turns, and shared memory begins as NaN.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use libloading::Library;

use zoo_engine::DeviceError;

use super::driver::{Buffer, Driver, Program, Queue};
use super::source::{KernelSource, KernelSpec};

/// The order in which a block's threads take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// By number.
    Ascending,
    /// By number, backwards.
    Descending,
    /// Neighbours far apart.
    Mixed,
}

/// An emulated device.
#[derive(Debug, Clone, Copy)]
pub struct Emulated {
    /// See [`Turns`].
    pub turns: Turns,
    /// See [`Driver::free_bytes`].
    pub free_bytes: usize,
    /// See [`Driver::launch_seconds`].
    pub launch_seconds: f64,
}

impl Default for Emulated {
    fn default() -> Self {
        Self { turns: Turns::Ascending, free_bytes: 1 << 30, launch_seconds: 1.0 }
    }
}

fn failed(what: &'static str, why: impl ToString) -> DeviceError {
    DeviceError::Failed { device: "the emulated device".into(), what, why: why.to_string() }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        "emulated".into()
    }

    fn free_bytes(&self) -> Result<usize, DeviceError> {
        Ok(self.free_bytes)
    }

    fn shared_bytes(&self) -> usize {
        227 << 10
    }

    fn launch_seconds(&self) -> f64 {
        self.launch_seconds
    }

    fn compile(&self, source: &KernelSource) -> Result<Arc<dyn Program>, DeviceError> {
        static COMPILED: OnceLock<Mutex<HashMap<String, Arc<Compiled>>>> = OnceLock::new();
        let mut compiled = COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
        if let Some(program) = compiled.get(&source.text) {
            return Ok(program.clone());
        }
        let program = Arc::new(Compiled { library: build(source)?, kernels: source.kernels.clone() });
        compiled.insert(source.text.clone(), program.clone());
        Ok(program)
    }

    fn queue(&self) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(Box::new(EmulatedQueue(self.turns)))
    }
}

/// The kernels as a shared library.
struct Compiled {
    library: Library,
    kernels: Vec<KernelSpec>,
}

impl Program for Compiled {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Compiles the kernels with `cc`.
fn build(source: &KernelSource) -> Result<Library, DeviceError> {
    let unwritable = |e| failed("cannot write the kernels' source", e);
    // Of a name that was used before, the library that it was would be taken.
    let folder = tempfile::Builder::new().prefix("zoo-kernels-").tempdir().map_err(unwritable)?;
    let [kernels, shim, library] = ["kernels.c", "shim.h", "kernels.so"].map(|name| folder.path().join(name));
    std::fs::write(&kernels, &source.text).map_err(unwritable)?;
    std::fs::write(&shim, include_str!("shim.h")).map_err(unwritable)?;
    let flags =
        ["-O2", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fPIC", "-shared", "-w"];
    let mut cc = Command::new("cc");
    cc.args(flags).arg("-DSHIM=\"shim.h\"").arg(&kernels).arg("-o").arg(&library).arg("-lm");
    let output = cc.output().map_err(|e| failed("cannot run the C compiler cc", e))?;
    if !output.status.success() {
        return Err(failed("the kernels do not compile", String::from_utf8_lossy(&output.stderr)));
    }
    // SAFETY: the library was made right here, and has no initialisers.
    unsafe { Library::new(&library) }.map_err(|e| failed("cannot load the kernels", e))
}

struct EmulatedQueue(Turns);

/// Memory of the emulated device, aligned as a GPU's.
fn memory(buffer: &Buffer) -> *mut u8 {
    buffer.address as *mut u8
}

impl Queue for EmulatedQueue {
    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        let mut owner = vec![0u64; bytes.div_ceil(8).max(1)];
        Ok(Buffer { address: owner.as_mut_ptr() as u64, bytes, owner: Box::new(owner) })
    }

    fn upload(&self, from: &[u8], to: &mut Buffer) -> Result<(), DeviceError> {
        assert!(from.len() <= to.bytes);
        // SAFETY: the buffer has at least as many bytes, and no one else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), memory(to), from.len()) };
        Ok(())
    }

    fn download(&self, from: &Buffer, to: &mut [u8]) -> Result<(), DeviceError> {
        assert!(to.len() <= from.bytes);
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(memory(from), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<(), DeviceError> {
        assert!(from.bytes == to.bytes);
        // SAFETY: two buffers of one size.
        unsafe { std::ptr::copy_nonoverlapping(memory(from), memory(to), from.bytes) };
        Ok(())
    }

    fn clear(&self, buffer: &mut Buffer) -> Result<(), DeviceError> {
        // SAFETY: the buffer's own bytes.
        unsafe { std::ptr::write_bytes(memory(buffer), 0, buffer.bytes) };
        Ok(())
    }

    unsafe fn launch(
        &self,
        program: &dyn Program,
        kernel: &str,
        [x, y]: [u32; 2],
        arguments: &[u64],
    ) -> Result<(), DeviceError> {
        type Launch = unsafe extern "C" fn(*const c_void, u32, u32, i32);
        let Some(Compiled { library, kernels }) = program.as_any().downcast_ref() else {
            return Err(failed("cannot launch a kernel", "it is of another device"));
        };
        assert!(kernels.iter().any(|spec| spec.name == kernel), "a kernel that the source lists: {kernel}");
        // SAFETY: `shim.h` gives each kernel a function of this name and type; the caller vouches for
        // the arguments.
        unsafe {
            let launch = library.get::<Launch>(format!("launch_{kernel}\0").as_bytes());
            let launch = launch.map_err(|e| failed("cannot find a kernel", e))?;
            launch(arguments.as_ptr().cast(), x, y, self.0 as i32);
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
