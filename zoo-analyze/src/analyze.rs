//! A zoo, its twins and its dataset to a report.

use std::path::{Path, PathBuf};

use zoo_model::stage::{Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::Dataset;

use crate::benchmark::{self, Benchmark, Options};
use crate::diversity;
use crate::evaluation::{self, check_dataset, Outcome, StatesToEvaluate};
use crate::report::{Report, GENERATOR};
use crate::statistics::all_statistics;
use crate::zoo_reader::{Model, ZooReader};
use crate::AnalyzeError;

/// Maximum number of skipped models that are listed one by one.
const MAX_LISTED: usize = 20;

/// Analyses a zoo, the first of `zoos`, with its twins, the others, and its dataset if one is given.
///
/// # Errors
/// One of them cannot be read, or belongs to another zoo.
pub fn analyze(
    zoos: &[PathBuf],
    data: Option<&Path>,
    options: &Options,
    stage: &Stage,
) -> Result<Report, AnalyzeError> {
    let mut zoos = ZooReader::open_all(zoos)?.into_iter();
    let zoo = zoos.next().ok_or_else(|| UsageError("a zoo is required".into()))?;
    let twins: Vec<ZooReader> = zoos.collect();
    twins.iter().try_for_each(|twin| check_twin(&zoo, twin))?;
    let data = data.map(Dataset::read).transpose()?;
    if let Some(data) = &data {
        std::iter::once(&zoo).chain(&twins).try_for_each(|zoo| check_dataset(zoo, data))?;
    }
    let mut diversity = diversity::Collector::new(&zoo);
    let mut benchmark = benchmark::Collector::new(&zoo, options);
    let mut missing = MissingMetrics::default();
    let progress = stage.progress("reading", zoo.ids().len() as u64);
    let outcome = evaluation::for_each(&zoo, data.as_ref(), &|_| true, StatesToEvaluate::All, stage, |model, _| {
        let statistics = all_statistics(&model);
        diversity.add(&model, &statistics);
        benchmark.add(&model, &statistics);
        missing.add(&model);
        progress.advance(1);
        Ok(())
    })?;
    drop(progress);
    let mut notes = zoo.notes().to_vec();
    note_outcome(&outcome, &mut notes);
    missing.note(data.is_some(), &mut notes);
    let diversity = diversity.finish(&zoo, data.as_ref(), &twins, &mut notes, stage)?;
    let benchmark = unless_too_small(benchmark.finish(&zoo, outcome.skipped, stage), &mut notes)?;
    Ok(Report { generator: GENERATOR, zoo: zoo.record().clone(), diversity, benchmark, notes })
}

fn check_twin(parent: &ZooReader, twin: &ZooReader) -> Result<(), UsageError> {
    let name = &parent.record().name;
    match &twin.record().parent {
        Some(of) if of.name == *name => Ok(()),
        _ => Err(UsageError(format!(
            "{} is not a twin of `{name}`: give the parent zoo first, then its twins",
            twin.path().display()
        ))),
    }
}

/// Notes which models were skipped, and how many states were evaluated.
fn note_outcome(outcome: &Outcome, notes: &mut Vec<String>) {
    let skipped = &outcome.skipped;
    notes.extend(skipped.iter().take(MAX_LISTED).map(|s| format!("Model {} was skipped: {}", s.id, s.why)));
    if skipped.len() > MAX_LISTED {
        notes.push(format!("{} models were skipped in all", skipped.len()));
    }
    if outcome.evaluated > 0 {
        notes.push(format!(
            "{} had no metrics in result.json and were evaluated on the dataset; their training accuracies are without dropout",
            counted(outcome.evaluated, "state")
        ));
    }
}

/// Without a benchmark, and a note of it, if the zoo is too small for one.
fn unless_too_small(
    benchmark: Result<Benchmark, AnalyzeError>,
    notes: &mut Vec<String>,
) -> Result<Option<Benchmark>, AnalyzeError> {
    match benchmark {
        Ok(benchmark) => Ok(Some(benchmark)),
        Err(error @ AnalyzeError::TooSmall { .. }) => {
            notes.push(format!("No benchmarks: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Counts of states that did not diverge, and of those without accuracies.
#[derive(Default)]
struct MissingMetrics {
    states: usize,
    without_test: usize,
    without_train: usize,
}

impl MissingMetrics {
    fn add(&mut self, model: &Model) {
        for line in model.lines.iter().filter(|line| !line.diverged) {
            self.states += 1;
            self.without_test += usize::from(line.test_acc.is_none());
            self.without_train += usize::from(line.train_acc.is_none());
        }
    }

    fn note(&self, has_data: bool, notes: &mut Vec<String>) {
        let remedy = if has_data { "" } else { ": --data evaluates them" };
        for (count, metric, left_out) in [
            (self.without_test, "test accuracy", "performance and hyperparameters leave them out"),
            (self.without_train, "training accuracy", "the generalisation gap leaves them out"),
        ] {
            if count > 0 {
                let states = counted(self.states, "state");
                notes.push(format!("{count} of {states} have no {metric}; {left_out}{remedy}"));
            }
        }
    }
}
