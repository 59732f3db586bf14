//! The arithmetic of a layer, forward and backward, in the two layouts of the engine.
//!
//! *Lanes*: element i of every model side by side in one vector; forward passes, and everything
//! that is not pooled. *Rows*: one model's elements side by side; the backward passes of pooled
//! convolutions, where every model has other winners. Maps are channels-last in both, so that a
//! kernel row is contiguous: `kernel columns x channels` values.
//!
//! Sums run in the order in which `reference.rs` writes them down.

/// Calls a method with the constant that equals a number from 1 to [`Block::MAX_SIZE`].
macro_rules! with_constant {
    ($n:expr, $self:ident.$method:ident($($argument:expr),*)) => {
        match $n {
            1 => $self.$method::<1>($($argument),*),
            2 => $self.$method::<2>($($argument),*),
            3 => $self.$method::<3>($($argument),*),
            4 => $self.$method::<4>($($argument),*),
            5 => $self.$method::<5>($($argument),*),
            6 => $self.$method::<6>($($argument),*),
            n => unreachable!("a block of {n}"),
        }
    };
}

/// Repeats a block for `$i` from 0 to `$n - 1`, `$n` a constant of at most [`Block::MAX_SIZE`]. In
/// source rather than by the optimiser, which leaves an array that it did not fully unroll in
/// memory, not in registers.
macro_rules! unrolled {
    ($n:ident, |$i:ident| $body:block) => {
        unrolled!(@ $n, $i, $body, 0, 1, 2, 3, 4, 5)
    };
    (@ $n:ident, $i:ident, $body:block, $($value:literal),*) => {
        $(if $value < $n {
            let $i = $value;
            $body
        })*
    };
}

mod activation;
mod dense;
mod layout;
mod loss;
mod optimizer;
mod pooled;

pub use activation::{Activate, Scale};
pub use dense::{DenseBackward, DenseForward};
pub use layout::{FromRows, ToRows};
pub use loss::CrossEntropyGradient;
pub use optimizer::{Adam, ApplyMask, Sgd};
pub use pooled::{Below, ParameterGradients, PooledBackward, PooledForward, PooledUnits, OUTPUTS_PER_PASS};

/// Output channels of one block of a layer's weights, which lie as (tap, channel of the block).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First output channel.
    pub first: usize,
    /// Number of them, at most [`Block::MAX_SIZE`].
    pub size: usize,
}

impl Block {
    /// Maximum number of output channels in a block.
    pub const MAX_SIZE: usize = 6;

    /// `count` in as few blocks of at most `max_size` as possible, equal within one.
    pub fn split(count: usize, max_size: usize) -> impl Iterator<Item = Self> {
        let blocks = count.div_ceil(max_size);
        let start = move |b: usize| b * count / blocks;
        (0..blocks).map(move |b| Self { first: start(b), size: start(b + 1) - start(b) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_few_and_nearly_equal() {
        let sizes = |count, max_size| Block::split(count, max_size).map(|b| b.size).collect::<Vec<_>>();
        assert_eq!(sizes(8, 3), [2, 3, 3]);
        assert_eq!(sizes(6, 3), [3, 3]);
        assert_eq!(sizes(16, 6), [5, 5, 6]);
        assert_eq!(sizes(20, 6), [5, 5, 5, 5]);
        assert_eq!(Block::split(15, 3).last(), Some(Block { first: 12, size: 3 }));
    }
}
