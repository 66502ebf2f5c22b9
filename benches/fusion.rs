//! What fusion saves, piece by piece: the same layers of the study apart, one kernel after the other, and fused.
//! Both are ours.

mod common;

use common::{Group, Work, labels, normalization_of, numbers, tell_moments, tell_tally, unwritten};
use criterion::Criterion;
use kernelet::kernels::adam::{self, Adam};
use kernelet::kernels::conv_block::{self, ConvBlockShape};
use kernelet::kernels::gemm::Write;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::kernels::{
    conv2d, cross_entropy, linear, max_pool, relu, softmax, softmax_cross_entropy,
};
use kernelet::nn::cnn::EPSILON;
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{CnnShape, Mlp, MlpShape};
use kernelet::reference;
use kernelet::shape::{LinearShape, MatrixShape};

const WRITE: Write = Write::Overwrite;

fn main() {
    common::main(|criterion| {
        linear_relu(criterion);
        linear_backward_relu(criterion);
        images_as_bytes(criterion);
        softmax_cross_entropy(criterion);
        evaluation(criterion);
        weights_adam(criterion);
        layer_adam(criterion);
        convolution_moments(criterion);
        normalize_max_pool(criterion);
        block(criterion);
        block_backward(criterion);
    });
}

fn flops(LinearShape { rows, inputs, outputs }: LinearShape) -> Work {
    Work::Flops(2.0 * (rows * inputs * outputs) as f64)
}

/// The perceptron's hidden layer: product, bias and ReLU.
fn linear_relu(criterion: &mut Criterion) {
    let shape = LinearShape { rows: 1024, inputs: 784, outputs: 1000 };
    let x = numbers(shape.rows * shape.inputs, 1);
    let (w, b) = (numbers(shape.inputs * shape.outputs, 2), numbers(shape.outputs, 3));
    let twin = |[y]: &mut [Vec<f32>; 1]| reference::linear::forward_relu(shape, &x, &w, &b, y);
    let start = [unwritten(shape.rows * shape.outputs)];
    let mut group = Group::new(criterion, "fusion/linear_relu".into(), flops(shape), start, twin);
    group.way("apart", |cpu, [y]| {
        linear::forward(cpu, shape, &x, &w, &b, y);
        relu::forward_in_place(cpu, y);
    });
    group.way("fused", |cpu, [y]| linear::forward_relu(cpu, shape, &x, &w, &b, y));
}

/// The gradient of the perceptron's hidden layer, and ReLU's mask.
fn linear_backward_relu(criterion: &mut Criterion) {
    let shape = LinearShape { rows: 1024, inputs: 1000, outputs: 10 };
    let (dy, w) =
        (numbers(shape.rows * shape.outputs, 1), numbers(shape.inputs * shape.outputs, 2));
    let hidden = numbers(shape.rows * shape.inputs, 3);
    let twin = |[dx]: &mut [Vec<f32>; 1]| {
        reference::linear::backward_input_relu(shape, &dy, &w, &hidden, dx);
    };
    let start = [unwritten(hidden.len())];
    let name = "fusion/linear_backward_input_relu".into();
    let mut group = Group::new(criterion, name, flops(shape), start, twin);
    let mut product = unwritten(hidden.len());
    group.way("apart", |cpu, [dx]| {
        linear::backward_input(cpu, shape, &dy, &w, &mut product);
        relu::backward(cpu, &hidden, &product, dx);
    });
    group.way("fused", |cpu, [dx]| {
        linear::backward_input_relu(cpu, shape, &dy, &w, &hidden, dx);
    });
}

/// The hidden layer of images: from floats that were made before the clock started, and from bytes that are widened
/// while they are packed.
fn images_as_bytes(criterion: &mut Criterion) {
    let shape = LinearShape { rows: 2048, inputs: 784, outputs: 100 };
    let (bytes, floats) = images(shape.rows * shape.inputs);
    let (w, b) = (numbers(shape.inputs * shape.outputs, 2), numbers(shape.outputs, 3));
    let twin = |[y]: &mut [Vec<f32>; 1]| {
        reference::linear::forward_relu(shape, &floats, &w, &b, y);
    };
    let start = [unwritten(shape.rows * shape.outputs)];
    let name = "fusion/images_as_bytes".into();
    let mut group = Group::new(criterion, name, flops(shape), start, twin);
    group.way("apart", |cpu, [y]| linear::forward_relu(cpu, shape, &floats, &w, &b, y));
    group.way("fused", |cpu, [y]| linear::forward_relu(cpu, shape, &bytes, &w, &b, y));
}

/// Pixels as bytes, and as the floats that they stand for.
fn images(len: usize) -> (Vec<u8>, Vec<f32>) {
    let bytes: Vec<_> = labels(len, 256).iter().map(|&pixel| pixel as u8).collect();
    let floats = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    (bytes, floats)
}

/// Probabilities, loss and hits, and the gradient of the logits.
fn softmax_cross_entropy(criterion: &mut Criterion) {
    let shape = MatrixShape { rows: 10_000, cols: 10 };
    let logits = numbers(shape.rows * shape.cols, 1);
    let labels = labels(shape.rows, shape.cols as u32);
    let scale = 1.0 / shape.rows as f32;
    let twin = |[dx, tally]: &mut [Vec<f32>; 2]| {
        let twin = reference::softmax_cross_entropy::forward_backward;
        tell_tally(twin(shape, &logits, &labels, scale, dx), tally);
    };
    let start = [unwritten(logits.len()), unwritten(2)];
    let work = Work::bytes(8 * logits.len());
    let mut group = Group::new(criterion, "fusion/softmax_cross_entropy".into(), work, start, twin);
    let (mut p, mut dp) = (unwritten(logits.len()), unwritten(logits.len()));
    group.way("apart", |cpu, [dx, tally]| {
        softmax::forward(cpu, shape, &logits, &mut p);
        tell_tally(cross_entropy::forward(cpu, shape, &p, &labels), tally);
        cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut dp);
        softmax::backward(cpu, shape, &p, &dp, dx);
    });
    group.way("fused", |cpu, [dx, tally]| {
        let kernel = softmax_cross_entropy::forward_backward;
        tell_tally(kernel(cpu, shape, &logits, &labels, scale, dx), tally);
    });
}

/// A full-batch epoch: its images evaluated by a forward pass of their own, or by the one that the next epoch's
/// gradients need anyway.
fn evaluation(criterion: &mut Criterion) {
    let (rows, shape) = (2048, MlpShape { inputs: 784, hidden: 100, classes: 10 });
    let (x, floats) = images(rows * shape.inputs);
    let labels = labels(rows, shape.classes as u32);
    let (mlp, mut work) = (Mlp::xavier(shape, 1), Workspace::default());
    let mut gradients = Mlp::zeros(shape);
    let twin = |[tally]: &mut [Vec<f32>; 1]| {
        let parameters = reference::mlp::Parameters {
            w_h: mlp.w_h.clone(),
            b_h: mlp.b_h.clone(),
            w_o: mlp.w_o.clone(),
            b_o: mlp.b_o.clone(),
        };
        tell_tally(reference::mlp::gradients(shape, &parameters, &floats, &labels, 1.0).0, tally);
    };
    let flops = 2 * rows * shape.hidden * (2 * shape.inputs + 3 * shape.classes);
    let name = "fusion/evaluation".into();
    let mut group = Group::new(criterion, name, Work::Flops(flops as f64), [unwritten(2)], twin);
    group.way("apart", |cpu, [tally]| {
        tell_tally(mlp.evaluate(cpu, &mut work, &x, &labels), tally);
        mlp.gradients(cpu, &mut work, &x, &labels, 1.0, &mut gradients);
    });
    group.way("fused", |cpu, [tally]| {
        tell_tally(mlp.gradients(cpu, &mut work, &x, &labels, 1.0, &mut gradients), tally);
    });
}

/// The CNN's layer of 4.9 million weights.
const CNN_W1: LinearShape = LinearShape { rows: 32, inputs: 6272, outputs: 784 };

/// A number of the update without much left of the moments' correction.
const STEP: u64 = 9;

/// The gradient of the CNN's large layer, and Adam's update.
fn weights_adam(criterion: &mut Criterion) {
    let (shape, settings) = (CNN_W1, Adam::default());
    let (x, dy) = (numbers(shape.rows * shape.inputs, 1), numbers(shape.rows * shape.outputs, 2));
    let len = shape.inputs * shape.outputs;
    let twin = |[w, m, v]: &mut [Vec<f32>; 3]| {
        reference::linear::backward_weights_adam(shape, &x, &dy, settings, STEP, w, m, v);
    };
    let start = [numbers(len, 1), vec![0.0; len], vec![0.0; len]];
    let name = "fusion/weights_adam".into();
    let mut group = Group::new(criterion, name, flops(shape), start, twin).tolerance(1e-4);
    let (mut dw, mut db) = (unwritten(len), unwritten(shape.outputs));
    group.way("apart", |cpu, [w, m, v]| {
        linear::backward_weights(cpu, shape, &x, &dy, WRITE, &mut dw, &mut db);
        adam::update(cpu, settings, STEP, w, m, v, &dw);
    });
    group.way("fused", |cpu, [w, m, v]| {
        linear::backward_weights_adam(cpu, shape, &x, &dy, settings, STEP, w, m, v);
    });
}

/// The same with the gradient of the layer's input, whose product reads the weights too.
fn layer_adam(criterion: &mut Criterion) {
    let (shape, settings) = (CNN_W1, Adam::default());
    let (x, dy) = (numbers(shape.rows * shape.inputs, 1), numbers(shape.rows * shape.outputs, 2));
    let len = shape.inputs * shape.outputs;
    let twin = |[w, m, v, dx]: &mut [Vec<f32>; 4]| {
        reference::linear::backward_adam(shape, &x, &dy, settings, STEP, w, m, v, dx);
    };
    let start =
        [numbers(len, 1), vec![0.0; len], vec![0.0; len], unwritten(shape.rows * shape.inputs)];
    let work = Work::Flops(4.0 * (shape.rows * len) as f64);
    let name = "fusion/layer_adam".into();
    let mut group = Group::new(criterion, name, work, start, twin).tolerance(1e-4);
    group.way("apart", |cpu, [w, m, v, dx]| {
        linear::backward_input(cpu, shape, &dy, w, dx);
        linear::backward_weights_adam(cpu, shape, &x, &dy, settings, STEP, w, m, v);
    });
    group.way("fused", |cpu, [w, m, v, dx]| {
        linear::backward_adam(cpu, shape, &x, &dy, settings, STEP, w, m, v, dx);
    });
}

/// The convolution with bias and ReLU, and the moments of what comes out.
fn convolution_moments(criterion: &mut Criterion) {
    let (block, [x, w, b]) = block_and_inputs();
    let shape = block.convolution;
    let pixels = shape.output().pixels();
    let len = pixels.rows * pixels.cols;
    let twin = |[r, mean, variance]: &mut [Vec<f32>; 3]| {
        let moments = reference::conv2d::forward_relu_moments(shape, &x, &w, &b, r);
        mean.copy_from_slice(&moments.mean);
        variance.copy_from_slice(&moments.variance);
    };
    let start = [unwritten(len), unwritten(shape.filters), unwritten(shape.filters)];
    let work = Work::Flops(2.0 * (len * shape.taps()) as f64);
    let name = "fusion/convolution_moments".into();
    // The twin adds up thousands of numbers one by one, in `f32`.
    let mut group = Group::new(criterion, name, work, start, twin).tolerance(1e-3);
    let mut convolved = unwritten(len);
    let mut moments = Moments::new(shape.filters);
    group.way("apart", |cpu, [r, mean, variance]| {
        moments.clear();
        conv2d::forward(cpu, shape, &x, &w, &b, &mut convolved);
        relu_batch_norm::forward_moments(cpu, pixels, &convolved, r, &mut moments);
        tell_moments(&moments, mean, variance);
    });
    group.way("fused", |cpu, [r, mean, variance]| {
        moments.clear();
        conv2d::forward_relu_moments(cpu, shape, &x, &w, &b, r, &mut moments);
        tell_moments(&moments, mean, variance);
    });
}

/// Normalisation and the pool behind it, with the places of the largest.
fn normalize_max_pool(criterion: &mut Criterion) {
    let shape = CnnShape::study(784, 10).pool(32);
    let pixels = shape.input.pixels();
    let x = numbers(pixels.rows * pixels.cols, 1);
    let (mut r, pooled) = (unwritten(x.len()), shape.output().batch * shape.output().image_len());
    let twins = reference::relu_batch_norm::forward_moments(pixels, &x, &mut r);
    let twins = reference::relu_batch_norm::Normalization::new(&twins, EPSILON as f32);
    let norm = normalization_of(&twins);
    let (mut normal, mut argmax) = (unwritten(x.len()), vec![0; pooled]);
    let mut places = argmax.clone();
    let twin = |[y]: &mut [Vec<f32>; 1]| {
        let twin = reference::relu_batch_norm::forward_normalize_max_pool;
        twin(shape, &r, &twins, y, &mut places);
    };
    let work = Work::bytes(4 * r.len() + 5 * pooled);
    let name = "fusion/normalize_max_pool".into();
    let mut group = Group::new(criterion, name, work, [unwritten(pooled)], twin).tolerance(1e-4);
    group.way("apart", |cpu, [y]| {
        relu_batch_norm::forward_normalize(cpu, pixels, &r, &norm, None, &mut normal);
        max_pool::forward(cpu, shape, &normal, y, &mut argmax);
    });
    group.way("fused", |cpu, [y]| {
        let fused = relu_batch_norm::forward_normalize_max_pool;
        fused(cpu, shape, &r, &norm, y, &mut argmax);
    });
}

/// The study's block for 32 images; x, w and b of its convolution.
fn block_and_inputs() -> (ConvBlockShape, [Vec<f32>; 3]) {
    let shape = CnnShape::study(784, 10).block(32);
    let convolution = shape.convolution;
    let x = numbers(convolution.input.batch * convolution.input.image_len(), 1);
    let w = numbers(convolution.taps() * convolution.filters, 2);
    (shape, [x, w, numbers(convolution.filters, 3)])
}

/// The whole block forward: every layer fused with the next where it can be (the two pieces above), and the
/// block, whose images are pooled while they are in the cache.
fn block(criterion: &mut Criterion) {
    let (shape, [x, w, b]) = block_and_inputs();
    let (convolution, pool) = (shape.convolution, shape.pool());
    let len = convolution.output().batch * convolution.output().image_len();
    let pooled = pool.output().batch * pool.output().image_len();
    let (mut r, mut argmax) = (unwritten(len), vec![0; pooled]);
    let twin = |[y]: &mut [Vec<f32>; 1]| {
        let (r, argmax) = (&mut unwritten(len), &mut vec![0; pooled]);
        let twins = reference::conv2d::forward_relu_moments(convolution, &x, &w, &b, r);
        let twins = reference::relu_batch_norm::Normalization::new(&twins, EPSILON as f32);
        reference::relu_batch_norm::forward_normalize_max_pool(pool, r, &twins, y, argmax);
    };
    let work = Work::Flops(2.0 * (len * convolution.taps()) as f64);
    let name = "fusion/conv_block_forward".into();
    let mut group = Group::new(criterion, name, work, [unwritten(pooled)], twin).tolerance(1e-4);
    let mut moments = Moments::new(convolution.filters);
    let mut norm = Normalization::identity(convolution.filters);
    group.way("apart", |cpu, [y]| {
        moments.clear();
        conv2d::forward_relu_moments(cpu, convolution, &x, &w, &b, &mut r, &mut moments);
        norm.set(&moments, EPSILON);
        let normalize = relu_batch_norm::forward_normalize_max_pool;
        normalize(cpu, pool, &r, &norm, y, &mut argmax);
    });
    group.way("fused", |cpu, [y]| {
        moments.clear();
        let forward = conv_block::forward;
        forward(cpu, shape, &x, &w, &b, &mut r, &mut moments, y, &mut argmax);
        norm.set(&moments, EPSILON);
        let pixels = pool.output().pixels();
        relu_batch_norm::forward_normalize_in_place(cpu, pixels, &norm, None, y);
    });
}

/// The whole block backward: pool, normalisation and ReLU, then the gradients of the weights; and image by image,
/// so that the gradient of the activations is never in memory.
fn block_backward(criterion: &mut Criterion) {
    let (shape, [x, w, b]) = block_and_inputs();
    let (convolution, pool) = (shape.convolution, shape.pool());
    let len = convolution.output().batch * convolution.output().image_len();
    let pooled = pool.output().batch * pool.output().image_len();
    let dy = numbers(pooled, 4);
    let (mut r, mut y, mut argmax) = (unwritten(len), unwritten(pooled), vec![0; pooled]);
    let twins = reference::conv2d::forward_relu_moments(convolution, &x, &w, &b, &mut r);
    let twins = reference::relu_batch_norm::Normalization::new(&twins, EPSILON as f32);
    let normalize = reference::relu_batch_norm::forward_normalize_max_pool;
    normalize(pool, &r, &twins, &mut y, &mut argmax);
    let norm = normalization_of(&twins);
    let twin = |[dw, db]: &mut [Vec<f32>; 2]| {
        let dz = &mut unwritten(len);
        reference::relu_batch_norm::backward_max_pool(pool, &r, &twins, &argmax, &dy, dz);
        reference::conv2d::backward_weights(convolution, &x, dz, WRITE, dw, db);
    };
    let work = Work::Flops(2.0 * (len * convolution.taps()) as f64);
    let start = [unwritten(w.len()), unwritten(b.len())];
    let name = "fusion/conv_block_backward".into();
    let mut group = Group::new(criterion, name, work, start, twin).tolerance(1e-3);
    let mut dz = unwritten(len);
    group.way("apart", |cpu, [dw, db]| {
        let backward = relu_batch_norm::backward_max_pool;
        backward(cpu, pool, &r, &norm, &y, &argmax, &dy, &mut dz);
        conv2d::backward_weights(cpu, convolution, &x, &dz, WRITE, dw, db);
    });
    group.way("fused", |cpu, [dw, db]| {
        let backward = conv_block::backward_weights;
        backward(cpu, shape, &x, &r, &norm, &y, &argmax, &dy, WRITE, dw, db);
    });
}
