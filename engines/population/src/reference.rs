//! One model in plain scalar code: what every lane of the engine computes, written to be read.
//!
//! Slow, and without regard to memory; the engine equals it bit for bit, which is tested. Maps are
//! channels-last, every layer is a convolution (see [`layers`](super::layers)). `a.mul_add(b, c)`
//! rounds once; every sum runs in the order of its loop.

mod noise;

use std::ops::Range;

use zoo_model::random::{dropout_threshold, Purpose, Stream};
use zoo_model::Hyperparameters;

use super::dropout::Draw;
use super::kernels::{Block, OUTPUTS_PER_PASS};
use super::layers::{layers, Layer};
use noise::Noise;
use zoo_engine::optimizer::{adam_rates, BETA1, BETA2, EPSILON};
use zoo_engine::{Moments, Task};
use zoo_engine_simd::functions::{activate, exp};
use zoo_engine_simd::{Portable, ROW};

/// One lane: the scalar arithmetic.
const ONE: Portable<1> = Portable::<1>;

/// A layer's output and what its backward pass needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pass {
    /// (positions, outputs), after pooling, activation and dropout.
    pub output: Vec<f32>,
    /// Derivative of the output by the sum before the activation.
    pub derivative: Vec<f32>,
    /// Where the winning patch of each output begins in the input.
    pub corners: Vec<usize>,
}

/// The corners of a window, relative to its own, in the order in which equals win.
const WINDOW: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Where the patch of a position of the convolution, before pooling, begins in the input.
fn corner(layer: &Layer, row: usize, column: usize) -> usize {
    row * layer.input_row() + column * layer.channels
}

/// PyTorch's maximum: NaN is larger than any number, the first of equals wins.
fn exceeds(a: f32, b: f32) -> bool {
    a > b || (a.is_nan() && !b.is_nan())
}

/// Bias + sum over the taps of weight x input.
fn convolve(layer: &Layer, parameters: &[f32], input: &[f32], output: usize, corner: usize) -> f32 {
    let bias = parameters[layer.bias.start + output];
    (0..layer.taps()).fold(bias, |sum, tap| {
        parameters[layer.weight_place(output, tap)].mul_add(input[corner + layer.tap_offsets[tap]], sum)
    })
}

/// The forward pass of a layer.
pub fn forward(layer: &Layer, parameters: &[f32], input: &[f32]) -> Pass {
    let [rows, columns] = layer.output_map();
    let mut pass = Pass::default();
    for row in 0..rows {
        for column in 0..columns {
            for output in 0..layer.outputs {
                let (sum, winner) = if layer.pooled {
                    let unit = (row * columns + column) * layer.outputs + output;
                    let candidates = WINDOW.map(|candidate| {
                        let corner = layer.candidate(unit, candidate);
                        (convolve(layer, parameters, input, output, corner), corner)
                    });
                    let larger =
                        |best: (f32, usize), next: (f32, usize)| if exceeds(next.0, best.0) { next } else { best };
                    candidates.into_iter().reduce(larger).expect("four candidates")
                } else {
                    let corner = corner(layer, row, column);
                    (convolve(layer, parameters, input, output, corner), corner)
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
                pass.corners.push(winner);
            }
        }
    }
    pass
}

/// Drops units of the layer's output for sample `sample` of a mini-batch.
pub fn drop_units(layer: &Layer, h: &Hyperparameters, draw: Draw, sample: usize, pass: &mut Pass) {
    let Some(module) = layer.dropout else { return };
    let mut words = Stream::new(h.seed, Purpose::Dropout(module), draw.epoch, draw.step);
    for _ in 0..sample * layer.units() {
        words.next_u32();
    }
    let kept = (1.0 / (1.0 - h.dropout)) as f32;
    for channel in 0..layer.outputs {
        for position in 0..layer.positions() {
            let factor = if words.next_u32() >= dropout_threshold(h.dropout) { kept } else { 0.0 };
            let unit = position * layer.outputs + channel;
            pass.output[unit] *= factor;
            pass.derivative[unit] *= factor;
        }
    }
}

/// Gradient of the mean cross entropy of `batch` samples by one sample's logits.
pub fn cross_entropy_gradient(logits: &[f32], label: usize, batch: usize) -> Vec<f32> {
    let largest = logits.iter().fold(logits[0], |m, &l| if exceeds(l, m) { l } else { m });
    let powers: Vec<f32> = logits.iter().map(|&l| exp(ONE, [l - largest])[0]).collect();
    let sum = powers.iter().fold(0.0, |sum, p| sum + p);
    let of_class = |(class, p): (usize, &f32)| (p / sum - if class == label { 1.0 } else { 0.0 }) / batch as f32;
    powers.iter().enumerate().map(of_class).collect()
}

/// Adds one sample's gradients of a layer's parameters, from the gradient of its sums (positions,
/// outputs); returns that of its input.
pub fn backward(
    layer: &Layer,
    parameters: &[f32],
    input: &[f32],
    pass: &Pass,
    gradient: &[f32],
    parameter_gradient: &mut [f32],
) -> Vec<f32> {
    for (unit, &g) in gradient.iter().enumerate() {
        let output = unit % layer.outputs;
        parameter_gradient[layer.bias.start + output] += g;
        for tap in 0..layer.taps() {
            let weight = &mut parameter_gradient[layer.weight_place(output, tap)];
            *weight = g.mul_add(input[pass.corners[unit] + layer.tap_offsets[tap]], *weight);
        }
    }
    let mut input_gradient = vec![0.0; layer.inputs()];
    if layer.pooled {
        pooled_input_gradient(layer, parameters, pass, gradient, &mut input_gradient);
    } else {
        // The engine goes block by block of outputs, and so must this sum.
        for block in Block::split(layer.outputs, Block::MAX_SIZE) {
            for position in 0..layer.positions() {
                for tap in 0..layer.taps() {
                    for output in block.first..block.first + block.size {
                        let unit = position * layer.outputs + output;
                        let sum = &mut input_gradient[pass.corners[unit] + layer.tap_offsets[tap]];
                        *sum = parameters[layer.weight_place(output, tap)].mul_add(gradient[unit], *sum);
                    }
                }
            }
        }
    }
    input_gradient
}

/// Window by window, over the patch that its four positions share: the outputs' kernels, each where
/// its winner is and 0 in the rest of the patch, times their gradients.
fn pooled_input_gradient(layer: &Layer, parameters: &[f32], pass: &Pass, gradient: &[f32], input_gradient: &mut [f32]) {
    let [rows, columns] = layer.output_map();
    let outputs: Vec<usize> = (0..layer.outputs).collect();
    for outputs in outputs.chunks(OUTPUTS_PER_PASS) {
        for part in patch_row_parts(layer) {
            for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                for (patch_row, value) in (0..=layer.kernel[0]).flat_map(|r| part.clone().map(move |v| (r, v))) {
                    let place = corner(layer, 2 * row + patch_row, 2 * column) + value;
                    for &output in outputs {
                        let unit = (row * columns + column) * layer.outputs + output;
                        let weight = (0..layer.taps())
                            .find(|&tap| pass.corners[unit] + layer.tap_offsets[tap] == place)
                            .map_or(0.0, |tap| parameters[layer.weight_place(output, tap)]);
                        input_gradient[place] = gradient[unit].mul_add(weight, input_gradient[place]);
                    }
                }
            }
        }
    }
}

/// The parts of a patch's row that the engine holds in registers, one after the other.
fn patch_row_parts(layer: &Layer) -> Vec<Range<usize>> {
    let length = layer.tap_row() + layer.channels;
    let tiles = Block::split(length / ROW, Block::MAX_SIZE).map(|t| t.first * ROW..(t.first + t.size) * ROW);
    tiles.chain((length / ROW * ROW..length).map(|value| value..value + 1)).collect()
}

/// One model in training.
#[derive(Debug, Clone)]
pub struct Model {
    /// The network.
    pub layers: Vec<Layer>,
    /// Hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// PyTorch's flat vector.
    pub parameters: Vec<f32>,
    /// The optimiser's moments.
    pub moments: Moments<Vec<f32>>,
    /// Which parameters may differ from zero; `None`: all.
    pub mask: Option<Vec<bool>>,
    /// Optimiser steps taken.
    pub step: u64,
    /// With variational dropout.
    pub noise: Option<Noise>,
}

impl Model {
    /// A model before its first step.
    pub fn new(task: &Task) -> Option<Self> {
        let zeros = vec![0.0; task.initial.len()];
        let moments = Moments::filled(task.hyperparameters.optimizer, zeros);
        Some(Self {
            layers: layers(&task.network)?,
            hyperparameters: task.hyperparameters.clone(),
            parameters: task.initial.clone(),
            moments: moments.clone(),
            mask: task.fixed_mask().map(<[bool]>::to_vec),
            step: 0,
            noise: task.variational().map(|_| Noise::new(task, moments)),
        })
    }

    /// Logits of an image (height, width, channels).
    pub fn logits(&self, image: &[f32]) -> Vec<f32> {
        let mut values = self.parameters.clone();
        if let Some(noise) = &self.noise {
            noise.apply_variational_mask(&mut values);
        }
        self.layers.iter().fold(image.to_vec(), |x, layer| forward(layer, &values, &x).output)
    }

    /// Gives the model a mask.
    pub fn prune(&mut self, mask: Vec<bool>) {
        self.mask = Some(mask);
        self.apply_mask();
    }

    /// One optimiser step on a mini-batch of images (height, width, channels) and labels.
    pub fn train(&mut self, batch: &[(Vec<f32>, usize)], draw: Draw) {
        if self.noise.is_some() {
            return self.train_noisy(batch, draw);
        }
        let mut gradient = vec![0.0; self.parameters.len()];
        for (sample, (image, label)) in batch.iter().enumerate() {
            let mut inputs = vec![image.clone()];
            let mut passes = Vec::new();
            for layer in &self.layers {
                let mut pass = forward(layer, &self.parameters, inputs.last().expect("the image"));
                drop_units(layer, &self.hyperparameters, draw, sample, &mut pass);
                inputs.push(pass.output.clone());
                passes.push(pass);
            }
            let logits = inputs.pop().expect("the last output");
            let mut g = cross_entropy_gradient(&logits, *label, batch.len());
            for ((layer, pass), input) in self.layers.iter().zip(&passes).zip(&inputs).rev() {
                let sums: Vec<f32> = g.iter().zip(&pass.derivative).map(|(g, d)| g * d).collect();
                g = backward(layer, &self.parameters, input, pass, &sums, &mut gradient);
            }
        }
        self.update(&gradient);
    }

    /// PyTorch's Adam or SGD.
    fn update(&mut self, gradient: &[f32]) {
        self.step += 1;
        let h = &self.hyperparameters;
        optimize(h, h.weight_decay as f32, self.step, gradient, &mut self.parameters, &mut self.moments);
        self.apply_mask();
    }

    fn apply_mask(&mut self) {
        for (parameter, _) in self.parameters.iter_mut().zip(self.mask.iter().flatten()).filter(|(_, &kept)| !kept) {
            *parameter = 0.0;
        }
    }
}

/// Step `step` of PyTorch's Adam or SGD.
fn optimize(
    h: &Hyperparameters,
    weight_decay: f32,
    step: u64,
    gradient: &[f32],
    parameters: &mut [f32],
    moments: &mut Moments<Vec<f32>>,
) {
    for (i, p) in parameters.iter_mut().enumerate() {
        let g = weight_decay.mul_add(*p, gradient[i]);
        *p -= match moments {
            Moments::Adam { mean, mean_square: square } => {
                let (step_size, correction) = adam_rates(h.learning_rate, BETA1, step);
                mean[i] = (g - mean[i]).mul_add((1.0 - BETA1) as f32, mean[i]);
                square[i] = square[i].mul_add(BETA2 as f32, g * g * (1.0 - BETA2) as f32);
                let denominator = square[i].sqrt() / correction as f32 + EPSILON as f32;
                step_size as f32 * (mean[i] / denominator)
            }
            Moments::Sgd { momentum: buffer } => {
                buffer[i] = (h.momentum as f32).mul_add(buffer[i], g);
                h.learning_rate as f32 * buffer[i]
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::PopulationEngine;
    use super::*;
    use zoo_engine::variational::Variational;
    use zoo_engine::{Engine, Mask, Snapshot};
    use zoo_engine_cuda::emulated::{Emulated, Turns};
    use zoo_engine_cuda::Device;
    use zoo_engine_simd::InstructionSet;
    use zoo_model::dataset::normalize_image;
    use zoo_model::init::initial_parameters;
    use zoo_model::stage::Interrupt;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::Optimizer;
    use zoo_model::{Activation, Architecture, Dataset, Init, Split};

    const BATCH: usize = 3;

    /// Image `sample` of a split as the networks see it, channels last.
    fn image(data: &Dataset, split: Split, sample: usize) -> Vec<f32> {
        let pixels = &data.split(split).images[sample * data.image_len()..][..data.image_len()];
        let mut input = vec![0.0; pixels.len()];
        normalize_image(pixels, &data.normalization_f32(), &mut input);
        input
    }

    fn bits(values: impl IntoIterator<Item = f64>) -> Vec<u64> {
        values.into_iter().map(|v| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() }).collect()
    }

    fn wide(values: &[f32]) -> Vec<u64> {
        bits(values.iter().map(|&v| f64::from(v)))
    }

    /// What the reference has after an epoch of two and a half mini-batches, and its test logits.
    fn by_reference(task: &Task, data: &Dataset, order: &[u32]) -> (Model, Vec<f32>) {
        let mut model = Model::new(task).unwrap();
        for (step, batch) in order.chunks(BATCH).enumerate() {
            let of = |&s: &u32| {
                let s = s as usize;
                (image(data, Split::Train, s), usize::from(data.split(Split::Train).labels[s]))
            };
            let batch: Vec<_> = batch.iter().map(of).collect();
            model.train(&batch, Draw { epoch: 1, step: step as u32 });
        }
        let logits = model.logits(&image(data, Split::Test, 1));
        (model, logits)
    }

    fn tasks(base: &Hyperparameters, data: &Dataset, models: u64) -> Vec<Task> {
        let task = |seed| {
            // Everything that may differ between lanes does.
            let h = Hyperparameters {
                seed,
                learning_rate: base.learning_rate * (1.0 + seed as f64),
                weight_decay: 1e-3 * seed as f64,
                dropout: if base.dropout > 0.0 { base.dropout / (1.0 + seed as f64) } else { 0.0 },
                ..base.clone()
            };
            let network = h.network(data.shape, 10).unwrap();
            let initial = initial_parameters(&network, [Init::KaimingUniform, Init::Normal][seed as usize % 2], seed);
            let mask = (seed % 3 == 2).then(|| Mask::Fixed((0..initial.len()).map(|i| i % 3 > 0).collect()));
            Task { network, hyperparameters: h, initial, mask, epochs_before: 0 }
        };
        (0..models).map(task).collect()
    }

    fn check(base: &Hyperparameters, data: &Dataset, engines: &[PopulationEngine], diverge: bool) {
        let mut tasks = tasks(base, data, 10);
        if diverge {
            // A neighbour that explodes must not be felt, and does so as the reference does.
            tasks[1].hyperparameters.learning_rate = 1e30;
            tasks[9].initial[5] = f32::NAN;
        }
        check_tasks(&tasks, data, engines);
    }

    fn check_tasks(tasks: &[Task], data: &Dataset, engines: &[PopulationEngine]) {
        let orders: Vec<Vec<u32>> = (0..10).map(|m| (0..7).map(|i| (i * 3 + m) % 9).collect()).collect();
        let expected: Vec<(Model, Vec<f32>)> =
            tasks.iter().zip(&orders).map(|(task, order)| by_reference(task, data, order)).collect();
        for (e, engine) in engines.iter().enumerate() {
            // All in one cohort, and the last one alone.
            for range in [0..10, 9..10] {
                let mut cohort = engine.start(&tasks[range.clone()], data, None).unwrap();
                cohort.train(1, 0, &orders[range.clone()], &Interrupt::default()).unwrap();
                let (snapshots, logits) = (cohort.snapshots().unwrap(), cohort.logits(Split::Test, 1..2).unwrap());
                for ((found, logits), m) in snapshots.iter().zip(&logits).zip(range) {
                    let (model, expected) = &expected[m];
                    let Snapshot { step, parameters, moments, noise: found_noise } = found;
                    let what = format!("engine {e}, model {m}: {:?}", tasks[m].hyperparameters);
                    assert_eq!(*step, 3, "{what}");
                    assert!(bits(parameters.iter().copied()) == wide(&model.parameters), "parameters, {what}");
                    let noise = model.noise.as_ref();
                    let moment_bits = |m: &Moments| m.map(|v| bits(v.iter().copied()));
                    assert!(moment_bits(moments) == model.moments.map(|m| wide(m)), "moments, {what}");
                    let found_noise =
                        found_noise.as_ref().map(|n| (bits(n.log_sigma2.iter().copied()), moment_bits(&n.moments)));
                    let expected_noise = noise.map(|n| (wide(&n.log_sigma2), n.moments.map(|m| wide(m))));
                    assert!(found_noise == expected_noise, "noise, {what}");
                    assert_eq!(bits(logits.iter().copied()), wide(expected), "logits, {what}");
                }
            }
        }
    }

    /// With these of the instruction sets that the processor has.
    fn engines_with(sets: &[InstructionSet]) -> Vec<PopulationEngine> {
        sets.iter().filter(|s| s.is_available()).map(|&s| PopulationEngine::with(s)).collect()
    }

    /// On emulated devices whose threads take turns in every order, a few steps per launch.
    fn emulated() -> Vec<PopulationEngine> {
        let turns = [(Turns::Ascending, 1.0), (Turns::Descending, 1e-9), (Turns::Mixed, 1.0)];
        let device = |(turns, launch_seconds)| {
            Device::new(Box::new(Emulated { turns, launch_seconds, ..Emulated::default() })).unwrap()
        };
        turns.into_iter().map(|turns| PopulationEngine::with_devices(vec![device(turns)])).collect()
    }

    fn hyperparameters(architecture: Architecture, activation: Activation) -> Hyperparameters {
        Hyperparameters {
            architecture,
            activation,
            init: Init::KaimingUniform,
            learning_rate: 1e-3,
            momentum: 0.9,
            batch_size: BATCH,
            seed: 0,
            ..Hyperparameters::default()
        }
    }

    #[test]
    fn every_instruction_set_equals_the_reference() {
        use Activation::*;
        let data = noise_dataset([1, 28, 28], 10, 9);
        for (i, activation) in [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu].into_iter().enumerate() {
            let optimizer = [Optimizer::Adam, Optimizer::Sgd][i % 2];
            let h = Hyperparameters { optimizer, ..hyperparameters(Architecture::CnnS, activation) };
            check(&h, &data, &engines_with(&InstructionSet::ALL), false);
        }
        let dropped = Hyperparameters { dropout: 0.5, ..hyperparameters(Architecture::CnnS, Tanh) };
        check(&dropped, &data, &engines_with(&InstructionSet::ALL), false);
    }

    #[test]
    fn the_kernels_equal_the_reference() {
        use Activation::*;
        let data = noise_dataset([1, 28, 28], 10, 9);
        for (i, activation) in [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu].into_iter().enumerate() {
            let optimizer = [Optimizer::Adam, Optimizer::Sgd][i % 2];
            let dropout = if i < 2 { 0.5 } else { 0.0 };
            let h = Hyperparameters { optimizer, dropout, ..hyperparameters(Architecture::CnnS, activation) };
            check(&h, &data, &emulated()[i % 3..=i % 3], i == 1);
        }
    }

    #[test]
    fn three_channels_and_the_larger_network_equal_the_reference() {
        let data = noise_dataset([3, 28, 28], 10, 9);
        let fast = &[engines_with(&InstructionSet::ALL[..2]), emulated()[1..2].to_vec()].concat();
        check(&hyperparameters(Architecture::CnnS, Activation::Relu), &data, fast, false);
        let data = noise_dataset([3, 32, 32], 10, 9);
        let sgd = hyperparameters(Architecture::CnnM, Activation::Tanh);
        let sgd = Hyperparameters { optimizer: Optimizer::Sgd, dropout: 0.3, ..sgd };
        check(&sgd, &data, fast, false);
        let adam = hyperparameters(Architecture::CnnM, Activation::Gelu);
        check(&adam, &data, &emulated()[2..], true);
    }

    #[test]
    fn variational_dropout_equals_the_reference() {
        let check = |h: &Hyperparameters, data: &Dataset, engines: &[PopulationEngine]| {
            let mut tasks = tasks(h, data, 10);
            for task in &mut tasks {
                task.mask = Some(Mask::Variational(Variational { epochs: 1 }));
                task.initial[0] = 1e-3;
            }
            check_tasks(&tasks, data, engines);
        };
        let data = noise_dataset([1, 28, 28], 10, 9);
        check(&hyperparameters(Architecture::CnnS, Activation::Tanh), &data, &engines_with(&InstructionSet::ALL));
        let data = noise_dataset([3, 32, 32], 10, 9);
        let sgd = hyperparameters(Architecture::CnnM, Activation::Relu);
        let sgd = Hyperparameters { optimizer: Optimizer::Sgd, dropout: 0.3, ..sgd };
        check(&sgd, &data, &engines_with(&InstructionSet::ALL[..2]));
    }

    #[test]
    fn a_mask_that_comes_later_is_as_in_the_reference() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let task = tasks(&hyperparameters(Architecture::CnnS, Activation::Tanh), &data, 1).remove(0);
        let (mut model, _) = by_reference(&task, &data, &[0, 1, 2]);
        let mask: Vec<bool> = (0..task.initial.len()).map(|i| i % 4 > 0).collect();
        model.prune(mask.clone());
        let images = [3, 4, 5].map(|s| (image(&data, Split::Train, s), data.split(Split::Train).labels[s]));
        model.train(&images.map(|(image, label)| (image, usize::from(label))), Draw { epoch: 2, step: 0 });
        for engine in [vec![PopulationEngine::new()], emulated()].concat() {
            let mut cohort = engine.start(std::slice::from_ref(&task), &data, None).unwrap();
            cohort.train(1, 0, &[vec![0, 1, 2]], &Interrupt::default()).unwrap();
            cohort.prune(&[Some(mask.clone())]).unwrap();
            cohort.train(2, 0, &[vec![3, 4, 5]], &Interrupt::default()).unwrap();
            assert!(bits(cohort.snapshots().unwrap()[0].parameters.iter().copied()) == wide(&model.parameters));
        }
    }

    #[test]
    fn diverged_lanes_are_the_references_and_disturb_nobody() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        check(
            &hyperparameters(Architecture::CnnS, Activation::Relu),
            &data,
            &engines_with(&InstructionSet::ALL[..2]),
            true,
        );
        check(
            &hyperparameters(Architecture::CnnS, Activation::Tanh),
            &data,
            &engines_with(&InstructionSet::ALL[..2]),
            true,
        );
    }

    #[test]
    fn of_equal_candidates_the_first_wins() {
        let data = noise_dataset([1, 28, 28], 10, 9);
        let mut tasks = tasks(&hyperparameters(Architecture::CnnS, Activation::Tanh), &data, 10);
        let layers = layers(&tasks[0].network).unwrap();
        for task in &mut tasks {
            // Kernels of zeros, as in a pruned model.
            task.initial[layers[0].weight.start..][..25].fill(0.0);
            task.initial[layers[1].weight.start..][..200].fill(0.0);
        }
        let image = image(&data, Split::Train, 0);
        let pass = forward(&layers[0], &tasks[0].initial, &image);
        let of_zeros = (0..layers[0].units()).step_by(layers[0].outputs);
        assert!(of_zeros.into_iter().all(|unit| pass.corners[unit] == layers[0].candidate(unit, (0, 0))));
        check_tasks(&tasks, &data, &[engines_with(&InstructionSet::ALL), emulated()].concat());
    }

    #[test]
    fn the_first_nan_wins() {
        let data = noise_dataset([1, 28, 28], 10, 1);
        let task = tasks(&hyperparameters(Architecture::CnnS, Activation::Relu), &data, 1).remove(0);
        let layer = &layers(&task.network).unwrap()[0];
        let mut image = image(&data, Split::Train, 0);
        // Seen by the second and the fourth candidate of the first window alone.
        image[layer.kernel[1]] = f32::NAN;
        image[layer.kernel[0] * layer.input_row() + layer.kernel[1]] = f32::NAN;
        let pass = forward(layer, &task.initial, &image);
        assert_eq!(pass.corners[0], layer.candidate(0, (0, 1)));
        assert!(pass.output[0].is_nan());
    }
}
