//! Average pooling of NHWC images.
//!
//! Accuracy, with u = 2^-24 and p the elements of a window inside the image: y is within
//! `(p + 1) u` of the mean magnitude; dx within `(w + 1) u` of the sum of its terms' magnitudes,
//! w being the windows that a pixel is in.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};

use super::channels::{for_each_vector, for_each_vectors, load, store};
use super::windows::{Windows, covers_every_pixel_once, rows_by_image, rows_per_chunk};
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
    struct Rows<'a> {
        shape: PoolShape,
        x: &'a [f32],
        /// The first of the rows, counted through all images.
        first: usize,
        y: &'a mut [f32],
    }
    impl WithSimd for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { shape, x, first, y } = self;
            let (image, channels) = (shape.input.image_len(), shape.input.channels);
            let windows = Windows::new(shape);
            let output = shape.output();
            for (number, y) in (first..).zip(y.chunks_exact_mut(output.width * channels)) {
                let x = &x[number / output.height * image..][..image];
                for (ox, y) in y.chunks_exact_mut(channels).enumerate() {
                    let window = windows.at(number % output.height, ox);
                    let elements = window.rows.len() * window.columns.len();
                    let elements = simd.splat_f32s(elements as f32);
                    for_each_vectors!(simd, channels, |at, width, WHOLE, COUNT| {
                        let mut sums = [simd.splat_f32s(0.0); COUNT];
                        for row in window.rows.clone() {
                            for column in window.columns.clone() {
                                let from = window.pixel(row, column) * channels + at;
                                for (i, sum) in sums.iter_mut().enumerate() {
                                    let x = load::<S, WHOLE>(simd, x, from + i * width, width);
                                    *sum = simd.add_f32s(*sum, x);
                                }
                            }
                        }
                        for (i, sum) in sums.into_iter().enumerate() {
                            let mean = simd.div_f32s(sum, elements);
                            store::<S, WHOLE>(simd, y, at + i * width, width, mean);
                        }
                    });
                }
            }
        }
    }
    check(shape, ("x", x.len()), ("y", y.len()));
    kernel_span!("avg_pool::forward", x.len(), 4 * (x.len() + y.len()));
    let output = shape.output();
    let rows = rows_per_chunk(output, x.len(), 1);
    let parallel = cpu.shares(x.len(), ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, y, rows * output.width * output.channels, |index, y| {
        cpu.dispatch(Rows { shape, x, first: index * rows, y });
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
    struct Rows<'a> {
        shape: PoolShape,
        /// Of all images.
        dy: &'a [f32],
        /// The first of the rows, counted through all images.
        first: usize,
        dx: &'a mut [f32],
    }
    impl WithSimd for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { shape, dy, first, dx } = self;
            let channels = shape.input.channels;
            let windows = Windows::new(shape);
            let output = shape.output();
            let zero = simd.splat_f32s(0.0);
            // Else there is something to add to, or nothing is added.
            let once = covers_every_pixel_once(shape);
            if !once {
                dx.fill(0.0);
            }
            for (image, rows, dx) in rows_by_image(shape.input, first, dx) {
                for oy in windows.touching(rows.clone()) {
                    for ox in 0..output.width {
                        let window = windows.at(oy, ox);
                        let elements = window.rows.len() * window.columns.len();
                        let elements = simd.splat_f32s(elements as f32);
                        let from = ((image * output.height + oy) * output.width + ox) * channels;
                        for_each_vectors!(simd, channels, |at, width, WHOLE, COUNT| {
                            let mut shares = [zero; COUNT];
                            for (i, share) in shares.iter_mut().enumerate() {
                                let from = from + at + i * width;
                                let dy = load::<S, WHOLE>(simd, dy, from, width);
                                *share = simd.div_f32s(dy, elements);
                            }
                            for row in
                                window.rows.start.max(rows.start)..window.rows.end.min(rows.end)
                            {
                                for column in window.columns.clone() {
                                    let to = window.pixel(row - rows.start, column) * channels + at;
                                    for (i, &share) in shares.iter().enumerate() {
                                        let to = to + i * width;
                                        let sum = if once {
                                            zero
                                        } else {
                                            load::<S, WHOLE>(simd, dx, to, width)
                                        };
                                        let sum = simd.add_f32s(sum, share);
                                        store::<S, WHOLE>(simd, dx, to, width, sum);
                                    }
                                }
                            }
                        });
                    }
                }
            }
        }
    }
    check(shape, ("dx", dx.len()), ("dy", dy.len()));
    kernel_span!("avg_pool::backward", dx.len(), 4 * (dx.len() + dy.len()));
    let rows = rows_per_chunk(shape.input, dx.len(), shape.window.stride[0]);
    let parallel = cpu.shares(dx.len(), ELEMENTWISE_PARALLEL_MIN / 4);
    let chunk = rows * shape.input.width * shape.input.channels;
    cpu.for_each_chunk(parallel, dx, chunk, |index, dx| {
        cpu.dispatch(Rows { shape, dy, first: index * rows, dx });
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
