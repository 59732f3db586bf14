//! `[data]`.

use serde::{Deserialize, Deserializer, Serialize};
use zoo_model::plan::{count, name};

use crate::DatasetName;

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
}

/// Transforms in the order in which they are applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct TransformSection {
    /// To one channel of luma.
    #[serde(default)]
    pub grayscale: bool,
    /// To the central square of this side.
    #[serde(default, deserialize_with = "side")]
    pub center_crop: Option<usize>,
    /// To a square of this side.
    #[serde(default, deserialize_with = "side")]
    pub resize: Option<usize>,
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

fn side<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    match i64::deserialize(d)? {
        n @ 1..=4096 => Ok(Some(n as usize)),
        n => Err(serde::de::Error::custom(format!("must be from 1 to 4096 pixels, not {n}"))),
    }
}

fn finite<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    checked(d, |v| v.is_finite(), "finite numbers")
}

fn positive<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    checked(d, |v| v.is_finite() && v > 0.0, "finite numbers above 0")
}

fn checked<'de, D: Deserializer<'de>>(d: D, ok: impl Fn(f64) -> bool, what: &str) -> Result<Vec<f64>, D::Error> {
    let values = Vec::<f64>::deserialize(d)?;
    if values.is_empty() || values.iter().any(|&v| !ok(v)) {
        return Err(serde::de::Error::custom(format!("must be a list of {what}, one a channel or one for all")));
    }
    Ok(values)
}
