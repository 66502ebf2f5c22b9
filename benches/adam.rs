//! Adam's update with its gradient given; and, for the study's 4.9 million weights, with the product
//! that makes the gradient, fused and not. The plain loops skip the sum of squares of the weights,
//! which the kernel and its twin return.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, layers, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::adam::{self, Adam};
use kernelet::kernels::gemm::Write;
use kernelet::kernels::linear;
use kernelet::reference;
use kernelet::shape::LinearShape;

/// A number of the update without much left of the moments' correction.
const STEP: u64 = 9;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Parameters(len) = layer else { continue };
        update(criterion, name, len);
    }
    with_product(criterion);
}

/// Weights and both moments before the update.
fn start(len: usize) -> [Vec<f32>; 3] {
    [numbers(len, 1), vec![0.0; len], vec![0.0; len]]
}

fn update(criterion: &mut Criterion, name: String, len: usize) {
    let (settings, g) = (Adam::default(), numbers(len, 3));
    let twin = |[w, m, v]: &mut [Vec<f32>; 3]| {
        reference::adam::update(settings, STEP, w, m, v, &g);
    };
    let work = Work::Bytes { moved: 28 * len, working_set: 16 * len };
    let name = format!("adam/update/{name}");
    let mut group = Group::new(criterion, name, work, start(len), twin);
    group.naive();
    group.auto(|[w, m, v]| auto::adam(settings, STEP, w, m, v, &g));
    group.kernelet(|cpu, [w, m, v]| {
        adam::update(cpu, settings, STEP, w, m, v, &g);
    });
}

fn with_product(criterion: &mut Criterion) {
    let settings = Adam::default();
    let shape = LinearShape { rows: 32, inputs: 6272, outputs: 784 };
    let x = numbers(shape.rows * shape.inputs, 1);
    let dy = numbers(shape.rows * shape.outputs, 2);
    let len = shape.inputs * shape.outputs;
    let (mut dw, mut db) = (unwritten(len), unwritten(shape.outputs));
    let twin = |[w, m, v]: &mut [Vec<f32>; 3]| {
        reference::linear::backward_weights_adam(shape, &x, &dy, settings, STEP, w, m, v);
    };
    let work = Work::Flops(2.0 * (shape.rows * len) as f64);

    let name = "adam/backward_weights_then_update/study/cnn_w1".into();
    let mut group = Group::new(criterion, name, work, start(len), twin).tolerance(1e-4);
    group.naive();
    group.auto(|[w, m, v]| {
        layers::linear_backward_weights(&auto::gemm, shape, &x, &dy, &mut dw, &mut db);
        auto::adam(settings, STEP, w, m, v, &dw);
    });
    group.kernelet(|cpu, [w, m, v]| {
        linear::backward_weights(cpu, shape, &x, &dy, Write::Overwrite, &mut dw, &mut db);
        adam::update(cpu, settings, STEP, w, m, v, &dw);
    });
    group.faer(|par, [w, m, v]| {
        layers::linear_backward_weights(&layers::faer(par), shape, &x, &dy, &mut dw, &mut db);
        auto::adam(settings, STEP, w, m, v, &dw);
    });
    drop(group);

    let name = "adam/backward_weights_adam/study/cnn_w1".into();
    let mut group = Group::new(criterion, name, work, start(len), twin).tolerance(1e-4);
    group.kernelet(|cpu, [w, m, v]| {
        linear::backward_weights_adam(cpu, shape, &x, &dy, settings, STEP, w, m, v);
    });
    drop(group);

    // The gradient of x as well: two products, with w read twice or once.
    let work = Work::Flops(4.0 * (shape.rows * len) as f64);
    let mut dx = unwritten(shape.rows * shape.inputs);
    let name = "adam/backward_input_then_weights_adam/study/cnn_w1".into();
    let mut group = Group::new(criterion, name, work, start(len), twin).tolerance(1e-4);
    group.kernelet(|cpu, [w, m, v]| {
        linear::backward_input(cpu, shape, &dy, w, &mut dx);
        linear::backward_weights_adam(cpu, shape, &x, &dy, settings, STEP, w, m, v);
    });
    drop(group);

    let name = "adam/backward_adam/study/cnn_w1".into();
    let mut group = Group::new(criterion, name, work, start(len), twin).tolerance(1e-4);
    group.kernelet(|cpu, [w, m, v]| {
        linear::backward_adam(cpu, shape, &x, &dy, settings, STEP, w, m, v, &mut dx);
    });
}
