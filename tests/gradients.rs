//! Every gradient against central finite differences of the scalar twin's loss in `f64`. The
//! gradients are those of the `f32` kernels, on every instruction set that the machine has.
//!
//! The cases are the same in every run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` give others.

mod common;

use common::{Random, close, for_each_cpu, narrow, processors, widen};
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::{cross_entropy, gemm, linear, relu, softmax, softmax_cross_entropy};
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{Mlp, MlpShape};
use kernelet::reference;
use kernelet::shape::{LinearShape, MatrixShape};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

/// Half the distance of the two points of a difference quotient.
const STEP: f64 = 1e-5;

/// Largest difference between a gradient in `f32` and the quotient, relative to the largest of 1
/// and the quotients of the same array. A sign, a factor or an index that is wrong shows as about 1.
const TOLERANCE: f64 = 3e-5;

/// No z of a ReLU may be as near to 0 as a step, or as the rounding of `f32`, can move it.
const KINK: f64 = 1e-4;

/// At most so many coordinates of an array are differentiated, spread evenly over it.
const COORDINATES: usize = 40;

fn config(cases: u32) -> ProptestConfig {
    // Fails here, before proptest takes it for a failure of its cases, if there is no processor.
    processors();
    let from_environment = ProptestConfig::default();
    let rng_seed = match from_environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(7),
        fixed => fixed,
    };
    let cases = match std::env::var("PROPTEST_CASES") {
        Ok(_) => from_environment.cases,
        Err(_) => cases,
    };
    ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..from_environment
    }
}

/// The coordinates of an array of `len` that are differentiated.
fn coordinates(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len.div_ceil(COORDINATES).max(1))
}

/// Central difference quotients of `loss` at `x`: (coordinate, quotient).
fn quotients(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<(usize, f64)> {
    let mut x = x.to_vec();
    let mut quotients = Vec::new();
    for at in coordinates(x.len()) {
        let value = x[at];
        x[at] = value + STEP;
        let right = loss(&x);
        x[at] = value - STEP;
        let left = loss(&x);
        x[at] = value;
        quotients.push((at, (right - left) / (2.0 * STEP)));
    }
    quotients
}

/// Fails, with all of them, if there are coordinates whose quotient is not the gradient.
fn compare(
    name: &str,
    gradient: &[f32],
    quotients: &[(usize, f64)],
    tolerance: f64,
) -> Result<(), TestCaseError> {
    let scale = quotients.iter().map(|(_, q)| q.abs()).fold(1.0, f64::max);
    let wrong: Vec<String> = quotients
        .iter()
        .filter(|&&(at, q)| !close(f64::from(gradient[at]), q, tolerance * scale))
        .map(|&(at, q)| format!("[{at}] is {}, the quotient {q}", gradient[at]))
        .collect();
    prop_assert!(wrong.is_empty(), "{}: {}", name, wrong.join("; "));
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// [`for_each_cpu`] for bodies that may fail.
fn on_each_cpu(
    mut body: impl FnMut(&kernelet::Cpu) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut result = Ok(());
    for_each_cpu(|cpu| {
        if result.is_ok() {
            result = body(cpu).map_err(|e| TestCaseError::fail(format!("on {cpu:?}: {e}")));
        }
    });
    result
}

proptest! {
    #![proptest_config(config(24))]

    /// L = sum r (A B), whose gradients are r B^T and A^T r: the product in three layouts.
    #[test]
    fn gemm_is_bilinear(m in 1..20usize, k in 1..20usize, n in 1..40usize, seed: u64) {
        let shape = GemmShape { m, k, n };
        let mut random = Random::new(seed);
        let (a, b) = (random.uniform(m * k, 1.0), random.uniform(k * n, 1.0));
        let r = random.uniform(m * n, 1.0);
        let (a64, b64, r64) = (widen(&a), widen(&b), widen(&r));
        let loss = |a: &[f64], b: &[f64]| {
            let mut c = vec![0.0; m * n];
            reference::gemm::gemm(shape, (a, false), (b, false), Write::Overwrite, &mut c);
            dot(&c, &r64)
        };
        let by_a = quotients(&a64, |a| loss(a, &b64));
        let by_b = quotients(&b64, |b| loss(&a64, b));
        on_each_cpu(|cpu| {
            let (mut da, mut db) = (vec![f32::NAN; m * k], vec![f32::NAN; k * n]);
            let shape = GemmShape { m, k: n, n: k };
            gemm::gemm(cpu, shape, Matrix::N(&r), Matrix::T(&b), Write::Overwrite, &mut da);
            let shape = GemmShape { m: k, k: m, n };
            gemm::gemm(cpu, shape, Matrix::T(&a), Matrix::N(&r), Write::Overwrite, &mut db);
            compare("da", &da, &by_a, TOLERANCE)?;
            compare("db", &db, &by_b, TOLERANCE)
        })?;
    }

    /// Both layers: with ReLU, dy first goes through ReLU's backward.
    #[test]
    fn linear_layers(
        rows in 1..18usize, inputs in 1..20usize, outputs in 1..36usize, with_relu: bool, seed: u64,
    ) {
        let shape = LinearShape { rows, inputs, outputs };
        let mut random = Random::new(seed);
        let x = random.uniform(rows * inputs, 1.0);
        let w = random.uniform(inputs * outputs, 1.0);
        let b = random.uniform(outputs, 1.0);
        let dy = random.uniform(rows * outputs, 1.0);
        let (x64, w64, b64, dy64) = (widen(&x), widen(&w), widen(&b), widen(&dy));
        let z = |x: &[f64], w: &[f64], b: &[f64]| {
            let mut z = vec![0.0; rows * outputs];
            reference::linear::forward(shape, x, w, b, &mut z);
            z
        };
        if with_relu {
            prop_assume!(z(&x64, &w64, &b64).iter().all(|z| z.abs() > KINK));
        }
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            if with_relu {
                let mut y = vec![0.0; rows * outputs];
                reference::linear::forward_relu(shape, x, w, b, &mut y);
                dot(&y, &dy64)
            } else {
                dot(&z(x, w, b), &dy64)
            }
        };
        let by_x = quotients(&x64, |x| loss(x, &w64, &b64));
        let by_w = quotients(&w64, |w| loss(&x64, w, &b64));
        let by_b = quotients(&b64, |b| loss(&x64, &w64, b));
        on_each_cpu(|cpu| {
            let mut dz = dy.clone();
            if with_relu {
                let mut y = vec![f32::NAN; rows * outputs];
                linear::forward_relu(cpu, shape, &x, &w, &b, &mut y);
                relu::backward(cpu, &y, &dy, &mut dz);
            }
            let mut dx = vec![f32::NAN; x.len()];
            let (mut dw, mut db) = (vec![f32::NAN; w.len()], vec![f32::NAN; b.len()]);
            linear::backward_input(cpu, shape, &dz, &w, &mut dx);
            linear::backward_weights(cpu, shape, &x, &dz, Write::Overwrite, &mut dw, &mut db);
            compare("dx", &dx, &by_x, TOLERANCE)?;
            compare("dw", &dw, &by_w, TOLERANCE)?;
            compare("db", &db, &by_b, TOLERANCE)
        })?;
    }

    /// y = relu(z) w, differentiated with respect to z.
    #[test]
    fn input_of_a_linear_layer_behind_relu(
        rows in 1..18usize, inputs in 1..40usize, outputs in 1..20usize, seed: u64,
    ) {
        let shape = LinearShape { rows, inputs, outputs };
        let mut random = Random::new(seed);
        let z = random.uniform(rows * inputs, 1.0);
        prop_assume!(z.iter().all(|&z| f64::from(z.abs()) > KINK));
        let (w, dy) = (random.uniform(inputs * outputs, 1.0), random.uniform(rows * outputs, 1.0));
        let (w64, dy64) = (widen(&w), widen(&dy));
        let by_z = quotients(&widen(&z), |z| {
            let (mut x, mut y) = (vec![0.0; rows * inputs], vec![0.0; rows * outputs]);
            reference::relu::forward(z, &mut x);
            reference::linear::forward(shape, &x, &w64, &vec![0.0; outputs], &mut y);
            dot(&y, &dy64)
        });
        on_each_cpu(|cpu| {
            let (mut x, mut dz) = (vec![f32::NAN; z.len()], vec![f32::NAN; z.len()]);
            relu::forward(cpu, &z, &mut x);
            linear::backward_input_relu(cpu, shape, &dy, &w, &x, &mut dz);
            compare("dz", &dz, &by_z, TOLERANCE)
        })?;
    }

    #[test]
    fn relu_alone(n in 1..100usize, seed: u64) {
        let mut random = Random::new(seed);
        let (x, dy) = (random.uniform(n, 1.0), random.uniform(n, 1.0));
        prop_assume!(x.iter().all(|&x| f64::from(x.abs()) > KINK));
        let by_x = quotients(&widen(&x), |x| {
            let mut y = vec![0.0; n];
            reference::relu::forward(x, &mut y);
            dot(&y, &widen(&dy))
        });
        on_each_cpu(|cpu| {
            let mut dx = vec![f32::NAN; n];
            relu::backward(cpu, &x, &dy, &mut dx);
            compare("dx", &dx, &by_x, TOLERANCE)
        })?;
    }

    /// Narrow rows (up to 32 columns) and wide ones.
    #[test]
    fn softmax_rows(rows in 1..20usize, cols in 1..70usize, seed: u64) {
        let shape = MatrixShape { rows, cols };
        let mut random = Random::new(seed);
        let (x, dy) = (random.uniform(rows * cols, 3.0), random.uniform(rows * cols, 1.0));
        let by_x = quotients(&widen(&x), |x| {
            let mut y = vec![0.0; rows * cols];
            reference::softmax::forward(shape, x, &mut y);
            dot(&y, &widen(&dy))
        });
        on_each_cpu(|cpu| {
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            softmax::forward(cpu, shape, &x, &mut y);
            softmax::backward(cpu, shape, &y, &dy, &mut dx);
            compare("dx", &dx, &by_x, TOLERANCE)
        })?;
    }

    /// The loss of logits, fused and by way of the probabilities: all three ways to its gradient.
    #[test]
    fn softmax_cross_entropy_logits(
        rows in 1..20usize, cols in 1..70usize, mean: bool, seed: u64,
    ) {
        let shape = MatrixShape { rows, cols };
        let scale = if mean { 1.0 / rows as f32 } else { 1.0 };
        let mut random = Random::new(seed);
        let (logits, labels) = (random.uniform(rows * cols, 3.0), random.labels(rows, cols));
        let by_logits = quotients(&widen(&logits), |logits| {
            let tally = reference::softmax_cross_entropy::forward(shape, logits, &labels);
            f64::from(scale) * tally.loss
        });
        on_each_cpu(|cpu| {
            let mut fused = vec![f32::NAN; logits.len()];
            softmax_cross_entropy::forward_backward(cpu, shape, &logits, &labels, scale, &mut fused);
            compare("forward_backward", &fused, &by_logits, TOLERANCE)?;

            let mut p = vec![f32::NAN; logits.len()];
            softmax::forward(cpu, shape, &logits, &mut p);
            let mut dlogits = vec![f32::NAN; logits.len()];
            softmax_cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut dlogits);
            compare("backward", &dlogits, &by_logits, TOLERANCE)?;

            let mut dp = vec![f32::NAN; logits.len()];
            cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut dp);
            softmax::backward(cpu, shape, &p, &dp, &mut dlogits);
            compare("cross_entropy, softmax", &dlogits, &by_logits, TOLERANCE)
        })?;
    }

    #[test]
    fn cross_entropy_of_probabilities(
        rows in 1..20usize, cols in 1..40usize, mean: bool, seed: u64,
    ) {
        let shape = MatrixShape { rows, cols };
        let scale = if mean { 1.0 / rows as f32 } else { 1.0 };
        let mut random = Random::new(seed);
        let p: Vec<f32> =
            random.uniform(rows * cols, 0.45).iter().map(|p| p + 0.55).collect();
        let labels = random.labels(rows, cols);
        let by_p = quotients(&widen(&p), |p| {
            f64::from(scale) * reference::cross_entropy::forward(shape, p, &labels).loss
        });
        on_each_cpu(|cpu| {
            let mut dp = vec![f32::NAN; p.len()];
            cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut dp);
            compare("dprobabilities", &dp, &by_p, TOLERANCE)
        })?;
    }
}

/// A network and labelled samples.
struct Network {
    shape: MlpShape,
    parameters: reference::mlp::Parameters<f64>,
    x: Vec<f64>,
    labels: Vec<u32>,
    scale: f32,
}

impl Network {
    fn new(shape: MlpShape, rows: usize, mean: bool, seed: u64) -> Self {
        let MlpShape { inputs, hidden, classes } = shape;
        let mut random = Random::new(seed);
        let mut uniform = |n| widen(&random.uniform(n, 1.0));
        let parameters = reference::mlp::Parameters {
            w_h: uniform(inputs * hidden),
            b_h: uniform(hidden),
            w_o: uniform(hidden * classes),
            b_o: uniform(classes),
        };
        let x = uniform(rows * inputs);
        let scale = if mean { 1.0 / rows as f32 } else { 1.0 };
        Self { shape, parameters, x, labels: random.labels(rows, classes), scale }
    }

    /// The same in `f32`.
    fn mlp(&self) -> Mlp {
        let reference::mlp::Parameters { w_h, b_h, w_o, b_o } = &self.parameters;
        let (w_h, b_h, w_o, b_o) = (narrow(w_h), narrow(b_h), narrow(w_o), narrow(b_o));
        Mlp { shape: self.shape, w_h, b_h, w_o, b_o }
    }

    /// What enters ReLU, and the logits.
    fn forward(&self, parameters: &reference::mlp::Parameters<f64>) -> (Vec<f64>, Vec<f64>) {
        let (rows, MlpShape { inputs, hidden, classes }) = (self.labels.len(), self.shape);
        let reference::mlp::Parameters { w_h, b_h, w_o, b_o } = parameters;
        let layer = LinearShape { rows, inputs, outputs: hidden };
        let (mut z, mut s) = (vec![0.0; rows * hidden], vec![0.0; rows * hidden]);
        reference::linear::forward(layer, &self.x, w_h, b_h, &mut z);
        reference::relu::forward(&z, &mut s);
        let layer = LinearShape { rows, inputs: hidden, outputs: classes };
        let mut logits = vec![0.0; rows * classes];
        reference::linear::forward(layer, &s, w_o, b_o, &mut logits);
        (z, logits)
    }

    fn logits_shape(&self) -> MatrixShape {
        MatrixShape { rows: self.labels.len(), cols: self.shape.classes }
    }

    /// `scale` times the loss, and which hidden units are on.
    fn loss(&self, parameters: &reference::mlp::Parameters<f64>) -> (f64, Vec<bool>) {
        let (z, logits) = self.forward(parameters);
        let shape = self.logits_shape();
        let tally = reference::softmax_cross_entropy::forward(shape, &logits, &self.labels);
        (f64::from(self.scale) * tally.loss, z.iter().map(|&z| z > 0.0).collect())
    }

    /// Difference quotients with respect to one array of the parameters, without those between
    /// whose two points a hidden unit switches.
    fn quotients(&self, array: usize) -> Vec<(usize, f64)> {
        let mut moved = self.parameters.clone();
        let len = arrays(&mut moved)[array].len();
        let mut kept = Vec::new();
        for at in coordinates(len) {
            let mut loss_at = |step: f64| {
                let value = arrays(&mut moved)[array][at];
                arrays(&mut moved)[array][at] = value + step;
                let loss = self.loss(&moved);
                arrays(&mut moved)[array][at] = value;
                loss
            };
            let ((right, on_right), (left, on_left)) = (loss_at(STEP), loss_at(-STEP));
            if on_right == on_left {
                kept.push((at, (right - left) / (2.0 * STEP)));
            }
        }
        assert!(kept.len() * 2 >= coordinates(len).count(), "too few quotients: {}", kept.len());
        kept
    }
}

fn arrays<T>(parameters: &mut reference::mlp::Parameters<T>) -> [&mut Vec<T>; 4] {
    let reference::mlp::Parameters { w_h, b_h, w_o, b_o } = parameters;
    [w_h, b_h, w_o, b_o]
}

const ARRAYS: [&str; 4] = ["w_h", "b_h", "w_o", "b_o"];

/// The network's gradients against its twin's in `f64` and against difference quotients; its
/// figures and its predictions against the twin's.
fn check_network(network: &Network) -> Result<(), TestCaseError> {
    let Network { shape, parameters, x, labels, scale } = network;
    let (z, logits) = network.forward(parameters);
    // In f32 a unit so near its kink could be on where it is off in f64.
    prop_assume!(z.iter().all(|z| z.abs() > 1e-6));
    let (tally, mut twin) =
        reference::mlp::gradients(*shape, parameters, x, labels, f64::from(*scale));
    let quotients: Vec<_> = (0..ARRAYS.len()).map(|array| network.quotients(array)).collect();
    let mut probabilities = vec![0.0; logits.len()];
    reference::softmax::forward(network.logits_shape(), &logits, &mut probabilities);
    let (mlp, x) = (network.mlp(), narrow(x));
    on_each_cpu(|cpu| {
        let mut work = Workspace::default();
        let mut gradients = Mlp::zeros(*shape);
        gradients.w_h.fill(f32::NAN);
        gradients.b_o.fill(f32::NAN);
        let trained = mlp.gradients(cpu, &mut work, &x, labels, *scale, &mut gradients);
        let evaluated = mlp.evaluate(cpu, &mut work, &x, labels);
        prop_assert_eq!(trained, evaluated, "the figures of gradients and evaluate");
        prop_assert!(
            (trained.loss - tally.loss).abs() <= 1e-5 * tally.loss,
            "loss {} is not {}",
            trained.loss,
            tally.loss
        );
        prop_assert_eq!((trained.hits, trained.rows), (tally.hits, tally.rows));

        let Mlp { w_h, b_h, w_o, b_o, .. } = &gradients;
        for (array, got) in [w_h, b_h, w_o, b_o].into_iter().enumerate() {
            compare(ARRAYS[array], got, &quotients[array], TOLERANCE)?;
            let twin: Vec<_> = arrays(&mut twin)[array].iter().copied().enumerate().collect();
            prop_assert_eq!(got.len(), twin.len());
            compare(ARRAYS[array], got, &twin, TOLERANCE)?;
        }

        let mut predicted = vec![f32::NAN; probabilities.len()];
        mlp.predict(cpu, &mut work, &x, &mut predicted);
        let wanted: Vec<_> = probabilities.iter().copied().enumerate().collect();
        compare("probabilities", &predicted, &wanted, TOLERANCE)
    })
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn mlp(
        inputs in 1..12usize, hidden in 1..36usize, classes in 1..12usize, rows in 1..20usize,
        mean: bool, seed: u64,
    ) {
        let shape = MlpShape { inputs, hidden, classes };
        check_network(&Network::new(shape, rows, mean, seed))?;
    }
}

proptest! {
    #![proptest_config(config(3))]

    /// A network takes 1,024 rows at a time and adds up their gradients.
    #[test]
    fn mlp_on_more_rows_than_a_block(
        rows in prop::sample::select(vec![1024usize, 1025, 1100, 2049]), mean: bool, seed: u64,
    ) {
        let shape = MlpShape { inputs: 3, hidden: 5, classes: 4 };
        check_network(&Network::new(shape, rows, mean, seed))?;
    }
}

/// Gradients left over from another call must not stay.
#[test]
fn mlp_without_rows_has_zero_gradients() {
    let shape = MlpShape { inputs: 3, hidden: 5, classes: 4 };
    let mlp = Mlp::xavier(shape, 1);
    for_each_cpu(|cpu| {
        let mut gradients = Mlp::xavier(shape, 2);
        let tally = mlp.gradients(cpu, &mut Workspace::default(), &[], &[], 1.0, &mut gradients);
        assert_eq!(tally.rows, 0, "rows on {cpu:?}");
        assert_eq!(gradients, Mlp::zeros(shape), "gradients on {cpu:?}");
    });
}
