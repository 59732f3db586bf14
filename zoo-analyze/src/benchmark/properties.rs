//! The properties that are predicted, as targets of states.

use std::ops::Range;

use zoo_model::{Activation, Init, Optimizer};

use crate::zoo_reader::Model;

/// The continuous properties, in this order.
pub(super) const CONTINUOUS: [&str; 6] =
    ["test accuracy", "generalisation gap", "epoch", "learning rate", "dropout", "weight decay"];

pub(super) const TEST_ACCURACY: usize = 0;
pub(super) const GAP: usize = 1;

const ACTIVATIONS: usize = 6;
const INITS: usize = 6;
const OPTIMIZERS: usize = 2;

fn activation_index(activation: Activation) -> usize {
    match activation {
        Activation::Tanh => 0,
        Activation::Relu => 1,
        Activation::Sigmoid => 2,
        Activation::Gelu => 3,
        Activation::LeakyRelu => 4,
        Activation::Silu => 5,
    }
}

fn init_index(init: Init) -> usize {
    match init {
        Init::Uniform => 0,
        Init::Normal => 1,
        Init::KaimingUniform => 2,
        Init::KaimingNormal => 3,
        Init::XavierUniform => 4,
        Init::XavierNormal => 5,
    }
}

fn optimizer_index(optimizer: Optimizer) -> usize {
    match optimizer {
        Optimizer::Adam => 0,
        Optimizer::Sgd => 1,
    }
}

/// Targets of a row: the continuous properties, then one of -1 and 1 for every category.
pub(super) const TARGETS: usize = CONTINUOUS.len() + ACTIVATIONS + INITS + OPTIMIZERS;

/// A property with one target per category.
pub(super) struct Categorical {
    pub property: &'static str,
    /// The number of categories.
    pub categories: usize,
    /// The target of the first of them.
    pub first_target: usize,
}

impl Categorical {
    pub fn targets(&self) -> Range<usize> {
        self.first_target..self.first_target + self.categories
    }
}

/// The categorical properties, in the order of their targets.
pub(super) fn categorical() -> [Categorical; 3] {
    let properties = [("activation", ACTIVATIONS), ("initialisation", INITS), ("optimiser", OPTIMIZERS)];
    let mut next = CONTINUOUS.len();
    properties.map(|(property, categories)| {
        let first_target = next;
        next += categories;
        Categorical { property, categories, first_target }
    })
}

/// Which of the metrics that are predicted a state has; each level has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metrics {
    Neither,
    Test,
    TestAndTraining,
}

/// A state that did not diverge.
pub(super) struct UsableState {
    /// Its index in the model.
    pub index: usize,
    pub metrics: Metrics,
    /// 0 for metrics that it does not have.
    pub targets: [f64; TARGETS],
}

/// The states of a model that did not diverge.
pub(super) fn usable(model: &Model) -> Vec<UsableState> {
    let h = &model.params.hyperparameters;
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
        let mut targets = [-1.0; TARGETS];
        let continuous = [test, gap, epoch, h.learning_rate, h.dropout, h.weight_decay];
        targets[..CONTINUOUS.len()].copy_from_slice(&continuous);
        let indices = [activation_index(h.activation), init_index(h.init), optimizer_index(h.optimizer)];
        for (property, index) in categorical().iter().zip(indices) {
            targets[property.targets()][index] = 1.0;
        }
        Some(UsableState { index, metrics, targets })
    });
    rows.collect()
}

/// Rows of one split: statistics and targets of states, and which metrics these have.
#[derive(Default)]
pub(super) struct Rows {
    pub models: usize,
    pub statistics: Vec<f64>,
    pub targets: Vec<[f64; TARGETS]>,
    pub metrics: Vec<Metrics>,
}

impl Rows {
    /// Leaves out the rows without these metrics, and the targets of metrics beyond them.
    pub fn retain(&mut self, wanted: Metrics) {
        let width = self.statistics.len() / self.targets.len().max(1);
        let is_kept: Vec<bool> = self.metrics.iter().map(|m| *m >= wanted).collect();
        let (mut of_value, mut of_row) = (0.., is_kept.iter());
        self.statistics.retain(|_| is_kept[of_value.next().expect("endless") / width]);
        self.targets.retain(|_| *of_row.next().expect("one per row"));
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

    pub fn column(&self, target: usize) -> Vec<f64> {
        self.targets.iter().map(|row| row[target]).collect()
    }

    pub fn varies(&self, target: usize) -> bool {
        self.targets.iter().any(|row| row[target] != self.targets[0][target])
    }
}
