//! Twin of [`kernels::cross_entropy`](crate::kernels::cross_entropy).
//!
//! ```
//! use kernelet::{reference::cross_entropy, shape::MatrixShape};
//!
//! let shape = MatrixShape { rows: 2, cols: 2 };
//! let (p, labels, mut dp) = ([0.5_f64, 0.5, 0.25, 0.75], [0, 1], [0.0; 4]);
//! let tally = cross_entropy::forward(shape, &p, &labels);
//! assert_eq!((tally.loss, tally.hits), (-0.5_f64.ln() - 0.75_f64.ln(), 2));
//! cross_entropy::backward(shape, &p, &labels, 1.0, &mut dp);
//! assert_eq!(dp, [-2.0, 0.0, 0.0, -1.0 / 0.75]);
//! ```

use super::Float;
use crate::kernels::softmax_cross_entropy::Tally;
use crate::shape::MatrixShape;

/// Loss `-ln p_label` of each row, summed, and hits.
pub fn forward<T: Float>(shape: MatrixShape, probabilities: &[T], labels: &[u32]) -> Tally {
    let mut tally = Tally::default();
    for (row, &label) in labels.iter().enumerate() {
        let p = &probabilities[row * shape.cols..][..shape.cols];
        let mut argmax = 0;
        for j in 1..shape.cols {
            if p[j] > p[argmax] {
                argmax = j;
            }
        }
        let nan = p.iter().any(|p| p.to_f64().is_nan());
        let loss = -p[label as usize].ln().to_f64();
        tally += Tally { rows: 1, loss, hits: usize::from(argmax == label as usize && !nan) };
    }
    tally
}

/// dprobabilities = -scale / p at each row's label, else 0.
pub fn backward<T: Float>(
    shape: MatrixShape,
    probabilities: &[T],
    labels: &[u32],
    scale: T,
    dprobabilities: &mut [T],
) {
    for (row, &label) in labels.iter().enumerate() {
        for j in 0..shape.cols {
            let at = row * shape.cols + j;
            let here = j == label as usize;
            dprobabilities[at] = if here { -scale / probabilities[at] } else { T::ZERO };
        }
    }
}
