//! A training step of the study's CNN: 32 images forward and backward, and Adam's update.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::adam::Adam;
use kernelet::nn::cnn::{AdamState, Regularization, Workspace};
use kernelet::nn::{Cnn, CnnShape};
use kernelet::reference;

fn bench(criterion: &mut Criterion) {
    let rows = 32;
    let shape = CnnShape::study(784, 10);
    let start = Cnn::xavier(shape, 1);
    let x = common::numbers(rows * shape.pixels(), 1);
    let labels = common::labels(rows, 10);
    let plain = Regularization::default();
    // The twin is slow: a few images are enough to know the step for right.
    let few = 2;
    let parameters = reference::cnn::Parameters {
        w0: start.w0.clone(),
        b0: start.b0.clone(),
        w1: start.w1.clone(),
        b1: start.b1.clone(),
        w2: start.w2.clone(),
        b2: start.b2.clone(),
    };
    let (few_x, few_labels) = (&x[..few * shape.pixels()], &labels[..few]);
    let (_, twin) = reference::cnn::gradients(shape, &parameters, few_x, few_labels, plain);

    let mut group = criterion.benchmark_group("cnn_step");
    group.throughput(Throughput::Elements(rows as u64));
    for (row, cpu) in common::cpus() {
        let mut cnn = start.clone();
        let (mut gradients, mut state) = (Cnn::zeros(shape), AdamState::new(shape));
        let mut work = Workspace::default();
        cnn.gradients(&cpu, &mut work, few_x, few_labels, plain, &mut gradients);
        common::check(&gradients.w0, &twin.w0, 1e-4);
        common::check(&gradients.w1, &twin.w1, 1e-4);
        let adam = Adam { learning_rate: 1e-9, ..Adam::default() };
        group.bench_function(row, |bencher| {
            cpu.install(|| {
                bencher
                    .iter(|| cnn.adam_step(&cpu, &mut work, &x, &labels, adam, plain, &mut state));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
