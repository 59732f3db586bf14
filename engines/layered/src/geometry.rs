//! The shapes of what kernels work on.
//!
//! The values of a layer are a tensor of shape (positions, images, channels): all images of the
//! mini-batch at a position, row by row of the map, are next to each other, so that a convolution is a
//! product of plain matrices at every position, with no padding. Channels are padded to whole
//! [`LANES`]; what padding lanes hold is read by nothing but other padding lanes.

use std::ops::Range;

/// Channels of every tensor are padded to a multiple of this: the widest vector.
pub const LANES: usize = 16;

/// Terms of a sum over a mini-batch that are added up one after the other; the sums of such segments are
/// added in pairs (see [`Kernels`](crate::kernels::Kernels)).
pub const SEGMENT: usize = 4096;

/// A number of channels as it is stored.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// Height and width of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Map {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Map {
    /// Number of positions.
    pub fn positions(self) -> usize {
        self.height * self.width
    }
}

/// A convolution, or a linear layer as a convolution whose kernel is as large as the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The input's map.
    pub input: Map,
    /// The output's map.
    pub output: Map,
    /// The kernel's height and width.
    pub kernel: Map,
    /// Pixels from one patch to the next.
    pub stride: usize,
    /// Zeros on every side of the input.
    pub padding: usize,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
}

impl Geometry {
    /// Number of the kernel's taps.
    pub fn taps(&self) -> usize {
        self.kernel.positions()
    }

    /// The input position under tap `tap` of the patch at output position `output`; `None` where that is
    /// padding.
    pub fn input_position(&self, output: usize, tap: usize) -> Option<usize> {
        let axis = |output: usize, tap: usize, size: usize| {
            (output * self.stride + tap).checked_sub(self.padding).filter(|&at| at < size)
        };
        let y = axis(output / self.output.width, tap / self.kernel.width, self.input.height)?;
        let x = axis(output % self.output.width, tap % self.kernel.width, self.input.width)?;
        Some(y * self.input.width + x)
    }

    /// The output position whose patch has input position `input` under tap `tap`, if there is one.
    pub fn output_position(&self, input: usize, tap: usize) -> Option<usize> {
        let axis = |input: usize, tap: usize, size: usize| {
            let at = (input + self.padding).checked_sub(tap)?;
            (at % self.stride == 0 && at / self.stride < size).then_some(at / self.stride)
        };
        let y = axis(input / self.input.width, tap / self.kernel.width, self.output.height)?;
        let x = axis(input % self.input.width, tap % self.kernel.width, self.output.width)?;
        Some(y * self.output.width + x)
    }

    /// Floats of the weights: (taps, inputs, padded outputs).
    pub fn weights(&self) -> usize {
        self.taps() * self.inputs * padded(self.outputs)
    }

    /// Floats of the transposed weights: (taps, outputs, padded inputs).
    pub fn transposed_weights(&self) -> usize {
        self.taps() * self.outputs * padded(self.inputs)
    }

    /// Multiply-adds of one image in a forward pass, padding left out.
    pub fn multiply_adds(&self) -> usize {
        let valid: usize = (0..self.output.positions())
            .map(|output| (0..self.taps()).filter(|&tap| self.input_position(output, tap).is_some()).count())
            .sum();
        valid * self.inputs * self.outputs
    }
}

/// The segments of a sum of the given number of terms.
pub fn segments(terms: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..terms).step_by(SEGMENT).map(move |start| start..terms.min(start + SEGMENT))
}

/// Adds up the sums of segments in pairs: neighbours first, then neighbours of those sums, and so on; one
/// that has no neighbour waits for the next round.
pub fn tree<T>(mut sums: Vec<T>, add: impl Fn(T, T) -> T) -> Option<T> {
    while sums.len() > 1 {
        let mut pairs = Vec::with_capacity(sums.len().div_ceil(2));
        let mut rest = sums.into_iter();
        while let Some(first) = rest.next() {
            pairs.push(match rest.next() {
                Some(second) => add(first, second),
                None => first,
            });
        }
        sums = pairs;
    }
    sums.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(side: usize, kernel: usize, stride: usize, padding: usize) -> Geometry {
        let output = (side + 2 * padding - kernel) / stride + 1;
        let square = |side| Map { height: side, width: side };
        Geometry {
            input: square(side),
            output: square(output),
            kernel: square(kernel),
            stride,
            padding,
            inputs: 1,
            outputs: 1,
        }
    }

    #[test]
    fn positions_of_input_and_output_are_each_others_inverse() {
        for (side, kernel, stride, padding) in [(4, 3, 1, 1), (5, 3, 2, 1), (4, 1, 2, 0), (6, 5, 1, 0), (1, 3, 1, 1)] {
            let geometry = geometry(side, kernel, stride, padding);
            for tap in 0..geometry.taps() {
                let forward = (0..geometry.output.positions())
                    .filter_map(|output| geometry.input_position(output, tap).map(|input| (input, output)));
                let mut forward: Vec<_> = forward.collect();
                forward.sort_unstable();
                let backward = (0..geometry.input.positions())
                    .filter_map(|input| geometry.output_position(input, tap).map(|output| (input, output)));
                assert_eq!(backward.collect::<Vec<_>>(), forward, "{geometry:?} tap {tap}");
            }
        }
        assert_eq!(geometry(4, 3, 1, 1).input_position(0, 0), None);
        assert_eq!(geometry(4, 3, 1, 1).input_position(0, 4), Some(0));
        assert_eq!(geometry(4, 3, 1, 1).multiply_adds(), 100);
    }

    #[test]
    fn segments_cover_all_terms_and_are_added_in_pairs() {
        assert_eq!(segments(2 * SEGMENT + 1).collect::<Vec<_>>(), [0..4096, 4096..8192, 8192..8193]);
        assert_eq!(segments(0).count(), 0);
        let added = |count: usize| tree((0..count).map(|i| i.to_string()).collect(), |a, b| format!("({a}{b})"));
        assert_eq!(
            [1, 2, 3, 5, 7].map(|n| added(n).unwrap()),
            ["0", "(01)", "((01)2)", "(((01)(23))4)", "(((01)(23))((45)6))"]
        );
        assert_eq!(added(0), None);
    }
}
