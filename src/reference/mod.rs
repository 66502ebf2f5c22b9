//! The scalar twin of every kernel, under the same name: plain loops that follow the mathematics
//! line by line, generic over `f32` and `f64`.
//!
//! They are the oracle of the tests, the far side of the finite differences, and the "naive" row
//! of the benchmarks. Nothing here is meant to be fast. Shapes are those of the kernels; slices
//! that are too short panic by index.
//!
//! A kernel is held against its twin, within the accuracy that its docs state:
//!
//! ```
//! use kernelet::{Cpu, kernels, reference, shape::LinearShape};
//!
//! let cpu = Cpu::detect()?;
//! let shape = LinearShape { rows: 1, inputs: 3, outputs: 1 };
//! let (x, w, b) = ([0.1, 0.2, 0.3], [0.4, -0.5, 0.6], [0.7]);
//! let mut y = [0.0];
//! kernels::linear::forward(&cpu, shape, &x, &w, &b, &mut y);
//!
//! let (x, w, b) = (x.map(f64::from), w.map(f64::from), b.map(f64::from));
//! let mut exact = [0.0];
//! reference::linear::forward(shape, &x, &w, &b, &mut exact);
//! let magnitudes = x[0] * w[0] - x[1] * w[1] + x[2] * w[2] + b[0];
//! assert!((f64::from(y[0]) - exact[0]).abs() <= 4.0 * 2_f64.powi(-24) * magnitudes);
//! # Ok::<(), kernelet::Error>(())
//! ```

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

use crate::shape::{ImageShape, Window};

pub mod adam;
pub mod avg_pool;
pub mod cnn;
pub mod conv2d;
pub mod cross_entropy;
pub mod dropout;
pub mod exp;
pub mod gemm;
pub mod linear;
pub mod max_pool;
pub mod mlp;
pub mod momentum;
pub mod relu;
pub mod relu_batch_norm;
pub mod softmax;
pub mod softmax_cross_entropy;

/// What the twins compute with: `f32` or `f64`.
///
/// ```
/// use kernelet::reference::Float;
///
/// fn mean<T: Float>(x: &[T]) -> T {
///     let mut sum = T::ZERO;
///     for &x in x {
///         sum += x;
///     }
///     sum / T::from_f64(x.len() as f64)
/// }
/// assert_eq!((mean(&[1.0_f32, 2.0]), mean(&[1.0_f64, 2.0])), (1.5, 1.5));
/// ```
pub trait Float:
    Copy
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + 'static
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Minus infinity
    const NEG_INFINITY: Self;
    /// e^self
    fn exp(self) -> Self;
    /// Natural logarithm
    fn ln(self) -> Self;
    /// Square root
    fn sqrt(self) -> Self;
    /// The nearest value to `x`
    fn from_f64(x: f64) -> Self;
    /// The same value
    fn to_f64(self) -> f64;
}

macro_rules! float {
    ($float:ident) => {
        impl Float for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $float::NEG_INFINITY;
            fn exp(self) -> Self {
                $float::exp(self)
            }
            fn ln(self) -> Self {
                $float::ln(self)
            }
            fn sqrt(self) -> Self {
                $float::sqrt(self)
            }
            fn from_f64(x: f64) -> Self {
                x as $float
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
        }
    };
}
float!(f32);
float!(f64);

/// The elements of window number `output` (counted in row-major order, through all images) that
/// lie inside its image, in row-major order: their places in the window and their pixels' numbers.
fn inside(
    input: ImageShape,
    window: Window,
    output: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let ImageShape { height, width, .. } = input;
    let [rows, columns] = window.count(height, width);
    let [above, left] = window.padding_before(height, width);
    let (image, row, column) =
        (output / (rows * columns), output / columns % rows, output % columns);
    (0..window.area()).filter_map(move |place| {
        let (down, right) = (place / window.size[1], place % window.size[1]);
        let y = (row * window.stride[0] + down).checked_sub(above)?;
        let x = (column * window.stride[1] + right).checked_sub(left)?;
        (y < height && x < width).then_some((place, (image * height + y) * width + x))
    })
}
