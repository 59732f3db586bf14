//! What a run did.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use zoo_model::dataset::PerSplit;

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataSummary {
    /// Name of the dataset.
    pub dataset: &'static str,
    /// The file, or folder, that was made.
    pub output: PathBuf,
    /// Whether there was nothing to do.
    pub up_to_date: bool,
    /// Samples in the train, validation and test splits; absent after a fetch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<PerSplit<usize>>,
}

impl fmt::Display for DataSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let state = if self.up_to_date { "up to date" } else { "made" };
        write!(f, "{}: {} {state}", self.output.display(), self.dataset)?;
        match self.samples {
            Some(PerSplit { train, val, test }) => write!(f, " ({train} train, {val} validation, {test} test)"),
            None => Ok(()),
        }
    }
}
