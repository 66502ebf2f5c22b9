//! Cross-entropy of probabilities against integer labels.
//!
//! Stands in for the study's `averageCE` ([`forward`]; its figure calls it `CE`) and for `gradCE` as the
//! study derives it, the derivative with respect to the softmax's output ([`backward`]). Training
//! goes through [`softmax_cross_entropy`](super::softmax_cross_entropy) instead, which is faster
//! and has no logarithm of a probability that has rounded to zero.

#![forbid(unsafe_code)]

use super::kernel_span;
use super::softmax_cross_entropy::{Tally, check};
use crate::cpu::Cpu;
use crate::shape::{MatrixShape, check_len};
use crate::subnormals::FlushSubnormals;

/// Losses `-ln p_label` (infinite where that probability is 0) and hits of `probabilities`
/// (rows, classes) against `labels` (rows). The logarithms and their sum are in `f64`.
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
    // One logarithm per row: too little to share out.
    let _ = cpu;
    kernel_span!("cross_entropy::forward", probabilities.len(), 4 * probabilities.len());
    check(shape, probabilities, labels);
    let _flush = FlushSubnormals::new();
    let mut tally = Tally::default();
    for (row, &label) in probabilities.chunks_exact(shape.cols.max(1)).zip(labels) {
        let (label, p) = (label as usize, row[label as usize]);
        let beaten = row[..label].iter().any(|&other| other >= p)
            || row[label + 1..].iter().any(|&other| other > p)
            || row.iter().any(|other| other.is_nan());
        tally += Tally { rows: 1, loss: -f64::from(p).ln(), hits: usize::from(!beaten) };
    }
    tally
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
    let _ = cpu;
    kernel_span!("cross_entropy::backward", labels.len(), 4 * probabilities.len());
    check(shape, probabilities, labels);
    check_len("dprobabilities", dprobabilities.len(), shape.rows, shape.cols);
    let _flush = FlushSubnormals::new();
    dprobabilities.fill(0.0);
    for (row, &label) in labels.iter().enumerate() {
        let at = row * shape.cols + label as usize;
        dprobabilities[at] = -scale / probabilities[at];
    }
}
