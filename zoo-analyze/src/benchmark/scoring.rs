//! Predictions scored on the test split.

use faer::Mat;

use super::predictions::Predictions;
use super::properties::{categorical, Categorical, Rows, CONTINUOUS};
use super::trees::TreePredictions;
use super::{Predictor, Score};
use crate::scores::{agreement, kendall_tau, r2};

/// What is scored.
pub(super) struct Scoring<'a> {
    pub train: &'a Rows,
    pub val: &'a Rows,
    pub test: &'a Rows,
    /// Predictions of the ridge regressions.
    pub ridge: &'a [(Predictor, Predictions)],
    pub trees: Option<&'a TreePredictions>,
}

impl Scoring<'_> {
    /// The scores of all properties that vary, by property.
    pub fn scores(&self) -> Vec<Score> {
        let continuous = CONTINUOUS.into_iter().enumerate();
        let continuous = continuous.flat_map(|(target, property)| self.continuous(property, target));
        continuous.chain(categorical().iter().flat_map(|property| self.categorical(property))).collect()
    }

    fn continuous(&self, property: &'static str, target: usize) -> Vec<Score> {
        if !self.train.varies(target) {
            return Vec::new();
        }
        let (truth_val, truth) = (self.val.column(target), self.test.column(target));
        let finite = |value: f64| value.is_finite().then_some(value);
        let score = |predictor, found: &[f64], lambda| Score {
            property,
            predictor,
            r2: finite(r2(&truth, found)),
            kendall_tau: finite(kendall_tau(&truth, found)),
            accuracy: None,
            majority: None,
            lambda,
        };
        let ridge = self.ridge.iter().filter_map(|(predictor, predictions)| {
            let (lambda, found) = predictions.best(|val| r2(&truth_val, val.col_as_slice(target)))?;
            Some(score(*predictor, found.test.col_as_slice(target), Some(lambda)))
        });
        let trees = self.trees.and_then(|trees| trees.get(&target));
        let trees = trees.map(|found| score(Predictor::TreesStatistics, found, None));
        ridge.chain(trees).collect()
    }

    fn categorical(&self, property: &Categorical) -> Vec<Score> {
        let of =
            |rows: &Rows| -> Vec<usize> { rows.targets.iter().map(|row| largest(&row[property.targets()])).collect() };
        let (of_train, truth_val, truth) = (of(self.train), of(self.val), of(self.test));
        let present: Vec<usize> = (0..property.categories).filter(|c| of_train.contains(c)).collect();
        if present.len() < 2 {
            return Vec::new();
        }
        let frequency = |c: &usize| of_train.iter().filter(|t| *t == c).count();
        let majority = *present.iter().max_by_key(|c| (frequency(c), std::cmp::Reverse(**c))).expect("two at least");
        let majority = truth.iter().filter(|&&t| t == majority).count() as f64 / truth.len() as f64;
        // The category whose target has the largest value, of those that the training models have.
        let choose = |rows: usize, value: &dyn Fn(usize, usize) -> f64| -> Vec<usize> {
            let value = |r: usize, category: usize| value(r, property.first_target + category);
            let larger = |r: usize, a: usize, b: usize| value(r, a).total_cmp(&value(r, b));
            let winner = |r: usize| *present.iter().max_by(|&&a, &&b| larger(r, a, b)).expect("two at least");
            (0..rows).map(winner).collect()
        };
        let of_matrix = |predicted: &Mat<f64>| choose(predicted.nrows(), &|r, t| predicted[(r, t)]);
        let score = |predictor, found: &[usize], lambda| Score {
            property: property.property,
            predictor,
            r2: None,
            kendall_tau: None,
            accuracy: Some(agreement(&truth, found)),
            majority: Some(majority),
            lambda,
        };
        let ridge = self.ridge.iter().filter_map(|(predictor, predictions)| {
            let (lambda, found) = predictions.best(|val| agreement(&truth_val, &of_matrix(val)))?;
            Some(score(*predictor, &of_matrix(&found.test), Some(lambda)))
        });
        let trees = self.trees.map(|trees| choose(truth.len(), &|r, t| trees[&t][r]));
        let trees = trees.map(|found| score(Predictor::TreesStatistics, &found, None));
        ridge.chain(trees).collect()
    }
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}
