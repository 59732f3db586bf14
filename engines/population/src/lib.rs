//! Populations: on the CPU one model per lane, on CUDA devices one per block ([`cuda`]).
//!
//! On the CPU, a cohort's models go through the same places of their mini-batches in lock-step; each parameter,
//! activation and moment is a vector whose lane is the model ([`zoo_engine_simd`]). A lane computes the same
//! sequence of IEEE operations whatever its neighbours, the width of the vectors and the processor:
//! the bits of a model are those of `reference.rs`, which spells the sequence out.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`layers`] | the network as a list of convolutions |
//! | [`kernels`] | a layer's arithmetic |
//! | [`dropout`] | masks |
//! | [`noise`] | variational dropout |
//! | [`rows`] | buffers with each model's values side by side |
//! | [`lanes`] | models side by side: training step and evaluation |
//! | [`reference`] | one model in plain scalar code: the oracle of all the others |
//! | [`cuda`] | the same on CUDA devices |

pub mod cuda;
pub mod dropout;
pub mod kernels;
pub mod lanes;
pub mod layers;
pub mod noise;
#[cfg(feature = "testing")]
pub mod reference;
pub mod rows;

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;
use zoo_model::stage::Interrupt;
use zoo_model::{Activation, Architecture, Dataset, Optimizer, Schedule, Split};

use zoo_engine::metrics::Tally;
use zoo_engine::{
    BatchPlan, BuiltEngine, Cohort, DeviceError, DeviceName, Engine, EngineError, EngineFactory, ModelSpec, Snapshot,
    Sparsification, Task,
};

use dropout::Draw;
use lanes::Lanes;
use zoo_engine_cuda::{fallback, Device, Fallback};
#[cfg(target_arch = "x86_64")]
use zoo_engine_simd::{Avx2, Avx512};
use zoo_engine_simd::{InstructionSet, Portable, Simd};

/// Maximum number of models in a cohort: the lanes of the widest vectors. Narrower ones take them in groups.
pub const COHORT: usize = 16;

/// The population engine. The bits do not depend on the device.
#[derive(Clone)]
pub struct PopulationEngine {
    instructions: InstructionSet,
    /// None: all is done on the CPU.
    devices: Vec<Arc<Device>>,
    fallback: Fallback,
}

impl PopulationEngine {
    /// With the instructions of [`InstructionSet::chosen`].
    pub fn new() -> Self {
        Self::with(InstructionSet::chosen())
    }

    /// With these instructions, or the best of this processor if it does not have them.
    pub fn with(instructions: InstructionSet) -> Self {
        let available = instructions.is_available();
        Self {
            instructions: if available { instructions } else { InstructionSet::best() },
            devices: Vec::new(),
            fallback: Fallback::default(),
        }
    }

    /// On these devices, as far as they train what is to be trained: not variational dropout, which
    /// is left to the CPU.
    pub fn with_devices(devices: Vec<Arc<Device>>) -> Self {
        Self::on(devices, Fallback::none())
    }

    /// On these devices, or on the processor if there are none; what they fail at as `fallback` says.
    pub fn on(devices: Vec<Arc<Device>>, fallback: Fallback) -> Self {
        Self { devices, fallback, ..Self::new() }
    }

    /// The instructions in use.
    pub fn instructions(&self) -> InstructionSet {
        self.instructions
    }
}

impl Default for PopulationEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for PopulationEngine {
    fn name(&self) -> &'static str {
        "population"
    }

    fn version(&self) -> String {
        "4".into()
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        let mut open: HashMap<Kind, usize> = HashMap::new();
        let mut cohorts: Vec<Vec<usize>> = Vec::new();
        for (i, model) in models.iter().enumerate() {
            let kind = Kind::of(model);
            let cohort = *open.entry(kind).or_insert_with(|| {
                cohorts.push(Vec::new());
                cohorts.len() - 1
            });
            cohorts[cohort].push(i);
            if cohorts[cohort].len() == COHORT {
                open.remove(&kind);
            }
        }
        cohorts
    }

    fn plan_batches(
        &self,
        cohorts: Vec<Vec<usize>>,
        models: &[&ModelSpec],
        data: &Dataset,
        threads: usize,
    ) -> Result<BatchPlan, DeviceError> {
        let united = match self.merge_cohorts(&cohorts, models, data) {
            Ok(united) => united,
            Err(error) => self.fallback.fall_back(error).map(|()| None)?,
        };
        Ok(match united {
            Some(batches) => BatchPlan {
                batches,
                concurrency: threads.max(self.devices.len() * cuda::CONCURRENT_BATCHES_PER_DEVICE),
                parallelism: self.devices.len(),
            },
            // A vector's width at a time, so that no thread waits while another has several.
            None => {
                let lanes = self.instructions.lanes();
                let batches = cohorts.iter().flat_map(|cohort| cohort.chunks(lanes).map(<[usize]>::to_vec));
                BatchPlan { batches: batches.collect(), concurrency: threads, parallelism: threads }
            }
        })
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        match cuda::start(&self.devices, tasks, data, from) {
            Ok(Some(cohort)) => return Ok(cohort),
            Ok(None) => {}
            Err(error) => self.fallback.fall_back(error)?,
        }
        Ok(match self.instructions {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => start(Avx512::detect().expect("available"), tasks, data, from),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => start(Avx2::detect().expect("available"), tasks, data, from),
            _ => start(Portable::<8>, tasks, data, from),
        })
    }
}

impl PopulationEngine {
    /// Cohorts united to as many models as the devices take at once; `None` if there are no devices or
    /// they do not train these models.
    fn merge_cohorts(
        &self,
        cohorts: &[Vec<usize>],
        models: &[&ModelSpec],
        data: &Dataset,
    ) -> Result<Option<Vec<Vec<usize>>>, DeviceError> {
        if self.devices.is_empty() || models.iter().any(|m| m.sparsification != Sparsification::Masks) {
            return Ok(None);
        }
        let mut kinds: HashMap<Kind, Vec<usize>> = HashMap::new();
        for &model in cohorts.iter().flatten() {
            kinds.entry(Kind::of(models[model])).or_default().push(model);
        }
        let mut kinds: Vec<Vec<usize>> = kinds.into_values().collect();
        kinds.sort_unstable_by_key(|models| models[0]);
        // Compiling takes seconds for each.
        let max_models = |of_kind: &Vec<usize>| {
            let h = &models[of_kind[0]].hyperparameters;
            match h.network(data.shape, data.classes()) {
                Ok(network) => cuda::max_models(&self.devices, h, &network, data),
                // One that does not fit the images is reported when it is trained.
                Err(_) => Ok(None),
            }
        };
        let max_models: Option<Vec<usize>> = kinds.par_iter().map(max_models).collect::<Result<_, _>>()?;
        let Some(max_models) = max_models else { return Ok(None) };
        let mut united: Vec<Vec<usize>> = Vec::new();
        for (of_kind, max) in kinds.iter().zip(max_models) {
            // Every device has something to do.
            let share = of_kind.len().div_ceil(self.devices.len());
            united.extend(of_kind.chunks(max.min(cuda::MODELS_PER_LAUNCH).min(share)).map(<[usize]>::to_vec));
        }
        Ok(Some(united))
    }
}

/// Makes population engines.
pub struct PopulationFactory;

impl EngineFactory for PopulationFactory {
    fn name(&self) -> &'static str {
        "population"
    }

    fn about(&self) -> &'static str {
        "Cohorts of models in the lanes of vectors: cnn-s and cnn-m"
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn build(&self, device: DeviceName) -> Result<BuiltEngine, DeviceError> {
        fallback::build(device, PopulationEngine::on)
    }
}

fn trains(ModelSpec { hyperparameters: h, sparsification }: &ModelSpec) -> bool {
    let network = match h.architecture {
        Architecture::CnnS | Architecture::CnnM => true,
        Architecture::Resnet18 | Architecture::Mlp => false,
    };
    let schedule = match h.schedule {
        Schedule::Constant => true,
        Schedule::OneCycle => false,
    };
    let optimizer = match h.optimizer {
        Optimizer::Adam | Optimizer::Sgd => true,
    };
    let sparsification = match sparsification {
        Sparsification::Masks | Sparsification::VariationalDropout => true,
    };
    network && schedule && optimizer && sparsification && h.augmentation.is_none()
}

/// What models of a cohort have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    architecture: Architecture,
    activation: Activation,
    optimizer: Optimizer,
    has_dropout: bool,
    batch_size: usize,
    epochs: u32,
}

impl Kind {
    fn of(model: &ModelSpec) -> Self {
        let h = &model.hyperparameters;
        Self {
            architecture: h.architecture,
            activation: h.activation,
            optimizer: h.optimizer,
            has_dropout: h.dropout > 0.0,
            batch_size: h.batch_size,
            epochs: h.epochs,
        }
    }
}

fn start<'d, S: Simd>(s: S, tasks: &[Task], data: &'d Dataset, from: Option<&[Snapshot]>) -> Box<dyn Cohort + 'd> {
    let groups = tasks.chunks(S::LANES).enumerate().map(|(g, tasks)| {
        let layers = layers::layers(&tasks[0].network).expect("the architectures are of the engine's kind");
        let from = from.map(|f| &f[g * S::LANES..][..tasks.len()]);
        Lanes::new(s, layers, tasks, from, data)
    });
    Box::new(Groups { groups: groups.collect(), tasks: tasks.to_vec(), data })
}

/// A cohort as groups of as many models as there are lanes.
struct Groups<'d, S: Simd> {
    groups: Vec<Lanes<S>>,
    tasks: Vec<Task>,
    data: &'d Dataset,
}

impl<S: Simd> Cohort for Groups<'_, S> {
    fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    fn data(&self) -> &Dataset {
        self.data
    }

    fn train(
        &mut self,
        epoch: u32,
        first_step: u32,
        orders: &[Vec<u32>],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tally>, EngineError> {
        let batch_size = self.tasks[0].hyperparameters.batch_size;
        let mut tallies = vec![Tally::default(); self.tasks.len()];
        for (group, (orders, tallies)) in
            self.groups.iter_mut().zip(orders.chunks(S::LANES).zip(tallies.chunks_mut(S::LANES)))
        {
            for (step, start) in (first_step..).zip((0..orders[0].len()).step_by(batch_size)) {
                interrupt.check()?;
                let end = orders[0].len().min(start + batch_size);
                let batches: Vec<&[u32]> = orders.iter().map(|o| &o[start..end]).collect();
                let draw = Draw { epoch, step };
                group.train_batch(self.data, &batches, draw, |model, logits, label| {
                    tallies[model].add(logits, &[label]);
                });
            }
        }
        Ok(tallies)
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        let data = self.data;
        let each = |group: &mut Lanes<S>| group.batch_gradients(data, &vec![samples; group.models()]);
        Ok(self.groups.iter_mut().flat_map(each).collect())
    }

    fn logits(&mut self, split: Split, range: std::ops::Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        let mut logits = vec![Vec::new(); self.tasks.len()];
        for (group, logits) in self.groups.iter_mut().zip(logits.chunks_mut(S::LANES)) {
            let trained = group.apply_variational_mask();
            for sample in range.clone() {
                group.logits(self.data, split, sample, |model, row| logits[model].extend_from_slice(row));
            }
            group.restore(trained);
        }
        Ok(logits)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        Ok(self.groups.iter().flat_map(Lanes::snapshots).collect())
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        for (group, masks) in self.groups.iter_mut().zip(masks.chunks(S::LANES)) {
            group.prune(masks);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::Hyperparameters;

    #[test]
    fn a_cohort_is_divided_into_batches_of_a_vectors_width() {
        let data = noise_dataset([1, 28, 28], 10, 1);
        let model = ModelSpec::from(Hyperparameters::default());
        let models = [&model; 19];
        for (instructions, sizes) in [(InstructionSet::Avx512, &[16, 3][..]), (InstructionSet::Portable, &[8, 8, 3])] {
            // Planning needs no processor that has the instructions.
            let engine = PopulationEngine { instructions, ..PopulationEngine::new() };
            let cohorts = engine.cohorts(&models);
            assert_eq!(cohorts.iter().map(Vec::len).collect::<Vec<_>>(), [16, 3]);
            let BatchPlan { batches, concurrency, .. } = engine.plan_batches(cohorts, &models, &data, 2).unwrap();
            assert_eq!((batches.iter().map(Vec::len).collect::<Vec<_>>().as_slice(), concurrency), (sizes, 2));
            assert!(batches.concat().into_iter().eq(0..19));
        }
    }
}
