//! Twin of [`kernels::momentum`](crate::kernels::momentum).

use super::Float;

/// v = momentum v + learning_rate g; w = w - v.
pub fn update<T: Float>(learning_rate: T, momentum: T, w: &mut [T], v: &mut [T], g: &[T]) {
    for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
        *v = momentum * *v + learning_rate * g;
        *w -= *v;
    }
}
