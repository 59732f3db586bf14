//! How a stage runs: whether it has been asked to stop, and where it reports its progress.
//!
//! Libraries take a [`Stage`] and know no command line; the programs give it a terminal (crate
//! `zoo-cli`).

use std::fmt::{self, Debug, Display};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use serde::Serialize;

use crate::zoo_dir::enclosing_zoo;

/// The user, or the system, asked the program to stop; what was done so far is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; progress is kept: rerun the same command to resume")]
pub struct Interrupted;

/// What was asked for cannot be carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A run that did not succeed and has a summary nonetheless, which is printed like any other:
/// verification found something wrong, or a part of what was asked for failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SummaryError {
    /// The summary as text.
    pub text: String,
    /// The summary as a JSON object.
    pub json: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The error that decides the exit code; `None`: verification found something wrong.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SummaryError {
    /// The error of a run with this summary.
    ///
    /// # Panics
    /// The summary cannot be serialised, which plain data always can.
    pub fn new(
        summary: &(impl Serialize + Display),
        message: String,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let json = serde_json::to_string(summary).expect("plain data serialises");
        Self { text: summary.to_string(), json, message, source }
    }
}

/// Checks that an output does not lie in a zoo, which then would hold what is not its own.
///
/// # Errors
/// It does.
pub fn check_outside_zoos(output: &Path) -> Result<(), UsageError> {
    let refused = |why: String| Err(UsageError(format!("{} {why}", output.display())));
    match enclosing_zoo(output) {
        Ok(None) => Ok(()),
        Ok(Some(zoo)) => refused(format!("would be written into the zoo {}: choose another --output", zoo.display())),
        Err(error) => refused(format!("cannot be found: {error}")),
    }
}

/// Whether the program was asked to stop. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Err(Interrupted)` once asked to stop.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// The flag itself, for signal handlers.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

/// How far some work is; shared between threads by reference. The display ends when it is dropped.
pub trait Progress: Send + Sync {
    /// The given number of units more are done.
    fn advance(&self, units: u64);

    /// The given number of units were done before, by an earlier run: they do not count for the
    /// estimate of the time left.
    fn skip(&self, units: u64);
}

impl<P: Progress + ?Sized> Progress for Box<P> {
    fn advance(&self, units: u64) {
        (**self).advance(units);
    }

    fn skip(&self, units: u64) {
        (**self).skip(units);
    }
}

/// Where a stage reports to.
pub trait Console: Debug + Send + Sync {
    /// Shows the progress of `total` units of work.
    fn progress(&self, what: &str, total: u64) -> Box<dyn Progress>;

    /// Shows a line.
    fn say(&self, line: fmt::Arguments);
}

/// How a stage runs: whether it has been asked to stop, and where it reports to. By default
/// nowhere.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// Whether it has been asked to stop.
    pub interrupt: Interrupt,
    console: Option<Arc<dyn Console>>,
}

impl Stage {
    /// A stage that reports nothing, for tests and for use as a library.
    pub fn silent() -> Self {
        Self::default()
    }

    /// A stage that reports to a console.
    pub fn with_console(console: Arc<dyn Console>) -> Self {
        Self { interrupt: Interrupt::default(), console: Some(console) }
    }

    /// Progress of `total` units of work.
    pub fn progress(&self, what: &str, total: u64) -> Box<dyn Progress> {
        match &self.console {
            Some(console) => console.progress(what, total),
            None => Box::new(Unseen),
        }
    }

    /// A line for the user.
    pub fn say(&self, line: impl Display) {
        if let Some(console) = &self.console {
            console.say(format_args!("{line}"));
        }
    }
}

/// Progress that is not shown.
#[derive(Debug, Clone, Copy)]
struct Unseen;

impl Progress for Unseen {
    fn advance(&self, _: u64) {}
    fn skip(&self, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_an_interrupt_share_one_flag() {
        let interrupt = Interrupt::default();
        let other = interrupt.clone();
        assert_eq!(other.check(), Ok(()));
        interrupt.flag().store(true, Ordering::Relaxed);
        assert_eq!(other.check(), Err(Interrupted));
    }
}
