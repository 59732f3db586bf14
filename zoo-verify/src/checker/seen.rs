//! Which files of a zoo were met.

use std::collections::{BTreeMap, BTreeSet};

use zoo_model::zoo_dir::{model_file, names};
use zoo_model::ModelId;
use zoo_pack::head::HEAD_ENTRIES;

/// Which files of a zoo were met. Only names that belong to a zoo are remembered, and in few bytes.
#[derive(Debug, Default)]
pub struct Seen {
    head: BTreeSet<&'static str>,
    models: BTreeMap<ModelId, [bool; names::MODEL_FILES.len()]>,
}

impl Seen {
    /// Remembers a file. Returns whether it is new; also true of a file that does not belong to a zoo.
    pub fn insert(&mut self, path: &str) -> bool {
        if let Some((id, file)) = model_file(path) {
            let seen = &mut self.models.entry(id).or_default()[file_index(file)];
            return !std::mem::replace(seen, true);
        }
        HEAD_ENTRIES.iter().find(|&&h| h == path).is_none_or(|&head| self.head.insert(head))
    }

    /// Whether no file of a zoo was met.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.models.is_empty()
    }

    pub fn contains(&self, path: &str) -> bool {
        match model_file(path) {
            Some((id, file)) => self.models.get(&id).is_some_and(|seen| seen[file_index(file)]),
            None => self.head.contains(path),
        }
    }
}

fn file_index(file: &str) -> usize {
    names::MODEL_FILES.iter().position(|&f| f == file).expect("model_file returns only these")
}
