//! Merging the outputs of shards into one zoo directory.

use std::fs;
use std::path::Path;

use zoo_model::files::{write_bytes, FileError};
use zoo_model::zoo_dir::names;
use zoo_model::ZooDir;
use zoo_stage::UsageError;

use crate::population::{finish_if_complete, read_run, Completion, Run};
use crate::Error;

/// Merges shards of one zoo into `output`, which may be one of them. Files are hard-linked where
/// the file system allows, else copied; the shards stay as they are.
///
/// # Errors
/// A shard is of another zoo (named, with what differs), or models are missing (named).
pub fn merge(shards: &[ZooDir], output: &ZooDir) -> Result<Completion, Error> {
    let mut whole: Option<(Run, &Path)> = None;
    for shard in shards {
        let run = shard_run(shard)?;
        match &whole {
            None => whole = Some((run, shard.path())),
            Some((first, place)) if first.record != run.record || first.ids != run.ids => {
                let differs = difference(first, &run);
                return Err(UsageError(format!(
                    "{} and {} are not shards of one zoo: their {differs} differ",
                    place.display(),
                    shard.path().display()
                ))
                .into());
            }
            Some(_) => {}
        }
    }
    let Some((run, _)) = whole else {
        return Err(UsageError("merge takes at least one shard".into()).into());
    };
    if let Some(record) = output.record()? {
        if record.fingerprint != run.record.fingerprint {
            return Err(UsageError(format!("{} holds another zoo", output.path().display())).into());
        }
    }
    let staging = output.path().join(".training");
    write_bytes(&staging.join("run.json"), &serde_json::to_vec(&run).expect("plain data serialises"))?;
    for &id in &run.ids {
        let target = output.model(id);
        let Some(source) = shards.iter().map(|s| s.model(id)).find(|m| m.is_dir()) else { continue };
        if target.is_dir() {
            continue;
        }
        let temporary = staging.join(format!("{id}-merge-{}", std::process::id()));
        fs::create_dir_all(&temporary).map_err(FileError::io("write", &temporary))?;
        for file in names::MODEL_FILES {
            let (from, to) = (source.join(file), temporary.join(file));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(FileError::io("copy", from))?;
            }
        }
        fs::create_dir_all(output.path().join(names::MODELS)).map_err(FileError::io("write", output.path()))?;
        fs::rename(&temporary, &target).map_err(FileError::io("write", &target))?;
    }
    let completion = finish_if_complete(output, &run)?;
    if !completion.finished {
        let missing: Vec<String> =
            run.ids.iter().filter(|&&id| !output.model(id).is_dir()).map(ToString::to_string).collect();
        let some = missing.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 5 { ", ..." } else { "" };
        return Err(UsageError(format!(
            "{} of {} models are missing: {some}{more}; train the other shards and merge again",
            missing.len(),
            run.ids.len()
        ))
        .into());
    }
    Ok(completion)
}

/// What a shard is a part of: read from `run.json`, or from a finished zoo.
fn shard_run(shard: &ZooDir) -> Result<Run, Error> {
    if let Some(run) = read_run(shard)? {
        return Ok(run);
    }
    let record = shard.finished()?;
    let ids = shard.ids()?;
    Ok(Run { record: zoo_model::ZooRecord { states: 0, diverged: 0, ..record }, ids })
}

fn difference(a: &Run, b: &Run) -> &'static str {
    let (x, y) = (&a.record, &b.record);
    if x.dataset != y.dataset {
        "datasets"
    } else if x.engine != y.engine {
        "engines"
    } else {
        "manifests"
    }
}
