//! matrixmultiply: ndarray's product by itself.

use anyhow::Result;
use matrixmultiply::sgemm;

use super::{Contestant, Inputs, Prepared, crate_version, job};
use crate::works::{Gemm, Work};

/// matrixmultiply on as many threads as `MATMUL_NUM_THREADS` says, at most 4.
pub struct Matrixmultiply;

impl Contestant for Matrixmultiply {
    fn version(&self) -> String {
        crate_version("matrixmultiply")
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let &Work::Gemm(sizes) = work else {
            return Ok(Prepared::Unsupported("It has the matrix product only."));
        };
        let Gemm { m, k, n, .. } = sizes;
        let ([a_row, a_column], [b_row, b_column]) = sizes.strides();
        let (a, b) = (inputs.matrix("a", m, k)?, inputs.matrix("b", k, n)?);
        job(
            (a, b, vec![0.0_f32; m * n]),
            move |(a, b, c)| {
                let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                // SAFETY: a, b and c have m k, k n and m n elements, which the strides of dense
                // matrices stay within.
                unsafe {
                    sgemm(
                        m, k, n, 1.0, a, a_row, a_column, b, b_row, b_column, 0.0, c, n as isize, 1,
                    );
                }
                Ok(())
            },
            |(_, _, c)| Ok(vec![("c", c.clone())]),
        )
    }

    /// It has threads of its own.
    fn install(&self, body: &mut (dyn FnMut() + Send)) {
        body();
    }
}
