//! A slice that does not fit the shape is a panic that names both lengths; a label that is no
//! class is a panic that names the row and the label.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{for_each_cpu, panic_message};
use kernelet::Cpu;
use kernelet::kernels::adam::Adam;
use kernelet::kernels::conv_block::{self, ConvBlockShape};
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::{Affine, Moments, Normalization};
use kernelet::kernels::{
    adam, avg_pool, conv2d, cross_entropy, dropout, exp, gemm, linear, max_pool, momentum, relu,
    relu_batch_norm, softmax, softmax_cross_entropy,
};
use kernelet::nn::cnn::{self, AdamState, Regularization};
use kernelet::nn::mlp::Workspace;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};

const LAYER: LinearShape = LinearShape { rows: 5, inputs: 7, outputs: 3 };
const MATRIX: MatrixShape = MatrixShape { rows: 5, cols: 7 };
const MLP: MlpShape = MlpShape { inputs: 7, hidden: 3, classes: 2 };

const IMAGES: ImageShape = ImageShape { batch: 2, height: 5, width: 4, channels: 3 };
/// (2, 5, 4, 3) to (2, 3, 4, 7), weights (3, 2, 3, 7).
const CONVOLUTION: Conv2dShape = Conv2dShape {
    input: IMAGES,
    window: Window { size: [3, 2], stride: [2, 1], padding: Padding::Same },
    filters: 7,
};
/// (2, 5, 4, 3) to (2, 3, 2, 3).
const POOL: PoolShape = PoolShape { input: IMAGES, window: Window::square(2, 2, Padding::Same) };
/// [`CONVOLUTION`], then (2, 3, 4, 7) to (2, 2, 2, 7).
const BLOCK: ConvBlockShape =
    ConvBlockShape { convolution: CONVOLUTION, pool: Window::square(2, 2, Padding::Same) };
const CNN: CnnShape =
    CnnShape { height: 4, width: 3, channels: 2, filters: 5, hidden: 3, classes: 2 };

/// The message with which `body` panics.
fn panic_of(body: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(body)).err().map(|panic| panic_message(&*panic))
}

fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

fn normalization(means: usize, deviations: usize) -> Normalization {
    Normalization { mean: zeros(means), inv_deviation: zeros(deviations) }
}

fn labels(len: usize) -> Vec<u32> {
    vec![0; len]
}

/// A kernel, the lengths of its slices that fit its shape, and a call with any lengths.
type Case = (&'static str, &'static [usize], fn(&Cpu, &[usize]));

const CASES: &[Case] = &[
    ("gemm", &[6, 8, 12], |cpu, n| {
        let shape = GemmShape { m: 3, k: 2, n: 4 };
        let (a, b) = (zeros(n[0]), zeros(n[1]));
        gemm::gemm(cpu, shape, Matrix::N(&a), Matrix::N(&b), Write::Add, &mut zeros(n[2]));
    }),
    ("gemm, transposed, empty sum", &[0, 0, 12], |cpu, n| {
        let shape = GemmShape { m: 3, k: 0, n: 4 };
        let (a, b) = (zeros(n[0]), zeros(n[1]));
        gemm::gemm(cpu, shape, Matrix::T(&a), Matrix::T(&b), Write::Add, &mut zeros(n[2]));
    }),
    ("linear::forward", &[35, 21, 3, 15], |cpu, n| {
        let (x, w, b) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        linear::forward(cpu, LAYER, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("linear::forward_relu", &[35, 21, 3, 15], |cpu, n| {
        let (x, w, b) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        linear::forward_relu(cpu, LAYER, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("linear::forward of bytes", &[35, 21, 3, 15], |cpu, n| {
        let (x, w, b) = (vec![0_u8; n[0]], zeros(n[1]), zeros(n[2]));
        linear::forward(cpu, LAYER, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("linear::backward_weights of bytes", &[35, 15, 21, 3], |cpu, n| {
        let (x, dy) = (vec![0_u8; n[0]], zeros(n[1]));
        let (mut dw, mut db) = (zeros(n[2]), zeros(n[3]));
        linear::backward_weights(cpu, LAYER, &x, &dy, Write::Overwrite, &mut dw, &mut db);
    }),
    ("linear::backward_input", &[15, 21, 35], |cpu, n| {
        linear::backward_input(cpu, LAYER, &zeros(n[0]), &zeros(n[1]), &mut zeros(n[2]));
    }),
    ("linear::backward_input_relu", &[15, 21, 35, 35], |cpu, n| {
        let (dy, w, x) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        linear::backward_input_relu(cpu, LAYER, &dy, &w, &x, &mut zeros(n[3]));
    }),
    ("linear::backward_weights", &[35, 15, 21, 3], |cpu, n| {
        let (x, dy, mut dw, mut db) = (zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3]));
        linear::backward_weights(cpu, LAYER, &x, &dy, Write::Overwrite, &mut dw, &mut db);
    }),
    ("softmax::forward", &[35, 35], |cpu, n| {
        softmax::forward(cpu, MATRIX, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("softmax::backward", &[35, 35, 35], |cpu, n| {
        softmax::backward(cpu, MATRIX, &zeros(n[0]), &zeros(n[1]), &mut zeros(n[2]));
    }),
    ("softmax_cross_entropy::forward", &[35, 5], |cpu, n| {
        let _ = softmax_cross_entropy::forward(cpu, MATRIX, &zeros(n[0]), &labels(n[1]));
    }),
    ("softmax_cross_entropy::forward_backward", &[35, 5, 35], |cpu, n| {
        let (z, labels, mut dz) = (zeros(n[0]), labels(n[1]), zeros(n[2]));
        softmax_cross_entropy::forward_backward(cpu, MATRIX, &z, &labels, 1.0, &mut dz);
    }),
    ("softmax_cross_entropy::backward", &[35, 5, 35], |cpu, n| {
        let (p, labels, mut dz) = (zeros(n[0]), labels(n[1]), zeros(n[2]));
        softmax_cross_entropy::backward(cpu, MATRIX, &p, &labels, 1.0, &mut dz);
    }),
    ("cross_entropy::forward", &[35, 5], |cpu, n| {
        let _ = cross_entropy::forward(cpu, MATRIX, &zeros(n[0]), &labels(n[1]));
    }),
    ("cross_entropy::backward", &[35, 5, 35], |cpu, n| {
        let (p, labels, mut dp) = (zeros(n[0]), labels(n[1]), zeros(n[2]));
        cross_entropy::backward(cpu, MATRIX, &p, &labels, 1.0, &mut dp);
    }),
    ("momentum::update", &[9, 9, 9], |cpu, n| {
        let settings = Momentum { learning_rate: 0.1, momentum: 0.9 };
        momentum::update(cpu, settings, &mut zeros(n[0]), &mut zeros(n[1]), &zeros(n[2]));
    }),
    ("relu::forward", &[9, 9], |cpu, n| {
        relu::forward(cpu, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("relu::backward", &[9, 9, 9], |cpu, n| {
        relu::backward(cpu, &zeros(n[0]), &zeros(n[1]), &mut zeros(n[2]));
    }),
    ("exp::forward", &[9, 9], |cpu, n| {
        exp::forward(cpu, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("linear::column_sums", &[15, 3], |cpu, n| {
        linear::column_sums(cpu, LAYER, &zeros(n[0]), Write::Add, &mut zeros(n[1]));
    }),
    ("linear::backward_weights_adam", &[35, 15, 21, 21, 21], |cpu, n| {
        let (x, dy, mut w) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        let (mut m, mut v) = (zeros(n[3]), zeros(n[4]));
        let step = linear::backward_weights_adam;
        let _ = step(cpu, LAYER, &x, &dy, Adam::default(), 1, &mut w, &mut m, &mut v);
    }),
    ("linear::backward_adam", &[35, 15, 21, 21, 21, 35], |cpu, n| {
        let (x, dy, mut w) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        let (mut m, mut v, mut dx) = (zeros(n[3]), zeros(n[4]), zeros(n[5]));
        let step = linear::backward_adam;
        let _ = step(cpu, LAYER, &x, &dy, Adam::default(), 1, &mut w, &mut m, &mut v, &mut dx);
    }),
    ("adam::update", &[9, 9, 9, 9], |cpu, n| {
        let (mut w, mut m, mut v, g) = (zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3]));
        let _ = adam::update(cpu, Adam::default(), 1, &mut w, &mut m, &mut v, &g);
    }),
    ("conv2d::forward", &[120, 126, 7, 168], |cpu, n| {
        let (x, w, b) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        conv2d::forward(cpu, CONVOLUTION, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("conv2d::forward_relu", &[120, 126, 7, 168], |cpu, n| {
        let (x, w, b) = (zeros(n[0]), zeros(n[1]), zeros(n[2]));
        conv2d::forward_relu(cpu, CONVOLUTION, &x, &w, &b, &mut zeros(n[3]));
    }),
    ("conv2d::forward_relu_moments", &[120, 126, 7, 168, 7], |cpu, n| {
        let (x, w, b, mut y) = (zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3]));
        let moments = &mut Moments::new(n[4]);
        conv2d::forward_relu_moments(cpu, CONVOLUTION, &x, &w, &b, &mut y, moments);
    }),
    ("conv2d::backward_input", &[168, 126, 120], |cpu, n| {
        let (dy, w) = (zeros(n[0]), zeros(n[1]));
        conv2d::backward_input(cpu, CONVOLUTION, &dy, &w, &mut zeros(n[2]));
    }),
    ("conv2d::backward_weights", &[120, 168, 126, 7], |cpu, n| {
        let (x, dy, mut dw, mut db) = (zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3]));
        conv2d::backward_weights(cpu, CONVOLUTION, &x, &dy, Write::Add, &mut dw, &mut db);
    }),
    ("relu_batch_norm::forward_moments", &[35, 35, 7], |cpu, n| {
        let (x, mut r, mut moments) = (zeros(n[0]), zeros(n[1]), Moments::new(n[2]));
        relu_batch_norm::forward_moments(cpu, MATRIX, &x, &mut r, &mut moments);
    }),
    ("relu_batch_norm::forward_normalize", &[35, 7, 7, 7, 7, 35], |cpu, n| {
        let (r, normalization) = (zeros(n[0]), normalization(n[1], n[2]));
        let (scale, offset, mut y) = (zeros(n[3]), zeros(n[4]), zeros(n[5]));
        let affine = Some(Affine { scale: &scale, offset: &offset });
        relu_batch_norm::forward_normalize(cpu, MATRIX, &r, &normalization, affine, &mut y);
    }),
    ("relu_batch_norm::forward_normalize_in_place", &[7, 7, 7, 7, 35], |cpu, n| {
        let normalization = normalization(n[0], n[1]);
        let (scale, offset, mut y) = (zeros(n[2]), zeros(n[3]), zeros(n[4]));
        let affine = Some(Affine { scale: &scale, offset: &offset });
        let forward = relu_batch_norm::forward_normalize_in_place;
        forward(cpu, MATRIX, &normalization, affine, &mut y);
    }),
    ("relu_batch_norm::backward", &[35, 7, 7, 7, 35, 35, 7, 7], |cpu, n| {
        let (r, normalization, scale) = (zeros(n[0]), normalization(n[1], n[2]), zeros(n[3]));
        let (dy, mut dx) = (zeros(n[4]), zeros(n[5]));
        let (mut dscale, mut doffset) = (zeros(n[6]), zeros(n[7]));
        relu_batch_norm::backward(
            cpu,
            MATRIX,
            &r,
            &normalization,
            Some(&scale),
            &dy,
            &mut dx,
            &mut dscale,
            &mut doffset,
        );
    }),
    ("relu_batch_norm::forward_normalize_max_pool", &[120, 3, 3, 36, 36], |cpu, n| {
        let (r, normalization) = (zeros(n[0]), normalization(n[1], n[2]));
        let (mut y, mut argmax) = (zeros(n[3]), vec![0; n[4]]);
        let forward = relu_batch_norm::forward_normalize_max_pool;
        forward(cpu, POOL, &r, &normalization, &mut y, &mut argmax);
    }),
    ("relu_batch_norm::backward_max_pool", &[120, 3, 3, 36, 36, 36, 120], |cpu, n| {
        let (r, normalization) = (zeros(n[0]), normalization(n[1], n[2]));
        let (y, argmax, dy, mut dx) = (zeros(n[3]), vec![0; n[4]], zeros(n[5]), zeros(n[6]));
        let backward = relu_batch_norm::backward_max_pool;
        backward(cpu, POOL, &r, &normalization, &y, &argmax, &dy, &mut dx);
    }),
    ("conv_block::forward", &[120, 126, 7, 168, 7, 56, 56], |cpu, n| {
        let (x, w, b, mut r) = (zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3]));
        let (mut y, mut argmax, moments) = (zeros(n[5]), vec![0; n[6]], &mut Moments::new(n[4]));
        conv_block::forward(cpu, BLOCK, &x, &w, &b, &mut r, moments, &mut y, &mut argmax);
    }),
    ("conv_block::backward_weights", &[120, 168, 7, 7, 56, 56, 56, 126, 7], |cpu, n| {
        let (x, r, norm) = (zeros(n[0]), zeros(n[1]), normalization(n[2], n[3]));
        let (y, argmax, dy) = (zeros(n[4]), vec![0; n[5]], zeros(n[6]));
        let (mut dw, mut db) = (zeros(n[7]), zeros(n[8]));
        let backward = conv_block::backward_weights;
        let write = Write::Add;
        backward(cpu, BLOCK, &x, &r, &norm, &y, &argmax, &dy, write, &mut dw, &mut db);
    }),
    ("Moments::merge", &[5, 5], |_, n| {
        Moments::new(n[0]).merge(&Moments::new(n[1]));
    }),
    ("Normalization::set", &[5, 5], |_, n| {
        normalization(n[0], n[0]).set(&Moments::new(n[1]), 1e-5);
    }),
    ("max_pool::forward", &[120, 36, 36], |cpu, n| {
        let (x, mut y, mut argmax) = (zeros(n[0]), zeros(n[1]), labels(n[2]));
        max_pool::forward(cpu, POOL, &x, &mut y, &mut argmax);
    }),
    ("max_pool::backward", &[36, 36, 120], |cpu, n| {
        let (argmax, dy) = (labels(n[0]), zeros(n[1]));
        max_pool::backward(cpu, POOL, &argmax, &dy, &mut zeros(n[2]));
    }),
    ("avg_pool::forward", &[120, 36], |cpu, n| {
        avg_pool::forward(cpu, POOL, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("avg_pool::backward", &[36, 120], |cpu, n| {
        avg_pool::backward(cpu, POOL, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("Cnn::gradients", &[120, 5], |cpu, n| {
        let (mut work, mut gradients) = (cnn::Workspace::default(), Cnn::zeros(CNN));
        let (x, labels) = (zeros(n[0]), labels(n[1]));
        let plain = Regularization::default();
        let _ = Cnn::zeros(CNN).gradients(cpu, &mut work, &x, &labels, plain, &mut gradients);
    }),
    ("Cnn::adam_step", &[120, 5], |cpu, n| {
        let (mut work, mut state) = (cnn::Workspace::default(), AdamState::new(CNN));
        let (x, labels, plain) = (zeros(n[0]), labels(n[1]), Regularization::default());
        let adam = Adam::default();
        let _ = Cnn::zeros(CNN).adam_step(cpu, &mut work, &x, &labels, adam, plain, &mut state);
    }),
    ("Cnn::evaluate", &[120, 5], |cpu, n| {
        let mut work = cnn::Workspace::default();
        let (x, labels, norm) = (zeros(n[0]), labels(n[1]), normalization(5, 5));
        let _ = Cnn::zeros(CNN).evaluate(cpu, &mut work, &norm, &x, &labels);
    }),
    ("Cnn::predict", &[120, 10], |cpu, n| {
        let (mut work, norm) = (cnn::Workspace::default(), normalization(5, 5));
        Cnn::zeros(CNN).predict(cpu, &mut work, &norm, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("Mlp::evaluate", &[35, 5], |cpu, n| {
        let mut work = Workspace::default();
        let _ = Mlp::zeros(MLP).evaluate(cpu, &mut work, &zeros(n[0]), &labels(n[1]));
    }),
    ("Mlp::predict", &[35, 10], |cpu, n| {
        let mut work = Workspace::default();
        Mlp::zeros(MLP).predict(cpu, &mut work, &zeros(n[0]), &mut zeros(n[1]));
    }),
    ("Mlp::gradients", &[35, 5], |cpu, n| {
        let (mut work, mut gradients) = (Workspace::default(), Mlp::zeros(MLP));
        let (x, labels) = (zeros(n[0]), labels(n[1]));
        let _ = Mlp::zeros(MLP).gradients(cpu, &mut work, &x, &labels, 1.0, &mut gradients);
    }),
];

#[test]
fn lengths_that_do_not_fit_are_named() {
    let mut failures = Vec::new();
    for_each_cpu(|cpu| {
        for (kernel, fitting, call) in CASES {
            if let Some(message) = panic_of(|| call(cpu, fitting)) {
                failures.push(format!("{kernel} {fitting:?} on {cpu:?}: {message}"));
            }
            for slice in 0..fitting.len() {
                for wrong in [0, 1, fitting[slice].wrapping_sub(1), fitting[slice] + 1, 1000] {
                    let right = fitting[slice];
                    if wrong == right || wrong == usize::MAX {
                        continue;
                    }
                    let mut lengths = fitting.to_vec();
                    lengths[slice] = wrong;
                    let message = panic_of(|| call(cpu, &lengths)).unwrap_or_default();
                    let numbers: Vec<_> = message.split(|c: char| !c.is_ascii_digit()).collect();
                    let named = |number: usize| numbers.contains(&number.to_string().as_str());
                    let network = kernel.starts_with("Mlp::") || kernel.starts_with("Cnn::");
                    // A network has no shape argument: its rows come from the slices.
                    let both = named(wrong) && (named(right) || network);
                    if !both || !message.contains("elements, but its shape is") {
                        failures.push(format!("{kernel} {lengths:?} on {cpu:?}: {message:?}"));
                    }
                }
            }
        }
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn an_overflowing_shape_is_refused() {
    for_each_cpu(|cpu| {
        let shape = MatrixShape { rows: 1 << 63, cols: 2 };
        let message = panic_of(|| softmax::forward(cpu, shape, &[], &mut [])).unwrap_or_default();
        assert!(message.contains("x has 0 elements"), "{message:?} on {cpu:?}");
        assert!(message.contains("9223372036854775808 x 2"), "{message:?} on {cpu:?}");
    });
}

#[test]
fn labels_that_are_no_class_are_named() {
    let values = zeros(MATRIX.rows * MATRIX.cols);
    type Call<'a> = &'a (dyn Fn(&Cpu, &[u32]) + Sync);
    let calls: [(&str, Call); 5] = [
        ("softmax_cross_entropy::forward", &|cpu, labels| {
            let _ = softmax_cross_entropy::forward(cpu, MATRIX, &values, labels);
        }),
        ("softmax_cross_entropy::forward_backward", &|cpu, labels| {
            let mut dlogits = values.clone();
            softmax_cross_entropy::forward_backward(
                cpu,
                MATRIX,
                &values,
                labels,
                1.0,
                &mut dlogits,
            );
        }),
        ("softmax_cross_entropy::backward", &|cpu, labels| {
            let mut dlogits = values.clone();
            softmax_cross_entropy::backward(cpu, MATRIX, &values, labels, 1.0, &mut dlogits);
        }),
        ("cross_entropy::forward", &|cpu, labels| {
            let _ = cross_entropy::forward(cpu, MATRIX, &values, labels);
        }),
        ("cross_entropy::backward", &|cpu, labels| {
            let mut dp = values.clone();
            cross_entropy::backward(cpu, MATRIX, &values, labels, 1.0, &mut dp);
        }),
    ];
    let mut failures = Vec::new();
    for_each_cpu(|cpu| {
        for (kernel, call) in calls {
            if let Some(message) = panic_of(|| call(cpu, &[0, 1, 2, 3, 6])) {
                failures.push(format!("{kernel} with good labels on {cpu:?}: {message}"));
            }
            for row in 0..MATRIX.rows {
                for label in [7, 255, u32::MAX] {
                    let mut labels = labels(MATRIX.rows);
                    labels[row] = label;
                    let message = panic_of(|| call(cpu, &labels));
                    let wanted = format!("label {label} of row {row} is not below the 7 classes");
                    if message.as_ref() != Some(&wanted) {
                        failures.push(format!("{kernel} on {cpu:?}: {message:?}, not {wanted}"));
                    }
                }
            }
        }
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Sizes whose products would wrap in a release build and pass for small ones.
#[test]
fn windows_that_overflow_are_refused() {
    let one = ImageShape { batch: 1, height: 1, width: 1, channels: 1 };
    let wide =
        Window { size: [(31 << 59) + 33, (1 << 59) + 1], ..Window::square(1, 1, Padding::Same) };
    let shape = Conv2dShape { input: one, window: wide, filters: 1 };
    for_each_cpu(|cpu| {
        let message =
            panic_of(|| conv2d::forward(cpu, shape, &[1.0], &zeros(33), &[0.0], &mut [0.0]));
        assert!(message.is_some_and(|m| m.contains("overflows")), "a window of 33 on {cpu:?}");
        // A stride that is never taken is no error, however long.
        let window =
            Window { stride: [1, usize::MAX / 14 + 2], ..Window::square(1, 1, Padding::Same) };
        let shape = Conv2dShape { input: one, window, filters: 1 };
        let mut y = [0.0];
        conv2d::forward(cpu, shape, &[2.0], &[3.0], &[1.0], &mut y);
        assert_eq!(y, [7.0], "one window on {cpu:?}");
    });
    // Nor is a window that is longer than numbers go, by itself.
    let window = Window::square(usize::MAX, 2, Padding::Same);
    let half = usize::MAX / 2;
    assert_eq!(window.padding_before(usize::MAX, 4), [half, half - 1], "{window:?}");
}

#[test]
fn places_and_windows_that_cannot_be_are_named() {
    let large = PoolShape { input: IMAGES, window: Window::square(17, 9, Padding::Same) };
    let still = Window { size: [2, 2], stride: [0, 1], padding: Padding::Valid };
    let norm = normalization(3, 3);
    let wanted = "a window of 17 x 17 has 289 places, but argmax can name 256";
    let outside = |place: usize| format!("argmax {place} lies outside the window or the image");
    for_each_cpu(|cpu| {
        let message = panic_of(|| {
            max_pool::forward(cpu, large, &zeros(120), &mut zeros(6), &mut [0u8; 6]);
        });
        assert_eq!(message.as_deref(), Some(wanted), "max_pool::forward on {cpu:?}");
        let message = panic_of(|| {
            max_pool::backward(cpu, large, &[0u8; 6], &zeros(6), &mut zeros(120));
        });
        assert_eq!(message.as_deref(), Some(wanted), "max_pool::backward on {cpu:?}");
        let message = panic_of(|| {
            let forward = relu_batch_norm::forward_normalize_max_pool;
            forward(cpu, large, &zeros(120), &norm, &mut zeros(6), &mut [0; 6]);
        });
        assert_eq!(message.as_deref(), Some(wanted), "with normalisation, on {cpu:?}");

        // Only the upper half of the last row of windows is inside the image, places 0 and 1.
        for (at, place) in [(12, 2u8), (17, 3), (0, 255)] {
            let mut argmax = [0; 36];
            argmax[at] = place;
            let message = panic_of(|| {
                max_pool::backward(cpu, POOL, &argmax, &zeros(36), &mut zeros(120));
            });
            let wanted = outside(place.into());
            assert_eq!(message, Some(wanted), "element {at} on {cpu:?}");
        }
        // Of windows that overlap, too: the last row's places are 0 to 5, the first's 3 to 8.
        let input = ImageShape { batch: 1, height: 5, width: 5, channels: 19 };
        let overlapping = PoolShape { input, window: Window::square(3, 2, Padding::Same) };
        for (at, place) in [(0, 1u8), (18, 0), (170, 8), (5 * 19, 9)] {
            let mut argmax = [4; 171];
            argmax[at] = place;
            let message = panic_of(|| {
                max_pool::backward(cpu, overlapping, &argmax, &zeros(171), &mut zeros(475));
            });
            let wanted = outside(place.into());
            assert_eq!(message, Some(wanted), "element {at} of overlapping windows on {cpu:?}");
        }

        let shape = PoolShape { input: IMAGES, window: still };
        let message = panic_of(|| avg_pool::forward(cpu, shape, &zeros(120), &mut zeros(9)));
        let message = message.unwrap_or_default();
        assert!(message.contains("a size or a stride of 0"), "{message:?} on {cpu:?}");
    });
}

#[test]
fn settings_out_of_range_are_named() {
    for_each_cpu(|cpu| {
        for keep in [0.0, -0.5, 1.0001, f32::NAN, f32::INFINITY] {
            let settings = Dropout { keep, seed: 1, step: 1 };
            for len in [0, 5] {
                let message =
                    panic_of(|| dropout::forward_in_place(cpu, settings, &mut zeros(len)));
                let wanted = format!("keep is {keep}, but must be above 0 and at most 1");
                assert_eq!(message, Some(wanted), "{len} elements on {cpu:?}");
            }
        }
        for len in [0, 5] {
            let (mut w, mut m, mut v) = (zeros(len), zeros(len), zeros(len));
            let message = panic_of(|| {
                let _ = adam::update(cpu, Adam::default(), 0, &mut w, &mut m, &mut v, &zeros(len));
            });
            let message = message.unwrap_or_default();
            assert!(message.contains("step is 0"), "{message:?} on {cpu:?}");
        }
    });
}
