//! Convolutions forward (with ReLU) and backward. faer's rows multiply the columns of the images,
//! which are written out, as one does without a kernel for convolutions.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, layers, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::conv2d;
use kernelet::kernels::gemm::Write;
use kernelet::reference::conv2d as reference;
use kernelet::shape::LinearShape;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Conv2d(shape) = layer else { continue };
        let (taps, filters) = (shape.taps(), shape.filters);
        let pixels = shape.output().pixels().rows;
        let x = numbers(shape.input.batch * shape.input.image_len(), 1);
        let w = numbers(taps * filters, 2);
        let (b, dy) = (numbers(filters, 3), numbers(pixels * filters, 4));
        let write = Write::Overwrite;
        let work = Work::Flops(2.0 * (pixels * taps * filters) as f64);
        let product = LinearShape { rows: pixels, inputs: taps, outputs: filters };
        let mut columns = unwritten(pixels * taps);

        let start = [unwritten(pixels * filters)];
        let twin = |[y]: &mut [Vec<f32>; 1]| reference::forward_relu(shape, &x, &w, &b, y);
        let title = format!("conv2d/forward_relu/{name}");
        let mut group = Group::new(criterion, title, work, start, twin);
        group.naive();
        group.auto(|[y]| auto::conv2d_forward_relu(shape, &x, &w, &b, y));
        group.kernelet(|cpu, [y]| conv2d::forward_relu(cpu, shape, &x, &w, &b, y));
        group.faer(|par, [y]| {
            auto::im2col(shape, &x, &mut columns);
            layers::linear_forward_relu(&layers::faer(par), product, &columns, &w, &b, y);
        });
        drop(group);

        let start = [unwritten(x.len())];
        let twin = |[dx]: &mut [Vec<f32>; 1]| reference::backward_input(shape, &dy, &w, dx);
        let title = format!("conv2d/backward_input/{name}");
        let mut group = Group::new(criterion, title, work, start, twin);
        group.naive();
        group.auto(|[dx]| auto::conv2d_backward_input(shape, &dy, &w, dx));
        group.kernelet(|cpu, [dx]| conv2d::backward_input(cpu, shape, &dy, &w, dx));
        group.faer(|par, [dx]| {
            layers::linear_backward_input(&layers::faer(par), product, &dy, &w, &mut columns);
            auto::col2im(shape, &columns, dx);
        });
        drop(group);

        let start = [unwritten(w.len()), unwritten(filters)];
        let twin = |[dw, db]: &mut [Vec<f32>; 2]| {
            reference::backward_weights(shape, &x, &dy, write, dw, db);
        };
        let title = format!("conv2d/backward_weights/{name}");
        let mut group = Group::new(criterion, title, work, start, twin).tolerance(1e-4);
        group.naive();
        group.auto(|[dw, db]| {
            auto::conv2d_backward_weights(shape, &x, &dy, dw);
            auto::column_sums(&dy, db);
        });
        group.kernelet(|cpu, [dw, db]| {
            conv2d::backward_weights(cpu, shape, &x, &dy, write, dw, db);
        });
        group.faer(|par, [dw, db]| {
            auto::im2col(shape, &x, &mut columns);
            layers::linear_backward_weights(&layers::faer(par), product, &columns, &dy, dw, db);
        });
    }
}
