//! Every operation on the emulated device, in every order of a block's threads, beside the reference.

use super::check::{self, values, with_padding, FORCED};
use super::source::{kernel_source, LABELS};
use super::*;
use crate::geometry::Map;
use crate::kernels::upload;
use crate::reference::Reference;
use zoo_engine_cuda::emulated::{Emulated, Turns};
use zoo_model::Activation;

fn emulated(turns: Turns) -> CudaKernels {
    let driver = Emulated { turns, ..Emulated::default() };
    CudaKernels::new(&driver, driver.compile(&kernel_source()).unwrap(), None).unwrap()
}

fn all_turns() -> [CudaKernels; 3] {
    let [ascending, descending, mixed] = [Turns::Ascending, Turns::Descending, Turns::Mixed].map(emulated);
    // Of few blocks, whose threads have several items each.
    [ascending, descending, CudaKernels { max_blocks: 2, ..mixed }]
}

fn buffer<K: Kernels>(kernels: &K, values: &[f32]) -> K::Buffer {
    upload(kernels, values).unwrap()
}

fn bits<K: Kernels>(kernels: &K, buffer: &K::Buffer, rows: usize, channels: usize) -> Vec<u32> {
    check::bits(kernels, buffer, rows, channels).unwrap()
}

fn passes<K: Kernels>(kernels: &K, geometry: &Geometry, images: usize) -> Vec<Vec<u32>> {
    check::passes(kernels, geometry, images).unwrap()
}

/// Compares what a block makes of kernels (bits) on devices and on the reference.
macro_rules! assert_equals_reference {
    ($devices:expr, $what:expr, |$kernels:ident| $block:expr) => {{
        let expected: Vec<Vec<u32>> = {
            let $kernels = &Reference;
            $block
        };
        for (d, device) in $devices.iter().enumerate() {
            let found: Vec<Vec<u32>> = {
                let $kernels = device;
                $block
            };
            for (o, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let first = found.iter().zip(expected).position(|(f, e)| f != e);
                let values = first.map(|i| (i, f32::from_bits(found[i]), f32::from_bits(expected[i])));
                assert!(values.is_none(), "{} on device {d}, output {o}: {values:?}", $what);
                assert_eq!(found.len(), expected.len());
            }
        }
    }};
}

fn geometry([height, width]: [usize; 2], [kernel, stride, padding]: [usize; 3], channels: [usize; 2]) -> Geometry {
    let kernel = if kernel == 0 { Map { height, width } } else { Map { height: kernel, width: kernel } };
    let output = Map {
        height: (height + 2 * padding - kernel.height) / stride + 1,
        width: (width + 2 * padding - kernel.width) / stride + 1,
    };
    let [inputs, outputs] = channels;
    Geometry { input: Map { height, width }, output, kernel, stride, padding, inputs, outputs }
}

#[test]
fn convolutions_equal_the_reference() {
    let devices = all_turns();
    for (map, kernel, channels, images) in [
        // ResNet-18's, on fewer images and smaller maps.
        ([4, 4], [3, 1, 1], [3, 64], 5),
        ([4, 4], [3, 2, 1], [64, 128], 3),
        ([4, 4], [1, 2, 0], [64, 128], 3),
        ([2, 2], [3, 1, 1], [96, 512], 2),
        ([1, 1], [0, 1, 0], [512, 10], 4),
        // Others.
        ([1, 1], [3, 1, 1], [1, 1], 1),
        ([5, 3], [3, 2, 1], [5, 17], 1),
        ([3, 5], [2, 1, 0], [17, 3], 33),
        ([6, 4], [5, 1, 2], [3, 5], 2),
        ([6, 4], [0, 1, 0], [3, 33], 7),
        ([3, 3], [1, 3, 1], [2, 2], 3),
        ([1, 1], [0, 1, 0], [70, 20], 40),
    ] {
        let g = geometry(map, kernel, channels);
        assert_equals_reference!(devices, format!("{g:?}, {images} images"), |kernels| passes(kernels, &g, images));
    }
}

#[test]
fn every_tile_equals_the_reference() {
    let turns = [Turns::Ascending, Turns::Descending, Turns::Mixed].into_iter().cycle();
    let devices = FORCED.into_iter().zip(turns).map(|(tile, turns)| CudaKernels { tile, ..emulated(turns) });
    let devices: Vec<CudaKernels> = devices.collect();
    for (map, kernel, channels, images) in [([3, 2], [3, 1, 1], [37, 133], 130), ([2, 2], [3, 2, 1], [64, 64], 17)] {
        let g = geometry(map, kernel, channels);
        assert_equals_reference!(devices, format!("{g:?}, {images} images"), |kernels| passes(kernels, &g, images));
    }
}

/// Terms beyond a segment, whose ends are within positions and within runs of images.
#[test]
fn gradients_of_weights_over_many_terms_equal_the_reference() {
    let devices = all_turns();
    for (map, kernel, channels, images) in
        [([13, 9], [3, 1, 1], [3, 2], 77), ([37, 31], [1, 1, 0], [2, 1], 11), ([1, 1], [0, 1, 0], [3, 5], 8200)]
    {
        let g = geometry(map, kernel, channels);
        assert_equals_reference!(devices, format!("{g:?}, {images} images"), |kernels| {
            check::segments(kernels, &g, images).unwrap().to_vec()
        });
    }
}

fn shape([height, width]: [usize; 2], channels: usize) -> Shape {
    Shape { map: Map { height, width }, channels }
}

/// Shapes and numbers of images: few and many terms, segments that end anywhere.
fn shapes() -> [(Shape, usize); 6] {
    [
        (shape([1, 1], 1), 1),
        (shape([3, 5], 17), 2),
        (shape([2, 2], 64), 9),
        (shape([1, 1], 33), 129),
        (shape([17, 11], 5), 70),
        (shape([40, 20], 3), 50),
    ]
}

#[test]
fn sums_over_a_mini_batch_equal_the_reference() {
    let devices = all_turns();
    for (shape, images) in shapes() {
        let channels = shape.channels;
        assert_equals_reference!(devices, format!("{shape:?}, {images} images"), |kernels| {
            let x = buffer(kernels, &with_padding(rows(shape, images), channels, 1));
            let vector = |seed| buffer(kernels, &with_padding(1, channels, seed));
            let [mut sums, mut mean, mut inverse_deviation] = [1, 2, 3].map(vector);
            let [mut running_mean, mut running_variance] = [4, 5].map(vector);
            kernels.channel_sums(shape, images, &x, &mut sums).unwrap();
            let statistics = Statistics {
                mean: &mut mean,
                inverse_deviation: &mut inverse_deviation,
                running_mean: &mut running_mean,
                running_variance: &mut running_variance,
            };
            kernels.batch_statistics(shape, images, &x, statistics).unwrap();
            let mut inverse = vector(6);
            kernels.inverse_deviation(channels, &inverse_deviation, &mut inverse).unwrap();
            let all = [sums, mean, inverse_deviation, running_mean, running_variance, inverse];
            all.iter().map(|v| bits(kernels, v, 1, channels)).collect()
        });
    }
}

/// The segments of a large tensor: more than threads take at a time.
#[test]
fn many_segments_are_added_in_pairs() {
    let images = 4096 * 41 + 1;
    let shape = shape([1, 1], 1);
    assert_equals_reference!(all_turns(), "many segments", |kernels| {
        let x = buffer(kernels, &with_padding(images, 1, 1));
        let mut sums = kernels.zeros(16).unwrap();
        kernels.channel_sums(shape, images, &x, &mut sums).unwrap();
        let g = geometry([1, 1], [1, 1, 0], [1, 1]);
        let mut by_weights = kernels.zeros(16).unwrap();
        kernels.weight_gradient(&g, images, &x, &x, &mut by_weights).unwrap();
        vec![bits(kernels, &sums, 1, 1), bits(kernels, &by_weights, 1, 1)]
    });
}

/// A pointwise layer's passes, with those parts that `has` says: norm, addend, factors.
fn pointwise<K: Kernels>(
    kernels: &K,
    shape: Shape,
    images: usize,
    activation: Option<Activation>,
    has: [bool; 3],
) -> Vec<Vec<u32>> {
    let (rows, channels) = (rows(shape, images), shape.channels);
    let tensor = |seed| buffer(kernels, &with_padding(rows, channels, seed));
    let vector = |seed| buffer(kernels, &with_padding(1, channels, seed));
    let ([x, addend, factors], [mean, inverse_deviation, scale, shift]) =
        ([1, 2, 3].map(tensor), [4, 5, 6, 7].map(vector));
    let norm = || Norm { mean: &mean, inverse_deviation: &inverse_deviation, scale: &scale, shift: &shift };
    let layers = Pointwise {
        norm: has[0].then(norm),
        addend: has[1].then_some(&addend),
        activation,
        factors: has[2].then_some(&factors),
    };
    let [mut y, mut gradient, mut by_input] = [8, 9, 10].map(tensor);
    kernels.pointwise(shape, images, &x, &layers, &mut y).unwrap();
    let [mut by_scale, mut by_shift] = [11, 12].map(vector);
    let by_norm = NormGradient { by_scale: &mut by_scale, by_shift: &mut by_shift };
    kernels.pointwise_gradient(shape, images, &x, &layers, &mut gradient, has[0].then_some(by_norm)).unwrap();
    if has[0] {
        let by_norm = NormGradientView { by_scale: &by_scale, by_shift: &by_shift };
        kernels.norm_gradient(shape, images, &x, &norm(), &gradient, by_norm, &mut by_input).unwrap();
    }
    let tensors = [y, gradient, by_input].map(|t| bits(kernels, &t, rows, channels));
    tensors.into_iter().chain([by_scale, by_shift].map(|v| bits(kernels, &v, 1, channels))).collect()
}

#[test]
fn pointwise_layers_equal_the_reference() {
    use Activation::*;
    let devices = all_turns();
    let activations = [Some(Tanh), Some(Relu), Some(Sigmoid), Some(Gelu), Some(LeakyRelu), Some(Silu), None];
    let all = [[true, true, false], [true, false, true], [false, true, true], [false, false, false]];
    for (i, activation) in activations.into_iter().enumerate() {
        for (j, has) in all.into_iter().enumerate() {
            let (shape, images) = shapes()[if i == 6 { j + 2 } else { j }];
            let what = format!("{activation:?}, {has:?} on {shape:?}, {images} images");
            assert_equals_reference!(devices, what, |kernels| pointwise(kernels, shape, images, activation, has));
        }
    }
}

#[test]
fn pooling_equals_the_reference() {
    let devices = all_turns();
    for (shape, images) in
        [(shape([4, 6], 17), 3), (shape([5, 3], 3), 1), (shape([1, 1], 5), 2), (shape([4, 4], 64), 2)]
    {
        let channels = shape.channels;
        let half = Shape { map: Map { height: shape.map.height / 2, width: shape.map.width / 2 }, channels };
        assert_equals_reference!(devices, format!("{shape:?}, {images} images"), |kernels| {
            // Equal ones, and NaN.
            let mut values = with_padding(rows(shape, images), channels, 1);
            values.iter_mut().step_by(3).for_each(|v| *v = (*v * 2.0).round());
            values.iter_mut().step_by(7).for_each(|v| *v = f32::NAN);
            let x = buffer(kernels, &values);
            let tensor = |shape: Shape, seed| buffer(kernels, &with_padding(rows(shape, images), channels, seed));
            let [mut largest, mut winners, by_largest] = [2, 3, 4].map(|seed| tensor(half, seed));
            kernels.max_pool(shape, images, &x, &mut largest, &mut winners).unwrap();
            let [mut by_input, mut by_input_of_mean] = [5, 6].map(|seed| tensor(shape, seed));
            kernels.max_pool_gradient(shape, images, &by_largest, &winners, &mut by_input).unwrap();
            let one = Shape { map: Map { height: 1, width: 1 }, channels };
            let [mut mean, by_mean] = [7, 8].map(|seed| tensor(one, seed));
            let x = tensor(shape, 9);
            kernels.average_pool(shape, images, &x, &mut mean).unwrap();
            kernels.average_pool_gradient(shape, images, &by_mean, &mut by_input_of_mean).unwrap();
            [(largest, half), (winners, half), (by_input, shape), (mean, one), (by_input_of_mean, shape)]
                .map(|(b, shape)| bits(kernels, &b, rows(shape, images), channels))
                .into()
        });
    }
}

const DRAW: Draw = Draw { seed: 0x1234_5678_9abc_def0, epoch: 3, step: 5 };

#[test]
fn random_draws_and_images_equal_the_reference() {
    let devices = all_turns();
    for (shape, images) in [(shape([3, 5], 17), 2), (shape([1, 1], 3), 1), (shape([4, 2], 1), 5)] {
        let (rows, channels) = (rows(shape, images), shape.channels);
        assert_equals_reference!(devices, format!("{shape:?}, {images} images"), |kernels| {
            let tensor = |seed| buffer(kernels, &with_padding(rows, channels, seed));
            let [mut factors, mut sums] = [1, 2].map(tensor);
            kernels.dropout_factors(shape, images, 0.3, Purpose::Dropout(2), DRAW, &mut factors).unwrap();
            let magnitudes = with_padding(rows, channels, 3).into_iter().map(f32::abs).collect::<Vec<_>>();
            let mut variances = buffer(kernels, &magnitudes);
            kernels.add_noise(shape, images, 4, DRAW, &mut variances, &mut sums).unwrap();
            let mut of_all = [factors, sums, variances].map(|b| bits(kernels, &b, rows, channels)).to_vec();

            let Map { height, width } = shape.map;
            let pixels: Vec<u8> = (0..rows * channels).map(|i| (i * 37 % 256) as u8).collect();
            let table: Vec<[f32; 256]> =
                values(256 * channels, 4).chunks_exact(256).map(|row| row.try_into().unwrap()).collect();
            let pixels = Pixels { values: &pixels, table: &table, shape: [channels, height, width] };
            let mut loaded = tensor(5);
            kernels.load_images(pixels, false, &mut loaded).unwrap();
            of_all.push(bits(kernels, &loaded, rows, channels));
            let units = shape.map.positions() * channels;
            let mut flat = buffer(kernels, &with_padding(images, units, 6));
            kernels.load_images(pixels, true, &mut flat).unwrap();
            of_all.push(bits(kernels, &flat, images, units));
            of_all
        });
    }
}

#[test]
fn the_gradient_of_the_loss_equals_the_reference() {
    let devices = all_turns();
    for (classes, images) in [(10, 3), (1, 1), (2, LABELS + 5), (300, 2)] {
        let labels: Vec<u16> = (0..images).map(|i| ((i * 7 + 1) % classes) as u16).collect();
        let specials = [0.5, f32::NAN, f32::INFINITY, 1e4];
        for special in if images > LABELS { &specials[..1] } else { &specials } {
            assert_equals_reference!(devices, format!("{classes} classes, {special}"), |kernels| {
                let mut logits: Vec<f32> = with_padding(images, classes, 1).into_iter().map(|v| v * 9.0).collect();
                logits[0] = *special;
                let logits = buffer(kernels, &logits);
                let mut gradient = buffer(kernels, &with_padding(images, classes, 2));
                kernels.cross_entropy_gradient(classes, &logits, &labels, &mut gradient).unwrap();
                vec![bits(kernels, &gradient, images, classes)]
            });
        }
    }
}

#[test]
fn optimisers_and_functions_of_vectors_equal_the_reference() {
    let devices = all_turns();
    let adam = Update::Adam { step_size: 1e-2, correction: 0.3, mean_rate: 0.1, weight_decay: 1e-3 };
    let sgd = Update::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 1e-3 };
    for (update, is_masked) in [(adam, true), (adam, false), (sgd, true), (sgd, false)] {
        let floats = 16 * 37;
        assert_equals_reference!(devices, format!("{update:?}"), |kernels| {
            let vector = |seed| buffer(kernels, &values(floats, seed));
            let mask: Vec<f32> = (0..floats).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect();
            let mask = buffer(kernels, &mask);
            let squares = buffer(kernels, &values(floats, 1).into_iter().map(f32::abs).collect::<Vec<_>>());
            let mut moments = match update {
                Update::Adam { .. } => vec![vector(2), squares],
                Update::Sgd { .. } => vec![vector(2)],
            };
            let (gradient, mut parameters) = (vector(3), vector(4));
            let mask = is_masked.then_some(&mask);
            kernels.update(floats, update, &gradient, mask, &mut parameters, &mut moments).unwrap();
            let [mut sum, mut square, mut product, mut of_squares, mut power] = [5, 6, 7, 8, 9].map(vector);
            kernels.add(floats, &gradient, &mut sum).unwrap();
            kernels.square(floats, &gradient, &mut square).unwrap();
            kernels.multiply(floats, &gradient, &mut product).unwrap();
            kernels.add_of_squares(floats, &gradient, &parameters, &mut of_squares).unwrap();
            kernels.exp(floats, &gradient, &mut power).unwrap();
            let [log_sigma2, mut by_weights, mut by_noise] = [10, 11, 12].map(vector);
            kernels
                .add_divergence(floats, [&parameters, &log_sigma2, &power], 0.4, &mut by_weights, &mut by_noise)
                .unwrap();
            let all = [parameters, sum, square, product, of_squares, power, by_weights, by_noise];
            all.iter().chain(&moments).map(|v| bits(kernels, v, 1, floats)).collect()
        });
    }
}

#[test]
fn transposed_weights_are_padded_with_zeros() {
    let g = geometry([4, 4], [3, 1, 1], [17, 5]);
    let kernels = emulated(Turns::Ascending);
    let weights = buffer(&kernels, &with_padding(g.taps() * g.inputs, g.outputs, 1));
    let mut transposed = buffer(&kernels, &vec![f32::NAN; g.transposed_weights()]);
    kernels.transpose(&g, &weights, &mut transposed).unwrap();
    let mut found = vec![0.0; g.transposed_weights()];
    kernels.download(&transposed, &mut found).unwrap();
    assert!(found.chunks_exact(32).all(|row| row[17..].iter().all(|v| v.to_bits() == 0)));
}

#[test]
#[should_panic(expected = "a buffer of")]
fn buffers_that_are_too_small_are_refused() {
    let kernels = emulated(Turns::Ascending);
    let (from, mut to) = (kernels.zeros(16).unwrap(), kernels.zeros(32).unwrap());
    let _ = kernels.add(32, &from, &mut to);
}
