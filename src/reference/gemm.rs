//! Twin of [`kernels::gemm`](crate::kernels::gemm).
//!
//! ```
//! use kernelet::{kernels::gemm::{GemmShape, Write}, reference::gemm::gemm};
//!
//! // x (2, 2) times its transpose.
//! let (x, mut c) = ([1.0_f64, 2.0, 3.0, 4.0], [0.0; 4]);
//! gemm(GemmShape { m: 2, k: 2, n: 2 }, (&x, false), (&x, true), Write::Overwrite, &mut c);
//! assert_eq!(c, [5.0, 11.0, 11.0, 25.0]);
//! ```

use super::Float;
use crate::kernels::gemm::{GemmShape, Write};

/// C = or += op(A) op(B), where op transposes if its flag is set.
pub fn gemm<T: Float>(
    shape: GemmShape,
    (a, a_transposed): (&[T], bool),
    (b, b_transposed): (&[T], bool),
    write: Write,
    c: &mut [T],
) {
    let GemmShape { m, k, n } = shape;
    for i in 0..m {
        for j in 0..n {
            let mut sum = T::ZERO;
            for p in 0..k {
                let a = if a_transposed { a[p * m + i] } else { a[i * k + p] };
                let b = if b_transposed { b[j * k + p] } else { b[p * n + j] };
                sum += a * b;
            }
            match write {
                Write::Overwrite => c[i * n + j] = sum,
                Write::Add => c[i * n + j] += sum,
            }
        }
    }
}
