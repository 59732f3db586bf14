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

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::manifest::Reduction;
    use zoo_model::Manifest;

    const ONE_SHOT: Magnitude = Magnitude { sparsity: 0.825, scope: Scope::Layer, ramp_epochs: None };
    const CUBIC: Magnitude = Magnitude { sparsity: 0.825, scope: Scope::Global, ramp_epochs: Some(3) };

    #[test]
    fn twins_are_called_and_recorded_by_their_settings() {
        assert_eq!([ONE_SHOT, CUBIC].map(|m| m.suffix()), ["magnitude-82.5", "magnitude-82.5-cubic"]);
        assert_eq!(
            [ONE_SHOT.describe(1), CUBIC.describe(15)],
            [
                "magnitude pruning to 17.5 % of the weights, 1 epoch of fine-tuning",
                "magnitude pruning to 17.5 % of the weights over 3 epochs, 15 epochs of fine-tuning"
            ]
        );
        assert_eq!(ONE_SHOT.params(), [("sparsity", 0.825.into()), ("scope", "layer".into())]);
        let mut expected = vec![("sparsity", 0.825.into()), ("scope", "global".into())];
        expected.extend([("schedule", "cubic".into()), ("ramp_epochs", 3.into())]);
        assert_eq!(CUBIC.params(), expected);
        for pruning in [ONE_SHOT, CUBIC] {
            let again = MagnitudeMethod.read_settings(pruning.settings()).unwrap();
            assert_eq!(again.settings(), pruning.settings());
        }
    }

    #[test]
    fn fine_tuning_starts_pruned_or_on_a_ramp() {
        let parent = Hyperparameters::default();
        let network = parent.network([1, 28, 28], 10).unwrap();
        let state: Vec<f32> = (0..network.state_len()).map(|i| (i % 97) as f32 - 48.5).collect();
        let Start { state: pruned, mask: Some(Mask::Fixed(kept)) } = ONE_SHOT.start(&parent, &network, &state, 15)
        else {
            panic!("a fixed mask")
        };
        assert_eq!(kept, mask(&network, &state, 0.825, Scope::Layer));
        assert!(pruned.iter().zip(&state).zip(&kept).all(|((p, s), kept)| *p == if *kept { *s } else { 0.0 }));

        let ramp = Ramp { sparsity: 0.825, scope: Scope::Global, epochs: 3 };
        let expected = Start { state: state.clone(), mask: Some(Mask::Ramp(ramp)) };
        assert_eq!(CUBIC.start(&parent, &network, &state, 15), expected);
    }

    #[test]
    fn a_ramp_lasts_half_of_the_epochs_unless_the_entry_says_otherwise() {
        let ramp = |text: &str, cut: Option<u32>, epochs: u32| {
            let text = format!("[[sparsify]]\nsparsity = 0.5\n{text}");
            let mut manifest = Manifest::parse("m.toml", text).unwrap();
            manifest.reduction = Reduction { epochs: cut, ..Reduction::default() };
            let entries = manifest.entries("sparsify").unwrap();
            let read = MagnitudeMethod.read_entry(&entries[0], epochs);
            read.map(|prunings| prunings[0].settings().get("ramp-epochs").cloned()).map_err(|e| e.to_string())
        };
        let cubic = "schedule = \"cubic\"\n";
        assert_eq!(ramp("", None, 15), Ok(None));
        assert_eq!(ramp(cubic, None, 15), Ok(Some(8.into())));
        assert_eq!(ramp(cubic, None, 1), Ok(Some(1.into())));
        assert_eq!(ramp(&format!("{cubic}ramp-epochs = 15"), None, 15), Ok(Some(15.into())));
        assert_eq!(ramp(&format!("{cubic}ramp-epochs = 15"), Some(2), 15), Ok(Some(2.into())));
        assert_eq!(ramp(cubic, Some(2), 15), Ok(Some(1.into())));
        assert!(ramp(&format!("{cubic}ramp-epochs = 16"), None, 15).unwrap_err().contains("must not exceed `epochs`"));
        assert!(ramp(cubic, None, 0).unwrap_err().contains("must be at least 1 with the cubic schedule"));
        assert!(ramp("ramp-epochs = 3", None, 15).unwrap_err().contains("needs schedule = \"cubic\""));
    }
}
