//! Views of ndarray's arrays.
//!
//! ```
//! use kernelet::interop::ndarray::{gemm, slice, slice_mut};
//! use kernelet::kernels::{gemm::Write, softmax};
//! use kernelet::{Cpu, shape::MatrixShape};
//! use ndarray::{Array2, array};
//!
//! let cpu = Cpu::detect()?;
//! let x = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
//! // x^T x: a transpose is a view.
//! let mut c = Array2::zeros((2, 2));
//! gemm(&cpu, x.t(), x.view(), Write::Overwrite, c.view_mut())?;
//! assert_eq!(c, array![[35.0, 44.0], [44.0, 56.0]]);
//!
//! // Any other kernel takes slices.
//! let mut y = Array2::zeros((3, 2));
//! let shape = MatrixShape { rows: 3, cols: 2 };
//! softmax::forward(&cpu, shape, slice("x", x.view())?, slice_mut("y", y.view_mut())?);
//! assert!(y.row(0).sum() - 1.0 < 1e-6);
//!
//! // What does not lie as the kernel wants it is refused.
//! let error = slice("x", x.t()).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "x has shape (2, 3) and strides [1, 2]: rows side by side without gaps are wanted"
//! );
//! # Ok::<(), kernelet::Error>(())
//! ```

#![forbid(unsafe_code)]

use ndarray::{ArrayView, ArrayView2, ArrayViewMut, ArrayViewMut2, Dimension};

use super::{CONTIGUOUS, EITHER_ORDER, Operand, multiply};
use crate::cpu::Cpu;
use crate::error::Error;
use crate::kernels::gemm::Write;

/// The elements of an array of any number of axes, row by row, for a kernel to read. `name` is the
/// argument's for the message.
///
/// # Errors
/// [`Error::Layout`] if they do not lie in this order without gaps.
pub fn slice<'a, T, D: Dimension>(
    name: &'static str,
    array: ArrayView<'a, T, D>,
) -> Result<&'a [T], Error> {
    array.to_slice().ok_or_else(|| layout(name, array.shape(), array.strides(), CONTIGUOUS))
}

/// [`slice()`], for a kernel to write.
///
/// # Errors
/// As [`slice()`].
pub fn slice_mut<'a, T, D: Dimension>(
    name: &'static str,
    array: ArrayViewMut<'a, T, D>,
) -> Result<&'a mut [T], Error> {
    let error = layout(name, array.shape(), array.strides(), CONTIGUOUS);
    array.into_slice().ok_or(error)
}

/// C = A B or C += A B, as `write` says: [`gemm`](crate::kernels::gemm::gemm) of views, each of which
/// may also be a transpose.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit each other. [`Error::Layout`] if a view has gaps or
/// steps backwards.
pub fn gemm(
    cpu: &Cpu,
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    write: Write,
    c: ArrayViewMut2<f32>,
) -> Result<(), Error> {
    let (rows, columns) = c.dim();
    let error = layout("C", c.shape(), c.strides(), EITHER_ORDER);
    let transposed = !c.is_standard_layout();
    let elements = if transposed { c.reversed_axes() } else { c }.into_slice().ok_or(error)?;
    let c = Operand { elements, shape: [rows, columns], transposed };
    multiply(cpu, operand("A", a)?, operand("B", b)?, write, c)
}

fn operand<'a>(
    name: &'static str,
    array: ArrayView2<'a, f32>,
) -> Result<Operand<&'a [f32]>, Error> {
    let (rows, columns) = array.dim();
    let error = layout(name, array.shape(), array.strides(), EITHER_ORDER);
    let transposed = !array.is_standard_layout();
    let rows_first = if transposed { array.reversed_axes() } else { array };
    let elements = rows_first.to_slice().ok_or(error)?;
    Ok(Operand { elements, shape: [rows, columns], transposed })
}

fn layout(name: &'static str, shape: &[usize], strides: &[isize], wanted: &'static str) -> Error {
    Error::Layout { name, shape: shape.into(), strides: strides.into(), wanted }
}
