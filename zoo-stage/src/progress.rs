//! Progress of long work: a bar on a terminal, a plain line now and then otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Pause between two plain lines.
const PLAIN_PAUSE: Duration = Duration::from_secs(15);

/// Shows how far some work is; share it between threads by reference.
#[derive(Debug)]
pub struct Progress(Shown);

#[derive(Debug)]
enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    last: Instant,
}

impl Progress {
    pub(crate) fn new(what: &str, total: u64, quiet: bool) -> Self {
        Self(if quiet {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            let template = "{prefix:>12} [{bar:30}] {pos}/{len} ({elapsed}, {eta} left) {msg}";
            let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
            let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(500));
            Shown::Bar(bar)
        } else {
            let now = Instant::now();
            Shown::Lines(Mutex::new(Lines { what: what.into(), total, done: 0, started: now, last: now }))
        })
    }

    /// `units` more are done.
    pub fn advance(&self, units: u64) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.inc(units),
            Shown::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(|e| e.into_inner());
                lines.done += units;
                if lines.last.elapsed() > PLAIN_PAUSE {
                    lines.last = Instant::now();
                    let Lines { what, done, total, started, .. } = &*lines;
                    let _ = writeln!(io::stderr(), "{what}: {done} of {total} after {} s", started.elapsed().as_secs());
                }
            }
        }
    }

    /// `units` were done before, by an earlier run.
    pub fn already(&self, units: u64) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.set_position(bar.position() + units),
            Shown::Lines(lines) => lines.lock().unwrap_or_else(|e| e.into_inner()).done += units,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
