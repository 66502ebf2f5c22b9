//! Loss and hits of probabilities, and their gradient.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, labels, numbers, tell_tally, unwritten};
use criterion::Criterion;
use kernelet::kernels::cross_entropy;
use kernelet::reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Softmax(shape) = layer else { continue };
        let logits = numbers(shape.rows * shape.cols, 1);
        let mut p = unwritten(logits.len());
        reference::softmax::forward(shape, &logits, &mut p);
        let labels = labels(shape.rows, shape.cols as u32);

        let twin = |[tally]: &mut [Vec<f32>; 1]| {
            tell_tally(reference::cross_entropy::forward(shape, &p, &labels), tally);
        };
        let (title, work) = (format!("cross_entropy/forward/{name}"), Work::bytes(4 * p.len()));
        let mut group = Group::new(criterion, title, work, [unwritten(2)], twin);
        group.naive();
        group.auto(|[tally]| auto::cross_entropy_forward(shape, &p, &labels, tally));
        group.kernelet(|cpu, [tally]| {
            tell_tally(cross_entropy::forward(cpu, shape, &p, &labels), tally);
        });
        drop(group);

        let twin = |[dp]: &mut [Vec<f32>; 1]| {
            reference::cross_entropy::backward(shape, &p, &labels, 1.0, dp);
        };
        let title = format!("cross_entropy/backward/{name}");
        let mut group = Group::new(criterion, title, work, [unwritten(p.len())], twin);
        group.naive();
        group.auto(|[dp]| auto::cross_entropy_backward(shape, &p, &labels, 1.0, dp));
        group.kernelet(|cpu, [dp]| cross_entropy::backward(cpu, shape, &p, &labels, 1.0, dp));
    }
}
