//! `zoo.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::{Dataset, Split};
use crate::plan::check_zoo_name;
use crate::text::json_fault;
use crate::FORMAT_VERSION;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
