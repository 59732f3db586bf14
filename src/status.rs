//! `zoo status`: how far the stages of some manifests are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_engine::Engine;
use zoo_model::files::FileError;
use zoo_model::plan::ZooSection;
use zoo_model::text::counted;
use zoo_model::{Dataset, Manifest, ZooDir};
use zoo_pack::PackOptions;
use zoo_sparsify::twins;
use zoo_train::cli::engine_names;
use zoo_train::population::read_run;
use zoo_train::registry;

use crate::{Manifests, OutputPaths};

/// Command line of `zoo status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    manifests: Manifests,
    /// The engine that the zoos are made with
    #[arg(long, value_name = "ENGINE", value_parser = engine_names())]
    engine: Option<String>,
}

/// State of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made of today's inputs.
    UpToDate,
    /// Unfinished.
    Unfinished,
    /// Made of other inputs.
    Stale,
    /// Not whole, or not readable: to be removed and made again.
    Damaged,
    /// Not there.
    Missing,
}

/// Models of an unfinished zoo; in JSON a list of both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "[usize; 2]")]
pub struct ModelCount {
    /// Those that are finished.
    pub finished: usize,
    /// All of them.
    pub all: usize,
}

impl From<ModelCount> for [usize; 2] {
    fn from(count: ModelCount) -> Self {
        [count.finished, count.all]
    }
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Name of the stage.
    pub stage: &'static str,
    /// The manifest that asks for it.
    pub manifest: PathBuf,
    /// Name of the manifest's zoo.
    pub zoo: String,
    /// Name of the twin zoo, if it is an output of a twin's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<String>,
    /// What it makes.
    pub output: PathBuf,
    /// Its state.
    pub state: State,
    /// How many models of an unfinished zoo are finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<ModelCount>,
}

/// States of all outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusSummary {
    /// In the order of the stages.
    pub outputs: Vec<Line>,
}

impl fmt::Display for StatusSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let lines = self.outputs.iter().map(|line| {
            let state = match line.state {
                State::UpToDate => "up to date",
                State::Unfinished => "unfinished",
                State::Stale => "stale",
                State::Damaged => "damaged",
                State::Missing => "missing",
            };
            let models =
                line.models.map(|m| format!(" ({} of {})", m.finished, counted(m.all, "model"))).unwrap_or_default();
            format!("{:<9} {state:<10} {}{models}", line.stage, line.output.display())
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

pub fn status(args: &StatusArgs) -> anyhow::Result<StatusSummary> {
    let mut summary = StatusSummary { outputs: Vec::new() };
    for manifest in args.manifests.load()? {
        let (plan, _) = crate::plan::check(&manifest)?;
        let engine = registry::on_processor(args.engine.as_deref(), &plan.models[0].hyperparameters.clone().into())?;
        status_of(&manifest, &args.manifests.root, engine.as_ref(), &mut summary.outputs)?;
    }
    Ok(summary)
}

/// State of an output, and how many models an unfinished zoo has.
struct OutputState {
    state: State,
    models: Option<ModelCount>,
}

impl From<State> for OutputState {
    fn from(state: State) -> Self {
        Self { state, models: None }
    }
}

fn status_of(manifest: &Manifest, root: &Path, engine: &dyn Engine, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let paths = OutputPaths::new(manifest, root)?;
    let mut push = |stage, name: &str, output: &Path, OutputState { state, models }: OutputState| {
        let (manifest, zoo) = (manifest.path().to_owned(), paths.name.clone());
        let twin = (name != zoo).then(|| name.to_owned());
        lines.push(Line { stage, manifest, zoo, twin, output: output.to_owned(), state, models });
    };
    let section: ZooSection = manifest.required("zoo")?;
    let has_data = zoo_data::is_up_to_date(manifest, root, &paths.data).unwrap_or(false);
    push("data", &paths.name, &paths.data, state(&paths.data, has_data).into());
    let dataset = if has_data { Some(Dataset::read(&paths.data)?) } else { None };

    let zoo = paths.zoo(&paths.name);
    let trained = zoo_state(&zoo, || match &dataset {
        Some(dataset) => Ok(zoo_train::is_up_to_date(manifest, dataset, &zoo, engine)?),
        None => Ok(false),
    })?;
    let is_trained = trained.state == State::UpToDate;
    let mut zoos = vec![(paths.name.clone(), is_trained)];
    push("train", &paths.name, &zoo, trained);
    for twin in twins(manifest)? {
        let name = twin.zoo_name(&paths.name);
        let output = paths.zoo(&name);
        let made = zoo_state(&output, || match &dataset {
            Some(dataset) if is_trained => Ok(zoo_sparsify::is_up_to_date(&zoo, dataset, &output, &twin, engine)?),
            _ => Ok(false),
        })?;
        let is_made = made.state == State::UpToDate;
        push("sparsify", &name, &output, made);
        zoos.push((name, is_made));
    }
    let options = PackOptions { section: manifest.section("pack")?.unwrap_or_default(), ..PackOptions::default() };
    for (name, made) in zoos {
        let (zoo, archive) = (paths.zoo(&name), paths.archive(&name));
        // A run rewrites the description in zoo.json, and therefore packs again.
        let packed = made
            && has_description(&ZooDir::new(&zoo), &section)?
            && zoo_pack::is_up_to_date(&zoo, &archive, &options)?;
        let there = if packed { zoo_pack::archives(&archive)? } else { zoo_pack::replaced(&archive)? };
        let shown = if there.is_empty() { vec![archive] } else { there };
        shown.iter().for_each(|archive| push("pack", &name, archive, state(archive, packed).into()));
    }
    Ok(())
}

fn state(output: &Path, fresh: bool) -> State {
    match (output.exists(), fresh) {
        (_, true) => State::UpToDate,
        (true, false) => State::Stale,
        (false, false) => State::Missing,
    }
}

/// The state of a zoo directory, which may be unfinished or damaged.
fn zoo_state(output: &Path, is_fresh: impl FnOnce() -> anyhow::Result<bool>) -> anyhow::Result<OutputState> {
    let models = match check(&ZooDir::new(output)) {
        Ok(models) => models,
        Err(FileError::Format { .. }) => return Ok(State::Damaged.into()),
        Err(error) => return Err(error.into()),
    };
    let state = match state(output, is_fresh()?) {
        State::UpToDate => State::UpToDate,
        _ if models.is_some() => State::Unfinished,
        other => other,
    };
    Ok(OutputState { state, models })
}

/// Checks that a zoo is whole if it is finished, down to its models' small files; the models that are
/// finished and of all models, if it is unfinished.
fn check(zoo: &ZooDir) -> Result<Option<ModelCount>, FileError> {
    if let Some(record) = zoo.record()? {
        zoo.check_whole(&record)?;
        for id in zoo.ids()? {
            zoo.params(id)?;
            zoo.results(id)?;
        }
        zoo.checksums()?;
    }
    let Some(run) = read_run(zoo)? else { return Ok(None) };
    Ok(Some(ModelCount { finished: zoo.ids()?.len(), all: run.ids.len() }))
}

/// Whether a finished zoo has the manifest's description and licence; a twin describes itself.
fn has_description(zoo: &ZooDir, section: &ZooSection) -> Result<bool, FileError> {
    let Some(record) = zoo.record()? else { return Ok(false) };
    let described = record.parent.is_some() || record.description == section.description;
    Ok(described && record.license == section.license)
}
