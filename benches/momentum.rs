//! The update of the study's hidden weights: five passes over 3 MB.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::momentum::{Momentum, update};
use kernelet::reference;

fn bench(criterion: &mut Criterion) {
    let len = 784 * 1000;
    let settings = Momentum { learning_rate: 1e-5, momentum: 0.95 };
    let (start, velocity, g) =
        (common::numbers(len, 1), common::numbers(len, 2), common::numbers(len, 3));
    let (mut twin, mut twin_v) = (start.clone(), velocity.clone());
    reference::momentum::update(1e-5, 0.95, &mut twin, &mut twin_v, &g);
    let mut group = criterion.benchmark_group("momentum/784000");
    group.throughput(Throughput::Bytes(20 * len as u64));
    for (row, cpu) in common::cpus() {
        let (mut w, mut v) = (start.clone(), velocity.clone());
        update(&cpu, settings, &mut w, &mut v, &g);
        common::check(&w, &twin, 1e-6);
        common::check(&v, &twin_v, 1e-6);
        group.bench_function(row, |bencher| {
            cpu.install(|| bencher.iter(|| update(&cpu, settings, &mut w, &mut v, &g)));
        });
    }
    group.bench_function("naive/1", |bencher| {
        bencher.iter(|| reference::momentum::update(1e-5, 0.95, &mut twin, &mut twin_v, &g));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
