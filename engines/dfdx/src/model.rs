//! One model: its tensors, and a mini-batch on its way through them.

use std::ops::Range;

use dfdx::prelude::*;
use zoo_engine::optimizer::OptimizerState;
use zoo_engine::variational::is_kept;
use zoo_engine::{Snapshot, Task};
use zoo_model::architecture::{Module, NamedModule, Parameter, Role};
use zoo_model::{Activation, Network};

use crate::backend::{Backend, Real};
use crate::ops::{
    add_bias, conv2d, gelu, global_avg_pool, leaky_relu, max_pool, normalize, normalize_batch, relu, scale, sum,
    Affine, BatchStatistics, Map, Matrix, Patches,
};
use crate::random::{dropout_factors, DropoutKey, Units};
use crate::variational::{draws, noisy, Noise};

/// Which parameters a forward pass sees: those being trained, or the state that would be kept.
#[derive(Clone, Copy)]
pub enum Precision {
    Full,
    State,
}

/// How a network is run.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Batch statistics, and dropout if there is a key.
    Training(Option<DropoutKey>),
    /// Running statistics, no dropout.
    Evaluation,
}

/// What a forward and a backward pass give.
pub struct Derivatives {
    /// (batch, classes).
    pub logits: Vec<Real>,
    /// Of the mean cross entropy, by what is trained; flat.
    pub gradient: Vec<Real>,
    /// The same by sigma^2, of a noisy pass.
    pub by_sigma2: Option<Vec<Real>>,
    /// Of each batch normalisation.
    pub statistics: Vec<BatchStatistics>,
}

pub struct Model<D: Backend> {
    pub device: D,
    pub network: Network,
    /// Flat vector of the state, in the network's order.
    pub parameters: Vec<Real>,
    pub optimizer: OptimizerState,
    /// Which parameters may differ from zero; `None`: all.
    pub mask: Option<Vec<bool>>,
    /// With variational dropout.
    pub noise: Option<Noise<D>>,
    /// For each tensor of the network its matrix, and for each of that matrix's elements its place
    /// in the flat vector: convolution weights as (out, kh * kw * in), linear weights as (out, in)
    /// with the inputs of the first one in the order (position, channel), all others as (1, n).
    pub tensors: Vec<(Matrix<D>, Vec<u32>)>,
}

impl<D: Backend> Model<D> {
    pub fn new(device: &D, task: &Task, from: Option<&Snapshot>, samples: usize) -> Self {
        let network = task.network.clone();
        let mut optimizer = OptimizerState::new(&task.hyperparameters, network.parameter_count(), samples);
        let mut parameters: Vec<Real> = task.initial.iter().map(|&p| p.into()).collect();
        if let Some(snapshot) = from {
            optimizer.step = snapshot.step;
            optimizer.moments.clone_from(&snapshot.moments);
            parameters.clone_from(&snapshot.parameters);
        }
        let device = device.clone();
        let positions = positions_before_flatten(&network);
        let mut first_linear = true;
        let tensors: Vec<(Matrix<D>, Vec<u32>)> = network
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
            let trained = network.parameters().iter().zip(&tensors).filter(|(p, _)| p.role.is_trained());
            let sigma2 = trained.map(|(_, (tensor, _))| device.zeros_like(tensor.shape())).collect();
            Noise::new(task, from, sigma2, samples)
        });
        let mask = task.fixed_mask().map(<[bool]>::to_vec);
        let mut model = Self { device, network, parameters, optimizer, mask, noise, tensors };
        model.load_tensors(Precision::Full);
        model
    }

    /// Copies the flat parameters into the tensors.
    pub fn load_tensors(&mut self, precision: Precision) {
        let parameters = &self.parameters;
        let log_sigma2 = self.noise.as_ref().map(|n| &n.log_sigma2);
        let value = |p: usize| match precision {
            Precision::Full => parameters[p],
            Precision::State if log_sigma2.and_then(|l| l.get(p)).is_some_and(|&l| !is_kept(parameters[p], l)) => 0.0,
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

    /// Moves the running statistics a tenth of the way to those of a batch.
    pub fn observe(&mut self, statistics: &[BatchStatistics]) {
        let observed = statistics.iter().flat_map(|s| s.mean.iter().chain(&s.variance));
        let running = &mut self.parameters[self.network.parameter_count()..];
        for (running, observed) in running.iter_mut().zip(observed) {
            *running = 0.9 * *running + 0.1 * observed;
        }
    }

    /// A forward and a backward pass.
    pub fn gradient(&self, images: &[Real], labels: &[u16], dropout: Option<DropoutKey>) -> Derivatives {
        let (batch, classes) = (labels.len(), self.network.classes());
        let (logits, statistics) = self.forward::<OwnedTape<Real, D>>(images, batch, Mode::Training(dropout));
        let values = logits.retaped::<NoneTape>().as_vec();
        let mut picked = vec![0.0; batch * classes];
        for (row, &label) in picked.chunks_exact_mut(classes).zip(labels) {
            row[usize::from(label)] = -1.0 / batch as Real;
        }
        let picked: Matrix<D> = self.device.tensor_from_vec(picked, (batch, classes));
        let loss = (logits.log_softmax::<Axis<1>>() * picked).sum::<Rank0, _>();
        let gradients = loss.backward();
        let mut flat = vec![0.0; self.network.parameter_count()];
        let read = |tensor: &Matrix<D>, places: &[u32], flat: &mut [Real]| {
            let mut values = vec![0.0; places.len()];
            gradients.get(tensor).copy_into(&mut values);
            for (&place, value) in places.iter().zip(values) {
                flat[place as usize] = value;
            }
        };
        let trained = || self.network.parameters().iter().zip(&self.tensors).filter(|(p, _)| p.role.is_trained());
        for (_, (tensor, places)) in trained() {
            read(tensor, places, &mut flat);
        }
        let by_sigma2 = self.noise.as_ref().filter(|_| dropout.is_some()).map(|noise| {
            let mut flat = vec![0.0; self.network.parameter_count()];
            for ((parameter, (_, places)), tensor) in trained().zip(&noise.sigma2) {
                if parameter.role == Role::Weight {
                    read(tensor, places, &mut flat);
                }
            }
            flat
        });
        Derivatives { logits: values, gradient: flat, by_sigma2, statistics }
    }

    /// Logits (batch, classes) of normalised images (batch * positions, channels), and in training
    /// the statistics of each batch normalisation.
    pub fn forward<T: Tape<Real, D>>(
        &self,
        images: &[Real],
        batch: usize,
        mode: Mode,
    ) -> (Matrix<D, T>, Vec<BatchStatistics>) {
        let (x, mut pass, map) = self.pass(images, batch, mode);
        let (x, _) = pass.modules(self.network.modules(), x, map);
        (x, pass.observed)
    }

    /// Normalised images (batch * positions, channels) at the beginning of their way.
    pub fn pass<T: Tape<Real, D>>(
        &self,
        images: &[Real],
        batch: usize,
        mode: Mode,
    ) -> (Matrix<D, T>, Pass<'_, D>, Map) {
        let [channels, height, width] = self.network.input();
        let map = Map { height, width };
        let x = self.device.tensor_from_vec(images.to_vec(), (batch * map.positions(), channels));
        let trained = self.network.parameters().iter().filter(|p| p.role.is_trained()).count();
        let pass = Pass {
            model: self,
            batch,
            mode,
            tensors: 0..trained,
            statistics: trained..self.tensors.len(),
            is_input: true,
            layers: 0,
            dropouts: 0,
            observed: Vec::new(),
        };
        (x.put_tape(T::default()), pass, map)
    }
}

/// A batch on its way through a network.
pub struct Pass<'a, D: Backend> {
    model: &'a Model<D>,
    batch: usize,
    mode: Mode,
    /// Tensors to come that are trained, in forward order.
    tensors: Range<usize>,
    /// Running means and variances to come, in forward order.
    statistics: Range<usize>,
    /// Whether the next module sees the images, which need no gradient.
    is_input: bool,
    layers: u8,
    dropouts: u8,
    observed: Vec<BatchStatistics>,
}

impl<'a, D: Backend> Pass<'a, D> {
    pub fn modules<T: Tape<Real, D>>(
        &mut self,
        modules: &[NamedModule],
        mut x: Matrix<D, T>,
        mut map: Map,
    ) -> (Matrix<D, T>, Map) {
        for NamedModule { module, .. } in modules {
            x = self.module(module, x, map);
            map = after(module, map);
        }
        (x, map)
    }

    pub fn tensor(&mut self) -> &'a Matrix<D> {
        &self.model.tensors[self.tensors.next().expect("tensors for every module")].0
    }

    /// `product(x, W)`, plus a bias if there is one; in training with variational dropout, plus
    /// noise.
    pub fn sums<T: Tape<Real, D>>(
        &mut self,
        x: Matrix<D, T>,
        bias: bool,
        product: impl Fn(Matrix<D, T>, &Matrix<D>) -> Matrix<D, T>,
    ) -> Matrix<D, T> {
        let index = self.tensors.start;
        let weight = self.tensor();
        let layer = self.layers;
        self.layers += 1;
        let y = match (&self.model.noise, self.mode) {
            (Some(noise), Mode::Training(Some(key))) => {
                let draw = |[rows, channels]: [usize; 2]| {
                    let values = draws(key, layer, self.batch, rows / self.batch * channels);
                    self.model.device.tensor_from_vec(values, (rows, channels))
                };
                noisy(x, weight, &noise.sigma2[index], product, draw)
            }
            _ => product(x, weight),
        };
        if bias {
            add_bias(y, self.tensor())
        } else {
            y
        }
    }

    pub fn module<T: Tape<Real, D>>(&mut self, module: &Module, x: Matrix<D, T>, map: Map) -> Matrix<D, T> {
        let is_input = std::mem::take(&mut self.is_input);
        match *module {
            Module::Conv2d { bias, .. } => {
                let at = patches(module, map).expect("it is a convolution");
                self.sums(x, bias, |x, weight| conv2d(x, weight, at, is_input))
            }
            Module::BatchNorm2d { .. } => {
                let affine = Affine { scale: self.tensor(), shift: self.tensor() };
                let running = [(); 2].map(|()| {
                    let index = self.statistics.next().expect("statistics for every normalisation");
                    &self.model.tensors[index].0
                });
                match self.mode {
                    Mode::Training(_) => {
                        let (y, statistics) = normalize_batch(x, &affine);
                        self.observed.push(statistics);
                        y
                    }
                    Mode::Evaluation => {
                        let [mean, variance] = running.map(|m| m.as_vec());
                        normalize(x, &affine, &BatchStatistics { mean, variance })
                    }
                }
            }
            Module::MaxPool2d => max_pool(x, map),
            Module::GlobalAvgPool2d => global_avg_pool(x, map),
            Module::Activation(activation) => activate(x, activation),
            Module::Dropout(probability) => {
                let index = self.dropouts;
                self.dropouts += 1;
                match self.mode {
                    Mode::Training(Some(key)) if probability > 0.0 => {
                        let (rows, channels) = *x.shape();
                        let units = Units { batch: self.batch, positions: rows / self.batch, channels };
                        scale(x, dropout_factors(key, index, probability, units))
                    }
                    _ => x,
                }
            }
            Module::Flatten => {
                let (rows, columns) = *x.shape();
                x.reshape_like(&(self.batch, rows / self.batch * columns))
            }
            Module::Linear { .. } => {
                self.sums(x, true, |x, weight| x.matmul(weight.clone().permute::<_, Axes2<1, 0>>()))
            }
            Module::Residual { ref body, ref shortcut } => {
                let around = x.with_empty_tape();
                let (through, _) = self.modules(body, x, map);
                let (around, _) = self.modules(shortcut, around, map);
                sum(through, around)
            }
        }
    }
}

/// Where a convolution's patches lie; `None` of another module.
pub fn patches(module: &Module, map: Map) -> Option<Patches> {
    match *module {
        Module::Conv2d { input, kernel, stride, padding, .. } => {
            Some(Patches { map, channels: input, kernel, stride, padding })
        }
        _ => None,
    }
}

/// The map that a module makes of a map.
pub fn after(module: &Module, map: Map) -> Map {
    match module {
        Module::Conv2d { .. } => patches(module, map).expect("it is a convolution").output(),
        Module::MaxPool2d => map.pooled(),
        Module::GlobalAvgPool2d | Module::Flatten => Map { height: 1, width: 1 },
        Module::Residual { body, .. } => body.iter().fold(map, |map, named| after(&named.module, map)),
        Module::BatchNorm2d { .. } | Module::Activation(_) | Module::Dropout(_) | Module::Linear { .. } => map,
    }
}

pub fn activate<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>, activation: Activation) -> Matrix<D, T> {
    match activation {
        Activation::Tanh => x.tanh(),
        Activation::Relu => relu(x),
        Activation::Sigmoid => x.sigmoid(),
        Activation::Gelu => gelu(x),
        Activation::LeakyRelu => leaky_relu(x),
        Activation::Silu => x.with_empty_tape().sigmoid() * x,
    }
}

/// Positions of the map that is flattened for the first linear layer.
pub fn positions_before_flatten(network: &Network) -> usize {
    let [_, height, width] = network.input();
    let before = network.modules().iter().map(|named| &named.module).take_while(|m| **m != Module::Flatten);
    before.fold(Map { height, width }, |map, module| after(module, map)).positions()
}

/// For each element of a parameter's matrix, row by row, its place in the flat vector. PyTorch
/// orders a row's columns by channel first, the engine by position (of the kernel, or of the
/// flattened map) first.
pub fn matrix_places(parameter: &Parameter, flattened_positions: usize) -> Vec<u32> {
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
    use zoo_model::{Architecture, Hyperparameters};

    #[test]
    fn matrix_places_are_a_permutation_of_the_flat_vector() {
        let medium = Hyperparameters { architecture: Architecture::CnnM, ..Hyperparameters::default() };
        let network = medium.network([3, 32, 32], 10).unwrap();
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
}
