//! What is in a model zoo.
//!
//! | Module | Contents |
//! | --- | --- |
//! | [`source`] | zoos as streams of models, from a directory, an archive or its volumes |
//! | [`evaluation`] | models evaluated on their dataset |
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
pub mod evaluation;
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
use zoo_model::stage::{Interrupted, Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::Dataset;

use benchmark::{Benchmark, Options, SPLIT_SEED};
use evaluation::{check_dataset, Which};
use report::{Place, Report};
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
        "{}: train, validation and test have {} models, and each needs one with a usable state: take a larger zoo",
        path.display(),
        models.map(|n| n.to_string()).join(", ")
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
    Engine(#[from] zoo_engine::EngineError),
    /// No engine of this program evaluates the models.
    #[error("{0}")]
    NoEngine(#[from] zoo_train::TrainError),
}

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
    let Some(output) = &args.output else {
        return Err(UsageError("a zoo and --output are needed".into()).into());
    };
    let place = Place::new(output)?;
    let report = analyze(&args.zoos, args.data.as_deref(), &args.split.options(), stage)?;
    let written = report.write(&place)?;
    Ok(Summary::Report { written, notes: report.notes, benchmark: report.benchmark })
}

/// `zoo benchmark`.
pub fn run_benchmark(args: &BenchmarkArgs, stage: &Stage) -> Result<Benchmark, Error> {
    match Source::open_all(&args.zoo)?.as_slice() {
        [source] => benchmark::benchmark(source, &args.split.options(), stage),
        _ => Err(UsageError("name one zoo, or the volumes of one".into()).into()),
    }
}

/// Analyses a zoo, the first of `zoos`, with twins of it, the others, and its dataset if it is at hand.
///
/// # Errors
/// One of them cannot be read, or belongs to another zoo.
pub fn analyze(zoos: &[PathBuf], data: Option<&Path>, options: &Options, stage: &Stage) -> Result<Report, Error> {
    let mut zoos = Source::open_all(zoos)?.into_iter();
    let source = zoos.next().ok_or_else(|| UsageError("a zoo is needed".into()))?;
    let twins: Vec<Source> = zoos.collect();
    for twin in &twins {
        check_twin(&source, twin)?;
    }
    let data = data.map(Dataset::read).transpose()?;
    if let Some(data) = &data {
        std::iter::once(&source).chain(&twins).try_for_each(|zoo| check_dataset(zoo, data))?;
    }
    let mut diversity = diversity::Collector::new(&source);
    let mut benchmark = benchmark::Collector::new(&source, options);
    let progress = stage.progress("reading", source.ids().len() as u64);
    let (mut states, mut untested, mut untrained) = (0, 0, 0);
    let passed = evaluation::for_each(&source, data.as_ref(), &|_| true, Which::All, stage, |model, _| {
        let statistics = statistics::all_statistics(&model);
        diversity.add(&model, &statistics);
        benchmark.add(&model, &statistics);
        let healthy = || model.lines.iter().filter(|line| !line.diverged);
        states += healthy().count();
        untested += healthy().filter(|line| line.test_acc.is_none()).count();
        untrained += healthy().filter(|line| line.train_acc.is_none()).count();
        progress.advance(1);
        Ok(())
    })?;
    drop(progress);
    let mut notes = source.notes().to_vec();
    notes.extend(passed.skipped.iter().take(20).map(|s| format!("Model {} was skipped: {}", s.id, s.why)));
    if passed.skipped.len() > 20 {
        notes.push(format!("{} models were skipped in all", passed.skipped.len()));
    }
    if passed.evaluated > 0 {
        notes.push(format!(
            "{} had no metrics in result.json and were evaluated on the dataset; their training accuracies are without dropout",
            counted(passed.evaluated, "state")
        ));
    }
    let mut missing = |count: usize, metric: &str, left_out: &str| {
        if count > 0 {
            let remedy = if data.is_none() { ": --data evaluates them" } else { "" };
            notes.push(format!("{count} of {} have no {metric}; {left_out}{remedy}", counted(states, "state")));
        }
    };
    missing(untested, "test accuracy", "performance and hyperparameters leave them out");
    missing(untrained, "training accuracy", "the generalisation gap leaves them out");
    let diversity = diversity.finish(&source, data.as_ref(), &twins, &mut notes, stage)?;
    let benchmark = match benchmark.finish(&source, passed.skipped, stage) {
        Ok(benchmark) => Some(benchmark),
        Err(error @ Error::TooSmall { .. }) => {
            notes.push(format!("No benchmarks: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    Ok(Report { generator: report::GENERATOR, zoo: source.record().clone(), diversity, benchmark, notes })
}

fn check_twin(parent: &Source, twin: &Source) -> Result<(), UsageError> {
    let name = &parent.record().name;
    match &twin.record().parent {
        Some(of) if of.name == *name => Ok(()),
        _ => Err(UsageError(format!(
            "{} is not a twin of `{name}`: name the parents first, then their twins",
            twin.path().display()
        ))),
    }
}
