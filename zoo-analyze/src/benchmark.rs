//! Downstream benchmarks: what can be told of a model from its weights.
//!
//! After the published baselines (Schürholt et al., 2022, section 5): linear probes on the weights
//! w and on the layer [statistics](crate::statistics) s(w), with the models split into train,
//! validation and test; and gradient-boosted trees on s(w). Continuous properties are scored by
//! R^2 and Kendall's tau, categories by accuracy, all on the test split, over all kept states.
//!
//! Ridge regressions and ridge classifiers (one target of -1 and 1 a category, the largest wins)
//! have the penalty among [`LAMBDAS`] that is best on the validation split, each target its own.

use std::collections::HashMap;
use std::fmt;

use faer::Mat;
use forust_ml::objective::ObjectiveType;
use forust_ml::{GradientBooster, Matrix};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};
use zoo_model::hyperparameters::name_of;
use zoo_model::stage::Stage;
use zoo_model::text::{counted, fixed};
use zoo_model::{Activation, Init, ModelId, Optimizer};

use crate::report::percent;
use crate::ridge::{Moments, Ridge, BLOCK};
use crate::scores::{agreement, kendall_tau, r2};
use crate::source::{Model, Skipped, Source};
use crate::statistics::all_statistics;
use crate::Error;

/// The penalties that ridge regression is tried with.
pub const LAMBDAS: [f64; 9] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3];

/// Largest number of parameters for which w is used: X'X takes its square in memory, eight bytes each.
pub const MOST_PARAMETERS: usize = 12_000;

/// Most rows that trees are grown on; of more, every n-th is taken.
const MOST_TREE_ROWS: usize = 50_000;

/// Share of the models in train and validation; the rest are test.
const SHARES: [f64; 2] = [0.7, 0.15];

/// Seed of the split, unless another is given: the Python package's.
pub const SPLIT_SEED: u64 = 42;

/// The continuous properties, in this order.
const CONTINUOUS: [&str; 6] =
    ["test accuracy", "generalisation gap", "epoch", "learning rate", "dropout", "weight decay"];

const TEST_ACCURACY: usize = 0;
const GAP: usize = 1;

const ACTIVATIONS: [Activation; 6] = [
    Activation::Tanh,
    Activation::Relu,
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::LeakyRelu,
    Activation::Silu,
];
const INITS: [Init; 6] =
    [Init::Uniform, Init::Normal, Init::KaimingUniform, Init::KaimingNormal, Init::XavierUniform, Init::XavierNormal];
const OPTIMIZERS: [Optimizer; 2] = [Optimizer::Adam, Optimizer::Sgd];

/// Targets of a row: the continuous properties, then one of -1 and 1 for every category.
const TARGETS: usize = CONTINUOUS.len() + ACTIVATIONS.len() + INITS.len() + OPTIMIZERS.len();

/// The categorical properties, with the names and the place of their targets.
fn categorical() -> [(&'static str, Vec<String>, usize); 3] {
    let start = CONTINUOUS.len();
    [
        ("activation", ACTIVATIONS.map(|a| name_of(&a)).to_vec(), start),
        ("initialisation", INITS.map(|i| name_of(&i)).to_vec(), start + ACTIVATIONS.len()),
        ("optimiser", OPTIMIZERS.map(|o| name_of(&o)).to_vec(), start + ACTIVATIONS.len() + INITS.len()),
    ]
}

/// How to benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Seed of the split.
    pub seed: u64,
    /// Whether trees are grown.
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

impl Predictor {
    fn label(self) -> &'static str {
        match self {
            Self::RidgeWeights => "w ridge",
            Self::RidgeStatistics => "s(w) ridge",
            Self::TreesStatistics => "s(w) trees",
        }
    }
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
    /// Share of the most frequent category of the train split in the test split.
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
    pub models: [usize; 3],
    /// States in train, validation and test.
    pub states: [usize; 3],
    /// States left out because they diverged, are not finite or have no metrics.
    pub states_left_out: usize,
    /// Models left out because they cannot be read.
    pub skipped: Vec<Skipped>,
    /// Why a predictor is missing.
    pub notes: Vec<String>,
    /// All scores, by property.
    pub scores: Vec<Score>,
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [train, val, test] = self.models;
        let states = counted(self.states.iter().sum(), "state");
        writeln!(f, "{}: {states} of {train} + {val} + {test} models (train, val, test)", self.zoo)?;
        let predictors = [Predictor::RidgeWeights, Predictor::RidgeStatistics, Predictor::TreesStatistics];
        let predictors: Vec<Predictor> =
            predictors.into_iter().filter(|p| self.scores.iter().any(|s| s.predictor == *p)).collect();
        write!(f, "{:<20}", "")?;
        for p in &predictors {
            write!(f, " {:>18}", p.label())?;
        }
        writeln!(f)?;
        for property in self.properties() {
            write!(f, "{property:<20}")?;
            for &predictor in &predictors {
                let cell = self.score(property, predictor).map(|s| match (s.r2, s.kendall_tau, s.accuracy) {
                    (Some(r2), Some(tau), _) => format!("R2 {} tau {}", fixed(r2, 3), fixed(tau, 2)),
                    (_, _, Some(accuracy)) => percent(accuracy),
                    _ => String::new(),
                });
                write!(f, " {:>18}", cell.unwrap_or_default())?;
            }
            if let Some(majority) = self.scores.iter().find(|s| s.property == property).and_then(|s| s.majority) {
                write!(f, "  (most frequent: {})", percent(majority))?;
            }
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        let (states, models) = (counted(self.states_left_out, "state"), counted(self.skipped.len(), "model"));
        write!(f, "{states} left out, {models} skipped")?;
        for skipped in self.skipped.iter().take(10) {
            write!(f, "\n  {}: {}", skipped.id, skipped.why)?;
        }
        Ok(())
    }
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

/// Assigns models to train (0), validation (1) and test (2).
///
/// Models are ranked by SHA-256 of "SEED/ID", so that the split depends on the ids alone: twins
/// fall where their parents do. The Python package splits in the same way.
pub fn split_models(ids: &[ModelId], seed: u64) -> HashMap<ModelId, usize> {
    let mut ranked: Vec<ModelId> = ids.to_vec();
    ranked.sort_by_cached_key(|id| <[u8; 32]>::from(Sha256::digest(format!("{seed}/{id}"))));
    let share = |share: f64| (share * ranked.len() as f64).round_ties_even() as usize;
    let (first, second) = (share(SHARES[0]), share(SHARES[0]) + share(SHARES[1]));
    let split = |rank: usize| usize::from(rank >= first) + usize::from(rank >= second);
    ranked.iter().enumerate().map(|(rank, &id)| (id, split(rank))).collect()
}

/// Which of the metrics that are predicted a state has; each level has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Metrics {
    Neither,
    Test,
    TestAndTraining,
}

/// Rows of one split: statistics, targets and what of the metrics is there.
#[derive(Default)]
struct Rows {
    models: usize,
    statistics: Vec<f64>,
    targets: Vec<[f64; TARGETS]>,
    metrics: Vec<Metrics>,
}

impl Rows {
    /// Leaves out the rows without these metrics, and the targets that others would give.
    fn retain(&mut self, wanted: Metrics) {
        let width = self.statistics.len() / self.targets.len().max(1);
        let is_kept: Vec<bool> = self.metrics.iter().map(|m| *m >= wanted).collect();
        let (mut of_value, mut of_row) = (0.., is_kept.iter());
        self.statistics.retain(|_| is_kept[of_value.next().expect("endless") / width]);
        self.targets.retain(|_| *of_row.next().expect("one a row"));
        self.metrics.retain(|m| *m >= wanted);
        for row in &mut self.targets {
            if wanted < Metrics::Test {
                row[TEST_ACCURACY] = 0.0;
            }
            if wanted < Metrics::TestAndTraining {
                row[GAP] = 0.0;
            }
        }
    }

    fn column(&self, target: usize) -> Vec<f64> {
        self.targets.iter().map(|row| row[target]).collect()
    }
}

/// The states of a model that did not diverge: index, metrics and targets, 0 for what metrics do not give.
fn usable(model: &Model) -> Vec<(usize, Metrics, [f64; TARGETS])> {
    let h = &model.params.hyperparameters;
    let sign = |hit: bool| if hit { 1.0 } else { -1.0 };
    let rows = model.lines.iter().zip(&model.states).enumerate().filter_map(|(index, (line, state))| {
        if line.diverged || !state.iter().all(|v| v.is_finite()) {
            return None;
        }
        let (metrics, test, gap) = match (line.test_acc, line.train_acc) {
            (Some(test), Some(train)) => (Metrics::TestAndTraining, test, train - test),
            (Some(test), None) => (Metrics::Test, test, 0.0),
            (None, _) => (Metrics::Neither, 0.0, 0.0),
        };
        let epoch = f64::from(line.training_iteration);
        let mut targets = vec![test, gap, epoch, h.learning_rate, h.dropout, h.weight_decay];
        targets.extend(ACTIVATIONS.map(|a| sign(a == h.activation)));
        targets.extend(INITS.map(|i| sign(i == h.init)));
        targets.extend(OPTIMIZERS.map(|o| sign(o == h.optimizer)));
        Some((index, metrics, targets.try_into().expect("as many as there are targets")))
    });
    rows.collect()
}

/// Runs the benchmarks of a zoo.
///
/// # Errors
/// The zoo cannot be read, or is too small to be split in three.
pub fn benchmark(source: &Source, options: &Options, stage: &Stage) -> Result<Benchmark, Error> {
    let mut collector = Collector::new(source, options);
    let progress = stage.progress("reading", source.ids().len() as u64);
    let skipped = source.for_each(
        stage,
        |_| true,
        |model| {
            progress.advance(1);
            collector.add(&model, &all_statistics(&model));
            Ok(())
        },
    )?;
    drop(progress);
    collector.finish(source, skipped, stage)
}

/// Gathers what the benchmarks need, model by model.
pub struct Collector {
    options: Options,
    splits: HashMap<ModelId, usize>,
    zoo: String,
    rows: [Rows; 3],
    left_out: usize,
    /// The states that did not diverge, with their metrics.
    usable: HashMap<ModelId, Vec<(usize, Metrics)>>,
    weights: Option<Moments>,
    notes: Vec<String>,
}

impl Collector {
    /// Nothing yet.
    pub fn new(source: &Source, options: &Options) -> Self {
        let record = source.record();
        let mut notes = source.notes().to_vec();
        if record.parameters > MOST_PARAMETERS {
            notes.push(format!(
                "w was not used: models have {} parameters, more than {MOST_PARAMETERS}",
                record.parameters
            ));
        }
        Self {
            options: options.clone(),
            splits: split_models(source.ids(), options.seed),
            zoo: record.name.clone(),
            rows: Default::default(),
            left_out: 0,
            usable: HashMap::new(),
            weights: None,
            notes,
        }
    }

    /// Adds a model; `statistics` are those of its states.
    pub fn add(&mut self, model: &Model, statistics: &[Vec<f64>]) {
        let Some(&split) = self.splits.get(&model.params.id) else { return };
        let usable = usable(model);
        self.left_out += model.lines.len() - usable.len();
        let rows = &mut self.rows[split];
        rows.models += 1;
        rows.statistics.extend(usable.iter().flat_map(|(index, ..)| &statistics[*index]));
        rows.metrics.extend(usable.iter().map(|(_, metrics, _)| metrics));
        rows.targets.extend(usable.iter().map(|(_, _, targets)| targets));
        if split == 0 {
            self.add_weights(model, usable.iter().map(|(index, _, targets)| (*index, targets)));
        }
        self.usable.insert(model.params.id, usable.iter().map(|(index, metrics, _)| (*index, *metrics)).collect());
    }

    fn add_weights<'a>(&mut self, model: &Model, rows: impl Iterator<Item = (usize, &'a [f64; TARGETS])>) {
        let width = model.network.state_len();
        if width <= MOST_PARAMETERS {
            let moments = self.weights.get_or_insert_with(|| Moments::new(width, TARGETS));
            rows.for_each(|(index, y)| moments.add(model.states[index].iter().map(|&w| f64::from(w)), y));
        }
    }

    /// Settles which metrics are predicted: those that half of the states have at least. States
    /// without them are left out.
    fn settle_metrics(&mut self, source: &Source, stage: &Stage) -> Result<Metrics, Error> {
        let of_rows = || self.rows.iter().flat_map(|rows| &rows.metrics);
        let (all, having) = (of_rows().count(), |wanted| of_rows().filter(|m| **m >= wanted).count());
        let (test, both) = (having(Metrics::Test), having(Metrics::TestAndTraining));
        let wanted = match (2 * both >= all, 2 * test >= all) {
            (true, _) => Metrics::TestAndTraining,
            (false, true) => Metrics::Test,
            (false, false) => Metrics::Neither,
        };
        let mut missing = |property: usize, metric: &str, count: usize| {
            let property = CONTINUOUS[property];
            self.notes.push(format!("{property} was not predicted: {count} of {all} states have no {metric}"));
        };
        if wanted < Metrics::Test {
            missing(TEST_ACCURACY, "test accuracy", all - test);
        }
        if wanted < Metrics::TestAndTraining {
            missing(GAP, "test and training accuracy", all - both);
        }
        let kept = having(wanted);
        self.left_out += all - kept;
        self.rows.iter_mut().for_each(|rows| rows.retain(wanted));
        if kept < all && self.weights.take().is_some() {
            // The moments hold states that do not count: they are summed up again.
            let splits = std::mem::take(&mut self.splits);
            let usable = std::mem::take(&mut self.usable);
            let targets = std::mem::take(&mut self.rows[0].targets);
            let mut rows = targets.iter();
            let is_train = |id: ModelId| splits.get(&id) == Some(&0) && usable.contains_key(&id);
            source.for_each(stage, is_train, |model| {
                let indices = usable[&model.params.id].iter().filter(|(_, metrics)| *metrics >= wanted);
                self.add_weights(&model, indices.map(|(index, _)| *index).zip(rows.by_ref()));
                Ok(())
            })?;
            (self.splits, self.usable, self.rows[0].targets) = (splits, usable, targets);
        }
        Ok(wanted)
    }

    /// Fits and scores everything.
    pub fn finish(mut self, source: &Source, skipped: Vec<Skipped>, stage: &Stage) -> Result<Benchmark, Error> {
        let wanted = self.settle_metrics(source, stage)?;
        let [train, _, _] = &self.rows;
        if self.rows.iter().any(|rows| rows.targets.is_empty()) {
            let models = self.rows.each_ref().map(|r| r.models);
            return Err(Error::TooSmall { path: source.path().into(), models });
        }
        let mut predictions: Vec<(Predictor, Predictions)> = Vec::new();
        if let Some(moments) = self.weights.take() {
            let fitted = moments.fit(&LAMBDAS);
            predictions.push((Predictor::RidgeWeights, self.predict_weights(source, &fitted, wanted, stage)?));
        }
        let width = train.statistics.len() / train.targets.len();
        let mut moments = Moments::new(width, TARGETS);
        for (x, y) in train.statistics.chunks_exact(width).zip(&train.targets) {
            moments.add(x.iter().copied(), y);
        }
        let fitted = moments.fit(&LAMBDAS);
        let mut of_statistics = Predictions::new();
        for (split, out) in [(1, 0), (2, 1)] {
            for block in self.rows[split].statistics.chunks(BLOCK * width) {
                of_statistics.add(out, &fitted, block);
            }
        }
        predictions.push((Predictor::RidgeStatistics, of_statistics));
        stage.interrupt.check()?;

        let mut scores = Vec::new();
        let trees = if self.options.trees { self.trees(width, stage)? } else { HashMap::new() };
        let [train, val, test] = &self.rows;
        for (target, property) in CONTINUOUS.into_iter().enumerate() {
            if !varies(&train.column(target)) {
                continue;
            }
            let (truth_val, truth) = (val.column(target), test.column(target));
            for (predictor, predictions) in &predictions {
                let Some(best) = predictions.best(|p| r2(&truth_val, &column(&p[0], target))) else { continue };
                let found = column(&predictions.by_lambda[best].as_ref().expect("it was best")[1], target);
                scores.push(Score::continuous(property, *predictor, &truth, &found, Some(LAMBDAS[best])));
            }
            if let Some(found) = trees.get(&target) {
                scores.push(Score::continuous(property, Predictor::TreesStatistics, &truth, found, None));
            }
        }
        for (property, categories, start) in categorical() {
            let range = start..start + categories.len();
            let of =
                |rows: &Rows| -> Vec<usize> { rows.targets.iter().map(|row| largest(&row[range.clone()])).collect() };
            let (of_train, truth_val, truth) = (of(train), of(val), of(test));
            let present: Vec<usize> = (0..categories.len()).filter(|c| of_train.contains(c)).collect();
            if present.len() < 2 {
                continue;
            }
            let frequency = |c: &usize| of_train.iter().filter(|t| *t == c).count();
            let majority =
                *present.iter().max_by_key(|c| (frequency(c), std::cmp::Reverse(**c))).expect("two at least");
            let majority = truth.iter().filter(|&&t| t == majority).count() as f64 / truth.len() as f64;
            let choose = |rows: usize, value: &dyn Fn(usize, usize) -> f64| -> Vec<usize> {
                let larger = |r: usize, a: usize, b: usize| value(r, start + a).total_cmp(&value(r, start + b));
                let winner = |r: usize| *present.iter().max_by(|&&a, &&b| larger(r, a, b)).expect("two at least");
                (0..rows).map(winner).collect()
            };
            let of_matrix = |p: &Mat<f64>| choose(p.nrows(), &|r, t| p[(r, t)]);
            let mut push = |predictor, found: &[usize], lambda| {
                scores.push(Score {
                    property,
                    predictor,
                    r2: None,
                    kendall_tau: None,
                    accuracy: Some(agreement(&truth, found)),
                    majority: Some(majority),
                    lambda,
                });
            };
            for (predictor, predictions) in &predictions {
                let Some(best) = predictions.best(|p| agreement(&truth_val, &of_matrix(&p[0]))) else { continue };
                let found = of_matrix(&predictions.by_lambda[best].as_ref().expect("it was best")[1]);
                push(*predictor, &found, Some(LAMBDAS[best]));
            }
            if self.options.trees {
                push(Predictor::TreesStatistics, &choose(truth.len(), &|r, t| trees[&t][r]), None);
            }
        }
        Ok(Benchmark {
            zoo: self.zoo,
            seed: self.options.seed,
            models: self.rows.each_ref().map(|r| r.models),
            states: self.rows.each_ref().map(|r| r.targets.len()),
            states_left_out: self.left_out,
            skipped,
            notes: self.notes,
            scores,
        })
    }

    /// Reads the validation and test models again, and predicts from their weights.
    fn predict_weights(
        &self,
        source: &Source,
        fitted: &[Option<Ridge>],
        wanted: Metrics,
        stage: &Stage,
    ) -> Result<Predictions, Error> {
        let mut predictions = Predictions::new();
        let mut blocks: [Vec<f64>; 2] = Default::default();
        let split = |id: ModelId| self.splits.get(&id).copied().unwrap_or(0);
        source.for_each(
            stage,
            |id| split(id) > 0,
            |model| {
                let out = split(model.params.id) - 1;
                let usable = self.usable.get(&model.params.id).into_iter().flatten();
                for (index, _) in usable.filter(|(_, metrics)| *metrics >= wanted) {
                    let state = &model.states[*index];
                    blocks[out].extend(state.iter().map(|&w| f64::from(w)));
                    if blocks[out].len() >= BLOCK * state.len() {
                        predictions.add(out, fitted, &blocks[out]);
                        blocks[out].clear();
                    }
                }
                Ok(())
            },
        )?;
        for (out, block) in blocks.iter().enumerate() {
            predictions.add(out, fitted, block);
        }
        Ok(predictions)
    }

    /// Grows trees for every target that varies; predictions for the test rows.
    fn trees(&self, width: usize, stage: &Stage) -> Result<HashMap<usize, Vec<f64>>, Error> {
        let [train, val, test] = &self.rows;
        let by_column = |rows: &Rows, step: usize| -> Vec<f64> {
            (0..width).flat_map(|i| rows.statistics.iter().skip(i).step_by(width).step_by(step).copied()).collect()
        };
        let step = train.targets.len().div_ceil(MOST_TREE_ROWS);
        let [x, x_val, x_test] = [by_column(train, step), by_column(val, 1), by_column(test, 1)];
        let targets: Vec<usize> = (0..TARGETS).filter(|&t| varies(&train.column(t))).collect();
        let progress = stage.progress("growing trees", targets.len() as u64);
        let grow = |&target: &usize| {
            stage.interrupt.check()?;
            let is_category = target >= CONTINUOUS.len();
            let truth = |rows: &Rows, step: usize| -> Vec<f64> {
                let value = |y: f64| if is_category { (y + 1.0) / 2.0 } else { y };
                rows.targets.iter().step_by(step).map(|row| value(row[target])).collect()
            };
            let (y, y_val) = (truth(train, step), truth(val, 1));
            let objective = if is_category { ObjectiveType::LogLoss } else { ObjectiveType::SquaredLoss };
            let mut booster = GradientBooster::default()
                .set_objective_type(objective)
                .set_iterations(ITERATIONS)
                .set_learning_rate(0.1)
                .set_max_depth(6)
                .set_min_leaf_weight(if is_category { 1.0 } else { 5.0 })
                .set_early_stopping_rounds(Some(20))
                .set_parallel(false);
            let ones = vec![1.0; y_val.len()];
            let evaluation = vec![(Matrix::new(&x_val, y_val.len(), width), y_val.as_slice(), ones.as_slice())];
            booster
                .fit_unweighted(&Matrix::new(&x, y.len(), width), &y, Some(evaluation))
                .map_err(|e| Error::Trees(e.to_string()))?;
            let found = booster.predict(&Matrix::new(&x_test, test.targets.len(), width), false);
            progress.advance(1);
            Ok((target, found))
        };
        targets.par_iter().map(grow).collect()
    }
}

/// Most trees of a target; fewer if the validation split has enough.
const ITERATIONS: usize = 300;

impl Score {
    fn continuous(
        property: &'static str,
        predictor: Predictor,
        truth: &[f64],
        found: &[f64],
        lambda: Option<f64>,
    ) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        Self {
            property,
            predictor,
            r2: finite(r2(truth, found)),
            kendall_tau: finite(kendall_tau(truth, found)),
            accuracy: None,
            majority: None,
            lambda,
        }
    }
}

/// Predictions of validation and test rows, (rows, targets), for every lambda.
struct Predictions {
    by_lambda: Vec<Option<[Mat<f64>; 2]>>,
}

impl Predictions {
    fn new() -> Self {
        Self { by_lambda: LAMBDAS.map(|_| Some([Mat::zeros(0, TARGETS), Mat::zeros(0, TARGETS)])).to_vec() }
    }

    fn add(&mut self, out: usize, fitted: &[Option<Ridge>], block: &[f64]) {
        self.by_lambda.par_iter_mut().zip(fitted).for_each(|(mine, ridge)| match (mine.as_mut(), ridge) {
            (Some(matrices), Some(ridge)) => {
                let new = ridge.predict(block);
                let old = matrices[out].nrows();
                matrices[out].resize_with(old + new.nrows(), TARGETS, |r, t| new[(r - old, t)]);
            }
            _ => *mine = None,
        });
    }

    /// Index of the lambda with the highest score, the larger one of equals.
    fn best(&self, score: impl Fn(&[Mat<f64>; 2]) -> f64) -> Option<usize> {
        let scores = self.by_lambda.iter().enumerate().filter_map(|(i, p)| Some((i, score(p.as_ref()?))));
        scores.filter(|(_, s)| s.is_finite()).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }
}

fn column(matrix: &Mat<f64>, target: usize) -> Vec<f64> {
    matrix.col_as_slice(target).to_vec()
}

fn varies(values: &[f64]) -> bool {
    values.iter().any(|v| *v != values[0])
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_that_of_the_python_package() {
        // modelzoo.zoo.split_models(range(8), (0.7, 0.15, 0.15), 42)
        let ids: Vec<ModelId> = (0..8).map(ModelId).collect();
        let splits = split_models(&ids, SPLIT_SEED);
        let of = |split: usize| ids.iter().filter(|id| splits[id] == split).map(|id| id.0).collect::<Vec<_>>();
        assert_eq!([of(0).len(), of(1).len(), of(2).len()], [6, 1, 1]);
        assert_eq!((of(1), of(2)), (PYTHON[0].to_vec(), PYTHON[1].to_vec()));
    }

    const PYTHON: [[u32; 1]; 2] = [[6], [0]];
}
