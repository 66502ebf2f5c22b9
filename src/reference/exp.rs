//! Twin of [`kernels::exp`](crate::kernels::exp).
//!
//! ```
//! let mut y = [0.0_f64; 2];
//! kernelet::reference::exp::forward(&[0.0, 1.0], &mut y);
//! assert_eq!(y, [1.0, std::f64::consts::E]);
//! ```

use super::Float;

/// y = e^x.
pub fn forward<T: Float>(x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x.exp();
    }
}
