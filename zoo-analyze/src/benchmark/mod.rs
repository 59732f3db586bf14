//! Downstream benchmarks: properties of a model predicted from its weights.
//!
//! After the published baselines (Schürholt et al., 2022, section 5): linear probes on the weights
//! w and on the layer [statistics](crate::statistics) s(w), with the models split into train,
//! validation and test; and gradient-boosted trees on s(w). Continuous properties are scored by
//! R^2 and Kendall's tau, categories by accuracy, all on the test split, over all kept states.
//!
//! Ridge regressions and ridge classifiers (one target of -1 and 1 per category, the largest wins)
//! use the penalty among [`LAMBDAS`] that is best on the validation split, separately for each target.

mod collector;
mod display;
mod predictions;
mod properties;
mod scoring;
mod split;
mod trees;

use serde::Serialize;
use zoo_model::dataset::PerSplit;
use zoo_model::stage::Stage;

use crate::statistics::all_statistics;
use crate::zoo_reader::{Skipped, ZooReader};
use crate::AnalyzeError;
pub use collector::Collector;
pub use split::split_models;

/// The penalties that ridge regression is tried with.
pub const LAMBDAS: [f64; 9] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3];

/// Maximum number of parameters for which w is used: X'X takes its square in memory, eight bytes each.
pub const MAX_WEIGHT_FEATURES: usize = 12_000;

/// Seed of the split, unless another is given: the Python package's.
pub const SPLIT_SEED: u64 = 42;

/// How to benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Seed of the split.
    pub seed: u64,
    /// Whether tree models are fitted.
    pub trees: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: SPLIT_SEED, trees: true }
    }
}

/// What predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// Ridge regression, or ridge classification, on the weights.
    RidgeWeights,
    /// The same on layer statistics.
    RidgeStatistics,
    /// Gradient-boosted trees on layer statistics.
    TreesStatistics,
}

/// How well one property is predicted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// What is predicted.
    pub property: &'static str,
    /// By what.
    pub predictor: Predictor,
    /// R^2 on the test split, of continuous properties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// Kendall's tau-b on the test split, of continuous properties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kendall_tau: Option<f64>,
    /// Accuracy on the test split, of categories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Fraction of the test split in the most frequent category of the train split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<f64>,
    /// The ridge penalty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
}

/// The results of a zoo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Benchmark {
    /// Name of the zoo.
    pub zoo: String,
    /// Seed of the split.
    pub seed: u64,
    /// Models in train, validation and test.
    pub models: PerSplit<usize>,
    /// States in train, validation and test.
    pub states: PerSplit<usize>,
    /// States left out because they diverged, are not finite or have no metrics.
    pub states_left_out: usize,
    /// Models left out because they cannot be read.
    pub skipped: Vec<Skipped>,
    /// Why a predictor is missing.
    pub notes: Vec<String>,
    /// All scores, by property.
    pub scores: Vec<Score>,
}

impl Benchmark {
    /// The properties that were scored, in order.
    pub fn properties(&self) -> Vec<&'static str> {
        let mut properties: Vec<&'static str> = self.scores.iter().map(|s| s.property).collect();
        properties.dedup();
        properties
    }

    /// The score of a property by a predictor.
    pub fn score(&self, property: &str, predictor: Predictor) -> Option<&Score> {
        self.scores.iter().find(|s| s.property == property && s.predictor == predictor)
    }
}

/// Runs the benchmarks of a zoo.
///
/// # Errors
/// The zoo cannot be read, or is too small to be split in three.
pub fn benchmark(zoo: &ZooReader, options: &Options, stage: &Stage) -> Result<Benchmark, AnalyzeError> {
    let mut collector = Collector::new(zoo, options);
    let progress = stage.progress("reading", zoo.ids().len() as u64);
    let skipped = zoo.for_each(
        stage,
        |_| true,
        |model| {
            progress.advance(1);
            collector.add(&model, &all_statistics(&model));
            Ok(())
        },
    )?;
    drop(progress);
    collector.finish(zoo, skipped, stage)
}
