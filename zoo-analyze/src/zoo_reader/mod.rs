//! Zoos as streams of models, from a directory or an archive.

mod archive;
mod model;
mod volumes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use zoo_model::stage::Stage;
use zoo_model::text::{counted, escaped};
use zoo_model::zoo_dir::model_file;
use zoo_model::{ModelId, ZooDir, ZooRecord};
use zoo_pack::Volume;

use crate::AnalyzeError;
use archive::{read_archive, Archive};
pub use model::{Model, Skipped};
use volumes::{archive_at, VolumeSet};

/// Bytes of states that are read ahead from a directory.
const READ_AHEAD: u64 = 64 << 20;

/// Why a model that SHA256SUMS does not list is skipped.
const UNLISTED: &str = "is not listed in SHA256SUMS";

/// Reads a zoo from its directory, its archive, or the volumes of one.
#[derive(Debug, Clone)]
pub struct ZooReader {
    path: PathBuf,
    record: ZooRecord,
    ids: Vec<ModelId>,
    /// The archive files in order, with the ids of their models; none of a directory.
    archives: Vec<(PathBuf, Vec<ModelId>)>,
    notes: Vec<String>,
}

/// What a path on the command line turned out to be.
enum Opened {
    Zoo(ZooReader),
    Volumes(VolumeSet),
}

impl ZooReader {
    /// The zoo at `path`: its directory, its archive, or any of its volumes, whose siblings are looked
    /// for next to it. A path that does not exist may have volumes: `NAME.tar.gz` stands for
    /// `NAME.1-of-3.tar.gz` and so on.
    ///
    /// # Errors
    /// It is not a zoo, or not finished.
    pub fn open(path: &Path) -> Result<Self, AnalyzeError> {
        Ok(Self::open_all(&[path.to_owned()])?.remove(0))
    }

    /// The zoos at `paths`, in order; volumes of the same zoo, wherever they are among them, are one.
    ///
    /// # Errors
    /// One of them is not a zoo, or not finished.
    pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, AnalyzeError> {
        let mut opened: Vec<Opened> = Vec::new();
        for path in paths {
            if path.is_dir() {
                opened.push(Opened::Zoo(Self::directory(path)?));
                continue;
            }
            let archive = Archive::read(&archive_at(path)?)?;
            if archive.volumes.is_none() {
                opened.push(Opened::Zoo(Self::archive(archive)));
                continue;
            }
            let set = opened.iter_mut().find_map(|opened| match opened {
                Opened::Volumes(set) if set.first.checksums_sha256 == archive.checksums_sha256 => Some(set),
                Opened::Volumes(_) | Opened::Zoo(_) => None,
            });
            match set {
                Some(set) => set.add(&archive)?,
                None => opened.push(Opened::Volumes(VolumeSet::new(archive)?)),
            }
        }
        let reader = |opened| match opened {
            Opened::Zoo(reader) => reader,
            Opened::Volumes(set) => Self::volumes(set),
        };
        Ok(opened.into_iter().map(reader).collect())
    }

    fn directory(path: &Path) -> Result<Self, AnalyzeError> {
        let zoo = ZooDir::new(path);
        let record = zoo.finished()?;
        let ids = match zoo.checksums()? {
            Some(lines) => model_ids(lines.iter().map(|(path, _)| path.as_str())),
            None => zoo.ids()?,
        };
        Ok(Self { path: path.into(), record, ids, archives: Vec::new(), notes: Vec::new() }.checked())
    }

    fn archive(archive: Archive) -> Self {
        let Archive { path, record, ids, .. } = archive;
        let archives = vec![(path.clone(), ids.clone())];
        Self { path, record, ids, archives, notes: Vec::new() }.checked()
    }

    fn volumes(mut set: VolumeSet) -> Self {
        set.find_siblings();
        let Archive { path, record, ids, .. } = set.first;
        let whole = Self { path, record, ids, archives: Vec::new(), notes: Vec::new() }.checked();
        let ids_of = |volume: &Volume| -> Vec<ModelId> {
            whole.ids.iter().copied().filter(|id| (volume.first..=volume.last).contains(id)).collect()
        };
        let all = set.volumes.len();
        let (mut archives, mut missing) = (Vec::new(), Vec::new());
        for (volume, path) in set.volumes.iter().zip(set.paths) {
            match path {
                Some(path) => archives.push((path, ids_of(volume))),
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

    /// Notes it if the number of models in `zoo.json` is not that of the models listed.
    fn checked(mut self) -> Self {
        let (models, listed) = (self.record.models, self.ids.len());
        if models != listed {
            let path = self.path.display();
            self.notes.push(format!("{path}: zoo.json records {}, found {listed}", counted(models, "model")));
        }
        self
    }

    /// Its `zoo.json`.
    pub fn record(&self) -> &ZooRecord {
        &self.record
    }

    /// Ids of its models, ascending: those that its SHA256SUMS lists, in the volumes that were found.
    /// In a directory without that file: those that were found.
    pub fn ids(&self) -> &[ModelId] {
        &self.ids
    }

    /// What is missing of it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The directory, the archive or one of its volumes.
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
        mut visit: impl FnMut(Model) -> Result<(), AnalyzeError> + Send,
    ) -> Result<Vec<Skipped>, AnalyzeError> {
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
        visit: &mut impl FnMut(Model) -> Result<(), AnalyzeError>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<(), AnalyzeError> {
        let zoo = ZooDir::new(&self.path);
        let found: Vec<ModelId> = zoo.ids()?.into_iter().filter(|&id| wanted(id)).collect();
        let missing = self.ids.iter().filter(|&&id| wanted(id) && found.binary_search(&id).is_err());
        skipped.extend(missing.map(|&id| Skipped::new(id, "is missing")));
        let (ids, unlisted): (Vec<_>, Vec<_>) = found.iter().partition(|&id| self.ids.binary_search(id).is_ok());
        skipped.extend(unlisted.into_iter().map(|id| Skipped::new(id, UNLISTED)));
        let bytes = self.record.states as u64 / self.record.models.max(1) as u64 * self.record.parameters as u64 * 4;
        let ahead = (READ_AHEAD / bytes.max(1)).clamp(1, 256) as usize;
        for chunk in ids.chunks(ahead) {
            stage.interrupt.check()?;
            let models: Vec<_> = chunk.par_iter().map(|&id| Model::read(&zoo, id)).collect();
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

/// Ids of the models that own these files, ascending.
fn model_ids<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<ModelId> {
    let ids: BTreeSet<ModelId> = paths.filter_map(model_file).map(|(id, _)| id).collect();
    ids.into_iter().collect()
}
