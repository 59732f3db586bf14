//! One model's hyperparameters.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::activation::Activation;
use crate::architecture::{Architecture, GeometryError, Network, NetworkOptions};
use crate::augmentation::Augmentation;
use crate::init::Init;
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;

/// Everything, besides the data, that a model's bits depend on.
///
/// The default is the published seed zoo of MNIST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Family of networks.
    #[serde(rename = "model::type")]
    pub architecture: Architecture,
    /// Sizes of the hidden layers of an `mlp`; other architectures have their own.
    #[serde(rename = "model::hidden", default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<u32>,
    /// Activation function.
    #[serde(rename = "model::nlin")]
    pub activation: Activation,
    /// Initialisation of the weights.
    #[serde(rename = "model::init_type")]
    pub init: Init,
    /// Probability of dropping a unit, in [0, 1).
    #[serde(rename = "model::dropout")]
    pub dropout: f64,
    /// Optimiser.
    #[serde(rename = "optim::optimizer")]
    pub optimizer: Optimizer,
    /// Learning rate.
    #[serde(rename = "optim::lr")]
    pub learning_rate: f64,
    /// Weight decay.
    #[serde(rename = "optim::wd")]
    pub weight_decay: f64,
    /// Momentum of SGD; 0 with Adam.
    #[serde(rename = "optim::momentum")]
    pub momentum: f64,
    /// Schedule of learning rate and momentum.
    #[serde(rename = "optim::scheduler", default, skip_serializing_if = "Schedule::is_constant")]
    pub schedule: Schedule,
    /// Random changes of the training images.
    #[serde(rename = "training::augment", default, skip_serializing_if = "Augmentation::is_none")]
    pub augmentation: Augmentation,
    /// Samples per step; an epoch's last batch may be smaller.
    #[serde(rename = "training::batchsize")]
    pub batch_size: usize,
    /// Epochs trained.
    #[serde(rename = "training::epochs_train")]
    pub epochs: u32,
    /// Seed of every random draw.
    pub seed: u64,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            architecture: Architecture::CnnS,
            hidden: Vec::new(),
            activation: Activation::Tanh,
            init: Init::Uniform,
            dropout: 0.0,
            optimizer: Optimizer::Adam,
            learning_rate: 3e-4,
            weight_decay: 0.0,
            momentum: 0.0,
            schedule: Schedule::Constant,
            augmentation: Augmentation::NONE,
            batch_size: 10,
            epochs: 50,
            seed: 1,
        }
    }
}

impl Hyperparameters {
    /// The network for images of shape (channels, height, width) and the given number of classes.
    ///
    /// # Errors
    /// The architecture takes images of another size.
    pub fn network(&self, input: [usize; 3], classes: usize) -> Result<Network, GeometryError> {
        let options = NetworkOptions { hidden: &self.hidden, activation: self.activation, dropout: self.dropout };
        self.architecture.network(options, input, classes)
    }
}

/// Serialised name of a unit enum variant, as manifests and `params.json` write it.
pub fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        other => unreachable!("not a plain name: {other:?}"),
    }
}
