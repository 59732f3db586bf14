//! `zoo-verify`: an archive or a zoo directory to a verdict.

use std::process::ExitCode;

use zoo_verify::cli::{run, EXAMPLES};

fn main() -> ExitCode {
    let about = "Verify a zoo, from checksums up to retraining; archives are streamed, nothing is written";
    zoo_cli::main(zoo_cli::Program { name: "zoo-verify", about, examples: EXAMPLES }, run)
}
