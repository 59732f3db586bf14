//! Pooling and its gradients: a task for each output position.

use rayon::prelude::*;
use zoo_engine_simd::{Kernel, Simd};

use crate::geometry::{padded, Map};
use crate::kernels::Shape;

/// The first input position of the 2x2 window of an output position.
fn corner(map: Map, position: usize) -> usize {
    let width = map.width / 2;
    2 * (position / width) * map.width + 2 * (position % width)
}

/// The places in a window, in the order of rows, from its first one.
fn window(map: Map) -> [usize; 4] {
    [0, 1, map.width, map.width + 1]
}

/// See [`Kernels::max_pool`](crate::kernels::Kernels::max_pool).
pub fn max_pool<S: Simd>(s: S, shape: Shape, images: usize, x: &[f32], out: &mut [f32], winners: &mut [f32]) {
    let row = images * padded(shape.channels);
    out.par_chunks_mut(row).zip(winners.par_chunks_mut(row)).enumerate().for_each(|(position, (out, winners))| {
        let corner = corner(shape.map, position);
        let candidates = window(shape.map).map(|offset| &x[(corner + offset) * row..][..row]);
        s.vectorize(MaxPool { candidates, out, winners });
    });
}

struct MaxPool<'a> {
    candidates: [&'a [f32]; 4],
    out: &'a mut [f32],
    winners: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for MaxPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let rows = self.out.chunks_exact_mut(S::LANES).zip(self.winners.chunks_exact_mut(S::LANES));
        for (i, (out, winners)) in rows.enumerate() {
            let mut best = s.load(&self.candidates[0][i * S::LANES..]);
            let mut winner = s.splat(0.0);
            for (number, candidate) in [(1.0, self.candidates[1]), (2.0, self.candidates[2]), (3.0, self.candidates[3])]
            {
                let candidate = s.load(&candidate[i * S::LANES..]);
                let wins = s.exceeds(candidate, best);
                best = s.select(wins, candidate, best);
                winner = s.select(wins, s.splat(number), winner);
            }
            s.store(best, out);
            s.store(winner, winners);
        }
    }
}

/// See [`Kernels::max_pool_gradient`](crate::kernels::Kernels::max_pool_gradient).
pub fn max_pool_gradient(shape: Shape, images: usize, by_output: &[f32], winners: &[f32], by_input: &mut [f32]) {
    let (row, Map { height, width }) = (images * padded(shape.channels), shape.map);
    by_input.par_chunks_mut(row).enumerate().for_each(|(position, by_input)| {
        let (y, x) = (position / width, position % width);
        // An odd last row or column is in no window.
        if y / 2 >= height / 2 || x / 2 >= width / 2 {
            by_input.fill(0.0);
            return;
        }
        let (output, number) = ((y / 2 * (width / 2) + x / 2) * row, (y % 2 * 2 + x % 2) as f32);
        let outputs = by_output[output..].iter().zip(&winners[output..]);
        for (to, (&from, &winner)) in by_input.iter_mut().zip(outputs) {
            *to = if winner == number { from } else { 0.0 };
        }
    });
}

/// See [`Kernels::average_pool`](crate::kernels::Kernels::average_pool).
pub fn average_pool<S: Simd>(s: S, shape: Shape, images: usize, x: &[f32], out: &mut [f32]) {
    let row = images * padded(shape.channels);
    let piece = padded(shape.channels);
    out[..row].par_chunks_mut(piece).with_min_len(16).enumerate().for_each(|(image, out)| {
        s.vectorize(AveragePool { positions: shape.map.positions(), row, first: image * piece, x, out });
    });
}

struct AveragePool<'a> {
    positions: usize,
    /// Floats of a position.
    row: usize,
    /// Place of `out` in a position.
    first: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for AveragePool<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(S::LANES).enumerate() {
            let value = |p: usize| s.load(&self.x[p * self.row + self.first + i * S::LANES..]);
            let mut sum = s.splat(0.0);
            for p in 0..self.positions {
                sum = s.add(sum, value(p));
            }
            s.store(s.div(sum, s.splat(self.positions as f32)), out);
        }
    }
}
