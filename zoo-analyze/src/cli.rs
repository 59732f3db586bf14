//! The command line of `zoo-analyze` and `zoo benchmark`.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use zoo_model::stage::{Stage, UsageError};

use crate::benchmark::{benchmark, Benchmark, Options, SPLIT_SEED};
use crate::report::OutputPaths;
use crate::zoo_reader::ZooReader;
use crate::{analyze, AnalyzeError};

/// Command line of `zoo-analyze`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Zoo directories or archives: a zoo, then twins of it. Any volume, or NAME.tar.gz, stands for all
    #[arg(value_name = "ZOO|ARCHIVE", required = true)]
    zoos: Vec<PathBuf>,
    /// The prepared dataset of the zoo: compare predictions and activations too, and evaluate what
    /// result.json leaves null
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Report to write: the page REPORT.html, figures and numbers in the folder REPORT. An earlier
    /// report is replaced, anything else is not
    #[arg(short, long, value_name = "REPORT", required = true)]
    output: Option<PathBuf>,
    #[command(flatten)]
    split: SplitArgs,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Predict properties of models from their weights, and print how well that goes
    Benchmark(BenchmarkArgs),
}

/// Flags of the downstream benchmarks.
#[derive(Debug, Clone, clap::Args)]
pub struct SplitArgs {
    /// Seed of the split of the models into train, validation and test
    #[arg(long, value_name = "N", default_value_t = SPLIT_SEED)]
    seed: u64,
    /// Grow no trees
    #[arg(long)]
    no_trees: bool,
}

impl SplitArgs {
    fn options(&self) -> Options {
        Options { seed: self.seed, trees: !self.no_trees }
    }
}

/// Command line of `zoo benchmark`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchmarkArgs {
    /// Zoo directory, or archive; any volume, or NAME.tar.gz, stands for all
    #[arg(value_name = "ZOO|ARCHIVE", required = true)]
    zoo: Vec<PathBuf>,
    #[command(flatten)]
    split: SplitArgs,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-analyze archives/quickstart.tar.gz -o quickstart.html
  zoo-analyze zoos/my zoos/my-magnitude-80 --data data/my.safetensors -o my.html
  zoo-analyze benchmark zoos/my --json

Models that cannot be read and states that diverged are left out, and listed.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// What `zoo-analyze` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AnalyzeSummary {
    /// The scores alone.
    Benchmark(Benchmark),
    /// What was written.
    Report {
        /// The page, its figures and numbers.
        written: Vec<PathBuf>,
        /// What is missing, and why.
        notes: Vec<String>,
        /// The scores.
        benchmark: Option<Benchmark>,
    },
}

impl fmt::Display for AnalyzeSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Benchmark(benchmark) => benchmark.fmt(f),
            Self::Report { written, notes, benchmark } => {
                notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
                if let Some(benchmark) = benchmark {
                    writeln!(f, "{benchmark}")?;
                }
                let page = written.last().map(|p| p.display().to_string()).unwrap_or_default();
                write!(f, "{page} and {} more files", written.len().saturating_sub(1))
            }
        }
    }
}

/// `zoo-analyze`.
pub fn run(args: &Args, stage: &Stage) -> Result<AnalyzeSummary, AnalyzeError> {
    if let Some(Command::Benchmark(args)) = &args.command {
        return run_benchmark(args, stage).map(AnalyzeSummary::Benchmark);
    }
    let Some(output) = &args.output else {
        return Err(UsageError("a zoo and --output are required".into()).into());
    };
    let paths = OutputPaths::new(output)?;
    let report = analyze(&args.zoos, args.data.as_deref(), &args.split.options(), stage)?;
    let written = report.write(&paths)?;
    Ok(AnalyzeSummary::Report { written, notes: report.notes, benchmark: report.benchmark })
}

/// `zoo benchmark`.
pub fn run_benchmark(args: &BenchmarkArgs, stage: &Stage) -> Result<Benchmark, AnalyzeError> {
    match ZooReader::open_all(&args.zoo)?.as_slice() {
        [zoo] => benchmark(zoo, &args.split.options(), stage),
        _ => Err(UsageError("give one zoo, or the volumes of one".into()).into()),
    }
}
