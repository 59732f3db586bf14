//! `zoo`: manifests to verified archives.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Make, sparsify, pack and verify model zoos: populations of small neural networks with their whole training trajectories";
    zoo_cli::main(zoo_cli::Program { name: "zoo", about, examples: zoo::EXAMPLES }, zoo::run)
}
