//! The arithmetic in plain scalar code: the oracle of all devices, and what [`Kernels`] means where its
//! words leave a doubt.

use zoo_engine::optimizer::{BETA2, EPSILON};
use zoo_engine_simd::functions::{activate, add_noise, exp, kl_gradient, normals};
use zoo_engine_simd::Portable;
use zoo_model::dataset::normalize_image;
use zoo_model::random::{dropout_threshold, philox, Purpose, Stream};
use zoo_model::Activation;

use crate::geometry::{padded, segments, tree, Geometry, Map};
use crate::kernels::{
    Draw, Kernels, Norm, NormGradient, NormGradientView, Outcome, Pixels, Pointwise, Shape, Statistics, Update,
    MOMENTUM, VARIANCE_FLOOR,
};

/// A device of one scalar unit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference;

/// Place of a value in a tensor.
fn at(shape_channels: usize, images: usize, position: usize, image: usize, channel: usize) -> usize {
    (position * images + image) * padded(shape_channels) + channel
}

/// A sum over a mini-batch: `term` continues a chain by its n-th term.
fn sum_over(terms: usize, term: impl Fn(f32, usize) -> f32) -> f32 {
    let sums = segments(terms).map(|segment| segment.fold(0.0, &term));
    tree(sums.collect(), |a, b| a + b).unwrap_or(0.0)
}

/// A normalised value, before its scale and shift.
fn normalized(norm: &Norm<Vec<f32>>, channel: usize, x: f32) -> f32 {
    (x - norm.mean[channel]) * norm.inverse_deviation[channel]
}

/// What a pointwise layer's activation sees.
fn before_activation(layers: &Pointwise<Vec<f32>>, place: usize, channel: usize, x: f32) -> f32 {
    let z = match &layers.norm {
        Some(norm) => {
            let factor = norm.scale[channel] * norm.inverse_deviation[channel];
            (x - norm.mean[channel]).mul_add(factor, norm.shift[channel])
        }
        None => x,
    };
    layers.addend.map_or(z, |addend| z + addend[place])
}

/// An activation's value and derivative.
fn activated(activation: Option<Activation>, x: f32) -> (f32, f32) {
    match activation {
        Some(activation) => {
            let ([value], [derivative]) = activate(Portable::<1>, activation, [x]);
            (value, derivative)
        }
        None => (x, 1.0),
    }
}

/// Each value of a tensor: its place and channel.
fn places(shape: Shape, images: usize) -> impl Iterator<Item = (usize, usize)> {
    let row = padded(shape.channels);
    let rows = shape.map.positions() * images;
    (0..rows).flat_map(move |r| (0..shape.channels).map(move |channel| (r * row + channel, channel)))
}

/// The input positions of the 2x2 window of each output position.
fn windows(map: Map) -> impl Iterator<Item = [usize; 4]> {
    let Map { height, width } = map;
    let corners = (0..height / 2).flat_map(move |y| (0..width / 2).map(move |x| 2 * y * width + 2 * x));
    corners.map(move |corner| [corner, corner + 1, corner + width, corner + width + 1])
}

impl Kernels for Reference {
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
        let (length, positions) = (channels * height * width, height * width);
        let images = values.len() / length;
        let mut planar = vec![0.0; length];
        for (image, pixels) in values.chunks_exact(length).enumerate() {
            normalize_image(pixels, table, &mut planar);
            // `normalize_image` gives (position, channel).
            for (i, &value) in planar.iter().enumerate() {
                let (position, channel) = (i / channels, i % channels);
                let place = match is_flat {
                    true => at(length, images, 0, image, channel * positions + position),
                    false => at(channels, images, position, image, channel),
                };
                out[place] = value;
            }
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
        let &Geometry { inputs, outputs, .. } = geometry;
        for position in 0..geometry.output.positions() {
            for (image, output) in (0..images).flat_map(|image| (0..outputs).map(move |output| (image, output))) {
                let mut sum = bias.map_or(0.0, |bias| bias[output]);
                for tap in 0..geometry.taps() {
                    let Some(from) = geometry.input_position(position, tap) else { continue };
                    for input in 0..inputs {
                        let weight = weights[(tap * inputs + input) * padded(outputs) + output];
                        sum = x[at(inputs, images, from, image, input)].mul_add(weight, sum);
                    }
                }
                out[at(outputs, images, position, image, output)] = sum;
            }
        }
        Ok(())
    }

    fn transpose(&self, geometry: &Geometry, weights: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        let &Geometry { inputs, outputs, .. } = geometry;
        for tap in 0..geometry.taps() {
            for (input, output) in (0..inputs).flat_map(|input| (0..outputs).map(move |output| (input, output))) {
                out[(tap * outputs + output) * padded(inputs) + input] =
                    weights[(tap * inputs + input) * padded(outputs) + output];
            }
        }
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
        let &Geometry { inputs, outputs, .. } = geometry;
        for position in 0..geometry.input.positions() {
            for (image, input) in (0..images).flat_map(|image| (0..inputs).map(move |input| (image, input))) {
                let place = at(inputs, images, position, image, input);
                let mut sum = if accumulates { by_input[place] } else { 0.0 };
                for tap in 0..geometry.taps() {
                    let Some(from) = geometry.output_position(position, tap) else { continue };
                    for output in 0..outputs {
                        let weight = transposed[(tap * outputs + output) * padded(inputs) + input];
                        sum = by_output[at(outputs, images, from, image, output)].mul_add(weight, sum);
                    }
                }
                by_input[place] = sum;
            }
        }
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
        let &Geometry { inputs, outputs, .. } = geometry;
        let terms = geometry.output.positions() * images;
        for tap in 0..geometry.taps() {
            for (input, output) in (0..inputs).flat_map(|input| (0..outputs).map(move |output| (input, output))) {
                let term = |sum: f32, k: usize| {
                    let (position, image) = (k / images, k % images);
                    let Some(from) = geometry.input_position(position, tap) else { return sum };
                    let dy = by_output[at(outputs, images, position, image, output)];
                    x[at(inputs, images, from, image, input)].mul_add(dy, sum)
                };
                by_weights[(tap * inputs + input) * padded(outputs) + output] = sum_over(terms, term);
            }
        }
        Ok(())
    }

    fn channel_sums(&self, shape: Shape, images: usize, x: &Vec<f32>, sums: &mut Vec<f32>) -> Outcome {
        let row = padded(shape.channels);
        for channel in 0..shape.channels {
            sums[channel] = sum_over(shape.map.positions() * images, |sum, k| sum + x[k * row + channel]);
        }
        Ok(())
    }

    fn batch_statistics(&self, shape: Shape, images: usize, x: &Vec<f32>, statistics: Statistics<Vec<f32>>) -> Outcome {
        let (row, terms) = (padded(shape.channels), shape.map.positions() * images);
        let Statistics { mean, inverse_deviation, running_mean, running_variance } = statistics;
        let count = terms as f32;
        for channel in 0..shape.channels {
            let value = |k: usize| x[k * row + channel];
            let of_batch = sum_over(terms, |sum, k| sum + value(k)) / count;
            let squares = sum_over(terms, |sum, k| (value(k) - of_batch).mul_add(value(k) - of_batch, sum));
            mean[channel] = of_batch;
            inverse_deviation[channel] = 1.0 / (squares / count + VARIANCE_FLOOR).sqrt();
            let unbiased = squares / (count - 1.0).max(1.0);
            for (running, observed) in [(&mut *running_mean, of_batch), (&mut *running_variance, unbiased)] {
                running[channel] = observed.mul_add(MOMENTUM, running[channel] * (1.0 - MOMENTUM));
            }
        }
        Ok(())
    }

    fn inverse_deviation(&self, channels: usize, variance: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        for channel in 0..channels {
            out[channel] = 1.0 / (variance[channel] + VARIANCE_FLOOR).sqrt();
        }
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
        for (place, channel) in places(shape, images) {
            let z = before_activation(layers, place, channel, x[place]);
            let (y, _) = activated(layers.activation, z);
            out[place] = layers.factors.map_or(y, |factors| y * factors[place]);
        }
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
        for (place, channel) in places(shape, images) {
            let by_value = layers.factors.map_or(gradient[place], |factors| gradient[place] * factors[place]);
            gradient[place] = match layers.activation {
                Some(_) => {
                    let z = before_activation(layers, place, channel, x[place]);
                    by_value * activated(layers.activation, z).1
                }
                None => by_value,
            };
        }
        let (Some(norm), Some(NormGradient { by_scale, by_shift })) = (&layers.norm, by_norm) else { return Ok(()) };
        let (row, terms) = (padded(shape.channels), shape.map.positions() * images);
        for channel in 0..shape.channels {
            let d = |k: usize| gradient[k * row + channel];
            let xhat = |k: usize| normalized(norm, channel, x[k * row + channel]);
            by_shift[channel] = sum_over(terms, |sum, k| sum + d(k));
            by_scale[channel] = sum_over(terms, |sum, k| d(k).mul_add(xhat(k), sum));
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
        NormGradientView { by_scale, by_shift }: NormGradientView<Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Outcome {
        let count = (shape.map.positions() * images) as f32;
        for (place, channel) in places(shape, images) {
            let centred = gradient[place] - by_shift[channel] / count;
            let d = normalized(norm, channel, x[place]).mul_add(-(by_scale[channel] / count), centred);
            out[place] = d * (norm.scale[channel] * norm.inverse_deviation[channel]);
        }
        Ok(())
    }

    fn add(&self, floats: usize, from: &Vec<f32>, to: &mut Vec<f32>) -> Outcome {
        for (to, from) in to[..floats].iter_mut().zip(from) {
            *to += from;
        }
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
        let channels = shape.channels;
        for (position, window) in windows(shape.map).enumerate() {
            for (image, channel) in (0..images).flat_map(|image| (0..channels).map(move |channel| (image, channel))) {
                let value = |i: usize| x[at(channels, images, window[i], image, channel)];
                let mut winner = 0;
                for i in 1..4 {
                    if value(i) > value(winner) || (value(i).is_nan() && !value(winner).is_nan()) {
                        winner = i;
                    }
                }
                let place = at(channels, images, position, image, channel);
                (out[place], winners[place]) = (value(winner), winner as f32);
            }
        }
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
        let channels = shape.channels;
        by_input[..shape.map.positions() * images * padded(channels)].fill(0.0);
        for (position, window) in windows(shape.map).enumerate() {
            for (image, channel) in (0..images).flat_map(|image| (0..channels).map(move |channel| (image, channel))) {
                let place = at(channels, images, position, image, channel);
                let from = window[winners[place] as usize];
                by_input[at(channels, images, from, image, channel)] = by_output[place];
            }
        }
        Ok(())
    }

    fn average_pool(&self, shape: Shape, images: usize, x: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        let (channels, positions) = (shape.channels, shape.map.positions());
        for (image, channel) in (0..images).flat_map(|image| (0..channels).map(move |channel| (image, channel))) {
            let sum = (0..positions).fold(0.0, |sum, p| sum + x[at(channels, images, p, image, channel)]);
            out[at(channels, images, 0, image, channel)] = sum / positions as f32;
        }
        Ok(())
    }

    fn average_pool_gradient(
        &self,
        shape: Shape,
        images: usize,
        by_output: &Vec<f32>,
        by_input: &mut Vec<f32>,
    ) -> Outcome {
        let row = images * padded(shape.channels);
        for (place, _) in places(shape, images) {
            by_input[place] = by_output[place % row] / shape.map.positions() as f32;
        }
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
        let mut words = Stream::new(draw.seed, purpose, draw.epoch, draw.step);
        for (image, channel) in (0..images).flat_map(|image| (0..shape.channels).map(move |channel| (image, channel))) {
            for position in 0..shape.map.positions() {
                let is_kept = words.next_u32() >= threshold;
                out[at(shape.channels, images, position, image, channel)] = if is_kept { kept } else { 0.0 };
            }
        }
        Ok(())
    }

    fn cross_entropy_gradient(&self, classes: usize, logits: &Vec<f32>, labels: &[u16], out: &mut Vec<f32>) -> Outcome {
        let images = labels.len();
        for (image, &label) in labels.iter().enumerate() {
            let row = image * padded(classes)..image * padded(classes) + classes;
            let logits = &logits[row.clone()];
            let exceeds = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
            let largest = logits[1..].iter().fold(logits[0], |m, &l| if exceeds(l, m) { l } else { m });
            let powers: Vec<f32> = logits.iter().map(|&l| exp(Portable::<1>, [l - largest])[0]).collect();
            let sum = powers.iter().fold(0.0, |sum, power| sum + power);
            for (class, (out, power)) in out[row].iter_mut().zip(powers).enumerate() {
                let one_hot = if class == usize::from(label) { 1.0 } else { 0.0 };
                *out = (power / sum - one_hot) / images as f32;
            }
        }
        Ok(())
    }

    fn square(&self, floats: usize, x: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        out[..floats].iter_mut().zip(x).for_each(|(out, x)| *out = x * x);
        Ok(())
    }

    fn multiply(&self, floats: usize, by: &Vec<f32>, to: &mut Vec<f32>) -> Outcome {
        to[..floats].iter_mut().zip(by).for_each(|(to, by)| *to *= by);
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
        let of_image = shape.map.positions() * shape.channels;
        let key = [draw.seed as u32, (draw.seed >> 32) as u32];
        for (image, sum) in (0..images).flat_map(|image| (0..of_image).map(move |sum| (image, sum))) {
            let block = (image * of_image.div_ceil(4) + sum / 4) as u32;
            let words = philox([block, draw.step, draw.epoch, Purpose::Noise(layer).word()], key);
            let [normal] = normals(Portable::<1>, words.map(|word| [word]))[sum % 4];
            let (position, channel) = (sum / shape.channels, sum % shape.channels);
            let place = at(shape.channels, images, position, image, channel);
            let ([noisy], [derivative]) = add_noise(Portable::<1>, [sums[place]], [variances[place]], [normal]);
            (sums[place], variances[place]) = (noisy, derivative);
        }
        Ok(())
    }

    fn add_of_squares(&self, floats: usize, x: &Vec<f32>, by_squares: &Vec<f32>, gradient: &mut Vec<f32>) -> Outcome {
        for i in 0..floats {
            gradient[i] = (x[i] + x[i]).mul_add(by_squares[i], gradient[i]);
        }
        Ok(())
    }

    fn exp(&self, floats: usize, x: &Vec<f32>, out: &mut Vec<f32>) -> Outcome {
        out[..floats].iter_mut().zip(x).for_each(|(out, &x)| [*out] = exp(Portable::<1>, [x]));
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
        for i in 0..floats {
            let [[dw], [dl]] = kl_gradient(Portable::<1>, [weights[i]], [log_sigma2[i]]);
            by_weights[i] = kl_weight.mul_add(dw, by_weights[i]);
            by_noise[i] = kl_weight.mul_add(dl, by_noise[i] * sigma2[i]);
        }
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
        for i in 0..floats {
            if mask.is_some_and(|mask| mask[i] == 0.0) {
                parameters[i] = 0.0;
                continue;
            }
            match (update, &mut *moments) {
                (Update::Adam { step_size, correction, mean_rate, weight_decay }, [mean, square]) => {
                    let g = weight_decay.mul_add(parameters[i], gradient[i]);
                    mean[i] = (g - mean[i]).mul_add(mean_rate, mean[i]);
                    square[i] = square[i].mul_add(BETA2 as f32, (g * g) * (1.0 - BETA2) as f32);
                    let denominator = square[i].sqrt() / correction + EPSILON as f32;
                    parameters[i] -= step_size * (mean[i] / denominator);
                }
                (Update::Sgd { learning_rate, momentum, weight_decay }, [buffer]) => {
                    let g = weight_decay.mul_add(parameters[i], gradient[i]);
                    buffer[i] = momentum.mul_add(buffer[i], g);
                    parameters[i] -= learning_rate * buffer[i];
                }
                (Update::Adam { .. } | Update::Sgd { .. }, moments) => {
                    unreachable!("{} vectors of moments", moments.len())
                }
            }
        }
        Ok(())
    }
}
