//! Pruning methods: one file each, and the registry of all.
//!
//! A method is a [`PruningMethod`], which reads its settings from a manifest or a `zoo.json`; with
//! settings it is a [`Pruning`], which says how the twins of one zoo are made. To add one here, write
//! its file and name it in [`BUILT_IN`]; another program calls [`register`] instead, as
//! `examples/random_pruning.rs` does.

pub mod magnitude;
pub mod variational_dropout;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value};
use zoo_engine::{Mask, Sparsification};
use zoo_model::manifest::Entry;
use zoo_model::{Hyperparameters, ManifestError, Network};

use crate::error::RegistrationError;

/// Keys that come after the methods' own.
pub(crate) const COMMON_KEYS: [&str; 3] = ["epochs", "learning-rate", "suffix"];

/// The methods of this crate.
pub static BUILT_IN: &[&dyn PruningMethod] =
    &[&magnitude::MagnitudeMethod, &variational_dropout::VariationalDropoutMethod];

/// The methods that the program added.
static REGISTERED: RwLock<Vec<&'static dyn PruningMethod>> = RwLock::new(Vec::new());

/// A pruning method, without settings.
pub trait PruningMethod: Send + Sync {
    /// Its name, the value of `method` in manifests, `zoo.json` and `params.json`; twins' suffixes begin
    /// with it.
    fn name(&self) -> &'static str;

    /// Its name in a sentence, such as `magnitude pruning`.
    fn title(&self) -> &'static str;

    /// Its own keys of a `[[sparsify]]` entry, besides `method`, `epochs`, `learning-rate` and `suffix`.
    /// Methods may share keys.
    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// Why the keys of other methods mean nothing to it; the end of an error message.
    fn why_no_other_keys(&self) -> String {
        format!("{} has no such key", self.title())
    }

    /// Epochs of fine-tuning, unless the manifest says otherwise.
    fn default_epochs(&self) -> u32;

    /// Reads its own keys of a `[[sparsify]]` entry: one pruning for every twin zoo that it asks for.
    /// `epochs` is the number of epochs of the plan, before [the reduction](Entry::reduction).
    ///
    /// # Errors
    /// A mistake in the entry.
    fn read_entry(&self, entry: &Entry, epochs: u32) -> Result<Vec<Arc<dyn Pruning>>, ManifestError>;

    /// Reads back what [`Pruning::settings`] gave, from a `zoo.json`. Other keys may be there too.
    ///
    /// # Errors
    /// A setting is missing, or something else.
    fn read_settings(&self, settings: Map<String, Value>) -> Result<Arc<dyn Pruning>, serde_json::Error>;

    /// Whether a folder is named after a twin of this method, of whatever settings: if so, no other twin
    /// is written there unless the command line says so.
    fn is_named_after_a_twin(&self, folder: &str) -> bool {
        folder.contains(&format!("-{}", self.name()))
    }
}

/// A pruning method with its settings: how the twins of one zoo are made.
pub trait Pruning: fmt::Debug + Send + Sync {
    /// Its method.
    fn method(&self) -> &'static dyn PruningMethod;

    /// Its settings as `zoo.json` holds them, between `method` and `epochs`. The twin zoo's fingerprint
    /// is computed from this JSON, the order of its keys included: what changes it makes all twins stale.
    fn settings(&self) -> Map<String, Value>;

    /// What follows the parent's name in the twin zoo's, without the entry's own `suffix`.
    fn suffix(&self) -> String;

    /// How twins are made with the given number of epochs of fine-tuning, as part of a sentence.
    fn describe(&self, epochs: u32) -> String;

    /// What `params.json` records as `sparsify::KEY`, besides method, epochs and learning rate. A target
    /// sparsity is called `sparsity`.
    fn params(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// Whether the state before the first epoch is kept, as epoch 0.
    fn keeps_initial(&self) -> bool {
        true
    }

    /// How models become sparse, which decides the engine: [`Sparsification::VariationalDropout`] if
    /// [`start`](Self::start) gives [`Mask::Variational`].
    fn sparsification(&self) -> Sparsification {
        Sparsification::Masks
    }

    /// Where the fine-tuning of a twin starts, from the last state of its parent: a flat vector of
    /// `network`'s parameters. It must depend on nothing but its arguments, so that a twin can be made
    /// again bit for bit: random numbers come from the parent's seed.
    fn start(&self, parent: &Hyperparameters, network: &Network, state: &[f32], epochs: u32) -> Start;
}

/// Where the fine-tuning of a twin starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Flat vector of the state; zero what a [`Mask::Fixed`] removes.
    pub state: Vec<f32>,
    /// Which parameters may differ from zero from then on; `None`: all.
    pub mask: Option<Mask>,
}

/// All methods: those of this crate, then those that were registered.
pub fn methods() -> Vec<&'static dyn PruningMethod> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.iter().chain(registered.iter()).copied().collect()
}

/// The method of this name.
pub fn method(name: &str) -> Option<&'static dyn PruningMethod> {
    methods().into_iter().find(|method| method.name() == name)
}

/// Names of all methods.
pub(crate) fn names() -> Vec<&'static str> {
    methods().iter().map(|method| method.name()).collect()
}

/// Adds a method, for all stages of this process: manifests may name it from now on, and its twins can
/// be planned, made, analysed and retrained. Call it before any stage runs.
///
/// # Errors
/// A method of this name is there already, or a key of its own is one that every entry has.
pub fn register(method: &'static dyn PruningMethod) -> Result<(), RegistrationError> {
    let is_common = |key: &&&str| **key == "method" || COMMON_KEYS.contains(key);
    if let Some(key) = method.keys().iter().find(is_common) {
        return Err(RegistrationError::Key { method: method.name(), key });
    }
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if BUILT_IN.iter().chain(registered.iter()).any(|known| known.name() == method.name()) {
        return Err(RegistrationError::Name(method.name()));
    }
    registered.push(method);
    Ok(())
}

/// Whether a folder's name is that of a twin: `...-magnitude-70`, `...-variational-dropout`.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn is_named_after_a_twin(folder: &str) -> bool {
    methods().iter().any(|method| method.is_named_after_a_twin(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_named_after_twins_are_told_apart_from_others() {
        for named in ["z-magnitude-70", "z-magnitude-82.5-layer", "z-magnitude-80-cubic", "z-variational-dropout"] {
            assert!(is_named_after_a_twin(named), "{named}");
        }
        assert!(!is_named_after_a_twin("my-magnitude-study") && !is_named_after_a_twin("twin"));
    }

    /// A method that cannot be registered.
    struct Odd(&'static str, &'static [&'static str]);

    impl PruningMethod for Odd {
        fn name(&self) -> &'static str {
            self.0
        }
        fn title(&self) -> &'static str {
            "odd pruning"
        }
        fn keys(&self) -> &'static [&'static str] {
            self.1
        }
        fn default_epochs(&self) -> u32 {
            1
        }
        fn read_entry(&self, _: &Entry, _: u32) -> Result<Vec<Arc<dyn Pruning>>, ManifestError> {
            Ok(Vec::new())
        }
        fn read_settings(&self, _: Map<String, Value>) -> Result<Arc<dyn Pruning>, serde_json::Error> {
            Err(serde::de::Error::custom("is odd"))
        }
    }

    #[test]
    fn names_and_common_keys_are_taken() {
        static TWICE: Odd = Odd("magnitude", &["sparsity"]);
        static COMMON: Odd = Odd("odd", &["share", "epochs"]);
        assert_eq!(register(&TWICE), Err(RegistrationError::Name("magnitude")));
        assert_eq!(register(&COMMON), Err(RegistrationError::Key { method: "odd", key: "epochs" }));
        assert_eq!(names(), ["magnitude", "variational-dropout"]);
    }

    #[test]
    fn methods_are_found_by_name_and_named_in_sentences() {
        let found = |name| method(name).map(|method| (method.name(), method.title(), method.default_epochs()));
        assert_eq!(found("magnitude"), Some(("magnitude", "magnitude pruning", 15)));
        assert_eq!(found("variational-dropout"), Some(("variational-dropout", "variational dropout", 25)));
        assert!(found("magnitud").is_none());
        static ODD: Odd = Odd("odd", &[]);
        assert_eq!(ODD.why_no_other_keys(), "odd pruning has no such key");
        assert!(ODD.is_named_after_a_twin("z-odd-3") && !ODD.is_named_after_a_twin("odd"));
    }
}
