//! Model-samples per second of the population engine, beside the processor's measured
//! fused-multiply-add peak, layer by layer and whole: `cargo bench -p zoo-train --bench throughput`.
//!
//! Filters, as words after `--`: `layers`, `rates`, `threads`. `ZOO_SIMD=avx2` forces AVX2. Images
//! are noise, but in `threads` those of the prepared dataset that `ZOO_DATA` names.

use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use zoo_engine::{Engine, Task};
use zoo_engine_population::kernels::{
    Activate, Adam, Below, Block, DenseBackward, DenseForward, FromRows, ParameterGradients, PooledBackward,
    PooledForward, PooledUnits,
};
use zoo_engine_population::layers::{layers, Layer};
use zoo_engine_population::rows::Rows;
use zoo_engine_population::PopulationEngine;
use zoo_engine_population::COHORT;
#[cfg(target_arch = "x86_64")]
use zoo_engine_simd::{Avx2, Avx512};
use zoo_engine_simd::{InstructionSet, Kernel, Portable, Simd, ROW};
use zoo_model::dataset::{PerSplit, Samples};
use zoo_model::random::{Purpose, Stream};
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Dataset, Hyperparameters, Init, Optimizer, Split};

/// Best of several timings of about this long.
const TIMING: Duration = Duration::from_millis(60);

/// Seconds that one call takes: the best of five timings.
fn seconds(mut call: impl FnMut()) -> f64 {
    call();
    let timing = || {
        let (started, mut calls) = (Instant::now(), 0);
        while calls == 0 || started.elapsed() < TIMING {
            call();
            calls += 1;
        }
        started.elapsed().as_secs_f64() / f64::from(calls)
    };
    std::iter::repeat_with(timing).take(5).fold(f64::INFINITY, f64::min)
}

/// Independent chains of multiply-adds on registers.
struct Peak(u32);

const CHAINS: usize = 12;

impl<S: Simd> Kernel<S> for Peak {
    type Output = S::F;

    #[inline(always)]
    fn run(self, s: S) -> S::F {
        let (x, y) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let one = s.splat(1.0);
        // Twelve variables rather than an array: they must be registers.
        let (mut a, mut b, mut c, mut d, mut e, mut f) = (one, one, one, one, one, one);
        let (mut g, mut h, mut i, mut j, mut k, mut l) = (one, one, one, one, one, one);
        for _ in 0..self.0 {
            (a, b, c, d) = (s.fma(a, x, y), s.fma(b, x, y), s.fma(c, x, y), s.fma(d, x, y));
            (e, f, g, h) = (s.fma(e, x, y), s.fma(f, x, y), s.fma(g, x, y), s.fma(h, x, y));
            (i, j, k, l) = (s.fma(i, x, y), s.fma(j, x, y), s.fma(k, x, y), s.fma(l, x, y));
        }
        [a, b, c, d, e, f, g, h, i, j, k, l].into_iter().fold(s.splat(0.0), |a, b| s.add(a, b))
    }
}

/// The first convolution's weight gradient with one model per lane throughout, for comparison with
/// [`PooledBackward`]: each value under a tap is blended from the window's four candidates.
struct BlendedWeights<'a, S: Simd> {
    layer: &'a Layer,
    input: &'a [S::F],
    /// (positions, outputs)
    gradient: &'a [S::F],
    /// (positions, outputs, 3): where the second, third and fourth candidate wins.
    wins: &'a [S::M],
    /// (outputs, taps)
    weight_gradient: &'a mut [S::F],
}

const KERNEL: usize = 5;

impl<S: Simd> Kernel<S> for BlendedWeights<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let (layer, [rows, columns]) = (self.layer, self.layer.output_map());
        assert!(layer.kernel == [KERNEL; 2] && layer.channels == 1);
        for (output, gradient) in self.weight_gradient.chunks_exact_mut(KERNEL * KERNEL).enumerate() {
            for (kernel_row, sums) in gradient.chunks_exact_mut(KERNEL).enumerate() {
                let mut kept: [S::F; KERNEL] = [sums[0], sums[1], sums[2], sums[3], sums[4]];
                for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                    let unit = (y * columns + x) * layer.outputs + output;
                    let g = self.gradient[unit];
                    let [b, c, d] = [self.wins[3 * unit], self.wins[3 * unit + 1], self.wins[3 * unit + 2]];
                    let at = (2 * y + kernel_row) * layer.width + 2 * x;
                    let (upper, lower) =
                        (&self.input[at..][..KERNEL + 1], &self.input[at + layer.width..][..KERNEL + 1]);
                    for tap in 0..KERNEL {
                        let value = s.select(b, upper[tap + 1], upper[tap]);
                        let value = s.select(d, lower[tap + 1], s.select(c, lower[tap], value));
                        kept[tap] = s.fma(g, value, kept[tap]);
                    }
                }
                sums.copy_from_slice(&kept);
            }
        }
    }
}

/// Nanoseconds a model-sample of [`BlendedWeights`].
fn blended_weights<S: Simd>(s: S, layer: &Layer) -> f64 {
    let vector = |i: usize| s.splat((i * 7919 % 251) as f32 / 251.0 - 0.5);
    let input: Vec<S::F> = (0..layer.inputs()).map(vector).collect();
    let gradient: Vec<S::F> = (0..layer.units()).map(vector).collect();
    let wins: Vec<S::M> = (0..3 * layer.units()).map(|i| s.lt(vector(i), vector(i + 1))).collect();
    let mut weight_gradient = vec![s.splat(0.0); layer.outputs * layer.taps()];
    let time = seconds(|| {
        let weight_gradient = &mut weight_gradient;
        s.vectorize(BlendedWeights { layer, input: &input, gradient: &gradient, wins: &wins, weight_gradient });
    });
    time * 1e9 / S::LANES as f64
}

/// Multiply-adds a second on one core.
fn peak<S: Simd>(s: S) -> f64 {
    let rounds = 10_000;
    f64::from(rounds) * (CHAINS * S::LANES) as f64
        / seconds(|| {
            black_box(s.vectorize(Peak(rounds)));
        })
}

struct Row {
    name: String,
    /// Multiply-adds per model-sample.
    multiply_adds: usize,
    /// Nanoseconds a model-sample.
    nanoseconds: f64,
}

/// Numbers of ordinary size. Random, since a regular pattern would make most windows' maxima ties.
struct Numbers(Stream);

impl Numbers {
    fn vectors<S: Simd>(&mut self, s: S, n: usize) -> Vec<S::F> {
        (0..n).map(|_| s.splat(self.0.uniform() as f32 - 0.5)).collect()
    }
}

fn row(n: usize) -> Rows {
    let mut rows = Rows::new(1, n);
    rows.values_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919 % 251) as f32 / 251.0 - 0.5);
    rows
}

/// A layer whose kernels are timed, lanes.
struct TimedLayer<'a, S: Simd> {
    s: S,
    layer: &'a Layer,
    numbers: Numbers,
    blocks: Vec<Block>,
    weight: Vec<S::F>,
    bias: Vec<S::F>,
    input: Vec<S::F>,
    output: Vec<S::F>,
    winners: Vec<S::F>,
    derivative: Vec<S::F>,
}

impl<'a, S: Simd> TimedLayer<'a, S> {
    fn new(s: S, layer: &'a Layer) -> Self {
        let mut numbers = Numbers(Stream::new(0, Purpose::Sample, 0, 0));
        let max_size = if layer.pooled { S::BLOCK } else { Block::MAX_SIZE };
        Self {
            s,
            layer,
            blocks: Block::split(layer.outputs, max_size).collect(),
            weight: numbers.vectors(s, layer.outputs * layer.taps()),
            bias: numbers.vectors(s, layer.outputs),
            input: numbers.vectors(s, layer.inputs()),
            output: numbers.vectors(s, layer.units()),
            winners: numbers.vectors(s, layer.units()),
            derivative: numbers.vectors(s, layer.units()),
            numbers,
        }
    }

    /// Where a block's weights and biases lie.
    fn of(&self, b: Block) -> (Range<usize>, Range<usize>) {
        let taps = self.layer.taps();
        (b.first * taps..(b.first + b.size) * taps, b.first..b.first + b.size)
    }

    /// A row of the table, of seconds that all lanes took.
    fn row(&self, name: &str, multiply_adds: usize, seconds: f64) -> Row {
        Row { name: name.into(), multiply_adds, nanoseconds: seconds * 1e9 / S::LANES as f64 }
    }

    /// Every kernel of the layer.
    fn rows(mut self, index: usize) -> Vec<Row> {
        let mut rows = if self.layer.pooled { self.pooled(index) } else { self.dense() };
        rows.extend(self.activation());
        rows.push(self.adam());
        rows
    }

    fn pooled(&mut self, index: usize) -> Vec<Row> {
        let (s, layer) = (self.s, self.layer);
        let sparse = layer.units() * layer.taps();
        let time = seconds(|| {
            for i in 0..self.blocks.len() {
                let block = self.blocks[i];
                let (w, b) = self.of(block);
                s.vectorize(PooledForward::<S, true> {
                    layer,
                    block,
                    weight: &self.weight[w],
                    bias: &self.bias[b],
                    input: &self.input,
                    output: &mut self.output,
                    winners: &mut self.winners,
                });
            }
        });
        let mut picked = Rows::new(S::LANES, layer.units());
        picked.load(s, &self.winners);
        let mut rows = vec![self.row("pooled forward", 4 * sparse, time)];
        rows.push(pooled_backward(s, layer, &picked, false));
        if index > 0 {
            rows.push(pooled_backward(s, layer, &picked, true));
        }
        if index == 0 && layer.kernel == [KERNEL; 2] && layer.channels == 1 {
            // In brackets: it does not count in the sum.
            let nanoseconds = blended_weights(s, layer);
            rows.push(Row { name: "(weights by blending)".into(), multiply_adds: sparse, nanoseconds });
        }
        let time = seconds(|| picked.load(s, &self.output));
        rows.push(self.row("to rows", 0, time));
        let (turned, stride) = (picked.values(), picked.stride());
        let time = seconds(|| s.vectorize(FromRows { rows: turned, stride, vectors: &mut self.output }));
        rows.push(self.row("from rows", 0, time));
        rows
    }

    fn dense(&mut self) -> Vec<Row> {
        let (s, layer) = (self.s, self.layer);
        let forward = layer.units() * layer.taps();
        let time = seconds(|| {
            for i in 0..self.blocks.len() {
                let block = self.blocks[i];
                let (w, b) = self.of(block);
                let (weight, bias, input) = (&self.weight[w], &self.bias[b], &self.input);
                s.vectorize(DenseForward { layer, block, weight, bias, input, output: &mut self.output });
            }
        });
        let mut rows = vec![self.row("dense forward", forward, time)];
        let numbers = &mut self.numbers;
        let mut weight_gradient = numbers.vectors(s, self.weight.len());
        let mut bias_gradient = numbers.vectors(s, self.bias.len());
        let mut below = numbers.vectors(s, layer.inputs());
        let time = seconds(|| {
            for &block in &self.blocks {
                let (w, b) = self.of(block);
                s.vectorize(DenseBackward {
                    layer,
                    block,
                    weight: &self.weight[w.clone()],
                    input: &self.input,
                    gradient: &self.output,
                    weight_gradient: &mut weight_gradient[w],
                    bias_gradient: &mut bias_gradient[b],
                    input_gradient: &mut below,
                });
            }
        });
        rows.push(self.row("dense backward, both", 2 * forward, time));
        rows
    }

    fn activation(&mut self) -> Option<Row> {
        let activation = self.layer.activation?;
        let time = seconds(|| {
            let (output, derivative) = (&mut self.output, &mut self.derivative);
            self.s.vectorize(Activate::<S, true> { activation, output, derivative });
        });
        Some(self.row("activation", 0, time))
    }

    fn adam(&mut self) -> Row {
        let s = self.s;
        let n = self.weight.len() + self.bias.len();
        let numbers = &mut self.numbers;
        let (mut p, g) = (numbers.vectors(s, n), numbers.vectors(s, n));
        let (mut m, mut v) = (numbers.vectors(s, n), vec![s.splat(0.5); n]);
        let time = seconds(|| {
            s.vectorize(Adam {
                parameters: &mut p,
                gradients: &g,
                mean: &mut m,
                square: &mut v,
                weight_decay: s.splat(0.0),
                step_size: s.splat(1e-9),
                correction: 1.0,
            })
        });
        self.row("Adam, a tenth", 0, time / 10.0)
    }
}

/// The backward pass of a pooled layer, of one model whose winners are given, with that of its input
/// or without.
fn pooled_backward<S: Simd>(s: S, layer: &Layer, winners: &Rows, with_below: bool) -> Row {
    let (input, gradient) = (row(layer.inputs()), row(layer.units()));
    let mut weight_gradient = row(layer.outputs * layer.segments() * ROW);
    let mut bias_gradient = row(layer.outputs);
    let weight_row = row(layer.outputs * layer.framed_taps());
    let mut below = row(layer.inputs());
    let time = seconds(|| {
        let below = with_below.then(|| Below {
            weight: weight_row.values(),
            derivative: input.values(),
            gradient: below.values_mut(),
        });
        let gradients = ParameterGradients { weight: weight_gradient.values_mut(), bias: bias_gradient.values_mut() };
        let units = PooledUnits { gradient: gradient.values(), winners: winners.lane(0) };
        // SAFETY: the winners are of this layer's forward pass.
        #[allow(unsafe_code)]
        s.vectorize(unsafe { PooledBackward::new(layer, input.values(), units, gradients, below) });
    });
    let (name, times) = if with_below { ("pooled backward, both", 2) } else { ("pooled backward, weights", 1) };
    Row { name: name.into(), multiply_adds: times * layer.units() * layer.taps(), nanoseconds: time * 1e9 }
}

fn layer_table<S: Simd>(s: S, architecture: Architecture, channels: usize) {
    let side = architecture.image_side().expect("a size of its own");
    let h = hyperparameters(architecture);
    let network = h.network([channels, side, side], 10).expect("the shape fits");
    let peak = peak(s);
    println!(
        "\n{} with {channels} input channels, {} lanes; peak {:.1} GFLOP/s",
        architecture.name(),
        S::LANES,
        2e-9 * peak
    );
    println!(
        "| layer | kernel | multiply-adds | ns per model-sample | share of peak |\n| --- | --- | --- | --- | --- |"
    );
    let mut total = 0.0;
    for (i, layer) in layers(&network).expect("of the engine's kind").iter().enumerate() {
        let rows = TimedLayer::new(s, layer).rows(i);
        let both = rows.iter().any(|r| r.name.ends_with("both"));
        for row in rows {
            let counted_elsewhere = both && row.name.ends_with("weights");
            if !counted_elsewhere && !row.name.starts_with('(') {
                total += row.nanoseconds;
            }
            let share = row.multiply_adds as f64 / row.nanoseconds * 1e9 / peak;
            println!(
                "| {} | {} | {} | {:.0} | {:.0} % |",
                i + 1,
                row.name,
                row.multiply_adds,
                row.nanoseconds,
                100.0 * share
            );
        }
    }
    println!("sum {total:.0} ns: {:.0} model-samples/s", 1e9 / total);
}

fn hyperparameters(architecture: Architecture) -> Hyperparameters {
    Hyperparameters {
        architecture,
        init: Init::KaimingUniform,
        learning_rate: 1e-3,
        momentum: 0.9,
        seed: 0,
        ..Hyperparameters::default()
    }
}

/// Model-samples a second of a full cohort: training, and evaluation.
fn rates(engine: &PopulationEngine, h: &Hyperparameters, data: &Dataset) -> (f64, f64) {
    let with_seed = |seed| Task::new(&Hyperparameters { seed, ..h.clone() }, data.shape, 10).expect("the shape fits");
    let tasks: Vec<_> = (0..COHORT as u64).map(with_seed).collect();
    let mut cohort = engine.start(&tasks, data, None).expect("the processor is there");
    let go_on = Interrupt::default();
    let samples = (COHORT * data.len(Split::Train)) as f64;
    let mut epoch = 0;
    let train = seconds(|| {
        epoch += 1;
        cohort.train_epoch(epoch, &go_on).expect("nothing interrupts");
    });
    let evaluate = seconds(|| drop(cohort.evaluate(Split::Train, &go_on)));
    (samples / train, samples / evaluate)
}

fn rate_table(engine: &PopulationEngine) {
    println!("\nWhole engine, one thread, batch 10, {}", engine.instructions().name());
    println!("| architecture | activation | optimizer | dropout | channels | training/s | evaluation/s | multiply-adds/s against the first |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    use Activation::*;
    let cases = [
        (Architecture::CnnS, Tanh, Optimizer::Adam, 0.0, 1),
        (Architecture::CnnS, Tanh, Optimizer::Adam, 0.5, 1),
        (Architecture::CnnS, Tanh, Optimizer::Sgd, 0.0, 1),
        (Architecture::CnnS, Relu, Optimizer::Adam, 0.0, 1),
        (Architecture::CnnS, Sigmoid, Optimizer::Adam, 0.0, 1),
        (Architecture::CnnS, Gelu, Optimizer::Adam, 0.0, 1),
        (Architecture::CnnS, Tanh, Optimizer::Adam, 0.0, 3),
        (Architecture::CnnM, Tanh, Optimizer::Adam, 0.0, 3),
        (Architecture::CnnM, Gelu, Optimizer::Sgd, 0.5, 3),
    ];
    let mut first = None;
    for (architecture, activation, optimizer, dropout, channels) in cases {
        let side = architecture.image_side().expect("a size of its own");
        let data = noise_dataset([channels, side, side], 10, 500);
        let h = Hyperparameters { activation, optimizer, dropout, ..hyperparameters(architecture) };
        let network = h.network(data.shape, 10).expect("the shape fits");
        let layers = layers(&network).expect("of the engine's kind");
        let (train, evaluate) = rates(engine, &h, &data);
        let work: usize = layers.iter().enumerate().map(|(i, l)| multiply_adds(l, i > 0)).sum();
        let relative = train * work as f64 / *first.get_or_insert(train * work as f64);
        println!(
            "| {} | {activation:?} | {optimizer:?} | {dropout} | {channels} | {train:.0} | {evaluate:.0} | {relative:.2} |",
            architecture.name()
        );
    }
}

/// Multiply-adds of a layer's forward and backward passes of one sample.
fn multiply_adds(layer: &Layer, has_below: bool) -> usize {
    let sparse = layer.units() * layer.taps();
    sparse * if layer.pooled { 4 } else { 1 } + sparse * if has_below { 2 } else { 1 }
}

/// The first samples of the dataset that `ZOO_DATA` names, or noise.
fn headline_dataset() -> Dataset {
    let Some(path) = std::env::var_os("ZOO_DATA") else { return noise_dataset([1, 28, 28], 10, 500) };
    // Benchmarks run in their package's folder; a relative path is meant from the workspace's.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let data = Dataset::read(&path).unwrap_or_else(|e| panic!("{e}"));
    let first = |split: Split| {
        let samples = data.split(split);
        let count = samples.labels.len().min(2_000);
        Samples {
            images: samples.images[..count * data.image_len()].to_vec(),
            labels: samples.labels[..count].to_vec(),
        }
    };
    Dataset::new(data.info.clone(), data.shape, PerSplit::from_fn(first)).expect("a part of a well-formed dataset")
}

/// The headline on 1, 2, ... threads.
fn thread_table(engine: &PopulationEngine) {
    let data = headline_dataset();
    let h = hyperparameters(Architecture::CnnS);
    println!("\nThreads, each with a cohort of its own: cnn-s, tanh, Adam, {}", data.info.dataset);
    println!("| threads | training/s | times one |\n| --- | --- | --- |");
    let mut one = None;
    for threads in 1..=std::thread::available_parallelism().map_or(1, usize::from) {
        let all: Vec<f64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| rates(engine, &h, &data).0)).collect();
            workers.into_iter().map(|w| w.join().expect("no panic")).collect()
        });
        let total: f64 = all.iter().sum();
        println!("| {threads} | {total:.0} | {:.2} |", total / *one.get_or_insert(total));
    }
}

fn layer_tables<S: Simd>(s: S) {
    layer_table(s, Architecture::CnnS, 1);
    layer_table(s, Architecture::CnnM, 3);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |section: &str| words.is_empty() || words.iter().any(|w| w == section);
    let engine = PopulationEngine::new();
    if wanted("layers") {
        match engine.instructions() {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => layer_tables(Avx512::detect().expect("available")),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => layer_tables(Avx2::detect().expect("available")),
            _ => layer_tables(Portable::<8>),
        }
    }
    if wanted("rates") {
        rate_table(&engine);
    }
    if wanted("threads") {
        thread_table(&engine);
    }
}
