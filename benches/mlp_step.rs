//! A training step of the study's MLP: gradients of 2,048 samples and the update.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::momentum::Momentum;
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{Mlp, MlpShape};
use kernelet::reference;

fn bench(criterion: &mut Criterion) {
    let rows = 2048;
    for hidden in [100, 1000] {
        let shape = MlpShape { inputs: 784, hidden, classes: 10 };
        let start = Mlp::xavier(shape, 1);
        let x = common::numbers(rows * shape.inputs, 1);
        let labels = common::labels(rows, 10);
        // The twin is slow: a few rows are enough to know the step for right.
        let few = 16;
        let parameters = reference::mlp::Parameters {
            w_h: start.w_h.clone(),
            b_h: start.b_h.clone(),
            w_o: start.w_o.clone(),
            b_o: start.b_o.clone(),
        };
        let (few_x, few_labels) = (&x[..few * shape.inputs], &labels[..few]);
        let (_, twin) = reference::mlp::gradients(shape, &parameters, few_x, few_labels, 1.0);

        let mut group = criterion.benchmark_group(format!("mlp_step/{hidden}"));
        group.throughput(Throughput::Elements(rows as u64));
        for (row, cpu) in common::cpus() {
            let mut mlp = start.clone();
            let (mut gradients, mut velocity) = (Mlp::zeros(shape), Mlp::zeros(shape));
            let mut work = Workspace::default();
            mlp.gradients(&cpu, &mut work, few_x, few_labels, 1.0, &mut gradients);
            common::check(&gradients.w_h, &twin.w_h, 1e-5);
            common::check(&gradients.w_o, &twin.w_o, 1e-5);
            let momentum = Momentum { learning_rate: 1e-9, momentum: 0.95 };
            group.bench_function(row, |bencher| {
                cpu.install(|| {
                    bencher.iter(|| {
                        mlp.gradients(&cpu, &mut work, &x, &labels, 1.0, &mut gradients);
                        mlp.momentum_step(&cpu, momentum, &mut velocity, &gradients);
                    });
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
