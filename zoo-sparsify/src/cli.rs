//! The command line of `zoo-sparsify`.

use std::path::PathBuf;

use zoo_cli::ManifestArgs;
use zoo_model::stage::{Stage, UsageError};
use zoo_model::ZooDir;
use zoo_train::cli::TrainingArgs;
use zoo_train::{Settings, TrainSummary};

use crate::methods::is_named_after_a_twin;
use crate::{sparsify, twins, SparsifyError, Twin, TwinPaths};

/// Command line of `zoo-sparsify`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// The zoo to prune, made by zoo-train
    #[arg(long, value_name = "DIR")]
    zoo: PathBuf,
    /// The prepared dataset that it was trained on
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Twin zoo directory to create
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Which twin of the manifest, such as magnitude-80; by default the one that the output is named after
    #[arg(long, value_name = "TWIN")]
    twin: Option<String>,
    /// Fine-tune on this dataset even if zoo.json names another, or none; shape and classes must agree
    #[arg(long)]
    any_data: bool,
    #[command(flatten)]
    training: TrainingArgs,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-sparsify configs/quickstart.toml --zoo zoos/quickstart --data data/quickstart.safetensors \\
      -o zoos/quickstart-magnitude-80
  zoo-sparsify my.toml --zoo zoos/my --data data/my.safetensors -o twin --twin magnitude-50

After an interruption (Ctrl-C, SIGTERM, even SIGKILL), rerun the same command to resume.
Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// `zoo-sparsify`.
///
/// # Errors
/// The command line names no twin of the manifest, or no finished zoo; and as [`sparsify`].
pub fn run(args: &Args, stage: &Stage) -> Result<TrainSummary, SparsifyError> {
    let manifest = args.manifest.load()?;
    let twin = choose(&twins(&manifest)?, args)?;
    let training = &args.training;
    let parent = ZooDir::new(&args.zoo);
    parent.finished()?;
    let first = *parent.ids()?.first().ok_or_else(|| UsageError(format!("{} has no model", args.zoo.display())))?;
    let engine = training.engine(&twin.spec(parent.params(first)?.hyperparameters), stage)?;
    let settings = Settings { any_data: args.any_data, ..training.settings() };
    let paths = TwinPaths { parent: &args.zoo, data: &args.data, output: &args.output };
    sparsify(paths, &twin, engine.as_ref(), &settings, stage)
}

fn choose(twins: &[Twin], args: &Args) -> Result<Twin, UsageError> {
    let output = args.output.file_name().unwrap_or_default().to_string_lossy();
    let named = |twin: &&Twin| match &args.twin {
        Some(name) => twin.suffix == *name,
        None => output.ends_with(&format!("-{}", twin.suffix)),
    };
    let all = || twins.iter().map(|t| t.suffix.as_str()).collect::<Vec<_>>().join(", ");
    match (twins, twins.iter().find(named)) {
        ([], _) => Err(UsageError(format!("{} has no [[sparsify]] entry", args.manifest.manifest.display()))),
        (_, Some(twin)) => Ok(twin.clone()),
        ([only], None) if args.twin.is_none() && !is_named_after_a_twin(&output) => Ok(only.clone()),
        _ => Err(UsageError(format!("the twin is ambiguous; choose one with --twin: {}", all()))),
    }
}
