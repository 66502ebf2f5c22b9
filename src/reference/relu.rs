//! Twin of [`kernels::relu`](crate::kernels::relu).
//!
//! ```
//! use kernelet::reference::relu;
//!
//! let (mut y, mut dx) = ([0.0_f64; 3], [0.0; 3]);
//! relu::forward(&[-1.0, 0.0, 2.0], &mut y);
//! relu::backward(&y, &[5.0, 6.0, 7.0], &mut dx);
//! assert_eq!((y, dx), ([0.0, 0.0, 2.0], [0.0, 0.0, 7.0]));
//! ```

use super::Float;

/// y = max(x, 0); NaN stays NaN.
pub fn forward<T: Float>(x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x <= T::ZERO { T::ZERO } else { x };
    }
}

/// dx = dy where y > 0, else 0.
pub fn backward<T: Float>(y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
        *dx = if y > T::ZERO { dy } else { T::ZERO };
    }
}
