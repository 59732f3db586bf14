//! One model on a device: its parameters, and a mini-batch on its way through them.

use std::collections::HashMap;

use zoo_engine::optimizer::moment_count;
use zoo_engine::schedule::Rates;
use zoo_engine::{EngineError, Moments};
use zoo_model::architecture::Parameter;
use zoo_model::random::Purpose;
use zoo_model::stage::Interrupt;
use zoo_model::{Network, Optimizer};

use crate::geometry::{padded, Geometry};
use crate::graph::{Dropout, Graph, Node, NormTensors, Operation, PointwiseLayers, Tensor, Value};
use crate::kernels::{
    upload, Draw, Kernels, Norm, NormGradient, NormGradientView, Outcome, Pixels, Pointwise, Shape, Statistics, Update,
};
use crate::noise::Noise;
use crate::storage::Storage;

/// How a mini-batch is seen.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// Batch statistics, which move the running ones, and with a key dropout and noise.
    Training(Option<Draw>),
    /// Running statistics, no dropout.
    Evaluation,
}

/// A model on a device.
pub struct Model<K: Kernels> {
    /// The device.
    pub kernels: K,
    /// Its network as operations.
    pub graph: Graph,
    network: Network,
    storages: Vec<Storage>,
    /// By tensor.
    pub parameters: Vec<K::Buffer>,
    /// By trained tensor.
    pub gradients: Vec<K::Buffer>,
    /// By trained tensor, in the order of [`Moments::named`].
    pub moments: Vec<Vec<K::Buffer>>,
    /// By trained tensor: 1 where a parameter may differ from zero, else 0; empty: everywhere.
    masks: Vec<K::Buffer>,
    /// With variational dropout.
    pub noise: Option<Noise<K>>,
    /// Images that the values have room for.
    room: usize,
    /// Whether the values are of a training pass.
    is_training: bool,
    values: Vec<Option<K::Buffer>>,
    /// By node: what its forward pass leaves for the backward pass.
    left: Vec<Left<K::Buffer>>,
    /// By value, during a backward pass.
    by_value: Vec<Option<K::Buffer>>,
    /// Buffers that are not in use, by size.
    spare: HashMap<usize, Vec<K::Buffer>>,
    transposed: K::Buffer,
}

/// What a node's forward pass leaves for its backward pass.
struct Left<B> {
    /// Batch normalisation: means and inverse deviations, of the batch or running.
    statistics: Option<[B; 2]>,
    /// Dropout's factors, or a pooling's winners.
    factors: Option<B>,
}

impl<K: Kernels> Model<K> {
    /// A model of a flat state.
    ///
    /// # Errors
    /// The device failed, or is full.
    pub fn new(kernels: K, network: &Network, state: &[f32], moments: &Moments<Vec<f32>>) -> Outcome<Self> {
        let graph = Graph::new(network);
        let storages = storages(network, &graph);
        let trained = network.parameters().iter().filter(|p| p.role.is_trained()).count();
        let stored = |flat: &[f32], tensors: usize| -> Outcome<Vec<K::Buffer>> {
            let each = network.parameters().iter().zip(&storages).take(tensors);
            each.map(|(parameter, storage)| upload(&kernels, &storage.store(parameter, flat))).collect()
        };
        let parameters = stored(state, storages.len())?;
        let mut of_tensors: Vec<Vec<K::Buffer>> = (0..trained).map(|_| Vec::new()).collect();
        for (_, moment) in moments.named() {
            for (of_tensor, buffer) in of_tensors.iter_mut().zip(stored(moment, trained)?) {
                of_tensor.push(buffer);
            }
        }
        debug_assert!(of_tensors.iter().all(|m| m.len() == moment_count(moments.optimizer())));
        let gradients =
            storages[..trained].iter().map(|s| kernels.zeros(s.floats())).collect::<Outcome<Vec<K::Buffer>>>()?;
        let transposed = graph.geometries().map(|g| g.transposed_weights()).max().unwrap_or(0);
        let statistics = |node: &Node| -> Outcome<Left<K::Buffer>> {
            let channels = padded(graph.values[node.input].channels);
            let statistics = match node.operation {
                Operation::Pointwise(PointwiseLayers { norm: Some(_), .. }) => {
                    Some([kernels.zeros(channels)?, kernels.zeros(channels)?])
                }
                _ => None,
            };
            Ok(Left { statistics, factors: None })
        };
        let left = graph.nodes.iter().map(statistics).collect::<Outcome<Vec<_>>>()?;
        Ok(Self {
            network: network.clone(),
            storages,
            parameters,
            gradients,
            moments: of_tensors,
            masks: Vec::new(),
            noise: None,
            room: 0,
            is_training: false,
            values: graph.values.iter().map(|_| None).collect(),
            left,
            by_value: graph.values.iter().map(|_| None).collect(),
            spare: HashMap::new(),
            transposed: kernels.zeros(transposed)?,
            graph,
            kernels,
        })
    }

    /// Makes room for mini-batches of this many images.
    fn reserve(&mut self, images: usize) -> Outcome {
        if images <= self.room {
            return Ok(());
        }
        self.spare.clear();
        for value in 0..self.values.len() {
            self.values[value] = None;
            self.values[value] = Some(self.kernels.zeros(self.graph.floats(value, images))?);
        }
        for (node, left) in self.graph.nodes.iter().zip(&mut self.left) {
            left.factors = match node.operation {
                Operation::Pointwise(PointwiseLayers { dropout: Some(_), .. }) | Operation::MaxPool => {
                    Some(self.kernels.zeros(self.graph.floats(node.output, images))?)
                }
                Operation::Convolution { .. } | Operation::Pointwise(_) | Operation::AveragePool => None,
            };
        }
        if let Some(noise) = &mut self.noise {
            noise.reserve(&self.kernels, images)?;
        }
        self.room = images;
        Ok(())
    }

    /// A buffer of a value's size, holding anything.
    fn take(&mut self, value: Value) -> Outcome<K::Buffer> {
        let floats = self.graph.floats(value, self.room);
        match self.spare.get_mut(&floats).and_then(Vec::pop) {
            Some(buffer) => Ok(buffer),
            None => self.kernels.zeros(floats),
        }
    }

    fn give_back(&mut self, value: Value, buffer: K::Buffer) {
        self.spare.entry(self.graph.floats(value, self.room)).or_default().push(buffer);
    }

    /// A mini-batch's forward pass.
    ///
    /// # Errors
    /// Interrupted between two operations; the device failed, or is full.
    pub fn forward(&mut self, pixels: Pixels, mode: Mode, interrupt: &Interrupt) -> Result<(), EngineError> {
        let images = pixels.values.len() / pixels.shape.iter().product::<usize>();
        self.reserve(images)?;
        self.is_training = matches!(mode, Mode::Training(_));
        let input = self.values[0].as_mut().expect("reserved");
        self.kernels.load_images(pixels, self.graph.takes_flat_images, input)?;
        for i in 0..self.graph.nodes.len() {
            interrupt.check()?;
            let output = self.graph.nodes[i].output;
            let mut made = self.values[output].take().expect("reserved");
            let outcome = self.apply(i, images, mode, &mut made);
            self.values[output] = Some(made);
            outcome?;
        }
        Ok(())
    }

    /// Logits (images, classes) of the mini-batch that [`forward`](Self::forward) saw last, row-major; the backward
    /// pass and an optimiser's step leave them.
    ///
    /// # Errors
    /// The device failed.
    pub fn logits(&self, images: usize) -> Outcome<Vec<f32>> {
        let (classes, row) = (self.network.classes(), self.graph.floats(self.graph.output, 1));
        let mut logits = vec![0.0; images * row];
        self.kernels.download(self.value(self.graph.output), &mut logits)?;
        Ok(logits.chunks_exact(row).flat_map(|row| &row[..classes]).copied().collect())
    }

    fn value(&self, value: Value) -> &K::Buffer {
        self.values[value].as_ref().expect("reserved")
    }

    /// Applies a node.
    fn apply(&mut self, i: usize, images: usize, mode: Mode, out: &mut K::Buffer) -> Outcome {
        let Node { operation, input, .. } = self.graph.nodes[i];
        let shape = self.graph.values[input];
        match operation {
            Operation::Convolution { geometry, weight, bias, layer } => {
                let bias = bias.map(|b| &self.parameters[b]);
                let x = self.values[input].as_ref().expect("reserved");
                self.kernels.convolution(&geometry, images, x, &self.parameters[weight], bias, out)?;
                match (&mut self.noise, mode) {
                    (Some(noise), Mode::Training(Some(draw))) => {
                        noise.add(&self.kernels, (layer, draw), images, x, out)
                    }
                    _ => Ok(()),
                }
            }
            Operation::Pointwise(layers) => {
                if let Some(norm) = layers.norm {
                    self.observe(i, norm, images, mode)?;
                }
                let drops = dropout_of(layers, mode);
                if let Some((dropout, draw)) = drops {
                    let factors = self.left[i].factors.as_mut().expect("reserved");
                    let purpose = Purpose::Dropout(dropout.module);
                    self.kernels.dropout_factors(shape, images, dropout.probability, purpose, draw, factors)?;
                }
                let layers = self.seen(i).pointwise(layers, drops.is_some());
                self.kernels.pointwise(shape, images, self.value(input), &layers, out)
            }
            Operation::MaxPool => {
                let winners = self.left[i].factors.as_mut().expect("reserved");
                let x = self.values[input].as_ref().expect("reserved");
                self.kernels.max_pool(shape, images, x, out, winners)
            }
            Operation::AveragePool => self.kernels.average_pool(shape, images, self.value(input), out),
        }
    }

    fn seen(&self, i: usize) -> Seen<'_, K::Buffer> {
        let Self { parameters, values, left, is_training, .. } = self;
        Seen { parameters, values, left: &left[i], is_training: *is_training }
    }

    /// The statistics that a batch normalisation uses.
    fn observe(&mut self, i: usize, norm: NormTensors, images: usize, mode: Mode) -> Outcome {
        let input = self.graph.nodes[i].input;
        let shape = self.graph.values[input];
        let [mean, inverse_deviation] = self.left[i].statistics.as_mut().expect("it is a normalisation");
        let x = self.values[input].as_ref().expect("reserved");
        match mode {
            Mode::Training(_) => {
                let (before, after) = self.parameters.split_at_mut(norm.variance);
                let (running_mean, running_variance) = (&mut before[norm.mean], &mut after[0]);
                let statistics = Statistics { mean, inverse_deviation, running_mean, running_variance };
                self.kernels.batch_statistics(shape, images, x, statistics)
            }
            // The running means are read where they are.
            Mode::Evaluation => {
                self.kernels.inverse_deviation(shape.channels, &self.parameters[norm.variance], inverse_deviation)
            }
        }
    }
}

/// What elementwise layers read.
struct Seen<'a, B> {
    parameters: &'a [B],
    values: &'a [Option<B>],
    left: &'a Left<B>,
    is_training: bool,
}

impl<'a, B> Seen<'a, B> {
    fn pointwise(&self, layers: PointwiseLayers, has_factors: bool) -> Pointwise<'a, B> {
        Pointwise {
            norm: layers.norm.map(|norm| self.norm(norm)),
            addend: layers.addend.map(|addend| self.values[addend].as_ref().expect("reserved")),
            activation: layers.activation,
            factors: self.left.factors.as_ref().filter(|_| has_factors),
        }
    }

    fn norm(&self, norm: NormTensors) -> Norm<'a, B> {
        let [mean, inverse_deviation] = self.left.statistics.as_ref().expect("it is a normalisation");
        let mean = if self.is_training { mean } else { &self.parameters[norm.mean] };
        Norm { mean, inverse_deviation, scale: &self.parameters[norm.scale], shift: &self.parameters[norm.shift] }
    }
}

impl<K: Kernels> Model<K> {
    /// The gradients of the mean cross entropy of the mini-batch that [`forward`](Self::forward) saw last,
    /// with the same draw.
    ///
    /// # Errors
    /// Interrupted between two operations; the device failed, or is full.
    pub fn backward(&mut self, labels: &[u16], draw: Option<Draw>, interrupt: &Interrupt) -> Result<(), EngineError> {
        let (images, output) = (labels.len(), self.graph.output);
        // An interrupted pass leaves some.
        self.by_value.iter_mut().for_each(|gradient| *gradient = None);
        let mut by_logits = self.take(output)?;
        let logits = self.value(output);
        self.kernels.cross_entropy_gradient(self.network.classes(), logits, labels, &mut by_logits)?;
        self.by_value[output] = Some(by_logits);
        for i in (0..self.graph.nodes.len()).rev() {
            interrupt.check()?;
            let node = self.graph.nodes[i];
            // A value that nothing uses has no gradient.
            let Some(gradient) = self.by_value[node.output].take() else { continue };
            match node.operation {
                Operation::Convolution { geometry, weight, bias, layer } => {
                    self.convolution_gradient(node, &geometry, weight, bias, images, &gradient)?;
                    if let (Some(noise), Some(_)) = (&mut self.noise, draw) {
                        let x = self.values[node.input].as_ref().expect("reserved");
                        let by_input = self.by_value[node.input].as_mut();
                        noise.gradient(&self.kernels, layer, images, x, &gradient, by_input)?;
                    }
                    self.give_back(node.output, gradient);
                }
                Operation::Pointwise(layers) => self.pointwise_gradient(i, layers, images, draw, gradient)?,
                Operation::MaxPool | Operation::AveragePool => {
                    if node.input != 0 {
                        let shape = self.graph.values[node.input];
                        let mut by_input = self.take(node.input)?;
                        match &self.left[i].factors {
                            Some(winners) => {
                                self.kernels.max_pool_gradient(shape, images, &gradient, winners, &mut by_input)?;
                            }
                            None => self.kernels.average_pool_gradient(shape, images, &gradient, &mut by_input)?,
                        }
                        self.merge(node.input, images, by_input)?;
                    }
                    self.give_back(node.output, gradient);
                }
            }
        }
        Ok(())
    }

    /// Adds to the gradient of a value.
    fn merge(&mut self, value: Value, images: usize, gradient: K::Buffer) -> Outcome {
        match &mut self.by_value[value] {
            Some(there) => {
                self.kernels.add(self.graph.floats(value, images), &gradient, there)?;
                self.give_back(value, gradient);
            }
            none => *none = Some(gradient),
        }
        Ok(())
    }

    fn convolution_gradient(
        &mut self,
        Node { input, .. }: Node,
        geometry: &Geometry,
        weight: Tensor,
        bias: Option<Tensor>,
        images: usize,
        by_output: &K::Buffer,
    ) -> Outcome {
        let x = self.values[input].as_ref().expect("reserved");
        self.kernels.weight_gradient(geometry, images, x, by_output, &mut self.gradients[weight])?;
        if let Some(bias) = bias {
            let shape = Shape { map: geometry.output, channels: geometry.outputs };
            self.kernels.channel_sums(shape, images, by_output, &mut self.gradients[bias])?;
        }
        // Nothing is trained by the gradient of the images.
        if input == 0 {
            return Ok(());
        }
        self.kernels.transpose(geometry, &self.parameters[weight], &mut self.transposed)?;
        let there = self.by_value[input].take();
        let accumulates = there.is_some();
        let mut by_input = match there {
            Some(there) => there,
            None => self.take(input)?,
        };
        self.kernels.input_gradient(geometry, images, by_output, &self.transposed, &mut by_input, accumulates)?;
        self.by_value[input] = Some(by_input);
        Ok(())
    }

    fn pointwise_gradient(
        &mut self,
        i: usize,
        layers: PointwiseLayers,
        images: usize,
        draw: Option<Draw>,
        mut gradient: K::Buffer,
    ) -> Outcome {
        let Node { input, .. } = self.graph.nodes[i];
        let shape = self.graph.values[input];
        let Self { kernels, values, parameters, gradients, left, is_training, .. } = self;
        let seen = Seen { parameters, values, left: &left[i], is_training: *is_training };
        let all = seen.pointwise(layers, dropout_of(layers, Mode::Training(draw)).is_some());
        let x = values[input].as_ref().expect("reserved");
        let by_norm = layers.norm.map(|norm| {
            let [by_scale, by_shift] = gradients.get_disjoint_mut([norm.scale, norm.shift]).expect("two tensors");
            NormGradient { by_scale, by_shift }
        });
        kernels.pointwise_gradient(shape, images, x, &all, &mut gradient, by_norm)?;

        let Some(norm) = layers.norm else {
            if let Some(addend) = layers.addend {
                let mut copy = self.take(input)?;
                let nothing = Pointwise { norm: None, addend: None, activation: None, factors: None };
                self.kernels.pointwise(shape, images, &gradient, &nothing, &mut copy)?;
                self.merge(addend, images, copy)?;
            }
            return self.merge(input, images, gradient);
        };
        let mut by_input = self.take(input)?;
        let by_norm = NormGradientView { by_scale: &self.gradients[norm.scale], by_shift: &self.gradients[norm.shift] };
        let x = self.value(input);
        let vectors = self.seen(i).norm(norm);
        self.kernels.norm_gradient(shape, images, x, &vectors, &gradient, by_norm, &mut by_input)?;
        self.merge(input, images, by_input)?;
        match layers.addend {
            Some(addend) => self.merge(addend, images, gradient),
            None => {
                self.give_back(input, gradient);
                Ok(())
            }
        }
    }

    /// An optimiser's step number `step`, from 1, along the gradients.
    ///
    /// # Errors
    /// The device failed.
    pub fn step(
        &mut self,
        optimizer: Optimizer,
        rates: Rates,
        weight_decay: f64,
        step: u64,
        kl_weight: f64,
    ) -> Outcome {
        let Rates { learning_rate, momentum } = rates;
        if let Some(noise) = &mut self.noise {
            let (parameters, gradients) = (&self.parameters, &mut self.gradients);
            noise.step(&self.kernels, (optimizer, rates, step), kl_weight as f32, parameters, gradients)?;
        }
        let update = Update::new(optimizer, learning_rate, momentum, weight_decay, step);
        for (i, gradient) in self.gradients.iter().enumerate() {
            let (parameters, moments) = (&mut self.parameters[i], &mut self.moments[i]);
            self.kernels.update(self.storages[i].floats(), update, gradient, self.masks.get(i), parameters, moments)?;
        }
        Ok(())
    }

    /// Sets what a mask of all trained parameters leaves out to zero, now and after every step.
    ///
    /// # Errors
    /// The device failed, or is full.
    pub fn prune(&mut self, mask: &[bool]) -> Outcome {
        let flat: Vec<f32> = mask.iter().map(|&kept| if kept { 1.0 } else { 0.0 }).collect();
        let mut state = self.state()?;
        for (value, _) in state.iter_mut().zip(mask).filter(|(_, &kept)| !kept) {
            *value = 0.0;
        }
        self.set_state(&state)?;
        let trained = self.network.parameters().iter().zip(&self.storages).take(self.gradients.len());
        self.masks = trained.map(|(p, s)| upload(&self.kernels, &s.store(p, &flat))).collect::<Outcome<_>>()?;
        Ok(())
    }

    /// Replaces the parameters by those of a flat state.
    ///
    /// # Errors
    /// The device failed.
    pub fn set_state(&mut self, state: &[f32]) -> Outcome {
        let tensors = self.network.parameters().iter().zip(&self.storages);
        for ((parameter, storage), buffer) in tensors.zip(&mut self.parameters) {
            self.kernels.upload(&storage.store(parameter, state), buffer)?;
        }
        Ok(())
    }

    /// The flat state.
    ///
    /// # Errors
    /// The device failed.
    pub fn state(&self) -> Outcome<Vec<f32>> {
        self.flat(self.network.state_len(), &self.parameters)
    }

    /// Flat gradients of what is trained.
    ///
    /// # Errors
    /// The device failed.
    pub fn flat_gradients(&self) -> Outcome<Vec<f32>> {
        self.flat(self.network.parameter_count(), &self.gradients)
    }

    /// The optimiser's flat moments.
    ///
    /// # Errors
    /// The device failed.
    pub fn flat_moments(&self, optimizer: Optimizer) -> Outcome<Moments<Vec<f32>>> {
        let moment = |k: usize| {
            let buffers = self.moments.iter().map(|of_tensor| &of_tensor[k]);
            self.flat(self.network.parameter_count(), buffers)
        };
        let mut flat = (0..moment_count(optimizer)).map(moment).collect::<Outcome<Vec<_>>>()?.into_iter();
        Ok(Moments::new(optimizer, |_| flat.next().expect("one for each moment")))
    }

    /// Stored tensors as a flat vector of the given length.
    fn flat<'b>(&self, length: usize, buffers: impl IntoIterator<Item = &'b K::Buffer>) -> Outcome<Vec<f32>>
    where
        K::Buffer: 'b,
    {
        let mut flat = vec![0.0; length];
        let tensors = self.network.parameters().iter().zip(&self.storages);
        for ((parameter, storage), buffer) in tensors.zip(buffers) {
            let mut stored = vec![0.0; storage.floats()];
            self.kernels.download(buffer, &mut stored)?;
            storage.restore(parameter, &stored, &mut flat);
        }
        Ok(flat)
    }
}

/// The dropout of elementwise layers where there is any, and what its draws depend on.
fn dropout_of(layers: PointwiseLayers, mode: Mode) -> Option<(Dropout, Draw)> {
    match mode {
        Mode::Training(draw) => layers.dropout.zip(draw),
        Mode::Evaluation => None,
    }
}

/// How each tensor of a network is stored.
pub(crate) fn storages(network: &Network, graph: &Graph) -> Vec<Storage> {
    let vector = |p: &Parameter| Storage::Vector(p.range.len());
    let mut storages: Vec<Storage> = network.parameters().iter().map(vector).collect();
    for node in &graph.nodes {
        if let Operation::Convolution { geometry, weight, .. } = node.operation {
            storages[weight] = Storage::Weights(geometry);
        }
    }
    storages
}
