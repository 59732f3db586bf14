//! A network as a list of operations on numbered values.
//!
//! Batch normalisation, the sum of a residual block's paths, activation and dropout become one
//! operation where they follow each other, so that each value is read and written once.

use std::collections::HashMap;

use zoo_model::architecture::{Module, NamedModule};
use zoo_model::{Activation, Network};

use crate::geometry::{Geometry, Map};
use crate::kernels::Shape;

/// Index into [`Graph::values`].
pub type Value = usize;

/// Index into [`Network::parameters`].
pub type Tensor = usize;

/// A batch normalisation's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormTensors {
    /// Scale.
    pub scale: Tensor,
    /// Shift.
    pub shift: Tensor,
    /// Running mean.
    pub mean: Tensor,
    /// Running variance.
    pub variance: Tensor,
}

/// A dropout module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Its number among the network's dropout modules.
    pub module: u8,
    /// Probability of dropping.
    pub probability: f64,
}

/// Elementwise layers, in the order of their fields.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PointwiseLayers {
    /// Batch normalisation.
    pub norm: Option<NormTensors>,
    /// What is added.
    pub addend: Option<Value>,
    /// Activation.
    pub activation: Option<Activation>,
    /// Dropout.
    pub dropout: Option<Dropout>,
}

/// What is done to a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// A convolution or linear layer.
    Convolution {
        /// Its shapes.
        geometry: Geometry,
        /// Its weight.
        weight: Tensor,
        /// Its bias.
        bias: Option<Tensor>,
        /// Its number among the network's layers with weights.
        layer: u8,
    },
    /// Elementwise layers.
    Pointwise(PointwiseLayers),
    /// Maximum over 2x2 windows.
    MaxPool,
    /// Mean over all positions.
    AveragePool,
}

/// An operation, what it takes and what it makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// What is done.
    pub operation: Operation,
    /// To this value.
    pub input: Value,
    /// It makes this one.
    pub output: Value,
}

/// A network as operations in forward order.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The values' shapes; the first is the images.
    pub values: Vec<Shape>,
    /// The operations.
    pub nodes: Vec<Node>,
    /// The logits.
    pub output: Value,
    /// Whether the images are taken as vectors in the order (channel, row, column).
    pub takes_flat_images: bool,
}

impl Graph {
    /// The graph of a network.
    pub fn new(network: &Network) -> Self {
        let [channels, height, width] = network.input();
        let takes_flat_images = network.modules().first().is_some_and(|m| m.module == Module::Flatten);
        let images = match takes_flat_images {
            true => Shape { map: Map { height: 1, width: 1 }, channels: channels * height * width },
            false => Shape { map: Map { height, width }, channels },
        };
        let tensors = network.parameters().iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
        let mut builder = Builder {
            tensors,
            values: vec![images],
            nodes: Vec::new(),
            layers: 0,
            dropouts: 0,
            current: 0,
            pending: PointwiseLayers::default(),
        };
        builder.modules(network.modules());
        builder.flush();
        let Builder { values, nodes, current, .. } = builder;
        Self { values, nodes, output: current, takes_flat_images }
    }

    /// Floats of a value of the given number of images.
    pub fn floats(&self, value: Value, images: usize) -> usize {
        self.values[value].floats(images)
    }

    /// Floats of all values of one image.
    pub fn floats_per_image(&self) -> usize {
        (0..self.values.len()).map(|value| self.floats(value, 1)).sum()
    }

    /// Multiply-adds of one image in a forward pass.
    pub fn multiply_adds(&self) -> usize {
        self.geometries().map(|geometry| geometry.multiply_adds()).sum()
    }

    /// The shapes of the layers with weights.
    pub fn geometries(&self) -> impl Iterator<Item = &Geometry> {
        self.nodes.iter().filter_map(|node| match &node.operation {
            Operation::Convolution { geometry, .. } => Some(geometry),
            Operation::Pointwise(_) | Operation::MaxPool | Operation::AveragePool => None,
        })
    }
}

/// An unfinished graph.
struct Builder<'a> {
    tensors: HashMap<&'a str, Tensor>,
    values: Vec<Shape>,
    nodes: Vec<Node>,
    layers: u8,
    dropouts: u8,
    /// What the next module sees, once `pending` is applied.
    current: Value,
    pending: PointwiseLayers,
}

impl Builder<'_> {
    fn modules(&mut self, modules: &[NamedModule]) {
        for module in modules {
            self.module(module);
        }
    }

    fn tensor(&self, module: &str, suffix: &str) -> Tensor {
        self.tensors[format!("{module}.{suffix}").as_str()]
    }

    fn module(&mut self, NamedModule { name, module }: &NamedModule) {
        match *module {
            Module::Conv2d { output, kernel, stride, padding, bias, .. } => {
                let kernel = Map { height: kernel, width: kernel };
                self.convolution(name, kernel, [stride, padding], output, bias);
            }
            Module::Linear { output, .. } => {
                let kernel = self.values[self.current].map;
                self.convolution(name, kernel, [1, 0], output, true);
            }
            Module::BatchNorm2d { .. } => {
                self.flush();
                let [scale, shift, mean, variance] =
                    ["weight", "bias", "running_mean", "running_var"].map(|suffix| self.tensor(name, suffix));
                self.pending.norm = Some(NormTensors { scale, shift, mean, variance });
            }
            Module::Activation(activation) => {
                if self.pending.activation.is_some() || self.pending.dropout.is_some() {
                    self.flush();
                }
                self.pending.activation = Some(activation);
            }
            Module::Dropout(probability) => {
                let module = self.dropouts;
                self.dropouts += 1;
                if probability > 0.0 {
                    if self.pending.dropout.is_some() {
                        self.flush();
                    }
                    self.pending.dropout = Some(Dropout { module, probability });
                }
            }
            Module::MaxPool2d => {
                self.flush();
                let Shape { map: Map { height, width }, channels } = self.values[self.current];
                let shape = Shape { map: Map { height: height / 2, width: width / 2 }, channels };
                self.push(Operation::MaxPool, shape);
            }
            Module::GlobalAvgPool2d => {
                self.flush();
                let channels = self.values[self.current].channels;
                self.push(Operation::AveragePool, Shape { map: Map { height: 1, width: 1 }, channels });
            }
            // Positions and channels stay apart: a linear layer is a convolution over the whole map.
            Module::Flatten => {}
            Module::Residual { ref body, ref shortcut } => self.residual(body, shortcut),
        }
    }

    fn residual(&mut self, body: &[NamedModule], shortcut: &[NamedModule]) {
        self.flush();
        let input = self.current;
        self.modules(body);
        let PointwiseLayers { addend, activation, dropout, .. } = self.pending;
        if addend.is_some() || activation.is_some() || dropout.is_some() {
            self.flush();
        }
        let (through, pending) = (self.current, std::mem::take(&mut self.pending));
        self.current = input;
        self.modules(shortcut);
        self.flush();
        let around = self.current;
        self.current = through;
        self.pending = PointwiseLayers { addend: Some(around), ..pending };
    }

    fn convolution(&mut self, name: &str, kernel: Map, [stride, padding]: [usize; 2], outputs: usize, bias: bool) {
        self.flush();
        let Shape { map, channels } = self.values[self.current];
        let size = |side: usize, kernel: usize| (side + 2 * padding - kernel) / stride + 1;
        let geometry = Geometry {
            input: map,
            output: Map { height: size(map.height, kernel.height), width: size(map.width, kernel.width) },
            kernel,
            stride,
            padding,
            inputs: channels,
            outputs,
        };
        let weight = self.tensor(name, "weight");
        let bias = bias.then(|| self.tensor(name, "bias"));
        let layer = self.layers;
        self.layers += 1;
        let shape = Shape { map: geometry.output, channels: geometry.outputs };
        self.push(Operation::Convolution { geometry, weight, bias, layer }, shape);
    }

    fn push(&mut self, operation: Operation, shape: Shape) {
        let output = self.values.len();
        self.values.push(shape);
        self.nodes.push(Node { operation, input: self.current, output });
        self.current = output;
    }

    /// Applies what is pending.
    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending != PointwiseLayers::default() {
            self.push(Operation::Pointwise(pending), self.values[self.current]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::{Architecture, Hyperparameters};

    fn graph(architecture: Architecture, dropout: f64, shape: [usize; 3]) -> Graph {
        let hidden = if architecture == Architecture::Mlp { vec![5] } else { Vec::new() };
        let activation = Activation::Relu;
        let h = Hyperparameters { architecture, activation, dropout, hidden, ..Hyperparameters::default() };
        Graph::new(&h.network(shape, 10).unwrap())
    }

    #[test]
    fn what_follows_a_convolution_of_a_residual_block_is_one_operation() {
        let graph = graph(Architecture::Resnet18, 0.0, [3, 32, 32]);
        let kinds: Vec<&str> = graph.nodes.iter().map(|node| kind(&node.operation)).collect();
        // The stem, and the first block, whose shortcut is its input.
        assert_eq!(kinds[..6], ["conv", "norm act", "conv", "norm act", "conv", "norm add act"]);
        assert_eq!((graph.nodes[5].operation, graph.nodes[2].input), (sum_of(&graph.nodes[5], 2), 2));
        // The first block of the second stage: its shortcut has a convolution and a norm.
        assert_eq!(kinds[10..16], ["conv", "norm act", "conv", "conv", "norm", "norm add act"]);
        assert_eq!(graph.nodes[13].input, graph.nodes[10].input);
        assert_eq!(graph.nodes[15].input, graph.nodes[12].output);
        assert_eq!(graph.nodes[15].operation, sum_of(&graph.nodes[15], graph.nodes[14].output));
        assert_eq!(kinds[kinds.len() - 2..], ["average", "conv"]);
        assert_eq!(graph.geometries().count(), 21);
        // 555 million with the taps in padding.
        assert_eq!(graph.multiply_adds(), 481_859_328);
    }

    fn kind(operation: &Operation) -> &'static str {
        match operation {
            Operation::Convolution { .. } => "conv",
            Operation::MaxPool => "max",
            Operation::AveragePool => "average",
            Operation::Pointwise(layers) => {
                match (layers.norm.is_some(), layers.addend.is_some(), layers.activation.is_some(), layers.dropout) {
                    (true, true, true, None) => "norm add act",
                    (true, false, true, None) => "norm act",
                    (true, false, false, None) => "norm",
                    (false, false, true, None) => "act",
                    (false, false, true, Some(_)) => "act drop",
                    _ => "other",
                }
            }
        }
    }

    /// A node's operation, with this addend.
    fn sum_of(node: &Node, addend: Value) -> Operation {
        match node.operation {
            Operation::Pointwise(layers) => Operation::Pointwise(PointwiseLayers { addend: Some(addend), ..layers }),
            other => other,
        }
    }

    #[test]
    fn a_linear_layer_is_a_convolution_over_the_whole_map() {
        let convolutional = graph(Architecture::CnnS, 0.5, [1, 28, 28]);
        let kinds: Vec<&str> = convolutional.nodes.iter().map(|node| kind(&node.operation)).collect();
        let expected =
            ["conv", "max", "act drop", "conv", "max", "act drop", "conv", "act", "conv", "act drop", "conv"];
        assert_eq!(kinds, expected);
        let linear = convolutional.geometries().nth(3).unwrap();
        assert_eq!((linear.kernel, linear.output.positions(), linear.inputs), (Map { height: 3, width: 3 }, 1, 4));
        assert!(!convolutional.takes_flat_images);

        let perceptron = graph(Architecture::Mlp, 0.0, [3, 4, 4]);
        assert!(perceptron.takes_flat_images);
        assert_eq!(perceptron.values[0], Shape { map: Map { height: 1, width: 1 }, channels: 48 });
        assert_eq!(perceptron.multiply_adds(), 48 * 5 + 5 * 10);
    }
}
