//! Replacing a zoo by another, once that one is whole.

use std::fs;

use zoo_model::files::{exchange_dirs, parent_of, temporary_dir_in, FileError};
use zoo_model::lock::OutputLock;
use zoo_model::stage::Stage;
use zoo_model::zoo_dir::names;
use zoo_model::ZooDir;

use super::run::{is_current, lock_against_workers};
use crate::TrainError;

/// What zoo directories are made of.
const ENTRIES: [&str; 4] = [names::ZOO, names::CHECKSUMS, names::MODELS, names::TRAINING];

/// The hidden folder beside a zoo in which the zoo that replaces it is made.
pub(super) fn replacement_of(zoo: &ZooDir) -> Result<ZooDir, FileError> {
    let path = fs::canonicalize(zoo.path()).unwrap_or_else(|_| zoo.path().to_owned());
    let name = path.file_name().ok_or_else(|| FileError::format(zoo.path(), "is not a replaceable folder"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".replacement");
    Ok(ZooDir::new(path.with_file_name(hidden)))
}

/// Puts a finished replacement in the place of what `zoo` holds. What is there and not of a zoo stays.
pub(super) fn replace(zoo: &ZooDir, replacement: &ZooDir, stage: &Stage) -> Result<(), TrainError> {
    let _replacing = OutputLock::wait_beside(zoo.path(), || stage.interrupt.check())?;
    // Another shard was first, and took it away.
    let Some(record) = replacement.record()? else { return Ok(()) };
    if !is_current(zoo, &record)? {
        let _idle = lock_against_workers(zoo)?;
        let place = fs::canonicalize(zoo.path()).map_err(FileError::io("read", zoo.path()))?;
        exchange_dirs(replacement.path(), &place)?;
        for entry in fs::read_dir(replacement.path()).map_err(FileError::io("read", replacement.path()))?.flatten() {
            let name = entry.file_name();
            let kept = place.join(&name);
            if !ENTRIES.iter().any(|of_zoo| name == **of_zoo) && !kept.exists() {
                fs::rename(entry.path(), &kept).map_err(FileError::io("write", kept))?;
            }
        }
    }
    Ok(discard(replacement)?)
}

/// Removes a replacement, or what it replaced: first its name, then its content.
pub(super) fn discard(replacement: &ZooDir) -> Result<(), FileError> {
    if replacement.path().exists() {
        let grave = temporary_dir_in(parent_of(replacement.path()))?;
        fs::rename(replacement.path(), grave.path()).map_err(FileError::io("remove", replacement.path()))?;
    }
    Ok(())
}
