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

/// An optimiser and its moments.
#[derive(Debug, Clone)]
pub struct OptimizerState {
    base: Rates,
    schedule: Schedule,
    total_steps: u64,
    weight_decay: f64,
    /// Steps taken.
    pub step: u64,
    /// Moments.
    pub moments: Moments,
}

/// Decay of Adam's mean of gradients.
pub const BETA1: f64 = 0.9;
/// Decay of Adam's mean of squared gradients.
pub const BETA2: f64 = 0.999;
/// What Adam adds to the root of the mean square.
pub const EPSILON: f64 = 1e-8;

/// An optimiser's moments, each a vector `V` of one value per trained parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Moments<V = Vec<f64>> {
    /// Adam's.
    Adam {
        /// Running mean of the gradients.
        mean: V,
        /// Running mean of their squares.
        mean_square: V,
    },
    /// SGD's.
    Sgd {
        /// Momentum buffer.
        momentum: V,
    },
}

impl<V> Moments<V> {
    /// The moments of an optimiser, each made by `make` from its name; `None` if one cannot be made.
    pub fn try_new(optimizer: Optimizer, mut make: impl FnMut(&'static str) -> Option<V>) -> Option<Self> {
        Some(match optimizer {
            Optimizer::Adam => Self::Adam { mean: make("mean")?, mean_square: make("mean_square")? },
            Optimizer::Sgd => Self::Sgd { momentum: make("momentum")? },
        })
    }

    /// The moments of an optimiser, each made by `make` from its name.
    pub fn new(optimizer: Optimizer, mut make: impl FnMut(&'static str) -> V) -> Self {
        Self::try_new(optimizer, |name| Some(make(name))).expect("each is made")
    }

    /// The same vector for every moment of an optimiser: zeros before the first step.
    pub fn filled(optimizer: Optimizer, vector: V) -> Self
    where
        V: Clone,
    {
        Self::new(optimizer, |_| vector.clone())
    }

    /// The moment of this name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.named().into_iter().find(|(known, _)| *known == name).map(|(_, moment)| moment)
    }

    /// The optimiser that they are of.
    pub fn optimizer(&self) -> Optimizer {
        match self {
            Self::Adam { .. } => Optimizer::Adam,
            Self::Sgd { .. } => Optimizer::Sgd,
        }
    }

    /// Each moment with its name, in the order in which [`new`](Self::new) makes them.
    pub fn named(&self) -> Vec<(&'static str, &V)> {
        match self {
            Self::Adam { mean, mean_square } => vec![("mean", mean), ("mean_square", mean_square)],
            Self::Sgd { momentum } => vec![("momentum", momentum)],
        }
    }

    /// The moments of which each is `change` of one of these.
    pub fn map<W>(&self, mut change: impl FnMut(&V) -> W) -> Moments<W> {
        match self {
            Self::Adam { mean, mean_square } => Moments::Adam { mean: change(mean), mean_square: change(mean_square) },
            Self::Sgd { momentum } => Moments::Sgd { momentum: change(momentum) },
        }
    }
}

/// Vectors of moments that an optimiser keeps.
pub fn moment_count(optimizer: Optimizer) -> usize {
    Moments::filled(optimizer, ()).named().len()
}

/// The rates of a model without a schedule.
pub fn base_rates(h: &Hyperparameters) -> Rates {
    let momentum = match h.optimizer {
        Optimizer::Adam => BETA1,
        Optimizer::Sgd => h.momentum,
    };
    Rates { learning_rate: h.learning_rate, momentum }
}

/// Steps of all of a model's epochs, with the given number of samples per epoch.
pub fn total_steps(h: &Hyperparameters, samples: usize) -> u64 {
    u64::from(h.epochs) * samples.div_ceil(h.batch_size) as u64
}

impl OptimizerState {
    /// Fresh moments for the given number of parameters, to be trained on the given number of samples
    /// per epoch.
    pub fn new(h: &Hyperparameters, parameters: usize, samples: usize) -> Self {
        Self {
            base: base_rates(h),
            schedule: h.schedule,
            total_steps: total_steps(h, samples),
            weight_decay: h.weight_decay,
            step: 0,
            moments: Moments::filled(h.optimizer, vec![0.0; parameters]),
        }
    }

    /// One step along `gradient`. Where `mask` is false the parameter is zero and stays so.
    pub fn step(&mut self, parameters: &mut [f64], gradient: &[f64], mask: Option<&[bool]>) {
        let Rates { learning_rate, momentum } = rates(self.schedule, self.base, self.step, self.total_steps);
        self.step += 1;
        let weight_decay = self.weight_decay;
        let kept = |i: usize| mask.is_none_or(|m| m[i]);
        match &mut self.moments {
            Moments::Adam { mean, mean_square } => {
                let (step_size, correction) = adam_rates(learning_rate, momentum, self.step);
                for i in 0..parameters.len() {
                    if !kept(i) {
                        parameters[i] = 0.0;
                        continue;
                    }
                    let g = gradient[i] + weight_decay * parameters[i];
                    mean[i] += (g - mean[i]) * (1.0 - momentum);
                    mean_square[i] = mean_square[i] * BETA2 + (1.0 - BETA2) * g * g;
                    parameters[i] -= step_size * (mean[i] / (mean_square[i].sqrt() / correction + EPSILON));
                }
            }
            Moments::Sgd { momentum: buffer } => {
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

    #[test]
    fn steps_with_weight_decay_are_pytorchs() {
        // PyTorch 1.13 in f64: learning rate 0.1, weight decay 0.01, from 1 along three gradients.
        for (optimizer, expected) in [
            (Optimizer::Adam, [0.900_000_001_960_784_2, 0.871_229_347_623_174_2, 0.803_715_217_151_044_5]),
            (Optimizer::Sgd, [0.949, 0.927_151, 0.706_559_749]),
        ] {
            let hyperparameters = Hyperparameters { weight_decay: 0.01, ..hyperparameters(optimizer) };
            let mut state = OptimizerState::new(&hyperparameters, 1, 1);
            let mut p = [1.0];
            for (gradient, expected) in [0.5, -0.25, 2.0].into_iter().zip(expected) {
                state.step(&mut p, &[gradient], None);
                assert!((p[0] - expected).abs() < 1e-12, "{optimizer:?} {p:?} {expected}");
            }
            assert_eq!(state.step, 3);
        }
    }

    #[test]
    fn a_cycle_lasts_all_steps_of_all_epochs() {
        let hyperparameters = Hyperparameters {
            schedule: Schedule::OneCycle,
            epochs: 2,
            batch_size: 10,
            ..hyperparameters(Optimizer::Sgd)
        };
        for (step, rate) in [(0, 0.004), (5, 4e-7)] {
            let mut state = OptimizerState { step, ..OptimizerState::new(&hyperparameters, 1, 25) };
            let mut p = [0.0];
            state.step(&mut p, &[1.0], None);
            assert!((p[0] + rate).abs() < 1e-12, "step {step} of 6: {p:?}");
        }
    }

    #[test]
    fn moments_are_known_by_their_names() {
        for (optimizer, names) in [(Optimizer::Adam, &["mean", "mean_square"][..]), (Optimizer::Sgd, &["momentum"][..])]
        {
            let moments = Moments::new(optimizer, |name| name);
            assert_eq!(moments.optimizer(), optimizer);
            assert_eq!(moments.named(), names.iter().map(|name| (*name, name)).collect::<Vec<_>>());
            assert!(names.iter().all(|name| moments.get(name) == Some(name)) && moments.get("variance").is_none());
            assert_eq!(moments.map(|name| name.len()), Moments::new(optimizer, str::len));
            assert_eq!(moment_count(optimizer), names.len());
            for missing in names {
                assert_eq!(Moments::try_new(optimizer, |name| (name != *missing).then_some(())), None);
            }
        }
    }
}
