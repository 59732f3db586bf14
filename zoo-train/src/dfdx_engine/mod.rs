//! The readable reference: one model at a time on dfdx tensors and autograd.
//!
//! It computes in f64 and keeps f32 states: the oracle that float32 engines are measured against.
//!
//! dfdx's matrix products are the `gemm` crate's, which picks its kernel by the processor's
//! features and its blocking by the caches. Bits are therefore certain to be equal on equal
//! processors only; elsewhere sums differ in the last place of an f64, which rarely survives the
//! rounding to f32. Each model runs in a rayon pool of one thread, where a product is never split.

mod ops;
mod variational;

use dfdx::prelude::*;
use zoo_model::architecture::{Module, Parameter};
use zoo_model::random::{dropout_threshold, Purpose, Stream};
use zoo_model::{Activation, Dataset, Hyperparameters, Network, Split};
use zoo_stage::{Interrupt, Interrupted};

use crate::engine::{Cohort, Engine, Snapshot, Task};
use crate::metrics::{Score, Tally};
use crate::optimizer::OptimizerState;
use crate::variational::is_kept;
use ops::{add_bias, gelu, leaky_relu, max_pool, patch_values, patches, relu, scale, Map, Matrix, Real};
use variational::{draws, noisy_dense, Noise};

/// The dfdx engine on the CPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct DfdxEngine;

impl Engine for DfdxEngine {
    fn name(&self) -> &'static str {
        "dfdx"
    }

    fn version(&self) -> String {
        "1 (dfdx 0.13, cpu)".into()
    }

    fn cohorts(&self, models: &[&Hyperparameters]) -> Vec<Vec<usize>> {
        (0..models.len()).map(|i| vec![i]).collect()
    }

    fn start<'d>(&self, tasks: &[Task], data: &'d Dataset, from: Option<&[Snapshot]>) -> Box<dyn Cohort + 'd> {
        Box::new(Models {
            models: tasks.iter().enumerate().map(|(i, t)| Model::new(t, from.map(|f| &f[i]))).collect(),
            tasks: tasks.to_vec(),
            data,
            normalization: data.normalization(),
        })
    }
}

struct Models<'d> {
    models: Vec<Model>,
    tasks: Vec<Task>,
    data: &'d Dataset,
    normalization: Vec<[f64; 256]>,
}

impl Models<'_> {
    /// Normalised images of some samples as (batch * positions, channels), row-major.
    fn images(&self, split: Split, samples: impl ExactSizeIterator<Item = usize>) -> Vec<Real> {
        let [channels, height, width] = self.data.shape;
        let (length, positions) = (self.data.image_len(), height * width);
        let pixels = &self.data.split(split).images;
        let mut out = vec![0.0; samples.len() * length];
        for (sample, image) in samples.zip(out.chunks_exact_mut(length)) {
            let source = &pixels[sample * length..][..length];
            for channel in 0..channels {
                let plane = &source[channel * positions..][..positions];
                let table = &self.normalization[channel];
                for (position, &pixel) in plane.iter().enumerate() {
                    image[position * channels + channel] = table[usize::from(pixel)];
                }
            }
        }
        out
    }

    fn labels(&self, samples: &[u32]) -> Vec<u16> {
        let labels = &self.data.split(Split::Train).labels;
        samples.iter().map(|&s| labels[s as usize]).collect()
    }
}

impl Cohort for Models<'_> {
    fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    fn data(&self) -> &Dataset {
        self.data
    }

    fn train(&mut self, epoch: u32, orders: &[Vec<u32>], interrupt: &Interrupt) -> Result<Vec<Score>, Interrupted> {
        let mut scores = Vec::new();
        for (m, order) in orders.iter().enumerate() {
            let task = self.tasks[m].clone();
            let h = &task.hyperparameters;
            let mut tally = Tally::default();
            for (step, batch) in order.chunks(h.batch_size).enumerate() {
                interrupt.check()?;
                let images = self.images(Split::Train, batch.iter().map(|&s| s as usize));
                let labels = self.labels(batch);
                let dropout = Some(DropoutKey { seed: h.seed, epoch, step: step as u32 });
                let model = &mut self.models[m];
                let (logits, mut gradient, by_sigma2) = model.gradient(&images, &labels, dropout);
                tally.add(&logits, &labels);
                if let (Some(noise), Some(by_sigma2)) = (&mut model.noise, by_sigma2) {
                    noise.step(&model.parameters, &mut gradient, &by_sigma2, task.kl_weight(epoch));
                }
                model.optimizer.step(&mut model.parameters, &gradient, model.mask.as_deref());
                model.load_tensors(Precision::Full);
            }
            scores.push(tally.score().expect("the train split is not empty"));
        }
        Ok(scores)
    }

    fn gradients(&mut self, samples: &[u32]) -> Vec<Vec<f32>> {
        let images = self.images(Split::Train, samples.iter().map(|&s| s as usize));
        let labels = self.labels(samples);
        self.models.iter().map(|m| m.gradient(&images, &labels, None).1.iter().map(|&g| g as f32).collect()).collect()
    }

    fn logits(&mut self, split: Split, range: std::ops::Range<usize>) -> Vec<Vec<f64>> {
        // Patches of this many images stay within the caches.
        const BATCH: usize = 50;
        let mut logits = vec![Vec::new(); self.models.len()];
        self.models.iter_mut().for_each(|m| m.load_tensors(Precision::State));
        for start in range.clone().step_by(BATCH) {
            let samples = start..range.end.min(start + BATCH);
            let images = self.images(split, samples.clone());
            for (model, logits) in self.models.iter().zip(&mut logits) {
                logits.extend(model.forward::<NoneTape>(&images, samples.len(), None).as_vec());
            }
        }
        self.models.iter_mut().for_each(|m| m.load_tensors(Precision::Full));
        logits
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let snapshot = |m: &Model| Snapshot {
            step: m.optimizer.step,
            parameters: m.parameters.clone(),
            moments: [&m.optimizer]
                .into_iter()
                .chain(m.noise.as_ref().map(|n| &n.optimizer))
                .flat_map(|o| o.moments.clone())
                .collect(),
            log_sigma2: m.noise.as_ref().map(|n| n.log_sigma2.clone()),
        };
        self.models.iter().map(snapshot).collect()
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) {
        for (model, mask) in self.models.iter_mut().zip(masks) {
            let Some(mask) = mask else { continue };
            for (parameter, _) in model.parameters.iter_mut().zip(mask).filter(|(_, &kept)| !kept) {
                *parameter = 0.0;
            }
            model.mask = Some(mask.clone());
            model.load_tensors(Precision::Full);
        }
    }
}

/// What a dropout mask depends on, besides the module.
#[derive(Clone, Copy)]
struct DropoutKey {
    seed: u64,
    epoch: u32,
    step: u32,
}

/// Which parameters a forward pass sees: those being trained, or the state that would be kept.
#[derive(Clone, Copy)]
enum Precision {
    Full,
    State,
}

struct Model {
    device: Cpu,
    network: Network,
    /// Flat parameter vector, in PyTorch's order.
    parameters: Vec<Real>,
    optimizer: OptimizerState,
    /// Which parameters may differ from zero; `None`: all.
    mask: Option<Vec<bool>>,
    /// With variational dropout.
    noise: Option<Noise>,
    /// For each parameter tensor its matrix, and for each of that matrix's elements its place in
    /// the flat vector: convolution weights as (out, kh * kw * in), linear weights as (out, in)
    /// with the inputs of the first one in the order (position, channel), biases as (1, out).
    tensors: Vec<(Matrix, Vec<u32>)>,
}

impl Model {
    fn new(task: &Task, from: Option<&Snapshot>) -> Self {
        let network = task.network.clone();
        let mut optimizer = OptimizerState::new(&task.hyperparameters, network.parameter_count());
        let mut parameters: Vec<Real> = task.initial.iter().map(|&p| p.into()).collect();
        if let Some(snapshot) = from {
            optimizer.step = snapshot.step;
            // Those of the noise follow.
            let own = optimizer.moments.len();
            optimizer.moments = snapshot.moments[..own].to_vec();
            parameters.clone_from(&snapshot.parameters);
        }
        let device = Cpu::default();
        let positions = positions_before_flatten(&network);
        let mut first_linear = true;
        let tensors: Vec<(Matrix, Vec<u32>)> = network
            .parameters()
            .iter()
            .map(|parameter| {
                let flattened = parameter.shape.len() == 2 && std::mem::take(&mut first_linear);
                let places = matrix_places(parameter, if flattened { positions } else { 1 });
                let rows = if parameter.shape.len() == 1 { 1 } else { parameter.shape[0] };
                let columns = parameter.range.len() / rows;
                (device.tensor_from_vec(vec![0.0; rows * columns], (rows, columns)), places)
            })
            .collect();
        let noise = task.variational().map(|_| {
            let sigma2 = tensors.iter().map(|(t, _)| device.zeros_like(t.shape())).collect();
            Noise::new(task, from, sigma2)
        });
        let mask = task.fixed_mask().map(<[bool]>::to_vec);
        let mut model = Self { device, network, parameters, optimizer, mask, noise, tensors };
        model.load_tensors(Precision::Full);
        model
    }

    /// Copies the flat parameters into the tensors.
    fn load_tensors(&mut self, precision: Precision) {
        let parameters = &self.parameters;
        let log_sigma2 = self.noise.as_ref().map(|n| &n.log_sigma2);
        let value = |p: usize| match precision {
            Precision::Full => parameters[p],
            Precision::State if log_sigma2.is_some_and(|l| !is_kept(parameters[p], l[p])) => 0.0,
            Precision::State => parameters[p] as f32 as Real,
        };
        for (tensor, places) in &mut self.tensors {
            let values: Vec<Real> = places.iter().map(|&p| value(p as usize)).collect();
            tensor.copy_from(&values);
        }
        if let Some(noise) = &mut self.noise {
            for (tensor, (_, places)) in noise.sigma2.iter_mut().zip(&self.tensors) {
                let values: Vec<Real> = places.iter().map(|&p| libm::exp(noise.log_sigma2[p as usize])).collect();
                tensor.copy_from(&values);
            }
        }
    }

    /// Logits (batch, classes) and the flat gradient of the mean cross entropy, by the parameters and,
    /// of a noisy pass, by sigma^2.
    fn gradient(
        &self,
        images: &[Real],
        labels: &[u16],
        dropout: Option<DropoutKey>,
    ) -> (Vec<Real>, Vec<Real>, Option<Vec<Real>>) {
        let (batch, classes) = (labels.len(), self.network.classes());
        let logits = self.forward::<OwnedTape<Real, Cpu>>(images, batch, dropout);
        let values = logits.retaped::<NoneTape>().as_vec();
        let mut picked = vec![0.0; batch * classes];
        for (row, &label) in picked.chunks_exact_mut(classes).zip(labels) {
            row[usize::from(label)] = -1.0 / batch as Real;
        }
        let picked: Matrix = self.device.tensor_from_vec(picked, (batch, classes));
        let loss = (logits.log_softmax::<Axis<1>>() * picked).sum::<Rank0, _>();
        let gradients = loss.backward();
        let mut flat = vec![0.0; self.parameters.len()];
        let read = |tensor: &Matrix, places: &[u32], flat: &mut [Real]| {
            let mut values = vec![0.0; places.len()];
            gradients.get(tensor).copy_into(&mut values);
            for (&place, value) in places.iter().zip(values) {
                flat[place as usize] = value;
            }
        };
        for (tensor, places) in &self.tensors {
            read(tensor, places, &mut flat);
        }
        let by_sigma2 = self.noise.as_ref().filter(|_| dropout.is_some()).map(|noise| {
            let mut flat = vec![0.0; self.parameters.len()];
            // Every second tensor is a bias, which has no noise.
            for (tensor, (_, places)) in noise.sigma2.iter().zip(&self.tensors).step_by(2) {
                read(tensor, places, &mut flat);
            }
            flat
        });
        (values, flat, by_sigma2)
    }

    /// The sums of layer `layer`, of a noisy pass with their noise.
    fn sums<T: Tape<Real, Cpu> + Merge<NoneTape>>(
        &self,
        x: Matrix<T>,
        layer: usize,
        batch: usize,
        key: Option<DropoutKey>,
    ) -> Matrix<T> {
        let [weight, bias] = [0, 1].map(|i| &self.tensors[2 * layer + i].0);
        match (&self.noise, key) {
            (Some(noise), Some(key)) => {
                let (rows, channels) = (x.shape().0, bias.shape().1);
                let values = draws(key, layer as u8, batch, rows / batch * channels);
                let values = self.device.tensor_from_vec(values, (rows, channels));
                noisy_dense(x, weight, bias, &noise.sigma2[2 * layer], values)
            }
            _ => dense(x, weight, bias),
        }
    }

    /// Logits (batch, classes) of normalised images (batch * positions, channels).
    fn forward<T: Tape<Real, Cpu> + Merge<NoneTape>>(
        &self,
        images: &[Real],
        batch: usize,
        dropout: Option<DropoutKey>,
    ) -> Matrix<T> {
        let [channels, height, width] = self.network.input();
        let mut map = Map { height, width };
        let mut layers = 0..self.tensors.len() / 2;
        let mut next_layer = || layers.next().expect("a weight and a bias a layer");
        let mut x: Option<Matrix<T>> = None;
        let mut dropouts = 0;
        for module in self.network.modules() {
            let input = x.take();
            x = Some(match *module {
                Module::Conv2d { kernel, .. } => {
                    let columns = match input {
                        Some(x) => patches(x, map, kernel),
                        // The images need no gradient: their patches start the tape.
                        None => {
                            let values = patch_values(images, batch, map, channels, kernel);
                            let shape = (batch * map.convolved(kernel).positions(), kernel * kernel * channels);
                            self.device.tensor_from_vec(values, shape).put_tape(T::default())
                        }
                    };
                    map = map.convolved(kernel);
                    self.sums(columns, next_layer(), batch, dropout)
                }
                Module::MaxPool2d => {
                    let pooled = max_pool(input.expect("a convolution before"), map);
                    map = map.pooled();
                    pooled
                }
                Module::Activation(activation) => activate(input.expect("a layer before"), activation),
                Module::Dropout(probability) => {
                    let x = input.expect("a layer before");
                    let index = dropouts;
                    dropouts += 1;
                    match dropout {
                        Some(key) if probability > 0.0 => {
                            let (rows, columns) = *x.shape();
                            scale(x, dropout_factors(key, index, probability, batch, rows / batch, columns))
                        }
                        _ => x,
                    }
                }
                Module::Flatten => {
                    let x = input.expect("a convolution before");
                    let (rows, columns) = *x.shape();
                    x.reshape_like(&(batch, rows / batch * columns))
                }
                Module::Linear { .. } => self.sums(input.expect("flattened"), next_layer(), batch, dropout),
            });
        }
        x.expect("a network has layers")
    }
}

/// `x W^T + b` for x (N, K), W (M, K) and b (1, M).
fn dense<T: Tape<Real, Cpu> + Merge<NoneTape>>(x: Matrix<T>, weight: &Matrix, bias: &Matrix) -> Matrix<T> {
    add_bias(x.matmul(weight.clone().permute::<_, Axes2<1, 0>>()), bias)
}

fn activate<T: Tape<Real, Cpu>>(x: Matrix<T>, activation: Activation) -> Matrix<T> {
    match activation {
        Activation::Tanh => x.tanh(),
        Activation::Relu => relu(x),
        Activation::Sigmoid => x.sigmoid(),
        Activation::Gelu => gelu(x),
        Activation::LeakyRelu => leaky_relu(x),
        Activation::Silu => x.with_empty_tape().sigmoid() * x,
    }
}

/// Factors 0 or 1 / (1 - p) in the engine's order (sample, position, channel); the n-th random
/// word belongs to the n-th unit in PyTorch's order (sample, channel, position).
fn dropout_factors(key: DropoutKey, module: u8, p: f64, batch: usize, positions: usize, channels: usize) -> Vec<Real> {
    let threshold = dropout_threshold(p);
    let kept = 1.0 / (1.0 - p);
    let mut words = Stream::new(key.seed, Purpose::Dropout(module), key.epoch, key.step);
    let mut factors = vec![0.0; batch * positions * channels];
    for sample in factors.chunks_exact_mut(positions * channels) {
        for channel in 0..channels {
            for position in 0..positions {
                if words.next_u32() >= threshold {
                    sample[position * channels + channel] = kept;
                }
            }
        }
    }
    factors
}

/// Positions of the map that is flattened for the first linear layer.
fn positions_before_flatten(network: &Network) -> usize {
    let [_, height, width] = network.input();
    let mut map = Map { height, width };
    for module in network.modules() {
        match *module {
            Module::Conv2d { kernel, .. } => map = map.convolved(kernel),
            Module::MaxPool2d => map = map.pooled(),
            _ => {}
        }
    }
    map.positions()
}

/// For each element of a parameter's matrix, row by row, its place in the flat vector. PyTorch
/// orders a row's columns by channel first, the engine by position (of the kernel, or of the
/// flattened map) first.
fn matrix_places(parameter: &Parameter, flattened_positions: usize) -> Vec<u32> {
    let positions = match parameter.shape[..] {
        [_, _, kh, kw] => kh * kw,
        _ => flattened_positions,
    };
    let columns = parameter.range.len() / parameter.shape[0];
    let channels = if parameter.shape.len() == 1 { 1 } else { columns / positions };
    let start = parameter.range.start;
    let row = |r: usize| {
        let first = start + r * columns;
        (0..columns).map(move |c| (first + c % channels * (columns / channels) + c / channels) as u32)
    };
    (0..parameter.shape[0]).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::Architecture;

    #[test]
    fn matrix_places_are_a_permutation_of_the_flat_vector() {
        let network = Network::new(Architecture::CnnM, Activation::Relu, 0.5, [3, 32, 32], 10).unwrap();
        assert_eq!(positions_before_flatten(&network), 4);
        for parameter in network.parameters() {
            let positions = if parameter.shape == [20, 60] { 4 } else { 1 };
            let mut places = matrix_places(parameter, positions);
            places.sort_unstable();
            assert!(places.iter().copied().eq(parameter.range.clone().map(|p| p as u32)), "{}", parameter.name);
        }
        // Second column of the first kernel: channel 1 of pixel 0.
        assert_eq!(matrix_places(&network.parameters()[0], 1)[1], 9);
    }

    #[test]
    fn dropout_draws_one_word_a_unit_in_pytorch_order() {
        let key = DropoutKey { seed: 1, epoch: 2, step: 3 };
        let factors = dropout_factors(key, 0, 0.5, 2, 3, 4);
        let mut words = Stream::new(1, Purpose::Dropout(0), 2, 3);
        let unit = |s: usize, c: usize, p: usize| factors[(s * 3 + p) * 4 + c];
        for sample in 0..2 {
            for channel in 0..4 {
                for position in 0..3 {
                    let kept = words.next_u32() >= 1 << 31;
                    assert_eq!(unit(sample, channel, position), if kept { 2.0 } else { 0.0 });
                }
            }
        }
    }
}
