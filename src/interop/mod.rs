//! Arrays and matrices of other crates as the kernels' arguments, each behind a feature of its name.
//!
//! Nothing is copied: what lies in memory as a kernel wants it is handed on, and anything else is
//! refused with an error that names the argument, its shape and its strides. In a product
//! ([`gemm`](crate::kernels::gemm::gemm)), rows or columns may lie apart, as those of a part of a
//! matrix do.

#[cfg(feature = "faer")]
pub mod faer;
#[cfg(feature = "ndarray")]
pub mod ndarray;

use crate::cpu::Cpu;
use crate::error::Error;
use crate::kernels::gemm::pack::Strided;
use crate::kernels::gemm::{GemmShape, Write, gemm_with_gaps};

/// A matrix whose rows or columns are runs of elements side by side.
struct Operand<P> {
    name: &'static str,
    first: P,
    shape: [usize; 2],
    /// Elements from one run to the next.
    stride: usize,
    /// Whether the runs are columns.
    transposed: bool,
}

impl<P> Operand<P> {
    /// # Errors
    /// [`Error::Layout`] if neither the elements of a row lie side by side nor those of a column, or
    /// rows or columns overlap or go backwards.
    fn new(
        name: &'static str,
        first: P,
        shape: [usize; 2],
        strides: [isize; 2],
    ) -> Result<Self, Error> {
        // Along an axis of a single element no step is made, and in an empty matrix none at all.
        let steps = |axis: usize| shape[axis] > 1 && !shape.contains(&0);
        for (transposed, [runs, run]) in [(false, [0, 1]), (true, [1, 0])] {
            let side_by_side = !steps(run) || strides[run] == 1;
            let stride = if steps(runs) { strides[runs] } else { shape[run] as isize };
            if let Ok(stride) = usize::try_from(stride)
                && side_by_side
                && stride >= shape[run]
            {
                return Ok(Self { name, first, shape, stride, transposed });
            }
        }
        let wanted = "rows, or columns, of elements side by side are wanted, one behind the other";
        Err(Error::Layout { name, shape: shape.into(), strides: strides.into(), wanted })
    }

    /// # Errors
    /// [`Error::Shape`] if the matrix is of another shape.
    fn check_shape(&self, wanted: [usize; 2]) -> Result<(), Error> {
        if self.shape == wanted {
            return Ok(());
        }
        Err(Error::Shape { name: self.name, found: self.shape.into(), wanted: wanted.into() })
    }
}

impl Operand<*const f32> {
    /// The matrix, or its transpose.
    ///
    /// # Safety
    /// The elements are readable and nobody writes them for `'a`.
    unsafe fn strided<'a>(&self, transpose: bool) -> Strided<'a> {
        let [rows, columns] = self.shape;
        let runs = if self.transposed { [columns, rows] } else { [rows, columns] };
        // SAFETY: the caller's promise.
        unsafe { Strided::with_gaps(self.first, runs, self.stride, self.transposed != transpose) }
    }
}

/// C = A B or C += A B.
///
/// # Safety
/// The elements of A and B are readable and nobody writes them meanwhile; those of C are nobody
/// else's.
unsafe fn multiply(
    cpu: &Cpu,
    a: Operand<*const f32>,
    b: Operand<*const f32>,
    write: Write,
    c: Operand<*mut f32>,
) -> Result<(), Error> {
    let ([m, k], [_, n]) = (a.shape, b.shape);
    b.check_shape([k, n])?;
    c.check_shape([m, n])?;
    // Where C has columns side by side, its transpose is computed, which has rows.
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (a.strided(c.transposed), b.strided(c.transposed)) };
    let to = (c.first, c.stride);
    // SAFETY: the rows of C do not overlap, as `Operand` has seen; the rest is the caller's promise.
    unsafe {
        if c.transposed {
            gemm_with_gaps(cpu, GemmShape { m: n, k, n: m }, b, a, write, to);
        } else {
            gemm_with_gaps(cpu, GemmShape { m, k, n }, a, b, write, to);
        }
    }
    Ok(())
}
