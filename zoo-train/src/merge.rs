//! Merging the outputs of shards into one zoo directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use zoo_model::files::{persist_dir, remove_stale_temporaries, temporary_dir_in, FileError};
use zoo_model::stage::UsageError;
use zoo_model::text::counted;
use zoo_model::zoo_dir::names;
use zoo_model::{ModelId, ZooDir, ZooRecord};

use crate::population::{
    find, finish_if_complete, read_run, started_shards, training_dir, write_run, Completion, ExistingOutput, RunRecord,
    ShardRecord,
};
use crate::TrainError;

/// Merges shards of one zoo into `output`, which may be one of them. Files are hard-linked where
/// the file system allows, else copied; the shards stay as they are.
///
/// # Errors
/// A shard is of another zoo (named, with the fields that differ), or models are missing (named,
/// with the shards that they belong to).
pub fn merge(shards: &[ZooDir], output: &ZooDir) -> Result<Completion, TrainError> {
    let mut whole: Option<(RunRecord, &Path)> = None;
    let mut started = BTreeMap::new();
    for shard in shards {
        let run = shard_run(shard)?;
        match &whole {
            None => whole = Some((run, shard.path())),
            Some((first, place)) if first.record != run.record || first.ids != run.ids => {
                let differences = match first.record.differences(&run.record) {
                    none if none.is_empty() => "the ids of their models".into(),
                    some => some,
                };
                let (a, b) = (place.display(), shard.path().display());
                return Err(UsageError(format!(
                    "{a} and {b} are not shards of the same zoo: they were built from different inputs; differing fields: {differences}"
                ))
                .into());
            }
            Some(_) => {}
        }
        started
            .extend(started_shards(shard)?.into_iter().map(|record| ((record.count, record.index), (shard, record))));
    }
    let Some((run, _)) = whole else {
        return Err(UsageError("merge takes at least one shard".into()).into());
    };
    if let ExistingOutput::Other(record) = find(output, &run.record)? {
        let differences = record.differences(&ZooRecord { models: record.models, ..run.record });
        let output = output.path().display();
        return Err(UsageError(format!(
            "{output} holds a zoo that was built from different inputs; differing fields (there and in the shards): {differences}"
        ))
        .into());
    }
    remove_stale_temporaries(output.path());
    write_run(output, &run)?;
    for &id in &run.ids {
        let Some(source) = shards.iter().map(|s| s.model(id)).find(|m| m.is_dir()) else { continue };
        if !output.model(id).is_dir() {
            link_model(&source, output, id)?;
        }
    }
    let completion = finish_if_complete(output, &run)?;
    if !completion.finished {
        let missing: Vec<ModelId> = run.ids.iter().copied().filter(|&id| !output.model(id).is_dir()).collect();
        return Err(UsageError(missing_models(&missing, run.ids.len(), started.into_values().collect())).into());
    }
    Ok(completion)
}

/// Puts the model at `source` in place in the unfinished zoo `output`, whole or not at all.
fn link_model(source: &Path, output: &ZooDir, id: ModelId) -> Result<(), FileError> {
    let target = &output.model(id);
    let temporary = temporary_dir_in(&training_dir(output))?;
    for file in names::MODEL_FILES {
        let (from, to) = (source.join(file), temporary.path().join(file));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).map_err(FileError::io("copy", from))?;
        }
    }
    match persist_dir(temporary, target) {
        // Another merge was first.
        Err(_) if target.is_dir() => Ok(()),
        outcome => outcome,
    }
}

/// Says which models are missing, and whose they are.
fn missing_models(missing: &[ModelId], models: usize, started: Vec<(&ZooDir, ShardRecord)>) -> String {
    let listed = |ids: &[ModelId]| {
        let more = if ids.len() > 5 { ", ..." } else { "" };
        ids.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join(", ") + more
    };
    let (lack, are) = (missing.len(), if missing.len() == 1 { "is" } else { "are" });
    let mut message = format!("{lack} of {} {are} missing: {}", counted(models, "model"), listed(missing));
    let mut unexplained = missing.to_vec();
    for (dir, shard) in &started {
        let of_shard: Vec<ModelId> = shard.ids.iter().copied().filter(|id| missing.binary_search(id).is_ok()).collect();
        unexplained.retain(|id| of_shard.binary_search(id).is_err());
        if !of_shard.is_empty() {
            let (index, count, path) = (shard.index, shard.count, dir.path().display());
            message += &format!("; shard {index}/{count} in {path} lacks {} ({})", of_shard.len(), listed(&of_shard));
        }
    }
    if let (false, Some((_, last))) = (unexplained.is_empty(), started.last()) {
        let count = last.count;
        let given = |index: usize| started.iter().any(|(_, s)| (s.index, s.count) == (index, count));
        let absent: Vec<String> =
            (1..=count).filter(|&i| !given(i)).take(20).map(|index| format!("{index}/{count}")).collect();
        message += &format!("; none of the given directories holds shard {}", absent.join(", "));
    }
    message + "; train what is missing and merge again"
}

/// What a shard is a part of: read from `run.json`, or from a finished zoo.
fn shard_run(shard: &ZooDir) -> Result<RunRecord, TrainError> {
    if let Some(run) = read_run(shard)? {
        return Ok(run);
    }
    let record = shard.finished()?;
    let ids = shard.ids()?;
    Ok(RunRecord { record: ZooRecord { states: 0, diverged: 0, ..record }, ids })
}
