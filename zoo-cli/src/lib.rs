//! What the programs of all stages have in common: flags, exit codes, signals, the terminal.
//!
//! A stage's `cli` module has `Args` (what its command line takes) and `run`, a function from `Args`
//! and [`Stage`] to a summary. Its binary is one line, [`main`]; the driver calls the same function.

mod terminal;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use serde::Serialize;
use zoo_model::manifest::Reduction;
use zoo_model::stage::{Interrupt, Interrupted, Stage, SummaryError, UsageError};
use zoo_model::text::readable;
use zoo_model::{Manifest, ManifestError};

use terminal::Terminal;

/// Exit codes of every binary.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Failed: a file, the disk, the network.
    pub const FAILED: u8 = 1;
    /// Wrong usage or manifest.
    pub const USAGE: u8 = 2;
    /// Verification found something wrong.
    pub const VERIFICATION: u8 = 3;
    /// Interrupted; state is kept and the same command resumes.
    pub const INTERRUPTED: u8 = 130;
}

/// Flags that every binary takes.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Print one JSON object on standard output; on failure {"error": ...}
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more; repeat for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The manifest that a stage reads, and a documented reduction of it.
#[derive(Debug, Clone, Args)]
pub struct ManifestArgs {
    /// Manifest (TOML)
    #[arg(value_name = "MANIFEST")]
    pub manifest: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reduction: ReductionArgs,
}

/// A documented reduction of the zoo, recorded in its zoo.json.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ReductionArgs {
    /// Train only N models, spread evenly over the plan
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub models: Option<u32>,
    /// Train and fine-tune at most N epochs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub epochs: Option<u32>,
    /// Use at most N images of each split
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub samples: Option<u32>,
}

impl ReductionArgs {
    /// Loads a manifest with this reduction.
    pub fn load(self, path: &Path) -> Result<Manifest, ManifestError> {
        let mut manifest = Manifest::load(path)?;
        manifest.reduction = Reduction { models: self.models, epochs: self.epochs, samples: self.samples };
        Ok(manifest)
    }
}

impl ManifestArgs {
    /// Loads the manifest.
    pub fn load(&self) -> Result<Manifest, ManifestError> {
        self.reduction.load(&self.manifest)
    }
}

/// Has the flag set by the signals that ask to stop; the second one is not negotiable. Signals that
/// were ignored when the program started, as `nohup` does with SIGHUP, stay so.
fn listen(interrupt: &Interrupt) -> io::Result<()> {
    use signal_hook::{consts, flag};
    #[cfg(unix)]
    let signals = [consts::SIGINT, consts::SIGTERM, consts::SIGHUP];
    #[cfg(not(unix))]
    let signals = [consts::SIGINT, consts::SIGTERM];
    let ignored = ignored_signals();
    for signal in signals.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
        // In this order: the first signal finds the flag unset.
        flag::register_conditional_shutdown(signal, exit::INTERRUPTED.into(), interrupt.flag())?;
        flag::register(signal, interrupt.flag())?;
    }
    // A write beyond a limit on the size of files fails, as one to a full disk does, and does not end the process.
    #[cfg(unix)]
    flag::register(consts::SIGXFSZ, std::sync::Arc::default())?;
    Ok(())
}

/// The signals that this process ignores, a bit each from 1, where the system tells.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Prints on standard output: JSON if asked for, else text.
fn print(common: &CommonArgs, text: impl Display, json: impl FnOnce() -> serde_json::Result<String>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if common.json {
        writeln!(out, "{}", json()?)?;
    } else if !common.quiet {
        writeln!(out, "{text}")?;
    }
    out.flush()
}

#[derive(Debug, Args)]
struct Cli<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    common: CommonArgs,
    /// Print a completion script for this shell
    #[arg(long, value_name = "SHELL", exclusive = true, global = true)]
    completions: Option<clap_complete::Shell>,
}

/// Adapter: clap derives commands for parsers, flags for argument groups.
#[derive(Debug, Parser)]
#[command(version)]
struct Command<A: Args> {
    #[command(flatten)]
    cli: Cli<A>,
}

/// What the help of a program begins and ends with.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a sentence without a full stop.
    pub about: &'static str,
    /// Examples, and the exit codes.
    pub examples: &'static str,
}

/// Runs a binary: parses the command line, runs the stage, prints its summary, and maps the
/// outcome to an exit code.
pub fn main<A, S, E>(program: Program, run: impl FnOnce(&A, &Stage) -> Result<S, E>) -> ExitCode
where
    A: Args,
    S: Serialize + Display,
    E: Into<anyhow::Error>,
{
    let Program { name, about, examples } = program;
    let mut command = Command::<A>::command().name(name).bin_name(name).about(about).after_help(examples);
    let matches = match command.clone().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => return misused(&e),
    };
    if let Some(&shell) = matches.get_one::<clap_complete::Shell>("completions") {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut script);
        let mut out = io::stdout().lock();
        return conclude(
            name,
            &CommonArgs::default(),
            out.write_all(&script).and_then(|()| out.flush()).context(UNPRINTABLE),
        );
    }
    let Command { cli } = match Command::<A>::from_arg_matches(&matches) {
        Ok(command) => command,
        Err(e) => return misused(&e.format(&mut command)),
    };
    let common = cli.common;
    let stage = if common.quiet { Stage::silent() } else { Stage::with_console(Arc::new(Terminal)) };
    start_logging(&common);
    if let Err(e) = listen(&stage.interrupt) {
        tracing::warn!("cannot handle signals, so Ctrl-C will stop at once: {e}");
    }
    let print = |summary: S| print(&common, &summary, || serde_json::to_string(&summary)).context(UNPRINTABLE);
    conclude(name, &common, run(&cli.args, &stage).map_err(Into::into).and_then(print))
}

const UNPRINTABLE: &str = "cannot write to standard output";

/// What `--json` prints of a run that failed, under the key `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Failure {
    /// `failed`, `usage`, `manifest`, `verification` or `interrupted`.
    kind: &'static str,
    exit_code: u8,
    message: String,
}

impl Failure {
    fn print(&self) {
        // What cannot be printed has been said on standard error.
        let _ = writeln!(io::stdout(), "{}", serde_json::json!({ "error": self }));
    }
}

/// The exit code of an outcome; an error is reported on standard error, and printed as JSON if `json`.
fn conclude(name: &str, common: &CommonArgs, outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::from(exit::DONE) };
    let (kind, exit_code) = classify(&error);
    if exit_code != exit::DONE {
        // A verdict of "no" is the object of its run, and so is what was done of a part.
        let summary = error.chain().find_map(|cause| cause.downcast_ref::<SummaryError>());
        if let Some(SummaryError { text, json, .. }) = summary.filter(|s| common.json || !s.text.is_empty()) {
            let _ = print(common, text, || Ok(json.clone()));
        }
        let message = sentence(&error);
        let _ = writeln!(io::stderr(), "{name}: {message}");
        if common.json && summary.is_none() {
            Failure { kind, exit_code, message }.print();
        }
    }
    ExitCode::from(exit_code)
}

/// Ends a run whose command line could not be understood, or asks for help.
fn misused(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::from(exit::DONE);
    }
    if std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json") {
        Failure { kind: "usage", exit_code: exit::USAGE, message: misuse(error) }.print();
    }
    ExitCode::from(exit::USAGE)
}

/// What is wrong with a command line, without the usage that clap shows below it.
fn misuse(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command given: see --help".into();
    }
    let text = error.render().to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    readable(text.strip_prefix("error: ").unwrap_or(text))
}

fn start_logging(common: &CommonArgs) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => tracing::Level::ERROR,
        (_, 0) => tracing::Level::WARN,
        (_, 1) => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

/// The exit code for an error: the first cause that has one decides.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    classify(error).1
}

/// Kind and exit code of an error.
fn classify(error: &anyhow::Error) -> (&'static str, u8) {
    let of_cause = |cause: &(dyn std::error::Error + 'static)| {
        let is_broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
        match cause {
            cause if cause.is::<Interrupted>() => Some(("interrupted", exit::INTERRUPTED)),
            cause if cause.is::<ManifestError>() => Some(("manifest", exit::USAGE)),
            cause if cause.is::<UsageError>() => Some(("usage", exit::USAGE)),
            cause if cause.downcast_ref().is_some_and(|e: &SummaryError| e.source.is_none()) => {
                Some(("verification", exit::VERIFICATION))
            }
            cause if cause.downcast_ref().is_some_and(is_broken_pipe) => Some(("done", exit::DONE)),
            _ => None,
        }
    };
    error.chain().find_map(of_cause).unwrap_or(("failed", exit::FAILED))
}

/// An error and its causes as one [`readable`] sentence, without repeating what an outer message quotes.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(|cause| readable(&cause.to_string())) {
        if out.is_empty() {
            out = cause;
        } else if !out.contains(&cause) {
            out = format!("{out}: {cause}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_decide_the_exit_code() {
        let deep = Err::<(), _>(Interrupted).context("training").unwrap_err();
        assert_eq!(exit_code(&deep), exit::INTERRUPTED);
        assert_eq!(exit_code(&UsageError("x".into()).into()), exit::USAGE);
        let verification = SummaryError::new(&"summary", "x".into(), None);
        assert_eq!(exit_code(&verification.into()), exit::VERIFICATION);
        let part = SummaryError::new(&"summary", "x".into(), Some(Box::new(UsageError("y".into()))));
        assert_eq!(exit_code(&part.into()), exit::USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("disk")), exit::FAILED);
        assert_eq!(classify(&deep), ("interrupted", 130));
        assert_eq!(classify(&anyhow::anyhow!("disk")), ("failed", 1));
    }

    #[test]
    fn a_sentence_does_not_repeat_itself() {
        let error = anyhow::Error::from(UsageError("a: b".into())).context("a: b").context("outer");
        assert_eq!(sentence(&error), "outer: a: b");
        assert_eq!(sentence(&anyhow::anyhow!("x\u{1b}[2J\ny: verified")), "x\\u{1b}[2J y: verified");
        let silent = anyhow::Error::from(UsageError(String::new())).context("a").context("b");
        assert_eq!(sentence(&silent), "b: a");
    }
}
