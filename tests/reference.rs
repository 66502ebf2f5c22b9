//! Every function of every kernel against its scalar twin in `reference`, on every instruction set
//! that the machine has, on sizes around the vectors, the blocks and the thresholds from which
//! several threads share the work. The results are the same bits with 1 and 3 threads.
//!
//! `cargo test --test reference -- --nocapture` shows how much of its bound each output takes.

mod common;

use common::cases::{self, Linear};
use common::{Checker, Random, sizes};
use kernelet::kernels::gemm::GemmShape;
use kernelet::kernels::momentum::Momentum;
use kernelet::shape::{LinearShape, MatrixShape};

/// Numbers of rows around the tiles (6 and 14 rows) and the blocks of whole tiles within 48.
const TILE_ROWS: [usize; 13] = [0, 1, 5, 6, 7, 13, 14, 15, 29, 43, 48, 49, 97];

/// Numbers of columns around the tiles (2 vectors of 1, 8 and 16 lanes) and their neighbours.
const TILE_COLUMNS: [usize; 15] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 35, 65];

/// Steps of k around the unrolled loop (4), the small products (64) and chunks of k.
const STEPS: [usize; 9] = [0, 1, 3, 4, 5, 64, 65, 320, 321];

/// More steps of k than a chunk has (`KC` in `gemm/blocked.rs`, at most 800): for one, two and
/// three chunks, of equal length or not.
const MORE_STEPS: [usize; 5] = [641, 799, 800, 801, 1601];

/// A product whose B has more elements than are packed at a time (`PACKED_B_MAX` in
/// `gemm/blocked.rs`, 2^22), by more than a chunk of k.
const SWEEPS: GemmShape = GemmShape { m: 2, k: 4700, n: 1100 };

/// Sizes around the chunk (16,384) that a thread takes of an element-wise kernel, and above the
/// thresholds from which several do (131,072; for the exponential an eighth of it).
const LONG: [usize; 5] = [16_383, 16_384, 16_385, 131_072 + 5, 3 * 65_536 + 1];

#[test]
fn gemm() {
    let mut random = Random::new(1);
    let mut checker = Checker::new("gemm");
    let mut shapes = Vec::new();
    for m in TILE_ROWS {
        for n in TILE_COLUMNS {
            shapes.extend(STEPS.map(|k| GemmShape { m, k, n }));
        }
    }
    for m in [1, 7, 15, 49] {
        for n in [1, 9, 17, 33, 65] {
            shapes.extend(MORE_STEPS.map(|k| GemmShape { m, k, n }));
        }
    }
    // Several pieces for several threads along m, along n, along both.
    shapes.extend([
        GemmShape { m: 700, k: 65, n: 33 },
        GemmShape { m: 7, k: 321, n: 500 },
        GemmShape { m: 200, k: 330, n: 130 },
    ]);
    // Matrix-vector products on both sides of the threshold for threads.
    shapes.extend([
        GemmShape { m: 1, k: 784, n: 100 },
        GemmShape { m: 100, k: 784, n: 1 },
        GemmShape { m: 1, k: 1100, n: 1000 },
        GemmShape { m: 1000, k: 1100, n: 1 },
    ]);
    shapes.push(SWEEPS);
    for shape in shapes {
        let GemmShape { m, k, n } = shape;
        let (a, b) = (random.uniform(m * k, 1.0), random.uniform(k * n, 1.0));
        cases::gemm(&mut checker, shape, &a, &b, &random.uniform(m * n, 1.0));
    }
    checker.finish();
}

#[test]
fn linear() {
    let mut random = Random::new(2);
    let mut checker = Checker::new("linear");
    let mut shapes = Vec::new();
    for rows in [0, 1, 5, 6, 7, 13, 14, 15, 49] {
        for inputs in [0, 1, 3, 8, 17, 33, 321] {
            let outputs = [0, 1, 7, 8, 9, 16, 17, 33, 35];
            shapes.extend(outputs.map(|outputs| LinearShape { rows, inputs, outputs }));
        }
    }
    // Column sums: blocks of 64 rows and 128 columns, and enough for several threads.
    for (rows, outputs) in [(63, 127), (64, 128), (65, 129), (129, 260), (1100, 130), (70, 2000)] {
        shapes.push(LinearShape { rows, inputs: 3, outputs });
    }
    // The products of forward and backward for several threads; with several chunks of k; and
    // with several sweeps over B, in each of the three products in turn.
    let GemmShape { m, k, n } = SWEEPS;
    for (rows, inputs, outputs) in [
        (97, 801, 65),
        (130, 784, 100),
        (15, 65, 1601),
        (801, 33, 17),
        (m, k, n),
        (m, n, k),
        (k, m, n),
    ] {
        shapes.push(LinearShape { rows, inputs, outputs });
    }
    for shape in shapes {
        let LinearShape { rows, inputs, outputs } = shape;
        let mut x = random.uniform(rows * inputs, 1.0);
        // As ReLU leaves them, with zeros; every fifth stays negative.
        for x in x.iter_mut().filter(|x| **x < 0.2) {
            *x = if *x < -0.6 { *x } else { 0.0 };
        }
        let case = Linear {
            shape,
            x,
            w: random.uniform(inputs * outputs, 1.0),
            b: random.uniform(outputs, 1.0),
            dy: random.uniform(rows * outputs, 1.0),
            dw: random.uniform(inputs * outputs, 1.0),
            db: random.uniform(outputs, 1.0),
        };
        cases::linear(&mut checker, &case);
    }
    checker.finish();
}

/// Rows and columns around the vectors, around where rows become wide (32 columns) and around
/// the pieces (some 16,384 elements) that threads take.
fn matrix_shapes() -> Vec<MatrixShape> {
    let mut shapes = Vec::new();
    for rows in sizes() {
        let cols = [1, 2, 9, 10, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 511, 512, 513, 1000];
        shapes.extend(cols.map(|cols| MatrixShape { rows, cols }));
    }
    for (rows, cols) in
        [(0, 0), (1638, 10), (1649, 10), (5000, 10), (511, 32), (513, 32), (520, 33), (50, 1025)]
    {
        shapes.push(MatrixShape { rows, cols });
    }
    shapes
}

#[test]
fn softmax() {
    let mut random = Random::new(3);
    let mut checker = Checker::new("softmax");
    let no_columns = MatrixShape { rows: 3, cols: 0 };
    for shape in matrix_shapes().into_iter().chain([no_columns]) {
        let len = shape.rows * shape.cols;
        for scale in [1.0, 30.0, 300.0] {
            let (x, dy) = (random.uniform(len, scale), random.uniform(len, 1.0));
            cases::softmax(&mut checker, shape, &x, &dy);
        }
    }
    checker.finish();
}

#[test]
fn softmax_cross_entropy() {
    let mut random = Random::new(4);
    let mut checker = Checker::new("softmax_cross_entropy");
    let mut shapes = matrix_shapes();
    // More pieces (256) than a call keeps tallies of.
    shapes.push(MatrixShape { rows: 4100, cols: 1000 });
    for shape in shapes {
        let MatrixShape { rows, cols } = shape;
        let labels = random.labels(rows, cols);
        let mean = 1.0 / rows.max(1) as f32;
        let len = rows * cols;
        cases::softmax_cross_entropy(&mut checker, shape, &random.uniform(len, 3.0), &labels, mean);
        if len < 1 << 20 {
            let logits = random.uniform(len, 200.0);
            cases::softmax_cross_entropy(&mut checker, shape, &logits, &labels, 1.0);
            // Several largest logits in a row: the first one counts.
            cases::softmax_cross_entropy(&mut checker, shape, &random.ties(len), &labels, -2.5);
        }
    }
    checker.finish();
}

#[test]
fn cross_entropy() {
    let mut random = Random::new(5);
    let mut checker = Checker::new("cross_entropy");
    for shape in matrix_shapes() {
        let MatrixShape { rows, cols } = shape;
        let labels = random.labels(rows, cols);
        let positive = |x: Vec<f32>| x.iter().map(|x| x.abs() + 1e-3).collect::<Vec<_>>();
        let p = positive(random.uniform(rows * cols, 1.0));
        cases::cross_entropy(&mut checker, shape, &p, &labels, 1.0 / rows.max(1) as f32);
        let ties = positive(random.ties(rows * cols));
        cases::cross_entropy(&mut checker, shape, &ties, &labels, 1.0);
    }
    checker.finish();
}

#[test]
fn relu() {
    let mut random = Random::new(6);
    let mut checker = Checker::new("relu");
    for n in sizes().into_iter().chain(LONG) {
        cases::relu(&mut checker, &random.uniform(n, 1.0), &random.uniform(n, 1.0));
        cases::relu(&mut checker, &random.ties(n), &random.uniform(n, 1.0));
    }
    checker.finish();
}

#[test]
fn momentum() {
    let mut random = Random::new(7);
    let mut checker = Checker::new("momentum");
    for n in sizes().into_iter().chain(LONG) {
        for (learning_rate, momentum) in [(1e-5, 0.95), (0.3, 0.9), (1.0, 0.0), (0.0, 1.0)] {
            let settings = Momentum { learning_rate, momentum };
            let (w, v, g) =
                (random.uniform(n, 1.0), random.uniform(n, 1.0), random.uniform(n, 10.0));
            cases::momentum(&mut checker, settings, &w, &v, &g);
        }
    }
    checker.finish();
}

#[test]
fn exp() {
    let mut random = Random::new(8);
    let mut checker = Checker::new("exp");
    for n in sizes().into_iter().chain(LONG) {
        for scale in [1.0, 110.0] {
            cases::exp(&mut checker, &random.uniform(n, scale));
        }
    }
    checker.finish();
}
