//! Command line of `zoo-pack`.

use std::path::PathBuf;

use zoo_model::stage::Stage;
use zoo_model::Manifest;

use crate::error::PackError;
use crate::pack::{pack, PackOptions, PackSummary};
use crate::section::parse_size;

/// Command line of `zoo-pack`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Zoo directory
    #[arg(value_name = "DIR")]
    zoo: PathBuf,
    /// Archive to make, NAME.tar.gz; its checksum goes beside it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Take the settings of [pack] from this manifest
    #[arg(long, value_name = "MANIFEST")]
    manifest: Option<PathBuf>,
    /// Deflate level, 0 to 9
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(0..=9))]
    level: Option<u32>,
    /// Split into volumes of at most this size, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    volume_size: Option<u64>,
    /// Number of threads; defaults to one per core. Does not affect the result
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Replace a file that is not an archive of the same zoo
    #[arg(long)]
    force: bool,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-pack zoos/quickstart -o archives/quickstart.tar.gz
  zoo-pack zoos/large -o large.tar.gz --volume-size 2GB    # large.1-of-3.tar.gz, ...

Check with: sha256sum -c large.tar.gz.sha256, or zoo-verify.
Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// `zoo-pack`.
pub fn run(args: &Args, stage: &Stage) -> Result<PackSummary, PackError> {
    let mut options = PackOptions::default();
    if let Some(path) = &args.manifest {
        options.section = Manifest::load(path)?.section("pack")?.unwrap_or_default();
    }
    options.section.level = args.level.unwrap_or(options.section.level);
    options.section.volume_size = args.volume_size.or(options.section.volume_size);
    options.threads = args.threads.map_or(options.threads, |t| t as usize);
    options.force = args.force;
    pack(&args.zoo, &args.output, &options, stage)
}
