//! Variational dropout: the noise of a model's weights ([`variational`](zoo_engine::variational)).
//!
//! A layer's sums get noise whose variances are the same layer of the squares of its input and of
//! sigma^2 for weights, without bias; the backward pass goes through both.

use zoo_engine::schedule::Rates;
use zoo_engine::Moments;
use zoo_model::architecture::Parameter;
use zoo_model::{Network, Optimizer};

use crate::geometry::Geometry;
use crate::graph::{Graph, Node, Operation, Tensor};
use crate::kernels::{upload, Draw, Kernels, Outcome, Shape, Update};
use crate::storage::Storage;

/// The noise of a model's weights. Biases and batch normalisations have none.
pub struct Noise<K: Kernels> {
    /// By number of the layer.
    layers: Vec<LayerNoise<K::Buffer>>,
    /// Buffers that the layers use one after the other; `None` before there is room.
    scratch: Option<Scratch<K::Buffer>>,
}

/// The noise of a layer's weights.
struct LayerNoise<B> {
    weight: Tensor,
    geometry: Geometry,
    input: Shape,
    output: Shape,
    log_sigma2: B,
    sigma2: B,
    /// By sigma^2, then by log sigma^2.
    gradient: B,
    /// The optimiser's moments of log sigma^2.
    moments: Vec<B>,
    /// Variances of the sums, then the sums' derivatives by them, then gradients by them.
    variances: Option<B>,
}

struct Scratch<B> {
    squares: B,
    by_squares: B,
    transposed: B,
}

impl<K: Kernels> Noise<K> {
    /// The noise of flat log sigma^2 and moments.
    ///
    /// # Errors
    /// The device failed, or is full.
    pub fn new(
        kernels: &K,
        network: &Network,
        graph: &Graph,
        log_sigma2: &[f32],
        moments: &Moments<Vec<f32>>,
    ) -> Outcome<Self> {
        let layer = |(node, weight, geometry): (Node, Tensor, Geometry)| -> Outcome<LayerNoise<K::Buffer>> {
            let stored =
                |flat: &[f32]| upload(kernels, &Storage::Weights(geometry).store(&network.parameters()[weight], flat));
            let mut layer = LayerNoise {
                weight,
                geometry,
                input: graph.values[node.input],
                output: graph.values[node.output],
                log_sigma2: stored(log_sigma2)?,
                sigma2: kernels.zeros(geometry.weights())?,
                gradient: kernels.zeros(geometry.weights())?,
                moments: moments.named().into_iter().map(|(_, m)| stored(m)).collect::<Outcome<_>>()?,
                variances: None,
            };
            kernels.exp(geometry.weights(), &layer.log_sigma2, &mut layer.sigma2)?;
            Ok(layer)
        };
        let layers = weights(graph).map(layer).collect::<Outcome<_>>()?;
        Ok(Self { layers, scratch: None })
    }

    /// Makes room for mini-batches of this many images.
    pub(crate) fn reserve(&mut self, kernels: &K, images: usize) -> Outcome {
        self.scratch = None;
        let largest = self.layers.iter().map(|l| l.input.floats(images)).max().unwrap_or(0);
        let transposed = self.layers.iter().map(|l| l.geometry.transposed_weights()).max().unwrap_or(0);
        for layer in &mut self.layers {
            layer.variances = None;
            layer.variances = Some(kernels.zeros(layer.output.floats(images))?);
        }
        self.scratch = Some(Scratch {
            squares: kernels.zeros(largest)?,
            by_squares: kernels.zeros(largest)?,
            transposed: kernels.zeros(transposed)?,
        });
        Ok(())
    }

    /// Adds noise to a layer's sums of the input x.
    pub(crate) fn add(
        &mut self,
        kernels: &K,
        (number, draw): (u8, Draw),
        images: usize,
        x: &K::Buffer,
        sums: &mut K::Buffer,
    ) -> Outcome {
        let (layer, scratch) = (&mut self.layers[usize::from(number)], self.scratch.as_mut().expect("reserved"));
        let variances = layer.variances.as_mut().expect("reserved");
        kernels.square(layer.input.floats(images), x, &mut scratch.squares)?;
        kernels.convolution(&layer.geometry, images, &scratch.squares, &layer.sigma2, None, variances)?;
        kernels.add_noise(layer.output, images, number, draw, variances, sums)
    }

    /// The gradient by a layer's sigma^2, and what its input's gradient gets through the variances.
    pub(crate) fn gradient(
        &mut self,
        kernels: &K,
        number: u8,
        images: usize,
        x: &K::Buffer,
        by_output: &K::Buffer,
        by_input: Option<&mut K::Buffer>,
    ) -> Outcome {
        let (layer, scratch) = (&mut self.layers[usize::from(number)], self.scratch.as_mut().expect("reserved"));
        let LayerNoise { geometry, input, output, sigma2, gradient, variances, .. } = layer;
        let by_variances = variances.as_mut().expect("reserved");
        let inputs = input.floats(images);
        kernels.multiply(output.floats(images), by_output, by_variances)?;
        kernels.square(inputs, x, &mut scratch.squares)?;
        kernels.weight_gradient(geometry, images, &scratch.squares, by_variances, gradient)?;
        let Some(by_input) = by_input else { return Ok(()) };
        kernels.transpose(geometry, sigma2, &mut scratch.transposed)?;
        let by_squares = &mut scratch.by_squares;
        kernels.input_gradient(geometry, images, by_variances, &scratch.transposed, by_squares, false)?;
        kernels.add_of_squares(inputs, x, by_squares, by_input)
    }

    /// An optimiser's step of log sigma^2; adds the divergence's gradient by the weights to `gradients`.
    pub(crate) fn step(
        &mut self,
        kernels: &K,
        (optimizer, rates, step): (Optimizer, Rates, u64),
        kl_weight: f32,
        parameters: &[K::Buffer],
        gradients: &mut [K::Buffer],
    ) -> Outcome {
        // Weight decay acts on the weights alone.
        let update = Update::new(optimizer, rates.learning_rate, rates.momentum, 0.0, step);
        for layer in &mut self.layers {
            let LayerNoise { weight, geometry, log_sigma2, sigma2, gradient, moments, .. } = layer;
            let floats = geometry.weights();
            let by_weights = &mut gradients[*weight];
            kernels.add_divergence(
                floats,
                [&parameters[*weight], log_sigma2, sigma2],
                kl_weight,
                by_weights,
                gradient,
            )?;
            kernels.update(floats, update, gradient, None, log_sigma2, moments)?;
            kernels.exp(floats, log_sigma2, sigma2)?;
        }
        Ok(())
    }

    /// What `of` picks of every layer, as a flat vector; `elsewhere` where there is no noise.
    fn flat(
        &self,
        kernels: &K,
        network: &Network,
        elsewhere: f32,
        of: impl Fn(&LayerNoise<K::Buffer>) -> &K::Buffer,
    ) -> Outcome<Vec<f32>> {
        let mut flat = vec![elsewhere; network.parameter_count()];
        for layer in &self.layers {
            let parameter: &Parameter = &network.parameters()[layer.weight];
            let mut stored = vec![0.0; layer.geometry.weights()];
            kernels.download(of(layer), &mut stored)?;
            Storage::Weights(layer.geometry).restore(parameter, &stored, &mut flat);
        }
        Ok(flat)
    }

    /// Flat log sigma^2.
    ///
    /// # Errors
    /// The device failed.
    pub fn log_sigma2(&self, kernels: &K, network: &Network) -> Outcome<Vec<f32>> {
        self.flat(kernels, network, zoo_engine::variational::NO_NOISE as f32, |layer| &layer.log_sigma2)
    }

    /// The flat moments of its optimiser.
    ///
    /// # Errors
    /// The device failed.
    pub fn moments(&self, kernels: &K, network: &Network, optimizer: Optimizer) -> Outcome<Moments<Vec<f32>>> {
        let count = zoo_engine::optimizer::moment_count(optimizer);
        let moment = |k: usize| self.flat(kernels, network, 0.0, move |layer| &layer.moments[k]);
        let mut flat = (0..count).map(moment).collect::<Outcome<Vec<_>>>()?.into_iter();
        Ok(Moments::new(optimizer, |_| flat.next().expect("one for each moment")))
    }
}

/// The weights of the layers that have any, by number.
fn weights(graph: &Graph) -> impl Iterator<Item = (Node, Tensor, Geometry)> + '_ {
    graph.nodes.iter().filter_map(|node| match node.operation {
        Operation::Convolution { geometry, weight, .. } => Some((*node, weight, geometry)),
        Operation::Pointwise(_) | Operation::MaxPool | Operation::AveragePool => None,
    })
}
