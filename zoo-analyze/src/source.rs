//! Zoos as streams of models, from a directory or an archive.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use zoo_model::files::{parent_of, sha256, FileError, Sha256};
use zoo_model::stage::{Stage, UsageError};
use zoo_model::text::{counted, escaped, readable};
use zoo_model::zoo_dir::{model_file, names, parse_checksums, CHECKSUMS_LIMIT, RECORD_LIMIT};
use zoo_model::{result, states, ModelId, Network, Params, ResultLine, ZooDir, ZooRecord};
use zoo_pack::entries::{Entries, Fault};
use zoo_pack::members::decode;
use zoo_pack::{Volume, Volumes, VOLUMES};

use crate::Error;

/// Bytes of states that are read ahead from a directory.
const READ_AHEAD: u64 = 64 << 20;

/// A model with all its states.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its configuration.
    pub params: Params,
    /// Its network.
    pub network: Network,
    /// One line a state.
    pub lines: Vec<ResultLine>,
    /// One flat vector a line.
    pub states: Vec<Vec<f32>>,
}

/// A model that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its id.
    pub id: ModelId,
    /// What is wrong, with the file.
    pub why: String,
}

impl Skipped {
    fn new(id: ModelId, why: impl Display) -> Self {
        Self { id, why: readable(&why.to_string()) }
    }
}

/// A zoo to be read: a directory, an archive, or the volumes of one.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    record: ZooRecord,
    ids: Vec<ModelId>,
    /// The archive files in order, with the ids of their models; none of a directory.
    archives: Vec<(PathBuf, Vec<ModelId>)>,
    notes: Vec<String>,
}

impl Source {
    /// The zoo at `path`: its directory, its archive, or any of its volumes, whose siblings are looked
    /// for beside it. A path that does not exist may have volumes: `NAME.tar.gz` stands for
    /// `NAME.1-of-3.tar.gz` and so on.
    ///
    /// # Errors
    /// It is no zoo, or not finished.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self::open_all(&[path.to_owned()])?.remove(0))
    }

    /// The zoos at `paths`, in order; volumes of one zoo among them, wherever they lie, are one.
    ///
    /// # Errors
    /// One of them is no zoo, or not finished.
    pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, Error> {
        enum Found {
            Zoo(Source),
            Volumes(VolumeSet),
        }
        let mut found: Vec<Found> = Vec::new();
        for path in paths {
            if path.is_dir() {
                found.push(Found::Zoo(Self::directory(path)?));
                continue;
            }
            let head = Head::read(&archive_at(path)?)?;
            if head.volumes.is_none() {
                found.push(Found::Zoo(Self::archive(head)));
                continue;
            }
            let set = found.iter_mut().find_map(|found| match found {
                Found::Volumes(set) if set.first.sums == head.sums => Some(set),
                _ => None,
            });
            match set {
                Some(set) => set.add(&head)?,
                None => found.push(Found::Volumes(VolumeSet::new(head)?)),
            }
        }
        let source = |found| match found {
            Found::Zoo(source) => source,
            Found::Volumes(set) => Self::volumes(set),
        };
        Ok(found.into_iter().map(source).collect())
    }

    fn directory(path: &Path) -> Result<Self, Error> {
        let zoo = ZooDir::new(path);
        let record = zoo.finished()?;
        let ids = match zoo.checksums()? {
            Some(lines) => model_ids(lines.iter().map(|(path, _)| path.as_str())),
            None => zoo.ids()?,
        };
        Ok(Self { path: path.into(), record, ids, archives: Vec::new(), notes: Vec::new() }.checked())
    }

    fn archive(head: Head) -> Self {
        let Head { path, record, ids, .. } = head;
        let archives = vec![(path.clone(), ids.clone())];
        Self { path, record, ids, archives, notes: Vec::new() }.checked()
    }

    fn volumes(mut set: VolumeSet) -> Self {
        set.find_siblings();
        let Head { path, record, ids, .. } = set.first;
        let whole = Self { path, record, ids, archives: Vec::new(), notes: Vec::new() }.checked();
        let ids_of = |volume: &Volume| -> Vec<ModelId> {
            whole.ids.iter().copied().filter(|id| (volume.first..=volume.last).contains(id)).collect()
        };
        let all = set.volumes.len();
        let (mut archives, mut missing) = (Vec::new(), Vec::new());
        for (volume, place) in set.volumes.iter().zip(set.places) {
            match place {
                Some(place) => archives.push((place, ids_of(volume))),
                None => missing.push(escaped(&volume.file).into_owned()),
            }
        }
        let ids: Vec<ModelId> = archives.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let mut notes = whole.notes;
        if !missing.is_empty() {
            notes.push(format!(
                "{}: {} of {} missing ({}); what follows is of {} of {}",
                whole.record.name,
                missing.len(),
                counted(all, "volume"),
                missing.join(", "),
                ids.len(),
                counted(whole.ids.len(), "model"),
            ));
        }
        Self { ids, archives, notes, ..whole }
    }

    /// Notes it if `zoo.json` counts other models than there should be by the list of the files.
    fn checked(mut self) -> Self {
        let (models, listed) = (self.record.models, self.ids.len());
        if models != listed {
            let path = self.path.display();
            self.notes.push(format!("{path}: zoo.json counts {}, there are {listed}", counted(models, "model")));
        }
        self
    }

    /// Its `zoo.json`.
    pub fn record(&self) -> &ZooRecord {
        &self.record
    }

    /// Ids of its models, ascending: those that its SHA256SUMS lists, in the volumes that are there.
    /// In a directory without that file: those that are there.
    pub fn ids(&self) -> &[ModelId] {
        &self.ids
    }

    /// What is missing of it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where it lies: the directory, the archive or one of its volumes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the models for which `wanted` is true, ids ascending, one after the other; a model
    /// that cannot be read is skipped and listed.
    ///
    /// # Errors
    /// The archive is damaged, `visit` fails, or the stage is interrupted.
    pub fn for_each(
        &self,
        stage: &Stage,
        wanted: impl Fn(ModelId) -> bool + Sync,
        mut visit: impl FnMut(Model) -> Result<(), Error> + Send,
    ) -> Result<Vec<Skipped>, Error> {
        let mut skipped = Vec::new();
        if self.archives.is_empty() {
            self.read_directory(stage, &wanted, &mut visit, &mut skipped)?;
        }
        for (path, ids) in &self.archives {
            read_archive(path, ids, stage, &wanted, &mut visit, &mut skipped)?;
        }
        skipped.sort_by_key(|s| s.id);
        Ok(skipped)
    }

    fn read_directory(
        &self,
        stage: &Stage,
        wanted: &impl Fn(ModelId) -> bool,
        visit: &mut impl FnMut(Model) -> Result<(), Error>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<(), Error> {
        let zoo = ZooDir::new(&self.path);
        let found: Vec<ModelId> = zoo.ids()?.into_iter().filter(|&id| wanted(id)).collect();
        let missing = self.ids.iter().filter(|&&id| wanted(id) && found.binary_search(&id).is_err());
        skipped.extend(missing.map(|&id| Skipped::new(id, "is not there")));
        let (ids, unlisted): (Vec<_>, Vec<_>) = found.iter().partition(|&id| self.ids.binary_search(id).is_ok());
        skipped.extend(unlisted.into_iter().map(|id| Skipped::new(id, UNLISTED)));
        let bytes = self.record.states as u64 / self.record.models.max(1) as u64 * self.record.parameters as u64 * 4;
        let ahead = (READ_AHEAD / bytes.max(1)).clamp(1, 256) as usize;
        for chunk in ids.chunks(ahead) {
            stage.interrupt.check()?;
            let models: Vec<_> = chunk.par_iter().map(|&id| read_model(&zoo, id)).collect();
            for (&id, model) in chunk.iter().zip(models) {
                match model {
                    Ok(model) => visit(model)?,
                    Err(error) => skipped.push(Skipped::new(id, error)),
                }
            }
        }
        Ok(())
    }
}

const UNLISTED: &str = "is not listed in SHA256SUMS";

/// Reads the models of one archive file, which should be `ids`.
fn read_archive(
    path: &Path,
    ids: &[ModelId],
    stage: &Stage,
    wanted: &(impl Fn(ModelId) -> bool + Sync),
    visit: &mut (impl FnMut(Model) -> Result<(), Error> + Send),
    skipped: &mut Vec<Skipped>,
) -> Result<(), Error> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (outcome, _) = decode(file, threads, |decoded| {
        let mut entries = Entries::new(decoded);
        let mut seen = HashSet::new();
        let mut current = Parts::default();
        while let Some(entry) = entries.next_entry() {
            stage.interrupt.check()?;
            let entry = entry.map_err(|fault| damaged(path, &fault))?;
            let Some((id, file)) = model_file(&entry.path).filter(|(id, _)| wanted(*id)) else { continue };
            if current.id != Some(id) {
                if current.id.is_some_and(|before| id < before) {
                    return Err(FileError::format(path, "its models are out of order: verify the archive").into());
                }
                current = Parts { id: Some(id), ..Parts::default() };
                if ids.binary_search(&id).is_err() {
                    skipped.push(Skipped::new(id, UNLISTED));
                    seen.insert(id);
                }
            }
            if seen.contains(&id) {
                continue;
            }
            match current.add(id, file, &mut entries.content(), entry.size) {
                Ok(None) => continue,
                Ok(Some(model)) => visit(model)?,
                Err(why) => skipped.push(Skipped::new(id, format!("{}: {why}", entry.path))),
            }
            seen.insert(id);
        }
        if let Some(damage) = entries.stream().damages.first() {
            let message = format!("is damaged ({}): verify the archive", damage.message);
            return Err(FileError::format(path, message).into());
        }
        let missing = ids.iter().filter(|&&id| wanted(id) && !seen.contains(&id));
        skipped.extend(missing.map(|&id| Skipped::new(id, "is not whole in the archive")));
        Ok(())
    });
    outcome
}

fn damaged(path: &Path, fault: &Fault) -> FileError {
    let place = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
    FileError::format(path, format!("{place}{}; verify the archive", fault.message))
}

/// Ids of the models whose files are among these, ascending.
fn model_ids<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<ModelId> {
    let ids: BTreeSet<ModelId> = paths.filter_map(model_file).map(|(id, _)| id).collect();
    ids.into_iter().collect()
}

fn read_model(zoo: &ZooDir, id: ModelId) -> Result<Model, FileError> {
    let params = zoo.params(id)?;
    let lines = zoo.results(id)?;
    let path = zoo.states(id);
    let wrong = |message: String| FileError::format(&path, message);
    let network = params.network().map_err(|e| wrong(e.to_string()))?;
    let file = File::open(&path).map_err(FileError::io("read", &path))?;
    let size = file.metadata().map_err(FileError::io("read", &path))?.len();
    let mut stream = BufReader::with_capacity(1 << 17, file);
    let (epochs, states) = states::read_all(&mut stream, size, &network).map_err(wrong)?;
    Model::new(id, params, network, lines, &epochs, states).map_err(wrong)
}

impl Model {
    fn new(
        id: ModelId,
        params: Params,
        network: Network,
        lines: Vec<ResultLine>,
        epochs: &[u32],
        states: Vec<Vec<f32>>,
    ) -> Result<Self, String> {
        if params.id != id {
            return Err(format!("its params.json says `zoo::id` {}", params.id));
        }
        if !lines.iter().map(|l| l.training_iteration).eq(epochs.iter().copied()) {
            return Err("its epochs are not those of its result.json".into());
        }
        Ok(Self { params, network, lines, states })
    }
}

/// What of the current model of an archive was read.
#[derive(Default)]
struct Parts {
    id: Option<ModelId>,
    params: Option<Params>,
    lines: Option<Vec<ResultLine>>,
}

impl Parts {
    fn add(&mut self, id: ModelId, file: &str, content: &mut impl Read, size: u64) -> Result<Option<Model>, String> {
        let mut small = |limit: u64| {
            let mut bytes = Vec::new();
            content.by_ref().take(limit).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            if size > limit {
                return Err(format!("has {size} bytes, {limit} are allowed"));
            }
            Ok(bytes)
        };
        match file {
            names::PARAMS => self.params = Some(Params::from_json(&small(Params::SIZE_LIMIT)?)?),
            names::RESULT => self.lines = Some(result::from_json_lines(&small(result::SIZE_LIMIT)?)?),
            _ => {
                let (Some(params), Some(lines)) = (self.params.take(), self.lines.take()) else {
                    return Err("comes without sound params.json and result.json before it".into());
                };
                let network = params.network().map_err(|e| e.to_string())?;
                if size > states::file_size(&network, lines.len()) + (1 << 16) {
                    return Err("is larger than the states that its result.json lists".into());
                }
                let (epochs, states) = states::read_all(content, size, &network)?;
                return Model::new(id, params, network, lines, &epochs, states).map(Some);
            }
        }
        Ok(None)
    }
}

/// What an archive file begins with.
struct Head {
    path: PathBuf,
    /// SHA-256 of its SHA256SUMS, which all volumes of a zoo share.
    sums: Sha256,
    record: ZooRecord,
    /// Ids of the whole zoo's models.
    ids: Vec<ModelId>,
    volumes: Option<Vec<Volume>>,
    /// The first model that is in it.
    first: Option<ModelId>,
}

impl Head {
    fn read(path: &Path) -> Result<Self, FileError> {
        // The archive is read twice, and opening a pipe may wait for ever.
        if !fs::metadata(path).map_err(FileError::io("read", path))?.is_file() {
            return Err(FileError::format(path, "is neither a regular file nor a folder"));
        }
        let file = File::open(path).map_err(FileError::io("read", path))?;
        let (head, _) = decode(file, 1, |decoded| {
            let mut entries = Entries::new(decoded);
            let (mut sums, mut record, mut volumes, mut first) = (None, None, None, None);
            while let Some(entry) = entries.next_entry() {
                let entry = match entry {
                    // Another archive, or none at all.
                    Ok(entry) if sums.is_none() && entry.path != names::CHECKSUMS => break,
                    Err(_) if sums.is_none() => break,
                    Ok(entry) => entry,
                    Err(fault) => return Err(damaged(path, &fault)),
                };
                let mut content = |limit| {
                    let mut bytes = Vec::new();
                    let read = entries.content().take(limit).read_to_end(&mut bytes);
                    read.map(|_| bytes).map_err(FileError::io("read", path))
                };
                let wrong = |message: String| FileError::format(path, format!("{}: {message}", entry.path));
                match entry.path.as_str() {
                    names::CHECKSUMS => {
                        let text = content(CHECKSUMS_LIMIT)?;
                        let lines = parse_checksums(&text).map_err(wrong)?;
                        sums = Some((sha256(&text), model_ids(lines.iter().map(|(path, _)| path.as_str()))));
                    }
                    names::ZOO => record = Some(ZooRecord::from_json(&content(RECORD_LIMIT)?).map_err(wrong)?),
                    VOLUMES => {
                        let list = serde_json::from_slice(&content(RECORD_LIMIT)?);
                        let Volumes { volumes: list } = list.map_err(|e| wrong(e.to_string()))?;
                        volumes = Some(list);
                    }
                    path => first = model_file(path).map(|(id, _)| id),
                }
                if first.is_some() {
                    break;
                }
            }
            let (Some((sums, ids)), Some(record)) = (sums, record) else {
                let message = "is not the archive of a zoo: it does not begin with SHA256SUMS and zoo.json";
                return Err(FileError::format(path, message));
            };
            Ok(Self { path: path.to_owned(), sums, record, ids, volumes, first })
        });
        head
    }

    /// Which of its zoo's volumes it is, from 0: names may have changed.
    fn number(&self) -> Option<usize> {
        self.volumes.iter().flatten().position(|volume| Some(volume.first) == self.first)
    }
}

/// Volumes of one zoo.
struct VolumeSet {
    first: Head,
    volumes: Vec<Volume>,
    /// Where each of the volumes lies, if it was found.
    places: Vec<Option<PathBuf>>,
}

impl VolumeSet {
    fn new(mut head: Head) -> Result<Self, FileError> {
        let number = head.number();
        let volumes = head.volumes.take().unwrap_or_default();
        let mut places = vec![None; volumes.len()];
        *Self::place(&mut places, number, &head)? = Some(head.path.clone());
        Ok(Self { first: head, volumes, places })
    }

    fn add(&mut self, head: &Head) -> Result<(), FileError> {
        *Self::place(&mut self.places, head.number(), head)? = Some(head.path.clone());
        Ok(())
    }

    fn place<'a>(
        places: &'a mut [Option<PathBuf>],
        number: Option<usize>,
        head: &Head,
    ) -> Result<&'a mut Option<PathBuf>, FileError> {
        let stray = || FileError::format(&head.path, "is none of the volumes that its volumes.json names: verify it");
        number.and_then(|number| places.get_mut(number)).ok_or_else(stray)
    }

    /// Looks beside the volumes that were named, and where links to them lead, for those that were not.
    fn find_siblings(&mut self) {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let named = std::iter::once(&self.first.path).chain(self.places.iter().flatten());
        let mut folders: Vec<PathBuf> = Vec::new();
        for path in named.flat_map(|path| [path.clone(), real(path)]) {
            let folder = parent_of(&path);
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        for (number, volume) in self.volumes.iter().enumerate() {
            let is_name = Path::new(&volume.file).file_name() == Some(volume.file.as_ref());
            if self.places[number].is_some() || !is_name {
                continue;
            }
            let is_sibling = |head: &Head| head.sums == self.first.sums && head.number() == Some(number);
            let mut beside = folders.iter().map(|folder| folder.join(&volume.file));
            let is_there = |path: &PathBuf| path.is_file() && Head::read(path).is_ok_and(|head| is_sibling(&head));
            self.places[number] = beside.find(is_there);
        }
    }
}

/// The archive file that `path` stands for: itself, or one of the volumes `NAME.I-of-N.tar.gz` beside
/// it if there is no `NAME.tar.gz`.
///
/// # Errors
/// There are volumes of several packings.
fn archive_at(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (Some(stem), false) = (name.strip_suffix(".tar.gz"), path.exists()) else { return Ok(path.to_owned()) };
    let folder = parent_of(path);
    if let Some(volume) = zoo_pack::archives(path).ok().and_then(|all| all.into_iter().find(|v| v.is_file())) {
        return Ok(volume);
    }
    let mut by_count: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()) {
        let file = file.to_string_lossy();
        let numbers = file.strip_prefix(stem).and_then(|f| f.strip_prefix('.')?.strip_suffix(".tar.gz"));
        let numbers = numbers.and_then(|n| n.split_once("-of-"));
        if let Some((Ok(_), Ok(count))) = numbers.map(|(i, n)| (i.parse::<u32>(), n.parse())) {
            by_count.insert(count, folder.join(&*file));
        }
    }
    if by_count.len() > 1 {
        let counts: Vec<String> = by_count.keys().map(u32::to_string).collect();
        let message = format!("there are {} volumes of {}: name those of one", counts.join(" and of "), path.display());
        return Err(UsageError(message).into());
    }
    Ok(by_count.into_values().next().unwrap_or_else(|| path.to_owned()))
}
