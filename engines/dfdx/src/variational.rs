//! Layers with variational dropout; see [`variational`](zoo_engine::variational).

use dfdx::prelude::*;
use zoo_model::Hyperparameters;

use super::backend::{Backend, Real};
use super::ops::{sum, Matrix};
use crate::random::DropoutKey;
use zoo_engine::optimizer::OptimizerState;
use zoo_engine::variational::{initial_log_sigma2, kl_gradient, noise, NoiseKey, VARIANCE_FLOOR};
use zoo_engine::{Snapshot, Task};

/// The noise of a model's weights in training.
pub struct Noise<D: Backend> {
    /// Log sigma^2, flat.
    pub log_sigma2: Vec<Real>,
    /// Its optimiser: the weights', but without weight decay.
    pub optimizer: OptimizerState,
    /// Sigma^2 as matrices, one a trained tensor and laid out like it.
    pub sigma2: Vec<Matrix<D>>,
}

impl<D: Backend> Noise<D> {
    /// Before the first step, or from a snapshot.
    pub fn new(task: &Task, from: Option<&Snapshot>, sigma2: Vec<Matrix<D>>, samples: usize) -> Self {
        let undecayed = Hyperparameters { weight_decay: 0.0, ..task.hyperparameters.clone() };
        let mut log_sigma2 = initial_log_sigma2(&task.network);
        let mut optimizer = OptimizerState::new(&undecayed, log_sigma2.len(), samples);
        if let Some(snapshot) = from {
            optimizer.step = snapshot.step;
            let noise = snapshot.noise.as_ref().expect("a snapshot of a model with noise");
            optimizer.moments.clone_from(&noise.moments);
            log_sigma2.clone_from(&noise.log_sigma2);
        }
        Self { log_sigma2, optimizer, sigma2 }
    }

    /// One optimiser step of log sigma^2 along the gradient of the whole loss, given that of the
    /// cross entropy by sigma^2. Adds the divergence's gradient by the weights to `gradient`.
    pub fn step(&mut self, weights: &[Real], gradient: &mut [Real], by_sigma2: &[Real], kl_weight: Real) {
        let mut by_log_sigma2 = vec![0.0; weights.len()];
        for (i, by_log_sigma2) in by_log_sigma2.iter_mut().enumerate() {
            let [of_weight, of_noise] = kl_gradient(weights[i], self.log_sigma2[i]);
            gradient[i] += kl_weight * of_weight;
            *by_log_sigma2 = by_sigma2[i] * libm::exp(self.log_sigma2[i]) + kl_weight * of_noise;
        }
        self.optimizer.step(&mut self.log_sigma2, &by_log_sigma2, None);
    }
}

/// `product(x, W)` plus noise of variance `product(x^2, S)` for the variances S of the weights; `draw`
/// gives one draw a sum, for a shape.
pub fn noisy<D: Backend, T: Tape<Real, D>>(
    x: Matrix<D, T>,
    weight: &Matrix<D>,
    sigma2: &Matrix<D>,
    product: impl Fn(Matrix<D, T>, &Matrix<D>) -> Matrix<D, T>,
    draw: impl FnOnce([usize; 2]) -> Matrix<D>,
) -> Matrix<D, T> {
    let variance = product(x.with_empty_tape().square(), sigma2);
    let deviation = (variance + VARIANCE_FLOOR).sqrt();
    let (rows, channels) = *deviation.shape();
    sum(product(x, weight), deviation * draw([rows, channels]))
}

/// The draws of a mini-batch's sums in a layer: (batch * positions, channels), values.
pub fn draws(key: DropoutKey, layer: u8, batch: usize, sums: usize) -> Vec<Real> {
    let key = NoiseKey { seed: key.seed, layer, epoch: key.epoch, step: key.step };
    (0..batch).flat_map(|sample| noise(key, sample, sums)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product<T: Tape<Real, Cpu>>(x: Matrix<Cpu, T>, weight: &Matrix<Cpu>) -> Matrix<Cpu, T> {
        x.matmul(weight.clone().permute::<_, Axes2<1, 0>>())
    }

    /// Gradients of sum(noisy(x) * weights) by x, W and sigma^2.
    #[test]
    fn gradients_match_finite_differences() {
        let device = Cpu::default();
        let (n, k, m) = (4, 3, 2);
        let sizes = [n * k, m * k, m * k];
        let values: Vec<Vec<Real>> = sizes
            .iter()
            .enumerate()
            .map(|(t, &size)| (0..size).map(|i| ((i * 37 + t * 11) % 23) as Real / 12.0 - 0.9).collect())
            .collect();
        let draws: Vec<Real> = (0..n * m).map(|i| (i as Real * 1.7).sin()).collect();
        let output = |i: usize| ((i * 7 % 13) as Real - 6.0) / 3.0;
        let tensors = |values: &[Vec<Real>]| -> [Matrix<Cpu>; 3] {
            let shapes = [(n, k), (m, k), (m, k)];
            std::array::from_fn(|t| {
                // Variances are positive.
                let of = |v: &Real| if t == 2 { v * v + 0.1 } else { *v };
                device.tensor_from_vec(values[t].iter().map(of).collect(), shapes[t])
            })
        };
        let weights: Matrix<Cpu> = device.tensor_from_vec((0..n * m).map(output).collect(), (n, m));
        let draws: Matrix<Cpu> = device.tensor_from_vec(draws, (n, m));
        let loss = |values: &[Vec<Real>]| {
            let [x, w, s] = tensors(values);
            (noisy(x, &w, &s, product, |_| draws.clone()) * weights.clone()).sum::<Rank0, _>().array()
        };
        let [x, w, s] = tensors(&values);
        let y = noisy(x.leaky_trace(), &w, &s, product, |_| draws.clone());
        let gradients = (y * weights.clone()).sum::<Rank0, _>().backward();
        for (t, tensor) in [&x, &w, &s].into_iter().enumerate() {
            let found = gradients.get(tensor).as_vec();
            for i in 0..sizes[t] {
                let moved = |step: Real| {
                    let mut moved = values.clone();
                    moved[t][i] += step;
                    loss(&moved)
                };
                let chain = if t == 2 { 2.0 * values[t][i] } else { 1.0 };
                let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((found[i] * chain - expected).abs() < 1e-6, "tensor {t}, {i}: {} {expected}", found[i] * chain);
            }
        }
    }
}
