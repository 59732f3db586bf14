//! Programs as a user runs them.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Arguments of a command: a line of words, or a list whose items may hold spaces.
pub trait Arguments {
    /// The arguments one by one.
    fn list(&self) -> Vec<String>;
}

impl Arguments for str {
    fn list(&self) -> Vec<String> {
        self.split_whitespace().map(str::to_owned).collect()
    }
}

impl Arguments for String {
    fn list(&self) -> Vec<String> {
        self.as_str().list()
    }
}

impl<S: AsRef<str>> Arguments for [S] {
    fn list(&self) -> Vec<String> {
        self.iter().map(|arg| arg.as_ref().to_owned()).collect()
    }
}

impl<S: AsRef<str>, const N: usize> Arguments for [S; N] {
    fn list(&self) -> Vec<String> {
        self.as_slice().list()
    }
}

/// A program under test.
#[derive(Clone, Copy, Debug)]
pub struct Program(&'static str);

impl Program {
    /// The program at this path, which a test knows as `env!("CARGO_BIN_EXE_NAME")`.
    pub const fn new(path: &'static str) -> Self {
        Self(path)
    }

    /// Its path.
    pub const fn path(self) -> &'static str {
        self.0
    }

    /// The command with these arguments in this folder.
    pub fn command(self, dir: &Path, args: &(impl Arguments + ?Sized)) -> Command {
        let mut command = Command::new(self.0);
        command.args(args.list()).current_dir(dir);
        command
    }

    /// Runs it to its end.
    pub fn run(self, dir: &Path, args: &(impl Arguments + ?Sized)) -> Outcome {
        Outcome::of(&mut self.command(dir, args))
    }

    /// Runs it to success; its standard output.
    #[track_caller]
    pub fn ok(self, dir: &Path, args: &(impl Arguments + ?Sized)) -> String {
        self.run(dir, args).ok()
    }

    /// Runs it to a failure with this exit code; its standard error.
    #[track_caller]
    pub fn fails(self, dir: &Path, args: &(impl Arguments + ?Sized), code: i32) -> String {
        self.run(dir, args).fails(code)
    }

    /// Starts it; [`Outcome::end`] waits for it. Its standard output is thrown away.
    pub fn start(self, dir: &Path, args: &(impl Arguments + ?Sized)) -> Child {
        self.command(dir, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect(self.0)
    }

    /// A command line for a shell that turns into this program, after `setup`, which may set limits
    /// and traps.
    #[cfg(unix)]
    pub fn after(self, setup: &str, args: &str) -> String {
        format!("{setup}; exec '{}' {args}", self.0)
    }
}

/// How a program ended and what it printed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; -1 for a process that a signal ended.
    pub code: i32,
    /// What went to standard output.
    pub stdout: String,
    /// What went to standard error.
    pub stderr: String,
    /// The command, for messages.
    command: String,
}

impl Outcome {
    /// Runs a command to its end.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        match command.output() {
            Ok(output) => Self::new(format!("{command:?}"), output),
            Err(error) => panic!("{command:?} does not start: {error}"),
        }
    }

    /// Waits for the end of what was started.
    pub fn end(child: Child) -> Self {
        Self::new(format!("process {}", child.id()), child.wait_with_output().expect("a child's output"))
    }

    fn new(command: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr), command }
    }

    /// What was run and said, for messages of assertions.
    fn report(&self) -> String {
        format!("{}\nexit code {}\n{}{}", self.command, self.code, self.stdout, self.stderr)
    }

    /// Standard output of a success.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "{}", self.report());
        self.stdout.clone()
    }

    /// Standard error of a failure with this exit code.
    #[track_caller]
    pub fn fails(&self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.report());
        assert!(!self.stderr.contains("panicked"), "{}", self.report());
        self.stderr.clone()
    }

    /// The JSON value that standard output holds, whatever the exit code.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.report()))
    }
}

/// A script of bash, as `Outcome::of` takes it.
pub fn shell_command(script: &str, dir: &Path) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(dir);
    command
}

/// Runs a script of bash whose every command must succeed; its standard output.
#[track_caller]
pub fn shell(script: &str, dir: &Path) -> String {
    Outcome::of(&mut shell_command(&format!("set -eu; {script}"), dir)).ok()
}

/// A command of a tool that a test cannot do without; `remedy` says where to get it.
#[track_caller]
pub fn tool(name: &str, remedy: &str) -> Command {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(found.is_ok(), "this test needs the program `{name}`, which is not on the PATH: {remedy}");
    Command::new(name)
}

/// Waits until `ready`, then sends a signal (`-INT`), unless the program has ended by then.
#[cfg(unix)]
#[track_caller]
pub fn signal_when(child: &mut Child, signal: &str, ready: impl Fn() -> bool) {
    wait_until(child, ready);
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success() || child.try_wait().expect("a child's state").is_some());
}

/// Waits until `ready`, or until the program has ended.
#[track_caller]
pub fn wait_until(child: &mut Child, ready: impl Fn() -> bool) {
    // Not a limit on the program's speed: a test that waits for ever is never reported.
    let started = Instant::now();
    while !ready() && child.try_wait().expect("a child's state").is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "the program never got so far");
        std::thread::sleep(Duration::from_millis(2));
    }
}
