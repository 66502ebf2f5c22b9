//! Twin of [`kernels::adam`](crate::kernels::adam).

use super::Float;
use crate::kernels::adam::Adam;

/// g' = g + l2 w; m = m + (1 - beta1) (g' - m); v = v + (1 - beta2) (g'^2 - v);
/// w = w - learning_rate sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + epsilon).
///
/// Returns the sum of squares of `w` before the update.
///
/// ```
/// use kernelet::{kernels::adam::Adam, reference::adam};
///
/// let settings = Adam { learning_rate: 0.5, ..Adam::default() };
/// let (mut w, mut m, mut v) = ([1.0_f64, -2.0], [0.0; 2], [0.0; 2]);
/// assert_eq!(adam::update(settings, 1, &mut w, &mut m, &mut v, &[10.0, -0.1]), 5.0);
/// assert!((w[0] - 0.5).abs() < 1e-5 && (w[1] + 1.5).abs() < 1e-5);
/// ```
pub fn update<T: Float>(
    adam: Adam,
    step: u64,
    w: &mut [T],
    m: &mut [T],
    v: &mut [T],
    g: &[T],
) -> T {
    let of = |x: f32| T::from_f64(f64::from(x));
    let (beta1, beta2) = (of(adam.beta1), of(adam.beta2));
    let rate = T::from_f64(rate(adam, step));
    let mut squares = T::ZERO;
    for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
        squares += *w * *w;
        let g = g + of(adam.l2) * *w;
        *m += (T::ONE - beta1) * (g - *m);
        *v += (T::ONE - beta2) * (g * g - *v);
        *w -= rate * *m / (v.sqrt() + of(adam.epsilon));
    }
    squares
}

/// The learning rate of update number `step`, with the correction of both moments' bias towards
/// their start, 0.
///
/// ```
/// use kernelet::{kernels::adam::Adam, reference::adam};
///
/// let settings = Adam::default();
/// assert_eq!(adam::rate(settings, 7) as f32, settings.rate(7));
/// ```
#[must_use]
pub fn rate(adam: Adam, step: u64) -> f64 {
    let rest = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
    f64::from(adam.learning_rate) * rest(adam.beta2).sqrt() / rest(adam.beta1)
}
