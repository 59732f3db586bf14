//! Trains one cohort from start to end: which states are kept, and what is recorded of each.

use zoo_model::dataset::PerSplit;
use zoo_model::result::{finite, ResultLine};
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Split};

use zoo_engine::metrics::{Score, Tally};
use zoo_engine::{Cohort, Engine, EngineError, Evaluation, Snapshot, Task};

/// A task, and what its caller wants recorded besides the metrics.
pub struct Job<'a> {
    /// What to train.
    pub task: Task,
    /// Adds to a line: the state's flat parameters and its evaluation on the test split are given.
    pub annotate: Option<Annotate<'a>>,
}

/// See [`Job::annotate`].
pub type Annotate<'a> = Box<dyn Fn(&mut ResultLine, &[f32], &Evaluation) + Send + Sync + 'a>;

/// Everything a model leaves behind: one line and one flat state per kept epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trajectory {
    /// Metrics.
    pub lines: Vec<ResultLine>,
    /// Flat parameter vectors.
    pub states: Vec<Vec<f32>>,
}

/// A cohort between two epochs: all that is needed to resume.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Epochs trained.
    pub epoch: u32,
    /// One per model; empty before the first epoch.
    pub snapshots: Vec<Snapshot>,
    /// One per model: what was kept so far.
    pub trajectories: Vec<Trajectory>,
}

impl Progress {
    /// Whether the cohort that `engine` makes of `jobs` can resume from here: with snapshots of the
    /// shapes of its own, and with the lines that are due by now. A file may say anything.
    ///
    /// # Errors
    /// The device failed, or is full.
    pub fn fits(
        &self,
        engine: &dyn Engine,
        jobs: &[Job],
        data: &Dataset,
        kept_epochs: &[u32],
    ) -> Result<bool, EngineError> {
        let tasks: Vec<Task> = jobs.iter().map(|j| j.task.clone()).collect();
        let fresh = engine.start(&tasks, data, None)?.snapshots()?;
        let shape =
            |s: &Snapshot| s.vectors().into_iter().map(|(name, vector)| (name, vector.len())).collect::<Vec<_>>();
        let due: Vec<u32> = kept_epochs.iter().copied().filter(|&e| e <= self.epoch).collect();
        let is_due = |t: &Trajectory| t.lines.iter().map(|l| l.training_iteration).eq(due.iter().copied());
        Ok(self.snapshots.iter().map(shape).eq(fresh.iter().map(shape)) && self.trajectories.iter().all(is_due))
    }

    /// Adds one line and state per model.
    fn extend(&mut self, kept: Vec<(ResultLine, Vec<f32>)>) {
        for (trajectory, (line, state)) in self.trajectories.iter_mut().zip(kept) {
            trajectory.lines.push(line);
            trajectory.states.push(state);
        }
    }
}

/// Trains `jobs` and returns the trajectories.
///
/// Resumes from `progress`. `after_epoch` sees the progress after each epoch, so that it can be
/// saved; an interruption leaves `progress` at the end of the last whole epoch.
pub fn train<E: From<EngineError>>(
    engine: &dyn Engine,
    jobs: &[Job],
    data: &Dataset,
    kept_epochs: &[u32],
    progress: &mut Progress,
    interrupt: &Interrupt,
    mut after_epoch: impl FnMut(&Progress) -> Result<(), E>,
) -> Result<Vec<Trajectory>, E> {
    let tasks: Vec<Task> = jobs.iter().map(|j| j.task.clone()).collect();
    let from = (!progress.snapshots.is_empty()).then_some(progress.snapshots.as_slice());
    let mut cohort = engine.start(&tasks, data, from).map_err(EngineError::from)?;
    progress.trajectories.resize(jobs.len(), Trajectory::default());
    let last = kept_epochs.last().copied().unwrap_or(0);
    if from.is_none() && kept_epochs.first() == Some(&0) {
        let trained = scores(cohort.evaluate(Split::Train, interrupt)?);
        let evaluations = evaluate(cohort.as_mut(), interrupt)?;
        let kept = keep(0, &trained, &evaluations, jobs, &cohort.snapshots()?);
        progress.extend(kept);
    }
    for epoch in progress.epoch + 1..=last {
        let trained = cohort.train_epoch(epoch, interrupt)?;
        let is_kept = kept_epochs.binary_search(&epoch).is_ok();
        let evaluations = if is_kept { Some(evaluate(cohort.as_mut(), interrupt)?) } else { None };
        // What follows is copied out and written while the next epoch runs.
        if epoch < last {
            cohort.prefetch_epoch(epoch + 1)?;
        }
        let snapshots = cohort.snapshots()?;
        let trained: Vec<Option<Score>> = trained.iter().map(Tally::score).collect();
        // Nothing of the epoch enters the progress before all of it is there.
        let kept = evaluations.map(|evaluations| keep(epoch, &trained, &evaluations, jobs, &snapshots));
        (progress.epoch, progress.snapshots) = (epoch, snapshots);
        progress.extend(kept.unwrap_or_default());
        after_epoch(progress)?;
    }
    Ok(std::mem::take(&mut progress.trajectories))
}

fn scores(evaluations: Vec<Evaluation>) -> Vec<Option<Score>> {
    evaluations.into_iter().map(|e| e.score).collect()
}

/// Evaluations of the models on what they are not trained on.
struct HeldOut {
    val: Vec<Evaluation>,
    test: Vec<Evaluation>,
}

/// The models on the validation and the test split.
fn evaluate(cohort: &mut dyn Cohort, interrupt: &Interrupt) -> Result<HeldOut, EngineError> {
    Ok(HeldOut { val: cohort.evaluate(Split::Val, interrupt)?, test: cohort.evaluate(Split::Test, interrupt)? })
}

/// The line and state of each model after an epoch.
fn keep(
    epoch: u32,
    trained: &[Option<Score>],
    HeldOut { val, test }: &HeldOut,
    jobs: &[Job],
    snapshots: &[Snapshot],
) -> Vec<(ResultLine, Vec<f32>)> {
    let each = snapshots.iter().enumerate().map(|(m, snapshot)| {
        let state = snapshot.state();
        let scores = PerSplit { train: trained[m], val: val[m].score, test: test[m].score };
        let mut line = result_line(epoch, &state, scores);
        if let Some(annotate) = &jobs[m].annotate {
            annotate(&mut line, &state, &test[m]);
        }
        (line, state)
    });
    each.collect()
}

fn result_line(epoch: u32, state: &[f32], scores: PerSplit<Option<Score>>) -> ResultLine {
    let healthy = scores.iter().flatten().all(|s| s.loss.is_finite()) && state.iter().all(|p| p.is_finite());
    let loss = |score: Option<Score>| score.and_then(|s| finite(s.loss));
    let accuracy = |score: Option<Score>| score.map(|s| s.accuracy);
    let PerSplit { train, val, test } = scores;
    ResultLine {
        training_iteration: epoch,
        train_loss: loss(train),
        train_acc: accuracy(train),
        test_loss: loss(test),
        test_acc: accuracy(test),
        val_loss: loss(val),
        val_acc: accuracy(val),
        diverged: !healthy,
        sparsity_ratio: None,
        test_agreement: None,
        extra: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_engine::{Moments, NoiseSnapshot};
    use zoo_engine_population::PopulationEngine;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Hyperparameters, Optimizer};

    #[test]
    fn only_progress_of_such_a_cohort_fits() {
        let data = noise_dataset([1, 28, 28], 10, 4);
        let engine = PopulationEngine::new();
        let job = |optimizer| {
            let h = Hyperparameters { optimizer, batch_size: 4, ..Hyperparameters::default() };
            Job { task: Task::new(&h, data.shape, 10).unwrap(), annotate: None }
        };
        let jobs = [job(Optimizer::Adam), job(Optimizer::Adam)];
        let fits = |progress: &Progress| progress.fits(&engine, &jobs, &data, &[0, 1, 3]).unwrap();
        let mut saved = Vec::new();
        let keep = |now: &Progress| -> Result<(), EngineError> {
            saved.push(now.clone());
            Ok(())
        };
        let mut progress = Progress::default();
        train(&engine, &jobs, &data, &[0, 1, 3], &mut progress, &Interrupt::default(), keep).unwrap();
        assert!(saved.len() == 3 && saved.iter().all(fits));

        let faults: [fn(&mut Progress); 7] = [
            |p| drop(p.snapshots.pop()),
            |p| p.snapshots[1].parameters.truncate(1),
            |p| p.snapshots[0].moments = Moments::Sgd { momentum: p.snapshots[0].parameters.clone() },
            |p| p.snapshots[0].moments = Moments::filled(Optimizer::Adam, vec![0.0]),
            |p| {
                let (log_sigma2, moments) = (p.snapshots[1].parameters.clone(), p.snapshots[1].moments.clone());
                p.snapshots[1].noise = Some(NoiseSnapshot { log_sigma2, moments });
            },
            |p| drop(p.trajectories[1].lines.pop()),
            |p| p.epoch = 0,
        ];
        for (i, fault) in faults.iter().enumerate() {
            let mut progress = saved[1].clone();
            fault(&mut progress);
            assert!(!fits(&progress), "fault {i}");
        }
    }
}
