//! Levels 5 and 6: models evaluated and trained again.

mod replay;
mod retrain;

use std::collections::BTreeMap;
use std::path::Path;

use zoo_engine::{DeviceName, Engine, ModelSpec};
use zoo_model::stage::{Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::zoo_dir::names;
use zoo_model::{Dataset, ModelId, ZooDir, ZooRecord};
use zoo_pack::head::{ArchiveHead, ReadUntil};
use zoo_train::registry;

use crate::checker::{Checker, Sampled};
use crate::{Failure, Level, Options, Report, VerifyError};
use replay::replay;
use retrain::retrain;

/// Checks that models of the zoo at `path` can be rerun, if its `zoo.json` can be read; whatever is wrong
/// with that is found when the zoo is verified.
///
/// # Errors
/// They cannot.
pub fn check_engine(path: &Path, data: &Dataset, options: &Options) -> Result<(), UsageError> {
    let record = match path.is_dir() {
        true => ZooDir::new(path).record().ok().flatten(),
        false => ArchiveHead::read(path, ReadUntil::Record).and_then(|head| head.record()).ok(),
    };
    record.map_or(Ok(()), |record| engine_of(path, &record, data, options).map(drop))
}

/// Evaluates and trains the sampled models again.
///
/// # Errors
/// They cannot be rerun, or the stage is interrupted.
pub fn rerun(
    checker: &mut Checker,
    report: &mut Report,
    data: &Dataset,
    options: &Options,
    stage: &Stage,
) -> Result<(), VerifyError> {
    let Some(record) = checker.record.clone() else { return Ok(()) };
    let engine = engine_of(&report.path, &record, data, options)?;
    let wanted = checker.wanted.replay.len() + checker.wanted.retrain.len();
    let progress = stage.progress("rerunning", wanted as u64);
    let sampled = std::mem::take(&mut checker.sampled);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads_per_model(&sampled, engine.as_ref(), data, options.threads))
        .build()?;
    for (id, model) in &sampled {
        if checker.wanted.replay.contains(id) {
            let failures = pool.install(|| replay(model, engine.as_ref(), data, &stage.interrupt))?;
            failures.into_iter().for_each(|f| checker.failures.add(f));
            report.replayed.push(id.to_string());
            progress.advance(1);
        }
        if checker.wanted.retrain.contains(id) {
            let failures = pool.install(|| retrain(model, &record, engine.as_ref(), data, &stage.interrupt))?;
            failures.into_iter().for_each(|f| checker.failures.add(f));
            report.retrained.push(id.to_string());
            progress.advance(1);
        }
    }
    report.levels.extend((options.replay > 0).then_some(Level::Replay));
    report.levels.extend((options.retrain > 0).then_some(Level::Retrain));
    note_fewer("replay", options.replay, report.replayed.len(), &mut report.notes);
    note_fewer("retrain", options.retrain, report.retrained.len(), &mut report.notes);
    Ok(())
}

/// Threads that the engine trains one model in.
fn threads_per_model(
    sampled: &BTreeMap<ModelId, Sampled>,
    engine: &dyn Engine,
    data: &Dataset,
    threads: usize,
) -> usize {
    let Some(model) = sampled.values().next() else { return 1 };
    let spec = ModelSpec::from(model.params.hyperparameters.clone());
    engine.plan_batches(vec![vec![0]], &[&spec], data, threads).map_or(1, |plan| plan.threads_per_batch(threads))
}

/// Notes it if fewer models were rerun than a flag asked for.
fn note_fewer(flag: &str, asked: usize, rerun: usize, notes: &mut Vec<String>) {
    if rerun < asked {
        notes.push(format!("--{flag} {asked} ran {}: the zoo has no more", counted(rerun, "model")));
    }
}

/// The engine that made a zoo, in the version that retraining needs; the dataset is checked to be the zoo's own.
fn engine_of(
    path: &Path,
    record: &ZooRecord,
    data: &Dataset,
    options: &Options,
) -> Result<Box<dyn Engine>, UsageError> {
    let refused = |message: String| UsageError(format!("{}: {message}", path.display()));
    let unknown = "its models were trained by another program and cannot be replayed or retrained here";
    let made_by = record.engine.as_ref().ok_or_else(|| refused(unknown.into()))?;
    match (record.dataset.sha256.as_str(), data.sha256()) {
        ("", _) => return Err(refused("its zoo.json does not say which dataset file it was trained on".into())),
        (expected, found) if expected != found => {
            return Err(refused(format!("it was trained on another dataset file: SHA-256 {expected}, not {found}")));
        }
        _ => {}
    }
    let lacks = |_| refused(format!("this program lacks the engine `{}` that trained the zoo", made_by.name));
    let factory = registry::find(&made_by.name).map_err(lacks)?;
    let engine = factory.build(DeviceName::Cpu).map_err(|error| refused(error.to_string()))?.engine;
    if options.retrain > 0 && made_by.version != engine.version() {
        let (made_by, version) = (&made_by.version, engine.version());
        return Err(refused(format!(
            "it was trained by version {made_by} of its engine and cannot be retrained by version {version}"
        )));
    }
    Ok(engine)
}

fn failure(level: Level, id: ModelId, file: &str, message: String) -> Failure {
    Failure { level, entry: format!("{}/{id}/{file}", names::MODELS), message }
}
