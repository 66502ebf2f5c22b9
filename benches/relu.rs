//! ReLU forward and backward.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::relu;
use kernelet::reference::relu as reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Elements(len) = layer else { continue };
        let (x, dy) = (numbers(len, 1), numbers(len, 2));

        let twin = |[y]: &mut [Vec<f32>; 1]| reference::forward(&x, y);
        let (title, work) = (format!("relu/forward/{name}"), Work::bytes(8 * len));
        let mut group = Group::new(criterion, title, work, [unwritten(len)], twin);
        group.naive();
        group.auto(|[y]| auto::relu_forward(&x, y));
        group.kernelet(|cpu, [y]| relu::forward(cpu, &x, y));
        drop(group);

        let twin = |[dx]: &mut [Vec<f32>; 1]| reference::backward(&x, &dy, dx);
        let (title, work) = (format!("relu/backward/{name}"), Work::bytes(12 * len));
        let mut group = Group::new(criterion, title, work, [unwritten(len)], twin);
        group.naive();
        group.auto(|[dx]| auto::relu_backward(&x, &dy, dx));
        group.kernelet(|cpu, [dx]| relu::backward(cpu, &x, &dy, dx));
    }
}
