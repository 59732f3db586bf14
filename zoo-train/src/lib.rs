//! Trains a plan of models, with the whole trajectory of each.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_model::Manifest;
//! use zoo_train::{train, DfdxEngine, Settings};
//!
//! let manifest = Manifest::load(Path::new("configs/quickstart.toml"))?;
//! let data = Path::new("data/quickstart.safetensors");
//! let summary = train(&manifest, data, Path::new("zoos/quickstart"), &DfdxEngine::default(), &Settings::default(), &Default::default())?;
//! println!("{summary}");
//! # Ok::<(), zoo_train::Error>(())
//! ```
//!
//! Replace a part: an [`Engine`] does the arithmetic, a [`Population`] is trained into a zoo
//! directory, whatever [`population::Source`] its models come from.

pub mod checkpoint;
mod described;
pub mod dfdx_engine;
pub mod engine;
pub mod estimate;
pub mod functions;
pub mod magnitude;
pub mod merge;
pub mod metrics;
pub mod optimizer;
pub mod population;
pub mod population_engine;
pub mod schedule;
pub mod trajectory;
pub mod variational;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use zoo_cli::ReductionArgs;
use zoo_model::files::{fingerprint, FileError};
use zoo_model::init::initial_parameters;
use zoo_model::stage::{Interrupted, Stage, UsageError};
use zoo_model::zoo_dir::{DatasetRecord, EngineRecord};
use zoo_model::{
    Dataset, GeometryError, Hyperparameters, Manifest, ManifestError, ModelId, Params, Plan, ZooDir, ZooRecord,
    FORMAT_VERSION,
};

use population_engine::cuda;

pub use dfdx_engine::DfdxEngine;
pub use engine::{Cohort, CohortError, Engine, Evaluation, Mask, Snapshot, Task};
pub use population::{Completion, Population, Settings, Shard, Summary};
pub use population_engine::cuda::driver::DeviceError;
pub use population_engine::PopulationEngine;

/// Why training failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in the manifest.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// Images and architecture do not fit.
    #[error("{0}")]
    Geometry(#[from] GeometryError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Threads(rayon::ThreadPoolBuildError),
    /// The device failed, or there is none.
    #[error("{0}")]
    Device(#[from] DeviceError),
}

impl From<CohortError> for Error {
    fn from(error: CohortError) -> Self {
        match error {
            CohortError::Interrupted(interrupted) => interrupted.into(),
            CohortError::Device(device) => device.into(),
        }
    }
}

/// The engines to choose from, the fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// Cohorts of models in the lanes of vectors: cnn-s and cnn-m.
    Population,
    /// dfdx tensors and autograd, one model at a time: every architecture.
    Dfdx,
}

impl EngineName {
    /// The engine of this name.
    pub fn engine(self) -> Box<dyn Engine> {
        match self {
            Self::Population => Box::new(PopulationEngine::new()),
            Self::Dfdx => Box::new(DfdxEngine::default()),
        }
    }
}

/// The fastest engine that trains such models.
fn fastest(hyperparameters: &Hyperparameters) -> EngineName {
    let trains = |name: &&EngineName| name.engine().trains(hyperparameters);
    *EngineName::value_variants().iter().find(trains).expect("dfdx trains every model")
}

/// The engine of this name, or by default the fastest that trains such models.
pub fn engine_for(name: Option<EngineName>, hyperparameters: &Hyperparameters) -> Box<dyn Engine> {
    name.unwrap_or_else(|| fastest(hyperparameters)).engine()
}

/// Every engine of this build.
pub fn engines() -> Vec<Box<dyn Engine>> {
    EngineName::value_variants().iter().map(|name| name.engine()).collect()
}

/// Where the arithmetic is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// GPUs if there are any and the engine's bits do not depend on it, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// This GPU, or all of them.
    Cuda(Option<usize>),
}

impl FromStr for DeviceName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            None if s == "auto" => Ok(Self::Auto),
            None if s == "cpu" => Ok(Self::Cpu),
            None if s == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", number)) if number.parse::<usize>().is_ok() => Ok(Self::Cuda(number.parse().ok())),
            _ => Err("a device is auto, cpu, cuda (all GPUs) or cuda:N, such as cuda:0".into()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

/// Flags of every stage that trains.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainingArgs {
    /// What does the arithmetic; by default the fastest that trains the architecture
    #[arg(long, value_enum)]
    pub engine: Option<EngineName>,
    /// Where it is done: auto, cpu, cuda (all GPUs) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceName,
    /// Threads; by default one a core. The result does not depend on it
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    /// Make only part I of N, from 1; the parts may share an output or be merged with `zoo-train merge`
    #[arg(long, value_name = "I/N", default_value_t = Shard::WHOLE)]
    pub shard: Shard,
    /// Seconds between two checkpoints of a model in training
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub checkpoint_seconds: u64,
    /// Replace an output that was made from another manifest, dataset or engine, once the new one is whole
    #[arg(long)]
    pub force: bool,
}

impl TrainingArgs {
    /// The engine on the device; says which device `auto` comes to.
    ///
    /// # Errors
    /// The device is not to be had.
    pub fn engine(&self, hyperparameters: &Hyperparameters, stage: &Stage) -> Result<Box<dyn Engine>, Error> {
        let name = self.engine.unwrap_or_else(|| fastest(hyperparameters));
        let asked_for = |error: DeviceError| match error {
            DeviceError::Unavailable(why) => {
                DeviceError::Unavailable(format!("--device {}: {why}; or train with --device cpu", self.device))
            }
            other => other,
        };
        match (name, self.device) {
            (_, DeviceName::Cpu) | (EngineName::Dfdx, DeviceName::Auto) => Ok(name.engine()),
            (EngineName::Dfdx, DeviceName::Cuda(number)) => {
                Ok(Box::new(DfdxEngine::on_cuda(number.unwrap_or(0)).map_err(asked_for)?))
            }
            (EngineName::Population, DeviceName::Cuda(number)) => {
                let devices = cuda::gpu::devices(number).map_err(asked_for)?;
                Ok(Box::new(PopulationEngine::on(devices)))
            }
            (EngineName::Population, DeviceName::Auto) => match cuda::gpu::devices(None) {
                Ok(devices) => {
                    let names: Vec<String> = devices.iter().map(|d| d.driver.name()).collect();
                    stage.say(format_args!("training on {}", names.join(", ")));
                    Ok(Box::new(PopulationEngine::preferring(devices)))
                }
                Err(why) => {
                    stage.say(format_args!("training on the processor: {why}"));
                    Ok(name.engine())
                }
            },
        }
    }

    /// The flags as settings.
    pub fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            threads: self.threads.map_or(default.threads, |t| t as usize),
            shard: self.shard,
            checkpoint_pause: Duration::from_secs(self.checkpoint_seconds),
            force: self.force,
            any_data: false,
        }
    }
}

/// Command line of `zoo-train`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Manifest (TOML)
    #[arg(value_name = "MANIFEST", required = true)]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    reduction: ReductionArgs,
    /// Prepared dataset, made by zoo-data
    #[arg(long, value_name = "FILE", required = true)]
    data: Option<PathBuf>,
    /// Zoo directory to make
    #[arg(short, long, value_name = "DIR", required = true)]
    output: Option<PathBuf>,
    /// Train on this dataset even if the manifest's [data] describes another
    #[arg(long)]
    any_data: bool,
    #[command(flatten)]
    training: TrainingArgs,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Merge the outputs of shards into one zoo directory
    Merge {
        /// Outputs of `--shard` runs of one manifest
        #[arg(value_name = "DIR", required = true)]
        shards: Vec<PathBuf>,
        /// Zoo directory to make
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-train configs/quickstart.toml --data data/quickstart.safetensors -o zoos/quickstart
  zoo-train my.toml --data data/my.safetensors -o zoos/my-1 --shard 1/3
  zoo-train merge zoos/my-1 zoos/my-2 zoos/my-3 -o zoos/my

Interrupted (Ctrl-C, SIGTERM, even SIGKILL), the same command goes on where it stopped.
Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// `zoo-train`.
pub fn run(args: &Args, stage: &Stage) -> Result<Summary, Error> {
    if let Some(Command::Merge { shards, output }) = &args.command {
        let shards: Vec<ZooDir> = shards.iter().map(ZooDir::new).collect();
        let completion = merge::merge(&shards, &ZooDir::new(output))?;
        return Ok(Summary { output: output.clone(), up_to_date: false, completion });
    }
    let missing = || UsageError("MANIFEST, --data and --output are needed".into());
    let (Some(manifest), Some(data), Some(output)) = (&args.manifest, &args.data, &args.output) else {
        return Err(missing().into());
    };
    let manifest = args.reduction.load(manifest)?;
    let training = &args.training;
    let engine = training.engine(&Plan::new(&manifest)?.models[0].hyperparameters, stage)?;
    let settings = Settings { any_data: args.any_data, ..training.settings() };
    train(&manifest, data, output, engine.as_ref(), &settings, stage)
}

/// Trains the plan of a manifest on a prepared dataset into a zoo directory.
///
/// Does nothing if the directory is up to date, goes on if it is unfinished.
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
) -> Result<Summary, Error> {
    let plan = Plan::new(manifest)?;
    let dataset = Dataset::read(data)?;
    if !settings.any_data {
        described::check(manifest, &dataset, data)?;
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
) -> Result<bool, Error> {
    let record = record(&Plan::new(manifest)?, dataset, engine)?;
    Ok(population::is_current(&ZooDir::new(output), &record)?)
}

/// The record that the zoo of this plan will have, its counts of states and diverged models still
/// 0.
///
/// # Errors
/// The images do not fit the architecture, or the engine does not train it.
pub fn record(plan: &Plan, dataset: &Dataset, engine: &dyn Engine) -> Result<ZooRecord, Error> {
    let first = &plan.models[0].hyperparameters;
    let network = first.network(dataset.shape, dataset.classes())?;
    check_engine(engine, first)?;
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

/// Checks that an engine trains such models.
///
/// # Errors
/// It does not: says which does.
pub fn check_engine(engine: &dyn Engine, h: &Hyperparameters) -> Result<(), UsageError> {
    if engine.trains(h) {
        return Ok(());
    }
    let message = format!(
        "the {} engine does not train {} with this schedule and augmentation: leave --engine out, or give --engine {}",
        engine.name(),
        h.architecture.name(),
        engine_for(None, h).name()
    );
    Err(UsageError(message))
}

/// The task of training these hyperparameters from their own initial weights.
pub fn task(hyperparameters: &Hyperparameters, shape: [usize; 3], classes: usize) -> Result<Task, GeometryError> {
    let network = hyperparameters.network(shape, classes)?;
    Ok(Task {
        initial: initial_parameters(&network, hyperparameters.init, hyperparameters.seed),
        network,
        hyperparameters: hyperparameters.clone(),
        mask: None,
        epochs_before: 0,
    })
}

/// The models of a plan.
struct Planned<'a> {
    plan: &'a Plan,
    dataset: &'a Dataset,
}

impl population::Source for Planned<'_> {
    fn models(&self) -> Vec<(ModelId, Hyperparameters)> {
        self.plan.models.iter().map(|m| (m.id, m.hyperparameters.clone())).collect()
    }

    fn jobs(
        &self,
        indices: &[usize],
        _: &dyn Engine,
        _: &Dataset,
    ) -> Result<Vec<(Params, trajectory::Job<'_>)>, Error> {
        let job = |&i: &usize| {
            let model = &self.plan.models[i];
            let task = task(&model.hyperparameters, self.dataset.shape, self.dataset.classes())?;
            let params = Params::new(model.id, model.hyperparameters.clone(), &task.network);
            Ok((params, trajectory::Job { task, annotate: None }))
        };
        indices.iter().map(job).collect()
    }
}
