//! `zoo run`: all stages of some manifests, in order.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use zoo_model::{Manifest, Plan, ZooDir};
use zoo_pack::PackOptions;
use zoo_sparsify::twins;
use zoo_stage::{Stage, UsageError};
use zoo_train::{check_engine, engine_for, TrainingArgs};
use zoo_verify::{verdict, verify, Options};

use crate::{Manifests, Places};

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
            false => write!(f, "waiting for other shards: run them, then this command again"),
        }
    }
}

pub fn run(args: &RunArgs, stage: &Stage) -> anyhow::Result<RunSummary> {
    let manifests = args.manifests.load()?;
    // Every mistake in any manifest shows before the first hour of training, not after it.
    for manifest in &manifests {
        let (plan, _) = crate::plan::check(manifest)?;
        let first = &plan.models[0].hyperparameters;
        check_engine(engine_for(args.training.engine, first).as_ref(), first)?;
        if !args.training.force {
            check_cut(manifest, &args.manifests.root)?;
        }
    }
    let mut summary = RunSummary { steps: Vec::new(), finished: true };
    for manifest in &manifests {
        let finished = one(manifest, &args.manifests.root, &args.training, stage, &mut summary.steps)?;
        summary.finished &= finished;
    }
    Ok(summary)
}

/// A cut of a zoo must not cost the finished zoo that it is a cut of; a whole zoo may replace its cut.
fn check_cut(manifest: &Manifest, root: &Path) -> anyhow::Result<()> {
    if manifest.reduction.is_none() {
        return Ok(());
    }
    let places = Places::new(manifest, root)?;
    let zoo = places.zoo(&places.name);
    let Some(record) = ZooDir::new(&zoo).record()? else { return Ok(()) };
    if record.manifest["reduction"] == serde_json::to_value(manifest.reduction)? {
        return Ok(());
    }
    let message = format!(
        "{} is finished, and not cut by these --models, --epochs and --samples: choose another --root for the cut, or replace the zoo with --force",
        zoo.display()
    );
    Err(UsageError(message).into())
}

fn one(
    manifest: &Manifest,
    root: &Path,
    training: &TrainingArgs,
    stage: &Stage,
    steps: &mut Vec<Step>,
) -> anyhow::Result<bool> {
    let places = Places::new(manifest, root)?;
    let name = places.name.clone();
    let mut done = |stage, output: &Path, up_to_date| {
        steps.push(Step { stage, output: output.to_owned(), up_to_date });
    };
    let failed = |what: &str, name: &str| format!("{what} {name}");
    let engine = training.engine(&Plan::new(manifest)?.models[0].hyperparameters, stage)?;
    let mut settings = training.settings();
    // What lies under the root is the driver's own: made from other inputs, it is made anew.
    settings.force = true;

    stage.say(format_args!("{name}: data"));
    let data = zoo_data::prepare(manifest, root, &places.data, stage).with_context(|| failed("data of", &name))?;
    done("data", &places.data, data.up_to_date);

    stage.say(format_args!("{name}: train"));
    let zoo = places.zoo(&name);
    let trained = zoo_train::train(manifest, &places.data, &zoo, engine.as_ref(), &settings, stage)
        .with_context(|| failed("training", &name))?;
    done("train", &zoo, trained.up_to_date);
    if !trained.completion.finished {
        return Ok(false);
    }
    let mut zoos = vec![name.clone()];
    for twin in twins(manifest)? {
        let twin_name = twin.zoo_name(&name);
        stage.say(format_args!("{twin_name}: sparsify"));
        let output = places.zoo(&twin_name);
        let made = zoo_sparsify::sparsify(&zoo, &places.data, &output, &twin, engine.as_ref(), &settings, stage)
            .with_context(|| failed("sparsifying", &twin_name))?;
        done("sparsify", &output, made.up_to_date);
        if !made.completion.finished {
            return Ok(false);
        }
        zoos.push(twin_name);
    }
    let options = PackOptions { section: manifest.section("pack")?.unwrap_or_default(), threads: settings.threads };
    for name in &zoos {
        stage.say(format_args!("{name}: pack"));
        let archive = places.archive(name);
        let packed =
            zoo_pack::pack(&places.zoo(name), &archive, &options, stage).with_context(|| failed("packing", name))?;
        done("pack", &archive, packed.up_to_date);
    }
    for name in &zoos {
        stage.say(format_args!("{name}: verify"));
        let options = Options { threads: settings.threads, ..Options::default() };
        let archives = zoo_pack::archives(&places.archive(name))?;
        let reports = archives.iter().map(|a| verify(a, &options, stage)).collect::<Result<Vec<_>, _>>()?;
        verdict(reports, stage)?;
        done("verify", &places.archive(name), false);
    }
    Ok(true)
}
