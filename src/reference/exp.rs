//! Twin of [`kernels::exp`](crate::kernels::exp).

use super::Float;

/// y = e^x.
pub fn forward<T: Float>(x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x.exp();
    }
}
