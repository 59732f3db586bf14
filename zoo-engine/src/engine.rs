//! The traits that an engine implements.

use std::ops::Range;

use zoo_model::random::epoch_order;
use zoo_model::stage::{Interrupt, Interrupted};
use zoo_model::{Dataset, Split};

use crate::device::{DeviceError, DeviceName};
use crate::metrics::{predicted, Score, Tally};
use crate::snapshot::Snapshot;
use crate::task::{Mask, ModelSpec, Task};

/// A score and the predictions behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Loss and accuracy; `None` over no samples.
    pub score: Option<Score>,
    /// Predicted class of each sample.
    pub predictions: Vec<u16>,
}

/// Outputs of the layers of a network: of each layer (samples, values), row-major. The order of the
/// values of a sample is the engine's own.
pub type LayerOutputs = Vec<Vec<f64>>;

/// Why a cohort gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
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

    /// Version of its arithmetic. It changes whenever the same model would no longer be bit-identical.
    fn version(&self) -> String;

    /// Whether it trains such models.
    fn trains(&self, model: &ModelSpec) -> bool;

    /// Groups models into cohorts: the unit of shards. Indices into `models`. Depends on `models`
    /// alone, so that shards are the same everywhere.
    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>>;

    /// Plans what is trained at a time on this engine's device, and how much of it at once where the
    /// processor has the given number of threads: cohorts divided or united.
    ///
    /// # Errors
    /// Not one model fits the device.
    fn plan_batches(
        &self,
        cohorts: Vec<Vec<usize>>,
        _models: &[&ModelSpec],
        _data: &Dataset,
        threads: usize,
    ) -> Result<BatchPlan, DeviceError> {
        Ok(BatchPlan { batches: cohorts, concurrency: threads, parallelism: threads })
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

    /// What the layers of a task's network make of the samples `range` of a split, from its initial
    /// parameters: of every activation function and residual block, and of the last layer, the
    /// outputs. `None` if the engine does not tell.
    ///
    /// # Errors
    /// The device failed, or is full.
    fn layer_outputs(
        &self,
        _task: &Task,
        _data: &Dataset,
        _split: Split,
        _range: Range<usize>,
    ) -> Result<Option<LayerOutputs>, DeviceError> {
        Ok(None)
    }
}

/// Makes engines of one kind.
pub trait EngineFactory: Send + Sync {
    /// Name of its engines, as `--engine` takes it.
    fn name(&self) -> &'static str;

    /// What its engines are, in one line for `--help`.
    fn about(&self) -> &'static str;

    /// Whether its engines train such models.
    fn trains(&self, model: &ModelSpec) -> bool;

    /// An engine on a device.
    ///
    /// # Errors
    /// There is no such device, or it is not usable.
    fn build(&self, device: DeviceName) -> Result<BuiltEngine, DeviceError>;
}

/// An engine, and what there is to say about its device.
pub struct BuiltEngine {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// For the user: which device was chosen, and why.
    pub notice: Option<String>,
}

impl<E: Engine + 'static> From<E> for BuiltEngine {
    fn from(engine: E) -> Self {
        Self { engine: Box::new(engine), notice: None }
    }
}

/// What an engine trains at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPlan {
    /// Models that are trained together, as indices.
    pub batches: Vec<Vec<usize>>,
    /// How many of them at once. Each has an equal share of the processor's threads, at least one.
    pub concurrency: usize,
    /// How many of them do not slow each other down: the concurrency on a processor, the number of
    /// devices elsewhere.
    pub parallelism: usize,
}

impl BatchPlan {
    /// Threads that each batch has for itself, of the processor's: at least one. Where as many batches as
    /// threads are trained at once, that is one, and a matrix product is never split.
    pub fn threads_per_batch(&self, threads: usize) -> usize {
        (threads / self.concurrency.max(1)).max(1)
    }
}

/// Models that are trained in step with each other. Every method answers once a model, in the
/// order of the tasks. Errors are an interruption, or the device's.
pub trait Cohort {
    /// The models' tasks.
    fn tasks(&self) -> &[Task];

    /// The dataset.
    fn data(&self) -> &Dataset;

    /// Trains model `m` on the train samples `orders[m]`, in batches of its batch size, the last
    /// one perhaps smaller: an epoch's samples, or a part of them that begins with the epoch's step
    /// `first_step`. Returns the sums over the batches as trained.
    ///
    /// `epoch` keys the dropout masks, together with the step within the epoch.
    fn train(
        &mut self,
        epoch: u32,
        first_step: u32,
        orders: &[Vec<u32>],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tally>, EngineError>;

    /// Steps after which training may be interrupted within an epoch: a long epoch is trained in
    /// parts of this many steps, at least one. It depends on the models and the data alone, since the
    /// sums of losses depend on it.
    fn steps_per_part(&self) -> usize {
        usize::MAX
    }

    /// Gradient of the mean cross entropy of the train samples `samples`, without weight decay
    /// and dropout: a flat vector.
    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Logits of the samples `range` of a split, dropout off: (samples, classes). They are those
    /// of the models' [states](Snapshot::state), so that a kept state can be evaluated again.
    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError>;

    /// The models as they are now.
    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError>;

    /// Gives each model its mask, if there is one for it: the parameters for which it is false are
    /// zero from now on.
    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError>;

    /// Gives models on a [`Ramp`](crate::magnitude::Ramp) their masks for epoch `epoch`, and returns
    /// them; empty if no model is on one.
    fn prune_for(&mut self, epoch: u32) -> Result<Vec<Option<Vec<bool>>>, EngineError> {
        if !self.tasks().iter().any(|t| matches!(t.mask, Some(Mask::Ramp(_)))) {
            return Ok(Vec::new());
        }
        let mask = |(task, snapshot): (&Task, Snapshot)| match &task.mask {
            Some(Mask::Ramp(ramp)) => Some(ramp.mask(&task.network, &snapshot.state(), epoch)),
            None | Some(Mask::Fixed(_) | Mask::Variational(_)) => None,
        };
        let masks: Vec<Option<Vec<bool>>> = self.tasks().iter().zip(self.snapshots()?).map(mask).collect();
        self.prune(&masks)?;
        Ok(masks)
    }

    /// Says that the next call that trains will begin epoch `epoch`: a device that works on its own may
    /// begin. What snapshots answer stays that of the epoch before.
    fn prefetch_epoch(&mut self, _epoch: u32) -> Result<(), EngineError> {
        Ok(())
    }

    /// Steps of an epoch, of the model that has the most.
    fn steps_per_epoch(&self) -> usize {
        let samples = self.data().len(Split::Train);
        self.tasks().iter().map(|t| samples.div_ceil(t.hyperparameters.batch_size)).max().unwrap_or(0)
    }

    /// The step of an epoch after the last one of the part that begins with step `first_step`.
    fn end_of_part(&self, first_step: usize) -> usize {
        first_step.saturating_add(self.steps_per_part().max(1)).min(self.steps_per_epoch())
    }

    /// The samples of each model in the part of epoch `epoch`, from 1, that begins with step `first_step`.
    fn orders_of_part(&self, epoch: u32, first_step: usize) -> Vec<Vec<u32>> {
        let samples = self.data().len(Split::Train);
        let end = self.end_of_part(first_step);
        let of_model = |t: &Task| {
            let order = epoch_order(t.hyperparameters.seed, t.epochs_before + epoch, samples);
            let [start, end] = [first_step, end].map(|step| samples.min(step * t.hyperparameters.batch_size));
            order[start..end].to_vec()
        };
        self.tasks().iter().map(of_model).collect()
    }

    /// Trains the part of epoch `epoch`, from 1, that begins with step `first_step`, in that epoch's
    /// order. The masks are those that the models have: see [`prune_for`](Self::prune_for).
    fn train_part(&mut self, epoch: u32, first_step: usize, interrupt: &Interrupt) -> Result<Vec<Tally>, EngineError> {
        let orders = self.orders_of_part(epoch, first_step);
        let absolute = self.tasks()[0].epochs_before + epoch;
        self.train(absolute, first_step as u32, &orders, interrupt)
    }

    /// Trains one epoch, from 1, part by part. Models on a [`Ramp`](crate::magnitude::Ramp) are pruned
    /// before.
    fn train_epoch(&mut self, epoch: u32, interrupt: &Interrupt) -> Result<Vec<Tally>, EngineError> {
        self.prune_for(epoch)?;
        let mut tallies = vec![Tally::default(); self.tasks().len()];
        let mut step = 0;
        while step < self.steps_per_epoch() {
            let part = self.train_part(epoch, step, interrupt)?;
            tallies.iter_mut().zip(&part).for_each(|(tally, part)| tally.merge(part));
            step = self.end_of_part(step);
        }
        Ok(tallies)
    }

    /// Evaluates a split, dropout off, samples in the order of the file.
    fn evaluate(&mut self, split: Split, interrupt: &Interrupt) -> Result<Vec<Evaluation>, EngineError> {
        const EVALUATION_CHUNK: usize = 250;
        let models = self.tasks().len();
        let total = self.data().len(split);
        let mut tallies = vec![Tally::default(); models];
        let mut predictions = vec![Vec::with_capacity(total); models];
        for start in (0..total).step_by(EVALUATION_CHUNK) {
            interrupt.check()?;
            let range = start..total.min(start + EVALUATION_CHUNK);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::magnitude::{Ramp, Scope};
    use crate::optimizer::Moments;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Architecture, Hyperparameters};

    /// A cohort that trains nothing and keeps what it was asked for.
    struct Recorder {
        tasks: Vec<Task>,
        data: Dataset,
        trained: Vec<(u32, u32, Vec<Vec<u32>>)>,
        steps_per_part: usize,
        pruned: Vec<Vec<Option<Vec<bool>>>>,
        ranges: Vec<Range<usize>>,
    }

    impl Recorder {
        /// Model m has the seed m + 1, and was trained for five epochs before.
        fn new(masks: Vec<Option<Mask>>, samples: usize) -> Self {
            let task = |(seed, mask)| {
                let hyperparameters =
                    Hyperparameters { architecture: Architecture::Mlp, seed, ..Hyperparameters::default() };
                let task = Task::new(&hyperparameters, [1, 2, 2], 3).unwrap();
                Task { mask, epochs_before: 5, ..task }
            };
            Self {
                tasks: (1..).zip(masks).map(task).collect(),
                data: noise_dataset([1, 2, 2], 3, samples),
                trained: Vec::new(),
                steps_per_part: usize::MAX,
                pruned: Vec::new(),
                ranges: Vec::new(),
            }
        }
    }

    impl Cohort for Recorder {
        fn tasks(&self) -> &[Task] {
            &self.tasks
        }

        fn data(&self) -> &Dataset {
            &self.data
        }

        fn train(
            &mut self,
            epoch: u32,
            first_step: u32,
            orders: &[Vec<u32>],
            _: &Interrupt,
        ) -> Result<Vec<Tally>, EngineError> {
            self.trained.push((epoch, first_step, orders.to_vec()));
            Ok(orders.iter().map(|o| Tally { loss: 1.0, hits: 1, samples: o.len() as u64 }).collect())
        }

        fn steps_per_part(&self) -> usize {
            self.steps_per_part
        }

        fn gradients(&mut self, _: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
            unimplemented!()
        }

        /// Model 0 is right everywhere, model 1 says class 1.
        fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
            self.ranges.push(range.clone());
            let labels = &self.data.split(split).labels[range];
            let one_hot = |class: u16| (0..3).map(move |c| if c == class { 100.0 } else { 0.0 });
            let right = labels.iter().flat_map(|&label| one_hot(label)).collect();
            Ok(vec![right, labels.iter().flat_map(|_| one_hot(1)).collect()])
        }

        fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
            let snapshot = |task: &Task| Snapshot {
                step: 0,
                parameters: task.initial.iter().map(|&p| p.into()).collect(),
                moments: Moments::Sgd { momentum: Vec::new() },
                noise: None,
            };
            Ok(self.tasks.iter().map(snapshot).collect())
        }

        fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
            self.pruned.push(masks.to_vec());
            Ok(())
        }
    }

    #[test]
    fn models_on_a_ramp_are_pruned_before_each_epoch() {
        let ramp = Ramp { sparsity: 0.5, scope: Scope::Global, epochs: 2 };
        let masks = vec![None, Some(Mask::Fixed(vec![true; 15])), Some(Mask::Ramp(ramp.clone()))];
        let mut cohort = Recorder::new(masks, 7);
        cohort.train_epoch(1, &Interrupt::default()).unwrap();
        let Task { network, initial, .. } = &cohort.tasks[2];
        assert_eq!(cohort.pruned, [[None, None, Some(ramp.mask(network, initial, 1))]]);

        let mut dense = Recorder::new(vec![None, Some(Mask::Fixed(vec![true; 15]))], 7);
        dense.train_epoch(1, &Interrupt::default()).unwrap();
        assert!(dense.pruned.is_empty());
    }

    #[test]
    fn an_epoch_is_trained_in_each_models_own_order() {
        let mut cohort = Recorder::new(vec![None, None], 7);
        let tallies = cohort.train_epoch(2, &Interrupt::default()).unwrap();
        assert_eq!(tallies, [Tally { loss: 1.0, hits: 1, samples: 7 }; 2]);
        assert_eq!(cohort.trained, [(7, 0, vec![epoch_order(1, 7, 7), epoch_order(2, 7, 7)])]);
    }

    #[test]
    fn a_long_epoch_is_trained_in_parts_of_whole_steps() {
        let mut cohort = Recorder { steps_per_part: 2, ..Recorder::new(vec![None, None], 7) };
        cohort.tasks[0].hyperparameters.batch_size = 2;
        cohort.tasks[1].hyperparameters.batch_size = 3;
        let tallies = cohort.train_epoch(2, &Interrupt::default()).unwrap();
        assert_eq!(tallies, [Tally { loss: 2.0, hits: 2, samples: 7 }; 2]);
        let [a, b] = [1, 2].map(|seed| epoch_order(seed, 7, 7));
        let parts = [(7, 0, vec![a[..4].to_vec(), b[..6].to_vec()]), (7, 2, vec![a[4..].to_vec(), b[6..].to_vec()])];
        assert_eq!(cohort.trained, parts);
    }

    #[test]
    fn a_split_is_evaluated_chunk_by_chunk_in_order() {
        let mut cohort = Recorder::new(vec![None, None], 600);
        let evaluations = cohort.evaluate(Split::Test, &Interrupt::default()).unwrap();
        assert_eq!(cohort.ranges, [0..250, 250..500, 500..600]);
        let labels = &cohort.data.split(Split::Test).labels;
        assert_eq!(evaluations[0].predictions, *labels);
        assert_eq!(evaluations[1].predictions, [1; 600]);
        assert_eq!(evaluations.iter().map(|e| e.score.unwrap().accuracy).collect::<Vec<_>>(), [1.0, 200.0 / 600.0]);
        assert!(evaluations[0].score.unwrap().loss < 1e-12);

        let interrupt = Interrupt::default();
        interrupt.set();
        assert_eq!(cohort.evaluate(Split::Test, &interrupt), Err(EngineError::Interrupted(Interrupted)));
    }

    /// An engine with nothing but what it must have.
    struct Plain;

    impl Engine for Plain {
        fn name(&self) -> &'static str {
            "plain"
        }

        fn version(&self) -> String {
            "1".into()
        }

        fn trains(&self, _: &ModelSpec) -> bool {
            true
        }

        fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
            (0..models.len()).map(|m| vec![m]).collect()
        }

        fn start<'d>(
            &self,
            _: &[Task],
            _: &'d Dataset,
            _: Option<&[Snapshot]>,
        ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
            Err(DeviceError::Unavailable("trains nothing".into()))
        }
    }

    #[test]
    fn an_engine_trains_cohorts_as_they_are_on_all_threads_unless_it_says_otherwise() {
        let data = noise_dataset([1, 2, 2], 3, 7);
        let cohorts = vec![vec![0, 1], vec![2]];
        let plan = Plain.plan_batches(cohorts.clone(), &[], &data, 3).unwrap();
        assert_eq!(plan, BatchPlan { batches: cohorts, concurrency: 3, parallelism: 3 });
        assert_eq!([1, 3, 5, 6].map(|threads| plan.threads_per_batch(threads)), [1, 1, 1, 2]);
        let task = &Recorder::new(vec![None], 7).tasks[0];
        assert_eq!(Plain.layer_outputs(task, &data, Split::Test, 0..1), Ok(None));
        let built = BuiltEngine::from(Plain);
        assert_eq!((built.engine.name(), built.notice), ("plain", None));
    }
}
