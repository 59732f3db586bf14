//! Snapshots of what programs print: `insta` keeps them beside the tests, in `snapshots`.

use std::path::Path;

use insta::Settings;

use crate::{Arguments, Outcome, Program};

/// What `--help` prints on a terminal of 100 columns.
#[track_caller]
pub fn help(program: &'static str, args: &str) -> String {
    let command = format!("{args} --help");
    // Neither end of the program is a terminal, which would be asked for its width first.
    let mut command = Program::new(program).command(Path::new("."), &command.list()[..]);
    Outcome::of(command.env("COLUMNS", "100")).ok()
}

/// Exit code and both outputs.
pub fn transcript(outcome: &Outcome) -> String {
    let said = [&outcome.stdout, &outcome.stderr].map(|text| text.trim_end());
    let parts = ["", "--- standard error\n"].iter().zip(said).filter(|(_, text)| !text.is_empty());
    let parts: Vec<String> = parts.map(|(head, text)| format!("{head}{text}\n")).collect();
    format!("{}--- exit code {}\n", parts.concat(), outcome.code)
}

/// Settings for what holds numbers that are not the snapshot's concern; `filters` are pairs of a
/// regular expression and what stands in the snapshot for every match.
pub fn redacting(filters: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::clone_current();
    filters.iter().for_each(|(pattern, placeholder)| settings.add_filter(pattern, *placeholder));
    settings
}
