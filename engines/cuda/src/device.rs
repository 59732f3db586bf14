//! A device and what its cohorts share: the images, compiled kernels, and the room there is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};

use zoo_model::dataset::PerSplit;
use zoo_model::safetensors_file::from_f32;
use zoo_model::{Architecture, Dataset, Split};

use zoo_engine::DeviceError;

use super::driver::{Buffer, Driver, Program, Queue};
use super::source::KernelSource;

/// A split on a device, and what its pixels become.
pub struct Images {
    /// (samples, channels, height, width), u8.
    pub pixels: Buffer,
    /// (samples), u16.
    pub labels: Buffer,
    /// (channels, 256), f32.
    pub values: Buffer,
}

/// Kernels, or why there are none.
type Compiled = Result<Arc<dyn Program>, DeviceError>;

/// Share of the free memory that is used.
const USED: f64 = 0.9;

/// Models of all cohorts that are trained at once. More keep no GPU busier, and their trajectories
/// would fill the host's memory.
const MAX_MODELS: usize = 4096;

/// What cohorts have taken of a device.
#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    bytes: usize,
    models: usize,
}

/// A device.
pub struct Device {
    /// Its driver.
    pub driver: Box<dyn Driver>,
    /// Bytes that cohorts may take.
    capacity: usize,
    taken: Mutex<Taken>,
    given_back: Condvar,
    /// Of the dataset file that was used last, by its SHA-256.
    images: Mutex<Option<(String, PerSplit<Weak<Images>>)>>,
    /// By source; compiled and checked once, whether that succeeded or not.
    programs: Mutex<HashMap<String, Arc<OnceLock<Compiled>>>>,
    has_warned: AtomicBool,
}

/// Room that a cohort has on a device, until it is dropped.
pub struct Lease {
    device: Arc<Device>,
    room: Taken,
}

impl Lease {
    /// No room at all.
    pub fn none(device: &Arc<Device>) -> Self {
        Self { device: device.clone(), room: Taken::default() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut taken = lock(&self.device.taken);
        taken.bytes -= self.room.bytes;
        taken.models -= self.room.models;
        self.device.given_back.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Device {
    /// A device with this driver.
    pub fn new(driver: Box<dyn Driver>) -> Result<Arc<Self>, DeviceError> {
        let capacity = (driver.free_bytes()? as f64 * USED) as usize;
        Ok(Arc::new(Self {
            driver,
            capacity,
            taken: Mutex::default(),
            given_back: Condvar::new(),
            images: Mutex::default(),
            programs: Mutex::default(),
            has_warned: AtomicBool::new(false),
        }))
    }

    /// Whether a block of it has the shared memory that the kernels for an architecture need; says once if
    /// not.
    pub fn fits(&self, source: &KernelSource, architecture: Architecture) -> bool {
        let (needed, there) = (source.shared_bytes >> 10, self.driver.shared_bytes() >> 10);
        let fits = source.shared_bytes <= self.driver.shared_bytes();
        if !fits && !self.has_warned.swap(true, Ordering::Relaxed) {
            let (name, architecture) = (self.driver.name(), architecture.name());
            tracing::warn!(
                "training on the processor: {architecture} needs {needed} KB of shared memory a block, {name} has {there} KB"
            );
        }
        fits
    }

    /// Models that have been given room.
    pub fn models(&self) -> usize {
        lock(&self.taken).models
    }

    /// Bytes of the images and labels of a dataset.
    fn image_bytes(data: &Dataset) -> usize {
        Split::ALL.iter().map(|&s| data.len(s) * (data.image_len() + size_of::<u16>())).sum()
    }

    /// Maximum number of models that fit at once, beside the images, if each takes `of_model` bytes.
    ///
    /// # Errors
    /// Not one does.
    pub fn max_models(&self, of_model: usize, data: &Dataset) -> Result<usize, DeviceError> {
        let images = Self::image_bytes(data);
        match self.capacity.saturating_sub(images) / of_model {
            0 => Err(DeviceError::OutOfMemory { device: self.driver.name(), bytes: images + of_model }),
            models => Ok(models.min(MAX_MODELS)),
        }
    }

    /// Memory for the given number of models, beside the images, as soon as other cohorts leave it.
    ///
    /// # Errors
    /// The device does not have as many.
    pub fn lease(self: &Arc<Self>, bytes: usize, models: usize, data: &Dataset) -> Result<Lease, DeviceError> {
        let capacity = self.capacity.saturating_sub(Self::image_bytes(data));
        if bytes > capacity {
            return Err(DeviceError::OutOfMemory { device: self.driver.name(), bytes });
        }
        let full = |taken: &mut Taken| {
            taken.models > 0 && (taken.bytes + bytes > capacity || taken.models + models > MAX_MODELS)
        };
        let mut taken = self.given_back.wait_while(lock(&self.taken), full).unwrap_or_else(|e| e.into_inner());
        taken.bytes += bytes;
        taken.models += models;
        Ok(Lease { device: self.clone(), room: Taken { bytes, models } })
    }

    /// The splits of a dataset, uploaded if the device does not have them.
    pub fn images(&self, queue: &dyn Queue, data: &Dataset) -> Result<PerSplit<Arc<Images>>, DeviceError> {
        let mut kept = lock(&self.images);
        if let Some((sha256, images)) = &*kept {
            let PerSplit { train, val, test } = images.map(Weak::upgrade);
            if let (Some(train), Some(val), Some(test), true) = (train, val, test, sha256 == data.sha256()) {
                return Ok(PerSplit { train, val, test });
            }
        }
        let upload = |bytes: &[u8]| -> Result<Buffer, DeviceError> {
            let mut buffer = queue.allocate(bytes.len())?;
            queue.upload(bytes, &mut buffer)?;
            Ok(buffer)
        };
        let values = from_f32(data.normalization_f32().as_flattened());
        let split = |split: Split| -> Result<Arc<Images>, DeviceError> {
            let samples = data.split(split);
            let labels: Vec<u8> = samples.labels.iter().flat_map(|l| l.to_le_bytes()).collect();
            Ok(Arc::new(Images {
                pixels: upload(&samples.images)?,
                labels: upload(&labels)?,
                values: upload(&values)?,
            }))
        };
        let images = PerSplit { train: split(Split::Train)?, val: split(Split::Val)?, test: split(Split::Test)? };
        // Other queues may use them at once.
        queue.wait()?;
        // One that is of no file has none.
        if !data.sha256().is_empty() {
            *kept = Some((data.sha256().to_owned(), images.map(Arc::downgrade)));
        }
        Ok(images)
    }

    /// Kernels, compiled at first use; `check` sees them then.
    pub fn program(
        &self,
        source: &KernelSource,
        check: impl FnOnce(&Arc<dyn Program>) -> Result<(), DeviceError>,
    ) -> Result<Arc<dyn Program>, DeviceError> {
        let place = lock(&self.programs).entry(source.text.clone()).or_default().clone();
        let compile = || {
            let program = self.driver.compile(source)?;
            check(&program)?;
            Ok(program)
        };
        place.get_or_init(compile).clone()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::super::emulated::Emulated;
    use super::super::kernels;
    use super::super::source::{define, KernelSpec};
    use super::*;
    use zoo_model::synthetic::noise_dataset;

    /// Adds the number of the block and of the thread to each of its values, by way of shared memory.
    const NUMBER: &str = "
struct number { u32 *values; };
KERNEL(number, struct number) {
    SHARED(shared);
    shared[threadIdx.x] = (float)(threadIdx.x + 100 * blockIdx.x);
    __syncthreads();
    arguments.values[blockIdx.x * THREADS + threadIdx.x] += (u32)shared[THREADS - 1 - threadIdx.x];
}
";

    fn source() -> KernelSource {
        let mut text = String::new();
        for (name, value) in [("THREADS", 4), ("BLOCKS", 1), ("SHARED_FLOATS", 4)] {
            define(&mut text, name, value);
        }
        text.extend([kernels::CUDA, kernels::TYPES, NUMBER]);
        let kernels = vec![KernelSpec { name: "number", is_shared: true }];
        KernelSource { text, threads: 4, shared_bytes: 16, kernels }
    }

    fn device(emulated: Emulated) -> Arc<Device> {
        Device::new(Box::new(emulated)).unwrap()
    }

    #[test]
    fn kernels_are_checked_once_and_launched_by_name() {
        let device = device(Emulated::default());
        let program = device.program(&source(), |_| Ok(())).unwrap();
        device.program(&source(), |_| unreachable!("it is there")).unwrap();
        let queue = device.driver.queue().unwrap();
        let mut values = queue.allocate(32).unwrap();
        queue.upload(&[1, 0, 0, 0], &mut values).unwrap();
        // SAFETY: the kernel's argument is the address of two blocks' values.
        unsafe { queue.launch(program.as_ref(), "number", [2, 1], &[values.address]) }.unwrap();
        let mut bytes = [0; 32];
        queue.download(&values, &mut bytes).unwrap();
        let found: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(found, [4, 2, 1, 0, 103, 102, 101, 100]);
    }

    #[test]
    #[should_panic(expected = "a kernel that the source lists")]
    fn kernels_that_are_not_listed_are_not_launched() {
        let device = device(Emulated::default());
        let source =
            KernelSource { kernels: Vec::new(), text: source().text + "// No kernel is listed.\n", ..source() };
        let program = device.program(&source, |_| Ok(())).unwrap();
        // SAFETY: it is not launched.
        let _ = unsafe { device.driver.queue().unwrap().launch(program.as_ref(), "number", [1, 1], &[0]) };
    }

    #[test]
    fn leases_are_of_the_room_beside_the_images() {
        let data = noise_dataset([1, 2, 2], 2, 10);
        let images = Device::image_bytes(&data);
        let device = device(Emulated { free_bytes: 10_000, ..Emulated::default() });
        let room = 9_000 - images;
        assert_eq!(device.max_models(room / 3, &data), Ok(3));
        assert!(matches!(device.max_models(room + 1, &data), Err(DeviceError::OutOfMemory { bytes: 9_001, .. })));
        assert!(matches!(device.lease(room + 1, 1, &data), Err(DeviceError::OutOfMemory { .. })));
        let all = device.lease(room, 3, &data).unwrap();
        assert_eq!(device.models(), 3);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _lease = device.lease(1, 2, &data).unwrap();
                device.models()
            });
            drop(all);
            assert_eq!(waiting.join().unwrap(), 2);
        });
        assert_eq!(device.models(), 0);
    }

    #[test]
    fn the_images_of_a_file_are_uploaded_once_for_all_that_use_them() {
        let noise = noise_dataset([1, 2, 2], 2, 10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.safetensors");
        noise.write(&path).unwrap();
        let device = device(Emulated::default());
        let queue = device.driver.queue().unwrap();
        for (data, is_shared) in [(&noise, false), (&Dataset::read(&path).unwrap(), true)] {
            let images = device.images(queue.as_ref(), data).unwrap();
            let expected: Vec<u8> = data.split(Split::Train).labels.iter().flat_map(|l| l.to_le_bytes()).collect();
            let mut labels = vec![0; expected.len()];
            queue.download(&images.train.labels, &mut labels).unwrap();
            assert_eq!(labels, expected);
            let again = device.images(queue.as_ref(), data).unwrap();
            assert_eq!(Arc::ptr_eq(&images.test, &again.test), is_shared);
        }
    }
}
