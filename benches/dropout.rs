//! Dropout, in place. What is kept grows from call to call and ends at infinity, which is divided as
//! fast as anything. The twin sets up the random numbers anew for every element.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, numbers};
use criterion::Criterion;
use kernelet::kernels::dropout::{self, Dropout};
use kernelet::reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    let dropout = Dropout { keep: 0.5, seed: 1, step: 1 };
    for (name, layer) in shapes::all() {
        let Layer::Elements(len) = layer else { continue };
        let twin = |[x]: &mut [Vec<f32>; 1]| reference::dropout::forward_in_place(dropout, x);
        // Read and written in the same place.
        let work = Work::Bytes { moved: 8 * len, working_set: 4 * len };
        let name = format!("dropout/{name}");
        let mut group = Group::new(criterion, name, work, [numbers(len, 1)], twin);
        group.naive();
        group.auto(|[x]| auto::dropout(dropout, x));
        group.kernelet(|cpu, [x]| dropout::forward_in_place(cpu, dropout, x));
    }
}
