//! `zoo-analyze`: a zoo to a report of what is in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Report what is in a zoo: its diversity, and how well its weights tell of its models";
    zoo_cli::main("zoo-analyze", about, zoo_analyze::EXAMPLES, zoo_analyze::run)
}
