//! `zoo-analyze`: a zoo to a report of what is in it.

use std::process::ExitCode;

use zoo_analyze::cli::{run, EXAMPLES};

fn main() -> ExitCode {
    let about = "Report what is in a zoo: its diversity, and how well its weights predict its models' properties";
    zoo_cli::main(zoo_cli::Program { name: "zoo-analyze", about, examples: EXAMPLES }, run)
}
