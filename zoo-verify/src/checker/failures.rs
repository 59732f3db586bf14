//! The failures found so far.

use std::collections::BTreeMap;

use crate::report::{Failure, Level, KEPT_FAILURES};

/// Maximum number of characters of a failure's message: it may quote what is in the archive.
const MESSAGE_LIMIT: usize = 2000;

/// The failures so far: the first of each level are kept, and all are counted, so that an archive
/// cannot fill the memory with its faults.
#[derive(Debug, Default)]
pub struct Failures {
    pub kept: Vec<Failure>,
    counts: BTreeMap<Level, usize>,
}

impl Failures {
    pub fn add(&mut self, mut failure: Failure) {
        let count = self.counts.entry(failure.level).or_default();
        *count += 1;
        if *count <= KEPT_FAILURES {
            if let Some((end, _)) = failure.message.char_indices().nth(MESSAGE_LIMIT) {
                failure.message.truncate(end);
                failure.message.push_str("...");
            }
            self.kept.push(failure);
        }
    }

    /// Keeps a failure whatever the number of others.
    pub fn add_kept(&mut self, failure: Failure) {
        *self.counts.entry(failure.level).or_default() += 1;
        self.kept.push(failure);
    }

    /// Failures of a level, including those that are not kept.
    pub fn count(&self, level: Level) -> usize {
        self.counts.get(&level).copied().unwrap_or(0)
    }

    /// The number of failures that are not kept.
    pub fn not_kept(&self) -> usize {
        self.counts.values().sum::<usize>() - self.kept.len()
    }
}
