//! Average pooling of NHWC images.
//!
//! Accuracy, with u = 2^-24 and p the elements of a window inside the image: y is within
//! `(p + 1) u` of the mean magnitude; dx within `(w + 1) u` of the sum of its terms' magnitudes,
//! w being the windows that a pixel is in.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};

use super::channels::{for_each_vector, load, store};
use super::max_pool::Windows;
use super::{ELEMENTWISE_PARALLEL_MIN, kernel_span};
use crate::cpu::Cpu;
use crate::shape::{PoolShape, check_len};

/// y (as `shape.output()`) = the mean of every window's elements inside the image, as TensorFlow has
/// it: padding does not count. x as `shape.input`.
///
/// ```
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
/// use kernelet::{Cpu, kernels::avg_pool};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let mut y = [0.0; 4];
/// avg_pool::forward(&cpu, shape, &x, &mut y);
/// // The second and the third window have two pixels of the image, the last one has one.
/// assert_eq!(y, [3.0, 4.5, 7.5, 9.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn forward(cpu: &Cpu, shape: PoolShape, x: &[f32], y: &mut [f32]) {
    struct Image<'a> {
        shape: PoolShape,
        x: &'a [f32],
        y: &'a mut [f32],
    }
    impl WithSimd for Image<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { shape, x, y } = self;
            let channels = shape.input.channels;
            let windows = Windows::new(shape);
            let output = shape.output();
            for oy in 0..output.height {
                for ox in 0..output.width {
                    let window = windows.at(oy, ox);
                    let elements = window.rows.len() * window.columns.len();
                    let elements = simd.splat_f32s(elements as f32);
                    let to = (oy * output.width + ox) * channels;
                    for_each_vector!(simd, channels, |at, width, WHOLE| {
                        let mut sum = simd.splat_f32s(0.0);
                        for row in window.rows.clone() {
                            for column in window.columns.clone() {
                                let from = window.pixel(row, column) * channels + at;
                                let x = load::<S, WHOLE>(simd, x, from, width);
                                sum = simd.add_f32s(sum, x);
                            }
                        }
                        let mean = simd.div_f32s(sum, elements);
                        store::<S, WHOLE>(simd, y, to + at, width, mean);
                    });
                }
            }
        }
    }
    check(shape, ("x", x.len()), ("y", y.len()));
    kernel_span!("avg_pool::forward", x.len(), 4 * (x.len() + y.len()));
    let input = shape.input.image_len();
    let parallel = x.len() >= ELEMENTWISE_PARALLEL_MIN / 4;
    cpu.for_each_chunk(parallel, y, shape.output().image_len(), |index, y| {
        cpu.dispatch(Image { shape, x: &x[index * input..][..input], y });
    });
}

/// dx (as `shape.input`): every dy (as `shape.output()`) spread evenly over its window's elements
/// inside the image.
///
/// ```
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
/// use kernelet::{Cpu, kernels::avg_pool};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// let mut dx = [0.0; 9];
/// avg_pool::backward(&cpu, shape, &[4.0, 6.0, 8.0, 9.0], &mut dx);
/// assert_eq!(dx, [1.0, 1.0, 3.0, 1.0, 1.0, 3.0, 4.0, 4.0, 9.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward(cpu: &Cpu, shape: PoolShape, dy: &[f32], dx: &mut [f32]) {
    struct Image<'a> {
        shape: PoolShape,
        dy: &'a [f32],
        dx: &'a mut [f32],
    }
    impl WithSimd for Image<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { shape, dy, dx } = self;
            let channels = shape.input.channels;
            let windows = Windows::new(shape);
            let output = shape.output();
            dx.fill(0.0);
            for oy in 0..output.height {
                for ox in 0..output.width {
                    let window = windows.at(oy, ox);
                    let elements = window.rows.len() * window.columns.len();
                    let elements = simd.splat_f32s(elements as f32);
                    let from = (oy * output.width + ox) * channels;
                    for_each_vector!(simd, channels, |at, width, WHOLE| {
                        let dy = load::<S, WHOLE>(simd, dy, from + at, width);
                        let share = simd.div_f32s(dy, elements);
                        for row in window.rows.clone() {
                            for column in window.columns.clone() {
                                let to = window.pixel(row, column) * channels + at;
                                let sum = load::<S, WHOLE>(simd, dx, to, width);
                                let sum = simd.add_f32s(sum, share);
                                store::<S, WHOLE>(simd, dx, to, width, sum);
                            }
                        }
                    });
                }
            }
        }
    }
    check(shape, ("dx", dx.len()), ("dy", dy.len()));
    kernel_span!("avg_pool::backward", dx.len(), 4 * (dx.len() + dy.len()));
    let output = shape.output().image_len();
    let parallel = dx.len() >= ELEMENTWISE_PARALLEL_MIN / 4;
    cpu.for_each_chunk(parallel, dx, shape.input.image_len(), |index, dx| {
        cpu.dispatch(Image { shape, dy: &dy[index * output..][..output], dx });
    });
}

#[track_caller]
fn check(
    shape: PoolShape,
    (input_name, input): (&str, usize),
    (output_name, output): (&str, usize),
) {
    check_len(input_name, input, shape.input.batch, shape.input.image_len());
    let out = shape.output();
    check_len(output_name, output, out.batch, out.image_len());
}
