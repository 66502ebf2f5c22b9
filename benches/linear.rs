//! Linear layers: forward with bias and ReLU, and both backward passes.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, layers, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::gemm::Write;
use kernelet::kernels::linear;
use kernelet::reference::linear as reference;
use kernelet::shape::LinearShape;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Linear(shape) = layer else { continue };
        let LinearShape { rows, inputs, outputs } = shape;
        let (x, w) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2));
        let (b, dy) = (numbers(outputs, 3), numbers(rows * outputs, 4));
        let work = Work::Flops(2.0 * (rows * inputs * outputs) as f64);
        let write = Write::Overwrite;

        let start = [unwritten(rows * outputs)];
        let twin = |[y]: &mut [Vec<f32>; 1]| reference::forward_relu(shape, &x, &w, &b, y);
        let title = format!("linear/forward_relu/{name}");
        let mut group = Group::new(criterion, title, work, start, twin);
        group.naive();
        group.auto(|[y]| layers::linear_forward_relu(&auto::gemm, shape, &x, &w, &b, y));
        group.kernelet(|cpu, [y]| linear::forward_relu(cpu, shape, &x, &w, &b, y));
        group.faer(|par, [y]| {
            layers::linear_forward_relu(&layers::faer(par), shape, &x, &w, &b, y);
        });
        drop(group);

        let start = [unwritten(rows * inputs)];
        let twin = |[dx]: &mut [Vec<f32>; 1]| {
            reference::backward_input_relu(shape, &dy, &w, &x, dx);
        };
        let title = format!("linear/backward_input_relu/{name}");
        let mut group = Group::new(criterion, title, work, start, twin);
        group.naive();
        group.auto(|[dx]| {
            layers::linear_backward_input_relu(&auto::gemm, shape, &dy, &w, &x, dx);
        });
        group.kernelet(|cpu, [dx]| linear::backward_input_relu(cpu, shape, &dy, &w, &x, dx));
        group.faer(|par, [dx]| {
            layers::linear_backward_input_relu(&layers::faer(par), shape, &dy, &w, &x, dx);
        });
        drop(group);

        let start = [unwritten(inputs * outputs), unwritten(outputs)];
        let twin = |[dw, db]: &mut [Vec<f32>; 2]| {
            reference::backward_weights(shape, &x, &dy, write, dw, db);
        };
        let title = format!("linear/backward_weights/{name}");
        let mut group = Group::new(criterion, title, work, start, twin);
        group.naive();
        group.auto(|[dw, db]| {
            layers::linear_backward_weights(&auto::gemm, shape, &x, &dy, dw, db);
        });
        group.kernelet(|cpu, [dw, db]| {
            linear::backward_weights(cpu, shape, &x, &dy, write, dw, db);
        });
        group.faer(|par, [dw, db]| {
            layers::linear_backward_weights(&layers::faer(par), shape, &x, &dy, dw, db);
        });
    }
}
