//! Every function of every kernel against its scalar twin in `reference`, on every instruction set
//! that the machine has, on sizes around the vectors, the blocks and the thresholds from which
//! several threads share the work. The results are the same bits with 1 and 3 threads.
//!
//! `cargo test --test reference -- --nocapture` shows how much of its bound each output takes.

mod common;

use common::cases::{self, Conv2d, ConvBlock, Linear, Norm, NormMaxPool, Weights};
use common::{Checker, Random, for_each_cpu, sizes};
use kernelet::Isa;
use kernelet::kernels::adam::Adam;
use kernelet::kernels::conv_block::ConvBlockShape;
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::GemmShape;
use kernelet::kernels::input::Input;
use kernelet::kernels::linear;
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization, RunningMoments};
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};

/// Numbers of rows around the tiles (6 and 14 rows) and the blocks of whole tiles within 48.
const TILE_ROWS: [usize; 13] = [0, 1, 5, 6, 7, 13, 14, 15, 29, 43, 48, 49, 97];

/// Numbers of columns around the tiles (2 vectors of 1, 8 and 16 lanes) and their neighbours.
const TILE_COLUMNS: [usize; 15] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 35, 65];

/// Steps of k around the unrolled loop (4), the small products (64) and chunks of k.
const STEPS: [usize; 9] = [0, 1, 3, 4, 5, 64, 65, 320, 321];

/// More steps of k than a chunk has (`KC` in `gemm/blocked.rs`, at most 800): for one, two and
/// three chunks, of equal length or not.
const MORE_STEPS: [usize; 5] = [641, 799, 800, 801, 1601];

/// A product with more rows than are streamed (`FEW_ROWS`), whose B has more elements than are packed
/// at a time (`PACKED_B_MAX` in `gemm/blocked.rs`, 2^18), by more than a chunk of k.
const SWEEPS: GemmShape = GemmShape { m: 131, k: 4700, n: 1100 };

/// Few rows and few columns, up to the last (`FEW_ROWS` in `gemm/streamed.rs`, 128), whose large operand
/// is streamed (columns, if it has more than 2^18 elements, `A_IN_PLACE_MAX` in `gemm/blocked.rs`): one piece of k (up to 800) and several, 16 at most, of one chunk of k or two, of whole
/// groups of 64 steps or not; several pieces of columns (from 512 on); columns that do not fill the
/// vectors.
const STREAMED: [GemmShape; 10] = [
    GemmShape { m: 2, k: 5003, n: 603 },
    GemmShape { m: 3, k: 12_803, n: 40 },
    GemmShape { m: 9, k: 1030, n: 32 },
    GemmShape { m: 14, k: 603, n: 1100 },
    GemmShape { m: 33, k: 1100, n: 603 },
    GemmShape { m: 128, k: 129, n: 1030 },
    GemmShape { m: 129, k: 129, n: 1030 },
    GemmShape { m: 603, k: 1100, n: 10 },
    GemmShape { m: 1030, k: 63, n: 128 },
    GemmShape { m: 2100, k: 129, n: 128 },
];

/// What AMX computes (more rows than are streamed, `ENOUGH_STEPS` of k in `gemm/amx.rs` and `ENOUGH_COLUMNS`), around
/// its tiles of 16, its blocks and steps of 32 and its pieces of 128 rows; one chunk of k and two.
const LARGE: [GemmShape; 3] = [
    GemmShape { m: 129, k: 256, n: 256 },
    GemmShape { m: 145, k: 801, n: 273 },
    GemmShape { m: 271, k: 271, n: 290 },
];

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
    // Thin ones, of rows of AVX2 and of AVX-512, in pieces of 48 rows, of more, and of the most there are.
    for m in [200, 1600, 6200] {
        shapes.extend([(9, 15), (16, 16), (9, 32), (16, 29)].map(|(k, n)| GemmShape { m, k, n }));
    }
    shapes.push(SWEEPS);
    shapes.extend(STREAMED);
    for shape in shapes {
        let GemmShape { m, k, n } = shape;
        let (a, b) = (random.uniform(m * k, 1.0), random.uniform(k * n, 1.0));
        cases::gemm(&mut checker, shape, &a, &b, &random.uniform(m * n, 1.0));
    }
    checker.finish();
}

/// Rows of pixels, of bytes, of what is nearly a pixel, of numbers, and all of them: AMX tells them apart.
#[test]
fn gemm_of_images() {
    let mut random = Random::new(43);
    let mut checker = Checker::new("gemm_of_images");
    for shape in LARGE {
        let GemmShape { m, k, n } = shape;
        let pixels = random.pixels(m * k);
        let bytes: Vec<f32> = pixels.iter().map(|x| (255.0 * x).round()).collect();
        let mut no_pixels = pixels.clone();
        for x in no_pixels.iter_mut().skip(k - 1).step_by(k) {
            *x = x.next_up();
        }
        let numbers = random.uniform(m * k, 1.0);
        // What only the last steps of k tell from bytes and from pixels.
        let mut late = |start: f32| {
            let mut a = vec![start; m * k];
            for row in a.chunks_exact_mut(k) {
                row[k / 2..].copy_from_slice(&random.uniform(k - k / 2, 1e-3));
            }
            a
        };
        let (late_bytes, late_pixels) = (late(1.0), late(3.0 / 255.0));
        let kinds = [&pixels, &bytes, &no_pixels, &numbers, &late_bytes, &late_pixels];
        let mixed: Vec<f32> = (0..m * k).map(|i| kinds[i / k % kinds.len()][i]).collect();
        let b = random.uniform(k * n, 1.0);
        for a in kinds.into_iter().chain([&mixed]) {
            cases::gemm(&mut checker, shape, a, &b, &random.uniform(m * n, 1.0));
        }
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
    // The products of forward and backward for several threads; with several chunks of k; each of
    // the three products streamed in turn, and each with several sweeps over B, whose epilogue comes
    // with the last.
    for (rows, inputs, outputs) in [
        (97, 801, 65),
        (130, 784, 100),
        (15, 65, 1601),
        (801, 33, 17),
        (33, 1100, 603),
        (33, 603, 1100),
        (1100, 33, 603),
        (131, 1603, 300),
        (131, 300, 1603),
        (1603, 131, 300),
        // Bytes on AMX, around its tiles and its last panel, which may be half; in one chunk of k and two.
        (129, 256, 32),
        (256, 271, 47),
        (273, 801, 49),
        (801, 257, 81),
        // Bytes that become floats in two blocks.
        (600, 2000, 3),
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
            bytes: random.bytes(rows * inputs),
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

/// What the documentation of `linear` promises, in each of the ways to compute a product: few rows
/// and many, alone and for several threads; with AMX few beside few, many beside many.
#[test]
fn a_row_of_linear_is_the_same_alone_and_among_others() {
    let mut random = Random::new(42);
    for (inputs, outputs) in [
        (784, 8),
        (784, 10),
        (1603, 8),
        (1603, 64),
        (6272, 33),
        (12_800, 17),
        (65, 600),
        (784, 290),
        (1601, 256),
    ] {
        // Neighbours of other kinds: rows of pixels, of numbers, of what is none.
        let mut x = random.uniform(MANY * inputs, 1.0);
        for (i, row) in x.chunks_exact_mut(inputs).enumerate() {
            match i % 5 {
                1 => row.copy_from_slice(&random.pixels(inputs)),
                2 => row.fill_with(|| f32::from(random.byte())),
                3 if i > FEW => row[inputs / 2] = f32::INFINITY,
                _ => {}
            }
        }
        let (w, b) = (random.uniform(inputs * outputs, 1.0), random.uniform(outputs, 1.0));
        check_rows_of_linear(&x, &w, &b);
        check_rows_of_linear(&random.bytes(MANY * inputs), &w, &b);
    }
}

/// Rows of which some are taken, and those that are few.
const MANY: usize = 141;
const FEW: usize = 128;

fn check_rows_of_linear<T: Input>(x: &[T], w: &[f32], b: &[f32]) {
    let (inputs, outputs) = (x.len() / MANY, b.len());
    for_each_cpu(|cpu| {
        let forward = |rows: usize, x: &[T]| {
            let mut y = vec![f32::NAN; rows * outputs];
            let shape = LinearShape { rows, inputs, outputs };
            linear::forward(cpu, shape, x, w, b, &mut y);
            y
        };
        let all = forward(MANY, x);
        for (first, rows) in [
            (0, 1),
            (133, 1),
            (140, 1),
            (3, 2),
            (50, 15),
            (60, 47),
            (61, 48),
            (5, 128),
            (0, 127),
            (3, 129),
            (4, 129),
            (1, 130),
            (12, 129),
        ] {
            let some = forward(rows, &x[first * inputs..][..rows * inputs]);
            let others = if cpu.isa() == Isa::Amx && rows <= FEW {
                let start = first.min(MANY - FEW);
                let few = forward(FEW, &x[start * inputs..][..FEW * inputs]);
                few[(first - start) * outputs..][..rows * outputs].to_vec()
            } else {
                all[first * outputs..][..rows * outputs].to_vec()
            };
            let same = some.iter().zip(&others).all(|(x, y)| x.to_bits() == y.to_bits());
            let isa = cpu.isa();
            assert!(same, "{rows} rows from {first} of {inputs} inputs to {outputs} on {isa}");
        }
    });
}

/// Rows and columns around the vectors, around where rows become wide (32 columns) and around
/// the pieces (some 16,384 elements) that threads take.
fn matrix_shapes() -> Vec<MatrixShape> {
    let mut shapes = Vec::new();
    for rows in sizes() {
        let narrow = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 31, 32];
        let wide = [33, 47, 48, 49, 63, 64, 65, 100, 511, 512, 513, 1000];
        shapes.extend(narrow.into_iter().chain(wide).map(|cols| MatrixShape { rows, cols }));
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
        cases::softmax(&mut checker, shape, &random.ties(len), &random.uniform(len, 1.0));
    }
    // Found by fuzzing: a row of five different numbers, whose additions all round one way without vectors.
    let (shape, mut random) = (MatrixShape { rows: 17, cols: 128 }, Random::new(3_489_418_236));
    cases::softmax(&mut checker, shape, &random.ties(17 * 128), &random.ties(17 * 128));
    checker.finish();
}

/// Each of these numbers rounds a sum between 512 and 1024, or 16 and 32, down by almost half a unit.
#[test]
fn softmax_of_numbers_whose_sum_is_rounded_one_way() {
    for (cols, rest) in [(1000, -3.1e-5f32), (32, -9.8e-7), (64, -9.8e-7)] {
        let mut x = vec![rest; cols];
        x[0] = 0.0;
        let exact = 1.0 / (1.0 + (cols - 1) as f64 * f64::from(rest).exp());
        for_each_cpu(|cpu| {
            let mut y = vec![f32::NAN; cols];
            kernelet::kernels::softmax::forward(cpu, MatrixShape { rows: 1, cols }, &x, &mut y);
            let lanes = cpu.isa().lanes();
            let additions = if cols <= 32 { cols } else { cols.min(cols / lanes + lanes) };
            let error = (f64::from(y[0]) / exact - 1.0).abs() * 2f64.powi(24);
            assert!(error <= 6.0 + additions as f64, "{error} u of {cols} columns on {cpu:?}");
        });
    }
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
    // As many pieces as there may be.
    for shape in matrix_shapes().into_iter().chain([MatrixShape { rows: 4100, cols: 1000 }]) {
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

/// Channels and filters around vectors of 8 and of 16 lanes, and around tiles of two vectors.
const CHANNELS: [usize; 12] = [1, 2, 7, 8, 9, 15, 16, 17, 19, 33, 35, 65];

/// Windows of every kind: single pixels, even and odd, not square, with gaps between them.
fn windows() -> Vec<Window> {
    let mut windows = Vec::new();
    for size in [[1, 1], [2, 2], [3, 3], [5, 5], [2, 3]] {
        for stride in [[1, 1], [2, 2], [3, 3], [2, 1], [1, 2]] {
            windows.extend([Padding::Same, Padding::Valid].map(|padding| Window {
                size,
                stride,
                padding,
            }));
        }
    }
    windows
}

/// Images of one pixel, of one row and one column, smaller than most windows, of odd sizes; a
/// batch of none.
const IMAGES: [(usize, usize, usize); 7] =
    [(2, 1, 1), (1, 1, 4), (1, 6, 1), (2, 2, 2), (3, 5, 3), (1, 7, 6), (0, 5, 3)];

/// No rows or no columns at all.
const EMPTY_IMAGES: [(usize, usize, usize); 2] = [(2, 0, 3), (2, 3, 0)];

fn image((batch, height, width): (usize, usize, usize), channels: usize) -> ImageShape {
    ImageShape { batch, height, width, channels }
}

fn len(shape: ImageShape) -> usize {
    shape.batch * shape.image_len()
}

#[test]
fn conv2d() {
    let mut random = Random::new(9);
    let mut checker = Checker::new("conv2d");
    let mut shapes = Vec::new();
    for window in windows() {
        for images in IMAGES.into_iter().chain(EMPTY_IMAGES) {
            for (channels, filters) in [(1, 1), (1, 17), (3, 8), (9, 2), (16, 33)] {
                shapes.push(Conv2dShape { input: image(images, channels), window, filters });
            }
        }
    }
    let same = Window::square(3, 1, Padding::Same);
    let uneven = Window { size: [2, 3], stride: [2, 1], padding: Padding::Valid };
    for channels in CHANNELS {
        for (channels, filters) in [(channels, 3), (3, channels), (channels, channels)] {
            for window in [same, uneven] {
                let input = image((2, 5, 19), channels);
                shapes.push(Conv2dShape { input, window, filters });
            }
        }
    }
    // No channels leave the bias, no filters leave nothing.
    for (channels, filters) in [(0, 3), (0, 35), (3, 0), (0, 0)] {
        shapes.push(Conv2dShape { input: image((2, 5, 4), channels), window: same, filters });
    }
    // The study's; and batches that several threads share, up to more groups of images (32) than
    // have gradients of their own, in groups of several images.
    for batch in [1, 2, 31, 40, 70] {
        let input = image((batch, 28, 28), 1);
        shapes.push(Conv2dShape { input, window: same, filters: 32 });
    }
    let window = Window::square(5, 2, Padding::Same);
    shapes.push(Conv2dShape { input: image((9, 31, 30), 6), window, filters: 50 });
    // Fewer images than threads, which share the rows of each: windows that overlap, that leave rows out, and
    // that hang over the edge.
    for (images, channels, filters) in [((1, 47, 21), 16, 34), ((2, 34, 25), 5, 40)] {
        for (size, stride) in [(3, 1), (7, 2), (2, 3), (5, 4)] {
            for padding in [Padding::Same, Padding::Valid] {
                let window = Window::square(size, stride, padding);
                shapes.push(Conv2dShape { input: image(images, channels), window, filters });
            }
        }
    }
    // Rows that are fewer than the threads; a single row of windows.
    shapes.push(Conv2dShape { input: image((1, 2, 90), 20), window: same, filters: 40 });
    let window = Window { size: [2, 2], stride: [3, 1], padding: Padding::Valid };
    shapes.push(Conv2dShape { input: image((1, 4, 200), 8), window, filters: 40 });
    // An image wider and windows larger than any tile.
    let window = Window::square(11, 4, Padding::Valid);
    shapes.push(Conv2dShape { input: image((2, 12, 135), 3), window, filters: 18 });
    for shape in shapes {
        let (x, y, w) = (len(shape.input), len(shape.output()), shape.taps() * shape.filters);
        let case = Conv2d {
            shape,
            x: random.uniform(x, 1.0),
            w: random.uniform(w, 1.0),
            b: random.uniform(shape.filters, 1.0),
            dy: random.uniform(y, 1.0),
            dw: random.uniform(w, 1.0),
            db: random.uniform(shape.filters, 1.0),
        };
        cases::conv2d(&mut checker, &case);
    }
    checker.finish();
}

/// Pixels around the blocks of 32 whose moments are gathered together, around the pieces (16,384
/// values and more) that threads take, and more than the 64 pieces of a call.
fn pixels() -> Vec<MatrixShape> {
    let mut shapes = Vec::new();
    for cols in CHANNELS {
        let rows = [0, 1, 2, 31, 32, 33, 63, 64, 65, 100, 1000];
        shapes.extend(rows.map(|rows| MatrixShape { rows, cols }));
    }
    for (rows, cols) in
        [(3, 0), (0, 0), (40 * 784, 32), (2500, 17), (16_385, 1), (131_072 + 5, 1), (1_200_000, 1)]
    {
        shapes.push(MatrixShape { rows, cols });
    }
    shapes
}

#[test]
fn relu_batch_norm_moments() {
    let mut random = Random::new(10);
    let mut checker = Checker::new("relu_batch_norm, moments");
    for shape in pixels() {
        let n = shape.rows * shape.cols;
        let x = random.uniform(n, 1.0);
        cases::moments(&mut checker, shape, &x);
        cases::moments(&mut checker, shape, &random.ties(n));
        // Far from zero: a variance of 1 beside a mean whose square is 1e6.
        let far: Vec<f32> = x.iter().map(|x| 1000.0 + 3f32.sqrt() * x).collect();
        cases::moments(&mut checker, shape, &far);
        // A channel that never changes has no variance.
        cases::moments(&mut checker, shape, &vec![0.1; n]);
        // All off.
        cases::moments(&mut checker, shape, &vec![-1.0; n]);
    }
    checker.finish();
}

/// What the bounds of [`relu_batch_norm_moments`] come to where it hurts: a mean of squares less
/// the square of the mean would be off by u 1000^2 = 0.06.
#[test]
fn a_variance_of_1_beside_a_mean_of_1000_is_good_to_a_thousandth() {
    let mut random = Random::new(16);
    for rows in [100, 10_000, 1_000_000] {
        let deviations: Vec<f64> = (0..rows).map(|row| f64::from(row % 2) * 2.0 - 1.0).collect();
        let noise = common::widen(&random.uniform(rows as usize, 1e-2));
        let x: Vec<f64> =
            deviations.iter().zip(noise).map(|(d, noise)| 1000.0 + d + noise).collect();
        let x = common::narrow(&x);
        let shape = MatrixShape { rows: x.len(), cols: 1 };
        let mut r = vec![0.0; x.len()];
        let twin = kernelet::reference::relu_batch_norm::forward_moments::<f64>;
        let want = twin(shape, &common::widen(&x), &mut r).variance[0];
        for_each_cpu(|cpu| {
            let (mut moments, mut r) = (Moments::new(1), vec![0.0; x.len()]);
            let forward = relu_batch_norm::forward_moments;
            forward(cpu, shape, &x, &mut r, &mut moments);
            let got = moments.variance(0);
            assert!(
                (got - want).abs() <= 1e-3 * want,
                "the variance of {rows} is {got}, not {want}, on {cpu:?}"
            );
        });
    }
}

/// With the moments of r itself, which is what makes dx a difference of nearly equal numbers.
fn own_normalization(shape: MatrixShape, r: &[f32]) -> Normalization {
    let mut normalization = Normalization::identity(shape.cols);
    let twin = kernelet::reference::relu_batch_norm::forward_moments::<f64>;
    let moments = twin(shape, &common::widen(r), &mut vec![0.0; r.len()]);
    let twin = kernelet::reference::relu_batch_norm::Normalization::new(&moments, 1e-5);
    normalization.mean = common::narrow(&twin.mean);
    normalization.inv_deviation = common::narrow(&twin.inv_deviation);
    if shape.rows == 0 { Normalization::identity(shape.cols) } else { normalization }
}

/// Numbers as ReLU leaves them.
fn rectified(mut x: Vec<f32>) -> Vec<f32> {
    x.iter_mut().for_each(|x| *x = x.max(0.0));
    x
}

#[test]
fn relu_batch_norm() {
    let mut random = Random::new(17);
    let mut checker = Checker::new("relu_batch_norm");
    for shape in pixels() {
        let n = shape.rows * shape.cols;
        let r = rectified(random.uniform(n, 1.0));
        let case = Norm {
            shape,
            normalization: own_normalization(shape, &r),
            r,
            scale: random.uniform(shape.cols, 2.0),
            offset: random.uniform(shape.cols, 1.0),
            dy: random.uniform(n, 1.0),
        };
        cases::normalize(&mut checker, &case);
    }
    checker.finish();
}

/// Of every kind; many are of one place for every pixel, others leave pixels out or overlap.
fn pools() -> Vec<PoolShape> {
    let mut shapes = Vec::new();
    for window in windows() {
        for images in IMAGES.into_iter().chain(EMPTY_IMAGES) {
            let channels = [1, 3, 17];
            shapes.extend(channels.map(|c| PoolShape { input: image(images, c), window }));
        }
    }
    for channels in CHANNELS.into_iter().chain([0]) {
        for window in [Window::square(2, 2, Padding::Same), Window::square(3, 2, Padding::Valid)] {
            shapes.push(PoolShape { input: image((2, 5, 7), channels), window });
        }
    }
    // The study's, of one and of several threads; the largest window whose places a byte names.
    for batch in [2, 40] {
        let window = Window::square(2, 2, Padding::Same);
        shapes.push(PoolShape { input: image((batch, 28, 28), 32), window });
    }
    let window = Window::square(3, 2, Padding::Same);
    shapes.push(PoolShape { input: image((12, 31, 30), 17), window });
    let window = Window::square(16, 5, Padding::Same);
    shapes.push(PoolShape { input: image((2, 33, 17), 3), window });
    // One image for several threads, whose rows part windows; then three.
    for (size, stride) in [(3, 2), (2, 2), (5, 1), (2, 3)] {
        let window = Window::square(size, stride, Padding::Same);
        shapes.push(PoolShape { input: image((1, 61, 33), 70), window });
    }
    let window = Window::square(3, 2, Padding::Valid);
    shapes.push(PoolShape { input: image((3, 37, 30), 41), window });
    shapes
}

#[test]
fn relu_batch_norm_with_max_pool() {
    let mut random = Random::new(18);
    let mut checker = Checker::new("relu_batch_norm with max_pool");
    for shape in pools() {
        let n = len(shape.input);
        for r in [random.uniform(n, 1.0), random.ties(n)] {
            let r = rectified(r);
            let case = NormMaxPool {
                shape,
                normalization: own_normalization(shape.input.pixels(), &r),
                r,
                dy: random.uniform(len(shape.output()), 1.0),
            };
            cases::normalize_max_pool(&mut checker, &case);
        }
    }
    checker.finish();
}

/// The block against the four kernels that it stands for (each held to its twin above), bit by bit:
/// with ordinary numbers, with equal ones, and with NaN and infinities.
#[test]
fn conv_block_is_its_kernels_one_after_the_other() {
    let mut random = Random::new(43);
    let mut checker = Checker::new("conv_block");
    let square = Window::square;
    let pools = [square(2, 2, Padding::Same), square(3, 2, Padding::Valid)];
    let mut cases = vec![((40, 28, 28), 1, 32, square(3, 1, Padding::Same), pools[0])];
    for images in IMAGES.into_iter().chain(EMPTY_IMAGES).chain([(2, 9, 31)]) {
        for (channels, filters) in [(1, 1), (3, 17), (2, 33), (0, 3), (3, 0)] {
            cases.extend(
                pools.map(|pool| (images, channels, filters, square(3, 1, Padding::Same), pool)),
            );
            let window = Window { size: [2, 3], stride: [2, 1], padding: Padding::Valid };
            cases.push((images, channels, filters, window, pools[0]));
        }
    }
    for (images, channels, filters, window, pool) in cases {
        let convolution = Conv2dShape { input: image(images, channels), window, filters };
        let shape = ConvBlockShape { convolution, pool };
        let ys = len(shape.pool().output());
        let (xs, ws) = (len(convolution.input), convolution.taps() * filters);
        let special = |mut x: Vec<f32>| {
            for (x, special) in x.iter_mut().step_by(7).zip([f32::NAN, f32::INFINITY, -1e30]) {
                *x = special;
            }
            x
        };
        for x in [random.uniform(xs, 1.0), random.ties(xs), special(random.uniform(xs, 1.0))] {
            let case = ConvBlock {
                shape,
                x,
                w: random.uniform(ws, 1.0),
                b: random.uniform(filters, 1.0),
                dy: random.uniform(ys, 1.0),
                dw: random.uniform(ws, 1.0),
                db: random.uniform(filters, 1.0),
            };
            cases::conv_block(&mut checker, &case);
        }
    }
    checker.finish();
}

#[test]
fn max_pool() {
    let mut random = Random::new(19);
    let mut checker = Checker::new("max_pool");
    for shape in pools() {
        let dy = random.uniform(len(shape.output()), 1.0);
        for x in [random.uniform(len(shape.input), 1.0), random.ties(len(shape.input))] {
            cases::max_pool::<u8>(&mut checker, shape, &x, &dy);
        }
        let x = random.ties(len(shape.input));
        cases::max_pool::<u16>(&mut checker, shape, &x, &dy);
        cases::max_pool::<u32>(&mut checker, shape, &x, &dy);
    }
    // More places than a byte can name.
    let window = Window::square(17, 9, Padding::Same);
    let shape = PoolShape { input: image((2, 33, 31), 5), window };
    let (x, dy) = (random.uniform(len(shape.input), 1.0), random.uniform(len(shape.output()), 1.0));
    cases::max_pool::<u16>(&mut checker, shape, &x, &dy);
    cases::max_pool::<u32>(&mut checker, shape, &x, &dy);
    checker.finish();
}

#[test]
fn avg_pool() {
    let mut random = Random::new(20);
    let mut checker = Checker::new("avg_pool");
    for shape in pools() {
        let x = random.uniform(len(shape.input), 1.0);
        cases::avg_pool(&mut checker, shape, &x, &random.uniform(len(shape.output()), 1.0));
    }
    checker.finish();
}

#[test]
fn dropout() {
    let mut random = Random::new(21);
    let mut checker = Checker::new("dropout");
    // Around the blocks of words (16) and the chunks (4,096) that threads take, too.
    let more = [255, 256, 257, 4095, 4096, 4097, 16_384, 20_001, 32 * 784];
    for n in sizes().into_iter().chain(more) {
        let x = random.uniform(n, 1.0);
        for keep in [1.0, 0.9, 0.75, 0.5, 1e-3, 1e-12] {
            let far = Dropout { keep, seed: u64::MAX, step: u64::MAX };
            for settings in [Dropout { keep, seed: 1, step: 7 }, far] {
                cases::dropout(&mut checker, settings, &x);
            }
        }
    }
    checker.finish();
}

/// As many as are to be kept, and others in another step and with another seed.
#[test]
fn dropout_keeps_its_share() {
    const N: usize = 40_000;
    let kept = |settings: Dropout| -> Vec<bool> {
        (0..N).map(|position| settings.keeps(position)).collect()
    };
    for keep in [1.0, 0.9, 0.5, 0.01] {
        let settings = Dropout { keep, seed: 3, step: 4 };
        let first = kept(settings);
        let share = first.iter().filter(|kept| **kept).count() as f64 / N as f64;
        let keep64 = f64::from(keep);
        // Five standard deviations of a binomial share.
        let bound = 5.0 * (keep64 * (1.0 - keep64) / N as f64).sqrt() + 1e-7;
        assert!((share - keep64).abs() <= bound, "{share} are kept, not {keep}");
        for other in [Dropout { seed: 4, ..settings }, Dropout { step: 5, ..settings }] {
            assert!(keep == 1.0 || first != kept(other), "{other:?} keeps as {settings:?}");
        }
    }
}

fn adam_settings() -> Vec<(Adam, u64)> {
    let study = Adam::default();
    vec![
        (study, 1),
        (Adam { l2: 0.1, ..study }, 2),
        (Adam { learning_rate: 0.1, beta1: 0.5, beta2: 0.75, epsilon: 1e-3, l2: 0.5 }, 1000),
        (Adam { learning_rate: 1e-3, beta1: 0.0, beta2: 0.0, ..study }, 100_000),
        (Adam { learning_rate: 0.0, ..study }, 3),
    ]
}

/// Weights in the middle of a run, or before the first step, whose moments are zero.
fn weights(random: &mut Random, n: usize, started: bool) -> Weights {
    let scale = if started { 1.0 } else { 0.0 };
    let mut v = random.uniform(n, scale);
    v.iter_mut().for_each(|v| *v *= *v);
    Weights { w: random.uniform(n, 1.0), m: random.uniform(n, scale), v }
}

#[test]
fn adam() {
    let mut random = Random::new(22);
    let mut checker = Checker::new("adam");
    // Around the blocks (4,096) whose squares are summed together, and for several threads.
    for n in sizes().into_iter().chain([4095, 4096, 4097, 32_768, 40_001, 300_000]) {
        for (settings, step) in adam_settings() {
            for started in [true, false] {
                let before = weights(&mut random, n, started);
                let mut g = random.uniform(n, 1.0);
                // Gradients of units that are off.
                g.iter_mut().step_by(5).for_each(|g| *g = 0.0);
                cases::adam(&mut checker, settings, step, &before, &g);
            }
        }
    }
    checker.finish();
}

#[test]
fn linear_with_adam() {
    let mut random = Random::new(23);
    let mut checker = Checker::new("linear with adam");
    let mut shapes = Vec::new();
    for rows in [0, 1, 5, 32, 65] {
        for (inputs, outputs) in
            [(0, 3), (3, 0), (1, 1), (1, 40), (17, 1), (14, 16), (33, 35), (100, 10)]
        {
            shapes.push(LinearShape { rows, inputs, outputs });
        }
    }
    // The study's output layer, its hidden layer with fewer units; enough for several threads,
    // with several chunks of k, and with more rows of w than pieces (256) that sum squares.
    for (rows, inputs, outputs) in
        [(32, 784, 10), (32, 6272, 40), (300, 500, 65), (801, 33, 17), (7, 3000, 3), (3, 5, 2000)]
    {
        shapes.push(LinearShape { rows, inputs, outputs });
    }
    // dx is made with the update up to 128 rows.
    for (rows, inputs, outputs) in [(128, 50, 33), (129, 50, 33), (16, 43, 801), (31, 84, 16)] {
        shapes.push(LinearShape { rows, inputs, outputs });
    }
    for shape in shapes {
        let LinearShape { rows, inputs, outputs } = shape;
        for (settings, step) in adam_settings() {
            let x = rectified(random.uniform(rows * inputs, 1.0));
            let dy = random.uniform(rows * outputs, 1.0);
            let before = weights(&mut random, inputs * outputs, true);
            cases::linear_adam(&mut checker, shape, (&x, &dy), settings, step, &before);
        }
    }
    checker.finish();
}

/// Moments that were gathered apart and merged, and moving averages of them.
#[test]
fn moments_are_merged_and_averaged() {
    let mut random = Random::new(24);
    let cols = 19;
    let x = rectified(random.uniform(70 * cols, 1.0));
    let gather = |cpu: &kernelet::Cpu, x: &[f32]| {
        let mut moments = Moments::new(cols);
        let shape = MatrixShape { rows: x.len() / cols, cols };
        let forward = relu_batch_norm::forward_moments;
        forward(cpu, shape, x, &mut vec![0.0; x.len()], &mut moments);
        moments
    };
    for_each_cpu(|cpu| {
        let whole = gather(cpu, &x);
        let (first, second) = x.split_at(23 * cols);
        let mut merged = gather(cpu, first);
        merged.merge(&Moments::new(cols));
        merged.merge(&gather(cpu, second));
        assert_eq!(merged.count(), whole.count(), "values on {cpu:?}");
        let mut running = RunningMoments::new(cols);
        running.update(&whole, 0.75);
        let mut normalization = Normalization::identity(cols);
        normalization.set_running(&running, 1e-3);
        for c in 0..cols {
            let (mean, variance) = (whole.mean()[c], whole.variance(c));
            assert!((merged.mean()[c] - mean).abs() < 1e-6, "mean {c} on {cpu:?}");
            assert!((merged.variance(c) - variance).abs() < 1e-6, "variance {c} on {cpu:?}");
            let wanted = (0.25 * mean, 0.75 + 0.25 * variance);
            let got = (f64::from(running.mean[c]), f64::from(running.variance[c]));
            assert!((got.0 - wanted.0).abs() < 1e-7, "running mean {c} on {cpu:?}");
            assert!((got.1 - wanted.1).abs() < 1e-6, "running variance {c} on {cpu:?}");
            assert_eq!(normalization.mean[c], running.mean[c], "taken over, {c} on {cpu:?}");
            let inv = 1.0 / (got.1 + 1e-3).sqrt();
            let off = (f64::from(normalization.inv_deviation[c]) - inv).abs();
            assert!(off < 1e-7 * inv, "inverse deviation {c} is off by {off:e} on {cpu:?}");
        }
        merged.clear();
        assert_eq!(merged.count(), 0, "cleared on {cpu:?}");
        assert!(merged.mean().iter().all(|&mean| mean == 0.0), "cleared on {cpu:?}");
        assert!(merged.variance(0).is_nan(), "of nothing, on {cpu:?}");
    });
}
