//! `[[sparsify]]` and the twins that it asks for.

use serde::{Deserialize, Deserializer, Serialize};
use zoo_model::plan::{check_zoo_name, fractions, name, ZooSection};
use zoo_model::{Manifest, ManifestError};

use crate::magnitude::Scope;

/// How weights are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The smallest by magnitude, at once; then fine-tuning with the mask fixed.
    Magnitude,
}

/// One `[[sparsify]]` entry: a twin zoo for every sparsity.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
struct SparsifySection {
    #[serde(deserialize_with = "name")]
    method: Method,
    #[serde(deserialize_with = "fractions")]
    sparsity: Vec<f64>,
    #[serde(default, deserialize_with = "name")]
    scope: Scope,
    #[serde(default = "default_epochs", deserialize_with = "epochs")]
    epochs: u32,
    #[serde(default, deserialize_with = "learning_rate")]
    learning_rate: Option<f64>,
    suffix: Option<String>,
}

/// One twin zoo to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Twin {
    /// What follows the parent's name in the twin's: `magnitude-80`.
    #[serde(skip)]
    pub suffix: String,
    /// How weights are removed.
    pub method: Method,
    /// Share of the weights to remove, in (0, 1).
    pub sparsity: f64,
    /// What competes for being kept.
    pub scope: Scope,
    /// Epochs of fine-tuning; 0 keeps the pruned models as they are.
    pub epochs: u32,
    /// Learning rate of the fine-tuning; `None`: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
}

impl Twin {
    /// Name of the twin zoo of a zoo of this name.
    pub fn zoo_name(&self, parent: &str) -> String {
        format!("{parent}-{}", self.suffix)
    }

    /// The kept states of each model: the pruned one, then one an epoch of fine-tuning.
    pub fn kept_epochs(&self) -> Vec<u32> {
        (0..=self.epochs).collect()
    }
}

/// The twins that a manifest asks for, in its order.
pub fn twins(manifest: &Manifest) -> Result<Vec<Twin>, ManifestError> {
    let zoo: ZooSection = manifest.required("zoo")?;
    let sections: Vec<SparsifySection> = manifest.section("sparsify")?.unwrap_or_default();
    let mut twins: Vec<Twin> = Vec::new();
    for section in sections {
        for &sparsity in &section.sparsity {
            // Percent with as many digits as given: 0.825 is 82.5, not 82.49999999999999.
            let percent = (sparsity * 1e8).round() / 1e6;
            let method = match section.method {
                Method::Magnitude => "magnitude",
            };
            let more = section.suffix.as_ref().map(|s| format!("-{s}")).unwrap_or_default();
            let twin = Twin {
                suffix: format!("{method}-{percent}{more}"),
                method: section.method,
                sparsity,
                scope: section.scope,
                epochs: manifest.reduction.epochs(section.epochs),
                learning_rate: section.learning_rate,
            };
            check_zoo_name(&twin.zoo_name(&zoo.name)).map_err(|m| manifest.error("sparsify.suffix", m))?;
            if twins.iter().any(|t| t.suffix == twin.suffix) {
                let message = format!(
                    "two entries make a twin `{}`: give one of them a `suffix` of its own",
                    twin.zoo_name(&zoo.name)
                );
                return Err(manifest.error("sparsify", message));
            }
            twins.push(twin);
        }
    }
    Ok(twins)
}

fn default_epochs() -> u32 {
    15
}

fn epochs<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match i64::deserialize(d)? {
        n @ 0..=1_000_000 => Ok(n as u32),
        n => Err(serde::de::Error::custom(format!("must be from 0 to 1000000, not {n}"))),
    }
}

fn learning_rate<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    match f64::deserialize(d)? {
        rate if rate > 0.0 && rate.is_finite() => Ok(Some(rate)),
        rate => Err(serde::de::Error::custom(format!("must be a finite number above 0, not {rate}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Twin>, ManifestError> {
        twins(&Manifest::parse("m.toml", format!("[zoo]\nname = \"z\"\n{text}")).unwrap())
    }

    #[test]
    fn there_is_a_twin_for_every_entry_and_sparsity() {
        let twins = of("[[sparsify]]\nmethod = \"magnitude\"\nsparsity = [0.5, 0.825]\nepochs = 3\n\
                        [[sparsify]]\nmethod = \"magnitude\"\nsparsity = 0.5\nscope = \"layer\"\nsuffix = \"layer\"\n")
        .unwrap();
        let names: Vec<String> = twins.iter().map(|t| t.zoo_name("z")).collect();
        assert_eq!(names, ["z-magnitude-50", "z-magnitude-82.5", "z-magnitude-50-layer"]);
        assert_eq!(twins[0].kept_epochs(), [0, 1, 2, 3]);
        assert_eq!((twins[2].scope, twins[2].epochs), (Scope::Layer, 15));
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let entry = "[[sparsify]]\nmethod = \"magnitude\"\nsparsity = 0.5\n";
        let error = |text: String| of(&text).unwrap_err().to_string();
        assert!(error(format!("{entry}{entry}")).contains("`suffix`"));
        assert!(error(entry.replace("0.5", "1.0")).starts_with("m.toml:5: sparsify.sparsity: must be between"));
        assert!(error(entry.replace("sparsity", "sparsty")).contains("did you mean `sparsity`?"));
        assert!(error(format!("{entry}suffix = \"a/b\"\n")).contains("no name for a zoo"));
        assert!(error(format!("{entry}learning-rate = 0\n")).contains("above 0"));
        assert!(error(format!("{entry}scope = 5\n")).contains("expected a name: `global` or `layer`"));
        assert!(error(entry.replace("[[sparsify]]", "[sparsify]"))
            .contains("sparsify: is a list of tables: write [[sparsify]]"));
    }
}
