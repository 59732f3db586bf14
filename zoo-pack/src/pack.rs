//! Packs a zoo directory.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::files::{
    parent_of, persist, remove_stale_temporaries, temporary_file_in, touch, write_bytes, FileError, Hashing,
};
use zoo_model::lock::OutputLock;
use zoo_model::stage::{check_outside_zoos, Stage};
use zoo_model::text::counted;
use zoo_model::zoo_dir::format_checksums;
use zoo_model::ZooDir;

use crate::archive_files::{check_replaces, remove_stale, sums_path};
use crate::error::PackError;
use crate::layout::Layout;
use crate::members::compress_stream;
use crate::section::PackSection;

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Compression and volumes.
    pub section: PackSection,
    /// Threads that compress.
    pub threads: usize,
    /// Replace what is not an archive of the same zoo.
    pub force: bool,
}

impl Default for PackOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { section: PackSection::default(), threads, force: false }
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackSummary {
    /// The archive files: one, or its volumes in order.
    pub archives: Vec<PathBuf>,
    /// Whether there was nothing to do.
    pub up_to_date: bool,
    /// Models packed.
    pub models: usize,
    /// Bytes of all entries of the zoo.
    pub bytes: u64,
    /// Bytes of the archive files.
    pub packed_bytes: u64,
}

impl fmt::Display for PackSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let state = if self.up_to_date { "up to date" } else { "packed" };
        let paths = self.archives.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        let (models, bytes) = (counted(self.models, "model"), counted(self.bytes as usize, "byte"));
        write!(f, "{paths}: {state} ({models}, {bytes} in {})", self.packed_bytes)
    }
}

/// Packs a finished zoo directory as `output`, or as volumes beside it.
///
/// Does nothing if the archive is up to date.
///
/// # Errors
/// The zoo is not finished or not whole, a file differs from the directory's `SHA256SUMS`, or an
/// output cannot be written; nothing half-written is left. Without `force`, as [`check_replaces`].
pub fn pack(zoo: &Path, output: &Path, options: &PackOptions, stage: &Stage) -> Result<PackSummary, PackError> {
    let layout = Layout::new(zoo, output, &options.section, stage)?;
    let folder = parent_of(output);
    remove_stale_temporaries(folder);
    let archives: Vec<PathBuf> = layout.volumes.iter().map(|v| folder.join(&v.file)).collect();
    let summary = |up_to_date, packed_bytes| PackSummary {
        archives: archives.clone(),
        up_to_date,
        models: layout.record.models,
        bytes: layout.size(),
        packed_bytes,
    };
    let sums = sums_path(output);
    if layout.is_packed(output, options.section.level)? {
        for path in archives.iter().chain([&sums]) {
            touch(path)?;
        }
        let sizes = archives.iter().map(|p| fs::metadata(p).map_or(0, |m| m.len()));
        return Ok(summary(true, sizes.sum()));
    }
    check_outside_zoos(output)?;
    if !options.force {
        check_replaces(output, &layout.record)?;
    }
    fs::create_dir_all(folder).map_err(FileError::io("create the folder", folder))?;
    let _lock = OutputLock::beside(output)?;
    let progress = stage.progress("packing", layout.files.iter().map(|f| f.size).sum());
    let mut temporaries = Vec::new();
    let mut lines = Vec::new();
    let mut packed_bytes = 0;
    for (volume, path) in layout.volumes.iter().zip(&archives) {
        let mut temporary = temporary_file_in(folder).map_err(FileError::io("write in", folder))?;
        let mut out = Hashing::new(temporary.as_file_mut());
        let written = compress_stream(&mut out, options.section.level, options.threads, |pieces| {
            layout.write(volume, pieces, &progress, stage)
        });
        written.map_err(|error| match error {
            PackError::Write(source) => FileError::io("write", path)(source).into(),
            other => other,
        })?;
        let (_, length, sha256) = out.finish();
        lines.push((volume.file.clone(), sha256));
        packed_bytes += length;
        temporaries.push((temporary, path));
    }
    for (temporary, path) in temporaries {
        persist(temporary, path)?;
    }
    write_bytes(&sums, format_checksums(&lines).as_bytes())?;
    remove_stale(output, &archives)?;
    Ok(summary(false, packed_bytes))
}

/// Whether the archive at `output` is what packing this zoo would make.
pub fn is_up_to_date(zoo: &Path, output: &Path, options: &PackOptions) -> Result<bool, PackError> {
    if !sums_path(output).is_file() || ZooDir::new(zoo).record()?.is_none() {
        return Ok(false);
    }
    Layout::new(zoo, output, &options.section, &Stage::silent())?.is_packed(output, options.section.level)
}
