//! Activation functions.

use serde::{Deserialize, Serialize};

/// Element-wise activation functions, with PyTorch's definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// max(0, x).
    Relu,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// Exact GELU: x / 2 (1 + erf(x / sqrt 2)).
    Gelu,
    /// x for positive x, 0.01 x otherwise.
    #[serde(alias = "leaky-relu", alias = "leaky_relu")]
    LeakyRelu,
    /// x sigmoid(x).
    Silu,
}
