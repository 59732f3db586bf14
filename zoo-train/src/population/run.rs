//! An unfinished zoo directory: `.training`, its contents, and which processes use it.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zoo_model::files::{read_if_exists, write_bytes, FileError};
use zoo_model::lock::OutputLock;
use zoo_model::stage::UsageError;
use zoo_model::zoo_dir::{names, RECORD_LIMIT};
use zoo_model::{ModelId, ZooDir, ZooRecord};

use super::{Completion, Shard};
use crate::TrainError;

/// `run.json`: what an unfinished directory will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The record to be, its counts of states and diverged models still 0.
    pub record: ZooRecord,
    /// Ids of all models.
    pub ids: Vec<ModelId>,
}

/// Where everything lies that is not a finished model.
pub(crate) fn training_dir(zoo: &ZooDir) -> PathBuf {
    zoo.path().join(names::TRAINING)
}

fn run_path(zoo: &ZooDir) -> PathBuf {
    training_dir(zoo).join(names::RUN)
}

/// Reads what an unfinished directory will be; `None` if it is not one.
pub fn read_run(zoo: &ZooDir) -> Result<Option<RunRecord>, FileError> {
    read_json(zoo, &run_path(zoo))
}

fn read_json<T: serde::de::DeserializeOwned>(zoo: &ZooDir, path: &Path) -> Result<Option<T>, FileError> {
    let Some(json) = read_if_exists(path, RECORD_LIMIT + 16 * 1_000_000)? else { return Ok(None) };
    serde_json::from_slice(&json).map(Some).map_err(|e| zoo.damaged(FileError::format(path, e.to_string())))
}

/// What a shard of the unfinished zoo has to do, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    pub index: usize,
    pub count: usize,
    /// Its models.
    pub ids: Vec<ModelId>,
}

impl ShardRecord {
    pub(super) fn path(&self, zoo: &ZooDir) -> PathBuf {
        training_dir(zoo).join(format!("shard-{}-of-{}.json", self.index, self.count))
    }
}

/// The shards that were started in an unfinished directory, by number.
pub(crate) fn started_shards(zoo: &ZooDir) -> Result<Vec<ShardRecord>, FileError> {
    let mut shards: Vec<ShardRecord> = Vec::new();
    // No folder: nothing was started.
    for entry in fs::read_dir(training_dir(zoo)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("shard-") {
            shards.extend(read_json::<ShardRecord>(zoo, &entry.path())?);
        }
    }
    shards.sort_by_key(|s| (s.count, s.index));
    Ok(shards)
}

/// Whether `zoo` is finished and made of what `record` says. If only its name, description or
/// licence differ, they are brought up to date.
pub(super) fn refresh(zoo: &ZooDir, record: &ZooRecord) -> Result<bool, FileError> {
    let Some(found) = zoo.record()? else { return Ok(false) };
    if found.fingerprint != record.fingerprint {
        return Ok(false);
    }
    let wanted = ZooRecord { states: found.states, diverged: found.diverged, models: found.models, ..record.clone() };
    if wanted != found {
        zoo.finish(&wanted)?;
    }
    Ok(true)
}

/// Whether `zoo` is finished and made of what `record` says; its name, description and licence may
/// differ, they are brought up to date without training.
pub fn is_current(zoo: &ZooDir, record: &ZooRecord) -> Result<bool, FileError> {
    Ok(zoo.record()?.is_some_and(|found| found.fingerprint == record.fingerprint))
}

/// What is at the place of a zoo to make.
#[derive(Debug, Clone, PartialEq)]
pub enum ExistingOutput {
    /// Nothing, or an empty folder.
    Nothing,
    /// The same zoo, finished or not.
    Same,
    /// Another zoo, finished or not.
    Other(Box<ZooRecord>),
}

/// Looks for what making the zoo of `record` at `zoo` would resume or replace.
///
/// # Errors
/// The folder is occupied by something else, or cannot be read.
pub fn find(zoo: &ZooDir, record: &ZooRecord) -> Result<ExistingOutput, FileError> {
    // In this order: another process that finishes the zoo writes the one before it removes the other.
    let started = read_run(zoo)?;
    let foreign = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|e| e.file_name() != names::TRAINING);
    match zoo.record()?.or(started.map(|started| started.record)) {
        Some(found) if found.fingerprint == record.fingerprint => Ok(ExistingOutput::Same),
        Some(found) => Ok(ExistingOutput::Other(Box::new(found))),
        None if fs::read_dir(zoo.path()).is_ok_and(|mut entries| entries.any(foreign)) => {
            let why = "is neither empty nor a zoo: choose another --output";
            Err(FileError::format(zoo.path(), why))
        }
        None => Ok(ExistingOutput::Nothing),
    }
}

/// Checks that making the zoo of `record` at `zoo` replaces no other.
///
/// # Errors
/// It does: names what differs.
pub fn check_replaces_nothing(zoo: &ZooDir, record: &ZooRecord) -> Result<(), TrainError> {
    match find(zoo, record)? {
        ExistingOutput::Other(found) => Err(other_inputs(zoo, &found, record).into()),
        ExistingOutput::Nothing | ExistingOutput::Same => Ok(()),
    }
}

pub(super) fn other_inputs(zoo: &ZooDir, found: &ZooRecord, wanted: &ZooRecord) -> UsageError {
    UsageError(format!(
        "{} holds the zoo `{}`, which was built from different inputs; differing fields (there and here): {}; choose another --output, or replace it with --force",
        zoo.path().display(),
        found.name,
        found.differences(&ZooRecord { models: found.models, ..wanted.clone() })
    ))
}

/// Locks the unfinished zoo at `zoo`, if there is one, against all processes that make it.
pub(super) fn lock_against_workers(zoo: &ZooDir) -> Result<Option<OutputLock>, FileError> {
    let is_in_the_making = training_dir(zoo).is_dir();
    is_in_the_making.then(|| OutputLock::exclusive(lock_path(zoo), zoo.path())).transpose()
}

/// The lock of all processes that make a zoo.
fn lock_path(zoo: &ZooDir) -> PathBuf {
    training_dir(zoo).join("lock")
}

/// Locks an unfinished zoo, or a shard of it: shards work side by side.
pub(super) fn lock(zoo: &ZooDir, shard: Shard) -> Result<Vec<OutputLock>, FileError> {
    if shard == Shard::WHOLE {
        return Ok(vec![OutputLock::exclusive(lock_path(zoo), zoo.path())?]);
    }
    let Shard { index, count } = shard;
    let own = training_dir(zoo).join(format!("lock-{index}-of-{count}"));
    Ok(vec![OutputLock::shared(lock_path(zoo), zoo.path())?, OutputLock::exclusive(own, zoo.path())?])
}

/// Removes what a process that was killed in its last step left in a finished zoo. Best effort.
pub(super) fn clear_remains(zoo: &ZooDir) {
    if let Ok(Some(_idle)) = lock_against_workers(zoo) {
        let _ = fs::remove_dir_all(training_dir(zoo));
    }
}

/// Writes what an unfinished directory will be.
pub(crate) fn write_run(zoo: &ZooDir, run: &RunRecord) -> Result<(), FileError> {
    write_bytes(&run_path(zoo), &serde_json::to_vec(run).expect("plain data serialises"))
}

/// How far the zoo that `record` describes is.
pub(super) fn completion(zoo: &ZooDir, record: &ZooRecord) -> Result<Completion, FileError> {
    let finished = zoo.record()?.is_some_and(|r| r.fingerprint == record.fingerprint);
    let started = read_run(zoo)?.is_some_and(|r| r.record.fingerprint == record.fingerprint);
    let done = if finished || started { zoo.ids()?.len() } else { 0 };
    Ok(Completion { done, models: record.models, finished })
}

/// Finishes the directory if no model is missing.
pub(crate) fn finish_if_complete(zoo: &ZooDir, run: &RunRecord) -> Result<Completion, TrainError> {
    let ids = zoo.ids()?;
    let completion = Completion { done: ids.len(), models: run.ids.len(), finished: ids == run.ids };
    if let Some(stray) = ids.iter().find(|id| run.ids.binary_search(id).is_err()) {
        return Err(FileError::format(zoo.model(*stray), "is not a model of this zoo: remove it").into());
    }
    if completion.finished {
        let lines = ids.par_iter().map(|&id| zoo.results(id)).collect::<Result<Vec<_>, _>>()?;
        let record = ZooRecord {
            states: lines.iter().map(Vec::len).sum(),
            diverged: lines.iter().filter(|l| l.iter().any(|line| line.diverged)).count(),
            ..run.record.clone()
        };
        zoo.finish(&record)?;
        let _ = fs::remove_dir_all(training_dir(zoo));
    }
    Ok(completion)
}
