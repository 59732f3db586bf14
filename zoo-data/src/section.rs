//! `[data]`.

use serde::{Deserialize, Deserializer, Serialize};
use zoo_model::deserialize::{count, list, name};
use zoo_model::{Manifest, ManifestError};

use crate::datasets::DatasetName;
use crate::description::Origin;
use crate::transform::TransformSection;

/// `[data]`: which dataset, how it is split and transformed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct DataSection {
    /// The published dataset.
    #[serde(deserialize_with = "name")]
    pub dataset: DatasetName,
    /// Samples drawn from the published training part for training.
    #[serde(deserialize_with = "count")]
    pub train: u32,
    /// Samples drawn from it for validation.
    #[serde(default)]
    pub val: u32,
    /// Seed of that draw.
    #[serde(default = "default_split_seed")]
    pub split_seed: u64,
    /// Transforms of the pixels; without the key, those of the dataset's entry in the zoos.
    #[serde(default)]
    pub transform: Option<TransformSection>,
    /// Normalisation of pixel / 255.
    #[serde(default)]
    pub normalize: NormalizeSection,
    /// With `image-folder`: the folder of the pictures, below the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// With `image-folder`: the names of the classes' folders, in the order of their labels.
    #[serde(default, deserialize_with = "some_list", skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// With `image-folder`: the number of test images, which must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<u32>,
    /// Maximum number of samples of a split, if the zoo is reduced.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl DataSection {
    /// Reads the section of a manifest, and cuts it as asked for.
    ///
    /// # Errors
    /// A value is impossible, or does not belong to the dataset.
    pub fn of(manifest: &Manifest) -> Result<Self, ManifestError> {
        let mut section: Self = manifest.required("data")?;
        let reduced = |n: u32| manifest.reduction.samples(n as usize) as u32;
        section.limit = manifest.reduction.samples;
        (section.train, section.val) = (reduced(section.train), reduced(section.val));
        let given = [
            ("folder", section.folder.is_some()),
            ("classes", section.classes.is_some()),
            ("test", section.test.is_some()),
        ];
        let own = matches!(section.dataset.description().origin, Origin::Folder);
        if let Some((key, _)) = given.iter().find(|(_, given)| *given != own) {
            let message = match own {
                true => format!("image-folder requires `{key}`"),
                false => format!("`{key}` is only valid for image-folder"),
            };
            return Err(
                manifest.error(if own { "data.dataset".into() } else { format!("data.{key}") }.as_str(), message)
            );
        }
        if let Some(folder) = section.folder.as_ref().filter(|f| !f.split('/').all(is_folder_name)) {
            let message = format!("is {folder:?}, expected a folder below the root, such as \"data/birds\"");
            return Err(manifest.error("data.folder", message));
        }
        if let Some(classes) = &section.classes {
            let mut sorted = classes.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if sorted.is_empty() || sorted.len() < classes.len() || !classes.iter().all(|c| is_folder_name(c)) {
                return Err(manifest.error("data.classes", "must be a list of distinct folder names"));
            }
        }
        let transform = section.transforms();
        if own && transform.center_crop.or(transform.resize).is_none() {
            let message = "image-folder requires `center-crop` or `resize`, so that all images have the same size";
            return Err(manifest.error("data.transform", message));
        }
        Ok(section)
    }

    /// The transforms: its own, or those of the dataset.
    pub fn transforms(&self) -> TransformSection {
        self.transform.unwrap_or(self.dataset.description().transform)
    }

    /// Number of classes.
    pub fn class_count(&self) -> usize {
        self.classes.as_ref().map_or(self.dataset.description().classes, Vec::len)
    }

    /// Names of the classes; empty if the dataset's files name them.
    pub fn class_names(&self) -> Vec<String> {
        let known = || self.dataset.description().class_names.iter().map(|&n| n.to_owned()).collect();
        self.classes.clone().unwrap_or_else(known)
    }

    /// Folder of the pictures below the root; empty but for `image-folder`.
    pub(crate) fn folder(&self) -> &str {
        self.folder.as_deref().unwrap_or_default()
    }
}

fn is_folder_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', ':'])
        && !name.contains(char::is_control)
}

/// Mean and standard deviation per channel, or one for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct NormalizeSection {
    /// Subtracted.
    #[serde(deserialize_with = "finite")]
    pub mean: Vec<f64>,
    /// Divides after that.
    #[serde(deserialize_with = "positive")]
    pub std: Vec<f64>,
}

impl Default for NormalizeSection {
    fn default() -> Self {
        Self { mean: vec![0.5], std: vec![0.5] }
    }
}

fn default_split_seed() -> u64 {
    42
}

fn some_list<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    list(d).map(Some)
}

fn finite<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    checked(d, |v| v.is_finite(), "finite numbers")
}

fn positive<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    checked(d, |v| v.is_finite() && v > 0.0, "finite numbers above 0")
}

fn checked<'de, D: Deserializer<'de>>(d: D, ok: impl Fn(f64) -> bool, what: &str) -> Result<Vec<f64>, D::Error> {
    let values: Vec<f64> = list(d)?;
    if values.is_empty() || values.iter().any(|&v| !ok(v)) {
        return Err(serde::de::Error::custom(format!(
            "must be a list of {what}: one per channel, or one for all channels"
        )));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &str) -> Result<DataSection, ManifestError> {
        let text = format!(
            "[data]\ndataset = \"image-folder\"\nfolder = \"data/a\"\ntest = 1\ntrain = 2\ntransform = {{ resize = 8 }}\n{keys}"
        );
        DataSection::of(&Manifest::parse("m.toml", text).unwrap())
    }

    #[test]
    fn a_list_of_one_value_may_be_a_scalar() {
        let scalars = of("classes = \"a\"\nnormalize = { mean = 0.5, std = 1 }\n").unwrap();
        let lists = of("classes = [\"a\"]\nnormalize = { mean = [0.5], std = [1.0] }\n").unwrap();
        assert_eq!(scalars, lists);
        assert_eq!(serde_json::to_string(&scalars).unwrap(), serde_json::to_string(&lists).unwrap());
        for (keys, message) in [
            ("classes = 5", "m.toml:7: data.classes: invalid type: integer `5`, expected a string"),
            ("classes = [\"a\", 5]", "m.toml:7: data.classes: invalid type: integer `5`, expected a string"),
            ("classes = []", "m.toml:7: data.classes: must be a list of distinct folder names"),
            ("classes = \"a\"\nnormalize = { mean = \"a\", std = 1 }", "m.toml:8: data.normalize.mean: invalid type"),
            ("classes = \"a\"\nnormalize = { mean = 0, std = 0 }", "m.toml:8: data.normalize.std: must be a list of"),
        ] {
            let error = of(keys).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
