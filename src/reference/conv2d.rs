//! Twin of [`kernels::conv2d`](crate::kernels::conv2d).

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
