//! The zoo directory and its `zoo.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::{Dataset, Split};
use crate::files::{
    is_system_file, persist_dir, read_if_exists, sha256, sha256_file, temporary_dir_in, write_bytes, FileError,
};
use crate::hyperparameters::Params;
use crate::plan::{check_zoo_name, ModelId};
use crate::result::{self, ResultLine};
use crate::states;
use crate::text::{counted, json_fault};
use crate::{Network, FORMAT_VERSION};

/// Names of the files of a zoo.
pub mod names {
    /// Written last: a directory with it is finished.
    pub const ZOO: &str = "zoo.json";
    /// Checksums of every other file, for `sha256sum -c`.
    pub const CHECKSUMS: &str = "SHA256SUMS";
    /// Folder of everything that is not a finished model, while the zoo is in the making.
    pub const TRAINING: &str = ".training";
    /// What a zoo in the making will be, in that folder.
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

/// The zoo, finished or in the making, by whatever program, that `path` is or lies in. The last parts
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

/// The dataset that a zoo was trained on. An imported zoo may not know it: then the checksum is
/// empty, the splits have no samples, and there is no mean or deviation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// Name of the published dataset.
    pub name: String,
    /// SHA-256 of the prepared dataset file.
    pub sha256: String,
    /// (channels, height, width).
    pub shape: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Their names; none in zoos of programs that do not record them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Samples in the train split.
    pub train: usize,
    /// Samples in the validation split.
    pub val: usize,
    /// Samples in the test split.
    pub test: usize,
    /// Mean per channel.
    pub mean: Vec<f64>,
    /// Standard deviation per channel.
    pub std: Vec<f64>,
    /// What the prepared file was made of: SHA-256 by name of a published file, or by path of a
    /// folder of pictures. None in zoos of programs that do not record it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
}

impl DatasetRecord {
    /// The record of a dataset that was read from a file.
    pub fn new(dataset: &Dataset) -> Self {
        Self {
            name: dataset.info.dataset.clone(),
            sha256: dataset.sha256().to_owned(),
            shape: dataset.shape,
            classes: dataset.classes(),
            class_names: dataset.info.class_names.clone(),
            train: dataset.len(Split::Train),
            val: dataset.len(Split::Val),
            test: dataset.len(Split::Test),
            mean: dataset.info.mean.clone(),
            std: dataset.info.std.clone(),
            sources: dataset.info.sources.clone(),
        }
    }
}

/// The engine that trained a zoo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// Name, as `--engine` takes it.
    pub name: String,
    /// Version of its arithmetic: two engines of one name and version give the same bits.
    pub version: String,
}

/// The zoo that a twin zoo was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentZoo {
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

/// `zoo.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZooRecord {
    /// Version of the format.
    pub format_version: u32,
    /// Name of the zoo.
    pub name: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// SPDX identifier.
    #[serde(default)]
    pub license: String,
    /// In a twin zoo, the zoo of the parents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentZoo>,
    /// The sections of the manifest that the models depend on, resolved.
    #[serde(default)]
    pub manifest: Value,
    /// The dataset.
    pub dataset: DatasetRecord,
    /// The engine; `None` when another program made the models.
    #[serde(default)]
    pub engine: Option<EngineRecord>,
    /// Number of models.
    pub models: usize,
    /// Number of states of all models.
    pub states: usize,
    /// Number of models with a state that diverged.
    #[serde(default)]
    pub diverged: usize,
    /// Scalars in one model.
    pub parameters: usize,
    /// Fingerprint of everything that the models' bits depend on.
    #[serde(default)]
    pub fingerprint: String,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl ZooRecord {
    /// Parses a `zoo.json`.
    ///
    /// # Errors
    /// A sentence that names the field and the fault.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let sound = serde_json::json!({
            "format_version": 1, "name": "z", "models": 0, "states": 0, "parameters": 0,
            "dataset": {
                "name": "", "sha256": "", "shape": [1, 1, 1], "classes": 1,
                "train": 0, "val": 0, "test": 0, "mean": [], "std": [],
            },
        });
        let record: Self = serde_json::from_slice(json).map_err(|e| json_fault::<Self>(json, &sound, &e))?;
        if record.format_version > FORMAT_VERSION {
            return Err(format!(
                "`format_version` {} is newer than this program's {FORMAT_VERSION}: use a newer release",
                record.format_version
            ));
        }
        check_zoo_name(&record.name)?;
        Ok(record)
    }

    /// The file's content, ending in a newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises") + "\n"
    }

    /// What models of this zoo and of another do not have in common, for a reader: the first few
    /// fields that differ, with both values. Counts of what was made do not matter, nor do names and
    /// sources that an older zoo does not record: the dataset's checksum covers them.
    pub fn differences(&self, other: &Self) -> String {
        let value = |record: &Self| {
            let dataset = DatasetRecord { class_names: Vec::new(), sources: BTreeMap::new(), ..record.dataset.clone() };
            let inputs = Self { states: 0, diverged: 0, fingerprint: String::new(), dataset, ..record.clone() };
            serde_json::to_value(inputs).expect("plain data serialises")
        };
        let mut found = Vec::new();
        collect_differences("", &value(self), &value(other), &mut found);
        let more = if found.len() > 3 { format!(", and {} more", found.len() - 3) } else { String::new() };
        found.truncate(3);
        found.join(", ") + &more
    }
}

fn collect_differences(field: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    if let (Value::Object(x), Value::Object(y)) = (a, b) {
        for key in x.keys().chain(y.keys().filter(|key| !x.contains_key(*key))) {
            let path = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
            let side = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
            collect_differences(&path, &side(x), &side(y), found);
        }
    } else if a != b {
        let short = |value: &Value| match value.to_string() {
            text if text.chars().count() > 80 => text.chars().take(77).chain("...".chars()).collect(),
            text => text,
        };
        found.push(format!("`{field}` ({} and {})", short(a), short(b)));
    }
}

/// Id and file name of a path like `models/000017/params.json`.
pub fn model_file(path: &str) -> Option<(ModelId, &str)> {
    let (id, file) = path.strip_prefix(names::MODELS)?.strip_prefix('/')?.split_once('/')?;
    let id = id.parse().ok()?;
    names::MODEL_FILES.contains(&file).then_some((id, file))
}

/// Parses a checksum file: path and lower-case checksum of each line, in the order of the file.
///
/// # Errors
/// A sentence that names the line.
pub fn parse_checksums(text: &[u8]) -> Result<Vec<(String, String)>, String> {
    checksum_lines(text).collect()
}

/// [`parse_checksums`] line by line, holding nothing. What `sha256sum -c` takes is taken: text and binary
/// mode, BSD's two formats, escaped names, upper case, comments, blank lines, and either end of line.
/// Paths lose what leads nowhere (`./`).
pub fn checksum_lines(text: &[u8]) -> impl Iterator<Item = Result<(String, String), String>> + '_ {
    let mut reversed = None;
    text.split(|&b| b == b'\n').zip(1..).filter_map(move |(line, number)| {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        if line.trim().is_empty() || line.starts_with('#') {
            return None;
        }
        let parsed = checksum_line(&line, &mut reversed);
        Some(parsed.ok_or_else(|| format!("line {number}: is not `<64 hexadecimal digits>  <path>`")))
    })
}

/// One line, as coreutils reads it. `reversed` is whether the lines so far were of BSD's format with a
/// single space, which cannot be mixed with the usual one: a name may begin with a space.
fn checksum_line(line: &str, reversed: &mut Option<bool>) -> Option<(String, String)> {
    const WHITE: [char; 2] = [' ', '\t'];
    let line = line.trim_start_matches(WHITE);
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |line| (true, line));
    let (path, sum) = if let Some(tagged) = line.strip_prefix("SHA256") {
        let tagged = tagged.strip_prefix(' ').unwrap_or(tagged).strip_prefix('(')?;
        let (path, sum) = tagged.rsplit_once(')')?;
        (path, sum.trim_start_matches(WHITE).strip_prefix('=')?.trim_start_matches(WHITE))
    } else {
        let (sum, rest) = line.split_at_checked(64)?;
        let rest = rest.strip_prefix(WHITE)?;
        let path = rest.strip_prefix([' ', '*']).filter(|path| !path.is_empty());
        match *reversed.get_or_insert(path.is_none()) {
            true => (rest, sum),
            false => (path?, sum),
        }
    };
    let sum = sum.to_ascii_lowercase();
    let path = if escaped { unescaped(path)? } else { path.to_owned() };
    let (root, below) = path.strip_prefix('/').map_or(("", path.as_str()), |below| ("/", below));
    let parts: Vec<&str> = below.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (is_sha256(&sum) && !parts.is_empty()).then(|| (format!("{root}{}", parts.join("/")), sum))
}

/// A file name of a line that begins with a backslash.
fn unescaped(name: &str) -> Option<String> {
    let mut characters = name.chars();
    let mut out = String::with_capacity(name.len());
    while let Some(c) = characters.next() {
        out.push(match c {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

/// Whether this is a SHA-256 as it is written everywhere: 64 digits, letters in lower case.
pub fn is_sha256(sum: &str) -> bool {
    sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The content of a checksum file; a name that would break its line is escaped, as by `sha256sum`.
pub fn format_checksums(sums: &[(String, String)]) -> String {
    let line = |(path, sum): &(String, String)| match path.contains(['\n', '\r']) {
        true => format!("\\{sum}  {}\n", path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")),
        false => format!("{sum}  {path}\n"),
    };
    sums.iter().map(line).collect()
}

/// A zoo directory, finished or in the making.
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
            let message = format!("zoo.json counts {}, {found} are there", counted(record.models, "model"));
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
            let stray = |m: String| FileError::format(folder.join(&*name), format!("{m}: remove it"));
            ids.push(name.parse().map_err(stray)?);
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
        let place = self.model(params.id);
        match self.try_write_model(staging, &place, params, network, lines, states) {
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
        let mut sums: Vec<(String, String)> = self
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
    pub fn checksums(&self) -> Result<Option<Vec<(String, String)>>, FileError> {
        let path = self.path.join(names::CHECKSUMS);
        let Some(text) = read_if_exists(&path, CHECKSUMS_LIMIT)? else { return Ok(None) };
        parse_checksums(&text).map(Some).map_err(|m| self.damaged(FileError::format(path, m)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_lines_round_trip_and_others_are_refused() {
        let sum = "0".repeat(64);
        let sums: Vec<(String, String)> = ["models/000000/params.json", "a b", " c", "*d", "e\\f\ng\rh", "/i", "../j"]
            .map(|path| (path.to_owned(), sum.clone()))
            .into();
        assert_eq!(parse_checksums(format_checksums(&sums).as_bytes()).unwrap(), sums);
        assert!(parse_checksums(b"\nabc  file\n").unwrap_err().starts_with("line 2"));
        for line in [
            format!("{sum}file"),
            format!("{sum} "),
            format!("{sum}  ./"),
            format!("{}  file", "g".repeat(64)),
            format!("{}  file", "é".repeat(32)),
            format!("0{sum}  file"),
            format!("\\{sum}  fi\\le"),
            format!("SHA256 (file) {sum}"),
            format!("SHA256 file = {sum}"),
            format!("SHA512 (file) = {sum}"),
            format!("SHA256 (file) = {sum} "),
            format!("{sum}  file\n{sum} other"),
            "<html>".into(),
        ] {
            assert!(parse_checksums(line.as_bytes()).is_err(), "{line}");
        }
    }

    /// Every form is held against coreutils where that is installed.
    #[test]
    fn what_sha256sum_takes_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a b", "back\\slash", "new\nline"] {
            fs::write(dir.path().join(name), "abc").unwrap();
        }
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/c"), "abc").unwrap();
        let sum = sha256(b"abc");
        let upper = sum.to_uppercase();
        let mixed = format!("{}{}", &upper[..32], &sum[32..]);
        for (text, path) in [
            (format!("{sum}  a b\n"), "a b"),
            (format!("{sum}  a b"), "a b"),
            (format!("{sum} *a b\n"), "a b"),
            (format!("{sum}\t a b\n"), "a b"),
            (format!("{sum} a b\n"), "a b"),
            (format!("{upper}  a b\n"), "a b"),
            (format!("{mixed} *a b\n"), "a b"),
            (format!("  \t{sum}  a b\n"), "a b"),
            (format!("{sum}  a b\r\n"), "a b"),
            (format!("# made by hand\r\n\r\n{sum}  a b\r\n\r\n\n#\n"), "a b"),
            (format!("{sum}  ./a b\n"), "a b"),
            (format!("{sum} *.//folder/./c\n"), "folder/c"),
            (format!("SHA256 (a b) = {sum}\n"), "a b"),
            (format!("SHA256 (./folder/c) = {upper}\r\n"), "folder/c"),
            (format!("SHA256(a b)= {sum}\n"), "a b"),
            (format!("SHA256 (a b)={sum}"), "a b"),
            (format!("\\SHA256 (new\\nline) = {sum}\n"), "new\nline"),
            (format!("\\{sum}  new\\nline\n"), "new\nline"),
            (format!("\\{sum} *back\\\\slash\n"), "back\\slash"),
            (format!("{sum}  back\\slash\n"), "back\\slash"),
        ] {
            assert_eq!(parse_checksums(text.as_bytes()).unwrap(), [(path.to_owned(), sum.clone())], "{text:?}");
            fs::write(dir.path().join("sums"), &text).unwrap();
            let arguments = ["--strict", "-c", "sums"];
            let program = std::process::Command::new("sha256sum").args(arguments).current_dir(dir.path()).output();
            let checked = program.expect("this test needs the program `sha256sum`: install GNU coreutils");
            assert!(checked.status.success(), "{text:?}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }

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
        damaged(zoo.check_whole(&record).unwrap_err(), "counts 3 models, 2 are there");
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
    fn a_dataset_is_recorded_with_its_classes_and_sources_and_older_records_are_read() {
        let dataset = crate::synthetic::noise_dataset([1, 4, 4], 3, 2);
        let mut record = DatasetRecord::new(&dataset);
        assert_eq!(record.class_names, dataset.info.class_names);
        record.sources = [("data/birds".to_owned(), "0".repeat(64))].into();
        let mut json = serde_json::to_value(&record).unwrap();
        assert_eq!(serde_json::from_value::<DatasetRecord>(json.clone()).unwrap(), record);
        let fields = json.as_object_mut().unwrap();
        fields.remove("class_names").unwrap();
        fields.remove("sources").unwrap();
        let older: DatasetRecord = serde_json::from_value(json.clone()).unwrap();
        assert!(older.class_names.is_empty() && older.sources.is_empty());
        assert_eq!(serde_json::to_value(&older).unwrap(), json, "what it lacks is not added");
    }

    #[test]
    fn the_key_at_fault_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let record = crate::synthetic::write(dir.path(), "z", 1, 2).unwrap().finished().unwrap();
        let json = record.to_json();
        assert_eq!(ZooRecord::from_json(json.as_bytes()).unwrap(), record);
        for (key, from, to) in [("models", "1,", "\"1\","), ("name", "\"z\"", "[]"), ("engine", "null", "\"mine\"")] {
            let wrong = json.replacen(&format!("\"{key}\": {from}"), &format!("\"{key}\": {to}"), 1);
            let error = ZooRecord::from_json(wrong.as_bytes()).unwrap_err();
            assert!(error.starts_with(&format!("`{key}`: invalid type")), "{error}");
        }
    }

    #[test]
    fn differences_name_fields_and_values() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = crate::synthetic::write(dir.path(), "z", 3, 2).unwrap().finished().unwrap();
        record.manifest = serde_json::json!({ "train": { "batch-size": 8 }, "seed": 1 });
        let mut other = record.clone();
        other.dataset.class_names = vec!["a".into()];
        other.dataset.sources = [("data/birds".into(), "0".repeat(64))].into();
        assert_eq!(record.differences(&other), "");
        other.manifest = serde_json::json!({ "train": { "batch-size": 8, "epochs": 4 }, "seed": 1 });
        other.states += 1;
        other.engine = Some(EngineRecord { name: "dfdx".into(), version: "9".into() });
        let found = record.differences(&other);
        assert!(found.contains("`manifest.train.epochs` (null and 4)"), "{found}");
        assert!(found.contains("engine") && !found.contains("states"), "{found}");
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
