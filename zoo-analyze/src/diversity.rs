//! The diversity of a zoo, as the paper defines it: spread of performance, of weights, of
//! predictions and of representations.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use zoo_engine::magnitude::sparsity_ratio;
use zoo_engine::{DeviceName, Engine, EngineError, Task};
use zoo_model::architecture::Role;
use zoo_model::stage::{Stage, UsageError};
use zoo_model::text::counted;
use zoo_model::{Dataset, ModelId, Network, Params, Split};
use zoo_train::registry;

use crate::evaluation::{self, Which};
use crate::scores::{agreement, kappa};
use crate::source::{Model, Source};
use crate::statistics::{quantile, tensor_names, STATISTICS};
use crate::Error;

/// Most models whose last states are compared pair by pair; of more, evenly spaced ones.
const MOST_COMPARED: usize = 128;
/// Most models whose predictions and activations are compared.
const MOST_EVALUATED: usize = 48;
/// Test samples that activations are compared on.
const CKA_SAMPLES: usize = 256;
/// Most models in the map of trajectories.
const MOST_TRAJECTORIES: usize = 96;
/// Times the median length at which a model is left out of the map.
const FAR: f64 = 3.0;
/// Most scalars of states that are held for comparisons and for the map, each.
const MOST_HELD: usize = 1 << 26;

/// A distribution in a few numbers; quantiles are linearly interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// Number of values.
    pub count: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation, of the population.
    pub std: f64,
    /// The 0, 5, 25, 50, 75, 95 and 100 percentiles.
    pub quantiles: [f64; 7],
}

impl Distribution {
    /// Of finite values; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
        let quantiles = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0].map(|q| quantile(&values, q));
        (count > 0).then_some(Self { count, mean, std, quantiles })
    }
}

/// Performance after some epoch, or of models with some hyperparameter value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Performance {
    /// Test accuracy.
    pub accuracy: Distribution,
    /// Training minus test accuracy.
    pub gap: Option<Distribution>,
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

/// Pairs of models compared by their last states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightDistances {
    /// Models compared.
    pub models: usize,
    /// Euclidean distances of all pairs.
    pub l2: Distribution,
    /// Cosines of all pairs.
    pub cosine: Distribution,
}

/// Pairs of models compared by what they make of the test images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Behaviour {
    /// Models compared.
    pub models: usize,
    /// Test samples classified.
    pub samples: usize,
    /// Share of samples that a pair classifies alike.
    pub agreement: Distribution,
    /// The same as Cohen's kappa.
    pub kappa: Option<Distribution>,
    /// Test samples whose activations are compared.
    pub cka_samples: usize,
    /// Linear centred kernel alignment of a pair's activations, layer by layer (Kornblith et al.,
    /// 2019, equation 4 of the biased estimator).
    pub cka: Vec<Option<Distribution>>,
}

/// Median over all models of the statistics of a tensor after every epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorOverTime {
    /// Layer and kind, such as `1.weight`.
    pub tensor: String,
    /// (epoch, median of the means, median of the standard deviations).
    pub epochs: Vec<(u32, f64, f64)>,
}

/// A state on the map of trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Place {
    /// The model.
    pub id: ModelId,
    /// Epoch.
    pub epoch: u32,
    /// First two principal components.
    pub at: [f64; 2],
    /// Test accuracy, if it is known.
    pub accuracy: Option<f64>,
}

/// The map of trajectories: states of some models on the first two principal components of all
/// of these states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Map {
    /// Models left out because their weights exploded: a last state of more than [`FAR`] times the
    /// median length would leave no room for the others.
    pub left_out: usize,
    /// Share of the variance along each axis.
    pub explained: [f64; 2],
    /// The states, model by model, epochs ascending.
    pub places: Vec<Place>,
}

/// A twin zoo beside its parents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TwinZoo {
    /// Name of the twin zoo.
    pub name: String,
    /// Share of the weights that are zero, over its models.
    pub sparsity: Distribution,
    /// Test accuracy after the last epoch, where it is known.
    pub accuracy: Option<Distribution>,
    /// Test accuracy minus that of the parent's last state.
    pub accuracy_change: Option<Distribution>,
    /// Share of the test samples that twin and parent classify alike.
    pub agreement: Option<Distribution>,
    /// Mean share of zeros of every weight tensor.
    pub layers: Vec<(String, f64)>,
}

/// Everything that is told of a zoo's diversity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diversity {
    /// Performance by epoch, of states whose test accuracy is known.
    pub epochs: Vec<(u32, Performance)>,
    /// Performance by hyperparameter value; those that all models share are left out.
    pub hyperparameters: Vec<ByHyperparameter>,
    /// Hyperparameters that all models share.
    pub shared: Vec<(String, String)>,
    /// Distances of weights.
    pub weights: Option<WeightDistances>,
    /// Agreement and CKA, where the dataset is at hand.
    pub behaviour: Option<Behaviour>,
    /// Weights over time.
    pub tensors: Vec<TensorOverTime>,
    /// The map of trajectories.
    pub map: Option<Map>,
    /// Twin zoos.
    pub twins: Vec<TwinZoo>,
}

/// The last states of evenly spaced models, and where they come from.
struct LastStates {
    params: Vec<Params>,
    states: Vec<Vec<f32>>,
}

/// Model, epoch, test accuracy and weights of a state; a model's follow each other.
type Trajectory = (ModelId, u32, Option<f64>, Vec<f32>);

/// Accuracy and gap of a state.
type Metrics = (f64, Option<f64>);

/// Gathers what diversity is computed from, model by model.
pub struct Collector {
    models: usize,
    parameters: usize,
    seen: usize,
    by_epoch: BTreeMap<u32, Vec<Metrics>>,
    by_value: BTreeMap<String, BTreeMap<SortedValue, Vec<Metrics>>>,
    last: LastStates,
    last_accuracy: BTreeMap<ModelId, f64>,
    tensor_names: Vec<String>,
    /// By epoch and tensor: means and standard deviations, of all models.
    tensors: BTreeMap<u32, Vec<[Vec<f64>; 2]>>,
    trajectories: Vec<Trajectory>,
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

/// Whether model `index` of `of` is one of `most` evenly spaced ones.
fn is_chosen(index: usize, of: usize, most: usize) -> bool {
    index.is_multiple_of(of.div_ceil(most.max(1)).max(1))
}

impl Collector {
    /// Nothing yet.
    pub fn new(source: &Source) -> Self {
        Self {
            models: source.ids().len(),
            parameters: source.record().parameters.max(1),
            seen: 0,
            by_epoch: BTreeMap::new(),
            by_value: BTreeMap::new(),
            last: LastStates { params: Vec::new(), states: Vec::new() },
            last_accuracy: BTreeMap::new(),
            tensor_names: Vec::new(),
            tensors: BTreeMap::new(),
            trajectories: Vec::new(),
        }
    }

    /// Adds a model; `statistics` are those of its states.
    pub fn add(&mut self, model: &Model, statistics: &[Vec<f64>]) {
        let index = self.seen;
        self.seen += 1;
        let id = model.params.id;
        let mut last = None;
        for line in &model.lines {
            if let Some(accuracy) = line.test_acc.filter(|_| !line.diverged) {
                let metrics = (accuracy, line.train_acc.map(|train| train - accuracy));
                self.by_epoch.entry(line.training_iteration).or_default().push(metrics);
                last = Some(metrics);
            }
        }
        self.last_accuracy.extend(last.map(|(accuracy, _)| (id, accuracy)));
        let Ok(Value::Object(params)) = serde_json::to_value(&model.params) else { unreachable!("an object") };
        for (key, value) in params {
            if !value.is_object() && key != "zoo::id" && key != "seed" {
                self.by_value.entry(key).or_default().entry(SortedValue(value)).or_default().extend(last);
            }
        }
        if self.tensor_names.is_empty() {
            self.tensor_names = tensor_names(&model.network);
        }
        for (line, statistics) in model.lines.iter().zip(statistics) {
            if line.diverged || !statistics.iter().all(|s| s.is_finite()) {
                continue;
            }
            let of_epoch = self.tensors.entry(line.training_iteration).or_default();
            of_epoch.resize_with(self.tensor_names.len(), Default::default);
            for (values, of_tensor) in of_epoch.iter_mut().zip(statistics.chunks_exact(STATISTICS.len())) {
                values[0].push(of_tensor[0]);
                values[1].push(of_tensor[1].sqrt());
            }
        }
        let finite = |state: &[f32]| state.iter().all(|v| v.is_finite());
        let compared = MOST_COMPARED.min(MOST_HELD / self.parameters);
        if let (true, Some(state)) = (is_chosen(index, self.models, compared), model.states.last()) {
            if finite(state) && self.last.states.len() < compared {
                self.last.params.push(model.params.clone());
                self.last.states.push(state.clone());
            }
        }
        let drawn = MOST_TRAJECTORIES.min(MOST_HELD / self.parameters / model.states.len().max(1));
        if is_chosen(index, self.models, drawn) && drawn > 0 {
            for (line, state) in model.lines.iter().zip(&model.states) {
                if finite(state) {
                    self.trajectories.push((id, line.training_iteration, line.test_acc, state.clone()));
                }
            }
        }
    }

    /// Computes everything. `data` must be the dataset of the zoo and its twins, and `twins` be of it;
    /// what they lack goes to `notes`.
    ///
    /// # Errors
    /// A twin cannot be read or has no model, or the stage is interrupted.
    pub fn finish(
        self,
        source: &Source,
        data: Option<&Dataset>,
        twins: &[Source],
        notes: &mut Vec<String>,
        stage: &Stage,
    ) -> Result<Diversity, Error> {
        let performance = |metrics: &[Metrics]| {
            let accuracy = Distribution::of(metrics.iter().map(|m| m.0))?;
            Some(Performance { accuracy, gap: Distribution::of(metrics.iter().filter_map(|m| m.1)) })
        };
        let epochs = self.by_epoch.iter().filter_map(|(&epoch, m)| Some((epoch, performance(m)?))).collect();
        let (mut hyperparameters, mut shared) = (Vec::new(), Vec::new());
        for (key, values) in &self.by_value {
            for (value, metrics) in values {
                match (values.len(), performance(metrics)) {
                    (1, _) => shared.push((key.clone(), value.text())),
                    // A value for almost every model is a number of it, no choice.
                    (n, Some(performance)) if n <= 24 => {
                        hyperparameters.push(ByHyperparameter { key: key.clone(), value: value.text(), performance });
                    }
                    _ => {}
                }
            }
        }
        let median = |values: &[f64]| Distribution::of(values.iter().copied()).map_or(f64::NAN, |d| d.quantiles[3]);
        let tensors = self.tensor_names.iter().enumerate().map(|(i, tensor)| TensorOverTime {
            tensor: tensor.clone(),
            epochs: self.tensors.iter().map(|(&e, of)| (e, median(&of[i][0]), median(&of[i][1]))).collect(),
        });
        let behaviour = data.map(|data| behaviour(&self.last, data, stage)).transpose()?.flatten();
        let twins = twins.iter().map(|twin| twin_zoo(source, twin, data, &self.last_accuracy, notes, stage));
        let twins = twins.collect::<Result<_, _>>()?;
        Ok(Diversity {
            epochs,
            hyperparameters,
            shared,
            weights: weight_distances(&self.last.states),
            behaviour,
            tensors: tensors.collect(),
            map: trajectory_map(&self.trajectories),
            twins,
        })
    }
}

fn pairs(n: usize) -> Vec<(usize, usize)> {
    (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Eight sums, so that the compiler can use vectors; their order is fixed.
    let mut sums = [0.0f64; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 =
        a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn weight_distances(states: &[Vec<f32>]) -> Option<WeightDistances> {
    let squares: Vec<f64> = states.par_iter().map(|s| dot(s, s)).collect();
    let compare = |&(i, j): &(usize, usize)| {
        let product = dot(&states[i], &states[j]);
        let l2 = (squares[i] + squares[j] - 2.0 * product).max(0.0).sqrt();
        (l2, product / (squares[i] * squares[j]).sqrt())
    };
    let (l2, cosine): (Vec<f64>, Vec<f64>) = pairs(states.len()).par_iter().map(compare).unzip();
    Some(WeightDistances { models: states.len(), l2: Distribution::of(l2)?, cosine: Distribution::of(cosine)? })
}

fn behaviour(last: &LastStates, data: &Dataset, stage: &Stage) -> Result<Option<Behaviour>, Error> {
    let models = last.states.len();
    let chosen = (0..models).filter(|&i| is_chosen(i, models, MOST_EVALUATED));
    let tasks: Vec<Task> = chosen.filter_map(|i| evaluation::task(&last.params[i], &last.states[i], data)).collect();
    if tasks.is_empty() || data.len(Split::Test) == 0 {
        return Ok(None);
    }
    let progress = stage.progress("comparing predictions", tasks.len() as u64);
    let evaluations = evaluation::evaluate(&tasks, data, Split::Test, &progress, stage)?;
    let predictions: Vec<Vec<u16>> = evaluations.into_iter().map(|e| e.predictions).collect();
    drop(progress);
    let pairs = pairs(tasks.len());
    let classes = data.classes();
    let compare = |&(i, j): &(usize, usize)| {
        (agreement(&predictions[i], &predictions[j]), kappa(&predictions[i], &predictions[j], classes))
    };
    let (agreements, kappas): (Vec<f64>, Vec<f64>) = pairs.par_iter().map(compare).unzip();

    let samples = data.len(Split::Test).min(CKA_SAMPLES);
    let engine = engine_with_layer_outputs(&tasks[0], data)?;
    if engine.is_none() {
        stage.say("no engine of this program tells activations: CKA is left out");
    }
    let progress = stage.progress("comparing activations", tasks.len() as u64);
    let kernels: Vec<Vec<Vec<f32>>> = tasks
        .par_iter()
        .map(|task| {
            stage.interrupt.check()?;
            let outputs = match &engine {
                Some(engine) => engine.layer_outputs(task, data, Split::Test, 0..samples).map_err(EngineError::from)?,
                None => None,
            };
            progress.advance(1);
            Ok(outputs.iter().flatten().map(|values| centred_kernel(values, samples)).collect())
        })
        .collect::<Result<_, Error>>()?;
    let cka = (0..kernels[0].len()).map(|layer| {
        let norm: Vec<f64> = kernels.par_iter().map(|k| dot(&k[layer], &k[layer]).sqrt()).collect();
        let alike = |&(i, j): &(usize, usize)| dot(&kernels[i][layer], &kernels[j][layer]) / (norm[i] * norm[j]);
        Distribution::of(pairs.par_iter().map(alike).collect::<Vec<f64>>())
    });
    let cka = cka.collect();
    let Some(agreement) = Distribution::of(agreements) else { return Ok(None) };
    Ok(Some(Behaviour {
        models: tasks.len(),
        samples: data.len(Split::Test),
        agreement,
        kappa: Distribution::of(kappas),
        cka_samples: samples,
        cka,
    }))
}

/// The fastest engine that tells what the layers of such a task make of images; `None` if there is none.
fn engine_with_layer_outputs(task: &Task, data: &Dataset) -> Result<Option<Box<dyn Engine>>, Error> {
    for factory in registry::factories().iter().filter(|factory| factory.trains(&task.spec())) {
        let engine = factory.build(DeviceName::Cpu).map_err(EngineError::from)?.engine;
        if engine.layer_outputs(task, data, Split::Test, 0..1).map_err(EngineError::from)?.is_some() {
            return Ok(Some(engine));
        }
    }
    Ok(None)
}

/// H X X' H of values (samples, width), scaled to a largest entry of 1: H takes the means away.
fn centred_kernel(values: &[f64], samples: usize) -> Vec<f32> {
    let width = values.len() / samples;
    let mut centred = values.to_vec();
    for i in 0..width {
        let mean = values.iter().skip(i).step_by(width).sum::<f64>() / samples as f64;
        centred.iter_mut().skip(i).step_by(width).for_each(|v| *v -= mean);
    }
    let x = faer::MatRef::from_row_major_slice(&centred, samples, width);
    let mut kernel = faer::Mat::<f64>::zeros(samples, samples);
    faer::linalg::matmul::matmul(&mut kernel, faer::Accum::Replace, x, x.transpose(), 1.0, faer::Par::Seq);
    let largest = kernel.col_iter().flat_map(|c| c.iter()).fold(0.0f64, |a, b| a.max(b.abs()));
    let scale = if largest > 0.0 { 1.0 / largest } else { 0.0 };
    kernel.col_iter().flat_map(|c| c.iter()).map(|v| (v * scale) as f32).collect()
}

/// The first two principal components, by subspace iteration.
fn trajectory_map(states: &[Trajectory]) -> Option<Map> {
    const ITERATIONS: usize = 60;
    let trajectories: Vec<&[Trajectory]> = states.chunk_by(|a, b| a.0 == b.0).collect();
    let lengths: Vec<f64> =
        trajectories.iter().map(|t| t.last().map_or(0.0, |(_, _, _, w)| dot(w, w).sqrt())).collect();
    let median = Distribution::of(lengths.iter().copied())?.quantiles[3];
    let near = |i: &usize| lengths[*i] <= FAR * median;
    let states: Vec<&Trajectory> = (0..lengths.len()).filter(near).flat_map(|i| trajectories[i]).collect();
    let left_out = (0..lengths.len()).filter(|i| !near(i)).count();
    let (_, _, _, first) = states.first()?;
    let (n, d) = (states.len(), first.len());
    let mut mean = vec![0.0f64; d];
    for (_, _, _, state) in &states {
        mean.iter_mut().zip(state).for_each(|(m, &v)| *m += f64::from(v) / n as f64);
    }
    let centred: Vec<Vec<f32>> = states
        .par_iter()
        .map(|(_, _, _, state)| state.iter().zip(&mean).map(|(&v, m)| (f64::from(v) - m) as f32).collect())
        .collect();
    let total: f64 = centred.par_iter().map(|x| dot(x, x)).collect::<Vec<f64>>().iter().sum();
    if total <= 0.0 || !total.is_finite() {
        return None;
    }
    let project = |axis: &[f32]| -> Vec<f64> { centred.par_iter().map(|x| dot(x, axis)).collect() };
    let back = |weights: &[f64]| -> Vec<f64> {
        // Columns in pieces, rows in order: the sums do not depend on the threads.
        let piece = d.div_ceil(64).max(1);
        let starts: Vec<usize> = (0..d).step_by(piece).collect();
        let sums = starts.par_iter().map(|&start| {
            let range = start..d.min(start + piece);
            let mut sum = vec![0.0; range.len()];
            for (x, w) in centred.iter().zip(weights) {
                sum.iter_mut().zip(&x[range.clone()]).for_each(|(s, &v)| *s += w * f64::from(v));
            }
            sum
        });
        sums.collect::<Vec<_>>().concat()
    };
    let unit = |v: Vec<f64>| -> Vec<f32> {
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        v.iter().map(|x| (x / length) as f32).collect()
    };
    let mut axes: [Vec<f32>; 2] = [unit(centred[n - 1].iter().map(|&v| f64::from(v)).collect()), vec![1.0; d]];
    for _ in 0..ITERATIONS {
        let a = unit(back(&project(&axes[0])));
        let mut b = back(&project(&axes[1]));
        let along: f64 = b.iter().zip(&a).map(|(b, &a)| b * f64::from(a)).sum();
        b.iter_mut().zip(&a).for_each(|(b, &a)| *b -= along * f64::from(a));
        axes = [a, unit(b)];
    }
    // The sign of an axis is arbitrary: its largest entry is made positive.
    for axis in &mut axes {
        let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
        if largest < 0.0 {
            axis.iter_mut().for_each(|v| *v = -*v);
        }
    }
    let [x, y] = axes.each_ref().map(|axis| project(axis));
    let share = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>() / total;
    let places = states.iter().enumerate().map(|(i, &&(id, epoch, accuracy, _))| Place {
        id,
        epoch,
        at: [x[i], y[i]],
        accuracy,
    });
    Some(Map { left_out, explained: [share(&x), share(&y)], places: places.collect() })
}

fn twin_zoo(
    parent: &Source,
    twin: &Source,
    data: Option<&Dataset>,
    accuracies: &BTreeMap<ModelId, f64>,
    notes: &mut Vec<String>,
    stage: &Stage,
) -> Result<TwinZoo, Error> {
    let (mut sparsity, mut accuracy, mut change, mut agreement) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut layers: Vec<(String, f64)> = Vec::new();
    let mut models = 0.0;
    let mut unknown: BTreeMap<ModelId, Vec<u16>> = BTreeMap::new();
    let passed = evaluation::for_each(twin, data, &|_| true, Which::Last, stage, |model, predictions| {
        let (Some(line), Some(state)) = (model.lines.last(), model.states.last()) else { return Ok(()) };
        if line.diverged {
            return Ok(());
        }
        let id = model.params.id;
        accuracy.extend(line.test_acc);
        change.extend(line.test_acc.zip(accuracies.get(&id)).map(|(twin, parent)| twin - parent));
        sparsity.push(line.sparsity_ratio.unwrap_or_else(|| sparsity_ratio(&model.network, state)));
        match (line.test_agreement, predictions) {
            (Some(share), _) => agreement.push(share),
            (None, Some(predictions)) => _ = unknown.insert(id, predictions),
            (None, None) => {}
        }
        let shares = zero_shares(&model.network, state);
        layers.resize(shares.len(), (String::new(), 0.0));
        for (sum, (name, share)) in layers.iter_mut().zip(shares) {
            *sum = (name, sum.1 + share);
        }
        models += 1.0;
        Ok(())
    })?;
    let name = &twin.record().name;
    notes.extend_from_slice(twin.notes());
    if !passed.skipped.is_empty() {
        notes.push(format!("{name}: {} skipped", counted(passed.skipped.len(), "model")));
    }
    if passed.evaluated > 0 {
        notes.push(format!("{name}: {} evaluated on the dataset", counted(passed.evaluated, "state")));
    } else if accuracy.is_empty() {
        notes.push(format!("{name}: no model has a test accuracy; --data evaluates them"));
    }
    if !unknown.is_empty() {
        let wanted = |id| unknown.contains_key(&id);
        evaluation::for_each(parent, data, &wanted, Which::Last, stage, |model, predictions| {
            let of_twin = &unknown[&model.params.id];
            agreement.extend(predictions.map(|of_parent| crate::scores::agreement(of_twin, &of_parent)));
            Ok(())
        })?;
    }
    layers.iter_mut().for_each(|(_, sum)| *sum /= models);
    let empty = || UsageError(format!("{} has no model that could be read and did not diverge", twin.path().display()));
    Ok(TwinZoo {
        name: name.clone(),
        sparsity: Distribution::of(sparsity).ok_or_else(empty)?,
        accuracy: Distribution::of(accuracy),
        accuracy_change: Distribution::of(change),
        agreement: Distribution::of(agreement),
        layers,
    })
}

/// Share of zeros of every weight tensor.
fn zero_shares(network: &Network, state: &[f32]) -> Vec<(String, f64)> {
    let trained = network.parameters().iter().filter(|p| p.role.is_trained());
    let named = trained.zip(tensor_names(network)).filter(|(p, _)| p.role == Role::Weight);
    let share = |values: &[f32]| values.iter().filter(|&&v| v == 0.0).count() as f64 / values.len() as f64;
    named.map(|(p, name)| (name, share(&state[p.range.clone()]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::random::{Purpose, Stream};

    fn cka(a: &[f32], b: &[f32]) -> f64 {
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn cka_is_blind_to_rotation_scale_and_offset_and_sees_the_rest() {
        let (samples, width) = (40, 2);
        let mut noise = Stream::new(3, Purpose::Sample, 0, 0);
        let x: Vec<f64> = (0..samples * width).map(|_| noise.normal_pair()[0]).collect();
        let turned: Vec<f64> = x
            .chunks(2)
            .flat_map(|p| [5.0 + 3.0 * (0.6 * p[0] - 0.8 * p[1]), 3.0 * (0.8 * p[0] + 0.6 * p[1])])
            .collect();
        let other: Vec<f64> = (0..samples * width).map(|_| noise.normal_pair()[0]).collect();
        let [x, turned, other] = [x, turned, other].map(|values| centred_kernel(&values, samples));
        assert!((cka(&x, &turned) - 1.0).abs() < 1e-5);
        assert!(cka(&x, &other) < 0.5);
    }

    #[test]
    fn distances_and_cosines_are_those_of_all_pairs() {
        let found = weight_distances(&[vec![3.0, 0.0], vec![0.0, 4.0], vec![6.0, 0.0]]).unwrap();
        assert_eq!((found.models, found.l2.count), (3, 3));
        let expected = (5.0 + 3.0 + 52f64.sqrt()) / 3.0;
        assert!((found.l2.mean - expected).abs() < 1e-12 && (found.cosine.mean - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_map_finds_the_plane_of_the_states_and_leaves_exploded_models_out() {
        // Two orthogonal directions in 50 dimensions, the first with nine times the variance.
        let state = |a: f32, b: f32| (0..50).map(|i| if i % 2 == 0 { 3.0 * a } else { b }).collect::<Vec<f32>>();
        let at = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)];
        let mut states: Vec<Trajectory> =
            at.iter().enumerate().map(|(i, &(a, b))| (ModelId(i as u32), 1, Some(0.5), state(a, b))).collect();
        states.push((ModelId(9), 1, None, vec![1e6; 50]));
        let map = trajectory_map(&states).unwrap();
        assert_eq!((map.left_out, map.places.len()), (1, 4));
        assert!((map.explained[0] - 0.9).abs() < 1e-6 && (map.explained[1] - 0.1).abs() < 1e-6, "{:?}", map.explained);
        for place in &map.places {
            assert!((place.at[0].abs() - 15.0).abs() < 1e-3 && (place.at[1].abs() - 5.0).abs() < 1e-3, "{place:?}");
        }
    }
}
