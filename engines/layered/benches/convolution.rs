//! GFLOP/s of ResNet-18's convolutions at 32x32 pixels and of a multilayer perceptron's layers, padding left
//! out, and their share of what cores can do:
//! `cargo bench -p zoo-engine-layered --bench convolution -- [INSTRUCTION SET [NUMBER OF LAYER]]`.

use std::hint::black_box;
use std::time::Instant;

use zoo_engine_layered::cpu::convolution::{convolution, input_gradient, weight_gradient};
use zoo_engine_layered::geometry::{padded, Geometry, Map};
#[cfg(target_arch = "x86_64")]
use zoo_engine_simd::{Avx2, Avx512};
use zoo_engine_simd::{Kernel, Portable, Simd};

/// The best of several repetitions, in GFLOP/s.
fn best(multiply_adds: usize, mut run: impl FnMut()) -> f64 {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    time();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut repetitions = 0;
    while repetitions < 5 || (begin.elapsed().as_secs_f64() < 0.25 && repetitions < 1000) {
        best = best.min(time());
        repetitions += 1;
    }
    2e-9 * multiply_adds as f64 / best
}

/// Independent multiply-adds in registers.
struct Peak(usize);

impl<S: Simd> Kernel<S> for Peak {
    type Output = f32;

    #[inline(always)]
    fn run(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        let mut sums = [s.splat(0.0); 12];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        let total = sums.into_iter().fold(s.splat(0.0), |total, sum| s.add(total, sum));
        S::values(&[total])[0]
    }
}

fn layer(side: usize, kernel: usize, stride: usize, inputs: usize, outputs: usize) -> Geometry {
    let padding = kernel / 2;
    let out = (side + 2 * padding - kernel) / stride + 1;
    let square = |side| Map { height: side, width: side };
    Geometry { input: square(side), output: square(out), kernel: square(kernel), stride, padding, inputs, outputs }
}

/// Layers and numbers of images.
fn layers() -> Vec<(Geometry, usize)> {
    let mut layers = vec![layer(32, 3, 1, 3, 64), layer(32, 3, 1, 64, 64)];
    for (side, inputs) in [(32, 64), (16, 128), (8, 256)] {
        layers.push(layer(side, 3, 2, inputs, 2 * inputs));
        layers.push(layer(side, 1, 2, inputs, 2 * inputs));
        layers.push(layer(side / 2, 3, 1, 2 * inputs, 2 * inputs));
    }
    layers.push(layer(1, 1, 1, 512, 10));
    let mut layers: Vec<_> = [32, 128].into_iter().flat_map(|n| layers.iter().map(move |&layer| (layer, n))).collect();
    layers.extend([(784, 256), (256, 128), (128, 10)].map(|(inputs, outputs)| (layer(1, 1, 1, inputs, outputs), 10)));
    layers
}

fn values(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) as i32 as f32 * 1e-10).collect()
}

/// GFLOP/s of the three passes.
fn passes<S: Simd>(s: S, geometry: &Geometry, images: usize) -> [f64; 3] {
    let work = geometry.multiply_adds() * images;
    let x = values(geometry.input.positions() * images * padded(geometry.inputs));
    let dy = values(geometry.output.positions() * images * padded(geometry.outputs));
    let weights = values(geometry.weights());
    let transposed = values(geometry.transposed_weights());
    let (mut out, mut by_input, mut by_weights) = (dy.clone(), x.clone(), weights.clone());
    [
        best(work, || convolution(s, geometry, images, &x, &weights, None, &mut out)),
        best(work, || input_gradient(s, geometry, images, &dy, &transposed, &mut by_input, false)),
        best(work, || weight_gradient(s, geometry, images, &x, &dy, &mut by_weights)),
    ]
}

fn bench<S: Simd>(s: S, name: &str, wanted: &[String]) {
    if wanted.first().is_some_and(|set| set != name) {
        return;
    }
    let steps = 1 << 20;
    let peak = best(12 * steps * S::LANES, || {
        black_box(s.vectorize(Peak(steps)));
    });
    for threads in [1, 2] {
        println!("{name}, {threads} thread(s); peak of one {peak:.0} GFLOP/s");
        println!("{:>28} {:>6}  {:>13} {:>13} {:>13}", "layer", "images", "forward", "by input", "by weights");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        for (n, (geometry, images)) in layers().iter().enumerate() {
            if wanted.get(1).is_some_and(|wanted| *wanted != n.to_string()) {
                continue;
            }
            let rates = pool.install(|| passes(s, geometry, *images));
            let Geometry { input, kernel, stride, inputs, outputs, .. } = geometry;
            let layer = format!("{k}x{k}/{stride} {inputs}->{outputs} {m}x{m}", k = kernel.height, m = input.height);
            let [forward, by_input, by_weights] =
                rates.map(|rate| format!("{rate:.0} ({:.0} %)", 100.0 * rate / (peak * threads as f64)));
            println!("{layer:>28} {images:>6}  {forward:>13} {by_input:>13} {by_weights:>13}");
        }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(avx512) = Avx512::detect() {
            bench(avx512, "avx512", &wanted);
        }
        if let Some(avx2) = Avx2::detect() {
            bench(avx2, "avx2", &wanted);
        }
    }
    // Slow: only by name.
    if wanted.first().is_some_and(|set| set == "portable") {
        bench(Portable::<8>, "portable", &wanted);
    }
}
