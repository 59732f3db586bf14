//! Models evaluated on their dataset: for predictions, and for metrics that a zoo does not record.

use std::collections::BTreeSet;

use rayon::prelude::*;
use zoo_engine::{BatchPlan, EngineError, Evaluation, ModelSpec, Task};
use zoo_model::stage::{Progress, Stage, UsageError};
use zoo_model::zoo_dir::DatasetRecord;
use zoo_model::{Dataset, ModelId, Params, ResultLine, Split};
use zoo_train::registry;

use crate::zoo_reader::{Model, Skipped, ZooReader};
use crate::AnalyzeError;

/// Bytes of states of models that are evaluated together.
const BYTES_PER_BATCH: usize = 64 << 20;

/// Checks that a zoo was trained on this dataset.
///
/// # Errors
/// It was not, or does not say.
pub fn check_dataset(zoo: &ZooReader, data: &Dataset) -> Result<(), UsageError> {
    let DatasetRecord { sha256: expected, .. } = &zoo.record().dataset;
    let (zoo, found) = (zoo.path().display(), data.sha256());
    let message = match expected.as_str() {
        expected if expected == found => return Ok(()),
        "" => format!("{zoo} does not record the dataset file that it was trained on: omit --data"),
        _ => format!("{zoo} was trained on another dataset file than the one given (SHA-256 {expected}, not {found})"),
    };
    Err(UsageError(message))
}

/// The task of evaluating a state; `None` if the network does not fit the dataset.
pub fn task(params: &Params, state: &[f32], data: &Dataset) -> Option<Task> {
    let network = params.network().ok()?;
    let fits = network.input() == data.shape && network.classes() == data.classes();
    let (hyperparameters, initial) = (params.hyperparameters.clone(), state.to_vec());
    fits.then(|| Task::from_state(network, hyperparameters, initial))
}

/// Evaluates states on a split: one evaluation per task, in their order.
///
/// # Errors
/// The stage is interrupted.
pub fn evaluate(
    tasks: &[Task],
    data: &Dataset,
    split: Split,
    progress: &dyn Progress,
    stage: &Stage,
) -> Result<Vec<Evaluation>, AnalyzeError> {
    let Some(first) = tasks.first() else { return Ok(Vec::new()) };
    let engine = registry::on_processor(None, &first.spec())?;
    let specs: Vec<ModelSpec> = tasks.iter().map(Task::spec).collect();
    let specs: Vec<&ModelSpec> = specs.iter().collect();
    let cohorts = engine.cohorts(&specs);
    let threads = rayon::current_num_threads();
    let BatchPlan { batches, concurrency, .. } =
        engine.plan_batches(cohorts, &specs, data, threads).map_err(EngineError::from)?;
    // Models that use several threads each are not all evaluated at once, nor in memory.
    let min_len = if concurrency < threads { batches.len().div_ceil(concurrency.max(1)) } else { 1 };
    let evaluated: Vec<Vec<(usize, Evaluation)>> = batches
        .par_iter()
        .with_min_len(min_len)
        .map(|cohort| {
            let tasks: Vec<Task> = cohort.iter().map(|&i| tasks[i].clone()).collect();
            let mut started = engine.start(&tasks, data, None).map_err(EngineError::from)?;
            let evaluations = started.evaluate(split, &stage.interrupt)?;
            progress.advance(cohort.len() as u64);
            Ok(cohort.iter().copied().zip(evaluations).collect())
        })
        .collect::<Result<_, AnalyzeError>>()?;
    let mut evaluated: Vec<(usize, Evaluation)> = evaluated.into_iter().flatten().collect();
    evaluated.sort_by_key(|(i, _)| *i);
    Ok(evaluated.into_iter().map(|(_, evaluation)| evaluation).collect())
}

/// Which states of a model are evaluated where metrics are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatesToEvaluate {
    /// All, for training and test accuracy.
    All,
    /// The last, for test accuracy and, in a twin, the agreement with its parent.
    Last,
}

/// The classes that a model's last state predicts of the test images, if it was evaluated.
pub type Classes = Option<Vec<u16>>;

/// What [`for_each`] skipped, and what it evaluated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Models that could not be read.
    pub skipped: Vec<Skipped>,
    /// States that were evaluated because metrics were missing.
    pub evaluated: usize,
}

/// [`ZooReader::for_each`] of models whose missing metrics are filled in where `data`, which must be
/// the zoo's dataset, is at hand. With [`StatesToEvaluate::Last`], `visit` sees what the last state
/// predicts.
///
/// # Errors
/// As [`ZooReader::for_each`].
pub fn for_each(
    zoo: &ZooReader,
    data: Option<&Dataset>,
    wanted: &(impl Fn(ModelId) -> bool + Sync),
    which: StatesToEvaluate,
    stage: &Stage,
    mut visit: impl FnMut(Model, Classes) -> Result<(), AnalyzeError> + Send,
) -> Result<Outcome, AnalyzeError> {
    let Some(data) = data else {
        let skipped = zoo.for_each(stage, wanted, |model| visit(model, None))?;
        return Ok(Outcome { skipped, evaluated: 0 });
    };
    let mut waiting = Vec::new();
    let (mut bytes, mut evaluated) = (0, 0);
    let mut evaluate_waiting = |waiting: &mut Vec<Model>| -> Result<(), AnalyzeError> {
        let (predictions, states) = complete(waiting, data, which, stage)?;
        evaluated += states;
        waiting.drain(..).zip(predictions).try_for_each(|(model, predictions)| visit(model, predictions))
    };
    let skipped = zoo.for_each(stage, wanted, |model| {
        bytes += model.states.iter().map(|state| 4 * state.len()).sum::<usize>();
        waiting.push(model);
        if bytes < BYTES_PER_BATCH {
            return Ok(());
        }
        bytes = 0;
        evaluate_waiting(&mut waiting)
    })?;
    evaluate_waiting(&mut waiting)?;
    Ok(Outcome { skipped, evaluated })
}

/// Fills in the accuracies that are missing: with [`StatesToEvaluate::Last`] what each model's last state
/// predicts, and the number of states that were evaluated.
fn complete(
    models: &mut [Model],
    data: &Dataset,
    which: StatesToEvaluate,
    stage: &Stage,
) -> Result<(Vec<Classes>, usize), AnalyzeError> {
    let mut predictions = vec![None; models.len()];
    let mut evaluated = BTreeSet::new();
    for split in [Split::Test, Split::Train] {
        let (mut of_model_and_state, mut tasks) = (Vec::new(), Vec::new());
        for (m, model) in models.iter().enumerate() {
            let first = match which {
                StatesToEvaluate::All => 0,
                StatesToEvaluate::Last => model.lines.len().saturating_sub(1),
            };
            for (s, line) in model.lines.iter().enumerate().skip(first) {
                let healthy = !line.diverged && model.states[s].iter().all(|v| v.is_finite());
                let wanted = healthy && lacks(line, split, which);
                if let Some(task) = wanted.then(|| task(&model.params, &model.states[s], data)).flatten() {
                    of_model_and_state.push((m, s));
                    tasks.push(task);
                }
            }
        }
        if tasks.is_empty() {
            continue;
        }
        let progress = stage.progress("evaluating", tasks.len() as u64);
        let evaluations = evaluate(&tasks, data, split, &progress, stage)?;
        for ((m, s), Evaluation { score, predictions: found }) in of_model_and_state.into_iter().zip(evaluations) {
            evaluated.insert((m, s));
            let line = &mut models[m].lines[s];
            let accuracy = score.map(|score| score.accuracy);
            match split {
                Split::Train => line.train_acc = accuracy,
                Split::Val | Split::Test => line.test_acc = line.test_acc.or(accuracy),
            }
            predictions[m] = Some(found).filter(|_| which == StatesToEvaluate::Last);
        }
    }
    Ok((predictions, evaluated.len()))
}

/// Whether a state must be evaluated on a split, for a metric that it lacks.
fn lacks(line: &ResultLine, split: Split, which: StatesToEvaluate) -> bool {
    match (split, which) {
        (Split::Train, StatesToEvaluate::All) => line.train_acc.is_none(),
        (Split::Test, StatesToEvaluate::All) => line.test_acc.is_none(),
        (Split::Test, StatesToEvaluate::Last) => line.test_acc.is_none() || line.test_agreement.is_none(),
        (Split::Train, StatesToEvaluate::Last) | (Split::Val, _) => false,
    }
}
