//! Twin of [`kernels::momentum`](crate::kernels::momentum).
//!
//! ```
//! use kernelet::{kernels::momentum::Momentum, reference::momentum};
//!
//! let settings = Momentum { learning_rate: 0.25, momentum: 0.5 };
//! let (mut w, mut v) = ([1.0_f64], [1.0]);
//! momentum::update(settings, &mut w, &mut v, &[2.0]);
//! assert_eq!((w, v), ([0.0], [1.0]));
//! ```

use super::Float;
use crate::kernels::momentum::Momentum;

/// v = momentum v + learning_rate g; w = w - v.
pub fn update<T: Float>(settings: Momentum, w: &mut [T], v: &mut [T], g: &[T]) {
    let learning_rate = T::from_f64(f64::from(settings.learning_rate));
    let momentum = T::from_f64(f64::from(settings.momentum));
    for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
        *v = momentum * *v + learning_rate * g;
        *w -= *v;
    }
}
