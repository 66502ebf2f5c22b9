//! Twin of [`kernels::momentum`](crate::kernels::momentum).
//!
//! ```
//! use kernelet::reference::momentum;
//!
//! let (mut w, mut v) = ([1.0_f64], [1.0]);
//! momentum::update(0.25, 0.5, &mut w, &mut v, &[2.0]);
//! assert_eq!((w, v), ([0.0], [1.0]));
//! ```

use super::Float;

/// v = momentum v + learning_rate g; w = w - v.
pub fn update<T: Float>(learning_rate: T, momentum: T, w: &mut [T], v: &mut [T], g: &[T]) {
    for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
        *v = momentum * *v + learning_rate * g;
        *w -= *v;
    }
}
