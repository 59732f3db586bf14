//! Gradient-boosted trees on layer statistics.

use std::collections::HashMap;

use forust_ml::objective::ObjectiveType;
use forust_ml::{GradientBooster, Matrix};
use rayon::prelude::*;
use zoo_model::dataset::PerSplit;
use zoo_model::stage::Stage;

use super::properties::{Rows, CONTINUOUS, TARGETS};
use crate::AnalyzeError;

/// Maximum number of rows that trees are fitted to; of more, every n-th is taken.
const MAX_TREE_ROWS: usize = 50_000;

/// Maximum number of trees per target; fewer if the validation split has enough.
const MAX_TREES: usize = 300;

/// Predictions for the test rows, by target.
pub(super) type TreePredictions = HashMap<usize, Vec<f64>>;

/// Features of a split, column by column as forust takes them.
struct Features {
    values: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Features {
    /// Of every `step`-th row.
    fn of(rows: &Rows, step: usize) -> Self {
        let columns = rows.statistics.len() / rows.targets.len();
        let column = |i: usize| rows.statistics.iter().skip(i).step_by(columns).step_by(step).copied();
        Self { values: (0..columns).flat_map(column).collect(), rows: rows.targets.len().div_ceil(step), columns }
    }

    fn matrix(&self) -> Matrix<'_, f64> {
        Matrix::new(&self.values, self.rows, self.columns)
    }
}

/// Fits trees for every target that varies, and predicts the test rows. No split is empty.
pub(super) fn predict(rows: &PerSplit<Rows>, stage: &Stage) -> Result<TreePredictions, AnalyzeError> {
    let PerSplit { train, val, test } = rows;
    let step = train.targets.len().div_ceil(MAX_TREE_ROWS);
    let [x, x_val, x_test] = [(train, step), (val, 1), (test, 1)].map(|(rows, step)| Features::of(rows, step));
    let targets: Vec<usize> = (0..TARGETS).filter(|&target| train.varies(target)).collect();
    let progress = stage.progress("fitting trees", targets.len() as u64);
    let fit = |&target: &usize| {
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
            .set_iterations(MAX_TREES)
            .set_learning_rate(0.1)
            .set_max_depth(6)
            .set_min_leaf_weight(if is_category { 1.0 } else { 5.0 })
            .set_early_stopping_rounds(Some(20))
            .set_parallel(false);
        let ones = vec![1.0; y_val.len()];
        let evaluation = vec![(x_val.matrix(), y_val.as_slice(), ones.as_slice())];
        booster.fit_unweighted(&x.matrix(), &y, Some(evaluation)).map_err(|e| AnalyzeError::Trees(e.to_string()))?;
        let found = booster.predict(&x_test.matrix(), false);
        progress.advance(1);
        Ok((target, found))
    };
    targets.par_iter().map(fit).collect()
}
