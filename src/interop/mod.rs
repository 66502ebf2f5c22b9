//! Arrays and matrices of other crates as the kernels' arguments, each behind a feature of its name.
//!
//! Nothing is copied: what lies in memory as a kernel wants it is handed on, and anything else is
//! refused with an error that names the argument, its shape and its strides.

#[cfg(feature = "faer")]
pub mod faer;
#[cfg(feature = "ndarray")]
pub mod ndarray;

use crate::cpu::Cpu;
use crate::error::Error;
use crate::kernels::gemm::{self, GemmShape, Matrix, Write};

const CONTIGUOUS: &str = "rows side by side without gaps are wanted";
const EITHER_ORDER: &str = "rows or columns side by side without gaps are wanted";

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
