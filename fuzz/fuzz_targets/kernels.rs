//! Every kernel against its scalar twin, as `tests/reference.rs` and `tests/special_values.rs` do it
//! and with their tolerances: on every instruction set of the machine, with 1 and 3 threads, whose
//! bits must be the same. Shapes and numbers are the fuzzer's.

#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use std::hash::{DefaultHasher, Hash, Hasher};

use common::cases::{self, Conv2d, ConvBlock, Linear, Norm, NormMaxPool, Weights};
use common::{Checker, Random};
use kernelet::kernels::adam::Adam;
use kernelet::kernels::conv_block::ConvBlockShape;
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Write};
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::Normalization;
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fuzz_target!(|call: Whole| {
    let Call { kernel, numbers, seed } = call.0;
    let mut checker = Checker::new("fuzzed");
    let random = Random::new(seed.into());
    run(&mut checker, &kernel, Draw { numbers, any_bits: false, random });
    checker.finish();
});

/// A call of which the fuzzer says the begin; the rest is drawn from a generator that its bytes seed, so
/// that any few bytes are a whole call, with numbers of any kind.
#[derive(Debug)]
struct Whole(Call);

impl<'a> Arbitrary<'a> for Whole {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // More than any call takes.
        const BYTES: usize = 256;
        let mut bytes = u.bytes(u.len())?.to_vec();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let mut random = StdRng::seed_from_u64(hasher.finish());
        bytes.extend(std::iter::repeat_with(|| random.random::<u8>()).take(BYTES));
        Call::arbitrary(&mut Unstructured::new(&bytes)).map(Self)
    }
}

/// A call of a kernel, forward and backward.
#[derive(Arbitrary, Debug)]
struct Call {
    kernel: Kernel,
    numbers: Numbers,
    seed: u32,
}

#[derive(Arbitrary, Debug)]
enum Kernel {
    Gemm { sizes: Sizes<3>, transposed: (bool, bool), add: bool },
    Linear(Sizes<3>),
    LinearAdam(Sizes<3>, AdamSettings),
    Conv2d(Images, Slide, Channels),
    ConvBlock(Images, Slide, Slide, Channels),
    Relu(Sizes<1>),
    ReluMoments(Sizes<2>),
    ReluBatchNorm(Sizes<2>),
    NormalizeMaxPool(Images, Slide, Channels),
    MaxPool(Images, Slide, Channels),
    AvgPool(Images, Slide, Channels),
    Softmax(Sizes<2>),
    SoftmaxCrossEntropy(Sizes<2>, Factor),
    CrossEntropy(Sizes<2>, Factor),
    Dropout(Sizes<1>, Keep, u64),
    Momentum(Sizes<1>, Factor, Factor),
    Adam(Sizes<1>, AdamSettings),
    Exp(Sizes<1>),
}

fn run(checker: &mut Checker, kernel: &Kernel, mut draw: Draw) {
    match *kernel {
        Kernel::Gemm { sizes: Sizes([m, k, n]), transposed, add } => {
            let shape = GemmShape { m, k, n };
            draw.any_bits(checker);
            let (a, b, c) = (draw.numbers(m * k), draw.numbers(k * n), draw.numbers(m * n));
            let write = if add { Write::Add } else { Write::Overwrite };
            cases::gemm_as(checker, shape, (&a, &b), &[transposed], &[write], &c);
        }
        Kernel::Linear(Sizes([rows, inputs, outputs])) => {
            draw.any_bits(checker);
            let case = Linear {
                shape: LinearShape { rows, inputs, outputs },
                x: draw.numbers(rows * inputs),
                bytes: draw.random.bytes(rows * inputs),
                w: draw.numbers(inputs * outputs),
                b: draw.numbers(outputs),
                dy: draw.numbers(rows * outputs),
                dw: draw.numbers(inputs * outputs),
                db: draw.numbers(outputs),
            };
            cases::linear(checker, &case);
        }
        Kernel::LinearAdam(Sizes([rows, inputs, outputs]), settings) => {
            let shape = LinearShape { rows, inputs, outputs };
            let (x, dy) = (draw.numbers(rows * inputs), draw.numbers(rows * outputs));
            let before = draw.weights(inputs * outputs);
            let AdamSettings { adam, step } = settings;
            cases::linear_adam(checker, shape, (&x, &dy), adam, step, &before);
        }
        Kernel::Conv2d(images, slide, channels) => {
            let shape = convolution(images, slide, channels);
            // Padding is multiplied, too, and zero times infinity is NaN: with it only images are
            // special.
            let padded = shape.window.padding == Padding::Same;
            let (weights, outputs) = (shape.taps() * shape.filters, len(shape.output()));
            let case = Conv2d {
                shape,
                x: draw.numbers(len(shape.input)),
                w: draw.finite_if(padded, weights),
                b: draw.numbers(shape.filters),
                dy: draw.finite_if(padded, outputs),
                dw: draw.numbers(weights),
                db: draw.numbers(shape.filters),
            };
            cases::conv2d(checker, &case);
        }
        Kernel::ConvBlock(images, slide, pool, channels) => {
            let convolution = convolution(images, slide, channels);
            let shape = ConvBlockShape { convolution, pool: pool.window() };
            let weights = convolution.taps() * convolution.filters;
            draw.any_bits(checker);
            let case = ConvBlock {
                shape,
                x: draw.numbers(len(convolution.input)),
                w: draw.finite_if(true, weights),
                b: draw.finite_if(true, convolution.filters),
                dy: draw.finite_if(true, len(shape.pool().output())),
                dw: draw.numbers(weights),
                db: draw.numbers(convolution.filters),
            };
            cases::conv_block(checker, &case);
        }
        Kernel::Relu(Sizes([n])) => {
            draw.any_bits(checker);
            let (x, dy) = (draw.numbers(n), draw.numbers(n));
            cases::relu(checker, &x, &dy);
        }
        Kernel::ReluMoments(Sizes([rows, cols])) => {
            cases::moments(checker, MatrixShape { rows, cols }, &draw.numbers(rows * cols));
        }
        Kernel::ReluBatchNorm(Sizes([rows, cols])) => {
            let case = Norm {
                shape: MatrixShape { rows, cols },
                r: draw.numbers(rows * cols),
                normalization: Normalization {
                    mean: draw.numbers(cols),
                    inv_deviation: draw.numbers(cols),
                },
                scale: draw.numbers(cols),
                offset: draw.numbers(cols),
                dy: draw.numbers(rows * cols),
            };
            cases::normalize(checker, &case);
        }
        Kernel::NormalizeMaxPool(images, slide, channels) => {
            let shape = pool(images, slide, channels);
            let channels = shape.input.channels;
            let mut r = draw.numbers(len(shape.input));
            r.iter_mut().for_each(|r| *r = if *r <= 0.0 { 0.0 } else { *r });
            let mut inv_deviation = draw.finite_if(true, channels);
            inv_deviation.iter_mut().for_each(|inv| *inv = inv.abs() + 0.1);
            let mean = draw.finite_if(true, channels);
            // The gradient of infinities depends on the order of the sums which become NaN.
            let dy = draw.finite_if(true, len(shape.output()));
            let normalization = Normalization { mean, inv_deviation };
            cases::normalize_max_pool(checker, &NormMaxPool { shape, r, normalization, dy });
        }
        Kernel::MaxPool(images, slide, channels) => {
            let shape = pool(images, slide, channels);
            draw.any_bits(checker);
            let (x, dy) = (draw.numbers(len(shape.input)), draw.numbers(len(shape.output())));
            cases::max_pool::<u8>(checker, shape, &x, &dy);
            cases::max_pool::<u32>(checker, shape, &x, &dy);
        }
        Kernel::AvgPool(images, slide, channels) => {
            let shape = pool(images, slide, channels);
            draw.any_bits(checker);
            let (x, dy) = (draw.numbers(len(shape.input)), draw.numbers(len(shape.output())));
            cases::avg_pool(checker, shape, &x, &dy);
        }
        Kernel::Softmax(Sizes([rows, cols])) => {
            let dy = draw.numbers(rows * cols);
            draw.any_bits(checker);
            cases::softmax(checker, MatrixShape { rows, cols }, &draw.numbers(rows * cols), &dy);
        }
        Kernel::SoftmaxCrossEntropy(sizes, Factor(scale)) => {
            let shape = with_classes(sizes);
            let labels = draw.random.labels(shape.rows, shape.cols);
            draw.any_bits(checker);
            let logits = draw.numbers(shape.rows * shape.cols);
            cases::softmax_cross_entropy(checker, shape, &logits, &labels, scale);
        }
        Kernel::CrossEntropy(sizes, Factor(scale)) => {
            let shape = with_classes(sizes);
            let labels = draw.random.labels(shape.rows, shape.cols);
            draw.any_bits(checker);
            let probabilities = draw.numbers(shape.rows * shape.cols);
            cases::cross_entropy(checker, shape, &probabilities, &labels, scale);
        }
        Kernel::Dropout(Sizes([n]), Keep(keep), seed) => {
            draw.any_bits(checker);
            let settings = Dropout { keep, seed, step: seed.rotate_left(32) };
            cases::dropout(checker, settings, &draw.numbers(n));
        }
        Kernel::Momentum(Sizes([n]), Factor(learning_rate), Factor(momentum)) => {
            draw.any_bits(checker);
            let (w, v, g) = (draw.numbers(n), draw.numbers(n), draw.numbers(n));
            cases::momentum(checker, Momentum { learning_rate, momentum }, &w, &v, &g);
        }
        Kernel::Adam(Sizes([n]), AdamSettings { adam, step }) => {
            let (before, g) = (draw.weights(n), draw.numbers(n));
            cases::adam(checker, adam, step, &before, &g);
        }
        Kernel::Exp(Sizes([n])) => {
            draw.any_bits(checker);
            cases::exp(checker, &draw.numbers(n));
        }
    }
}

fn convolution(images: Images, slide: Slide, channels: Channels) -> Conv2dShape {
    let Channels { channels, filters } = channels;
    let input = images.with(channels);
    let mut shape = Conv2dShape { input, window: slide.window(), filters };
    // A batch that several threads share is more work in any case.
    let most = if images.batch > FEW_IMAGES { MORE_WORK / 4 } else { WORK };
    while shape.output().pixels().rows * shape.taps() * shape.filters > most {
        if shape.filters > shape.input.channels {
            shape.filters /= 2;
        } else {
            shape.input.channels /= 2;
        }
    }
    shape
}

fn pool(images: Images, slide: Slide, Channels { channels, .. }: Channels) -> PoolShape {
    PoolShape { input: images.with(channels), window: slide.window() }
}

fn len(shape: ImageShape) -> usize {
    shape.batch * shape.image_len()
}

/// Labels need a class each.
fn with_classes(Sizes([rows, cols]): Sizes<2>) -> MatrixShape {
    MatrixShape { rows, cols: cols.max(1) }
}

/// What slices are filled with.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Numbers {
    /// From minus to plus a power of two.
    Uniform(Exponent),
    /// Whole numbers from -2 to 2.
    Ties,
    /// From -1 to 1, and among them, one in so many, `SPECIALS`.
    Special(Every),
    /// The same with any numbers at all, for kernels whose results are exact, or where a sum may
    /// overflow on the way; for others as `Special`.
    Bits(Every, [u32; 3]),
}

/// Numbers whose sums do not overflow on the way, as in `tests/special_values.rs`.
const SPECIALS: [f32; 8] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    f32::from_bits(1),
    f32::from_bits(0x0012_3456),
    f32::from_bits(0x8012_3456),
];

/// The source of a call's numbers.
struct Draw {
    numbers: Numbers,
    any_bits: bool,
    random: Random,
}

impl Draw {
    /// From here on, numbers may have [any bits](Numbers::Bits).
    fn any_bits(&mut self, checker: &mut Checker) {
        self.any_bits = true;
        checker.overflow = matches!(self.numbers, Numbers::Bits(..));
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        let Self { numbers, any_bits, random } = self;
        match *numbers {
            Numbers::Uniform(Exponent(exponent)) => random.uniform(n, 2f32.powi(exponent)),
            Numbers::Ties => random.ties(n),
            Numbers::Bits(Every(every), bits) if *any_bits => {
                random.sprinkled(n, every, &bits.map(f32::from_bits))
            }
            Numbers::Special(Every(every)) | Numbers::Bits(Every(every), _) => {
                random.sprinkled(n, every, &SPECIALS)
            }
        }
    }

    fn finite_if(&mut self, finite: bool, n: usize) -> Vec<f32> {
        match self.numbers {
            Numbers::Special(_) | Numbers::Bits(..) if finite => self.random.uniform(n, 1.0),
            _ => self.numbers(n),
        }
    }

    fn weights(&mut self, n: usize) -> Weights {
        let (w, m, mut v) = (self.numbers(n), self.numbers(n), self.numbers(n));
        v.iter_mut().for_each(|v| *v = v.abs());
        Weights { w, m, v }
    }
}

/// Sizes whose product is the work of a call.
#[derive(Clone, Copy, Debug)]
struct Sizes<const N: usize>([usize; N]);

/// Most work of a call, but for one in many.
const WORK: usize = 1 << 12;

/// Most work of that one: enough for several threads, and for the products that are cut up.
const MORE_WORK: usize = 1 << 17;

impl<'a, const N: usize> Arbitrary<'a> for Sizes<N> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut rest = if u.ratio(1, 250)? { MORE_WORK } else { WORK };
        let mut sizes = [0; N];
        for size in &mut sizes {
            *size = any_size(u, rest)?;
            rest /= (*size).max(1);
        }
        Ok(Self(sizes))
    }
}

/// Sizes around vectors of 8 and 16 lanes, tiles of 6 and of 14 rows, blocks of 32, of 48 and of 64,
/// and the thresholds for threads and for chunks. 0 and 1.
const EDGES: [usize; 18] =
    [1, 6, 8, 14, 16, 32, 48, 64, 100, 128, 256, 512, 784, 800, 1024, 4096, 16_384, 131_072];

fn any_size(u: &mut Unstructured, most: usize) -> Result<usize> {
    let size = if u.ratio(1, 4)? {
        u.int_in_range(0..=40)?
    } else {
        // Those that are too large are not chosen, or all would end up as `most`.
        let few = EDGES.partition_point(|&edge| edge <= most).max(1);
        EDGES[u.choose_index(few)?] + u.int_in_range(0..=2)? - 1
    };
    Ok(size.min(most))
}

#[derive(Clone, Copy, Debug)]
struct Images {
    batch: usize,
    height: usize,
    width: usize,
}

const FEW_IMAGES: usize = 3;

impl<'a> Arbitrary<'a> for Images {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // More images than one, more than there are groups of images (32), for several threads.
        let batch = if u.ratio(1, 50)? { 40 } else { u.int_in_range(0..=FEW_IMAGES)? };
        let most = if u.ratio(1, 20)? { 30 } else { 9 };
        Ok(Self { batch, height: u.int_in_range(0..=most)?, width: u.int_in_range(0..=most)? })
    }
}

impl Images {
    fn with(self, channels: usize) -> ImageShape {
        let Self { batch, height, width } = self;
        ImageShape { batch, height, width, channels }
    }
}

#[derive(Clone, Copy, Debug)]
struct Channels {
    channels: usize,
    filters: usize,
}

impl<'a> Arbitrary<'a> for Channels {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const MANY: [usize; 12] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 35];
        let channels = *u.choose(&MANY)?;
        Ok(Self { channels, filters: *u.choose(if channels > 9 { &MANY[..7] } else { &MANY })? })
    }
}

/// The window of a convolution or a pool; its places can be named by a byte.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Slide {
    size: [Few; 2],
    stride: [Few; 2],
    same: bool,
}

impl Slide {
    fn window(self) -> Window {
        let padding = if self.same { Padding::Same } else { Padding::Valid };
        Window { size: self.size.map(|few| few.0), stride: self.stride.map(|few| few.0), padding }
    }
}

macro_rules! arbitrary {
    ($($(#[$doc:meta])* $name:ident($type:ty): |$u:ident| $value:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        struct $name($type);

        impl<'a> Arbitrary<'a> for $name {
            fn arbitrary($u: &mut Unstructured<'a>) -> Result<Self> {
                Ok(Self($value))
            }
        }
    )*};
}

arbitrary! {
    /// Rows or columns of a window, or its step.
    Few(usize): |u| if u.ratio(1, 20)? { u.int_in_range(1..=16)? } else { u.int_in_range(1..=4)? };
    /// One number in so many.
    Every(usize): |u| *u.choose(&[1, 2, 5, 20, 100, 500])?;
    Exponent(i32): |u| u.int_in_range(-10..=10)?;
    /// A learning rate, a momentum, the scale of a gradient.
    Factor(f32): |u| *u.choose(&[0.0, 1e-5, 0.1, 0.5, 0.95, 1.0, -2.5])?;
    /// The probability of dropout.
    Keep(f32): |u| (f64::from(u.int_in_range(1..=u32::MAX)?) / f64::from(u32::MAX)) as f32;
}

#[derive(Clone, Copy, Debug)]
struct AdamSettings {
    adam: Adam,
    step: u64,
}

impl<'a> Arbitrary<'a> for AdamSettings {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // 1 - beta is exact.
        const BETAS: [f32; 5] = [0.0, 0.5, 0.75, 0.9, 0.999];
        let adam = Adam {
            learning_rate: *u.choose(&[0.0, 1e-4, 0.1])?,
            beta1: *u.choose(&BETAS)?,
            beta2: *u.choose(&BETAS)?,
            epsilon: *u.choose(&[1e-8, 1e-3])?,
            l2: *u.choose(&[0.0, 0.1, 0.5])?,
        };
        Ok(Self { adam, step: u.int_in_range(1..=1 << 40)? })
    }
}
