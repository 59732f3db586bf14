//! The diversity of a zoo, as the paper defines it: spread of performance, of weights, of
//! predictions and of representations.

mod behaviour;
mod distances;
mod distribution;
mod performance;
mod tensors;
mod trajectories;
mod twins;

use serde::Serialize;
use zoo_model::stage::Stage;
use zoo_model::{Dataset, Params};

use crate::zoo_reader::{Model, ZooReader};
use crate::AnalyzeError;
pub use behaviour::Behaviour;
pub use distances::WeightDistances;
pub use distribution::Distribution;
pub use performance::{ByHyperparameter, Performance};
pub use tensors::TensorOverTime;
pub use trajectories::{Map, MapPoint};
pub use twins::TwinZoo;

/// Maximum number of models whose last states are compared pair by pair; of more, evenly spaced ones are.
const MAX_COMPARED_MODELS: usize = 128;
/// Maximum number of models in the map of trajectories.
const MAX_TRAJECTORIES: usize = 96;
/// Maximum number of scalars of states kept in memory for comparisons, and again for the map.
const MAX_VALUES_IN_MEMORY: usize = 1 << 26;

/// All analyses of a zoo's diversity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diversity {
    /// Performance by epoch, of states whose test accuracy is known.
    pub epochs: Vec<(u32, Performance)>,
    /// Performance by hyperparameter value; those that all models share are left out.
    pub hyperparameters: Vec<ByHyperparameter>,
    /// Hyperparameters that all models share.
    pub shared: Vec<(String, String)>,
    /// Distances of weights.
    pub weights: Option<WeightDistances>,
    /// Agreement and CKA, if the dataset was given.
    pub behaviour: Option<Behaviour>,
    /// Weights over time.
    pub tensors: Vec<TensorOverTime>,
    /// The map of trajectories.
    pub map: Option<Map>,
    /// Twin zoos.
    pub twins: Vec<TwinZoo>,
}

/// The last states of evenly spaced models, and where they come from.
#[derive(Default)]
struct LastStates {
    params: Vec<Params>,
    states: Vec<Vec<f32>>,
}

/// Gathers what diversity is computed from, model by model.
pub struct Collector {
    models: usize,
    parameters: usize,
    seen: usize,
    performance: performance::Collector,
    tensors: tensors::Collector,
    last: LastStates,
    trajectories: Vec<trajectories::State>,
}

/// Whether model `index` of `of` is one of at most `max` evenly spaced ones.
fn is_chosen(index: usize, of: usize, max: usize) -> bool {
    index.is_multiple_of(of.div_ceil(max.max(1)).max(1))
}

impl Collector {
    /// Without any model yet.
    pub fn new(zoo: &ZooReader) -> Self {
        Self {
            models: zoo.ids().len(),
            parameters: zoo.record().parameters.max(1),
            seen: 0,
            performance: performance::Collector::default(),
            tensors: tensors::Collector::default(),
            last: LastStates::default(),
            trajectories: Vec::new(),
        }
    }

    /// Adds a model; `statistics` are those of its states.
    pub fn add(&mut self, model: &Model, statistics: &[Vec<f64>]) {
        let index = self.seen;
        self.seen += 1;
        self.performance.add(model);
        self.tensors.add(model, statistics);
        let finite = |state: &[f32]| state.iter().all(|v| v.is_finite());
        let compared = MAX_COMPARED_MODELS.min(MAX_VALUES_IN_MEMORY / self.parameters);
        if let (true, Some(state)) = (is_chosen(index, self.models, compared), model.states.last()) {
            if finite(state) && self.last.states.len() < compared {
                self.last.params.push(model.params.clone());
                self.last.states.push(state.clone());
            }
        }
        let drawn = MAX_TRAJECTORIES.min(MAX_VALUES_IN_MEMORY / self.parameters / model.states.len().max(1));
        if is_chosen(index, self.models, drawn) && drawn > 0 {
            for (line, state) in model.lines.iter().zip(&model.states).filter(|(_, state)| finite(state)) {
                self.trajectories.push(trajectories::State {
                    id: model.params.id,
                    epoch: line.training_iteration,
                    accuracy: line.test_acc,
                    weights: state.clone(),
                });
            }
        }
    }

    /// Computes all analyses. `data` must be the dataset of the zoo and its twins, and `twins` must be
    /// twins of this zoo; what they lack goes to `notes`.
    ///
    /// # Errors
    /// A twin cannot be read or has no model, or the stage is interrupted.
    pub fn finish(
        self,
        zoo: &ZooReader,
        data: Option<&Dataset>,
        twins: &[ZooReader],
        notes: &mut Vec<String>,
        stage: &Stage,
    ) -> Result<Diversity, AnalyzeError> {
        let (hyperparameters, shared) = self.performance.by_hyperparameter();
        let behaviour = data.map(|data| behaviour::behaviour(&self.last, data, stage)).transpose()?.flatten();
        let accuracies = &self.performance.last_accuracy;
        let twins = twins.iter().map(|twin| twins::twin_zoo(zoo, twin, data, accuracies, notes, stage));
        let twins = twins.collect::<Result<_, _>>()?;
        Ok(Diversity {
            epochs: self.performance.by_epoch(),
            hyperparameters,
            shared,
            weights: distances::weight_distances(&self.last.states),
            behaviour,
            tensors: self.tensors.finish(),
            map: trajectories::trajectory_map(&self.trajectories),
            twins,
        })
    }
}
