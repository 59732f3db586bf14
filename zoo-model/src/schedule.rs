//! Schedules of learning rate and momentum.

use serde::{Deserialize, Serialize};

/// How learning rate and momentum change from step to step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// They do not.
    #[default]
    Constant,
    /// PyTorch's OneCycleLR with its defaults (Smith and Topin 2017, arXiv 1708.07120); the learning
    /// rate of the hyperparameters is the largest.
    OneCycle,
}

impl Schedule {
    /// Whether nothing changes.
    pub fn is_constant(&self) -> bool {
        *self == Self::Constant
    }
}
