//! Every gradient against central finite differences of the scalar twin's loss in `f64`. The
//! gradients are those of the `f32` kernels, on every instruction set that the machine has.
//!
//! The cases are the same in every run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` give others.

mod common;

use common::{Random, close, for_each_cpu, narrow, processors, widen};
use kernelet::kernels::adam::Adam;
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::relu_batch_norm::{Affine, Moments, Normalization};
use kernelet::kernels::{avg_pool, conv2d, dropout, max_pool, relu_batch_norm};
use kernelet::kernels::{cross_entropy, gemm, linear, relu, softmax, softmax_cross_entropy};
use kernelet::nn::cnn::{self, AdamState, Regularization};
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::reference;
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};
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

/// [`quotients`] of a loss that also tells which of its pieces it is on (which units are on, which
/// element of a window is the largest), without those between whose two points that changes.
/// Fails if that leaves less than half.
fn quotients_on_one_piece<P: PartialEq>(
    x: &[f64],
    loss: impl Fn(&[f64]) -> (f64, P),
) -> Result<Vec<(usize, f64)>, TestCaseError> {
    let mut x = x.to_vec();
    let mut kept = Vec::new();
    for at in coordinates(x.len()) {
        let value = x[at];
        x[at] = value + STEP;
        let (right, right_piece) = loss(&x);
        x[at] = value - STEP;
        let (left, left_piece) = loss(&x);
        x[at] = value;
        if right_piece == left_piece {
            kept.push((at, (right - left) / (2.0 * STEP)));
        }
    }
    prop_assert!(kept.len() * 2 >= coordinates(x.len()).count(), "few quotients: {}", kept.len());
    Ok(kept)
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
    mut body: impl FnMut(&kernelet::Cpu) -> Result<(), TestCaseError> + Send,
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

/// A batch of small images.
fn images() -> impl Strategy<Value = ImageShape> {
    (1..4usize, 1..8usize, 1..8usize, 1..5usize)
        .prop_map(|(batch, height, width, channels)| ImageShape { batch, height, width, channels })
}

/// Windows of all kinds, some larger than the images.
fn window() -> impl Strategy<Value = Window> {
    ([1..5usize, 1..5usize], [1..4usize, 1..4usize], any::<bool>()).prop_map(
        |(size, stride, same)| Window {
            size,
            stride,
            padding: if same { Padding::Same } else { Padding::Valid },
        },
    )
}

fn len(shape: ImageShape) -> usize {
    shape.batch * shape.image_len()
}

/// Added to a variance.
const EPSILON: f64 = 1e-5;

/// ReLU's output, its normalisation, and which elements are on.
fn normalized(
    shape: MatrixShape,
    x: &[f64],
) -> (Vec<f64>, reference::relu_batch_norm::Normalization<f64>, Vec<bool>) {
    let mut r = vec![0.0; x.len()];
    let moments = reference::relu_batch_norm::forward_moments(shape, x, &mut r);
    let normalization = reference::relu_batch_norm::Normalization::new(&moments, EPSILON);
    (r, normalization, x.iter().map(|&x| x > 0.0).collect())
}

/// Whether a difference quotient, or `f32`, is at a loss with these moments: where a channel hardly
/// varies, its inverse deviation changes within a step. (One that does not vary at all is fine.)
fn hardly_varies(normalization: &reference::relu_batch_norm::Normalization<f64>) -> bool {
    let variance = |inv: f64| 1.0 / (inv * inv) - EPSILON;
    normalization.inv_deviation.iter().any(|&inv| (1e-12..1e-3).contains(&variance(inv)))
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn convolutions(
        input in images(), window in window(), filters in 1..36usize, with_relu: bool, seed: u64,
    ) {
        let shape = Conv2dShape { input, window, filters };
        let outputs = len(shape.output());
        let mut random = Random::new(seed);
        let x = random.uniform(len(input), 1.0);
        let w = random.uniform(shape.taps() * filters, 1.0);
        let (b, dy) = (random.uniform(filters, 1.0), random.uniform(outputs, 1.0));
        let (x64, w64, b64, dy64) = (widen(&x), widen(&w), widen(&b), widen(&dy));
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            let (mut z, mut y) = (vec![0.0; outputs], vec![0.0; outputs]);
            reference::conv2d::forward(shape, x, w, b, &mut z);
            let on: Vec<bool> = z.iter().map(|&z| with_relu && z > 0.0).collect();
            reference::conv2d::forward_relu(shape, x, w, b, &mut y);
            (dot(if with_relu { &y } else { &z }, &dy64), on)
        };
        if with_relu {
            let mut z = vec![0.0; outputs];
            reference::conv2d::forward(shape, &x64, &w64, &b64, &mut z);
            // In f32 it could be on where it is off in f64.
            prop_assume!(z.iter().all(|z| z.abs() > 1e-5));
        }
        let by_x = quotients_on_one_piece(&x64, |x| loss(x, &w64, &b64))?;
        let by_w = quotients_on_one_piece(&w64, |w| loss(&x64, w, &b64))?;
        let by_b = quotients_on_one_piece(&b64, |b| loss(&x64, &w64, b))?;
        on_each_cpu(|cpu| {
            let mut dz = dy.clone();
            if with_relu {
                let mut y = vec![f32::NAN; outputs];
                let mut moments = Moments::new(filters);
                conv2d::forward_relu_moments(cpu, shape, &x, &w, &b, &mut y, &mut moments);
                relu::backward(cpu, &y, &dy, &mut dz);
            }
            let mut dx = vec![f32::NAN; x.len()];
            let (mut dw, mut db) = (vec![f32::NAN; w.len()], vec![f32::NAN; b.len()]);
            conv2d::backward_input(cpu, shape, &dz, &w, &mut dx);
            conv2d::backward_weights(cpu, shape, &x, &dz, Write::Overwrite, &mut dw, &mut db);
            compare("dx", &dx, &by_x, TOLERANCE)?;
            compare("dw", &dw, &by_w, TOLERANCE)?;
            compare("db", &db, &by_b, TOLERANCE)
        })?;
    }

    /// Through the moments, too, with and without scale and offset.
    #[test]
    fn relu_and_batch_norm(
        rows in 1..80usize, cols in 1..36usize, with_affine: bool, seed: u64,
    ) {
        let shape = MatrixShape { rows, cols };
        let mut random = Random::new(seed);
        let (x, dy) = (random.uniform(rows * cols, 1.0), random.uniform(rows * cols, 1.0));
        let (scale, offset) = (random.uniform(cols, 1.0), random.uniform(cols, 1.0));
        let (x64, dy64) = (widen(&x), widen(&dy));
        let (scale64, offset64) = (widen(&scale), widen(&offset));
        prop_assume!(x.iter().all(|x| x.abs() > 1e-5));
        prop_assume!(!hardly_varies(&normalized(shape, &x64).1));
        let loss = |x: &[f64], scale: &[f64], offset: &[f64]| {
            let (r, normalization, on) = normalized(shape, x);
            let affine = reference::relu_batch_norm::Affine { scale, offset };
            let affine = with_affine.then_some(affine);
            let mut y = vec![0.0; r.len()];
            let forward = reference::relu_batch_norm::forward_normalize::<f64>;
            forward(shape, &r, &normalization, affine, &mut y);
            (dot(&y, &dy64), on)
        };
        let by_x = quotients_on_one_piece(&x64, |x| loss(x, &scale64, &offset64))?;
        let by_scale = quotients(&scale64, |scale| loss(&x64, scale, &offset64).0);
        let by_offset = quotients(&offset64, |offset| loss(&x64, &scale64, offset).0);
        on_each_cpu(|cpu| {
            let (mut r, mut y) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            let (mut moments, mut norm) = (Moments::new(cols), Normalization::identity(cols));
            relu_batch_norm::forward_moments(cpu, shape, &x, &mut r, &mut moments);
            norm.set(&moments, EPSILON);
            let affine = with_affine.then_some(Affine { scale: &scale, offset: &offset });
            relu_batch_norm::forward_normalize(cpu, shape, &r, &norm, affine, &mut y);
            let mut dx = vec![f32::NAN; x.len()];
            let (mut dscale, mut doffset) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
            let scale = with_affine.then_some(&scale[..]);
            let backward = relu_batch_norm::backward;
            backward(cpu, shape, &r, &norm, scale, &dy, &mut dx, &mut dscale, &mut doffset);
            compare("dx", &dx, &by_x, TOLERANCE)?;
            if with_affine {
                compare("dscale", &dscale, &by_scale, TOLERANCE)?;
                compare("doffset", &doffset, &by_offset, TOLERANCE)?;
            }
            Ok(())
        })?;
    }

    /// Both pools, and the pool behind ReLU and batch normalisation.
    #[test]
    fn pools(input in images(), channels in 1..36usize, window in window(), seed: u64) {
        let shape = PoolShape { input: ImageShape { channels, ..input }, window };
        let (inputs, outputs) = (len(shape.input), len(shape.output()));
        let pixels = shape.input.pixels();
        let mut random = Random::new(seed);
        let (x, dy) = (random.uniform(inputs, 1.0), random.uniform(outputs, 1.0));
        let (x64, dy64) = (widen(&x), widen(&dy));
        prop_assume!(x.iter().all(|x| x.abs() > 1e-5));
        prop_assume!(!hardly_varies(&normalized(pixels, &x64).1));
        let by_max = quotients_on_one_piece(&x64, |x| {
            let (mut y, mut argmax) = (vec![0.0; outputs], vec![0u8; outputs]);
            reference::max_pool::forward(shape, x, &mut y, &mut argmax);
            (dot(&y, &dy64), argmax)
        })?;
        let by_mean = quotients(&x64, |x| {
            let mut y = vec![0.0; outputs];
            reference::avg_pool::forward(shape, x, &mut y);
            dot(&y, &dy64)
        });
        let by_all = quotients_on_one_piece(&x64, |x| {
            let (r, normalization, on) = normalized(pixels, x);
            let (mut y, mut argmax) = (vec![0.0; outputs], vec![0u8; outputs]);
            let forward = reference::relu_batch_norm::forward_normalize_max_pool::<f64>;
            forward(shape, &r, &normalization, &mut y, &mut argmax);
            (dot(&y, &dy64), (on, argmax))
        })?;
        on_each_cpu(|cpu| {
            let (mut y, mut argmax) = (vec![f32::NAN; outputs], vec![0u8; outputs]);
            let mut dx = vec![f32::NAN; inputs];
            max_pool::forward(cpu, shape, &x, &mut y, &mut argmax);
            max_pool::backward(cpu, shape, &argmax, &dy, &mut dx);
            compare("max_pool", &dx, &by_max, TOLERANCE)?;

            avg_pool::backward(cpu, shape, &dy, &mut dx);
            compare("avg_pool", &dx, &by_mean, TOLERANCE)?;

            let mut r = vec![f32::NAN; inputs];
            let (mut moments, mut norm) =
                (Moments::new(channels), Normalization::identity(channels));
            relu_batch_norm::forward_moments(cpu, pixels, &x, &mut r, &mut moments);
            norm.set(&moments, EPSILON);
            let forward = relu_batch_norm::forward_normalize_max_pool;
            forward(cpu, shape, &r, &norm, &mut y, &mut argmax);
            let backward = relu_batch_norm::backward_max_pool;
            backward(cpu, shape, &r, &norm, &y, &argmax, &dy, &mut dx);
            compare("relu_batch_norm and max_pool", &dx, &by_all, TOLERANCE)
        })?;
    }

    #[test]
    fn dropout_alone(n in 1..100usize, keep in 0.05..1f32, seed: u64, step: u64) {
        let settings = Dropout { keep, seed, step };
        let mut random = Random::new(seed);
        let (x, dy) = (random.uniform(n, 1.0), random.uniform(n, 1.0));
        let by_x = quotients(&widen(&x), |x| {
            let mut y = x.to_vec();
            reference::dropout::forward_in_place(settings, &mut y);
            dot(&y, &widen(&dy))
        });
        on_each_cpu(|cpu| {
            let mut dx = dy.clone();
            dropout::backward_in_place(cpu, settings, &mut dx);
            compare("dx", &dx, &by_x, TOLERANCE)
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

    /// So small a network takes 10,240 rows at a time and adds up their gradients.
    #[test]
    fn mlp_on_more_rows_than_a_block(
        rows in prop::sample::select(vec![10_240usize, 10_241, 11_000, 20_481]), mean: bool, seed: u64,
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
        let (x, work): (&[f32], _) = (&[], &mut Workspace::default());
        let tally = mlp.gradients(cpu, work, x, &[], 1.0, &mut gradients);
        assert_eq!(tally.rows, 0, "rows on {cpu:?}");
        assert_eq!(gradients, Mlp::zeros(shape), "gradients on {cpu:?}");
    });
}

/// A convolutional network and labelled images.
struct Convolutional {
    shape: CnnShape,
    parameters: reference::cnn::Parameters<f64>,
    x: Vec<f64>,
    labels: Vec<u32>,
    regularization: Regularization,
}

impl Convolutional {
    fn new(shape: CnnShape, images: usize, regularization: Regularization, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let Cnn { w0, b0, w1, b1, w2, b2, .. } = Cnn::zeros(shape);
        let mut like = |array: Vec<f32>| widen(&random.uniform(array.len(), 1.0));
        let parameters = reference::cnn::Parameters {
            w0: like(w0),
            b0: like(b0),
            w1: like(w1),
            b1: like(b1),
            w2: like(w2),
            b2: like(b2),
        };
        let x = widen(&random.uniform(images * shape.pixels(), 1.0));
        let labels = random.labels(images, shape.classes);
        Self { shape, parameters, x, labels, regularization }
    }

    fn forward(
        &self,
        parameters: &reference::cnn::Parameters<f64>,
    ) -> reference::cnn::Activations<f64> {
        let dropout = self.regularization.dropout;
        reference::cnn::forward(self.shape, parameters, &self.x, None, dropout)
    }

    fn logits_shape(&self) -> MatrixShape {
        MatrixShape { rows: self.labels.len(), cols: self.shape.classes }
    }

    /// The mean loss with the penalty, and on which piece of it: which units are on, and which
    /// elements are pooled.
    fn loss(&self, parameters: &reference::cnn::Parameters<f64>) -> (f64, (Vec<bool>, Vec<u8>)) {
        let forward = self.forward(parameters);
        let shape = self.logits_shape();
        let tally = reference::softmax_cross_entropy::forward(shape, &forward.logits, &self.labels);
        let penalty = reference::cnn::penalty(parameters, f64::from(self.regularization.l2));
        let on = forward.r.iter().chain(&forward.z).map(|&x| x > 0.0).collect();
        (tally.mean_loss() + penalty, (on, forward.argmax))
    }

    /// Whether `f32` may take another side of a kink than `f64`.
    fn is_near_a_kink(&self) -> bool {
        let shape = self.shape;
        let convolution = shape.convolution(self.labels.len());
        let forward = self.forward(&self.parameters);
        let mut z = vec![0.0; forward.r.len()];
        let reference::cnn::Parameters { w0, b0, .. } = &self.parameters;
        reference::conv2d::forward(convolution, &self.x, w0, b0, &mut z);
        // The largest of every window, and the largest of the rest: they may be equal (ReLU makes
        // many so), but not nearly.
        let pool = shape.pool(self.labels.len());
        let (mut largest, mut second) = (vec![0.0; forward.pooled.len()], forward.r.clone());
        let mut argmax = vec![0u8; largest.len()];
        reference::max_pool::forward(pool, &second, &mut largest, &mut argmax);
        let mut is_largest = vec![0.0; second.len()];
        let ones = vec![1.0; largest.len()];
        reference::max_pool::backward(pool, &argmax, &ones, &mut is_largest);
        for (second, is_largest) in second.iter_mut().zip(is_largest) {
            *second = if is_largest > 0.0 { f64::NEG_INFINITY } else { *second };
        }
        let mut runner_up = largest.clone();
        reference::max_pool::forward(pool, &second, &mut runner_up, &mut argmax);
        let tie = |(a, b): (&f64, &f64)| a != b && a - b < 1e-5;
        let near = |z: &f64| *z != 0.0 && z.abs() < 1e-5;
        z.iter().any(near)
            || forward.z.iter().any(near)
            || largest.iter().zip(&runner_up).any(tie)
            || hardly_varies(&forward.normalization)
    }
}

fn cnn_arrays<T>(parameters: &mut reference::cnn::Parameters<T>) -> [&mut Vec<T>; 6] {
    let reference::cnn::Parameters { w0, b0, w1, b1, w2, b2 } = parameters;
    [w0, b0, w1, b1, w2, b2]
}

const CNN_ARRAYS: [&str; 6] = ["w0", "b0", "w1", "b1", "w2", "b2"];

/// In `f32`, laid out as the library has it.
fn cnn(shape: CnnShape, parameters: &reference::cnn::Parameters<f64>) -> Cnn {
    let reference::cnn::Parameters { w0, b0, w1, b1, w2, b2 } = parameters;
    let [w0, b0, w1, b1, w2, b2] = [w0, b0, w1, b1, w2, b2].map(|array| narrow(array));
    Cnn { shape, w0, b0, w1, b1, w2, b2 }
}

fn arrays_of(cnn: &Cnn) -> [&Vec<f32>; 6] {
    let Cnn { w0, b0, w1, b1, w2, b2, .. } = cnn;
    [w0, b0, w1, b1, w2, b2]
}

/// The network's gradients against its twin's in `f64` and against difference quotients; a step of
/// Adam against the twins'; evaluation and prediction against the twin's.
fn check_cnn(network: &Convolutional) -> Result<(), TestCaseError> {
    let Convolutional { shape, parameters, x, labels, regularization } = network;
    prop_assume!(!network.is_near_a_kink());
    let (tally, mut twin) =
        reference::cnn::gradients(*shape, parameters, x, labels, *regularization);
    let mut by_array = Vec::new();
    for array in 0..CNN_ARRAYS.len() {
        let start = cnn_arrays(&mut parameters.clone())[array].clone();
        by_array.push(quotients_on_one_piece(&start, |values| {
            let mut moved = parameters.clone();
            *cnn_arrays(&mut moved)[array] = values.to_vec();
            network.loss(&moved)
        })?);
    }

    // In the middle of a run: at its start Adam divides a gradient by its own magnitude.
    let step = 4;
    let settings = Adam { learning_rate: 0.1, epsilon: 1e-3, ..Adam::default() };
    let mut stepped = parameters.clone();
    for (w, g) in cnn_arrays(&mut stepped).into_iter().zip(cnn_arrays(&mut twin)) {
        let (mut m, mut v) = (vec![0.25; w.len()], vec![0.5; w.len()]);
        reference::adam::update(settings, step, w, &mut m, &mut v, g);
    }
    let penalty = reference::cnn::penalty(parameters, f64::from(regularization.l2));

    let plain = reference::cnn::forward(*shape, parameters, x, None, None);
    let logits_shape = network.logits_shape();
    let evaluation = reference::softmax_cross_entropy::forward(logits_shape, &plain.logits, labels);
    let mut probabilities = vec![0.0; plain.logits.len()];
    reference::softmax::forward(logits_shape, &plain.logits, &mut probabilities);

    let (cnn, x) = (cnn(*shape, parameters), narrow(x));
    let all = |values: &[f64]| values.iter().copied().enumerate().collect::<Vec<_>>();
    on_each_cpu(|cpu| {
        let mut work = cnn::Workspace::default();
        let mut gradients = Cnn::zeros(*shape);
        gradients.w1.fill(f32::NAN);
        gradients.b0.fill(f32::NAN);
        let trained = cnn.gradients(cpu, &mut work, &x, labels, *regularization, &mut gradients);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * (1.0 + b.abs());
        prop_assert!(near(trained.loss, tally.loss), "{} is not {}", trained.loss, tally.loss);
        prop_assert_eq!((trained.hits, trained.rows), (tally.hits, tally.rows));
        for (array, got) in arrays_of(&gradients).into_iter().enumerate() {
            let name = CNN_ARRAYS[array];
            let twin = all(cnn_arrays(&mut twin.clone())[array]);
            prop_assert_eq!(got.len(), twin.len());
            compare(&format!("{name}, twin"), got, &twin, TOLERANCE)?;
            compare(&format!("{name}, quotient"), got, &by_array[array], TOLERANCE)?;
        }

        let mut moved = cnn.clone();
        let mut state = AdamState::new(*shape);
        state.step = step - 1;
        for (moments, value) in [(&mut state.m, 0.25), (&mut state.v, 0.5)] {
            let Cnn { w0, b0, w1, b1, w2, b2, .. } = moments;
            [w0, b0, w1, b1, w2, b2].into_iter().for_each(|array| array.fill(value));
        }
        let (at_step, penalty_at_step) =
            moved.adam_step(cpu, &mut work, &x, labels, settings, *regularization, &mut state);
        prop_assert_eq!(at_step, trained, "the figures of gradients and adam_step");
        prop_assert!(near(penalty_at_step, penalty), "{} is not {}", penalty_at_step, penalty);
        prop_assert!(near(cnn.penalty(regularization.l2), penalty));
        prop_assert_eq!(state.step, step);
        for (array, got) in arrays_of(&moved).into_iter().enumerate() {
            let twin = all(cnn_arrays(&mut stepped.clone())[array]);
            compare(&format!("{} after a step", CNN_ARRAYS[array]), got, &twin, TOLERANCE)?;
        }

        let mut moments = Moments::new(shape.filters);
        cnn.moments(cpu, &mut work, &x, &mut moments);
        let mut normalization = Normalization::identity(shape.filters);
        normalization.set(&moments, EPSILON);
        let evaluated = cnn.evaluate(cpu, &mut work, &normalization, &x, labels);
        prop_assert!(near(evaluated.loss, evaluation.loss));
        prop_assert_eq!((evaluated.hits, evaluated.rows), (evaluation.hits, evaluation.rows));
        let mut predicted = vec![f32::NAN; probabilities.len()];
        cnn.predict(cpu, &mut work, &normalization, &x, &mut predicted);
        compare("probabilities", &predicted, &all(&probabilities), TOLERANCE)
    })
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn convolutional_network(
        (height, width, channels) in (1..7usize, 1..7usize, 1..3usize),
        (filters, hidden, classes) in (1..5usize, 1..20usize, 1..7usize),
        images in 1..5usize,
        l2 in prop::sample::select(vec![0.0, 0.3]),
        keep in prop::sample::select(vec![None, Some(0.6)]),
        seed: u64,
    ) {
        let shape = CnnShape { height, width, channels, filters, hidden, classes };
        let dropout = keep.map(|keep| Dropout { keep, seed, step: 9 });
        let regularization = Regularization { l2, dropout };
        check_cnn(&Convolutional::new(shape, images, regularization, seed))?;
    }
}

/// Gradients left over from another call must not stay.
#[test]
fn convolutional_network_without_images_has_zero_gradients() {
    let shape = CnnShape { height: 4, width: 5, channels: 1, filters: 3, hidden: 5, classes: 4 };
    let network = Cnn::xavier(shape, 1);
    for_each_cpu(|cpu| {
        let mut gradients = Cnn::xavier(shape, 2);
        let mut work = cnn::Workspace::default();
        let plain = Regularization::default();
        let tally = network.gradients(cpu, &mut work, &[], &[], plain, &mut gradients);
        assert_eq!(tally.rows, 0, "images on {cpu:?}");
        assert_eq!(gradients, Cnn::zeros(shape), "gradients on {cpu:?}");
    });
}
