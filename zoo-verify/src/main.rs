//! `zoo-verify`: an archive or a zoo directory to a verdict.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Verify a zoo, from checksums up to retraining; archives are streamed, nothing is written";
    zoo_cli::main("zoo-verify", about, zoo_verify::EXAMPLES, zoo_verify::run)
}
