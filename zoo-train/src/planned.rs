//! A manifest's plan, trained into a zoo directory.

use std::path::Path;

use zoo_engine::{Engine, ModelSpec, Task};
use zoo_model::files::fingerprint;
use zoo_model::stage::Stage;
use zoo_model::zoo_dir::{DatasetRecord, EngineRecord};
use zoo_model::{Dataset, Manifest, ModelId, Params, Plan, ZooDir, ZooRecord, FORMAT_VERSION};

use crate::dataset_check::check_is_described;
use crate::population::{self, ModelSource, Population, Settings, TrainSummary};
use crate::trajectory::Job;
use crate::TrainError;

/// Trains the plan of a manifest on a prepared dataset into a zoo directory.
///
/// Does nothing if the directory is up to date, resumes if it is unfinished.
///
/// # Errors
/// The manifest has a `[data]` section that describes another dataset, unless the settings allow it;
/// and as [`Population::make`].
pub fn train(
    manifest: &Manifest,
    data: &Path,
    output: &Path,
    engine: &dyn Engine,
    settings: &Settings,
    stage: &Stage,
) -> Result<TrainSummary, TrainError> {
    let plan = Plan::new(manifest)?;
    let dataset = Dataset::read(data)?;
    if !settings.any_data {
        check_is_described(manifest, &dataset, data)?;
    }
    let record = record(&plan, &dataset, engine)?;
    let source = Planned { plan: &plan, dataset: &dataset };
    let population = Population {
        zoo: &ZooDir::new(output),
        record: &record,
        source: &source,
        engine,
        data: &dataset,
        kept_epochs: &plan.train.kept_epochs(),
    };
    population.make(settings, stage)
}

/// Whether the zoo at `output` is finished and made of today's manifest, dataset and engine.
pub fn is_up_to_date(
    manifest: &Manifest,
    dataset: &Dataset,
    output: &Path,
    engine: &dyn Engine,
) -> Result<bool, TrainError> {
    let record = record(&Plan::new(manifest)?, dataset, engine)?;
    Ok(population::is_current(&ZooDir::new(output), &record)?)
}

/// The record that the zoo of this plan will have, its counts of states and diverged models still
/// 0.
///
/// # Errors
/// The images do not fit the architecture.
pub fn record(plan: &Plan, dataset: &Dataset, engine: &dyn Engine) -> Result<ZooRecord, TrainError> {
    let network = plan.models[0].hyperparameters.network(dataset.shape, dataset.classes())?;
    let engine = EngineRecord { name: engine.name().into(), version: engine.version() };
    let manifest = plan.record();
    let fingerprint = fingerprint(&(FORMAT_VERSION, &manifest, dataset.sha256(), &engine));
    Ok(ZooRecord {
        format_version: FORMAT_VERSION,
        name: plan.zoo.name.clone(),
        description: plan.zoo.description.clone(),
        license: plan.zoo.license.clone(),
        parent: None,
        manifest,
        dataset: DatasetRecord::new(dataset),
        engine: Some(engine),
        models: plan.models.len(),
        states: 0,
        diverged: 0,
        parameters: network.parameter_count(),
        fingerprint,
        extra: Default::default(),
    })
}

/// The models of a plan.
struct Planned<'a> {
    plan: &'a Plan,
    dataset: &'a Dataset,
}

impl ModelSource for Planned<'_> {
    fn models(&self) -> Vec<(ModelId, ModelSpec)> {
        self.plan.models.iter().map(|m| (m.id, m.hyperparameters.clone().into())).collect()
    }

    fn jobs(&self, indices: &[usize], _: &dyn Engine, _: &Dataset) -> Result<Vec<(Params, Job<'_>)>, TrainError> {
        let job = |&i: &usize| {
            let model = &self.plan.models[i];
            let task = Task::new(&model.hyperparameters, self.dataset.shape, self.dataset.classes())?;
            let params = Params::new(model.id, model.hyperparameters.clone(), &task.network);
            Ok((params, Job { task, annotate: None }))
        };
        indices.iter().map(job).collect()
    }
}
