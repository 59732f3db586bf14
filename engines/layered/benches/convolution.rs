//! GFLOP/s of ResNet-18's convolutions at 32x32 pixels, padding left out, and their share of what the
//! core can do: `cargo bench -p zoo-engine-layered --bench convolution -- [SET] [IMAGES] [LAYER]`.

use std::hint::black_box;
use std::time::Instant;

use zoo_engine_layered::cpu::convolution::{convolution, input_gradient, weight_gradient};
use zoo_engine_layered::geometry::{padded, Geometry, Map};
use zoo_engine_simd::{Avx2, Avx512, Kernel, Simd};

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

fn layers() -> Vec<Geometry> {
    let mut layers = vec![layer(32, 3, 1, 3, 64), layer(32, 3, 1, 64, 64)];
    for (side, inputs) in [(32, 64), (16, 128), (8, 256)] {
        layers.push(layer(side, 3, 2, inputs, 2 * inputs));
        layers.push(layer(side, 1, 2, inputs, 2 * inputs));
        layers.push(layer(side / 2, 3, 1, 2 * inputs, 2 * inputs));
    }
    layers.push(layer(1, 1, 1, 512, 10));
    layers
}

extern "C" {
    fn madvise(a: *mut u8, l: usize, x: i32) -> i32;
    fn aligned_alloc(a: usize, l: usize) -> *mut u8;
}
fn values(len: usize) -> &'static mut [f32] {
    let bytes = (len * 4).next_multiple_of(1 << 21);
    let v: &'static mut [f32] = unsafe {
        let p = aligned_alloc(1 << 21, bytes);
        if std::env::var("HUGE").is_ok() {
            madvise(p, bytes, 14);
        }
        std::slice::from_raw_parts_mut(p.cast(), len)
    };
    v.iter_mut().zip(values2(len)).for_each(|(a, b)| *a = b);
    v
}
fn values2(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) as i32 as f32 * 1e-10).collect()
}

/// GFLOP/s of the three passes.
fn passes<S: Simd>(s: S, geometry: &Geometry, images: usize) -> [f64; 3] {
    let work = geometry.multiply_adds() * images;
    let x = values(geometry.input.positions() * images * padded(geometry.inputs));
    let dy = values(geometry.output.positions() * images * padded(geometry.outputs));
    let weights = values(geometry.weights());
    let transposed = values(geometry.transposed_weights());
    let (mut out, mut by_input, mut by_weights) = (values(dy.len()), values(x.len()), values(weights.len()));
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
    let number = |n: usize| wanted.get(n).and_then(|value| value.parse::<usize>().ok());
    for threads in [1, 2] {
        println!("{name}, {threads} thread(s); peak of one {peak:.0} GFLOP/s");
        println!("{:>28} {:>6}  {:>13} {:>13} {:>13}", "layer", "images", "forward", "by input", "by weights");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        for images in number(1).map_or(vec![32, 128], |images| vec![images]) {
            for geometry in layers()
                .iter()
                .enumerate()
                .filter(|(n, _)| number(2).is_none_or(|wanted| wanted == *n))
                .map(|(_, layer)| layer)
            {
                let rates = pool.install(|| passes(s, geometry, images));
                let Geometry { input, kernel, stride, inputs, outputs, .. } = geometry;
                let layer =
                    format!("{k}x{k}/{stride} {inputs}->{outputs} {m}x{m}", k = kernel.height, m = input.height);
                let [forward, by_input, by_weights] =
                    rates.map(|rate| format!("{rate:.0} ({:.0} %)", 100.0 * rate / (peak * threads as f64)));
                println!("{layer:>28} {images:>6}  {forward:>13} {by_input:>13} {by_weights:>13}");
            }
        }
    }
}

#[allow(dead_code)]
fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(avx512) = Avx512::detect() {
        bench(avx512, "avx512", &wanted);
    }
    if let Some(avx2) = Avx2::detect() {
        bench(avx2, "avx2", &wanted);
    }
}
