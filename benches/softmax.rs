//! Softmax on ten classes (all tail to a vector unit) and on wide rows.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::softmax;
use kernelet::reference;
use kernelet::shape::MatrixShape;

fn bench(criterion: &mut Criterion) {
    for (rows, cols) in [(10_000, 10), (1000, 1000), (1024, 1024), (1000, 33)] {
        let shape = MatrixShape { rows, cols };
        let x = common::numbers(rows * cols, 1);
        let mut twin = vec![0.0; x.len()];
        reference::softmax::forward(shape, &x, &mut twin);
        let mut group = criterion.benchmark_group(format!("softmax/{rows}x{cols}"));
        group.throughput(Throughput::Bytes(8 * x.len() as u64));
        for (row, cpu) in common::cpus() {
            let mut y = vec![f32::NAN; x.len()];
            softmax::forward(&cpu, shape, &x, &mut y);
            common::check(&y, &twin, 1e-5);
            group.bench_function(row, |bencher| {
                cpu.install(|| bencher.iter(|| softmax::forward(&cpu, shape, &x, &mut y)));
            });
        }
        group.bench_function("naive/1", |bencher| {
            bencher.iter(|| reference::softmax::forward(shape, &x, &mut twin));
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
