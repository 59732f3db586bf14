//! Networks as lists of named modules, as PyTorch names them.
//!
//! An [`Architecture`] is only a recipe for a list of [`Module`]s; engines interpret the list, so
//! an architecture made of known modules is added here and nowhere else.

mod network;

use serde::{Deserialize, Serialize};

use crate::activation::Activation;

pub use network::{Module, NamedModule, Network, Parameter, Role};

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
    /// [`NetworkOptions::hidden`], activation and dropout between them.
    #[serde(rename = "mlp")]
    Mlp,
}

/// What the modules of an [`Architecture`] depend on, besides images and classes.
#[derive(Debug, Clone, Copy)]
pub struct NetworkOptions<'a> {
    /// Sizes of the hidden layers of an `mlp`; other architectures have their own.
    pub hidden: &'a [u32],
    /// Activation function.
    pub activation: Activation,
    /// Probability of dropping a unit, in [0, 1).
    pub dropout: f64,
}

impl NetworkOptions<'_> {
    fn activation(&self) -> Module {
        Module::Activation(self.activation)
    }

    fn dropout(&self) -> Module {
        Module::Dropout(self.dropout)
    }
}

/// Images and architecture do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{architecture} requires images of {expected} pixels, these are {height}x{width}: set {remedy} in [data] transform"
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

    /// The network of this architecture for images of shape (channels, height, width).
    ///
    /// # Errors
    /// The architecture takes images of another size.
    pub fn network(self, options: NetworkOptions, input: [usize; 3], classes: usize) -> Result<Network, GeometryError> {
        let [_, height, width] = input;
        if height != width || self.image_side().is_some_and(|side| side != height) {
            let (expected, remedy) = match self.image_side() {
                Some(side) => (format!("{side}x{side}"), format!("`resize = {side}`")),
                None => ("equal height and width in".to_owned(), "`resize` or `center-crop`".to_owned()),
            };
            return Err(GeometryError { architecture: self.name(), expected, height, width, remedy });
        }
        Ok(Network::new(self.modules(options, input, classes), input, classes))
    }

    /// The modules in forward order.
    fn modules(
        self,
        options: NetworkOptions,
        [channels, height, width]: [usize; 3],
        classes: usize,
    ) -> Vec<NamedModule> {
        match self {
            Self::CnnS => numbered(cnn_s(options, channels, classes)),
            Self::CnnM => numbered(cnn_m(options, channels, classes)),
            Self::Resnet18 => resnet(&[2, 2, 2, 2], options, channels, classes),
            Self::Mlp => numbered(mlp(options, channels * height * width, classes)),
        }
    }
}

fn cnn_s(options: NetworkOptions, channels: usize, classes: usize) -> Vec<Module> {
    let mut modules = vec![
        Module::conv(channels, 8, 5),
        Module::MaxPool2d,
        options.activation(),
        options.dropout(),
        Module::conv(8, 6, 5),
        Module::MaxPool2d,
        options.activation(),
        options.dropout(),
        Module::conv(6, 4, 2),
        options.activation(),
        Module::Flatten,
        Module::Linear { input: 36, output: 20 },
        options.activation(),
        options.dropout(),
        Module::Linear { input: 20, output: classes },
    ];
    // The published definition leaves the modules out, which moves the later indices.
    if options.dropout == 0.0 {
        modules.retain(|m| !matches!(m, Module::Dropout(_)));
    }
    modules
}

fn cnn_m(options: NetworkOptions, channels: usize, classes: usize) -> Vec<Module> {
    vec![
        Module::conv(channels, 16, 3),
        Module::MaxPool2d,
        options.activation(),
        options.dropout(),
        Module::conv(16, 32, 3),
        Module::MaxPool2d,
        options.activation(),
        options.dropout(),
        Module::conv(32, 15, 3),
        Module::MaxPool2d,
        options.activation(),
        options.dropout(),
        Module::Flatten,
        Module::Linear { input: 60, output: 20 },
        options.activation(),
        options.dropout(),
        Module::Linear { input: 20, output: classes },
    ]
}

/// A multilayer perceptron on images of the given number of values.
fn mlp(options: NetworkOptions, inputs: usize, classes: usize) -> Vec<Module> {
    let mut modules = vec![Module::Flatten];
    let mut width = inputs;
    for hidden in options.hidden.iter().map(|&hidden| hidden as usize) {
        modules.extend([Module::Linear { input: width, output: hidden }, options.activation(), options.dropout()]);
        width = hidden;
    }
    modules.push(Module::Linear { input: width, output: classes });
    modules
}

/// Modules with the names that a `ModuleList` gives them.
fn numbered(modules: Vec<Module>) -> Vec<NamedModule> {
    modules.into_iter().enumerate().map(|(i, module)| NamedModule::new(format!("module_list.{i}"), module)).collect()
}

/// A residual network of the given numbers of basic blocks per stage, with torchvision's names. Dropout, if any,
/// precedes the linear layer.
fn resnet(blocks: &[usize], options: NetworkOptions, channels: usize, classes: usize) -> Vec<NamedModule> {
    let act = |name: String| NamedModule::new(name, Module::Activation(options.activation));
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
    if options.dropout > 0.0 {
        modules.push(NamedModule::new("dropout", Module::Dropout(options.dropout)));
    }
    modules.push(NamedModule::new("fc", Module::Linear { input: width, output: classes }));
    modules
}

/// Checks the sizes of hidden layers.
///
/// # Errors
/// What follows the key in a sentence.
pub fn check_hidden(architecture: Architecture, hidden: &[u32]) -> Result<(), String> {
    match architecture {
        Architecture::Mlp => {}
        Architecture::CnnS | Architecture::CnnM | Architecture::Resnet18 if hidden.is_empty() => {}
        Architecture::CnnS | Architecture::CnnM | Architecture::Resnet18 => {
            return Err(format!("is only valid for mlp, not {}", architecture.name()));
        }
    }
    if hidden.len() > 64 || !hidden.iter().all(|n| (1..=65_536).contains(n)) {
        return Err("must list at most 64 sizes from 1 to 65536".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hyperparameters;

    fn with(architecture: Architecture, dropout: f64) -> Hyperparameters {
        Hyperparameters { architecture, dropout, ..Hyperparameters::default() }
    }

    fn indices(architecture: Architecture, dropout: f64, input: [usize; 3]) -> (Vec<usize>, usize) {
        let network = with(architecture, dropout).network(input, 10).unwrap();
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
            let network = with(Architecture::Resnet18, 0.0).network([3, side, side], classes).unwrap();
            assert_eq!(network.state_len() - network.parameter_count(), 2 * 4800);
            network.parameter_count()
        };
        assert_eq!((count(32, 10), count(32, 100), count(64, 200)), (11_173_962, 11_220_132, 11_271_432));
        let network = with(Architecture::Resnet18, 0.0).network([3, 32, 32], 10).unwrap();
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
        let error = with(Architecture::CnnM, 0.0).network([3, 28, 28], 10).unwrap_err();
        assert!(error.to_string().contains("resize = 32"), "{error}");
    }

    #[test]
    fn names_are_those_of_manifests() {
        use Architecture::{CnnM, CnnS, Mlp, Resnet18};
        for architecture in [CnnS, CnnM, Resnet18, Mlp] {
            assert_eq!(architecture.name(), crate::hyperparameters::name_of(&architecture));
        }
        let error = with(Resnet18, 0.0).network([3, 32, 28], 10).unwrap_err().to_string();
        assert_eq!(
            error,
            "resnet18 requires images of equal height and width in pixels, these are 32x28: set `resize` or `center-crop` in [data] transform"
        );
    }

    #[test]
    fn residual_networks_halve_maps_between_stages_and_keep_them_within_blocks() {
        let network = with(Architecture::Resnet18, 0.0).network([3, 32, 32], 10).unwrap();
        let mut halved = Vec::new();
        for NamedModule { name, module } in network.modules() {
            let Module::Residual { body, shortcut } = module else { continue };
            for (part, first) in [("body", body.first()), ("shortcut", shortcut.first())] {
                match first.map(|m| &m.module) {
                    Some(Module::Conv2d { stride: 2, .. }) => halved.push(format!("{name}.{part}")),
                    Some(Module::Conv2d { stride, .. }) => assert_eq!(*stride, 1),
                    None => assert_eq!(part, "shortcut"),
                    other => panic!("{other:?}"),
                }
            }
            for NamedModule { name, module } in body.iter().chain(shortcut) {
                if let Module::Conv2d { kernel, padding, .. } = module {
                    assert_eq!(*padding, if *kernel == 3 { 1 } else { 0 }, "{name}");
                }
            }
        }
        let expected = [2, 3, 4].map(|stage| ["body", "shortcut"].map(|part| format!("layer{stage}.0.{part}")));
        assert_eq!(halved, expected.concat());
    }

    #[test]
    fn residual_networks_drop_before_the_last_layer_only_if_asked_to() {
        let last = |dropout| {
            let network = with(Architecture::Resnet18, dropout).network([3, 32, 32], 10).unwrap();
            let names: Vec<String> = network.modules().iter().rev().take(3).map(|m| m.name.clone()).collect();
            names
        };
        assert_eq!(last(0.0), ["fc", "flatten", "avgpool"]);
        assert_eq!(last(0.5), ["fc", "dropout", "flatten"]);
    }

    #[test]
    fn hidden_layers_are_limited() {
        let check = |hidden: &[u32]| check_hidden(Architecture::Mlp, hidden);
        assert!(check(&[1; 64]).is_ok() && check(&[65_536]).is_ok() && check(&[]).is_ok());
        for wrong in [&[1; 65][..], &[0], &[65_537], &[4, 0]] {
            assert_eq!(check(wrong).unwrap_err(), "must list at most 64 sizes from 1 to 65536");
        }
    }

    #[test]
    fn what_is_not_trained_comes_last_in_the_flat_vector() {
        let network = with(Architecture::Resnet18, 0.0).network([3, 32, 32], 7).unwrap();
        let trained = network.parameters().iter().take_while(|p| p.role.is_trained());
        assert_eq!(trained.last().unwrap().range.end, network.parameter_count());
        let names = network.parameters().iter().filter(|p| !p.role.is_trained()).map(|p| p.name.rsplit('.').next());
        assert!(names.clone().count() == 40 && names.flatten().all(|name| name.starts_with("running_")));
        let ends = network.parameters().windows(2).all(|p| p[0].range.end == p[1].range.start);
        assert!(ends && network.parameters()[0].range.start == 0);
        assert_eq!((network.input(), network.classes()), ([3, 32, 32], 7));
        let weights: usize = network.weights().map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(network.weight_count(), weights);
    }
}
