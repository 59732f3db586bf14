//! Whether a twin's parents exist: the checksums of their states, read from their own zoo.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use zoo_model::files::{parent_of, sha256_file, FileError, Sha256};
use zoo_model::zoo_dir::{model_file, names};
use zoo_model::{ModelId, ZooDir};
use zoo_pack::head::{ArchiveHead, ReadUntil};

use crate::checker::Checker;
use crate::{Level, Options, Report, VerifyError};

/// Checks that every twin's parent exists, with the states that the twin names.
pub fn check(path: &Path, checker: &mut Checker, report: &mut Report, options: &Options) -> Result<(), VerifyError> {
    let Some(parent) = checker.record.as_ref().and_then(|r| r.parent.clone()) else { return Ok(()) };
    let Some(parent_zoo) = options.parent.clone().or_else(|| next_to(path, &parent.name)) else {
        report.notes.push(format!(
            "the parent zoo `{}` was not found next to it, so parents were not checked; name it with --parent",
            parent.name
        ));
        return Ok(());
    };
    let sums = states_checksums(&parent_zoo)?;
    let parent_zoo = parent_zoo.display();
    for (id, expected) in checker.parents.clone() {
        let message = match sums.get(&id) {
            Some(found) if *found == expected => continue,
            Some(found) => {
                format!("its parent's states should have SHA-256 {expected}, in {parent_zoo} they have {found}")
            }
            None => format!("its parent is not in {parent_zoo}"),
        };
        checker.fail(Level::Meaning, &format!("{}/{id}/{}", names::MODELS, names::PARAMS), message);
    }
    Ok(())
}

/// The zoo `name` next to a twin at `path`: a directory, an archive, or the first of its volumes (each
/// of which lists the whole zoo).
fn next_to(path: &Path, name: &str) -> Option<PathBuf> {
    let resolved = path.canonicalize().ok()?;
    let folder = parent_of(&resolved);
    let whole = [folder.join(name), folder.join(format!("{name}.tar.gz"))];
    let volume = || {
        let files = fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let first = format!("{name}.1-of-");
        files.filter(|f| f.starts_with(&first) && f.ends_with(".tar.gz")).max().map(|f| folder.join(f))
    };
    whole.into_iter().find(|p| p.exists()).or_else(volume)
}

/// SHA-256 of the states of every model of the zoo at `path`, as its `SHA256SUMS` lists them; a
/// directory without one is hashed.
fn states_checksums(path: &Path) -> Result<BTreeMap<ModelId, Sha256>, FileError> {
    let lines = if path.is_dir() {
        let zoo = ZooDir::new(path);
        match zoo.checksums()? {
            Some(lines) => lines,
            None => {
                let sum = |id| sha256_file(&zoo.states(id)).map(|sum| (id, sum));
                return zoo.ids()?.into_iter().map(sum).collect();
            }
        }
    } else {
        ArchiveHead::read(path, ReadUntil::Checksums)?.checksums()?
    };
    let states = |(path, sum): (String, Sha256)| match model_file(&path) {
        Some((id, names::STATES)) => Some((id, sum)),
        _ => None,
    };
    Ok(lines.into_iter().filter_map(states).collect())
}
