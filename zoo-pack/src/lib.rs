//! Packs a zoo into a deterministic, checksummed archive, and reads such archives as a stream.
//!
//! The archive is a tar in gzip, byte-identical for the same zoo on any machine and thread count:
//! `SHA256SUMS` first, then `zoo.json`, a dataset card, `index.parquet` and the models, all in one
//! folder named after the zoo. docs/format.md specifies it.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_pack::{pack, PackOptions};
//!
//! let (zoo, archive) = (Path::new("zoos/quickstart"), Path::new("archives/quickstart.tar.gz"));
//! println!("{}", pack(zoo, archive, &PackOptions::default(), &Default::default())?);
//! # Ok::<(), zoo_pack::Error>(())
//! ```

mod card;
pub mod entries;
pub mod index;
pub mod members;
mod section;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zoo_model::files::{
    parent_of, persist, remove_abandoned, sha256, sha256_file, temporary_file_in, touch, write_bytes, FileError,
    Hashing,
};
use zoo_model::lock::OutputLock;
use zoo_model::stage::{check_outside_zoos, Interrupted, Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::zoo_dir::{format_checksums, names, RECORD_LIMIT};
use zoo_model::{Manifest, ManifestError, ModelId, ZooDir, ZooRecord};

use entries::Entries;
use members::{compress, compress_stream, decode, Pieces, PIECE};
pub use section::{parse_size, PackSection};

/// Name of the dataset card.
pub const CARD: &str = "README.md";
/// Name of the index.
pub const INDEX: &str = "index.parquet";
/// Name of the list of volumes, in an archive that has several.
pub const VOLUMES: &str = "volumes.json";

/// Why packing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in the manifest.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The index could not be built.
    #[error("cannot build the index: {0}")]
    Index(#[from] ParquetError),
    /// The archive could not be written.
    #[error("cannot write the archive: {0}")]
    Write(#[from] io::Error),
}

/// Command line of `zoo-pack`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Zoo directory
    #[arg(value_name = "DIR")]
    zoo: PathBuf,
    /// Archive to make, NAME.tar.gz; its checksum goes beside it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Take the settings of [pack] from this manifest
    #[arg(long, value_name = "MANIFEST")]
    manifest: Option<PathBuf>,
    /// Deflate level, 0 to 9
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(0..=9))]
    level: Option<u32>,
    /// Split into volumes of at most this size, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    volume_size: Option<u64>,
    /// Threads; by default one a core. The result does not depend on it
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Replace a file that is not an archive of the same zoo
    #[arg(long)]
    force: bool,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-pack zoos/quickstart -o archives/quickstart.tar.gz
  zoo-pack zoos/large -o large.tar.gz --volume-size 2GB    # large.1-of-3.tar.gz, ...

Check with: sha256sum -c large.tar.gz.sha256, or zoo-verify.
Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Compression and volumes.
    pub section: PackSection,
    /// Threads that compress.
    pub threads: usize,
    /// Replace what is not an archive of the same zoo.
    pub force: bool,
}

impl Default for PackOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { section: PackSection::default(), threads, force: false }
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The archive files: one, or its volumes in order.
    pub archives: Vec<PathBuf>,
    /// Whether there was nothing to do.
    pub up_to_date: bool,
    /// Models packed.
    pub models: usize,
    /// Bytes of all entries of the zoo.
    pub bytes: u64,
    /// Bytes of the archive files.
    pub packed_bytes: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let state = if self.up_to_date { "up to date" } else { "packed" };
        let paths = self.archives.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        let (models, bytes) = (counted(self.models, "model"), counted(self.bytes as usize, "byte"));
        write!(f, "{paths}: {state} ({models}, {bytes} in {})", self.packed_bytes)
    }
}

/// `zoo-pack`.
pub fn run(args: &Args, stage: &Stage) -> Result<Summary, Error> {
    let mut options = PackOptions::default();
    if let Some(path) = &args.manifest {
        options.section = Manifest::load(path)?.section("pack")?.unwrap_or_default();
    }
    options.section.level = args.level.unwrap_or(options.section.level);
    options.section.volume_size = args.volume_size.or(options.section.volume_size);
    options.threads = args.threads.map_or(options.threads, |t| t as usize);
    options.force = args.force;
    pack(&args.zoo, &args.output, &options, stage)
}

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

/// Everything about an archive that is known before its models are read.
struct Layout {
    zoo: ZooDir,
    record: ZooRecord,
    /// Small entries at the head of every volume, `SHA256SUMS` first.
    head: Vec<(&'static str, Content)>,
    /// Path, size and checksum of the models' files, in order.
    files: Vec<ModelFile>,
    volumes: Vec<Volume>,
}

/// What a head entry holds.
enum Content {
    Bytes(Vec<u8>),
    /// The index, which grows with the zoo, in a file without a name.
    Spooled {
        file: File,
        size: u64,
        sha256: String,
    },
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Spooled { size, .. } => *size,
        }
    }

    fn sha256(&self) -> String {
        match self {
            Self::Bytes(bytes) => sha256(bytes),
            Self::Spooled { sha256, .. } => sha256.clone(),
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

#[derive(Debug, Clone)]
struct ModelFile {
    id: ModelId,
    path: String,
    size: u64,
    sha256: String,
}

/// Packs a finished zoo directory as `output`, or as volumes beside it.
///
/// Does nothing if the archive is up to date.
///
/// # Errors
/// The zoo is not finished or not whole, a file differs from the directory's `SHA256SUMS`, or an
/// output cannot be written; nothing half-written is left. Without `force`, as [`check_replaces`].
pub fn pack(zoo: &Path, output: &Path, options: &PackOptions, stage: &Stage) -> Result<Summary, Error> {
    let layout = Layout::new(zoo, output, options, stage)?;
    let folder = parent_of(output);
    remove_abandoned(folder);
    let archives: Vec<PathBuf> = layout.volumes.iter().map(|v| folder.join(&v.file)).collect();
    let head: u64 = layout.head.iter().map(|(_, content)| content.size()).sum();
    let summary = |up_to_date, packed_bytes| Summary {
        archives: archives.clone(),
        up_to_date,
        models: layout.record.models,
        bytes: head + layout.files.iter().map(|f| f.size).sum::<u64>(),
        packed_bytes,
    };
    let sums = sums_path(output);
    if layout.is_packed(output, options.section.level)? {
        for path in archives.iter().chain([&sums]) {
            touch(path)?;
        }
        let sizes = archives.iter().map(|p| fs::metadata(p).map_or(0, |m| m.len()));
        return Ok(summary(true, sizes.sum()));
    }
    check_outside_zoos(output)?;
    if !options.force {
        check_replaces(output, &layout.record)?;
    }
    fs::create_dir_all(folder).map_err(FileError::io("create the folder", folder))?;
    let _lock = OutputLock::beside(output)?;
    let progress = stage.progress("packing", layout.files.iter().map(|f| f.size).sum());
    let mut temporaries = Vec::new();
    let mut lines = Vec::new();
    let mut packed_bytes = 0;
    for (volume, path) in layout.volumes.iter().zip(&archives) {
        let mut temporary = temporary_file_in(folder).map_err(FileError::io("write in", folder))?;
        let mut out = Hashing::new(temporary.as_file_mut());
        let written = compress_stream(&mut out, options.section.level, options.threads, |pieces| {
            layout.write(volume, pieces, &progress, stage)
        });
        written.map_err(|error| match error {
            Error::Write(source) => FileError::io("write", path)(source).into(),
            other => other,
        })?;
        let (_, length, sha256) = out.finish();
        lines.push((volume.file.clone(), hex::encode(sha256)));
        packed_bytes += length;
        temporaries.push((temporary, path));
    }
    for (temporary, path) in temporaries {
        persist(temporary, path)?;
    }
    write_bytes(&sums, format_checksums(&lines).as_bytes())?;
    remove_stale(output, &archives)?;
    Ok(summary(false, packed_bytes))
}

/// Whether the archive at `output` is what packing this zoo would make.
pub fn is_up_to_date(zoo: &Path, output: &Path, options: &PackOptions) -> Result<bool, Error> {
    if !sums_path(output).is_file() || ZooDir::new(zoo).record()?.is_none() {
        return Ok(false);
    }
    Layout::new(zoo, output, options, &Stage::silent())?.is_packed(output, options.section.level)
}

/// The archive files of `output` as its checksum file lists them: itself, or its volumes.
///
/// # Errors
/// The checksum file cannot be read.
pub fn archives(output: &Path) -> Result<Vec<PathBuf>, FileError> {
    let path = sums_path(output);
    let text = zoo_model::files::read_limited(&path, 1 << 20)?;
    let lines = zoo_model::zoo_dir::parse_checksums(&text).map_err(|m| FileError::format(&path, m))?;
    match lines.iter().find(|(name, _)| name.contains('/')) {
        Some((name, _)) => Err(FileError::format(path, format!("names {name}, which does not lie beside it"))),
        None => Ok(lines.into_iter().map(|(name, _)| parent_of(output).join(name)).collect()),
    }
}

/// The checksum file beside an archive.
pub fn sums_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

impl Layout {
    fn new(zoo: &Path, output: &Path, options: &PackOptions, stage: &Stage) -> Result<Self, Error> {
        let zoo = ZooDir::new(zoo);
        let record = zoo.finished()?;
        let ids = zoo.ids()?;
        if ids.is_empty() || ids.len() != record.models {
            let message = format!("zoo.json counts {}, {} are there", counted(record.models, "model"), ids.len());
            return Err(zoo.damaged(FileError::format(zoo.path(), message)).into());
        }
        let files = model_files(&zoo, stage)?;
        let (index, accuracies) = describe(&zoo, &ids, stage)?;
        let json = fs::read(zoo.record_path()).map_err(FileError::io("read", zoo.record_path()))?;
        let card = card::card(&record, &accuracies).into_bytes();
        let mut head = vec![(names::ZOO, Content::Bytes(json)), (CARD, Content::Bytes(card)), (INDEX, index)];
        let head_size: u64 = head.iter().map(|(_, content)| content.size() + 1024).sum();
        let volumes = volumes(output, &files, head_size, options.section.volume_size)?;
        if volumes.len() > 1 {
            let list = Volumes { volumes: volumes.clone() };
            let list = serde_json::to_vec_pretty(&list).expect("plain data serialises");
            head.push((VOLUMES, Content::Bytes(list)));
        }
        let mut sums: Vec<(String, String)> = head.iter().map(|(n, c)| ((*n).to_owned(), c.sha256())).collect();
        sums.extend(files.iter().map(|f| (f.path.clone(), f.sha256.clone())));
        head.insert(0, (names::CHECKSUMS, Content::Bytes(format_checksums(&sums).into_bytes())));
        Ok(Self { zoo, record, head, files, volumes })
    }

    /// Whether the archive files are there and begin as packing would make them begin: with the
    /// checksums of everything, at this level.
    fn is_packed(&self, output: &Path, level: u32) -> Result<bool, Error> {
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

    fn write(
        &self,
        volume: &Volume,
        out: &mut Pieces,
        progress: &dyn zoo_model::stage::Progress,
        stage: &Stage,
    ) -> Result<(), Error> {
        for (name, content) in &self.head {
            self.append(out, name, content.size(), content.open()?)?;
        }
        let mut buffer = vec![0; 1 << 18];
        for file in self.files_of(volume) {
            stage.interrupt.check()?;
            let path = self.zoo.path().join(&file.path);
            out.write_all(entries::header(&format!("{}/{}", self.record.name, file.path), file.size)?.as_bytes())?;
            let mut source = File::open(&path).map_err(FileError::io("read", &path))?.take(file.size);
            let mut hasher = Sha256::new();
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
            let found = hex::encode(hasher.finalize());
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
fn model_files(zoo: &ZooDir, stage: &Stage) -> Result<Vec<ModelFile>, Error> {
    let recorded = zoo.checksums()?.map(|sums| sums.into_iter().collect::<std::collections::HashMap<_, _>>());
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
                .cloned()
                .ok_or_else(|| format!("does not list {path}"))
                .map_err(|m| zoo.damaged(FileError::format(zoo.path().join(names::CHECKSUMS), m)))?,
        };
        let id = path.split('/').nth(1).and_then(|id| id.parse().ok()).expect("models/ID/...");
        Ok(ModelFile { id, path, size: metadata.len(), sha256 })
    };
    paths.into_par_iter().map(file).collect()
}

/// The index of a zoo, and the accuracies for its card.
fn describe(zoo: &ZooDir, ids: &[ModelId], stage: &Stage) -> Result<(Content, card::Accuracies), Error> {
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
    Ok((Content::Spooled { file, size, sha256: hex::encode(sha256) }, accuracies))
}

/// Distributes models over as few volumes as the limit allows, in order.
///
/// The limit holds for the uncompressed tar, so that it holds for the archive whatever its
/// content; a thousandth is kept for the gzip members' own bytes.
fn volumes(output: &Path, files: &[ModelFile], head: u64, limit: Option<u64>) -> Result<Vec<Volume>, Error> {
    let name = output.file_name().map(|n| n.to_string_lossy().into_owned());
    let stem = name.as_deref().and_then(|n| n.strip_suffix(".tar.gz")).filter(|s| !s.is_empty());
    let Some(stem) = stem else {
        return Err(UsageError(format!("the archive must be called NAME.tar.gz, not {}", output.display())).into());
    };
    // SHA256SUMS has one line a file; the list of volumes and the end mark are small.
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

/// The archive files that are there and that packing as `output` replaces or removes: the archive of
/// that name, and all volumes of it.
pub fn replaced(output: &Path) -> Result<Vec<PathBuf>, FileError> {
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_suffix(".tar.gz").unwrap_or(&name);
    let is_volume = |file: &str| {
        let middle = file.strip_prefix(stem).and_then(|f| f.strip_prefix('.')).and_then(|f| f.strip_suffix(".tar.gz"));
        let parts = middle.and_then(|m| m.split_once("-of-"));
        parts.is_some_and(|(i, n)| i.parse::<u32>().is_ok() && n.parse::<u32>().is_ok())
    };
    let folder = parent_of(output);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(FileError::io("read", folder))?,
    };
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.retain(|file| *file == name || is_volume(file));
    files.sort();
    Ok(files.into_iter().map(|file| folder.join(file)).collect())
}

/// Checks that packing the zoo of `record` as `output` replaces nothing but archives of the same zoo.
///
/// # Errors
/// It would: names what is there.
pub fn check_replaces(output: &Path, record: &ZooRecord) -> Result<(), Error> {
    for archive in replaced(output)? {
        let fault = match archived_record(&archive) {
            // An imported zoo has a name alone.
            Some(found) if found.fingerprint == record.fingerprint => match &found.fingerprint {
                none if none.is_empty() && found.name != record.name => format!("holds the zoo `{}`", found.name),
                _ => continue,
            },
            Some(found) => format!(
                "holds the zoo `{}`, made from different inputs; differing fields (there and here): {}",
                found.name,
                found.differences(&ZooRecord { models: found.models, ..record.clone() })
            ),
            None => "is there and is no archive of a zoo".into(),
        };
        let remedy = "move it away, or replace it with --force";
        return Err(UsageError(format!("{} {fault}; {remedy}", archive.display())).into());
    }
    Ok(())
}

/// `zoo.json` of an archive file; `None` if it does not begin as archives do.
fn archived_record(archive: &Path) -> Option<ZooRecord> {
    // A pipe would wait for its writer.
    let file = archive.is_file().then(|| File::open(archive).ok()).flatten()?;
    let (record, _) = decode(file, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        // The second entry, after the checksums.
        entries.next_entry()?.ok()?;
        entries.next_entry()?.ok().filter(|entry| entry.path == names::ZOO)?;
        let mut json = Vec::new();
        entries.content().take(RECORD_LIMIT).read_to_end(&mut json).ok()?;
        ZooRecord::from_json(&json).ok()
    });
    record
}

/// Removes archive files of an earlier packing that had other volumes.
fn remove_stale(output: &Path, current: &[PathBuf]) -> Result<(), Error> {
    for path in replaced(output)?.into_iter().filter(|path| !current.contains(path)) {
        fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
    }
    Ok(())
}
