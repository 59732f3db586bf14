//! Zoos as streams of models, from a directory or an archive.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use zoo_model::files::FileError;
use zoo_model::zoo_dir::{model_file, names};
use zoo_model::{result, states, ModelId, Network, Params, ResultLine, ZooDir, ZooRecord};
use zoo_pack::entries::Entries;
use zoo_pack::members::decode;
use zoo_stage::Stage;

use crate::Error;

/// Bytes of states that are read ahead from a directory.
const READ_AHEAD: u64 = 64 << 20;

/// Largest `zoo.json` that is read from an archive.
const RECORD_LIMIT: u64 = 16 << 20;

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

/// A zoo to be read.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    record: ZooRecord,
}

impl Source {
    /// The zoo at `path`: its directory, or its archive of one volume.
    ///
    /// # Errors
    /// It is no zoo, or a part of one.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let record = if path.is_dir() { ZooDir::new(path).finished()? } else { archive_record(path)? };
        Ok(Self { path: path.into(), record })
    }

    /// Its `zoo.json`.
    pub fn record(&self) -> &ZooRecord {
        &self.record
    }

    /// Ids of its models, ascending: those in the directory, or those that the archive should have.
    pub fn ids(&self) -> Result<Vec<ModelId>, FileError> {
        if self.path.is_dir() {
            return ZooDir::new(&self.path).ids();
        }
        Ok((0..self.record.models as u32).map(ModelId).collect())
    }

    /// Where it lies.
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
        visit: impl FnMut(Model) -> Result<(), Error> + Send,
    ) -> Result<Vec<Skipped>, Error> {
        if self.path.is_dir() {
            self.directory(stage, wanted, visit)
        } else {
            self.archive(stage, wanted, visit)
        }
    }

    fn directory(
        &self,
        stage: &Stage,
        wanted: impl Fn(ModelId) -> bool + Sync,
        mut visit: impl FnMut(Model) -> Result<(), Error>,
    ) -> Result<Vec<Skipped>, Error> {
        let zoo = ZooDir::new(&self.path);
        let mut skipped = Vec::new();
        let found = zoo.ids()?;
        if found.len() < self.record.models {
            // Ids are dense: a hole is a model that somebody removed.
            let all = (0..self.record.models as u32).map(ModelId);
            let missing = all.filter(|id| found.binary_search(id).is_err() && wanted(*id));
            skipped.extend(missing.map(|id| Skipped { id, why: "is not there".into() }));
        }
        let ids: Vec<ModelId> = found.into_iter().filter(|&id| wanted(id)).collect();
        let bytes = self.record.states as u64 / self.record.models.max(1) as u64 * self.record.parameters as u64 * 4;
        let ahead = (READ_AHEAD / bytes.max(1)).clamp(1, 256) as usize;
        for chunk in ids.chunks(ahead) {
            stage.interrupt.check()?;
            let models: Vec<_> = chunk.par_iter().map(|&id| read_model(&zoo, id)).collect();
            for (&id, model) in chunk.iter().zip(models) {
                match model {
                    Ok(model) => visit(model)?,
                    Err(error) => skipped.push(Skipped { id, why: error.to_string() }),
                }
            }
        }
        skipped.sort_by_key(|s| s.id);
        Ok(skipped)
    }

    fn archive(
        &self,
        stage: &Stage,
        wanted: impl Fn(ModelId) -> bool,
        mut visit: impl FnMut(Model) -> Result<(), Error> + Send,
    ) -> Result<Vec<Skipped>, Error> {
        let file = File::open(&self.path).map_err(FileError::io("read", &self.path))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (outcome, _) = decode(file, threads, |decoded| {
            let mut skipped = Vec::new();
            let mut next = 0;
            let mut entries = Entries::new(decoded);
            let mut current = Parts::default();
            while let Some(entry) = entries.next_entry() {
                stage.interrupt.check()?;
                let entry = entry.map_err(|fault| {
                    FileError::format(&self.path, format!("{}: {}; verify the archive", fault.path, fault.message))
                })?;
                let Some((id, file)) = model_file(&entry.path).filter(|(id, _)| wanted(*id)) else { continue };
                if current.id != Some(id) {
                    current = Parts { id: Some(id), ..Parts::default() };
                }
                for missing in (next..id.0).map(ModelId).filter(|&id| wanted(id)) {
                    skipped.push(Skipped { id: missing, why: "is not in the archive".into() });
                }
                next = id.0 + 1;
                match current.add(id, file, &mut entries.content(), entry.size) {
                    Ok(None) => {}
                    Ok(Some(model)) => visit(model)?,
                    Err(why) => skipped.push(Skipped { id, why: format!("{}: {why}", entry.path) }),
                }
            }
            if let Some(damage) = entries.stream().damages.first() {
                let message = format!("is damaged ({}): verify the archive", damage.message);
                return Err(FileError::format(&self.path, message).into());
            }
            for id in (next..self.record.models as u32).map(ModelId).filter(|&id| wanted(id)) {
                skipped.push(Skipped { id, why: "is not in the archive".into() });
            }
            Ok(skipped)
        });
        outcome
    }
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

fn archive_record(path: &Path) -> Result<ZooRecord, Error> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let (record, _) = decode(file, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        let mut record = None;
        while let Some(Ok(entry)) = entries.next_entry() {
            if entry.path == zoo_pack::VOLUMES {
                return Err("is one volume of several: unpack all of them into one folder, and name that".to_owned());
            }
            if model_file(&entry.path).is_some() {
                break;
            }
            if entry.path == names::ZOO {
                let mut json = Vec::new();
                entries.content().take(RECORD_LIMIT).read_to_end(&mut json).map_err(|e| e.to_string())?;
                record = Some(ZooRecord::from_json(&json)?);
            }
        }
        record.ok_or_else(|| "is not the archive of a zoo: it does not begin with SHA256SUMS and zoo.json".to_owned())
    });
    Ok(record.map_err(|m| FileError::format(path, m))?)
}
