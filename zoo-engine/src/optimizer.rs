//! Adam and SGD on flat f64 parameter vectors, with PyTorch's semantics and order of operations.

use zoo_model::{Hyperparameters, Optimizer, Schedule};

use crate::schedule::{rates, Rates};

/// What Adam's mean of gradients and the root of the mean square are divided by at step `step` (from
/// 1), to correct for the bias of the first steps.
///
/// The powers are `libm`'s, whose bits are the same on every platform.
pub fn adam_corrections(beta1: f64, step: u64) -> (f64, f64) {
    let bias = |beta: f64| 1.0 - libm::pow(beta, step as f64);
    (bias(beta1), bias(BETA2).sqrt())
}

/// Adam's step size, corrected for the bias of the mean, and what divides the root of the mean
/// square; see [`adam_corrections`].
pub fn adam_rates(learning_rate: f64, beta1: f64, step: u64) -> (f64, f64) {
    let (mean, square) = adam_corrections(beta1, step);
    (learning_rate / mean, square)
}

/// An optimiser and its moments: one vector for SGD, two for Adam.
#[derive(Debug, Clone)]
pub struct OptimizerState {
    kind: Optimizer,
    base: Rates,
    schedule: Schedule,
    total_steps: u64,
    weight_decay: f64,
    /// Steps taken.
    pub step: u64,
    /// See [`moment_count`].
    pub moments: Vec<Vec<f64>>,
}

/// Decay of Adam's mean of gradients.
pub const BETA1: f64 = 0.9;
/// Decay of Adam's mean of squared gradients.
pub const BETA2: f64 = 0.999;
/// What Adam adds to the root of the mean square.
pub const EPSILON: f64 = 1e-8;

/// Vectors of moments that an optimiser keeps, each with a value a parameter. Adam: means of
/// gradients and of their squares. SGD: momentum buffer.
pub fn moment_count(optimizer: Optimizer) -> usize {
    match optimizer {
        Optimizer::Adam => 2,
        Optimizer::Sgd => 1,
    }
}

impl OptimizerState {
    /// Fresh moments for so many parameters, to be trained on so many samples an epoch.
    pub fn new(h: &Hyperparameters, parameters: usize, samples: usize) -> Self {
        let momentum = match h.optimizer {
            Optimizer::Adam => BETA1,
            Optimizer::Sgd => h.momentum,
        };
        Self {
            kind: h.optimizer,
            base: Rates { learning_rate: h.learning_rate, momentum },
            schedule: h.schedule,
            total_steps: u64::from(h.epochs) * samples.div_ceil(h.batch_size) as u64,
            weight_decay: h.weight_decay,
            step: 0,
            moments: vec![vec![0.0; parameters]; moment_count(h.optimizer)],
        }
    }

    /// One step along `gradient`. Where `mask` is false the parameter is zero and stays so.
    pub fn step(&mut self, parameters: &mut [f64], gradient: &[f64], mask: Option<&[bool]>) {
        let Rates { learning_rate, momentum } = rates(self.schedule, self.base, self.step, self.total_steps);
        self.step += 1;
        let weight_decay = self.weight_decay;
        let kept = |i: usize| mask.is_none_or(|m| m[i]);
        match self.kind {
            Optimizer::Adam => {
                let [mean, square] = self.moments.as_mut_slice() else { unreachable!("Adam has two moments") };
                let (step_size, correction) = adam_rates(learning_rate, momentum, self.step);
                for i in 0..parameters.len() {
                    if !kept(i) {
                        parameters[i] = 0.0;
                        continue;
                    }
                    let g = gradient[i] + weight_decay * parameters[i];
                    mean[i] += (g - mean[i]) * (1.0 - momentum);
                    square[i] = square[i] * BETA2 + (1.0 - BETA2) * g * g;
                    parameters[i] -= step_size * (mean[i] / (square[i].sqrt() / correction + EPSILON));
                }
            }
            Optimizer::Sgd => {
                let [buffer] = self.moments.as_mut_slice() else { unreachable!("SGD has one moment") };
                for i in 0..parameters.len() {
                    if !kept(i) {
                        parameters[i] = 0.0;
                        continue;
                    }
                    let g = gradient[i] + weight_decay * parameters[i];
                    buffer[i] = momentum * buffer[i] + g;
                    parameters[i] -= learning_rate * buffer[i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hyperparameters(optimizer: Optimizer) -> Hyperparameters {
        Hyperparameters { optimizer, learning_rate: 0.1, momentum: 0.9, ..Hyperparameters::default() }
    }

    #[test]
    fn adams_first_step_is_the_learning_rate_and_sgd_gathers_momentum() {
        let mut adam = OptimizerState::new(&hyperparameters(Optimizer::Adam), 2, 1);
        let mut p = [1.0, 1.0];
        adam.step(&mut p, &[5.0, -0.001], None);
        assert!((p[0] - 0.9).abs() < 1e-6 && (p[1] - 1.1).abs() < 1e-5, "{p:?}");

        let mut sgd = OptimizerState::new(&hyperparameters(Optimizer::Sgd), 1, 1);
        let mut p = [0.0];
        sgd.step(&mut p, &[1.0], None);
        sgd.step(&mut p, &[1.0], None);
        assert!((p[0] + 0.1 + 0.19).abs() < 1e-6);
    }

    #[test]
    fn masked_parameters_stay_zero_even_when_the_gradient_is_not_finite() {
        for optimizer in [Optimizer::Adam, Optimizer::Sgd] {
            let mut state = OptimizerState::new(&hyperparameters(optimizer), 2, 1);
            let mut p = [0.0, 1.0];
            state.step(&mut p, &[f64::NAN, 1.0], Some(&[false, true]));
            assert_eq!(p[0].to_bits(), 0);
            assert!(p[1] < 1.0);
        }
    }
}
