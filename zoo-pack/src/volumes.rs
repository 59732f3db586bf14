//! Volumes: the files that a large zoo is split into.

use std::path::Path;

use serde::{Deserialize, Serialize};
use zoo_model::files::Sha256;
use zoo_model::stage::UsageError;
use zoo_model::ModelId;

use crate::entries;
use crate::error::PackError;

/// One archive file of a zoo: a contiguous range of its models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Name of the file.
    pub file: String,
    /// First model in it.
    pub first: ModelId,
    /// Last model in it.
    pub last: ModelId,
}

/// `volumes.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    /// The files that together hold the zoo.
    pub volumes: Vec<Volume>,
}

/// A file of a model, as it is packed.
#[derive(Debug, Clone)]
pub(crate) struct ModelFile {
    pub(crate) id: ModelId,
    /// Path below the zoo's directory.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: Sha256,
}

/// Distributes models over as few volumes as the limit allows, in order.
///
/// The limit holds for the uncompressed tar, so that it holds for the archive whatever its
/// content; a thousandth is kept for the gzip members' own bytes.
pub(crate) fn volumes(
    output: &Path,
    files: &[ModelFile],
    head: u64,
    limit: Option<u64>,
) -> Result<Vec<Volume>, PackError> {
    let name = output.file_name().map(|n| n.to_string_lossy().into_owned());
    let stem = name.as_deref().and_then(|n| n.strip_suffix(".tar.gz")).filter(|s| !s.is_empty());
    let Some(stem) = stem else {
        return Err(UsageError(format!("the archive must be named NAME.tar.gz, not {}", output.display())).into());
    };
    // SHA256SUMS has one line per file; the list of volumes and the end mark are small.
    let sums: u64 = files.iter().map(|f| f.path.len() as u64 + 67).sum();
    let room = limit.map_or(u64::MAX, |l| (l - l / 1000).saturating_sub(head + sums + (16 << 10)));
    let mut ranges: Vec<(ModelId, ModelId)> = Vec::new();
    let mut size = 0;
    for model in files.chunk_by(|a, b| a.id == b.id) {
        let id = model[0].id;
        let needed: u64 = model.iter().map(|f| 512 + f.size + entries::padding(f.size) as u64).sum();
        if needed > room {
            let message = format!("model {id} alone needs {needed} bytes, a volume of this size has room for {room}");
            return Err(UsageError(message).into());
        }
        match ranges.last_mut() {
            Some(range) if size + needed <= room => range.1 = id,
            _ => {
                ranges.push((id, id));
                size = 0;
            }
        }
        size += needed;
    }
    let count = ranges.len();
    let file = |i: usize| match count {
        1 => format!("{stem}.tar.gz"),
        _ => format!("{stem}.{i}-of-{count}.tar.gz"),
    };
    Ok(ranges.into_iter().zip(1..).map(|((first, last), i)| Volume { file: file(i), first, last }).collect())
}
