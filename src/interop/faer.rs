//! Matrices of faer, which lie column by column.
//!
//! ```
//! use faer::{Mat, mat};
//! use kernelet::Cpu;
//! use kernelet::interop::faer::gemm;
//! use kernelet::kernels::gemm::Write;
//!
//! let cpu = Cpu::detect()?;
//! let x = mat![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0_f32]];
//! // x^T x: a transpose is a view.
//! let mut c = Mat::zeros(2, 2);
//! gemm(&cpu, x.transpose(), x.as_ref(), Write::Overwrite, c.as_mut())?;
//! assert_eq!(c, mat![[35.0, 44.0], [44.0, 56.0]]);
//!
//! // A part of a matrix has gaps between its columns.
//! let top = x.as_ref().subrows(0, 2);
//! let error = gemm(&cpu, top, top, Write::Overwrite, c.as_mut()).unwrap_err();
//! assert!(error.to_string().starts_with("A has shape (2, 2) and strides [1, "));
//! # Ok::<(), kernelet::Error>(())
//! ```

use faer::{MatMut, MatRef};

use super::{EITHER_ORDER, Operand, multiply};
use crate::cpu::Cpu;
use crate::error::Error;
use crate::kernels::gemm::Write;

/// C = A B or C += A B, as `write` says: [`gemm`](crate::kernels::gemm::gemm) of matrices, each of
/// which may also be a transpose.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit each other. [`Error::Layout`] if a matrix has gaps, as
/// a part of another one has and as [`Mat`](faer::Mat) leaves between columns whose length is not a
/// multiple of its alignment, or steps backwards.
pub fn gemm(
    cpu: &Cpu,
    a: MatRef<f32>,
    b: MatRef<f32>,
    write: Write,
    c: MatMut<f32>,
) -> Result<(), Error> {
    let (shape, transposed) = order("C", c.as_ref())?;
    let len = shape[0] * shape[1];
    // SAFETY: `order` has found the elements side by side, `len` of them from this pointer on;
    // they are borrowed mutably as long as `c`, which is ours.
    let elements = unsafe { slice_mut(c.as_ptr_mut(), len) };
    let c = Operand { elements, shape, transposed };
    multiply(cpu, operand("A", a)?, operand("B", b)?, write, c)
}

fn operand<'a>(name: &'static str, matrix: MatRef<'a, f32>) -> Result<Operand<&'a [f32]>, Error> {
    let (shape, transposed) = order(name, matrix)?;
    let len = shape[0] * shape[1];
    // SAFETY: `order` has found the elements side by side, `len` of them from this pointer on;
    // they are borrowed as long as `matrix`.
    let elements = unsafe { slice(matrix.as_ptr(), len) };
    Ok(Operand { elements, shape, transposed })
}

/// The shape of a matrix whose elements lie side by side, and whether column by column.
fn order(name: &'static str, matrix: MatRef<f32>) -> Result<([usize; 2], bool), Error> {
    let shape = [matrix.nrows(), matrix.ncols()];
    let strides = [matrix.row_stride(), matrix.col_stride()];
    // Along an axis of a single element no step is made, and in an empty matrix none at all.
    let fits = |axis: usize, stride: usize| shape[axis] < 2 || strides[axis] == stride as isize;
    if shape.contains(&0) || (fits(0, shape[1]) && fits(1, 1)) {
        return Ok((shape, false));
    }
    if fits(0, 1) && fits(1, shape[0]) {
        return Ok((shape, true));
    }
    let (shape, strides) = (shape.into(), strides.into());
    Err(Error::Layout { name, shape, strides, wanted: EITHER_ORDER })
}

/// The `len` elements from `first` on.
///
/// # Safety
/// If there is any, `first` points to as many, side by side, which nobody writes for `'a`.
unsafe fn slice<'a>(first: *const f32, len: usize) -> &'a [f32] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(first, len) }
}

/// The `len` elements from `first` on.
///
/// # Safety
/// As [`slice`], and nobody else reads them for `'a`.
unsafe fn slice_mut<'a>(first: *mut f32, len: usize) -> &'a mut [f32] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(first, len) }
}
