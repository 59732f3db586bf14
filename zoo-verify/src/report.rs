//! What was checked and what was found.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use zoo_model::text::escaped;

/// The levels of verification, each resting on those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The archive's own checksum, in the `.sha256` file beside it.
    Archive,
    /// Entries in order, plain files only, nothing outside, twice, unlisted or missing.
    Structure,
    /// Every entry's checksum.
    Checksums,
    /// Tensors fit the architecture, metrics fit the states, twins fit their parents.
    Meaning,
    /// Models evaluated again: equal metrics.
    Replay,
    /// Models trained again: equal bits.
    Retrain,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Archive => "archive checksum",
            Self::Structure => "structure",
            Self::Checksums => "checksums",
            Self::Meaning => "meaning",
            Self::Replay => "replay",
            Self::Retrain => "retrain",
        })
    }
}

/// Failures of one level that are kept in a report; the others are only counted.
pub const KEPT_FAILURES: usize = 1000;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// At which level it shows.
    pub level: Level,
    /// The entry, as a path in the zoo; the archive itself if empty.
    pub entry: String,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let entry = if self.entry.is_empty() { "the archive" } else { &self.entry };
        write!(f, "{}: {}: {}", self.level, escaped(entry), escaped(&self.message))
    }
}

/// The verdict on one archive or directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was verified.
    pub path: PathBuf,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Levels that were carried out.
    pub levels: Vec<Level>,
    /// Name of the zoo, if its record could be read.
    pub name: Option<String>,
    /// Models seen.
    pub models: usize,
    /// States seen.
    pub states: usize,
    /// Entries seen.
    pub entries: usize,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Ids of models evaluated again.
    pub replayed: Vec<String>,
    /// Ids of models trained again.
    pub retrained: Vec<String>,
    /// What could not be checked, and why.
    pub notes: Vec<String>,
    /// What is wrong: everything, or the first [`KEPT_FAILURES`] of each level.
    pub failures: Vec<Failure>,
    /// Failures that were counted and not kept.
    pub more_failures: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = escaped(&path);
        for failure in &self.failures {
            writeln!(f, "{path}: {failure}")?;
        }
        if self.more_failures > 0 {
            writeln!(f, "{path}: and {} more failures", self.more_failures)?;
        }
        for note in &self.notes {
            writeln!(f, "{path}: note: {}", escaped(note))?;
        }
        let levels = self.levels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let verdict = match self.failures.len() + self.more_failures {
            0 => "verified".to_owned(),
            1 => "FAILED with 1 failure".to_owned(),
            n => format!("FAILED with {n} failures"),
        };
        let Self { models, states, entries, bytes, .. } = self;
        write!(f, "{path}: {verdict} ({models} models, {states} states, {entries} entries, {bytes} bytes; {levels})")
    }
}
