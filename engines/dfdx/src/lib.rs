//! The readable reference: one model at a time on dfdx tensors and autograd.
//!
//! It computes in f64 and keeps f32 states: the oracle that float32 engines are measured against.
//!
//! dfdx's matrix products are the `gemm` crate's, which picks its kernel by the processor's
//! features and its blocking by the caches. Bits are therefore certain to be equal on equal
//! processors only; elsewhere sums differ in the last place of an f64, which rarely survives the
//! rounding to f32. Each model runs in a rayon pool of one thread, where a product is never split.

mod backend;
mod ops;
mod variational;

use std::ops::Range;

use dfdx::prelude::*;
use zoo_model::architecture::{Module, NamedModule, Parameter, Role};
use zoo_model::dataset::normalize_image;
use zoo_model::random::{dropout_threshold, Purpose, Stream};
use zoo_model::stage::Interrupt;
use zoo_model::{Activation, Dataset, Network, Optimizer, Schedule, Split};

use zoo_engine::metrics::{Score, Tally};
use zoo_engine::optimizer::OptimizerState;
use zoo_engine::variational::is_kept;
use zoo_engine::{
    BuiltEngine, Cohort, DeviceError, DeviceName, Engine, EngineError, EngineFactory, LayerOutputs, ModelSpec,
    NoiseSnapshot, Snapshot, Sparsification, Task,
};

use backend::{Backend, Real};
use ops::{
    add_bias, conv2d, gelu, global_avg_pool, leaky_relu, max_pool, normalize, normalize_batch, relu, scale, sum,
    Affine, BatchStatistics, Map, Matrix, Patches,
};
use variational::{draws, noisy, Noise};

/// The dfdx engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct DfdxEngine {
    /// A GPU's number; `None`: the CPU.
    cuda: Option<usize>,
}

impl DfdxEngine {
    /// On GPU `number`.
    ///
    /// # Errors
    /// This build has no CUDA, or there is no such GPU.
    pub fn with_cuda(number: usize) -> Result<Self, DeviceError> {
        cuda_device(number)?;
        Ok(Self { cuda: Some(number) })
    }
}

/// dfdx's device for a GPU.
#[cfg(feature = "cuda")]
fn cuda_device(number: usize) -> Result<Cuda, DeviceError> {
    let unavailable = |e: CudaError| DeviceError::Unavailable(format!("cuda:{number} failed to initialise: {e:?}"));
    Cuda::try_build(number, 0).map_err(unavailable)
}

#[cfg(not(feature = "cuda"))]
fn cuda_device(_: usize) -> Result<Cpu, DeviceError> {
    let why = "the dfdx engine of this build has no CUDA: build with --features cuda (docs/cuda.md)";
    Err(DeviceError::Unavailable(why.into()))
}

impl Engine for DfdxEngine {
    fn name(&self) -> &'static str {
        "dfdx"
    }

    fn version(&self) -> String {
        // cuBLAS adds up in another order.
        let device = if self.cuda.is_some() { "cuda" } else { "cpu" };
        format!("3 (dfdx 0.13, {device})")
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        (0..models.len()).map(|i| vec![i]).collect()
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        Ok(match self.cuda {
            None => Box::new(Models::new(&Cpu::default(), tasks, data, from)),
            Some(number) => Box::new(Models::new(&cuda_device(number)?, tasks, data, from)),
        })
    }

    fn layer_outputs(
        &self,
        task: &Task,
        data: &Dataset,
        split: Split,
        range: Range<usize>,
    ) -> Result<Option<LayerOutputs>, DeviceError> {
        let models = Models::new(&Cpu::default(), std::slice::from_ref(task), data, None);
        let images = models.images(split, range.clone(), |_, _| {});
        let model = &models.models[0];
        let (mut x, mut pass, mut map) = model.pass::<NoneTape>(&images, range.len(), Mode::Evaluation);
        let modules = model.network.modules();
        let mut outputs = Vec::new();
        for (i, NamedModule { module, .. }) in modules.iter().enumerate() {
            x = pass.module(module, x, map);
            map = after(module, map);
            if matches!(module, Module::Activation(_) | Module::Residual { .. }) || i + 1 == modules.len() {
                outputs.push(x.as_vec());
            }
        }
        Ok(Some(outputs))
    }
}

/// Makes dfdx engines.
pub struct DfdxFactory;

impl EngineFactory for DfdxFactory {
    fn name(&self) -> &'static str {
        "dfdx"
    }

    fn about(&self) -> &'static str {
        "dfdx tensors and autograd, one model at a time: every architecture"
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn build(&self, device: DeviceName) -> Result<BuiltEngine, DeviceError> {
        Ok(match device {
            // Its bits depend on the device: it leaves the processor only when asked to.
            DeviceName::Auto | DeviceName::Cpu => DfdxEngine::default().into(),
            DeviceName::Cuda(number) => DfdxEngine::with_cuda(number.unwrap_or(0))?.into(),
        })
    }
}

/// Every model; exhaustive, so that a new optimiser or schedule is not trained as another.
fn trains(ModelSpec { hyperparameters: h, sparsification }: &ModelSpec) -> bool {
    let optimizer = match h.optimizer {
        Optimizer::Adam | Optimizer::Sgd => true,
    };
    let schedule = match h.schedule {
        Schedule::Constant | Schedule::OneCycle => true,
    };
    let sparsification = match sparsification {
        Sparsification::Masks | Sparsification::VariationalDropout => true,
    };
    optimizer && schedule && sparsification
}

struct Models<'d, D: Backend> {
    models: Vec<Model<D>>,
    tasks: Vec<Task>,
    data: &'d Dataset,
    normalization: Vec<[f64; 256]>,
}

impl<'d, D: Backend> Models<'d, D> {
    fn new(device: &D, tasks: &[Task], data: &'d Dataset, from: Option<&[Snapshot]>) -> Self {
        let samples = data.len(Split::Train);
        let model = |(i, task)| Model::new(device, task, from.map(|f| &f[i]), samples);
        Self {
            models: tasks.iter().enumerate().map(model).collect(),
            tasks: tasks.to_vec(),
            data,
            normalization: data.normalization(),
        }
    }

    /// Normalised images of some samples as (batch * positions, channels), row-major; `change` may
    /// change an image of (C, H, W) before.
    fn images(
        &self,
        split: Split,
        samples: impl ExactSizeIterator<Item = usize>,
        change: impl Fn(&mut [u8], usize),
    ) -> Vec<Real> {
        let length = self.data.image_len();
        let pixels = &self.data.split(split).images;
        let mut out = vec![0.0; samples.len() * length];
        let mut source = vec![0; length];
        for (sample, image) in samples.zip(out.chunks_exact_mut(length)) {
            source.copy_from_slice(&pixels[sample * length..][..length]);
            change(&mut source, sample);
            normalize_image(&source, &self.normalization, image);
        }
        out
    }

    fn labels(&self, samples: &[u32]) -> Vec<u16> {
        let labels = &self.data.split(Split::Train).labels;
        samples.iter().map(|&s| labels[s as usize]).collect()
    }
}

impl<D: Backend> Cohort for Models<'_, D> {
    fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    fn data(&self) -> &Dataset {
        self.data
    }

    fn train(&mut self, epoch: u32, orders: &[Vec<u32>], interrupt: &Interrupt) -> Result<Vec<Score>, EngineError> {
        let mut scores = Vec::new();
        for (m, order) in orders.iter().enumerate() {
            let task = self.tasks[m].clone();
            let h = &task.hyperparameters;
            let mut tally = Tally::default();
            for (step, batch) in order.chunks(h.batch_size).enumerate() {
                interrupt.check()?;
                let [_, height, width] = self.data.shape;
                let images = self.images(Split::Train, batch.iter().map(|&s| s as usize), |image, sample| {
                    h.augmentation.apply(image, [height, width], h.seed, epoch, sample as u32);
                });
                let labels = self.labels(batch);
                let dropout = Some(DropoutKey { seed: h.seed, epoch, step: step as u32 });
                let model = &mut self.models[m];
                let Derivatives { logits, mut gradient, by_sigma2, statistics } =
                    model.gradient(&images, &labels, dropout);
                tally.add(&logits, &labels);
                let trained = &mut model.parameters[..gradient.len()];
                if let (Some(noise), Some(by_sigma2)) = (&mut model.noise, by_sigma2) {
                    noise.step(trained, &mut gradient, &by_sigma2, task.kl_weight(epoch));
                }
                model.optimizer.step(trained, &gradient, model.mask.as_deref());
                model.observe(&statistics);
                model.load_tensors(Precision::Full);
            }
            scores.push(tally.score().expect("the train split is not empty"));
        }
        Ok(scores)
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        let images = self.images(Split::Train, samples.iter().map(|&s| s as usize), |_, _| {});
        let labels = self.labels(samples);
        let gradient = |m: &Model<D>| m.gradient(&images, &labels, None).gradient.iter().map(|&g| g as f32).collect();
        Ok(self.models.iter().map(gradient).collect())
    }

    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        // Patches of this many images stay within the caches.
        const BATCH: usize = 50;
        let mut logits = vec![Vec::new(); self.models.len()];
        self.models.iter_mut().for_each(|m| m.load_tensors(Precision::State));
        for start in range.clone().step_by(BATCH) {
            let samples = start..range.end.min(start + BATCH);
            let images = self.images(split, samples.clone(), |_, _| {});
            for (model, logits) in self.models.iter().zip(&mut logits) {
                logits.extend(model.forward::<NoneTape>(&images, samples.len(), Mode::Evaluation).0.as_vec());
            }
        }
        self.models.iter_mut().for_each(|m| m.load_tensors(Precision::Full));
        Ok(logits)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        let snapshot = |m: &Model<D>| Snapshot {
            step: m.optimizer.step,
            parameters: m.parameters.clone(),
            moments: m.optimizer.moments.clone(),
            noise: m.noise.as_ref().map(|noise| NoiseSnapshot {
                log_sigma2: noise.log_sigma2.clone(),
                moments: noise.optimizer.moments.clone(),
            }),
        };
        Ok(self.models.iter().map(snapshot).collect())
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        for (model, mask) in self.models.iter_mut().zip(masks) {
            let Some(mask) = mask else { continue };
            for (parameter, _) in model.parameters.iter_mut().zip(mask).filter(|(_, &kept)| !kept) {
                *parameter = 0.0;
            }
            model.mask = Some(mask.clone());
            model.load_tensors(Precision::Full);
        }
        Ok(())
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

/// How a network is run.
#[derive(Clone, Copy)]
enum Mode {
    /// Batch statistics, and dropout if there is a key.
    Training(Option<DropoutKey>),
    /// Running statistics, no dropout.
    Evaluation,
}

/// What a forward and a backward pass give.
struct Derivatives {
    /// (batch, classes).
    logits: Vec<Real>,
    /// Of the mean cross entropy, by what is trained; flat.
    gradient: Vec<Real>,
    /// The same by sigma^2, of a noisy pass.
    by_sigma2: Option<Vec<Real>>,
    /// Of each batch normalisation.
    statistics: Vec<BatchStatistics>,
}

struct Model<D: Backend> {
    device: D,
    network: Network,
    /// Flat vector of the state, in the network's order.
    parameters: Vec<Real>,
    optimizer: OptimizerState,
    /// Which parameters may differ from zero; `None`: all.
    mask: Option<Vec<bool>>,
    /// With variational dropout.
    noise: Option<Noise<D>>,
    /// For each tensor of the network its matrix, and for each of that matrix's elements its place
    /// in the flat vector: convolution weights as (out, kh * kw * in), linear weights as (out, in)
    /// with the inputs of the first one in the order (position, channel), all others as (1, n).
    tensors: Vec<(Matrix<D>, Vec<u32>)>,
}

impl<D: Backend> Model<D> {
    fn new(device: &D, task: &Task, from: Option<&Snapshot>, samples: usize) -> Self {
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
    fn load_tensors(&mut self, precision: Precision) {
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
    fn observe(&mut self, statistics: &[BatchStatistics]) {
        let observed = statistics.iter().flat_map(|s| s.mean.iter().chain(&s.variance));
        let running = &mut self.parameters[self.network.parameter_count()..];
        for (running, observed) in running.iter_mut().zip(observed) {
            *running = 0.9 * *running + 0.1 * observed;
        }
    }

    /// A forward and a backward pass.
    fn gradient(&self, images: &[Real], labels: &[u16], dropout: Option<DropoutKey>) -> Derivatives {
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
    fn forward<T: Tape<Real, D>>(
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
    fn pass<T: Tape<Real, D>>(&self, images: &[Real], batch: usize, mode: Mode) -> (Matrix<D, T>, Pass<'_, D>, Map) {
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
struct Pass<'a, D: Backend> {
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
    fn modules<T: Tape<Real, D>>(
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

    fn tensor(&mut self) -> &'a Matrix<D> {
        &self.model.tensors[self.tensors.next().expect("tensors for every module")].0
    }

    /// `product(x, W)`, plus a bias if there is one; in training with variational dropout, plus
    /// noise.
    fn sums<T: Tape<Real, D>>(
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

    fn module<T: Tape<Real, D>>(&mut self, module: &Module, x: Matrix<D, T>, map: Map) -> Matrix<D, T> {
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
fn patches(module: &Module, map: Map) -> Option<Patches> {
    match *module {
        Module::Conv2d { input, kernel, stride, padding, .. } => {
            Some(Patches { map, channels: input, kernel, stride, padding })
        }
        _ => None,
    }
}

/// The map that a module makes of a map.
fn after(module: &Module, map: Map) -> Map {
    match module {
        Module::Conv2d { .. } => patches(module, map).expect("it is a convolution").output(),
        Module::MaxPool2d => map.pooled(),
        Module::GlobalAvgPool2d | Module::Flatten => Map { height: 1, width: 1 },
        Module::Residual { body, .. } => body.iter().fold(map, |map, named| after(&named.module, map)),
        Module::BatchNorm2d { .. } | Module::Activation(_) | Module::Dropout(_) | Module::Linear { .. } => map,
    }
}

fn activate<D: Backend, T: Tape<Real, D>>(x: Matrix<D, T>, activation: Activation) -> Matrix<D, T> {
    match activation {
        Activation::Tanh => x.tanh(),
        Activation::Relu => relu(x),
        Activation::Sigmoid => x.sigmoid(),
        Activation::Gelu => gelu(x),
        Activation::LeakyRelu => leaky_relu(x),
        Activation::Silu => x.with_empty_tape().sigmoid() * x,
    }
}

/// The values of a batch between two modules.
#[derive(Clone, Copy)]
struct Units {
    batch: usize,
    positions: usize,
    channels: usize,
}

/// Factors 0 or 1 / (1 - p) in the engine's order (sample, position, channel); the n-th random
/// word belongs to the n-th unit in PyTorch's order (sample, channel, position).
fn dropout_factors(key: DropoutKey, module: u8, p: f64, units: Units) -> Vec<Real> {
    let Units { batch, positions, channels } = units;
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
    let before = network.modules().iter().map(|named| &named.module).take_while(|m| **m != Module::Flatten);
    before.fold(Map { height, width }, |map, module| after(module, map)).positions()
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
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::Hyperparameters;
    use zoo_model::{Architecture, Augmentation, Init, Optimizer, Schedule};

    #[test]
    fn the_last_layers_outputs_are_the_logits() {
        let data = zoo_model::synthetic::noise_dataset([1, 28, 28], 10, 6);
        let h = Hyperparameters { dropout: 0.5, ..Hyperparameters::default() };
        let task = Task::new(&h, data.shape, 10).unwrap();
        let outputs = DfdxEngine::default().layer_outputs(&task, &data, Split::Test, 1..5).unwrap().unwrap();
        let logits =
            DfdxEngine::default().start(&[task], &data, None).unwrap().logits(Split::Test, 1..5).unwrap().remove(0);
        assert_eq!(outputs.iter().map(Vec::len).collect::<Vec<_>>(), [4 * 8 * 144, 4 * 6 * 16, 4 * 36, 4 * 20, 4 * 10]);
        assert_eq!(outputs[4], logits);
    }

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

    #[test]
    fn a_residual_network_goes_on_from_a_snapshot_to_the_same_bits() {
        let hyperparameters = Hyperparameters {
            architecture: Architecture::Resnet18,
            activation: Activation::Relu,
            init: Init::KaimingUniform,
            dropout: 0.2,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.05,
            momentum: 0.9,
            schedule: Schedule::OneCycle,
            augmentation: Augmentation { crop_padding: 1, flip: true, rotation: 20 },
            batch_size: 2,
            epochs: 2,
            ..Hyperparameters::default()
        };
        let data = noise_dataset([1, 8, 8], 10, 5);
        let task = Task::new(&hyperparameters, data.shape, 10).unwrap();
        let go_on = Interrupt::default();
        let start =
            |from: Option<&[Snapshot]>| DfdxEngine::default().start(std::slice::from_ref(&task), &data, from).unwrap();
        let mut whole = start(None);
        whole.train_epoch(1, &go_on).unwrap();
        let between = whole.snapshots().unwrap();
        let running = between[0].parameters.len() - task.network.parameter_count();
        assert!(between[0].parameters[task.network.parameter_count()..].iter().any(|&s| s != 0.0 && s != 1.0));
        assert_eq!(
            (running, between[0].moments.get("momentum").unwrap().len()),
            (9600, task.network.parameter_count())
        );
        whole.train_epoch(2, &go_on).unwrap();
        let mut resumed = start(Some(&between));
        resumed.train_epoch(2, &go_on).unwrap();
        assert!(resumed.snapshots().unwrap() == whole.snapshots().unwrap());

        let without = Hyperparameters { augmentation: Augmentation::NONE, ..hyperparameters };
        let mut other =
            DfdxEngine::default().start(&[Task { hyperparameters: without, ..task.clone() }], &data, None).unwrap();
        other.train_epoch(1, &go_on).unwrap();
        assert!(other.snapshots().unwrap() != between, "augmentation changes what is seen");
    }

    #[test]
    fn dropout_draws_one_word_a_unit_in_pytorch_order() {
        let key = DropoutKey { seed: 1, epoch: 2, step: 3 };
        let factors = dropout_factors(key, 0, 0.5, Units { batch: 2, positions: 3, channels: 4 });
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
