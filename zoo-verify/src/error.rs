use zoo_model::files::FileError;
use zoo_model::stage::{Interrupted, SummaryError, UsageError};

/// Why no verdict could be reached.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file could not be read.
    #[error("{0}")]
    File(#[from] FileError),
    /// The request cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The verdict is no, or there are verdicts, all of them yes, but not on everything that was given.
    #[error("{0}")]
    Failed(#[from] SummaryError),
    /// The system could not start a thread.
    #[error("cannot start a thread: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Models could not be rerun.
    #[error("{0}")]
    Cohort(#[from] zoo_engine::EngineError),
}
