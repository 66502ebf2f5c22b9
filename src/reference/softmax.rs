//! Twin of [`kernels::softmax`](crate::kernels::softmax).
//!
//! ```
//! use kernelet::{reference::softmax, shape::MatrixShape};
//!
//! let shape = MatrixShape { rows: 1, cols: 2 };
//! let (mut y, mut dx) = ([0.0_f64; 2], [0.0; 2]);
//! softmax::forward(shape, &[7.0, 7.0], &mut y);
//! softmax::backward(shape, &y, &[1.0, 0.0], &mut dx);
//! assert_eq!((y, dx), ([0.5, 0.5], [0.25, -0.25]));
//! ```

use super::Float;
use crate::shape::MatrixShape;

/// y_j = e^(x_j - max) / sum_k e^(x_k - max) in each row.
pub fn forward<T: Float>(shape: MatrixShape, x: &[T], y: &mut [T]) {
    for row in 0..shape.rows {
        let x = &x[row * shape.cols..][..shape.cols];
        let y = &mut y[row * shape.cols..][..shape.cols];
        let mut max = T::NEG_INFINITY;
        for &x in x {
            max = if x > max { x } else { max };
        }
        let mut sum = T::ZERO;
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - max).exp();
            sum += *y;
        }
        for y in y {
            *y = *y / sum;
        }
    }
}

/// dx = y * (dy - sum_k y_k dy_k) in each row.
pub fn backward<T: Float>(shape: MatrixShape, y: &[T], dy: &[T], dx: &mut [T]) {
    for row in 0..shape.rows {
        let at = row * shape.cols..(row + 1) * shape.cols;
        let mut dot = T::ZERO;
        for (&y, &dy) in y[at.clone()].iter().zip(&dy[at.clone()]) {
            dot += y * dy;
        }
        for i in at {
            dx[i] = y[i] * (dy[i] - dot);
        }
    }
}
