//! The sections of a manifest that say which models a zoo has.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, value, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::architecture::Architecture;
use crate::augmentation::Augmentation;
use crate::deserialize::{count, distinct, list, name, names, numbers};
use crate::init::Init;
use crate::model_id::MODEL_LIMIT;
use crate::optimizer::Optimizer;
use crate::random::{Purpose, Stream};
use crate::schedule::Schedule;

/// `[zoo]`: what the zoo is called and under which terms it may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ZooSection {
    /// Name of the zoo's directory and archive.
    #[serde(deserialize_with = "zoo_name")]
    pub name: String,
    /// One sentence for the dataset card.
    #[serde(default, deserialize_with = "one_line")]
    pub description: String,
    /// SPDX identifier of the licence.
    #[serde(default = "default_license", deserialize_with = "license")]
    pub license: String,
}

/// `[model]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ModelSection {
    /// Family of networks.
    #[serde(deserialize_with = "name")]
    pub architecture: Architecture,
    /// Sizes of the hidden layers of an `mlp`.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<u32>,
}

/// `[grid]`: the zoo is the Cartesian product of these lists; a scalar is a list of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct GridSection {
    /// Activations.
    #[serde(deserialize_with = "names")]
    pub activation: Vec<Activation>,
    /// Initialisations.
    #[serde(deserialize_with = "names")]
    pub init: Vec<Init>,
    /// Dropout probabilities, in [0, 1).
    #[serde(default = "no_regularization", deserialize_with = "dropouts")]
    pub dropout: Vec<f64>,
    /// Optimisers.
    #[serde(deserialize_with = "names")]
    pub optimizer: Vec<Optimizer>,
    /// Learning rates, > 0.
    #[serde(deserialize_with = "learning_rates")]
    pub learning_rate: Vec<f64>,
    /// Weight decays, >= 0.
    #[serde(default = "no_regularization", deserialize_with = "weight_decays")]
    pub weight_decay: Vec<f64>,
    /// Seeds.
    pub seed: Seeds,
}

/// Seeds of the models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seeds {
    /// Every grid cell once per seed from the first to the second, both included.
    Range([u64; 2]),
    /// The given number of models per cell, each with its own seed below 1,000,000.
    PerModel(u32),
    /// Every grid cell once per seed of the list.
    #[serde(untagged)]
    List(Vec<u64>),
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct TrainSection {
    /// Epochs.
    #[serde(deserialize_with = "count")]
    pub epochs: u32,
    /// Samples per step; an epoch's last batch may be smaller.
    #[serde(default = "default_batch_size", deserialize_with = "count")]
    pub batch_size: u32,
    /// Momentum of SGD, in [0, 1); Adam has none.
    #[serde(default = "default_momentum", deserialize_with = "momentum")]
    pub momentum: f64,
    /// Schedule of learning rate and momentum.
    #[serde(default, deserialize_with = "name", skip_serializing_if = "Schedule::is_constant")]
    pub schedule: Schedule,
    /// Random changes of the training images.
    #[serde(default, deserialize_with = "augmentation", skip_serializing_if = "Augmentation::is_none")]
    pub augment: Augmentation,
    /// Keep the state of every n-th epoch; the last is always kept.
    #[serde(default = "default_checkpoint_every", deserialize_with = "count")]
    pub checkpoint_every: u32,
    /// Keep the initial state as epoch 0.
    #[serde(default = "default_keep_initial")]
    pub keep_initial: bool,
}

impl TrainSection {
    /// The epochs whose states are kept.
    pub fn kept_epochs(&self) -> Vec<u32> {
        let first = u32::from(!self.keep_initial);
        (first..=self.epochs).filter(|e| e % self.checkpoint_every == 0 || *e == self.epochs).collect()
    }
}

impl GridSection {
    pub(super) fn cells(&self) -> Option<usize> {
        [
            self.activation.len(),
            self.init.len(),
            self.dropout.len(),
            self.optimizer.len(),
            self.learning_rate.len(),
            self.weight_decay.len(),
        ]
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n))
    }
}

impl Seeds {
    pub(super) fn per_cell(&self) -> usize {
        match self {
            Self::List(seeds) => seeds.len(),
            Self::Range([first, last]) => (last - first).saturating_add(1) as usize,
            Self::PerModel(n) => *n as usize,
        }
    }

    /// Seeds of the plan's first `models` models.
    pub(super) fn draw(&self, models: usize) -> Vec<u64> {
        match self {
            Self::List(seeds) => seeds.iter().copied().cycle().take(models).collect(),
            Self::Range([first, last]) => (*first..=*last).cycle().take(models).collect(),
            Self::PerModel(_) => {
                let mut stream = Stream::new(0, Purpose::ModelSeed, 0, 0);
                let mut taken = HashSet::new();
                let fresh = std::iter::from_fn(|| Some(u64::from(stream.below(1_000_000))));
                fresh.filter(|&seed| taken.insert(seed)).take(models).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SeedsVisitor;
        impl<'de> Visitor<'de> for SeedsVisitor {
            type Value = Seeds;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a seed, a list of seeds, {{ range = [first, last] }} or {{ per-model = n }}")
            }
            fn visit_i64<E: de::Error>(self, seed: i64) -> Result<Seeds, E> {
                u64::try_from(seed).map(|s| Seeds::List(vec![s])).map_err(|_| E::custom("a seed must not be negative"))
            }
            fn visit_u64<E: de::Error>(self, seed: u64) -> Result<Seeds, E> {
                Ok(Seeds::List(vec![seed]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Seeds, A::Error> {
                distinct(Vec::deserialize(value::SeqAccessDeserializer::new(seq))?).map(Seeds::List)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Seeds, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields, rename_all = "kebab-case")]
                struct Rule {
                    range: Option<Vec<u64>>,
                    per_model: Option<u32>,
                }
                let Rule { range, per_model } = Rule::deserialize(value::MapAccessDeserializer::new(map))?;
                let range = match range.as_deref() {
                    None => None,
                    Some(&[first, last]) => Some([first, last]),
                    Some(other) => {
                        let message = format!("a range is [first, last], not {} seeds", other.len());
                        return Err(de::Error::custom(message));
                    }
                };
                match (range, per_model) {
                    (Some([first, last]), None) if first > last => {
                        Err(de::Error::custom(format!("the range [{first}, {last}] is empty")))
                    }
                    (Some(range), None) => Ok(Seeds::Range(range)),
                    (None, Some(n)) if (1..=MODEL_LIMIT as u32).contains(&n) => Ok(Seeds::PerModel(n)),
                    (None, Some(n)) => {
                        Err(de::Error::custom(format!("per-model must be from 1 to {MODEL_LIMIT}, not {n}")))
                    }
                    _ => Err(de::Error::custom("name either `range` or `per-model`")),
                }
            }
        }
        deserializer.deserialize_any(SeedsVisitor)
    }
}

fn dropouts<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    numbers(d, |v| (0.0..1.0).contains(&v), "at least 0 and below 1")
}

fn learning_rates<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    numbers(d, |v| v > 0.0 && v.is_finite(), "a finite number above 0")
}

fn weight_decays<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    numbers(d, |v| v >= 0.0 && v.is_finite(), "a finite number, 0 or above")
}

fn momentum<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    numbers(d, |v| (0.0..1.0).contains(&v), "at least 0 and below 1").map(|v| v[0])
}

fn zoo_name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let name = String::deserialize(d)?;
    check_zoo_name(&name).map_err(de::Error::custom)?;
    Ok(name)
}

/// Text that is shown as it is.
fn one_line<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if text.contains(char::is_control) {
        return Err(de::Error::custom("must be one line without control characters"));
    }
    Ok(text)
}

/// An SPDX expression, by its letters.
fn license<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let license = String::deserialize(d)?;
    if license.is_empty() || !license.chars().all(|c| c.is_ascii_alphanumeric() || ".-+() ".contains(c)) {
        let message =
            "must be an SPDX identifier such as CC-BY-4.0: letters, digits, `.`, `-`, `+`, parentheses and spaces";
        return Err(de::Error::custom(message));
    }
    Ok(license)
}

/// Names of zoos are folder names: 1 to 100 letters, digits, `.`, `_` and `-`, a letter or digit first.
pub fn check_zoo_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if plain && name.len() <= 100 && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) {
        return Ok(());
    }
    Err(format!(
        "`{name}` is not a valid zoo name: 1 to 100 letters, digits, `.`, `_` or `-`, starting with a letter or digit"
    ))
}

fn no_regularization() -> Vec<f64> {
    vec![0.0]
}
fn default_checkpoint_every() -> u32 {
    1
}
fn default_keep_initial() -> bool {
    true
}
fn augmentation<'de, D: Deserializer<'de>>(d: D) -> Result<Augmentation, D::Error> {
    let augmentation = Augmentation::deserialize(d)?;
    augmentation.check().map_err(de::Error::custom)?;
    Ok(augmentation)
}

fn default_batch_size() -> u32 {
    10
}
fn default_momentum() -> f64 {
    0.9
}
fn default_license() -> String {
    "CC-BY-4.0".into()
}
