//! Cross-entropy of probabilities against integer labels.
//!
//! Stands in for the study's `averageCE` ([`forward`]; its figure calls it `CE`) and for `gradCE` as the
//! study derives it, the derivative with respect to the softmax's output ([`backward`]). Training
//! goes through [`softmax_cross_entropy`](super::softmax_cross_entropy) instead, which is faster
//! and has no logarithm of a probability that has rounded to zero.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};

use super::softmax::{NARROW, load_columns, rows_per_piece};
use super::softmax_cross_entropy::{Tally, check, tally_pieces};
use super::{ELEMENTWISE_PARALLEL_MIN, kernel_span};
use crate::cpu::Cpu;
use crate::shape::{MatrixShape, check_len};

/// Losses `-ln p_label` (infinite where that probability is 0) and hits of `probabilities`
/// (rows, classes) against `labels` (rows). A probability below 0 has no logarithm: NaN.
///
/// Accuracy: one logarithm, in `f64`, is taken of a product of eight probabilities, and these are added up in
/// `f64`: n rows' loss is within 2^-53 n + 2^-52 (n / 8 + 2) sum |ln p_label|.
///
/// ```
/// use kernelet::{Cpu, kernels::cross_entropy, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 2 };
/// let tally = cross_entropy::forward(&cpu, shape, &[0.5, 0.5, 0.25, 0.75], &[1, 1]);
/// assert!((tally.loss - (2_f64.ln() - 0.75_f64.ln())).abs() < 1e-12);
/// // Of equals the first counts, so that the first row misses.
/// assert_eq!(tally.hits, 1);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`, or a label is not below the number of columns.
#[must_use]
pub fn forward(cpu: &Cpu, shape: MatrixShape, probabilities: &[f32], labels: &[u32]) -> Tally {
    kernel_span!("cross_entropy::forward", probabilities.len(), 4 * probabilities.len());
    check(shape, probabilities, labels);
    let cols = shape.cols;
    tally_pieces(cpu, cpu.shares(shape.rows, PARALLEL_MIN_ROWS), shape, |_, rows| {
        let probabilities = &probabilities[rows.start * cols..rows.end * cols];
        cpu.dispatch(Rows { cols, probabilities, labels: &labels[rows] })
    })
}

/// From here on a second thread helps: some 20 microseconds' work, as most rows end at their first larger
/// probability as long as a network knows little.
const PARALLEL_MIN_ROWS: usize = 4096;

struct Rows<'a> {
    cols: usize,
    probabilities: &'a [f32],
    labels: &'a [u32],
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
        let Self { cols, probabilities, labels } = self;
        let mut total = Total::new();
        let columns = &mut [simd.splat_f32s(0.0); NARROW][..cols];
        let rows = probabilities.chunks(S::F32_LANES * cols);
        for (rows, labels) in rows.zip(labels.chunks(S::F32_LANES)) {
            load_columns(simd, rows, columns);
            let label = simd.partial_load_u32s(labels);
            let mut p = simd.splat_f32s(0.0);
            for (column, &x) in (0..).zip(&*columns) {
                p = simd.select_f32s(simd.equal_u32s(label, simd.splat_u32s(column)), x, p);
            }
            let mut hits = simd.splat_u32s(1);
            for (column, &x) in (0..).zip(&*columns) {
                let is_not_before = simd.less_than_or_equal_u32s(label, simd.splat_u32s(column));
                let is_beaten = simd.or_m32s(
                    simd.less_than_f32s(x, p),
                    simd.and_m32s(is_not_before, simd.equal_f32s(x, p)),
                );
                hits = simd.select_u32s(is_beaten, hits, simd.splat_u32s(0));
            }
            let (p, hits) = ([p], [hits]);
            let p: &[f32] = pulp::bytemuck::cast_slice(&p);
            let hits: &[u32] = pulp::bytemuck::cast_slice(&hits);
            for (&p, &hit) in p.iter().zip(hits).take(labels.len()) {
                total.add(p, hit != 0);
            }
        }
        total.finish()
    }

    #[inline(always)]
    fn wide<S: Simd>(self, simd: S) -> Tally {
        let Self { cols, probabilities, labels } = self;
        let mut total = Total::new();
        for (row, &label) in probabilities.chunks_exact(cols).zip(labels) {
            let p = row[label as usize];
            let hit = are_at_most(simd, row, p) && !row[..label as usize].contains(&p);
            total.add(p, hit);
        }
        total.finish()
    }
}

/// Whether no element is larger than `most`, or NaN.
#[inline(always)]
fn are_at_most<S: Simd>(simd: S, x: &[f32], most: f32) -> bool {
    let (vectors, tail) = S::as_simd_f32s(x);
    let limit = simd.splat_f32s(most);
    for &x in vectors {
        let is_more = simd.not_m32s(simd.less_than_or_equal_f32s(x, limit));
        if simd.first_true_m32s(is_more) < S::F32_LANES {
            return false;
        }
    }
    tail.iter().all(|&x| x <= most)
}

/// What rows add up to.
struct Total {
    tally: Tally,
    /// Of the probabilities whose logarithms have not been taken yet.
    product: f64,
}

impl Total {
    /// So many probabilities have one logarithm: the smallest normal `f32`, 2^-126, to this power is a normal
    /// `f64`, and so is the largest. (Where subnormals are not flushed, a product of eight of them may be zero.)
    const FACTORS: usize = 8;

    fn new() -> Self {
        Self { tally: Tally::default(), product: 1.0 }
    }

    #[inline(always)]
    fn add(&mut self, p: f32, hit: bool) {
        // Two that are negative would make a positive product.
        self.product *= f64::from(if p < 0.0 { f32::NAN } else { p });
        self.tally.rows += 1;
        self.tally.hits += usize::from(hit);
        if self.tally.rows.is_multiple_of(Self::FACTORS) {
            self.take_logarithm();
        }
    }

    #[inline(always)]
    fn take_logarithm(&mut self) {
        self.tally.loss -= self.product.ln();
        self.product = 1.0;
    }

    #[inline(always)]
    fn finish(mut self) -> Tally {
        self.take_logarithm();
        self.tally
    }
}

/// dprobabilities = `-scale / p` at each row's label, 0 elsewhere: `scale` is 1 for the gradient of
/// the summed loss, 1 / rows for that of the mean. Rounded once.
///
/// ```
/// use kernelet::{Cpu, kernels::cross_entropy, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 2 };
/// let mut dprobabilities = [0.0; 4];
/// let (p, labels) = ([0.5, 0.5, 0.25, 0.75], [0, 0]);
/// cross_entropy::backward(&cpu, shape, &p, &labels, 1.0, &mut dprobabilities);
/// assert_eq!(dprobabilities, [-2.0, 0.0, -4.0, 0.0]);
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
    dprobabilities: &mut [f32],
) {
    kernel_span!("cross_entropy::backward", labels.len(), 4 * probabilities.len());
    check(shape, probabilities, labels);
    check_len("dprobabilities", dprobabilities.len(), shape.rows, shape.cols);
    let parallel = cpu.shares(dprobabilities.len(), ELEMENTWISE_PARALLEL_MIN);
    let cols = shape.cols.max(1);
    let rows = rows_per_piece(cols);
    cpu.for_each_chunk(parallel, dprobabilities, rows * cols, |index, dprobabilities| {
        dprobabilities.fill(0.0);
        let first = index * rows;
        let probabilities = &probabilities[first * cols..];
        for (row, &label) in labels[first..].iter().take(dprobabilities.len() / cols).enumerate() {
            let at = row * cols + label as usize;
            dprobabilities[at] = -scale / probabilities[at];
        }
    });
}
