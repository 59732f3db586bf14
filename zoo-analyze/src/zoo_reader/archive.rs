//! One archive file: what it is, and its models as a stream.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zoo_model::files::{FileError, Sha256};
use zoo_model::stage::Stage;
use zoo_model::zoo_dir::{model_file, names};
use zoo_model::{result, states, ModelId, Params, ResultLine, ZooRecord};
use zoo_pack::entries::Entries;
use zoo_pack::head::{ArchiveHead, ReadUntil};
use zoo_pack::members::decode;
use zoo_pack::Volume;

use super::{model_ids, Model, Skipped, UNLISTED};
use crate::AnalyzeError;

/// What the head of an archive file tells.
pub(super) struct Archive {
    pub path: PathBuf,
    /// SHA-256 of its SHA256SUMS, which all volumes of a zoo share.
    pub checksums_sha256: Sha256,
    pub record: ZooRecord,
    /// Ids of the whole zoo's models.
    pub ids: Vec<ModelId>,
    pub volumes: Option<Vec<Volume>>,
    /// Which of its zoo's volumes it is, from 0, whatever its name.
    pub number: Option<usize>,
}

impl Archive {
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let head = ArchiveHead::read(path, ReadUntil::FirstModel)?;
        let record = head.record()?;
        let ids = model_ids(head.checksums()?.iter().map(|(path, _)| path.as_str()));
        let volumes = head.volumes()?;
        let number = volumes.iter().flatten().position(|volume| Some(volume.first) == head.first_model());
        Ok(Self { path: path.to_owned(), checksums_sha256: head.checksums_sha256(), record, ids, volumes, number })
    }
}

/// Reads the models of one archive file, which should be `ids`.
pub(super) fn read_archive(
    path: &Path,
    ids: &[ModelId],
    stage: &Stage,
    wanted: &(impl Fn(ModelId) -> bool + Sync),
    visit: &mut (impl FnMut(Model) -> Result<(), AnalyzeError> + Send),
    skipped: &mut Vec<Skipped>,
) -> Result<(), AnalyzeError> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (outcome, _) = decode(file, threads, |decoded| {
        let mut entries = Entries::new(decoded);
        let mut seen = HashSet::new();
        let mut current = PartialModel::default();
        while let Some(entry) = entries.next_entry() {
            stage.interrupt.check()?;
            let entry = entry.map_err(|fault| fault.in_archive(path))?;
            let Some((id, file)) = model_file(&entry.path).filter(|(id, _)| wanted(*id)) else { continue };
            if current.id != Some(id) {
                if current.id.is_some_and(|before| id < before) {
                    return Err(FileError::format(path, "its models are out of order: verify the archive").into());
                }
                current = PartialModel { id: Some(id), ..PartialModel::default() };
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
        skipped.extend(missing.map(|&id| Skipped::new(id, "is incomplete in the archive")));
        Ok(())
    });
    outcome
}

/// The files read so far of an archive's current model.
#[derive(Default)]
struct PartialModel {
    id: Option<ModelId>,
    params: Option<Params>,
    lines: Option<Vec<ResultLine>>,
}

impl PartialModel {
    /// Adds a file; the model, once it is complete.
    fn add(&mut self, id: ModelId, file: &str, content: &mut impl Read, size: u64) -> Result<Option<Model>, String> {
        let mut small = |limit: u64| {
            let mut bytes = Vec::new();
            content.by_ref().take(limit).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            if size > limit {
                return Err(format!("has {size} bytes; the limit is {limit}"));
            }
            Ok(bytes)
        };
        match file {
            names::PARAMS => self.params = Some(Params::from_json(&small(Params::SIZE_LIMIT)?)?),
            names::RESULT => self.lines = Some(result::from_json_lines(&small(result::SIZE_LIMIT)?)?),
            _ => {
                let (Some(params), Some(lines)) = (self.params.take(), self.lines.take()) else {
                    return Err("is not preceded by a valid params.json and result.json".into());
                };
                let network = params.network().map_err(|e| e.to_string())?;
                if size > states::file_size(&network, lines.len()) + (1 << 16) {
                    return Err("is larger than the states that its result.json lists".into());
                }
                let (epochs, states) = states::read_all(content, size, &network)?;
                return Model { params, network, lines, states }.checked(id, &epochs).map(Some);
            }
        }
        Ok(None)
    }
}
