//! Fills a zoo directory with trained models: in parallel, resumable, in shards.
//!
//! While a zoo is in the making, everything that is not a finished model lives in its folder
//! `.training`: `run.json` (what is being made), a checkpoint a cohort, locks, temporaries. It goes
//! when the zoo is finished. What replaces another zoo is made in a hidden folder beside it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zoo_model::files::{
    exchange_dirs, parent_of, read_if_exists, remove_abandoned, temporary_dir_in, touch, write_bytes, FileError,
};
use zoo_model::lock::OutputLock;
use zoo_model::stage::{check_outside_zoos, Interrupted, Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::zoo_dir::{names, RECORD_LIMIT};
use zoo_model::{Dataset, Hyperparameters, ModelId, Params, ZooDir, ZooRecord};

use crate::checkpoint;
use crate::engine::Engine;
use crate::population_engine::COHORT;
use crate::trajectory::{self, Job, Progress, Trajectory};
use crate::Error;

/// Part `index` (from 1) of `count` equal parts of a zoo's cohorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}

impl Shard {
    /// The one part that is the whole.
    pub const WHOLE: Self = Self { index: 1, count: 1 };

    fn has(self, cohort: usize) -> bool {
        cohort % self.count == self.index - 1
    }
}

impl FromStr for Shard {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parts = s.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("a shard is I/N with I from 1 to N, such as 2/8".into()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// Where the models to train come from.
pub trait Source: Sync {
    /// Ids and hyperparameters of all models, ids ascending.
    fn models(&self) -> Vec<(ModelId, Hyperparameters)>;

    /// Whether they are trained with variational dropout.
    fn is_variational(&self) -> bool {
        false
    }

    /// What to train for these models, indices into [`models`](Self::models), and their
    /// `params.json`.
    fn jobs(&self, indices: &[usize], engine: &dyn Engine, data: &Dataset) -> Result<Vec<(Params, Job<'_>)>, Error>;
}

/// How to fill a zoo directory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads, each training one cohort at a time; a device may have more, which wait for it.
    pub threads: usize,
    /// Which cohorts to train.
    pub shard: Shard,
    /// Pause between two checkpoints of a cohort.
    pub checkpoint_pause: Duration,
    /// Replace an output that was made from other inputs, once all of the new one is there.
    pub force: bool,
    /// Train on a dataset that is not the described one.
    pub any_data: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, shard: Shard::WHOLE, checkpoint_pause: Duration::from_secs(30), force: false, any_data: false }
    }
}

/// `run.json`: what a directory in the making will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The record to be, its counts of states and diverged models still 0.
    pub record: ZooRecord,
    /// Ids of all models.
    pub ids: Vec<ModelId>,
}

/// How far a directory in the making is.
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
pub struct Summary {
    /// The zoo directory.
    pub output: PathBuf,
    /// Whether there was nothing to do.
    pub up_to_date: bool,
    /// How far it is.
    #[serde(flatten)]
    pub completion: Completion,
}

impl fmt::Display for Summary {
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

/// What zoo directories are made of.
const ENTRIES: [&str; 4] = [names::ZOO, names::CHECKSUMS, names::MODELS, names::TRAINING];

/// Where everything lies that is not a finished model.
pub(crate) fn training_dir(zoo: &ZooDir) -> PathBuf {
    zoo.path().join(names::TRAINING)
}

fn run_path(zoo: &ZooDir) -> PathBuf {
    training_dir(zoo).join(names::RUN)
}

/// Reads what a directory in the making will be; `None` if it is not one.
pub fn read_run(zoo: &ZooDir) -> Result<Option<Run>, FileError> {
    read_json(zoo, &run_path(zoo))
}

fn read_json<T: serde::de::DeserializeOwned>(zoo: &ZooDir, path: &Path) -> Result<Option<T>, FileError> {
    let Some(json) = read_if_exists(path, RECORD_LIMIT + 16 * 1_000_000)? else { return Ok(None) };
    serde_json::from_slice(&json).map(Some).map_err(|e| zoo.damaged(FileError::format(path, e.to_string())))
}

/// What a shard of the zoo in the making has to do, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    pub index: usize,
    pub count: usize,
    /// Its models.
    pub ids: Vec<ModelId>,
}

impl ShardRecord {
    fn path(&self, zoo: &ZooDir) -> PathBuf {
        training_dir(zoo).join(format!("shard-{}-of-{}.json", self.index, self.count))
    }
}

/// The shards that were started in a directory in the making, by number.
pub(crate) fn started_shards(zoo: &ZooDir) -> Result<Vec<ShardRecord>, FileError> {
    let mut shards: Vec<ShardRecord> = Vec::new();
    // No folder: nothing in the making.
    for entry in fs::read_dir(training_dir(zoo)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("shard-") {
            shards.extend(read_json::<ShardRecord>(zoo, &entry.path())?);
        }
    }
    shards.sort_by_key(|s| (s.count, s.index));
    Ok(shards)
}

/// Whether `zoo` is finished and made of what `record` says. If only its name, description or
/// licence differ, they are brought up to date.
fn refresh(zoo: &ZooDir, record: &ZooRecord) -> Result<bool, FileError> {
    let Some(found) = zoo.record()? else { return Ok(false) };
    if found.fingerprint != record.fingerprint {
        return Ok(false);
    }
    let wanted = ZooRecord { states: found.states, diverged: found.diverged, models: found.models, ..record.clone() };
    if wanted != found {
        zoo.finish(&wanted)?;
    }
    Ok(true)
}

/// Whether `zoo` is finished and made of what `record` says; its name, description and licence may
/// differ, they are brought up to date without training.
pub fn is_current(zoo: &ZooDir, record: &ZooRecord) -> Result<bool, FileError> {
    Ok(zoo.record()?.is_some_and(|found| found.fingerprint == record.fingerprint))
}

/// What is at the place of a zoo to make.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Nothing, or an empty folder.
    Nothing,
    /// The same zoo, finished or in the making.
    Same,
    /// Another zoo, finished or in the making.
    Other(Box<ZooRecord>),
}

/// Looks for what making the zoo of `record` at `zoo` would go on with, or replace.
///
/// # Errors
/// The folder is occupied by something else, or cannot be read.
pub fn find(zoo: &ZooDir, record: &ZooRecord) -> Result<Found, FileError> {
    // In this order: another process that finishes the zoo writes the one before it removes the other.
    let started = read_run(zoo)?;
    let foreign = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|e| e.file_name() != names::TRAINING);
    match zoo.record()?.or(started.map(|started| started.record)) {
        Some(found) if found.fingerprint == record.fingerprint => Ok(Found::Same),
        Some(found) => Ok(Found::Other(Box::new(found))),
        None if fs::read_dir(zoo.path()).is_ok_and(|mut entries| entries.any(foreign)) => {
            let why = "is not empty and not a zoo: choose another output";
            Err(FileError::format(zoo.path(), why))
        }
        None => Ok(Found::Nothing),
    }
}

/// Checks that making the zoo of `record` at `zoo` replaces no other.
///
/// # Errors
/// It does: names what differs.
pub fn check_replaces_nothing(zoo: &ZooDir, record: &ZooRecord) -> Result<(), Error> {
    match find(zoo, record)? {
        Found::Other(found) => Err(other_inputs(zoo, &found, record).into()),
        Found::Nothing | Found::Same => Ok(()),
    }
}

fn other_inputs(zoo: &ZooDir, found: &ZooRecord, wanted: &ZooRecord) -> UsageError {
    UsageError(format!(
        "{} holds the zoo `{}`, made from different inputs; differing fields (there and here): {}; choose another place, or replace it with --force",
        zoo.path().display(),
        found.name,
        found.differences(&ZooRecord { models: found.models, ..wanted.clone() })
    ))
}

/// The hidden folder beside a zoo in which the zoo that replaces it is made.
fn replacement_of(zoo: &ZooDir) -> Result<ZooDir, FileError> {
    let path = fs::canonicalize(zoo.path()).unwrap_or_else(|_| zoo.path().to_owned());
    let name = path.file_name().ok_or_else(|| FileError::format(zoo.path(), "is no folder that can be replaced"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".replacement");
    Ok(ZooDir::new(path.with_file_name(hidden)))
}

/// Puts a finished replacement in the place of what `zoo` holds. What is there and not of a zoo stays.
fn replace(zoo: &ZooDir, replacement: &ZooDir, stage: &Stage) -> Result<(), Error> {
    let _replacing = OutputLock::wait_beside(zoo.path(), || stage.interrupt.check())?;
    // Another shard was first, and took it away.
    let Some(record) = replacement.record()? else { return Ok(()) };
    if !is_current(zoo, &record)? {
        let _idle = lock_against_workers(zoo)?;
        let place = fs::canonicalize(zoo.path()).map_err(FileError::io("read", zoo.path()))?;
        exchange_dirs(replacement.path(), &place)?;
        for entry in fs::read_dir(replacement.path()).map_err(FileError::io("read", replacement.path()))?.flatten() {
            let name = entry.file_name();
            let kept = place.join(&name);
            if !ENTRIES.iter().any(|of_zoo| name == **of_zoo) && !kept.exists() {
                fs::rename(entry.path(), &kept).map_err(FileError::io("write", kept))?;
            }
        }
    }
    Ok(discard(replacement)?)
}

/// Locks what is in the making at `zoo`, if anything is, against all processes that make it.
fn lock_against_workers(zoo: &ZooDir) -> Result<Option<OutputLock>, FileError> {
    let is_in_the_making = training_dir(zoo).is_dir();
    is_in_the_making.then(|| OutputLock::exclusive(lock_path(zoo), zoo.path())).transpose()
}

/// Removes a replacement, or what it replaced: first its name, then its content.
fn discard(replacement: &ZooDir) -> Result<(), FileError> {
    if replacement.path().exists() {
        let grave = temporary_dir_in(parent_of(replacement.path()))?;
        fs::rename(replacement.path(), grave.path()).map_err(FileError::io("remove", replacement.path()))?;
    }
    Ok(())
}

/// The lock of all processes that make a zoo.
fn lock_path(zoo: &ZooDir) -> PathBuf {
    training_dir(zoo).join("lock")
}

/// Locks a zoo in the making, or a shard of it: shards work side by side.
fn lock(zoo: &ZooDir, shard: Shard) -> Result<Vec<OutputLock>, FileError> {
    if shard == Shard::WHOLE {
        return Ok(vec![OutputLock::exclusive(lock_path(zoo), zoo.path())?]);
    }
    let Shard { index, count } = shard;
    let own = training_dir(zoo).join(format!("lock-{index}-of-{count}"));
    Ok(vec![OutputLock::shared(lock_path(zoo), zoo.path())?, OutputLock::exclusive(own, zoo.path())?])
}

/// Removes what a process that was killed in its last step left in a finished zoo. Best effort.
fn clear_remains(zoo: &ZooDir) {
    if let Ok(Some(_idle)) = lock_against_workers(zoo) {
        let _ = fs::remove_dir_all(training_dir(zoo));
    }
}

/// Writes what a directory in the making will be.
pub(crate) fn write_run(zoo: &ZooDir, run: &Run) -> Result<(), FileError> {
    write_bytes(&run_path(zoo), &serde_json::to_vec(run).expect("plain data serialises"))
}

/// How far the zoo that `record` describes is.
fn completion(zoo: &ZooDir, record: &ZooRecord) -> Result<Completion, FileError> {
    let finished = zoo.record()?.is_some_and(|r| r.fingerprint == record.fingerprint);
    let started = read_run(zoo)?.is_some_and(|r| r.record.fingerprint == record.fingerprint);
    let done = if finished || started { zoo.ids()?.len() } else { 0 };
    Ok(Completion { done, models: record.models, finished })
}

/// Models to train into a zoo directory.
#[derive(Clone, Copy)]
pub struct Population<'a> {
    /// The directory.
    pub zoo: &'a ZooDir,
    /// The record that it will have, its counts of states and diverged models still 0.
    pub record: &'a ZooRecord,
    /// Where the models come from.
    pub source: &'a dyn Source,
    /// What trains them.
    pub engine: &'a dyn Engine,
    /// What they are trained on.
    pub data: &'a Dataset,
    /// The epochs whose states are kept, ascending.
    pub kept_epochs: &'a [u32],
}

impl Population<'_> {
    /// Brings the directory up to date: does nothing but touch it if it is, goes on if it is
    /// unfinished. With `force`, another zoo there is replaced once all of this one is made beside it.
    ///
    /// # Errors
    /// The directory holds another zoo, another process is at work on it, a file cannot be read or
    /// written, or [`Interrupted`]: then the same call goes on where this one stopped, to the same bits.
    pub fn make(&self, settings: &Settings, stage: &Stage) -> Result<Summary, Error> {
        let Self { zoo, record, .. } = *self;
        if !zoo.path().exists() {
            check_outside_zoos(zoo.path())?;
        }
        let replacement = replacement_of(zoo)?;
        // A replacement that was interrupted between two steps, where there is no exchange in one.
        if !zoo.path().exists() && matches!(replacement.record(), Ok(Some(_))) {
            fs::rename(replacement.path(), zoo.path()).map_err(FileError::io("write", zoo.path()))?;
        }
        for folder in [parent_of(replacement.path()), zoo.path()] {
            remove_abandoned(folder);
        }
        let summary = |up_to_date, completion| Summary { output: zoo.path().to_owned(), up_to_date, completion };
        if refresh(zoo, record)? {
            clear_remains(zoo);
            touch(&zoo.record_path())?;
            return Ok(summary(true, completion(zoo, record)?));
        }
        let completion = match find(zoo, record)? {
            Found::Nothing | Found::Same => self.fill(settings, stage)?,
            Found::Other(found) if !settings.force => return Err(other_inputs(zoo, &found, record).into()),
            Found::Other(_) => {
                drop(lock_against_workers(zoo)?);
                if matches!(find(&replacement, record)?, Found::Other(_)) {
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

    /// Trains the models; finishes the directory once all of them are there.
    fn fill(&self, settings: &Settings, stage: &Stage) -> Result<Completion, Error> {
        let models = self.source.models();
        let run = Run { record: self.record.clone(), ids: models.iter().map(|(id, _)| *id).collect() };
        let _lock = lock(self.zoo, settings.shard)?;
        remove_abandoned(&training_dir(self.zoo));
        write_run(self.zoo, &run)?;
        let hyperparameters: Vec<&Hyperparameters> = models.iter().map(|(_, h)| h).collect();
        let mut cohorts = self.engine.cohorts(&hyperparameters);
        let mut number = 0..;
        cohorts.retain(|_| settings.shard.has(number.next().expect("endless")));

        let shard = settings.shard;
        if shard != Shard::WHOLE {
            let mut ids: Vec<ModelId> = cohorts.iter().flatten().map(|&i| run.ids[i]).collect();
            ids.sort_unstable();
            let record = ShardRecord { index: shard.index, count: shard.count, ids };
            write_bytes(&record.path(self.zoo), &serde_json::to_vec(&record).expect("plain data serialises"))?;
        }

        let is_variational = self.source.is_variational();
        let (cohorts, at_once) =
            self.engine.arrange(cohorts, &hyperparameters, is_variational, self.data, settings.threads)?;

        let total: usize = cohorts.iter().map(Vec::len).sum();
        let progress = stage.progress("training", total as u64 * self.epochs());
        let worker = Worker { population: *self, run: &run, settings, stage, progress: progress.as_ref() };
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..at_once.clamp(1, cohorts.len().max(1)) {
                scope.spawn(|| {
                    // One thread a pool: a matrix product is then never split, whatever the cores.
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(Error::Threads);
                    let outcome = pool.and_then(|pool| {
                        pool.install(|| {
                            while let Some(cohort) = cohorts.get(next.fetch_add(1, Ordering::Relaxed)) {
                                if failure.lock().is_ok_and(|f| f.is_some()) {
                                    break;
                                }
                                worker.train(cohort)?;
                            }
                            Ok(())
                        })
                    });
                    if let (Err(error), Ok(mut failure)) = (outcome, failure.lock()) {
                        failure.get_or_insert(error);
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(error);
        }
        drop(progress);
        finish_if_complete(self.zoo, &run)
    }

    /// Epochs of a model, at least one, as units of progress.
    fn epochs(&self) -> u64 {
        u64::from(self.kept_epochs.last().copied().unwrap_or(0).max(1))
    }
}

/// Finishes the directory if no model is missing.
pub(crate) fn finish_if_complete(zoo: &ZooDir, run: &Run) -> Result<Completion, Error> {
    let ids = zoo.ids()?;
    let completion = Completion { done: ids.len(), models: run.ids.len(), finished: ids == run.ids };
    if let Some(stray) = ids.iter().find(|id| run.ids.binary_search(id).is_err()) {
        return Err(FileError::format(zoo.model(*stray), "is not a model of this zoo: remove it").into());
    }
    if completion.finished {
        let lines = ids.par_iter().map(|&id| zoo.results(id)).collect::<Result<Vec<_>, _>>()?;
        let record = ZooRecord {
            states: lines.iter().map(Vec::len).sum(),
            diverged: lines.iter().filter(|l| l.iter().any(|line| line.diverged)).count(),
            ..run.record.clone()
        };
        zoo.finish(&record)?;
        let _ = fs::remove_dir_all(training_dir(zoo));
    }
    Ok(completion)
}

struct Worker<'a> {
    population: Population<'a>,
    run: &'a Run,
    settings: &'a Settings,
    stage: &'a Stage,
    progress: &'a dyn zoo_model::stage::Progress,
}

impl Worker<'_> {
    fn train(&self, cohort: &[usize]) -> Result<(), Error> {
        let zoo = self.population.zoo;
        let models = cohort.len() as u64;
        let ids: Vec<ModelId> = cohort.iter().map(|&i| self.run.ids[i]).collect();
        let is_done = || ids.iter().all(|&id| zoo.model(id).is_dir());
        if is_done() {
            self.progress.skip(models * self.population.epochs());
            return Ok(());
        }
        self.stage.interrupt.check()?;
        match self.train_from_checkpoint(cohort, &ids) {
            // Another process that trains the same has finished it, and taken `.training` away.
            Err(Error::File(_)) if is_done() => Ok(()),
            outcome => outcome,
        }
    }

    fn train_from_checkpoint(&self, cohort: &[usize], ids: &[ModelId]) -> Result<(), Error> {
        let Population { zoo, source, engine, data, kept_epochs, .. } = self.population;
        let models = cohort.len() as u64;
        let staging = training_dir(zoo);
        let path = staging.join(format!("cohort-{}.safetensors", ids[0]));
        let fingerprint = &self.run.record.fingerprint;
        let (params, jobs): (Vec<Params>, Vec<Job>) = source.jobs(cohort, engine, data)?.into_iter().unzip();
        let mut progress = match checkpoint::load(&path, fingerprint, ids) {
            Some(saved) if saved.fits(engine, &jobs, data, kept_epochs)? => saved,
            found => {
                if found.is_some() || path.exists() {
                    tracing::warn!("{} does not fit its models, which start over", path.display());
                }
                Progress::default()
            }
        };
        self.progress.skip(models * u64::from(progress.epoch));

        let mut saved = (Instant::now(), progress.epoch);
        let interrupt = &self.stage.interrupt;
        let outcome = trajectory::train(engine, &jobs, data, kept_epochs, &mut progress, interrupt, |now| {
            self.progress.advance(models);
            if saved.0.elapsed() >= self.settings.checkpoint_pause {
                checkpoint::save(&path, fingerprint, ids, now)?;
                saved = (Instant::now(), now.epoch);
            }
            Ok::<(), Error>(())
        });
        let trajectories = match outcome {
            Err(Error::Interrupted(Interrupted)) => {
                if progress.epoch > saved.1 {
                    checkpoint::save(&path, fingerprint, ids, &progress)?;
                }
                return Err(Interrupted.into());
            }
            other => other?,
        };
        let write = |m: usize| {
            let Trajectory { lines, states } = &trajectories[m];
            zoo.write_model(&staging, &params[m], &jobs[m].task.network, lines, states)
        };
        // A cohort of hundreds of models is written by several threads.
        let threads = self.settings.threads.min(jobs.len() / COHORT).max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(Error::Threads)?;
        pool.install(|| (0..jobs.len()).into_par_iter().try_for_each(write))?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FileError::io("remove", path)(e).into()),
            _ => Ok(()),
        }
    }
}
