//! Convolutions forward (with ReLU) and backward: the study's, LeNet-5's second, ResNet-18's first of 3x3.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::conv2d;
use kernelet::kernels::gemm::Write;
use kernelet::reference;
use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};

const SHAPES: [(&str, Conv2dShape); 3] = [
    ("study", shape([32, 28, 28, 1], Window::square(3, 1, Padding::Same), 32)),
    ("lenet5_c3", shape([32, 14, 14, 6], Window::square(5, 1, Padding::Valid), 16)),
    ("resnet18_conv2", shape([1, 56, 56, 64], Window::square(3, 1, Padding::Same), 64)),
];

const fn shape(
    [batch, height, width, channels]: [usize; 4],
    window: Window,
    filters: usize,
) -> Conv2dShape {
    Conv2dShape { input: ImageShape { batch, height, width, channels }, window, filters }
}

fn bench(criterion: &mut Criterion) {
    for (name, shape) in SHAPES {
        let (input, output) = (shape.input, shape.output());
        let x = common::numbers(input.batch * input.image_len(), 1);
        let w = common::numbers(shape.taps() * shape.filters, 2);
        let b = common::numbers(shape.filters, 3);
        let dy = common::numbers(output.batch * output.image_len(), 4);
        let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; b.len()]);
        reference::conv2d::forward_relu(shape, &x, &w, &b, &mut y);
        reference::conv2d::backward_input(shape, &dy, &w, &mut dx);
        let write = Write::Overwrite;
        reference::conv2d::backward_weights(shape, &x, &dy, write, &mut dw, &mut db);
        let twin = (y.clone(), dx.clone(), dw.clone());

        let mut group = criterion.benchmark_group(format!("conv2d/{name}"));
        let flops = 2 * shape.taps() * output.image_len() * output.batch;
        group.throughput(Throughput::Elements(flops as u64));
        for (row, cpu) in common::cpus() {
            conv2d::forward_relu(&cpu, shape, &x, &w, &b, &mut y);
            common::check(&y, &twin.0, 1e-5);
            conv2d::backward_input(&cpu, shape, &dy, &w, &mut dx);
            common::check(&dx, &twin.1, 1e-5);
            conv2d::backward_weights(&cpu, shape, &x, &dy, write, &mut dw, &mut db);
            common::check(&dw, &twin.2, 1e-4);
            group.bench_function(format!("forward_relu/{row}"), |bencher| {
                cpu.install(|| {
                    bencher.iter(|| conv2d::forward_relu(&cpu, shape, &x, &w, &b, &mut y));
                });
            });
            group.bench_function(format!("backward_input/{row}"), |bencher| {
                cpu.install(|| {
                    bencher.iter(|| conv2d::backward_input(&cpu, shape, &dy, &w, &mut dx));
                });
            });
            group.bench_function(format!("backward_weights/{row}"), |bencher| {
                cpu.install(|| {
                    bencher.iter(|| {
                        conv2d::backward_weights(&cpu, shape, &x, &dy, write, &mut dw, &mut db);
                    });
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = bench
}
criterion_main!(benches);
