//! `zoo-train`: a manifest and a prepared dataset to a zoo directory.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Train a zoo: every model of a manifest's grid, with its whole trajectory";
    zoo_cli::main(
        zoo_cli::Program { name: "zoo-train", about, examples: zoo_train::cli::EXAMPLES },
        zoo_train::cli::run,
    )
}
