//! The one kernel under all three passes: a tile of a product of matrices, kept in registers.

use std::array::from_fn;
use std::cell::RefCell;

use zoo_engine_simd::{Kernel, Simd};

/// Maximum number of rows of a tile.
pub(super) const MAX_HEIGHT: usize = 12;

/// Rows of a tile that leave its sums, a row of `b` and an element of `a` in registers, of which there are 32 with
/// sixteen lanes, else 16.
pub(super) const fn height<S: Simd>() -> usize {
    if S::LANES == 16 {
        MAX_HEIGHT
    } else {
        6
    }
}

/// Columns of a tile: two vectors.
pub(super) const fn width<S: Simd>() -> usize {
    2 * S::LANES
}

/// Consecutive terms of a tile's sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Where the first term's elements begin in `a`.
    pub a: usize,
    /// Where the first term's row begins in `b`.
    pub b: usize,
    /// Number of terms.
    pub terms: usize,
}

/// What sums begin with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// Zeros.
    Zero,
    /// What is in `c`.
    There,
    /// A row, the same for all of them.
    Row(*const f32),
}

/// A tile of c = start + a * b, every element a chain over the pieces' terms. `TERMS` says which
/// of the axes of `a` is contiguous: the terms, or else the rows.
///
/// Invariant: see [`multiply`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Left matrix.
    pub a: *const f32,
    /// Elements from one row of `a`, or else one term, to the next.
    pub a_stride: usize,
    /// Right matrix.
    pub b: *const f32,
    /// Elements from one term of `b` to the next.
    pub b_stride: usize,
    /// The terms.
    pub pieces: &'a [Piece],
    /// What sums begin with.
    pub start: Start,
    /// Result.
    pub c: *mut f32,
    /// Elements from one row of `c` to the next.
    pub c_stride: usize,
}

/// A tile of known size.
struct Sized<'a, const ROWS: usize, const VECTORS: usize, const TERMS: bool>(Tile<'a>);

impl<S: Simd, const ROWS: usize, const VECTORS: usize, const TERMS: bool> Kernel<S>
    for Sized<'_, ROWS, VECTORS, TERMS>
{
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Tile { a, a_stride, b, b_stride, pieces, start, c, c_stride } = self.0;
        let (row, term) = if TERMS { (a_stride, 1) } else { (1, a_stride) };
        // SAFETY: `multiply`'s caller promises that all of these lie in the matrices.
        unsafe {
            let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    match start {
                        Start::Zero => {}
                        Start::There => *sum = s.load_from(c.add(r * c_stride + v * S::LANES)),
                        Start::Row(row) => *sum = s.load_from(row.add(v * S::LANES)),
                    }
                }
            }
            for piece in pieces {
                let mut a = a.add(piece.a);
                let mut b = b.add(piece.b);
                for _ in 0..piece.terms {
                    let vectors: [S::F; VECTORS] = from_fn(|v| s.load_from(b.add(v * S::LANES)));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = s.splat(*a.add(r * row));
                        for (sum, vector) in sums.iter_mut().zip(vectors) {
                            *sum = s.fma(x, vector, *sum);
                        }
                    }
                    a = a.wrapping_add(term);
                    b = b.wrapping_add(b_stride);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    s.store_to(*sum, c.add(r * c_stride + v * S::LANES));
                }
            }
        }
    }
}

/// Computes a tile of 1 to [`height`] rows and of one or two vectors' columns.
///
/// # Safety
/// Of every piece all terms must lie in `a` (for that many rows) and `b` (for that many columns), which
/// are initialised and which nothing writes to; the rows and columns in `c`, and the start's
/// row, too; nothing else may access those of `c`.
pub(super) unsafe fn multiply<S: Simd, const TERMS: bool>(s: S, tile: Tile, rows: usize, columns: usize) {
    macro_rules! dispatch {
        ($($rows:literal)*) => {
            match (rows, columns / S::LANES) {
                $(($rows, 1) => s.vectorize(Sized::<$rows, 1, TERMS>(tile)),
                ($rows, 2) => s.vectorize(Sized::<$rows, 2, TERMS>(tile)),)*
                _ => unreachable!("no tile of {rows} x {columns}"),
            }
        };
    }
    if S::LANES == 16 {
        dispatch!(1 2 3 4 5 6 7 8 9 10 11 12)
    } else {
        dispatch!(1 2 3 4 5 6)
    }
}

/// Cuts a length into the fewest parts of at most `most`, as equal as can be: the beginning of
/// part `part`, of `parts(length, most)`.
#[inline]
pub(super) fn cut(length: usize, parts: usize, part: usize) -> usize {
    length * part / parts
}

/// A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Runs `task` with this many floats of the thread's own, of any values, that begin with a cache line. The task
/// must not ask for others, nor wait for what does.
pub(super) fn with_scratch(floats: usize, task: impl FnOnce(&mut [f32])) {
    SCRATCH.with_borrow_mut(|lines| {
        let needed = floats.div_ceil(16);
        if lines.len() < needed {
            lines.resize(needed, Line([0.0; 16]));
        }
        // SAFETY: lines are floats, one after the other.
        task(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), floats) });
    });
}
