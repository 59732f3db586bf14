//! The files of an archive that is there: its volumes and its checksum file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zoo_model::files::{parent_of, read_limited, FileError};
use zoo_model::stage::UsageError;
use zoo_model::zoo_dir::{names, parse_checksums, RECORD_LIMIT};
use zoo_model::ZooRecord;

use crate::entries::Entries;
use crate::error::PackError;
use crate::members::decode;

/// The archive files of `output` as its checksum file lists them: itself, or its volumes.
///
/// # Errors
/// The checksum file cannot be read.
pub fn archives(output: &Path) -> Result<Vec<PathBuf>, FileError> {
    let path = sums_path(output);
    let text = read_limited(&path, 1 << 20)?;
    let lines = parse_checksums(&text).map_err(|m| FileError::format(&path, m))?;
    match lines.iter().find(|(name, _)| name.contains('/')) {
        Some((name, _)) => Err(FileError::format(path, format!("names {name}, which does not lie beside it"))),
        None => Ok(lines.into_iter().map(|(name, _)| parent_of(output).join(name)).collect()),
    }
}

/// The checksum file beside an archive.
pub fn sums_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

/// The archive files that are there and that packing as `output` replaces or removes: the archive of
/// that name, and all volumes of it.
pub fn replaced(output: &Path) -> Result<Vec<PathBuf>, FileError> {
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_suffix(".tar.gz").unwrap_or(&name);
    let is_volume = |file: &str| {
        let middle = file.strip_prefix(stem).and_then(|f| f.strip_prefix('.')).and_then(|f| f.strip_suffix(".tar.gz"));
        let parts = middle.and_then(|m| m.split_once("-of-"));
        parts.is_some_and(|(i, n)| i.parse::<u32>().is_ok() && n.parse::<u32>().is_ok())
    };
    let folder = parent_of(output);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(FileError::io("read", folder))?,
    };
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.retain(|file| *file == name || is_volume(file));
    files.sort();
    Ok(files.into_iter().map(|file| folder.join(file)).collect())
}

/// Checks that packing the zoo of `record` as `output` replaces nothing but archives of the same zoo.
///
/// # Errors
/// It would: names what is there.
pub fn check_replaces(output: &Path, record: &ZooRecord) -> Result<(), PackError> {
    for archive in replaced(output)? {
        let fault = match archived_record(&archive) {
            // An imported zoo has a name alone.
            Some(found) if found.fingerprint == record.fingerprint => match &found.fingerprint {
                none if none.is_empty() && found.name != record.name => format!("holds the zoo `{}`", found.name),
                _ => continue,
            },
            Some(found) => format!(
                "holds the zoo `{}`, which was built from different inputs; differing fields (there and here): {}",
                found.name,
                found.differences(&ZooRecord { models: found.models, ..record.clone() })
            ),
            None => "already exists and is not a zoo archive".into(),
        };
        let remedy = "move it away, or replace it with --force";
        return Err(UsageError(format!("{} {fault}; {remedy}", archive.display())).into());
    }
    Ok(())
}

/// `zoo.json` of an archive file; `None` if it does not begin as archives do.
fn archived_record(archive: &Path) -> Option<ZooRecord> {
    // A pipe would wait for its writer.
    let file = archive.is_file().then(|| File::open(archive).ok()).flatten()?;
    let (record, _) = decode(file, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        // The second entry, after the checksums.
        entries.next_entry()?.ok()?;
        entries.next_entry()?.ok().filter(|entry| entry.path == names::ZOO)?;
        let mut json = Vec::new();
        entries.content().take(RECORD_LIMIT).read_to_end(&mut json).ok()?;
        ZooRecord::from_json(&json).ok()
    });
    record
}

/// Removes archive files of an earlier packing that had other volumes.
pub(crate) fn remove_stale(output: &Path, current: &[PathBuf]) -> Result<(), PackError> {
    for path in replaced(output)?.into_iter().filter(|path| !current.contains(path)) {
        fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
    }
    Ok(())
}
