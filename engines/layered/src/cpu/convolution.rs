//! Convolutions: products of plain matrices at every position, summed over the taps, with no copies of
//! patches and no work in padding.

#![allow(unsafe_code)]

mod tile;
mod weights;

#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;
use zoo_engine_simd::Simd;

use self::tile::{columns, cut, multiply, rows, with_scratch, Piece, Start, Tile};
pub use self::weights::weight_gradient;
use crate::geometry::{padded, Geometry};

/// Terms of a block of the reduction: a tile's rows of the left matrix stay in the first-level cache,
/// the panels of the right one in the second.
const DEPTH: usize = 576;

/// Panels of the right matrix that a task multiplies with one block of the left.
const PANELS: usize = 4;

/// Tiles that a packed panel must serve, else it is read where it is.
const MIN_PACKED: usize = 6;

/// Tiles of a share whose panels others have too.
const MIN_TILES: usize = 16;

/// Multiply-adds that are worth a task of their own.
const MIN_TASK: usize = 1 << 17;

/// Every output is a chain over (kernel row, kernel column, input channel), valid taps only, from the
/// bias (padded outputs), or from 0: `fma(x, w, sum)`.
pub fn convolution<S: Simd>(
    s: S,
    geometry: &Geometry,
    images: usize,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let columns = padded(geometry.outputs);
    assert!(x.len() >= geometry.input.positions() * images * padded(geometry.inputs), "input too short");
    assert!(weights.len() >= geometry.weights(), "weights too short");
    assert!(bias.is_none_or(|bias| bias.len() >= columns), "bias too short");
    let start = bias.map_or(Start::Zero, |bias| Start::Row(bias.as_ptr()));
    let source = |output, tap| geometry.input_position(output, tap);
    let product = Product::new(geometry.taps(), geometry.output.positions(), images, geometry.inputs, columns, source);
    product.run(s, x, weights, start, out);
}

/// Weights (taps, inputs, padded outputs) as (taps, outputs, padded inputs), zeros in padding.
pub fn transpose(geometry: &Geometry, weights: &[f32], out: &mut [f32]) {
    let (from, to) = (padded(geometry.outputs), padded(geometry.inputs));
    let taps = weights[..geometry.weights()].par_chunks(geometry.inputs * from);
    let out = out[..geometry.transposed_weights()].par_chunks_mut(geometry.outputs * to);
    taps.zip(out).for_each(|(weights, out)| {
        // Blocks of a cache line, for large matrices.
        for first in (0..geometry.outputs).step_by(16) {
            for input in 0..to {
                for output in first..geometry.outputs.min(first + 16) {
                    out[output * to + input] =
                        if input < geometry.inputs { weights[input * from + output] } else { 0.0 };
                }
            }
        }
    });
}

/// The gradient of a convolution's input: a chain over (kernel row, kernel column, output channel),
/// valid taps only, from 0, or if `accumulates` from what is there: `fma(dy, w, sum)`.
pub fn input_gradient<S: Simd>(
    s: S,
    geometry: &Geometry,
    images: usize,
    by_output: &[f32],
    transposed: &[f32],
    by_input: &mut [f32],
    accumulates: bool,
) {
    let columns = padded(geometry.inputs);
    assert!(by_output.len() >= geometry.output.positions() * images * padded(geometry.outputs), "gradient too short");
    assert!(transposed.len() >= geometry.transposed_weights(), "weights too short");
    let start = if accumulates { Start::There } else { Start::Zero };
    let source = |input, tap| geometry.output_position(input, tap);
    let product = Product::new(geometry.taps(), geometry.input.positions(), images, geometry.outputs, columns, source);
    product.run(s, by_output, transposed, start, by_input);
}

/// At every position the sum over the taps of products (images, channels) x (channels, columns).
struct Product {
    /// Of the result.
    positions: usize,
    images: usize,
    /// Of the reduction.
    channels: usize,
    columns: usize,
    taps: usize,
    /// The left matrix's position of every (position, tap); [`NONE`] in padding.
    sources: Vec<u32>,
    blocks: Vec<Block>,
}

/// No position.
const NONE: u32 = u32::MAX;

/// Part of the reduction: of these taps the same channels.
struct Block {
    taps: Vec<usize>,
    channels: Range<usize>,
}

impl Block {
    fn terms(&self) -> usize {
        self.taps.len() * self.channels.len()
    }
}

/// What tasks read, and a result that they write disjoint parts of.
#[derive(Clone, Copy)]
struct Operands<'a> {
    a: &'a [f32],
    b: &'a [f32],
    start: Start,
    out: *mut f32,
}

// SAFETY: the start is only read; `Product::task` says why no two tasks write the same of the result.
unsafe impl Sync for Operands<'_> {}

/// A task's share of the result.
#[derive(Debug, Clone)]
struct Share {
    /// Tiles of rows: (tile of images, position), so that rows that several taps need are still in the
    /// cache.
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Product {
    fn new(
        taps: usize,
        positions: usize,
        images: usize,
        channels: usize,
        columns: usize,
        source: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let source = |position, tap| source(position, tap).map_or(NONE, |source| source as u32);
        let sources: Vec<u32> =
            (0..positions).flat_map(|p| (0..taps).map(move |tap| (p, tap))).map(|(p, tap)| source(p, tap)).collect();
        let is_used = |&tap: &usize| sources[tap..].iter().step_by(taps).any(|&source| source != NONE);
        let used: Vec<usize> = (0..taps).filter(is_used).collect();
        let mut blocks = Vec::new();
        if channels < DEPTH {
            let parts = used.len().div_ceil(DEPTH / channels).max(1);
            for part in 0..parts {
                let taps = used[cut(used.len(), parts, part)..cut(used.len(), parts, part + 1)].to_vec();
                blocks.push(Block { taps, channels: 0..channels });
            }
        } else {
            let parts = channels.div_ceil(DEPTH);
            for &tap in &used {
                for part in 0..parts {
                    let channels = cut(channels, parts, part)..cut(channels, parts, part + 1);
                    blocks.push(Block { taps: vec![tap], channels });
                }
            }
        }
        Self { positions, images, channels, columns, taps, sources, blocks }
    }

    fn run<S: Simd>(&self, s: S, a: &[f32], b: &[f32], start: Start, out: &mut [f32]) {
        let out = out[..self.positions * self.images * self.columns].as_mut_ptr();
        let operands = &Operands { a, b, start, out };
        match &self.shares::<S>()[..] {
            [share] => self.task(s, share, operands),
            shares => shares.par_iter().with_max_len(1).for_each(|share| self.task(s, share, operands)),
        }
    }

    /// Shares of about equal work, some for each thread.
    fn shares<S: Simd>(&self) -> Vec<Share> {
        let tiles = self.positions * self.images.div_ceil(rows::<S>());
        let panels = self.columns.div_ceil(columns::<S>());
        let terms: usize = self.blocks.iter().map(Block::terms).sum();
        let work = terms * self.positions * self.images * self.columns;
        let wanted = (4 * rayon::current_num_threads()).min(work / MIN_TASK).max(1);
        let pieces = wanted.div_ceil(panels.div_ceil(PANELS)).min(tiles / MIN_TILES).max(1);
        let groups = panels.div_ceil(PANELS).max(wanted / pieces).min(panels);
        let share = |group, piece| Share {
            tiles: cut(tiles, pieces, piece)..cut(tiles, pieces, piece + 1),
            panels: cut(panels, groups, group)..cut(panels, groups, group + 1),
        };
        (0..groups).flat_map(|group| (0..pieces).map(move |piece| share(group, piece))).collect()
    }

    /// Computes a share.
    fn task<S: Simd>(&self, s: S, share: &Share, operands: &Operands) {
        let is_packed = share.tiles.len() >= MIN_PACKED && self.columns > columns::<S>();
        let largest = self.blocks.iter().map(Block::terms).max().unwrap_or(0);
        let floats = if is_packed { largest * share.panels.len() * columns::<S>() } else { 0 };
        with_scratch(floats, |packed| {
            for (n, block) in self.blocks.iter().enumerate() {
                let start = if n == 0 { operands.start } else { Start::There };
                if is_packed {
                    self.pack::<S>(block, share, operands.b, packed);
                }
                self.block(s, block, share, &Operands { start, ..*operands }, is_packed.then_some(packed));
            }
        });
    }

    /// Computes a block of a share, its right matrix packed or where it is.
    fn block<S: Simd>(&self, s: S, block: &Block, share: &Share, operands: &Operands, packed: Option<&[f32]>) {
        let Operands { a, b, start, out } = *operands;
        let a_stride = padded(self.channels);
        let image_tiles = self.images.div_ceil(rows::<S>());
        let b_stride = if packed.is_some() { columns::<S>() } else { self.columns };
        let mut pieces = Vec::with_capacity(block.taps.len());
        for tile in share.tiles.clone() {
            let (position, tile) = (tile % self.positions, tile / self.positions);
            self.pieces(block, position, packed.map(|_| b_stride), &mut pieces);
            let images = cut(self.images, image_tiles, tile)..cut(self.images, image_tiles, tile + 1);
            let row = position * self.images + images.start;
            for panel in share.panels.clone() {
                let column = panel * columns::<S>();
                let b = match packed {
                    Some(packed) => &packed[(panel - share.panels.start) * block.terms() * b_stride..],
                    None => &b[column..],
                };
                let start = match start {
                    Start::Row(row) => Start::Row(row.wrapping_add(column)),
                    other => other,
                };
                let tile = Tile {
                    a: a[images.start * a_stride..].as_ptr(),
                    a_stride,
                    b: b.as_ptr(),
                    b_stride,
                    pieces: &pieces,
                    start,
                    c: out.wrapping_add(row * self.columns + column),
                    c_stride: self.columns,
                };
                // SAFETY: the public functions have checked the sizes of all matrices, `run` that
                // of the result; no two shares have the same tile and panel.
                unsafe { multiply::<S, true>(s, tile, images.len(), columns::<S>().min(self.columns - column)) };
            }
        }
    }

    /// Copies a block's rows of the share's panels, panel by panel.
    fn pack<S: Simd>(&self, block: &Block, share: &Share, b: &[f32], packed: &mut [f32]) {
        let size = block.terms() * columns::<S>();
        for (panel, packed) in share.panels.clone().zip(packed.chunks_exact_mut(size.max(1))) {
            let column = panel * columns::<S>();
            let width = columns::<S>().min(self.columns - column);
            let sources = block.taps.iter().flat_map(|tap| {
                block.channels.clone().map(move |channel| (tap * self.channels + channel) * self.columns + column)
            });
            for (source, packed) in sources.zip(packed.chunks_exact_mut(columns::<S>())) {
                packed[..width].copy_from_slice(&b[source..source + width]);
            }
        }
    }

    /// The terms of a block at a position, for a right matrix packed at this stride or where it is.
    fn pieces(&self, block: &Block, position: usize, packed: Option<usize>, pieces: &mut Vec<Piece>) {
        pieces.clear();
        let terms = block.channels.len();
        let sources = &self.sources[position * self.taps..][..self.taps];
        for (n, &tap) in block.taps.iter().enumerate().filter(|(_, &tap)| sources[tap] != NONE) {
            let b = match packed {
                Some(stride) => n * terms * stride,
                None => (tap * self.channels + block.channels.start) * self.columns,
            };
            let a = sources[tap] as usize * self.images * padded(self.channels) + block.channels.start;
            pieces.push(Piece { a, b, terms });
        }
    }
}
