//! The grid of a manifest and its expansion into models.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, value, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::architecture::Architecture;
use crate::augmentation::Augmentation;
use crate::hyperparameters::{check_hidden, Activation, Hyperparameters, Init, Optimizer, Schedule};
use crate::manifest::{Manifest, ManifestError, Reduction};
use crate::random::{Purpose, Stream};

/// Most models that a zoo can have: ids are six digits.
pub const MODEL_LIMIT: usize = 1_000_000;

/// Index of a model in its zoo's whole plan; written with six digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub u32);

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

impl FromStr for ModelId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let digits = s.len() == 6 && s.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| Self(s.parse().expect("six digits")))
            .ok_or_else(|| format!("`{s}` is not a model id of six digits"))
    }
}

impl Serialize for ModelId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

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
    #[serde(default = "zero", deserialize_with = "dropouts")]
    pub dropout: Vec<f64>,
    /// Optimisers.
    #[serde(deserialize_with = "names")]
    pub optimizer: Vec<Optimizer>,
    /// Learning rates, > 0.
    #[serde(deserialize_with = "learning_rates")]
    pub learning_rate: Vec<f64>,
    /// Weight decays, >= 0.
    #[serde(default = "zero", deserialize_with = "weight_decays")]
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
    /// So many models a cell, each with a seed of its own below 1,000,000.
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
    /// Samples a step; an epoch's last batch may be smaller.
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
    #[serde(default = "one", deserialize_with = "count")]
    pub checkpoint_every: u32,
    /// Keep the initial state as epoch 0.
    #[serde(default = "yes")]
    pub keep_initial: bool,
}

impl TrainSection {
    /// The epochs whose states are kept.
    pub fn kept_epochs(&self) -> Vec<u32> {
        let first = u32::from(!self.keep_initial);
        (first..=self.epochs).filter(|e| e % self.checkpoint_every == 0 || *e == self.epochs).collect()
    }
}

/// One model to train.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedModel {
    /// Index in the whole plan.
    pub id: ModelId,
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
}

/// A manifest's models in their fixed order.
///
/// The order is that of nested loops over activation, init, dropout, optimizer, learning-rate and
/// weight-decay, each in the manifest's order, with the seeds innermost.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `[zoo]`.
    pub zoo: ZooSection,
    /// `[model]`.
    pub model: ModelSection,
    /// `[grid]`.
    pub grid: GridSection,
    /// `[train]`, after the reduction.
    pub train: TrainSection,
    /// The cut of the plan, if one was asked for.
    pub reduction: Reduction,
    /// The models, ids ascending.
    pub models: Vec<PlannedModel>,
}

impl Plan {
    /// Expands a manifest.
    pub fn new(manifest: &Manifest) -> Result<Self, ManifestError> {
        let zoo: ZooSection = manifest.required("zoo")?;
        let model: ModelSection = manifest.required("model")?;
        let grid: GridSection = manifest.required("grid")?;
        let mut train: TrainSection = manifest.required("train")?;
        check_hidden(model.architecture, &model.hidden).map_err(|m| manifest.error("model.hidden", m))?;
        let reduction = manifest.reduction;
        train.epochs = reduction.epochs(train.epochs);

        let total = grid
            .cells()
            .and_then(|cells| cells.checked_mul(grid.seed.per_cell()))
            .filter(|&n| n <= MODEL_LIMIT)
            .ok_or_else(|| {
                manifest.error("grid", format!("makes more than {MODEL_LIMIT} models, the most a zoo can have"))
            })?;
        let mut models = expand(&model, &grid, &train);
        debug_assert_eq!(models.len(), total);
        if let Some(wanted) = reduction.models {
            let wanted = (wanted as usize).clamp(1, total);
            models = (0..wanted).map(|i| models[i * total / wanted].clone()).collect();
        }
        Ok(Self { zoo, model, grid, train, reduction, models })
    }

    /// What of the manifest a model's bits depend on, as recorded in `zoo.json`.
    pub fn record(&self) -> serde_json::Value {
        let mut record = serde_json::json!({"model": self.model, "grid": self.grid, "train": self.train});
        if !self.reduction.is_none() {
            record["reduction"] = serde_json::to_value(self.reduction).expect("plain data");
        }
        record
    }
}

fn expand(model: &ModelSection, grid: &GridSection, train: &TrainSection) -> Vec<PlannedModel> {
    let mut models = Vec::new();
    for &activation in &grid.activation {
        for &init in &grid.init {
            for &dropout in &grid.dropout {
                for &optimizer in &grid.optimizer {
                    for &learning_rate in &grid.learning_rate {
                        for &weight_decay in &grid.weight_decay {
                            models.extend((0..grid.seed.per_cell()).map(|_| Hyperparameters {
                                architecture: model.architecture,
                                hidden: model.hidden.clone(),
                                activation,
                                init,
                                dropout,
                                optimizer,
                                learning_rate,
                                weight_decay,
                                momentum: if optimizer == Optimizer::Sgd { train.momentum } else { 0.0 },
                                schedule: train.schedule,
                                augmentation: train.augment,
                                batch_size: train.batch_size as usize,
                                epochs: train.epochs,
                                seed: 0,
                            }));
                        }
                    }
                }
            }
        }
    }
    let seeds = grid.seed.draw(models.len());
    let with_seed = models.into_iter().zip(seeds).enumerate();
    with_seed
        .map(|(i, (mut hyperparameters, seed))| {
            hyperparameters.seed = seed;
            PlannedModel { id: ModelId(i as u32), hyperparameters }
        })
        .collect()
}

impl GridSection {
    fn cells(&self) -> Option<usize> {
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
    fn per_cell(&self) -> usize {
        match self {
            Self::List(seeds) => seeds.len(),
            Self::Range([first, last]) => (last - first).saturating_add(1) as usize,
            Self::PerModel(n) => *n as usize,
        }
    }

    /// Seeds of the plan's first `models` models.
    fn draw(&self, models: usize) -> Vec<u64> {
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

/// One of the names that the enum `T` has; anything else is told what they are.
pub fn name<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct NameVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for NameVisitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            // The enum itself says what it expects when it is given no name at all.
            let none: value::StrDeserializer<value::Error> = "".into_deserializer();
            let refusal = T::deserialize(none).err().map(|e| e.to_string()).unwrap_or_default();
            write!(f, "a name: {}", refusal.split_once("expected ").map_or("see docs/manifest.md", |(_, names)| names))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
            T::deserialize(v.into_deserializer())
        }
    }
    deserializer.deserialize_any(NameVisitor(PhantomData))
}

/// A [`list`] of different [`name`]s.
fn names<'de, D: Deserializer<'de>, T: Deserialize<'de> + PartialEq>(d: D) -> Result<Vec<T>, D::Error> {
    #[derive(PartialEq)]
    struct Named<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            name(d).map(Self)
        }
    }
    Ok(distinct(list(d)?)?.into_iter().map(|Named(value)| value).collect())
}

/// A list, or a scalar as a list of one: so every list of a manifest may be written.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct ListVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a value or a list of values")
        }
        fn visit_bool<E: de::Error>(self, v: bool) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_f64<E: de::Error>(self, v: f64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(value::SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

/// Values neither none nor repeated.
fn distinct<T: PartialEq, E: de::Error>(values: Vec<T>) -> Result<Vec<T>, E> {
    if values.is_empty() {
        return Err(E::custom("the list is empty; name at least one value"));
    }
    // Lists of seeds can be long; a repeat is searched for only in those of human length.
    if values.len() <= 4096 && values.iter().enumerate().any(|(i, v)| values[..i].contains(v)) {
        return Err(E::custom("the list names a value twice"));
    }
    Ok(values)
}

/// A [`list`] of different numbers that all lie in a range; `range` says which, for the message.
fn numbers<'de, D: Deserializer<'de>>(d: D, ok: impl Fn(f64) -> bool, range: &str) -> Result<Vec<f64>, D::Error> {
    let values: Vec<f64> = distinct(list(d)?)?;
    match values.iter().find(|&&v| !ok(v)) {
        Some(bad) => Err(de::Error::custom(format!("must be {range}, not {bad}"))),
        None => Ok(values),
    }
}

/// Fractions in (0, 1), such as target sparsities.
pub fn fractions<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    numbers(d, |v| v > 0.0 && v < 1.0, "between 0 and 1, both excluded")
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

/// A count of at least one.
pub fn count<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match i64::deserialize(d)? {
        n @ 1..=1_000_000 => Ok(n as u32),
        n => Err(de::Error::custom(format!("must be from 1 to 1000000, not {n}"))),
    }
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
    Err(format!("`{name}` is no name for a zoo: 1 to 100 letters, digits, `.`, `_` or `-`, a letter or digit first"))
}

fn zero() -> Vec<f64> {
    vec![0.0]
}
fn one() -> u32 {
    1
}
fn yes() -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
[zoo]
name = "z"
[model]
architecture = "cnn-s"
[grid]
activation = ["tanh", "relu"]
init = "uniform"
dropout = [0, 0.5]
optimizer = ["adam", "sgd"]
learning-rate = [1e-3, 1e-4]
weight-decay = 1e-3
seed = { per-model = 10 }
[train]
epochs = 50
"#;

    fn plan(text: &str) -> Result<Plan, ManifestError> {
        Plan::new(&Manifest::parse("m.toml", text.into())?)
    }

    #[test]
    fn a_list_of_one_value_may_be_a_scalar() {
        let scalars = MANIFEST.replace("cnn-s\"", "mlp\"\nhidden = 5").replace("[\"tanh\", \"relu\"]", "\"tanh\"");
        let scalars = scalars.replace("[0, 0.5]", "0").replace("{ per-model = 10 }", "7");
        let lists = MANIFEST.replace("cnn-s\"", "mlp\"\nhidden = [5]").replace("[\"tanh\", \"relu\"]", "[\"tanh\"]");
        let lists = lists.replace("[0, 0.5]", "[0.0]").replace("{ per-model = 10 }", "[7]");
        let (scalars, lists) = (plan(&scalars).unwrap(), plan(&lists).unwrap());
        assert_eq!((&scalars, scalars.record().to_string()), (&lists, lists.record().to_string()));
        assert_eq!(scalars.model.hidden, [5]);
        let of = |hidden: &str| {
            let text = MANIFEST.replace("cnn-s\"", &format!("mlp\"\nhidden = {hidden}"));
            plan(&text).map(|plan| plan.model.hidden)
        };
        assert_eq!((of("[]").unwrap(), of("[6, 6]").unwrap()), (vec![], vec![6, 6]));
        for (hidden, message) in [
            ("-5", "must not be negative"),
            ("0", "must list at most 64 sizes from 1 to 65536"),
            ("\"a\"", "invalid type: string \"a\", expected an integer, 0 or above"),
            ("[6, true]", "invalid type: boolean `true`, expected an integer, 0 or above"),
            ("{ a = 1 }", "invalid type: map, expected a value or a list of values"),
        ] {
            assert_eq!(of(hidden).unwrap_err().to_string(), format!("m.toml:6: model.hidden: {message}"));
        }
    }

    /// 47,360 CNNs with 51 states each, 3,000 ResNet-18 with 50 or 60.
    #[test]
    fn the_papers_manifests_make_as_many_models_and_states_as_it_counts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/paper");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (mut zoos, mut models, mut states) = (0, 0, 0);
        for path in paths.filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let manifest = Manifest::parse(&name, std::fs::read_to_string(&path).unwrap()).unwrap();
            let plan = Plan::new(&manifest).unwrap();
            assert_eq!(plan.zoo.name, name);
            let dataset = name.split_once("-cnn-").or(name.split_once("-resnet18-")).unwrap().0;
            let expected = match (dataset, name.ends_with("-seed")) {
                (_, true) => 1_000,
                ("svhn", _) => 4_320,
                ("cifar10", _) => 1_280,
                _ => 2_560,
            };
            assert_eq!(plan.models.len(), expected, "{name}");
            zoos += 1;
            models += plan.models.len();
            states += plan.models.len() * plan.train.kept_epochs().len();
        }
        assert_eq!((zoos, models, states), (27, 50_360, 2_585_360));
    }

    fn error(from: &str, to: &str) -> String {
        assert!(MANIFEST.contains(from));
        plan(&MANIFEST.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn the_grid_expands_with_seeds_innermost() {
        let plan = plan(MANIFEST).unwrap();
        assert_eq!(plan.models.len(), 2 * 2 * 2 * 2 * 10);
        let first = &plan.models[0].hyperparameters;
        let last = &plan.models[159].hyperparameters;
        assert_eq!((first.activation, first.dropout, first.optimizer), (Activation::Tanh, 0.0, Optimizer::Adam));
        assert_eq!((last.activation, last.dropout, last.optimizer), (Activation::Relu, 0.5, Optimizer::Sgd));
        assert_eq!((first.momentum, last.momentum), (0.0, 0.9));
        assert_eq!(plan.models[9].hyperparameters.learning_rate, 1e-3);
        assert_eq!(plan.models[10].hyperparameters.learning_rate, 1e-4);
        let seeds: HashSet<u64> = plan.models.iter().map(|m| m.hyperparameters.seed).collect();
        assert_eq!(seeds.len(), 160, "each model has a seed of its own");
        assert_eq!(plan.train.kept_epochs().len(), 51);
    }

    #[test]
    fn seeds_can_be_a_range_or_a_list() {
        let ranged = plan(&MANIFEST.replace("{ per-model = 10 }", "{ range = [1, 1000] }")).unwrap();
        assert_eq!(ranged.models.len(), 16_000);
        assert_eq!(ranged.models[1999].hyperparameters.seed, 1000);
        let listed = plan(&MANIFEST.replace("{ per-model = 10 }", "[7, 3]")).unwrap();
        assert_eq!(listed.models[3].hyperparameters.seed, 3);
    }

    #[test]
    fn kept_epochs_end_with_the_last() {
        let every = plan(&MANIFEST.replace("epochs = 50", "epochs = 7\ncheckpoint-every = 3\nkeep-initial = false"));
        assert_eq!(every.unwrap().train.kept_epochs(), [3, 6, 7]);
    }

    #[test]
    fn a_reduction_spreads_over_the_plan_and_keeps_ids() {
        let mut manifest = Manifest::parse("m.toml", MANIFEST.into()).unwrap();
        let whole = Plan::new(&manifest).unwrap();
        manifest.reduction = Reduction { models: Some(4), epochs: Some(2), samples: None };
        let cut = Plan::new(&manifest).unwrap();
        assert_eq!(cut.models.iter().map(|m| m.id.0).collect::<Vec<_>>(), [0, 40, 80, 120]);
        assert_eq!(cut.models[3].hyperparameters.seed, whole.models[120].hyperparameters.seed);
        assert_eq!(cut.train.kept_epochs(), [0, 1, 2]);
        assert_eq!(cut.record()["reduction"]["models"], 4);
    }

    #[test]
    fn impossible_values_name_line_and_key() {
        assert!(error("[0, 0.5]", "[0, 1.5]").starts_with("m.toml:9: grid.dropout: must be at least 0"));
        assert!(error("epochs = 50", "epochs = 0").starts_with("m.toml:15: train.epochs: must be from 1"));
        assert!(error("1e-3, 1e-4", "1e-3, -1").contains("grid.learning-rate: must be a finite number above 0"));
        assert!(error("\"uniform\"", "\"unifrom\"").contains("did you mean `uniform`?"));
        assert!(error("\"uniform\"", "[]").contains("the list is empty"));
        assert!(error("[\"tanh\", \"relu\"]", "[\"tanh\", \"tanh\"]").contains("twice"));
        assert!(error("per-model = 10", "per-modle = 10").contains("did you mean `per-model`?"));
        assert!(
            error("{ per-model = 10 }", "{ per-model = 1, range = [1, 2] }").contains("either `range` or `per-model`")
        );
        assert!(error("per-model = 10", "per-model = 999999").contains("more than 1000000 models"));
        assert!(error("{ per-model = 10 }", "{ range = [0, 9223372036854775807] }").contains("more than"));
        assert!(error("\"z\"", "\"../z\"").starts_with("m.toml:3: zoo.name: `../z` is no name"));
        assert!(error("\"cnn-s\"", "\"cnn-x\"").contains("unknown variant `cnn-x`"));
        assert!(error("\"cnn-s\"", "5").starts_with(
            "m.toml:5: model.architecture: invalid type: integer `5`, expected a name: one of `cnn-s`, `cnn-m`, `resnet18`, `mlp`"
        ));
        assert!(
            error("\"cnn-s\"", "\"cnn-s\"\nhidden = [5]").starts_with("m.toml:6: model.hidden: belongs to mlp alone")
        );
        assert!(error("\"cnn-s\"", "\"mlp\"\nhidden = [0]").contains("sizes from 1 to 65536"));
        assert!(error("[\"tanh\", \"relu\"]", "5").contains("expected a name: one of `tanh`"));
        assert!(error("[\"tanh\", \"relu\"]", "[\"tanh\", 5]").contains("expected a name: one of `tanh`"));
        assert!(error("[\"tanh\", \"relu\"]", "\"ReLU\"").contains("did you mean `relu`?"));
        assert!(error("{ per-model = 10 }", "{ range = [1, 2, 3] }").contains("a range is [first, last], not 3 seeds"));
        assert!(error("{ per-model = 10 }", "{ range = [-1, 2] }").contains("must not be negative"));
        assert!(error("\"z\"", "\"z\"\ndescription = \"a\\u001b[2J\"").contains("zoo.description: must be one line"));
        assert!(error("\"z\"", "\"z\"\ndescription = \"a\\nb\"").contains("zoo.description: must be one line"));
        assert!(error("\"z\"", "\"z\"\nlicense = \"mine: all\"").contains("zoo.license: must be an SPDX identifier"));
        assert!(plan(&MANIFEST.replace("\"z\"", "\"z\"\nlicense = \"MIT OR (Apache-2.0 AND GPL-2.0+)\"")).is_ok());
    }
}
