//! The update with momentum: five passes over the weights.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers};
use criterion::Criterion;
use kernelet::kernels::momentum::{Momentum, update};
use kernelet::reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    let settings = Momentum { learning_rate: 1e-5, momentum: 0.95 };
    for (name, layer) in shapes::all() {
        let Layer::Parameters(len) = layer else { continue };
        let g = numbers(len, 3);
        let twin = |[w, v]: &mut [Vec<f32>; 2]| reference::momentum::update(settings, w, v, &g);
        let work = Work::Bytes { moved: 20 * len, working_set: 12 * len };
        let (name, start) = (format!("momentum/{name}"), [numbers(len, 1), numbers(len, 2)]);
        let mut group = Group::new(criterion, name, work, start, twin);
        group.naive();
        group.auto(|[w, v]| auto::momentum(settings, w, v, &g));
        group.kernelet(|cpu, [w, v]| update(cpu, settings, w, v, &g));
    }
}
