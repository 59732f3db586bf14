//! A model between two epochs, or two parts of one.

use crate::optimizer::Moments;
use crate::variational;

/// A model in the middle of its training, between two epochs or two parts of one. Vectors are flat, in
/// the order of the network's parameters and in the engine's full precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimiser steps taken.
    pub step: u64,
    /// The state.
    pub parameters: Vec<f64>,
    /// The optimiser's moments, a value for every trained parameter.
    pub moments: Moments,
    /// With variational dropout.
    pub noise: Option<NoiseSnapshot>,
}

/// The noise of a model's weights in variational dropout.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSnapshot {
    /// Log sigma^2 of every trained parameter.
    pub log_sigma2: Vec<f64>,
    /// Its optimiser's moments.
    pub moments: Moments,
}

impl Snapshot {
    /// The state that a zoo keeps: parameters rounded to f32, and zero what variational dropout
    /// removes.
    pub fn state(&self) -> Vec<f32> {
        let mut state: Vec<f32> = self.parameters.iter().map(|&p| p as f32).collect();
        for (i, log_sigma2) in self.noise.iter().flat_map(|noise| &noise.log_sigma2).enumerate() {
            if !variational::is_kept(self.parameters[i], *log_sigma2) {
                state[i] = 0.0;
            }
        }
        state
    }

    /// All vectors with their names, of which no two are equal: `parameters`, `moments.mean`, ...,
    /// `noise.log_sigma2`, `noise.moments.mean`, ...
    pub fn vectors(&self) -> Vec<(String, &Vec<f64>)> {
        let mut vectors = vec![("parameters".to_owned(), &self.parameters)];
        vectors.extend(self.moments.named().into_iter().map(|(name, v)| (format!("moments.{name}"), v)));
        if let Some(noise) = &self.noise {
            vectors.push(("noise.log_sigma2".to_owned(), &noise.log_sigma2));
            let of_noise = noise.moments.named().into_iter();
            vectors.extend(of_noise.map(|(name, v)| (format!("noise.moments.{name}"), v)));
        }
        vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let moments = |v: f64| Moments::Adam { mean: vec![v; 2], mean_square: vec![v + 1.0; 2] };
        let noise = NoiseSnapshot { log_sigma2: vec![variational::NO_NOISE, 0.0], moments: moments(3.0) };
        Snapshot { step: 7, parameters: vec![0.1, 0.2, 0.3], moments: moments(1.0), noise: Some(noise) }
    }

    #[test]
    fn states_are_without_what_is_all_noise() {
        assert_eq!(Snapshot { noise: None, ..snapshot() }.state(), [0.1f32, 0.2, 0.3]);
        assert_eq!(snapshot().state(), [0.1f32, 0.0, 0.3]);
    }

    #[test]
    fn every_vector_has_a_name_of_its_own() {
        let snapshot = snapshot();
        let vectors: Vec<(String, f64)> = snapshot.vectors().into_iter().map(|(name, v)| (name, v[0])).collect();
        let expected = [
            ("parameters", 0.1),
            ("moments.mean", 1.0),
            ("moments.mean_square", 2.0),
            ("noise.log_sigma2", variational::NO_NOISE),
            ("noise.moments.mean", 3.0),
            ("noise.moments.mean_square", 4.0),
        ];
        assert_eq!(vectors, expected.map(|(name, first)| (name.to_owned(), first)));
        assert_eq!(Snapshot { noise: None, ..snapshot }.vectors().len(), 3);
    }
}
