//! Why a dataset could not be prepared or fetched.

use std::path::{Path, PathBuf};

use zoo_model::files::FileError;
use zoo_model::stage::{Interrupted, UsageError};
use zoo_model::ManifestError;

/// Why a dataset could not be prepared or fetched.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
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
    /// A published file was not found.
    #[error(
        "{file} of {dataset} was not found in {looked_in}: download it with `{}`{}",
        fetch_command(dataset, root),
        debian_hint(dataset)
    )]
    NotFound {
        /// The dataset.
        dataset: &'static str,
        /// The file.
        file: String,
        /// The root that was searched.
        root: PathBuf,
        /// The folders that were searched.
        looked_in: String,
    },
    /// No mirror gave the file.
    #[error("cannot download {file}: {attempts}")]
    Download {
        /// The file.
        file: String,
        /// What each mirror did.
        attempts: String,
    },
}

/// The command that downloads a dataset, as a shell takes it.
pub(crate) fn fetch_command(dataset: &str, root: &Path) -> String {
    let root = root.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    let root = if root.chars().all(plain) { root } else { format!("'{}'", root.replace('\'', r"'\''")) };
    format!("zoo-data fetch {dataset} --root {root}")
}

fn debian_hint(dataset: &str) -> &'static str {
    match dataset {
        "fashion-mnist" => ", or install the Debian package dataset-fashion-mnist",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_messages_quote_what_a_shell_would_split() {
        assert_eq!(fetch_command("usps", Path::new("/a/b")), "zoo-data fetch usps --root /a/b");
        assert_eq!(fetch_command("usps", Path::new("it's my dir")), r"zoo-data fetch usps --root 'it'\''s my dir'");
    }
}
