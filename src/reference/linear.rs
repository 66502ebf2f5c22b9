//! Twin of [`kernels::linear`](crate::kernels::linear).
//!
//! ```
//! use kernelet::{kernels::gemm::Write, reference::linear, shape::LinearShape};
//!
//! let shape = LinearShape { rows: 1, inputs: 2, outputs: 2 };
//! let (x, w, mut y) = ([1.0_f64, 2.0], [1.0, -1.0, 0.5, -3.0], [0.0; 2]);
//! linear::forward_relu(shape, &x, &w, &[0.5, 0.5], &mut y);
//! assert_eq!(y, [2.5, 0.0]);
//! let (mut dw, mut db) = ([0.0; 4], [0.0; 2]);
//! linear::backward_weights(shape, &x, &[1.0, 0.0], Write::Overwrite, &mut dw, &mut db);
//! assert_eq!((dw, db), ([1.0, 0.0, 2.0, 0.0], [1.0, 0.0]));
//! ```

use super::{Float, adam, gemm, relu};
use crate::kernels::adam::Adam;
use crate::kernels::gemm::{GemmShape, Write};
use crate::shape::LinearShape;

/// y = x w + b.
pub fn forward<T: Float>(shape: LinearShape, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    let LinearShape { rows, inputs, outputs } = shape;
    let product = GemmShape { m: rows, k: inputs, n: outputs };
    gemm::gemm(product, (x, false), (w, false), Write::Overwrite, y);
    for row in 0..rows {
        for j in 0..outputs {
            y[row * outputs + j] += b[j];
        }
    }
}

/// y = max(x w + b, 0).
pub fn forward_relu<T: Float>(shape: LinearShape, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    forward(shape, x, w, b, y);
    let z = y.to_vec();
    relu::forward(&z, y);
}

/// dx = dy w^T.
pub fn backward_input<T: Float>(shape: LinearShape, dy: &[T], w: &[T], dx: &mut [T]) {
    let product = GemmShape { m: shape.rows, k: shape.outputs, n: shape.inputs };
    gemm::gemm(product, (dy, false), (w, true), Write::Overwrite, dx);
}

/// dx = dy w^T where x > 0, else 0.
pub fn backward_input_relu<T: Float>(shape: LinearShape, dy: &[T], w: &[T], x: &[T], dx: &mut [T]) {
    backward_input(shape, dy, w, dx);
    let unmasked = dx.to_vec();
    relu::backward(x, &unmasked, dx);
}

/// dw = or += x^T dy; db = or += column sums of dy.
pub fn backward_weights<T: Float>(
    shape: LinearShape,
    x: &[T],
    dy: &[T],
    write: Write,
    dw: &mut [T],
    db: &mut [T],
) {
    let LinearShape { rows, inputs, outputs } = shape;
    let product = GemmShape { m: inputs, k: rows, n: outputs };
    gemm::gemm(product, (x, true), (dy, false), write, dw);
    column_sums(shape, dy, write, db);
}

/// [`backward_weights`] without biases, then [`adam::update`].
#[expect(clippy::too_many_arguments, reason = "the kernel's, without its Cpu")]
pub fn backward_weights_adam<T: Float>(
    shape: LinearShape,
    x: &[T],
    dy: &[T],
    adam: Adam,
    step: u64,
    w: &mut [T],
    m: &mut [T],
    v: &mut [T],
) -> T {
    let (mut dw, mut db) = (vec![T::ZERO; w.len()], vec![T::ZERO; shape.outputs]);
    backward_weights(shape, x, dy, Write::Overwrite, &mut dw, &mut db);
    adam::update(adam, step, w, m, v, &dw)
}

/// [`backward_input`], then [`backward_weights_adam`].
#[expect(clippy::too_many_arguments, reason = "the kernel's, without its Cpu")]
pub fn backward_adam<T: Float>(
    shape: LinearShape,
    x: &[T],
    dy: &[T],
    adam: Adam,
    step: u64,
    w: &mut [T],
    m: &mut [T],
    v: &mut [T],
    dx: &mut [T],
) -> T {
    backward_input(shape, dy, w, dx);
    backward_weights_adam(shape, x, dy, adam, step, w, m, v)
}

/// db = or += the sum over rows of dy.
pub fn column_sums<T: Float>(shape: LinearShape, dy: &[T], write: Write, db: &mut [T]) {
    for j in 0..shape.outputs {
        let mut sum = T::ZERO;
        for row in 0..shape.rows {
            sum += dy[row * shape.outputs + j];
        }
        match write {
            Write::Overwrite => db[j] = sum,
            Write::Add => db[j] += sum,
        }
    }
}
