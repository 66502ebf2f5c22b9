//! Average pools forward and backward.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::avg_pool;
use kernelet::reference::avg_pool as reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::AvgPool(shape) = layer else { continue };
        let x = numbers(shape.input.batch * shape.input.image_len(), 1);
        let dy = numbers(shape.output().batch * shape.output().image_len(), 2);
        let work = Work::bytes(4 * (x.len() + dy.len()));

        let twin = |[y]: &mut [Vec<f32>; 1]| reference::forward(shape, &x, y);
        let title = format!("avg_pool/forward/{name}");
        let mut group = Group::new(criterion, title, work, [unwritten(dy.len())], twin);
        group.naive();
        group.auto(|[y]| auto::avg_pool_forward(shape, &x, y));
        group.kernelet(|cpu, [y]| avg_pool::forward(cpu, shape, &x, y));
        drop(group);

        let twin = |[dx]: &mut [Vec<f32>; 1]| reference::backward(shape, &dy, dx);
        let title = format!("avg_pool/backward/{name}");
        let mut group = Group::new(criterion, title, work, [unwritten(x.len())], twin);
        group.naive();
        group.auto(|[dx]| auto::avg_pool_backward(shape, &dy, dx));
        group.kernelet(|cpu, [dx]| avg_pool::backward(cpu, shape, &dy, dx));
    }
}
