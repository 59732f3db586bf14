//! Sparse twins compared with their parents.

use std::collections::BTreeMap;

use serde::Serialize;
use zoo_engine::magnitude::sparsity_ratio;
use zoo_model::architecture::Role;
use zoo_model::stage::{Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::{Dataset, ModelId, Network};

use super::Distribution;
use crate::evaluation::{self, Classes, Outcome, StatesToEvaluate};
use crate::scores;
use crate::statistics::tensor_names;
use crate::zoo_reader::{Model, ZooReader};
use crate::AnalyzeError;

/// A twin zoo compared with its parents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TwinZoo {
    /// Name of the twin zoo.
    pub name: String,
    /// Fraction of the weights that are zero, over its models.
    pub sparsity: Distribution,
    /// Test accuracy after the last epoch, where it is known.
    pub accuracy: Option<Distribution>,
    /// Test accuracy minus that of the parent's last state.
    pub accuracy_change: Option<Distribution>,
    /// Fraction of the test samples that twin and parent classify alike.
    pub agreement: Option<Distribution>,
    /// Mean fraction of zeros of every weight tensor.
    pub layers: Vec<(String, f64)>,
}

/// Analyses a twin zoo; `accuracies` are the parents' test accuracies after their last epoch.
///
/// # Errors
/// It cannot be read, none of its models is usable, or the stage is interrupted.
pub(super) fn twin_zoo(
    parent: &ZooReader,
    twin: &ZooReader,
    data: Option<&Dataset>,
    accuracies: &BTreeMap<ModelId, f64>,
    notes: &mut Vec<String>,
    stage: &Stage,
) -> Result<TwinZoo, AnalyzeError> {
    let mut values = Values::default();
    let last = StatesToEvaluate::Last;
    let outcome = evaluation::for_each(twin, data, &|_| true, last, stage, |model, predictions| {
        values.add(&model, predictions, accuracies);
        Ok(())
    })?;
    notes.extend_from_slice(twin.notes());
    note_outcome(&twin.record().name, &outcome, values.accuracy.is_empty(), notes);
    let unknown = std::mem::take(&mut values.unknown);
    if !unknown.is_empty() {
        let wanted = |id| unknown.contains_key(&id);
        evaluation::for_each(parent, data, &wanted, last, stage, |model, predictions| {
            let of_twin = &unknown[&model.params.id];
            values.agreement.extend(predictions.map(|of_parent| scores::agreement(of_twin, &of_parent)));
            Ok(())
        })?;
    }
    let empty = || UsageError(format!("{} has no model that could be read and did not diverge", twin.path().display()));
    let models = values.sparsity.len() as f64;
    Ok(TwinZoo {
        name: twin.record().name.clone(),
        sparsity: Distribution::of(values.sparsity).ok_or_else(empty)?,
        accuracy: Distribution::of(values.accuracy),
        accuracy_change: Distribution::of(values.accuracy_change),
        agreement: Distribution::of(values.agreement),
        layers: values.layers.into_iter().map(|(name, sum)| (name, sum / models)).collect(),
    })
}

/// Values of a twin zoo's models: all that are known.
#[derive(Default)]
struct Values {
    sparsity: Vec<f64>,
    accuracy: Vec<f64>,
    accuracy_change: Vec<f64>,
    agreement: Vec<f64>,
    /// Sums over the models.
    layers: Vec<(String, f64)>,
    /// Predictions of the models whose agreement is not known.
    unknown: BTreeMap<ModelId, Vec<u16>>,
}

impl Values {
    fn add(&mut self, model: &Model, predictions: Classes, accuracies: &BTreeMap<ModelId, f64>) {
        let (Some(line), Some(state)) = (model.lines.last(), model.states.last()) else { return };
        if line.diverged {
            return;
        }
        let id = model.params.id;
        self.accuracy.extend(line.test_acc);
        self.accuracy_change.extend(line.test_acc.zip(accuracies.get(&id)).map(|(twin, parent)| twin - parent));
        self.sparsity.push(line.sparsity_ratio.unwrap_or_else(|| sparsity_ratio(&model.network, state)));
        match (line.test_agreement, predictions) {
            (Some(share), _) => self.agreement.push(share),
            (None, Some(predictions)) => _ = self.unknown.insert(id, predictions),
            (None, None) => {}
        }
        let shares = zero_shares(&model.network, state);
        self.layers.resize(shares.len(), (String::new(), 0.0));
        for (sum, (name, share)) in self.layers.iter_mut().zip(shares) {
            *sum = (name, sum.1 + share);
        }
    }
}

fn note_outcome(name: &str, outcome: &Outcome, no_accuracy: bool, notes: &mut Vec<String>) {
    if !outcome.skipped.is_empty() {
        notes.push(format!("{name}: {} skipped", counted(outcome.skipped.len(), "model")));
    }
    if outcome.evaluated > 0 {
        notes.push(format!("{name}: {} evaluated on the dataset", counted(outcome.evaluated, "state")));
    } else if no_accuracy {
        notes.push(format!("{name}: no model has a test accuracy; --data evaluates them"));
    }
}

/// Fraction of zeros in every weight tensor.
fn zero_shares(network: &Network, state: &[f32]) -> Vec<(String, f64)> {
    let trained = network.parameters().iter().filter(|p| p.role.is_trained());
    let named = trained.zip(tensor_names(network)).filter(|(p, _)| p.role == Role::Weight);
    let share = |values: &[f32]| values.iter().filter(|&&v| v == 0.0).count() as f64 / values.len() as f64;
    named.map(|(p, name)| (name, share(&state[p.range.clone()]))).collect()
}
