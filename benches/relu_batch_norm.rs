//! ReLU, batch normalisation and the 2x2 max pool behind it on the study's 32 images of 28x28x32:
//! one by one, and fused.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::max_pool;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::reference;
use kernelet::shape::{ImageShape, Padding, PoolShape, Window};

const CHANNELS: usize = 32;
const EPSILON: f32 = 1e-5;

fn bench(criterion: &mut Criterion) {
    let shape = PoolShape {
        input: ImageShape { batch: 32, height: 28, width: 28, channels: CHANNELS },
        window: Window::square(2, 2, Padding::Same),
    };
    let pixels = shape.input.pixels();
    let x = common::numbers(pixels.rows * CHANNELS, 1);
    let dy = common::numbers(shape.output().pixels().rows * CHANNELS, 2);
    let (mut r, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (mut y, mut argmax) = (vec![0.0; dy.len()], vec![0_u8; dy.len()]);
    let mut normal = vec![0.0; x.len()];

    let moments = reference::relu_batch_norm::forward_moments(pixels, &x, &mut r);
    let norm = reference::relu_batch_norm::Normalization::new(&moments, EPSILON);
    reference::relu_batch_norm::forward_normalize_max_pool(shape, &r, &norm, &mut y, &mut argmax);
    reference::relu_batch_norm::backward_max_pool(shape, &r, &norm, &argmax, &dy, &mut dx);
    let (twin_y, twin_dx) = (y.clone(), dx.clone());

    let mut group = criterion.benchmark_group("relu_batch_norm");
    group.throughput(Throughput::Bytes(4 * x.len() as u64));
    for (row, cpu) in common::cpus() {
        let mut moments = Moments::new(CHANNELS);
        let mut norm = Normalization::identity(CHANNELS);
        relu_batch_norm::forward_moments(&cpu, pixels, &x, &mut r, &mut moments);
        norm.set(&moments, EPSILON.into());
        let pool = relu_batch_norm::forward_normalize_max_pool;
        pool(&cpu, shape, &r, &norm, &mut y, &mut argmax);
        common::check(&y, &twin_y, 1e-4);
        let back = relu_batch_norm::backward_max_pool;
        back(&cpu, shape, &r, &norm, &y, &argmax, &dy, &mut dx);
        common::check(&dx, &twin_dx, 1e-4);
        group.bench_function(format!("forward_moments/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| {
                    moments.clear();
                    relu_batch_norm::forward_moments(&cpu, pixels, &x, &mut r, &mut moments);
                });
            });
        });
        group.bench_function(format!("normalize_then_max_pool/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| {
                    let normalize = relu_batch_norm::forward_normalize;
                    normalize(&cpu, pixels, &r, &norm, None, &mut normal);
                    max_pool::forward(&cpu, shape, &normal, &mut y, &mut argmax);
                });
            });
        });
        group.bench_function(format!("forward_normalize_max_pool/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| pool(&cpu, shape, &r, &norm, &mut y, &mut argmax));
            });
        });
        group.bench_function(format!("backward_max_pool/{row}"), |bencher| {
            cpu.install(|| {
                bencher.iter(|| back(&cpu, shape, &r, &norm, &y, &argmax, &dy, &mut dx));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
