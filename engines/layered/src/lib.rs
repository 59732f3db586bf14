//! Layer by layer: every architecture, one model at a time over whole mini-batches, in float32.
//!
//! The bits of a model do not depend on the processor, its threads or the device: the order of every
//! sum is fixed by shapes.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`graph`] | a network as a list of operations |
//! | [`geometry`] | the shapes of what they work on, and the order of sums |
//! | [`cuda`] | CUDA devices |
//! | [`kernels`] | what is needed of a device |
//! | [`cpu`] | a processor |
//! | [`mod@reference`] | the same in plain scalar code: the oracle of all devices |
//! | [`storage`] | parameters as a device stores them |
//! | [`model`] | one model: its parameters, and a mini-batch on its way through them |
//! | [`noise`] | variational dropout |
//! | [`cohort`] | training steps and evaluation |

pub mod cohort;
pub mod cpu;
pub mod cuda;
pub mod geometry;
pub mod graph;
pub mod kernels;
pub mod model;
pub mod noise;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod storage;

use std::collections::HashMap;
use std::sync::Arc;

use zoo_engine::{
    BatchPlan, BuiltEngine, Cohort, DeviceError, DeviceName, Engine, EngineFactory, ModelSpec, Snapshot,
    Sparsification, Task,
};
use zoo_engine_cuda::{fallback, Device, Fallback};
#[cfg(target_arch = "x86_64")]
use zoo_engine_simd::{Avx2, Avx512};
use zoo_engine_simd::{InstructionSet, Portable};
use zoo_model::{Dataset, Hyperparameters, Network, Optimizer, Schedule};

use cohort::Models;
use cpu::Cpu;
use cuda::devices::{Devices, MODELS_PER_DEVICE};
use graph::Graph;

/// Multiply-adds of a mini-batch's forward pass from which all threads work on one model, and a GPU is
/// worth its launches.
const LARGE: usize = 1 << 28;

/// Whether a model's mini-batches are that large.
fn is_large(h: &Hyperparameters, network: &Network) -> bool {
    Graph::new(network).multiply_adds() * h.batch_size >= LARGE
}

/// The layered engine.
#[derive(Clone)]
pub struct LayeredEngine {
    instructions: InstructionSet,
    devices: Devices,
    fallback: Fallback,
}

impl LayeredEngine {
    /// With the best instructions of this processor, or those that `ZOO_SIMD` names.
    pub fn new() -> Self {
        Self::with(InstructionSet::chosen())
    }

    /// With these instructions, or the best of this processor if it does not have them.
    pub fn with(instructions: InstructionSet) -> Self {
        let is_available = instructions.is_available();
        Self {
            instructions: if is_available { instructions } else { InstructionSet::best() },
            devices: Devices::default(),
            fallback: Fallback::default(),
        }
    }

    /// On these devices.
    pub fn with_devices(devices: Vec<Arc<Device>>) -> Self {
        Self::on(devices, Fallback::none())
    }

    /// On these devices, or on the processor if there are none; what they fail at as `fallback` says.
    pub fn on(devices: Vec<Arc<Device>>, fallback: Fallback) -> Self {
        Self { devices: Devices::new(devices), fallback, ..Self::new() }
    }

    /// Whether models like this are trained on the devices: those that are preferred and not required take
    /// what is worth it.
    fn uses_devices(&self, h: &Hyperparameters, network: &Network) -> bool {
        self.fallback.is_required || is_large(h, network)
    }

    /// How many of these models the devices train at a time; `None` if the processor trains them.
    fn models_at_a_time(&self, models: &[&ModelSpec], data: &Dataset) -> Result<Option<usize>, DeviceError> {
        if self.devices.is_empty() {
            return Ok(None);
        }
        let fits = |m: &&ModelSpec| m.hyperparameters.network(data.shape, data.classes()).ok();
        if models.iter().any(|m| fits(m).is_some_and(|network| !self.uses_devices(&m.hyperparameters, &network))) {
            return Ok(None);
        }
        let mut kinds = HashMap::new();
        for model in models {
            let h = &model.hyperparameters;
            let is_noisy = model.sparsification == Sparsification::VariationalDropout;
            let kind = (h.architecture, h.hidden.clone(), h.activation, h.optimizer, h.batch_size, is_noisy);
            kinds.entry(format!("{kind:?} {}", h.dropout > 0.0)).or_insert((h, is_noisy));
        }
        let most = self.devices.len() * MODELS_PER_DEVICE;
        let of_kind = |(h, is_noisy): (&Hyperparameters, bool)| match h.network(data.shape, data.classes()) {
            Ok(network) => self.devices.models_at_a_time(h, &network, data, is_noisy),
            // One that does not fit the images is reported when it is trained.
            Err(_) => Ok(most),
        };
        let fewest = kinds.into_values().try_fold(most, |fewest, kind| Ok(fewest.min(of_kind(kind)?)));
        match fewest {
            Ok(fewest) => Ok(Some(fewest)),
            Err(error) => self.fallback.fall_back(error).map(|()| None),
        }
    }
}

impl Default for LayeredEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for LayeredEngine {
    fn name(&self) -> &'static str {
        "layered"
    }

    fn version(&self) -> String {
        "1".into()
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        (0..models.len()).map(|i| vec![i]).collect()
    }

    fn plan_batches(
        &self,
        cohorts: Vec<Vec<usize>>,
        models: &[&ModelSpec],
        data: &Dataset,
        threads: usize,
    ) -> Result<BatchPlan, DeviceError> {
        let used: Vec<&ModelSpec> = cohorts.iter().flatten().map(|&model| models[model]).collect();
        if let Some(concurrency) = self.models_at_a_time(&used, data)? {
            return Ok(BatchPlan { batches: cohorts, concurrency, parallelism: self.devices.len() });
        }
        let shares = used.iter().any(|model| {
            let h = &model.hyperparameters;
            // One that does not fit the images is reported when it is trained.
            h.network(data.shape, data.classes()).is_ok_and(|network| is_large(h, &network))
        });
        let concurrency = if shares { 1 } else { threads };
        Ok(BatchPlan { batches: cohorts, concurrency, parallelism: concurrency })
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        if self.uses_devices(&tasks[0].hyperparameters, &tasks[0].network) {
            match self.devices.start(tasks, data, from) {
                Ok(Some(cohort)) => return Ok(cohort),
                Ok(None) => {}
                Err(error) => self.fallback.fall_back(error)?,
            }
        }
        Ok(match self.instructions {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => {
                Box::new(Models::new(|| Ok(Cpu(Avx512::detect().expect("available"))), tasks, data, from)?)
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => {
                Box::new(Models::new(|| Ok(Cpu(Avx2::detect().expect("available"))), tasks, data, from)?)
            }
            _ => Box::new(Models::new(|| Ok(Cpu(Portable::<8>)), tasks, data, from)?),
        })
    }
}

/// Makes layered engines.
pub struct LayeredFactory;

impl EngineFactory for LayeredFactory {
    fn name(&self) -> &'static str {
        "layered"
    }

    fn about(&self) -> &'static str {
        "Layer by layer over whole mini-batches: every architecture"
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn build(&self, device: DeviceName) -> Result<BuiltEngine, DeviceError> {
        fallback::build(device, LayeredEngine::on)
    }
}

/// Every model; exhaustive, so that a new optimiser or schedule is not trained as another.
fn trains(ModelSpec { hyperparameters: h, sparsification }: &ModelSpec) -> bool {
    let optimizer = match h.optimizer {
        Optimizer::Adam | Optimizer::Sgd => true,
    };
    let schedule = match h.schedule {
        Schedule::Constant | Schedule::OneCycle => true,
    };
    let sparsification = match sparsification {
        Sparsification::Masks | Sparsification::VariationalDropout => true,
    };
    optimizer && schedule && sparsification
}
