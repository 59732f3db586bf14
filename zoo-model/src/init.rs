//! Initial weights: PyTorch's `nn.init` functions, drawn from our generator.

use serde::{Deserialize, Serialize};

use crate::architecture::{Network, Role};
use crate::random::{Purpose, Stream};

/// Initialisations of weights; every bias starts at 0.01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// U(0, 1).
    Uniform,
    /// N(0, 1).
    Normal,
    /// U(-b, b), b = sqrt(6 / fan_in).
    KaimingUniform,
    /// N(0, 2 / fan_in).
    KaimingNormal,
    /// U(-b, b), b = sqrt(6 / (fan_in + fan_out)).
    XavierUniform,
    /// N(0, 2 / (fan_in + fan_out)).
    XavierNormal,
}

/// Every bias of a convolution or linear layer starts here, as in the published zoos.
pub const INITIAL_BIAS: f32 = 0.01;

/// The flat vector that a model of this seed starts from. Batch normalisations start as the
/// identity, as in PyTorch.
pub fn initial_parameters(network: &Network, init: Init, seed: u64) -> Vec<f32> {
    let mut flat = vec![0.0; network.state_len()];
    for (index, parameter) in network.parameters().iter().enumerate() {
        let constant = match parameter.role {
            Role::Weight => None,
            Role::Bias => Some(INITIAL_BIAS),
            Role::Scale | Role::RunningVar => Some(1.0),
            Role::Shift | Role::RunningMean => Some(0.0),
        };
        if let Some(constant) = constant {
            flat[parameter.range.clone()].fill(constant);
            continue;
        }
        let receptive: usize = parameter.shape[2..].iter().product();
        let fan_in = (parameter.shape[1] * receptive) as f64;
        let fan_out = (parameter.shape[0] * receptive) as f64;
        let mut stream = Stream::new(seed, Purpose::Init, 0, index as u32);
        let weights = &mut flat[parameter.range.clone()];
        match init {
            Init::Uniform => uniform(weights, 0.0, 1.0, &mut stream),
            Init::Normal => normal(weights, 1.0, &mut stream),
            Init::KaimingUniform => symmetric(weights, (6.0 / fan_in).sqrt(), &mut stream),
            Init::KaimingNormal => normal(weights, (2.0 / fan_in).sqrt(), &mut stream),
            Init::XavierUniform => symmetric(weights, (6.0 / (fan_in + fan_out)).sqrt(), &mut stream),
            Init::XavierNormal => normal(weights, (2.0 / (fan_in + fan_out)).sqrt(), &mut stream),
        }
    }
    flat
}

fn uniform(weights: &mut [f32], low: f64, high: f64, stream: &mut Stream) {
    weights.fill_with(|| (low + (high - low) * stream.uniform()) as f32);
}

fn symmetric(weights: &mut [f32], bound: f64, stream: &mut Stream) {
    uniform(weights, -bound, bound, stream);
}

fn normal(weights: &mut [f32], deviation: f64, stream: &mut Stream) {
    for pair in weights.chunks_mut(2) {
        for (weight, draw) in pair.iter_mut().zip(stream.normal_pair()) {
            *weight = (deviation * draw) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, Hyperparameters};

    #[test]
    fn initialisations_have_their_ranges_and_deviations() {
        let medium = Hyperparameters { architecture: Architecture::CnnM, ..Hyperparameters::default() };
        let network = medium.network([3, 32, 32], 10).unwrap();
        let layer = &network.parameters()[2]; // (32, 16, 3, 3): fan_in 144, fan_out 288
        let draw = |init| initial_parameters(&network, init, 5)[layer.range.clone()].to_vec();
        let bounds = |w: &[f32]| w.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        let deviation = |w: &[f32]| (w.iter().map(|x| x * x).sum::<f32>() / w.len() as f32).sqrt();

        let (low, high) = bounds(&draw(Init::Uniform));
        assert!((0.0..0.01).contains(&low) && (0.99..1.0).contains(&high));
        assert!((deviation(&draw(Init::Normal)) - 1.0).abs() < 0.03);
        let (low, high) = bounds(&draw(Init::KaimingUniform));
        let bound = (6f32 / 144.0).sqrt();
        assert!(low >= -bound && high <= bound && high > 0.98 * bound && low < -0.98 * bound);
        assert!((deviation(&draw(Init::KaimingNormal)) / (2f32 / 144.0).sqrt() - 1.0).abs() < 0.03);
        let (_, high) = bounds(&draw(Init::XavierUniform));
        assert!((high / (6f32 / 432.0).sqrt() - 1.0).abs() < 0.02);
        assert!((deviation(&draw(Init::XavierNormal)) / (2f32 / 432.0).sqrt() - 1.0).abs() < 0.03);
        assert_eq!(initial_parameters(&network, Init::Normal, 5)[network.parameters()[1].range.start], INITIAL_BIAS);
    }
}
