//! Verifies model zoos: archives as a stream, with nothing written to disk, and directories.
//!
//! Each [`Level`] rests on those before it: the archive's own checksum, structure, every entry's
//! checksum, meaning; on request, models evaluated again and models trained again. All failures
//! are listed, each with the entry that it is about.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_verify::{verify, Options};
//!
//! let report = verify(Path::new("quickstart.tar.gz"), &Options::default(), &Default::default())?;
//! assert!(report.ok, "{report}");
//! # Ok::<(), zoo_verify::VerifyError>(())
//! ```

mod archive;
mod checker;
#[cfg(feature = "cli")]
pub mod cli;
mod directory;
mod error;
mod parents;
mod report;
mod rerun;
mod spans;
mod summary;
mod verify;
mod volumes;

use std::path::PathBuf;

pub use error::VerifyError;
pub use report::{Failure, Level, Report, VolumeSet, VolumesHere, KEPT_FAILURES};
pub use summary::VerifySummary;
pub use verify::{verify, verify_all};

/// How to verify.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stop after level 3.
    pub quick: bool,
    /// Number of models to evaluate again.
    pub replay: usize,
    /// Number of models to train again.
    pub retrain: usize,
    /// The prepared dataset, for the latter two.
    pub data: Option<PathBuf>,
    /// The zoo of a twin's parents.
    pub parent: Option<PathBuf>,
    /// Seed for choosing the models.
    pub seed: u64,
    /// Threads that decompress.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { quick: false, replay: 0, retrain: 0, data: None, parent: None, seed: 0, threads }
    }
}
