//! The kernels' source for one kind of model: `kernels.cu` behind the sizes of a network, the places
//! of its arrays in shared memory, and its layers in order.

use std::fmt::Write;

use zoo_model::{Activation, Hyperparameters, Network, Optimizer};

use super::super::kernels::{Block, OUTPUTS_AT_ONCE};
use super::super::layers::{layers, Layer};
use super::super::simd::ROW;
use crate::optimizer::{moment_count, BETA1, BETA2, EPSILON};

/// What the kernels are, but for the sizes of a network.
const KERNELS: [&str; 2] = [include_str!("cuda.h"), include_str!("kernels.cu")];

/// Shared memory of a multiprocessor that has the most, and what each block takes besides its own.
const MULTIPROCESSOR: usize = 228 << 10;
const RESERVED: usize = 1 << 10;

/// Threads of a multiprocessor beyond which each has too few registers.
const THREADS_AT_ONCE: usize = 1152;

/// Most threads of a block.
const MOST_THREADS: usize = 320;

/// The kernels of one kind of model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Definitions, `cuda.h` and kernels: for NVRTC, or for a C compiler with `shim.h`.
    pub text: String,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared_bytes: usize,
    /// For each place in a model's vectors on the device its place in PyTorch's flat vector.
    pub places: Vec<u32>,
    /// Vectors of moments.
    pub moments: usize,
}

/// Where a layer's arrays lie in shared memory, in floats.
struct Places {
    weight: usize,
    bias: usize,
    output: usize,
    /// Of a pooled layer its units, else the gradient of its sums.
    gradient: usize,
}

/// Gives out room.
#[derive(Default)]
struct Room(usize);

impl Room {
    /// The place of so many floats, a multiple of four.
    fn take(&mut self, floats: usize) -> usize {
        let place = self.0;
        self.0 += floats.next_multiple_of(4);
        place
    }
}

/// Values from one pixel of a layer's output to the next.
fn output_stride(layer: &Layer) -> usize {
    if layer.pooled {
        layer.outputs | 1
    } else {
        layer.outputs
    }
}

/// Distance of two outputs' units: even, so that two are loaded at once.
fn unit_stride(layer: &Layer) -> usize {
    layer.positions().next_multiple_of(2)
}

/// Outputs of a pooled layer that a thread computes together.
fn group(layer: &Layer, index: usize) -> usize {
    let enough = layer.positions() * layer.outputs / 4 >= 256;
    if layer.outputs.is_multiple_of(4) && (index == 0 || enough) {
        4
    } else {
        1
    }
}

/// Whether the kernels compute such layers.
fn fits(layers: &[Layer]) -> bool {
    let pooled = |(i, l): (usize, &Layer)| {
        let square = l.kernel[0] == l.kernel[1] && l.kernel[0] < 32 && l.width <= 32;
        let first = !l.channels.is_multiple_of(4)
            && l.outputs.is_multiple_of(4)
            && (l.tap_row() + l.channels).is_multiple_of(2)
            && l.input_row().is_multiple_of(2);
        let later = l.channels.is_multiple_of(4) && (l.tap_row() + l.channels).is_multiple_of(ROW);
        l.activation.is_some() && square && if i == 0 { first } else { later }
    };
    let mut pooled_layers = layers.iter().take_while(|l| l.pooled).enumerate();
    layers[0].pooled && layers.last().is_some_and(|l| !l.pooled && l.activation.is_none()) && pooled_layers.all(pooled)
}

/// The kernels for models with these hyperparameters; `None` if they are not made for such a network.
pub fn source(h: &Hyperparameters, network: &Network) -> Option<Source> {
    let layers = layers(network).filter(|layers| fits(layers))?;
    let pooled: Vec<&Layer> = layers.iter().take_while(|l| l.pooled).collect();
    let [first, last] = [&layers[0], layers.last()?];

    let mut room = Room::default();
    let mut places = Vec::new();
    let weights: Vec<usize> =
        layers.iter().enumerate().map(|(i, l)| (places.len(), places.extend(weight_order(l, i))).0).collect();
    let biases: Vec<usize> =
        layers.iter().map(|l| (places.len(), places.extend(l.bias.clone().map(|p| p as u32))).0).collect();
    if layers.iter().zip(&weights).any(|(l, w)| l.pooled && !w.is_multiple_of(4)) {
        return None;
    }
    room.take(places.len());
    let gradients = room.take(places.len());
    let input = room.take(first.inputs());
    let arrays: Vec<Places> = layers
        .iter()
        .enumerate()
        .map(|(i, l)| Places {
            weight: weights[i],
            bias: biases[i],
            output: room.take(l.positions() * output_stride(l)),
            gradient: room.take(if l.pooled { 2 * l.outputs * unit_stride(l) } else { l.units() }),
        })
        .collect();
    let powers = room.take(last.outputs);
    let losses = room.take(2 * last.outputs);
    let shared_bytes = room.0 * size_of::<f32>();

    let items: Vec<usize> = pooled.iter().enumerate().map(|(i, l)| l.positions() * l.outputs / group(l, i)).collect();
    // As many threads as leave the fewest idle in the first layer.
    let threads = (2..=MOST_THREADS / 32).map(|warps| warps * 32);
    let threads = threads.min_by_key(|t| (items[0].div_ceil(*t) * t, MOST_THREADS - t))?;
    let blocks = (MULTIPROCESSOR / (shared_bytes + RESERVED)).min(THREADS_AT_ONCE / threads).max(1);
    let moments = moment_count(h.optimizer);

    let mut text = String::new();
    let mut define = |name: &str, value: String| writeln!(text, "#define {name} {value}").expect("a string takes all");
    let largest = |of: &dyn Fn((usize, &&Layer)) -> usize| pooled.iter().enumerate().map(of).max().unwrap_or(1);
    for (name, value) in [
        ("THREADS", threads),
        ("BLOCKS", blocks),
        ("SHARED_FLOATS", room.0),
        ("CLASSES", last.outputs),
        ("CHANNELS", first.channels),
        ("HEIGHT", first.height),
        ("WIDTH", first.width),
        ("IMAGE", first.inputs()),
        ("PARAMETERS", places.len()),
        ("MOMENTS", moments),
        ("OPTIMIZER", optimizer_number(h.optimizer)),
        ("ACTIVATION", activation_number(h.activation)),
        ("DROPOUT", usize::from(h.dropout > 0.0)),
        ("GRADIENTS", gradients),
        ("INPUT", input),
        ("LOGITS", arrays.last()?.output),
        ("LOGIT_GRADIENTS", arrays.last()?.gradient),
        ("POWERS", powers),
        ("LOSSES", losses),
        ("MOST_BLOCK", Block::MOST),
        ("OUTPUTS_AT_ONCE", OUTPUTS_AT_ONCE),
        ("MOST_GROUP", largest(&|(i, l)| group(l, i))),
        ("MOST_PATCH_ROW", first.tap_row() + first.channels),
        ("MOST_CHANNELS", largest(&|(_, l)| l.channels)),
    ] {
        define(name, value.to_string());
    }
    for (name, value) in
        [("ADAM_RATE1", 1.0 - BETA1), ("ADAM_BETA2", BETA2), ("ADAM_RATE2", 1.0 - BETA2), ("ADAM_EPSILON", EPSILON)]
    {
        define(name, format!("{:e}f", value as f32));
    }
    let strides = |i: usize| if i == 0 { first.channels } else { output_stride(&layers[i - 1]) };
    let dropout = |l: &Layer| l.dropout.map_or("-1".into(), |module| module.to_string());
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for (i, (l, at)) in layers.iter().zip(&arrays).enumerate() {
        let below = if i == 0 { None } else { Some((&layers[i - 1], &arrays[i - 1])) };
        let from = below.map_or(input, |(_, at)| at.output);
        let below = below.map_or([0, 0], |(l, at)| [at.gradient, if l.pooled { unit_stride(l) } else { 0 }]);
        let map = comma(&[l.height, l.width, l.channels, strides(i)]);
        if l.pooled {
            let sizes = format!("{map}, {}", comma(&[l.kernel[0], l.outputs, group(l, i)]));
            let arrays = comma(&[at.weight, at.bias, from, at.output, output_stride(l), at.gradient, unit_stride(l)]);
            forward.push(format!("FORWARD_POOLED({sizes}, {}, {arrays})", dropout(l)));
            let arrays = comma(&[at.weight, at.bias, from, at.gradient, unit_stride(l), below[0], below[1]]);
            backward.push(format!("BACKWARD_POOLED({sizes}, {arrays})"));
        } else {
            let sizes = format!("{map}, {}", comma(&[l.kernel[0], l.kernel[1], l.outputs]));
            let activated = u8::from(l.activation.is_some());
            let arrays = comma(&[at.weight, at.bias, from, at.output, at.gradient]);
            forward.push(format!("FORWARD_DENSE({sizes}, {activated}, {}, {arrays})", dropout(l)));
            let arrays = comma(&[at.weight, at.bias, from, at.gradient, below[0], below[1]]);
            backward.push(format!("BACKWARD_DENSE({sizes}, {arrays})"));
        }
    }
    backward.reverse();
    define("FORWARD_LAYERS", forward.join(" "));
    define("BACKWARD_LAYERS", backward.join(" "));
    text.extend(KERNELS);
    Some(Source { text, threads: threads as u32, shared_bytes, places, moments })
}

fn comma(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<String>>().join(", ")
}

/// As the kernels number them.
fn activation_number(activation: Activation) -> usize {
    use Activation::*;
    [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu].iter().position(|&a| a == activation).expect("all are listed")
}

/// As the kernels number them.
fn optimizer_number(optimizer: Optimizer) -> usize {
    match optimizer {
        Optimizer::Adam => 0,
        Optimizer::Sgd => 1,
    }
}

/// A layer's weights as the kernels want them, each as its place in PyTorch's flat vector.
fn weight_order(layer: &Layer, index: usize) -> Vec<u32> {
    let place = |output: usize, tap: usize| layer.weight_place(output, tap) as u32;
    if !layer.pooled {
        (0..layer.taps()).flat_map(|tap| (0..layer.outputs).map(move |o| place(o, tap))).collect()
    } else if index > 0 {
        (0..layer.outputs).flat_map(|o| (0..layer.taps()).map(move |tap| place(o, tap))).collect()
    } else {
        let group = group(layer, index);
        let of_group =
            |first: usize| (0..layer.taps()).flat_map(move |tap| (first..first + group).map(move |o| place(o, tap)));
        (0..layer.outputs).step_by(group).flat_map(of_group).collect()
    }
}
