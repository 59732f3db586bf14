//! Why training failed.

use zoo_engine::{DeviceError, EngineError};
use zoo_model::files::FileError;
use zoo_model::stage::{Interrupted, UsageError};
use zoo_model::{GeometryError, ManifestError};

/// Why training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
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
    /// Images and architecture do not fit.
    #[error("{0}")]
    Geometry(#[from] GeometryError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Threads(rayon::ThreadPoolBuildError),
    /// The device failed, or there is none.
    #[error("{0}")]
    Device(#[from] DeviceError),
}

impl From<EngineError> for TrainError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Interrupted(interrupted) => interrupted.into(),
            EngineError::Device(device) => device.into(),
        }
    }
}
