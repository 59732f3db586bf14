//! Variational dropout: training finds which weights are all noise, and removes them.

use std::sync::Arc;

use serde_json::{Map, Value};
use zoo_engine::variational::Variational;
use zoo_engine::{Mask, Sparsification};
use zoo_model::manifest::Entry;
use zoo_model::text::counted;
use zoo_model::{Hyperparameters, ManifestError, Network};

use super::{Pruning, PruningMethod, Start};

/// The method `variational-dropout`.
#[derive(Debug, Clone, Copy)]
pub struct VariationalDropoutMethod;

/// [Variational dropout](zoo_engine::variational), which has no settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VariationalDropout;

impl PruningMethod for VariationalDropoutMethod {
    fn name(&self) -> &'static str {
        "variational-dropout"
    }

    fn title(&self) -> &'static str {
        "variational dropout"
    }

    fn why_no_other_keys(&self) -> String {
        "variational dropout determines the sparsity itself".into()
    }

    /// Those of the published twins.
    fn default_epochs(&self) -> u32 {
        25
    }

    fn read_entry(&self, entry: &Entry, epochs: u32) -> Result<Vec<Arc<dyn Pruning>>, ManifestError> {
        if epochs == 0 {
            return Err(entry.error("epochs", "must be at least 1 with variational dropout"));
        }
        Ok(vec![Arc::new(VariationalDropout)])
    }

    fn read_settings(&self, _: Map<String, Value>) -> Result<Arc<dyn Pruning>, serde_json::Error> {
        Ok(Arc::new(VariationalDropout))
    }
}

impl Pruning for VariationalDropout {
    fn method(&self) -> &'static dyn PruningMethod {
        &VariationalDropoutMethod
    }

    fn settings(&self) -> Map<String, Value> {
        Map::new()
    }

    fn suffix(&self) -> String {
        "variational-dropout".into()
    }

    fn describe(&self, epochs: u32) -> String {
        format!("{} of variational dropout", counted(epochs as usize, "epoch"))
    }

    /// The parent's state is not sparse.
    fn keeps_initial(&self) -> bool {
        false
    }

    fn sparsification(&self) -> Sparsification {
        Sparsification::VariationalDropout
    }

    fn start(&self, _: &Hyperparameters, _: &Network, state: &[f32], epochs: u32) -> Start {
        Start { state: state.to_vec(), mask: Some(Mask::Variational(Variational { epochs })) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_start_from_their_parents_last_state() {
        let parent = Hyperparameters::default();
        let network = parent.network([1, 28, 28], 10).unwrap();
        let state = vec![0.5; network.state_len()];
        let start = VariationalDropout.start(&parent, &network, &state, 25);
        assert_eq!(start, Start { state, mask: Some(Mask::Variational(Variational { epochs: 25 })) });
        assert_eq!(VariationalDropout.sparsification(), Sparsification::VariationalDropout);
    }

    #[test]
    fn twins_are_called_and_recorded_by_their_method_alone() {
        assert_eq!(VariationalDropout.suffix(), "variational-dropout");
        assert_eq!(VariationalDropout.describe(25), "25 epochs of variational dropout");
        assert_eq!((VariationalDropout.settings(), VariationalDropout.params()), (Map::new(), Vec::new()));
        let read = VariationalDropoutMethod.read_settings(Map::new()).unwrap();
        assert_eq!(read.method().name(), "variational-dropout");
    }
}
