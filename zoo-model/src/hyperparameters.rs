//! One model's hyperparameters, and `params.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::architecture::{Architecture, GeometryError, Network};
use crate::augmentation::Augmentation;
use crate::files::{read_limited, FileError};
use crate::plan::ModelId;
use crate::text::json_fault;

/// Element-wise activation functions, with PyTorch's definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// max(0, x).
    Relu,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// Exact GELU: x / 2 (1 + erf(x / sqrt 2)).
    Gelu,
    /// x for positive x, 0.01 x otherwise.
    #[serde(alias = "leaky-relu", alias = "leaky_relu")]
    LeakyRelu,
    /// x sigmoid(x).
    Silu,
}

/// Initialisations of weights; every bias starts at 0.01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// U(0, 1).
    Uniform,
    /// N(0, 1).
    Normal,
    /// U(-b, b), b = sqrt(6 / fan_in).
    KaimingUniform,
    /// N(0, 2 / fan_in).
    KaimingNormal,
    /// U(-b, b), b = sqrt(6 / (fan_in + fan_out)).
    XavierUniform,
    /// N(0, 2 / (fan_in + fan_out)).
    XavierNormal,
}

/// Optimisers, with PyTorch's semantics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam, beta 0.9 / 0.999, eps 1e-8, weight decay as L2 added to the gradient.
    Adam,
    /// Stochastic gradient descent with momentum, no dampening, weight decay as L2.
    Sgd,
}

/// How learning rate and momentum change from step to step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// They do not.
    #[default]
    Constant,
    /// PyTorch's OneCycleLR with its defaults (Smith and Topin 2017, arXiv 1708.07120); the learning
    /// rate of the hyperparameters is the largest.
    OneCycle,
}

impl Schedule {
    /// Whether nothing changes.
    pub fn is_constant(&self) -> bool {
        *self == Self::Constant
    }
}

/// Everything, besides the data, that a model's bits depend on.
///
/// The default is the published seed zoo of MNIST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Family of networks.
    #[serde(rename = "model::type")]
    pub architecture: Architecture,
    /// Sizes of the hidden layers of an `mlp`; other architectures have their own.
    #[serde(rename = "model::hidden", default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<u32>,
    /// Activation function.
    #[serde(rename = "model::nlin")]
    pub activation: Activation,
    /// Initialisation of the weights.
    #[serde(rename = "model::init_type")]
    pub init: Init,
    /// Probability of dropping a unit, in [0, 1).
    #[serde(rename = "model::dropout")]
    pub dropout: f64,
    /// Optimiser.
    #[serde(rename = "optim::optimizer")]
    pub optimizer: Optimizer,
    /// Learning rate.
    #[serde(rename = "optim::lr")]
    pub learning_rate: f64,
    /// Weight decay.
    #[serde(rename = "optim::wd")]
    pub weight_decay: f64,
    /// Momentum of SGD; 0 with Adam.
    #[serde(rename = "optim::momentum")]
    pub momentum: f64,
    /// Schedule of learning rate and momentum.
    #[serde(rename = "optim::scheduler", default, skip_serializing_if = "Schedule::is_constant")]
    pub schedule: Schedule,
    /// Random changes of the training images.
    #[serde(rename = "training::augment", default, skip_serializing_if = "Augmentation::is_none")]
    pub augmentation: Augmentation,
    /// Samples a step; an epoch's last batch may be smaller.
    #[serde(rename = "training::batchsize")]
    pub batch_size: usize,
    /// Epochs trained.
    #[serde(rename = "training::epochs_train")]
    pub epochs: u32,
    /// Seed of every random draw.
    pub seed: u64,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            architecture: Architecture::CnnS,
            hidden: Vec::new(),
            activation: Activation::Tanh,
            init: Init::Uniform,
            dropout: 0.0,
            optimizer: Optimizer::Adam,
            learning_rate: 3e-4,
            weight_decay: 0.0,
            momentum: 0.0,
            schedule: Schedule::Constant,
            augmentation: Augmentation::NONE,
            batch_size: 10,
            epochs: 50,
            seed: 1,
        }
    }
}

impl Hyperparameters {
    /// The network for images of shape (channels, height, width) and so many classes.
    pub fn network(&self, input: [usize; 3], classes: usize) -> Result<Network, GeometryError> {
        Network::new(self, input, classes)
    }
}

/// What a twin records of the model that it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Name of the parent's zoo.
    pub zoo: String,
    /// Id of the parent in it.
    pub id: ModelId,
    /// SHA-256 of the parent's `states.safetensors`.
    pub states_sha256: String,
}

/// `params.json`: a model's configuration, with the published collection's keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// Index in the plan.
    #[serde(rename = "zoo::id")]
    pub id: ModelId,
    /// Hyperparameters; a twin repeats its parent's.
    #[serde(flatten)]
    pub hyperparameters: Hyperparameters,
    /// Input channels.
    #[serde(rename = "model::channels_in")]
    pub channels: usize,
    /// Height and width of an image in pixels.
    #[serde(rename = "model::i_dim")]
    pub image_side: usize,
    /// Classes.
    #[serde(rename = "model::o_dim")]
    pub classes: usize,
    /// The parent, in a twin.
    #[serde(rename = "zoo::parent", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Further keys, such as a twin's `sparsify::method`; unknown ones are kept.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Params {
    /// Size limit of a `params.json`.
    pub const SIZE_LIMIT: u64 = 1 << 20;

    /// The configuration of model `id` of a zoo on images of shape (channels, side, side).
    pub fn new(id: ModelId, hyperparameters: Hyperparameters, network: &Network) -> Self {
        let [channels, image_side, _] = network.input();
        Self {
            id,
            hyperparameters,
            channels,
            image_side,
            classes: network.classes(),
            parent: None,
            extra: BTreeMap::new(),
        }
    }

    fn sound() -> Value {
        let hyperparameters = Hyperparameters::default();
        let network = hyperparameters.network([1, 28, 28], 10).expect("28 pixels");
        serde_json::to_value(Self::new(ModelId(0), hyperparameters, &network)).expect("plain data serialises")
    }

    /// The network that this configuration describes.
    pub fn network(&self) -> Result<Network, GeometryError> {
        self.hyperparameters.network([self.channels, self.image_side, self.image_side], self.classes)
    }

    /// Parses a `params.json` and checks the ranges of what sizes depend on.
    ///
    /// # Errors
    /// A sentence that names the key and the fault.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let params: Self = serde_json::from_slice(json).map_err(|e| json_fault::<Self>(json, &Self::sound(), &e))?;
        if let Some(integer) = beyond_64_bits(json) {
            return Err(format!("holds the integer {integer}, which has more than 64 bits: write it as text"));
        }
        let h = &params.hyperparameters;
        let within = |key: &str, ok: bool, range: &str| if ok { Ok(()) } else { Err(format!("{key} must be {range}")) };
        within("model::channels_in", (1..=16).contains(&params.channels), "from 1 to 16")?;
        within("model::i_dim", (1..=4096).contains(&params.image_side), "from 1 to 4096")?;
        within("model::o_dim", (1..=65_536).contains(&params.classes), "from 1 to 65536")?;
        within("model::dropout", (0.0..1.0).contains(&h.dropout), "in [0, 1)")?;
        check_hidden(h.architecture, &h.hidden).map_err(|m| format!("model::hidden {m}"))?;
        h.augmentation.check().map_err(|m| format!("training::augment: {m}"))?;
        within("training::batchsize", (1..=1 << 24).contains(&h.batch_size), "from 1 to 16777216")?;
        Ok(params)
    }

    /// Reads a `params.json`.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::from_json(&read_limited(path, Self::SIZE_LIMIT)?).map_err(|m| FileError::format(path, m))
    }

    /// The file's content, ending in a newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises") + "\n"
    }

    /// The sparsity that a twin was pruned to, if its method aims at one.
    pub fn target_sparsity(&self) -> Option<f64> {
        self.extra.get("sparsify::sparsity")?.as_f64()
    }
}

/// The first integer in sound JSON that only a floating-point number could stand for.
fn beyond_64_bits(json: &[u8]) -> Option<&str> {
    let mut rest = std::str::from_utf8(json).ok()?;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[start..];
        if let Some(string) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = string.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            rest = &string[end + 1..];
            continue;
        }
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        if !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            return Some(number);
        }
        rest = after;
    }
    None
}

/// Checks the sizes of hidden layers.
///
/// # Errors
/// What follows the key in a sentence.
pub fn check_hidden(architecture: Architecture, hidden: &[u32]) -> Result<(), String> {
    if architecture != Architecture::Mlp && !hidden.is_empty() {
        return Err(format!("belongs to mlp alone, not to {}", architecture.name()));
    }
    if hidden.len() > 64 || !hidden.iter().all(|n| (1..=65_536).contains(n)) {
        return Err("must list at most 64 sizes from 1 to 65536".into());
    }
    Ok(())
}

/// Serialised name of a unit enum variant, as manifests and `params.json` write it.
pub fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        other => unreachable!("not a plain name: {other:?}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Hyperparameters {
        Hyperparameters {
            architecture: Architecture::CnnS,
            activation: Activation::LeakyRelu,
            init: Init::KaimingUniform,
            dropout: 0.5,
            optimizer: Optimizer::Sgd,
            learning_rate: 1e-3,
            weight_decay: 1e-4,
            momentum: 0.9,
            seed: 7,
            ..Hyperparameters::default()
        }
    }

    #[test]
    fn params_have_the_published_keys_and_keep_unknown_ones() {
        let hyperparameters = example();
        let network = hyperparameters.network([1, 28, 28], 10).unwrap();
        let mut params = Params::new(ModelId(17), hyperparameters, &network);
        params.extra.insert("sparsify::sparsity".into(), 0.8.into());
        let json: Value = serde_json::from_str(&params.to_json()).unwrap();
        for (key, value) in [
            ("zoo::id", Value::from("000017")),
            ("model::type", "cnn-s".into()),
            ("model::nlin", "leakyrelu".into()),
            ("model::init_type", "kaiming_uniform".into()),
            ("optim::lr", 1e-3.into()),
            ("training::batchsize", 10.into()),
            ("seed", 7.into()),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        let back = Params::from_json(params.to_json().as_bytes()).unwrap();
        assert_eq!(back, params);
        assert_eq!(back.target_sparsity(), Some(0.8));
    }

    #[test]
    fn integers_are_kept_to_the_last_digit_or_refused() {
        let hyperparameters = Hyperparameters { seed: u64::MAX, ..example() };
        let network = hyperparameters.network([1, 28, 28], 10).unwrap();
        let json = Params::new(ModelId(0), hyperparameters, &network).to_json();
        let with = |value: &str| json.replace("\"seed\"", &format!("\"a\\\"1\": {value}, \"seed\""));
        for value in
            ["18446744073709551615", "-9223372036854775808", "1e300", "-0", "[1, 2.5e+3]", "\"1\\\\\", \"b\": 1"]
        {
            let json = with(value);
            let params = Params::from_json(json.as_bytes()).unwrap();
            assert_eq!(params.hyperparameters.seed, u64::MAX);
            assert_eq!(Params::from_json(params.to_json().as_bytes()).unwrap(), params, "{json}");
        }
        for value in ["18446744073709551616", "-9223372036854775809", "{\"b\": [-99999999999999999999]}"] {
            let error = Params::from_json(with(value).as_bytes()).unwrap_err();
            assert!(error.contains("more than 64 bits: write it as text"), "{error}");
        }
    }

    #[test]
    fn the_key_at_fault_is_named() {
        let json = serde_json::to_string(&Params::sound()).unwrap();
        for (key, from, to) in [
            ("training::batchsize", "10", "\"ten\""),
            ("seed", "1", "-1"),
            ("model::nlin", "\"tanh\"", "\"tan\""),
            ("optim::lr", "0.0003", "null"),
            ("zoo::id", "\"000000\"", "0"),
        ] {
            let (from, to) = (format!("\"{key}\":{from}"), format!("\"{key}\":{to}"));
            assert!(json.contains(&from), "{json}");
            let error = Params::from_json(json.replace(&from, &to).as_bytes()).unwrap_err();
            assert!(error.starts_with(&format!("`{key}`: ")) && !error.contains(" at line"), "{error}");
        }
        let error = Params::from_json(json.replace("\"seed\":1,", "").as_bytes()).unwrap_err();
        assert!(error.starts_with("missing field `seed`"), "{error}");
        assert!(Params::from_json(b"{").unwrap_err().starts_with("EOF"));
        assert!(Params::from_json(b"[]").is_err());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let hyperparameters = example();
        let network = hyperparameters.network([1, 28, 28], 10).unwrap();
        let json = Params::new(ModelId(0), hyperparameters, &network).to_json();
        let huge = json.replace("\"model::o_dim\": 10", "\"model::o_dim\": 99999999999");
        assert!(Params::from_json(huge.as_bytes()).unwrap_err().contains("model::o_dim"));
    }
}
