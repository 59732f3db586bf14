//! `zoo run`: all stages of some manifests, in order.

use std::fmt;
use std::iter::once;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use zoo_model::files::{parent_of, temporary_dir_in, FileError};
use zoo_model::stage::Stage;
use zoo_model::{Dataset, Manifest, Plan, ZooDir};
use zoo_pack::PackOptions;
use zoo_sparsify::{twins, TwinPaths};
use zoo_train::cli::TrainingArgs;
use zoo_train::{population, registry, Shard};
use zoo_verify::{verify_all, Options};

use crate::{zoo_names, Manifests, OutputPaths};

/// Command line of `zoo run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    manifests: Manifests,
    #[command(flatten)]
    training: TrainingArgs,
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Name of the stage.
    pub stage: &'static str,
    /// What it made.
    pub output: PathBuf,
    /// Whether that was there already.
    pub up_to_date: bool,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunSummary {
    /// All stages, in order.
    pub steps: Vec<Step>,
    /// Whether everything is made; `false` while other shards are awaited.
    pub finished: bool,
}

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for step in &self.steps {
            let state = if step.up_to_date { "up to date" } else { "done" };
            writeln!(f, "{:<9} {state:<10} {}", step.stage, step.output.display())?;
        }
        match self.finished {
            true => write!(f, "finished"),
            false => write!(f, "waiting for other shards: run them, then rerun this command"),
        }
    }
}

pub fn run(args: &RunArgs, stage: &Stage) -> anyhow::Result<RunSummary> {
    let manifests = args.manifests.load()?;
    let (root, training) = (&args.manifests.root, &args.training);
    // Every mistake in any manifest shows before the first hour of training, not after it.
    for manifest in &manifests {
        let (plan, _) = crate::plan::check(manifest)?;
        let first = &plan.models[0].hyperparameters;
        registry::choose(training.engine_name(), &first.clone().into())?;
        for twin in twins(manifest)? {
            registry::choose(training.engine_name(), &twin.spec(first.clone()))?;
        }
    }
    if !training.force {
        for manifest in &manifests {
            check_replaces_nothing(manifest, root, training, stage)?;
        }
    }
    let mut summary = RunSummary { steps: Vec::new(), finished: true };
    for manifest in &manifests {
        let finished = run_manifest(manifest, root, training, stage, &mut summary.steps)?;
        summary.finished &= finished;
    }
    Ok(summary)
}

/// Checks that a run replaces nothing but what it can make again in seconds: no zoo or twin that was
/// built from different inputs, finished or not, and no archive of anything else.
fn check_replaces_nothing(
    manifest: &Manifest,
    root: &Path,
    training: &TrainingArgs,
    stage: &Stage,
) -> anyhow::Result<()> {
    let paths = OutputPaths::new(manifest, root)?;
    zoo_data::check_replaces(&paths.data)?;
    let twins = twins(manifest)?;
    let names = zoo_names(manifest)?;
    let archives = names.iter().map(|name| zoo_pack::replaced(&paths.archive(name))).collect::<Result<Vec<_>, _>>()?;
    if !names.iter().any(|name| paths.zoo(name).exists()) && archives.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let plan = Plan::new(manifest)?;
    let engine = training.engine(&plan.models[0].hyperparameters.clone().into(), &Stage::silent())?;
    let dataset = dataset(manifest, root, &paths.data, stage).with_context(|| format!("data of {}", paths.name))?;
    let zoo = zoo_train::record(&plan, &dataset, engine.as_ref())?;
    let twin_record = |twin| zoo_sparsify::record(&zoo, zoo.fingerprint.clone(), twin, &dataset, engine.as_ref());
    let records = once(zoo.clone()).chain(twins.iter().map(twin_record));
    for (name, record) in names.iter().zip(records) {
        population::check_replaces_nothing(&ZooDir::new(paths.zoo(name)), &record)?;
        zoo_pack::check_replaces(&paths.archive(name), &record)?;
    }
    Ok(())
}

/// The dataset that a manifest's will be: what decides, together with the manifest, whether a zoo is
/// still the same. What is prepared for that replaces nothing.
fn dataset(manifest: &Manifest, root: &Path, data: &Path, stage: &Stage) -> anyhow::Result<Dataset> {
    if zoo_data::is_up_to_date(manifest, root, data)? {
        return Ok(Dataset::read(data)?);
    }
    let folder = temporary_dir_in(parent_of(data))?;
    let prepared = folder.path().join("prepared.safetensors");
    zoo_data::prepare(manifest, root, &prepared, stage)?;
    Ok(Dataset::read(&prepared)?)
}

/// Does what every shard does; one waits for another that is at it.
fn in_turn<T>(shard: Shard, stage: &Stage, work: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let is_busy = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<FileError>(), Some(FileError::Busy { .. }))
    };
    loop {
        match work() {
            Err(error) if shard != Shard::WHOLE && error.chain().any(is_busy) => stage.interrupt.check()?,
            outcome => return outcome,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn run_manifest(
    manifest: &Manifest,
    root: &Path,
    training: &TrainingArgs,
    stage: &Stage,
    steps: &mut Vec<Step>,
) -> anyhow::Result<bool> {
    let paths = OutputPaths::new(manifest, root)?;
    let name = paths.name.clone();
    let mut done = |stage, output: &Path, up_to_date| {
        steps.push(Step { stage, output: output.to_owned(), up_to_date });
    };
    let failed = |what: &str, name: &str| format!("{what} {name}");
    let engine = training.engine(&Plan::new(manifest)?.models[0].hyperparameters.clone().into(), stage)?;
    let settings = training.settings();

    stage.say(format_args!("{name}: data"));
    let data = in_turn(settings.shard, stage, || Ok(zoo_data::prepare(manifest, root, &paths.data, stage)?))
        .with_context(|| failed("data of", &name))?;
    done("data", &paths.data, data.up_to_date);

    stage.say(format_args!("{name}: train"));
    let zoo = paths.zoo(&name);
    let trained = zoo_train::train(manifest, &paths.data, &zoo, engine.as_ref(), &settings, stage)
        .with_context(|| failed("training", &name))?;
    done("train", &zoo, trained.up_to_date);
    if !trained.completion.finished {
        return Ok(false);
    }
    let mut zoos = vec![name.clone()];
    for twin in twins(manifest)? {
        let twin_name = twin.zoo_name(&name);
        stage.say(format_args!("{twin_name}: sparsify"));
        let output = paths.zoo(&twin_name);
        let twin_paths = TwinPaths { parent: &zoo, data: &paths.data, output: &output };
        let made = zoo_sparsify::sparsify(twin_paths, &twin, engine.as_ref(), &settings, stage)
            .with_context(|| failed("sparsifying", &twin_name))?;
        done("sparsify", &output, made.up_to_date);
        if !made.completion.finished {
            return Ok(false);
        }
        zoos.push(twin_name);
    }
    let section = manifest.section("pack")?.unwrap_or_default();
    let options = PackOptions { section, threads: settings.threads, force: settings.force };
    let mut archives = Vec::new();
    for name in zoos {
        stage.say(format_args!("{name}: pack"));
        let (zoo, archive) = (paths.zoo(&name), paths.archive(&name));
        let packed = in_turn(settings.shard, stage, || Ok(zoo_pack::pack(&zoo, &archive, &options, stage)?))
            .with_context(|| failed("packing", &name))?;
        packed.archives.iter().for_each(|archive| done("pack", archive, packed.up_to_date));
        archives.push((name, packed.archives));
    }
    for (name, archives) in archives {
        stage.say(format_args!("{name}: verify"));
        let options = Options { threads: settings.threads, ..Options::default() };
        verify_all(&archives, true, &options, stage)?;
        archives.iter().for_each(|archive| done("verify", archive, false));
    }
    Ok(true)
}
