//! Why a file could not be used.

use std::io;
use std::path::PathBuf;

/// A file that could not be read, written or understood.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: "read", "write", ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The content is not what the format demands.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and the remedy.
        message: String,
    },
    /// Another process makes the same output.
    #[error("{} is in use by {owner}: wait until it has finished, or stop it", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
        /// The other process, as far as it is known.
        owner: String,
    },
}

impl FileError {
    /// Wraps an I/O error: `.map_err(FileError::io("read", path))`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// A malformed file.
    pub fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Format { path: path.into(), message: message.into() }
    }
}
