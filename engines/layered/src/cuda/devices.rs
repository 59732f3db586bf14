//! Devices and the models that are trained on them, each on a queue of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use zoo_engine::{Cohort, DeviceError, Engine, EngineError, Mask, Snapshot, Task};
use zoo_engine_cuda::{Device, Program};
use zoo_model::dataset::{PerSplit, Samples};
use zoo_model::init::initial_parameters;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Hyperparameters, Init, Network, Split};

use super::check::check_kernels;
use super::memory::bytes_per_model;
use super::source::kernel_source;
use super::CudaKernels;
use crate::cohort::Models;
use crate::graph::Graph;
use crate::kernels::Outcome;
use crate::LayeredEngine;

/// Models that a device trains at a time, if it has room: more keep it no busier.
pub const MODELS_PER_DEVICE: usize = 8;

/// Training samples, test samples and the size of mini-batches in the check of a kind of model: two steps, the last
/// one smaller.
const CHECKED: [usize; 3] = [5, 2, 3];

/// Outcomes of checks, by device and kind of model.
type Checks = HashMap<(usize, String), Arc<OnceLock<Outcome>>>;

/// Devices, and what is known of them.
#[derive(Clone, Default)]
pub struct Devices {
    devices: Vec<Arc<Device>>,
    checks: Arc<Mutex<Checks>>,
}

impl Devices {
    /// These devices.
    pub fn new(devices: Vec<Arc<Device>>) -> Self {
        Self { devices, checks: Arc::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// How many models like these all devices together train at a time, after they have been checked.
    ///
    /// # Errors
    /// A device does not have room for one, does not compute the processor's bits, or failed.
    pub fn models_at_a_time(
        &self,
        h: &Hyperparameters,
        network: &Network,
        data: &Dataset,
        is_noisy: bool,
    ) -> Outcome<usize> {
        let bytes = bytes_per_model(h, network, data, is_noisy);
        let of_device = |(number, device): (usize, &Arc<Device>)| {
            let models = device.max_models(bytes, data)?.min(MODELS_PER_DEVICE);
            self.program(number, h, network, data, is_noisy)?;
            Ok(models)
        };
        self.devices.iter().enumerate().map(of_device).sum()
    }

    /// A cohort on the device that has the fewest models; `None` if there are no devices.
    ///
    /// # Errors
    /// The device does not have room for it, does not compute the processor's bits, or failed.
    pub fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Outcome<Option<Box<dyn Cohort + 'd>>> {
        let Some((number, device)) = self.devices.iter().enumerate().min_by_key(|(_, d)| d.models()) else {
            return Ok(None);
        };
        let mut bytes = 0;
        let mut program = None;
        for task in tasks {
            let is_noisy = task.variational().is_some();
            bytes += bytes_per_model(&task.hyperparameters, &task.network, data, is_noisy);
            program = Some(self.program(number, &task.hyperparameters, &task.network, data, is_noisy)?);
        }
        let Some(program) = program else { return Ok(None) };
        let lease = Arc::new(device.lease(bytes, tasks.len(), data)?);
        let kernels = || CudaKernels::new(device.driver.as_ref(), program.clone(), Some(lease.clone()));
        Ok(Some(Box::new(Models::new(kernels, tasks, data, from)?)))
    }

    /// The kernels on a device, after they have been checked on such models.
    fn program(
        &self,
        number: usize,
        h: &Hyperparameters,
        network: &Network,
        data: &Dataset,
        is_noisy: bool,
    ) -> Outcome<Arc<dyn Program>> {
        let device = &self.devices[number];
        let driver = device.driver.as_ref();
        let program = device.program(&kernel_source(), |program| check_kernels(driver, program))?;
        let graph = Graph::new(network);
        let kind = format!("{:?} {:?} {:?} {is_noisy}", graph.values, graph.nodes, h.optimizer);
        let place = {
            let mut checks = self.checks.lock().unwrap_or_else(|e| e.into_inner());
            checks.entry((number, kind)).or_default().clone()
        };
        place.get_or_init(|| check_model(device, &program, h, network, data, is_noisy)).clone()?;
        Ok(program)
    }
}

/// Trains a model for two steps on the device and on the processor, and evaluates it. Every bit must be equal.
fn check_model(
    device: &Arc<Device>,
    program: &Arc<dyn Program>,
    h: &Hyperparameters,
    network: &Network,
    data: &Dataset,
    is_noisy: bool,
) -> Outcome {
    let [train, test, batch_size] = CHECKED;
    let few = |split: Split, max: usize| {
        let (samples, count) = (data.split(split), data.len(split).min(max));
        let images = samples.images[..count * data.image_len()].to_vec();
        Samples { images, labels: samples.labels[..count].to_vec() }
    };
    let splits = PerSplit { train: few(Split::Train, train), val: Samples::default(), test: few(Split::Test, test) };
    let Ok(data) = Dataset::new(data.info.clone(), data.shape, splits) else { return Ok(()) };
    let task = Task {
        network: network.clone(),
        hyperparameters: Hyperparameters { batch_size: h.batch_size.min(batch_size), seed: 1, ..h.clone() },
        initial: initial_parameters(network, Init::KaimingUniform, 1),
        mask: is_noisy.then_some(Mask::Variational(zoo_engine::variational::Variational { epochs: 1 })),
        epochs_before: 0,
    };
    let mask = (!is_noisy).then(|| (0..network.parameter_count()).map(|i| i % 3 > 0).collect());
    let order: Vec<u32> = (0..data.len(Split::Train) as u32).collect();
    let outcome = |mut cohort: Box<dyn Cohort + '_>| -> Result<Vec<u64>, EngineError> {
        cohort.prune(std::slice::from_ref(&mask))?;
        let tallies = cohort.train(1, 0, std::slice::from_ref(&order), &Interrupt::default())?;
        let logits = cohort.logits(Split::Test, 0..data.len(Split::Test))?.concat();
        let snapshots = cohort.snapshots()?;
        let states = snapshots.iter().flat_map(|s| s.vectors()).flat_map(|(_, values)| values.to_vec());
        let losses = tallies.iter().map(|tally| tally.loss);
        let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
        Ok(losses.chain(logits).chain(states).map(bits).collect())
    };
    let no_interruption = |error: EngineError| match error {
        EngineError::Device(error) => error,
        EngineError::Interrupted(_) => unreachable!("nothing interrupts it"),
    };
    let tasks = [task];
    // It is small, and there for a moment.
    let kernels = || CudaKernels::new(device.driver.as_ref(), program.clone(), None);
    let found = outcome(Box::new(Models::new(kernels, &tasks, &data, None)?)).map_err(no_interruption)?;
    let expected = outcome(LayeredEngine::new().start(&tasks, &data, None)?).map_err(no_interruption)?;
    match found == expected {
        true => Ok(()),
        false => Err(DeviceError::BitMismatch { device: device.driver.name(), what: "a model after two steps".into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use zoo_engine::magnitude::{Ramp, Scope};
    use zoo_engine::variational::Variational;
    use zoo_engine::{BatchPlan, ModelSpec, Sparsification};
    use zoo_engine_cuda::emulated::Emulated;
    use zoo_engine_cuda::{Buffer, Driver, KernelSource, Queue};
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Activation, Architecture, Optimizer};

    /// An emulated device whose kernels' source may be changed, and which counts what is allocated.
    #[derive(Clone)]
    struct Changed {
        emulated: Emulated,
        change: [&'static str; 2],
        memory: Arc<Memory>,
    }

    /// Bytes that are allocated, and that were at most.
    #[derive(Default)]
    struct Memory {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    /// Counts an allocation until it is dropped.
    struct Counted(usize, Arc<Memory>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.now.fetch_sub(self.0, Ordering::Relaxed);
        }
    }

    impl Changed {
        fn new(change: [&'static str; 2]) -> Self {
            Self { emulated: Emulated::default(), change, memory: Arc::default() }
        }
    }

    impl Driver for Changed {
        fn name(&self) -> String {
            "changed".into()
        }
        fn free_bytes(&self) -> Outcome<usize> {
            self.emulated.free_bytes()
        }
        fn shared_bytes(&self) -> usize {
            self.emulated.shared_bytes()
        }
        fn launch_seconds(&self) -> f64 {
            self.emulated.launch_seconds()
        }
        fn compile(&self, source: &KernelSource) -> Outcome<Arc<dyn Program>> {
            let [from, to] = self.change;
            assert!(source.text.contains(from));
            self.emulated.compile(&KernelSource { text: source.text.replace(from, to), ..source.clone() })
        }
        fn queue(&self) -> Outcome<Box<dyn Queue>> {
            Ok(Box::new(CountingQueue(self.emulated.queue()?, self.memory.clone())))
        }
    }

    struct CountingQueue(Box<dyn Queue>, Arc<Memory>);

    impl Queue for CountingQueue {
        fn allocate(&self, bytes: usize) -> Outcome<Buffer> {
            let now = self.1.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.1.most.fetch_max(now, Ordering::Relaxed);
            let Buffer { address, owner, .. } = self.0.allocate(bytes)?;
            Ok(Buffer { address, bytes, owner: Box::new((owner, Counted(bytes, self.1.clone()))) })
        }
        fn upload(&self, from: &[u8], to: &mut Buffer) -> Outcome {
            self.0.upload(from, to)
        }
        fn download(&self, from: &Buffer, to: &mut [u8]) -> Outcome {
            self.0.download(from, to)
        }
        fn copy(&self, from: &Buffer, to: &mut Buffer) -> Outcome {
            self.0.copy(from, to)
        }
        fn clear(&self, buffer: &mut Buffer) -> Outcome {
            self.0.clear(buffer)
        }
        unsafe fn launch(&self, program: &dyn Program, kernel: &str, grid: [u32; 2], arguments: &[u64]) -> Outcome {
            // SAFETY: the caller's.
            unsafe { self.0.launch(program, kernel, grid, arguments) }
        }
        fn wait(&self) -> Outcome {
            self.0.wait()
        }
    }

    fn device(driver: impl Driver + 'static) -> Arc<Device> {
        Device::new(Box::new(driver)).unwrap()
    }

    fn hyperparameters(architecture: Architecture, batch_size: usize) -> Hyperparameters {
        let hidden = if architecture == Architecture::Mlp { vec![20, 7] } else { Vec::new() };
        Hyperparameters {
            architecture,
            hidden,
            activation: Activation::Gelu,
            optimizer: Optimizer::Adam,
            learning_rate: 1e-3,
            weight_decay: 1e-3,
            dropout: if architecture == Architecture::Resnet18 { 0.0 } else { 0.3 },
            batch_size,
            epochs: 2,
            ..Hyperparameters::default()
        }
    }

    fn task(h: &Hyperparameters, data: &Dataset, mask: Option<Mask>) -> Task {
        let network = h.network(data.shape, data.classes()).unwrap();
        let initial = initial_parameters(&network, h.init, h.seed);
        Task { network, hyperparameters: h.clone(), initial, mask, epochs_before: 1 }
    }

    /// Epochs, each by another cohort from the snapshots of the one before, and an evaluation after each.
    fn train(engine: &LayeredEngine, task: &Task, data: &Dataset, epochs: u32) -> Vec<(Vec<Snapshot>, Vec<Vec<f64>>)> {
        let tasks = std::slice::from_ref(task);
        let mut outcomes: Vec<(Vec<Snapshot>, Vec<Vec<f64>>)> = Vec::new();
        let go_on = Interrupt::default();
        for epoch in 1..=epochs {
            let from = outcomes.last().map(|(snapshots, _)| &snapshots[..]);
            let mut cohort = engine.start(tasks, data, from).unwrap();
            cohort.train_epoch(epoch, &go_on).unwrap();
            let logits = cohort.logits(Split::Test, 0..data.len(Split::Test)).unwrap();
            outcomes.push((cohort.snapshots().unwrap(), logits));
        }
        outcomes
    }

    #[test]
    fn trajectories_are_those_of_the_processor() {
        let engine = LayeredEngine::with_devices(vec![device(Emulated::default())]);
        let ramp = Mask::Ramp(Ramp { sparsity: 0.6, scope: Scope::Global, epochs: 2 });
        let noise = Mask::Variational(Variational { epochs: 2 });
        let data = noise_dataset([1, 28, 28], 10, 11);
        for (architecture, mask) in
            [(Architecture::Mlp, None), (Architecture::CnnS, Some(ramp)), (Architecture::Mlp, Some(noise))]
        {
            let task = task(&hyperparameters(architecture, 4), &data, mask);
            assert!(
                train(&engine, &task, &data, 2) == train(&LayeredEngine::new(), &task, &data, 2),
                "{architecture:?}"
            );
        }
    }

    #[test]
    fn a_missing_barrier_is_found() {
        for change in [
            [
                "__syncthreads();\n        const int count = least(t.depth, c->inputs",
                "const int count = least(t.depth, c->inputs",
            ],
            [
                "__syncthreads();\n        const int count = least(t.depth, terms.end",
                "const int count = least(t.depth, terms.end",
            ],
            ["__syncthreads();\n        const int count = least(ROWS", "const int count = least(ROWS"],
            ["__syncthreads();\n    if (part > 0) return;", "if (part > 0) return;"],
        ] {
            let driver = Changed::new(change);
            let program = driver.compile(&kernel_source()).unwrap();
            assert!(matches!(check_kernels(&driver, &program), Err(DeviceError::BitMismatch { .. })), "{change:?}");
        }
    }

    /// Trains on a device and on the processor, and compares what the device had to allocate with what is planned.
    fn assert_equal_and_planned(h: &Hyperparameters, data: &Dataset, mask: Mask) {
        let driver = Changed::new(["", ""]);
        let task = task(h, data, Some(mask));
        let engine = LayeredEngine::with_devices(vec![device(driver.clone())]);
        // The memory of the checks is not a model's.
        engine.start(std::slice::from_ref(&task), data, None).unwrap();
        driver.memory.most.store(0, Ordering::Relaxed);
        assert!(train(&engine, &task, data, 1) == train(&LayeredEngine::new(), &task, data, 1), "{h:?}");
        let allocated = driver.memory.most.load(Ordering::Relaxed);
        let planned = bytes_per_model(h, &task.network, data, task.variational().is_some());
        assert!((planned / 10 * 6..=planned).contains(&allocated), "{allocated} of {planned} bytes planned: {h:?}");
    }

    #[test]
    fn a_resnet_trains_as_on_the_processor_in_the_memory_that_is_planned() {
        let data = noise_dataset([3, 8, 8], 10, 5);
        let resnet = hyperparameters(Architecture::Resnet18, 3);
        let sgd = Hyperparameters { activation: Activation::Relu, optimizer: Optimizer::Sgd, momentum: 0.9, ..resnet };
        let parameters = sgd.network(data.shape, data.classes()).unwrap().parameter_count();
        assert_equal_and_planned(&sgd, &data, Mask::Fixed((0..parameters).map(|i| i % 5 > 0).collect()));
    }

    #[test]
    fn variational_dropout_takes_the_memory_that_is_planned() {
        let noise = Mask::Variational(Variational { epochs: 1 });
        assert_equal_and_planned(&hyperparameters(Architecture::Mlp, 40), &noise_dataset([3, 8, 8], 10, 90), noise);
    }

    #[test]
    fn devices_of_other_bits_are_refused_or_replaced_by_the_processor() {
        let data = noise_dataset([1, 6, 6], 10, 7);
        let task = task(&hyperparameters(Architecture::Mlp, 4), &data, None);
        for change in [
            // The kernels of all networks, and one of this.
            ["sum = sums[b] + sum;", "sum = sums[b] + sum + 1e-3f;"],
            ["ADAM_BETA2 9.99e-1f", "ADAM_BETA2 9.9899995e-1f"],
        ] {
            let devices = vec![device(Changed::new(change))];
            let refused = LayeredEngine::with_devices(devices.clone()).start(std::slice::from_ref(&task), &data, None);
            assert!(matches!(refused, Err(DeviceError::BitMismatch { .. })), "{change:?}");
            let engine = LayeredEngine::on(devices, zoo_engine_cuda::Fallback::default());
            assert!(train(&engine, &task, &data, 2) == train(&LayeredEngine::new(), &task, &data, 2), "{change:?}");
        }
    }

    #[test]
    fn as_many_models_at_a_time_as_devices_have_room_for() {
        let data = noise_dataset([1, 6, 6], 10, 7);
        let h = hyperparameters(Architecture::Mlp, 4);
        let network = h.network(data.shape, data.classes()).unwrap();
        let spec = ModelSpec { hyperparameters: h.clone(), sparsification: Sparsification::Masks };
        let bytes = bytes_per_model(&h, &network, &data, false);
        let cohorts: Vec<Vec<usize>> = (0..30).map(|i| vec![i]).collect();
        let plan = |rooms: &[usize]| {
            let of = |&models: &usize| device(Emulated { free_bytes: models * bytes * 10 / 8, ..Emulated::default() });
            let engine = LayeredEngine::with_devices(rooms.iter().map(of).collect());
            engine.plan_batches(cohorts.clone(), &[&spec; 30], &data, 2)
        };
        let expected = |concurrency, parallelism| Ok(BatchPlan { batches: cohorts.clone(), concurrency, parallelism });
        assert_eq!(plan(&[3]), expected(3, 1));
        assert_eq!(plan(&[3, 100]), expected(3 + MODELS_PER_DEVICE, 2));
        assert!(matches!(plan(&[0, 100]), Err(DeviceError::OutOfMemory { .. })));
    }
}
