//! Views of the arrays of ndarray 0.17.
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
//! assert!((y.row(0).sum() - 1.0_f32).abs() < 1e-6);
//!
//! // What does not lie as the kernel wants it is refused.
//! let error = slice("x", x.t()).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "x has shape (2, 3) and strides [1, 2]: rows side by side without gaps are wanted"
//! );
//! # Ok::<(), kernelet::Error>(())
//! ```

use ndarray::{ArrayView, ArrayView2, ArrayViewMut, ArrayViewMut2, Dimension};

use super::{Operand, multiply};
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
    array.to_slice().ok_or_else(|| layout(name, array.shape(), array.strides()))
}

/// [`slice()`], for a kernel to write.
///
/// # Errors
/// As [`slice()`].
pub fn slice_mut<'a, T, D: Dimension>(
    name: &'static str,
    array: ArrayViewMut<'a, T, D>,
) -> Result<&'a mut [T], Error> {
    if !array.is_standard_layout() {
        return Err(layout(name, array.shape(), array.strides()));
    }
    Ok(array.into_slice().unwrap_or(&mut []))
}

/// C = A B or C += A B, as `write` says: [`gemm`](crate::kernels::gemm::gemm) of views, each of which
/// may also be a transpose, or a part of a larger matrix.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit each other. [`Error::Layout`] if neither the rows nor the
/// columns of a view have their elements side by side, or if they go backwards.
pub fn gemm(
    cpu: &Cpu,
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    write: Write,
    mut c: ArrayViewMut2<f32>,
) -> Result<(), Error> {
    let (first, shape, strides) = (c.as_mut_ptr(), c.dim(), c.strides());
    let c = Operand::new("C", first, shape.into(), [strides[0], strides[1]])?;
    // SAFETY: these are borrows of the elements, and that of C is a mutable one, which is ours.
    unsafe { multiply(cpu, operand("A", a)?, operand("B", b)?, write, c) }
}

fn operand(name: &'static str, array: ArrayView2<f32>) -> Result<Operand<*const f32>, Error> {
    let strides = [array.strides()[0], array.strides()[1]];
    Operand::new(name, array.as_ptr(), array.dim().into(), strides)
}

/// Why an array is no slice.
fn layout(name: &'static str, shape: &[usize], strides: &[isize]) -> Error {
    let wanted = "rows side by side without gaps are wanted";
    Error::Layout { name, shape: shape.into(), strides: strides.into(), wanted }
}
