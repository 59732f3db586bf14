//! The interface between training and what does the arithmetic.

use zoo_model::random::epoch_order;
use zoo_model::stage::{Interrupt, Interrupted};
use zoo_model::{Dataset, Hyperparameters, Network, Split};

use crate::magnitude::Ramp;
use crate::metrics::{predicted, Score, Tally};
use crate::population_engine::cuda::driver::DeviceError;
use crate::variational::{self, Variational};

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
    pub mask: Option<Mask>,
    /// Epochs that came before, when a trained model is trained on: its random draws go on there.
    pub epochs_before: u32,
}

/// How it is decided which parameters of a model may differ from zero.
#[derive(Debug, Clone, PartialEq)]
pub enum Mask {
    /// Those for which it is true, one value a parameter.
    Fixed(Vec<bool>),
    /// Fewer and fewer, by magnitude.
    Ramp(Ramp),
    /// Those that variational dropout does not drown in noise.
    Variational(Variational),
}

impl Task {
    /// The mask before the first epoch; `None`: all parameters may differ from zero.
    pub fn fixed_mask(&self) -> Option<&[bool]> {
        match &self.mask {
            Some(Mask::Fixed(mask)) => Some(mask),
            _ => None,
        }
    }

    /// The settings of variational dropout, if the model is trained with it.
    pub fn variational(&self) -> Option<&Variational> {
        match &self.mask {
            Some(Mask::Variational(variational)) => Some(variational),
            _ => None,
        }
    }

    /// Weight of the divergence in absolute epoch `epoch`.
    pub fn kl_weight(&self, epoch: u32) -> f64 {
        self.variational().map_or(0.0, |v| v.kl_weight(epoch.saturating_sub(self.epochs_before)))
    }
}

/// A model in the middle of its training, between two epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimiser steps taken.
    pub step: u64,
    /// Flat vector of the state, in the engine's full precision.
    pub parameters: Vec<f64>,
    /// The optimiser's moments; with variational dropout, those of log sigma^2 follow.
    pub moments: Vec<Vec<f64>>,
    /// Log sigma^2 of every parameter, with variational dropout.
    pub log_sigma2: Option<Vec<f64>>,
}

impl Snapshot {
    /// The state that a zoo keeps: parameters rounded to f32, and zero what variational dropout
    /// removes.
    pub fn state(&self) -> Vec<f32> {
        let mut state: Vec<f32> = self.parameters.iter().map(|&p| p as f32).collect();
        for (i, log_sigma2) in self.log_sigma2.iter().flatten().enumerate() {
            if !variational::is_kept(self.parameters[i], *log_sigma2) {
                state[i] = 0.0;
            }
        }
        state
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

/// Why a cohort gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CohortError {
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The device failed.
    #[error("{0}")]
    Device(#[from] DeviceError),
}

/// Something that trains models.
pub trait Engine: Send + Sync {
    /// Name, as `--engine` takes it.
    fn name(&self) -> &'static str;

    /// Version of its arithmetic. It changes whenever the same model would get other bits.
    fn version(&self) -> String;

    /// Whether it trains models with these hyperparameters.
    fn trains(&self, hyperparameters: &Hyperparameters) -> bool;

    /// Groups models that are trained together; indices into `models`. Depends on `models` alone, so
    /// that shards are the same everywhere.
    fn cohorts(&self, models: &[&Hyperparameters]) -> Vec<Vec<usize>>;

    /// Arranges cohorts for the device: united to those that it trains at a time, and how many of
    /// them at once, where the processor has so many threads. `is_variational`: with variational
    /// dropout.
    ///
    /// # Errors
    /// Not one model fits the device.
    fn arrange(
        &self,
        cohorts: Vec<Vec<usize>>,
        _models: &[&Hyperparameters],
        _is_variational: bool,
        _data: &Dataset,
        threads: usize,
    ) -> Result<(Vec<Vec<usize>>, usize), DeviceError> {
        Ok((cohorts, threads))
    }

    /// A cohort ready to train, from the tasks' initial parameters or from snapshots. Either all of
    /// its tasks are of variational dropout or none.
    ///
    /// # Errors
    /// The device failed, or is full.
    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError>;
}

/// Models that are trained in step with each other. Every method answers once a model, in the
/// order of the tasks. Errors are an interruption, or the device's.
pub trait Cohort {
    /// The models' hyperparameters.
    fn tasks(&self) -> &[Task];

    /// The dataset.
    fn data(&self) -> &Dataset;

    /// Trains model `m` on the train samples `orders[m]`, in batches of its batch size, the last
    /// one perhaps smaller; returns the running means over the batches as trained.
    ///
    /// `epoch` keys the dropout masks, together with the step within this call.
    fn train(&mut self, epoch: u32, orders: &[Vec<u32>], interrupt: &Interrupt) -> Result<Vec<Score>, CohortError>;

    /// Gradient of the mean cross entropy of the train samples `samples`, without weight decay
    /// and dropout: a flat vector.
    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, CohortError>;

    /// Logits of the samples `range` of a split, dropout off: (samples, classes). They are those
    /// of the models' [states](Snapshot::state), so that a kept state can be evaluated again.
    fn logits(&mut self, split: Split, range: std::ops::Range<usize>) -> Result<Vec<Vec<f64>>, CohortError>;

    /// The models as they are now.
    fn snapshots(&self) -> Result<Vec<Snapshot>, CohortError>;

    /// Gives each model its mask, if there is one for it: the parameters for which it is false are
    /// zero from now on.
    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), CohortError>;

    /// Gives models on a [`Ramp`] their masks for epoch `epoch`.
    fn prune_for(&mut self, epoch: u32) -> Result<(), CohortError> {
        if !self.tasks().iter().any(|t| matches!(t.mask, Some(Mask::Ramp(_)))) {
            return Ok(());
        }
        let mask = |(task, snapshot): (&Task, Snapshot)| match &task.mask {
            Some(Mask::Ramp(ramp)) => Some(ramp.mask(&task.network, &snapshot.state(), epoch)),
            _ => None,
        };
        let masks: Vec<Option<Vec<bool>>> = self.tasks().iter().zip(self.snapshots()?).map(mask).collect();
        self.prune(&masks)
    }

    /// Says that the next call that trains will be [`train_epoch`](Self::train_epoch) of `epoch`: a
    /// device that works on its own may begin. What snapshots answer stays that of the epoch before.
    fn begin_epoch(&mut self, _epoch: u32) -> Result<(), CohortError> {
        Ok(())
    }

    /// Trains one epoch, from 1, in that epoch's order. Models on a [`Ramp`] are pruned before.
    fn train_epoch(&mut self, epoch: u32, interrupt: &Interrupt) -> Result<Vec<Score>, CohortError> {
        self.prune_for(epoch)?;
        let samples = self.data().len(Split::Train);
        let absolute = self.tasks()[0].epochs_before + epoch;
        let orders: Vec<Vec<u32>> =
            self.tasks().iter().map(|t| epoch_order(t.hyperparameters.seed, absolute, samples)).collect();
        self.train(absolute, &orders, interrupt)
    }

    /// Evaluates a split, dropout off, samples in the order of the file.
    fn evaluate(&mut self, split: Split, interrupt: &Interrupt) -> Result<Vec<Evaluation>, CohortError> {
        const PIECE: usize = 1000;
        let models = self.tasks().len();
        let total = self.data().len(split);
        let mut tallies = vec![Tally::default(); models];
        let mut predictions = vec![Vec::with_capacity(total); models];
        for start in (0..total).step_by(PIECE) {
            interrupt.check()?;
            let range = start..total.min(start + PIECE);
            let logits = self.logits(split, range.clone())?;
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
