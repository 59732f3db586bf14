//! The gradient of a convolution's weights.

use std::ops::Range;

use rayon::prelude::*;
use zoo_engine_simd::Simd;

use super::tile::{columns, cut, multiply, rows, Piece, Start, Tile};
use crate::geometry::{padded, segments, Geometry};

/// Terms of a block of a segment: a panel of the output's gradient and a tile of the input stay in the
/// first-level cache.
const DEPTH: usize = 128;

/// The gradient of a convolution's weights: for each weight the sum over the mini-batch of
/// `fma(x, dy, sum)`. Terms whose tap is in padding are left out, and counted in segments all the same.
pub fn weight_gradient<S: Simd>(
    s: S,
    geometry: &Geometry,
    images: usize,
    x: &[f32],
    by_output: &[f32],
    by_weights: &mut [f32],
) {
    let width = padded(geometry.outputs);
    assert!(x.len() >= geometry.input.positions() * images * padded(geometry.inputs), "input too short");
    assert!(by_output.len() >= geometry.output.positions() * images * width, "gradient too short");
    let gradient = WeightGradient { geometry, images, x, by_output };
    let shares = gradient.shares(rows::<S>());
    let mut rest = &mut by_weights[..geometry.weights()];
    let mut tasks = Vec::with_capacity(shares.len());
    for share in shares {
        let floats = share.iter().map(|tile| tile.inputs.len() * width).sum();
        let (out, others) = rest.split_at_mut(floats);
        rest = others;
        tasks.push((share, out));
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(share, out)| gradient.task(s, &share, out));
}

struct WeightGradient<'a> {
    geometry: &'a Geometry,
    images: usize,
    x: &'a [f32],
    by_output: &'a [f32],
}

/// A tile's rows of the gradient.
#[derive(Debug, Clone)]
struct Rows {
    tap: usize,
    inputs: Range<usize>,
}

impl WeightGradient<'_> {
    /// All rows in order, in shares of about equal work, some for each thread.
    fn shares(&self, rows: usize) -> Vec<Vec<Rows>> {
        let inputs = self.geometry.inputs;
        let parts = inputs.div_ceil(rows);
        let tiles: Vec<Rows> = (0..self.geometry.taps() * parts)
            .map(|n| (n / parts, n % parts))
            .map(|(tap, part)| Rows { tap, inputs: cut(inputs, parts, part)..cut(inputs, parts, part + 1) })
            .collect();
        let shares = (4 * rayon::current_num_threads()).min(tiles.len());
        (0..shares).map(|n| tiles[cut(tiles.len(), shares, n)..cut(tiles.len(), shares, n + 1)].to_vec()).collect()
    }

    /// Computes a share: the segments' sums, added in pairs as they come. Sums of as many segments are
    /// added at once, the rest from the end: that is the tree.
    fn task<S: Simd>(&self, s: S, share: &[Rows], out: &mut [f32]) {
        let mut left = segments(self.terms()).count();
        if left <= 1 {
            return self.segment(s, share, 0..self.terms(), out);
        }
        let mut sums: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut spare = None;
        for segment in segments(self.terms()) {
            let mut sum = spare.take().unwrap_or_else(|| vec![0.0; out.len()]);
            self.segment(s, share, segment, &mut sum);
            sums.push((1, sum));
            left -= 1;
            while let [.., (first, to), (second, from)] = &mut sums[..] {
                if first != second && left > 0 {
                    break;
                }
                to.iter_mut().zip(&*from).for_each(|(to, from)| *to += from);
                *first += *second;
                spare = sums.pop().map(|(_, sum)| sum);
            }
        }
        out.copy_from_slice(&sums[0].1);
    }

    fn terms(&self) -> usize {
        self.geometry.output.positions() * self.images
    }

    /// The sums of one segment.
    fn segment<S: Simd>(&self, s: S, share: &[Rows], segment: Range<usize>, sums: &mut [f32]) {
        let Self { geometry, x, by_output, .. } = *self;
        let (stride, width) = (padded(geometry.inputs), padded(geometry.outputs));
        let mut pieces = Vec::new();
        let parts = segment.len().div_ceil(DEPTH).max(1);
        for part in 0..parts {
            let start = if part == 0 { Start::Zero } else { Start::There };
            let block =
                segment.start + cut(segment.len(), parts, part)..segment.start + cut(segment.len(), parts, part + 1);
            let mut rest = &mut sums[..];
            for tiles in share.chunk_by(|a, b| a.tap == b.tap) {
                let floats = tiles.iter().map(|tile| tile.inputs.len() * width).sum();
                let (sums, others) = rest.split_at_mut(floats);
                rest = others;
                self.pieces(tiles[0].tap, block.clone(), &mut pieces);
                for column in (0..width).step_by(columns::<S>()) {
                    let mut row = 0;
                    for tile in tiles {
                        let c = sums[row * width + column..].as_mut_ptr();
                        row += tile.inputs.len();
                        let product = Tile {
                            a: x[tile.inputs.start..].as_ptr(),
                            a_stride: stride,
                            b: by_output[column..].as_ptr(),
                            b_stride: width,
                            pieces: &pieces,
                            start,
                            c,
                            c_stride: width,
                        };
                        let columns = columns::<S>().min(width - column);
                        // SAFETY: `weight_gradient` has checked the sizes of x and the gradient.
                        unsafe { multiply::<S, false>(s, product, tile.inputs.len(), columns) };
                    }
                }
            }
        }
    }

    /// A block's terms under a tap.
    fn pieces(&self, tap: usize, block: Range<usize>, pieces: &mut Vec<Piece>) {
        let (stride, width) = (padded(self.geometry.inputs), padded(self.geometry.outputs));
        pieces.clear();
        let mut term = block.start;
        while term < block.end {
            let (position, image) = (term / self.images, term % self.images);
            let terms = (self.images - image).min(block.end - term);
            if let Some(source) = self.geometry.input_position(position, tap) {
                pieces.push(Piece { a: (source * self.images + image) * stride, b: term * width, terms });
            }
            term += terms;
        }
    }
}
