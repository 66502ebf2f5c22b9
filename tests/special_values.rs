//! NaN, infinities, subnormals, zeros of both signs and the largest numbers, in every kernel: NaN
//! and infinity appear exactly where they do in the scalar twin, and nothing else is disturbed.

mod common;

use common::cases::{self, Linear};
use common::{Checker, Random, for_each_cpu};
use kernelet::kernels::gemm::GemmShape;
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::{exp, softmax};
use kernelet::shape::{LinearShape, MatrixShape};

const SUBNORMAL: f32 = f32::from_bits(0x0012_3456);

/// Values whose sums do not overflow on the way: the order of a sum is the kernel's own affair.
const SPECIALS: [f32; 9] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    f32::MIN_POSITIVE,
    f32::from_bits(1),
    SUBNORMAL,
    -SUBNORMAL,
];

const LARGEST: [f32; 2] = [f32::MAX, f32::MIN];

/// `values` with one or two specials among them: every special, alone and beside every other, at
/// the start, in the middle and at the end.
fn with_specials(values: &[f32], specials: &[f32]) -> Vec<Vec<f32>> {
    let n = values.len();
    let mut variants = Vec::new();
    for &special in specials {
        variants.push(vec![special; n]);
        for at in [0, n / 2, n - 1] {
            let mut variant = values.to_vec();
            variant[at] = special;
            for &other in specials {
                let mut both = variant.clone();
                both[(at + 1) % n] = other;
                variants.push(both);
            }
            variants.push(variant);
        }
    }
    variants
}

#[test]
fn gemm() {
    let mut random = Random::new(11);
    let mut checker = Checker::new("gemm");
    for (m, k, n) in
        [(1, 1, 1), (1, 40, 17), (17, 40, 1), (7, 9, 17), (15, 5, 33), (49, 70, 35), (30, 330, 70)]
    {
        let shape = GemmShape { m, k, n };
        for every in [2, 20, 500] {
            let a = random.sprinkled(m * k, every, &SPECIALS);
            let b = random.sprinkled(k * n, every, &SPECIALS);
            cases::gemm(&mut checker, shape, &a, &b, &random.sprinkled(m * n, every, &SPECIALS));
        }
        // All results subnormal: they are added up exactly.
        let tiny: Vec<f32> = random.uniform(m * k, 1e-40);
        let b = random.uniform(k * n, 1.0);
        cases::gemm(&mut checker, shape, &tiny, &b, &vec![SUBNORMAL; m * n]);
    }
    checker.finish();
}

#[test]
fn linear() {
    let mut random = Random::new(12);
    let mut checker = Checker::new("linear");
    for (rows, inputs, outputs) in
        [(1, 1, 1), (1, 17, 9), (9, 1, 17), (7, 9, 17), (49, 70, 35), (70, 33, 130)]
    {
        let shape = LinearShape { rows, inputs, outputs };
        for every in [2, 20, 500] {
            let mut sprinkled = |n| random.sprinkled(n, every, &SPECIALS);
            let case = Linear {
                shape,
                x: sprinkled(rows * inputs),
                w: sprinkled(inputs * outputs),
                b: sprinkled(outputs),
                dy: sprinkled(rows * outputs),
                dw: sprinkled(inputs * outputs),
                db: sprinkled(outputs),
            };
            cases::linear(&mut checker, &case);
        }
    }
    checker.finish();
}

/// One row at a time, so that each row's loss is seen; then many rows at once, so that the rows
/// beside a special one are seen.
#[test]
fn softmax_and_cross_entropy() {
    let mut random = Random::new(13);
    let mut checker = Checker::new("softmax and cross-entropy");
    let specials = [&SPECIALS[..], &LARGEST].concat();
    for cols in [1, 2, 10, 33, 40] {
        let values = random.uniform(cols, 1.0);
        let variants = with_specials(&values, &specials);
        let shape = MatrixShape { rows: 1, cols };
        for x in &variants {
            cases::softmax(&mut checker, shape, x, &values);
            for label in [0, cols / 2, cols - 1] {
                cases::softmax_cross_entropy(&mut checker, shape, x, &[label as u32], 0.5);
            }
            // -ln p and 1 / p of probabilities that are none, too.
            cases::cross_entropy(&mut checker, shape, x, &[(cols / 2) as u32], 0.5);
        }
        for x in with_specials(&values, &SPECIALS) {
            let mut y = values.clone();
            y.reverse();
            cases::softmax(&mut checker, shape, &y, &x);
        }

        let x: Vec<f32> =
            variants.iter().flat_map(|row| values.iter().chain(row)).copied().collect();
        let shape = MatrixShape { rows: 2 * variants.len(), cols };
        let labels = random.labels(shape.rows, cols);
        let dy = random.uniform(x.len(), 1.0);
        cases::softmax(&mut checker, shape, &x, &dy);
        cases::softmax_cross_entropy(&mut checker, shape, &x, &labels, 1.0);
        cases::cross_entropy(&mut checker, shape, &x, &labels, 1.0);
    }
    checker.finish();
}

/// As PyTorch has it.
#[test]
fn softmax_of_rows_without_a_finite_maximum_is_nan() {
    let rows = [
        ([0.5, f32::INFINITY, 1.0], true),
        ([f32::NEG_INFINITY; 3], true),
        ([0.5, f32::NAN, 1.0], true),
        ([f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0], false),
    ];
    let x = rows.map(|(row, _)| row).concat();
    for_each_cpu(|cpu| {
        let mut y = vec![0.0; x.len()];
        softmax::forward(cpu, MatrixShape { rows: rows.len(), cols: 3 }, &x, &mut y);
        for (y, (x, nan)) in y.chunks_exact(3).zip(rows) {
            assert!(y.iter().all(|y| y.is_nan() == nan), "{x:?} became {y:?} on {cpu:?}");
        }
        assert_eq!(y[9..], [0.0, 0.0, 1.0], "minus infinity has no probability, on {cpu:?}");
    });
}

#[test]
fn relu() {
    let mut random = Random::new(14);
    let mut checker = Checker::new("relu");
    let specials = [&SPECIALS[..], &LARGEST].concat();
    for n in [1, 2, 8, 9, 16, 19, 40] {
        for _ in 0..20 {
            let x = random.sprinkled(n, 2, &specials);
            cases::relu(&mut checker, &x, &random.sprinkled(n, 2, &specials));
        }
    }
    checker.finish();
}

#[test]
fn momentum() {
    let mut random = Random::new(15);
    let mut checker = Checker::new("momentum");
    let specials = [&SPECIALS[..], &LARGEST].concat();
    for n in [1, 2, 8, 9, 16, 19, 40, 500] {
        for (learning_rate, momentum) in [(1e-5, 0.95), (0.5, 0.5), (0.0, 0.0)] {
            let settings = Momentum { learning_rate, momentum };
            for every in [2, 10] {
                let mut sprinkled = || random.sprinkled(n, every, &specials);
                let (w, v, g) = (sprinkled(), sprinkled(), sprinkled());
                cases::momentum(&mut checker, settings, &w, &v, &g);
            }
        }
    }
    checker.finish();
}

#[test]
fn exp_is_exact_where_its_docs_say_so() {
    let exact = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (f32::from_bits(1), 1.0),
        (-SUBNORMAL, 1.0),
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, 0.0),
        (f32::MAX, f32::INFINITY),
        (f32::MIN, 0.0),
        (89.0, f32::INFINITY),
        (-104.0, 0.0),
    ];
    for_each_cpu(|cpu| {
        // As a whole vector and as a tail.
        for repeat in [1, 16] {
            for (x, wanted) in exact {
                let mut y = vec![f32::NAN; repeat];
                exp::forward(cpu, &vec![x; repeat], &mut y);
                assert_eq!(y, vec![wanted; repeat], "e^{x:e} on {cpu:?}");
            }
            let mut y = vec![0.0; 2 * repeat];
            exp::forward(cpu, &[f32::NAN, -f32::NAN].repeat(repeat), &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "e^NaN is {y:?} on {cpu:?}");
        }
    });
}
