//! Maximum pools forward and backward.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, cpus, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::max_pool;
use kernelet::reference::max_pool as reference;
use kernelet::shape::PoolShape;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::MaxPool(shape) = layer else { continue };
        let x = numbers(shape.input.batch * shape.input.image_len(), 1);
        let dy = numbers(shape.output().batch * shape.output().image_len(), 2);
        // Four bytes an element, and one for the place of the largest.
        let work = Work::bytes(4 * x.len() + 5 * dy.len());
        let mut places = vec![0_u8; dy.len()];
        let mut argmax = places.clone();

        let twin = |[y]: &mut [Vec<f32>; 1]| reference::forward(shape, &x, y, &mut places);
        let title = format!("max_pool/forward/{name}");
        let mut group = Group::new(criterion, title, work, [unwritten(dy.len())], twin)
            .check(|| check_places(shape, &x));
        group.naive();
        group.auto(|[y]| auto::max_pool_forward(shape, &x, y, &mut argmax));
        group.kernelet(|cpu, [y]| max_pool::forward(cpu, shape, &x, y, &mut argmax));
        drop(group);

        reference::forward(shape, &x, &mut unwritten(dy.len()), &mut argmax);
        let twin = |[dx]: &mut [Vec<f32>; 1]| reference::backward(shape, &argmax, &dy, dx);
        let title = format!("max_pool/backward/{name}");
        let mut group = Group::new(criterion, title, work, [unwritten(x.len())], twin);
        group.naive();
        group.auto(|[dx]| auto::max_pool_backward(shape, &argmax, &dy, dx));
        group.kernelet(|cpu, [dx]| max_pool::backward(cpu, shape, &argmax, &dy, dx));
    }
}

/// Panics unless everybody finds the largest element in the twin's place.
fn check_places(shape: PoolShape, x: &[f32]) {
    let mut y = unwritten(shape.output().batch * shape.output().image_len());
    let (mut twins, mut ours) = (vec![0; y.len()], vec![0; y.len()]);
    reference::forward(shape, x, &mut y, &mut twins);
    let mut check = |who: String, run: &dyn Fn(&mut [f32], &mut [u8])| {
        ours.fill(u8::MAX);
        run(&mut y, &mut ours);
        assert!(ours == twins, "{who} finds the largest elsewhere");
    };
    check("auto".into(), &|y, argmax| auto::max_pool_forward(shape, x, y, argmax));
    for cpu in cpus() {
        check(cpu.isa().to_string(), &|y, argmax| max_pool::forward(&cpu, shape, x, y, argmax));
    }
}
