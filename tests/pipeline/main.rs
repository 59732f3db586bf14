//! The driver's binary, end to end: from manifest to verified archive. One module a promise.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use zoo_test::{files, Workspace};

mod command_line;
mod concurrent;
mod diverged;
mod mistakes;
#[cfg(unix)]
mod permissions;
mod plan_and_status;
mod replaces_nothing;
mod report;
mod reproducible;
mod resumed;
mod shards;
mod up_to_date;
mod words;

/// Eight models, some of which diverge, and a twin zoo; a second or two of work.
const MANIFEST: &str = r#"
[zoo]
name = "tiny"
description = "Six models for a test."

[data]
dataset = "digits"
train = 150
val = 40

[model]
architecture = "cnn-s"

[grid]
activation = ["relu", "gelu"]
init = ["kaiming_uniform", "normal"]
dropout = 0.3
optimizer = "sgd"
learning-rate = 0.05
seed = [1, 2]

[train]
epochs = 6
batch-size = 8

[[sparsify]]
method = "magnitude"
sparsity = 0.8
epochs = 2
"#;

/// A workspace with the manifest `tiny.toml`.
struct TinyZoo(Workspace);

impl TinyZoo {
    fn new() -> Self {
        let work = Workspace::new(env!("CARGO_BIN_EXE_zoo"));
        work.write("tiny.toml", MANIFEST);
        Self(work)
    }

    /// Changes the manifest.
    #[track_caller]
    fn edit(&self, from: &str, to: &str) {
        self.0.edit("tiny.toml", from, to);
    }

    /// Prepares the dataset `d.safetensors`.
    #[track_caller]
    fn prepare(&self) {
        self.ok("data tiny.toml -o d.safetensors");
    }
}

impl Deref for TinyZoo {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        &self.0
    }
}

/// Whether a training has left a checkpoint in this folder.
fn has_checkpoint(training: &Path) -> bool {
    let is_checkpoint = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("checkpoint");
    fs::read_dir(training).is_ok_and(|entries| entries.flatten().any(is_checkpoint))
}

/// Everything below the folder is as before, but for lock files and what is marked as unfinished.
#[track_caller]
fn assert_untouched(work: &TinyZoo, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let now = files(work.root());
    assert!(now.keys().eq(before.keys()), "{:?} and {:?}", now.keys(), before.keys());
    let changed: Vec<_> = before.iter().filter(|(path, content)| now[*path] != **content).map(|(p, _)| p).collect();
    assert!(changed.is_empty(), "{changed:?}");
}
