//! The zoo directory and its `zoo.json`.

mod checksums;
mod record;

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;

use crate::architecture::Network;
use crate::files::{
    is_system_file, parent_of, persist_dir, read_if_exists, remove_stale_temporaries, sha256, sha256_file, sync_dir,
    temporary_dir_in, write_bytes, FileError, Sha256,
};
use crate::model_id::ModelId;
use crate::params::Params;
use crate::result::{self, ResultLine};
use crate::states::{self, StatesWriter};
use crate::text::counted;

pub use checksums::{checksum_lines, format_checksums, parse_checksums};
pub use record::{DatasetRecord, EngineRecord, ParentZoo, ZooRecord};

/// Names of the files of a zoo.
pub mod names {
    /// Written last: a directory with it is finished.
    pub const ZOO: &str = "zoo.json";
    /// Checksums of every other file, for `sha256sum -c`.
    pub const CHECKSUMS: &str = "SHA256SUMS";
    /// Folder of everything that is not a finished model, while the zoo is unfinished.
    pub const TRAINING: &str = ".training";
    /// What an unfinished zoo will be, in that folder.
    pub const RUN: &str = "run.json";
    /// Folder of the models.
    pub const MODELS: &str = "models";
    /// A model's configuration.
    pub const PARAMS: &str = "params.json";
    /// A model's metrics.
    pub const RESULT: &str = "result.json";
    /// A model's trajectory.
    pub const STATES: &str = "states.safetensors";
    /// The three files of a model, sorted.
    pub const MODEL_FILES: [&str; 3] = [PARAMS, RESULT, STATES];
}

/// Size limit of a `zoo.json`.
pub const RECORD_LIMIT: u64 = 16 << 20;
/// Size limit of a `SHA256SUMS`: 100 bytes for each of three files of a million models.
pub const CHECKSUMS_LIMIT: u64 = 400 << 20;

/// The zoo, finished or not, by whatever program, that `path` is or lies in. The last parts
/// of `path` need not be there.
///
/// # Errors
/// The current directory is gone.
pub fn enclosing_zoo(path: &Path) -> io::Result<Option<PathBuf>> {
    let is_model = |entry: fs::DirEntry| entry.file_name().to_string_lossy().parse::<ModelId>().is_ok();
    let has_models = |folder: &Path| fs::read_dir(folder.join(names::MODELS)).is_ok_and(|e| e.flatten().any(is_model));
    let is_zoo = |folder: &&Path| {
        let is_started = || folder.join(names::TRAINING).join(names::RUN).is_file();
        folder.join(names::ZOO).is_file() || is_started() || has_models(folder)
    };
    Ok(resolve(path)?.ancestors().find(is_zoo).map(Path::to_owned))
}

/// The absolute path without links and `..`, of which the last parts need not be there.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::ParentDir => _ = resolved.pop(),
            other => resolved.push(other),
        }
        resolved = resolved.canonicalize().unwrap_or(resolved);
    }
    Ok(resolved)
}

/// Id and file name of a path like `models/000017/params.json`.
pub fn model_file(path: &str) -> Option<(ModelId, &str)> {
    let (id, file) = path.strip_prefix(names::MODELS)?.strip_prefix('/')?.split_once('/')?;
    let id = id.parse().ok()?;
    names::MODEL_FILES.contains(&file).then_some((id, file))
}

/// A zoo directory, finished or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZooDir {
    path: PathBuf,
}

impl ZooDir {
    /// The zoo at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of `zoo.json`.
    pub fn record_path(&self) -> PathBuf {
        self.path.join(names::ZOO)
    }

    /// Folder of a model.
    pub fn model(&self, id: ModelId) -> PathBuf {
        self.path.join(names::MODELS).join(id.to_string())
    }

    /// Path of a model's states.
    pub fn states(&self, id: ModelId) -> PathBuf {
        self.model(id).join(names::STATES)
    }

    /// `zoo.json`, or `None` if the zoo is not finished.
    pub fn record(&self) -> Result<Option<ZooRecord>, FileError> {
        let path = self.record_path();
        if self.path.is_file() {
            let why = "is a file, where the folder of a zoo is expected: unpack an archive first";
            return Err(FileError::format(&self.path, why));
        }
        let Some(json) = read_if_exists(&path, RECORD_LIMIT)? else { return Ok(None) };
        let record = ZooRecord::from_json(&json).map_err(|m| self.damaged(FileError::format(path, m)))?;
        Ok(Some(record))
    }

    /// An error about a file of this zoo, with the remedy.
    pub fn damaged(&self, error: FileError) -> FileError {
        let remedy =
            format!("the zoo is damaged: restore the file, or remove {} and make it again", self.path.display());
        match error {
            FileError::Format { path, message } => FileError::format(path, format!("{message}; {remedy}")),
            FileError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                FileError::format(path, format!("is missing; {remedy}"))
            }
            other => other,
        }
    }

    /// Checks that all models of the finished zoo are there, with all their files; none is read.
    ///
    /// # Errors
    /// What is missing, and the remedy.
    pub fn check_whole(&self, record: &ZooRecord) -> Result<(), FileError> {
        let found = self.ids()?.len();
        if found != record.models {
            let message = format!("zoo.json records {}, found {found}", counted(record.models, "model"));
            return Err(self.damaged(FileError::format(&self.path, message)));
        }
        for file in self.model_files()? {
            let path = self.path.join(file);
            let metadata = fs::symlink_metadata(&path).map_err(|e| self.damaged(FileError::io("read", &path)(e)))?;
            if !metadata.is_file() {
                return Err(self.damaged(FileError::format(path, "is not a regular file")));
            }
        }
        Ok(())
    }

    /// `zoo.json` of a zoo that must be finished.
    pub fn finished(&self) -> Result<ZooRecord, FileError> {
        let unfinished = || {
            let exists = self.path.is_dir();
            let why = if exists { "has no zoo.json: it is not a zoo, or not finished yet" } else { "does not exist" };
            FileError::format(&self.path, why)
        };
        self.record()?.ok_or_else(unfinished)
    }

    /// Ids of the models that are there, ascending. Hidden files, and what file managers leave, do not count.
    ///
    /// # Errors
    /// The folder cannot be read, or holds something that is not a model.
    pub fn ids(&self) -> Result<Vec<ModelId>, FileError> {
        let folder = self.path.join(names::MODELS);
        let mut ids = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(ids),
            other => other.map_err(FileError::io("read", &folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(FileError::io("read", &folder))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || is_system_file(&name) {
                continue;
            }
            let unexpected = |m: String| FileError::format(folder.join(&*name), format!("{m}: remove it"));
            ids.push(name.parse().map_err(unexpected)?);
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// A model's `params.json`.
    pub fn params(&self, id: ModelId) -> Result<Params, FileError> {
        Params::read(&self.model(id).join(names::PARAMS)).map_err(|e| self.damaged(e))
    }

    /// A model's `result.json`.
    pub fn results(&self, id: ModelId) -> Result<Vec<ResultLine>, FileError> {
        result::read(&self.model(id).join(names::RESULT)).map_err(|e| self.damaged(e))
    }

    /// Writes the three files of a model to `staging` and renames that folder into place, so that
    /// a model is there whole or not at all. `states[s]` belongs to `lines[s]`.
    pub fn write_model(
        &self,
        staging: &Path,
        params: &Params,
        network: &Network,
        lines: &[ResultLine],
        states: &[Vec<f32>],
    ) -> Result<(), FileError> {
        let outcome = self.try_write_model(staging, &self.model(params.id), params, network, lines, states);
        self.judge_write(params.id, staging, outcome)
    }

    /// What writing a model below the folder `staging` comes to.
    fn judge_write(&self, id: ModelId, staging: &Path, outcome: Result<(), FileError>) -> Result<(), FileError> {
        let place = self.model(id);
        match outcome {
            // Another process finished the same model, or the zoo, first: its bits are the same.
            Err(_) if place.join(names::STATES).exists() => Ok(()),
            // An error names the place that a file is meant for, not the temporary.
            Err(FileError::Io { action, path, source }) if path.starts_with(staging) => {
                let file = names::MODEL_FILES.iter().find(|file| path.ends_with(file));
                Err(FileError::Io { action, path: file.map_or(path.clone(), |file| place.join(file)), source })
            }
            outcome => outcome,
        }
    }

    /// The folder of a model whose states are written while it is trained.
    fn staged(&self, id: ModelId) -> PathBuf {
        self.path.join(names::TRAINING).join(id.to_string())
    }

    /// The states of a model in training that are on disk, of those after `epochs`; `None` if none are.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn staged_states(
        &self,
        id: ModelId,
        network: &Network,
        epochs: &[u32],
    ) -> Result<Option<StatesWriter>, FileError> {
        StatesWriter::open(&self.staged(id).join(names::STATES), network, epochs)
    }

    /// Writes the states `first`, `first + 1`, ... of a model in training, of those after `epochs`, to
    /// the file that it will have, and makes them durable.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn stage_states(
        &self,
        id: ModelId,
        network: &Network,
        epochs: &[u32],
        first: usize,
        states: &[Vec<f32>],
    ) -> Result<(), FileError> {
        let staged = self.staged(id);
        let write = || {
            let path = staged.join(names::STATES);
            let mut writer = if first == 0 {
                StatesWriter::create(&path, network, epochs)?
            } else {
                let missing = || FileError::format(&path, "is missing or damaged: run the same command again");
                StatesWriter::open(&path, network, epochs)?.ok_or_else(missing)?
            };
            writer.write(network, first, states)?;
            writer.sync()
        };
        self.judge_write(id, &staged, write())
    }

    /// Puts a model in place whose states are all [staged](Self::stage_states): whole or not at all.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish_staged(&self, params: &Params, lines: &[ResultLine]) -> Result<(), FileError> {
        let (staged, place) = (self.staged(params.id), self.model(params.id));
        let finish = || {
            // What was killed while it wrote here.
            remove_stale_temporaries(&staged);
            write_bytes(&staged.join(names::PARAMS), params.to_json().as_bytes())?;
            write_bytes(&staged.join(names::RESULT), result::to_json_lines(lines).as_bytes())?;
            let parent = parent_of(&place);
            fs::create_dir_all(parent).map_err(FileError::io("create the folder", parent))?;
            fs::rename(&staged, &place).map_err(FileError::io("write", &place))?;
            sync_dir(parent);
            Ok(())
        };
        let is_first = !place.exists();
        let outcome = self.judge_write(params.id, &staged, if is_first { finish() } else { Ok(()) });
        if outcome.is_ok() {
            // Of a model that another process finished.
            let _ = fs::remove_dir_all(&staged);
        }
        outcome
    }

    fn try_write_model(
        &self,
        staging: &Path,
        place: &Path,
        params: &Params,
        network: &Network,
        lines: &[ResultLine],
        states: &[Vec<f32>],
    ) -> Result<(), FileError> {
        let temporary = temporary_dir_in(staging)?;
        let epochs: Vec<u32> = lines.iter().map(|l| l.training_iteration).collect();
        write_bytes(&temporary.path().join(names::PARAMS), params.to_json().as_bytes())?;
        write_bytes(&temporary.path().join(names::RESULT), result::to_json_lines(lines).as_bytes())?;
        states::write(&temporary.path().join(names::STATES), network, &epochs, states)?;
        persist_dir(temporary, place)
    }

    /// Files of the finished zoo below its directory, sorted, `zoo.json` and checksums left out.
    pub fn model_files(&self) -> Result<Vec<String>, FileError> {
        let path_of = |id: ModelId, file: &str| format!("{}/{id}/{file}", names::MODELS);
        Ok(self.ids()?.into_iter().flat_map(|id| names::MODEL_FILES.map(|f| path_of(id, f))).collect())
    }

    /// Finishes the directory: checksums of all files, then `zoo.json`, the last to appear.
    pub fn finish(&self, record: &ZooRecord) -> Result<(), FileError> {
        let json = record.to_json();
        let mut sums: Vec<(String, Sha256)> = self
            .model_files()?
            .into_par_iter()
            .map(|file| sha256_file(&self.path.join(&file)).map(|sum| (file, sum)))
            .collect::<Result<_, _>>()
            .map_err(|e| self.damaged(e))?;
        sums.push((names::ZOO.into(), sha256(json.as_bytes())));
        write_bytes(&self.path.join(names::CHECKSUMS), format_checksums(&sums).as_bytes())?;
        write_bytes(&self.record_path(), json.as_bytes())
    }

    /// The recorded checksums, or `None` if the zoo has no `SHA256SUMS`.
    pub fn checksums(&self) -> Result<Option<Vec<(String, Sha256)>>, FileError> {
        let path = self.path.join(names::CHECKSUMS);
        let Some(text) = read_if_exists(&path, CHECKSUMS_LIMIT)? else { return Ok(None) };
        parse_checksums(&text).map(Some).map_err(|m| self.damaged(FileError::format(path, m)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_zoo_names_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = crate::synthetic::write(&dir.path().join("z"), "z", 3, 2).unwrap();
        let record = zoo.finished().unwrap();
        for left in [".DS_Store", "._000001", "Thumbs.db", "Icon\r"] {
            fs::write(zoo.path().join("models").join(left), "x").unwrap();
        }
        fs::create_dir(zoo.path().join("models/__MACOSX")).unwrap();
        zoo.check_whole(&record).unwrap();
        let remedy =
            format!("the zoo is damaged: restore the file, or remove {} and make it again", zoo.path().display());
        let damaged = |error: FileError, what: &str| {
            let error = error.to_string();
            assert!(error.contains(what) && error.ends_with(&remedy), "{error}");
        };
        fs::write(zoo.model(ModelId(1)).join(names::PARAMS), "{").unwrap();
        damaged(zoo.params(ModelId(1)).unwrap_err(), "models/000001/params.json: EOF");
        fs::remove_file(zoo.states(ModelId(2))).unwrap();
        damaged(zoo.check_whole(&record).unwrap_err(), "models/000002/states.safetensors: is missing");
        damaged(zoo.finish(&record).unwrap_err(), "models/000002/states.safetensors: is missing");
        fs::remove_dir_all(zoo.model(ModelId(2))).unwrap();
        damaged(zoo.check_whole(&record).unwrap_err(), "records 3 models, found 2");
        fs::write(zoo.record_path(), "{").unwrap();
        damaged(zoo.record().unwrap_err(), "zoo.json: EOF");
        fs::write(zoo.path().join("models/notes"), "x").unwrap();
        assert!(zoo
            .ids()
            .unwrap_err()
            .to_string()
            .ends_with("models/notes: `notes` is not a model id of six digits: remove it"));
    }

    #[test]
    fn a_model_that_is_written_state_by_state_is_the_one_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let whole = crate::synthetic::write(&dir.path().join("whole"), "z", 1, 3).unwrap();
        let id = ModelId(0);
        let (params, lines) = (whole.params(id).unwrap(), whole.results(id).unwrap());
        let network = params.network().unwrap();
        let size = fs::metadata(whole.states(id)).unwrap().len();
        let (epochs, states) =
            states::read_all(&mut fs::File::open(whole.states(id)).unwrap(), size, &network).unwrap();
        let zoo = ZooDir::new(dir.path().join("staged"));
        let stage = |first: usize, end: usize| zoo.stage_states(id, &network, &epochs, first, &states[first..end]);
        // What was staged before and is gone is not made up.
        assert!(stage(2, 3).unwrap_err().to_string().contains("missing or damaged"));
        assert!(zoo.staged_states(id, &network, &epochs).unwrap().is_none());
        stage(0, 2).unwrap();
        stage(2, states.len()).unwrap();
        assert_eq!(zoo.staged_states(id, &network, &epochs).unwrap().unwrap().read(&network, 1).unwrap(), states[1]);
        for _ in 0..2 {
            let killed = crate::files::temporary_file_in(&zoo.staged(id)).unwrap();
            drop(killed.keep().unwrap());
            zoo.finish_staged(&params, &lines).unwrap();
            assert_eq!(fs::read_dir(zoo.model(id)).unwrap().count(), 3);
            for file in names::MODEL_FILES {
                assert!(fs::read(whole.model(id).join(file)).unwrap() == fs::read(zoo.model(id).join(file)).unwrap());
            }
            assert_eq!(fs::read_dir(zoo.path().join(names::TRAINING)).unwrap().count(), 0);
            // Nor does it matter that another process was first.
            stage(0, states.len()).unwrap();
        }
        // An error names the place that a file is meant for.
        fs::remove_dir_all(zoo.path()).unwrap();
        fs::create_dir_all(zoo.path().join(names::TRAINING).join(id.to_string()).join(names::STATES)).unwrap();
        let error = stage(0, 1).unwrap_err().to_string();
        assert!(error.contains("models/000000/states.safetensors"), "{error}");
    }

    #[test]
    fn a_model_that_another_process_wrote_first_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = crate::synthetic::write(&dir.path().join("z"), "z", 1, 2).unwrap();
        let id = ModelId(0);
        let (params, lines) = (zoo.params(id).unwrap(), zoo.results(id).unwrap());
        let network = params.network().unwrap();
        let states = vec![vec![0.0; network.parameter_count()]; lines.len()];
        let before = fs::read(zoo.states(id)).unwrap();
        let staging = dir.path().join("staging");
        zoo.write_model(&staging, &params, &network, &lines, &states).unwrap();
        assert_eq!(fs::read(zoo.states(id)).unwrap(), before);
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
        // Nor does it matter that the other one took the staging folder away.
        fs::remove_dir(&staging).unwrap();
        fs::write(&staging, "").unwrap();
        zoo.write_model(&staging, &params, &network, &lines, &states).unwrap();
    }

    #[test]
    fn an_unfinished_zoo_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ZooDir::new(dir.path()).finished().unwrap_err().to_string().contains("not finished"));
        let missing = ZooDir::new(dir.path().join("no such"));
        assert!(missing.finished().unwrap_err().to_string().contains("does not exist"));
        assert!(missing.ids().unwrap().is_empty());
        let archive = dir.path().join("z.tar.gz");
        fs::write(&archive, "").unwrap();
        assert!(ZooDir::new(archive).finished().unwrap_err().to_string().contains("is a file, where the folder"));
    }
}
