//! Whether a twin's parents exist: the checksums of their states, read off their own zoo.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use zoo_model::files::{parent_of, sha256_file, FileError};
use zoo_model::zoo_dir::{model_file, names, parse_checksums};
use zoo_model::{ModelId, ZooDir};
use zoo_pack::entries::Entries;
use zoo_pack::members::decode;

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
pub fn states_checksums(path: &Path) -> Result<BTreeMap<ModelId, String>, FileError> {
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
        head_of_archive(path)?
    };
    let states = |(path, sum): (String, String)| match model_file(&path) {
        Some((id, names::STATES)) => Some((id, sum)),
        _ => None,
    };
    Ok(lines.into_iter().filter_map(states).collect())
}

/// The first entry of an archive, which lists all others.
fn head_of_archive(path: &Path) -> Result<Vec<(String, String)>, FileError> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let (lines, _) = decode(file, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        match entries.next_entry() {
            Some(Ok(entry)) if entry.path == names::CHECKSUMS => {}
            _ => return Err("does not begin with SHA256SUMS".to_owned()),
        }
        let mut text = Vec::new();
        let read = entries.content().take(64 << 20).read_to_end(&mut text);
        read.map_err(|e| e.to_string())?;
        parse_checksums(&text)
    });
    lines.map_err(|m| FileError::format(path, m))
}
