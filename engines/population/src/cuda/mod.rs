//! Populations on CUDA devices: hundreds of models per launch, one per block, whole epochs on the device
//! ([`zoo_engine_cuda`]).
//!
//! The kernels repeat `reference.rs` operation by operation, so that a model has the bits it has on
//! the processor; each kind of model is checked for that on the device before it is trained there.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `kernels/` | the kernels, in what C and CUDA have in common |
//! | [`mod@source`] | the sizes, places and layers that the kernels are compiled for |
//! | `memory` | how much device memory models take |
//! | [`cohort`] | a cohort's buffers and launches |

#![allow(unsafe_code)]

pub mod cohort;
mod memory;
pub mod source;

use std::sync::Arc;

use zoo_engine_cuda::{Device, Lease, Program};
use zoo_model::dataset::{PerSplit, Samples};
use zoo_model::init::initial_parameters;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Hyperparameters, Init, Network, Split};

use super::PopulationEngine;
use cohort::DeviceCohort;
use memory::bytes_per_model;
use source::{model_kernels, ModelKernels};
use zoo_engine::metrics::Tally;
use zoo_engine::{Cohort, DeviceError, Engine, EngineError, Snapshot, Task};
use zoo_engine_simd::InstructionSet;

/// Training and test samples on which a kind of model is checked: several mini-batches of most sizes,
/// the last one smaller.
const CHECKED: [usize; 2] = [41, 7];

/// Maximum number of models of a cohort: about as many as an H100 has room for at a time. More are several cohorts
/// side by side, whose blocks take each other's place, so that no launch waits for its last ones alone.
pub const MODELS_PER_LAUNCH: usize = 512;

/// Cohorts of a device that are trained at once, if they have room: zoos of many kinds of models are
/// many small cohorts.
pub const CONCURRENT_BATCHES_PER_DEVICE: usize = 8;

/// Maximum number of models like these that every device takes at once, after their kernels have been compiled and
/// checked; `None` if the devices do not take them.
pub(super) fn max_models(
    devices: &[Arc<Device>],
    h: &Hyperparameters,
    network: &Network,
    data: &Dataset,
) -> Result<Option<usize>, DeviceError> {
    let Some(kernels) = model_kernels(h, network).map(Arc::new) else { return Ok(None) };
    let mut max = usize::MAX;
    for device in devices {
        if !device.fits(&kernels.source, h.architecture) {
            return Ok(None);
        }
        max = max.min(device.max_models(bytes_per_model(&kernels, data), data)?);
        program(device, &kernels, h, network, data)?;
    }
    Ok(Some(max))
}

/// A cohort on the device that has the fewest models; `None` if it is not to be trained on one.
pub(super) fn start<'d>(
    devices: &[Arc<Device>],
    tasks: &[Task],
    data: &'d Dataset,
    from: Option<&[Snapshot]>,
) -> Result<Option<Box<dyn Cohort + 'd>>, DeviceError> {
    let Some(device) = devices.iter().min_by_key(|d| d.models()) else { return Ok(None) };
    let Task { hyperparameters: h, network, .. } = &tasks[0];
    if tasks[0].variational().is_some() {
        return Ok(None);
    }
    let Some(kernels) = model_kernels(h, network).map(Arc::new) else { return Ok(None) };
    if !device.fits(&kernels.source, h.architecture) {
        return Ok(None);
    }
    let program = program(device, &kernels, h, network, data)?;
    let bytes = tasks.len() * bytes_per_model(&kernels, data);
    let lease = device.lease(bytes, tasks.len(), data)?;
    Ok(Some(Box::new(DeviceCohort::new(device, kernels, program, lease, tasks, data, from)?)))
}

/// The kernels for models like `h` on a device, checked when they are compiled: two models, one of
/// them pruned, are trained for an epoch of a few samples on the device and on the processor, and
/// evaluated. Every bit must be equal.
fn program(
    device: &Arc<Device>,
    kernels: &Arc<ModelKernels>,
    h: &Hyperparameters,
    network: &Network,
    data: &Dataset,
) -> Result<Arc<dyn Program>, DeviceError> {
    let check = |program: &Arc<dyn Program>| {
        let [train, test] = CHECKED;
        let few = |split: Split, max: usize| {
            let (samples, count) = (data.split(split), data.len(split).min(max));
            let images = samples.images[..count * data.image_len()].to_vec();
            Samples { images, labels: samples.labels[..count].to_vec() }
        };
        let splits =
            PerSplit { train: few(Split::Train, train), val: Samples::default(), test: few(Split::Test, test) };
        let Ok(data) = Dataset::new(data.info.clone(), data.shape, splits) else { return Ok(()) };
        let task = |seed| Task {
            network: network.clone(),
            hyperparameters: Hyperparameters { seed, ..h.clone() },
            initial: initial_parameters(network, Init::KaimingUniform, seed),
            mask: None,
            epochs_before: 0,
        };
        let tasks = [1, 2].map(task);
        let mask = (0..network.parameter_count()).map(|i| i % 3 > 0).collect();
        let masks = [Some(mask), None];
        let outcome = |mut cohort: Box<dyn Cohort + '_>| -> Result<Outcome, EngineError> {
            let go_on = Interrupt::default();
            cohort.prune(&masks)?;
            let trained = cohort.train_epoch(1, &go_on)?;
            let evaluated = cohort.evaluate(Split::Test, &go_on)?;
            let scores = trained.iter().filter_map(Tally::score).chain(evaluated.iter().filter_map(|e| e.score));
            Ok(Outcome {
                states: cohort.snapshots()?.iter().map(snapshot_bits).collect(),
                scores: scores.map(|s| [bits(s.loss), bits(s.accuracy)]).collect(),
                predictions: evaluated.into_iter().map(|e| e.predictions).collect(),
            })
        };
        let no_interruption = |error: EngineError| match error {
            EngineError::Device(error) => error,
            EngineError::Interrupted(_) => unreachable!("nothing interrupts it"),
        };
        // It is small, and there for a moment.
        let lease = Lease::none(device);
        let on_device = DeviceCohort::new(device, kernels.clone(), program.clone(), lease, &tasks, &data, None)?;
        let found = outcome(Box::new(on_device)).map_err(no_interruption)?;
        let processor = PopulationEngine::with(InstructionSet::best());
        let expected = outcome(processor.start(&tasks, &data, None)?).map_err(no_interruption)?;
        let differs = |what: &str| Err(DeviceError::BitMismatch { device: device.driver.name(), what: what.into() });
        match () {
            () if found.states != expected.states => differs("states after an epoch"),
            () if found.scores != expected.scores => differs("losses and accuracies"),
            () if found.predictions != expected.predictions => differs("predictions"),
            () => Ok(()),
        }
    };
    device.program(&kernels.source, check)
}

/// Bits of what a check trains and evaluates.
struct Outcome {
    states: Vec<(u64, Vec<u64>)>,
    scores: Vec<[u64; 2]>,
    predictions: Vec<Vec<u16>>,
}

/// Bits of a value; of any NaN, the same.
fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN } else { value }.to_bits()
}

fn snapshot_bits(snapshot: &Snapshot) -> (u64, Vec<u64>) {
    let vectors = snapshot.vectors();
    (snapshot.step, vectors.iter().flat_map(|(_, v)| v.iter().map(|&x| bits(x))).collect())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use zoo_engine::magnitude::{Ramp, Scope};
    use zoo_engine::variational::Variational;
    use zoo_engine::{BatchPlan, Evaluation, Mask, ModelSpec};
    use zoo_engine_cuda::emulated::Emulated;
    use zoo_engine_cuda::{Driver, KernelSource, Queue};
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Architecture, Optimizer};

    fn tasks(models: u64, batch_size: usize, mask: Option<Mask>) -> Vec<Task> {
        tasks_of(10, models, batch_size, mask)
    }

    fn tasks_of(classes: usize, models: u64, batch_size: usize, mask: Option<Mask>) -> Vec<Task> {
        let task = |seed| {
            let h = Hyperparameters {
                seed,
                batch_size,
                init: Init::KaimingUniform,
                learning_rate: 1e-3,
                epochs: 3,
                ..Hyperparameters::default()
            };
            let network = h.network([1, 28, 28], classes).unwrap();
            let initial = initial_parameters(&network, h.init, seed);
            Task { network, hyperparameters: h, initial, mask: mask.clone(), epochs_before: 2 }
        };
        (0..models).map(task).collect()
    }

    fn emulated(device: Emulated) -> PopulationEngine {
        PopulationEngine::with_devices(vec![Device::new(Box::new(device)).unwrap()])
    }

    /// What there is to compare after an epoch.
    type Outcome = (Vec<Tally>, Vec<Evaluation>, Vec<Snapshot>);

    /// Trains for three epochs; if interrupted, from the snapshots after the first one on by another cohort.
    fn train(engine: &PopulationEngine, tasks: &[Task], data: &Dataset, is_interrupted: bool) -> Vec<Outcome> {
        let go_on = Interrupt::default();
        let mut cohort = engine.start(tasks, data, None).unwrap();
        let mut outcomes = Vec::new();
        for epoch in 1..=3 {
            let tallies = cohort.train_epoch(epoch, &go_on).unwrap();
            let evaluations = cohort.evaluate(Split::Test, &go_on).unwrap();
            if epoch < 3 {
                cohort.prefetch_epoch(epoch + 1).unwrap();
            }
            let snapshots = cohort.snapshots().unwrap();
            if is_interrupted && epoch == 1 {
                cohort = engine.start(tasks, data, Some(&snapshots)).unwrap();
            }
            outcomes.push((tallies, evaluations, snapshots));
        }
        outcomes
    }

    #[test]
    fn trajectories_are_those_of_the_processor() {
        let data = noise_dataset([1, 28, 28], 10, 21);
        let ramp = Mask::Ramp(Ramp { sparsity: 0.6, scope: Scope::Global, epochs: 2 });
        let noise = Mask::Variational(Variational { epochs: 3 });
        for (mask, launch_seconds) in [(None, 1e-9), (Some(ramp), 1.0), (Some(noise), 1.0)] {
            let tasks = tasks(3, 4, mask);
            let expected = train(&PopulationEngine::new(), &tasks, &data, false);
            let device = emulated(Emulated { launch_seconds, ..Emulated::default() });
            for is_interrupted in [false, true] {
                assert!(train(&device, &tasks, &data, is_interrupted) == expected, "{:?}", tasks[0].mask);
            }
        }
    }

    #[test]
    fn an_epoch_in_parts_has_the_bits_of_a_whole_one() {
        let data = noise_dataset([1, 28, 28], 10, 21);
        let go_on = Interrupt::default();
        for optimizer in [Optimizer::Adam, Optimizer::Sgd] {
            let mut tasks = tasks(2, 4, None);
            for task in &mut tasks {
                task.hyperparameters.dropout = 0.3;
                task.hyperparameters.optimizer = optimizer;
            }
            let run = |engine: &PopulationEngine, parts: &[usize]| {
                let mut cohort = engine.start(&tasks, &data, None).unwrap();
                cohort.train_epoch(1, &go_on).unwrap();
                let orders = cohort.orders_of_part(2, 0);
                let mut tallies = [Tally::default(); 2];
                for part in parts.windows(2) {
                    let samples = |step: usize| 21.min(4 * step);
                    let orders: Vec<_> =
                        orders.iter().map(|o| o[samples(part[0])..samples(part[1])].to_vec()).collect();
                    let trained = cohort.train(4, part[0] as u32, &orders, &go_on).unwrap();
                    tallies.iter_mut().zip(&trained).for_each(|(tally, part)| tally.merge(part));
                }
                (cohort.snapshots().unwrap(), tallies.iter().map(|t| (t.hits, t.samples)).collect::<Vec<_>>())
            };
            let expected = run(&PopulationEngine::new(), &[0, 6]);
            for engine in [PopulationEngine::new(), emulated(Emulated { launch_seconds: 1e-9, ..Emulated::default() })]
            {
                assert!(run(&engine, &[0, 1, 5, 6]) == expected, "{optimizer:?}");
            }
            assert_eq!(expected.1[0].1, 21);
        }
    }

    #[test]
    fn any_number_of_classes_and_samples_will_do() {
        for (classes, samples, batch_size) in [(2, 1, 4), (37, 5, 1), (100, 7, 64)] {
            let data = noise_dataset([1, 28, 28], classes, samples);
            let tasks = tasks_of(classes, 2, batch_size, None);
            let expected = train(&PopulationEngine::new(), &tasks, &data, false);
            assert!(train(&emulated(Emulated::default()), &tasks, &data, false) == expected, "{classes}");
        }
    }

    #[test]
    fn predictions_and_gradients_are_those_of_the_processor() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let tasks = tasks(2, 4, None);
        let answers = |engine: &PopulationEngine| {
            let mut cohort = engine.start(&tasks, &data, None).unwrap();
            let evaluations = cohort.evaluate(Split::Test, &Interrupt::default()).unwrap();
            (evaluations, cohort.gradients(&[4, 1, 8]).unwrap(), cohort.snapshots().unwrap())
        };
        assert!(answers(&emulated(Emulated::default())) == answers(&PopulationEngine::new()));
    }

    /// A device whose second moments decay a little too fast.
    struct Wrong(Emulated);

    impl Driver for Wrong {
        fn name(&self) -> String {
            self.0.name()
        }
        fn free_bytes(&self) -> Result<usize, DeviceError> {
            self.0.free_bytes()
        }
        fn shared_bytes(&self) -> usize {
            self.0.shared_bytes()
        }
        fn launch_seconds(&self) -> f64 {
            self.0.launch_seconds()
        }
        fn compile(&self, source: &KernelSource) -> Result<Arc<dyn Program>, DeviceError> {
            let text = source.text.replace("ADAM_BETA2 9.99e-1f", "ADAM_BETA2 9.9899995e-1f");
            assert!(text != source.text);
            self.0.compile(&KernelSource { text, ..source.clone() })
        }
        fn queue(&self) -> Result<Box<dyn Queue>, DeviceError> {
            self.0.queue()
        }
    }

    #[test]
    fn a_device_of_other_bits_is_refused() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let tasks = tasks(2, 4, None);
        let devices = vec![Device::new(Box::new(Wrong(Emulated::default()))).unwrap()];
        let refused = PopulationEngine::with_devices(devices.clone()).start(&tasks, &data, None);
        assert!(matches!(refused, Err(DeviceError::BitMismatch { .. })));
        // Preferred rather than asked for, it leaves the models to the processor.
        let found = train(&PopulationEngine::on(devices, zoo_engine_cuda::Fallback::default()), &tasks, &data, false);
        assert!(found == train(&PopulationEngine::new(), &tasks, &data, false));
    }

    #[test]
    fn an_epoch_that_was_begun_disturbs_nothing_that_is_asked_before_it_is_finished() {
        let data = noise_dataset([1, 28, 28], 10, 21);
        let tasks = tasks(2, 4, None);
        let go_on = Interrupt::default();
        let stop = Interrupt::default();
        stop.set();
        let masks = [Some((0..tasks[0].initial.len()).map(|i| i % 4 > 0).collect()), None];
        let run = |engine: &PopulationEngine| {
            let mut cohort = engine.start(&tasks, &data, None).unwrap();
            let mut answers = vec![(cohort.train_epoch(1, &go_on).unwrap(), cohort.snapshots().unwrap())];
            cohort.prefetch_epoch(2).unwrap();
            assert!(cohort.snapshots().unwrap() == answers[0].1, "the epoch before is still there");
            let evaluated = cohort.evaluate(Split::Test, &go_on).unwrap();
            cohort.prefetch_epoch(2).unwrap();
            let gradients = cohort.gradients(&[3, 1]).unwrap();
            cohort.prefetch_epoch(2).unwrap();
            // Interrupted in the middle, it is as it was.
            assert!(matches!(cohort.train_epoch(2, &stop), Err(EngineError::Interrupted(_))));
            assert!(cohort.snapshots().unwrap() == answers[0].1, "an interruption falls back on it");
            cohort.prefetch_epoch(2).unwrap();
            cohort.prune(&masks).unwrap();
            answers.push((cohort.train_epoch(2, &go_on).unwrap(), cohort.snapshots().unwrap()));
            (answers, evaluated, gradients)
        };
        let device = emulated(Emulated { launch_seconds: 1e-9, ..Emulated::default() });
        assert!(run(&device) == run(&PopulationEngine::new()));
    }

    #[test]
    fn cohorts_are_united_and_split_by_the_room_there_is() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let small = Hyperparameters { batch_size: 4, ..Hyperparameters::default() };
        let other = ModelSpec::from(Hyperparameters { batch_size: 5, ..small.clone() });
        let small = ModelSpec::from(small);
        let models: Vec<&ModelSpec> = (0..100).map(|i| if i % 10 == 0 { &other } else { &small }).collect();
        let sizes = |free_bytes| {
            let engine = emulated(Emulated { free_bytes, ..Emulated::default() });
            let cohorts = engine.plan_batches(engine.cohorts(&models), &models, &data, 2)?.batches;
            let mut all: Vec<usize> = cohorts.concat();
            all.sort_unstable();
            assert!(all == (0..100).collect::<Vec<_>>());
            assert!(cohorts.iter().all(|c| c.iter().all(|&m| models[m] == models[c[0]])));
            let mut sizes: Vec<usize> = cohorts.iter().map(Vec::len).collect();
            sizes.sort_unstable();
            Ok::<_, DeviceError>(sizes)
        };
        assert_eq!(sizes(1 << 30).unwrap(), [10, 90]);
        assert_eq!(sizes(6 << 20).unwrap().iter().sum::<usize>(), 100);
        assert!(sizes(6 << 20).unwrap().len() > 2);
        assert!(matches!(sizes(1 << 10), Err(DeviceError::OutOfMemory { .. })));
        let two = PopulationEngine::with_devices(vec![Device::new(Box::new(Emulated::default())).unwrap(); 2]);
        let BatchPlan { batches, concurrency, .. } = two.plan_batches(two.cohorts(&models), &models, &data, 2).unwrap();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 45, 45]);
        assert!(concurrency >= 4);
    }

    #[test]
    fn cohorts_are_spread_over_the_devices() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let devices: Vec<Arc<Device>> = (0..2).map(|_| Device::new(Box::new(Emulated::default())).unwrap()).collect();
        let engine = PopulationEngine::with_devices(devices.clone());
        let tasks = tasks(3, 4, None);
        let cohorts: Vec<_> = (0..4).map(|_| engine.start(&tasks, &data, None).unwrap()).collect();
        assert_eq!(devices.iter().map(|d| d.models()).collect::<Vec<_>>(), [6, 6]);
        drop(cohorts);
        assert_eq!(devices.iter().map(|d| d.models()).collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn cohorts_wait_for_room() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        // Room for one of these at a time.
        let engine = emulated(Emulated { free_bytes: 1 << 20, ..Emulated::default() });
        let tasks = tasks(3, 4, None);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut cohort = engine.start(&tasks, &data, None).unwrap();
                    cohort.train_epoch(1, &Interrupt::default()).unwrap();
                });
            }
        });
        let many = vec![tasks[0].clone(); 100];
        assert!(matches!(engine.start(&many, &data, None), Err(DeviceError::OutOfMemory { .. })));
    }

    #[test]
    fn the_larger_network_fits_a_block() {
        let h = Hyperparameters { architecture: Architecture::CnnM, ..Hyperparameters::default() };
        let source = model_kernels(&h, &h.network([3, 32, 32], 10).unwrap()).unwrap().source;
        assert!(source.shared_bytes < 227 << 10, "{}", source.shared_bytes);
        let h = Hyperparameters { architecture: Architecture::Mlp, ..h };
        assert_eq!(model_kernels(&h, &h.network([3, 32, 32], 10).unwrap()), None);
    }
}
