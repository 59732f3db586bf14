//! Magnitude pruning: remove the smallest weights, keep the biases; at once or along a [`Ramp`].

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use zoo_model::architecture::Role;
use zoo_model::Network;

/// What competes for being kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All weights of the network together.
    #[default]
    Global,
    /// The weights of each layer among themselves.
    Layer,
}

/// The mask of a flat parameter vector: `false` for the `round(sparsity * n)` smallest of `n`
/// weights by magnitude.
///
/// Of equal magnitudes the one that comes first is removed first; NaN counts as larger than any
/// number, so a diverged model loses its finite weights first. What is zero is removed in any case:
/// a weight that an earlier mask removed does not come back.
pub fn mask(network: &Network, parameters: &[f32], sparsity: f64, scope: Scope) -> Vec<bool> {
    let mut mask = vec![true; parameters.len()];
    let layers: Vec<Vec<usize>> = network.weights().map(|p| p.range.clone().collect()).collect();
    let groups = match scope {
        Scope::Global => vec![layers.concat()],
        Scope::Layer => layers,
    };
    for mut weights in groups {
        let zeros = weights.iter().filter(|&&w| parameters[w] == 0.0).count();
        let removed = zeros.max((sparsity * weights.len() as f64).round() as usize);
        weights.sort_by(|&a, &b| by_magnitude(parameters[a], parameters[b]).then(a.cmp(&b)));
        for &weight in weights.iter().take(removed) {
            mask[weight] = false;
        }
    }
    mask
}

fn by_magnitude(a: f32, b: f32) -> Ordering {
    // In the total order of absolute values, NaN comes after infinity.
    a.abs().total_cmp(&b.abs())
}

/// Iterative pruning: more weights are removed at the start of each of the first epochs, those with
/// the smallest magnitudes at that time.
///
/// The schedule is cubic (Zhu and Gupta 2017, arXiv 1710.01878, equation 1, from a dense model):
/// after the pruning before epoch t of n a share `sparsity * (1 - (1 - t / n)^3)` is removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Ramp {
    /// Share of the weights that is removed in the end.
    pub sparsity: f64,
    /// What competes for being kept.
    pub scope: Scope,
    /// Epochs that begin with a pruning.
    pub epochs: u32,
}

impl Ramp {
    /// The share that is removed during epoch `epoch` (from 1).
    pub fn sparsity_at(&self, epoch: u32) -> f64 {
        let left = 1.0 - f64::from(epoch.min(self.epochs)) / f64::from(self.epochs.max(1));
        self.sparsity * (1.0 - left * left * left)
    }

    /// The mask for epoch `epoch`, from the weights at its start. What an earlier mask removed is
    /// zero and stays removed, so that the mask is a function of the weights alone.
    pub fn mask(&self, network: &Network, parameters: &[f32], epoch: u32) -> Vec<bool> {
        mask(network, parameters, self.sparsity_at(epoch), self.scope)
    }
}

/// Zeroes what the mask removes.
pub fn apply(mask: &[bool], parameters: &mut [f32]) {
    for (parameter, &kept) in parameters.iter_mut().zip(mask) {
        if !kept {
            *parameter = 0.0;
        }
    }
}

/// Share of the weights (biases left out) that are zero.
pub fn sparsity_ratio(network: &Network, parameters: &[f32]) -> f64 {
    let weights = network.parameters().iter().filter(|p| p.role == Role::Weight);
    let zeros: usize = weights.map(|p| parameters[p.range.clone()].iter().filter(|&&w| w == 0.0).count()).sum();
    zeros as f64 / network.weight_count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zoo_model::Hyperparameters;

    fn network() -> Network {
        Hyperparameters::default().network([1, 28, 28], 10).unwrap()
    }

    fn parameters(seed: u32) -> Vec<f32> {
        let draw = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 1e7 - 0.8;
        (0..network().parameter_count()).map(draw).collect()
    }

    proptest! {
        #[test]
        fn the_smallest_weights_go_and_biases_stay(sparsity in 0.01f64..0.99, seed: u32, layer: bool) {
            let (network, parameters) = (network(), parameters(seed));
            let scope = if layer { Scope::Layer } else { Scope::Global };
            let mask = mask(&network, &parameters, sparsity, scope);
            for bias in network.parameters().iter().filter(|p| p.role == Role::Bias) {
                prop_assert!(mask[bias.range.clone()].iter().all(|&kept| kept));
            }
            let removed = |range: std::ops::Range<usize>| range.filter(|&i| !mask[i]).count();
            if layer {
                for p in network.weights() {
                    prop_assert_eq!(removed(p.range.clone()), (sparsity * p.range.len() as f64).round() as usize);
                }
            } else {
                let expected = (sparsity * network.weight_count() as f64).round() as usize;
                prop_assert_eq!(removed(0..mask.len()), expected);
                let weights: Vec<usize> = network.weights().flat_map(|p| p.range.clone()).collect();
                let mask = &mask;
                let side = |kept| weights.iter().filter(move |&&i| mask[i] == kept).map(|&i| parameters[i].abs());
                prop_assert!(side(false).fold(0.0, f32::max) <= side(true).fold(f32::MAX, f32::min));
            }
        }
    }

    #[test]
    fn a_ramp_removes_more_and_more_and_brings_nothing_back() {
        let network = network();
        let ramp = Ramp { sparsity: 0.8, scope: Scope::Global, epochs: 4 };
        let shares: Vec<f64> = (0..6).map(|epoch| ramp.sparsity_at(epoch)).collect();
        let expected = [0.0, 0.4625, 0.7, 0.7875, 0.8, 0.8];
        assert!(shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{shares:?}");
        let mut weights = parameters(1);
        let mut before = vec![true; weights.len()];
        for epoch in 1..=6 {
            let mask = ramp.mask(&network, &weights, epoch);
            assert!(mask.iter().zip(&before).all(|(now, before)| *before || !now), "epoch {epoch}");
            apply(&mask, &mut weights);
            let target = (ramp.sparsity_at(epoch) * network.weight_count() as f64).round();
            assert_eq!(sparsity_ratio(&network, &weights), target / network.weight_count() as f64);
            // What is left is trained on: large and small change places.
            let drift = parameters(epoch + 7);
            weights.iter_mut().zip(&drift).zip(&mask).filter(|(_, &kept)| kept).for_each(|((w, d), _)| *w += d);
            before = mask;
        }
    }

    #[test]
    fn ties_go_in_order_and_nan_stays_longest() {
        let network = network();
        let mut equal = vec![0.5; network.parameter_count()];
        equal[0] = f32::NAN;
        let mask = mask(&network, &equal, 0.1, Scope::Global);
        assert!(mask[0] && !mask[1] && !mask[2]);
        apply(&mask, &mut equal);
        let expected = (0.1 * network.weight_count() as f64).round() / network.weight_count() as f64;
        assert_eq!(sparsity_ratio(&network, &equal), expected);
    }

    #[test]
    fn what_is_zero_stays_removed_even_beyond_the_sparsity() {
        let network = network();
        let weights: Vec<usize> = network.weights().flat_map(|p| p.range.clone()).collect();
        let mut pruned = vec![0.5; network.parameter_count()];
        weights.iter().step_by(2).for_each(|&w| pruned[w] = 0.0);
        let mask = mask(&network, &pruned, 0.1, Scope::Global);
        assert!(weights.iter().all(|&w| mask[w] == (pruned[w] != 0.0)));
        assert_eq!(sparsity_ratio(&network, &pruned), weights.len().div_ceil(2) as f64 / weights.len() as f64);
    }

    #[test]
    fn a_ramp_of_no_epochs_removes_nothing() {
        let ramp = Ramp { sparsity: 0.8, scope: Scope::Layer, epochs: 0 };
        assert_eq!([0, 1].map(|epoch| ramp.sparsity_at(epoch)), [0.0; 2]);
    }
}
