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
        let (begin, end) = (first / 4, (first + channels).div_ceil(4));
        // Padding lanes draw too, from beyond the row.
        let mut draws = vec![0.0; 4 * (end - begin + S::LANES) + padded(channels)];
        for block in (begin..end).step_by(S::LANES) {
            let mut words = [[0; 16]; 4];
            for lane in 0..S::LANES {
                let of_block = philox([(blocks + block + lane) as u32, step, epoch, purpose], key);
                words.iter_mut().zip(of_block).for_each(|(words, word)| words[lane] = word);
            }
            for (w, normal) in normals(s, words.map(|words| s.load_u32(&words))).into_iter().enumerate() {
                let mut values = [0.0; 16];
                s.store(normal, &mut values);
                let places = draws[4 * (block - begin) + w..].iter_mut().step_by(4);
                places.zip(&values[..S::LANES]).for_each(|(draw, value)| *draw = *value);
            }
        }
        let draws = &draws[first - 4 * begin..];
        let vectors = self.variances.chunks_exact_mut(S::LANES).zip(self.sums.chunks_exact_mut(S::LANES));
        for (i, (variances, sums)) in vectors.enumerate() {
            let draw = s.load(&draws[i * S::LANES..]);
            let (sum, by_variance) = noisy(s, s.load(sums), s.load(variances), draw);
            s.store(sum, sums);
            s.store(by_variance, variances);
        }
    }
}
