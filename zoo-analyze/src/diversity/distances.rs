//! Spread of weights: distances and angles between the last states of models.

use rayon::prelude::*;
use serde::Serialize;

use super::Distribution;

/// Pairs of models compared by their last states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightDistances {
    /// Models compared.
    pub models: usize,
    /// Euclidean distances of all pairs.
    pub l2: Distribution,
    /// Cosines of all pairs.
    pub cosine: Distribution,
}

/// Compares all pairs of states; `None` if there are fewer than two.
pub(super) fn weight_distances(states: &[Vec<f32>]) -> Option<WeightDistances> {
    let squares: Vec<f64> = states.par_iter().map(|s| dot(s, s)).collect();
    let compare = |&(i, j): &(usize, usize)| {
        let product = dot(&states[i], &states[j]);
        let l2 = (squares[i] + squares[j] - 2.0 * product).max(0.0).sqrt();
        (l2, product / (squares[i] * squares[j]).sqrt())
    };
    let (l2, cosine): (Vec<f64>, Vec<f64>) = pairs(states.len()).par_iter().map(compare).unzip();
    Some(WeightDistances { models: states.len(), l2: Distribution::of(l2)?, cosine: Distribution::of(cosine)? })
}

/// All pairs of `n` things.
pub(super) fn pairs(n: usize) -> Vec<(usize, usize)> {
    (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).collect()
}

/// The inner product of two vectors, in an order that does not depend on the machine.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Eight sums, so that the compiler can use vectors; their order is fixed.
    let mut sums = [0.0f64; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 =
        a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_cosines_are_those_of_all_pairs() {
        let found = weight_distances(&[vec![3.0, 0.0], vec![0.0, 4.0], vec![6.0, 0.0]]).unwrap();
        assert_eq!((found.models, found.l2.count), (3, 3));
        let expected = (5.0 + 3.0 + 52f64.sqrt()) / 3.0;
        assert!((found.l2.mean - expected).abs() < 1e-12 && (found.cosine.mean - 1.0 / 3.0).abs() < 1e-12);
    }
}
