//! Twin of [`kernels::softmax_cross_entropy`](crate::kernels::softmax_cross_entropy).
//!
//! ```
//! use kernelet::{reference::softmax_cross_entropy, shape::MatrixShape};
//!
//! let shape = MatrixShape { rows: 1, cols: 2 };
//! let mut dlogits = [0.0_f64; 2];
//! let tally =
//!     softmax_cross_entropy::forward_backward(shape, &[7.0, 7.0], &[0], 1.0, &mut dlogits);
//! assert_eq!((tally.loss, tally.hits), (2_f64.ln(), 1));
//! assert_eq!(dlogits, [-0.5, 0.5]);
//! ```

use super::Float;
use crate::kernels::softmax_cross_entropy::Tally;
use crate::shape::MatrixShape;

/// Loss `ln(sum_k e^(x_k - max)) + max - x_label` of each row, summed, and hits.
pub fn forward<T: Float>(shape: MatrixShape, logits: &[T], labels: &[u32]) -> Tally {
    let mut tally = Tally::default();
    for (row, &label) in labels.iter().enumerate() {
        let x = &logits[row * shape.cols..][..shape.cols];
        let mut max = T::NEG_INFINITY;
        let mut argmax = 0;
        for (j, &x) in x.iter().enumerate() {
            if x > max {
                (max, argmax) = (x, j);
            }
        }
        let mut sum = T::ZERO;
        for &x in x {
            sum += (x - max).exp();
        }
        let loss = sum.ln().to_f64() + (max - x[label as usize]).to_f64();
        let hit = argmax == label as usize && !sum.to_f64().is_nan();
        tally += Tally { rows: 1, loss, hits: usize::from(hit) };
    }
    tally
}

/// [`forward`], and dlogits = scale * (softmax(logits) - onehot(labels)).
pub fn forward_backward<T: Float>(
    shape: MatrixShape,
    logits: &[T],
    labels: &[u32],
    scale: T,
    dlogits: &mut [T],
) -> Tally {
    let mut probabilities = vec![T::ZERO; logits.len()];
    super::softmax::forward(shape, logits, &mut probabilities);
    backward(shape, &probabilities, labels, scale, dlogits);
    forward(shape, logits, labels)
}

/// dlogits = scale * (probabilities - onehot(labels)).
pub fn backward<T: Float>(
    shape: MatrixShape,
    probabilities: &[T],
    labels: &[u32],
    scale: T,
    dlogits: &mut [T],
) {
    for (row, &label) in labels.iter().enumerate() {
        for j in 0..shape.cols {
            let target = if j == label as usize { T::ONE } else { T::ZERO };
            let at = row * shape.cols + j;
            dlogits[at] = scale * (probabilities[at] - target);
        }
    }
}
