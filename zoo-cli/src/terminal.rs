//! The terminal: a bar for long work, or a plain line now and then where standard error is no
//! terminal.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use zoo_model::stage::{Console, Progress};

/// Pause between two plain lines.
const PLAIN_PAUSE: Duration = Duration::from_secs(15);

/// Standard error.
#[derive(Debug)]
pub(crate) struct Terminal;

impl Console for Terminal {
    fn progress(&self, what: &str, total: u64) -> Box<dyn Progress> {
        if io::stderr().is_terminal() {
            let template = "{prefix:>12} [{bar:30}] {pos}/{len} ({elapsed}, {eta} left) {msg}";
            let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
            let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(500));
            return Box::new(Bar(bar));
        }
        let now = Instant::now();
        Box::new(Lines(Mutex::new(Count { what: what.into(), total, done: 0, started: now, last: now })))
    }

    fn say(&self, line: fmt::Arguments) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn advance(&self, units: u64) {
        self.0.inc(units);
    }

    fn skip(&self, units: u64) {
        self.0.set_position(self.0.position() + units);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

struct Lines(Mutex<Count>);

struct Count {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    last: Instant,
}

impl Progress for Lines {
    fn advance(&self, units: u64) {
        let mut count = self.0.lock().unwrap_or_else(|e| e.into_inner());
        count.done += units;
        if count.last.elapsed() > PLAIN_PAUSE {
            count.last = Instant::now();
            let Count { what, done, total, started, .. } = &*count;
            let _ = writeln!(io::stderr(), "{what}: {done} of {total} after {} s", started.elapsed().as_secs());
        }
    }

    fn skip(&self, units: u64) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).done += units;
    }
}
