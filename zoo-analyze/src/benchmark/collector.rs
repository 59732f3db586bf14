//! What the benchmarks need, gathered model by model, and the regressions on it.

use std::collections::HashMap;

use zoo_model::dataset::PerSplit;
use zoo_model::stage::Stage;
use zoo_model::{ModelId, Split};

use super::predictions::{HeldOut, Predictions};
use super::properties::{usable, Metrics, Rows, CONTINUOUS, GAP, TARGETS, TEST_ACCURACY};
use super::scoring::Scoring;
use super::split::split_models;
use super::{trees, Benchmark, Options, Predictor, LAMBDAS, MAX_WEIGHT_FEATURES};
use crate::ridge::{Moments, Ridge, BLOCK};
use crate::zoo_reader::{Model, Skipped, ZooReader};
use crate::AnalyzeError;

/// A usable state: its index in the model, and its metrics.
#[derive(Debug, Clone, Copy)]
struct Kept {
    index: usize,
    metrics: Metrics,
}

/// Gathers what the benchmarks need, model by model.
pub struct Collector {
    options: Options,
    splits: HashMap<ModelId, Split>,
    zoo: String,
    rows: PerSplit<Rows>,
    left_out: usize,
    /// The states that did not diverge.
    usable: HashMap<ModelId, Vec<Kept>>,
    weights: Option<Moments>,
    notes: Vec<String>,
}

impl Collector {
    /// Without any model yet.
    pub fn new(zoo: &ZooReader, options: &Options) -> Self {
        let record = zoo.record();
        let mut notes = zoo.notes().to_vec();
        if record.parameters > MAX_WEIGHT_FEATURES {
            notes.push(format!(
                "w was not used: models have {} parameters, more than {MAX_WEIGHT_FEATURES}",
                record.parameters
            ));
        }
        Self {
            options: options.clone(),
            splits: split_models(zoo.ids(), options.seed),
            zoo: record.name.clone(),
            rows: PerSplit::default(),
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
        let rows = self.rows.get_mut(split);
        rows.models += 1;
        for state in &usable {
            rows.statistics.extend(&statistics[state.index]);
            rows.metrics.push(state.metrics);
            rows.targets.push(state.targets);
        }
        if split == Split::Train {
            self.add_weights(model, usable.iter().map(|state| (state.index, &state.targets)));
        }
        let kept = usable.iter().map(|state| Kept { index: state.index, metrics: state.metrics });
        self.usable.insert(model.params.id, kept.collect());
    }

    fn add_weights<'a>(&mut self, model: &Model, rows: impl Iterator<Item = (usize, &'a [f64; TARGETS])>) {
        let width = model.network.state_len();
        if width <= MAX_WEIGHT_FEATURES {
            let moments = self.weights.get_or_insert_with(|| Moments::new(width, TARGETS));
            rows.for_each(|(index, y)| moments.add(model.states[index].iter().map(|&w| f64::from(w)), y));
        }
    }

    /// Settles which metrics are predicted: those that half of the states have at least. States
    /// without them are left out.
    fn settle_metrics(&mut self, zoo: &ZooReader, stage: &Stage) -> Result<Metrics, AnalyzeError> {
        let of_rows = || self.rows.iter().flat_map(|rows| &rows.metrics);
        let (all, having) = (of_rows().count(), |wanted| of_rows().filter(|m| **m >= wanted).count());
        let (test, both) = (having(Metrics::Test), having(Metrics::TestAndTraining));
        let wanted = match (2 * both >= all, 2 * test >= all) {
            (true, _) => Metrics::TestAndTraining,
            (false, true) => Metrics::Test,
            (false, false) => Metrics::Neither,
        };
        let kept = having(wanted);
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
        self.left_out += all - kept;
        Split::ALL.into_iter().for_each(|split| self.rows.get_mut(split).retain(wanted));
        if kept < all && self.weights.take().is_some() {
            self.add_weights_again(zoo, wanted, stage)?;
        }
        Ok(wanted)
    }

    /// Sums up the moments of the weights without the states that were left out, which they held.
    fn add_weights_again(&mut self, zoo: &ZooReader, wanted: Metrics, stage: &Stage) -> Result<(), AnalyzeError> {
        let splits = std::mem::take(&mut self.splits);
        let usable = std::mem::take(&mut self.usable);
        let targets = std::mem::take(&mut self.rows.train.targets);
        let mut rows = targets.iter();
        let is_train = |id: ModelId| splits.get(&id) == Some(&Split::Train) && usable.contains_key(&id);
        zoo.for_each(stage, is_train, |model| {
            let indices = usable[&model.params.id].iter().filter(|kept| kept.metrics >= wanted);
            self.add_weights(&model, indices.map(|kept| kept.index).zip(rows.by_ref()));
            Ok(())
        })?;
        (self.splits, self.usable, self.rows.train.targets) = (splits, usable, targets);
        Ok(())
    }

    /// Fits and scores everything.
    ///
    /// # Errors
    /// A split has no usable state, the zoo cannot be read again, or the stage is interrupted.
    pub fn finish(mut self, zoo: &ZooReader, skipped: Vec<Skipped>, stage: &Stage) -> Result<Benchmark, AnalyzeError> {
        let wanted = self.settle_metrics(zoo, stage)?;
        let models = self.rows.map(|rows| rows.models);
        if self.rows.iter().any(|rows| rows.targets.is_empty()) {
            return Err(AnalyzeError::TooSmall { path: zoo.path().into(), models });
        }
        let mut ridge: Vec<(Predictor, Predictions)> = Vec::new();
        if let Some(moments) = self.weights.take() {
            let fitted = moments.fit(&LAMBDAS);
            ridge.push((Predictor::RidgeWeights, self.predict_from_weights(zoo, &fitted, wanted, stage)?));
        }
        ridge.push((Predictor::RidgeStatistics, self.predict_from_statistics()));
        stage.interrupt.check()?;
        let trees = self.options.trees.then(|| trees::predict(&self.rows, stage)).transpose()?;
        let PerSplit { train, val, test } = &self.rows;
        let scores = Scoring { train, val, test, ridge: &ridge, trees: trees.as_ref() }.scores();
        Ok(Benchmark {
            seed: self.options.seed,
            models,
            states: self.rows.map(|rows| rows.targets.len()),
            zoo: self.zoo,
            states_left_out: self.left_out,
            skipped,
            notes: self.notes,
            scores,
        })
    }

    fn predict_from_statistics(&self) -> Predictions {
        let width = self.rows.train.statistics.len() / self.rows.train.targets.len();
        let mut moments = Moments::new(width, TARGETS);
        for (x, y) in self.rows.train.statistics.chunks_exact(width).zip(&self.rows.train.targets) {
            moments.add(x.iter().copied(), y);
        }
        let fitted = moments.fit(&LAMBDAS);
        let mut predictions = Predictions::new();
        for (split, rows) in [(HeldOut::Val, &self.rows.val), (HeldOut::Test, &self.rows.test)] {
            for block in rows.statistics.chunks(BLOCK * width) {
                predictions.add(split, &fitted, block);
            }
        }
        predictions
    }

    /// Reads the validation and test models again, and predicts from their weights.
    fn predict_from_weights(
        &self,
        zoo: &ZooReader,
        fitted: &[Option<Ridge>],
        wanted: Metrics,
        stage: &Stage,
    ) -> Result<Predictions, AnalyzeError> {
        let mut predictions = Predictions::new();
        let (mut of_val, mut of_test) = (Vec::new(), Vec::new());
        let split_of = |id: ModelId| self.splits.get(&id).and_then(|split| HeldOut::of(*split));
        zoo.for_each(
            stage,
            |id| split_of(id).is_some(),
            |model| {
                let Some(split) = split_of(model.params.id) else { return Ok(()) };
                let block = match split {
                    HeldOut::Val => &mut of_val,
                    HeldOut::Test => &mut of_test,
                };
                let usable = self.usable.get(&model.params.id).into_iter().flatten();
                for kept in usable.filter(|kept| kept.metrics >= wanted) {
                    let state = &model.states[kept.index];
                    block.extend(state.iter().map(|&w| f64::from(w)));
                    if block.len() >= BLOCK * state.len() {
                        predictions.add(split, fitted, block);
                        block.clear();
                    }
                }
                Ok(())
            },
        )?;
        predictions.add(HeldOut::Val, fitted, &of_val);
        predictions.add(HeldOut::Test, fitted, &of_test);
        Ok(predictions)
    }
}
