//! Directories: their files, in archive order, through the checker.

use std::fs::{self, File};
use std::path::Path;

use zoo_model::files::{is_system_file, FileError};
use zoo_model::stage::Stage;
use zoo_model::zoo_dir::{model_file, names};
use zoo_model::ZooDir;
use zoo_pack::head::HEAD_ENTRIES;

use crate::checker::Checker;
use crate::{Level, Options, VerifyError};

/// Maximum number of ignored files that a note names.
const MAX_NAMED: usize = 3;

/// Feeds the files of a zoo directory to the checker, in archive order.
pub fn read(
    path: &Path,
    checker: &mut Checker,
    notes: &mut Vec<String>,
    options: &Options,
    stage: &Stage,
) -> Result<(), VerifyError> {
    if !path.join(names::ZOO).exists() {
        ZooDir::new(path).finished()?;
    }
    if !path.join(names::CHECKSUMS).exists() {
        notes.push("there is no SHA256SUMS; checksums were not verified".into());
    }
    let Listing { mut files, mut ignored } = Listing::of(path, checker)?;
    if !ignored.is_empty() {
        ignored.sort_unstable();
        let shown = ignored.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = ignored.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        notes.push(format!("ignored, as not part of the zoo: {shown}{more}"));
    }
    let rank = |file: &String| HEAD_ENTRIES.iter().position(|h| h == file).unwrap_or(HEAD_ENTRIES.len());
    files.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    checker.choose_models(files.iter().filter_map(|f| model_file(f)).map(|(id, _)| id).collect(), options);
    let progress = stage.progress("verifying", files.len() as u64);
    for file in files {
        stage.interrupt.check()?;
        let full = path.join(&file);
        let mut content = File::open(&full).map_err(FileError::io("read", &full))?;
        let size = content.metadata().map_err(FileError::io("read", &full))?.len();
        // A file of impossible size has been noted; in a directory the others can still be read.
        let _ = checker.entry(&file, size, &mut content);
        progress.advance(1);
    }
    Ok(())
}

/// What is in a directory, as paths relative to it.
#[derive(Default)]
struct Listing {
    /// Regular files.
    files: Vec<String>,
    /// What every reader of a zoo ignores.
    ignored: Vec<String>,
}

impl Listing {
    /// Lists a directory; anything but files and folders is a failure.
    fn of(root: &Path, checker: &mut Checker) -> Result<Self, VerifyError> {
        let mut listing = Self::default();
        listing.add(root, "", checker)?;
        Ok(listing)
    }

    fn add(&mut self, root: &Path, below: &str, checker: &mut Checker) -> Result<(), VerifyError> {
        let folder = root.join(below);
        for entry in fs::read_dir(&folder).map_err(FileError::io("read", &folder))? {
            let entry = entry.map_err(FileError::io("read", &folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ignored = is_system_file(&name) || below == names::MODELS && name.starts_with('.');
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if is_ignored {
                self.ignored.push(path);
                continue;
            }
            let kind = entry.file_type().map_err(FileError::io("read", &folder))?;
            if kind.is_dir() {
                self.add(root, &path, checker)?;
            } else if kind.is_file() {
                self.files.push(path);
            } else {
                checker.fail(Level::Structure, &path, "is neither a regular file nor a folder");
            }
        }
        Ok(())
    }
}
