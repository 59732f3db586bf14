//! `zoo status`: how far the stages of some manifests are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::{Dataset, Manifest, ZooDir};
use zoo_pack::PackOptions;
use zoo_sparsify::twins;
use zoo_train::population::read_run;
use zoo_train::{Engine, EngineName};

use crate::{Manifests, Places};

/// Command line of `zoo status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    manifests: Manifests,
    /// The engine that the zoos are made with
    #[arg(long, value_enum, default_value_t)]
    engine: EngineName,
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
                State::Missing => "missing",
            };
            let models = line.models.map(|[done, all]| format!(" ({done} of {all} models)")).unwrap_or_default();
            format!("{:<9} {state:<10} {}{models}", line.stage, line.output.display())
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

pub fn status(args: &StatusArgs) -> anyhow::Result<StatusSummary> {
    let engine = args.engine.engine();
    let mut summary = StatusSummary { outputs: Vec::new() };
    for manifest in args.manifests.load()? {
        crate::plan::check(&manifest)?;
        one(&manifest, &args.manifests.root, engine.as_ref(), &mut summary.outputs)?;
    }
    Ok(summary)
}

fn one(manifest: &Manifest, root: &Path, engine: &dyn Engine, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let places = Places::new(manifest, root)?;
    let mut line = |stage, output: &Path, fresh: bool, models| {
        let state = match (output.exists(), fresh, models) {
            (_, true, _) => State::UpToDate,
            (_, false, Some(_)) => State::Unfinished,
            (true, false, None) => State::Stale,
            (false, false, None) => State::Missing,
        };
        lines.push(Line { stage, output: output.to_owned(), state, models });
        fresh
    };
    let has_data = zoo_data::is_up_to_date(manifest, root, &places.data).unwrap_or(false);
    line("data", &places.data, has_data, None);
    let dataset = if has_data { Some(Dataset::read(&places.data)?) } else { None };

    let zoo = places.zoo(&places.name);
    let trained = match &dataset {
        Some(dataset) => zoo_train::is_up_to_date(manifest, dataset, &zoo, engine)?,
        None => false,
    };
    let mut fresh = vec![(places.name.clone(), line("train", &zoo, trained, in_the_making(&zoo)?))];
    for twin in twins(manifest)? {
        let name = twin.zoo_name(&places.name);
        let output = places.zoo(&name);
        let made = match (&dataset, trained) {
            (Some(dataset), true) => zoo_sparsify::is_up_to_date(&zoo, dataset, &output, &twin, engine)?,
            _ => false,
        };
        let made = line("sparsify", &output, made, in_the_making(&output)?);
        fresh.push((name, made));
    }
    let options = PackOptions { section: manifest.section("pack")?.unwrap_or_default(), ..PackOptions::default() };
    for (name, made) in fresh {
        let archive = places.archive(&name);
        let packed = made && zoo_pack::is_up_to_date(&places.zoo(&name), &archive, &options)?;
        let shown = if packed { zoo_pack::archives(&archive)?.remove(0) } else { archive };
        line("pack", &shown, packed, None);
    }
    Ok(())
}

/// Models that are there, of so many, if the zoo is in the making.
fn in_the_making(zoo: &Path) -> anyhow::Result<Option<[usize; 2]>> {
    let zoo = ZooDir::new(zoo);
    let Some(run) = read_run(&zoo)? else { return Ok(None) };
    Ok(Some([zoo.ids()?.len(), run.ids.len()]))
}
