//! A training step of the study's CNN: 32 images forward and backward, and Adam's update.

mod common;

use common::layers::{self, Product};
use common::{Group, Work, auto, check, cpus, labels, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::adam::Adam;
use kernelet::nn::cnn::{AdamState, EPSILON, Regularization, Workspace};
use kernelet::nn::{Cnn, CnnShape};
use kernelet::reference;
use kernelet::shape::{LinearShape, MatrixShape};

/// So small that thousands of steps on the same images leave the network alive.
const ADAM: Adam = Adam { learning_rate: 1e-9, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, l2: 0.0 };

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    let rows = 32;
    let shape = CnnShape::study(784, 10);
    let start = Cnn::xavier(shape, 1);
    let x = numbers(rows * shape.pixels(), 1);
    let labels = labels(rows, shape.classes as u32);
    let plain = Regularization::default();
    let convolution = shape.convolution(rows);
    let convolved = convolution.output().pixels().rows * convolution.taps() * shape.filters;
    let linear = rows * shape.hidden * (shape.pooled() + shape.classes);
    // Forward, and backward to weights and inputs: but no gradient of the images.
    let work = Work::Flops((2 * (2 * convolved + 3 * linear)) as f64);

    let (mut twin, zeros) = (parameters(&start), parameters(&Cnn::zeros(shape)));
    let (mut twin_m, mut twin_v) = (zeros.clone(), zeros);
    let naive = |[]: &mut [Vec<f32>; 0]| {
        twin_step(shape, ADAM, &x, &labels, [&mut twin, &mut twin_m, &mut twin_v]);
    };

    let mut group = Group::new(criterion, "cnn_step".into(), work, [], naive)
        .check(|| check_step(&start, &x, &labels));
    group.naive();
    let mut step = Step::new(&start, ADAM, rows);
    group.auto(|[]| step.run(&auto::gemm, &x, &labels));
    let (mut cnn, mut work) = (start.clone(), Workspace::default());
    let mut state = AdamState::new(shape);
    group.kernelet(|cpu, []| {
        cnn.adam_step(cpu, &mut work, &x, &labels, ADAM, plain, &mut state);
    });
    group.faer(|par, []| step.run(&layers::faer(par), &x, &labels));
}

/// The twin's step, its first, on weights and both of their moments.
fn twin_step(
    shape: CnnShape,
    adam: Adam,
    x: &[f32],
    labels: &[u32],
    [cnn, m, v]: [&mut reference::cnn::Parameters<f32>; 3],
) {
    let (_, g) = reference::cnn::gradients(shape, cnn, x, labels, Regularization::default());
    let update = |w: &mut _, m: &mut _, v: &mut _, g: &_| {
        reference::adam::update(adam, 1, w, m, v, g);
    };
    update(&mut cnn.w0, &mut m.w0, &mut v.w0, &g.w0);
    update(&mut cnn.b0, &mut m.b0, &mut v.b0, &g.b0);
    update(&mut cnn.w1, &mut m.w1, &mut v.w1, &g.w1);
    update(&mut cnn.b1, &mut m.b1, &mut v.b1, &g.b1);
    update(&mut cnn.w2, &mut m.w2, &mut v.w2, &g.w2);
    update(&mut cnn.b2, &mut m.b2, &mut v.b2, &g.b2);
}

/// Panics unless a step of everybody's moves the weights where the twin's does.
fn check_step(start: &Cnn, x: &[f32], labels: &[u32]) {
    let shape = start.shape;
    // An epsilon far above any gradient makes a step proportional to the gradient. With one far below, a
    // weight moves as far for a gradient of nothing but roundings as for any other.
    let adam = Adam { learning_rate: 1.0, epsilon: 1.0, ..ADAM };
    let (mut twin, zeros) = (parameters(start), parameters(&Cnn::zeros(shape)));
    twin_step(shape, adam, x, labels, [&mut twin, &mut zeros.clone(), &mut zeros.clone()]);
    let check_all = |ours: &Cnn| {
        let twins = [&twin.w0, &twin.b0, &twin.w1, &twin.b1, &twin.w2, &twin.b2];
        for (((_, _, ours), (_, _, start)), twin) in
            ours.arrays().into_iter().zip(start.arrays()).zip(twins)
        {
            let moved =
                |w: &[f32]| w.iter().zip(start).map(|(w, start)| w - start).collect::<Vec<_>>();
            check(&moved(ours), &moved(twin), 1e-3);
        }
    };
    for cpu in cpus() {
        let (mut cnn, mut work) = (start.clone(), Workspace::default());
        let (plain, mut state) = (Regularization::default(), AdamState::new(shape));
        cnn.adam_step(&cpu, &mut work, x, labels, adam, plain, &mut state);
        check_all(&cnn);
    }
    let mut step = Step::new(start, adam, labels.len());
    step.run(&auto::gemm, x, labels);
    check_all(&step.cnn);
    let mut step = Step::new(start, adam, labels.len());
    step.run(&layers::faer(faer::Par::Seq), x, labels);
    check_all(&step.cnn);
}

fn parameters(cnn: &Cnn) -> reference::cnn::Parameters<f32> {
    let Cnn { w0, b0, w1, b1, w2, b2, .. } = cnn.clone();
    reference::cnn::Parameters { w0, b0, w1, b1, w2, b2 }
}

/// The step as plain loops around a product; the convolution, a hundredth of the step's operations,
/// is plain loops itself.
struct Step {
    adam: Adam,
    cnn: Cnn,
    gradients: Cnn,
    m: Cnn,
    v: Cnn,
    r: Vec<f32>,
    moments: [Vec<f32>; 2],
    normal: Vec<f32>,
    dz: Vec<f32>,
    pooled: Vec<f32>,
    argmax: Vec<u8>,
    dpooled: Vec<f32>,
    hidden: Vec<f32>,
    dhidden: Vec<f32>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
}

impl Step {
    fn new(start: &Cnn, adam: Adam, rows: usize) -> Self {
        let shape = start.shape;
        let convolved = unwritten(rows * shape.convolution(rows).output().image_len());
        let pooled = unwritten(rows * shape.pooled());
        let hidden = unwritten(rows * shape.hidden);
        let logits = unwritten(rows * shape.classes);
        Self {
            adam,
            cnn: start.clone(),
            gradients: Cnn::zeros(shape),
            m: Cnn::zeros(shape),
            v: Cnn::zeros(shape),
            r: convolved.clone(),
            dz: convolved.clone(),
            moments: [unwritten(shape.filters), unwritten(shape.filters)],
            normal: convolved,
            argmax: vec![0; pooled.len()],
            dpooled: pooled.clone(),
            pooled,
            dhidden: hidden.clone(),
            hidden,
            dlogits: logits.clone(),
            logits,
        }
    }

    fn run(&mut self, product: &impl Product, x: &[f32], labels: &[u32]) {
        let Self { adam, cnn, gradients: g, m, v, .. } = self;
        let Self { r, moments: [mean, variance], normal, dz, .. } = self;
        let Self { pooled, argmax, dpooled, hidden, dhidden, logits, dlogits, .. } = self;
        let (shape, rows) = (cnn.shape, labels.len());
        let (convolution, pool) = (shape.convolution(rows), shape.pool(rows));
        let hidden_layer = LinearShape { rows, inputs: shape.pooled(), outputs: shape.hidden };
        let output_layer = LinearShape { rows, inputs: shape.hidden, outputs: shape.classes };
        let logits_shape = MatrixShape { rows, cols: shape.classes };

        auto::conv2d_forward_relu(convolution, x, &cnn.w0, &cnn.b0, r);
        auto::moments(r, mean, variance);
        let norm = auto::normalization(mean, variance, EPSILON);
        auto::normalize(&norm, r, normal);
        auto::max_pool_forward(pool, normal, pooled, argmax);
        layers::linear_forward_relu(product, hidden_layer, pooled, &cnn.w1, &cnn.b1, hidden);
        layers::linear_forward(product, output_layer, hidden, &cnn.w2, &cnn.b2, logits);
        let scale = 1.0 / rows as f32;
        auto::softmax_cross_entropy(logits_shape, logits, labels, scale, dlogits, &mut [0.0; 2]);

        let backward_weights = layers::linear_backward_weights;
        backward_weights(product, output_layer, hidden, dlogits, &mut g.w2, &mut g.b2);
        let backward_input = layers::linear_backward_input_relu;
        backward_input(product, output_layer, dlogits, &cnn.w2, hidden, dhidden);
        backward_weights(product, hidden_layer, pooled, dhidden, &mut g.w1, &mut g.b1);
        layers::linear_backward_input(product, hidden_layer, dhidden, &cnn.w1, dpooled);
        auto::max_pool_backward(pool, argmax, dpooled, normal);
        auto::relu_normalize_backward(&norm, r, normal, dz);
        auto::conv2d_backward_weights(convolution, x, dz, &mut g.w0);
        auto::column_sums(dz, &mut g.b0);

        auto::adam(*adam, 1, &mut cnn.w0, &mut m.w0, &mut v.w0, &g.w0);
        auto::adam(*adam, 1, &mut cnn.b0, &mut m.b0, &mut v.b0, &g.b0);
        auto::adam(*adam, 1, &mut cnn.w1, &mut m.w1, &mut v.w1, &g.w1);
        auto::adam(*adam, 1, &mut cnn.b1, &mut m.b1, &mut v.b1, &g.b1);
        auto::adam(*adam, 1, &mut cnn.w2, &mut m.w2, &mut v.w2, &g.w2);
        auto::adam(*adam, 1, &mut cnn.b2, &mut m.b2, &mut v.b2, &g.b2);
    }
}
