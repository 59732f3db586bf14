//! Ridge regression from moments: rows are added block by block and forgotten.
//!
//! Features are standardised by the rows that were added; the intercept is not penalised. For X
//! and y so standardised and centred, the weights are (X'X + lambda I)^-1 X'y, by Cholesky
//! decomposition, as scikit-learn's `Ridge` does on dense data.

use faer::linalg::matmul::matmul;
use faer::prelude::Solve;
use faer::{Accum, Mat, MatRef, Par, Side};
use rayon::prelude::*;

/// Width of the tiles that X'X is made of: each is computed by one thread, so that the sums do not
/// depend on the number of threads.
const TILE: usize = 256;

/// Rows of a block.
pub const BLOCK: usize = 512;

/// Sums over rows of features x and targets y.
pub struct Moments {
    features: usize,
    targets: usize,
    rows: usize,
    /// What is subtracted from every row, near the mean, so that little cancels: the first rows' mean.
    shift: Option<(Vec<f64>, Vec<f64>)>,
    sum_x: Vec<f64>,
    sum_y: Vec<f64>,
    /// X'X by tiles of the lower triangle, column by column.
    tiles: Vec<Mat<f64>>,
    /// X'y, (features, targets).
    xy: Mat<f64>,
    block_x: Vec<f64>,
    block_y: Vec<f64>,
}

impl Moments {
    /// No rows yet.
    pub fn new(features: usize, targets: usize) -> Self {
        let tiles =
            tile_positions(features).into_iter().map(|(i, j)| Mat::zeros(width(features, i), width(features, j)));
        Self {
            features,
            targets,
            rows: 0,
            shift: None,
            sum_x: vec![0.0; features],
            sum_y: vec![0.0; targets],
            tiles: tiles.collect(),
            xy: Mat::zeros(features, targets),
            block_x: Vec::new(),
            block_y: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn add(&mut self, x: impl IntoIterator<Item = f64>, y: &[f64]) {
        self.block_x.extend(x);
        self.block_y.extend(y);
        debug_assert_eq!(self.block_x.len() / self.features * self.targets, self.block_y.len());
        if self.block_x.len() >= BLOCK * self.features {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (d, t) = (self.features, self.targets);
        let rows = self.block_x.len() / d.max(1);
        if rows == 0 {
            return;
        }
        let centre = |values: &mut [f64], width: usize, shift: Option<&[f64]>, sums: &mut [f64]| -> Vec<f64> {
            let first = || {
                let mut mean = vec![0.0; width];
                for row in values.chunks_exact(width) {
                    mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / rows as f64);
                }
                mean
            };
            let shift = shift.map_or_else(first, <[f64]>::to_vec);
            for row in values.chunks_exact_mut(width) {
                for ((value, shift), sum) in row.iter_mut().zip(&shift).zip(sums.iter_mut()) {
                    *value -= shift;
                    *sum += *value;
                }
            }
            shift
        };
        let known = self.shift.take();
        let shift_x = centre(&mut self.block_x, d, known.as_ref().map(|s| s.0.as_slice()), &mut self.sum_x);
        let shift_y = centre(&mut self.block_y, t, known.as_ref().map(|s| s.1.as_slice()), &mut self.sum_y);
        self.shift = Some((shift_x, shift_y));
        let x = MatRef::from_row_major_slice(&self.block_x, rows, d);
        let y = MatRef::from_row_major_slice(&self.block_y, rows, t);
        let of = |tile: usize| x.subcols(tile * TILE, width(d, tile));
        self.tiles.par_iter_mut().zip(tile_positions(d)).for_each(|(tile, (i, j))| {
            matmul(tile, Accum::Add, of(i).transpose(), of(j), 1.0, Par::Seq);
        });
        matmul(&mut self.xy, Accum::Add, x.transpose(), y, 1.0, Par::Seq);
        self.rows += rows;
        self.block_x.clear();
        self.block_y.clear();
    }

    /// Fits every target with every lambda, ascending; `None` where the decomposition fails.
    pub fn fit(mut self, lambdas: &[f64]) -> Vec<Option<Ridge>> {
        self.flush();
        let (d, n) = (self.features, self.rows as f64);
        let (shift_x, shift_y) = self.shift.take().unwrap_or((vec![0.0; d], vec![0.0; self.targets]));
        let mean: Vec<f64> = self.sum_x.iter().map(|s| s / n).collect();
        let mean_y: Vec<f64> = self.sum_y.iter().map(|s| s / n).collect();
        let mut gram = Mat::<f64>::zeros(d, d);
        for (tile, (i, j)) in self.tiles.drain(..).zip(tile_positions(d)) {
            gram.submatrix_mut(i * TILE, j * TILE, tile.nrows(), tile.ncols()).copy_from(&tile);
        }
        let scale: Vec<f64> = (0..d)
            .map(|i| {
                let variance = gram[(i, i)] / n - mean[i] * mean[i];
                // A feature that does not vary says nothing.
                if variance > 1e-12 * (gram[(i, i)] / n).max(1e-300) {
                    1.0 / variance.sqrt()
                } else {
                    0.0
                }
            })
            .collect();
        for j in 0..d {
            for i in j..d {
                gram[(i, j)] = (gram[(i, j)] - n * mean[i] * mean[j]) * scale[i] * scale[j];
            }
        }
        let xy = Mat::from_fn(d, self.targets, |i, t| (self.xy[(i, t)] - n * mean[i] * mean_y[t]) * scale[i]);
        let fit = |&lambda: &f64| {
            let mut penalised = gram.clone();
            for i in 0..d {
                penalised[(i, i)] += lambda;
            }
            let weights = penalised.llt(Side::Lower).ok()?.solve(&xy);
            let mut intercept: Vec<f64> = mean_y.iter().zip(&shift_y).map(|(m, s)| m + s).collect();
            let weights = Mat::from_fn(d, self.targets, |i, t| {
                let weight = weights[(i, t)] * scale[i];
                intercept[t] -= weight * (mean[i] + shift_x[i]);
                weight
            });
            Some(Ridge { weights, intercept })
        };
        lambdas.par_iter().map(fit).collect()
    }
}

/// Fitted weights, in the features' own units.
pub struct Ridge {
    /// (features, targets)
    weights: Mat<f64>,
    intercept: Vec<f64>,
}

impl Ridge {
    /// Predictions for rows of features, row after row: (rows, targets).
    pub fn predict(&self, x: &[f64]) -> Mat<f64> {
        let d = self.weights.nrows();
        let x = MatRef::from_row_major_slice(x, x.len() / d, d);
        let mut out = Mat::from_fn(x.nrows(), self.intercept.len(), |_, t| self.intercept[t]);
        matmul(&mut out, Accum::Add, x, &self.weights, 1.0, Par::Seq);
        out
    }
}

fn width(features: usize, tile: usize) -> usize {
    TILE.min(features - tile * TILE)
}

/// (row, column) of the tiles of the lower triangle.
fn tile_positions(features: usize) -> Vec<(usize, usize)> {
    let tiles = features.div_ceil(TILE);
    (0..tiles).flat_map(|j| (j..tiles).map(move |i| (i, j))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::random::{Purpose, Stream};

    #[test]
    fn a_linear_rule_is_found_whatever_the_blocks_and_offsets() {
        let (n, d) = (BLOCK + 100, TILE + 3);
        let mut noise = Stream::new(1, Purpose::Sample, 0, 0);
        let mut x: Vec<f64> = (0..n * d).map(|_| 1000.0 + noise.uniform()).collect();
        // One feature never varies.
        x.iter_mut().skip(5).step_by(d).for_each(|v| *v = 7.0);
        let rule = |row: &[f64]| [3.0 + 2.0 * row[0] - 0.5 * row[d - 1], row[1]];
        let mut moments = Moments::new(d, 2);
        for row in x.chunks(d) {
            moments.add(row.iter().copied(), &rule(row));
        }
        let models = moments.fit(&[1e-6, 1e6]);
        let found = models[0].as_ref().unwrap().predict(&x[..10 * d]);
        let shrunk = models[1].as_ref().unwrap().predict(&x[..10 * d]);
        for (r, row) in x[..10 * d].chunks(d).enumerate() {
            for (t, expected) in rule(row).into_iter().enumerate() {
                assert!((found[(r, t)] - expected).abs() < 1e-5, "{} {expected}", found[(r, t)]);
            }
            assert!((shrunk[(r, 1)] - 1000.5).abs() < 0.1);
        }
    }
}
