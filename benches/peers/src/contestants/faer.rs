//! faer: its matrix product.

use anyhow::Result;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::{Contestant, Inputs, Prepared, crate_version, job};
use crate::works::{Gemm, Work};

/// faer on so many threads.
pub struct Faer {
    parallel: Par,
}

impl Faer {
    /// On `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self { parallel: if threads > 1 { Par::rayon(threads) } else { Par::Seq } }
    }
}

impl Contestant for Faer {
    fn version(&self) -> String {
        crate_version("faer")
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let &Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) = work else {
            return Ok(Prepared::Unsupported("It has linear algebra only."));
        };
        let parallel = self.parallel;
        job(
            (inputs.floats("a")?, inputs.floats("b")?, vec![0.0; m * n]),
            move |(a, b, c)| {
                let a = matrix(a, m, k, a_transposed);
                let b = matrix(b, k, n, b_transposed);
                let c = MatMut::from_row_major_slice_mut(c, m, n);
                matmul(c, Accum::Replace, a, b, 1.0, parallel);
                Ok(())
            },
            |(_, _, c)| Ok(vec![("c", c.clone())]),
        )
    }
}

/// A matrix of `rows` x `cols` that lies in `data` row by row, or column by column if transposed.
fn matrix(data: &[f32], rows: usize, cols: usize, transposed: bool) -> MatRef<'_, f32> {
    if transposed {
        MatRef::from_column_major_slice(data, rows, cols)
    } else {
        MatRef::from_row_major_slice(data, rows, cols)
    }
}
