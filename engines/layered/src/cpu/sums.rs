//! Sums over a mini-batch: a task for each segment and group of channels, then the tree.

#![allow(unsafe_code)]

use rayon::prelude::*;
use zoo_engine_simd::{Kernel, Simd};

use super::pointwise::{centred, derivative};
use crate::geometry::{padded, segments, tree, LANES};
use crate::kernels::{Norm, Pointwise, Shape};

/// Channels of a task: enough independent chains, and whole cache lines.
const GROUP: usize = 4 * LANES;

/// What is added up: `SUMS` sums of each channel.
pub trait Summand<S: Simd, const SUMS: usize>: Sync {
    /// Continues the sums by the vector at `place`, whose channels begin at `channel`.
    ///
    /// # Safety
    /// Two calls at once must be for different places.
    unsafe fn add(&self, s: S, place: usize, channel: usize, sums: [S::F; SUMS]) -> [S::F; SUMS];
}

/// The sums of each channel, vectors of the padded channels.
pub fn sum_over<S: Simd, const SUMS: usize>(
    s: S,
    shape: Shape,
    images: usize,
    summand: &impl Summand<S, SUMS>,
) -> [Vec<f32>; SUMS] {
    let row = padded(shape.channels);
    let (groups, segments) = (row.div_ceil(GROUP), segments(shape.map.positions() * images).collect::<Vec<_>>());
    let tasks: Vec<[Vec<f32>; SUMS]> = (0..groups * segments.len())
        .into_par_iter()
        .map(|task| {
            let channels = task / segments.len() * GROUP..row.min((task / segments.len() + 1) * GROUP);
            let rows = segments[task % segments.len()].clone();
            s.vectorize(Task::<_, SUMS> { row, rows, channels, summand })
        })
        .collect();
    let mut sums: [Vec<f32>; SUMS] = std::array::from_fn(|_| Vec::with_capacity(row));
    for group in tasks.chunks_exact(segments.len().max(1)) {
        let plus = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(b).map(|(a, b)| a + b).collect();
        for (k, sums) in sums.iter_mut().enumerate() {
            let of_segments = group.iter().map(|task| task[k].clone()).collect();
            sums.extend(tree(of_segments, plus).expect("there are segments"));
        }
    }
    sums
}

struct Task<'a, T, const SUMS: usize> {
    row: usize,
    rows: std::ops::Range<usize>,
    channels: std::ops::Range<usize>,
    summand: &'a T,
}

impl<S: Simd, const SUMS: usize, T: Summand<S, SUMS>> Kernel<S> for Task<'_, T, SUMS> {
    type Output = [Vec<f32>; SUMS];

    #[inline(always)]
    fn run(self, s: S) -> [Vec<f32>; SUMS] {
        let Self { row, rows, channels, summand } = self;
        let mut out: [Vec<f32>; SUMS] = std::array::from_fn(|_| vec![0.0; channels.len()]);
        // Four vectors at once, so that their chains hide each other's latency.
        let mut channel = channels.start;
        while channel < channels.end {
            let vectors = ((channels.end - channel) / S::LANES).min(4);
            let mut sums = [[s.splat(0.0); SUMS]; 4];
            if vectors == 4 {
                for r in rows.clone() {
                    for (v, sums) in sums.iter_mut().enumerate() {
                        let channel = channel + v * S::LANES;
                        // SAFETY: every place is visited once, by the task of its segment and group.
                        *sums = unsafe { summand.add(s, r * row + channel, channel, *sums) };
                    }
                }
            } else {
                for (v, sums) in sums.iter_mut().enumerate().take(vectors) {
                    let channel = channel + v * S::LANES;
                    for r in rows.clone() {
                        // SAFETY: as above.
                        *sums = unsafe { summand.add(s, r * row + channel, channel, *sums) };
                    }
                }
            }
            for (v, sums) in sums.into_iter().enumerate().take(vectors) {
                for (out, sum) in out.iter_mut().zip(sums) {
                    s.store(sum, &mut out[channel - channels.start + v * S::LANES..]);
                }
            }
            channel += vectors * S::LANES;
        }
        out
    }
}

/// A tensor's values.
pub struct Values<'a>(pub &'a [f32]);

impl<S: Simd> Summand<S, 1> for Values<'_> {
    #[inline(always)]
    unsafe fn add(&self, s: S, place: usize, _: usize, [sum]: [S::F; 1]) -> [S::F; 1] {
        [s.add(sum, s.load(&self.0[place..]))]
    }
}

/// Squares of the distances from the channels' means.
pub struct Squares<'a> {
    /// A tensor.
    pub x: &'a [f32],
    /// Means of the padded channels.
    pub mean: &'a [f32],
}

impl<S: Simd> Summand<S, 1> for Squares<'_> {
    #[inline(always)]
    unsafe fn add(&self, s: S, place: usize, channel: usize, [sum]: [S::F; 1]) -> [S::F; 1] {
        let d = s.sub(s.load(&self.x[place..]), s.load(&self.mean[channel..]));
        [s.fma(d, d, sum)]
    }
}

/// A gradient that becomes that of the normalised values, and what the shift and the scale get of it.
pub struct NormSums<'a> {
    x: &'a [f32],
    layers: &'a Pointwise<'a, Vec<f32>>,
    norm: &'a Norm<'a, Vec<f32>>,
    gradient: *mut f32,
    floats: usize,
}

// SAFETY: those who share it write to different places (see `Summand::add`).
unsafe impl Sync for NormSums<'_> {}

impl<'a> NormSums<'a> {
    /// Of a pointwise layer with this norm.
    pub fn new(
        x: &'a [f32],
        layers: &'a Pointwise<'a, Vec<f32>>,
        norm: &'a Norm<'a, Vec<f32>>,
        gradient: &'a mut [f32],
    ) -> Self {
        Self { x, layers, norm, floats: gradient.len(), gradient: gradient.as_mut_ptr() }
    }
}

impl<S: Simd> Summand<S, 2> for NormSums<'_> {
    #[inline(always)]
    unsafe fn add(&self, s: S, place: usize, channel: usize, [shift, scale]: [S::F; 2]) -> [S::F; 2] {
        assert!(place + S::LANES <= self.floats);
        let x = s.load(&self.x[place..]);
        // SAFETY: within the gradient, and of no other call.
        let by_output = unsafe { s.load_from(self.gradient.add(place)) };
        let d = derivative(s, self.layers, place, channel, x, by_output);
        // SAFETY: as above.
        unsafe { s.store_to(d, self.gradient.add(place)) };
        [s.add(shift, d), s.fma(d, centred(s, self.norm, channel, x), scale)]
    }
}
