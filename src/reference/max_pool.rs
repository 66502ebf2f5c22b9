//! Twin of [`kernels::max_pool`](crate::kernels::max_pool).
//!
//! ```
//! use kernelet::reference::max_pool;
//! use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
//!
//! let input = ImageShape { batch: 1, height: 2, width: 2, channels: 1 };
//! let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
//! let (mut y, mut argmax, mut dx) = ([0.0_f64], [0_u8], [0.0_f64; 4]);
//! max_pool::forward(shape, &[1.0, 2.0, 6.0, 3.0], &mut y, &mut argmax);
//! assert_eq!((y, argmax), ([6.0], [2]));
//! max_pool::backward(shape, &argmax, &[5.0], &mut dx);
//! assert_eq!(dx, [0.0, 0.0, 5.0, 0.0]);
//! ```

use super::{Float, inside};
use crate::kernels::max_pool::Place;
use crate::shape::PoolShape;

/// y = the first of the largest elements of every window inside the image, or its last NaN, and
/// its place in the window in `argmax`.
pub fn forward<T: Float, P: Place>(shape: PoolShape, x: &[T], y: &mut [T], argmax: &mut [P]) {
    let PoolShape { input, window } = shape;
    for output in 0..shape.output().pixels().rows {
        for channel in 0..input.channels {
            let mut largest: Option<(usize, T)> = None;
            for (place, pixel) in inside(input, window, output) {
                let x = x[pixel * input.channels + channel];
                let nan = x.to_f64().is_nan();
                if largest.is_none_or(|(_, largest)| x > largest || nan) {
                    largest = Some((place, x));
                }
            }
            let Some((place, x)) = largest else {
                unreachable!("a window has an element inside the image");
            };
            let at = output * input.channels + channel;
            y[at] = x;
            argmax[at] = P::new(place as u32);
        }
    }
}

/// dx = 0, then every dy added to the element that was the largest of its window.
pub fn backward<T: Float, P: Place>(shape: PoolShape, argmax: &[P], dy: &[T], dx: &mut [T]) {
    let PoolShape { input, window } = shape;
    dx.fill(T::ZERO);
    for output in 0..shape.output().pixels().rows {
        for (place, pixel) in inside(input, window, output) {
            for channel in 0..input.channels {
                let at = output * input.channels + channel;
                if argmax[at].index() == place {
                    dx[pixel * input.channels + channel] += dy[at];
                }
            }
        }
    }
}
