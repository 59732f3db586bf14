//! Spread of performance: over epochs, and by hyperparameter.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use zoo_model::ModelId;

use super::Distribution;
use crate::zoo_reader::Model;

/// Maximum number of values of a hyperparameter by which performance is reported: more are a number of each
/// model, not a choice.
const MAX_VALUES: usize = 24;

/// Performance after some epoch, or of models with some hyperparameter value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Performance {
    /// Test accuracy.
    pub accuracy: Distribution,
    /// Training minus test accuracy.
    pub gap: Option<Distribution>,
}

impl Performance {
    fn of(metrics: &[Metrics]) -> Option<Self> {
        let accuracy = Distribution::of(metrics.iter().map(|m| m.accuracy))?;
        Some(Self { accuracy, gap: Distribution::of(metrics.iter().filter_map(|m| m.gap)) })
    }
}

/// Performance of the models that share the value of a hyperparameter, after their last epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ByHyperparameter {
    /// Key in `params.json`.
    pub key: String,
    /// Value, as text.
    pub value: String,
    /// Their performance.
    #[serde(flatten)]
    pub performance: Performance,
}

/// What is known of a state's performance.
#[derive(Debug, Clone, Copy)]
struct Metrics {
    /// Test accuracy.
    accuracy: f64,
    /// Training minus test accuracy.
    gap: Option<f64>,
}

/// Gathers the metrics of all models.
#[derive(Default)]
pub(super) struct Collector {
    by_epoch: BTreeMap<u32, Vec<Metrics>>,
    by_value: BTreeMap<String, BTreeMap<SortedValue, Vec<Metrics>>>,
    /// Test accuracy of each model's last state that has one and did not diverge.
    pub last_accuracy: BTreeMap<ModelId, f64>,
}

impl Collector {
    pub fn add(&mut self, model: &Model) {
        let mut last = None;
        for line in &model.lines {
            if let Some(accuracy) = line.test_acc.filter(|_| !line.diverged) {
                let metrics = Metrics { accuracy, gap: line.train_acc.map(|train| train - accuracy) };
                self.by_epoch.entry(line.training_iteration).or_default().push(metrics);
                last = Some(metrics);
            }
        }
        self.last_accuracy.extend(last.map(|metrics| (model.params.id, metrics.accuracy)));
        let Ok(Value::Object(params)) = serde_json::to_value(&model.params) else { unreachable!("an object") };
        for (key, value) in params {
            if !value.is_object() && key != "zoo::id" && key != "seed" {
                self.by_value.entry(key).or_default().entry(SortedValue(value)).or_default().extend(last);
            }
        }
    }

    /// Performance after every epoch.
    pub fn by_epoch(&self) -> Vec<(u32, Performance)> {
        self.by_epoch.iter().filter_map(|(&epoch, metrics)| Some((epoch, Performance::of(metrics)?))).collect()
    }

    /// Performance by hyperparameter value, and the hyperparameters that all models share with their value.
    pub fn by_hyperparameter(&self) -> (Vec<ByHyperparameter>, Vec<(String, String)>) {
        let (mut varied, mut shared) = (Vec::new(), Vec::new());
        for (key, values) in &self.by_value {
            for (value, metrics) in values {
                match (values.len(), Performance::of(metrics)) {
                    (1, _) => shared.push((key.clone(), value.text())),
                    (2..=MAX_VALUES, Some(performance)) => {
                        varied.push(ByHyperparameter { key: key.clone(), value: value.text(), performance });
                    }
                    _ => {}
                }
            }
        }
        (varied, shared)
    }
}

/// A JSON value ordered as a number where it is one.
#[derive(Debug, Clone, PartialEq)]
struct SortedValue(Value);

impl Eq for SortedValue {}

impl PartialOrd for SortedValue {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SortedValue {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (self.0.as_f64(), other.0.as_f64()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => self.0.to_string().cmp(&other.0.to_string()),
        }
    }
}

impl SortedValue {
    fn text(&self) -> String {
        match &self.0 {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}
