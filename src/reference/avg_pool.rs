//! Twin of [`kernels::avg_pool`](crate::kernels::avg_pool).
//!
//! ```
//! use kernelet::reference::avg_pool;
//! use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
//!
//! let input = ImageShape { batch: 1, height: 2, width: 2, channels: 1 };
//! let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
//! let mut y = [0.0_f64];
//! avg_pool::forward(shape, &[1.0, 2.0, 3.0, 6.0], &mut y);
//! assert_eq!(y, [3.0]);
//! ```

use super::{Float, inside};
use crate::shape::PoolShape;

/// y = the mean of every window's elements inside the image.
pub fn forward<T: Float>(shape: PoolShape, x: &[T], y: &mut [T]) {
    let PoolShape { input, window } = shape;
    for output in 0..shape.output().pixels().rows {
        let count = T::from_f64(inside(input, window, output).count() as f64);
        for channel in 0..input.channels {
            let mut sum = T::ZERO;
            for (_, pixel) in inside(input, window, output) {
                sum += x[pixel * input.channels + channel];
            }
            y[output * input.channels + channel] = sum / count;
        }
    }
}

/// dx = 0, then to every element of a window inside the image its share of the window's dy.
pub fn backward<T: Float>(shape: PoolShape, dy: &[T], dx: &mut [T]) {
    let PoolShape { input, window } = shape;
    dx.fill(T::ZERO);
    for output in 0..shape.output().pixels().rows {
        let count = T::from_f64(inside(input, window, output).count() as f64);
        for (_, pixel) in inside(input, window, output) {
            for channel in 0..input.channels {
                dx[pixel * input.channels + channel] +=
                    dy[output * input.channels + channel] / count;
            }
        }
    }
}
