//! `zoo plan`: what manifests would make, without making it.

use std::fmt;

use serde::Serialize;
use zoo_engine::Sparsification;
use zoo_model::dataset::PerSplit;
use zoo_model::stage::Stage;
use zoo_model::text::counted;
use zoo_model::{states, Manifest, Plan};
use zoo_pack::PackSection;
use zoo_sparsify::twins;
use zoo_train::cli::EngineArgs;
use zoo_train::estimate::{Calibration, Workload};
use zoo_train::Settings;

use crate::Manifests;

/// Command line of `zoo plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    manifests: Manifests,
    #[command(flatten)]
    engine: EngineArgs,
    /// Threads to estimate the time for; defaults to one per core
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
}

/// What one manifest would make.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedZoo {
    /// Name of the zoo.
    pub name: String,
    /// Models.
    pub models: usize,
    /// States of all models.
    pub states: usize,
    /// States of all twins.
    pub twin_states: usize,
    /// Scalars in one model.
    pub parameters: usize,
    /// Bytes of all states files, the twins' included.
    pub bytes: u64,
    /// Seconds to train zoo and twins on this machine, from a short calibration.
    pub seconds: f64,
}

/// Sums over all zoos.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Total {
    /// Number of zoos.
    pub zoos: usize,
    /// Models.
    pub models: usize,
    /// States.
    pub states: usize,
    /// Twins' states.
    pub twin_states: usize,
    /// States of models and twins.
    pub all_states: usize,
    /// Scalars in one model of each of the models.
    pub parameters: usize,
    /// Bytes.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

/// What manifests would make.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanSummary {
    /// One entry a manifest.
    pub zoos: Vec<PlannedZoo>,
    /// Their sums.
    pub total: Total,
}

impl fmt::Display for PlanSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let width = self.zoos.iter().map(|z| z.name.len()).max().unwrap_or(0).max(5);
        writeln!(
            f,
            "{:<width$} {:>8} {:>10} {:>11} {:>11} {:>10} {:>10}",
            "zoo", "models", "states", "twin states", "parameters", "bytes", "time"
        )?;
        for z in &self.zoos {
            let (size, time) = (bytes(z.bytes), duration(z.seconds));
            writeln!(
                f,
                "{:<width$} {:>8} {:>10} {:>11} {:>11} {size:>10} {time:>10}",
                z.name, z.models, z.states, z.twin_states, z.parameters
            )?;
        }
        let Total { zoos, models, states, twin_states, all_states, .. } = &self.total;
        let (size, time) = (bytes(self.total.bytes), duration(self.total.seconds));
        let name = counted(*zoos, "zoo");
        writeln!(f, "{name:<width$} {models:>8} {states:>10} {twin_states:>11} {:>11} {size:>10} {time:>10}", "")?;
        write!(f, "{} in all", counted(*all_states, "state"))
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Checks every section of a manifest without reading data.
pub fn check(manifest: &Manifest) -> anyhow::Result<(Plan, zoo_data::Expected)> {
    let plan = Plan::new(manifest)?;
    let expected = zoo_data::expected(manifest)?;
    twins(manifest)?;
    manifest.section::<PackSection>("pack")?;
    let first = &plan.models[0].hyperparameters;
    if let Err(error) = first.network(expected.shape, expected.classes) {
        return Err(manifest.error("model.architecture", error.to_string()).into());
    }
    Ok((plan, expected))
}

pub fn plan(args: &PlanArgs, stage: &Stage) -> anyhow::Result<PlanSummary> {
    let silent = Stage::silent();
    let threads = args.threads.map_or(Settings::default().threads, |t| t as usize);
    let mut calibration = Calibration::default();
    let mut summary = PlanSummary { zoos: Vec::new(), total: Total::default() };
    for (i, manifest) in args.manifests.load()?.into_iter().enumerate() {
        // The device that the times are of is printed once.
        let stage = if i == 0 { stage } else { &silent };
        let (plan, expected) = check(&manifest)?;
        let first = &plan.models[0].hyperparameters;
        let engine = args.engine.build(&first.clone().into(), stage)?;
        let twins = twins(&manifest)?;
        let models = plan.models.len();
        let kept = plan.train.kept_epochs().len();
        let zoo_data::Expected { shape, classes, samples: PerSplit { train, val, test } } = expected;
        let work = Workload { shape, classes, train, evaluated: val + test, sparsification: Sparsification::Masks };
        let mut zoo = PlannedZoo {
            name: plan.zoo.name.clone(),
            models,
            states: models * kept,
            twin_states: models * twins.iter().map(|t| t.kept_epochs().len()).sum::<usize>(),
            parameters: 0,
            bytes: 0,
            seconds: calibration.seconds(engine.as_ref(), &plan, &work, threads)?,
        };
        for model in &plan.models {
            let network = model.hyperparameters.network(shape, classes)?;
            zoo.parameters = network.parameter_count();
            let counts = twins.iter().map(|t| t.kept_epochs().len()).chain([kept]);
            zoo.bytes += counts.map(|count| states::file_size(&network, count)).sum::<u64>();
        }
        for twin in &twins {
            let mut tuned = plan.clone();
            tuned.train.epochs = twin.epochs;
            tuned.train.checkpoint_every = 1;
            tuned.train.keep_initial = twin.pruning.keeps_initial();
            let model = twin.spec(first.clone());
            let engine = args.engine.build(&model, &silent)?;
            let work = Workload { sparsification: model.sparsification, ..work };
            zoo.seconds += calibration.seconds(engine.as_ref(), &tuned, &work, threads)?;
        }
        let total = &mut summary.total;
        total.zoos += 1;
        total.models += zoo.models;
        total.states += zoo.states;
        total.twin_states += zoo.twin_states;
        total.all_states += zoo.states + zoo.twin_states;
        total.parameters += zoo.models * zoo.parameters;
        total.bytes += zoo.bytes;
        total.seconds += zoo.seconds;
        summary.zoos.push(zoo);
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 25 twin states for each of the 47,360 models of the paper's CNN zoos.
    #[test]
    fn the_papers_manifests_make_as_many_twin_states_as_it_counts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/paper");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut states = 0;
        for path in paths.filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let manifest = Manifest::load(&path).unwrap();
            if !path.to_string_lossy().contains("-cnn-") {
                continue;
            }
            let kept: usize = twins(&manifest).unwrap().iter().map(|t| t.kept_epochs().len()).sum();
            states += Plan::new(&manifest).unwrap().models.len() * kept;
        }
        assert_eq!(states, 1_184_000);
    }
}
