//! Layers made of a matrix product, whichever it is, and [`auto`]'s loops: what one writes around
//! faer, and around the plain loops' own product.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use kernelet::kernels::gemm::{GemmShape, Matrix};
use kernelet::shape::LinearShape;

use super::auto;

/// C = op(A) op(B).
pub trait Product: Fn(GemmShape, Matrix, Matrix, &mut [f32]) {}
impl<F: Fn(GemmShape, Matrix, Matrix, &mut [f32])> Product for F {}

/// faer's product.
pub fn faer(par: Par) -> impl Product {
    fn view(matrix: Matrix<'_>, rows: usize, cols: usize) -> MatRef<'_, f32> {
        match matrix {
            Matrix::N(data) => MatRef::from_row_major_slice(data, rows, cols),
            Matrix::T(data) => MatRef::from_column_major_slice(data, rows, cols),
        }
    }
    move |GemmShape { m, k, n }, a, b, c| {
        let c = MatMut::from_row_major_slice_mut(c, m, n);
        matmul(c, Accum::Replace, view(a, m, k), view(b, k, n), 1.0, par);
    }
}

pub fn linear_forward(
    product: &impl Product,
    shape: LinearShape,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
) {
    let LinearShape { rows, inputs, outputs } = shape;
    product(GemmShape { m: rows, k: inputs, n: outputs }, Matrix::N(x), Matrix::N(w), y);
    auto::add_bias(b, y);
}

pub fn linear_forward_relu(
    product: &impl Product,
    shape: LinearShape,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
) {
    let LinearShape { rows, inputs, outputs } = shape;
    product(GemmShape { m: rows, k: inputs, n: outputs }, Matrix::N(x), Matrix::N(w), y);
    auto::add_bias_relu(b, y);
}

pub fn linear_backward_input(
    product: &impl Product,
    shape: LinearShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
) {
    let LinearShape { rows, inputs, outputs } = shape;
    product(GemmShape { m: rows, k: outputs, n: inputs }, Matrix::N(dy), Matrix::T(w), dx);
}

pub fn linear_backward_input_relu(
    product: &impl Product,
    shape: LinearShape,
    dy: &[f32],
    w: &[f32],
    x: &[f32],
    dx: &mut [f32],
) {
    linear_backward_input(product, shape, dy, w, dx);
    auto::relu_backward_in_place(x, dx);
}

pub fn linear_backward_weights(
    product: &impl Product,
    shape: LinearShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let LinearShape { rows, inputs, outputs } = shape;
    product(GemmShape { m: inputs, k: rows, n: outputs }, Matrix::T(x), Matrix::N(dy), dw);
    auto::column_sums(dy, db);
}
