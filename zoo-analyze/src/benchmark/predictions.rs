//! Predictions of ridge regressions, one set per penalty.

use faer::Mat;
use rayon::prelude::*;
use zoo_model::Split;

use super::properties::TARGETS;
use super::LAMBDAS;
use crate::ridge::Ridge;

/// The splits that are predicted.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeldOut {
    Val,
    Test,
}

impl HeldOut {
    pub fn of(split: Split) -> Option<Self> {
        match split {
            Split::Train => None,
            Split::Val => Some(Self::Val),
            Split::Test => Some(Self::Test),
        }
    }
}

/// Predictions of one regression, (rows, targets).
#[derive(Clone)]
pub(super) struct Predicted {
    pub val: Mat<f64>,
    pub test: Mat<f64>,
}

/// Predictions for every lambda; `None` where the fit failed.
pub(super) struct Predictions(Vec<Option<Predicted>>);

impl Predictions {
    pub fn new() -> Self {
        let none = || Mat::zeros(0, TARGETS);
        Self(LAMBDAS.map(|_| Some(Predicted { val: none(), test: none() })).to_vec())
    }

    /// Appends the predictions for a block of feature rows.
    pub fn add(&mut self, split: HeldOut, fitted: &[Option<Ridge>], block: &[f64]) {
        self.0.par_iter_mut().zip(fitted).for_each(|(predicted, ridge)| match (predicted.as_mut(), ridge) {
            (Some(found), Some(ridge)) => {
                let matrix = match split {
                    HeldOut::Val => &mut found.val,
                    HeldOut::Test => &mut found.test,
                };
                let new = ridge.predict(block);
                let old = matrix.nrows();
                matrix.resize_with(old + new.nrows(), TARGETS, |r, t| new[(r - old, t)]);
            }
            _ => *predicted = None,
        });
    }

    /// The lambda whose predictions of the validation split score highest, the larger one of equals, and
    /// its predictions; `None` if none has a finite score.
    pub fn best(&self, score: impl Fn(&Mat<f64>) -> f64) -> Option<(f64, &Predicted)> {
        let fitted = LAMBDAS.into_iter().zip(&self.0).filter_map(|(lambda, p)| Some((lambda, p.as_ref()?)));
        let scored = fitted.map(|(lambda, p)| (score(&p.val), lambda, p)).filter(|(score, ..)| score.is_finite());
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, lambda, p)| (lambda, p))
    }
}
