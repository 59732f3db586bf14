//! Fills a zoo directory with trained models, batch after batch.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use rayon::prelude::*;
use zoo_engine::{BatchPlan, ModelSpec};
use zoo_model::files::{remove_stale_temporaries, write_bytes, FileError};
use zoo_model::stage::{Interrupted, Stage};
use zoo_model::{ModelId, Params};

use super::run::{finish_if_complete, lock, training_dir, write_run, RunRecord, ShardRecord};
use super::{Completion, Population, Settings, Shard};
use crate::checkpoint::{self, Checkpoints};
use crate::trajectory::{self, Job, Progress, Trajectory};
use crate::TrainError;

/// Models of a batch that one thread writes; a batch of a device has hundreds.
const MODELS_PER_WRITER: usize = 16;

impl Population<'_> {
    /// Trains the models; finishes the directory once all of them are there.
    pub(super) fn fill(&self, settings: &Settings, stage: &Stage) -> Result<Completion, TrainError> {
        let (ids, specs): (Vec<ModelId>, Vec<ModelSpec>) = self.source.models().into_iter().unzip();
        let run = RunRecord { record: self.record.clone(), ids };
        let _lock = lock(self.zoo, settings.shard)?;
        remove_stale_temporaries(&training_dir(self.zoo));
        write_run(self.zoo, &run)?;

        let specs: Vec<&ModelSpec> = specs.iter().collect();
        let cohorts: Vec<Vec<usize>> = settings.shard.part_of(self.engine.cohorts(&specs));
        self.write_shard(settings.shard, &cohorts, &run)?;
        let total: usize = cohorts.iter().map(Vec::len).sum();
        let BatchPlan { batches, concurrency, .. } =
            self.engine.plan_batches(cohorts, &specs, self.data, settings.threads)?;
        let progress = stage.progress("training", total as u64 * self.epochs());
        let checkpoints = Checkpoints::find(&training_dir(self.zoo), &run.record.fingerprint);
        let batches = divide(batches, |model| {
            let id = run.ids[model];
            if self.zoo.model(id).is_dir() {
                progress.skip(self.epochs());
                return None;
            }
            Some(checkpoints.epoch(id))
        });

        let worker = Worker { population: *self, run: &run, checkpoints, settings, stage, progress: progress.as_ref() };
        in_parallel(&batches, concurrency, |batch| worker.train(batch))?;
        drop(progress);
        finish_if_complete(self.zoo, &run)
    }

    /// Writes down which models a shard has to train.
    fn write_shard(&self, shard: Shard, cohorts: &[Vec<usize>], run: &RunRecord) -> Result<(), TrainError> {
        if shard == Shard::WHOLE {
            return Ok(());
        }
        let mut ids: Vec<ModelId> = cohorts.iter().flatten().map(|&i| run.ids[i]).collect();
        ids.sort_unstable();
        let record = ShardRecord { index: shard.index, count: shard.count, ids };
        let json = serde_json::to_vec(&record).expect("plain data serialises");
        Ok(write_bytes(&record.path(self.zoo), &json)?)
    }

    /// Epochs of a model, at least one, as units of progress.
    fn epochs(&self) -> u64 {
        u64::from(self.kept_epochs.last().copied().unwrap_or(0).max(1))
    }
}

/// Divides batches into models that resume from one epoch, which `epoch` gives; without those for
/// which it is `None`. They differ where an earlier run had batches of another width.
fn divide(batches: Vec<Vec<usize>>, epoch: impl Fn(usize) -> Option<u32>) -> Vec<Vec<usize>> {
    let mut divided = Vec::new();
    for batch in batches {
        let mut by_epoch: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for model in batch {
            if let Some(epoch) = epoch(model) {
                by_epoch.entry(epoch).or_default().push(model);
            }
        }
        divided.extend(by_epoch.into_values());
    }
    divided
}

/// Does `work` on each batch, the given number of them at once, each in a rayon pool of one thread: a
/// matrix product is then never split, however many cores there are. The first error ends it.
fn in_parallel(
    batches: &[Vec<usize>],
    concurrency: usize,
    work: impl Fn(&[usize]) -> Result<(), TrainError> + Sync,
) -> Result<(), TrainError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work_on_all = || {
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failure.lock().is_ok_and(|f| f.is_some()) {
                break;
            }
            work(batch)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..concurrency.clamp(1, batches.len().max(1)) {
            scope.spawn(|| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(TrainError::Threads);
                let outcome = pool.and_then(|pool| pool.install(work_on_all));
                if let (Err(error), Ok(mut failure)) = (outcome, failure.lock()) {
                    failure.get_or_insert(error);
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// What all threads share.
struct Worker<'a> {
    population: Population<'a>,
    run: &'a RunRecord,
    checkpoints: Checkpoints,
    settings: &'a Settings,
    stage: &'a Stage,
    progress: &'a dyn zoo_model::stage::Progress,
}

impl Worker<'_> {
    /// Trains a batch and writes its models.
    fn train(&self, batch: &[usize]) -> Result<(), TrainError> {
        let zoo = self.population.zoo;
        let ids: Vec<ModelId> = batch.iter().map(|&i| self.run.ids[i]).collect();
        let is_done = || ids.iter().all(|&id| zoo.model(id).is_dir());
        if is_done() {
            self.progress.skip(ids.len() as u64 * self.population.epochs());
            return Ok(());
        }
        self.stage.interrupt.check()?;
        match self.train_from_checkpoint(batch, &ids) {
            // Another process that trains the same has finished it, and taken `.training` away.
            Err(TrainError::File(_)) if is_done() => Ok(()),
            outcome => outcome,
        }
    }

    fn train_from_checkpoint(&self, batch: &[usize], ids: &[ModelId]) -> Result<(), TrainError> {
        let Population { zoo, source, engine, data, kept_epochs, .. } = self.population;
        let models = ids.len() as u64;
        let staging = training_dir(zoo);
        let path = checkpoint::path(&staging, ids);
        let fingerprint = &self.run.record.fingerprint;
        let (params, jobs): (Vec<Params>, Vec<Job>) = source.jobs(batch, engine, data)?.into_iter().unzip();
        let mut progress = match self.checkpoints.load(ids) {
            Some(saved) if saved.fits(engine, &jobs, data, kept_epochs)? => saved,
            _ => {
                if self.checkpoints.epoch(ids[0]) > 0 {
                    tracing::warn!("the checkpoint of model {} does not fit; its batch starts over", ids[0]);
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
            Ok::<(), TrainError>(())
        });
        let trajectories = match outcome {
            Err(TrainError::Interrupted(Interrupted)) => {
                if progress.epoch > saved.1 {
                    checkpoint::save(&path, fingerprint, ids, &progress)?;
                }
                return Err(Interrupted.into());
            }
            other => other?,
        };
        self.write(&params, &jobs, &trajectories)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FileError::io("remove", path)(e).into()),
            _ => Ok(()),
        }
    }

    /// Writes the models of a batch, many by several threads.
    fn write(&self, params: &[Params], jobs: &[Job], trajectories: &[Trajectory]) -> Result<(), TrainError> {
        let zoo = self.population.zoo;
        let staging = training_dir(zoo);
        let write = |m: usize| {
            let Trajectory { lines, states } = &trajectories[m];
            zoo.write_model(&staging, &params[m], &jobs[m].task.network, lines, states)
        };
        let threads = self.settings.threads.min(jobs.len() / MODELS_PER_WRITER).max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(TrainError::Threads)?;
        Ok(pool.install(|| (0..jobs.len()).into_par_iter().try_for_each(write))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_divided_into_models_at_one_epoch() {
        let epochs = [None, Some(3), Some(0), Some(3), Some(7), None];
        let divided = divide(vec![vec![0, 1, 2, 3], vec![4, 5]], |model| epochs[model]);
        assert_eq!(divided, [vec![2], vec![1, 3], vec![4]]);
    }
}
