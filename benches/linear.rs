//! The study's hidden layer: forward with bias and ReLU, and both backward passes.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::gemm::Write;
use kernelet::kernels::linear;
use kernelet::reference;
use kernelet::shape::LinearShape;

fn bench(criterion: &mut Criterion) {
    let (rows, inputs, outputs) = (256, 784, 100);
    let shape = LinearShape { rows, inputs, outputs };
    let x = common::numbers(rows * inputs, 1);
    let w = common::numbers(inputs * outputs, 2);
    let b = common::numbers(outputs, 3);
    let dy = common::numbers(rows * outputs, 4);
    let flops = 2 * (rows * inputs * outputs) as u64;

    let mut twin = vec![0.0; rows * outputs];
    reference::linear::forward_relu(shape, &x, &w, &b, &mut twin);
    let mut group = criterion.benchmark_group("linear/forward_relu");
    group.throughput(Throughput::Elements(flops));
    for (row, cpu) in common::cpus() {
        let mut y = vec![f32::NAN; twin.len()];
        linear::forward_relu(&cpu, shape, &x, &w, &b, &mut y);
        common::check(&y, &twin, 1e-5);
        group.bench_function(row, |bencher| {
            cpu.install(|| {
                bencher.iter(|| linear::forward_relu(&cpu, shape, &x, &w, &b, &mut y));
            });
        });
    }
    group.finish();

    let mut twin = vec![0.0; rows * inputs];
    reference::linear::backward_input_relu(shape, &dy, &w, &x, &mut twin);
    let mut group = criterion.benchmark_group("linear/backward_input_relu");
    group.throughput(Throughput::Elements(flops));
    for (row, cpu) in common::cpus() {
        let mut dx = vec![f32::NAN; twin.len()];
        linear::backward_input_relu(&cpu, shape, &dy, &w, &x, &mut dx);
        common::check(&dx, &twin, 1e-5);
        group.bench_function(row, |bencher| {
            cpu.install(|| {
                bencher.iter(|| linear::backward_input_relu(&cpu, shape, &dy, &w, &x, &mut dx));
            });
        });
    }
    group.finish();

    let (mut twin_dw, mut twin_db) = (vec![0.0; w.len()], vec![0.0; b.len()]);
    let write = Write::Overwrite;
    reference::linear::backward_weights(shape, &x, &dy, write, &mut twin_dw, &mut twin_db);
    let mut group = criterion.benchmark_group("linear/backward_weights");
    group.throughput(Throughput::Elements(flops));
    for (row, cpu) in common::cpus() {
        let (mut dw, mut db) = (vec![f32::NAN; w.len()], vec![f32::NAN; b.len()]);
        linear::backward_weights(&cpu, shape, &x, &dy, write, &mut dw, &mut db);
        common::check(&dw, &twin_dw, 1e-5);
        common::check(&db, &twin_db, 1e-5);
        group.bench_function(row, |bencher| {
            cpu.install(|| {
                bencher.iter(|| {
                    linear::backward_weights(&cpu, shape, &x, &dy, write, &mut dw, &mut db);
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
