//! Loss, hits and gradient in one pass.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, labels, numbers, tell_tally, unwritten};
use criterion::Criterion;
use kernelet::kernels::softmax_cross_entropy;
use kernelet::reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Softmax(shape) = layer else { continue };
        let logits = numbers(shape.rows * shape.cols, 1);
        let labels = labels(shape.rows, shape.cols as u32);
        let scale = 1.0 / shape.rows as f32;
        let twin = |[dx, tally]: &mut [Vec<f32>; 2]| {
            let twin = reference::softmax_cross_entropy::forward_backward;
            tell_tally(twin(shape, &logits, &labels, scale, dx), tally);
        };
        let name = format!("softmax_cross_entropy/forward_backward/{name}");
        let start = [unwritten(logits.len()), unwritten(2)];
        let work = Work::bytes(8 * logits.len());
        let mut group = Group::new(criterion, name, work, start, twin);
        group.naive();
        group.auto(|[dx, tally]| {
            auto::softmax_cross_entropy(shape, &logits, &labels, scale, dx, tally);
        });
        group.kernelet(|cpu, [dx, tally]| {
            let kernel = softmax_cross_entropy::forward_backward;
            tell_tally(kernel(cpu, shape, &logits, &labels, scale, dx), tally);
        });
    }
}
