//! Softmax and cross-entropy against integer labels: loss, hits and the gradient of the logits in
//! one pass over them.
//!
//! Stands in for the study's `averageCE` after `softmax` ([`forward`]), and for its `gradCE` as
//! printed, the difference of prediction and target ([`backward`], fused: [`forward_backward`]).
//!
//! Accuracy: probabilities as [`softmax`](super::softmax) states. A row's loss,
//! `max - x_label + ln(sum)`, is computed in `f64` from the `f32` sum, and losses are summed in
//! `f64`: below 1e-4 a loss is therefore good to 1e-6 absolutely, not relatively. A gradient's
//! error is the scaled probability's and one rounding (two in [`backward`]).

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::kernel_span;
use super::softmax::{
    MAX_LANES, NARROW, PARALLEL_MIN, columns_exp_sub_max_sum, load_columns,
    row_exp_sub_sum_and_next_max, row_max, rows_and_next, rows_per_piece, scale_row, store_columns,
};
use crate::cpu::{Chunks, Cpu};
use crate::shape::{MatrixShape, check_len};

/// What a pass over labelled rows adds up to.
///
/// ```
/// use kernelet::kernels::softmax_cross_entropy::Tally;
///
/// // Two parts of a data set.
/// let mut tally = Tally { rows: 3, loss: 1.5, hits: 2 };
/// tally += Tally { rows: 1, loss: 0.5, hits: 1 };
/// assert_eq!((tally.mean_loss(), tally.accuracy()), (0.5, 75.0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Number of rows.
    pub rows: usize,
    /// Sum of the rows' losses, in nats.
    pub loss: f64,
    /// Rows whose label is the (first) largest logit. A row with a NaN is none.
    pub hits: usize,
}

impl Tally {
    /// Mean loss per row, in nats; NaN without rows.
    ///
    /// ```
    /// use kernelet::kernels::softmax_cross_entropy::Tally;
    ///
    /// assert_eq!(Tally { rows: 4, loss: 2.0, hits: 3 }.mean_loss(), 0.5);
    /// ```
    #[must_use]
    pub fn mean_loss(self) -> f64 {
        self.loss / self.rows as f64
    }

    /// Share of hits in percent; NaN without rows.
    ///
    /// ```
    /// use kernelet::kernels::softmax_cross_entropy::Tally;
    ///
    /// assert_eq!(Tally { rows: 4, loss: 2.0, hits: 3 }.accuracy(), 75.0);
    /// ```
    #[must_use]
    pub fn accuracy(self) -> f64 {
        100.0 * self.hits as f64 / self.rows as f64
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.loss += other.loss;
        self.hits += other.hits;
    }
}

/// Loss and hits of `logits` (rows, classes) against `labels` (rows).
///
/// ```
/// use kernelet::{Cpu, kernels::softmax_cross_entropy, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 2 };
/// let logits = [0.0, 0.0, 1000.0, 0.0];
/// let tally = softmax_cross_entropy::forward(&cpu, shape, &logits, &[1, 0]);
/// // ln 2 and 0. Of equals the first counts, so that the first row misses.
/// assert!((tally.loss - 2_f64.ln()).abs() < 1e-6);
/// assert_eq!((tally.rows, tally.hits), (2, 1));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`, or a label is not below the number of columns.
pub fn forward(cpu: &Cpu, shape: MatrixShape, logits: &[f32], labels: &[u32]) -> Tally {
    kernel_span!("softmax_cross_entropy::forward", 20 * logits.len(), 4 * logits.len());
    check(shape, logits, labels);
    run(cpu, shape, logits, labels, None)
}

/// [`forward`], and in `dlogits` (rows, classes) the gradient `scale * (softmax(logits) - onehot)`:
/// `scale` is 1 for the gradient of the summed loss, 1 / rows for that of the mean.
///
/// ```
/// use kernelet::{Cpu, kernels::softmax_cross_entropy, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 2 };
/// let (logits, labels) = ([0.0, 0.0, 1000.0, 0.0], [1, 0]);
/// let mut dlogits = [0.0; 4];
/// let tally = softmax_cross_entropy::forward_backward(
///     &cpu, shape, &logits, &labels, 1.0 / 2.0, &mut dlogits,
/// );
/// assert_eq!(tally, softmax_cross_entropy::forward(&cpu, shape, &logits, &labels));
/// assert_eq!(dlogits, [0.25, -0.25, 0.0, 0.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// As [`forward`].
pub fn forward_backward(
    cpu: &Cpu,
    shape: MatrixShape,
    logits: &[f32],
    labels: &[u32],
    scale: f32,
    dlogits: &mut [f32],
) -> Tally {
    kernel_span!("softmax_cross_entropy::forward_backward", 22 * logits.len(), 8 * logits.len());
    check(shape, logits, labels);
    check_len("dlogits", dlogits.len(), shape.rows, shape.cols);
    run(cpu, shape, logits, labels, Some((scale, dlogits)))
}

/// dlogits = scale * (probabilities - onehot(labels)), from probabilities (rows, classes) that are
/// there already: the study's `gradCE` as its figure prints it.
///
/// ```
/// use kernelet::{Cpu, kernels::softmax_cross_entropy, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 2 };
/// let (probabilities, labels) = ([0.5, 0.5, 0.25, 0.75], [0, 1]);
/// let mut dlogits = [0.0; 4];
/// softmax_cross_entropy::backward(&cpu, shape, &probabilities, &labels, 0.5, &mut dlogits);
/// assert_eq!(dlogits, [-0.25, 0.25, 0.125, -0.125]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// As [`forward`].
pub fn backward(
    cpu: &Cpu,
    shape: MatrixShape,
    probabilities: &[f32],
    labels: &[u32],
    scale: f32,
    dlogits: &mut [f32],
) {
    struct Scale<'a>(&'a mut [f32], f32);
    impl WithSimd for Scale<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            scale_row(simd, self.0, self.1);
        }
    }
    let bytes = 8 * probabilities.len();
    kernel_span!("softmax_cross_entropy::backward", probabilities.len(), bytes);
    check(shape, probabilities, labels);
    check_len("dlogits", dlogits.len(), shape.rows, shape.cols);
    if dlogits.is_empty() {
        return;
    }
    let rows = rows_per_piece(shape.cols);
    let parallel = cpu.shares(dlogits.len(), PARALLEL_MIN);
    cpu.for_each_chunk(parallel, dlogits, rows * shape.cols, |index, dlogits| {
        let start = index * rows;
        dlogits.copy_from_slice(&probabilities[start * shape.cols..][..dlogits.len()]);
        for (row, &label) in dlogits.chunks_exact_mut(shape.cols).zip(&labels[start..]) {
            row[label as usize] -= 1.0;
        }
        cpu.dispatch(Scale(dlogits, scale));
    });
}

/// Checks the lengths and the range of the labels, which the kernels index with.
#[track_caller]
pub(super) fn check(shape: MatrixShape, values: &[f32], labels: &[u32]) {
    let MatrixShape { rows, cols } = shape;
    check_len("the input", values.len(), rows, cols);
    check_len("labels", labels.len(), 1, rows);
    let is_wrong = |label: u32| label as usize >= cols;
    // The largest is found by vectors, the first that is wrong is not.
    if labels.iter().copied().max().is_some_and(is_wrong)
        && let Some(row) = labels.iter().position(|&label| is_wrong(label))
    {
        panic!("label {} of row {row} is not below the {cols} classes", labels[row]);
    }
}

fn run(
    cpu: &Cpu,
    shape: MatrixShape,
    logits: &[f32],
    labels: &[u32],
    gradient: Option<(f32, &mut [f32])>,
) -> Tally {
    let cols = shape.cols;
    let piece = rows_per_tally(shape);
    let (scale, dlogits) = gradient
        .map_or((0.0, None), |(scale, dlogits)| (scale, Some(Chunks::new(dlogits, piece * cols))));
    tally_pieces(cpu, cpu.shares(logits.len(), PARALLEL_MIN), shape, |index, rows| {
        let labels = &labels[rows.clone()];
        let logits = &logits[rows.start * cols..rows.end * cols];
        // SAFETY: `tally_pieces` calls this once for every index, and there are as many pieces of dlogits.
        let dlogits = dlogits.as_ref().map(|chunks| unsafe { chunks.get(index) });
        cpu.dispatch(Rows { cols, logits, labels, scale, dlogits })
    })
}

/// Most pieces that rows are cut into: their tallies live on the stack.
const MAX_PIECES: usize = 256;

/// Rows of a piece: whole vectors of them.
fn rows_per_tally(MatrixShape { rows, cols }: MatrixShape) -> usize {
    rows_per_piece(cols).max(rows.div_ceil(MAX_PIECES).next_multiple_of(MAX_LANES))
}

/// The sum of the tallies that `body` makes of pieces of the rows, called once for each with its number, in
/// their order.
pub(super) fn tally_pieces(
    cpu: &Cpu,
    parallel: bool,
    shape: MatrixShape,
    body: impl Fn(usize, Range<usize>) -> Tally + Sync + Send,
) -> Tally {
    let (rows, piece) = (shape.rows, rows_per_tally(shape));
    // Without the tallies, whose zeros take longer than a few rows do.
    if (1..=piece).contains(&rows) {
        return body(0, 0..rows);
    }
    let mut tallies = [Tally::default(); MAX_PIECES];
    let tallies = &mut tallies[..rows.div_ceil(piece)];
    cpu.for_each_chunk(parallel, tallies, 1, |index, tally| {
        tally[0] = body(index, index * piece..rows.min((index + 1) * piece));
    });
    // Always in the same order, whichever thread did what.
    let mut total = Tally::default();
    for tally in tallies {
        total += *tally;
    }
    total
}

struct Rows<'a> {
    cols: usize,
    logits: &'a [f32],
    labels: &'a [u32],
    scale: f32,
    dlogits: Option<&'a mut [f32]>,
}

impl WithSimd for Rows<'_> {
    type Output = Tally;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Tally {
        if self.cols <= NARROW { self.narrow(simd) } else { self.wide(simd) }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn narrow<S: Simd>(self, simd: S) -> Tally {
        let Self { cols, logits, labels, scale, mut dlogits } = self;
        let mut tally = Tally::default();
        let columns = &mut [simd.splat_f32s(0.0); NARROW][..cols];
        let group = cols * S::F32_LANES;
        for (index, labels) in labels.chunks(S::F32_LANES).enumerate() {
            let logits = &logits[index * group..][..labels.len() * cols];
            load_columns(simd, logits, columns);
            let (max, sum) = columns_exp_sub_max_sum(simd, columns);
            let (maxima, sums) = ([max], [sum]);
            let maxima: &[f32] = pulp::bytemuck::cast_slice(&maxima);
            let sums: &[f32] = pulp::bytemuck::cast_slice(&sums);
            for (lane, (row, &label)) in logits.chunks_exact(cols).zip(labels).enumerate() {
                tally += row_tally(row, label, maxima[lane], sums[lane]);
            }
            if let Some(dlogits) = &mut dlogits {
                let dlogits = &mut dlogits[index * group..][..labels.len() * cols];
                let factor = simd.div_f32s(simd.splat_f32s(scale), sum);
                for column in &mut *columns {
                    *column = simd.mul_f32s(*column, factor);
                }
                store_columns(simd, columns, dlogits);
                for (row, &label) in dlogits.chunks_exact_mut(cols).zip(labels) {
                    row[label as usize] -= scale;
                }
            }
        }
        tally
    }

    #[inline(always)]
    fn wide<S: Simd>(self, simd: S) -> Tally {
        let Self { cols, logits, labels, scale, mut dlogits } = self;
        let mut tally = Tally::default();
        let mut max = row_max(simd, &logits[..cols]);
        let rows = rows_and_next(logits, cols).zip(labels);
        for (index, ((row, next), &label)) in rows.enumerate() {
            let (sum, next_max) = match &mut dlogits {
                Some(dlogits) => {
                    let dlogits = &mut dlogits[index * cols..][..cols];
                    let (sum, next_max) =
                        row_exp_sub_sum_and_next_max(simd, row, max, dlogits, next);
                    scale_row(simd, dlogits, scale / sum);
                    dlogits[label as usize] -= scale;
                    (sum, next_max)
                }
                None => row_sum(simd, row, max, next),
            };
            tally += row_tally(row, label, max, sum);
            max = next_max;
        }
        tally
    }
}

/// The sum of e^(x - max) of a wide row, by way of a buffer that stays in the first-level cache, and the
/// largest element of the next.
#[inline(always)]
fn row_sum<S: Simd>(simd: S, row: &[f32], max: f32, next: &[f32]) -> (f32, f32) {
    let mut buffer = [0.0; 512];
    let (mut sum, mut next_max) = (0.0, f32::NEG_INFINITY);
    for (part, next) in row.chunks(512).zip(next.chunks(512)) {
        let (part_sum, part_max) =
            row_exp_sub_sum_and_next_max(simd, part, max, &mut buffer[..part.len()], next);
        sum += part_sum;
        next_max = next_max.max(part_max);
    }
    (sum, next_max)
}

/// One row's loss and whether it is a hit, from its maximum and its sum of e^(x - max).
#[inline(always)]
fn row_tally(row: &[f32], label: u32, max: f32, sum: f32) -> Tally {
    let label = label as usize;
    let loss = f64::from(max) - f64::from(row[label]) + f64::from(sum).ln();
    // NaN anywhere makes the sum NaN. Of several largest logits the first one counts.
    let hit = row[label] == max && !sum.is_nan() && !row[..label].contains(&max);
    Tally { rows: 1, loss, hits: usize::from(hit) }
}
