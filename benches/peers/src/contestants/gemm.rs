//! The crate gemm: faer's former product, and candle's.

use anyhow::Result;
use gemm::{Parallelism, gemm};

use super::{Contestant, Inputs, Prepared, crate_version, job};
use crate::works::{self, Work};

/// gemm on so many threads.
pub struct Gemm {
    threads: usize,
}

impl Gemm {
    /// On `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self { threads }
    }
}

impl Contestant for Gemm {
    fn version(&self) -> String {
        crate_version("gemm")
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let &Work::Gemm(sizes) = work else {
            return Ok(Prepared::Unsupported("It has the matrix product only."));
        };
        let works::Gemm { m, k, n, .. } = sizes;
        let parallel = match self.threads {
            1 => Parallelism::None,
            threads => Parallelism::Rayon(threads),
        };
        let ([a_row, a_column], [b_row, b_column]) = sizes.strides();
        let (a, b) = (inputs.matrix("a", m, k)?, inputs.matrix("b", k, n)?);
        job(
            (a, b, vec![0.0_f32; m * n]),
            move |(a, b, c)| {
                let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                // SAFETY: a, b and c have m k, k n and m n elements, which the strides of dense
                // matrices stay within.
                unsafe {
                    gemm(
                        m, n, k, c, 1, n as isize, false, a, a_column, a_row, b, b_column, b_row,
                        0.0, 1.0, false, false, false, parallel,
                    );
                }
                Ok(())
            },
            |(_, _, c)| Ok(vec![("c", c.clone())]),
        )
    }
}
