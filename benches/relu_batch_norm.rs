//! ReLU, batch normalisation and the max pool behind it. Only ours knows the fused passes; its contestants
//! do the same in several.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, cpus, normalization_of, numbers, tell_moments, unwritten};
use criterion::Criterion;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::reference::relu_batch_norm as twins;
use kernelet::shape::PoolShape;

const EPSILON: f32 = 1e-5;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        if let Layer::MaxPool(shape) = layer {
            moments(criterion, &name, shape);
            normalize(criterion, &name, shape);
            backward(criterion, &name, shape);
            normalize_and_pool(criterion, &name, shape);
        }
    }
}

fn moments(criterion: &mut Criterion, name: &str, shape: PoolShape) {
    let (pixels, channels) = (shape.input.pixels(), shape.input.channels);
    let x = numbers(pixels.rows * channels, 1);
    let twin = |[r, mean, variance]: &mut [Vec<f32>; 3]| {
        let moments = twins::forward_moments(pixels, &x, r);
        mean.copy_from_slice(&moments.mean);
        variance.copy_from_slice(&moments.variance);
    };
    let (title, work) = (format!("relu_batch_norm/moments/{name}"), Work::bytes(8 * x.len()));
    let start = [unwritten(x.len()), unwritten(channels), unwritten(channels)];
    // The twin adds up thousands of numbers one by one, in `f32`.
    let mut group = Group::new(criterion, title, work, start, twin).tolerance(1e-3);
    group.naive();
    group.auto(|[r, mean, variance]| auto::relu_moments(&x, r, mean, variance));
    let mut moments = Moments::new(channels);
    group.kernelet(|cpu, [r, mean, variance]| {
        moments.clear();
        relu_batch_norm::forward_moments(cpu, pixels, &x, r, &mut moments);
        tell_moments(&moments, mean, variance);
    });
}

/// What comes out of ReLU, and its normalisation for the kernels and for their twins.
fn rectified(shape: PoolShape) -> (Vec<f32>, Normalization, twins::Normalization<f32>) {
    let pixels = shape.input.pixels();
    let x = numbers(pixels.rows * pixels.cols, 1);
    let mut r = unwritten(x.len());
    let norm = twins::Normalization::new(&twins::forward_moments(pixels, &x, &mut r), EPSILON);
    (r, normalization_of(&norm), norm)
}

fn normalize(criterion: &mut Criterion, name: &str, shape: PoolShape) {
    let pixels = shape.input.pixels();
    let (r, ours, norm) = rectified(shape);
    let twin = |[y]: &mut [Vec<f32>; 1]| twins::forward_normalize(pixels, &r, &norm, None, y);
    let title = format!("relu_batch_norm/normalize/{name}");
    let (work, start) = (Work::bytes(8 * r.len()), [unwritten(r.len())]);
    let mut group = Group::new(criterion, title, work, start, twin).tolerance(1e-4);
    group.naive();
    group.auto(|[y]| auto::normalize(&ours, &r, y));
    group.kernelet(|cpu, [y]| {
        relu_batch_norm::forward_normalize(cpu, pixels, &r, &ours, None, y);
    });
}

fn backward(criterion: &mut Criterion, name: &str, shape: PoolShape) {
    let pixels = shape.input.pixels();
    let (r, ours, norm) = rectified(shape);
    let dy = numbers(r.len(), 2);
    let (mut dscale, mut doffset) = (unwritten(pixels.cols), unwritten(pixels.cols));
    let twin = |[dx]: &mut [Vec<f32>; 1]| {
        let (dscale, doffset) = (&mut unwritten(pixels.cols), &mut unwritten(pixels.cols));
        twins::backward(pixels, &r, &norm, None, &dy, dx, dscale, doffset);
    };
    let title = format!("relu_batch_norm/backward/{name}");
    // r and dy for the sums, and again for dx.
    let work = Work::Bytes { moved: 20 * r.len(), working_set: 12 * r.len() };
    let start = [unwritten(r.len())];
    let mut group = Group::new(criterion, title, work, start, twin).tolerance(1e-4);
    group.naive();
    group.auto(|[dx]| {
        auto::relu_normalize_backward(&ours, &r, &dy, dx);
    });
    group.kernelet(|cpu, [dx]| {
        let backward = relu_batch_norm::backward;
        backward(cpu, pixels, &r, &ours, None, &dy, dx, &mut dscale, &mut doffset);
    });
}

fn normalize_and_pool(criterion: &mut Criterion, name: &str, shape: PoolShape) {
    let dy = numbers(shape.output().pixels().rows * shape.input.channels, 2);
    let (r, ours, norm) = rectified(shape);
    let (mut y, mut places) = (unwritten(dy.len()), vec![0_u8; dy.len()]);
    let (mut argmax, mut normal) = (places.clone(), unwritten(r.len()));

    let check_places = || {
        let (mut y, mut twins, mut argmax) = (dy.clone(), vec![0; dy.len()], vec![0; dy.len()]);
        twins::forward_normalize_max_pool(shape, &r, &norm, &mut y, &mut twins);
        for cpu in cpus() {
            let fused = relu_batch_norm::forward_normalize_max_pool;
            fused(&cpu, shape, &r, &ours, &mut y, &mut argmax);
            assert!(argmax == twins, "{} finds the largest elsewhere", cpu.isa());
        }
    };

    let twin = |[y]: &mut [Vec<f32>; 1]| {
        twins::forward_normalize_max_pool(shape, &r, &norm, y, &mut places);
    };
    let title = format!("relu_batch_norm/normalize_max_pool/{name}");
    let work = Work::bytes(4 * r.len() + 5 * dy.len());
    let start = [unwritten(dy.len())];
    let mut group =
        Group::new(criterion, title, work, start, twin).tolerance(1e-4).check(check_places);
    group.naive();
    group.auto(|[y]| {
        auto::normalize(&ours, &r, &mut normal);
        auto::max_pool_forward(shape, &normal, y, &mut argmax);
    });
    group.kernelet(|cpu, [y]| {
        let fused = relu_batch_norm::forward_normalize_max_pool;
        fused(cpu, shape, &r, &ours, y, &mut argmax);
    });
    drop(group);

    twins::forward_normalize_max_pool(shape, &r, &norm, &mut y, &mut argmax);
    let twin = |[dx]: &mut [Vec<f32>; 1]| {
        twins::backward_max_pool(shape, &r, &norm, &argmax, &dy, dx);
    };
    let title = format!("relu_batch_norm/backward_max_pool/{name}");
    let work = Work::bytes(8 * r.len() + 9 * dy.len());
    let start = [unwritten(r.len())];
    let mut group = Group::new(criterion, title, work, start, twin).tolerance(1e-4);
    group.naive();
    group.auto(|[dx]| {
        auto::max_pool_backward(shape, &argmax, &dy, &mut normal);
        auto::relu_normalize_backward(&ours, &r, &normal, dx);
    });
    group.kernelet(|cpu, [dx]| {
        let fused = relu_batch_norm::backward_max_pool;
        fused(cpu, shape, &r, &ours, &y, &argmax, &dy, dx);
    });
}
