//! Loss, hits and gradient in one pass.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::softmax_cross_entropy;
use kernelet::reference;
use kernelet::shape::MatrixShape;

fn bench(criterion: &mut Criterion) {
    for (rows, cols) in [(10_000, 10), (1000, 1000)] {
        let shape = MatrixShape { rows, cols };
        let logits = common::numbers(rows * cols, 1);
        let labels = common::labels(rows, cols as u32);
        let mut twin = vec![0.0; logits.len()];
        reference::softmax_cross_entropy::forward_backward(shape, &logits, &labels, 1.0, &mut twin);
        let name = format!("softmax_cross_entropy/forward_backward/{rows}x{cols}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(8 * logits.len() as u64));
        for (row, cpu) in common::cpus() {
            let mut dlogits = vec![f32::NAN; logits.len()];
            let run = |dlogits: &mut [f32]| {
                softmax_cross_entropy::forward_backward(&cpu, shape, &logits, &labels, 1.0, dlogits)
            };
            run(&mut dlogits);
            common::check(&dlogits, &twin, 1e-5);
            group.bench_function(row, |bencher| {
                cpu.install(|| bencher.iter(|| run(&mut dlogits)));
            });
        }
        group.bench_function("naive/1", |bencher| {
            bencher.iter(|| {
                reference::softmax_cross_entropy::forward_backward(
                    shape, &logits, &labels, 1.0, &mut twin,
                )
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
