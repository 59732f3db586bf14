//! Trains one cohort from start to end: which states are kept, and what is recorded of each.
//!
//! States go to a [`Sink`] as they are made; none is held here.

use zoo_model::dataset::PerSplit;
use zoo_model::result::{finite, ResultLine};
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Split};

use zoo_engine::metrics::{Score, Tally};
use zoo_engine::{Cohort, Engine, EngineError, Evaluation, Mask, Snapshot, Task};

/// A task, and what its caller wants recorded besides the metrics.
pub struct Job<'a> {
    /// What to train.
    pub task: Task,
    /// Adds to a line: the state's flat parameters and its evaluation on the test split are given.
    pub annotate: Option<Annotate<'a>>,
}

/// See [`Job::annotate`].
pub type Annotate<'a> = Box<dyn Fn(&mut ResultLine, &[f32], &Evaluation) + Send + Sync + 'a>;

/// A cohort in training, between two parts of an epoch or two epochs: all that is needed to resume. Its
/// size does not depend on the number of epochs, but for the lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Epochs trained.
    pub epoch: u32,
    /// Steps trained of the next epoch, whole parts of it.
    pub steps: usize,
    /// One per model: what was seen in these steps; empty between two epochs.
    pub tallies: Vec<Tally>,
    /// One per model: the masks with which the epoch began, of models on a ramp; empty between two
    /// epochs, and without any ramp.
    pub masks: Vec<Option<Vec<bool>>>,
    /// One per model; empty before the first part of an epoch.
    pub snapshots: Vec<Snapshot>,
    /// One per model: the lines of the kept epochs.
    pub lines: Vec<Vec<ResultLine>>,
}

impl Progress {
    /// How far it is: epochs, and steps of the next one.
    pub fn position(&self) -> (u32, usize) {
        (self.epoch, self.steps)
    }

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
        let cohort = engine.start(&tasks, data, None)?;
        let fresh = cohort.snapshots()?;
        let shape =
            |s: &Snapshot| s.vectors().into_iter().map(|(name, vector)| (name, vector.len())).collect::<Vec<_>>();
        let due: Vec<u32> = kept_epochs.iter().copied().filter(|&e| e <= self.epoch).collect();
        let is_due = |lines: &Vec<ResultLine>| lines.iter().map(|l| l.training_iteration).eq(due.iter().copied());
        Ok(self.snapshots.iter().map(shape).eq(fresh.iter().map(shape))
            && self.lines.len() == jobs.len()
            && self.lines.iter().all(is_due)
            && self.has_part_of(cohort.as_ref()))
    }

    /// Whether it is between two epochs of a cohort, or between two parts of one.
    fn has_part_of(&self, cohort: &dyn Cohort) -> bool {
        if self.steps == 0 {
            return self.tallies.is_empty() && self.masks.is_empty();
        }
        let is_on_ramp = |task: &Task| matches!(task.mask, Some(Mask::Ramp(_)));
        let lengths = |masks: &[Option<Vec<bool>>]| masks.iter().map(|m| m.as_ref().map(Vec::len)).collect::<Vec<_>>();
        let expected = cohort.tasks().iter().map(|t| is_on_ramp(t).then(|| t.network.state_len()));
        let has_masks = match cohort.tasks().iter().any(is_on_ramp) {
            true => lengths(&self.masks) == expected.collect::<Vec<_>>(),
            false => self.masks.is_empty(),
        };
        let is_end_of_part = self.steps.is_multiple_of(cohort.steps_per_part().max(1));
        let is_within = self.steps < cohort.steps_per_epoch();
        has_masks && is_end_of_part && is_within && self.tallies.len() == cohort.tasks().len()
    }
}

/// Where the results of a training go.
pub trait Sink {
    /// Why it fails.
    type Error: From<EngineError>;

    /// Takes the states of a kept epoch, a flat vector per model. What saves the progress next has their
    /// lines.
    fn keep(&mut self, states: Vec<Vec<f32>>) -> Result<(), Self::Error>;

    /// Whether it wants to see the progress within an epoch now: what it does not see is not copied from the device.
    fn is_due(&self) -> bool {
        true
    }

    /// Sees the progress after each epoch, and if it [is due](Self::is_due) after each part of a long one, so that
    /// it can be saved.
    fn pass(&mut self, progress: &Progress) -> Result<(), Self::Error>;
}

/// Trains `jobs`, and hands the kept states to a sink as they are made; the lines are in `progress` in the
/// end.
///
/// Resumes from `progress`; an interruption leaves it at the end of the last whole epoch, or the last
/// part of a long one that the sink saw.
pub fn train<S: Sink>(
    engine: &dyn Engine,
    jobs: &[Job],
    data: &Dataset,
    kept_epochs: &[u32],
    progress: &mut Progress,
    interrupt: &Interrupt,
    sink: &mut S,
) -> Result<(), S::Error> {
    let tasks: Vec<Task> = jobs.iter().map(|j| j.task.clone()).collect();
    let from = (!progress.snapshots.is_empty()).then_some(progress.snapshots.as_slice());
    let mut cohort = engine.start(&tasks, data, from).map_err(EngineError::from)?;
    progress.lines.resize(jobs.len(), Vec::new());
    let last = kept_epochs.last().copied().unwrap_or(0);
    if from.is_none() && kept_epochs.first() == Some(&0) {
        let trained = scores(cohort.evaluate(Split::Train, interrupt)?);
        let evaluations = evaluate(cohort.as_mut(), interrupt)?;
        let (lines, states) = keep(0, &trained, &evaluations, jobs, &cohort.snapshots()?);
        sink.keep(states)?;
        extend(&mut progress.lines, lines);
    }
    for epoch in progress.epoch + 1..=last {
        let trained = train_epoch(cohort.as_mut(), epoch, progress, interrupt, sink)?;
        let is_kept = kept_epochs.binary_search(&epoch).is_ok();
        let evaluations = if is_kept { Some(evaluate(cohort.as_mut(), interrupt)?) } else { None };
        // What follows is copied out and written while the next epoch runs.
        if epoch < last {
            cohort.prefetch_epoch(epoch + 1)?;
        }
        let snapshots = cohort.snapshots()?;
        // Nothing of the epoch enters the progress before all of it is there.
        if let Some(evaluations) = evaluations {
            let trained: Vec<Option<Score>> = trained.iter().map(Tally::score).collect();
            let (lines, states) = keep(epoch, &trained, &evaluations, jobs, &snapshots);
            sink.keep(states)?;
            extend(&mut progress.lines, lines);
        }
        let lines = std::mem::take(&mut progress.lines);
        *progress = Progress { epoch, snapshots, lines, ..Progress::default() };
        sink.pass(progress)?;
    }
    Ok(())
}

/// Trains an epoch, or what is left of it; the progress is that of its last part but one.
fn train_epoch<S: Sink>(
    cohort: &mut dyn Cohort,
    epoch: u32,
    progress: &mut Progress,
    interrupt: &Interrupt,
    sink: &mut S,
) -> Result<Vec<Tally>, S::Error> {
    let (masks, mut tallies) = if progress.steps == 0 {
        (cohort.prune_for(epoch)?, vec![Tally::default(); cohort.tasks().len()])
    } else {
        // They cannot be told from the weights any more: one that was kept may have become zero.
        if !progress.masks.is_empty() {
            cohort.prune(&progress.masks)?;
        }
        (progress.masks.clone(), progress.tallies.clone())
    };
    let mut step = progress.steps;
    loop {
        let part = cohort.train_part(epoch, step, interrupt)?;
        tallies.iter_mut().zip(&part).for_each(|(tally, part)| tally.merge(part));
        step = cohort.end_of_part(step);
        if step >= cohort.steps_per_epoch() {
            return Ok(tallies);
        }
        if !sink.is_due() {
            continue;
        }
        progress.snapshots = cohort.snapshots()?;
        (progress.steps, progress.tallies, progress.masks) = (step, tallies.clone(), masks.clone());
        sink.pass(progress)?;
    }
}

/// Adds one line per model.
fn extend(all: &mut [Vec<ResultLine>], lines: Vec<ResultLine>) {
    all.iter_mut().zip(lines).for_each(|(all, line)| all.push(line));
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

/// The lines and states of the models after an epoch.
fn keep(
    epoch: u32,
    trained: &[Option<Score>],
    HeldOut { val, test }: &HeldOut,
    jobs: &[Job],
    snapshots: &[Snapshot],
) -> (Vec<ResultLine>, Vec<Vec<f32>>) {
    let each = snapshots.iter().enumerate().map(|(m, snapshot)| {
        let state = snapshot.state();
        let scores = PerSplit { train: trained[m], val: val[m].score, test: test[m].score };
        let mut line = result_line(epoch, &state, scores);
        if let Some(annotate) = &jobs[m].annotate {
            annotate(&mut line, &state, &test[m]);
        }
        (line, state)
    });
    each.unzip()
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
    use crate::in_parts::InParts;
    use zoo_engine::magnitude::{Ramp, Scope};
    use zoo_engine::{Moments, NoiseSnapshot};
    use zoo_engine_population::PopulationEngine;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Hyperparameters, Optimizer};

    /// Keeps what it is given.
    #[derive(Default)]
    struct Keep {
        states: Vec<Vec<Vec<f32>>>,
        passed: Vec<Progress>,
        interrupt: Option<(Interrupt, (u32, usize))>,
    }

    impl Sink for Keep {
        type Error = EngineError;

        fn keep(&mut self, states: Vec<Vec<f32>>) -> Result<(), EngineError> {
            self.states.push(states);
            Ok(())
        }

        fn pass(&mut self, progress: &Progress) -> Result<(), EngineError> {
            self.passed.push(progress.clone());
            if let Some((interrupt, _)) = self.interrupt.as_ref().filter(|(_, at)| *at == progress.position()) {
                interrupt.set();
            }
            Ok(())
        }
    }

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
        let mut sink = Keep::default();
        let mut progress = Progress::default();
        train(&engine, &jobs, &data, &[0, 1, 3], &mut progress, &Interrupt::default(), &mut sink).unwrap();
        let saved = sink.passed;
        assert!(saved.len() == 3 && saved.iter().all(fits));

        let faults: [fn(&mut Progress); 10] = [
            |p| drop(p.snapshots.pop()),
            |p| p.snapshots[1].parameters.truncate(1),
            |p| p.snapshots[0].moments = Moments::Sgd { momentum: p.snapshots[0].parameters.clone() },
            |p| p.snapshots[0].moments = Moments::filled(Optimizer::Adam, vec![0.0]),
            |p| {
                let (log_sigma2, moments) = (p.snapshots[1].parameters.clone(), p.snapshots[1].moments.clone());
                p.snapshots[1].noise = Some(NoiseSnapshot { log_sigma2, moments });
            },
            |p| drop(p.lines[1].pop()),
            |p| drop(p.lines.pop()),
            |p| p.epoch = 0,
            |p| p.tallies = vec![Tally::default(); 2],
            |p| p.steps = 1,
        ];
        for (i, fault) in faults.iter().enumerate() {
            let mut progress = saved[1].clone();
            fault(&mut progress);
            assert!(!fits(&progress), "fault {i}");
        }
    }

    /// Two models, the second on a ramp, whose epoch has three parts.
    fn in_parts(data: &Dataset) -> (InParts, [Job<'static>; 2]) {
        let h = Hyperparameters { batch_size: 4, dropout: 0.3, ..Hyperparameters::default() };
        let task = Task::new(&h, data.shape, 10).unwrap();
        let ramp = Mask::Ramp(Ramp { sparsity: 0.5, scope: Scope::Global, epochs: 2 });
        let job = |mask| Job { task: Task { mask, ..task.clone() }, annotate: None };
        (InParts { engine: PopulationEngine::new(), steps: 2 }, [job(None), job(Some(ramp))])
    }

    #[test]
    fn an_interruption_between_two_parts_changes_nothing() {
        let data = noise_dataset([1, 28, 28], 10, 21);
        let (engine, jobs) = in_parts(&data);
        let run = |progress: &mut Progress, sink: &mut Keep| {
            let interrupt = sink.interrupt.as_ref().map_or_else(Interrupt::default, |(interrupt, _)| interrupt.clone());
            train(&engine, &jobs, &data, &[0, 2], progress, &interrupt, sink)
        };
        let (mut expected, mut whole) = (Progress::default(), Keep::default());
        run(&mut expected, &mut whole).unwrap();
        let positions: Vec<(u32, usize)> = whole.passed.iter().map(Progress::position).collect();
        assert_eq!(positions, [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]);
        assert_eq!((whole.states.len(), expected.lines[0].len()), (2, 2));
        for &at in &positions[..5] {
            let mut sink = Keep { interrupt: Some((Interrupt::default(), at)), ..Keep::default() };
            let mut progress = Progress::default();
            assert!(matches!(run(&mut progress, &mut sink), Err(EngineError::Interrupted(_))));
            assert_eq!(progress.position(), at);
            assert!(progress.fits(&engine, &jobs, &data, &[0, 2]).unwrap(), "{at:?}");
            sink.interrupt = None;
            run(&mut progress, &mut sink).unwrap();
            assert!(progress == expected && sink.states == whole.states && sink.passed == whole.passed, "{at:?}");
        }
        let within = &whole.passed[3];
        let faults: [fn(&mut Progress); 7] = [
            |p| p.steps = 3,
            |p| p.steps = 6,
            |p| p.steps = 0,
            |p| p.tallies.truncate(1),
            |p| drop(p.masks.pop()),
            |p| p.masks[0] = p.masks[1].clone(),
            |p| p.masks[1] = Some(vec![true]),
        ];
        for (i, fault) in faults.iter().enumerate() {
            let mut progress = within.clone();
            fault(&mut progress);
            assert!(!progress.fits(&engine, &jobs, &data, &[0, 2]).unwrap(), "fault {i}");
        }
    }

    #[test]
    fn a_weight_that_becomes_zero_within_an_epoch_is_not_removed() {
        let data = noise_dataset([1, 28, 28], 10, 21);
        let (engine, jobs) = in_parts(&data);
        let (mut progress, mut sink) = (Progress::default(), Keep::default());
        train(&engine, &jobs, &data, &[1], &mut progress, &Interrupt::default(), &mut sink).unwrap();
        let mut within = sink.passed[0].clone();
        let mask = within.masks[1].clone().unwrap();
        let place = mask.iter().position(|&kept| kept).unwrap();
        within.snapshots[1].parameters[place] = 0.0;
        train(&engine, &jobs, &data, &[1], &mut within, &Interrupt::default(), &mut Keep::default()).unwrap();
        assert!(within.snapshots[1].parameters[place] != 0.0);
    }

    #[test]
    fn memory_does_not_grow_with_the_epochs() {
        let data = noise_dataset([1, 28, 28], 10, 4);
        let engine = PopulationEngine::new();
        let task = Task::new(&Hyperparameters { batch_size: 4, ..Default::default() }, data.shape, 10).unwrap();
        let kept: Vec<u32> = (0..=6).collect();
        let mut sink = Keep::default();
        let (progress, jobs) = (&mut Progress::default(), [Job { task, annotate: None }]);
        train(&engine, &jobs, &data, &kept, progress, &Interrupt::default(), &mut sink).unwrap();
        let size = |p: &Progress| p.snapshots[0].vectors().iter().map(|(_, v)| v.len()).sum::<usize>() + p.masks.len();
        assert_eq!(sink.states.len(), kept.len());
        assert!(sink.passed.iter().all(|p| size(p) == size(&sink.passed[0]) && p.tallies.is_empty()));
    }
}
