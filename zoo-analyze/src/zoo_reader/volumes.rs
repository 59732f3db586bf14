//! The volumes of an archive: found by name, and next to each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use zoo_model::files::{parent_of, FileError};
use zoo_model::stage::UsageError;
use zoo_pack::Volume;

use super::archive::Archive;
use crate::AnalyzeError;

/// Volumes of one zoo.
pub(super) struct VolumeSet {
    /// The first that was given.
    pub first: Archive,
    pub volumes: Vec<Volume>,
    /// The file of each of the volumes, if it was found.
    pub paths: Vec<Option<PathBuf>>,
}

impl VolumeSet {
    pub fn new(mut first: Archive) -> Result<Self, FileError> {
        let volumes = first.volumes.take().unwrap_or_default();
        let mut paths = vec![None; volumes.len()];
        *slot(&mut paths, &first)? = Some(first.path.clone());
        Ok(Self { first, volumes, paths })
    }

    /// Adds another volume of the same zoo.
    pub fn add(&mut self, archive: &Archive) -> Result<(), FileError> {
        *slot(&mut self.paths, archive)? = Some(archive.path.clone());
        Ok(())
    }

    /// Looks for the volumes that were not given: in the folders of those that were, and in the folders
    /// that links to them lead to.
    pub fn find_siblings(&mut self) {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let given = std::iter::once(&self.first.path).chain(self.paths.iter().flatten());
        let mut folders: Vec<PathBuf> = Vec::new();
        for path in given.flat_map(|path| [path.clone(), real(path)]) {
            let folder = parent_of(&path);
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        for (number, volume) in self.volumes.iter().enumerate() {
            let is_name = Path::new(&volume.file).file_name() == Some(volume.file.as_ref());
            if self.paths[number].is_some() || !is_name {
                continue;
            }
            let is_sibling =
                |found: &Archive| found.checksums_sha256 == self.first.checksums_sha256 && found.number == Some(number);
            let mut candidates = folders.iter().map(|folder| folder.join(&volume.file));
            let is_volume =
                |path: &PathBuf| path.is_file() && Archive::read(path).is_ok_and(|found| is_sibling(&found));
            self.paths[number] = candidates.find(is_volume);
        }
    }
}

/// Where the path of a volume belongs.
fn slot<'a>(paths: &'a mut [Option<PathBuf>], archive: &Archive) -> Result<&'a mut Option<PathBuf>, FileError> {
    let unlisted = || FileError::format(&archive.path, "is not listed in its own volumes.json: verify it");
    archive.number.and_then(|number| paths.get_mut(number)).ok_or_else(unlisted)
}

/// The archive file that `path` stands for: itself, or one of the volumes `NAME.I-of-N.tar.gz` next to
/// it if there is no `NAME.tar.gz`.
///
/// # Errors
/// There are volumes of several packings.
pub(super) fn archive_at(path: &Path) -> Result<PathBuf, AnalyzeError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (Some(stem), false) = (name.strip_suffix(".tar.gz"), path.exists()) else { return Ok(path.to_owned()) };
    let folder = parent_of(path);
    if let Some(volume) = zoo_pack::archives(path).ok().and_then(|all| all.into_iter().find(|v| v.is_file())) {
        return Ok(volume);
    }
    let mut by_count: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()) {
        let file = file.to_string_lossy();
        let numbers = file.strip_prefix(stem).and_then(|f| f.strip_prefix('.')?.strip_suffix(".tar.gz"));
        let numbers = numbers.and_then(|n| n.split_once("-of-"));
        if let Some((Ok(_), Ok(count))) = numbers.map(|(i, n)| (i.parse::<u32>(), n.parse())) {
            by_count.insert(count, folder.join(&*file));
        }
    }
    if by_count.len() > 1 {
        let counts: Vec<String> = by_count.keys().map(u32::to_string).collect();
        let (counts, path) = (counts.join(" and of "), path.display());
        let message = format!("found sets of {counts} volumes for {path}: give the volumes of one set");
        return Err(UsageError(message).into());
    }
    Ok(by_count.into_values().next().unwrap_or_else(|| path.to_owned()))
}
