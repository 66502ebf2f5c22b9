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

#![forbid(unsafe_code)]

use ndarray::{
    ArrayBase, ArrayView, ArrayView2, ArrayViewMut, ArrayViewMut2, Dimension, Ix2, RawData,
};

use crate::cpu::Cpu;
use crate::error::Error;
use crate::kernels::gemm::{self, GemmShape, Matrix, Write};

const CONTIGUOUS: &str = "rows side by side without gaps are wanted";
const EITHER_ORDER: &str = "rows or columns side by side without gaps are wanted";

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
    if !array.is_standard_layout() {
        return Err(layout(name, array.shape(), array.strides(), CONTIGUOUS));
    }
    Ok(array.into_slice().unwrap_or(&mut []))
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
    let transposed = is_transposed("C", &c)?;
    let (rows, columns) = c.dim();
    let rows_first = if transposed { c.reversed_axes() } else { c };
    let elements = rows_first.into_slice().unwrap_or(&mut []);
    let c = Operand { elements, shape: [rows, columns], transposed };
    multiply(cpu, operand("A", a)?, operand("B", b)?, write, c)
}

fn operand<'a>(
    name: &'static str,
    array: ArrayView2<'a, f32>,
) -> Result<Operand<&'a [f32]>, Error> {
    let transposed = is_transposed(name, &array)?;
    let (rows, columns) = array.dim();
    let rows_first = if transposed { array.reversed_axes() } else { array };
    let elements = rows_first.to_slice().unwrap_or(&[]);
    Ok(Operand { elements, shape: [rows, columns], transposed })
}

/// Whether the columns of a matrix without gaps, not its rows, lie side by side.
fn is_transposed<S: RawData<Elem = f32>>(
    name: &'static str,
    array: &ArrayBase<S, Ix2>,
) -> Result<bool, Error> {
    if array.is_standard_layout() {
        return Ok(false);
    }
    if array.raw_view().reversed_axes().is_standard_layout() {
        return Ok(true);
    }
    Err(layout(name, array.shape(), array.strides(), EITHER_ORDER))
}

fn layout(name: &'static str, shape: &[usize], strides: &[isize], wanted: &'static str) -> Error {
    Error::Layout { name, shape: shape.into(), strides: strides.into(), wanted }
}

/// A matrix of either order, without gaps, and its rows and columns.
struct Operand<M> {
    elements: M,
    shape: [usize; 2],
    /// Whether the columns, not the rows, lie side by side.
    transposed: bool,
}

impl<'a> Operand<&'a [f32]> {
    /// The matrix, or its transpose.
    fn matrix(&self, transpose: bool) -> Matrix<'a> {
        match self.transposed == transpose {
            true => Matrix::N(self.elements),
            false => Matrix::T(self.elements),
        }
    }
}

/// C = A B or C += A B. Where C has its columns side by side, its transpose is computed.
fn multiply(
    cpu: &Cpu,
    a: Operand<&[f32]>,
    b: Operand<&[f32]>,
    write: Write,
    c: Operand<&mut [f32]>,
) -> Result<(), Error> {
    let ([m, k], [_, n]) = (a.shape, b.shape);
    check_shape("B", b.shape, [k, n])?;
    check_shape("C", c.shape, [m, n])?;
    // The transpose of a transpose is the matrix.
    let (a, b) = (a.matrix(c.transposed), b.matrix(c.transposed));
    if c.transposed {
        gemm::gemm(cpu, GemmShape { m: n, k, n: m }, b, a, write, c.elements);
    } else {
        gemm::gemm(cpu, GemmShape { m, k, n }, a, b, write, c.elements);
    }
    Ok(())
}

fn check_shape(name: &'static str, found: [usize; 2], wanted: [usize; 2]) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Shape { name, found: found.into(), wanted: wanted.into() })
}
