//! A GPU: the driver's library and NVRTC are looked for when the program runs, so that it builds and
//! starts without them.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self as driver, CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{result, CudaContext, CudaFunction, CudaStream, DriverError};
use cudarc::nvrtc::{compile_ptx_with_opts, sys as nvrtc, CompileError, CompileOptions};

use libloading::Library;

use zoo_engine::DeviceError;

use super::device::Device;
use super::driver::{Buffer, Driver, Program, Queue};
use super::source::{KernelSource, KernelSpec};

/// The oldest driver that is tried, as the version of CUDA that it supports.
const MIN_CUDA_VERSION: i32 = 12_010;

fn unavailable(why: impl Into<String>) -> DeviceError {
    DeviceError::Unavailable(why.into())
}

/// `12.8` of 12080.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Number of GPUs.
///
/// # Errors
/// There is no driver, or an old one, or no GPU.
pub fn count() -> Result<usize, DeviceError> {
    driver_version()?;
    let no_gpu = |e: DriverError| match e.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => unavailable("no GPU found by the NVIDIA driver"),
        _ => unavailable(format!("the NVIDIA driver failed to initialise: {e}")),
    };
    result::init().map_err(no_gpu)?;
    match result::device::get_count().map_err(no_gpu)? {
        count if count > 0 => Ok(count as usize),
        _ => Err(unavailable("no GPU found by the NVIDIA driver")),
    }
}

/// GPU `number`, or all of them, ready to train.
///
/// # Errors
/// There is no driver, an old one, no GPU, no such GPU, or no NVRTC.
pub fn devices(number: Option<usize>) -> Result<Vec<Arc<Device>>, DeviceError> {
    let numbers = match number {
        Some(number) => number..number + 1,
        None => 0..count()?,
    };
    let gpus = numbers.map(Gpu::new).collect::<Result<Vec<Gpu>, _>>()?;
    // The driver takes PTX of its own version and older.
    let (nvrtc, driver) = (nvrtc_version()?, driver_version()?);
    if nvrtc > driver {
        let [nvrtc, driver] = [nvrtc, driver].map(version);
        return Err(unavailable(format!(
            "NVRTC {nvrtc} is newer than the NVIDIA driver, which supports CUDA {driver}: update the driver, or name an NVRTC of at most {driver} in LD_LIBRARY_PATH"
        )));
    }
    gpus.into_iter().map(|gpu| Device::new(Box::new(gpu))).collect()
}

/// The version of NVRTC, as the driver's.
fn nvrtc_version() -> Result<i32, DeviceError> {
    // SAFETY: it only looks for the library.
    if !unsafe { nvrtc::is_culib_present() } {
        return Err(unavailable(
            "NVRTC was not found: cannot load libnvrtc.so; install the CUDA toolkit, or Python's nvidia-cuda-nvrtc and name its folder in LD_LIBRARY_PATH",
        ));
    }
    // SAFETY: the library is there.
    has_all(unsafe { nvrtc::culib() }, "libnvrtc.so", &NVRTC_FUNCTIONS)?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library has the function; it writes two integers.
    unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) };
    Ok(1000 * major + 10 * minor)
}

/// The version of CUDA that the driver supports.
fn driver_version() -> Result<i32, DeviceError> {
    // SAFETY: it only looks for the library.
    if !unsafe { driver::is_culib_present() } {
        return Err(unavailable("no NVIDIA driver was found: cannot load libcuda.so.1"));
    }
    // SAFETY: the library is there.
    let library = unsafe { driver::culib() };
    has_all(library, "libcuda.so", &["cuDriverGetVersion"])?;
    let mut found = 0;
    // SAFETY: the library has the function; it writes one integer.
    let outcome = unsafe { driver::cuDriverGetVersion(&mut found) };
    if outcome != CUresult::CUDA_SUCCESS {
        return Err(unavailable("libcuda.so does not respond: it may be the stub library of a CUDA toolkit"));
    }
    if found < MIN_CUDA_VERSION {
        let [found, needed] = [found, MIN_CUDA_VERSION].map(version);
        return Err(unavailable(format!(
            "the NVIDIA driver is too old: it supports CUDA {found}, and {needed} is needed"
        )));
    }
    has_all(library, "libcuda.so", &DRIVER_FUNCTIONS)?;
    Ok(found)
}

/// The functions of the driver that are called, directly or by cudarc, which panics where one lacks.
const DRIVER_FUNCTIONS: [&str; 28] = [
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuCtxSynchronize",
    "cuCtxSetFlags",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuMemGetInfo_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
];

/// The same of NVRTC.
const NVRTC_FUNCTIONS: [&str; 8] = [
    "nvrtcVersion",
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcGetPTXSize",
    "nvrtcGetPTX",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcDestroyProgram",
];

/// Checks that a library has functions.
fn has_all(library: &Library, name: &str, functions: &[&str]) -> Result<(), DeviceError> {
    // SAFETY: they are looked up, and not called.
    let has = |function: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(function.as_bytes()).is_err() };
    match functions.iter().find(has) {
        Some(function) => Err(unavailable(format!("{name} is not a suitable NVIDIA library: it lacks {function}"))),
        None => Ok(()),
    }
}

/// Compiles kernels for a compute capability, such as 90, to PTX.
///
/// # Errors
/// There is no NVRTC, or it does not know the capability.
pub fn compile(source: &KernelSource, capability: u32) -> Result<cudarc::nvrtc::Ptx, DeviceError> {
    nvrtc_version()?;
    let options = CompileOptions {
        // One rounding where the source has one: the bits depend on it.
        fmad: Some(false),
        ftz: Some(false),
        prec_div: Some(true),
        prec_sqrt: Some(true),
        name: Some("kernels.cu".into()),
        options: vec![format!("--gpu-architecture=compute_{capability}"), "--std=c++17".into()],
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(&source.text, options).map_err(|e| {
        let why = match &e {
            CompileError::CompileError { log, .. } => log.to_string_lossy().trim().to_owned(),
            other => other.to_string(),
        };
        DeviceError::Failed { device: "NVRTC".into(), what: "cannot compile the kernels", why }
    })
}

/// A GPU.
pub struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    capability: u32,
    shared_bytes: usize,
    launch_seconds: f64,
}

impl Gpu {
    /// GPU `ordinal`.
    ///
    /// # Errors
    /// There is no such GPU, or no driver.
    pub fn new(ordinal: usize) -> Result<Self, DeviceError> {
        let count = count()?;
        if ordinal >= count {
            let gpus = if count == 1 {
                "there is one GPU, cuda:0".into()
            } else {
                format!("there are {count} GPUs, cuda:0 to cuda:{}", count - 1)
            };
            return Err(unavailable(format!("there is no cuda:{ordinal}: {gpus}")));
        }
        let failed = |e: DriverError| unavailable(format!("cuda:{ordinal} failed to initialise: {e}"));
        let context = CudaContext::new(ordinal).map_err(failed)?;
        let attribute = |a: CUdevice_attribute| context.attribute(a).map_err(failed);
        // Threads sleep while they wait.
        context.set_blocking_synchronize().map_err(failed)?;
        let (major, minor) = context.compute_capability().map_err(failed)?;
        let has_watchdog = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT)? != 0;
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        Ok(Self {
            name: format!("cuda:{ordinal} ({})", context.name().map_err(failed)?),
            capability: (10 * major + minor) as u32,
            shared_bytes: shared as usize,
            // A display's watchdog ends kernels after a few seconds; without one, an interruption
            // should not wait for long.
            launch_seconds: if has_watchdog { 0.5 } else { 2.0 },
            context,
        })
    }

    fn failed(&self, what: &'static str) -> impl Fn(DriverError) -> DeviceError + '_ {
        move |e| failed(&self.name, what, e)
    }
}

fn failed(device: &str, what: &'static str, error: DriverError) -> DeviceError {
    DeviceError::Failed { device: device.into(), what, why: error.to_string() }
}

/// The kernels on a GPU.
struct GpuProgram {
    functions: Vec<(KernelSpec, CudaFunction)>,
    threads: u32,
    shared_bytes: u32,
}

impl Program for GpuProgram {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn free_bytes(&self) -> Result<usize, DeviceError> {
        Ok(self.context.mem_get_info().map_err(self.failed("cannot ask for free memory"))?.0)
    }

    fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    fn launch_seconds(&self) -> f64 {
        self.launch_seconds
    }

    fn compile(&self, source: &KernelSource) -> Result<Arc<dyn Program>, DeviceError> {
        let ptx = compile(source, self.capability)?;
        let what = "cannot load the kernels";
        let module = self.context.load_module(ptx).map_err(self.failed(what))?;
        let function = |&kernel: &KernelSpec| {
            let function = module.load_function(kernel.name)?;
            if kernel.is_shared {
                use CUfunction_attribute::*;
                function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, source.shared_bytes as i32)?;
                // Percent of what shared memory and cache have together.
                function.set_attribute(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)?;
            }
            Ok((kernel, function))
        };
        let functions = source.kernels.iter().map(function).collect::<Result<_, _>>();
        Ok(Arc::new(GpuProgram {
            functions: functions.map_err(self.failed(what))?,
            threads: source.threads,
            shared_bytes: source.shared_bytes as u32,
        }))
    }

    fn queue(&self) -> Result<Box<dyn Queue>, DeviceError> {
        let stream = self.context.new_stream().map_err(self.failed("cannot make a stream"))?;
        Ok(Box::new(GpuQueue { name: self.name.clone(), stream }))
    }
}

/// Device memory, allocated and freed in the order of a stream: nothing waits for it.
struct Allocation {
    stream: Arc<CudaStream>,
    address: driver::CUdeviceptr,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: it was allocated on this stream, and is freed once. What other streams did with it has
        // been waited for; what this one does comes before.
        let _ = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
    }
}

struct GpuQueue {
    name: String,
    stream: Arc<CudaStream>,
}

impl GpuQueue {
    /// Does something on this thread with the GPU's context.
    fn call<T>(&self, what: &'static str, call: impl FnOnce() -> Result<T, DriverError>) -> Result<T, DeviceError> {
        let bound = self.stream.context().bind_to_thread();
        bound.and_then(|()| call()).map_err(|e| failed(&self.name, what, e))
    }
}

impl Queue for GpuQueue {
    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        let bound = self.stream.context().bind_to_thread();
        // SAFETY: nothing refers to what is new; other streams see it after this one was waited for.
        let address = bound.and_then(|()| unsafe { result::malloc_async(self.stream.cu_stream(), bytes.max(16)) });
        let address = address.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { device: self.name.clone(), bytes },
            _ => failed(&self.name, "cannot allocate memory", e),
        })?;
        let owner = Box::new(Allocation { stream: self.stream.clone(), address });
        let mut buffer = Buffer { address, bytes, owner };
        self.clear(&mut buffer)?;
        Ok(buffer)
    }

    fn upload(&self, from: &[u8], to: &mut Buffer) -> Result<(), DeviceError> {
        assert!(from.len() <= to.bytes);
        if from.is_empty() {
            return Ok(());
        }
        let stream = self.stream.cu_stream();
        // SAFETY: the buffer has at least as many bytes; `from` is borrowed until the copy is done.
        self.call("cannot copy to it", || unsafe {
            result::memcpy_htod_async(to.address, from, stream)?;
            result::stream::synchronize(stream)
        })
    }

    fn download(&self, from: &Buffer, to: &mut [u8]) -> Result<(), DeviceError> {
        assert!(to.len() <= from.bytes);
        if to.is_empty() {
            return Ok(());
        }
        let stream = self.stream.cu_stream();
        // SAFETY: the buffer has at least as many bytes; `to` is borrowed until the copy is done.
        self.call("cannot copy from it", || unsafe {
            result::memcpy_dtoh_async(to, from.address, stream)?;
            result::stream::synchronize(stream)
        })
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<(), DeviceError> {
        assert!(from.bytes == to.bytes);
        if from.bytes == 0 {
            return Ok(());
        }
        let stream = self.stream.cu_stream();
        // SAFETY: two buffers of one size.
        self.call("cannot copy its memory", || unsafe {
            result::memcpy_dtod_async(to.address, from.address, from.bytes, stream)
        })
    }

    fn clear(&self, buffer: &mut Buffer) -> Result<(), DeviceError> {
        if buffer.bytes == 0 {
            return Ok(());
        }
        let stream = self.stream.cu_stream();
        // SAFETY: the buffer's own bytes.
        self.call("cannot clear its memory", || unsafe {
            result::memset_d8_async(buffer.address, 0, buffer.bytes, stream)
        })
    }

    unsafe fn launch(
        &self,
        program: &dyn Program,
        kernel: &str,
        [x, y]: [u32; 2],
        arguments: &[u64],
    ) -> Result<(), DeviceError> {
        let program: &GpuProgram = program.as_any().downcast_ref().expect("a program of this driver");
        let mut functions = program.functions.iter();
        let (spec, function) = functions.find(|(spec, _)| spec.name == kernel).expect("a kernel that the source lists");
        let shared = if spec.is_shared { program.shared_bytes } else { 0 };
        let (function, stream) = (function.cu_function(), self.stream.cu_stream());
        let mut parameters = [arguments.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernels take one argument, for whose contents the caller vouches; the driver
        // copies it before it returns.
        self.call("cannot launch a kernel", || unsafe {
            result::launch_kernel(function, (x, y, 1), (program.threads, 1, 1), shared, stream, &mut parameters)
        })
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.call("a kernel failed", || self.stream.synchronize())
    }
}
