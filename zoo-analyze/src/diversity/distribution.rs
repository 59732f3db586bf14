//! Distributions.

use serde::Serialize;

use crate::statistics::quantile;

/// A distribution in a few numbers; quantiles are linearly interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// Number of values.
    pub count: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation, of the population.
    pub std: f64,
    /// The 0, 5, 25, 50, 75, 95 and 100 percentiles.
    pub quantiles: [f64; 7],
}

impl Distribution {
    /// Of the finite values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
        let quantiles = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0].map(|q| quantile(&values, q));
        (count > 0).then_some(Self { count, mean, std, quantiles })
    }

    /// The 50 percentile.
    pub fn median(&self) -> f64 {
        self.quantiles[3]
    }
}
