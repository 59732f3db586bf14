//! Layer by layer: every architecture, one model at a time over whole mini-batches, in float32.
//!
//! The bits of a model do not depend on the processor, its threads or the device: the order of every
//! sum is fixed by shapes.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`graph`] | a network as a list of operations |
//! | [`geometry`] | the shapes of what they work on, and the order of sums |
//! | [`kernels`] | what is needed of a device |
//! | [`cpu`] | a processor |
//! | [`mod@reference`] | the same in plain scalar code: the oracle of all devices |
//! | [`storage`] | parameters as a device stores them |
//! | [`model`] | one model: its parameters, and a mini-batch on its way through them |
//! | [`noise`] | variational dropout |
//! | [`cohort`] | training steps and evaluation |

pub mod cohort;
pub mod cpu;
pub mod geometry;
pub mod graph;
pub mod kernels;
pub mod model;
pub mod noise;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod storage;

use zoo_engine::{
    BatchPlan, BuiltEngine, Cohort, DeviceError, DeviceName, Engine, EngineFactory, ModelSpec, Snapshot,
    Sparsification, Task,
};
#[cfg(target_arch = "x86_64")]
use zoo_engine_simd::{Avx2, Avx512};
use zoo_engine_simd::{InstructionSet, Portable};
use zoo_model::{Dataset, Optimizer, Schedule};

use cohort::Models;
use cpu::Cpu;
use graph::Graph;

/// Multiply-adds of a mini-batch's forward pass from which all threads work on one model.
const SHARED_WORK: usize = 1 << 28;

/// The layered engine.
#[derive(Debug, Clone, Copy)]
pub struct LayeredEngine {
    instructions: InstructionSet,
}

impl LayeredEngine {
    /// With the best instructions of this processor, or those that `ZOO_SIMD` names.
    pub fn new() -> Self {
        Self { instructions: InstructionSet::chosen() }
    }

    /// With these instructions, or the best of this processor if it does not have them.
    pub fn with(instructions: InstructionSet) -> Self {
        let is_available = instructions.is_available();
        Self { instructions: if is_available { instructions } else { InstructionSet::best() } }
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
        let is_large = |&model: &usize| {
            let h = &models[model].hyperparameters;
            let network = h.network(data.shape, data.classes());
            // One that does not fit the images is reported when it is trained.
            network.is_ok_and(|network| Graph::new(&network).multiply_adds() * h.batch_size >= SHARED_WORK)
        };
        let shares = cohorts.iter().flatten().any(is_large);
        let concurrency = if shares { 1 } else { threads };
        Ok(BatchPlan { batches: cohorts, concurrency, parallelism: concurrency })
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
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
        match device {
            DeviceName::Auto | DeviceName::Cpu => Ok(LayeredEngine::new().into()),
            DeviceName::Cuda(_) => Err(DeviceError::Unavailable("the layered engine has no CUDA yet".into())),
        }
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
