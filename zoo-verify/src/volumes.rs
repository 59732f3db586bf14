//! Volumes of a zoo among the paths to verify: which there are, and their order.

use std::path::{Path, PathBuf};

use zoo_model::files::{sha256_file, Sha256};
use zoo_model::zoo_dir::names;
use zoo_pack::head::{ArchiveHead, ReadUntil};
use zoo_pack::VOLUMES;

/// The path itself, or the volumes that `NAME.tar.gz` stands for if there is no such file.
pub fn files_at(path: &Path) -> Vec<PathBuf> {
    let listed = if path.exists() { Vec::new() } else { zoo_pack::archives(path).unwrap_or_default() };
    let found: Vec<PathBuf> = listed.into_iter().filter(|volume| volume.is_file()).collect();
    if found.is_empty() {
        vec![path.to_owned()]
    } else {
        found
    }
}

/// Where a path comes in the order of verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// Of the path itself, or of the first volume of its zoo.
    given: usize,
    /// How often the same volume was given before it.
    repeat: usize,
    /// Of the volume in its zoo.
    volume: usize,
}

/// The volumes of a zoo met so far.
struct VolumesMet {
    checksums_sha256: Sha256,
    /// Position of the first.
    given: usize,
    volumes: Vec<usize>,
}

/// The paths, with the volumes of a zoo in their order where the first of them is, whatever their names, and
/// after them those that are given again.
pub fn in_order(paths: &[PathBuf]) -> Vec<&Path> {
    if let [path] = paths {
        return vec![path];
    }
    let mut zoos: Vec<VolumesMet> = Vec::new();
    let mut keyed: Vec<(Position, &Path)> = Vec::new();
    for (given, path) in paths.iter().enumerate() {
        let mut position = Position { given, repeat: 0, volume: 0 };
        if let Some((checksums_sha256, volume)) = volume_of(path) {
            let known = zoos.iter().position(|zoo| zoo.checksums_sha256 == checksums_sha256).unwrap_or_else(|| {
                zoos.push(VolumesMet { checksums_sha256, given, volumes: Vec::new() });
                zoos.len() - 1
            });
            let zoo = &mut zoos[known];
            let repeat = zoo.volumes.iter().filter(|&&met| met == volume).count();
            position = Position { given: zoo.given, repeat, volume };
            zoo.volumes.push(volume);
        }
        keyed.push((position, path));
    }
    keyed.sort_by_key(|(position, _)| *position);
    keyed.into_iter().map(|(_, path)| path).collect()
}

/// SHA-256 of the zoo's `SHA256SUMS`, and the position in `volumes.json` of the volume at `path`; the first
/// of a directory. `None` if it is not a volume, or cannot be read.
fn volume_of(path: &Path) -> Option<(Sha256, usize)> {
    if path.is_dir() {
        let is_part = path.join(VOLUMES).is_file();
        return is_part.then(|| Some((sha256_file(&path.join(names::CHECKSUMS)).ok()?, 0)))?;
    }
    let head = ArchiveHead::read(path, ReadUntil::FirstModel).ok()?;
    let volume = head.volumes().ok()??.iter().position(|v| Some(v.first) == head.first_model())?;
    Some((head.checksums_sha256(), volume))
}
