//! The head of an archive: the small entries before the models, which tell what zoo it holds and which
//! part of it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use zoo_model::files::{sha256, FileError, Sha256};
use zoo_model::zoo_dir::{model_file, names, parse_checksums, CHECKSUMS_LIMIT, RECORD_LIMIT};
use zoo_model::{ModelId, ZooRecord};

use crate::entries::Entries;
use crate::members::decode;
use crate::{Volume, Volumes, CARD, INDEX, VOLUMES};

/// The entries that come before the models, in this order; the last is only in the volumes of a zoo.
pub const HEAD_ENTRIES: [&str; 5] = [names::CHECKSUMS, names::ZOO, CARD, INDEX, VOLUMES];

/// Maximum size of an index in bytes.
const INDEX_LIMIT: u64 = 4 << 30;

/// How far to read: each reads more than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadUntil {
    /// Through `SHA256SUMS`.
    Checksums,
    /// Through `zoo.json`.
    Record,
    /// Through everything before the first model, and its path.
    FirstModel,
}

/// The head of an archive file, as far as it was read. Contents are parsed when they are asked for, so
/// that a fault in one does not hide the others.
#[derive(Debug, Clone)]
pub struct ArchiveHead {
    path: PathBuf,
    checksums: Vec<u8>,
    record: Option<Vec<u8>>,
    volumes: Option<Vec<u8>>,
    first_model: Option<ModelId>,
}

impl ArchiveHead {
    /// Reads the head of the archive file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is not a regular file, does not begin with `SHA256SUMS`, is damaged before the
    /// end of what is read, or has an entry there that is too large.
    pub fn read(path: &Path, until: ReadUntil) -> Result<Self, FileError> {
        // The head is read in addition to the archive itself, which a pipe does not allow; and opening a
        // pipe may block for ever.
        if !fs::metadata(path).map_err(FileError::io("read", path))?.is_file() {
            return Err(FileError::format(path, "is neither a regular file nor a folder"));
        }
        let file = File::open(path).map_err(FileError::io("read", path))?;
        let (head, _) = decode(file, 1, |decoded| Self::read_entries(path, &mut Entries::new(decoded), until));
        head
    }

    fn read_entries(path: &Path, entries: &mut Entries, until: ReadUntil) -> Result<Self, FileError> {
        let not_a_zoo = || FileError::format(path, "is not a zoo archive: it does not begin with SHA256SUMS");
        match entries.next_entry() {
            Some(Ok(entry)) if entry.path == names::CHECKSUMS => {}
            _ => return Err(not_a_zoo()),
        }
        let checksums = read_entry(path, entries, names::CHECKSUMS, CHECKSUMS_LIMIT)?;
        let mut head = Self { path: path.to_owned(), checksums, record: None, volumes: None, first_model: None };
        while !head.is_read(until) {
            let Some(entry) = entries.next_entry() else { break };
            let entry = entry.map_err(|fault| fault.in_archive(path))?;
            match entry.path.as_str() {
                names::ZOO => head.record = Some(read_entry(path, entries, names::ZOO, RECORD_LIMIT)?),
                VOLUMES => head.volumes = Some(read_entry(path, entries, VOLUMES, RECORD_LIMIT)?),
                other => {
                    head.first_model = model_file(other).map(|(id, _)| id);
                    // What is skipped must be inflated too.
                    let limit = if other == INDEX { INDEX_LIMIT } else { RECORD_LIMIT };
                    if head.first_model.is_none() && entry.size > limit {
                        return Err(too_large(path, other, limit));
                    }
                }
            }
        }
        Ok(head)
    }

    fn is_read(&self, until: ReadUntil) -> bool {
        match until {
            ReadUntil::Checksums => true,
            ReadUntil::Record => self.record.is_some() || self.first_model.is_some(),
            ReadUntil::FirstModel => self.first_model.is_some(),
        }
    }

    /// The archive file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of its `SHA256SUMS`: the same in all volumes of a zoo, and in no other archive.
    pub fn checksums_sha256(&self) -> Sha256 {
        sha256(&self.checksums)
    }

    /// The lines of its `SHA256SUMS`, which lists the files of the whole zoo: path and SHA-256.
    ///
    /// # Errors
    /// It is malformed.
    pub fn checksums(&self) -> Result<Vec<(String, Sha256)>, FileError> {
        parse_checksums(&self.checksums).map_err(|message| self.malformed(names::CHECKSUMS, message))
    }

    /// Its `zoo.json`.
    ///
    /// # Errors
    /// There is none before the models, or it is malformed.
    pub fn record(&self) -> Result<ZooRecord, FileError> {
        let missing = || FileError::format(&self.path, "is not a zoo archive: it does not begin with zoo.json");
        let json = self.record.as_ref().ok_or_else(missing)?;
        ZooRecord::from_json(json).map_err(|message| self.malformed(names::ZOO, message))
    }

    /// The volumes of its zoo; `None` if the zoo has only this archive.
    ///
    /// # Errors
    /// `volumes.json` is malformed.
    pub fn volumes(&self) -> Result<Option<Vec<Volume>>, FileError> {
        let parse = |json: &Vec<u8>| serde_json::from_slice::<Volumes>(json).map(|list| list.volumes);
        let volumes = self.volumes.as_ref().map(parse).transpose();
        volumes.map_err(|error| self.malformed(VOLUMES, error.to_string()))
    }

    /// The first model in this file.
    pub fn first_model(&self) -> Option<ModelId> {
        self.first_model
    }

    fn malformed(&self, entry: &str, message: impl AsRef<str>) -> FileError {
        FileError::format(&self.path, format!("{entry}: {}", message.as_ref()))
    }
}

/// The content of the entry that `entries` is at.
fn read_entry(path: &Path, entries: &mut Entries, name: &str, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = entries.content().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| FileError::format(path, format!("{name}: {error}; verify the archive")))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(path, name, limit));
    }
    Ok(bytes)
}

fn too_large(path: &Path, entry: &str, limit: u64) -> FileError {
    FileError::format(path, format!("{entry} has more than {limit} bytes, the limit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pack, PackOptions};
    use zoo_model::synthetic;

    #[test]
    fn heads_tell_the_zoo_and_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = synthetic::write(&dir.path().join("noise"), "noise", 8, 50).unwrap();
        let mut options = PackOptions::default();
        options.section.volume_size = Some(2 << 20);
        let packed = pack(zoo.path(), &dir.path().join("noise.tar.gz"), &options, &Default::default()).unwrap();
        assert!(packed.archives.len() > 1);
        let heads: Vec<ArchiveHead> =
            packed.archives.iter().map(|path| ArchiveHead::read(path, ReadUntil::FirstModel).unwrap()).collect();
        for (i, head) in heads.iter().enumerate() {
            assert_eq!(head.record().unwrap(), zoo.finished().unwrap());
            assert_eq!(head.checksums_sha256(), heads[0].checksums_sha256());
            assert_eq!(head.checksums().unwrap().len(), 3 * 8 + 4);
            let volumes = head.volumes().unwrap().unwrap();
            assert_eq!(Some(volumes[i].first), head.first_model());
        }
        let start = ArchiveHead::read(&packed.archives[0], ReadUntil::Record).unwrap();
        assert!(start.record().is_ok() && start.first_model().is_none() && start.volumes().unwrap().is_none());
    }

    #[test]
    fn other_files_have_no_head() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("page.tar.gz");
        let fault = |path: &Path| ArchiveHead::read(path, ReadUntil::FirstModel).unwrap_err().to_string();
        std::fs::write(&path, "<html>").unwrap();
        assert!(fault(&path).ends_with("is not a zoo archive: it does not begin with SHA256SUMS"));
        assert!(fault(dir.path()).ends_with("is neither a regular file nor a folder"));
    }
}
