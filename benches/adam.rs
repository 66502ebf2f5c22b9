//! Adam's update with its gradient given. The plain loops skip the sum of squares of the weights, which the
//! kernel and its twin return.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers};
use criterion::Criterion;
use kernelet::kernels::adam::{self, Adam};
use kernelet::reference;

/// A number of the update without much left of the moments' correction.
const STEP: u64 = 9;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Parameters(len) = layer else { continue };
        update(criterion, name, len);
    }
}

fn update(criterion: &mut Criterion, name: String, len: usize) {
    let (settings, g) = (Adam::default(), numbers(len, 3));
    let twin = |[w, m, v]: &mut [Vec<f32>; 3]| {
        reference::adam::update(settings, STEP, w, m, v, &g);
    };
    let work = Work::Bytes { moved: 28 * len, working_set: 16 * len };
    let name = format!("adam/update/{name}");
    // Weights and both moments before the update.
    let start = [numbers(len, 1), vec![0.0; len], vec![0.0; len]];
    let mut group = Group::new(criterion, name, work, start, twin);
    group.naive();
    group.auto(|[w, m, v]| auto::adam(settings, STEP, w, m, v, &g));
    group.kernelet(|cpu, [w, m, v]| {
        adam::update(cpu, settings, STEP, w, m, v, &g);
    });
}
