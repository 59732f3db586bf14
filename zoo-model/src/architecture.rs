//! Networks as lists of modules, as PyTorch's `module_list` numbers them.
//!
//! An [`Architecture`] is only a recipe for a list of [`Module`]s; engines interpret the list, so
//! a sequential architecture is added here and nowhere else.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::hyperparameters::Activation;

/// The families of networks that a manifest can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Architecture {
    /// Three convolutions and two linear layers on 28x28 images; 2,464 parameters with one input
    /// channel and 10 classes, 2,864 with three.
    #[serde(rename = "cnn-s")]
    CnnS,
    /// The wider network on 32x32 images; 10,853 parameters with three channels and 10 classes.
    #[serde(rename = "cnn-m")]
    CnnM,
}

/// One entry of the `module_list`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Module {
    /// Valid convolution, stride 1, square kernel, with bias.
    Conv2d {
        /// Input channels.
        input: usize,
        /// Output channels.
        output: usize,
        /// Side of the kernel.
        kernel: usize,
    },
    /// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
    MaxPool2d,
    /// Element-wise activation.
    Activation(Activation),
    /// Inverted dropout with this probability of dropping, off at evaluation.
    Dropout(f64),
    /// (C, H, W) to (C*H*W), channel-major.
    Flatten,
    /// `y = W x + b`, W of shape (output, input).
    Linear {
        /// Input features.
        input: usize,
        /// Output features.
        output: usize,
    },
}

/// What role a parameter tensor plays: weights can be pruned, biases are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A weight tensor.
    Weight,
    /// A bias vector.
    Bias,
}

/// A parameter tensor: its PyTorch name, shape, role and place in the flat parameter vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// `module_list.{i}.weight` or `module_list.{i}.bias`.
    pub name: String,
    /// (out, in, kh, kw) of a convolution, (out, in) of a linear layer, (out) of a bias.
    pub shape: Vec<usize>,
    /// Weight or bias.
    pub role: Role,
    /// Where it lies in a flat vector of all parameters.
    pub range: Range<usize>,
}

/// Images and architecture do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{architecture} takes images of {expected}x{expected} pixels, these have {height}x{width}: set `resize = {expected}` in [data] transform")]
pub struct GeometryError {
    architecture: &'static str,
    expected: usize,
    height: usize,
    width: usize,
}

impl Architecture {
    /// The name used in manifests and `params.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CnnS => "cnn-s",
            Self::CnnM => "cnn-m",
        }
    }

    /// Side of the square images it takes.
    pub fn image_side(self) -> usize {
        match self {
            Self::CnnS => 28,
            Self::CnnM => 32,
        }
    }

    fn modules(self, activation: Activation, dropout: f64, channels: usize, classes: usize) -> Vec<Module> {
        use Module::*;
        let act = Activation(activation);
        let conv = |input, output, kernel| Conv2d { input, output, kernel };
        let linear = |input, output| Linear { input, output };
        let drop = Dropout(dropout);
        match self {
            Self::CnnS => {
                let mut modules = vec![
                    conv(channels, 8, 5),
                    MaxPool2d,
                    act,
                    drop,
                    conv(8, 6, 5),
                    MaxPool2d,
                    act,
                    drop,
                    conv(6, 4, 2),
                    act,
                    Flatten,
                    linear(36, 20),
                    act,
                    drop,
                    linear(20, classes),
                ];
                // The published definition leaves the modules out, which moves the later indices.
                if dropout == 0.0 {
                    modules.retain(|m| !matches!(m, Dropout(_)));
                }
                modules
            }
            Self::CnnM => vec![
                conv(channels, 16, 3),
                MaxPool2d,
                act,
                drop,
                conv(16, 32, 3),
                MaxPool2d,
                act,
                drop,
                conv(32, 15, 3),
                MaxPool2d,
                act,
                drop,
                Flatten,
                linear(60, 20),
                act,
                drop,
                linear(20, classes),
            ],
        }
    }
}

/// An architecture made concrete: activation, dropout, input shape and classes are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    modules: Vec<Module>,
    parameters: Vec<Parameter>,
    input: [usize; 3],
    classes: usize,
}

impl Network {
    /// Builds the module list for images of shape (channels, height, width).
    ///
    /// # Errors
    /// The architecture takes images of another size.
    pub fn new(
        architecture: Architecture,
        activation: Activation,
        dropout: f64,
        input: [usize; 3],
        classes: usize,
    ) -> Result<Self, GeometryError> {
        let [channels, height, width] = input;
        let side = architecture.image_side();
        if (height, width) != (side, side) {
            return Err(GeometryError { architecture: architecture.name(), expected: side, height, width });
        }
        let modules = architecture.modules(activation, dropout, channels, classes);
        let mut parameters = Vec::new();
        let mut end = 0;
        for (i, module) in modules.iter().enumerate() {
            let (weight, bias) = match *module {
                Module::Conv2d { input, output, kernel } => (vec![output, input, kernel, kernel], output),
                Module::Linear { input, output } => (vec![output, input], output),
                _ => continue,
            };
            for (suffix, role, shape) in [("weight", Role::Weight, weight), ("bias", Role::Bias, vec![bias])] {
                let start = end;
                end += shape.iter().product::<usize>();
                parameters.push(Parameter {
                    name: format!("module_list.{i}.{suffix}"),
                    shape,
                    role,
                    range: start..end,
                });
            }
        }
        Ok(Self { modules, parameters, input, classes })
    }

    /// The modules in forward order; an index here is the index in the parameter names.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Parameter tensors in forward order, each layer's weight before its bias.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of scalars in all parameters: the length of a flat parameter vector.
    pub fn parameter_count(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.range.end)
    }

    /// Number of scalars in weight tensors, those that pruning may remove.
    pub fn weight_count(&self) -> usize {
        self.weights().map(|p| p.range.len()).sum()
    }

    /// The weight tensors, in forward order.
    pub fn weights(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|p| p.role == Role::Weight)
    }

    /// (channels, height, width) of an image.
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// Number of outputs.
    pub fn classes(&self) -> usize {
        self.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(architecture: Architecture, dropout: f64, input: [usize; 3]) -> (Vec<usize>, usize) {
        let network = Network::new(architecture, Activation::Relu, dropout, input, 10).unwrap();
        let layers = network.weights().map(|p| p.name.split('.').nth(1).unwrap().parse().unwrap()).collect();
        (layers, network.parameter_count())
    }

    #[test]
    fn parameters_are_numbered_and_counted_as_published() {
        assert_eq!(indices(Architecture::CnnS, 0.0, [1, 28, 28]), (vec![0, 3, 6, 9, 11], 2464));
        assert_eq!(indices(Architecture::CnnS, 0.5, [3, 28, 28]), (vec![0, 4, 8, 11, 14], 2864));
        assert_eq!(indices(Architecture::CnnM, 0.0, [3, 32, 32]), (vec![0, 4, 8, 13, 16], 10_853));
        assert_eq!(indices(Architecture::CnnM, 0.5, [3, 32, 32]), (vec![0, 4, 8, 13, 16], 10_853));
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let error = Network::new(Architecture::CnnM, Activation::Tanh, 0.0, [3, 28, 28], 10).unwrap_err();
        assert!(error.to_string().contains("resize = 32"), "{error}");
    }
}
