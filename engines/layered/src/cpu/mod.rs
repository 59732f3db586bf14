//! The arithmetic on a processor: vectors along channels, all threads of the current rayon pool.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`convolution`] | convolutions and their gradients, as matrix products |
//! | `elementwise` | functions of single values, optimisers among them |
//! | `pointwise` | elementwise layers and their gradients |
//! | `sums` | sums over a mini-batch |
//! | `pooling` | pooling and its gradients |
//! | `loss` | the gradient of the cross entropy |
//! | `noise` | variational dropout |

pub mod convolution;
mod elementwise;
mod loss;
mod noise;
mod pointwise;
mod pooling;
mod sums;

use rayon::prelude::*;
use zoo_engine_simd::Simd;
use zoo_model::random::{dropout_threshold, philox, Purpose};

use crate::geometry::{padded, Geometry, Map};
use crate::kernels::{
    Draw, Kernels, Norm, NormGradient, NormGradientView, Outcome, Pixels, Pointwise, Shape, Statistics, Update,
    MOMENTUM, VARIANCE_FLOOR,
};
use elementwise::{each, Add, AddDivergence, AddOfSquares, Exp, InverseDeviation, Multiply, Share, Square, Step};
use sums::{sum_over, NormSums, Squares, Values};

/// A processor with these vectors.
#[derive(Debug, Clone, Copy)]
pub struct Cpu<S: Simd>(pub S);

/// Floats of a piece of work: well within the caches, and worth handing to a thread.
const PIECE: usize = 16 << 10;

/// Calls `work` on pieces of whole rows, in parallel: the rows' numbers, and their part of `out`.
fn rows_of(out: &mut [f32], row: usize) -> impl IndexedParallelIterator<Item = (std::ops::Range<usize>, &mut [f32])> {
    let rows = (PIECE / row).max(1);
    out.par_chunks_mut(rows * row).enumerate().map(move |(i, out)| (i * rows..i * rows + out.len() / row, out))
}

impl<S: Simd> Kernels for Cpu<S> {
    type Buffer = Vec<f32>;

    fn zeros(&self, floats: usize) -> Outcome<Vec<f32>> {
        Ok(vec![0.0; floats])
    }

    fn upload(&self, from: &[f32], to: &mut Vec<f32>) -> Outcome {
        to[..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn download(&self, from: &Vec<f32>, to: &mut [f32]) -> Outcome {
        to.copy_from_slice(&from[..to.len()]);
        Ok(())
    }

    fn load_images(&self, Pixels { values, table, shape }: Pixels, is_flat: bool, out: &mut Vec<f32>) -> Outcome {
        let [channels, height, width] = shape;
        let (positions, length) = (height * width, channels * height * width);
        let images = values.len() / length;
        let value = |image: usize, i: usize| table[i / positions][usize::from(values[image * length + i])];
        if is_flat {
            let row = padded(length);
            out[..images * row].par_chunks_mut(row).enumerate().for_each(|(image, row)| {
                row[..length].iter_mut().enumerate().for_each(|(i, out)| *out = value(image, i));
            });
        } else {
            let row = padded(channels);
            out[..positions * images * row].par_chunks_mut(images * row).enumerate().for_each(|(position, rows)| {
                for (image, row) in rows.chunks_exact_mut(row).enumerate() {
                    for (channel, out) in row[..channels].iter_mut().enumerate() {
                        *out = value(image, channel * positions + position);
                    }
                }
            });
        }
        Ok(())
    }

    fn convolution(
        &self,
        geometry: &Geometry,
        images: usize,
        x: &Vec<f32>,
        weights: &Vec<f32>,
        bias: Option<&Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Outcome {
        convolution::convolution(self.0, geometry, images, x, weights, bias.map(Vec::as_slice), out);
        Ok(())
    }

    fn transpose(&self, geometry: &Geometry, weights: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        convolution::transpose(geometry, weights, out);
        Ok(())
    }

    fn input_gradient(
        &self,
        geometry: &Geometry,
        images: usize,
        by_output: &Vec<f32>,
        transposed: &Vec<f32>,
        by_input: &mut Vec<f32>,
        accumulates: bool,
    ) -> Outcome {
        convolution::input_gradient(self.0, geometry, images, by_output, transposed, by_input, accumulates);
        Ok(())
    }

    fn weight_gradient(
        &self,
        geometry: &Geometry,
        images: usize,
        x: &Vec<f32>,
        by_output: &Vec<f32>,
        by_weights: &mut Vec<f32>,
    ) -> Outcome {
        convolution::weight_gradient(self.0, geometry, images, x, by_output, by_weights);
        Ok(())
    }

    fn channel_sums(&self, shape: Shape, images: usize, x: &Vec<f32>, sums: &mut Vec<f32>) -> Outcome {
        let [found] = sum_over(self.0, shape, images, &Values(x));
        sums.copy_from_slice(&found);
        Ok(())
    }

    fn batch_statistics(
        &self,
        shape: Shape,
        images: usize,
        x: &Vec<f32>,
        Statistics { mean, inverse_deviation, running_mean, running_variance }: Statistics<Vec<f32>>,
    ) -> Outcome {
        let count = (shape.map.positions() * images) as f32;
        let [sums] = sum_over(self.0, shape, images, &Values(x));
        mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = sum / count);
        let [squares] = sum_over(self.0, shape, images, &Squares { x, mean });
        for channel in 0..shape.channels {
            inverse_deviation[channel] = 1.0 / (squares[channel] / count + VARIANCE_FLOOR).sqrt();
            let unbiased = squares[channel] / (count - 1.0).max(1.0);
            for (running, observed) in [(&mut *running_mean, mean[channel]), (&mut *running_variance, unbiased)] {
                running[channel] = observed.mul_add(MOMENTUM, running[channel] * (1.0 - MOMENTUM));
            }
        }
        Ok(())
    }

    fn inverse_deviation(&self, channels: usize, variance: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        each(self.0, &mut out[..padded(channels)], InverseDeviation(variance));
        Ok(())
    }

    fn pointwise(
        &self,
        shape: Shape,
        images: usize,
        x: &Vec<f32>,
        layers: &Pointwise<Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Outcome {
        pointwise::forward(self.0, shape, x, layers, &mut out[..shape.floats(images)]);
        Ok(())
    }

    fn pointwise_gradient(
        &self,
        shape: Shape,
        images: usize,
        x: &Vec<f32>,
        layers: &Pointwise<Vec<f32>>,
        gradient: &mut Vec<f32>,
        by_norm: Option<NormGradient<Vec<f32>>>,
    ) -> Outcome {
        let gradient = &mut gradient[..shape.floats(images)];
        match (&layers.norm, by_norm) {
            (Some(norm), Some(NormGradient { by_scale, by_shift })) => {
                let [shift, scale] = sum_over(self.0, shape, images, &NormSums::new(x, layers, norm, gradient));
                by_shift.copy_from_slice(&shift);
                by_scale.copy_from_slice(&scale);
            }
            _ => pointwise::gradient(self.0, shape, x, layers, gradient),
        }
        Ok(())
    }

    fn norm_gradient(
        &self,
        shape: Shape,
        images: usize,
        x: &Vec<f32>,
        norm: &Norm<Vec<f32>>,
        gradient: &Vec<f32>,
        by_norm: NormGradientView<Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Outcome {
        let out = &mut out[..shape.floats(images)];
        pointwise::norm_gradient(self.0, (shape, images), x, norm, gradient, &by_norm, out);
        Ok(())
    }

    fn add(&self, floats: usize, from: &Vec<f32>, to: &mut Vec<f32>) -> Outcome {
        each(self.0, &mut to[..floats], Add(from));
        Ok(())
    }

    fn max_pool(
        &self,
        shape: Shape,
        images: usize,
        x: &Vec<f32>,
        out: &mut Vec<f32>,
        winners: &mut Vec<f32>,
    ) -> Outcome {
        let Map { height, width } = shape.map;
        let made = Shape { map: Map { height: height / 2, width: width / 2 }, ..shape }.floats(images);
        pooling::max_pool(self.0, shape, images, x, &mut out[..made], &mut winners[..made]);
        Ok(())
    }

    fn max_pool_gradient(
        &self,
        shape: Shape,
        images: usize,
        by_output: &Vec<f32>,
        winners: &Vec<f32>,
        by_input: &mut Vec<f32>,
    ) -> Outcome {
        pooling::max_pool_gradient(shape, images, by_output, winners, &mut by_input[..shape.floats(images)]);
        Ok(())
    }

    fn average_pool(&self, shape: Shape, images: usize, x: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        pooling::average_pool(self.0, shape, images, x, out);
        Ok(())
    }

    fn average_pool_gradient(
        &self,
        shape: Shape,
        images: usize,
        by_output: &Vec<f32>,
        by_input: &mut Vec<f32>,
    ) -> Outcome {
        let of = &by_output[..images * padded(shape.channels)];
        let share = Share { of, count: shape.map.positions() as f32 };
        each(self.0, &mut by_input[..shape.floats(images)], share);
        Ok(())
    }

    fn dropout_factors(
        &self,
        shape: Shape,
        images: usize,
        probability: f64,
        purpose: Purpose,
        draw: Draw,
        out: &mut Vec<f32>,
    ) -> Outcome {
        let (threshold, kept) = (dropout_threshold(probability), (1.0 / (1.0 - probability)) as f32);
        let (row, positions) = (padded(shape.channels), shape.map.positions());
        // Rows of a position lie apart where there are several: the few maps that are dropped from are small.
        let units = shape.channels * positions;
        let key = [draw.seed as u32, (draw.seed >> 32) as u32];
        let word = |unit: usize| philox([(unit / 4) as u32, draw.step, draw.epoch, purpose.word()], key)[unit % 4];
        out[..positions * images * row].par_chunks_mut(row).enumerate().for_each(|(r, out)| {
            let (position, image) = (r / images, r % images);
            for (channel, out) in out[..shape.channels].iter_mut().enumerate() {
                let is_kept = word(image * units + channel * positions + position) >= threshold;
                *out = if is_kept { kept } else { 0.0 };
            }
        });
        Ok(())
    }

    fn cross_entropy_gradient(&self, classes: usize, logits: &Vec<f32>, labels: &[u16], out: &mut Vec<f32>) -> Outcome {
        loss::cross_entropy_gradient(classes, logits, labels, out);
        Ok(())
    }

    fn square(&self, floats: usize, x: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        each(self.0, &mut out[..floats], Square(x));
        Ok(())
    }

    fn multiply(&self, floats: usize, by: &Vec<f32>, to: &mut Vec<f32>) -> Outcome {
        each(self.0, &mut to[..floats], Multiply(by));
        Ok(())
    }

    fn add_noise(
        &self,
        shape: Shape,
        images: usize,
        layer: u8,
        draw: Draw,
        variances: &mut Vec<f32>,
        sums: &mut Vec<f32>,
    ) -> Outcome {
        noise::add_noise(self.0, shape, images, layer, draw, variances, sums);
        Ok(())
    }

    fn add_of_squares(&self, floats: usize, x: &Vec<f32>, by_squares: &Vec<f32>, gradient: &mut Vec<f32>) -> Outcome {
        each(self.0, &mut gradient[..floats], AddOfSquares { x, by_squares });
        Ok(())
    }

    fn exp(&self, floats: usize, x: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        each(self.0, &mut out[..floats], Exp(x));
        Ok(())
    }

    fn add_divergence(
        &self,
        floats: usize,
        [weights, log_sigma2, sigma2]: [&Vec<f32>; 3],
        kl_weight: f32,
        by_weights: &mut Vec<f32>,
        by_noise: &mut Vec<f32>,
    ) -> Outcome {
        let gradients = by_weights[..floats].par_chunks_mut(PIECE).zip(by_noise[..floats].par_chunks_mut(PIECE));
        gradients.enumerate().for_each(|(i, (by_weights, by_noise))| {
            let piece = i * PIECE..i * PIECE + by_weights.len();
            let [weights, log_sigma2, sigma2] = [weights, log_sigma2, sigma2].map(|of| &of[piece.clone()]);
            self.0.vectorize(AddDivergence { weights, log_sigma2, sigma2, kl_weight, by_weights, by_noise });
        });
        Ok(())
    }

    fn update(
        &self,
        floats: usize,
        update: Update,
        gradient: &Vec<f32>,
        mask: Option<&Vec<f32>>,
        parameters: &mut Vec<f32>,
        moments: &mut [Vec<f32>],
    ) -> Outcome {
        let (first, second) = moments.split_first_mut().expect("an optimiser has moments");
        // Without a second one, an empty piece for each.
        let second = second.first_mut().map_or(&mut [][..], |second| &mut second[..floats]);
        let pieces = floats.div_ceil(PIECE);
        let mut second: Vec<&mut [f32]> = second.chunks_mut(PIECE).collect();
        second.resize_with(pieces, || &mut []);
        let pieces = parameters[..floats].par_chunks_mut(PIECE).zip(first[..floats].par_chunks_mut(PIECE)).zip(second);
        pieces.enumerate().for_each(|(i, ((parameters, first), second))| {
            let piece = i * PIECE..i * PIECE + parameters.len();
            let (gradient, mask) = (&gradient[piece.clone()], mask.map(|mask| &mask[piece]));
            self.0.vectorize(Step { update, gradient, mask, parameters, first, second });
        });
        Ok(())
    }
}
