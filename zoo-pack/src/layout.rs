//! What an archive of a zoo will hold.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use zoo_model::files::{parent_of, sha256, sha256_file, FileError, Hashing, Sha256, Sha256Hasher};
use zoo_model::stage::{Progress, Stage};
use zoo_model::text::counted;
use zoo_model::zoo_dir::{format_checksums, names};
use zoo_model::{ModelId, ZooDir, ZooRecord};

use crate::archive_files::{archives, sums_path};
use crate::error::PackError;
use crate::members::{compress, Pieces, PIECE};
use crate::section::PackSection;
use crate::volumes::{volumes, ModelFile, Volume, Volumes};
use crate::{card, entries, index, CARD, INDEX, VOLUMES};

/// Everything about an archive that is known before its models are read.
pub(crate) struct Layout {
    zoo: ZooDir,
    pub(crate) record: ZooRecord,
    /// Small entries at the head of every volume, `SHA256SUMS` first.
    head: Vec<(&'static str, Content)>,
    /// Path, size and checksum of the models' files, in order.
    pub(crate) files: Vec<ModelFile>,
    pub(crate) volumes: Vec<Volume>,
}

/// What a head entry holds.
enum Content {
    Bytes(Vec<u8>),
    /// The index, which grows with the zoo, in a file without a name.
    Spooled {
        file: File,
        size: u64,
        sha256: Sha256,
    },
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Spooled { size, .. } => *size,
        }
    }

    fn sha256(&self) -> Sha256 {
        match self {
            Self::Bytes(bytes) => sha256(bytes),
            Self::Spooled { sha256, .. } => *sha256,
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::Bytes(bytes) => Ok(Box::new(bytes.as_slice())),
            Self::Spooled { file, size, .. } => {
                let mut file = file;
                file.rewind()?;
                Ok(Box::new(file.take(*size)))
            }
        }
    }
}

impl Layout {
    pub(crate) fn new(zoo: &Path, output: &Path, section: &PackSection, stage: &Stage) -> Result<Self, PackError> {
        let zoo = ZooDir::new(zoo);
        let record = zoo.finished()?;
        let ids = zoo.ids()?;
        if ids.is_empty() || ids.len() != record.models {
            let message = format!("zoo.json records {}, found {}", counted(record.models, "model"), ids.len());
            return Err(zoo.damaged(FileError::format(zoo.path(), message)).into());
        }
        let files = model_files(&zoo, stage)?;
        let (index, accuracies) = describe(&zoo, &ids, stage)?;
        let json = fs::read(zoo.record_path()).map_err(FileError::io("read", zoo.record_path()))?;
        let card = card::card(&record, &accuracies).into_bytes();
        let mut head = vec![(names::ZOO, Content::Bytes(json)), (CARD, Content::Bytes(card)), (INDEX, index)];
        let head_size: u64 = head.iter().map(|(_, content)| content.size() + 1024).sum();
        let volumes = volumes(output, &files, head_size, section.volume_size)?;
        if volumes.len() > 1 {
            let list = Volumes { volumes: volumes.clone() };
            let list = serde_json::to_vec_pretty(&list).expect("plain data serialises");
            head.push((VOLUMES, Content::Bytes(list)));
        }
        let mut sums: Vec<(String, Sha256)> = head.iter().map(|(n, c)| ((*n).to_owned(), c.sha256())).collect();
        sums.extend(files.iter().map(|f| (f.path.clone(), f.sha256)));
        head.insert(0, (names::CHECKSUMS, Content::Bytes(format_checksums(&sums).into_bytes())));
        Ok(Self { zoo, record, head, files, volumes })
    }

    /// Bytes of all entries of the zoo.
    pub(crate) fn size(&self) -> u64 {
        let head: u64 = self.head.iter().map(|(_, content)| content.size()).sum();
        head + self.files.iter().map(|f| f.size).sum::<u64>()
    }

    /// Whether the archive files are there and begin as packing would make them begin: with the
    /// checksums of everything, at this level.
    pub(crate) fn is_packed(&self, output: &Path, level: u32) -> Result<bool, PackError> {
        let names: Vec<PathBuf> = self.volumes.iter().map(|v| parent_of(output).join(&v.file)).collect();
        if !sums_path(output).is_file() || archives(output).ok().as_ref() != Some(&names) {
            return Ok(false);
        }
        let mut start = Vec::new();
        for (name, content) in &self.head {
            self.append(&mut start, name, content.size(), content.open()?.take(PIECE as u64))?;
            if start.len() >= PIECE {
                break;
            }
        }
        // A head shorter than a piece is followed by models in the same member.
        let missing = PIECE.saturating_sub(start.len()) as u64;
        for (volume, path) in self.volumes.iter().zip(&names) {
            let mut piece = start.clone();
            for file in self.files_of(volume) {
                if start.len() as u64 + missing <= piece.len() as u64 {
                    break;
                }
                let content =
                    File::open(self.zoo.path().join(&file.path)).map_err(FileError::io("read", &file.path))?;
                self.append(&mut piece, &file.path, file.size, content.take(PIECE as u64))?;
            }
            if piece.len() < PIECE {
                piece.resize(piece.len() + 1024, 0);
            }
            piece.truncate(PIECE);
            let member = compress(&piece, level);
            let mut found = Vec::new();
            let read = File::open(path).and_then(|f| f.take(member.len() as u64).read_to_end(&mut found));
            if read.is_err() || found != member {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes an entry of `size` bytes, which all of `content` are, or its beginning.
    fn append(&self, out: &mut impl Write, path: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        out.write_all(entries::header(&format!("{}/{path}", self.record.name), size)?.as_bytes())?;
        io::copy(&mut content, out)?;
        out.write_all(&vec![0; entries::padding(size)])
    }

    fn files_of<'a>(&'a self, volume: &'a Volume) -> impl Iterator<Item = &'a ModelFile> {
        self.files.iter().filter(|f| (volume.first..=volume.last).contains(&f.id))
    }

    pub(crate) fn write(
        &self,
        volume: &Volume,
        out: &mut Pieces,
        progress: &dyn Progress,
        stage: &Stage,
    ) -> Result<(), PackError> {
        for (name, content) in &self.head {
            self.append(out, name, content.size(), content.open()?)?;
        }
        let mut buffer = vec![0; 1 << 18];
        for file in self.files_of(volume) {
            stage.interrupt.check()?;
            let path = self.zoo.path().join(&file.path);
            out.write_all(entries::header(&format!("{}/{}", self.record.name, file.path), file.size)?.as_bytes())?;
            let mut source = File::open(&path).map_err(FileError::io("read", &path))?.take(file.size);
            let mut hasher = Sha256Hasher::default();
            let mut left = file.size;
            while left > 0 {
                let n = source.read(&mut buffer).map_err(FileError::io("read", &path))?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                out.write_all(&buffer[..n])?;
                left -= n as u64;
            }
            let found = hasher.finish();
            if found != file.sha256 {
                let message = format!("its SHA-256 is {found}, but SHA256SUMS of the zoo says {}", file.sha256);
                return Err(self.zoo.damaged(FileError::format(path, message)).into());
            }
            out.write_all(&vec![0; entries::padding(file.size)])?;
            progress.advance(file.size);
        }
        Ok(out.write_all(&[0; 1024])?)
    }
}

/// The models' files with sizes and checksums: those recorded in the directory, which packing then
/// checks, or computed now if it has none.
fn model_files(zoo: &ZooDir, stage: &Stage) -> Result<Vec<ModelFile>, PackError> {
    let recorded = zoo.checksums()?.map(|sums| sums.into_iter().collect::<HashMap<_, _>>());
    let paths = zoo.model_files()?;
    let file = |path: String| {
        stage.interrupt.check()?;
        let full = zoo.path().join(&path);
        let metadata = fs::symlink_metadata(&full).map_err(|e| zoo.damaged(FileError::io("read", &full)(e)))?;
        if !metadata.is_file() {
            return Err(FileError::format(full, "is not a regular file").into());
        }
        let sha256 = match &recorded {
            None => sha256_file(&full)?,
            Some(sums) => sums
                .get(&path)
                .copied()
                .ok_or_else(|| format!("does not list {path}"))
                .map_err(|m| zoo.damaged(FileError::format(zoo.path().join(names::CHECKSUMS), m)))?,
        };
        let id = path.split('/').nth(1).and_then(|id| id.parse().ok()).expect("models/ID/...");
        Ok(ModelFile { id, path, size: metadata.len(), sha256 })
    };
    paths.into_par_iter().map(file).collect()
}

/// The index of a zoo, and the accuracies for its card.
fn describe(zoo: &ZooDir, ids: &[ModelId], stage: &Stage) -> Result<(Content, card::Accuracies), PackError> {
    let mut accuracies = card::Accuracies::default();
    let spool = tempfile::tempfile().map_err(FileError::io("write in", std::env::temp_dir()))?;
    let mut schema = index::Schema::default();
    for group in ids.chunks(index::MODELS_PER_GROUP) {
        stage.interrupt.check()?;
        let models = group.par_iter().map(|&id| zoo.params(id)).collect::<Result<Vec<_>, FileError>>()?;
        for params in models {
            let place = || zoo.model(params.id).join(names::PARAMS);
            schema.add(&params).map_err(|message| FileError::format(place(), message))?;
        }
    }
    let mut index = index::IndexWriter::new(schema.columns(), Hashing::new(spool))?;
    for group in ids.chunks(index::MODELS_PER_GROUP) {
        stage.interrupt.check()?;
        let read = |&id: &ModelId| Ok((zoo.params(id)?, zoo.results(id)?));
        let models = group.par_iter().map(read).collect::<Result<Vec<_>, FileError>>()?;
        models.iter().for_each(|(_, lines)| accuracies.add(lines));
        index.add(&models)?;
    }
    let (file, size, sha256) = index.finish()?.finish();
    Ok((Content::Spooled { file, size, sha256 }, accuracies))
}
