//! A model between two epochs.

use crate::variational;

/// A model in the middle of its training, between two epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimiser steps taken.
    pub step: u64,
    /// Flat vector of the state, in the engine's full precision.
    pub parameters: Vec<f64>,
    /// The optimiser's moments; with variational dropout, those of log sigma^2 follow.
    pub moments: Vec<Vec<f64>>,
    /// Log sigma^2 of every parameter, with variational dropout.
    pub log_sigma2: Option<Vec<f64>>,
}

impl Snapshot {
    /// The state that a zoo keeps: parameters rounded to f32, and zero what variational dropout
    /// removes.
    pub fn state(&self) -> Vec<f32> {
        let mut state: Vec<f32> = self.parameters.iter().map(|&p| p as f32).collect();
        for (i, log_sigma2) in self.log_sigma2.iter().flatten().enumerate() {
            if !variational::is_kept(self.parameters[i], *log_sigma2) {
                state[i] = 0.0;
            }
        }
        state
    }
}
