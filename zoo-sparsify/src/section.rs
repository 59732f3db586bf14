//! `[[sparsify]]` and the twins that it asks for.

use serde::{Deserialize, Deserializer, Serialize};
use zoo_model::deserialize::{count, fractions, name};
use zoo_model::plan::{check_zoo_name, ZooSection};
use zoo_model::{Manifest, ManifestError};

use zoo_train::magnitude::Scope;

/// How weights are removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Method {
    /// The smallest by magnitude; then fine-tuning with the mask fixed.
    Magnitude {
        /// Share of the weights to remove, in (0, 1).
        sparsity: f64,
        /// What competes for being kept.
        scope: Scope,
        /// Epochs of the cubic [`Ramp`](zoo_train::magnitude::Ramp) to this sparsity; `None`: at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ramp_epochs: Option<u32>,
    },
    /// Those that [variational dropout](zoo_train::variational) drowns in noise.
    VariationalDropout,
}

impl Method {
    /// Its name in manifests and `params.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Magnitude { .. } => "magnitude",
            Self::VariationalDropout => "variational-dropout",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MethodName {
    Magnitude,
    VariationalDropout,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    #[default]
    OneShot,
    Cubic,
}

/// One `[[sparsify]]` entry: a twin zoo for every sparsity.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
struct SparsifySection {
    #[serde(deserialize_with = "name")]
    method: MethodName,
    #[serde(default, deserialize_with = "fractions")]
    sparsity: Vec<f64>,
    #[serde(default, deserialize_with = "some_name")]
    scope: Option<Scope>,
    #[serde(default, deserialize_with = "some_name")]
    schedule: Option<Schedule>,
    #[serde(default, deserialize_with = "some_count")]
    ramp_epochs: Option<u32>,
    #[serde(default, deserialize_with = "epochs")]
    epochs: Option<u32>,
    #[serde(default, deserialize_with = "learning_rate")]
    learning_rate: Option<f64>,
    suffix: Option<String>,
}

/// One twin zoo to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Twin {
    /// What follows the parent's name in the twin's: `magnitude-80`, `magnitude-80-cubic`,
    /// `variational-dropout`.
    #[serde(skip)]
    pub suffix: String,
    /// How weights are removed.
    #[serde(flatten)]
    pub method: Method,
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

    /// The kept states of each model: after each epoch; of magnitude pruning also that before the
    /// first, as epoch 0.
    pub fn kept_epochs(&self) -> Vec<u32> {
        let first = u32::from(self.method == Method::VariationalDropout);
        (first..=self.epochs).collect()
    }
}

/// The twins that a manifest asks for, in its order.
pub fn twins(manifest: &Manifest) -> Result<Vec<Twin>, ManifestError> {
    let zoo: ZooSection = manifest.required("zoo")?;
    let sections: Vec<SparsifySection> = manifest.section("sparsify")?.unwrap_or_default();
    let mut twins: Vec<Twin> = Vec::new();
    for section in sections {
        for twin in section.twins(manifest)? {
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

impl SparsifySection {
    fn twins(&self, manifest: &Manifest) -> Result<Vec<Twin>, ManifestError> {
        let default = match self.method {
            MethodName::Magnitude => DEFAULT_EPOCHS,
            MethodName::VariationalDropout => VARIATIONAL_EPOCHS,
        };
        let epochs = manifest.reduction.epochs(self.epochs.unwrap_or(default));
        let twin = |method: Method, name: String| Twin {
            suffix: self.suffix.as_ref().map_or(name.clone(), |more| format!("{name}-{more}")),
            method,
            epochs,
            learning_rate: self.learning_rate,
        };
        let error = |key: &str, message: &str| Err(manifest.error(&format!("sparsify.{key}"), message.to_owned()));
        if self.method == MethodName::VariationalDropout {
            let given = [
                ("sparsity", !self.sparsity.is_empty()),
                ("scope", self.scope.is_some()),
                ("schedule", self.schedule.is_some()),
                ("ramp-epochs", self.ramp_epochs.is_some()),
            ];
            if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                return error(key, "is of magnitude pruning; variational dropout finds by itself what to remove");
            }
            if epochs == 0 {
                return error("epochs", "must be at least 1 with variational dropout");
            }
            return Ok(vec![twin(Method::VariationalDropout, "variational-dropout".into())]);
        }
        if self.sparsity.is_empty() {
            return error("sparsity", "is missing: the share of the weights to remove, such as 0.8");
        }
        let cubic = self.schedule == Some(Schedule::Cubic);
        if self.ramp_epochs.is_some() && !cubic {
            return error("ramp-epochs", "needs schedule = \"cubic\"");
        }
        if cubic && epochs == 0 {
            return error("epochs", "must be at least 1 with the cubic schedule");
        }
        if self.ramp_epochs.is_some_and(|ramp| ramp > self.epochs.unwrap_or(default)) {
            return error("ramp-epochs", "must not be above `epochs`");
        }
        // A plan that is cut reaches its sparsity nevertheless.
        let ramp_epochs = cubic.then(|| self.ramp_epochs.unwrap_or(epochs.div_ceil(2)).min(epochs));
        let schedule = if cubic { "-cubic" } else { "" };
        let twin = |&sparsity: &f64| {
            // Percent with as many digits as given: 0.825 is 82.5, not 82.49999999999999.
            let percent = (sparsity * 1e8).round() / 1e6;
            let method = Method::Magnitude { sparsity, scope: self.scope.unwrap_or_default(), ramp_epochs };
            twin(method, format!("magnitude-{percent}{schedule}"))
        };
        Ok(self.sparsity.iter().map(twin).collect())
    }
}

/// Epochs of fine-tuning after magnitude pruning, unless the manifest says otherwise.
const DEFAULT_EPOCHS: u32 = 15;

/// Epochs of variational dropout, unless the manifest says otherwise: those of the published twins.
const VARIATIONAL_EPOCHS: u32 = 25;

fn some_name<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(d: D) -> Result<Option<T>, D::Error> {
    name(d).map(Some)
}

fn some_count<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    count(d).map(Some)
}

fn epochs<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    match i64::deserialize(d)? {
        n @ 0..=1_000_000 => Ok(Some(n as u32)),
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
        let by_layer = Method::Magnitude { sparsity: 0.5, scope: Scope::Layer, ramp_epochs: None };
        assert_eq!((&twins[2].method, twins[2].epochs), (&by_layer, 15));
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn a_twin_may_be_pruned_along_a_ramp_or_by_variational_dropout() {
        let twins =
            of("[[sparsify]]\nmethod = \"magnitude\"\nsparsity = [0.5, 0.8]\nschedule = \"cubic\"\nepochs = 5\n\
                        [[sparsify]]\nmethod = \"magnitude\"\nsparsity = 0.8\nschedule = \"one-shot\"\n\
                        [[sparsify]]\nmethod = \"variational-dropout\"\nlearning-rate = 1e-3\n")
            .unwrap();
        let names: Vec<String> = twins.iter().map(|t| t.zoo_name("z")).collect();
        assert_eq!(names, ["z-magnitude-50-cubic", "z-magnitude-80-cubic", "z-magnitude-80", "z-variational-dropout"]);
        assert!(matches!(twins[0].method, Method::Magnitude { ramp_epochs: Some(3), .. }));
        assert_eq!(twins[3].kept_epochs(), (1..=25).collect::<Vec<u32>>());
        for twin in &twins {
            let json = serde_json::to_value(twin).unwrap();
            assert_eq!(json["method"], twin.method.name());
            let again: Twin = serde_json::from_value(json).unwrap();
            assert_eq!(again, Twin { suffix: String::new(), ..twin.clone() });
        }
    }

    #[test]
    fn mistakes_are_named() {
        let entry = "[[sparsify]]\nmethod = \"magnitude\"\nsparsity = 0.5\n";
        let error = |text: String| of(&text).unwrap_err().to_string();
        assert!(error(format!("{entry}{entry}")).contains("`suffix`"));
        assert!(error(entry.replace("0.5", "1.0")).starts_with("m.toml:5: sparsify.sparsity: must be between"));
        assert!(error(entry.replace("sparsity", "sparsty")).contains("did you mean `sparsity`?"));
        assert!(error(format!("{entry}suffix = \"a/b\"\n")).contains("not a valid zoo name"));
        assert!(error(format!("{entry}learning-rate = 0\n")).contains("above 0"));
        assert!(error(format!("{entry}scope = 5\n")).contains("expected a name: `global` or `layer`"));
        assert!(error(entry.replace("sparsity = 0.5\n", "")).contains("sparsify.sparsity: is missing"));
        assert!(error(format!("{entry}ramp-epochs = 3\n")).contains("needs schedule = \"cubic\""));
        assert!(error(format!("{entry}schedule = \"cubic\"\nepochs = 0\n")).contains("at least 1"));
        assert!(error(format!("{entry}schedule = \"cubic\"\nepochs = 2\nramp-epochs = 3\n")).contains("above `epochs`"));
        let variational = entry.replace("magnitude", "variational-dropout");
        assert!(error(variational.clone()).contains("sparsify.sparsity: is of magnitude pruning"));
        assert!(error(variational.replace("sparsity = 0.5", "epochs = 0")).contains("at least 1"));
        assert!(error(entry.replace("[[sparsify]]", "[sparsify]"))
            .contains("sparsify: is a list of tables: write [[sparsify]]"));
    }
}
