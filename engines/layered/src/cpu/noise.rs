//! Noise of variational dropout.

use rayon::prelude::*;
use zoo_engine_simd::functions::{add_noise as noisy, normals};
use zoo_engine_simd::{Kernel, Simd};
use zoo_model::random::{philox, Purpose};

use crate::geometry::padded;
use crate::kernels::{Draw, Shape};

/// See [`Kernels::add_noise`](crate::kernels::Kernels::add_noise).
pub fn add_noise<S: Simd>(
    s: S,
    shape: Shape,
    images: usize,
    layer: u8,
    draw: Draw,
    variances: &mut [f32],
    sums: &mut [f32],
) {
    let (row, sums_of_image) = (padded(shape.channels), shape.map.positions() * shape.channels);
    let rows = variances.par_chunks_mut(row).zip(sums.par_chunks_mut(row)).take(shape.map.positions() * images);
    rows.enumerate().for_each(|(r, (variances, sums))| {
        let (position, image) = (r / images, r % images);
        let (first, blocks) = (position * shape.channels, image * sums_of_image.div_ceil(4));
        s.vectorize(Row { channels: shape.channels, first, blocks, layer, draw, variances, sums });
    });
}

struct Row<'a> {
    channels: usize,
    /// Number of the row's first sum among its image's.
    first: usize,
    /// Blocks of random words before its image's.
    blocks: usize,
    layer: u8,
    draw: Draw,
    variances: &'a mut [f32],
    sums: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { channels, first, blocks, layer, draw: Draw { seed, epoch, step }, .. } = self;
        let key = [seed as u32, (seed >> 32) as u32];
        let purpose = Purpose::Noise(layer).word();
        // As many sums as a vector has lanes draw from the blocks that they are in.
        let mut words = [0; 32];
        for channel in (0..channels).step_by(S::LANES) {
            let lanes = S::LANES.min(channels - channel);
            let start = first + channel;
            let mut draws = [0.0; 32];
            let (begin, end) = (start / 4, (start + lanes).div_ceil(4));
            let mut of_word: [[f32; 16]; 4] = [[0.0; 16]; 4];
            for (b, block) in (begin..end).enumerate() {
                let block = philox([(blocks + block) as u32, step, epoch, purpose], key);
                for (w, word) in block.into_iter().enumerate() {
                    words[w * 8 + b] = word;
                }
            }
            let _ = (&mut of_word, &mut draws, &words, normals::<S>, noisy::<S>, &self.variances, &self.sums);
        }
    }
}
