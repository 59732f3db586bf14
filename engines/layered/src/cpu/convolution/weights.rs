//! The gradient of a convolution's weights.

use std::ops::Range;

use rayon::prelude::*;
use zoo_engine_simd::Simd;

use super::tile::{cut, height, multiply, width, with_scratch, Piece, Start, Tile};
use super::{MIN_PACKED, MIN_TASK};
use crate::geometry::{padded, segments, tree, Geometry, SEGMENT};

/// Terms of a block of a segment: a panel of the gradient stays in the first-level cache, its rows of the
/// input in the second.
const DEPTH: usize = 256;

/// Weights of a share: their sums stay in the second-level cache.
const MAX_SUMS: usize = 1 << 18;

/// Floats that are worth a task that adds them up.
const MIN_ADDED: usize = 1 << 14;

/// The gradient of a convolution's weights: for each weight the sum over the mini-batch of
/// `fma(x, dy, sum)`. Terms whose tap is in padding are left out, though they are counted in segments.
pub fn weight_gradient<S: Simd>(
    s: S,
    geometry: &Geometry,
    images: usize,
    x: &[f32],
    by_output: &[f32],
    by_weights: &mut [f32],
) {
    let stride = padded(geometry.outputs);
    assert!(x.len() >= geometry.input.positions() * images * padded(geometry.inputs), "input too short");
    assert!(by_output.len() >= geometry.output.positions() * images * stride, "gradient too short");
    let gradient = WeightGradient { geometry, images, x, by_output };
    let (shares, spans) = gradient.split(height::<S>());
    let floats = |share: &[Rows]| share.iter().map(|rows| rows.inputs.len() * stride).sum();
    let mut rest = &mut by_weights[..geometry.weights()];
    let mut outs = Vec::with_capacity(shares.len());
    for share in &shares {
        let (out, others) = rest.split_at_mut(floats(share));
        rest = others;
        outs.push(out);
    }
    if let [span] = &spans[..] {
        let tasks = shares.par_iter().zip(outs).with_max_len(1);
        return tasks.for_each(|(share, out)| gradient.span(s, share, span.clone(), out));
    }
    let tasks: Vec<_> = shares.iter().flat_map(|share| spans.iter().map(move |span| (share, span.clone()))).collect();
    let compute = |(share, span): (&Vec<Rows>, Range<usize>)| {
        let mut sum = vec![0.0; floats(share)];
        gradient.span(s, share, span, &mut sum);
        sum
    };
    let mut sums = tasks.into_par_iter().with_max_len(1).map(compute).collect::<Vec<_>>().into_iter();
    for out in outs {
        let sum = tree(sums.by_ref().take(spans.len()).collect(), |mut to, from| {
            to.par_chunks_mut(MIN_ADDED).zip(from.par_chunks(MIN_ADDED)).for_each(|(to, from)| add(to, from));
            to
        });
        out.copy_from_slice(&sum.expect("spans"));
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
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
    /// Shares of the rows, and spans of terms. A task does a share of a span.
    ///
    /// A span is a power of two of segments, so that its sum is one of the tree's. Every share reads all of the
    /// input and the gradient: the fewer the better, if there are spans enough for the threads.
    fn split(&self, height: usize) -> (Vec<Vec<Rows>>, Vec<Range<usize>>) {
        let inputs = self.geometry.inputs;
        let parts = inputs.div_ceil(height);
        let tiles: Vec<Rows> = (0..self.geometry.taps() * parts)
            .map(|n| (n / parts, n % parts))
            .map(|(tap, part)| Rows { tap, inputs: cut(inputs, parts, part)..cut(inputs, parts, part + 1) })
            .collect();
        let threads = rayon::current_num_threads();
        let mut span = SEGMENT;
        while self.terms().div_ceil(2 * span) >= 4 * threads {
            span *= 2;
        }
        let spans = self.terms().div_ceil(span).max(1);
        let shares = (self.geometry.weights() / MAX_SUMS).max(1);
        let shares = if spans < threads { shares.next_multiple_of(threads) } else { shares };
        let shares = shares.min(self.terms() * self.geometry.weights() / MIN_TASK).clamp(1, tiles.len());
        let share = |n| tiles[cut(tiles.len(), shares, n)..cut(tiles.len(), shares, n + 1)].to_vec();
        let spans = (0..spans).map(|n| n * span..((n + 1) * span).min(self.terms()));
        ((0..shares).map(share).collect(), spans.collect())
    }

    /// The sum of a span: those of its segments, added in pairs as they come. Sums of as many segments
    /// are added at once, the rest from the end: that is the tree.
    fn span<S: Simd>(&self, s: S, share: &[Rows], span: Range<usize>, out: &mut [f32]) {
        if span.len() <= SEGMENT {
            return self.segment(s, share, span, out);
        }
        let mut left = segments(span.len()).count();
        let mut sums: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut spare = None;
        for segment in segments(span.len()) {
            let mut sum = spare.take().unwrap_or_else(|| vec![0.0; out.len()]);
            self.segment(s, share, span.start + segment.start..span.start + segment.end, &mut sum);
            sums.push((1, sum));
            left -= 1;
            while let [.., (first, to), (second, from)] = &mut sums[..] {
                if first != second && left > 0 {
                    break;
                }
                add(to, from);
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
        let stride = padded(self.geometry.outputs);
        let is_packed = share.len() >= MIN_PACKED && stride > width::<S>();
        let parts = segment.len().div_ceil(DEPTH).max(1);
        let floats = if is_packed { DEPTH * stride.next_multiple_of(width::<S>()) } else { 0 };
        with_scratch(floats, |packed| {
            for part in 0..parts {
                let start = if part == 0 { Start::Zero } else { Start::There };
                let (from, to) = (cut(segment.len(), parts, part), cut(segment.len(), parts, part + 1));
                let terms = segment.start + from..segment.start + to;
                if is_packed {
                    self.pack::<S>(terms.clone(), packed);
                }
                self.block(s, share, terms, start, is_packed.then_some(packed), sums);
            }
        });
    }

    /// Copies a block's rows of the output's gradient, panel by panel.
    fn pack<S: Simd>(&self, terms: Range<usize>, packed: &mut [f32]) {
        let stride = padded(self.geometry.outputs);
        let panels = packed.chunks_exact_mut(terms.len() * width::<S>());
        for (column, packed) in (0..stride).step_by(width::<S>()).zip(panels) {
            let floats = width::<S>().min(stride - column);
            for (term, packed) in terms.clone().zip(packed.chunks_exact_mut(width::<S>())) {
                packed[..floats].copy_from_slice(&self.by_output[term * stride + column..][..floats]);
            }
        }
    }

    /// The sums of a block of terms.
    fn block<S: Simd>(
        &self,
        s: S,
        share: &[Rows],
        terms: Range<usize>,
        start: Start,
        packed: Option<&[f32]>,
        sums: &mut [f32],
    ) {
        let stride = padded(self.geometry.outputs);
        let b_stride = if packed.is_some() { width::<S>() } else { stride };
        let mut pieces = Vec::new();
        let mut rest = sums;
        for tiles in share.chunk_by(|a, b| a.tap == b.tap) {
            let floats = tiles.iter().map(|tile| tile.inputs.len() * stride).sum();
            let (sums, others) = std::mem::take(&mut rest).split_at_mut(floats);
            rest = others;
            self.pieces(tiles[0].tap, terms.clone(), b_stride, &mut pieces);
            for column in (0..stride).step_by(width::<S>()) {
                let b = match packed {
                    Some(packed) => packed[column * terms.len()..].as_ptr(),
                    None => self.by_output[terms.start * stride + column..].as_ptr(),
                };
                let mut row = 0;
                for tile in tiles {
                    let product = Tile {
                        a: self.x[tile.inputs.start..].as_ptr(),
                        a_stride: padded(self.geometry.inputs),
                        b,
                        b_stride,
                        pieces: &pieces,
                        start,
                        c: sums[row * stride + column..].as_mut_ptr(),
                        c_stride: stride,
                    };
                    row += tile.inputs.len();
                    let columns = width::<S>().min(stride - column);
                    // SAFETY: `weight_gradient` has checked the sizes of x and the gradient; the sums
                    // have all rows of the share.
                    unsafe { multiply::<S, false>(s, product, tile.inputs.len(), columns) };
                }
            }
        }
    }

    /// A block's terms under a tap; the first has its row at the beginning of the right matrix.
    fn pieces(&self, tap: usize, terms: Range<usize>, b_stride: usize, pieces: &mut Vec<Piece>) {
        let a_stride = padded(self.geometry.inputs);
        pieces.clear();
        let mut term = terms.start;
        while term < terms.end {
            let (position, image) = (term / self.images, term % self.images);
            let count = (self.images - image).min(terms.end - term);
            if let Some(source) = self.geometry.input_position(position, tap) {
                let a = (source * self.images + image) * a_stride;
                pieces.push(Piece { a, b: (term - terms.start) * b_stride, terms: count });
            }
            term += count;
        }
    }
}
