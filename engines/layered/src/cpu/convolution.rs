//! Convolutions: products of plain matrices at every position, summed over the taps, with no copies of
//! patches and no work in padding.

#![allow(unsafe_code)]

mod product;
mod tile;
mod weights;

#[cfg(test)]
mod tests;

use rayon::prelude::*;
use zoo_engine_simd::Simd;

use self::product::Product;
use self::tile::Start;
pub use self::weights::weight_gradient;
use crate::geometry::{padded, Geometry};

/// Tiles that a packed panel must serve, else it is read where it is.
const MIN_PACKED: usize = 6;

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
