//! One twin zoo to make, and the JSON that stands for it in `zoo.json` and in fingerprints.

use std::sync::Arc;
use zoo_engine::ModelSpec;
use zoo_model::Hyperparameters;

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use zoo_model::text::alternatives;

use crate::methods::{method, names, Pruning};

/// One twin zoo to make.
///
/// It serialises as one object: `method`, the method's own settings, `epochs`, and `learning-rate` if
/// there is one. `zoo.json` holds it, and the twin zoo's fingerprint is computed from it. The suffix is
/// not part of it, and empty in a twin that was read back.
#[derive(Debug, Clone)]
pub struct Twin {
    /// What follows the parent's name in the twin's: `magnitude-80`, `magnitude-80-cubic`,
    /// `variational-dropout`.
    pub suffix: String,
    /// How weights are removed.
    pub pruning: Arc<dyn Pruning>,
    /// Epochs of fine-tuning; 0 keeps the pruned models as they are.
    pub epochs: u32,
    /// Learning rate of the fine-tuning; `None`: the parent's.
    pub learning_rate: Option<f64>,
}

impl Twin {
    /// What is known of the twin of a model with these hyperparameters, before there is a task.
    pub fn spec(&self, hyperparameters: Hyperparameters) -> ModelSpec {
        ModelSpec { hyperparameters, sparsification: self.pruning.sparsification() }
    }

    /// Name of the twin zoo of a zoo of this name.
    pub fn zoo_name(&self, parent: &str) -> String {
        format!("{parent}-{}", self.suffix)
    }

    /// The kept states of each model: after each epoch; if the method [keeps it](Pruning::keeps_initial),
    /// also that before the first, as epoch 0.
    pub fn kept_epochs(&self) -> Vec<u32> {
        let first = u32::from(!self.pruning.keeps_initial());
        (first..=self.epochs).collect()
    }
}

impl PartialEq for Twin {
    fn eq(&self, other: &Self) -> bool {
        let own = |twin: &Self| (twin.pruning.method().name(), twin.pruning.settings());
        (&self.suffix, self.epochs, self.learning_rate) == (&other.suffix, other.epochs, other.learning_rate)
            && own(self) == own(other)
    }
}

impl Serialize for Twin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("method", self.pruning.method().name())?;
        for (key, value) in self.pruning.settings() {
            map.serialize_entry(&key, &value)?;
        }
        map.serialize_entry("epochs", &self.epochs)?;
        if let Some(learning_rate) = self.learning_rate {
            map.serialize_entry("learning-rate", &learning_rate)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Twin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Recorded {
            method: String,
            epochs: u32,
            learning_rate: Option<f64>,
            #[serde(flatten)]
            settings: Map<String, Value>,
        }
        let Recorded { method: name, epochs, learning_rate, settings } = Recorded::deserialize(deserializer)?;
        let unknown = || D::Error::custom(format!("unknown variant `{name}`, expected {}", alternatives(&names())));
        let pruning = method(&name).ok_or_else(unknown)?.read_settings(settings).map_err(D::Error::custom)?;
        Ok(Self { suffix: String::new(), pruning, epochs, learning_rate })
    }
}
