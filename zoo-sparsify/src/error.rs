//! Why sparsification failed.

use zoo_model::files::FileError;
use zoo_model::stage::UsageError;
use zoo_model::ManifestError;

/// Why sparsification failed.
#[derive(Debug, thiserror::Error)]
pub enum SparsifyError {
    /// A mistake in the manifest.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Fine-tuning failed, or was interrupted.
    #[error("{0}")]
    Train(#[from] zoo_train::TrainError),
}

/// Why a pruning method cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// A method of this name is there already.
    #[error("there is already a pruning method `{0}`")]
    Name(&'static str),
    /// Its key has a meaning of its own in every entry, or in every twin's record.
    #[error("the pruning method `{method}` cannot have the key `{key}`: every method has it")]
    Key {
        /// The method.
        method: &'static str,
        /// The key.
        key: &'static str,
    },
}
