//! The command line of `zoo-train`, and the flags of every stage that trains.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use zoo_cli::ReductionArgs;
use zoo_engine::{BuiltEngine, DeviceError, DeviceName, Engine, ModelSpec};
use zoo_model::stage::{Stage, UsageError};
use zoo_model::{Plan, ZooDir};

use crate::{merge, registry, train, Settings, Shard, TrainError, TrainSummary};

/// The names that `--engine` takes: those of the registered engines.
pub fn engine_names() -> PossibleValuesParser {
    let names = registry::factories();
    PossibleValuesParser::new(names.iter().map(|f| PossibleValue::new(f.name()).help(f.about())))
}

/// Which engine, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// Engine that trains the models; defaults to the fastest that supports them
    #[arg(long, value_name = "ENGINE", value_parser = engine_names())]
    pub engine: Option<String>,
    /// Device to train on: auto, cpu, cuda (all GPUs) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceName,
}

/// Flags of every stage that trains.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainingArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Number of threads; defaults to one per core. Does not affect the result
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    /// Train only shard I of N, counted from 1; shards may share an output, or be merged with `zoo-train merge`
    #[arg(long, value_name = "I/N", default_value_t = Shard::WHOLE)]
    pub shard: Shard,
    /// Seconds between checkpoints
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub checkpoint_seconds: u64,
    /// Replace an output that was built from a different manifest, dataset or engine, once the new one is complete
    #[arg(long)]
    pub force: bool,
}

impl EngineArgs {
    /// The engine for such models on the device; says which device `auto` comes to.
    ///
    /// # Errors
    /// The engine does not train them, or the device cannot be used.
    pub fn build(&self, model: &ModelSpec, stage: &Stage) -> Result<Box<dyn Engine>, TrainError> {
        let factory = registry::choose(self.engine.as_deref(), model)?;
        let BuiltEngine { engine, notice } = factory.build(self.device).map_err(|error| match error {
            DeviceError::Unavailable(why) => {
                DeviceError::Unavailable(format!("--device {}: {why}; or train with --device cpu", self.device))
            }
            other => other,
        })?;
        if let Some(notice) = notice {
            stage.say(notice);
        }
        Ok(engine)
    }
}

impl TrainingArgs {
    /// The name of the engine, if one was asked for.
    pub fn engine_name(&self) -> Option<&str> {
        self.engine.engine.as_deref()
    }

    /// The engine for such models on the device; says which device `auto` comes to.
    ///
    /// # Errors
    /// As [`EngineArgs::build`].
    pub fn engine(&self, model: &ModelSpec, stage: &Stage) -> Result<Box<dyn Engine>, TrainError> {
        self.engine.build(model, stage)
    }

    /// The flags as settings.
    pub fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            threads: self.threads.map_or(default.threads, |t| t as usize),
            shard: self.shard,
            checkpoint_pause: Duration::from_secs(self.checkpoint_seconds),
            force: self.force,
            ..default
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
    /// Zoo directory to create
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
        /// Zoo directory to create
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

After an interruption (Ctrl-C, SIGTERM, even SIGKILL), rerun the same command to resume.
Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// `zoo-train`.
pub fn run(args: &Args, stage: &Stage) -> Result<TrainSummary, TrainError> {
    if let Some(Command::Merge { shards, output }) = &args.command {
        let shards: Vec<ZooDir> = shards.iter().map(ZooDir::new).collect();
        let completion = merge::merge(&shards, &ZooDir::new(output))?;
        return Ok(TrainSummary { output: output.clone(), up_to_date: false, completion });
    }
    let missing = || UsageError("MANIFEST, --data and --output are required".into());
    let (Some(manifest), Some(data), Some(output)) = (&args.manifest, &args.data, &args.output) else {
        return Err(missing().into());
    };
    let manifest = args.reduction.load(manifest)?;
    let training = &args.training;
    let engine = training.engine(&Plan::new(&manifest)?.models[0].hyperparameters.clone().into(), stage)?;
    let settings = Settings { any_data: args.any_data, ..training.settings() };
    train(&manifest, data, output, engine.as_ref(), &settings, stage)
}
