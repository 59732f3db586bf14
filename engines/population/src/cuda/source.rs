//! The kernels' source for one kind of model: the files of `kernels/`, behind the sizes of a network
//! and the places of its arrays in shared memory, and among them its layers.

use std::fmt::Write;

use zoo_engine_cuda::kernels::{self as shared, activation_name};
use zoo_engine_cuda::source::define;
use zoo_engine_cuda::{KernelSource, KernelSpec};
use zoo_model::{Hyperparameters, Network, Optimizer};

use super::super::kernels::{Block, OUTPUTS_PER_PASS};
use super::super::layers::{layers, Layer};
use zoo_engine::optimizer::{moment_count, BETA1, BETA2, EPSILON};
use zoo_engine_simd::ROW;

/// What the kernels are but for a network's layers: before them, and after them.
const BEFORE_LAYERS: [&str; 10] = [
    shared::CUDA,
    shared::TYPES,
    shared::FUNCTIONS,
    shared::RANDOM,
    include_str!("kernels/layer.cu"),
    include_str!("kernels/pooled.cu"),
    include_str!("kernels/dense.cu"),
    include_str!("kernels/dropout.cu"),
    include_str!("kernels/loss.cu"),
    include_str!("kernels/network.cu"),
];
const AFTER_LAYERS: [&str; 3] =
    [include_str!("kernels/arguments.cu"), include_str!("kernels/optimizer.cu"), include_str!("kernels/entry.cu")];

/// Shared memory of a multiprocessor that has the most, and what each block takes besides its own.
const MULTIPROCESSOR: usize = 228 << 10;
const RESERVED: usize = 1 << 10;

/// Threads of a multiprocessor beyond which each has too few registers.
const MAX_THREADS_PER_MULTIPROCESSOR: usize = 1152;

/// Maximum number of threads of a block.
const MAX_THREADS_PER_BLOCK: usize = 320;

/// The kernels' names, and whether their blocks use shared memory.
const KERNELS: [(&str, bool); 5] =
    [("train", true), ("evaluate", true), ("score", false), ("shuffle", false), ("prune", false)];

/// The kernels of one kind of model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelKernels {
    /// What is compiled.
    pub source: KernelSource,
    /// For each place in a model's vectors on the device its place in PyTorch's flat vector.
    pub places: Vec<u32>,
    /// Vectors of moments.
    pub moments: usize,
}

/// Where a layer's arrays lie in shared memory, in floats.
struct LayerOffsets {
    weight: usize,
    bias: usize,
    output: usize,
    /// Of a pooled layer its units, else the gradient of its sums.
    gradient: usize,
}

/// Where everything lies in shared memory, in floats; parameters begin at 0.
struct Memory {
    /// For each parameter its place in PyTorch's flat vector.
    parameters: Vec<u32>,
    gradients: usize,
    input: usize,
    layers: Vec<LayerOffsets>,
    /// Powers of e of the logits, and in double precision.
    powers: usize,
    losses: usize,
    /// Floats in all.
    size: usize,
}

impl Memory {
    /// `None` if a pooled layer's weights do not begin at a multiple of four.
    fn plan(layers: &[Layer]) -> Option<Self> {
        let mut layout = SharedMemoryLayout::default();
        let mut parameters = Vec::new();
        let begin = |parameters: &mut Vec<u32>, of_layer: Vec<u32>| {
            let place = parameters.len();
            parameters.extend(of_layer);
            place
        };
        let weights: Vec<usize> =
            layers.iter().enumerate().map(|(i, l)| begin(&mut parameters, weight_order(l, i))).collect();
        let biases: Vec<usize> =
            layers.iter().map(|l| begin(&mut parameters, l.bias.clone().map(|p| p as u32).collect())).collect();
        if layers.iter().zip(&weights).any(|(l, w)| l.pooled && !w.is_multiple_of(4)) {
            return None;
        }
        layout.reserve(parameters.len());
        let gradients = layout.reserve(parameters.len());
        let input = layout.reserve(layers[0].inputs());
        let of_layer = |(i, l): (usize, &Layer)| LayerOffsets {
            weight: weights[i],
            bias: biases[i],
            output: layout.reserve(l.positions() * output_stride(l)),
            gradient: layout.reserve(if l.pooled { 2 * l.outputs * unit_stride(l) } else { l.units() }),
        };
        let of_layers = layers.iter().enumerate().map(of_layer).collect();
        let classes = layers.last()?.outputs;
        let (powers, losses) = (layout.reserve(classes), layout.reserve(2 * classes));
        Some(Self { parameters, gradients, input, layers: of_layers, powers, losses, size: layout.0 })
    }
}

/// Lays out arrays in shared memory one after the other: the number of floats so far.
#[derive(Default)]
struct SharedMemoryLayout(usize);

impl SharedMemoryLayout {
    /// Reserves the given number of floats; where they begin is a multiple of four.
    fn reserve(&mut self, floats: usize) -> usize {
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
        let square = l.kernel[0] == l.kernel[1];
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
pub fn model_kernels(h: &Hyperparameters, network: &Network) -> Option<ModelKernels> {
    let layers = layers(network).filter(|layers| fits(layers))?;
    let memory = Memory::plan(&layers)?;
    let shared_bytes = memory.size * size_of::<f32>();
    // As many threads as leave the fewest idle in the first layer.
    let items = layers[0].positions() * layers[0].outputs / group(&layers[0], 0);
    let threads = (2..=MAX_THREADS_PER_BLOCK / 32).map(|warps| warps * 32);
    let threads = threads.min_by_key(|t| (items.div_ceil(*t) * t, MAX_THREADS_PER_BLOCK - t))?;
    let blocks = (MULTIPROCESSOR / (shared_bytes + RESERVED)).min(MAX_THREADS_PER_MULTIPROCESSOR / threads).max(1);

    let mut text = String::new();
    define(&mut text, "THREADS", threads);
    define(&mut text, "BLOCKS", blocks);
    define_model(&mut text, h, &layers);
    define_memory(&mut text, &memory);
    text.extend(BEFORE_LAYERS);
    write_layers(&mut text, &layers, &memory);
    text.extend(AFTER_LAYERS);
    let kernels = KERNELS.map(|(name, is_shared)| KernelSpec { name, is_shared }).to_vec();
    let source = KernelSource { text, threads: threads as u32, shared_bytes, kernels };
    Some(ModelKernels { source, places: memory.parameters, moments: moment_count(h.optimizer) })
}

/// Defines what is computed.
fn define_model(text: &mut String, h: &Hyperparameters, layers: &[Layer]) {
    let pooled = || layers.iter().take_while(|l| l.pooled).enumerate();
    let [first, last] = [&layers[0], &layers[layers.len() - 1]];
    for (name, value) in [
        ("CLASSES", last.outputs),
        ("CHANNELS", first.channels),
        ("HEIGHT", first.height),
        ("WIDTH", first.width),
        ("IMAGE", first.inputs()),
        ("MOMENTS", moment_count(h.optimizer)),
        ("DROPOUT", usize::from(h.dropout > 0.0)),
        ("MAX_BLOCK", Block::MAX_SIZE),
        ("OUTPUTS_PER_PASS", OUTPUTS_PER_PASS),
        ("MAX_GROUP", pooled().map(|(i, l)| group(l, i)).max().unwrap_or(1)),
        ("MAX_PATCH_ROW", first.tap_row() + first.channels),
        ("MAX_CHANNELS", pooled().map(|(_, l)| l.channels).max().unwrap_or(1)),
    ] {
        define(text, name, value);
    }
    define(text, "ACTIVATION", activation_name(h.activation));
    define(text, "OPTIMIZER", optimizer_name(h.optimizer));
    for (name, value) in
        [("ADAM_RATE1", 1.0 - BETA1), ("ADAM_BETA2", BETA2), ("ADAM_RATE2", 1.0 - BETA2), ("ADAM_EPSILON", EPSILON)]
    {
        define(text, name, format_args!("{:e}f", value as f32));
    }
}

/// Defines where what is of no layer lies in shared memory.
fn define_memory(text: &mut String, memory: &Memory) {
    let LayerOffsets { output, gradient, .. } = memory.layers[memory.layers.len() - 1];
    for (name, value) in [
        ("SHARED_FLOATS", memory.size),
        ("PARAMETERS", memory.parameters.len()),
        ("GRADIENTS", memory.gradients),
        ("INPUT", memory.input),
        ("LOGITS", output),
        ("LOGIT_GRADIENTS", gradient),
        ("POWERS", memory.powers),
        ("LOSSES", memory.losses),
    ] {
        define(text, name, value);
    }
}

/// Writes a function for each layer, which returns its `struct layer`, and the two that go through all
/// of them.
fn write_layers(text: &mut String, layers: &[Layer], memory: &Memory) {
    let mut forward = String::new();
    let mut backward = vec!["    backward_first_layer(layer_0(), shared);\n".to_owned()];
    for (i, (l, at)) in layers.iter().zip(&memory.layers).enumerate() {
        let (input, input_stride) = match i.checked_sub(1) {
            Some(before) => (memory.layers[before].output, output_stride(&layers[before])),
            None => (memory.input, l.channels),
        };
        write!(text, "\nDEVICE struct layer layer_{i}(void) {{\n    struct layer l;\n").expect("a string takes all");
        for (field, value) in [
            ("height", l.height),
            ("width", l.width),
            ("channels", l.channels),
            ("kernel_rows", l.kernel[0]),
            ("kernel_columns", l.kernel[1]),
            ("outputs", l.outputs),
            ("is_pooled", l.pooled.into()),
            ("is_activated", l.activation.is_some().into()),
            ("group", group(l, i)),
            ("weight", at.weight),
            ("bias", at.bias),
            ("input", input),
            ("input_stride", input_stride),
            ("output", at.output),
            ("output_stride", output_stride(l)),
            ("gradient", at.gradient),
            ("unit_stride", unit_stride(l)),
        ] {
            writeln!(text, "    l.{field} = {value};").expect("a string takes all");
        }
        let dropout = l.dropout.map_or(-1, i32::from);
        write!(text, "    l.dropout = {dropout};\n    return l;\n}}\n").expect("a string takes all");
        forward += &format!("    forward_layer(layer_{i}(), training, draw, shared);\n");
        if i > 0 {
            backward.push(format!("    backward_layer(layer_{i}(), layer_{}(), shared);\n", i - 1));
        }
    }
    backward.reverse();
    let backward = backward.concat();
    write!(
        text,
        "\nDEVICE void forward(int training, struct draw draw, float *shared) {{\n{forward}}}\n\n\
         DEVICE void backward(float *shared) {{\n{backward}}}\n\n"
    )
    .expect("a string takes all");
}

/// As the kernels name them.
fn optimizer_name(optimizer: Optimizer) -> &'static str {
    match optimizer {
        Optimizer::Adam => "ADAM",
        Optimizer::Sgd => "SGD",
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
