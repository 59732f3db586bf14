use proptest::prelude::*;
#[cfg(target_arch = "x86_64")]
use zoo_engine_simd::{Avx2, Avx512};
use zoo_engine_simd::{Portable, Simd};

use super::*;
use crate::geometry::{segments, tree, Map};

/// A convolution's operands.
#[derive(Debug, Clone)]
struct Case {
    geometry: Geometry,
    images: usize,
    x: Vec<f32>,
    by_output: Vec<f32>,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    by_input: Vec<f32>,
    accumulates: bool,
}

/// Values of many exponents; of those that are not finite, a few.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut value = || match word() % 2000 {
        0 if seed.is_multiple_of(4) => f32::NAN,
        1 if seed.is_multiple_of(4) => f32::INFINITY,
        2 => -0.0,
        n => (word() as i32) as f32 * f32::from_bits((80 + n % 16) << 23),
    };
    (0..len).map(|_| value()).collect()
}

impl Case {
    fn new(geometry: Geometry, images: usize, seed: u64) -> Self {
        let (inputs, outputs) = (padded(geometry.inputs), padded(geometry.outputs));
        Self {
            geometry,
            images,
            x: values(geometry.input.positions() * images * inputs, seed),
            by_output: values(geometry.output.positions() * images * outputs, seed + 4),
            weights: values(geometry.weights(), seed + 8),
            bias: (seed & 8 == 0).then(|| values(outputs, seed + 12)),
            by_input: values(geometry.input.positions() * images * inputs, seed + 16),
            accumulates: seed & 16 == 0,
        }
    }

    /// Output, transposed weights, gradients of input and weights.
    fn run<S: Simd>(&self, s: S) -> [Vec<f32>; 4] {
        let Self { geometry, images, x, by_output, weights, bias, by_input, accumulates } = self;
        let mut out = vec![7.0; by_output.len()];
        convolution(s, geometry, *images, x, weights, bias.as_deref(), &mut out);
        let mut transposed = vec![7.0; geometry.transposed_weights()];
        transpose(geometry, weights, &mut transposed);
        let mut by_input = by_input.clone();
        input_gradient(s, geometry, *images, by_output, &transposed, &mut by_input, *accumulates);
        let mut by_weights = vec![7.0; weights.len()];
        weight_gradient(s, geometry, *images, x, by_output, &mut by_weights);
        [out, transposed, by_input, by_weights]
    }

    /// [`run`](Self::run), without padding lanes.
    fn real<S: Simd>(&self, s: S) -> [Vec<u32>; 4] {
        let [out, transposed, by_input, by_weights] = self.run(s);
        let Geometry { inputs, outputs, .. } = self.geometry;
        let lanes = |values: Vec<f32>, channels: usize| {
            let rows = values.chunks(padded(channels));
            rows.flat_map(|row| row[..channels].iter().map(|&value| bits(value))).collect()
        };
        [
            lanes(out, outputs),
            transposed.into_iter().map(bits).collect(),
            lanes(by_input, inputs),
            lanes(by_weights, outputs),
        ]
    }

    /// The same as it is defined, a scalar at a time.
    fn naive(&self) -> [Vec<u32>; 4] {
        [self.naive_output(), self.naive_transposed(), self.naive_by_input(), self.naive_by_weights()]
    }

    fn x(&self, position: usize, image: usize, input: usize) -> f32 {
        self.x[(position * self.images + image) * padded(self.geometry.inputs) + input]
    }

    fn dy(&self, position: usize, image: usize, output: usize) -> f32 {
        self.by_output[(position * self.images + image) * padded(self.geometry.outputs) + output]
    }

    fn weight(&self, tap: usize, input: usize, output: usize) -> f32 {
        self.weights[(tap * self.geometry.inputs + input) * padded(self.geometry.outputs) + output]
    }

    fn naive_output(&self) -> Vec<u32> {
        let g = &self.geometry;
        let each = indices([g.output.positions(), self.images, g.outputs]);
        each.map(|[position, image, output]| {
            let mut sum = self.bias.as_ref().map_or(0.0, |bias| bias[output]);
            for tap in 0..g.taps() {
                if let Some(from) = g.input_position(position, tap) {
                    for input in 0..g.inputs {
                        sum = self.x(from, image, input).mul_add(self.weight(tap, input, output), sum);
                    }
                }
            }
            bits(sum)
        })
        .collect()
    }

    fn naive_transposed(&self) -> Vec<u32> {
        let g = &self.geometry;
        let each = indices([g.taps(), g.outputs, padded(g.inputs)]);
        each.map(|[tap, output, input]| bits(if input < g.inputs { self.weight(tap, input, output) } else { 0.0 }))
            .collect()
    }

    fn naive_by_input(&self) -> Vec<u32> {
        let g = &self.geometry;
        let each = indices([g.input.positions(), self.images, g.inputs]);
        each.map(|[position, image, input]| {
            let there = self.by_input[(position * self.images + image) * padded(g.inputs) + input];
            let mut sum = if self.accumulates { there } else { 0.0 };
            for tap in 0..g.taps() {
                if let Some(from) = g.output_position(position, tap) {
                    for output in 0..g.outputs {
                        sum = self.dy(from, image, output).mul_add(self.weight(tap, input, output), sum);
                    }
                }
            }
            bits(sum)
        })
        .collect()
    }

    fn naive_by_weights(&self) -> Vec<u32> {
        let g = &self.geometry;
        let each = indices([g.taps(), g.inputs, g.outputs]);
        each.map(|[tap, input, output]| {
            let sums = segments(g.output.positions() * self.images).map(|segment| {
                segment.map(|term| (term / self.images, term % self.images)).fold(0.0_f32, |sum, (position, image)| {
                    g.input_position(position, tap)
                        .map_or(sum, |from| self.x(from, image, input).mul_add(self.dy(position, image, output), sum))
                })
            });
            bits(tree(sums.collect(), |a, b| a + b).unwrap())
        })
        .collect()
    }

    fn check(&self) {
        let naive = self.naive();
        let same = |found: [Vec<u32>; 4], set: &str| {
            for ((found, expected), what) in
                found.iter().zip(&naive).zip(["output", "transposed", "by input", "by weights"])
            {
                assert!(found == expected, "{what} on {set}: {:?}, {} images", self.geometry, self.images);
            }
        };
        same(self.real(Portable::<8>), "portable");
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            same(self.real(avx2), "avx2");
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = Avx512::detect() {
            same(self.real(avx512), "avx512");
        }
    }
}

fn bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN } else { value }.to_bits()
}

fn indices([a, b, c]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}

/// A geometry, if there is one.
fn geometry(input: Map, kernel: Map, stride: usize, padding: usize, channels: [usize; 2]) -> Option<Geometry> {
    let axis = |size: usize, kernel: usize| Some((size + 2 * padding).checked_sub(kernel)? / stride + 1);
    let output = Map { height: axis(input.height, kernel.height)?, width: axis(input.width, kernel.width)? };
    Some(Geometry { input, output, kernel, stride, padding, inputs: channels[0], outputs: channels[1] })
}

fn square(side: usize) -> Map {
    Map { height: side, width: side }
}

prop_compose! {
    fn some_case()(
        height in 1usize..7,
        width in 1usize..7,
        kernel in prop::sample::select(&[0, 1, 2, 3, 5][..]),
        stride in 1usize..=2,
        padding in 0usize..=2,
        inputs in prop::sample::select(&[1, 3, 5, 16, 17, 33][..]),
        outputs in prop::sample::select(&[1, 3, 5, 17, 33, 80][..]),
        images in 1usize..=20,
        seed in any::<u32>(),
    ) -> Case {
        let input = Map { height, width };
        // 0: as large as the map.
        let kernel = if kernel == 0 { input } else { square(kernel) };
        let whole = || geometry(input, input, 1, 0, [inputs, outputs]);
        let geometry = geometry(input, kernel, stride, padding, [inputs, outputs]).or_else(whole).unwrap();
        Case::new(geometry, images, seed.into())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_adds_up_in_the_order_that_is_defined(case in some_case()) {
        case.check();
    }
}

#[test]
fn sums_over_several_segments_and_blocks_are_added_up_in_the_order_that_is_defined() {
    // Two to six segments, boundaries within a position; reductions in blocks, by taps and by channels.
    let shapes = [
        (geometry(square(20), square(3), 1, 1, [3, 17]), 21),
        (geometry(square(31), square(2), 2, 0, [5, 3]), 67),
        (geometry(square(20), square(1), 1, 0, [1, 1]), 60),
        (geometry(square(3), square(3), 1, 1, [130, 140]), 15),
        (geometry(square(2), square(1), 1, 0, [1200, 50]), 9),
        (geometry(square(1), square(1), 1, 0, [784, 100]), 10),
    ];
    for (seed, (geometry, images)) in (1..).zip(shapes) {
        Case::new(geometry.unwrap(), images, seed).check();
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // 21 segments: four in a task with one thread, one with many.
    let case = Case::new(geometry(square(29), square(3), 1, 1, [1, 2]).unwrap(), 101, 1);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.real(Portable::<8>))
    };
    let naive = case.naive();
    assert!([1, 2, 3, 8].iter().all(|&threads| with(threads) == naive));
}
