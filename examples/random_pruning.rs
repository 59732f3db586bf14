//! `zoo` with a custom pruning method: weights are removed at random, which shows how much of
//! another method's success is its choice of weights.
//!
//! ```toml
//! [[sparsify]]
//! method = "random"
//! sparsity = [0.5, 0.8]
//! ```
//!
//! `cargo run --release --example random_pruning -- run my.toml` makes such twins, packs and verifies
//! them; `plan`, `status`, `sparsify` and `verify --retrain` know the method too.

use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{json, Map, Value};
use zoo_engine::{magnitude, Mask};
use zoo_model::deserialize::fractions;
use zoo_model::manifest::Entry;
use zoo_model::random::{Purpose, Stream};
use zoo_model::text::counted;
use zoo_model::{Hyperparameters, ManifestError, Network};
use zoo_sparsify::{Pruning, PruningMethod, Start};

/// The method: how it is called, and how it is read.
pub struct RandomMethod;

impl PruningMethod for RandomMethod {
    fn name(&self) -> &'static str {
        "random"
    }

    fn title(&self) -> &'static str {
        "random pruning"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["sparsity"]
    }

    fn default_epochs(&self) -> u32 {
        15
    }

    fn read_entry(&self, entry: &Entry, _: u32) -> Result<Vec<Arc<dyn Pruning>>, ManifestError> {
        #[derive(Deserialize)]
        struct Keys {
            #[serde(deserialize_with = "fractions")]
            sparsity: Vec<f64>,
        }
        let Keys { sparsity } = entry.read(self.keys())?;
        Ok(sparsity.into_iter().map(|sparsity| Arc::new(Random { sparsity }) as Arc<dyn Pruning>).collect())
    }

    fn read_settings(&self, settings: Map<String, Value>) -> Result<Arc<dyn Pruning>, serde_json::Error> {
        Ok(Arc::new(Random::deserialize(Value::Object(settings))?))
    }
}

/// The method with its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Random {
    /// Share of the weights to remove.
    sparsity: f64,
}

impl Pruning for Random {
    fn method(&self) -> &'static dyn PruningMethod {
        &RandomMethod
    }

    fn settings(&self) -> Map<String, Value> {
        Map::from_iter([("sparsity".to_owned(), json!(self.sparsity))])
    }

    fn suffix(&self) -> String {
        format!("random-{}", (self.sparsity * 1e8).round() / 1e6)
    }

    fn describe(&self, epochs: u32) -> String {
        let epochs = counted(epochs as usize, "epoch");
        format!("random pruning of a share of {} of the weights, {epochs} of fine-tuning", self.sparsity)
    }

    fn params(&self) -> Vec<(&'static str, Value)> {
        vec![("sparsity", self.sparsity.into())]
    }

    fn start(&self, parent: &Hyperparameters, network: &Network, state: &[f32], _: u32) -> Start {
        let mut weights: Vec<usize> = network.weights().flat_map(|weight| weight.range.clone()).collect();
        Stream::new(parent.seed, Purpose::Sample, parent.epochs, 1).shuffle(&mut weights);
        let removed = (self.sparsity * weights.len() as f64).round() as usize;
        let mut mask = vec![true; state.len()];
        weights[..removed].iter().for_each(|&weight| mask[weight] = false);
        let mut state = state.to_vec();
        magnitude::apply(&mask, &mut state);
        Start { state, mask: Some(Mask::Fixed(mask)) }
    }
}

fn main() -> ExitCode {
    if let Err(error) = zoo_sparsify::register(&RandomMethod) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let about = "Make, sparsify, pack and verify model zoos, with random pruning besides the usual methods";
    zoo_cli::main(zoo_cli::Program { name: "random_pruning", about, examples: zoo::EXAMPLES }, zoo::run)
}
