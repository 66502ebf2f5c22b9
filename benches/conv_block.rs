//! The study's convolution block, convolution to pool, for 32 images. Only ours knows it as a whole; its
//! contestants do the same layer by layer.

mod common;

use common::{Group, Work, auto, cpus, normalization_of, numbers, unwritten};
use criterion::Criterion;
use kernelet::Cpu;
use kernelet::kernels::conv_block::{self, ConvBlockShape};
use kernelet::kernels::gemm::Write;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::nn::CnnShape;
use kernelet::nn::cnn::EPSILON;
use kernelet::reference;

fn main() {
    common::main(bench);
}

/// What the block reads, and what its twin makes of it.
struct Block {
    shape: ConvBlockShape,
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dy: Vec<f32>,
    r: Vec<f32>,
    normalization: Normalization,
    y: Vec<f32>,
    argmax: Vec<u8>,
}

impl Block {
    fn new(shape: ConvBlockShape) -> Self {
        let (convolution, pooled) = (shape.convolution, shape.pool().output());
        let mut block = Self {
            shape,
            x: numbers(convolution.input.batch * convolution.input.image_len(), 1),
            w: numbers(convolution.taps() * convolution.filters, 2),
            b: numbers(convolution.filters, 3),
            dy: numbers(pooled.batch * pooled.image_len(), 4),
            r: unwritten(convolution.output().batch * convolution.output().image_len()),
            normalization: Normalization::identity(convolution.filters),
            y: unwritten(pooled.batch * pooled.image_len()),
            argmax: vec![0; pooled.batch * pooled.image_len()],
        };
        let (mut r, mut y) = (block.r.clone(), block.y.clone());
        let mut argmax = block.argmax.clone();
        block.normalization = normalization_of(&block.twin(&mut r, &mut y, &mut argmax));
        Self { r, y, argmax, ..block }
    }

    /// The twin's forward pass.
    fn twin(
        &self,
        r: &mut [f32],
        y: &mut [f32],
        argmax: &mut [u8],
    ) -> reference::relu_batch_norm::Normalization<f32> {
        let Self { shape, x, w, b, .. } = self;
        let moments = reference::conv2d::forward_relu_moments(shape.convolution, x, w, b, r);
        let norm = reference::relu_batch_norm::Normalization::new(&moments, EPSILON as f32);
        reference::relu_batch_norm::forward_normalize_max_pool(shape.pool(), r, &norm, y, argmax);
        norm
    }

    /// The kernel's forward pass.
    fn run(&self, cpu: &Cpu, state: &mut State, y: &mut [f32]) {
        let Self { shape, x, w, b, .. } = self;
        let State { r, argmax, moments, normalization } = state;
        moments.clear();
        conv_block::forward(cpu, *shape, x, w, b, r, moments, y, argmax);
        normalization.set(moments, EPSILON);
        let pixels = shape.pool().output().pixels();
        relu_batch_norm::forward_normalize_in_place(cpu, pixels, normalization, None, y);
    }
}

/// What the kernel's forward pass writes beside y.
struct State {
    r: Vec<f32>,
    argmax: Vec<u8>,
    moments: Moments,
    normalization: Normalization,
}

impl State {
    fn new(block: &Block) -> Self {
        Self {
            r: unwritten(block.r.len()),
            argmax: vec![u8::MAX; block.argmax.len()],
            moments: Moments::new(block.b.len()),
            normalization: Normalization::identity(block.b.len()),
        }
    }
}

fn bench(criterion: &mut Criterion) {
    let block = Block::new(CnnShape::study(784, 10).block(32));
    forward(criterion, &block);
    backward(criterion, &block);
}

/// The convolution's operations: the rest is passes over memory.
fn work(block: &Block) -> Work {
    Work::Flops(2.0 * (block.r.len() * block.shape.convolution.taps()) as f64)
}

fn forward(criterion: &mut Criterion, block: &Block) {
    let Block { shape, x, w, b, .. } = block;
    let (mut r, mut argmax) = (block.r.clone(), block.argmax.clone());
    let twin = |[y]: &mut [Vec<f32>; 1]| {
        block.twin(&mut r, y, &mut argmax);
    };
    let name = "conv_block/forward/study/cnn".into();
    let start = [unwritten(block.y.len())];
    let check_places = || {
        for cpu in cpus() {
            let mut state = State::new(block);
            block.run(&cpu, &mut state, &mut unwritten(block.y.len()));
            assert!(state.argmax == block.argmax, "{} finds the largest elsewhere", cpu.isa());
        }
    };
    let mut group =
        Group::new(criterion, name, work(block), start, twin).tolerance(1e-4).check(check_places);
    group.naive();
    let (mut r, mut normal, mut argmax) = (block.r.clone(), block.r.clone(), block.argmax.clone());
    let (mut mean, mut variance) = (b.clone(), b.clone());
    group.auto(|[y]| {
        auto::conv2d_forward_relu(shape.convolution, x, w, b, &mut r);
        auto::moments(&r, &mut mean, &mut variance);
        let norm = auto::normalization(&mean, &variance, EPSILON);
        auto::normalize(&norm, &r, &mut normal);
        auto::max_pool_forward(shape.pool(), &normal, y, &mut argmax);
    });
    let mut state = State::new(block);
    group.kernelet(|cpu, [y]| block.run(cpu, &mut state, y));
}

fn backward(criterion: &mut Criterion, block: &Block) {
    let Block { shape, x, w, b, dy, r, normalization, y, argmax } = block;
    let Normalization { mean, inv_deviation } = normalization.clone();
    let twins = reference::relu_batch_norm::Normalization { mean, inv_deviation };
    let mut dz = block.r.clone();
    let twin = |[dw, db]: &mut [Vec<f32>; 2]| {
        reference::relu_batch_norm::backward_max_pool(shape.pool(), r, &twins, argmax, dy, &mut dz);
        reference::conv2d::backward_weights(shape.convolution, x, &dz, Write::Overwrite, dw, db);
    };
    let name = "conv_block/backward/study/cnn".into();
    let start = [unwritten(w.len()), unwritten(b.len())];
    let mut group = Group::new(criterion, name, work(block), start, twin).tolerance(1e-3);
    group.naive();
    let (mut dnormal, mut dz) = (block.r.clone(), block.r.clone());
    group.auto(|[dw, db]| {
        auto::max_pool_backward(shape.pool(), argmax, dy, &mut dnormal);
        auto::relu_normalize_backward(normalization, r, &dnormal, &mut dz);
        auto::conv2d_backward_weights(shape.convolution, x, &dz, dw);
        auto::column_sums(&dz, db);
    });
    group.kernelet(|cpu, [dw, db]| {
        let backward = conv_block::backward_weights;
        backward(cpu, *shape, x, r, normalization, y, argmax, dy, Write::Overwrite, dw, db);
    });
}
