//! A folder in which a program works, gone when the test ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Arguments, Outcome, Program};

/// A scratch folder, and the program that runs in it.
#[derive(Debug)]
pub struct Workspace {
    dir: TempDir,
    program: Program,
}

impl Workspace {
    /// An empty folder, whose name holds spaces, for the program at this path
    /// (`env!("CARGO_BIN_EXE_NAME")`).
    pub fn new(program: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("a zoo ").tempdir().expect("a temporary folder");
        Self { dir, program: Program::new(program) }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    /// The program.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Writes a file, and the folders that it lies in; its path.
    #[track_caller]
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        let folder = path.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// The content of a file.
    #[track_caller]
    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(path);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The content of a file of text.
    #[track_caller]
    pub fn text(&self, path: impl AsRef<Path>) -> String {
        String::from_utf8(self.read(path)).expect("UTF-8")
    }

    /// The content of a file of JSON.
    #[track_caller]
    pub fn json_file(&self, path: impl AsRef<Path>) -> Value {
        serde_json::from_slice(&self.read(path)).expect("JSON")
    }

    /// Replaces `from`, which must be there, in a file of text.
    #[track_caller]
    pub fn edit(&self, path: impl AsRef<Path>, from: &str, to: &str) {
        let text = self.text(&path);
        assert!(text.contains(from), "{} has no {from:?}", path.as_ref().display());
        self.write(path, text.replace(from, to));
    }

    /// The program's command with these arguments.
    pub fn command(&self, args: &(impl Arguments + ?Sized)) -> Command {
        self.program.command(self.root(), args)
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &(impl Arguments + ?Sized)) -> Outcome {
        self.program.run(self.root(), args)
    }

    /// Runs the program to success; its standard output.
    #[track_caller]
    pub fn ok(&self, args: &(impl Arguments + ?Sized)) -> String {
        self.run(args).ok()
    }

    /// Runs the program to success; the JSON that it prints.
    #[track_caller]
    pub fn json(&self, args: &(impl Arguments + ?Sized)) -> Value {
        let outcome = self.run(args);
        outcome.ok();
        outcome.json()
    }

    /// Runs the program to a failure with this exit code; its standard error.
    #[track_caller]
    pub fn fails(&self, args: &(impl Arguments + ?Sized), code: i32) -> String {
        self.run(args).fails(code)
    }

    /// Starts the program; [`Outcome::end`] waits for it.
    pub fn start(&self, args: &(impl Arguments + ?Sized)) -> Child {
        self.program.start(self.root(), args)
    }

    /// Runs a script of bash in the folder to its end.
    pub fn shell(&self, script: &str) -> Outcome {
        Outcome::of(&mut crate::program::shell_command(script, self.root()))
    }
}
