//! Every function of every kernel against its twin in `reference`, computed in `f64`, on given
//! inputs. The bounds are those of the kernels' docs, each with its derivation where it takes one;
//! [`TINY`] stands for the roundings of results below the normal range.

use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::softmax_cross_entropy::Tally;
use kernelet::kernels::{
    cross_entropy, exp, gemm, linear, momentum, relu, softmax, softmax_cross_entropy,
};
use kernelet::reference;
use kernelet::shape::{LinearShape, MatrixShape};

use super::{Checker, Expected, TINY, U, abs, narrow, ulp, widen};

const WRITES: [Write; 2] = [Write::Overwrite, Write::Add];

/// A destination's content before the kernel: NaN if it is to be overwritten.
fn destination(write: Write, content: &[f32]) -> Vec<f32> {
    match write {
        Write::Overwrite => vec![f32::NAN; content.len()],
        Write::Add => content.to_vec(),
    }
}

/// C = or += A B with both operands as they are and transposed.
pub fn gemm(checker: &mut Checker, shape: GemmShape, a: &[f32], b: &[f32], c: &[f32]) {
    let (a64, b64) = (widen(a), widen(b));
    for transposed in [(false, false), (false, true), (true, false), (true, true)] {
        for write in WRITES {
            let label = format!("gemm {shape:?} transposed {transposed:?} {write:?}");
            let before = destination(write, c);
            let expected = product("c", shape, (&a64, &b64), transposed, write, &widen(&before));
            checker.case(&label, &[expected], |cpu| {
                let operand =
                    |data, transposed| if transposed { Matrix::T(data) } else { Matrix::N(data) };
                let mut c = before.clone();
                let (a, b) = (operand(a, transposed.0), operand(b, transposed.1));
                gemm::gemm(cpu, shape, a, b, write, &mut c);
                vec![widen(&c)]
            });
        }
    }
}

/// The product, with the bound k 2^-24 sum |a b|, and one rounding more if it is added to c.
fn product(
    name: &'static str,
    shape: GemmShape,
    (a, b): (&[f64], &[f64]),
    (a_transposed, b_transposed): (bool, bool),
    write: Write,
    c: &[f64],
) -> Expected {
    let mut value = c.to_vec();
    reference::gemm::gemm(shape, (a, a_transposed), (b, b_transposed), write, &mut value);
    let mut bound = abs(c);
    let (a, b) = (abs(a), abs(b));
    reference::gemm::gemm(shape, (&a, a_transposed), (&b, b_transposed), write, &mut bound);
    let k = shape.k as f64;
    let roundings = if write == Write::Add { k + 1.0 } else { k };
    bound.iter_mut().for_each(|bound| *bound = roundings * U * *bound + k * TINY);
    Expected::new(name, value, bound)
}

/// The inputs of a linear layer's forward and backward.
pub struct Linear {
    pub shape: LinearShape,
    pub x: Vec<f32>,
    pub w: Vec<f32>,
    pub b: Vec<f32>,
    pub dy: Vec<f32>,
    /// What dw and db are added to.
    pub dw: Vec<f32>,
    pub db: Vec<f32>,
}

pub fn linear(checker: &mut Checker, inputs: &Linear) {
    let Linear { shape, x, w, b, dy, .. } = inputs;
    let shape = *shape;
    let LinearShape { rows, inputs: k, outputs } = shape;
    let (x64, w64, b64, dy64) = (widen(x), widen(w), widen(b), widen(dy));

    // A product and the rounding of the bias: (k + 1) 2^-24 (sum |x w| + |b|).
    let mut y64 = vec![f64::NAN; rows * outputs];
    let mut bound = y64.clone();
    reference::linear::forward(shape, &x64, &w64, &b64, &mut y64);
    reference::linear::forward(shape, &abs(&x64), &abs(&w64), &abs(&b64), &mut bound);
    bound.iter_mut().for_each(|bound| *bound = (k as f64 + 1.0) * U * *bound + k as f64 * TINY);
    let expected = Expected::new("y", y64.clone(), bound.clone());
    checker.case(&format!("linear::forward {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; rows * outputs];
        linear::forward(cpu, shape, x, w, b, &mut y);
        vec![widen(&y)]
    });

    // ReLU is exact and brings no two numbers further apart.
    reference::linear::forward_relu(shape, &x64, &w64, &b64, &mut y64);
    let expected = Expected::new("y", y64, bound);
    checker.case(&format!("linear::forward_relu {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; rows * outputs];
        linear::forward_relu(cpu, shape, x, w, b, &mut y);
        vec![widen(&y)]
    });

    let back = GemmShape { m: rows, k: outputs, n: k };
    let nan = vec![f64::NAN; rows * k];
    let mut expected = product("dx", back, (&dy64, &w64), (false, true), Write::Overwrite, &nan);
    reference::linear::backward_input(shape, &dy64, &w64, &mut expected.values);
    checker.case(&format!("linear::backward_input {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; rows * k];
        linear::backward_input(cpu, shape, dy, w, &mut dx);
        vec![widen(&dx)]
    });

    let mut expected = product("dx", back, (&dy64, &w64), (false, true), Write::Overwrite, &nan);
    reference::linear::backward_input_relu(shape, &dy64, &w64, &x64, &mut expected.values);
    for (bound, &x) in expected.bounds.iter_mut().zip(x) {
        // What ReLU held back is zero, exactly.
        *bound = if x > 0.0 { *bound } else { 0.0 };
    }
    checker.case(&format!("linear::backward_input_relu {shape:?}"), &[expected], |cpu| {
        let mut dx = vec![f32::NAN; rows * k];
        linear::backward_input_relu(cpu, shape, dy, w, x, &mut dx);
        vec![widen(&dx)]
    });

    for write in WRITES {
        let (dw, db) = (destination(write, &inputs.dw), destination(write, &inputs.db));
        let (mut dw64, mut db64) = (widen(&dw), widen(&db));
        let over_rows = GemmShape { m: k, k: rows, n: outputs };
        let mut expected_dw = product("dw", over_rows, (&x64, &dy64), (true, false), write, &dw64);
        let mut bound = abs(&db64);
        let (no_x, mut no_dw) = (vec![0.0; rows * k], vec![0.0; k * outputs]);
        reference::linear::backward_weights(
            shape,
            &no_x,
            &abs(&dy64),
            write,
            &mut no_dw,
            &mut bound,
        );
        // Rows are summed 64 at a time, then the sums, then what was there.
        let roundings = (rows.min(64) + rows.div_ceil(64)) as f64;
        bound.iter_mut().for_each(|bound| *bound *= roundings * U);
        reference::linear::backward_weights(shape, &x64, &dy64, write, &mut dw64, &mut db64);
        expected_dw.values = dw64;
        let expected = [expected_dw, Expected::new("db", db64, bound)];
        let label = format!("linear::backward_weights {shape:?} {write:?}");
        checker.case(&label, &expected, |cpu| {
            let (mut dw, mut db) = (dw.clone(), db.clone());
            linear::backward_weights(cpu, shape, x, dy, write, &mut dw, &mut db);
            vec![widen(&dw), widen(&db)]
        });
    }
}

/// The relative error that a softmax's docs allow for each element of x.
pub fn softmax_relative(shape: MatrixShape, x: &[f64]) -> Vec<f64> {
    let mut relative = Vec::with_capacity(x.len());
    for row in x.chunks_exact(shape.cols.max(1)) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let fixed = 6.0 + shape.cols as f64 / 8.0;
        relative.extend(row.iter().map(|x| U * (fixed + (x - max).abs())));
    }
    relative
}

pub fn softmax(checker: &mut Checker, shape: MatrixShape, x: &[f32], dy: &[f32]) {
    let x64 = widen(x);
    let mut y64 = vec![f64::NAN; x.len()];
    reference::softmax::forward(shape, &x64, &mut y64);
    let relative = softmax_relative(shape, &x64);
    // A subnormal e^(x - max) is 2 units off, a subnormal quotient another half.
    let bound = y64.iter().zip(&relative).map(|(y, relative)| y * relative + 3.0 * TINY);
    let expected = Expected::new("y", y64.clone(), bound.collect());
    checker.case(&format!("softmax::forward {shape:?}"), &[expected], |cpu| {
        let mut y = vec![f32::NAN; x.len()];
        softmax::forward(cpu, shape, x, &mut y);
        vec![widen(&y)]
    });

    // dx = y (dy - dot): cols roundings in the dot product, one in the difference, one in the
    // product.
    let y = narrow(&y64);
    let (y64, dy64) = (widen(&y), widen(dy));
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
    let logits64 = widen(logits);
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
    let per_row = U * (6.0 + shape.cols as f64 / 8.0);
    let bounds = vec![shape.rows as f64 * per_row + 1e-12 * tally.loss, 0.0, 0.0];
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
    twin(shape, &widen(&p), labels, f64::from(scale), &mut dlogits64);
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
    let p64 = widen(probabilities);
    // In f64 on both sides; only the order of the sum may differ.
    let tally = reference::cross_entropy::forward(shape, &p64, labels);
    let bounds = vec![1e-12 * tally.loss.abs(), 0.0, 0.0];
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

/// Exact, down to the sign of zero.
pub fn relu(checker: &mut Checker, x: &[f32], dy: &[f32]) {
    // The sign tells +0 from -0.
    let with_signs = |y: &[f32]| vec![widen(y), y.iter().map(|&y| f64::from(y.signum())).collect()];
    let expect = |y: &[f32]| {
        let [values, signs] = with_signs(y).try_into().expect("two outputs");
        [Expected::exact("values", values), Expected::exact("signs", signs)]
    };
    let mut y = vec![f32::NAN; x.len()];
    reference::relu::forward(x, &mut y);
    checker.case(&format!("relu::forward of {}", x.len()), &expect(&y), |cpu| {
        let mut y = vec![f32::NAN; x.len()];
        relu::forward(cpu, x, &mut y);
        with_signs(&y)
    });
    let mut dx = vec![f32::NAN; x.len()];
    reference::relu::backward(x, dy, &mut dx);
    checker.case(&format!("relu::backward of {}", x.len()), &expect(&dx), |cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        relu::backward(cpu, x, dy, &mut dx);
        with_signs(&dx)
    });
}

pub fn momentum(checker: &mut Checker, settings: Momentum, w: &[f32], v: &[f32], g: &[f32]) {
    let rate = f64::from(settings.learning_rate);
    let share = f64::from(settings.momentum);
    let (mut w64, mut v64) = (widen(w), widen(v));
    reference::momentum::update(rate, share, &mut w64, &mut v64, &widen(g));
    // v: a rounding each of both products and of their sum; w: v's error and one rounding.
    let v_bound: Vec<f64> = (v64.iter().zip(v).zip(g))
        .map(|((new, &v), &g)| {
            let products = (share * f64::from(v)).abs() + (rate * f64::from(g)).abs();
            U * (products + new.abs()) + TINY
        })
        .collect();
    let w_bound =
        w64.iter().zip(&v_bound).map(|(w, bound)| bound * (1.0 + U) + U * w.abs()).collect();
    let expected = [
        Expected::new("v", v64, v_bound),
        Expected::new("w", w64, w_bound),
        Expected::exact("wrong w - v", vec![0.0]),
    ];
    checker.case(&format!("momentum::update of {}", w.len()), &expected, |cpu| {
        let (mut new_w, mut new_v) = (w.to_vec(), v.to_vec());
        momentum::update(cpu, settings, &mut new_w, &mut new_v, g);
        // Given the velocity, w is exact to the bit.
        let wrong = (w.iter().zip(&new_v).zip(&new_w))
            .filter(|((w, v), new)| **w - **v != **new && !new.is_nan())
            .count();
        vec![widen(&new_v), widen(&new_w), vec![wrong as f64]]
    });
}

pub fn exp(checker: &mut Checker, x: &[f32]) {
    let mut y64 = vec![f64::NAN; x.len()];
    reference::exp::forward(&widen(x), &mut y64);
    let bound = y64.iter().map(|&y| exp::MAX_ERROR_ULPS * ulp(y)).collect();
    let expected = Expected::new("y", y64, bound);
    checker.case(&format!("exp::forward of {}", x.len()), &[expected], |cpu| {
        let mut y = vec![f32::NAN; x.len()];
        exp::forward(cpu, x, &mut y);
        vec![widen(&y)]
    });
}
