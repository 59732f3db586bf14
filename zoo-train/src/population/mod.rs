//! Fills a zoo directory with trained models: in parallel, resumable, in shards.
//!
//! While a zoo is unfinished, everything that is not a finished model lives in its folder
//! `.training`: `run.json` (what is being made), checkpoints, the states of large models in training,
//! locks, temporaries. It goes when the zoo is finished. What replaces another zoo is made in a hidden folder beside it.

mod fill;
mod replacement;
mod run;
mod shard;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use zoo_engine::{Engine, ModelSpec};
use zoo_model::files::{parent_of, remove_stale_temporaries, touch, FileError};
use zoo_model::stage::{check_outside_zoos, Stage};
use zoo_model::text::counted;
use zoo_model::{Dataset, ModelId, Params, ZooDir, ZooRecord};

use crate::registry;
use crate::trajectory::Job;
use crate::TrainError;

pub use run::{check_replaces_nothing, find, is_current, read_run, ExistingOutput, RunRecord};
pub(crate) use run::{finish_if_complete, started_shards, training_dir, write_run, ShardRecord};
pub use shard::Shard;

use replacement::{discard, replace, replacement_of};
use run::{clear_remains, completion, lock_against_workers, other_inputs, refresh};

/// Where the models to train come from.
pub trait ModelSource: Sync {
    /// All models, ids ascending.
    fn models(&self) -> Vec<(ModelId, ModelSpec)>;

    /// What to train for these models, indices into [`models`](Self::models), and their
    /// `params.json`.
    fn jobs(
        &self,
        indices: &[usize],
        engine: &dyn Engine,
        data: &Dataset,
    ) -> Result<Vec<(Params, Job<'_>)>, TrainError>;
}

/// How to fill a zoo directory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads, shared by the batches of models that are trained at once; a device may have more, which
    /// wait for it.
    pub threads: usize,
    /// Which cohorts to train.
    pub shard: Shard,
    /// Pause between two checkpoints of a batch of models.
    pub checkpoint_pause: Duration,
    /// Size in bytes of the kept states that a batch of models holds in memory, and its checkpoint with
    /// them; if there are more, they are written to the models' own files.
    pub states_in_memory: usize,
    /// Replace an output that was built from different inputs, once the new one is complete.
    pub force: bool,
    /// Train on a dataset that is not the described one.
    pub any_data: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            shard: Shard::WHOLE,
            checkpoint_pause: Duration::from_secs(30),
            states_in_memory: 32 << 20,
            force: false,
            any_data: false,
        }
    }
}

/// The progress of an unfinished directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Completion {
    /// Models that are there.
    pub done: usize,
    /// Models that there will be.
    pub models: usize,
    /// Whether `zoo.json` is written.
    pub finished: bool,
}

/// What making a zoo left.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSummary {
    /// The zoo directory.
    pub output: PathBuf,
    /// Whether there was nothing to do.
    pub up_to_date: bool,
    /// How far it is.
    #[serde(flatten)]
    pub completion: Completion,
}

impl fmt::Display for TrainSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Completion { done, models, finished } = self.completion;
        let state = match (self.up_to_date, finished) {
            (true, _) => "up to date",
            (false, true) => "finished",
            (false, false) => "waiting for other shards",
        };
        write!(f, "{}: {done} of {}, {state}", self.output.display(), counted(models, "model"))
    }
}

/// Models to train into a zoo directory.
#[derive(Clone, Copy)]
pub struct Population<'a> {
    /// The directory.
    pub zoo: &'a ZooDir,
    /// The record that it will have, its counts of states and diverged models still 0.
    pub record: &'a ZooRecord,
    /// Where the models come from.
    pub source: &'a dyn ModelSource,
    /// What trains them.
    pub engine: &'a dyn Engine,
    /// What they are trained on.
    pub data: &'a Dataset,
    /// The epochs whose states are kept, ascending.
    pub kept_epochs: &'a [u32],
}

impl Population<'_> {
    /// Brings the directory up to date: only touches it if it is, resumes if it is
    /// unfinished. With `force`, another zoo there is replaced once all of this one is made beside it.
    ///
    /// # Errors
    /// The engine does not train these models, the directory holds another zoo, another process is using it, a file cannot be read or
    /// written, or [`Interrupted`]: then the same call resumes where this one stopped, with bit-identical results.
    pub fn make(&self, settings: &Settings, stage: &Stage) -> Result<TrainSummary, TrainError> {
        let Self { zoo, record, .. } = *self;
        for (_, model) in self.source.models() {
            registry::check(self.engine, &model)?;
        }
        if !zoo.path().exists() {
            check_outside_zoos(zoo.path())?;
        }
        let replacement = replacement_of(zoo)?;
        // A replacement that was interrupted between two steps, where there is no exchange in one.
        if !zoo.path().exists() && matches!(replacement.record(), Ok(Some(_))) {
            fs::rename(replacement.path(), zoo.path()).map_err(FileError::io("write", zoo.path()))?;
        }
        for folder in [parent_of(replacement.path()), zoo.path()] {
            remove_stale_temporaries(folder);
        }
        let summary = |up_to_date, completion| TrainSummary { output: zoo.path().to_owned(), up_to_date, completion };
        if refresh(zoo, record)? {
            clear_remains(zoo);
            touch(&zoo.record_path())?;
            return Ok(summary(true, completion(zoo, record)?));
        }
        let completion = match find(zoo, record)? {
            ExistingOutput::Nothing | ExistingOutput::Same => self.fill(settings, stage)?,
            ExistingOutput::Other(found) if !settings.force => return Err(other_inputs(zoo, &found, record).into()),
            ExistingOutput::Other(_) => {
                drop(lock_against_workers(zoo)?);
                if matches!(find(&replacement, record)?, ExistingOutput::Other(_)) {
                    drop(lock_against_workers(&replacement)?);
                    discard(&replacement)?;
                }
                let completion = Population { zoo: &replacement, ..*self }.fill(settings, stage)?;
                if completion.finished {
                    replace(zoo, &replacement, stage)?;
                }
                completion
            }
        };
        Ok(summary(false, completion))
    }
}
