//! What the engine needs of a device: the arithmetic of every layer, with the order of every sum.
//!
//! Everything is float32, every operation is rounded once as IEEE 754 prescribes, and sums are added up
//! in an order that is fixed by shapes alone:
//!
//! - A **chain** is `sum = fma(a, b, sum)` (or `sum = sum + a`), term after term.
//! - A sum over a mini-batch has a term for every output position and image, the images of a position
//!   one after the other. It is cut into segments of [`SEGMENT`](crate::geometry::SEGMENT) terms, the
//!   last one shorter; each segment is a chain from 0, and segments are added in pairs by
//!   [`tree`](crate::geometry::tree).
//!
//! Terms that padding would contribute are left out of chains. [`Reference`](crate::reference::Reference)
//! spells all of it out; every device equals it bit for bit, except that the sign and payload of a NaN
//! are its own.
//!
//! Buffers are of tensors as [`geometry`](crate::geometry) lays them out, weights as (taps, inputs,
//! padded outputs). `images` is the number of images of a mini-batch, at most as many as buffers have
//! room for.

use zoo_engine::DeviceError;
use zoo_model::random::Purpose;
use zoo_model::{Activation, Optimizer};

use crate::geometry::{padded, Geometry, Map};

/// Added to a variance before its root is taken, as in PyTorch.
pub const VARIANCE_FLOOR: f32 = 1e-5;

/// How far running statistics move towards those of a batch, as in PyTorch.
pub const MOMENTUM: f32 = 0.1;

/// What an operation of a device gives.
pub type Outcome<T = ()> = Result<T, DeviceError>;

/// A batch normalisation's vectors, each of the padded channels.
pub struct Norm<'a, B> {
    /// Means.
    pub mean: &'a B,
    /// 1 / sqrt(variance + 1e-5).
    pub inverse_deviation: &'a B,
    /// Scale.
    pub scale: &'a B,
    /// Shift.
    pub shift: &'a B,
}

/// Elementwise layers in one: `y = factor * activation(normalised x + addend)`, each part of it
/// only if it is there. The normalised x is `fma(x - mean, scale * inverse_deviation, shift)`.
pub struct Pointwise<'a, B> {
    /// Batch normalisation.
    pub norm: Option<Norm<'a, B>>,
    /// What a residual block's other path gives; same shape as x.
    pub addend: Option<&'a B>,
    /// Activation.
    pub activation: Option<Activation>,
    /// Dropout's factors; same shape as x.
    pub factors: Option<&'a B>,
}

/// Shape of a tensor but for the number of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Its map.
    pub map: Map,
    /// Channels.
    pub channels: usize,
}

impl Shape {
    /// Floats of a tensor of the given number of images.
    pub fn floats(&self, images: usize) -> usize {
        self.map.positions() * images * padded(self.channels)
    }
}

/// What a mini-batch's random draws depend on, besides the module or layer.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// The model's seed.
    pub seed: u64,
    /// Epoch, from 1, those before fine-tuning counted in.
    pub epoch: u32,
    /// Step in the epoch.
    pub step: u32,
}

/// An optimiser's step on one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// Adam.
    Adam {
        /// See [`adam_rates`](zoo_engine::optimizer::adam_rates).
        step_size: f32,
        /// See [`adam_rates`](zoo_engine::optimizer::adam_rates).
        correction: f32,
        /// 1 - beta 1.
        mean_rate: f32,
        /// Weight decay.
        weight_decay: f32,
    },
    /// SGD with momentum.
    Sgd {
        /// Learning rate.
        learning_rate: f32,
        /// Momentum.
        momentum: f32,
        /// Weight decay.
        weight_decay: f32,
    },
}

/// Images of a mini-batch, on the host.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    /// (images, channels, height, width), as augmentation leaves them.
    pub values: &'a [u8],
    /// (channels, 256): what each value becomes.
    pub table: &'a [[f32; 256]],
    /// (channels, height, width).
    pub shape: [usize; 3],
}

/// A device's arithmetic.
pub trait Kernels: Send + Sync {
    /// Memory of the device, of f32.
    type Buffer: Send + Sync;

    /// Memory for this many floats, all zeros.
    fn zeros(&self, floats: usize) -> Outcome<Self::Buffer>;

    /// Copies to the beginning of a buffer.
    fn upload(&self, from: &[f32], to: &mut Self::Buffer) -> Outcome;

    /// Copies from the beginning of a buffer.
    fn download(&self, from: &Self::Buffer, to: &mut [f32]) -> Outcome;

    /// Normalised images as a tensor: of the images' map and channels, or if `is_flat` of one position,
    /// its channels in the order (channel, row, column).
    fn load_images(&self, pixels: Pixels, is_flat: bool, out: &mut Self::Buffer) -> Outcome;

    /// Every output is a chain over (kernel row, kernel column, input channel), valid taps only, from the
    /// bias (padded outputs), or from 0: `fma(x, w, sum)`.
    fn convolution(
        &self,
        geometry: &Geometry,
        images: usize,
        x: &Self::Buffer,
        weights: &Self::Buffer,
        bias: Option<&Self::Buffer>,
        out: &mut Self::Buffer,
    ) -> Outcome;

    /// Weights (taps, inputs, padded outputs) as (taps, outputs, padded inputs), zeros in padding.
    fn transpose(&self, geometry: &Geometry, weights: &Self::Buffer, out: &mut Self::Buffer) -> Outcome;

    /// The gradient of a convolution's input: a chain over (kernel row, kernel column, output channel),
    /// valid taps only, from 0, or if `accumulates` from what is there: `fma(dy, w, sum)`.
    fn input_gradient(
        &self,
        geometry: &Geometry,
        images: usize,
        by_output: &Self::Buffer,
        transposed: &Self::Buffer,
        by_input: &mut Self::Buffer,
        accumulates: bool,
    ) -> Outcome;

    /// The gradient of a convolution's weights: for each weight the sum over the mini-batch of
    /// `fma(x, dy, sum)`. Terms whose tap is in padding are left out, though they are counted in segments.
    fn weight_gradient(
        &self,
        geometry: &Geometry,
        images: usize,
        x: &Self::Buffer,
        by_output: &Self::Buffer,
        by_weights: &mut Self::Buffer,
    ) -> Outcome;

    /// Sums of each channel over the mini-batch: a bias's gradient.
    fn channel_sums(&self, shape: Shape, images: usize, x: &Self::Buffer, sums: &mut Self::Buffer) -> Outcome;

    /// Mean and inverse deviation of each channel over the mini-batch of n = positions * images terms:
    /// mean = sum of x / n; variance = sum of `fma(d, d, sum)` / n with d = x - mean. Moves the running
    /// statistics: `running = fma(0.1, observed, 0.9 * running)`, of the variance
    /// the sum / max(n - 1, 1).
    fn batch_statistics(
        &self,
        shape: Shape,
        images: usize,
        x: &Self::Buffer,
        statistics: Statistics<Self::Buffer>,
    ) -> Outcome;

    /// 1 / sqrt(variance + 1e-5) of this many channels.
    fn inverse_deviation(&self, channels: usize, variance: &Self::Buffer, out: &mut Self::Buffer) -> Outcome;

    /// See [`Pointwise`].
    fn pointwise(
        &self,
        shape: Shape,
        images: usize,
        x: &Self::Buffer,
        layers: &Pointwise<Self::Buffer>,
        out: &mut Self::Buffer,
    ) -> Outcome;

    /// Multiplies the gradient of a pointwise layer's output by the factors, then by the activation's
    /// derivative: it becomes that of the normalised x, and of the addend. With
    /// a norm, the gradients of its shift and scale: sums over the mini-batch of d, and of
    /// `fma(d, xhat, sum)` with xhat = (x - mean) * inverse_deviation.
    fn pointwise_gradient(
        &self,
        shape: Shape,
        images: usize,
        x: &Self::Buffer,
        layers: &Pointwise<Self::Buffer>,
        gradient: &mut Self::Buffer,
        by_norm: Option<NormGradient<Self::Buffer>>,
    ) -> Outcome;

    /// The gradient of a batch normalisation's input, with n terms in the mini-batch:
    /// `(fma(xhat, -(by_scale / n), d - by_shift / n)) * (scale * inverse_deviation)`.
    #[allow(clippy::too_many_arguments)]
    fn norm_gradient(
        &self,
        shape: Shape,
        images: usize,
        x: &Self::Buffer,
        norm: &Norm<Self::Buffer>,
        gradient: &Self::Buffer,
        by_norm: NormGradientView<Self::Buffer>,
        out: &mut Self::Buffer,
    ) -> Outcome;

    /// `to = to + from`, this many floats.
    fn add(&self, floats: usize, from: &Self::Buffer, to: &mut Self::Buffer) -> Outcome;

    /// The largest of each 2x2 window, and which it is: 0 to 3 in the order of rows, the first of equal
    /// ones, a NaN larger than any number. An odd last row or column is left out.
    fn max_pool(
        &self,
        shape: Shape,
        images: usize,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
        winners: &mut Self::Buffer,
    ) -> Outcome;

    /// The gradient of a pooling's input of shape `shape`: the output's where the winner is, else 0.
    fn max_pool_gradient(
        &self,
        shape: Shape,
        images: usize,
        by_output: &Self::Buffer,
        winners: &Self::Buffer,
        by_input: &mut Self::Buffer,
    ) -> Outcome;

    /// The mean over the positions: a chain of sums in their order, then divided.
    fn average_pool(&self, shape: Shape, images: usize, x: &Self::Buffer, out: &mut Self::Buffer) -> Outcome;

    /// The gradient of an average pooling's input: the output's, divided by the positions.
    fn average_pool_gradient(
        &self,
        shape: Shape,
        images: usize,
        by_output: &Self::Buffer,
        by_input: &mut Self::Buffer,
    ) -> Outcome;

    /// Dropout's factors, 0 or 1 / (1 - p): the n-th word of the stream is that of the n-th unit in the
    /// order (image, channel, position).
    fn dropout_factors(
        &self,
        shape: Shape,
        images: usize,
        probability: f64,
        purpose: Purpose,
        draw: Draw,
        out: &mut Self::Buffer,
    ) -> Outcome;

    /// Gradient of the mean cross entropy by the logits (1, images, classes), as float32 softmax gives it:
    /// `(exp(logit - largest) / sum - one hot) / images`, the sum a chain in the order of classes.
    fn cross_entropy_gradient(
        &self,
        classes: usize,
        logits: &Self::Buffer,
        labels: &[u16],
        out: &mut Self::Buffer,
    ) -> Outcome;

    /// `out = x * x`, this many floats.
    fn square(&self, floats: usize, x: &Self::Buffer, out: &mut Self::Buffer) -> Outcome;

    /// `to = to * by`, this many floats.
    fn multiply(&self, floats: usize, by: &Self::Buffer, to: &mut Self::Buffer) -> Outcome;

    /// Adds noise to the sums of layer number `layer`: `fma(deviation, draw, sum)` with
    /// deviation = sqrt(variance + 1e-8) and one [normal draw](zoo_engine::variational::noise) a sum, in
    /// the order (image; position, channel). The variances become the sums' derivatives by them,
    /// `draw * 0.5 / deviation`.
    fn add_noise(
        &self,
        shape: Shape,
        images: usize,
        layer: u8,
        draw: Draw,
        variances: &mut Self::Buffer,
        sums: &mut Self::Buffer,
    ) -> Outcome;

    /// `gradient = fma(x + x, by_squares, gradient)`, this many floats.
    fn add_of_squares(
        &self,
        floats: usize,
        x: &Self::Buffer,
        by_squares: &Self::Buffer,
        gradient: &mut Self::Buffer,
    ) -> Outcome;

    /// `out = e^x`, this many floats.
    fn exp(&self, floats: usize, x: &Self::Buffer, out: &mut Self::Buffer) -> Outcome;

    /// From the gradients of the cross entropy to those of the loss with the weighted divergence, of
    /// [weights, log sigma^2, sigma^2]: `by_weights = fma(kl_weight, dkl/dw, by_weights)`, and
    /// `by_noise`, by sigma^2, becomes that by log sigma^2, `fma(kl_weight, dkl/dl, by_noise * sigma2)`.
    fn add_divergence(
        &self,
        floats: usize,
        noise: [&Self::Buffer; 3],
        kl_weight: f32,
        by_weights: &mut Self::Buffer,
        by_noise: &mut Self::Buffer,
    ) -> Outcome;

    /// An optimiser's step on this many parameters, in PyTorch's order of operations; where the mask is 0
    /// a parameter becomes 0 and its moments stay. `moments` are those of [`Moments`](zoo_engine::Moments), in order.
    #[allow(clippy::too_many_arguments)]
    fn update(
        &self,
        floats: usize,
        update: Update,
        gradient: &Self::Buffer,
        mask: Option<&Self::Buffer>,
        parameters: &mut Self::Buffer,
        moments: &mut [Self::Buffer],
    ) -> Outcome;
}

/// What [`Kernels::batch_statistics`] writes, vectors of the padded channels.
pub struct Statistics<'a, B> {
    /// Means.
    pub mean: &'a mut B,
    /// 1 / sqrt(variance + 1e-5).
    pub inverse_deviation: &'a mut B,
    /// Running means.
    pub running_mean: &'a mut B,
    /// Running variances.
    pub running_variance: &'a mut B,
}

/// Gradients of a batch normalisation's parameters, vectors of the padded channels.
pub struct NormGradient<'a, B> {
    /// By the scale.
    pub by_scale: &'a mut B,
    /// By the shift.
    pub by_shift: &'a mut B,
}

/// [`NormGradient`], to read.
pub struct NormGradientView<'a, B> {
    /// By the scale.
    pub by_scale: &'a B,
    /// By the shift.
    pub by_shift: &'a B,
}

impl Update {
    /// The step number `step` (from 1) at these rates.
    pub fn new(optimizer: Optimizer, learning_rate: f64, momentum: f64, weight_decay: f64, step: u64) -> Self {
        let weight_decay = weight_decay as f32;
        match optimizer {
            Optimizer::Adam => {
                let (step_size, correction) = zoo_engine::optimizer::adam_rates(learning_rate, momentum, step);
                Self::Adam {
                    step_size: step_size as f32,
                    correction: correction as f32,
                    mean_rate: (1.0 - momentum) as f32,
                    weight_decay,
                }
            }
            Optimizer::Sgd => {
                Self::Sgd { learning_rate: learning_rate as f32, momentum: momentum as f32, weight_decay }
            }
        }
    }
}

/// A buffer of these values.
pub fn upload<K: Kernels>(kernels: &K, values: &[f32]) -> Outcome<K::Buffer> {
    let mut buffer = kernels.zeros(values.len())?;
    kernels.upload(values, &mut buffer)?;
    Ok(buffer)
}
