//! What is counted and compared over a whole zoo: over all of its volumes, if they are read in order.

use zoo_model::files::Sha256;
use zoo_model::text::counted;
use zoo_model::zoo_dir::names;
use zoo_pack::INDEX;

use super::index::Index;
use super::Checker;
use crate::report::Level;

/// What is counted and compared over a whole zoo.
#[derive(Default)]
pub struct Totals {
    /// SHA-256 of the zoo's `SHA256SUMS`, which its volumes share.
    pub(super) sums: Option<Sha256>,
    /// Volumes read one after the other.
    pub(super) volumes: usize,
    /// The first of these is not the zoo's first.
    pub(super) partial: bool,
    pub(super) models: usize,
    pub(super) states: usize,
    pub(super) diverged: usize,
    pub(super) index: Index,
}

impl Checker {
    /// Checks what `zoo.json` and the index say of all models.
    pub(super) fn check_totals(&mut self) {
        let Some(record) = self.record.clone() else { return };
        let Totals { models, states, diverged, .. } = self.totals;
        let mut counts = vec![("model", record.models, models)];
        if self.meaning {
            counts.push(("state", record.states, states));
            counts.push(("diverged model", record.diverged, diverged));
        }
        for (what, expected, found) in counts {
            if expected != found {
                let message = format!("records {}, found {found}", counted(expected, what));
                self.fail(Level::Meaning, names::ZOO, message);
            }
        }
        // Only all models together make an index; a model that was not understood has failed.
        if self.totals.index.models() == models {
            if let Some(message) = self.totals.index.fault() {
                self.fail(Level::Meaning, INDEX, message);
            }
        }
    }
}
