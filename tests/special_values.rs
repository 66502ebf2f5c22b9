//! NaN, infinities, subnormals, zeros of both signs and the largest numbers, in every kernel: NaN
//! and infinity appear exactly where they do in the scalar twin, and nothing else is disturbed.
//! Subnormals count as zero.

mod common;

use common::calls::images;
use common::cases::{self, Conv2d, ConvBlock, Linear, Norm, NormMaxPool, Weights};
use common::{Checker, Random, for_each_cpu, widen};
use kernelet::kernels::adam::{self, Adam};
use kernelet::kernels::conv_block::ConvBlockShape;
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::GemmShape;
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization, RunningMoments};
use kernelet::kernels::{exp, max_pool, softmax};
use kernelet::reference;
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};

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
        // Nothing but subnormals.
        let tiny: Vec<f32> = random.uniform(m * k, 1e-40);
        let b = random.uniform(k * n, 1.0);
        cases::gemm(&mut checker, shape, &tiny, &b, &vec![SUBNORMAL; m * n]);
    }
    // Large enough for AMX, which takes factors to pieces: a few specials, and the largest numbers, whose
    // first piece is infinite.
    let shape = GemmShape { m: 150, k: 270, n: 260 };
    let GemmShape { m, k, n } = shape;
    for every in [50, 20_000] {
        let a = random.sprinkled(m * k, every, &SPECIALS);
        let b = random.sprinkled(k * n, every, &SPECIALS);
        cases::gemm(&mut checker, shape, &a, &b, &random.sprinkled(m * n, every, &SPECIALS));
    }
    let mut largest = vec![0.0; m * k];
    for (i, row) in largest.chunks_exact_mut(k).enumerate().step_by(7) {
        row[i] = LARGEST[i % 2];
    }
    let (b, c) = (random.uniform(k * n, 1.0), vec![0.0; m * n]);
    cases::gemm(&mut checker, shape, &largest, &b, &c);
    let tiny: Vec<f32> = random.uniform(m * k, 1e-36);
    cases::gemm(&mut checker, shape, &tiny, &b, &c);
    // The products of their pieces are below the normal range, and all of one sign.
    let root = 2_f32.powi(-59) * (1.0 + 2_f32.powi(-8) - 2_f32.powi(-16));
    cases::gemm(&mut checker, shape, &vec![root; m * k], &vec![root; k * n], &c);
    checker.finish();
}

#[test]
fn linear() {
    let mut random = Random::new(12);
    let mut checker = Checker::new("linear");
    for (rows, inputs, outputs) in
        [(1, 1, 1), (1, 17, 9), (9, 1, 17), (7, 9, 17), (49, 70, 35), (70, 33, 130), (257, 259, 47)]
    {
        let bytes = random.bytes(rows * inputs);
        let shape = LinearShape { rows, inputs, outputs };
        for every in [2, 20, 500] {
            let mut sprinkled = |n| random.sprinkled(n, every, &SPECIALS);
            let case = Linear {
                shape,
                bytes: bytes.clone(),
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
    // Nothing is added, and subnormals become zero all the same.
    let (shape, db) = (LinearShape { rows: 0, inputs: 3, outputs: 19 }, vec![SUBNORMAL; 19]);
    let (w, dw, b) = (random.uniform(57, 1.0), vec![SUBNORMAL; 57], db.clone());
    let (x, dy) = (Vec::new(), Vec::new());
    cases::linear(&mut checker, &Linear { shape, x, bytes: Vec::new(), w, b, dy, dw, db });
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

/// Several rows make one logarithm: the smallest and the largest numbers, and pairs of negative ones, by turns. Few
/// different values, so that many rows have equals before or behind their label.
#[test]
fn cross_entropy_of_several_rows() {
    let mut checker = Checker::new("cross-entropy of several rows");
    let mut random = Random::new(10);
    for values in [
        &[0.25, 0.5, 1.0][..],
        &[f32::MIN_POSITIVE, f32::MIN_POSITIVE, f32::from_bits(1), 0.0],
        &[f32::MIN_POSITIVE, 1e-37],
        &[f32::MAX, 1e38],
        &[1.0 - f32::EPSILON / 2.0, 1.0],
        &[1.37, 0.73],
        &[-0.5, 0.5],
        &[f32::INFINITY, 0.5],
    ] {
        for cols in [1, 2, 10, 63, 64, 65, 129, 300] {
            for rows in [1, 7, 8, 9, 100] {
                let which = random.bytes(rows * cols);
                let p: Vec<_> = which.iter().map(|&i| values[i as usize % values.len()]).collect();
                let labels = random.labels(rows, cols);
                cases::cross_entropy(&mut checker, MatrixShape { rows, cols }, &p, &labels, 1.0);
            }
        }
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

/// Under padding the kernel multiplies weights and gradients with zeros that the twin leaves out,
/// and zero times infinity is NaN: there only the images are special.
#[test]
fn conv2d() {
    let mut random = Random::new(25);
    let mut checker = Checker::new("conv2d");
    for (input, size, filters) in [
        (images(1, 1, 1, 1), 1, 1),
        (images(2, 5, 6, 1), 3, 17),
        (images(1, 6, 5, 9), 2, 35),
        (images(2, 7, 20, 3), 3, 8),
    ] {
        for (padding, stride) in
            [(Padding::Valid, 1), (Padding::Valid, 2), (Padding::Same, 1), (Padding::Same, 2)]
        {
            let shape =
                Conv2dShape { input, window: Window::square(size, stride, padding), filters };
            let weights = shape.taps() * filters;
            let output = shape.output();
            for every in [2, 20, 500] {
                let elsewhere = if padding == Padding::Same { usize::MAX } else { every };
                let mut sprinkled = |n, every| random.sprinkled(n, every, &SPECIALS);
                let case = Conv2d {
                    shape,
                    x: sprinkled(input.batch * input.image_len(), every),
                    w: sprinkled(weights, elsewhere),
                    b: sprinkled(filters, every),
                    dy: sprinkled(output.batch * output.image_len(), elsewhere),
                    dw: sprinkled(weights, every),
                    db: sprinkled(filters, every),
                };
                cases::conv2d(&mut checker, &case);
            }
        }
    }
    checker.finish();
}

#[test]
fn relu_batch_norm() {
    let mut random = Random::new(26);
    let mut checker = Checker::new("relu_batch_norm");
    for (rows, cols) in [(1, 1), (2, 9), (33, 17), (70, 40), (300, 3)] {
        let shape = MatrixShape { rows, cols };
        let n = rows * cols;
        for every in [2, 20, 500] {
            cases::moments(&mut checker, shape, &random.sprinkled(n, every, &SPECIALS));
            // A product that underflows would be 0 in f32 alone, and then meet infinity.
            let specials: Vec<f32> =
                SPECIALS.into_iter().filter(|x| *x != f32::MIN_POSITIVE).collect();
            let mut sprinkled = |n| random.sprinkled(n, every, &specials);
            let case = Norm {
                shape,
                r: sprinkled(n),
                normalization: Normalization {
                    mean: sprinkled(cols),
                    inv_deviation: sprinkled(cols),
                },
                scale: sprinkled(cols),
                offset: sprinkled(cols),
                dy: sprinkled(n),
            };
            cases::normalize(&mut checker, &case);
        }
    }
    checker.finish();
}

/// As it would be among products: no -0, and no number below the normal range.
#[test]
fn a_convolution_of_nothing_is_its_bias_and_zero() {
    let b = [-0.0, 1e-40, -1e-40, 1.5];
    for (channels, products) in [(0, 0.0), (1, -0.0)] {
        let input = ImageShape { batch: 1, height: 1, width: 9, channels };
        let window = Window::square(1, 1, Padding::Valid);
        let shape = Conv2dShape { input, window, filters: 4 };
        let (x, w) = (vec![products; 9 * channels], vec![1.0; 4 * channels]);
        for_each_cpu(|cpu| {
            let mut y = vec![f32::NAN; 9 * 4];
            kernelet::kernels::conv2d::forward(cpu, shape, &x, &w, &b, &mut y);
            for y in y.chunks_exact(4) {
                let bits: Vec<_> = y.iter().map(|y| y.to_bits()).collect();
                assert_eq!(bits, [0, 0, 0, 1.5_f32.to_bits()], "{channels} channels on {cpu:?}");
            }
        });
    }
}

/// A convolution's special weights and gradients, padded too: the block has the bits of its kernels.
#[test]
fn conv_block() {
    let mut random = Random::new(30);
    let mut checker = Checker::new("conv_block");
    let specials = [&SPECIALS[..], &LARGEST].concat();
    for (input, filters) in [(images(1, 3, 3, 1), 1), (images(2, 6, 7, 3), 17)] {
        for (padding, stride) in [(Padding::Same, 1), (Padding::Valid, 2)] {
            let window = Window::square(2, stride, padding);
            let convolution = Conv2dShape { input, window, filters };
            for pool in [Window::square(2, 2, Padding::Same), Window::square(3, 2, Padding::Same)] {
                let shape = ConvBlockShape { convolution, pool };
                let output = shape.pool().output();
                for every in [2, 20, 500] {
                    let mut sprinkled = |n| random.sprinkled(n, every, &specials);
                    let case = ConvBlock {
                        shape,
                        x: sprinkled(input.batch * input.image_len()),
                        w: sprinkled(convolution.taps() * filters),
                        b: sprinkled(filters),
                        dy: sprinkled(output.batch * output.image_len()),
                        dw: sprinkled(convolution.taps() * filters),
                        db: sprinkled(filters),
                    };
                    cases::conv_block(&mut checker, &case);
                }
            }
        }
    }
    checker.finish();
}

/// Squared deviations that overflow, and deviations whose inverse is no `f32`: y is right or NaN, never
/// what is left of a division by infinity.
#[test]
fn normalization_of_large_numbers_is_right_or_nan() {
    let mut random = Random::new(31);
    for largest in [1e15f32, 1e18, 1e19, 1e20, 1e30, 1e38, f32::MAX] {
        for (rows, cols) in [(2, 1), (33, 17), (5000, 9)] {
            let shape = MatrixShape { rows, cols };
            let x: Vec<f32> =
                random.uniform(rows * cols, 1.0).iter().map(|x| x * largest).collect();
            let mut r64 = vec![f64::NAN; x.len()];
            let twin = reference::relu_batch_norm::forward_moments::<f64>;
            let moments64 = twin(shape, &widen(&x), &mut r64);
            let normal = |at: usize| {
                let c = at % cols;
                (r64[at] - moments64.mean[c]) / (moments64.variance[c] + 1e-5).sqrt()
            };
            for_each_cpu(|cpu| {
                let (mut r, mut moments) = (vec![0.0; x.len()], Moments::new(cols));
                relu_batch_norm::forward_moments(cpu, shape, &x, &mut r, &mut moments);
                let mut running =
                    RunningMoments { mean: vec![0.0; cols], variance: vec![0.0; cols] };
                running.update(&moments, 0.0);
                let [mut of_batch, mut of_running] =
                    [(); 2].map(|()| Normalization::identity(cols));
                of_batch.set(&moments, 1e-5);
                of_running.set_running(&running, 1e-5);
                for normalization in [of_batch, of_running] {
                    let mut y = vec![0.0; x.len()];
                    let forward = relu_batch_norm::forward_normalize;
                    forward(cpu, shape, &r, &normalization, None, &mut y);
                    for (at, &y) in y.iter().enumerate() {
                        let right = (f64::from(y) - normal(at)).abs() < 1e-3;
                        let label = format!("{y} of {:e} at {at} of {shape:?} on {cpu:?}", r[at]);
                        assert!(right || largest > 1e17 && y.is_nan(), "{label}");
                    }
                }
            });
        }
    }
}

/// A gradient whose square overflows: its weight is NaN from the next update on, and so is `v`, or
/// infinite, from this.
#[test]
fn adam_of_gradients_whose_squares_overflow_ends_in_nan() {
    for_each_cpu(|cpu| {
        for n in [1, 40] {
            let (mut w, mut m, mut v) = (vec![1.0; n], vec![0.0; n], vec![0.0; n]);
            for (step, gradient) in [(1, 1e20), (2, 1.0)] {
                let g = vec![gradient; n];
                adam::update(cpu, Adam::default(), step, &mut w, &mut m, &mut v, &g);
                assert!(v.iter().all(|v| !v.is_finite()), "{v:?} after step {step} on {cpu:?}");
            }
            assert!(w.iter().all(|w| w.is_nan()), "{w:?} on {cpu:?}");
        }
    });
}

fn pools() -> Vec<PoolShape> {
    let mut shapes = Vec::new();
    for input in [images(1, 1, 1, 1), images(2, 3, 5, 17), images(1, 4, 4, 9), images(1, 7, 3, 40)]
    {
        for (size, stride) in [(1, 1), (2, 2), (3, 2), (3, 1), (2, 3)] {
            for padding in [Padding::Same, Padding::Valid] {
                shapes.push(PoolShape { input, window: Window::square(size, stride, padding) });
            }
        }
    }
    shapes
}

#[test]
fn pools_of_specials() {
    let mut random = Random::new(27);
    let mut checker = Checker::new("pools");
    let specials = [&SPECIALS[..], &LARGEST].concat();
    for shape in pools() {
        let (input, output) = (shape.input, shape.output());
        let (inputs, outputs) =
            (input.batch * input.image_len(), output.batch * output.image_len());
        for every in [1, 2, 20] {
            let x = random.sprinkled(inputs, every, &specials);
            let dy = random.sprinkled(outputs, every, &SPECIALS);
            cases::max_pool::<u8>(&mut checker, shape, &x, &dy);
            cases::max_pool::<u32>(&mut checker, shape, &x, &dy);
            let x = random.sprinkled(inputs, every, &SPECIALS);
            cases::avg_pool(&mut checker, shape, &x, &dy);

            // What ReLU leaves of specials, normalised with moments that are numbers.
            let mut r = random.sprinkled(inputs, every, &SPECIALS);
            r.iter_mut().for_each(|r| *r = if *r <= 0.0 { 0.0 } else { *r });
            let mut inv_deviation = random.uniform(input.channels, 1.0);
            inv_deviation.iter_mut().for_each(|inv| *inv = inv.abs() + 0.1);
            let mean = random.uniform(input.channels, 1.0);
            let normalization = Normalization { mean, inv_deviation };
            let case = NormMaxPool { shape, r, normalization, dy };
            cases::normalize_max_pool(&mut checker, &case);
            // Backward. Of infinities it depends on the order of the sums which become NaN.
            let r = case.r.iter().map(|&r| if r.is_finite() { r } else { SUBNORMAL }).collect();
            let dy = random.sprinkled(outputs, every, &[f32::NAN, 0.0, SUBNORMAL, -SUBNORMAL]);
            cases::normalize_max_pool(&mut checker, &NormMaxPool { r, dy, ..case });
        }
    }
    checker.finish();
}

/// Of equals the first, of NaNs the last; padding is never the largest, not even beside minus
/// infinity.
#[test]
fn max_pool_by_its_docs() {
    const NAN: f32 = f32::NAN;
    const LEAST: f32 = f32::NEG_INFINITY;
    let cases = [
        ([1.0, 3.0, 3.0, 2.0], 3.0, 1),
        ([-1.0; 4], -1.0, 0),
        ([0.0, -0.0, 0.0, -0.0], 0.0, 0),
        ([LEAST; 4], LEAST, 0),
        ([f32::INFINITY, NAN, 5.0, LEAST], NAN, 1),
        ([NAN, 1.0, NAN, 7.0], NAN, 2),
        ([NAN; 4], NAN, 3),
    ];
    for_each_cpu(|cpu| {
        for (x, largest, place) in cases {
            for channels in [1, 16] {
                let input = images(1, 2, 2, channels);
                let window = Window::square(2, 2, Padding::Same);
                let x: Vec<f32> = x.iter().flat_map(|&x| vec![x; channels]).collect();
                let (mut y, mut argmax) = (vec![0.0; channels], vec![9u8; channels]);
                max_pool::forward(cpu, PoolShape { input, window }, &x, &mut y, &mut argmax);
                let right = |y: &f32| *y == largest || y.is_nan() && largest.is_nan();
                assert!(y.iter().all(right), "{x:?} gives {y:?} on {cpu:?}");
                assert_eq!(argmax, vec![place; channels], "{x:?} on {cpu:?}");
            }
        }
        // A row of padding above and a column left of the image: its only pixel is place 4.
        let shape =
            PoolShape { input: images(1, 1, 1, 1), window: Window::square(3, 1, Padding::Same) };
        let (mut y, mut argmax) = ([0.0], [9u8]);
        max_pool::forward(cpu, shape, &[LEAST], &mut y, &mut argmax);
        assert_eq!((y, argmax), ([LEAST], [4]), "beside padding, on {cpu:?}");
    });
}

#[test]
fn dropout() {
    let mut random = Random::new(28);
    let mut checker = Checker::new("dropout");
    let specials = [&SPECIALS[..], &LARGEST].concat();
    for n in [1, 2, 8, 9, 16, 19, 40, 300] {
        for keep in [1.0, 0.5] {
            let x = random.sprinkled(n, 2, &specials);
            cases::dropout(&mut checker, Dropout { keep, seed: 5, step: 6 }, &x);
        }
    }
    checker.finish();
}

#[test]
fn adam() {
    let mut random = Random::new(29);
    let mut checker = Checker::new("adam");
    for n in [1, 2, 8, 9, 16, 19, 40, 500] {
        for l2 in [0.0, 0.1] {
            for every in [2, 10] {
                let mut sprinkled = || random.sprinkled(n, every, &SPECIALS);
                let (w, m, mut v, g) = (sprinkled(), sprinkled(), sprinkled(), sprinkled());
                v.iter_mut().for_each(|v| *v = v.abs());
                let settings = Adam { l2, ..Adam::default() };
                cases::adam(&mut checker, settings, 3, &Weights { w, m, v }, &g);
            }
        }
    }
    for (rows, inputs, outputs) in [(1, 1, 1), (9, 1, 17), (7, 9, 17), (70, 33, 130)] {
        for every in [2, 20, 500] {
            let mut sprinkled = |n| random.sprinkled(n, every, &SPECIALS);
            let weights = inputs * outputs;
            let (w, m, mut v) = (sprinkled(weights), sprinkled(weights), sprinkled(weights));
            v.iter_mut().for_each(|v| *v = v.abs());
            let (x, dy) = (sprinkled(rows * inputs), sprinkled(rows * outputs));
            let shape = LinearShape { rows, inputs, outputs };
            let (before, settings) = (Weights { w, m, v }, Adam { l2: 0.1, ..Adam::default() });
            cases::linear_adam(&mut checker, shape, (&x, &dy), settings, 3, &before);
        }
    }
    // Decayed to nothing: all is as if it were zero.
    let tiny = vec![SUBNORMAL; 40];
    let before = Weights { w: tiny.clone(), m: tiny.clone(), v: tiny.clone() };
    cases::adam(&mut checker, Adam { l2: 0.1, ..Adam::default() }, 9, &before, &tiny);
    checker.finish();
}
