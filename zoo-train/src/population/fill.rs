//! Fills a zoo directory with trained models, batch after batch.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
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
use crate::checkpoint::{self, Checkpoints, Saved};
use crate::kept_states::{Keeper, KeptStates};
use crate::trajectory::{self, Job, Progress, Sink};
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
        let plan = self.engine.plan_batches(cohorts, &specs, self.data, settings.threads)?;
        let threads_per_batch = plan.threads_per_batch(settings.threads);
        let BatchPlan { batches, concurrency, .. } = plan;
        let progress = stage.progress("training", total as u64 * self.epochs());
        let checkpoints = Checkpoints::find(&training_dir(self.zoo), &run.record.fingerprint);
        let is_unfinished = |id: ModelId| !self.zoo.model(id).is_dir();
        if settings.shard == Shard::WHOLE {
            checkpoints.remove_superseded(is_unfinished);
        }
        let batches = divide(batches, |model| {
            let id = run.ids[model];
            if !is_unfinished(id) {
                progress.skip(self.epochs());
                return None;
            }
            Some(checkpoints.position(id))
        });

        let worker = Worker { population: *self, run: &run, checkpoints, settings, stage, progress: progress.as_ref() };
        in_parallel(&batches, concurrency, threads_per_batch, |batch| worker.train(batch))?;
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

/// Divides batches into models that resume from one position, an epoch and a step, which `position`
/// gives; without those for which it is `None`. They differ where an earlier run had batches of another
/// width.
fn divide(batches: Vec<Vec<usize>>, position: impl Fn(usize) -> Option<(u32, usize)>) -> Vec<Vec<usize>> {
    let mut divided = Vec::new();
    for batch in batches {
        let mut by_position: BTreeMap<(u32, usize), Vec<usize>> = BTreeMap::new();
        for model in batch {
            if let Some(position) = position(model) {
                by_position.entry(position).or_default().push(model);
            }
        }
        divided.extend(by_position.into_values());
    }
    divided
}

/// Does `work` on each batch, the given number of them at once, each in a rayon pool of its own
/// [threads](BatchPlan::threads_per_batch). The first error ends it.
fn in_parallel(
    batches: &[Vec<usize>],
    concurrency: usize,
    threads_per_batch: usize,
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
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads_per_batch).build();
                let pool = pool.map_err(TrainError::Threads);
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
        let (params, jobs): (Vec<Params>, Vec<Job>) = source.jobs(batch, engine, data)?.into_iter().unzip();
        let keepers =
            ids.iter().zip(&jobs).map(|(&id, job)| Keeper { zoo, id, network: &job.task.network, epochs: kept_epochs });
        let keepers: Vec<Keeper> = keepers.collect();
        let Saved { mut progress, states } = match self.saved(&keepers, &jobs)? {
            Some(saved) => saved,
            None => Saved { progress: Progress::default(), states: vec![KeptStates::default(); ids.len()] },
        };
        self.progress.skip(ids.len() as u64 * u64::from(progress.epoch));
        let mut batch = Batch {
            worker: self,
            path: checkpoint::path(&training_dir(zoo), ids),
            ids,
            keepers,
            states,
            epoch: progress.epoch,
            saved: (Instant::now(), progress.position()),
        };
        let interrupt = &self.stage.interrupt;
        match trajectory::train(engine, &jobs, data, kept_epochs, &mut progress, interrupt, &mut batch) {
            Err(TrainError::Interrupted(Interrupted)) => {
                if progress.position() > batch.saved.1 {
                    batch.save(&progress)?;
                }
                Err(Interrupted.into())
            }
            Err(error) => Err(error),
            Ok(()) => batch.finish(&params, &progress),
        }
    }

    /// What is saved of a batch, if all of it is there and fits.
    fn saved(&self, keepers: &[Keeper], jobs: &[Job]) -> Result<Option<Saved>, TrainError> {
        let Population { engine, data, kept_epochs, .. } = self.population;
        let ids: Vec<ModelId> = keepers.iter().map(|k| k.id).collect();
        if let Some(saved) = self.checkpoints.load(&ids) {
            let mut has_states = keepers.iter().zip(&saved.states).map(|(keeper, states)| keeper.has_written(states));
            if saved.progress.fits(engine, jobs, data, kept_epochs)?
                && has_states.try_fold(true, |all, has| has.map(|has| all && has))?
            {
                return Ok(Some(saved));
            }
        }
        if self.checkpoints.position(ids[0]) > (0, 0) {
            tracing::warn!(
                "the checkpoint of model {} or the states beside it do not fit; its batch starts over",
                ids[0]
            );
        }
        Ok(None)
    }

    /// Does `work` on the models of a batch, many by several threads.
    fn on_models(
        &self,
        states: &mut [KeptStates],
        work: impl Fn(usize, &mut KeptStates) -> Result<(), FileError> + Sync,
    ) -> Result<(), TrainError> {
        let threads = self.settings.threads.min(states.len() / MODELS_PER_WRITER).max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(TrainError::Threads)?;
        Ok(pool.install(|| states.par_iter_mut().enumerate().try_for_each(|(m, states)| work(m, states)))?)
    }
}

/// A batch in training.
struct Batch<'a> {
    worker: &'a Worker<'a>,
    /// Of its checkpoint.
    path: PathBuf,
    ids: &'a [ModelId],
    keepers: Vec<Keeper<'a>>,
    states: Vec<KeptStates>,
    /// Epochs trained.
    epoch: u32,
    /// When, and where, it was saved last.
    saved: (Instant, (u32, usize)),
}

impl Batch<'_> {
    fn save(&mut self, progress: &Progress) -> Result<(), TrainError> {
        checkpoint::save(&self.path, &self.worker.run.record.fingerprint, self.ids, progress, &self.states)?;
        self.saved = (Instant::now(), progress.position());
        Ok(())
    }

    /// Puts its models in place.
    fn finish(mut self, params: &[Params], progress: &Progress) -> Result<(), TrainError> {
        let keepers = &self.keepers;
        self.worker
            .on_models(&mut self.states, |m, states| keepers[m].finish(&params[m], &progress.lines[m], states))?;
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FileError::io("remove", self.path)(e).into()),
            _ => Ok(()),
        }
    }
}

impl Sink for Batch<'_> {
    type Error = TrainError;

    fn keep(&mut self, states: Vec<Vec<f32>>) -> Result<(), TrainError> {
        self.states.iter_mut().zip(states).for_each(|(kept, state)| kept.push(state));
        let in_memory: usize = self.states.iter().map(KeptStates::bytes_in_memory).sum();
        if in_memory <= self.worker.settings.states_in_memory {
            return Ok(());
        }
        let keepers = &self.keepers;
        self.worker.on_models(&mut self.states, |m, states| keepers[m].write(states))
    }

    fn is_due(&self) -> bool {
        self.saved.0.elapsed() >= self.worker.settings.checkpoint_pause
    }

    fn pass(&mut self, progress: &Progress) -> Result<(), TrainError> {
        if progress.epoch > self.epoch {
            self.epoch = progress.epoch;
            self.worker.progress.advance(self.ids.len() as u64);
        }
        if self.is_due() {
            self.save(progress)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_divided_into_models_at_one_position() {
        let positions = [None, Some((3, 0)), Some((0, 0)), Some((3, 0)), Some((3, 5)), Some((7, 0)), None];
        let divided = divide(vec![vec![0, 1, 2, 3, 4], vec![5, 6]], |model| positions[model]);
        assert_eq!(divided, [vec![2], vec![1, 3], vec![4], vec![5]]);
    }

    #[test]
    fn a_batch_has_its_share_of_the_threads() {
        let batches = vec![vec![0]; 3];
        for (concurrency, threads_per_batch) in [(1, 4), (2, 1)] {
            let seen = Mutex::new(Vec::new());
            in_parallel(&batches, concurrency, threads_per_batch, |_| {
                seen.lock().unwrap().push(rayon::current_num_threads());
                Ok(())
            })
            .unwrap();
            assert_eq!(seen.into_inner().unwrap(), [threads_per_batch; 3]);
        }
    }
}
