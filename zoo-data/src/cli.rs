//! Command line of `zoo-data`.

use std::path::PathBuf;

use zoo_cli::ReductionArgs;
use zoo_model::stage::{Stage, UsageError};

use crate::datasets::DatasetName;
use crate::error::DataError;
use crate::fetch::fetch_dataset;
use crate::prepare::prepare;
use crate::summary::DataSummary;

/// Command line of `zoo-data`.
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
    /// Folder under which published files are looked for
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// Prepared dataset file to write
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Download a published dataset
    Fetch {
        /// The dataset
        dataset: DatasetName,
        /// Folder that gets it, in data/DATASET
        #[arg(long, value_name = "DIR", default_value = ".")]
        root: PathBuf,
        /// Ask this address instead of the known ones; may be given several times
        #[arg(long, value_name = "URL")]
        mirror: Vec<String>,
    },
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-data configs/quickstart.toml -o data/quickstart.safetensors
  zoo-data fetch cifar10 --root .
  zoo-data configs/fashion-mnist-small.toml --root . -o data/fashion-mnist-small.safetensors

Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// `zoo-data`.
pub fn run(args: &Args, stage: &Stage) -> Result<DataSummary, DataError> {
    let root = match &args.command {
        Some(Command::Fetch { root, .. }) => root,
        None => &args.root,
    };
    if root.is_file() {
        return Err(UsageError(format!("--root {} is a file, expected a folder", root.display())).into());
    }
    if let Some(Command::Fetch { dataset, root, mirror }) = &args.command {
        return fetch_dataset(*dataset, root, mirror, stage);
    }
    let (Some(manifest), Some(output)) = (&args.manifest, &args.output) else {
        return Err(UsageError("MANIFEST and --output are required".into()).into());
    };
    prepare(&args.reduction.load(manifest)?, &args.root, output, stage)
}
