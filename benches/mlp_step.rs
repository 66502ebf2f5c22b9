//! A training step of a perceptron: gradients of its samples, and the update with momentum.

mod common;

use common::layers::{self, Product};
use common::shapes::{self, Layer};
use common::{Group, Work, auto, check, cpus, labels, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::momentum::Momentum;
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{Mlp, MlpShape};
use kernelet::reference;
use kernelet::shape::{LinearShape, MatrixShape};

/// So small that thousands of steps on the same samples leave the network alive.
const MOMENTUM: Momentum = Momentum { learning_rate: 1e-9, momentum: 0.95 };

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        if let Layer::Mlp { rows, shape } = layer {
            step(criterion, &name, rows, shape);
        }
    }
}

fn step(criterion: &mut Criterion, name: &str, rows: usize, shape: MlpShape) {
    let start = Mlp::xavier(shape, 1);
    let x = numbers(rows * shape.inputs, 1);
    let labels = labels(rows, shape.classes as u32);
    let MlpShape { inputs, hidden, classes } = shape;
    // Both layers forward and both gradients of weights, and that of the hidden layer.
    let flops = 2 * rows * hidden * (2 * inputs + 3 * classes);

    let mut twin = parameters(&start);
    let mut twin_v = parameters(&Mlp::zeros(shape));
    let naive = |[]: &mut [Vec<f32>; 0]| {
        let (_, g) = reference::mlp::gradients(shape, &twin, &x, &labels, 1.0);
        let update = reference::momentum::update;
        update(MOMENTUM, &mut twin.w_h, &mut twin_v.w_h, &g.w_h);
        update(MOMENTUM, &mut twin.b_h, &mut twin_v.b_h, &g.b_h);
        update(MOMENTUM, &mut twin.w_o, &mut twin_v.w_o, &g.w_o);
        update(MOMENTUM, &mut twin.b_o, &mut twin_v.b_o, &g.b_o);
    };

    let work = Work::Flops(flops as f64);
    let mut group = Group::new(criterion, format!("mlp_step/{name}"), work, [], naive)
        .check(|| check_step(&start, &x, &labels));
    group.naive();
    let mut step = Step::new(&start, rows);
    group.auto(|[]| step.run(&auto::gemm, &x, &labels));
    let (mut mlp, mut work) = (start.clone(), Workspace::default());
    let (mut gradients, mut velocity) = (Mlp::zeros(shape), Mlp::zeros(shape));
    group.kernelet(|cpu, []| {
        mlp.gradients(cpu, &mut work, &x, &labels, 1.0, &mut gradients);
        mlp.momentum_step(cpu, MOMENTUM, &mut velocity, &gradients);
    });
    group.faer(|par, []| step.run(&layers::faer(par), &x, &labels));
}

/// Panics unless a step of everybody's moves the weights where the twin's does. The twin is slow: of many
/// samples some are enough to know a step for right, more than 128 of them, from where on products are on AMX.
fn check_step(start: &Mlp, x: &[f32], labels: &[u32]) {
    let shape = start.shape;
    let few = labels.len().min(160);
    let (x, labels) = (&x[..few * shape.inputs], &labels[..few]);
    let (_, g) = reference::mlp::gradients(shape, &parameters(start), x, labels, 1.0);
    // After the first step the velocity is the gradient times the learning rate, and the weights are that
    // much less.
    let check_all = |mlp: &Mlp, velocity: &Mlp| {
        let all = mlp.arrays().into_iter().zip(velocity.arrays()).zip(start.arrays());
        for ((((_, _, w), (_, _, v)), (_, _, start)), g) in
            all.zip([&g.w_h, &g.b_h, &g.w_o, &g.b_o])
        {
            let v_of_one: Vec<_> = v.iter().map(|v| v / MOMENTUM.learning_rate).collect();
            check(&v_of_one, g, 1e-5);
            let expected: Vec<_> = start.iter().zip(v).map(|(w, v)| w - v).collect();
            check(w, &expected, 1e-7);
        }
    };
    for cpu in cpus() {
        let (mut mlp, mut work) = (start.clone(), Workspace::default());
        let (mut gradients, mut velocity) = (Mlp::zeros(shape), Mlp::zeros(shape));
        mlp.gradients(&cpu, &mut work, x, labels, 1.0, &mut gradients);
        mlp.momentum_step(&cpu, MOMENTUM, &mut velocity, &gradients);
        check_all(&mlp, &velocity);
    }
    let mut step = Step::new(start, few);
    step.run(&auto::gemm, x, labels);
    check_all(&step.mlp, &step.velocity);
    let mut step = Step::new(start, few);
    step.run(&layers::faer(faer::Par::Seq), x, labels);
    check_all(&step.mlp, &step.velocity);
}

fn parameters(mlp: &Mlp) -> reference::mlp::Parameters<f32> {
    let Mlp { w_h, b_h, w_o, b_o, .. } = mlp.clone();
    reference::mlp::Parameters { w_h, b_h, w_o, b_o }
}

/// The step as plain loops around a product.
struct Step {
    mlp: Mlp,
    gradients: Mlp,
    velocity: Mlp,
    hidden: Vec<f32>,
    dhidden: Vec<f32>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
}

impl Step {
    fn new(start: &Mlp, rows: usize) -> Self {
        let MlpShape { hidden, classes, .. } = start.shape;
        Self {
            mlp: start.clone(),
            gradients: Mlp::zeros(start.shape),
            velocity: Mlp::zeros(start.shape),
            hidden: unwritten(rows * hidden),
            dhidden: unwritten(rows * hidden),
            logits: unwritten(rows * classes),
            dlogits: unwritten(rows * classes),
        }
    }

    fn run(&mut self, product: &impl Product, x: &[f32], labels: &[u32]) {
        let Self { mlp, gradients: g, velocity: v, hidden, dhidden, logits, dlogits } = self;
        let MlpShape { inputs, hidden: units, classes } = mlp.shape;
        let rows = labels.len();
        let hidden_layer = LinearShape { rows, inputs, outputs: units };
        let output_layer = LinearShape { rows, inputs: units, outputs: classes };
        let logits_shape = MatrixShape { rows, cols: classes };
        layers::linear_forward_relu(product, hidden_layer, x, &mlp.w_h, &mlp.b_h, hidden);
        layers::linear_forward(product, output_layer, hidden, &mlp.w_o, &mlp.b_o, logits);
        auto::softmax_cross_entropy(logits_shape, logits, labels, 1.0, dlogits, &mut [0.0; 2]);
        let backward_weights = layers::linear_backward_weights;
        backward_weights(product, output_layer, hidden, dlogits, &mut g.w_o, &mut g.b_o);
        let backward_input = layers::linear_backward_input_relu;
        backward_input(product, output_layer, dlogits, &mlp.w_o, hidden, dhidden);
        backward_weights(product, hidden_layer, x, dhidden, &mut g.w_h, &mut g.b_h);
        auto::momentum(MOMENTUM, &mut mlp.w_h, &mut v.w_h, &g.w_h);
        auto::momentum(MOMENTUM, &mut mlp.b_h, &mut v.b_h, &g.b_h);
        auto::momentum(MOMENTUM, &mut mlp.w_o, &mut v.w_o, &g.w_o);
        auto::momentum(MOMENTUM, &mut mlp.b_o, &mut v.b_o, &g.b_o);
    }
}
