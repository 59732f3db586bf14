//! Why packing failed.

use std::io;

use parquet::errors::ParquetError;
use zoo_model::files::FileError;
use zoo_model::stage::{Interrupted, UsageError};
use zoo_model::ManifestError;

/// Why packing failed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A mistake in the manifest.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The index could not be built.
    #[error("cannot build the index: {0}")]
    Index(#[from] ParquetError),
    /// The archive could not be written.
    #[error("cannot write the archive: {0}")]
    Write(#[from] io::Error),
}
