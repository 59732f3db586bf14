//! `zoo-sparsify`: a zoo to its sparse twin zoo.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Make a zoo's sparse twin: every model pruned and fine-tuned, with its whole trajectory";
    zoo_cli::main(
        zoo_cli::Program { name: "zoo-sparsify", about, examples: zoo_sparsify::cli::EXAMPLES },
        zoo_sparsify::cli::run,
    )
}
