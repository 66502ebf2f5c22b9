//! Softmax forward and backward: on ten classes (all tail to a vector unit) and on wide rows.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::softmax;
use kernelet::reference::softmax as reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Softmax(shape) = layer else { continue };
        let (x, dy) = (numbers(shape.rows * shape.cols, 1), numbers(shape.rows * shape.cols, 2));

        let twin = |[y]: &mut [Vec<f32>; 1]| reference::forward(shape, &x, y);
        let (title, work) = (format!("softmax/forward/{name}"), Work::bytes(8 * x.len()));
        let mut group = Group::new(criterion, title, work, [unwritten(x.len())], twin);
        group.naive();
        group.auto(|[y]| auto::softmax_forward(shape, &x, y));
        group.kernelet(|cpu, [y]| softmax::forward(cpu, shape, &x, y));
        drop(group);

        let mut y = unwritten(x.len());
        reference::forward(shape, &x, &mut y);
        let twin = |[dx]: &mut [Vec<f32>; 1]| reference::backward(shape, &y, &dy, dx);
        let (title, work) = (format!("softmax/backward/{name}"), Work::bytes(12 * x.len()));
        let mut group = Group::new(criterion, title, work, [unwritten(x.len())], twin);
        group.naive();
        group.auto(|[dx]| auto::softmax_backward(shape, &y, &dy, dx));
        group.kernelet(|cpu, [dx]| softmax::backward(cpu, shape, &y, &dy, dx));
    }
}
