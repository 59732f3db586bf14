//! The map of trajectories: states on their first two principal components.

use rayon::prelude::*;
use serde::Serialize;
use zoo_model::ModelId;

use super::distances::dot;
use super::Distribution;

/// Multiple of the median length beyond which a model is left out of the map.
const MAX_RELATIVE_LENGTH: f64 = 3.0;

/// Subspace iterations.
const ITERATIONS: usize = 60;

/// A state on the map of trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MapPoint {
    /// The model.
    pub id: ModelId,
    /// Epoch.
    pub epoch: u32,
    /// First two principal components.
    pub at: [f64; 2],
    /// Test accuracy, if it is known.
    pub accuracy: Option<f64>,
}

/// The map of trajectories: states of some models on the first two principal components of all
/// of these states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Map {
    /// Models left out because their weights exploded: a last state of more than three times the median
    /// length would leave no room for the others.
    pub left_out: usize,
    /// Fraction of the variance along each axis.
    pub explained: [f64; 2],
    /// The states, model by model, epochs ascending.
    #[serde(rename = "places")]
    pub points: Vec<MapPoint>,
}

/// A state of a trajectory; those of a model follow each other.
pub(super) struct State {
    pub id: ModelId,
    pub epoch: u32,
    pub accuracy: Option<f64>,
    pub weights: Vec<f32>,
}

/// The map of these states; `None` if they do not vary.
pub(super) fn trajectory_map(states: &[State]) -> Option<Map> {
    let trajectories: Vec<&[State]> = states.chunk_by(|a, b| a.id == b.id).collect();
    let length = |trajectory: &&[State]| trajectory.last().map_or(0.0, |s| dot(&s.weights, &s.weights).sqrt());
    let lengths: Vec<f64> = trajectories.iter().map(length).collect();
    let limit = MAX_RELATIVE_LENGTH * Distribution::of(lengths.iter().copied())?.median();
    let near = |i: &usize| lengths[*i] <= limit;
    let states: Vec<&State> = (0..lengths.len()).filter(near).flat_map(|i| trajectories[i]).collect();
    let left_out = (0..lengths.len()).filter(|i| !near(i)).count();

    let centred = centred(&states)?;
    let total: f64 = centred.par_iter().map(|x| dot(x, x)).collect::<Vec<f64>>().iter().sum();
    if total <= 0.0 || !total.is_finite() {
        return None;
    }
    let [x, y] = principal_axes(&centred).map(|axis| project(&centred, &axis));
    let share = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>() / total;
    let point = |(i, state): (usize, &&State)| MapPoint {
        id: state.id,
        epoch: state.epoch,
        at: [x[i], y[i]],
        accuracy: state.accuracy,
    };
    let points = states.iter().enumerate().map(point).collect();
    Some(Map { left_out, explained: [share(&x), share(&y)], points })
}

/// The weights of states minus their mean; `None` if there are no states.
fn centred(states: &[&State]) -> Option<Vec<Vec<f32>>> {
    let mut mean = vec![0.0f64; states.first()?.weights.len()];
    for state in states {
        mean.iter_mut().zip(&state.weights).for_each(|(m, &v)| *m += f64::from(v) / states.len() as f64);
    }
    let centre = |state: &&State| state.weights.iter().zip(&mean).map(|(&v, m)| (f64::from(v) - m) as f32).collect();
    Some(states.par_iter().map(centre).collect())
}

/// Coordinate of every row along an axis.
fn project(rows: &[Vec<f32>], axis: &[f32]) -> Vec<f64> {
    rows.par_iter().map(|x| dot(x, axis)).collect()
}

/// The first two principal axes of centred rows, each of length 1, by subspace iteration.
fn principal_axes(rows: &[Vec<f32>]) -> [Vec<f32>; 2] {
    let width = rows[0].len();
    let combine = |weights: &[f64]| -> Vec<f64> {
        // Columns in pieces, rows in order: the sums do not depend on the threads.
        let piece = width.div_ceil(64).max(1);
        let starts: Vec<usize> = (0..width).step_by(piece).collect();
        let sums = starts.par_iter().map(|&start| {
            let range = start..width.min(start + piece);
            let mut sum = vec![0.0; range.len()];
            for (x, w) in rows.iter().zip(weights) {
                sum.iter_mut().zip(&x[range.clone()]).for_each(|(s, &v)| *s += w * f64::from(v));
            }
            sum
        });
        sums.collect::<Vec<_>>().concat()
    };
    let unit = |v: Vec<f64>| -> Vec<f32> {
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        v.iter().map(|x| (x / length) as f32).collect()
    };
    let start = rows[rows.len() - 1].iter().map(|&v| f64::from(v)).collect();
    let mut axes: [Vec<f32>; 2] = [unit(start), vec![1.0; width]];
    for _ in 0..ITERATIONS {
        let a = unit(combine(&project(rows, &axes[0])));
        let mut b = combine(&project(rows, &axes[1]));
        let along: f64 = b.iter().zip(&a).map(|(b, &a)| b * f64::from(a)).sum();
        b.iter_mut().zip(&a).for_each(|(b, &a)| *b -= along * f64::from(a));
        axes = [a, unit(b)];
    }
    // The sign of an axis is arbitrary: its largest entry is made positive.
    for axis in &mut axes {
        let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
        if largest < 0.0 {
            axis.iter_mut().for_each(|v| *v = -*v);
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_finds_the_plane_of_the_states_and_leaves_exploded_models_out() {
        // Two orthogonal directions in 50 dimensions, the first with nine times the variance.
        let weights = |a: f32, b: f32| (0..50).map(|i| if i % 2 == 0 { 3.0 * a } else { b }).collect::<Vec<f32>>();
        let state = |id: u32, accuracy, weights| State { id: ModelId(id), epoch: 1, accuracy, weights };
        let at = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)];
        let mut states: Vec<State> = (0..).zip(at).map(|(id, (a, b))| state(id, Some(0.5), weights(a, b))).collect();
        states.push(state(9, None, vec![1e6; 50]));
        let map = trajectory_map(&states).unwrap();
        assert_eq!((map.left_out, map.points.len()), (1, 4));
        assert!((map.explained[0] - 0.9).abs() < 1e-6 && (map.explained[1] - 0.1).abs() < 1e-6, "{:?}", map.explained);
        for point in &map.points {
            assert!((point.at[0].abs() - 15.0).abs() < 1e-3 && (point.at[1].abs() - 5.0).abs() < 1e-3, "{point:?}");
        }
    }
}
