//! Whether a twin's parents exist: the checksums of their states, read off their own zoo.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use zoo_model::files::{parent_of, sha256_file, FileError, Sha256};
use zoo_model::zoo_dir::{model_file, names, parse_checksums};
use zoo_model::{ModelId, ZooDir};
use zoo_pack::entries::Entries;
use zoo_pack::members::decode;

use crate::checker::{CHECKSUMS_LIMIT, HEAD};

/// Where the zoo `name` lies beside a twin at `path`: a directory, an archive, or the first of its
/// volumes (each of which lists the whole zoo).
pub fn beside(path: &Path, name: &str) -> Option<PathBuf> {
    let resolved = path.canonicalize().ok()?;
    let folder = parent_of(&resolved);
    let whole = [folder.join(name), folder.join(format!("{name}.tar.gz"))];
    let volume = || {
        let files = fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let first = format!("{name}.1-of-");
        files.filter(|f| f.starts_with(&first) && f.ends_with(".tar.gz")).max().map(|f| folder.join(f))
    };
    whole.into_iter().find(|p| p.exists()).or_else(volume)
}

/// SHA-256 of the states of every model of the zoo at `path`, as its `SHA256SUMS` lists them; a
/// directory without one is hashed.
pub fn states_checksums(path: &Path) -> Result<BTreeMap<ModelId, Sha256>, FileError> {
    let lines = if path.is_dir() {
        let zoo = ZooDir::new(path);
        match zoo.checksums()? {
            Some(lines) => lines,
            None => {
                let sum = |id| sha256_file(&zoo.states(id)).map(|sum| (id, sum));
                return zoo.ids()?.into_iter().map(sum).collect();
            }
        }
    } else {
        let listed = head_entry(path, names::CHECKSUMS, CHECKSUMS_LIMIT)?;
        parse_checksums(&listed).map_err(|m| FileError::format(path, format!("SHA256SUMS in it: {m}")))?
    };
    let states = |(path, sum): (String, Sha256)| match model_file(&path) {
        Some((id, names::STATES)) => Some((id, sum)),
        _ => None,
    };
    Ok(lines.into_iter().filter_map(states).collect())
}

/// A small entry at the head of an archive, of at most `limit` bytes.
pub fn head_entry(path: &Path, name: &str, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let (content, _) = decode(file, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        while let Some(Ok(entry)) = entries.next_entry() {
            if entry.path == name {
                let mut content = Vec::new();
                let read = entries.content().take(limit).read_to_end(&mut content);
                return read.map(|_| content).map_err(|e| e.to_string());
            }
            if !HEAD.contains(&entry.path.as_str()) {
                break;
            }
        }
        Err(format!("does not begin with {name}"))
    });
    content.map_err(|m| FileError::format(path, m))
}
