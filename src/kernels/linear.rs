//! A linear (fully connected) layer, with ReLU fused in: y = x w + b.
//!
//! Stands in for the study's `computeLayer`, its bias, and `relu` after it.
//!
//! A row of y has the same bits alone and among any others, for up to 12,800 inputs: products are
//! added up in an order that depends on the inputs' number alone. With [`Isa::Amx`](crate::Isa) that
//! is so for up to 128 rows, and for more than 128: from 256 inputs and outputs on, many rows are
//! computed by other instructions than few; of bytes, from 256 inputs and 32 outputs on.
//!
//! x may be bytes, see [`input`]: what is said of x holds for their 255th parts, rounded to floats.
//!
//! Accuracy, with u = 2^-24: dx and dw as [`gemm`](super::gemm::gemm) states; y within
//! `(inputs + 1) u (sum |x w| + |b|)` but for subnormal products, as there; db within `(min(rows, 64) + rows / 64 + 1) u sum |dy|`, the
//! sum including the old db where it is added to.

use std::cell::Cell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::adam::{self, Adam};
use super::gemm::{
    self, Epilogue, FEW_ROWS, GemmShape, Matrix, TransposedByRows, Write, gemm_by_row_blocks,
    gemm_of_bytes, gemm_with, row_block,
};
use super::input::{self, Elements, Input};
use super::kernel_span;
use super::scratch::Buffer;
use crate::cpu::{Chunks, Cpu};
use crate::shape::{LinearShape, check_len};

/// y (rows, outputs) = x (rows, inputs) w (inputs, outputs) + b (outputs).
///
/// ```
/// use kernelet::{Cpu, kernels::linear, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
/// let x = [1.0, 2.0, 3.0, -1.0, 0.0, 1.0];
/// let w = [1.0, -1.0, 0.5, -0.5, 0.0, 1.0];
/// let mut y = [0.0; 4];
/// linear::forward(&cpu, shape, &x, &w, &[0.5, -6.0], &mut y);
/// assert_eq!(y, [2.5, -5.0, -0.5, -4.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn forward<T: Input>(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[T],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
) {
    let product = forward_product(shape);
    kernel_span!("linear::forward", product.flops(), product.bytes() - spared(x));
    check_forward(shape, x, w, b, y);
    forward_with(cpu, shape, x, w, y, Epilogue::Bias(b));
}

/// y (rows, outputs) = max(x w + b, 0), in one pass; NaN stays NaN.
///
/// ```
/// use kernelet::{Cpu, kernels::linear, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 1, inputs: 2, outputs: 3 };
/// let (x, w) = ([1.0, 2.0], [1.0, -1.0, f32::NAN, 0.5, -0.5, 0.0]);
/// let mut y = [0.0; 3];
/// linear::forward_relu(&cpu, shape, &x, &w, &[0.5; 3], &mut y);
/// assert_eq!(y[..2], [2.5, 0.0]);
/// assert!(y[2].is_nan());
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn forward_relu<T: Input>(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[T],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
) {
    let product = forward_product(shape);
    kernel_span!("linear::forward_relu", product.flops(), product.bytes() - spared(x));
    check_forward(shape, x, w, b, y);
    forward_with(cpu, shape, x, w, y, Epilogue::BiasRelu(b));
}

/// dx (rows, inputs) = dy (rows, outputs) w^T.
///
/// ```
/// use kernelet::{Cpu, kernels::linear, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
/// let w = [1.0, -1.0, 0.5, -0.5, 0.0, 1.0];
/// let dy = [1.0, 0.0, 0.0, 2.0];
/// let mut dx = [0.0; 6];
/// linear::backward_input(&cpu, shape, &dy, &w, &mut dx);
/// assert_eq!(dx, [1.0, 0.5, 0.0, -2.0, -1.0, 2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward_input(cpu: &Cpu, shape: LinearShape, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let product = backward_product(shape);
    kernel_span!("linear::backward_input", product.flops(), product.bytes());
    check_backward_input(shape, dy, w, dx);
    backward_input_with(cpu, shape, dy, w, dx, Epilogue::None);
}

/// dx (rows, inputs) = dy w^T where x > 0, else 0: the backward of this layer's input together
/// with the ReLU that made it, x (rows, inputs). In the study:
/// `delta_h = (delta_o w_o^T) * [z_h > 0]`.
///
/// ```
/// use kernelet::{Cpu, kernels::linear, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
/// let w = [1.0, -1.0, 0.5, -0.5, 0.0, 1.0];
/// let dy = [1.0, 0.0, 0.0, 2.0];
/// // What the ReLU before this layer gave.
/// let x = [1.0, 2.0, 3.0, 0.0, 0.0, 1.0];
/// let mut dx = [0.0; 6];
/// linear::backward_input_relu(&cpu, shape, &dy, &w, &x, &mut dx);
/// assert_eq!(dx, [1.0, 0.5, 0.0, 0.0, 0.0, 2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward_input_relu(
    cpu: &Cpu,
    shape: LinearShape,
    dy: &[f32],
    w: &[f32],
    x: &[f32],
    dx: &mut [f32],
) {
    let product = backward_product(shape);
    kernel_span!("linear::backward_input_relu", product.flops(), product.bytes());
    check_backward_input(shape, dy, w, dx);
    check_len("x", x.len(), shape.rows, shape.inputs);
    backward_input_with(cpu, shape, dy, w, dx, Epilogue::ReluMask(x));
}

/// dw (inputs, outputs) = x^T dy and db (outputs) = column sums of dy (rows, outputs), overwritten
/// or added to as `write` says.
///
/// ```
/// use kernelet::{Cpu, kernels::{gemm::Write, linear}, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
/// let x = [1.0, 2.0, 3.0, -1.0, 0.0, 1.0];
/// let dy = [1.0, 0.0, 0.0, 2.0];
/// let (mut dw, mut db) = ([0.0; 6], [0.0; 2]);
/// linear::backward_weights(&cpu, shape, &x, &dy, Write::Overwrite, &mut dw, &mut db);
/// assert_eq!(dw, [1.0, -2.0, 2.0, 0.0, 3.0, 2.0]);
/// assert_eq!(db, [1.0, 2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward_weights<T: Input>(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[T],
    dy: &[f32],
    write: Write,
    dw: &mut [f32],
    db: &mut [f32],
) {
    let LinearShape { rows, inputs, outputs } = shape;
    let product = weights_product(shape);
    kernel_span!("linear::backward_weights", product.flops(), product.bytes() - spared(x));
    check_len("x", x.len(), rows, inputs);
    check_len("dy", dy.len(), rows, outputs);
    check_len("dw", dw.len(), inputs, outputs);
    check_len("db", db.len(), 1, outputs);
    let (b, none) = (Matrix::N(dy), Epilogue::None);
    match T::elements(x) {
        Elements::Floats(x) => gemm_with(cpu, product, Matrix::T(x), b, write, dw, none),
        Elements::Bytes(x) if gemm_of_bytes(cpu, product, x, true, b, write, dw, none) => {}
        Elements::Bytes(x) => {
            let mut write = write;
            blocks_of_floats(cpu, shape, x, |rows, x| {
                let product = GemmShape { k: rows.len(), ..product };
                let dy = &dy[rows.start * outputs..rows.end * outputs];
                gemm_with(cpu, product, Matrix::T(x), Matrix::N(dy), write, dw, none);
                write = Write::Add;
            });
        }
    }
    column_sums(cpu, shape, dy, write, db);
}

/// y = epilogue(x w).
fn forward_with<T: Input>(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[T],
    w: &[f32],
    y: &mut [f32],
    epilogue: Epilogue,
) {
    let (product, w) = (forward_product(shape), Matrix::N(w));
    let write = Write::Overwrite;
    match T::elements(x) {
        Elements::Floats(x) => gemm_with(cpu, product, Matrix::N(x), w, write, y, epilogue),
        Elements::Bytes(x) if gemm_of_bytes(cpu, product, x, false, w, write, y, epilogue) => {}
        Elements::Bytes(x) => blocks_of_floats(cpu, shape, x, |rows, x| {
            let product = GemmShape { m: rows.len(), ..product };
            let y = &mut y[rows.start * shape.outputs..rows.end * shape.outputs];
            gemm_with(cpu, product, Matrix::N(x), w, write, y, epilogue);
        }),
    }
}

/// dx = epilogue(dy w^T).
fn backward_input_with(
    cpu: &Cpu,
    shape: LinearShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    epilogue: Epilogue,
) {
    let (product, write) = (backward_product(shape), Write::Overwrite);
    gemm_with(cpu, product, Matrix::N(dy), Matrix::T(w), write, dx, epilogue);
}

/// Whether bytes are multiplied as they are, forward and backward.
pub(crate) fn multiplies_bytes(cpu: &Cpu, shape: LinearShape) -> bool {
    let products = [forward_product(shape), weights_product(shape)];
    products.into_iter().all(|product| gemm::multiplies_bytes(cpu, product))
}

thread_local! {
    /// Bytes that have become floats.
    static FLOATS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Rows of `x` as floats, 4 MB at a time or 256 rows: so many that a product of theirs is as fast as of all, and,
/// if rows are no longer than 4096, so few that they stay in the cache.
fn blocks_of_floats(
    cpu: &Cpu,
    LinearShape { rows, inputs, .. }: LinearShape,
    x: &[u8],
    mut consume: impl FnMut(Range<usize>, &[f32]),
) {
    const BLOCK: usize = 1 << 20;
    let block = (BLOCK / inputs.max(1)).max(256).min(rows);
    let mut floats = Buffer::borrow(&FLOATS, block * inputs);
    // A product of no rows is one, too.
    for start in (0..rows.max(1)).step_by(block.max(1)) {
        let range = start..rows.min(start + block);
        let bytes = &x[range.start * inputs..range.end * inputs];
        let floats = &mut floats[..bytes.len()];
        input::floats(cpu, bytes, floats);
        consume(range, floats);
    }
}

/// Bytes that a product does not read, since its operand is one for each element instead of four.
fn spared<T>(x: &[T]) -> f64 {
    ((size_of::<f32>() - size_of::<T>()) * x.len()) as f64
}

/// dw (inputs, outputs) = x^T dy, and with it update number `step` of w and its moments m and v, as
/// [`adam::update`]: dw goes from cache to cache and is never written to memory. Returns the sum
/// of squares of w before the update. (The gradient of the biases is [`column_sums`] of dy.)
///
/// ```
/// use kernelet::{Cpu, kernels::{adam::Adam, linear}, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 1, inputs: 2, outputs: 1 };
/// let adam = Adam { learning_rate: 0.5, ..Adam::default() };
/// let (mut w, mut m, mut v) = ([1.0, -2.0], [0.0; 2], [0.0; 2]);
/// let (x, dy) = ([10.0, -0.1], [1.0]);
/// let squares =
///     linear::backward_weights_adam(&cpu, shape, &x, &dy, adam, 1, &mut w, &mut m, &mut v);
/// assert_eq!(squares, 5.0);
/// assert!((w[0] - 0.5).abs() < 1e-4 && (w[1] + 1.5).abs() < 1e-4);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`, or `step` is 0.
#[expect(clippy::too_many_arguments, reason = "a gradient's inputs and an update's")]
pub fn backward_weights_adam(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[f32],
    dy: &[f32],
    adam: Adam,
    step: u64,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) -> f64 {
    let product = weights_product(shape);
    let flops = product.flops() + 16.0 * w.len() as f64;
    let bytes = 4.0 * (x.len() + dy.len() + 6 * w.len()) as f64;
    kernel_span!("linear::backward_weights_adam", flops, bytes);
    check_adam(shape, x, dy, (w, m, v));
    run_backward_adam(cpu, shape, x, dy, adam, step, (w, m, v), None)
}

/// [`backward_input`] and [`backward_weights_adam`] in one, of the same x (rows, inputs) and dy (rows, outputs):
/// dx (rows, inputs) = dy w^T with w as it was, which is read from memory once for both. Returns the sum of
/// squares of w before the update.
///
/// With more than 128 rows it is one after the other: so much is computed then that reading w counts for little.
///
/// ```
/// use kernelet::{Cpu, kernels::{adam::Adam, linear}, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 1, inputs: 2, outputs: 1 };
/// let adam = Adam { learning_rate: 0.5, ..Adam::default() };
/// let (mut w, mut m, mut v, mut dx) = ([1.0, -2.0], [0.0; 2], [0.0; 2], [0.0; 2]);
/// let (x, dy) = ([10.0, -0.1], [3.0]);
/// let squares =
///     linear::backward_adam(&cpu, shape, &x, &dy, adam, 1, &mut w, &mut m, &mut v, &mut dx);
/// assert_eq!((dx, squares), ([3.0, -6.0], 5.0));
/// assert!((w[0] - 0.5).abs() < 1e-4 && (w[1] + 1.5).abs() < 1e-4);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`, or `step` is 0.
#[expect(clippy::too_many_arguments, reason = "two gradients' inputs and an update's")]
pub fn backward_adam(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[f32],
    dy: &[f32],
    adam: Adam,
    step: u64,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    dx: &mut [f32],
) -> f64 {
    let flops = 2.0 * weights_product(shape).flops() + 16.0 * w.len() as f64;
    let bytes = 4.0 * (x.len() + dx.len() + dy.len() + 6 * w.len()) as f64;
    kernel_span!("linear::backward_adam", flops, bytes);
    check_backward_input(shape, dy, w, dx);
    check_adam(shape, x, dy, (w, m, v));
    if shape.rows > FEW_ROWS || dy.is_empty() {
        backward_input_with(cpu, shape, dy, w, dx, Epilogue::None);
        return run_backward_adam(cpu, shape, x, dy, adam, step, (w, m, v), None);
    }
    let LinearShape { rows, inputs, outputs } = shape;
    let product = GemmShape { m: inputs, k: outputs, n: rows };
    let dx = TransposedByRows::new(cpu, product, Matrix::T(dy), dx);
    run_backward_adam(cpu, shape, x, dy, adam, step, (w, m, v), Some(dx))
}

#[expect(clippy::too_many_arguments, reason = "one body for two functions")]
fn run_backward_adam(
    cpu: &Cpu,
    shape: LinearShape,
    x: &[f32],
    dy: &[f32],
    adam: Adam,
    step: u64,
    (w, m, v): (&mut [f32], &mut [f32], &mut [f32]),
    dx: Option<TransposedByRows>,
) -> f64 {
    let LinearShape { inputs, outputs, .. } = shape;
    let block = row_block(inputs, adam::PIECES);
    let weights = adam::Weights::new(adam, step, (w, m, v), block * outputs);
    let mut squares = [0.0; adam::PIECES];
    let sums = Chunks::new(&mut squares, 1);
    let (product, x, dy) = (weights_product(shape), Matrix::T(x), Matrix::N(dy));
    gemm_by_row_blocks(cpu, product, x, dy, block, &|index, dw| {
        // SAFETY: each block comes once, so that its rows, its piece and its sum are this call's alone;
        // `row_block` keeps the blocks' number below that of the sums. The piece of w that `multiply` reads is no
        // longer borrowed when it is updated.
        unsafe {
            if let Some(dx) = &dx {
                dx.multiply(index * block, weights.piece_of_w(index));
            }
            sums.get(index)[0] = weights.update_piece(cpu, index, dw);
        }
    });
    squares.iter().sum()
}

#[track_caller]
fn check_adam(
    LinearShape { rows, inputs, outputs }: LinearShape,
    x: &[f32],
    dy: &[f32],
    (w, m, v): (&[f32], &[f32], &[f32]),
) {
    check_len("x", x.len(), rows, inputs);
    check_len("dy", dy.len(), rows, outputs);
    check_len("w", w.len(), inputs, outputs);
    check_len("m", m.len(), inputs, outputs);
    check_len("v", v.len(), inputs, outputs);
}

#[track_caller]
fn check_forward<T>(shape: LinearShape, x: &[T], w: &[f32], b: &[f32], y: &[f32]) {
    check_len("x", x.len(), shape.rows, shape.inputs);
    check_len("w", w.len(), shape.inputs, shape.outputs);
    check_len("b", b.len(), 1, shape.outputs);
    check_len("y", y.len(), shape.rows, shape.outputs);
}

#[track_caller]
fn check_backward_input(shape: LinearShape, dy: &[f32], w: &[f32], dx: &[f32]) {
    check_len("dy", dy.len(), shape.rows, shape.outputs);
    check_len("w", w.len(), shape.inputs, shape.outputs);
    check_len("dx", dx.len(), shape.rows, shape.inputs);
}

fn forward_product(shape: LinearShape) -> GemmShape {
    GemmShape { m: shape.rows, k: shape.inputs, n: shape.outputs }
}

fn weights_product(shape: LinearShape) -> GemmShape {
    GemmShape { m: shape.inputs, k: shape.rows, n: shape.outputs }
}

fn backward_product(shape: LinearShape) -> GemmShape {
    GemmShape { m: shape.rows, k: shape.outputs, n: shape.inputs }
}

/// db (outputs) = or += the sum over rows of dy (rows, outputs).
///
/// ```
/// use kernelet::{Cpu, kernels::{gemm::Write, linear}, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
/// let mut db = [0.0; 2];
/// linear::column_sums(&cpu, shape, &[1.0, 2.0, 3.0, 4.0], Write::Overwrite, &mut db);
/// assert_eq!(db, [4.0, 6.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn column_sums(cpu: &Cpu, shape: LinearShape, dy: &[f32], write: Write, db: &mut [f32]) {
    /// Columns that a thread takes at a time: a few cache lines of every row.
    const COLUMNS: usize = 128;
    /// Rows summed by themselves before they join the total, which keeps the rounding error of
    /// thousands of rows near that of a hundred.
    const ROWS: usize = 64;

    struct ColumnSums<'a> {
        dy: &'a [f32],
        outputs: usize,
        first: usize,
        db: &'a mut [f32],
    }
    impl WithSimd for ColumnSums<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { dy, outputs, first, db } = self;
            // Without rows, zeros are added, as by a product without a middle: subnormals become zero.
            let no_rows = dy.is_empty().then_some(dy);
            for block in dy.chunks(ROWS * outputs).chain(no_rows) {
                let mut sums = [0.0; COLUMNS];
                let sums = &mut sums[..db.len()];
                for row in block.chunks_exact(outputs) {
                    add(simd, &row[first..][..sums.len()], sums);
                }
                add(simd, sums, db);
            }
        }
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
        let (from, from_tail) = S::as_simd_f32s(from);
        let (to, to_tail) = S::as_mut_simd_f32s(to);
        for (to, &from) in to.iter_mut().zip(from) {
            *to = simd.add_f32s(*to, from);
        }
        for (to, &from) in to_tail.iter_mut().zip(from_tail) {
            *to += from;
        }
    }

    check_len("dy", dy.len(), shape.rows, shape.outputs);
    check_len("db", db.len(), 1, shape.outputs);
    kernel_span!("linear::column_sums", dy.len(), 4 * dy.len());
    if write == Write::Overwrite {
        db.fill(0.0);
    }
    if db.is_empty() {
        return;
    }
    let parallel = cpu.shares(dy.len(), super::ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, db, COLUMNS, |index, db| {
        let first = index * COLUMNS;
        cpu.dispatch(ColumnSums { dy, outputs: shape.outputs, first, db });
    });
}
