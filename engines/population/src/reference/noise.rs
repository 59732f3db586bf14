//! Variational dropout of one model in scalar code; see [`variational`](zoo_engine::variational).

use zoo_model::random::{philox, Purpose};

use super::super::dropout::Draw;
use super::super::layers::Layer;
use super::{backward, convolve, corner, cross_entropy_gradient, drop_units, exceeds, optimize};
use super::{Model, Pass, ONE, WINDOW};
use zoo_engine::variational::{initial_log_sigma2, is_kept};
use zoo_engine::{Moments, Task};
use zoo_engine_simd::functions::{activate, add_noise, exp, kl_gradient, normals};

/// The noise of a model's weights.
#[derive(Debug, Clone)]
pub struct Noise {
    /// The model's task.
    pub task: Task,
    /// Log sigma^2, flat.
    pub log_sigma2: Vec<f32>,
    /// Its moments.
    pub moments: Moments<Vec<f32>>,
}

impl Noise {
    /// Before the first step, with these moments.
    pub fn new(task: &Task, moments: Moments<Vec<f32>>) -> Self {
        let log_sigma2: Vec<f32> = initial_log_sigma2(&task.network).iter().map(|&l| l as f32).collect();
        Self { task: task.clone(), log_sigma2, moments }
    }

    /// Sets to zero the parameters that are removed in evaluation.
    pub fn apply_variational_mask(&self, parameters: &mut [f32]) {
        for (p, &log_sigma2) in parameters.iter_mut().zip(&self.log_sigma2) {
            if !is_kept((*p).into(), log_sigma2.into()) {
                *p = 0.0;
            }
        }
    }
}

fn squares(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| v * v).collect()
}

/// The forward pass of layer `number`, and the derivatives of its outputs' sums by their variances.
fn forward(
    (number, layer): (usize, &Layer),
    [parameters, sigma2]: [&[f32]; 2],
    input: &[f32],
    seed: u64,
    Draw { epoch, step }: Draw,
    sample: usize,
) -> (Pass, Vec<f32>) {
    let (width, height) = (layer.width + 1 - layer.kernel[1], layer.height + 1 - layer.kernel[0]);
    let squares = squares(input);
    let sums = width * height * layer.outputs;
    let draw = |sum: usize| {
        let block = (sample * sums.div_ceil(4) + sum / 4) as u32;
        let counter = [block, step, epoch, Purpose::Noise(number as u8).word()];
        normals(ONE, philox(counter, [seed as u32, (seed >> 32) as u32]).map(|w| [w]))[sum % 4]
    };
    let noisy = |row: usize, column: usize, output: usize| {
        let corner = corner(layer, row, column);
        let mean = convolve(layer, parameters, input, output, corner);
        let variance = convolve(layer, sigma2, &squares, output, corner);
        let ([sum], [by_variance]) =
            add_noise(ONE, [mean], [variance], draw((row * width + column) * layer.outputs + output));
        (sum, by_variance, corner)
    };
    let [rows, columns] = layer.output_map();
    let (mut pass, mut derivatives) = (Pass::default(), Vec::new());
    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
        for output in 0..layer.outputs {
            let (sum, by_variance, corner) = if layer.pooled {
                let window = WINDOW.map(|(down, right)| noisy(2 * row + down, 2 * column + right, output));
                window.into_iter().reduce(|best, next| if exceeds(next.0, best.0) { next } else { best }).expect("four")
            } else {
                noisy(row, column, output)
            };
            let (value, derivative) = match layer.activation {
                Some(activation) => {
                    let ([value], [derivative]) = activate(ONE, activation, [sum]);
                    (value, derivative)
                }
                None => (sum, 1.0),
            };
            pass.output.push(value);
            pass.derivative.push(derivative);
            pass.corners.push(corner);
            derivatives.push(by_variance);
        }
    }
    (pass, derivatives)
}

impl Model {
    /// [`train`](Self::train) with noise.
    pub(super) fn train_noisy(&mut self, batch: &[(Vec<f32>, usize)], draw: Draw) {
        let h = self.hyperparameters.clone();
        let noise = self.noise.as_ref().expect("a model with noise");
        let values = &self.parameters;
        let sigma2: Vec<f32> = noise.log_sigma2.iter().map(|&l| exp(ONE, [l])[0]).collect();
        let (mut gradient, mut by_sigma2) = (vec![0.0; values.len()], vec![0.0; values.len()]);
        for (sample, (image, label)) in batch.iter().enumerate() {
            let mut inputs = vec![image.clone()];
            let mut passes = Vec::new();
            for layer in self.layers.iter().enumerate() {
                let input = inputs.last().expect("the image");
                let (mut pass, by_variance) = forward(layer, [values, &sigma2], input, h.seed, draw, sample);
                drop_units(layer.1, &h, draw, sample, &mut pass);
                inputs.push(pass.output.clone());
                passes.push((pass, by_variance));
            }
            let logits = inputs.pop().expect("the last output");
            // Of the sums of the layer at hand.
            let mut g = cross_entropy_gradient(&logits, *label, batch.len());
            for (i, layer) in self.layers.iter().enumerate().rev() {
                let ((pass, by_variance), input) = (&passes[i], &inputs[i]);
                let of_variances: Vec<f32> = g.iter().zip(by_variance).map(|(g, d)| g * d).collect();
                let by_input = backward(layer, values, input, pass, &g, &mut gradient);
                let by_square = backward(layer, &sigma2, &squares(input), pass, &of_variances, &mut by_sigma2);
                let Some((before, _)) = i.checked_sub(1).map(|before| &passes[before]) else { continue };
                let sum = |j: usize| {
                    let (x, d) = (input[j], before.derivative[j]);
                    if layer.pooled {
                        by_input[j] * d + by_square[j] * ((x + x) * d)
                    } else {
                        (x + x).mul_add(by_square[j], by_input[j]) * d
                    }
                };
                g = (0..input.len()).map(sum).collect();
            }
        }
        let kl_weight = noise.task.kl_weight(draw.epoch) as f32;
        for i in 0..values.len() {
            let [[by_weight], [by_noise]] = kl_gradient(ONE, [values[i]], [noise.log_sigma2[i]]);
            gradient[i] = kl_weight.mul_add(by_weight, gradient[i]);
            by_sigma2[i] = kl_weight.mul_add(by_noise, by_sigma2[i] * sigma2[i]);
        }
        let noise = self.noise.as_mut().expect("a model with noise");
        optimize(&h, 0.0, self.step + 1, &by_sigma2, &mut noise.log_sigma2, &mut noise.moments);
        self.update(&gradient);
    }
}
