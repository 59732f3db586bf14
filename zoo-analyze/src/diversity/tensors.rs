//! Weights over time: mean and standard deviation of every tensor.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Distribution;
use crate::statistics::{tensor_names, STATISTICS};
use crate::zoo_reader::Model;

/// Median over all models of the statistics of a tensor after every epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorOverTime {
    /// Layer and kind, such as `1.weight`.
    pub tensor: String,
    /// (epoch, median of the means, median of the standard deviations).
    pub epochs: Vec<(u32, f64, f64)>,
}

/// Statistics of a tensor after an epoch: one value per model.
#[derive(Default)]
struct Values {
    means: Vec<f64>,
    deviations: Vec<f64>,
}

/// Gathers the statistics of all models.
#[derive(Default)]
pub(super) struct Collector {
    names: Vec<String>,
    /// By epoch and tensor.
    values: BTreeMap<u32, Vec<Values>>,
}

impl Collector {
    /// Adds a model; `statistics` are those of its states.
    pub fn add(&mut self, model: &Model, statistics: &[Vec<f64>]) {
        if self.names.is_empty() {
            self.names = tensor_names(&model.network);
        }
        for (line, statistics) in model.lines.iter().zip(statistics) {
            if line.diverged || !statistics.iter().all(|s| s.is_finite()) {
                continue;
            }
            let of_epoch = self.values.entry(line.training_iteration).or_default();
            of_epoch.resize_with(self.names.len(), Default::default);
            for (values, of_tensor) in of_epoch.iter_mut().zip(statistics.chunks_exact(STATISTICS.len())) {
                let (mean, variance) = (of_tensor[0], of_tensor[1]);
                values.means.push(mean);
                values.deviations.push(variance.sqrt());
            }
        }
    }

    pub fn finish(&self) -> Vec<TensorOverTime> {
        let median = |values: &[f64]| Distribution::of(values.iter().copied()).map_or(f64::NAN, |d| d.median());
        let over_time = self.names.iter().enumerate().map(|(i, tensor)| {
            let epochs = self.values.iter().map(|(&e, of)| (e, median(&of[i].means), median(&of[i].deviations)));
            TensorOverTime { tensor: tensor.clone(), epochs: epochs.collect() }
        });
        over_time.collect()
    }
}
