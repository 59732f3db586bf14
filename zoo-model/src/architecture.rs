//! Networks as lists of named modules, as PyTorch names them.
//!
//! An [`Architecture`] is only a recipe for a list of [`Module`]s; engines interpret the list, so
//! an architecture made of known modules is added here and nowhere else.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::hyperparameters::{Activation, Hyperparameters};

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
    /// The 18-layer residual network (He et al. 2016, arXiv 1512.03385) with the stem that small
    /// images take: a 3x3 convolution of stride 1 and no pooling; 11,173,962 parameters with three
    /// channels and 10 classes.
    #[serde(rename = "resnet18")]
    Resnet18,
    /// A multilayer perceptron on square images of any size: linear layers with the hidden sizes of
    /// [`Hyperparameters::hidden`], activation and dropout between them.
    #[serde(rename = "mlp")]
    Mlp,
}

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
    fn conv(input: usize, output: usize, kernel: usize) -> Self {
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
            _ => Vec::new(),
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
    fn new(name: impl Into<String>, module: Module) -> Self {
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

/// Images and architecture do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{architecture} takes images of {expected} pixels, these have {height}x{width}: set {remedy} in [data] transform"
)]
pub struct GeometryError {
    architecture: &'static str,
    expected: String,
    height: usize,
    width: usize,
    remedy: String,
}

impl Architecture {
    /// The name used in manifests and `params.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CnnS => "cnn-s",
            Self::CnnM => "cnn-m",
            Self::Resnet18 => "resnet18",
            Self::Mlp => "mlp",
        }
    }

    /// Side of the square images that it takes; `None` if any will do.
    pub fn image_side(self) -> Option<usize> {
        match self {
            Self::CnnS => Some(28),
            Self::CnnM => Some(32),
            Self::Resnet18 | Self::Mlp => None,
        }
    }

    /// The modules in forward order.
    fn modules(self, h: &Hyperparameters, [channels, height, width]: [usize; 3], classes: usize) -> Vec<NamedModule> {
        use Module::{Dropout, Flatten, Linear, MaxPool2d};
        let act = || Module::Activation(h.activation);
        let drop = || Dropout(h.dropout);
        let conv = Module::conv;
        let linear = |input, output| Linear { input, output };
        match self {
            Self::CnnS => {
                let mut modules = vec![
                    conv(channels, 8, 5),
                    MaxPool2d,
                    act(),
                    drop(),
                    conv(8, 6, 5),
                    MaxPool2d,
                    act(),
                    drop(),
                    conv(6, 4, 2),
                    act(),
                    Flatten,
                    linear(36, 20),
                    act(),
                    drop(),
                    linear(20, classes),
                ];
                // The published definition leaves the modules out, which moves the later indices.
                if h.dropout == 0.0 {
                    modules.retain(|m| !matches!(m, Dropout(_)));
                }
                numbered(modules)
            }
            Self::CnnM => numbered(vec![
                conv(channels, 16, 3),
                MaxPool2d,
                act(),
                drop(),
                conv(16, 32, 3),
                MaxPool2d,
                act(),
                drop(),
                conv(32, 15, 3),
                MaxPool2d,
                act(),
                drop(),
                Flatten,
                linear(60, 20),
                act(),
                drop(),
                linear(20, classes),
            ]),
            Self::Resnet18 => resnet(&[2, 2, 2, 2], h, channels, classes),
            Self::Mlp => {
                let mut modules = vec![Flatten];
                let mut width = channels * height * width;
                for hidden in h.hidden.iter().map(|&hidden| hidden as usize) {
                    modules.extend([linear(width, hidden), act(), drop()]);
                    width = hidden;
                }
                modules.push(linear(width, classes));
                numbered(modules)
            }
        }
    }
}

/// Modules with the names that a `ModuleList` gives them.
fn numbered(modules: Vec<Module>) -> Vec<NamedModule> {
    modules.into_iter().enumerate().map(|(i, module)| NamedModule::new(format!("module_list.{i}"), module)).collect()
}

/// A residual network of so many basic blocks a stage, with torchvision's names. Dropout, if any,
/// precedes the linear layer.
fn resnet(blocks: &[usize], h: &Hyperparameters, channels: usize, classes: usize) -> Vec<NamedModule> {
    let act = |name: String| NamedModule::new(name, Module::Activation(h.activation));
    let norm = |name: String, channels| NamedModule::new(name, Module::BatchNorm2d { channels });
    let conv = |name: String, input, output, kernel, stride| {
        let module = Module::Conv2d { input, output, kernel, stride, padding: kernel / 2, bias: false };
        NamedModule::new(name, module)
    };
    let mut width = 64;
    let mut modules = vec![conv("conv1".into(), channels, width, 3, 1), norm("bn1".into(), width), act("relu".into())];
    for (stage, &blocks) in blocks.iter().enumerate() {
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            let at = |part: &str| format!("{name}.{part}");
            let (input, stride) = (width, if stage > 0 && block == 0 { 2 } else { 1 });
            width = 64 << stage;
            let body = vec![
                conv(at("conv1"), input, width, 3, stride),
                norm(at("bn1"), width),
                act(at("relu")),
                conv(at("conv2"), width, width, 3, 1),
                norm(at("bn2"), width),
            ];
            let mut shortcut = Vec::new();
            if input != width || stride != 1 {
                shortcut = vec![conv(at("downsample.0"), input, width, 1, stride), norm(at("downsample.1"), width)];
            }
            modules.push(NamedModule::new(name.clone(), Module::Residual { body, shortcut }));
            modules.push(act(at("relu")));
        }
    }
    modules.push(NamedModule::new("avgpool", Module::GlobalAvgPool2d));
    modules.push(NamedModule::new("flatten", Module::Flatten));
    if h.dropout > 0.0 {
        modules.push(NamedModule::new("dropout", Module::Dropout(h.dropout)));
    }
    modules.push(NamedModule::new("fc", Module::Linear { input: width, output: classes }));
    modules
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
    /// The network of these hyperparameters for images of shape (channels, height, width).
    ///
    /// # Errors
    /// The architecture takes images of another size.
    pub fn new(h: &Hyperparameters, input: [usize; 3], classes: usize) -> Result<Self, GeometryError> {
        let architecture = h.architecture;
        let [_, height, width] = input;
        if height != width || architecture.image_side().is_some_and(|side| side != height) {
            let (expected, remedy) = match architecture.image_side() {
                Some(side) => (format!("{side}x{side}"), format!("`resize = {side}`")),
                None => ("equal height and width in".to_owned(), "`resize` or `center-crop`".to_owned()),
            };
            return Err(GeometryError { architecture: architecture.name(), expected, height, width, remedy });
        }
        let modules = architecture.modules(h, input, classes);
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
        Ok(Self { modules, parameters, trained, input, classes })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with(architecture: Architecture, dropout: f64) -> Hyperparameters {
        Hyperparameters { architecture, dropout, ..Hyperparameters::default() }
    }

    fn indices(architecture: Architecture, dropout: f64, input: [usize; 3]) -> (Vec<usize>, usize) {
        let network = Network::new(&with(architecture, dropout), input, 10).unwrap();
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
    fn residual_networks_have_torchvisions_tensors() {
        let count = |side, classes| {
            let network = Network::new(&with(Architecture::Resnet18, 0.0), [3, side, side], classes).unwrap();
            assert_eq!(network.state_len() - network.parameter_count(), 2 * 4800);
            network.parameter_count()
        };
        assert_eq!((count(32, 10), count(32, 100), count(64, 200)), (11_173_962, 11_220_132, 11_271_432));
        let network = Network::new(&with(Architecture::Resnet18, 0.0), [3, 32, 32], 10).unwrap();
        let names: Vec<&str> = network.parameters().iter().map(|p| p.name.as_str()).collect();
        let after = names.iter().position(|n| *n == "layer2.0.bn2.bias").unwrap();
        assert_eq!(
            names[after + 1..after + 4],
            [0, 1, 1]
                .map(|i| ["downsample.0", "downsample.1"][i])
                .iter()
                .zip(["weight", "weight", "bias"])
                .map(|(m, t)| format!("layer2.0.{m}.{t}"))
                .collect::<Vec<_>>()
        );
        assert_eq!(names.last(), Some(&"layer4.1.bn2.running_var"));
        assert_eq!(names.len(), 62 + 40);
    }

    #[test]
    fn perceptrons_have_the_hidden_sizes_that_were_asked_for() {
        let of = |hidden: &[u32]| Hyperparameters { hidden: hidden.to_vec(), ..with(Architecture::Mlp, 0.0) };
        let network = of(&[64, 32]).network([1, 28, 28], 10).unwrap();
        let shapes: Vec<&[usize]> = network.weights().map(|p| p.shape.as_slice()).collect();
        assert_eq!(shapes, [[64, 784], [32, 64], [10, 32]]);
        assert_eq!(network.parameter_count(), 785 * 64 + 65 * 32 + 33 * 10);
        assert_eq!(network.parameters()[2].name, "module_list.4.weight");
        assert_eq!(of(&[]).network([3, 8, 8], 10).unwrap().parameter_count(), 193 * 10);
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let error = Network::new(&with(Architecture::CnnM, 0.0), [3, 28, 28], 10).unwrap_err();
        assert!(error.to_string().contains("resize = 32"), "{error}");
    }
}
