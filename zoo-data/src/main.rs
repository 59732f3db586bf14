//! `zoo-data`: published image files to a prepared dataset.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Prepare an image dataset: load its published files, split, transform, write one file";
    zoo_cli::main(zoo_cli::Program { name: "zoo-data", about, examples: zoo_data::cli::EXAMPLES }, zoo_data::cli::run)
}
