//! Elementwise layers, and what their gradients need of them.

use rayon::prelude::*;
use zoo_engine_simd::functions::activate;
use zoo_engine_simd::{Kernel, Simd};

use super::rows_of;
use crate::geometry::padded;
use crate::kernels::{Norm, NormGradientView, Pointwise, Shape};

/// Buffers of a processor.
type Buffer = Vec<f32>;

/// A vector of a batch normalisation's channels: mean, scale times inverse deviation, shift.
#[inline(always)]
fn normalize<S: Simd>(s: S, norm: &Norm<Buffer>, channel: usize, x: S::F) -> S::F {
    let factor = s.mul(s.load(&norm.scale[channel..]), s.load(&norm.inverse_deviation[channel..]));
    s.fma(s.sub(x, s.load(&norm.mean[channel..])), factor, s.load(&norm.shift[channel..]))
}

/// A normalised value before its scale and shift.
#[inline(always)]
pub fn centred<S: Simd>(s: S, norm: &Norm<Buffer>, channel: usize, x: S::F) -> S::F {
    s.mul(s.sub(x, s.load(&norm.mean[channel..])), s.load(&norm.inverse_deviation[channel..]))
}

/// What the activation sees: `place` is the vector's place in the tensor.
#[inline(always)]
fn before_activation<S: Simd>(s: S, layers: &Pointwise<Buffer>, place: usize, channel: usize, x: S::F) -> S::F {
    let z = match &layers.norm {
        Some(norm) => normalize(s, norm, channel, x),
        None => x,
    };
    match layers.addend {
        Some(addend) => s.add(z, s.load(&addend[place..])),
        None => z,
    }
}

/// See [`Kernels::pointwise`](crate::kernels::Kernels::pointwise).
pub fn forward<S: Simd>(s: S, shape: Shape, x: &[f32], layers: &Pointwise<Buffer>, out: &mut [f32]) {
    let row = padded(shape.channels);
    rows_of(out, row).for_each(|(rows, out)| s.vectorize(Forward { row, first: rows.start * row, x, layers, out }));
}

struct Forward<'a> {
    row: usize,
    /// Place of `out` in the tensor.
    first: usize,
    x: &'a [f32],
    layers: &'a Pointwise<'a, Buffer>,
    out: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { row, first, x, layers, out } = self;
        for (r, out) in out.chunks_exact_mut(row).enumerate() {
            for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
                let channel = i * S::LANES;
                let place = first + r * row + channel;
                let z = before_activation(s, layers, place, channel, s.load(&x[place..]));
                let y = match layers.activation {
                    Some(activation) => activate(s, activation, z).0,
                    None => z,
                };
                let y = match layers.factors {
                    Some(factors) => s.mul(y, s.load(&factors[place..])),
                    None => y,
                };
                s.store(y, out);
            }
        }
    }
}

/// The gradient by what the activation sees, from that by the output.
#[inline(always)]
pub fn derivative<S: Simd>(
    s: S,
    layers: &Pointwise<Buffer>,
    place: usize,
    channel: usize,
    x: S::F,
    by_output: S::F,
) -> S::F {
    let by_value = match layers.factors {
        Some(factors) => s.mul(by_output, s.load(&factors[place..])),
        None => by_output,
    };
    match layers.activation {
        Some(activation) => {
            let z = before_activation(s, layers, place, channel, x);
            s.mul(by_value, activate(s, activation, z).1)
        }
        None => by_value,
    }
}

/// See [`Kernels::pointwise_gradient`](crate::kernels::Kernels::pointwise_gradient), without a norm.
pub fn gradient<S: Simd>(s: S, shape: Shape, x: &[f32], layers: &Pointwise<Buffer>, gradient: &mut [f32]) {
    let row = padded(shape.channels);
    rows_of(gradient, row).for_each(|(rows, gradient)| {
        s.vectorize(Gradient { row, first: rows.start * row, x, layers, gradient });
    });
}

struct Gradient<'a> {
    row: usize,
    /// Place of `gradient` in the tensor.
    first: usize,
    x: &'a [f32],
    layers: &'a Pointwise<'a, Buffer>,
    gradient: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { row, first, x, layers, gradient } = self;
        for (i, values) in gradient.chunks_exact_mut(S::LANES).enumerate() {
            let place = first + i * S::LANES;
            let channel = i * S::LANES % row;
            let d = derivative(s, layers, place, channel, s.load(&x[place..]), s.load(values));
            s.store(d, values);
        }
    }
}

/// See [`Kernels::norm_gradient`](crate::kernels::Kernels::norm_gradient).
pub fn norm_gradient<S: Simd>(
    s: S,
    (shape, images): (Shape, usize),
    x: &[f32],
    norm: &Norm<Buffer>,
    gradient: &[f32],
    by_norm: &NormGradientView<Buffer>,
    out: &mut [f32],
) {
    let (row, count) = (padded(shape.channels), (shape.map.positions() * images) as f32);
    rows_of(out, row).for_each(|(rows, out)| {
        s.vectorize(NormGradientRows { row, first: rows.start * row, count, x, norm, gradient, by_norm, out });
    });
}

struct NormGradientRows<'a> {
    row: usize,
    /// Place of `out` in the tensor.
    first: usize,
    /// Terms of the mini-batch.
    count: f32,
    x: &'a [f32],
    norm: &'a Norm<'a, Buffer>,
    gradient: &'a [f32],
    by_norm: &'a NormGradientView<'a, Buffer>,
    out: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for NormGradientRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { row, first, x, norm, gradient, by_norm, out, .. } = self;
        let count = s.splat(self.count);
        // Channels outside, so that divisions are done once.
        for channel in (0..row).step_by(S::LANES) {
            let by_shift = s.div(s.load(&by_norm.by_shift[channel..]), count);
            let by_scale = s.sub(s.splat(-0.0), s.div(s.load(&by_norm.by_scale[channel..]), count));
            let factor = s.mul(s.load(&norm.scale[channel..]), s.load(&norm.inverse_deviation[channel..]));
            for place in (channel..out.len()).step_by(row) {
                let xhat = centred(s, norm, channel, s.load(&x[first + place..]));
                let d = s.sub(s.load(&gradient[first + place..]), by_shift);
                s.store(s.mul(s.fma(xhat, by_scale, d), factor), &mut out[place..]);
            }
        }
    }
}
