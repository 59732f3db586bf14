//! `[[sparsify]]` and the twins that it asks for.

use std::iter::once;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use zoo_model::deserialize::name;
use zoo_model::manifest::Entry;
use zoo_model::plan::{check_zoo_name, ZooSection};
use zoo_model::text::alternatives;
use zoo_model::{Manifest, ManifestError};

use crate::methods::{method, methods, names, Pruning, PruningMethod, COMMON_KEYS};
use crate::Twin;

/// What every entry has, whatever its method.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
struct Common {
    #[serde(deserialize_with = "name")]
    method: MethodKey,
    #[serde(default, deserialize_with = "epochs")]
    epochs: Option<u32>,
    #[serde(default, deserialize_with = "learning_rate")]
    learning_rate: Option<f64>,
    suffix: Option<String>,
}

/// A method by its name.
struct MethodKey(&'static dyn PruningMethod);

impl<'de> Deserialize<'de> for MethodKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let unknown = || format!("unknown variant `{name}`, expected {}", alternatives(&names()));
        method(&name).map(Self).ok_or_else(|| serde::de::Error::custom(unknown()))
    }
}

/// The twins that a manifest asks for, in its order.
///
/// # Errors
/// A mistake in a `[[sparsify]]` entry, or two entries that ask for the same twin.
pub fn twins(manifest: &Manifest) -> Result<Vec<Twin>, ManifestError> {
    let zoo: ZooSection = manifest.required("zoo")?;
    let mut twins: Vec<Twin> = Vec::new();
    for entry in manifest.entries("sparsify")? {
        for twin in twins_of(&entry)? {
            check_zoo_name(&twin.zoo_name(&zoo.name)).map_err(|m| entry.error("suffix", m))?;
            if twins.iter().any(|t| t.suffix == twin.suffix) {
                let message = format!(
                    "two entries define the twin `{}`: give one of them its own `suffix`",
                    twin.zoo_name(&zoo.name)
                );
                return Err(manifest.error("sparsify", message));
            }
            twins.push(twin);
        }
    }
    Ok(twins)
}

/// The twins that one entry asks for.
fn twins_of(entry: &Entry) -> Result<Vec<Twin>, ManifestError> {
    entry.check_keys(&known_keys())?;
    let common_keys: Vec<&str> = once("method").chain(COMMON_KEYS).collect();
    let Common { method: MethodKey(method), epochs, learning_rate, suffix } = entry.read(&common_keys)?;
    let is_foreign = |key: &&str| entry.has(key) && !method.keys().contains(key) && !common_keys.contains(key);
    if let Some(key) = known_keys().into_iter().find(is_foreign) {
        let owners = methods().into_iter().filter(|other| other.keys().contains(&key));
        let owners = owners.map(|other| other.title()).collect::<Vec<_>>().join(" and ");
        return Err(entry.error(key, format!("applies to {owners} only; {}", method.why_no_other_keys())));
    }
    let epochs = epochs.unwrap_or(method.default_epochs());
    let twin = |pruning: Arc<dyn Pruning>| {
        let name = pruning.suffix();
        Twin {
            suffix: suffix.as_ref().map_or(name.clone(), |more| format!("{name}-{more}")),
            pruning,
            epochs: entry.reduction().epochs(epochs),
            learning_rate,
        }
    };
    Ok(method.read_entry(entry, epochs)?.into_iter().map(twin).collect())
}

/// Every key that an entry of some method may have.
fn known_keys() -> Vec<&'static str> {
    let methods = methods();
    let own = methods.iter().flat_map(|method| method.keys().iter().copied());
    let mut keys = Vec::new();
    for key in once("method").chain(own).chain(COMMON_KEYS) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
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
    use crate::methods::magnitude::Magnitude;
    use zoo_engine::magnitude::Scope;

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
        let pruning = Arc::new(Magnitude { sparsity: 0.5, scope: Scope::Layer, ramp_epochs: None });
        assert_eq!(twins[2], Twin { suffix: "magnitude-50-layer".into(), pruning, epochs: 15, learning_rate: None });
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
        assert_eq!(twins[0].pruning.settings()["ramp-epochs"], 3);
        assert_eq!(twins[3].kept_epochs(), (1..=25).collect::<Vec<u32>>());
        for twin in &twins {
            let json = serde_json::to_value(twin).unwrap();
            assert_eq!(json["method"], twin.pruning.method().name());
            let again: Twin = serde_json::from_value(json).unwrap();
            assert_eq!(again, Twin { suffix: String::new(), ..twin.clone() });
        }
        assert!(twins[0] != twins[1] && twins[2] != twins[3]);
    }

    #[test]
    fn a_mistake_is_named_at_its_own_entry() {
        let sound = "[[sparsify]]\nmethod = \"magnitude\"\nsparsity = 0.5\nepochs = 2\n";
        let error = |text: &str| of(&format!("{sound}{text}")).unwrap_err().to_string();
        let missing = error("[[sparsify]]\nmethod = \"magnitude\"\n");
        assert!(missing.starts_with("m.toml:7: sparsify.sparsity: is missing"), "{missing}");
        let zero = error("[[sparsify]]\nmethod = \"variational-dropout\"\nepochs = 0\n");
        assert!(zero.starts_with("m.toml:9: sparsify.epochs: must be at least 1"), "{zero}");
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
        assert!(
            error(format!("{entry}schedule = \"cubic\"\nepochs = 2\nramp-epochs = 3\n")).contains("exceed `epochs`")
        );
        let variational = entry.replace("magnitude", "variational-dropout");
        assert!(error(variational.clone()).contains("sparsify.sparsity: applies to magnitude pruning only"));
        assert!(error(variational.replace("sparsity = 0.5", "epochs = 0")).contains("at least 1"));
        assert!(error(entry.replace("[[sparsify]]", "[sparsify]"))
            .contains("sparsify: is a list of tables: write [[sparsify]]"));
    }
}
