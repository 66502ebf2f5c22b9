//! e^x of numbers in [-10, 10).

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::exp;
use kernelet::reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Elements(len) = layer else { continue };
        let x: Vec<_> = numbers(len, 1).iter().map(|x| 20.0 * x).collect();
        let twin = |[y]: &mut [Vec<f32>; 1]| reference::exp::forward(&x, y);
        let (name, work) = (format!("exp/{name}"), Work::bytes(8 * len));
        let mut group = Group::new(criterion, name, work, [unwritten(len)], twin);
        group.naive();
        group.auto(|[y]| auto::exp_forward(&x, y));
        group.kernelet(|cpu, [y]| exp::forward(cpu, &x, y));
    }
}
