//! `params.json`: one model's configuration.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::architecture::{check_hidden, GeometryError, Network};
use crate::files::{read_limited, FileError};
use crate::hyperparameters::Hyperparameters;
use crate::model_id::ModelId;
use crate::text::json_fault;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Architecture, Init, Optimizer};

    fn example() -> Hyperparameters {
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

    #[test]
    fn ranges_are_checked_to_their_ends() {
        let sound = Params::sound();
        let with = |key: &str, value: Value| {
            let mut json = sound.clone();
            json[key] = value;
            Params::from_json(json.to_string().as_bytes()).map(|_| ())
        };
        for (key, least, most) in [
            ("model::channels_in", 1, 16),
            ("model::i_dim", 1, 4096),
            ("model::o_dim", 1, 65_536),
            ("training::batchsize", 1, 1 << 24),
        ] {
            assert_eq!([least, most].map(|value: u32| with(key, value.into())), [Ok(()), Ok(())], "{key}");
            for wrong in [least - 1, most + 1] {
                assert_eq!(with(key, wrong.into()), Err(format!("{key} must be from {least} to {most}")));
            }
        }
        assert_eq!([0.0, 0.999].map(|dropout| with("model::dropout", dropout.into())), [Ok(()), Ok(())]);
        for wrong in [-0.1, 1.0] {
            assert_eq!(with("model::dropout", wrong.into()), Err("model::dropout must be in [0, 1)".into()));
        }
        let error = with("model::hidden", vec![5].into()).unwrap_err();
        assert_eq!(error, "model::hidden is only valid for mlp, not cnn-s");
        let error = with("training::augment", serde_json::json!({"rotation": 181})).unwrap_err();
        assert!(error.starts_with("training::augment: rotation must be"), "{error}");
    }

    #[test]
    fn a_file_is_read_with_its_path_in_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("params.json");
        let hyperparameters = example();
        let network = hyperparameters.network([3, 28, 28], 7).unwrap();
        let params = Params::new(ModelId(0), hyperparameters, &network);
        std::fs::write(&path, params.to_json()).unwrap();
        assert_eq!(Params::read(&path).unwrap(), params);
        assert_eq!(params.network().unwrap(), network);
        assert!(params.to_json().ends_with("}\n"));
        std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
        assert!(Params::read(&path).unwrap_err().to_string().contains("larger than the 1048576 bytes"));
        std::fs::write(&path, "{").unwrap();
        assert!(Params::read(&path).unwrap_err().to_string().contains("params.json: EOF"));
    }
}
