use std::path::PathBuf;

use zoo_model::dataset::PerSplit;
use zoo_model::files::FileError;
use zoo_model::stage::{Interrupted, UsageError};

/// Why a zoo could not be analysed.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The request cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// A split has no usable state.
    #[error(
        "{}: train, validation and test have {} models, and each needs at least one with a usable state: use a larger zoo",
        path.display(),
        models.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    TooSmall {
        /// The zoo.
        path: PathBuf,
        /// Models that could be read in each.
        models: PerSplit<usize>,
    },
    /// The library for gradient-boosted trees failed.
    #[error("cannot fit the tree models: {0}")]
    Trees(String),
    /// Models could not be evaluated.
    #[error("{0}")]
    Engine(#[from] zoo_engine::EngineError),
    /// No engine of this program evaluates the models.
    #[error("{0}")]
    NoEngine(#[from] zoo_train::TrainError),
}
