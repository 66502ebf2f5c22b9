//! Twin of [`kernels::conv2d`](crate::kernels::conv2d).
//!
//! ```
//! use kernelet::reference::conv2d;
//! use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
//!
//! let input = ImageShape { batch: 1, height: 2, width: 3, channels: 1 };
//! let shape = Conv2dShape { input, window: Window::square(2, 1, Padding::Valid), filters: 1 };
//! let (x, mut y) = ([1.0_f64, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0; 2]);
//! conv2d::forward(shape, &x, &[1.0; 4], &[0.5], &mut y);
//! assert_eq!(y, [12.5, 16.5]);
//! ```

use super::relu_batch_norm::{self, Moments};
use super::{Float, inside, relu};
use crate::kernels::gemm::Write;
use crate::shape::Conv2dShape;

/// y = conv(x, w) + b.
pub fn forward<T: Float>(shape: Conv2dShape, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    let Conv2dShape { input, window, filters } = shape;
    for output in 0..shape.output().pixels().rows {
        for filter in 0..filters {
            let mut sum = T::ZERO;
            for (place, pixel) in inside(input, window, output) {
                for channel in 0..input.channels {
                    let tap = place * input.channels + channel;
                    sum += x[pixel * input.channels + channel] * w[tap * filters + filter];
                }
            }
            y[output * filters + filter] = sum + b[filter];
        }
    }
}

/// y = max(conv(x, w) + b, 0).
pub fn forward_relu<T: Float>(shape: Conv2dShape, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    forward(shape, x, w, b, y);
    let z = y.to_vec();
    relu::forward(&z, y);
}

/// y = max(conv(x, w) + b, 0), and its moments per filter.
pub fn forward_relu_moments<T: Float>(
    shape: Conv2dShape,
    x: &[T],
    w: &[T],
    b: &[T],
    y: &mut [T],
) -> Moments<T> {
    forward(shape, x, w, b, y);
    let z = y.to_vec();
    relu_batch_norm::forward_moments(shape.output().pixels(), &z, y)
}

/// dx of an element is the sum of dy w over the windows that it lies in.
pub fn backward_input<T: Float>(shape: Conv2dShape, dy: &[T], w: &[T], dx: &mut [T]) {
    let Conv2dShape { input, window, filters } = shape;
    dx.fill(T::ZERO);
    for output in 0..shape.output().pixels().rows {
        for filter in 0..filters {
            for (place, pixel) in inside(input, window, output) {
                for channel in 0..input.channels {
                    let tap = place * input.channels + channel;
                    dx[pixel * input.channels + channel] +=
                        dy[output * filters + filter] * w[tap * filters + filter];
                }
            }
        }
    }
}

/// dw = or += the sum of x dy over the windows; db = or += the sum of dy over them.
pub fn backward_weights<T: Float>(
    shape: Conv2dShape,
    x: &[T],
    dy: &[T],
    write: Write,
    dw: &mut [T],
    db: &mut [T],
) {
    let Conv2dShape { input, window, filters } = shape;
    if write == Write::Overwrite {
        dw.fill(T::ZERO);
        db.fill(T::ZERO);
    }
    for output in 0..shape.output().pixels().rows {
        for filter in 0..filters {
            let dy = dy[output * filters + filter];
            for (place, pixel) in inside(input, window, output) {
                for channel in 0..input.channels {
                    let tap = place * input.channels + channel;
                    dw[tap * filters + filter] += x[pixel * input.channels + channel] * dy;
                }
            }
            db[filter] += dy;
        }
    }
}
