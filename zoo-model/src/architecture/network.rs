//! Networks as lists of named modules.

use std::ops::Range;

use crate::activation::Activation;

/// One step of a network, on maps of shape (C, H, W) or vectors.
#[derive(Debug, Clone, PartialEq)]
pub enum Module {
    /// Convolution with a square kernel over maps padded with zeros.
    Conv2d {
        /// Input channels.
        input: usize,
        /// Output channels.
        output: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Pixels from one patch to the next.
        stride: usize,
        /// Zeros added on every side.
        padding: usize,
        /// Whether a bias is added.
        bias: bool,
    },
    /// Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) with PyTorch's defaults: eps
    /// 1e-5, momentum 0.1; running statistics at evaluation.
    BatchNorm2d {
        /// Channels.
        channels: usize,
    },
    /// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
    MaxPool2d,
    /// Mean over all positions of each channel: (C, H, W) to (C, 1, 1).
    GlobalAvgPool2d,
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
    /// `y = body(x) + shortcut(x)`; a shortcut without modules is the identity.
    Residual {
        /// The path with the weights.
        body: Vec<NamedModule>,
        /// The path around it.
        shortcut: Vec<NamedModule>,
    },
}

impl Module {
    /// A valid convolution of stride 1 with bias.
    pub(super) fn conv(input: usize, output: usize, kernel: usize) -> Self {
        Self::Conv2d { input, output, kernel, stride: 1, padding: 0, bias: true }
    }

    /// The module's own tensors: what follows its name, role and shape. Statistics come last.
    fn tensors(&self) -> Vec<(&'static str, Role, Vec<usize>)> {
        match *self {
            Self::Conv2d { input, output, kernel, bias, .. } => {
                let mut tensors = vec![("weight", Role::Weight, vec![output, input, kernel, kernel])];
                tensors.extend(bias.then(|| ("bias", Role::Bias, vec![output])));
                tensors
            }
            Self::Linear { input, output } => {
                vec![("weight", Role::Weight, vec![output, input]), ("bias", Role::Bias, vec![output])]
            }
            Self::BatchNorm2d { channels } => vec![
                ("weight", Role::Scale, vec![channels]),
                ("bias", Role::Shift, vec![channels]),
                ("running_mean", Role::RunningMean, vec![channels]),
                ("running_var", Role::RunningVar, vec![channels]),
            ],
            Self::MaxPool2d
            | Self::GlobalAvgPool2d
            | Self::Activation(_)
            | Self::Dropout(_)
            | Self::Flatten
            | Self::Residual { .. } => Vec::new(),
        }
    }
}

/// A module and what the names of its tensors begin with, as in PyTorch's state dict.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedModule {
    /// `module_list.3`, or `layer1.0.conv1`.
    pub name: String,
    /// The module.
    pub module: Module,
}

impl NamedModule {
    pub(super) fn new(name: impl Into<String>, module: Module) -> Self {
        Self { name: name.into(), module }
    }
}

/// What a tensor of a network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weight of a convolution or linear layer: the only ones that are drawn at random, and that
    /// pruning may remove.
    Weight,
    /// Bias of a convolution or linear layer.
    Bias,
    /// Scale of a batch normalisation.
    Scale,
    /// Shift of a batch normalisation.
    Shift,
    /// Running mean of a batch normalisation: part of the state, not trained.
    RunningMean,
    /// Running variance of a batch normalisation: part of the state, not trained.
    RunningVar,
}

impl Role {
    /// Whether an optimiser moves it.
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// A tensor of a network: its PyTorch name, shape, role and place in the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The module's name and `weight`, `bias`, `running_mean` or `running_var`.
    pub name: String,
    /// (out, in, kh, kw) of a convolution, (out, in) of a linear layer, (channels) of all others.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Where it lies in the flat vector.
    pub range: Range<usize>,
}

/// An architecture made concrete: activation, dropout, input shape and classes are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    modules: Vec<NamedModule>,
    parameters: Vec<Parameter>,
    trained: usize,
    input: [usize; 3],
    classes: usize,
}

impl Network {
    /// The network of these modules for images of shape (channels, height, width).
    pub(super) fn new(modules: Vec<NamedModule>, input: [usize; 3], classes: usize) -> Self {
        let mut parameters = Vec::new();
        collect(&modules, &mut parameters);
        // A stable sort: what is trained comes first, in forward order.
        parameters.sort_by_key(|p| !p.role.is_trained());
        let (mut end, mut trained) = (0, 0);
        for parameter in &mut parameters {
            let start = end;
            end += parameter.shape.iter().product::<usize>();
            parameter.range = start..end;
            if parameter.role.is_trained() {
                trained = end;
            }
        }
        Self { modules, parameters, trained, input, classes }
    }

    /// The modules in forward order.
    pub fn modules(&self) -> &[NamedModule] {
        &self.modules
    }

    /// Tensors in the order of the flat vector: what is trained in forward order, each layer's
    /// weight before its bias, then running statistics in forward order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of trained scalars: the beginning of the flat vector.
    pub fn parameter_count(&self) -> usize {
        self.trained
    }

    /// Number of scalars of a state: the length of the flat vector.
    pub fn state_len(&self) -> usize {
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

/// The tensors of some modules in forward order, a residual's body before its shortcut.
fn collect(modules: &[NamedModule], parameters: &mut Vec<Parameter>) {
    for NamedModule { name, module } in modules {
        for (suffix, role, shape) in module.tensors() {
            parameters.push(Parameter { name: format!("{name}.{suffix}"), shape, role, range: 0..0 });
        }
        if let Module::Residual { body, shortcut } = module {
            collect(body, parameters);
            collect(shortcut, parameters);
        }
    }
}
