//! A convolution and the gradient of its input: at every position a sum of products of matrices.

use std::ops::Range;

use rayon::prelude::*;
use zoo_engine_simd::Simd;

use super::tile::{cut, height, multiply, width, with_scratch, Piece, Start, Tile};
use super::{MIN_PACKED, MIN_TASK};
use crate::geometry::padded;

/// Terms of a block of the reduction: a tile's rows of the left matrix stay in the first-level cache,
/// the panels of the right one in the second.
const DEPTH: usize = 576;

/// Panels of the right matrix that a task multiplies with one block of the left.
const PANELS: usize = 4;

/// Tiles of a share whose panels others pack, too.
const MIN_TILES: usize = 16;

/// No position.
const NONE: u32 = u32::MAX;

/// At every position the sum over the taps of products (images, channels) x (channels, columns).
pub(super) struct Product {
    /// Of the result.
    positions: usize,
    images: usize,
    /// Of the reduction.
    channels: usize,
    /// From one row of the left matrix to the next.
    stride: usize,
    /// Of the result.
    columns: usize,
    taps: usize,
    /// The left matrix's position of every (position, tap); [`NONE`] in padding.
    sources: Vec<u32>,
    blocks: Vec<Block>,
}

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

// SAFETY: the start is only read; `Product::tile` says why no two tasks write the same of the result.
unsafe impl Sync for Operands<'_> {}

/// A task's share of the result.
struct Share {
    /// Tiles of rows: (tile of images, position), so that rows that several taps need are still in the
    /// cache.
    tiles: Range<usize>,
    panels: Range<usize>,
}

/// The right matrix of a block of a share.
#[derive(Clone, Copy)]
enum Right<'a> {
    /// Where it is: from one row to the next.
    There(usize),
    /// A panel after the other.
    Packed(&'a [f32]),
}

/// A tile's rows: images at a position.
struct Rows {
    position: usize,
    images: Range<usize>,
}

impl Product {
    /// The product whose left matrix is at position `source(position, tap)`, if that is not padding.
    pub(super) fn new(
        taps: usize,
        positions: usize,
        images: usize,
        channels: usize,
        columns: usize,
        source: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let mut sources = Vec::with_capacity(positions * taps);
        for position in 0..positions {
            sources.extend((0..taps).map(|tap| source(position, tap).map_or(NONE, |source| source as u32)));
        }
        let is_used = |&tap: &usize| sources[tap..].iter().step_by(taps).any(|&source| source != NONE);
        let used: Vec<usize> = (0..taps).filter(is_used).collect();
        let blocks = blocks(&used, channels);
        Self { positions, images, channels, stride: padded(channels), columns, taps, sources, blocks }
    }

    /// Computes it in the current thread pool. `a` and `b` must have all rows of the matrices.
    pub(super) fn run<S: Simd>(&self, s: S, a: &[f32], b: &[f32], start: Start, out: &mut [f32]) {
        let out = out[..self.positions * self.images * self.columns].as_mut_ptr();
        let operands = &Operands { a, b, start, out };
        match &self.shares::<S>()[..] {
            [share] => self.task(s, share, operands),
            shares => shares.par_iter().with_max_len(1).for_each(|share| self.task(s, share, operands)),
        }
    }

    /// Tiles of images at a position.
    fn image_tiles<S: Simd>(&self) -> usize {
        self.images.div_ceil(height::<S>())
    }

    /// Shares of about equal work, some for each thread.
    fn shares<S: Simd>(&self) -> Vec<Share> {
        let tiles = self.positions * self.image_tiles::<S>();
        let panels = self.columns.div_ceil(width::<S>());
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
        let is_packed = share.tiles.len() >= MIN_PACKED && self.columns > width::<S>();
        let largest = self.blocks.iter().map(Block::terms).max().unwrap_or(0);
        let floats = if is_packed { largest * share.panels.len() * width::<S>() } else { 0 };
        with_scratch(floats, |packed| {
            for (n, block) in self.blocks.iter().enumerate() {
                let start = if n == 0 { operands.start } else { Start::There };
                let right = if is_packed {
                    self.pack::<S>(block, share, operands.b, packed);
                    Right::Packed(packed)
                } else {
                    Right::There(self.columns)
                };
                self.block(s, block, share, &Operands { start, ..*operands }, right);
            }
        });
    }

    /// Computes a block of a share.
    fn block<S: Simd>(&self, s: S, block: &Block, share: &Share, operands: &Operands, right: Right) {
        let stride = match right {
            Right::There(stride) => stride,
            Right::Packed(_) => width::<S>(),
        };
        let mut pieces = Vec::with_capacity(block.taps.len());
        for tile in share.tiles.clone() {
            let rows = self.rows::<S>(tile);
            let next = (tile + 1 < share.tiles.end).then(|| self.rows::<S>(tile + 1));
            self.pieces(block, rows.position, right, stride, &mut pieces);
            if pieces.is_empty() && matches!(operands.start, Start::There) {
                continue;
            }
            for panel in share.panels.clone() {
                let b = match right {
                    Right::There(_) => &operands.b[panel * width::<S>()..],
                    Right::Packed(packed) => &packed[(panel - share.panels.start) * block.terms() * stride..],
                };
                self.tile(s, operands, b.as_ptr(), stride, &pieces, &rows, panel * width::<S>());
                if let Some(next) = &next {
                    self.prefetch::<S>(block, share, operands, &rows, next, panel);
                }
            }
        }
    }

    fn rows<S: Simd>(&self, tile: usize) -> Rows {
        let tiles = self.image_tiles::<S>();
        let (position, tile) = (tile % self.positions, tile / self.positions);
        Rows { position, images: cut(self.images, tiles, tile)..cut(self.images, tiles, tile + 1) }
    }

    /// Computes a tile of the columns from `column`.
    #[allow(clippy::too_many_arguments)]
    fn tile<S: Simd>(
        &self,
        s: S,
        operands: &Operands,
        b: *const f32,
        b_stride: usize,
        pieces: &[Piece],
        rows: &Rows,
        column: usize,
    ) {
        let tile = Tile {
            a: operands.a[rows.images.start * self.stride..].as_ptr(),
            a_stride: self.stride,
            b,
            b_stride,
            pieces,
            start: match operands.start {
                Start::Row(row) => Start::Row(row.wrapping_add(column)),
                other => other,
            },
            c: operands.out.wrapping_add(self.result_row(rows.position, rows.images.start) + column),
            c_stride: self.columns,
        };
        // SAFETY: the public functions have checked the sizes of all matrices, `run` that of the
        // result; no two shares have the same tile and panel.
        unsafe { multiply::<S, true>(s, tile, rows.images.len(), width::<S>().min(self.columns - column)) };
    }

    /// Where a row of the result begins.
    #[inline]
    fn result_row(&self, position: usize, image: usize) -> usize {
        (position * self.images + image) * self.columns
    }

    /// After each panel, asks for its part of what the next tile needs and this one does not.
    #[allow(clippy::too_many_arguments)]
    fn prefetch<S: Simd>(
        &self,
        block: &Block,
        share: &Share,
        operands: &Operands,
        rows: &Rows,
        next: &Rows,
        panel: usize,
    ) {
        let sources = |position| &self.sources[position * self.taps..][..self.taps];
        let (before, after) = (sources(rows.position), sources(next.position));
        let (part, parts) = (panel - share.panels.start, share.panels.len());
        let images = next.images.start + cut(next.images.len(), parts, part)
            ..next.images.start + cut(next.images.len(), parts, part + 1);
        for &tap in &block.taps {
            // At the neighbouring position, a neighbouring tap had it.
            let neighbours = &before[tap.saturating_sub(2)..self.taps.min(tap + 3)];
            if after[tap] != NONE && !neighbours.contains(&after[tap]) {
                for image in images.clone() {
                    let row = (after[tap] as usize * self.images + image) * self.stride;
                    prefetch(operands.a.as_ptr().wrapping_add(row + block.channels.start), block.channels.len());
                }
            }
        }
        let column = share.panels.start * width::<S>();
        let floats = (parts * width::<S>()).min(self.columns - column);
        for image in images {
            let row = self.result_row(next.position, image);
            prefetch(operands.out.wrapping_add(row + column), floats);
        }
    }

    /// Copies a block's rows of the share's panels, panel by panel.
    fn pack<S: Simd>(&self, block: &Block, share: &Share, b: &[f32], packed: &mut [f32]) {
        let size = block.terms() * width::<S>();
        let columns = share.panels.start * width::<S>()..self.columns.min(share.panels.end * width::<S>());
        let rows = block.taps.iter().flat_map(|tap| block.channels.clone().map(move |at| tap * self.channels + at));
        for (n, row) in rows.enumerate() {
            let row = &b[row * self.columns..][columns.clone()];
            for (panel, floats) in row.chunks(width::<S>()).enumerate() {
                packed[panel * size + n * width::<S>()..][..floats.len()].copy_from_slice(floats);
            }
        }
    }

    /// The terms of a block at a position.
    fn pieces(&self, block: &Block, position: usize, right: Right, stride: usize, pieces: &mut Vec<Piece>) {
        pieces.clear();
        let terms = block.channels.len();
        let sources = &self.sources[position * self.taps..][..self.taps];
        for (n, &tap) in block.taps.iter().enumerate().filter(|(_, &tap)| sources[tap] != NONE) {
            let row = match right {
                Right::There(_) => tap * self.channels + block.channels.start,
                Right::Packed(_) => n * terms,
            };
            let a = sources[tap] as usize * self.images * self.stride + block.channels.start;
            pieces.push(Piece { a, b: row * stride, terms });
        }
    }
}

/// Cuts a reduction into blocks of whole taps, or if there are too many channels, of some of a tap's.
fn blocks(taps: &[usize], channels: usize) -> Vec<Block> {
    if channels < DEPTH {
        let parts = taps.len().div_ceil(DEPTH / channels).max(1);
        let taps = |part| taps[cut(taps.len(), parts, part)..cut(taps.len(), parts, part + 1)].to_vec();
        return (0..parts).map(|part| Block { taps: taps(part), channels: 0..channels }).collect();
    }
    let parts = channels.div_ceil(DEPTH);
    let part = |part| cut(channels, parts, part)..cut(channels, parts, part + 1);
    taps.iter().flat_map(|&tap| (0..parts).map(move |n| Block { taps: vec![tap], channels: part(n) })).collect()
}

/// Asks for floats to be brought to the caches.
#[inline]
fn prefetch(floats: *const f32, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..count).step_by(16) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: every x86-64 processor has it, and it accesses no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(floats.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (floats, count);
}
