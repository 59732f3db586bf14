//! The command line of `zoo-verify`.

use std::path::PathBuf;

use zoo_model::stage::Stage;

use crate::{verify_all, Options, VerifyError, VerifySummary};

/// Command line of `zoo-verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Archives or zoo directories
    #[arg(value_name = "ARCHIVE|DIR", required = true)]
    paths: Vec<PathBuf>,
    /// Checksums and structure only
    #[arg(long, conflicts_with_all = ["replay", "retrain"])]
    quick: bool,
    /// Fail unless all volumes of a zoo are named
    #[arg(long)]
    complete: bool,
    /// Evaluate K models again: their metrics must be equal (needs --data)
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "data")]
    replay: usize,
    /// Train K models again: their bits must be equal (needs --data)
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "data")]
    retrain: usize,
    /// The prepared dataset that the zoo was trained on
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The zoo of a twin's parents; by default looked for beside the twin
    #[arg(long, value_name = "ARCHIVE|DIR")]
    parent: Option<PathBuf>,
    /// Seed of the choice of models to replay and retrain
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Number of threads; defaults to one per core
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-verify archives/quickstart.tar.gz
  zoo-verify zoos/quickstart --replay 8 --retrain 1 --data data/quickstart.safetensors
  zoo-verify --complete large.*-of-3.tar.gz      # all volumes: together they are the whole zoo

Exit codes: 0 verified, 1 could not be read, 2 wrong usage or models that cannot be run again,
3 verification failed, 130 interrupted.";

/// `zoo-verify`. A verdict of "no" is printed like any other, and is the error too; so are verdicts on a
/// part of what was given.
pub fn run(args: &Args, stage: &Stage) -> Result<VerifySummary, VerifyError> {
    let default = Options::default();
    let options = Options {
        quick: args.quick,
        replay: args.replay,
        retrain: args.retrain,
        data: args.data.clone(),
        parent: args.parent.clone(),
        seed: args.seed,
        threads: args.threads.map_or(default.threads, |t| t as usize),
    };
    verify_all(&args.paths, args.complete, &options, stage)
}
