//! The thin driver: reads manifests and calls the stages in order.
//!
//! `zoo train` and `zoo-train` are the same function; likewise for every stage. This crate only
//! decides where outputs go under the root, in which order they are made, and what is skipped.

mod plan;
mod run;
mod status;

use std::collections::HashMap;
use std::fmt;
use std::iter::once;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_cli::ReductionArgs;
use zoo_model::plan::ZooSection;
use zoo_model::stage::{Stage, UsageError};
use zoo_model::{Manifest, ManifestError};
use zoo_sparsify::twins;

pub use plan::PlanSummary;
pub use run::RunSummary;
pub use status::StatusSummary;

/// Command line of `zoo`.
#[derive(Debug, Clone, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Run all stages of the given manifests, skipping what is up to date
    Run(run::RunArgs),
    /// Show what manifests would produce, with sizes and times
    Plan(plan::PlanArgs),
    /// Show the progress of the stages of the given manifests
    Status(status::StatusArgs),
    /// Prepare or fetch an image dataset (zoo-data)
    Data(zoo_data::cli::Args),
    /// Train a zoo (zoo-train)
    Train(zoo_train::cli::Args),
    /// Make a zoo's sparse twin (zoo-sparsify)
    Sparsify(zoo_sparsify::cli::Args),
    /// Pack a zoo into an archive (zoo-pack)
    Pack(zoo_pack::cli::Args),
    /// Verify archives or zoo directories (zoo-verify)
    Verify(zoo_verify::cli::Args),
    /// Report a zoo's diversity (zoo-analyze)
    Analyze(zoo_analyze::cli::Args),
    /// Predict properties of models from their weights, and print the scores
    Benchmark(zoo_analyze::cli::BenchmarkArgs),
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo run configs/quickstart.toml
  zoo run configs/fashion-mnist-small.toml --root /scratch --models 4 --epochs 1
  zoo plan configs/*.toml --json
  zoo status configs/quickstart.toml

Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 3 verification failed, 130 interrupted.";

/// Manifests and the folder that everything is made in.
#[derive(Debug, Clone, clap::Args)]
struct Manifests {
    /// Manifests (TOML)
    #[arg(value_name = "MANIFEST", required = true)]
    manifests: Vec<PathBuf>,
    /// Folder of data/, zoos/ and archives/
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    #[command(flatten)]
    reduction: ReductionArgs,
}

impl Manifests {
    /// Loads them all.
    ///
    /// # Errors
    /// A root that is not a folder, a mistake in a manifest, or two that would make one zoo or twin.
    fn load(&self) -> anyhow::Result<Vec<Manifest>> {
        if self.root.is_file() {
            return Err(
                UsageError(format!("--root {} is a file, where a folder is expected", self.root.display())).into()
            );
        }
        let mut manifests = Vec::new();
        let mut makers: HashMap<String, &Path> = HashMap::new();
        for path in &self.manifests {
            let manifest = self.reduction.load(path)?;
            for name in zoo_names(&manifest)? {
                if let Some(other) = makers.get(&name) {
                    let (other, path) = (other.display(), path.display());
                    let message =
                        format!("{other} and {path} both make the zoo `{name}`: give one of them another name");
                    return Err(UsageError(message).into());
                }
                makers.insert(name, path);
            }
            manifests.push(manifest);
        }
        Ok(manifests)
    }
}

/// Names of a manifest's zoo and of its twins, in this order.
fn zoo_names(manifest: &Manifest) -> Result<Vec<String>, ManifestError> {
    let ZooSection { name, .. } = manifest.required("zoo")?;
    let twins = twins(manifest)?.into_iter().map(|twin| twin.zoo_name(&name)).collect::<Vec<_>>();
    Ok(once(name).chain(twins).collect())
}

/// Where the outputs of one manifest lie.
#[derive(Debug, Clone)]
struct OutputPaths {
    data: PathBuf,
    zoos: PathBuf,
    archives: PathBuf,
    name: String,
}

impl OutputPaths {
    fn new(manifest: &Manifest, root: &Path) -> Result<Self, ManifestError> {
        let ZooSection { name, .. } = manifest.required("zoo")?;
        let data = root.join("data").join(format!("{name}.safetensors"));
        Ok(Self { data, zoos: root.join("zoos"), archives: root.join("archives"), name })
    }

    fn zoo(&self, name: &str) -> PathBuf {
        self.zoos.join(name)
    }

    fn archive(&self, name: &str) -> PathBuf {
        self.archives.join(format!("{name}.tar.gz"))
    }
}

/// What any of the commands has to say.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CommandSummary {
    #[allow(missing_docs)]
    Run(RunSummary),
    #[allow(missing_docs)]
    Plan(PlanSummary),
    #[allow(missing_docs)]
    Status(StatusSummary),
    #[allow(missing_docs)]
    Data(zoo_data::DataSummary),
    #[allow(missing_docs)]
    Train(zoo_train::TrainSummary),
    #[allow(missing_docs)]
    Sparsify(zoo_train::TrainSummary),
    #[allow(missing_docs)]
    Pack(zoo_pack::PackSummary),
    #[allow(missing_docs)]
    Verify(zoo_verify::VerifySummary),
    #[allow(missing_docs)]
    Analyze(zoo_analyze::cli::AnalyzeSummary),
}

impl fmt::Display for CommandSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Run(s) => s.fmt(f),
            Self::Plan(s) => s.fmt(f),
            Self::Status(s) => s.fmt(f),
            Self::Data(s) => s.fmt(f),
            Self::Train(s) => s.fmt(f),
            Self::Sparsify(s) => s.fmt(f),
            Self::Pack(s) => s.fmt(f),
            Self::Verify(s) => s.fmt(f),
            Self::Analyze(s) => s.fmt(f),
        }
    }
}

/// `zoo`.
pub fn run(args: &Args, stage: &Stage) -> anyhow::Result<CommandSummary> {
    let Some(command) = &args.command else {
        return Err(UsageError("no command given; `zoo --help` lists them".into()).into());
    };
    Ok(match command {
        Command::Run(args) => CommandSummary::Run(run::run(args, stage)?),
        Command::Plan(args) => CommandSummary::Plan(plan::plan(args, stage)?),
        Command::Status(args) => CommandSummary::Status(status::status(args)?),
        Command::Data(args) => CommandSummary::Data(zoo_data::cli::run(args, stage)?),
        Command::Train(args) => CommandSummary::Train(zoo_train::cli::run(args, stage)?),
        Command::Sparsify(args) => CommandSummary::Sparsify(zoo_sparsify::cli::run(args, stage)?),
        Command::Pack(args) => CommandSummary::Pack(zoo_pack::cli::run(args, stage)?),
        Command::Verify(args) => CommandSummary::Verify(zoo_verify::cli::run(args, stage)?),
        Command::Analyze(args) => CommandSummary::Analyze(zoo_analyze::cli::run(args, stage)?),
        Command::Benchmark(args) => {
            let benchmark = zoo_analyze::cli::run_benchmark(args, stage)?;
            CommandSummary::Analyze(zoo_analyze::cli::AnalyzeSummary::Benchmark(benchmark))
        }
    })
}
