//! Softmax of every row: y_j = e^(x_j - max) / sum_k e^(x_k - max). Stands in for the study's
//! `softmax`.
//!
//! Narrow rows (ten classes, say) are all tail to a vector unit, so they are done a vector of rows
//! at a time: lane i holds row i. Wide rows are done along the row, and while the exponentials of one
//! are computed, the largest element of the next is looked for, which waits for memory.
//!
//! Accuracy, with u = 2^-24: each probability is within `(6 + n + 1.05 |x_j - max|) u` of the exact one,
//! relatively, plus `2^-126`. n is the number of additions that an element of the sum goes through: at
//! most `cols`, in wide rows on vectors `cols / lanes + lanes`. (Where numbers do not repeat, their
//! roundings cancel: `cols / 8` is enough for these.) The last term is the rounding of x_j - max and of
//! ln 2; the 6 is measured, not derived. [`backward`] is within
//! `|y| u ((cols + 2) sum |y dy| + 2 |dy|)`, plus `(cols |y| + 1) 2^-126`.
//! As in PyTorch a row with a NaN or +infinity, or with nothing but -infinity, becomes NaN.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};

use super::exp::exp_nonpositive;
use super::kernel_span;
use crate::cpu::Cpu;
use crate::shape::{MatrixShape, check_len};

/// Rows up to this many columns are done across rows.
pub(super) const NARROW: usize = 32;

/// The most lanes that an instruction set has.
pub(super) const MAX_LANES: usize = 16;

/// Rows that a thread takes at a time: a multiple of every number of lanes, and at least some
/// 16,000 elements.
pub(super) fn rows_per_piece(cols: usize) -> usize {
    (16 * 1024 / cols.max(1)).next_multiple_of(MAX_LANES).max(MAX_LANES)
}

/// Below this many elements (about 10 microseconds) one thread does them all.
pub(super) const PARALLEL_MIN: usize = 16 * 1024;

/// y = softmax of each row of x, both (rows, cols).
///
/// ```
/// use kernelet::{Cpu, kernels::softmax, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 2 };
/// let mut y = [0.0; 4];
/// softmax::forward(&cpu, shape, &[5.0, 5.0, 0.0, 3_f32.ln()], &mut y);
/// for (y, exact) in y.into_iter().zip([0.5, 0.5, 0.25, 0.75]) {
///     assert!((y - exact).abs() < 1e-6);
/// }
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If `x` or `y` does not fit `shape`.
pub fn forward(cpu: &Cpu, shape: MatrixShape, x: &[f32], y: &mut [f32]) {
    let MatrixShape { rows, cols } = shape;
    check_len("x", x.len(), rows, cols);
    check_len("y", y.len(), rows, cols);
    kernel_span!("softmax::forward", 20 * x.len(), 8 * x.len());
    if x.is_empty() {
        return;
    }
    let chunk = rows_per_piece(cols) * cols;
    cpu.for_each_chunk(cpu.shares(x.len(), PARALLEL_MIN), y, chunk, |index, y| {
        let x = &x[index * chunk..][..y.len()];
        cpu.dispatch(Forward { cols, x, y });
    });
}

struct Forward<'a> {
    cols: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { cols, x, y } = self;
        if cols <= NARROW {
            let group = cols * S::F32_LANES;
            let columns = &mut [simd.splat_f32s(0.0); NARROW][..cols];
            for (x, y) in x.chunks(group).zip(y.chunks_mut(group)) {
                load_columns(simd, x, columns);
                let (_, sum) = columns_exp_sub_max_sum(simd, columns);
                let reciprocal = simd.div_f32s(simd.splat_f32s(1.0), sum);
                for column in &mut *columns {
                    *column = simd.mul_f32s(*column, reciprocal);
                }
                store_columns(simd, columns, y);
            }
        } else {
            let mut max = row_max(simd, &x[..cols]);
            for ((x, next), y) in rows_and_next(x, cols).zip(y.chunks_exact_mut(cols)) {
                let (sum, next_max) = row_exp_sub_sum_and_next_max(simd, x, max, y, next);
                scale_row(simd, y, 1.0 / sum);
                max = next_max;
            }
        }
    }
}

/// dx = y * (dy - sum_k y_k dy_k) for each row, from the softmax's output y; all (rows, cols).
///
/// ```
/// use kernelet::{Cpu, kernels::softmax, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 1, cols: 2 };
/// let (y, dy, mut dx) = ([0.5, 0.5], [1.0, 0.0], [0.0; 2]);
/// softmax::backward(&cpu, shape, &y, &dy, &mut dx);
/// assert_eq!(dx, [0.25, -0.25]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward(cpu: &Cpu, shape: MatrixShape, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let MatrixShape { rows, cols } = shape;
    check_len("y", y.len(), rows, cols);
    check_len("dy", dy.len(), rows, cols);
    check_len("dx", dx.len(), rows, cols);
    kernel_span!("softmax::backward", 4 * y.len(), 12 * y.len());
    if y.is_empty() {
        return;
    }
    let chunk = rows_per_piece(cols) * cols;
    cpu.for_each_chunk(cpu.shares(y.len(), PARALLEL_MIN), dx, chunk, |index, dx| {
        let (y, dy) = (&y[index * chunk..][..dx.len()], &dy[index * chunk..][..dx.len()]);
        cpu.dispatch(Backward { cols, y, dy, dx });
    });
}

struct Backward<'a> {
    cols: usize,
    y: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { cols, y, dy, dx } = self;
        if cols <= NARROW {
            let group = cols * S::F32_LANES;
            let y_columns = &mut [simd.splat_f32s(0.0); NARROW][..cols];
            let dy_columns = &mut [simd.splat_f32s(0.0); NARROW][..cols];
            for ((y, dy), dx) in y.chunks(group).zip(dy.chunks(group)).zip(dx.chunks_mut(group)) {
                load_columns(simd, y, y_columns);
                load_columns(simd, dy, dy_columns);
                let mut dot = simd.splat_f32s(0.0);
                for (&y, &dy) in y_columns.iter().zip(&*dy_columns) {
                    dot = simd.mul_add_e_f32s(y, dy, dot);
                }
                for (&y, dy) in y_columns.iter().zip(&mut *dy_columns) {
                    *dy = simd.mul_f32s(y, simd.sub_f32s(*dy, dot));
                }
                store_columns(simd, dy_columns, dx);
            }
        } else {
            let rows = y.chunks_exact(cols).zip(dy.chunks_exact(cols));
            for ((y, dy), dx) in rows.zip(dx.chunks_exact_mut(cols)) {
                let (y, y_tail) = S::as_simd_f32s(y);
                let (dy, dy_tail) = S::as_simd_f32s(dy);
                let (dx, dx_tail) = S::as_mut_simd_f32s(dx);
                let (y_tail, dy_tail) =
                    (simd.partial_load_f32s(y_tail), simd.partial_load_f32s(dy_tail));
                // Two sums in turn, so that one need not wait for the other.
                let (mut even, mut odd) = (simd.mul_f32s(y_tail, dy_tail), simd.splat_f32s(0.0));
                let ((y_pairs, y_rest), (dy_pairs, dy_rest)) =
                    (y.as_chunks::<2>(), dy.as_chunks::<2>());
                for (&[y0, y1], &[dy0, dy1]) in y_pairs.iter().zip(dy_pairs) {
                    even = simd.mul_add_e_f32s(y0, dy0, even);
                    odd = simd.mul_add_e_f32s(y1, dy1, odd);
                }
                for (&y, &dy) in y_rest.iter().zip(dy_rest) {
                    odd = simd.mul_add_e_f32s(y, dy, odd);
                }
                let dot = simd.splat_f32s(simd.reduce_sum_f32s(simd.add_f32s(even, odd)));
                for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = simd.mul_f32s(y, simd.sub_f32s(dy, dot));
                }
                let tail = simd.mul_f32s(y_tail, simd.sub_f32s(dy_tail, dot));
                simd.partial_store_f32s(dx_tail, tail);
            }
        }
    }
}

/// Whether rows can be turned into columns four by four: 4 x 4 elements are transposed in registers,
/// which element by element takes several times as long. It takes as many rows as a vector has lanes.
///
/// Vector v gets, piece by piece of four lanes, four columns of the rows v, 4 + v, 8 + v, ... What pulp
/// calls (de)interleaving four vectors transposes each piece of the four, so that the lanes are then in
/// the order of the rows. (pulp promises an order that is its own inverse, not this one: the tests of
/// softmax_cross_entropy would see another, which took another row's sum.)
#[inline(always)]
fn can_transpose<S: Simd>(len: usize, cols: usize) -> bool {
    S::F32_LANES >= 4 && cols >= 4 && len == cols * S::F32_LANES
}

/// Where four columns begin. The last four overlap those before where there is a rest.
#[inline(always)]
fn starts_of_fours(cols: usize) -> impl Iterator<Item = usize> {
    (0..cols.div_ceil(4)).map(move |four| (4 * four).min(cols - 4))
}

/// Gathers up to `LANES` narrow rows of `x`, so that vector j holds column j and lane i row i.
/// The lanes of missing rows keep what they had.
#[inline(always)]
pub(super) fn load_columns<S: Simd>(simd: S, x: &[f32], columns: &mut [S::f32s]) {
    let cols = columns.len();
    if can_transpose::<S>(x.len(), cols) {
        let pieces_per_vector = S::F32_LANES / 4;
        for at in starts_of_fours(cols) {
            let mut four = [simd.splat_f32s(0.0); 4];
            let pieces: &mut [[f32; 4]] = pulp::bytemuck::cast_slice_mut(&mut four[..]);
            for piece in 0..pieces_per_vector {
                for vector in 0..4 {
                    let from = (4 * piece + vector) * cols + at;
                    pieces[vector * pieces_per_vector + piece].copy_from_slice(&x[from..from + 4]);
                }
            }
            columns[at..at + 4].copy_from_slice(&simd.deinterleave_shfl_f32s(four));
        }
        return;
    }
    let lanes: &mut [f32] = pulp::bytemuck::cast_slice_mut(columns);
    for (lane, row) in x.chunks_exact(cols).enumerate() {
        for (column, &value) in lanes.chunks_exact_mut(S::F32_LANES).zip(row) {
            column[lane] = value;
        }
    }
}

/// Scatters columns back to as many row-major rows as `y` has.
#[inline(always)]
pub(super) fn store_columns<S: Simd>(simd: S, columns: &[S::f32s], y: &mut [f32]) {
    let cols = columns.len();
    if can_transpose::<S>(y.len(), cols) {
        let pieces_per_vector = S::F32_LANES / 4;
        for at in starts_of_fours(cols) {
            let four = [columns[at], columns[at + 1], columns[at + 2], columns[at + 3]];
            let four = simd.interleave_shfl_f32s(four);
            let pieces: &[[f32; 4]] = pulp::bytemuck::cast_slice(&four[..]);
            for piece in 0..pieces_per_vector {
                for vector in 0..4 {
                    let to = (4 * piece + vector) * cols + at;
                    y[to..to + 4].copy_from_slice(&pieces[vector * pieces_per_vector + piece]);
                }
            }
        }
        return;
    }
    let lanes: &[f32] = pulp::bytemuck::cast_slice(columns);
    for (lane, row) in y.chunks_exact_mut(cols).enumerate() {
        for (value, column) in row.iter_mut().zip(lanes.chunks_exact(S::F32_LANES)) {
            *value = column[lane];
        }
    }
}

/// Replaces x by e^(x - max of its row); returns each row's maximum (NaN ignored) and sum.
#[inline(always)]
pub(super) fn columns_exp_sub_max_sum<S: Simd>(
    simd: S,
    columns: &mut [S::f32s],
) -> (S::f32s, S::f32s) {
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for &column in &*columns {
        // This order keeps `max` where the column is NaN, on x86 and in scalar code. (Where it does not,
        // the row is NaN all the same.)
        max = simd.max_f32s(column, max);
    }
    let mut sum = simd.splat_f32s(0.0);
    for column in columns {
        *column = exp_nonpositive(simd, simd.sub_f32s(*column, max));
        sum = simd.add_f32s(sum, *column);
    }
    (max, sum)
}

/// The rows of `x`, each with the one behind it, the last with itself.
#[inline(always)]
pub(super) fn rows_and_next(x: &[f32], cols: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
    let rows = x.chunks_exact(cols);
    rows.clone().zip(rows.clone().skip(1).chain(rows.last()))
}

/// y = e^(x - max) of (a part of) one wide row; returns the sum of y, and the largest element of the
/// same part of the next row, NaN ignored.
#[inline(always)]
pub(super) fn row_exp_sub_sum_and_next_max<S: Simd>(
    simd: S,
    x: &[f32],
    max: f32,
    y: &mut [f32],
    next: &[f32],
) -> (f32, f32) {
    let splat_max = simd.splat_f32s(max);
    let (x, x_tail) = S::as_simd_f32s(x);
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    let (next, next_tail) = S::as_simd_f32s(next);
    let mut sum = simd.splat_f32s(0.0);
    let mut next_max = simd.splat_f32s(f32::NEG_INFINITY);
    for ((y, &x), &next) in y.iter_mut().zip(x).zip(next) {
        *y = exp_nonpositive(simd, simd.sub_f32s(x, splat_max));
        sum = simd.add_f32s(sum, *y);
        next_max = simd.max_f32s(next, next_max);
    }
    let tail = exp_nonpositive(simd, simd.sub_f32s(simd.partial_load_f32s(x_tail), splat_max));
    simd.partial_store_f32s(y_tail, tail);
    let sum = simd.reduce_sum_f32s(sum) + y_tail.iter().sum::<f32>();
    (sum, next_tail.iter().copied().fold(simd.reduce_max_f32s(next_max), f32::max))
}

/// The largest element of a row, NaN ignored.
#[inline(always)]
pub(super) fn row_max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (x, tail) = S::as_simd_f32s(x);
    // Four maxima in turn, so that one need not wait for the one before.
    let mut max = [simd.splat_f32s(f32::NEG_INFINITY); 4];
    let fours = x.chunks_exact(max.len());
    for (max, &x) in max.iter_mut().zip(fours.remainder()) {
        *max = simd.max_f32s(x, *max);
    }
    for four in fours {
        for (max, &x) in max.iter_mut().zip(four) {
            *max = simd.max_f32s(x, *max);
        }
    }
    let [a, b, c, d] = max;
    let max = simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d));
    tail.iter().copied().fold(simd.reduce_max_f32s(max), f32::max)
}

/// y = factor y.
#[inline(always)]
pub(super) fn scale_row<S: Simd>(simd: S, y: &mut [f32], factor: f32) {
    let (y, tail) = S::as_mut_simd_f32s(y);
    let splat = simd.splat_f32s(factor);
    for y in y {
        *y = simd.mul_f32s(*y, splat);
    }
    for y in tail {
        *y *= factor;
    }
}
