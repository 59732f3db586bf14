//! What is in a model zoo.
//!
//! | Module | Contents |
//! | --- | --- |
//! | [`source`] | zoos as streams of models, from a directory or an archive |
//! | [`statistics`] | layer statistics s(w) |
//! | [`ridge`] | ridge regression from moments |
//! | [`scores`] | R^2, Kendall's tau, agreement, kappa |
//! | [`benchmark`] | downstream benchmarks: properties predicted from weights |
//! | [`diversity`] | spread of performance, weights, predictions and activations |
//! | [`figures`], [`report`] | what people look at |
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_analyze::{benchmark, source::Source};
//!
//! let source = Source::open(Path::new("zoos/quickstart"))?;
//! println!("{}", benchmark::benchmark(&source, &Default::default(), &Default::default())?);
//! # Ok::<(), zoo_analyze::Error>(())
//! ```

pub mod benchmark;
pub mod diversity;
pub mod figures;
pub mod report;
pub mod ridge;
pub mod scores;
pub mod source;
pub mod statistics;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::files::FileError;
use zoo_model::Dataset;
use zoo_stage::{Interrupted, Stage, UsageError};

use benchmark::{Benchmark, Options, SPLIT_SEED};
use report::Report;
use source::Source;

/// Why a zoo could not be analysed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// A split has no usable state.
    #[error(
        "{}: {models:?} models in train, validation and test: each needs one with a usable state; take a larger zoo",
        path.display()
    )]
    TooSmall {
        /// The zoo.
        path: PathBuf,
        /// Models that could be read in each.
        models: [usize; 3],
    },
    /// The trees' library refused.
    #[error("cannot grow trees: {0}")]
    Trees(String),
    /// Models could not be evaluated.
    #[error("{0}")]
    Cohort(#[from] zoo_train::CohortError),
}

/// Command line of `zoo-analyze`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Zoo directories or archives of one volume: a zoo, then twins of it
    #[arg(value_name = "ZOO|ARCHIVE", required = true)]
    zoos: Vec<PathBuf>,
    /// The prepared dataset of the zoo: compare predictions and activations too
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Report to write: the page REPORT.html, figures and numbers in the folder REPORT
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
    /// Zoo directory, or archive of one volume
    #[arg(value_name = "ZOO|ARCHIVE")]
    zoo: PathBuf,
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
pub enum Summary {
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

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Benchmark(benchmark) => benchmark.fmt(f),
            Self::Report { written, notes, benchmark } => {
                notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
                if let Some(benchmark) = benchmark {
                    writeln!(f, "{benchmark}")?;
                }
                let page = written.last().map(|p| p.display().to_string()).unwrap_or_default();
                write!(f, "{page} and {} files beside it", written.len().saturating_sub(1))
            }
        }
    }
}

/// `zoo-analyze`.
pub fn run(args: &Args, stage: &Stage) -> Result<Summary, Error> {
    if let Some(Command::Benchmark(args)) = &args.command {
        return run_benchmark(args, stage).map(Summary::Benchmark);
    }
    let (Some((zoo, twins)), Some(output)) = (args.zoos.split_first(), &args.output) else {
        return Err(UsageError("a zoo and --output are needed".into()).into());
    };
    let page = match output.extension() {
        None => output.with_extension("html"),
        Some(html) if html == "html" => output.clone(),
        Some(_) => {
            return Err(UsageError(format!("the report must be called NAME.html, not {}", output.display())).into());
        }
    };
    let report = analyze(zoo, twins, args.data.as_deref(), &args.split.options(), stage)?;
    let written = report.write(&page)?;
    Ok(Summary::Report { written, notes: report.notes, benchmark: report.benchmark })
}

/// `zoo benchmark`.
pub fn run_benchmark(args: &BenchmarkArgs, stage: &Stage) -> Result<Benchmark, Error> {
    benchmark::benchmark(&Source::open(&args.zoo)?, &args.split.options(), stage)
}

/// Analyses a zoo, with twins of it and its dataset if they are at hand.
///
/// # Errors
/// One of them cannot be read, or belongs to another zoo.
pub fn analyze(
    zoo: &Path,
    twins: &[PathBuf],
    data: Option<&Path>,
    options: &Options,
    stage: &Stage,
) -> Result<Report, Error> {
    let source = Source::open(zoo)?;
    let twins = twins.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>, _>>()?;
    let data = data.map(Dataset::read).transpose()?;
    let mut diversity = diversity::Collector::new(&source);
    let mut benchmark = benchmark::Collector::new(&source, options)?;
    let progress = stage.progress("reading", source.record().models as u64);
    let skipped = source.for_each(
        stage,
        |_| true,
        |model| {
            let statistics = statistics::all_statistics(&model);
            diversity.add(&model, &statistics);
            benchmark.add(&model, &statistics);
            progress.advance(1);
            Ok(())
        },
    )?;
    drop(progress);
    let mut notes: Vec<String> =
        skipped.iter().take(20).map(|s| format!("Model {} was skipped: {}", s.id, s.why)).collect();
    if skipped.len() > 20 {
        notes.push(format!("{} models were skipped in all", skipped.len()));
    }
    let diversity = diversity.finish(&source, data.as_ref(), &twins, stage)?;
    let benchmark = match benchmark.finish(&source, skipped, stage) {
        Ok(benchmark) => Some(benchmark),
        Err(error @ Error::TooSmall { .. }) => {
            notes.push(format!("No benchmarks: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    Ok(Report { zoo: source.record().clone(), diversity, benchmark, notes })
}
