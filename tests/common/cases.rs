//! Every function of every kernel against its twin in `reference`, computed in `f64`, on given
//! inputs. The bounds are those of the kernels' docs, each with its derivation where it takes one;
//! [`TINY`] stands for the results below the normal range, which kernels flush to zero. The twins
//! are given the inputs as kernels see them, without subnormals.

use kernelet::kernels::adam::Adam;
use kernelet::kernels::conv_block::{self, ConvBlockShape};
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::input::Input;
use kernelet::kernels::max_pool::Place;
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::{Affine, Moments, Normalization};
use kernelet::kernels::softmax_cross_entropy::Tally;
use kernelet::kernels::{
    adam, avg_pool, conv2d, cross_entropy, dropout, exp, gemm, linear, max_pool, momentum, relu,
    relu_batch_norm, softmax, softmax_cross_entropy,
};
use kernelet::reference;
use kernelet::shape::{Conv2dShape, ImageShape, LinearShape, MatrixShape, PoolShape, Window};

use super::{Checker, Expected, TINY, U, abs, flush, for_each_cpu, narrow, seen, ulp, widen};

const WRITES: [Write; 2] = [Write::Overwrite, Write::Add];

/// A destination's content before the kernel: NaN if it is to be overwritten.
fn destination(write: Write, content: &[f32]) -> Vec<f32> {
    match write {
        Write::Overwrite => vec![f32::NAN; content.len()],
        Write::Add => content.to_vec(),
    }
}

const TRANSPOSED: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// C = or += A B with both operands as they are and transposed.
pub fn gemm(checker: &mut Checker, shape: GemmShape, a: &[f32], b: &[f32], c: &[f32]) {
    gemm_as(checker, shape, (a, b), &TRANSPOSED, &WRITES, c);
}

/// C = or += A B; the kernel is given A, B, both or none transposed.
pub fn gemm_as(
    checker: &mut Checker,
    shape: GemmShape,
    (a, b): (&[f32], &[f32]),
    transpositions: &[(bool, bool)],
    writes: &[Write],
    c: &[f32],
) {
    let GemmShape { m, k, n } = shape;
    let sums = Sums::new(shape, (&seen(a), &seen(b)), (false, false), OF_FLOATS);
    let (a_transposed, b_transposed) = (transpose(a, m, k), transpose(b, k, n));
    for &write in writes {
        let before = destination(write, c);
        let expected = [sums.expected("c", write, &seen(&before))];
        for &transposed in transpositions {
            let label = format!("gemm {shape:?} transposed {transposed:?} {write:?}");
            checker.case(&label, &expected, |cpu| {
                let a = if transposed.0 { Matrix::T(&a_transposed) } else { Matrix::N(a) };
                let b = if transposed.1 { Matrix::T(&b_transposed) } else { Matrix::N(b) };
                let mut c = before.clone();
                gemm::gemm(cpu, shape, a, b, write, &mut c);
                vec![widen(&c)]
            });
        }
    }
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| x[row * cols + col])).collect()
}

/// A product as its twin has it, and the sums of magnitudes that its errors are a share of.
struct Sums {
    k: usize,
    /// Roundings below the normal range for each of k.
    tiny: f64,
    values: Vec<f64>,
    magnitudes: Vec<f64>,
}

impl Sums {
    fn new(
        shape: GemmShape,
        (a, b): (&[f64], &[f64]),
        transposed: (bool, bool),
        columns_on_amx: usize,
    ) -> Self {
        let product = |a: &[f64], b: &[f64]| {
            let mut c = vec![f64::NAN; shape.m * shape.n];
            let (a, b) = ((a, transposed.0), (b, transposed.1));
            reference::gemm::gemm(shape, a, b, Write::Overwrite, &mut c);
            c
        };
        // Six products for each, of what AMX computes.
        let amx = shape.m > 128 && shape.k >= 256 && shape.n >= columns_on_amx;
        let tiny = if amx { 7.0 } else { 1.0 };
        Self { k: shape.k, tiny, values: product(a, b), magnitudes: product(&abs(a), &abs(b)) }
    }

    /// The bound is k 2^-24 sum |a b|, and one rounding more if the product is added to c, which is
    /// not read otherwise.
    fn expected(&self, name: &'static str, write: Write, c: &[f64]) -> Expected {
        let k = self.k as f64;
        let (roundings, c) = match write {
            Write::Overwrite => (k, &vec![0.0; self.values.len()][..]),
            Write::Add => (k + 1.0, c),
        };
        let values = self.values.iter().zip(c).map(|(sum, c)| c + sum).collect();
        let bound =
            |(sum, c): (&f64, &f64)| roundings * U * (c.abs() + sum) + self.tiny * (k + 1.0) * TINY;
        Expected::new(name, values, self.magnitudes.iter().zip(c).map(bound).collect())
    }
}

/// Columns from which AMX multiplies floats, and bytes.
const OF_FLOATS: usize = 256;
const OF_BYTES: usize = 32;

/// The inputs of a linear layer's forward and backward.
pub struct Linear {
    pub shape: LinearShape,
    pub x: Vec<f32>,
    /// The same as bytes, with other numbers.
    pub bytes: Vec<u8>,
    pub w: Vec<f32>,
    pub b: Vec<f32>,
    pub dy: Vec<f32>,
    /// What dw and db are added to.
    pub dw: Vec<f32>,
    pub db: Vec<f32>,
}

pub fn linear(checker: &mut Checker, inputs: &Linear) {
    let Linear { shape, x, bytes, w, dy, .. } = inputs;
    let shape = *shape;
    let LinearShape { rows, inputs: k, outputs } = shape;
    let (x64, w64, dy64) = (seen(x), seen(w), seen(dy));
    linear_of(checker, inputs, (x, &x64), ("floats", OF_FLOATS));
    let pixels: Vec<f64> = bytes.iter().map(|&byte| f64::from(f32::from(byte) / 255.0)).collect();
    linear_of(checker, inputs, (bytes, &pixels), ("bytes", OF_BYTES));

    let back = GemmShape { m: rows, k: outputs, n: k };
    let sums = Sums::new(back, (&dy64, &w64), (false, true), OF_FLOATS);
    let mut expected = sums.expected("dx", Write::Overwrite, &[]);
    reference::linear::backward_input(shape, &dy64, &w64, &mut expected.values);
    checker.case(&format!("linear::backward_input {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; rows * k];
        linear::backward_input(cpu, shape, dy, w, &mut dx);
        vec![widen(&dx)]
    });

    let mut expected = sums.expected("dx", Write::Overwrite, &[]);
    reference::linear::backward_input_relu(shape, &dy64, &w64, &x64, &mut expected.values);
    for (bound, &x) in expected.bounds.iter_mut().zip(&x64) {
        // What ReLU held back is zero, exactly.
        *bound = if x > 0.0 { *bound } else { 0.0 };
    }
    checker.case(&format!("linear::backward_input_relu {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; rows * k];
        linear::backward_input_relu(cpu, shape, dy, w, x, &mut dx);
        vec![widen(&dx)]
    });

    for write in WRITES {
        let db = destination(write, &inputs.db);
        let label = format!("linear::column_sums {shape:?} {write:?}");
        checker.case(&label, &[column_sums(shape, &dy64, write, &db)], |cpu| {
            let mut db = db.clone();
            linear::column_sums(cpu, shape, dy, write, &mut db);
            vec![widen(&db)]
        });
    }
}

/// db as its twin has it: rows are summed 64 at a time, then the sums, then what was there.
fn column_sums(shape: LinearShape, dy64: &[f64], write: Write, db: &[f32]) -> Expected {
    let LinearShape { rows, inputs, outputs } = shape;
    let sums = |dy64: &[f64], mut db64: Vec<f64>| {
        let (no_x, mut no_dw) = (vec![0.0; rows * inputs], vec![0.0; inputs * outputs]);
        reference::linear::backward_weights(shape, &no_x, dy64, write, &mut no_dw, &mut db64);
        db64
    };
    let roundings = (rows.min(64) + rows.div_ceil(64)) as f64;
    let mut bound = sums(&abs(dy64), abs(&seen(db)));
    bound.iter_mut().for_each(|bound| *bound = roundings * (U * *bound + TINY));
    Expected::new("db", sums(dy64, seen(db)), bound)
}

/// What takes the layer's input, which is `x`, and seen as `x64`.
fn linear_of<T: Input>(
    checker: &mut Checker,
    Linear { shape, w, b, dy, dw, db, .. }: &Linear,
    (x, x64): (&[T], &[f64]),
    (kind, columns_on_amx): (&str, usize),
) {
    let shape = *shape;
    let LinearShape { rows, inputs, outputs } = shape;
    let (w64, b64, dy64) = (seen(w), seen(b), seen(dy));
    // A product and the rounding of the bias: (inputs + 1) 2^-24 (sum |x w| + |b|).
    let forward = GemmShape { m: rows, k: inputs, n: outputs };
    let sums = Sums::new(forward, (x64, &w64), (false, false), columns_on_amx);
    let mut y64 = vec![f64::NAN; rows * outputs];
    let mut bound = y64.clone();
    reference::linear::forward(shape, x64, &w64, &b64, &mut y64);
    reference::linear::forward(shape, &abs(x64), &abs(&w64), &abs(&b64), &mut bound);
    let roundings = inputs as f64 + 1.0;
    bound.iter_mut().for_each(|bound| *bound = roundings * (U * *bound + sums.tiny * TINY));
    let expected = Expected::new("y", y64.clone(), bound.clone());
    checker.case(&format!("linear::forward {shape:?} of {kind}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; rows * outputs];
        linear::forward(cpu, shape, x, w, b, &mut y);
        vec![widen(&y)]
    });

    // ReLU is exact and brings no two numbers further apart.
    reference::linear::forward_relu(shape, x64, &w64, &b64, &mut y64);
    let expected = Expected::new("y", y64, bound);
    checker.case(&format!("linear::forward_relu {shape:?} of {kind}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; rows * outputs];
        linear::forward_relu(cpu, shape, x, w, b, &mut y);
        vec![widen(&y)]
    });

    let over_rows = GemmShape { m: inputs, k: rows, n: outputs };
    let sums = Sums::new(over_rows, (x64, &dy64), (true, false), columns_on_amx);
    for write in WRITES {
        let (dw, db) = (destination(write, dw), destination(write, db));
        let (mut dw64, mut db64) = (seen(&dw), seen(&db));
        let mut expected_dw = sums.expected("dw", write, &dw64);
        reference::linear::backward_weights(shape, x64, &dy64, write, &mut dw64, &mut db64);
        expected_dw.values = dw64;
        let expected = [expected_dw, column_sums(shape, &dy64, write, &db)];
        let label = format!("linear::backward_weights {shape:?} {write:?} of {kind}");
        checker.case(&label, &expected, |cpu| {
            let (mut dw, mut db) = (dw.clone(), db.clone());
            linear::backward_weights(cpu, shape, x, dy, write, &mut dw, &mut db);
            vec![widen(&dw), widen(&db)]
        });
    }
}

/// What a softmax's docs allow the sum of a row's exponentials, relative to `U`: the roundings cancel except
/// where numbers repeat, whose additions round the same way again and again.
fn softmax_sum_relative(row: &[f64]) -> f64 {
    let mut different = row.to_vec();
    different.sort_by(f64::total_cmp);
    different.dedup();
    6.0 + different.len() as f64 / 8.0 + (row.len() - different.len()) as f64
}

/// The relative error that a softmax's docs allow for each element of x.
pub fn softmax_relative(shape: MatrixShape, x: &[f64]) -> Vec<f64> {
    let mut relative = Vec::with_capacity(x.len());
    for row in x.chunks_exact(shape.cols.max(1)) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let fixed = softmax_sum_relative(row);
        relative.extend(row.iter().map(|x| U * (fixed + 1.05 * (x - max).abs())));
    }
    relative
}

pub fn softmax(checker: &mut Checker, shape: MatrixShape, x: &[f32], dy: &[f32]) {
    let x64 = seen(x);
    let mut y64 = vec![f64::NAN; x.len()];
    reference::softmax::forward(shape, &x64, &mut y64);
    let relative = softmax_relative(shape, &x64);
    let bound = y64.iter().zip(&relative).map(|(y, relative)| y * relative + TINY);
    let expected = Expected::new("y", y64.clone(), bound.collect());
    checker.case(&format!("softmax::forward {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; x.len()];
        softmax::forward(cpu, shape, x, &mut y);
        vec![widen(&y)]
    });

    // dx = y (dy - dot): cols roundings in the dot product, one in the difference, one in the
    // product.
    let y = narrow(&y64);
    let (y64, dy64) = (seen(&y), seen(dy));
    let mut dx64 = vec![f64::NAN; x.len()];
    reference::softmax::backward(shape, &y64, &dy64, &mut dx64);
    let cols = shape.cols.max(1);
    let mut bound = Vec::with_capacity(x.len());
    for (y, dy) in y64.chunks_exact(cols).zip(dy64.chunks_exact(cols)) {
        let dot: f64 = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).sum();
        let row = y.iter().zip(dy).map(|(y, dy)| {
            y.abs() * (U * ((cols as f64 + 2.0) * dot + 2.0 * dy.abs()) + cols as f64 * TINY) + TINY
        });
        bound.extend(row);
    }
    let expected = Expected::new("dx", dx64, bound);
    checker.case(&format!("softmax::backward {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        softmax::backward(cpu, shape, &y, dy, &mut dx);
        vec![widen(&dx)]
    });
}

fn tally_values(tally: Tally) -> Vec<f64> {
    vec![tally.loss, tally.hits as f64, tally.rows as f64]
}

pub fn softmax_cross_entropy(
    checker: &mut Checker,
    shape: MatrixShape,
    logits: &[f32],
    labels: &[u32],
    scale: f32,
) {
    let logits64 = seen(logits);
    let relative = softmax_relative(shape, &logits64);
    let mut dlogits64 = vec![f64::NAN; logits.len()];
    let tally = reference::softmax_cross_entropy::forward_backward(
        shape,
        &logits64,
        labels,
        f64::from(scale),
        &mut dlogits64,
    );
    let mut p64 = vec![f64::NAN; logits.len()];
    reference::softmax::forward(shape, &logits64, &mut p64);

    // ln(sum) is off by the sum's relative error; the rest is f64.
    let rows = logits64.chunks_exact(shape.cols.max(1));
    let sums: f64 = rows.map(softmax_sum_relative).sum();
    let bounds = vec![U * sums + 1e-12 * tally.loss, 0.0, 0.0];
    let expected_tally = || Expected::new("tally", tally_values(tally), bounds.clone());
    let label = format!("softmax_cross_entropy::forward {shape:?}");
    checker.case(&label, &[expected_tally()], |cpu| {
        vec![tally_values(softmax_cross_entropy::forward(cpu, shape, logits, labels))]
    });

    // The probability times scale, then at the label one rounding of the difference.
    let scale64 = f64::from(scale).abs();
    let bound = (p64.iter().zip(&relative).zip(&dlogits64))
        .map(|((p, relative), dlogit)| {
            scale64 * p * relative + U * dlogit.abs() + 3.0 * (1.0 + scale64) * TINY
        })
        .collect();
    let expected = [expected_tally(), Expected::new("dlogits", dlogits64, bound)];
    let label = format!("softmax_cross_entropy::forward_backward {shape:?} scale {scale}");
    checker.case(&label, &expected, |cpu| {
        let mut dlogits = vec![f32::NAN; logits.len()];
        let tally = softmax_cross_entropy::forward_backward(
            cpu,
            shape,
            logits,
            labels,
            scale,
            &mut dlogits,
        );
        vec![tally_values(tally), widen(&dlogits)]
    });

    // scale (p - target): a difference and a product.
    let p = narrow(&p64);
    let mut dlogits64 = vec![f64::NAN; logits.len()];
    let twin = reference::softmax_cross_entropy::backward::<f64>;
    twin(shape, &seen(&p), labels, f64::from(scale), &mut dlogits64);
    let bound = dlogits64.iter().map(|dlogit| 2.0 * U * dlogit.abs() + TINY).collect();
    let expected = Expected::new("dlogits", dlogits64, bound);
    let label = format!("softmax_cross_entropy::backward {shape:?} scale {scale}");
    checker.case(&label, &[expected], |cpu| {
        let mut dlogits = vec![f32::NAN; logits.len()];
        softmax_cross_entropy::backward(cpu, shape, &p, labels, scale, &mut dlogits);
        vec![widen(&dlogits)]
    });
}

pub fn cross_entropy(
    checker: &mut Checker,
    shape: MatrixShape,
    probabilities: &[f32],
    labels: &[u32],
    scale: f32,
) {
    let p64 = seen(probabilities);
    let tally = reference::cross_entropy::forward(shape, &p64, labels);
    // In f64 on both sides, where the twin takes a logarithm of every row. As the kernel's docs state it, and the
    // rounding of the twin's sum.
    let logarithms = labels.iter().zip(p64.chunks_exact(shape.cols.max(1)));
    let sum: f64 = logarithms.map(|(&label, p)| p[label as usize].ln().abs()).sum();
    let rows = labels.len() as f64;
    let bound = 2_f64.powi(-53) * (rows + (2.0 * (rows / 8.0 + 2.0) + rows) * sum);
    let bounds = vec![bound, 0.0, 0.0];
    let expected = Expected::new("tally", tally_values(tally), bounds);
    checker.case(&format!("cross_entropy::forward {shape:?}"), &[expected], |cpu| {
        vec![tally_values(cross_entropy::forward(cpu, shape, probabilities, labels))]
    });

    let mut dp64 = vec![f64::NAN; p64.len()];
    reference::cross_entropy::backward(shape, &p64, labels, f64::from(scale), &mut dp64);
    let bound = dp64.iter().map(|dp| U * dp.abs() + TINY).collect();
    let expected = Expected::new("dprobabilities", dp64, bound);
    checker.case(&format!("cross_entropy::backward {shape:?} scale {scale}"), &[expected], |cpu| {
        let mut dp = vec![f32::NAN; p64.len()];
        cross_entropy::backward(cpu, shape, probabilities, labels, scale, &mut dp);
        vec![widen(&dp)]
    });
}

/// Exact, down to the sign of zero; what is copied may be a subnormal or zero.
pub fn relu(checker: &mut Checker, x: &[f32], dy: &[f32]) {
    // The sign tells +0 from -0.
    let signs = |y: &[f32]| y.iter().map(|&y| f64::from(y.signum())).collect::<Vec<_>>();
    let expect = |y: &[f32]| [Expected::copies("values", y), Expected::exact("signs", signs(y))];
    let mut y = vec![f32::NAN; x.len()];
    reference::relu::forward(x, &mut y);
    checker.case(&format!("relu::forward of {}", x.len()), &expect(&y), |cpu| {
        let mut y = vec![f32::NAN; x.len()];
        relu::forward(cpu, x, &mut y);
        let mut in_place = x.to_vec();
        relu::forward_in_place(cpu, &mut in_place);
        let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&in_place), bits(&y), "relu::forward_in_place of {}", x.len());
        vec![widen(&y), signs(&y)]
    });
    let mut dx = vec![f32::NAN; x.len()];
    reference::relu::backward(&flush(x), dy, &mut dx);
    checker.case(&format!("relu::backward of {}", x.len()), &expect(&dx), |cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        relu::backward(cpu, x, dy, &mut dx);
        vec![widen(&dx), signs(&dx)]
    });
}

pub fn momentum(checker: &mut Checker, settings: Momentum, w: &[f32], v: &[f32], g: &[f32]) {
    let rate = f64::from(settings.learning_rate);
    let share = f64::from(settings.momentum);
    let (mut w64, mut v64) = (seen(w), seen(v));
    reference::momentum::update(settings, &mut w64, &mut v64, &seen(g));
    // v: a rounding each of both products and of their sum; w: v's error and one rounding.
    let v_bound: Vec<f64> = (v64.iter().zip(v).zip(g))
        .map(|((new, &v), &g)| {
            let products = (share * f64::from(v)).abs() + (rate * f64::from(g)).abs();
            U * (products + new.abs()) + 3.0 * TINY
        })
        .collect();
    let w_bound =
        w64.iter().zip(&v_bound).map(|(w, bound)| bound * (1.0 + U) + U * w.abs() + TINY).collect();
    let expected = [
        Expected::new("v", v64, v_bound),
        Expected::new("w", w64, w_bound),
        Expected::exact("wrong w - v", vec![0.0]),
    ];
    checker.case(&format!("momentum::update of {}", w.len()), &expected, |cpu| {
        let (mut new_w, mut new_v) = (w.to_vec(), v.to_vec());
        momentum::update(cpu, settings, &mut new_w, &mut new_v, g);
        // Given the velocity, w is exact to the bit.
        let differences: Vec<f32> =
            flush(w).iter().zip(flush(&new_v)).map(|(w, v)| w - v).collect();
        let wrong = (flush(&differences).iter().zip(&new_w))
            .filter(|(difference, new)| difference != new && !new.is_nan())
            .count();
        vec![widen(&new_v), widen(&new_w), vec![wrong as f64]]
    });
}

pub fn exp(checker: &mut Checker, x: &[f32]) {
    let mut y64 = vec![f64::NAN; x.len()];
    reference::exp::forward(&seen(x), &mut y64);
    let bound =
        y64.iter().map(|&y| if y < TINY { TINY } else { exp::MAX_ERROR_ULPS * ulp(y) }).collect();
    let expected = Expected::new("y", y64, bound);
    checker.case(&format!("exp::forward of {}", x.len()), &[expected], |cpu| {
        let mut y = vec![f32::NAN; x.len()];
        exp::forward(cpu, x, &mut y);
        vec![widen(&y)]
    });
}

/// The inputs of a convolution's forward and backward.
pub struct Conv2d {
    pub shape: Conv2dShape,
    pub x: Vec<f32>,
    pub w: Vec<f32>,
    pub b: Vec<f32>,
    pub dy: Vec<f32>,
    /// What dw and db are added to.
    pub dw: Vec<f32>,
    pub db: Vec<f32>,
}

pub fn conv2d(checker: &mut Checker, inputs: &Conv2d) {
    let Conv2d { shape, x, w, b, dy, .. } = inputs;
    let shape = *shape;
    let Conv2dShape { window, filters, .. } = shape;
    let (x64, w64, b64, dy64) = (seen(x), seen(w), seen(b), seen(dy));
    let roundings = |terms: usize, sums: Vec<f64>| -> Vec<f64> {
        sums.iter().map(|sum| terms as f64 * (U * sum + TINY)).collect()
    };

    // A product of as many terms as there are taps, and the rounding of the bias:
    // (taps + 1) 2^-24 (sum |x w| + |b|).
    let mut y64 = vec![f64::NAN; dy.len()];
    let mut sums = y64.clone();
    reference::conv2d::forward(shape, &x64, &w64, &b64, &mut y64);
    reference::conv2d::forward(shape, &abs(&x64), &abs(&w64), &abs(&b64), &mut sums);
    let bound = roundings(shape.taps() + 1, sums);
    let expected = Expected::new("y", y64.clone(), bound.clone());
    checker.case(&format!("conv2d::forward {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; dy.len()];
        conv2d::forward(cpu, shape, x, w, b, &mut y);
        vec![widen(&y)]
    });

    // ReLU brings no two numbers further apart.
    reference::conv2d::forward_relu(shape, &x64, &w64, &b64, &mut y64);
    let expected = Expected::new("y", y64.clone(), bound.clone());
    checker.case(&format!("conv2d::forward_relu {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; dy.len()];
        conv2d::forward_relu(cpu, shape, x, w, b, &mut y);
        vec![widen(&y)]
    });

    // Errors e of y move its mean by their mean, and its variance by at most
    // 2 deviation rms(e) + rms(e)^2. An infinite sum has no error, whatever ReLU makes of it.
    let moments = reference::conv2d::forward_relu_moments(shape, &x64, &w64, &b64, &mut y64);
    let (mut mean_bound, mut variance_bound) = moments_bounds(&moments);
    let pixels = shape.output().pixels();
    for filter in 0..filters {
        let of_filter = || bound.iter().skip(filter).step_by(filters).filter(|e| e.is_finite());
        let rms = (of_filter().map(|e| e * e).sum::<f64>() / pixels.rows as f64).sqrt();
        mean_bound[filter] += of_filter().sum::<f64>() / pixels.rows as f64;
        variance_bound[filter] += 2.0 * moments.variance[filter].sqrt() * rms + rms * rms;
    }
    let expected = [
        Expected::new("y", y64, bound),
        Expected::new("mean", poison(&of_nothing(pixels, &moments.mean, 0.0)), mean_bound),
        Expected::new("variance", poison(&moments.variance), variance_bound),
        // Without filters there is nothing to count.
        Expected::exact("count", vec![if filters == 0 { 0.0 } else { pixels.rows as f64 }]),
    ];
    checker.case(&format!("conv2d::forward_relu_moments {shape:?}"), &expected, |cpu| {
        let mut y = vec![f32::NAN; dy.len()];
        let mut moments = Moments::new(filters);
        conv2d::forward_relu_moments(cpu, shape, x, w, b, &mut y, &mut moments);
        let [mean, variance, count] = moments_values(&moments);
        vec![widen(&y), mean, variance, count]
    });

    // A product of as many terms as there are filters, for every window that the element is in.
    let mut dx64 = vec![f64::NAN; x.len()];
    let mut sums = dx64.clone();
    reference::conv2d::backward_input(shape, &dy64, &w64, &mut dx64);
    reference::conv2d::backward_input(shape, &abs(&dy64), &abs(&w64), &mut sums);
    let expected = Expected::new("dx", dx64, roundings(filters * overlap(window) + 1, sums));
    checker.case(&format!("conv2d::backward_input {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        conv2d::backward_input(cpu, shape, dy, w, &mut dx);
        vec![widen(&dx)]
    });

    // dw: a product per window, and what was there. db: sums over rows of dy, their sum, and what
    // was there.
    let width = shape.output().width.max(1);
    let db_roundings = width + pixels.rows / width + 1;
    for write in WRITES {
        let (dw, db) = (destination(write, &inputs.dw), destination(write, &inputs.db));
        let (mut dw64, mut db64) = (seen(&dw), seen(&db));
        let (mut dw_sums, mut db_sums) = (abs(&dw64), abs(&db64));
        let twin = reference::conv2d::backward_weights::<f64>;
        twin(shape, &x64, &dy64, write, &mut dw64, &mut db64);
        twin(shape, &abs(&x64), &abs(&dy64), write, &mut dw_sums, &mut db_sums);
        let expected = [
            Expected::new("dw", dw64, roundings(pixels.rows + 1, dw_sums)),
            Expected::new("db", db64, roundings(db_roundings, db_sums)),
        ];
        let label = format!("conv2d::backward_weights {shape:?} {write:?}");
        checker.case(&label, &expected, |cpu| {
            let (mut dw, mut db) = (dw.clone(), db.clone());
            conv2d::backward_weights(cpu, shape, x, dy, write, &mut dw, &mut db);
            vec![widen(&dw), widen(&db)]
        });
    }
}

/// Whether a mean is infinite or NaN depends on the order in which it is taken, that it is one of
/// them does not.
fn poison(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&value| if value.is_finite() { value } else { f64::NAN }).collect()
}

/// The moments of no pixels at all are `nothing`, which the twins do not care for.
fn of_nothing(pixels: MatrixShape, values: &[f64], nothing: f64) -> Vec<f64> {
    if pixels.rows == 0 { vec![nothing; values.len()] } else { values.to_vec() }
}

fn moments_values(moments: &Moments) -> [Vec<f64>; 3] {
    let variance: Vec<f64> = (0..moments.mean().len()).map(|c| moments.variance(c)).collect();
    [poison(moments.mean()), poison(&variance), vec![moments.count() as f64]]
}

/// How far off mean and variance may be, whatever the number of pixels: 64 u of the mean, a sum
/// of non-negative numbers; 64 u of the variance, and what a rounded mean does to deviations that
/// are taken from it, 16 u of mean times deviation and the square of the mean's error. (A mean of
/// squares less the square of the mean would be off by roundings of that square.)
fn moments_bounds(moments: &reference::relu_batch_norm::Moments<f64>) -> (Vec<f64>, Vec<f64>) {
    let mean = moments.mean.iter().map(|mean| 64.0 * U * mean + TINY).collect();
    let variance = (moments.mean.iter().zip(&moments.variance))
        .map(|(mean, variance)| {
            let with_mean = 16.0 * U * mean * variance.sqrt() + (64.0 * U * mean).powi(2);
            64.0 * U * variance + with_mean + TINY
        })
        .collect();
    (mean, variance)
}

/// The moments of `x`, in one go and merged from a third and the rest.
pub fn moments(checker: &mut Checker, shape: MatrixShape, x: &[f32]) {
    let MatrixShape { rows, cols } = shape;
    let mut r = vec![f32::NAN; x.len()];
    reference::relu::forward(x, &mut r);
    let mut r64 = vec![f64::NAN; x.len()];
    let moments = reference::relu_batch_norm::forward_moments(shape, &seen(x), &mut r64);
    let (mean_bound, variance_bound) = moments_bounds(&moments);
    let mean = poison(&of_nothing(shape, &moments.mean, 0.0));
    let expected = [
        Expected::copies("r", &r),
        Expected::new("mean", mean, mean_bound),
        Expected::new("variance", poison(&moments.variance), variance_bound),
        Expected::exact("count", vec![if cols == 0 { 0.0 } else { rows as f64 }]),
    ];
    for split in [0, rows / 3] {
        let label = format!("relu_batch_norm::forward_moments {shape:?} from {split}");
        checker.case(&label, &expected, |cpu| {
            let mut r = vec![f32::NAN; x.len()];
            let mut moments = Moments::new(cols);
            let (x, r_parts) = (x.split_at(split * cols), r.split_at_mut(split * cols));
            for (rows, x, r) in [(split, x.0, r_parts.0), (rows - split, x.1, r_parts.1)] {
                let shape = MatrixShape { rows, cols };
                relu_batch_norm::forward_moments(cpu, shape, x, r, &mut moments);
            }
            let [mean, variance, count] = moments_values(&moments);
            vec![widen(&r), mean, variance, count]
        });
    }
}

/// The inputs of a normalisation's forward and backward.
pub struct Norm {
    pub shape: MatrixShape,
    /// What ReLU leaves.
    pub r: Vec<f32>,
    pub normalization: Normalization,
    pub scale: Vec<f32>,
    pub offset: Vec<f32>,
    pub dy: Vec<f32>,
}

fn widen_normalization(
    normalization: &Normalization,
) -> reference::relu_batch_norm::Normalization<f64> {
    let Normalization { mean, inv_deviation } = normalization;
    reference::relu_batch_norm::Normalization {
        mean: seen(mean),
        inv_deviation: seen(inv_deviation),
    }
}

/// 4 u (|scale| (|r| + |mean|) inv_deviation + |offset|), where factor is scale inv_deviation.
fn normalize_bound(r: f64, mean: f64, factor: f64, offset: f64) -> f64 {
    let parts = (r.abs() + mean.abs()) * factor.abs() + offset.abs();
    4.0 * U * parts + (3.0 + factor.abs()) * TINY
}

pub fn normalize(checker: &mut Checker, inputs: &Norm) {
    let Norm { shape, r, normalization, scale, offset, dy } = inputs;
    let shape = *shape;
    let cols = shape.cols;
    let (r64, dy64, norm64) = (seen(r), seen(dy), widen_normalization(normalization));
    let (scale64, offset64) = (seen(scale), seen(offset));
    for with_affine in [false, true] {
        let affine = reference::relu_batch_norm::Affine { scale: &scale64, offset: &offset64 };
        let affine = with_affine.then_some(affine);
        let mut y64 = vec![f64::NAN; r.len()];
        let twin = reference::relu_batch_norm::forward_normalize::<f64>;
        twin(shape, &r64, &norm64, affine, &mut y64);
        let factor = |c: usize| norm64.inv_deviation[c] * affine.map_or(1.0, |a| a.scale[c]);
        let bound = (r64.iter().enumerate())
            .map(|(at, &r)| {
                let c = at % cols;
                let offset = affine.map_or(0.0, |affine| affine.offset[c]);
                normalize_bound(r, norm64.mean[c], factor(c), offset)
            })
            .collect();
        let expected = Expected::new("y", y64, bound);
        let label = format!("relu_batch_norm::forward_normalize {shape:?} affine {with_affine}");
        checker.case(&label, &[expected], |cpu| {
            let affine = with_affine.then_some(Affine { scale, offset });
            let mut y = vec![f32::NAN; r.len()];
            relu_batch_norm::forward_normalize(cpu, shape, r, normalization, affine, &mut y);
            vec![widen(&y)]
        });

        let scale64 = with_affine.then_some(&scale64[..]);
        let expected = backward_expected(shape, (&r64, &norm64, scale64), &dy64, &abs(&dy64));
        let label = format!("relu_batch_norm::backward {shape:?} scale {with_affine}");
        checker.case(&label, &expected, |cpu| {
            let mut dx = vec![f32::NAN; r.len()];
            let (mut dscale, mut doffset) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
            let scale = with_affine.then_some(&scale[..]);
            let backward = relu_batch_norm::backward;
            let gradients = (&mut dx, &mut dscale, &mut doffset);
            let (dx, dscale, doffset) = gradients;
            backward(cpu, shape, r, normalization, scale, dy, dx, dscale, doffset);
            [dx, dscale, doffset].map(|values| widen(values)).to_vec()
        });
    }
}

/// dx, dscale and doffset, with the bound `(96 + rows / 2^14) u` of every term's magnitude.
/// `dy_abs` is at least as large as every part that dy was added up from.
fn backward_expected(
    shape: MatrixShape,
    (r, normalization, scale): (
        &[f64],
        &reference::relu_batch_norm::Normalization<f64>,
        Option<&[f64]>,
    ),
    dy: &[f64],
    dy_abs: &[f64],
) -> [Expected; 3] {
    let MatrixShape { rows, cols } = shape;
    let mut dx = vec![f64::NAN; r.len()];
    let (mut dscale, mut doffset) = (vec![f64::NAN; cols], vec![f64::NAN; cols]);
    let twin = reference::relu_batch_norm::backward::<f64>;
    twin(shape, r, normalization, scale, dy, &mut dx, &mut dscale, &mut doffset);

    let roundings = 96.0 + rows as f64 / f64::from(1 << 14);
    let normal = |at: usize| {
        let c = at % cols;
        (r[at].abs() + normalization.mean[c].abs()) * normalization.inv_deviation[c].abs()
    };
    let (mut dscale_sum, mut doffset_sum) = (vec![0.0; cols], vec![0.0; cols]);
    for at in 0..r.len() {
        dscale_sum[at % cols] += dy_abs[at] * normal(at);
        doffset_sum[at % cols] += dy_abs[at];
    }
    let tiny = (rows as f64 + 8.0) * TINY;
    let dx_bound = (0..r.len())
        .map(|at| {
            let c = at % cols;
            let factor =
                (scale.map_or(1.0, |scale| scale[c]) * normalization.inv_deviation[c]).abs();
            let means = (doffset_sum[c] + normal(at) * dscale_sum[c]) / rows as f64;
            let roundings = roundings * U * factor * (dy_abs[at] + means);
            // What ReLU held back is zero, exactly.
            if r[at] > 0.0 { roundings + tiny * (1.0 + factor) * (1.0 + normal(at)) } else { 0.0 }
        })
        .collect();
    let bounds = |sums: Vec<f64>| sums.iter().map(|sum| roundings * U * sum + tiny).collect();
    [
        Expected::new("dx", dx, dx_bound),
        Expected::new("dscale", dscale, bounds(dscale_sum)),
        Expected::new("doffset", doffset, bounds(doffset_sum)),
    ]
}

/// Whether `argmax` names, for every window and channel, an element that is within twice its
/// bound of the largest, and of those that are equal in `x` the first. `y` holds the values that
/// are compared, and how far off each may be.
fn wrong_places(shape: PoolShape, x: &[f32], y: &[(f64, f64)], argmax: &[u8]) -> usize {
    let PoolShape { input, window } = shape;
    let channels = input.channels;
    let mut wrong = 0;
    for (output, argmax) in argmax.chunks_exact(channels.max(1)).enumerate() {
        let places: Vec<_> = places(input, window, output).collect();
        for (channel, argmax) in argmax.iter().enumerate() {
            let of = |pixel: usize| pixel * channels + channel;
            let chosen = places.iter().find(|(place, _)| *place == usize::from(*argmax));
            let right = chosen.is_some_and(|&(place, pixel)| {
                let (value, bound) = y[of(pixel)];
                places.iter().all(|&(other_place, other)| {
                    let (other_value, other_bound) = y[of(other)];
                    let tie_before = other_place < place && x[of(other)] == x[of(pixel)];
                    !tie_before && value + 2.0 * bound >= other_value - 2.0 * other_bound
                })
            });
            wrong += usize::from(!right);
        }
    }
    wrong
}

/// The elements of a window inside its image: place and pixel.
fn places(
    input: ImageShape,
    window: Window,
    output: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let ImageShape { height, width, .. } = input;
    let [rows, columns] = window.count(height, width);
    let [above, left] = window.padding_before(height, width);
    let (image, at) = (output / (rows * columns), output % (rows * columns));
    (0..window.area()).filter_map(move |place| {
        let y = at / columns * window.stride[0] + place / window.size[1];
        let x = at % columns * window.stride[1] + place % window.size[1];
        let inside = (above..above + height).contains(&y) && (left..left + width).contains(&x);
        inside.then(|| (place, (image * height + y - above) * width + x - left))
    })
}

/// The inputs of a normalisation and a pool in one.
pub struct NormMaxPool {
    pub shape: PoolShape,
    /// What ReLU leaves.
    pub r: Vec<f32>,
    pub normalization: Normalization,
    pub dy: Vec<f32>,
}

pub fn normalize_max_pool(checker: &mut Checker, inputs: &NormMaxPool) {
    let NormMaxPool { shape, r, normalization, dy } = inputs;
    let shape = *shape;
    let channels = shape.input.channels;
    let pixels = shape.input.pixels();
    let (r64, dy64, norm64) = (seen(r), seen(dy), widen_normalization(normalization));

    let mut normal = vec![f64::NAN; r.len()];
    reference::relu_batch_norm::forward_normalize(pixels, &r64, &norm64, None, &mut normal);
    let bounds: Vec<f64> = (r64.iter().enumerate())
        .map(|(at, &r)| {
            let c = at % channels;
            normalize_bound(r, norm64.mean[c], norm64.inv_deviation[c], 0.0)
        })
        .collect();
    let (mut y64, mut argmax) = (vec![f64::NAN; dy.len()], vec![u8::MAX; dy.len()]);
    let twin = reference::relu_batch_norm::forward_normalize_max_pool::<f64>;
    twin(shape, &r64, &norm64, &mut y64, &mut argmax);
    // The largest of numbers that are each off by at most so much.
    let mut bound = vec![0.0; dy.len()];
    for (output, bound) in bound.chunks_exact_mut(channels.max(1)).enumerate() {
        for (_, pixel) in places(shape.input, shape.window, output) {
            for (channel, bound) in bound.iter_mut().enumerate() {
                *bound = f64::max(*bound, bounds[pixel * channels + channel]);
            }
        }
    }
    let y = narrow(&y64);
    let expected = [Expected::new("y", y64, bound), Expected::exact("wrong places", vec![0.0])];
    let finite = normal.iter().all(|y| y.is_finite());
    let normal: Vec<_> = normal.into_iter().zip(bounds).collect();
    let label = format!("relu_batch_norm::forward_normalize_max_pool {shape:?}");
    checker.case(&label, &expected, |cpu| {
        let (mut y, mut argmax) = (vec![f32::NAN; dy.len()], vec![u8::MAX; dy.len()]);
        let forward = relu_batch_norm::forward_normalize_max_pool;
        forward(cpu, shape, r, normalization, &mut y, &mut argmax);
        let wrong = if finite { wrong_places(shape, &flush(r), &normal, &argmax) } else { 0 };
        vec![widen(&y), vec![wrong as f64]]
    });

    if r.iter().any(|r| !r.is_finite()) {
        // The twin multiplies what is not pooled with zero, which makes NaN of it; the kernel does
        // not look at it.
        return;
    }
    let (mut dnormal, mut dnormal_abs) = (vec![f64::NAN; r.len()], vec![f64::NAN; r.len()]);
    reference::max_pool::backward(shape, &argmax, &dy64, &mut dnormal);
    reference::max_pool::backward(shape, &argmax, &abs(&dy64), &mut dnormal_abs);
    // Where windows overlap, several dy add up first.
    let overlap = overlap(shape.window) as f64;
    dnormal_abs.iter_mut().for_each(|dy| *dy *= overlap);
    let [dx, ..] = backward_expected(pixels, (&r64, &norm64, None), &dnormal, &dnormal_abs);
    let label = format!("relu_batch_norm::backward_max_pool {shape:?}");
    checker.case(&label, &[dx], |cpu| {
        let mut dx = vec![f32::NAN; r.len()];
        let backward = relu_batch_norm::backward_max_pool;
        backward(cpu, shape, r, normalization, &y, &argmax, dy, &mut dx);
        vec![widen(&dx)]
    });
}

/// Most windows that an element can lie in.
fn overlap(window: Window) -> usize {
    window.size[0].div_ceil(window.stride[0]) * window.size[1].div_ceil(window.stride[1])
}

/// The inputs of a convolution block's forward and backward.
pub struct ConvBlock {
    pub shape: ConvBlockShape,
    pub x: Vec<f32>,
    pub w: Vec<f32>,
    pub b: Vec<f32>,
    pub dy: Vec<f32>,
    /// What dw and db are added to.
    pub dw: Vec<f32>,
    pub db: Vec<f32>,
}

/// The block against the four kernels that it stands for, bit by bit.
pub fn conv_block(checker: &mut Checker, inputs: &ConvBlock) {
    let ConvBlock { shape, x, w, b, dy, .. } = inputs;
    let shape = *shape;
    let Conv2dShape { filters, .. } = shape.convolution;
    let rs = shape.pool().input.pixels().rows * filters;
    for_each_cpu(|cpu| {
        let run = |fused: bool| {
            let (mut r, mut y) = (vec![f32::NAN; rs], vec![f32::NAN; dy.len()]);
            let (mut argmax, mut moments) = (vec![u8::MAX; dy.len()], Moments::new(filters));
            let mut norm = Normalization::identity(filters);
            let (mut dw, mut db) = (inputs.dw.clone(), inputs.db.clone());
            let write = Write::Add;
            if fused {
                let forward = conv_block::forward;
                forward(cpu, shape, x, w, b, &mut r, &mut moments, &mut y, &mut argmax);
                norm.set(&moments, 1e-5);
                let pixels = shape.pool().output().pixels();
                relu_batch_norm::forward_normalize_in_place(cpu, pixels, &norm, None, &mut y);
                let backward = conv_block::backward_weights;
                backward(cpu, shape, x, &r, &norm, &y, &argmax, dy, write, &mut dw, &mut db);
            } else {
                let forward = conv2d::forward_relu_moments;
                forward(cpu, shape.convolution, x, w, b, &mut r, &mut moments);
                norm.set(&moments, 1e-5);
                let forward = relu_batch_norm::forward_normalize_max_pool;
                forward(cpu, shape.pool(), &r, &norm, &mut y, &mut argmax);
                let mut dr = vec![f32::NAN; rs];
                let backward = relu_batch_norm::backward_max_pool;
                backward(cpu, shape.pool(), &r, &norm, &y, &argmax, dy, &mut dr);
                let backward = conv2d::backward_weights;
                backward(cpu, shape.convolution, x, &dr, write, &mut dw, &mut db);
            }
            // All NaN are alike: which of its operands' an instruction passes on is open.
            let bits = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            let bits = |x: &[f32]| x.iter().map(bits).collect::<Vec<_>>();
            ([r, y, dw, db].map(|x| bits(&x)), argmax, moments.count())
        };
        checker.cases += 1;
        if run(true) != run(false) {
            checker.fail(format!("{shape:?} on {cpu:?}: other bits than its kernels"));
        }
    });
}

/// Exact, subnormals as zero, but for sums of several dy where windows overlap.
pub fn max_pool<P: Place>(checker: &mut Checker, shape: PoolShape, x: &[f32], dy: &[f32]) {
    let kind = std::any::type_name::<P>();
    let none = || vec![P::new(0); dy.len()];
    let (mut y, mut places) = (vec![f32::NAN; dy.len()], none());
    reference::max_pool::forward(shape, &flush(x), &mut y, &mut places);
    let numbers = |argmax: &[P]| argmax.iter().map(|p| p.index() as f64).collect::<Vec<_>>();
    let expected = [Expected::exact("y", widen(&y)), Expected::exact("argmax", numbers(&places))];
    checker.case(&format!("max_pool::forward {shape:?} {kind}"), &expected, |cpu| {
        let (mut y, mut argmax) = (vec![f32::NAN; dy.len()], none());
        max_pool::forward(cpu, shape, x, &mut y, &mut argmax);
        vec![widen(&y), numbers(&argmax)]
    });

    let (mut dx64, mut sums) = (vec![f64::NAN; x.len()], vec![f64::NAN; x.len()]);
    reference::max_pool::backward(shape, &places, &seen(dy), &mut dx64);
    reference::max_pool::backward(shape, &places, &abs(&seen(dy)), &mut sums);
    let additions = (overlap(shape.window) - 1) as f64;
    // A dy below the normal range may be lost.
    let bound = sums.iter().map(|sum| additions * U * sum + TINY).collect();
    let expected = Expected::new("dx", dx64, bound);
    checker.case(&format!("max_pool::backward {shape:?} {kind}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        max_pool::backward(cpu, shape, &places, dy, &mut dx);
        vec![widen(&dx)]
    });
}

pub fn avg_pool(checker: &mut Checker, shape: PoolShape, x: &[f32], dy: &[f32]) {
    let area = shape.window.area() as f64;
    // A sum, and the rounding of its division.
    let (mut y64, mut sums) = (vec![f64::NAN; dy.len()], vec![f64::NAN; dy.len()]);
    reference::avg_pool::forward(shape, &seen(x), &mut y64);
    reference::avg_pool::forward(shape, &abs(&seen(x)), &mut sums);
    let bound = sums.iter().map(|sum| (area + 1.0) * (U * sum + TINY)).collect();
    let expected = Expected::new("y", y64, bound);
    checker.case(&format!("avg_pool::forward {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; dy.len()];
        avg_pool::forward(cpu, shape, x, &mut y);
        vec![widen(&y)]
    });

    let (mut dx64, mut sums) = (vec![f64::NAN; x.len()], vec![f64::NAN; x.len()]);
    reference::avg_pool::backward(shape, &seen(dy), &mut dx64);
    reference::avg_pool::backward(shape, &abs(&seen(dy)), &mut sums);
    let roundings = overlap(shape.window) as f64 + 1.0;
    let bound = sums.iter().map(|sum| roundings * (U * sum + TINY)).collect();
    let expected = Expected::new("dx", dx64, bound);
    checker.case(&format!("avg_pool::backward {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        avg_pool::backward(cpu, shape, dy, &mut dx);
        vec![widen(&dx)]
    });
}

/// What is dropped is zero exactly; what is kept has the rounding of a division.
pub fn dropout(checker: &mut Checker, settings: Dropout, x: &[f32]) {
    let mut x64 = seen(x);
    reference::dropout::forward_in_place(settings, &mut x64);
    let bound = (x64.iter().zip(x))
        // Zero where x is not: dropped.
        .map(|(y, x)| if *y == 0.0 && x.is_normal() { 0.0 } else { U * y.abs() + TINY })
        .collect::<Vec<_>>();
    let expected = || [Expected::new("x", x64.clone(), bound.clone())];
    checker.case(&format!("dropout::forward of {} {settings:?}", x.len()), &expected(), |cpu| {
        let mut x = x.to_vec();
        dropout::forward_in_place(cpu, settings, &mut x);
        vec![widen(&x)]
    });
    checker.case(&format!("dropout::backward of {} {settings:?}", x.len()), &expected(), |cpu| {
        let mut x = x.to_vec();
        dropout::backward_in_place(cpu, settings, &mut x);
        vec![widen(&x)]
    });
}

/// What Adam updates.
#[derive(Clone)]
pub struct Weights {
    pub w: Vec<f32>,
    pub m: Vec<f32>,
    pub v: Vec<f32>,
}

impl Weights {
    fn outputs(&self, squares: f64) -> Vec<Vec<f64>> {
        vec![widen(&self.w), widen(&self.m), widen(&self.v), vec![squares]]
    }
}

/// How far off an update may be, from one rounding per operation:
/// - g' = g + l2 w, which is off by `g_bound` already, by those of the product and of the sum;
/// - m and v by what g' does to them, and by the difference, the product and the sum;
/// - w by what both do to m / (sqrt(v) + epsilon), and by the roundings of the rate, the root, the
///   sum, the quotient, the product and the difference.
fn adam_expected(
    settings: Adam,
    step: u64,
    before: &Weights,
    g: &[f64],
    g_bound: &[f64],
) -> [Expected; 4] {
    let (w0, m0, v0) = (seen(&before.w), seen(&before.m), seen(&before.v));
    let (mut w, mut m, mut v) = (w0.clone(), m0.clone(), v0.clone());
    let squares = reference::adam::update(settings, step, &mut w, &mut m, &mut v, g);
    let Adam { beta1, beta2, epsilon, l2, .. } = settings;
    let [rest1, rest2] = [beta1, beta2].map(|beta| 1.0 - f64::from(beta));
    let (epsilon, l2) = (f64::from(epsilon), f64::from(l2));
    let rate = reference::adam::rate(settings, step).abs();
    let [mut w_bound, mut m_bound, mut v_bound] = [(); 3].map(|()| vec![0.0; w.len()]);
    for i in 0..w.len() {
        let penalty = (l2 * w0[i]).abs();
        let g_new = (g[i] + l2 * w0[i]).abs();
        let g_off = g_bound[i] + U * (penalty + g_new) + 2.0 * TINY;

        let m_change = rest1 * (g_new + m0[i].abs());
        m_bound[i] = rest1 * g_off + U * (2.0 * m_change + m[i].abs()) + 2.0 * TINY;

        let square_off = (2.0 * g_new + g_off) * g_off + U * g_new * g_new + TINY;
        let v_change = rest2 * (g_new * g_new + v0[i].abs());
        v_bound[i] = rest2 * square_off + U * (2.0 * v_change + v[i].abs()) + 2.0 * TINY;

        let root = v[i].sqrt();
        let root_off = f64::min(v_bound[i] / root, v_bound[i].sqrt()) + U * root;
        let denominator = root + epsilon;
        let denominator_off = root_off + U * denominator;
        let least = f64::max(denominator - denominator_off, epsilon * (1.0 - 2.0 * U));
        let quotient = m[i].abs() / denominator;
        let step = rate * quotient;
        let step_off = (rate * (m_bound[i] + quotient * denominator_off) + TINY) / least;
        w_bound[i] = step_off + 4.0 * U * (step + step_off) + U * w[i].abs() + 2.0 * TINY;
    }
    [
        Expected::new("w", w, w_bound),
        Expected::new("m", m, m_bound),
        Expected::new("v", v, v_bound),
        Expected::new("sum of squares", vec![squares], vec![1e-6 * squares + TINY]),
    ]
}

pub fn adam(checker: &mut Checker, settings: Adam, step: u64, before: &Weights, g: &[f32]) {
    let expected = adam_expected(settings, step, before, &seen(g), &vec![0.0; g.len()]);
    let label = format!("adam::update number {step} of {} {settings:?}", g.len());
    checker.case(&label, &expected, |cpu| {
        let mut now = before.clone();
        let Weights { w, m, v } = &mut now;
        let squares = adam::update(cpu, settings, step, w, m, v, g);
        now.outputs(squares)
    });
}

/// The layer's weight gradient, with its bound, fed to Adam.
pub fn linear_adam(
    checker: &mut Checker,
    shape: LinearShape,
    (x, dy): (&[f32], &[f32]),
    settings: Adam,
    step: u64,
    before: &Weights,
) {
    let LinearShape { rows, inputs, outputs } = shape;
    let over_rows = GemmShape { m: inputs, k: rows, n: outputs };
    let (x64, dy64) = (seen(x), seen(dy));
    let sums = Sums::new(over_rows, (&x64, &dy64), (true, false), OF_FLOATS);
    let g = sums.expected("dw", Write::Overwrite, &[]);
    let expected = adam_expected(settings, step, before, &g.values, &g.bounds);
    let label = format!("linear::backward_weights_adam number {step} {shape:?} {settings:?}");
    checker.case(&label, &expected, |cpu| {
        let mut now = before.clone();
        let Weights { w, m, v } = &mut now;
        let squares = linear::backward_weights_adam(cpu, shape, x, dy, settings, step, w, m, v);
        now.outputs(squares)
    });

    // w as it was: the update may not come first.
    let product = GemmShape { m: rows, k: outputs, n: inputs };
    let sums = Sums::new(product, (&dy64, &seen(&before.w)), (false, true), OF_FLOATS);
    let mut expected = Vec::from(expected);
    expected.push(sums.expected("dx", Write::Overwrite, &[]));
    let label = format!("linear::backward_adam number {step} {shape:?} {settings:?}");
    checker.case(&label, &expected, |cpu| {
        let mut now = before.clone();
        let (Weights { w, m, v }, mut dx) = (&mut now, vec![f32::NAN; x.len()]);
        let squares = linear::backward_adam(cpu, shape, x, dy, settings, step, w, m, v, &mut dx);
        let mut outputs = now.outputs(squares);
        outputs.push(widen(&dx));
        outputs
    });
}
