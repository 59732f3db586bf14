//! `zoo-pack`: a zoo directory to an archive.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Pack a zoo into a deterministic, checksummed archive";
    zoo_cli::main(zoo_cli::Program { name: "zoo-pack", about, examples: zoo_pack::cli::EXAMPLES }, zoo_pack::cli::run)
}
