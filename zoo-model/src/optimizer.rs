//! Optimisers.

use serde::{Deserialize, Serialize};

/// Optimisers, with PyTorch's semantics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam, beta 0.9 / 0.999, eps 1e-8, weight decay as L2 added to the gradient.
    Adam,
    /// Stochastic gradient descent with momentum, no dampening, weight decay as L2.
    Sgd,
}
