//! The kernels' source, which is the same for all networks, and the tiles of its products of matrices.

use zoo_engine::optimizer::{BETA2, EPSILON};
use zoo_engine::variational;
use zoo_engine_cuda::kernels;
use zoo_engine_cuda::source::define;
use zoo_engine_cuda::{KernelSource, KernelSpec};

use crate::geometry::{LANES, SEGMENT};
use crate::kernels::{MOMENTUM, VARIANCE_FLOOR};

/// Threads of a block.
pub const THREADS: usize = 256;

/// Blocks that a multiprocessor should have room for: 128 registers per thread.
const BLOCKS: usize = 2;

/// Rows of a sum over a mini-batch that are in shared memory at a time.
const ROWS: usize = 128;

/// Labels that a kernel is called with: its arguments are at most 4 KB.
pub const LABELS: usize = 1024;

/// Multiprocessors of a large GPU: fewer blocks than these leave some of them idle.
const MULTIPROCESSORS: usize = 132;

/// Sizes of what a block computes of a product of matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tile {
    /// Rows: images, or taps and input channels.
    pub rows: usize,
    /// Columns: output channels.
    pub columns: usize,
    /// Roughly which part of the multiprocessor's arithmetic it keeps busy, beside that of the largest tiles.
    efficiency: f64,
    /// Terms of its sums that are in shared memory at a time; in `kernels/matrix.cu` too.
    depth: usize,
    /// Kernel of convolutions.
    pub convolution: &'static str,
    /// Kernel of gradients of weights.
    pub weight_gradient: &'static str,
}

macro_rules! tile {
    ($rows:literal x $columns:literal x $depth:literal: $efficiency:literal) => {
        Tile {
            rows: $rows,
            columns: $columns,
            efficiency: $efficiency,
            depth: $depth,
            convolution: concat!("convolution_", $rows, "x", $columns),
            weight_gradient: concat!("weight_gradient_", $rows, "x", $columns),
        }
    };
}

/// All tiles.
pub const TILES: [Tile; 5] = [
    tile!(256 x 64 x 8: 1.0),
    tile!(128 x 128 x 8: 1.0),
    tile!(128 x 64 x 16: 0.85),
    tile!(64 x 64 x 16: 0.7),
    tile!(32 x 32 x 16: 0.3),
];

impl Tile {
    /// The tile for `products` products of rows x columns: the least work, the tiles' rests included, where
    /// too few blocks count as many.
    pub fn best(products: usize, rows: usize, columns: usize) -> Self {
        let work = |tile: &Self| {
            let blocks = (products * tile.row_tiles(rows) * tile.column_tiles(columns)).max(MULTIPROCESSORS);
            (blocks * tile.rows * tile.columns) as f64 / tile.efficiency
        };
        TILES.into_iter().min_by(|a, b| work(a).total_cmp(&work(b))).expect("there are tiles")
    }

    /// Number of tiles that cover the given number of rows.
    pub fn row_tiles(&self, rows: usize) -> usize {
        rows.div_ceil(self.rows)
    }

    /// Number of tiles that cover the given number of columns.
    pub fn column_tiles(&self, columns: usize) -> usize {
        columns.div_ceil(self.columns)
    }

    /// Floats of shared memory: both operands, twice.
    fn shared_floats(&self) -> usize {
        2 * self.depth * (self.rows + 4 + self.columns)
    }
}

/// The kernels that do not compute tiles, and whether they use shared memory.
const KERNELS: [(&str, bool); 24] = [
    ("add", false),
    ("add_divergence", false),
    ("add_noise", false),
    ("add_of_squares", false),
    ("add_segments", false),
    ("average_pool", false),
    ("average_pool_gradient", false),
    ("cross_entropy", false),
    ("dropout", false),
    ("exponentials", false),
    ("finish_sums", true),
    ("inverse_deviation", false),
    ("load_images", false),
    ("max_pool", false),
    ("max_pool_gradient", false),
    ("multiply_by", false),
    ("norm_gradient", false),
    ("pointwise", false),
    ("pointwise_gradient", false),
    ("pointwise_gradient_sums", true),
    ("square", false),
    ("sum_segments", true),
    ("transpose", true),
    ("update", false),
];

/// The kernels, for all networks.
pub fn kernel_source() -> KernelSource {
    // Of a sum, two terms of each row's channels, twice.
    let of_sums = 2 * ROWS * 2 * LANES;
    let shared_floats = TILES.iter().map(Tile::shared_floats).fold(of_sums, usize::max);
    let mut text = String::new();
    for (name, value) in [
        ("THREADS", THREADS),
        ("BLOCKS", BLOCKS),
        ("SHARED_FLOATS", shared_floats),
        ("LANES", LANES),
        ("SEGMENT", SEGMENT),
        ("ROWS", ROWS),
        ("LABELS", LABELS),
    ] {
        define(&mut text, name, value);
    }
    for (name, value) in [
        ("ADAM_BETA2", BETA2 as f32),
        ("ADAM_RATE2", (1.0 - BETA2) as f32),
        ("ADAM_EPSILON", EPSILON as f32),
        ("VARIANCE_FLOOR", VARIANCE_FLOOR),
        ("MOMENTUM", MOMENTUM),
        ("NOISE_FLOOR", variational::VARIANCE_FLOOR as f32),
        ("KL_SMALLEST", variational::SMALLEST as f32),
        ("KL_LIMIT", variational::LOG_ALPHA_LIMIT as f32),
        ("KL_1", variational::K[0] as f32),
        ("KL_2", variational::K[1] as f32),
        ("KL_3", variational::K[2] as f32),
    ] {
        define(&mut text, name, format_args!("{value:e}f"));
    }
    text.extend([
        kernels::CUDA,
        kernels::TYPES,
        kernels::FUNCTIONS,
        kernels::RANDOM,
        include_str!("kernels/arguments.cu"),
        include_str!("kernels/tensor.cu"),
        include_str!("kernels/matrix.cu"),
        include_str!("kernels/pointwise.cu"),
        include_str!("kernels/sums.cu"),
        include_str!("kernels/layers.cu"),
        include_str!("kernels/noise.cu"),
    ]);
    let of_tiles = TILES.iter().flat_map(|t| [t.convolution, t.weight_gradient]);
    let kernels = of_tiles.map(|name| (name, true)).chain(KERNELS);
    let kernels = kernels.map(|(name, is_shared)| KernelSpec { name, is_shared }).collect();
    KernelSource { text, threads: THREADS as u32, shared_bytes: shared_floats * size_of::<f32>(), kernels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_what_they_are_for() {
        let best = |products, rows, columns| {
            let tile = Tile::best(products, rows, columns);
            [tile.rows, tile.columns]
        };
        // ResNet-18's first and last stage on 256 images of 32x32: forward, and the gradient of weights.
        assert_eq!(best(1024, 256, 64), [256, 64]);
        assert_eq!(best(64, 9 * 64, 64), [128, 64]);
        assert_eq!(best(16, 256, 512), [256, 64]);
        assert_eq!(best(1, 9 * 512, 512), [256, 64]);
        // Few images, few channels.
        assert_eq!(best(1, 10, 112), [32, 32]);
    }
}
