//! Adam on the study's 4.9 million weights, with their gradient given and fused with the product
//! that makes it.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::adam::{self, Adam};
use kernelet::kernels::gemm::Write;
use kernelet::kernels::linear;
use kernelet::reference;
use kernelet::shape::LinearShape;

fn bench(criterion: &mut Criterion) {
    let shape = LinearShape { rows: 32, inputs: 6272, outputs: 784 };
    let x = common::numbers(shape.rows * shape.inputs, 1);
    let dy = common::numbers(shape.rows * shape.outputs, 2);
    let start = common::numbers(shape.inputs * shape.outputs, 3);
    let settings = Adam::default();
    let (mut dw, mut db) = (vec![0.0; start.len()], vec![0.0; shape.outputs]);
    let write = Write::Overwrite;
    reference::linear::backward_weights(shape, &x, &dy, write, &mut dw, &mut db);
    let zeros = vec![0.0; start.len()];
    let (mut twin, mut m, mut v) = (start.clone(), zeros.clone(), zeros.clone());
    reference::adam::update(settings, 1, &mut twin, &mut m, &mut v, &dw);

    let mut group = criterion.benchmark_group("adam");
    group.throughput(Throughput::Elements(start.len() as u64)).sample_size(20);
    for (row, cpu) in common::cpus() {
        let (mut w, mut m, mut v) = (start.clone(), zeros.clone(), zeros.clone());
        let fused = linear::backward_weights_adam;
        fused(&cpu, shape, &x, &dy, settings, 1, &mut w, &mut m, &mut v);
        common::check(&w, &twin, 1e-5);
        let (mut w, mut m, mut v) = (start.clone(), zeros.clone(), zeros.clone());
        adam::update(&cpu, settings, 1, &mut w, &mut m, &mut v, &dw);
        common::check(&w, &twin, 1e-5);
        group.bench_function(format!("update/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| adam::update(&cpu, settings, 9, &mut w, &mut m, &mut v, &dw));
            });
        });
        group.bench_function(format!("backward_weights_then_update/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| {
                    linear::backward_weights(&cpu, shape, &x, &dy, write, &mut dw, &mut db);
                    adam::update(&cpu, settings, 9, &mut w, &mut m, &mut v, &dw)
                });
            });
        });
        group.bench_function(format!("backward_weights_adam/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| fused(&cpu, shape, &x, &dy, settings, 9, &mut w, &mut m, &mut v));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
