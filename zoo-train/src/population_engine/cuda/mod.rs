//! Populations on CUDA devices: hundreds of models a launch, one a block, whole epochs on the device.
//!
//! The kernels repeat `reference.rs` operation by operation, so that a model has the bits it has on
//! the processor; each kind of model is checked for that on the device before it is trained there.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `kernels.cu` | the kernels, in what C and CUDA have in common |
//! | [`source`] | the sizes, places and layers that the kernels are compiled for |
//! | [`driver`] | what is needed of a device |
//! | [`gpu`] | a GPU, through libcuda and NVRTC, both found when the program runs |
//! | [`emulated`] | the kernels on the processor, by a C compiler, for tests |
//! | [`device`] | what the cohorts of a device share |
//! | [`cohort`] | a cohort's memory and launches |

#![allow(unsafe_code)]

pub mod cohort;
pub mod device;
pub mod driver;
pub mod emulated;
pub mod gpu;
pub mod source;

use std::sync::Arc;

use zoo_model::{Dataset, Hyperparameters, Network, Split};
use zoo_stage::Interrupt;

use super::simd::InstructionSet;
use super::PopulationEngine;
use crate::engine::{Cohort, CohortError, Engine, Snapshot, Task};
use crate::metrics::Score;
use cohort::DeviceCohort;
use device::{Device, Lease};
use driver::{DeviceError, Program};
use source::{source, Source};

/// Samples on which a kind of model is checked.
const CHECKED: usize = 40;

/// Most models of a cohort. More are trained in several cohorts, side by side.
pub const MODELS_AT_ONCE: usize = 1024;

/// Cohorts of a device that are trained at once, if they have room: zoos of many kinds of models are
/// many small cohorts.
pub const COHORTS_AT_ONCE: usize = 16;

/// Most models like these that every device takes at once; `None` if they do not take them.
pub(super) fn most_models(
    devices: &[Arc<Device>],
    h: &Hyperparameters,
    network: &Network,
    data: &Dataset,
) -> Result<Option<usize>, DeviceError> {
    let Some(source) = source(h, network) else { return Ok(None) };
    let mut most = usize::MAX;
    for device in devices {
        if !device.fits(&source, h) {
            return Ok(None);
        }
        most = most.min(device.most_models(&source, data)?);
    }
    Ok(Some(most))
}

/// A cohort on the device that has the fewest models; `None` if it is not to be trained on one.
pub(super) fn start<'d>(
    devices: &[Arc<Device>],
    tasks: &[Task],
    data: &'d Dataset,
    from: Option<&[Snapshot]>,
) -> Result<Option<Box<dyn Cohort + 'd>>, DeviceError> {
    let Some(device) = devices.iter().min_by_key(|d| d.models()) else { return Ok(None) };
    if tasks[0].variational().is_some() {
        return Ok(None);
    }
    let Some(source) = source(&tasks[0].hyperparameters, &tasks[0].network).map(Arc::new) else { return Ok(None) };
    if !device.fits(&source, &tasks[0].hyperparameters) {
        return Ok(None);
    }
    let lease = device.lease(&source, tasks.len(), data)?;
    let program = device.program(&source, |program| check(device, &source, program, tasks, data))?;
    Ok(Some(Box::new(DeviceCohort::new(device, source, program, lease, tasks, data, from)?)))
}

/// Trains two models for some steps on the device and on the processor, and compares their bits.
fn check(
    device: &Arc<Device>,
    source: &Arc<Source>,
    program: &Arc<dyn Program>,
    tasks: &[Task],
    data: &Dataset,
) -> Result<(), DeviceError> {
    let tasks = &tasks[..tasks.len().min(2)];
    let samples = data.len(Split::Train).min(CHECKED).min(2 * tasks[0].hyperparameters.batch_size + 1);
    let order = |m: u32| (0..samples as u32).map(|s| (s + m) % samples as u32).collect();
    let orders: Vec<Vec<u32>> = (0..tasks.len() as u32).map(order).collect();
    let test = 0..data.len(Split::Test).min(2);
    let outcome = |mut cohort: Box<dyn Cohort + '_>| -> Result<_, CohortError> {
        let scores = cohort.train(1, &orders, &Interrupt::default())?;
        Ok((cohort.snapshots()?, scores, cohort.logits(Split::Test, test.clone())?))
    };
    let no_interruption = |error: CohortError| match error {
        CohortError::Device(error) => error,
        CohortError::Interrupted(_) => unreachable!("nothing interrupts it"),
    };
    // Its room is part of that of the cohort that comes after.
    let lease = Lease::none(device);
    let on_device = DeviceCohort::new(device, source.clone(), program.clone(), lease, tasks, data, None)?;
    let found = outcome(Box::new(on_device)).map_err(no_interruption)?;
    let processor = PopulationEngine::with(InstructionSet::best());
    let expected = outcome(processor.start(tasks, data, None)?).map_err(no_interruption)?;
    let differs = |what: &str| Err(DeviceError::OtherBits { device: device.driver.name(), what: what.into() });
    if found.0.iter().map(snapshot_bits).ne(expected.0.iter().map(snapshot_bits)) {
        return differs("states after some steps of training");
    }
    let losses = |scores: &[Score]| scores.iter().map(|s| [bits(s.loss), bits(s.accuracy)]).collect::<Vec<_>>();
    if losses(&found.1) != losses(&expected.1) {
        return differs("losses while training");
    }
    let all = |logits: &[Vec<f64>]| logits.iter().flatten().map(|&l| bits(l)).collect::<Vec<_>>();
    if all(&found.2) != all(&expected.2) {
        return differs("logits");
    }
    Ok(())
}

/// Bits of a value; of any NaN, the same.
fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN } else { value }.to_bits()
}

fn snapshot_bits(snapshot: &Snapshot) -> (u64, Vec<u64>) {
    let values = snapshot.moments.iter().flatten().chain(&snapshot.parameters);
    (snapshot.step, values.map(|&x| bits(x)).collect())
}

#[cfg(test)]
mod tests {
    use super::emulated::Emulated;
    use super::*;
    use crate::engine::Mask;
    use crate::magnitude::{Ramp, Scope};
    use crate::trajectory::{self, Job, Progress, Trajectory};
    use crate::variational::Variational;
    use zoo_model::init::initial_parameters;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Architecture, Init};
    use zoo_stage::Interrupted;

    fn tasks(models: u64, batch_size: usize, mask: Option<Mask>) -> Vec<Task> {
        let task = |seed| {
            let h = Hyperparameters {
                seed,
                batch_size,
                init: Init::KaimingUniform,
                learning_rate: 1e-3,
                epochs: 3,
                ..Hyperparameters::default()
            };
            let network = h.network([1, 28, 28], 10).unwrap();
            let initial = initial_parameters(&network, h.init, seed);
            Task { network, hyperparameters: h, initial, mask: mask.clone(), epochs_before: 2 }
        };
        (0..models).map(task).collect()
    }

    fn emulated(device: Emulated) -> PopulationEngine {
        PopulationEngine::on(vec![Device::new(Box::new(device)).unwrap()])
    }

    /// Trains for three epochs; interrupted after one if asked to, and gone on from there.
    fn train(engine: &PopulationEngine, tasks: &[Task], data: &Dataset, is_interrupted: bool) -> Vec<Trajectory> {
        let jobs: Vec<Job> = tasks.iter().map(|t| Job { task: t.clone(), annotate: None }).collect();
        let mut progress = Progress::default();
        let mut train = |mut after: Option<Interrupted>| {
            trajectory::train(engine, &jobs, data, &[0, 1, 3], &mut progress, &Interrupt::default(), |_| {
                after.take().map_or(Ok(()), |interrupted| Err(CohortError::from(interrupted)))
            })
        };
        if is_interrupted {
            assert_eq!(train(Some(Interrupted)), Err(Interrupted.into()));
        }
        train(None).unwrap()
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

    #[test]
    fn cohorts_are_united_and_split_by_the_room_there_is() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let small = Hyperparameters { batch_size: 4, ..Hyperparameters::default() };
        let other = Hyperparameters { batch_size: 5, ..small.clone() };
        let models: Vec<&Hyperparameters> = (0..100).map(|i| if i % 10 == 0 { &other } else { &small }).collect();
        let sizes = |free_bytes| {
            let engine = emulated(Emulated { free_bytes, ..Emulated::default() });
            let (cohorts, _) = engine.arrange(engine.cohorts(&models), &models, false, &data, 2)?;
            let mut all: Vec<usize> = cohorts.concat();
            all.sort_unstable();
            assert!(all == (0..100).collect::<Vec<_>>());
            assert!(cohorts.iter().all(|c| c.iter().all(|&m| models[m].batch_size == models[c[0]].batch_size)));
            let mut sizes: Vec<usize> = cohorts.iter().map(Vec::len).collect();
            sizes.sort_unstable();
            Ok::<_, DeviceError>(sizes)
        };
        assert_eq!(sizes(1 << 30).unwrap(), [10, 90]);
        assert_eq!(sizes(6 << 20).unwrap().iter().sum::<usize>(), 100);
        assert!(sizes(6 << 20).unwrap().len() > 2);
        assert!(matches!(sizes(1 << 10), Err(DeviceError::OutOfMemory { .. })));
    }

    #[test]
    fn cohorts_are_spread_over_the_devices() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let devices: Vec<Arc<Device>> = (0..2).map(|_| Device::new(Box::new(Emulated::default())).unwrap()).collect();
        let engine = PopulationEngine::on(devices.clone());
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
        let source = source(&h, &h.network([3, 32, 32], 10).unwrap()).unwrap();
        assert!(source.shared_bytes < 227 << 10, "{}", source.shared_bytes);
        let h = Hyperparameters { architecture: Architecture::Mlp, ..h };
        assert_eq!(super::source(&h, &h.network([3, 32, 32], 10).unwrap()), None);
    }
}
