//! The layered engine on CUDA devices ([`zoo_engine_cuda`]).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `kernels/` | the kernels, in what C and CUDA have in common |
//! | [`mod@source`] | what they are compiled for, and the tiles of products of matrices |
//! | [`check`] | the check of a device before it is used |
//! | `memory` | how much device memory a model takes |
//! | [`devices`] | devices and the models that are trained on them |

#![allow(unsafe_code)]

pub mod check;
pub mod devices;
mod memory;
pub mod source;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard};

use zoo_engine_cuda::kernels::activation_number;
use zoo_engine_cuda::{Buffer, Driver, Lease, Program, Queue};
use zoo_model::random::{dropout_threshold, Purpose};
use zoo_model::safetensors_file::from_f32;

use crate::geometry::{padded, segments, Geometry, LANES};
use crate::kernels::{
    Draw, Kernels, Norm, NormGradient, NormGradientView, Outcome, Pixels, Pointwise, Shape, Statistics, Update,
};
use source::{Tile, LABELS, THREADS};

/// Maximum number of blocks of elementwise kernels: about as many as a large GPU has room for, twice.
const MAX_BLOCKS: usize = 1 << 11;

/// The kernels' `KEEP`, `MEAN` and `VARIANCE`.
const KEEP: u32 = 0;
const MEAN: u32 = 1;
const VARIANCE: u32 = 2;

/// Kernels on a queue of their own.
///
/// Operations may be under way when a method returns, but for `download`, and for what copies from the host, which
/// waits for those before it. Buffers are this queue's: another [`CudaKernels`] does not wait for what is done with
/// them.
pub struct CudaKernels {
    program: Arc<dyn Program>,
    /// The tile for a number of products of rows x columns.
    tile: fn(usize, usize, usize) -> Tile,
    /// Maximum number of blocks of elementwise kernels.
    max_blocks: usize,
    inner: Mutex<Inner>,
    /// Room for what its buffers take, with other kernels.
    _lease: Option<Arc<Lease>>,
}

struct Inner {
    queue: Box<dyn Queue>,
    /// Sums of segments.
    sums: Buffer,
    pixels: Buffer,
    table: Buffer,
    /// What the table holds.
    values: Vec<[f32; 256]>,
}

/// A buffer's address, where it has room for the given number of floats.
fn address(buffer: &Buffer, floats: usize) -> u64 {
    assert!(buffer.bytes >= floats * size_of::<f32>(), "a buffer of {} bytes for {floats} floats", buffer.bytes);
    buffer.address
}

/// [`address`] of what may be missing: null.
fn address_or_null(buffer: Option<&Buffer>, floats: usize) -> u64 {
    buffer.map_or(0, |buffer| address(buffer, floats))
}

/// The bytes of a kernel's argument: addresses and other words of 64 bits, and what has 32.
fn arguments(words: &[u64], numbers: &[u32]) -> Vec<u64> {
    let pair = |pair: &[u32]| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32;
    words.iter().copied().chain(numbers.chunks(2).map(pair)).collect()
}

/// A number as kernels have it.
fn int(number: usize) -> u32 {
    i32::try_from(number).expect("a size that kernels count up to") as u32
}

/// A tensor's rows of channels.
fn rows(shape: Shape, images: usize) -> usize {
    shape.map.positions() * images
}

/// A tensor's floats.
fn floats(shape: Shape, images: usize) -> usize {
    rows(shape, images) * padded(shape.channels)
}

impl Inner {
    /// Memory of at least the given number of bytes in place of a buffer.
    fn grow(queue: &dyn Queue, buffer: &mut Buffer, bytes: usize) -> Outcome {
        if buffer.bytes < bytes {
            // The old one goes first.
            *buffer = queue.allocate(0)?;
            *buffer = queue.allocate(bytes)?;
        }
        Ok(())
    }

    /// The address of memory for the sums of segments.
    fn sums(&mut self, floats: usize) -> Outcome<u64> {
        Self::grow(self.queue.as_ref(), &mut self.sums, floats * size_of::<f32>())?;
        Ok(self.sums.address)
    }
}

impl CudaKernels {
    /// On a new queue of a device, with its program of [`kernel_source`](source::kernel_source), and the room that
    /// buffers may take.
    ///
    /// # Errors
    /// The device failed.
    pub fn new(driver: &dyn Driver, program: Arc<dyn Program>, lease: Option<Arc<Lease>>) -> Outcome<Self> {
        let queue = driver.queue()?;
        let [sums, pixels, table] = [(); 3].map(|()| queue.allocate(0));
        let inner = Inner { sums: sums?, pixels: pixels?, table: table?, values: Vec::new(), queue };
        Ok(Self { program, tile: Tile::best, max_blocks: MAX_BLOCKS, inner: Mutex::new(inner), _lease: lease })
    }

    /// Waits until all operations are done.
    pub fn wait(&self) -> Outcome {
        self.lock().queue.wait()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn launch(&self, inner: &Inner, kernel: &str, blocks: usize, arguments: &[u64]) -> Outcome {
        if blocks == 0 {
            return Ok(());
        }
        // SAFETY: callers list what the kernel's argument has in `kernels/arguments.cu`, with addresses of buffers
        // whose sizes have been asserted. They live until the kernel has run: what is freed, is freed in the order
        // of the queue.
        unsafe { inner.queue.launch(self.program.as_ref(), kernel, [int(blocks), 1], arguments) }
    }

    /// Launches a kernel whose threads share the given number of items.
    fn launch_every(&self, inner: &Inner, kernel: &str, items: usize, arguments: &[u64]) -> Outcome {
        self.launch(inner, kernel, items.div_ceil(THREADS).min(self.max_blocks), arguments)
    }

    /// Launches a kernel whose threads share a tensor, each with four channels of some rows.
    fn launch_rows(&self, inner: &Inner, kernel: &str, shape: Shape, images: usize, arguments: &[u64]) -> Outcome {
        // All threads are a multiple of a row's quads.
        let quads = padded(shape.channels) / 4;
        let unit = quads / (1 << quads.trailing_zeros().min(THREADS.trailing_zeros()));
        let blocks = (rows(shape, images) * quads).div_ceil(THREADS).min(self.max_blocks);
        self.launch(inner, kernel, blocks.next_multiple_of(unit), arguments)
    }

    /// A pointwise layer's arguments.
    fn pointwise_arguments(
        shape: Shape,
        images: usize,
        x: &Buffer,
        layers: &Pointwise<Buffer>,
        out: &Buffer,
        sums: u64,
    ) -> Vec<u64> {
        let (size, channels) = (floats(shape, images), padded(shape.channels));
        let norm = match &layers.norm {
            Some(n) => [n.mean, n.inverse_deviation, n.scale, n.shift].map(|b| address(b, channels)),
            None => [0; 4],
        };
        let activation = layers.activation.map_or(u32::MAX, activation_number);
        arguments(
            &[
                address(x, size),
                norm[0],
                norm[1],
                norm[2],
                norm[3],
                address_or_null(layers.addend, size),
                address_or_null(layers.factors, size),
                address(out, size),
                sums,
            ],
            &[int(rows(shape, images)), int(channels), activation],
        )
    }

    /// Adds up the sums of segments of a tensor's columns.
    fn finish_sums(
        &self,
        inner: &Inner,
        sums: u64,
        shape: Shape,
        images: usize,
        what: u32,
        [first, second, running]: [u64; 3],
    ) -> Outcome {
        let (rows, channels) = (rows(shape, images), padded(shape.channels));
        let columns = if second == 0 { channels } else { 2 * channels };
        let numbers = [segments(rows).count(), columns, channels, rows].map(int);
        let [count, columns_number, channels, rows] = numbers;
        let arguments = arguments(&[sums, first, second, running], &[count, columns_number, channels, rows, what]);
        self.launch(inner, "finish_sums", columns / LANES, &arguments)
    }

    /// Sums of segments of each channel, or of the squares of distances from a mean.
    fn sum_segments(&self, inner: &mut Inner, shape: Shape, images: usize, x: &Buffer, mean: u64) -> Outcome<u64> {
        let (rows, channels) = (rows(shape, images), padded(shape.channels));
        let count = segments(rows).count();
        let sums = inner.sums(count * channels)?;
        let arguments = arguments(&[address(x, rows * channels), mean, sums], &[int(rows), int(channels)]);
        self.launch(inner, "sum_segments", count * channels / LANES, &arguments)?;
        Ok(sums)
    }

    /// Launches one of the kernels on `struct vectors`.
    fn launch_vectors(&self, kernel: &str, size: usize, from: &Buffer, to: &Buffer) -> Outcome {
        let arguments = arguments(&[address(from, size), address(to, size), size as u64], &[]);
        self.launch_every(&self.lock(), kernel, size, &arguments)
    }

    /// Launches one of the kernels on `struct pool`, whose threads share `items`; `shape` is the larger map's.
    fn launch_pool(&self, kernel: &str, items: usize, shape: Shape, images: usize, words: [u64; 3]) -> Outcome {
        let numbers = [shape.map.height, shape.map.width, images, padded(shape.channels)].map(int);
        self.launch_every(&self.lock(), kernel, items, &arguments(&words, &numbers))
    }
}

/// Floats of a map after 2x2 pooling.
fn pooled_floats(shape: Shape, images: usize) -> usize {
    (shape.map.height / 2) * (shape.map.width / 2) * images * padded(shape.channels)
}

/// What of a geometry kernels have in common, but for the maps.
fn kernel_numbers(geometry: &Geometry) -> [u32; 4] {
    [geometry.kernel.height, geometry.kernel.width, geometry.stride, geometry.padding].map(int)
}

/// What a convolution and the gradient of its input have in common.
struct Convolution<'a> {
    geometry: &'a Geometry,
    images: usize,
    x: &'a Buffer,
    weights: &'a Buffer,
    bias: Option<&'a Buffer>,
    out: &'a Buffer,
    is_gradient: bool,
    accumulates: bool,
}

impl Convolution<'_> {
    fn launch(&self, kernels: &CudaKernels) -> Outcome {
        let g = self.geometry;
        let (from, to, inputs, outputs, weights) = if self.is_gradient {
            (g.output, g.input, g.outputs, padded(g.inputs), g.transposed_weights())
        } else {
            (g.input, g.output, g.inputs, padded(g.outputs), g.weights())
        };
        let tile = (kernels.tile)(to.positions(), self.images, outputs);
        let [row_tiles, column_tiles] = [tile.row_tiles(self.images), tile.column_tiles(outputs)];
        let words = [
            address(self.x, from.positions() * self.images * padded(inputs)),
            address(self.weights, weights),
            address_or_null(self.bias, outputs),
            address(self.out, to.positions() * self.images * outputs),
        ];
        let sizes = [self.images, inputs, outputs, from.height, from.width, to.height, to.width].map(int);
        let flags = [self.is_gradient.into(), self.accumulates.into(), int(row_tiles), int(column_tiles)];
        let numbers = [&sizes[..], &kernel_numbers(g), &flags].concat();
        let blocks = to.positions() * row_tiles * column_tiles;
        kernels.launch(&kernels.lock(), tile.convolution, blocks, &arguments(&words, &numbers))
    }
}

impl Kernels for CudaKernels {
    type Buffer = Buffer;

    fn zeros(&self, floats: usize) -> Outcome<Buffer> {
        self.lock().queue.allocate(floats * size_of::<f32>())
    }

    fn upload(&self, from: &[f32], to: &mut Buffer) -> Outcome {
        self.lock().queue.upload(&from_f32(from), to)
    }

    fn download(&self, from: &Buffer, to: &mut [f32]) -> Outcome {
        let mut bytes = vec![0; size_of_val(to)];
        self.lock().queue.download(from, &mut bytes)?;
        for (value, bytes) in to.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        Ok(())
    }

    fn load_images(&self, pixels: Pixels, is_flat: bool, out: &mut Buffer) -> Outcome {
        let [channels, height, width] = pixels.shape;
        let (positions, of_image) = (height * width, channels * height * width);
        let images = pixels.values.len() / of_image;
        assert!(pixels.table.len() >= channels, "a table of {} channels for {channels}", pixels.table.len());
        let size = images * if is_flat { padded(of_image) } else { positions * padded(channels) };
        let mut inner = self.lock();
        let Inner { queue, pixels: on_device, table, values, .. } = &mut *inner;
        Inner::grow(queue.as_ref(), on_device, pixels.values.len())?;
        queue.upload(pixels.values, on_device)?;
        if values.as_slice() != pixels.table {
            Inner::grow(queue.as_ref(), table, size_of_val(pixels.table))?;
            queue.upload(&from_f32(pixels.table.as_flattened()), table)?;
            *values = pixels.table.to_vec();
        }
        let words = [on_device.address, table.address, address(out, size)];
        let numbers = [images, channels, positions, usize::from(is_flat)].map(int);
        self.launch_every(&inner, "load_images", images * of_image, &arguments(&words, &numbers))
    }

    fn convolution(
        &self,
        geometry: &Geometry,
        images: usize,
        x: &Buffer,
        weights: &Buffer,
        bias: Option<&Buffer>,
        out: &mut Buffer,
    ) -> Outcome {
        Convolution { geometry, images, x, weights, bias, out, is_gradient: false, accumulates: false }.launch(self)
    }

    fn transpose(&self, geometry: &Geometry, weights: &Buffer, out: &mut Buffer) -> Outcome {
        let Geometry { inputs, outputs, .. } = *geometry;
        let words = [address(weights, geometry.weights()), address(out, geometry.transposed_weights())];
        let blocks = geometry.taps() * padded(inputs).div_ceil(32) * padded(outputs).div_ceil(32);
        let numbers = [geometry.taps(), inputs, outputs].map(int);
        self.launch(&self.lock(), "transpose", blocks, &arguments(&words, &numbers))
    }

    fn input_gradient(
        &self,
        geometry: &Geometry,
        images: usize,
        by_output: &Buffer,
        transposed: &Buffer,
        by_input: &mut Buffer,
        accumulates: bool,
    ) -> Outcome {
        let (x, weights, out) = (by_output, transposed, by_input);
        Convolution { geometry, images, x, weights, bias: None, out, is_gradient: true, accumulates }.launch(self)
    }

    fn weight_gradient(
        &self,
        geometry: &Geometry,
        images: usize,
        x: &Buffer,
        by_output: &Buffer,
        by_weights: &mut Buffer,
    ) -> Outcome {
        let g = geometry;
        let (inputs, outputs, terms) = (padded(g.inputs), padded(g.outputs), g.output.positions() * images);
        let (rows, count, size) = (g.taps() * inputs, segments(terms).count(), g.weights());
        let tile = (self.tile)(count, rows, outputs);
        let [row_tiles, column_tiles] = [tile.row_tiles(rows), tile.column_tiles(outputs)];
        let out = address(by_weights, size);
        let mut inner = self.lock();
        // A single segment is the sum.
        let sums = if count == 1 { out } else { inner.sums(count * size)? };
        let words = [address(x, g.input.positions() * images * inputs), address(by_output, terms * outputs), sums];
        let sizes = [images, inputs, g.inputs, outputs].map(int);
        let maps = [g.input.height, g.input.width, g.output.height, g.output.width].map(int);
        let tiles = [rows, terms, row_tiles, column_tiles].map(int);
        let numbers = [sizes, maps, kernel_numbers(g), tiles].concat();
        let blocks = count * row_tiles * column_tiles;
        self.launch(&inner, tile.weight_gradient, blocks, &arguments(&words, &numbers))?;
        if count == 1 {
            return Ok(());
        }
        self.launch_every(&inner, "add_segments", size, &arguments(&[sums, out], &[int(size), int(count)]))
    }

    fn channel_sums(&self, shape: Shape, images: usize, x: &Buffer, sums: &mut Buffer) -> Outcome {
        let out = address(sums, padded(shape.channels));
        let mut inner = self.lock();
        let sums = self.sum_segments(&mut inner, shape, images, x, 0)?;
        self.finish_sums(&inner, sums, shape, images, KEEP, [out, 0, 0])
    }

    fn batch_statistics(&self, shape: Shape, images: usize, x: &Buffer, statistics: Statistics<Buffer>) -> Outcome {
        let Statistics { mean, inverse_deviation, running_mean, running_variance } = statistics;
        let [mean, inverse_deviation, running_mean, running_variance] =
            [mean, inverse_deviation, running_mean, running_variance].map(|b| address(b, padded(shape.channels)));
        let mut inner = self.lock();
        let sums = self.sum_segments(&mut inner, shape, images, x, 0)?;
        self.finish_sums(&inner, sums, shape, images, MEAN, [mean, 0, running_mean])?;
        let sums = self.sum_segments(&mut inner, shape, images, x, mean)?;
        self.finish_sums(&inner, sums, shape, images, VARIANCE, [inverse_deviation, 0, running_variance])
    }

    fn inverse_deviation(&self, channels: usize, variance: &Buffer, out: &mut Buffer) -> Outcome {
        self.launch_vectors("inverse_deviation", channels, variance, out)
    }

    fn pointwise(
        &self,
        shape: Shape,
        images: usize,
        x: &Buffer,
        layers: &Pointwise<Buffer>,
        out: &mut Buffer,
    ) -> Outcome {
        let arguments = Self::pointwise_arguments(shape, images, x, layers, out, 0);
        self.launch_rows(&self.lock(), "pointwise", shape, images, &arguments)
    }

    fn pointwise_gradient(
        &self,
        shape: Shape,
        images: usize,
        x: &Buffer,
        layers: &Pointwise<Buffer>,
        gradient: &mut Buffer,
        by_norm: Option<NormGradient<Buffer>>,
    ) -> Outcome {
        let mut inner = self.lock();
        let Some(NormGradient { by_scale, by_shift }) = by_norm else {
            let arguments = Self::pointwise_arguments(shape, images, x, layers, gradient, 0);
            return self.launch_rows(&inner, "pointwise_gradient", shape, images, &arguments);
        };
        assert!(layers.norm.is_some(), "the gradients of a norm that is not there");
        let (count, channels) = (segments(rows(shape, images)).count(), padded(shape.channels));
        let out = [address(by_shift, channels), address(by_scale, channels), 0];
        let sums = inner.sums(count * 2 * channels)?;
        let arguments = Self::pointwise_arguments(shape, images, x, layers, gradient, sums);
        self.launch(&inner, "pointwise_gradient_sums", count * channels / LANES, &arguments)?;
        self.finish_sums(&inner, sums, shape, images, KEEP, out)
    }

    fn norm_gradient(
        &self,
        shape: Shape,
        images: usize,
        x: &Buffer,
        norm: &Norm<Buffer>,
        gradient: &Buffer,
        by_norm: NormGradientView<Buffer>,
        out: &mut Buffer,
    ) -> Outcome {
        let (size, channels) = (floats(shape, images), padded(shape.channels));
        let [mean, inverse_deviation, scale, by_scale, by_shift] =
            [norm.mean, norm.inverse_deviation, norm.scale, by_norm.by_scale, by_norm.by_shift]
                .map(|b| address(b, channels));
        let [x, gradient, out] = [x, gradient, &*out].map(|b| address(b, size));
        let words = [x, mean, inverse_deviation, scale, gradient, by_scale, by_shift, out];
        let arguments = arguments(&words, &[int(rows(shape, images)), int(channels)]);
        self.launch_rows(&self.lock(), "norm_gradient", shape, images, &arguments)
    }

    fn add(&self, floats: usize, from: &Buffer, to: &mut Buffer) -> Outcome {
        self.launch_vectors("add", floats, from, to)
    }

    fn max_pool(&self, shape: Shape, images: usize, x: &Buffer, out: &mut Buffer, winners: &mut Buffer) -> Outcome {
        let size = pooled_floats(shape, images);
        let words = [address(x, floats(shape, images)), address(out, size), address(winners, size)];
        self.launch_pool("max_pool", size / 4, shape, images, words)
    }

    fn max_pool_gradient(
        &self,
        shape: Shape,
        images: usize,
        by_output: &Buffer,
        winners: &Buffer,
        by_input: &mut Buffer,
    ) -> Outcome {
        let (size, pooled) = (floats(shape, images), pooled_floats(shape, images));
        let words = [address(by_output, pooled), address(by_input, size), address(winners, pooled)];
        self.launch_pool("max_pool_gradient", size / 4, shape, images, words)
    }

    fn average_pool(&self, shape: Shape, images: usize, x: &Buffer, out: &mut Buffer) -> Outcome {
        let size = images * padded(shape.channels);
        let words = [address(x, floats(shape, images)), address(out, size), 0];
        self.launch_pool("average_pool", size / 4, shape, images, words)
    }

    fn average_pool_gradient(&self, shape: Shape, images: usize, by_output: &Buffer, by_input: &mut Buffer) -> Outcome {
        let size = floats(shape, images);
        let words = [address(by_output, images * padded(shape.channels)), address(by_input, size), 0];
        self.launch_pool("average_pool_gradient", size / 4, shape, images, words)
    }

    fn dropout_factors(
        &self,
        shape: Shape,
        images: usize,
        probability: f64,
        purpose: Purpose,
        draw: Draw,
        out: &mut Buffer,
    ) -> Outcome {
        let kept = (1.0 / (1.0 - probability)) as f32;
        let [positions, images_number, channels] = [shape.map.positions(), images, shape.channels].map(int);
        let random = [purpose.word(), draw.epoch, draw.step, dropout_threshold(probability), kept.to_bits()];
        let numbers = [&[positions, images_number, channels], &random[..]].concat();
        let arguments = arguments(&[address(out, floats(shape, images)), draw.seed], &numbers);
        self.launch_every(&self.lock(), "dropout", (rows(shape, images) * shape.channels).div_ceil(4), &arguments)
    }

    fn cross_entropy_gradient(&self, classes: usize, logits: &Buffer, labels: &[u16], out: &mut Buffer) -> Outcome {
        let size = labels.len() * padded(classes);
        let words = [address(logits, size), address(out, size)];
        let inner = self.lock();
        for (i, labels_of_call) in labels.chunks(LABELS).enumerate() {
            let numbers = [labels.len(), classes, i * LABELS, 0].map(int);
            let mut of_call = [0; LABELS];
            of_call[..labels_of_call.len()].copy_from_slice(labels_of_call);
            let pairs = of_call.chunks_exact(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16);
            let numbers: Vec<u32> = numbers.into_iter().chain(pairs).collect();
            self.launch(&inner, "cross_entropy", labels_of_call.len(), &arguments(&words, &numbers))?;
        }
        Ok(())
    }

    fn square(&self, floats: usize, x: &Buffer, out: &mut Buffer) -> Outcome {
        self.launch_vectors("square", floats, x, out)
    }

    fn multiply(&self, floats: usize, by: &Buffer, to: &mut Buffer) -> Outcome {
        self.launch_vectors("multiply_by", floats, by, to)
    }

    fn add_noise(
        &self,
        shape: Shape,
        images: usize,
        layer: u8,
        draw: Draw,
        variances: &mut Buffer,
        sums: &mut Buffer,
    ) -> Outcome {
        let (size, positions) = (floats(shape, images), shape.map.positions());
        let words = [address(variances, size), address(sums, size), draw.seed];
        let sizes = [positions, images, shape.channels].map(int);
        let numbers = [sizes, [Purpose::Noise(layer).word(), draw.epoch, draw.step]].concat();
        let blocks = images * (positions * shape.channels).div_ceil(4);
        self.launch_every(&self.lock(), "add_noise", blocks, &arguments(&words, &numbers))
    }

    fn add_of_squares(&self, floats: usize, x: &Buffer, by_squares: &Buffer, gradient: &mut Buffer) -> Outcome {
        let [x, by_squares, gradient] = [x, by_squares, &*gradient].map(|b| address(b, floats));
        let arguments = arguments(&[x, by_squares, gradient, floats as u64], &[]);
        self.launch_every(&self.lock(), "add_of_squares", floats, &arguments)
    }

    fn exp(&self, floats: usize, x: &Buffer, out: &mut Buffer) -> Outcome {
        self.launch_vectors("exponentials", floats, x, out)
    }

    fn add_divergence(
        &self,
        floats: usize,
        [weights, log_sigma2, sigma2]: [&Buffer; 3],
        kl_weight: f32,
        by_weights: &mut Buffer,
        by_noise: &mut Buffer,
    ) -> Outcome {
        let [weights, log_sigma2, sigma2, by_weights, by_noise] =
            [weights, log_sigma2, sigma2, &*by_weights, &*by_noise].map(|b| address(b, floats));
        let words = [weights, log_sigma2, sigma2, by_weights, by_noise, floats as u64];
        self.launch_every(&self.lock(), "add_divergence", floats, &arguments(&words, &[kl_weight.to_bits()]))
    }

    fn update(
        &self,
        floats: usize,
        update: Update,
        gradient: &Buffer,
        mask: Option<&Buffer>,
        parameters: &mut Buffer,
        moments: &mut [Buffer],
    ) -> Outcome {
        let (is_adam, rates) = match update {
            Update::Adam { step_size, correction, mean_rate, weight_decay } => {
                (true, [step_size, correction, mean_rate, weight_decay])
            }
            Update::Sgd { learning_rate, momentum, weight_decay } => {
                (false, [learning_rate, 0.0, momentum, weight_decay])
            }
        };
        let moment = |i: usize| address(&moments[i], floats);
        let words = [
            address(gradient, floats),
            address_or_null(mask, floats),
            address(parameters, floats),
            moment(0),
            if is_adam { moment(1) } else { 0 },
            floats as u64,
        ];
        let [a, b, c, d] = rates.map(f32::to_bits);
        self.launch_every(&self.lock(), "update", floats, &arguments(&words, &[is_adam.into(), a, b, c, d]))
    }
}
