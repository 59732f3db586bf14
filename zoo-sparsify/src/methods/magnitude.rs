//! Magnitude pruning: the smallest weights are removed, at once or along a ramp, and training continues
//! with what is left.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use zoo_engine::magnitude::{apply, mask, Ramp, Scope};
use zoo_engine::Mask;
use zoo_model::deserialize::{count, fractions, name};
use zoo_model::hyperparameters::name_of;
use zoo_model::manifest::Entry;
use zoo_model::text::counted;
use zoo_model::{Hyperparameters, ManifestError, Network};

use super::{Pruning, PruningMethod, Start};

/// The method `magnitude`.
#[derive(Debug, Clone, Copy)]
pub struct MagnitudeMethod;

/// Magnitude pruning with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Magnitude {
    /// Share of the weights to remove, in (0, 1).
    pub sparsity: f64,
    /// What competes for being kept.
    pub scope: Scope,
    /// Epochs of the cubic [`Ramp`] to this sparsity; `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp_epochs: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    #[default]
    OneShot,
    Cubic,
}

/// Its keys of an entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
struct Keys {
    #[serde(default, deserialize_with = "fractions")]
    sparsity: Vec<f64>,
    #[serde(default, deserialize_with = "name")]
    scope: Scope,
    #[serde(default, deserialize_with = "name")]
    schedule: Schedule,
    #[serde(default, deserialize_with = "some_count")]
    ramp_epochs: Option<u32>,
}

fn some_count<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    count(d).map(Some)
}

/// In percent with as many digits as given: 0.825 is 82.5, not 82.49999999999999.
fn percent(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

impl PruningMethod for MagnitudeMethod {
    fn name(&self) -> &'static str {
        "magnitude"
    }

    fn title(&self) -> &'static str {
        "magnitude pruning"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["sparsity", "scope", "schedule", "ramp-epochs"]
    }

    fn default_epochs(&self) -> u32 {
        15
    }

    fn read_entry(&self, entry: &Entry, epochs: u32) -> Result<Vec<Arc<dyn Pruning>>, ManifestError> {
        let keys: Keys = entry.read(self.keys())?;
        let cubic = match keys.schedule {
            Schedule::OneShot => false,
            Schedule::Cubic => true,
        };
        if keys.sparsity.is_empty() {
            return Err(entry.error("sparsity", "is missing: the fraction of the weights to remove, such as 0.8"));
        }
        if keys.ramp_epochs.is_some() && !cubic {
            return Err(entry.error("ramp-epochs", "needs schedule = \"cubic\""));
        }
        if cubic && epochs == 0 {
            return Err(entry.error("epochs", "must be at least 1 with the cubic schedule"));
        }
        if keys.ramp_epochs.is_some_and(|ramp| ramp > epochs) {
            return Err(entry.error("ramp-epochs", "must not exceed `epochs`"));
        }
        // A reduced plan reaches its sparsity nevertheless.
        let left = entry.reduction().epochs(epochs);
        let ramp_epochs = cubic.then(|| keys.ramp_epochs.unwrap_or(left.div_ceil(2)).min(left));
        let pruning =
            |&sparsity: &f64| -> Arc<dyn Pruning> { Arc::new(Magnitude { sparsity, scope: keys.scope, ramp_epochs }) };
        Ok(keys.sparsity.iter().map(pruning).collect())
    }

    fn read_settings(&self, settings: Map<String, Value>) -> Result<Arc<dyn Pruning>, serde_json::Error> {
        Ok(Arc::new(Magnitude::deserialize(Value::Object(settings))?))
    }

    fn is_named_after_a_twin(&self, folder: &str) -> bool {
        let percent = folder.rsplit_once("-magnitude-").map(|(_, percent)| percent);
        percent.and_then(|p| p.split('-').next()).is_some_and(|p| p.parse::<f64>().is_ok())
    }
}

impl Pruning for Magnitude {
    fn method(&self) -> &'static dyn PruningMethod {
        &MagnitudeMethod
    }

    fn settings(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(settings)) => settings,
            _ => unreachable!("a struct of plain data is an object"),
        }
    }

    fn suffix(&self) -> String {
        let schedule = if self.ramp_epochs.is_some() { "-cubic" } else { "" };
        format!("magnitude-{}{schedule}", percent(self.sparsity))
    }

    fn describe(&self, epochs: u32) -> String {
        let ramp = self.ramp_epochs.map(|n| format!(" over {}", counted(n as usize, "epoch"))).unwrap_or_default();
        let (left, epochs) = (percent(1.0 - self.sparsity), counted(epochs as usize, "epoch"));
        format!("magnitude pruning to {left} % of the weights{ramp}, {epochs} of fine-tuning")
    }

    fn params(&self) -> Vec<(&'static str, Value)> {
        let mut params = vec![("sparsity", self.sparsity.into()), ("scope", name_of(&self.scope).into())];
        if let Some(epochs) = self.ramp_epochs {
            params.extend([("schedule", "cubic".into()), ("ramp_epochs", epochs.into())]);
        }
        params
    }

    fn start(&self, _: &Hyperparameters, network: &Network, state: &[f32], _: u32) -> Start {
        let mut state = state.to_vec();
        let Self { sparsity, scope, ramp_epochs } = *self;
        let mask = match ramp_epochs {
            Some(epochs) => Mask::Ramp(Ramp { sparsity, scope, epochs }),
            None => {
                let mask = mask(network, &state, sparsity, scope);
                apply(&mask, &mut state);
                Mask::Fixed(mask)
            }
        };
        Start { state, mask: Some(mask) }
    }
}
