//! The interface between training and what does the arithmetic.

use zoo_model::random::epoch_order;
use zoo_model::{Dataset, Hyperparameters, Network, Split};
use zoo_stage::{Interrupt, Interrupted};

use crate::metrics::{predicted, Score, Tally};

/// One model to train: what its bits depend on.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its network.
    pub network: Network,
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// Flat vector of the state that it starts from.
    pub initial: Vec<f32>,
    /// Which parameters may differ from zero; `None`: all.
    pub mask: Option<Vec<bool>>,
    /// Epochs that came before, when a trained model is trained on: its random draws go on there.
    pub epochs_before: u32,
}

/// A model in the middle of its training, between two epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimiser steps taken.
    pub step: u64,
    /// Flat vector of the state, in the engine's full precision.
    pub parameters: Vec<f64>,
    /// The optimiser's moments.
    pub moments: Vec<Vec<f64>>,
}

impl Snapshot {
    /// The state that a zoo keeps: parameters rounded to f32.
    pub fn state(&self) -> Vec<f32> {
        self.parameters.iter().map(|&p| p as f32).collect()
    }
}

/// A score and the predictions behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Loss and accuracy; `None` over no samples.
    pub score: Option<Score>,
    /// Predicted class of each sample.
    pub predictions: Vec<u16>,
}

/// Something that trains models.
pub trait Engine: Send + Sync {
    /// Name, as `--engine` takes it.
    fn name(&self) -> &'static str;

    /// Version of its arithmetic. It changes whenever the same model would get other bits.
    fn version(&self) -> String;

    /// Whether it trains models with these hyperparameters.
    fn trains(&self, hyperparameters: &Hyperparameters) -> bool;

    /// Groups models that are trained together; indices into `models`. Depends on `models` alone.
    fn cohorts(&self, models: &[&Hyperparameters]) -> Vec<Vec<usize>>;

    /// A cohort ready to train, from the tasks' initial parameters or from snapshots.
    fn start<'d>(&self, tasks: &[Task], data: &'d Dataset, from: Option<&[Snapshot]>) -> Box<dyn Cohort + 'd>;
}

/// Models that are trained in step with each other. Every method answers once a model, in the
/// order of the tasks.
pub trait Cohort {
    /// The models' hyperparameters.
    fn tasks(&self) -> &[Task];

    /// The dataset.
    fn data(&self) -> &Dataset;

    /// Trains model `m` on the train samples `orders[m]`, in batches of its batch size, the last
    /// one perhaps smaller; returns the running means over the batches as trained.
    ///
    /// `epoch` keys the dropout masks, together with the step within this call.
    fn train(&mut self, epoch: u32, orders: &[Vec<u32>], interrupt: &Interrupt) -> Result<Vec<Score>, Interrupted>;

    /// Gradient of the mean cross entropy of the train samples `samples`, without weight decay
    /// and dropout: a flat vector.
    fn gradients(&mut self, samples: &[u32]) -> Vec<Vec<f32>>;

    /// Logits of the samples `range` of a split, dropout off: (samples, classes). They are those
    /// of the models' [states](Snapshot::state), so that a kept state can be evaluated again.
    fn logits(&mut self, split: Split, range: std::ops::Range<usize>) -> Vec<Vec<f64>>;

    /// The models as they are now.
    fn snapshots(&self) -> Vec<Snapshot>;

    /// Trains one epoch, from 1, in that epoch's order.
    fn train_epoch(&mut self, epoch: u32, interrupt: &Interrupt) -> Result<Vec<Score>, Interrupted> {
        let samples = self.data().len(Split::Train);
        let absolute = self.tasks()[0].epochs_before + epoch;
        let orders: Vec<Vec<u32>> =
            self.tasks().iter().map(|t| epoch_order(t.hyperparameters.seed, absolute, samples)).collect();
        self.train(absolute, &orders, interrupt)
    }

    /// Evaluates a split, dropout off, samples in the order of the file.
    fn evaluate(&mut self, split: Split, interrupt: &Interrupt) -> Result<Vec<Evaluation>, Interrupted> {
        const PIECE: usize = 1000;
        let models = self.tasks().len();
        let total = self.data().len(split);
        let mut tallies = vec![Tally::default(); models];
        let mut predictions = vec![Vec::with_capacity(total); models];
        for start in (0..total).step_by(PIECE) {
            interrupt.check()?;
            let range = start..total.min(start + PIECE);
            let logits = self.logits(split, range.clone());
            let labels = &self.data().split(split).labels[range];
            for ((tally, predictions), logits) in tallies.iter_mut().zip(&mut predictions).zip(&logits) {
                tally.add(logits, labels);
                let classes = logits.len() / labels.len();
                predictions.extend(logits.chunks_exact(classes).map(|row| predicted(row) as u16));
            }
        }
        let evaluations = tallies.iter().zip(predictions);
        Ok(evaluations.map(|(tally, predictions)| Evaluation { score: tally.score(), predictions }).collect())
    }
}
