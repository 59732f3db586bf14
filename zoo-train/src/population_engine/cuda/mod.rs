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
        if source.shared_bytes > device.driver.shared_bytes() {
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
    if source.shared_bytes > device.driver.shared_bytes() {
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
