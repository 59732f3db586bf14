//! `zoo status`: how far the stages of some manifests are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::files::FileError;
use zoo_model::plan::ZooSection;
use zoo_model::{Dataset, Manifest, ZooDir};
use zoo_pack::PackOptions;
use zoo_sparsify::twins;
use zoo_train::population::read_run;
use zoo_train::{engine_for, Engine, EngineName};

use crate::{Manifests, Places};

/// Command line of `zoo status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    manifests: Manifests,
    /// The engine that the zoos are made with
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
}

/// State of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made of today's inputs.
    UpToDate,
    /// In the making.
    Unfinished,
    /// Made of other inputs.
    Stale,
    /// Not whole, or not readable: to be removed and made again.
    Damaged,
    /// Not there.
    Missing,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Name of the stage.
    pub stage: &'static str,
    /// What it makes.
    pub output: PathBuf,
    /// Its state.
    pub state: State,
    /// Models that are there, of so many, in a zoo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<[usize; 2]>,
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
            let models = line.models.map(|[done, all]| format!(" ({done} of {all} models)")).unwrap_or_default();
            format!("{:<9} {state:<10} {}{models}", line.stage, line.output.display())
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

pub fn status(args: &StatusArgs) -> anyhow::Result<StatusSummary> {
    let mut summary = StatusSummary { outputs: Vec::new() };
    for manifest in args.manifests.load()? {
        let (plan, _) = crate::plan::check(&manifest)?;
        let engine = engine_for(args.engine, &plan.models[0].hyperparameters);
        one(&manifest, &args.manifests.root, engine.as_ref(), &mut summary.outputs)?;
    }
    Ok(summary)
}

fn one(manifest: &Manifest, root: &Path, engine: &dyn Engine, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let places = Places::new(manifest, root)?;
    let words: ZooSection = manifest.required("zoo")?;
    let has_data = zoo_data::is_up_to_date(manifest, root, &places.data).unwrap_or(false);
    lines.push(Line::new("data", &places.data, has_data));
    let dataset = if has_data { Some(Dataset::read(&places.data)?) } else { None };

    let zoo = places.zoo(&places.name);
    let trained = zoo_line("train", &zoo, || match &dataset {
        Some(dataset) => Ok(zoo_train::is_up_to_date(manifest, dataset, &zoo, engine)?),
        None => Ok(false),
    })?;
    let is_trained = trained.state == State::UpToDate;
    let mut zoos = vec![(places.name.clone(), is_trained)];
    lines.push(trained);
    for twin in twins(manifest)? {
        let name = twin.zoo_name(&places.name);
        let output = places.zoo(&name);
        let made = zoo_line("sparsify", &output, || match &dataset {
            Some(dataset) if is_trained => Ok(zoo_sparsify::is_up_to_date(&zoo, dataset, &output, &twin, engine)?),
            _ => Ok(false),
        })?;
        zoos.push((name, made.state == State::UpToDate));
        lines.push(made);
    }
    let options = PackOptions { section: manifest.section("pack")?.unwrap_or_default(), ..PackOptions::default() };
    for (name, made) in zoos {
        let (zoo, archive) = (places.zoo(&name), places.archive(&name));
        // A run writes words anew into zoo.json, and thus packs again.
        let packed =
            made && has_words(&ZooDir::new(&zoo), &words)? && zoo_pack::is_up_to_date(&zoo, &archive, &options)?;
        let shown = if packed { zoo_pack::archives(&archive)?.remove(0) } else { archive };
        lines.push(Line::new("pack", &shown, packed));
    }
    Ok(())
}

impl Line {
    fn new(stage: &'static str, output: &Path, fresh: bool) -> Self {
        let state = match (output.exists(), fresh) {
            (_, true) => State::UpToDate,
            (true, false) => State::Stale,
            (false, false) => State::Missing,
        };
        Self { stage, output: output.to_owned(), state, models: None }
    }
}

/// The line of a zoo directory, which may be in the making, or damaged.
fn zoo_line(
    stage: &'static str,
    output: &Path,
    is_fresh: impl FnOnce() -> anyhow::Result<bool>,
) -> anyhow::Result<Line> {
    let zoo = ZooDir::new(output);
    let models = match check(&zoo) {
        Ok(models) => models,
        Err(FileError::Format { .. }) => {
            return Ok(Line { state: State::Damaged, ..Line::new(stage, output, false) });
        }
        Err(error) => return Err(error.into()),
    };
    let line = Line::new(stage, output, is_fresh()?);
    let state = if models.is_some() && line.state != State::UpToDate { State::Unfinished } else { line.state };
    Ok(Line { state, models, ..line })
}

/// Checks that a zoo is whole if it is finished, down to its models' small files; the models that are
/// there, of so many, if it is in the making.
fn check(zoo: &ZooDir) -> Result<Option<[usize; 2]>, FileError> {
    if let Some(record) = zoo.record()? {
        zoo.check_whole(&record)?;
        for id in zoo.ids()? {
            zoo.params(id)?;
            zoo.results(id)?;
        }
        zoo.checksums()?;
    }
    let Some(run) = read_run(zoo)? else { return Ok(None) };
    Ok(Some([zoo.ids()?.len(), run.ids.len()]))
}

/// Whether a finished zoo has the manifest's description and licence; a twin describes itself.
fn has_words(zoo: &ZooDir, words: &ZooSection) -> Result<bool, FileError> {
    let Some(record) = zoo.record()? else { return Ok(false) };
    let described = record.parent.is_some() || record.description == words.description;
    Ok(described && record.license == words.license)
}
