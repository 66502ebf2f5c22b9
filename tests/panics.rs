//! A slice that does not fit the shape is a panic that names both lengths; a label that is no
//! class is a panic that names the row and the label.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{for_each_cpu, panic_message};
use kernelet::Cpu;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::{
    cross_entropy, exp, gemm, linear, momentum, relu, softmax, softmax_cross_entropy,
};
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{Mlp, MlpShape};
use kernelet::shape::{LinearShape, MatrixShape};

const LAYER: LinearShape = LinearShape { rows: 5, inputs: 7, outputs: 3 };
const MATRIX: MatrixShape = MatrixShape { rows: 5, cols: 7 };
const MLP: MlpShape = MlpShape { inputs: 7, hidden: 3, classes: 2 };

/// The message with which `body` panics.
fn panic_of(body: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(body)).err().map(|panic| panic_message(&*panic))
}

fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

fn labels(len: usize) -> Vec<u32> {
    vec![0; len]
}

/// A kernel, the lengths of its slices that fit its shape, and a call with any lengths.
type Case = (&'static str, &'static [usize], fn(&Cpu, &[usize]));

const CASES: &[Case] = &[
    ("gemm", &[6, 8, 12], |cpu, n| {
        let shape = GemmShape { m: 3, k: 2, n: 4 };
        let (a, b) = (zeros(n[0]), zeros(n[1]));
        gemm::gemm(cpu, shape, Matrix::N(&a), Matrix::N(&b), Write::Add, &mut zeros(n[2]));
    }),
    ("gemm, transposed, empty sum", &[0, 0, 12], |cpu, n| {
        let shape = GemmShape { m: 3, k: 0, n: 4 };
        let (a, b) = (zeros(n[0]), zeros(n[1]));
        gemm::gemm(cpu, shape, Matrix::T(&a), Matrix::T(&b), Write::Add, &mut zeros(n[2]));
    }),
    ("linear::forward", &[35, 21, 3, 15], |cpu, n| {
        let (x, w, b) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        linear::forward(cpu, LAYER, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("linear::forward_relu", &[35, 21, 3, 15], |cpu, n| {
        let (x, w, b) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        linear::forward_relu(cpu, LAYER, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("linear::backward_input", &[15, 21, 35], |cpu, n| {
        linear::backward_input(cpu, LAYER, &zeros(n[0]), &zeros(n[1]), &mut zeros(n[2]));
    }),
    ("linear::backward_input_relu", &[15, 21, 35, 35], |cpu, n| {
        let (dy, w, x) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        linear::backward_input_relu(cpu, LAYER, &dy, &w, &x, &mut zeros(n[3]));
    }),
    ("linear::backward_weights", &[35, 15, 21, 3], |cpu, n| {
        let (x, dy, mut dw, mut db) = (zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3]));
        linear::backward_weights(cpu, LAYER, &x, &dy, Write::Overwrite, &mut dw, &mut db);
    }),
    ("softmax::forward", &[35, 35], |cpu, n| {
        softmax::forward(cpu, MATRIX, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("softmax::backward", &[35, 35, 35], |cpu, n| {
        softmax::backward(cpu, MATRIX, &zeros(n[0]), &zeros(n[1]), &mut zeros(n[2]));
    }),
    ("softmax_cross_entropy::forward", &[35, 5], |cpu, n| {
        let _ = softmax_cross_entropy::forward(cpu, MATRIX, &zeros(n[0]), &labels(n[1]));
    }),
    ("softmax_cross_entropy::forward_backward", &[35, 5, 35], |cpu, n| {
        let (z, labels, mut dz) = (zeros(n[0]), labels(n[1]), zeros(n[2]));
        softmax_cross_entropy::forward_backward(cpu, MATRIX, &z, &labels, 1.0, &mut dz);
    }),
    ("softmax_cross_entropy::backward", &[35, 5, 35], |cpu, n| {
        let (p, labels, mut dz) = (zeros(n[0]), labels(n[1]), zeros(n[2]));
        softmax_cross_entropy::backward(cpu, MATRIX, &p, &labels, 1.0, &mut dz);
    }),
    ("cross_entropy::forward", &[35, 5], |cpu, n| {
        let _ = cross_entropy::forward(cpu, MATRIX, &zeros(n[0]), &labels(n[1]));
    }),
    ("cross_entropy::backward", &[35, 5, 35], |cpu, n| {
        let (p, labels, mut dp) = (zeros(n[0]), labels(n[1]), zeros(n[2]));
        cross_entropy::backward(cpu, MATRIX, &p, &labels, 1.0, &mut dp);
    }),
    ("momentum::update", &[9, 9, 9], |cpu, n| {
        let settings = Momentum { learning_rate: 0.1, momentum: 0.9 };
        momentum::update(cpu, settings, &mut zeros(n[0]), &mut zeros(n[1]), &zeros(n[2]));
    }),
    ("relu::forward", &[9, 9], |cpu, n| {
        relu::forward(cpu, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("relu::backward", &[9, 9, 9], |cpu, n| {
        relu::backward(cpu, &zeros(n[0]), &zeros(n[1]), &mut zeros(n[2]));
    }),
    ("exp::forward", &[9, 9], |cpu, n| {
        exp::forward(cpu, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("Mlp::evaluate", &[35, 5], |cpu, n| {
        let mut work = Workspace::default();
        let _ = Mlp::zeros(MLP).evaluate(cpu, &mut work, &zeros(n[0]), &labels(n[1]));
    }),
    ("Mlp::predict", &[35, 10], |cpu, n| {
        let mut work = Workspace::default();
        Mlp::zeros(MLP).predict(cpu, &mut work, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("Mlp::gradients", &[35, 5], |cpu, n| {
        let (mut work, mut gradients) = (Workspace::default(), Mlp::zeros(MLP));
        let (x, labels) = (zeros(n[0]), labels(n[1]));
        let _ = Mlp::zeros(MLP).gradients(cpu, &mut work, &x, &labels, 1.0, &mut gradients);
    }),
];

#[test]
fn lengths_that_do_not_fit_are_named() {
    let mut failures = Vec::new();
    for_each_cpu(|cpu| {
        for (kernel, fitting, call) in CASES {
            if let Some(message) = panic_of(|| call(cpu, fitting)) {
                failures.push(format!("{kernel} {fitting:?} on {cpu:?}: {message}"));
            }
            for slice in 0..fitting.len() {
                for wrong in [0, 1, fitting[slice].wrapping_sub(1), fitting[slice] + 1, 1000] {
                    let right = fitting[slice];
                    if wrong == right || wrong == usize::MAX {
                        continue;
                    }
                    let mut lengths = fitting.to_vec();
                    lengths[slice] = wrong;
                    let message = panic_of(|| call(cpu, &lengths)).unwrap_or_default();
                    let numbers: Vec<_> = message.split(|c: char| !c.is_ascii_digit()).collect();
                    let named = |number: usize| numbers.contains(&number.to_string().as_str());
                    // A network has no shape argument: its rows come from the slices.
                    let both = named(wrong) && (named(right) || kernel.starts_with("Mlp::"));
                    if !both || !message.contains("elements, but its shape is") {
                        failures.push(format!("{kernel} {lengths:?} on {cpu:?}: {message:?}"));
                    }
                }
            }
        }
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn an_overflowing_shape_is_refused() {
    for_each_cpu(|cpu| {
        let shape = MatrixShape { rows: 1 << 63, cols: 2 };
        let message = panic_of(|| softmax::forward(cpu, shape, &[], &mut [])).unwrap_or_default();
        assert!(message.contains("x has 0 elements"), "{message:?} on {cpu:?}");
        assert!(message.contains("9223372036854775808 x 2"), "{message:?} on {cpu:?}");
    });
}

#[test]
fn labels_that_are_no_class_are_named() {
    let values = zeros(MATRIX.rows * MATRIX.cols);
    type Call<'a> = &'a dyn Fn(&Cpu, &[u32]);
    let calls: [(&str, Call); 5] = [
        ("softmax_cross_entropy::forward", &|cpu, labels| {
            let _ = softmax_cross_entropy::forward(cpu, MATRIX, &values, labels);
        }),
        ("softmax_cross_entropy::forward_backward", &|cpu, labels| {
            let mut dlogits = values.clone();
            softmax_cross_entropy::forward_backward(
                cpu,
                MATRIX,
                &values,
                labels,
                1.0,
                &mut dlogits,
            );
        }),
        ("softmax_cross_entropy::backward", &|cpu, labels| {
            let mut dlogits = values.clone();
            softmax_cross_entropy::backward(cpu, MATRIX, &values, labels, 1.0, &mut dlogits);
        }),
        ("cross_entropy::forward", &|cpu, labels| {
            let _ = cross_entropy::forward(cpu, MATRIX, &values, labels);
        }),
        ("cross_entropy::backward", &|cpu, labels| {
            let mut dp = values.clone();
            cross_entropy::backward(cpu, MATRIX, &values, labels, 1.0, &mut dp);
        }),
    ];
    let mut failures = Vec::new();
    for_each_cpu(|cpu| {
        for (kernel, call) in calls {
            if let Some(message) = panic_of(|| call(cpu, &[0, 1, 2, 3, 6])) {
                failures.push(format!("{kernel} with good labels on {cpu:?}: {message}"));
            }
            for row in 0..MATRIX.rows {
                for label in [7, 255, u32::MAX] {
                    let mut labels = labels(MATRIX.rows);
                    labels[row] = label;
                    let message = panic_of(|| call(cpu, &labels));
                    let wanted = format!("label {label} of row {row} is not below the 7 classes");
                    if message.as_ref() != Some(&wanted) {
                        failures.push(format!("{kernel} on {cpu:?}: {message:?}, not {wanted}"));
                    }
                }
            }
        }
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
