//! Matrices of faer 0.24, which lie column by column.
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
//! // And so is a part of a matrix.
//! let top = x.as_ref().subrows(0, 2);
//! gemm(&cpu, top, top, Write::Overwrite, c.as_mut())?;
//! assert_eq!(c, mat![[7.0, 10.0], [15.0, 22.0]]);
//!
//! // Not so its rows in reverse.
//! let error = gemm(&cpu, x.reverse_rows(), c.clone().as_ref(), Write::Overwrite, c.as_mut());
//! assert!(error.unwrap_err().to_string().starts_with("A has shape (3, 2) and strides [-1, "));
//! # Ok::<(), kernelet::Error>(())
//! ```

use faer::{MatMut, MatRef};

use super::{Operand, multiply};
use crate::cpu::Cpu;
use crate::error::Error;
use crate::kernels::gemm::Write;

/// C = A B or C += A B, as `write` says: [`gemm`](crate::kernels::gemm::gemm) of matrices, each of
/// which may also be a transpose, or a part of a larger one.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit each other. [`Error::Layout`] if neither the rows nor the
/// columns of a matrix have their elements side by side, or if they go backwards.
pub fn gemm(
    cpu: &Cpu,
    a: MatRef<f32>,
    b: MatRef<f32>,
    write: Write,
    c: MatMut<f32>,
) -> Result<(), Error> {
    let (shape, strides) = ([c.nrows(), c.ncols()], [c.row_stride(), c.col_stride()]);
    let c = Operand::new("C", c.as_ptr_mut(), shape, strides)?;
    // SAFETY: these are borrows of the elements, and that of C is a mutable one, which is ours.
    unsafe { multiply(cpu, operand("A", a)?, operand("B", b)?, write, c) }
}

fn operand(name: &'static str, matrix: MatRef<f32>) -> Result<Operand<*const f32>, Error> {
    let shape = [matrix.nrows(), matrix.ncols()];
    Operand::new(name, matrix.as_ptr(), shape, [matrix.row_stride(), matrix.col_stride()])
}
