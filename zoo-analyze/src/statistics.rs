//! Layer statistics s(w): what a state looks like, in a few numbers per layer.
//!
//! Unterthiner et al., "Predicting Neural Network Accuracy from Weights" (2020): of every layer,
//! weights and biases apart, mean, variance (over all values, not the sample's) and the 1, 25, 50,
//! 75 and 99 percentiles (linear interpolation, as NumPy's default).

use rayon::prelude::*;
use zoo_model::Network;

use crate::zoo_reader::Model;

/// The statistics of one tensor, in this order.
pub const STATISTICS: [&str; 7] = ["mean", "var", "q1", "q25", "q50", "q75", "q99"];

const QUANTILES: [f64; 5] = [0.01, 0.25, 0.5, 0.75, 0.99];

/// Labels of the tensors that statistics are taken of, in order: `1.weight`, `1.bias`, ... by the
/// number of the layer, so that they are the same with and without dropout.
pub fn tensor_names(network: &Network) -> Vec<String> {
    let mut layer = 0;
    let mut last = "";
    let trained = network.parameters().iter().filter(|p| p.role.is_trained());
    trained
        .map(|p| {
            let (module, kind) = p.name.rsplit_once('.').unwrap_or(("", &p.name));
            if module != last || layer == 0 {
                layer += 1;
                last = module;
            }
            format!("{layer}.{kind}")
        })
        .collect()
}

/// Length of s(w).
pub fn count(network: &Network) -> usize {
    network.parameters().iter().filter(|p| p.role.is_trained()).count() * STATISTICS.len()
}

/// s(w) of a state, tensor by tensor.
pub fn statistics(network: &Network, state: &[f32]) -> Vec<f64> {
    let trained = network.parameters().iter().filter(|p| p.role.is_trained());
    trained.flat_map(|p| of_values(&state[p.range.clone()])).collect()
}

/// s(w) of every state of a model.
pub fn all_statistics(model: &Model) -> Vec<Vec<f64>> {
    model.states.par_iter().map(|state| statistics(&model.network, state)).collect()
}

fn of_values(values: &[f32]) -> [f64; 7] {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let [a, b, c, d, e] = QUANTILES.map(|q| quantile(&sorted, q));
    [mean, variance, a, b, c, d, e]
}

/// The `q` quantile of ascending values, linearly interpolated; NaN of none.
pub fn quantile<T: Copy + Into<f64>>(sorted: &[T], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let below: f64 = sorted[place as usize].into();
    let above: f64 = sorted[(place as usize + 1).min(last)].into();
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::Hyperparameters;

    #[test]
    fn quantiles_interpolate_as_numpy_does() {
        // np.percentile([1, 2, 4, 8, 16], [1, 25, 50, 75, 99])
        let found = of_values(&[16.0, 1.0, 4.0, 2.0, 8.0]);
        let expected = [6.2, 29.76, 1.04, 2.0, 4.0, 8.0, 15.68];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        assert_eq!(of_values(&[3.0]), [3.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    fn tensors_have_the_same_names_with_and_without_dropout() {
        let of = |dropout| {
            let h = Hyperparameters { dropout, ..Hyperparameters::default() };
            tensor_names(&h.network([1, 28, 28], 10).unwrap())
        };
        assert_eq!(of(0.0), of(0.5));
        assert_eq!(of(0.0)[..3], ["1.weight", "1.bias", "2.weight"]);
        let network = Hyperparameters::default().network([1, 28, 28], 10).unwrap();
        assert_eq!((count(&network), statistics(&network, &vec![0.5; 2464]).len()), (70, 70));
    }
}
