//! A network as the kernels see it: a list of [`Layer`]s on channels-last maps.
//!
//! Every layer is a valid convolution. A linear layer is one whose kernel covers its whole input:
//! PyTorch's (out, channel * row * column) weight matrix is such a convolution's weight.

use std::ops::Range;

use zoo_model::architecture::{Module, Parameter};
use zoo_model::{Activation, Network};

use zoo_engine_simd::ROW;

/// A convolution (input of shape (height, width, channels), stride 1), and what follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Channels of the output.
    pub outputs: usize,
    /// Whether the maximum over 2x2 windows follows.
    pub pooled: bool,
    /// The activation that follows, after pooling.
    pub activation: Option<Activation>,
    /// The number of the dropout module that follows, if its probability is not 0.
    pub dropout: Option<u8>,
    /// Where the weight lies in PyTorch's flat parameter vector, as (outputs, channels, kernel).
    pub weight: Range<usize>,
    /// Where the bias lies in it.
    pub bias: Range<usize>,
    /// Where each tap's value lies in the input, from where its patch begins.
    pub tap_offsets: Vec<usize>,
}

impl Layer {
    /// A layer that nothing follows yet, on maps of (height, width, channels), with the next two of the
    /// parameters: weight and bias.
    fn new<'p>(
        [height, width, channels]: [usize; 3],
        kernel: [usize; 2],
        outputs: usize,
        parameters: &mut impl Iterator<Item = &'p Parameter>,
    ) -> Option<Self> {
        let (weight, bias) = (parameters.next()?.range.clone(), parameters.next()?.range.clone());
        let tap_row = kernel[1] * channels;
        let row = |y: usize| (0..tap_row).map(move |tap| y * width * channels + tap);
        Some(Self {
            height,
            width,
            channels,
            kernel,
            outputs,
            pooled: false,
            activation: None,
            dropout: None,
            weight,
            bias,
            tap_offsets: (0..kernel[0]).flat_map(row).collect(),
        })
    }

    /// Weights of one output: kernel rows x columns x channels, in this order ("taps").
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels
    }

    /// Values of a kernel row: contiguous in the input too.
    pub fn tap_row(&self) -> usize {
        self.kernel[1] * self.channels
    }

    /// Values of a row of a framed kernel: a kernel with a row or column of zeros on every side.
    pub fn framed_row(&self) -> usize {
        self.tap_row() + 2 * self.channels
    }

    /// Values of a framed kernel: weights of one output.
    pub fn framed_taps(&self) -> usize {
        (self.kernel[0] + 2) * self.framed_row()
    }

    /// Place of a tap in a framed kernel.
    pub fn framed_place(&self, tap: usize) -> usize {
        (tap / self.tap_row() + 1) * self.framed_row() + self.channels + tap % self.tap_row()
    }

    /// Values of an input row.
    pub fn input_row(&self) -> usize {
        self.width * self.channels
    }

    /// Values of the input.
    pub fn inputs(&self) -> usize {
        self.height * self.input_row()
    }

    /// Rows and columns of the output, after pooling.
    pub fn output_map(&self) -> [usize; 2] {
        let size = [self.height + 1 - self.kernel[0], self.width + 1 - self.kernel[1]];
        size.map(|n| if self.pooled { n / 2 } else { n })
    }

    /// Positions of the output.
    pub fn positions(&self) -> usize {
        self.output_map()[0] * self.output_map()[1]
    }

    /// Values of the output.
    pub fn units(&self) -> usize {
        self.positions() * self.outputs
    }

    /// Place of tap `tap` of output `output` in PyTorch's flat vector.
    pub fn weight_place(&self, output: usize, tap: usize) -> usize {
        let (position, channel) = (tap / self.channels, tap % self.channels);
        let positions = self.kernel[0] * self.kernel[1];
        self.weight.start + (output * self.channels + channel) * positions + position
    }

    /// Where the patch of a pooled unit's candidate begins in the input: the one that is `(rows,
    /// columns)` from the window's corner.
    pub fn candidate(&self, unit: usize, (down, right): (usize, usize)) -> usize {
        let (position, columns) = (unit / self.outputs, self.output_map()[1]);
        (2 * (position / columns) + down) * self.input_row() + (2 * (position % columns) + right) * self.channels
    }

    /// [`ROW`]s that cover a kernel row, and so the weight gradient of one output.
    pub fn segments(&self) -> usize {
        self.kernel[0] * self.tap_row().div_ceil(ROW)
    }
}

/// The layers of a network; `None` if it is not of the kind that the engine knows: pooled
/// convolutions, then others, then linear layers.
pub fn layers(network: &Network) -> Option<Vec<Layer>> {
    let [mut channels, mut height, mut width] = network.input();
    let mut parameters = network.parameters().iter();
    let mut layers: Vec<Layer> = Vec::new();
    let mut dropouts = 0;
    for named in network.modules() {
        match named.module {
            Module::Conv2d { kernel, output, stride: 1, padding: 0, bias: true, .. } => {
                let layer = Layer::new([height, width, channels], [kernel; 2], output, &mut parameters)?;
                [height, width] = layer.output_map();
                channels = output;
                layers.push(layer);
            }
            Module::MaxPool2d => {
                let after_pooled = layers.iter().all(|l| l.pooled || std::ptr::eq(l, layers.last().expect("it is in")));
                let layer = layers.last_mut().filter(|l| after_pooled && l.activation.is_none() && !l.pooled)?;
                layer.pooled = true;
                [height, width] = layer.output_map();
            }
            Module::Activation(activation) => {
                let layer = layers.last_mut().filter(|l| l.activation.is_none() && l.dropout.is_none())?;
                layer.activation = Some(activation);
            }
            Module::Dropout(probability) => {
                let layer = layers.last_mut().filter(|l| l.dropout.is_none() && l.activation.is_some())?;
                layer.dropout = (probability > 0.0).then_some(dropouts);
                dropouts += 1;
            }
            Module::Flatten => {}
            Module::Linear { output, .. } => {
                layers.push(Layer::new([height, width, channels], [height, width], output, &mut parameters)?);
                (height, width, channels) = (1, 1, output);
            }
            Module::Conv2d { .. } | Module::BatchNorm2d { .. } | Module::GlobalAvgPool2d | Module::Residual { .. } => {
                return None
            }
        }
    }
    layers.first().is_some_and(|l| l.pooled).then_some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::{Architecture, Hyperparameters};

    fn with(architecture: Architecture, dropout: f64) -> Hyperparameters {
        Hyperparameters { architecture, dropout, ..Hyperparameters::default() }
    }

    #[test]
    fn layers_have_the_shapes_of_the_architectures() {
        let of =
            |architecture, dropout, input| layers(&with(architecture, dropout).network(input, 10).unwrap()).unwrap();
        let small = of(Architecture::CnnS, 0.0, [1, 28, 28]);
        let shapes: Vec<_> = small.iter().map(|l| (l.inputs(), l.taps(), l.units(), l.pooled)).collect();
        assert_eq!(
            shapes,
            [
                (784, 25, 1152, true),
                (1152, 200, 96, true),
                (96, 24, 36, false),
                (36, 36, 20, false),
                (20, 20, 10, false)
            ]
        );
        assert_eq!(small.iter().map(|l| l.activation.is_some()).collect::<Vec<_>>(), [true, true, true, true, false]);
        let medium = of(Architecture::CnnM, 0.5, [3, 32, 32]);
        let shapes: Vec<_> = medium.iter().map(|l| (l.inputs(), l.taps(), l.units(), l.dropout)).collect();
        assert_eq!(
            shapes,
            [
                (3072, 27, 3600, Some(0)),
                (3600, 144, 1152, Some(1)),
                (1152, 288, 60, Some(2)),
                (60, 60, 20, Some(3)),
                (20, 20, 10, None)
            ]
        );
    }

    #[test]
    fn every_weight_has_one_place() {
        let network = with(Architecture::CnnM, 0.5).network([3, 32, 32], 10).unwrap();
        for layer in layers(&network).unwrap() {
            let mut places: Vec<usize> = (0..layer.outputs)
                .flat_map(|o| (0..layer.taps()).map(move |t| (o, t)))
                .map(|(o, t)| layer.weight_place(o, t))
                .collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(layer.weight.clone()));
        }
    }
}
