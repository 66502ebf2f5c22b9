//! The works that contestants do: all there are, their inputs and outputs, and what they cost.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::arrays::{Array, Input};

/// Added to a variance before its root is taken.
pub const EPSILON: f32 = 1e-5;
/// Share of the velocity that momentum keeps.
pub const MOMENTUM: f32 = 0.95;
/// The learning rate of `momentum`.
pub const MOMENTUM_RATE: f32 = 0.1;
/// The learning rate of `mlp_epoch`, on the gradient of the summed loss.
pub const EPOCH_RATE: f32 = 1e-5;
/// The learning rate of Adam.
pub const ADAM_RATE: f32 = 1e-4;
/// Decay of Adam's first moment.
pub const ADAM_BETA1: f32 = 0.9;
/// Decay of Adam's second moment.
pub const ADAM_BETA2: f32 = 0.999;
/// Added to the root of Adam's second moment.
pub const ADAM_EPSILON: f32 = 1e-8;

/// Values per image of the study.
pub const PIXELS: usize = 784;
/// Classes of the study.
pub const CLASSES: usize = 10;
/// Filters of the study's convolution.
pub const FILTERS: usize = 32;
/// Values per image after the study's pool.
pub const POOLED: usize = 14 * 14 * FILTERS;
/// Hidden units of the study's convolutional network.
pub const CNN_HIDDEN: usize = 784;
/// Images of `mlp_epoch`: training, validation and test set.
pub const EPOCH_ROWS: [usize; 3] = [10_000, 6_000, 2_724];

/// Something to do, with its sizes. In JSON it is `"work": name, "spec": sizes`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "work", content = "spec", rename_all = "snake_case")]
pub enum Work {
    Gemm(Gemm),
    LinearRelu(Linear),
    Softmax(Classes),
    SoftmaxCrossEntropy(Classes),
    Relu(Vector),
    Exp(Vector),
    Momentum(Vector),
    Adam(Vector),
    #[serde(rename = "conv2d")]
    Conv2d(Convolution),
    #[serde(rename = "conv2d_backward")]
    Conv2dBackward(Convolution),
    ReluBatchNorm(Pixels),
    ReluBatchNormBackward(Pixels),
    MaxPool(Images),
    MaxPoolBackward(Images),
    AvgPool(Images),
    ConvBlock(Batch),
    MlpEpoch(Hidden),
    CnnStep(Batch),
}

/// A product's sizes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Gemm {
    /// Rows of C.
    pub m: usize,
    /// Length of the sums.
    pub k: usize,
    /// Columns of C.
    pub n: usize,
    /// Whether A comes as (k, m).
    pub a_transposed: bool,
    /// Whether B comes as (n, k).
    pub b_transposed: bool,
}

/// A dense layer's sizes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Linear {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// The sizes of a classifier's result.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Classes {
    pub rows: usize,
    pub classes: usize,
}

/// A vector's length.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Vector {
    pub len: usize,
}

/// A convolution's sizes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Convolution {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// The sizes of images whose places make no difference.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pixels {
    pub rows: usize,
    pub channels: usize,
}

/// The sizes of images.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Images {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// Images of the study in a minibatch.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Batch {
    pub images: usize,
}

/// Hidden units of a perceptron.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Hidden {
    pub hidden: usize,
}

/// Which table a work is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// Matrix products, alone or with what a dense layer adds.
    Products,
    /// Everything else that is one kernel, or a few fused.
    Kernels,
    /// A network's forward, backward and update.
    Training,
}

/// Every work of a full comparison.
pub fn all() -> Vec<Work> {
    const N: (bool, bool) = (false, false);
    const A_T: (bool, bool) = (true, false);
    const B_T: (bool, bool) = (false, true);
    let gemm = [
        ([10_000, 784, 1000], N),
        ([784, 10_000, 1000], A_T),
        ([10_000, 1000, 10], N),
        ([1000, 10_000, 10], A_T),
        ([10_000, 10, 1000], B_T),
        ([32, 6272, 784], N),
        ([32, 784, 6272], B_T),
        ([6272, 32, 784], A_T),
        ([25_088, 9, 32], N),
        ([9, 25_088, 32], A_T),
        ([1024, 1024, 1024], N),
    ];
    let gemm = gemm.map(|([m, k, n], (a_transposed, b_transposed))| {
        Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed })
    });
    let classes = |rows, classes| Classes { rows, classes };
    let convolutions = [(28, 1, 32), (14, 32, 64)].map(|(size, inputs, outputs)| Convolution {
        images: 32,
        height: size,
        width: size,
        inputs,
        outputs,
    });
    let weights = Vector { len: 4_917_248 };
    let pixels = Pixels { rows: 32 * PIXELS, channels: FILTERS };
    let images = Images { images: 32, height: 28, width: 28, channels: FILTERS };

    let mut works = gemm.to_vec();
    works.extend([
        Work::LinearRelu(Linear { rows: 10_000, inputs: PIXELS, outputs: 1000 }),
        Work::Softmax(classes(10_000, 10)),
        Work::Softmax(classes(10_000, 1000)),
        Work::Softmax(classes(1024, 1024)),
        Work::SoftmaxCrossEntropy(classes(10_000, 10)),
        Work::Relu(Vector { len: 10_000_000 }),
        Work::Exp(Vector { len: 10_000_000 }),
        Work::Momentum(weights),
        Work::Adam(weights),
    ]);
    works.extend(convolutions.map(Work::Conv2d));
    works.extend(convolutions.map(Work::Conv2dBackward));
    works.extend([
        Work::ReluBatchNorm(pixels),
        Work::ReluBatchNormBackward(pixels),
        Work::MaxPool(images),
        Work::MaxPoolBackward(images),
        Work::AvgPool(images),
        Work::ConvBlock(Batch { images: 32 }),
        Work::MlpEpoch(Hidden { hidden: 1000 }),
        Work::MlpEpoch(Hidden { hidden: 100 }),
        Work::CnnStep(Batch { images: 32 }),
    ]);
    works
}

impl fmt::Display for Work {
    /// A work's name in tables and records; no two works share it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => {
                let transposed = match (a_transposed, b_transposed) {
                    (false, false) => "",
                    (true, false) => " A^T",
                    (false, true) => " B^T",
                    (true, true) => " A^T B^T",
                };
                write!(f, "gemm {m}x{k}x{n}{transposed}")
            }
            Work::LinearRelu(Linear { rows, inputs, outputs }) => {
                write!(f, "linear_relu {rows}x{inputs}x{outputs}")
            }
            Work::Softmax(Classes { rows, classes }) => write!(f, "softmax {rows}x{classes}"),
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => {
                write!(f, "softmax_cross_entropy {rows}x{classes}")
            }
            Work::Relu(Vector { len }) => write!(f, "relu {len}"),
            Work::Exp(Vector { len }) => write!(f, "exp {len}"),
            Work::Momentum(Vector { len }) => write!(f, "momentum {len}"),
            Work::Adam(Vector { len }) => write!(f, "adam {len}"),
            Work::Conv2d(sizes) => write!(f, "conv2d {sizes}"),
            Work::Conv2dBackward(sizes) => write!(f, "conv2d_backward {sizes}"),
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                write!(f, "relu_batch_norm {rows}x{channels}")
            }
            Work::ReluBatchNormBackward(Pixels { rows, channels }) => {
                write!(f, "relu_batch_norm_backward {rows}x{channels}")
            }
            Work::MaxPool(sizes) => write!(f, "max_pool {sizes}"),
            Work::MaxPoolBackward(sizes) => write!(f, "max_pool_backward {sizes}"),
            Work::AvgPool(sizes) => write!(f, "avg_pool {sizes}"),
            Work::ConvBlock(Batch { images }) => write!(f, "conv_block {images}"),
            Work::MlpEpoch(Hidden { hidden }) => write!(f, "mlp_epoch {hidden}"),
            Work::CnnStep(Batch { images }) => write!(f, "cnn_step {images}"),
        }
    }
}

impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { images, height, width, inputs, outputs } = self;
        write!(f, "{images}x{height}x{width}x{inputs}->{outputs}")
    }
}

impl fmt::Display for Images {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { images, height, width, channels } = self;
        write!(f, "{images}x{height}x{width}x{channels}")
    }
}

impl Gemm {
    /// Steps to the next row and the next column of A, and those of B.
    pub fn strides(self) -> ([isize; 2], [isize; 2]) {
        let of = |rows: usize, cols: usize, transposed| {
            if transposed { [1, rows as isize] } else { [cols as isize, 1] }
        };
        (of(self.m, self.k, self.a_transposed), of(self.k, self.n, self.b_transposed))
    }
}

/// Adam's learning rate of update number `step` (from 1), which makes up for the moments' start at
/// zero.
pub fn adam_rate(step: u64) -> f64 {
    let rest = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
    f64::from(ADAM_RATE) * rest(ADAM_BETA2).sqrt() / rest(ADAM_BETA1)
}

impl Convolution {
    /// Shapes of x, w, b and y.
    fn shapes(self) -> [Vec<usize>; 4] {
        let Self { images, height, width, inputs, outputs } = self;
        [
            vec![images, height, width, inputs],
            vec![3, 3, inputs, outputs],
            vec![outputs],
            vec![images, height, width, outputs],
        ]
    }

    fn flops(self) -> f64 {
        let Self { images, height, width, inputs, outputs } = self;
        product(&[2, images, height, width, 9, inputs, outputs])
    }
}

impl Images {
    /// Shapes of x and y of a pool.
    fn shapes(self) -> [Vec<usize>; 2] {
        let Self { images, height, width, channels } = self;
        [vec![images, height, width, channels], vec![images, height / 2, width / 2, channels]]
    }
}

/// The convolution of the study.
pub fn study_convolution(images: usize) -> Convolution {
    Convolution { images, height: 28, width: 28, inputs: 1, outputs: FILTERS }
}

fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|&size| size as f64).product()
}

/// What a memory-bound work moves, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Read and written by kernelet's kernel, every pass counted.
    pub moved: f64,
    /// The size of all its arrays: what `memcpy` reads and writes, half each.
    pub arrays: f64,
}

impl Work {
    /// The table that it belongs to.
    pub fn family(&self) -> Family {
        match self {
            Work::Gemm(_) | Work::LinearRelu(_) => Family::Products,
            Work::MlpEpoch(_) | Work::CnnStep(_) => Family::Training,
            _ => Family::Kernels,
        }
    }

    /// Multiplications and additions of its products, where those are what it is about.
    pub fn flops(&self) -> Option<f64> {
        match *self {
            Work::Gemm(Gemm { m, k, n, .. }) => Some(product(&[2, m, k, n])),
            Work::LinearRelu(Linear { rows, inputs, outputs }) => {
                Some(product(&[2, rows, inputs, outputs]))
            }
            Work::Conv2d(sizes) => Some(sizes.flops()),
            // The gradient of x is asked for only where there is a layer before.
            Work::Conv2dBackward(sizes) => {
                Some(sizes.flops() * if sizes.inputs > 1 { 2.0 } else { 1.0 })
            }
            Work::MlpEpoch(Hidden { hidden }) => {
                let [train, valid, test] = EPOCH_ROWS;
                let forward = |rows| product(&[2, rows, hidden, PIXELS + CLASSES]);
                let backward = product(&[2, train, hidden, PIXELS + 2 * CLASSES]);
                Some(forward(train) + forward(valid) + forward(test) + backward)
            }
            Work::CnnStep(Batch { images }) => {
                let dense = product(&[2, images, CNN_HIDDEN, POOLED + CLASSES]);
                Some(2.0 * study_convolution(images).flops() + 3.0 * dense)
            }
            _ => None,
        }
    }

    /// What it moves, if moving is what takes its time and `memcpy` is held against it.
    pub fn traffic(&self) -> Option<Traffic> {
        let traffic = |moved, arrays| Some(Traffic { moved, arrays });
        match *self {
            Work::Relu(Vector { len }) | Work::Exp(Vector { len }) => {
                traffic(product(&[8, len]), product(&[8, len]))
            }
            // w and v are read and written, g is read.
            Work::Momentum(Vector { len }) => traffic(product(&[20, len]), product(&[12, len])),
            // So are w, m, v and g.
            Work::Adam(Vector { len }) => traffic(product(&[28, len]), product(&[16, len])),
            Work::Softmax(Classes { rows, classes }) => {
                traffic(product(&[8, rows, classes]), product(&[8, rows, classes]))
            }
            // x, a quarter of it, and a byte for each of those, the place of the largest.
            Work::MaxPool(Images { images, height, width, channels }) => {
                let y = product(&[images, height / 2, width / 2, channels]);
                let bytes = product(&[4, images, height, width, channels]) + 5.0 * y;
                traffic(bytes, bytes)
            }
            // x, and a quarter of it.
            Work::AvgPool(Images { images, height, width, channels }) => {
                let bytes = product(&[5, images, height, width, channels]);
                traffic(bytes, bytes)
            }
            // x to its ReLU, and that to y, once the moments are known.
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                traffic(product(&[16, rows, channels]), product(&[12, rows, channels]))
            }
            _ => None,
        }
    }

    /// The arrays that it starts from.
    pub fn inputs(&self) -> Vec<(&'static str, Input)> {
        let mut inputs = Inputs::default();
        match *self {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => {
                let [a, b] =
                    [(m, k, a_transposed), (k, n, b_transposed)].map(|(rows, cols, transposed)| {
                        if transposed { [cols, rows] } else { [rows, cols] }
                    });
                inputs.numbers("a", &a, 1.0);
                inputs.numbers("b", &b, 1.0);
            }
            Work::LinearRelu(Linear { rows, inputs: columns, outputs }) => {
                inputs.numbers("x", &[rows, columns], 1.0);
                inputs.layer(["w", "b"], &[columns, outputs]);
            }
            Work::Softmax(Classes { rows, classes }) => inputs.numbers("z", &[rows, classes], 1.0),
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => {
                inputs.numbers("z", &[rows, classes], 1.0);
                inputs.labels("labels", rows, classes);
            }
            Work::Relu(Vector { len }) | Work::Exp(Vector { len }) => {
                inputs.numbers("x", &[len], 1.0);
            }
            Work::Momentum(Vector { len }) => {
                for name in ["w", "v", "g"] {
                    inputs.numbers(name, &[len], 1.0);
                }
            }
            Work::Adam(Vector { len }) => {
                for name in ["w", "g"] {
                    inputs.numbers(name, &[len], 1.0);
                }
            }
            Work::Conv2d(sizes) => {
                let [x, w, ..] = sizes.shapes();
                inputs.numbers("x", &x, 1.0);
                inputs.layer(["w", "b"], &w);
            }
            Work::Conv2dBackward(sizes) => {
                let [x, w, _, y] = sizes.shapes();
                inputs.numbers("x", &x, 1.0);
                inputs.weights("w", &w);
                inputs.numbers("dy", &y, 1.0);
            }
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                inputs.numbers("x", &[rows, channels], 1.0);
            }
            Work::ReluBatchNormBackward(Pixels { rows, channels }) => {
                inputs.numbers("x", &[rows, channels], 1.0);
                inputs.numbers("dy", &[rows, channels], 1.0);
            }
            Work::MaxPool(sizes) | Work::AvgPool(sizes) => {
                inputs.numbers("x", &sizes.shapes()[0], 1.0);
            }
            Work::MaxPoolBackward(sizes) => {
                let [x, y] = sizes.shapes();
                inputs.numbers("x", &x, 1.0);
                inputs.numbers("dy", &y, 1.0);
            }
            Work::ConvBlock(Batch { images }) => {
                let [x, w, ..] = study_convolution(images).shapes();
                inputs.numbers("x", &x, 1.0);
                inputs.layer(["w", "b"], &w);
                inputs.numbers("dy", &[images, 14, 14, FILTERS], 1.0);
            }
            Work::MlpEpoch(Hidden { hidden }) => {
                let [train, valid, test] = EPOCH_ROWS;
                for (x, rows) in [("x_train", train), ("x_valid", valid), ("x_test", test)] {
                    inputs.images(x, &[rows, PIXELS]);
                }
                for (y, rows) in [("y_train", train), ("y_valid", valid), ("y_test", test)] {
                    inputs.labels(y, rows, CLASSES);
                }
                inputs.layer(["w_h", "b_h"], &[PIXELS, hidden]);
                inputs.layer(["w_o", "b_o"], &[hidden, CLASSES]);
            }
            Work::CnnStep(Batch { images }) => {
                let [x, w, ..] = study_convolution(images).shapes();
                inputs.numbers("x", &x, 1.0);
                inputs.labels("labels", images, CLASSES);
                inputs.layer(["w0", "b0"], &w);
                inputs.layer(["w1", "b1"], &[POOLED, CNN_HIDDEN]);
                inputs.layer(["w2", "b2"], &[CNN_HIDDEN, CLASSES]);
            }
        }
        inputs.arrays
    }

    /// The arrays that come out of it: names and shapes.
    pub fn outputs(&self) -> Vec<(&'static str, Vec<usize>)> {
        match *self {
            Work::Gemm(Gemm { m, n, .. }) => vec![("c", vec![m, n])],
            Work::LinearRelu(Linear { rows, outputs, .. }) => vec![("y", vec![rows, outputs])],
            Work::Softmax(Classes { rows, classes }) => vec![("p", vec![rows, classes])],
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => {
                vec![("loss", vec![1]), ("dz", vec![rows, classes])]
            }
            Work::Relu(Vector { len }) | Work::Exp(Vector { len }) => vec![("y", vec![len])],
            Work::Momentum(Vector { len }) => vec![("w", vec![len]), ("v", vec![len])],
            Work::Adam(Vector { len }) => {
                vec![("w", vec![len]), ("m", vec![len]), ("v", vec![len])]
            }
            Work::Conv2d(sizes) => {
                let [.., y] = sizes.shapes();
                vec![("y", y)]
            }
            Work::Conv2dBackward(sizes) => {
                let [x, w, b, _] = sizes.shapes();
                let mut outputs = vec![("dw", w), ("db", b)];
                if sizes.inputs > 1 {
                    outputs.push(("dx", x));
                }
                outputs
            }
            Work::ReluBatchNorm(Pixels { rows, channels }) => vec![("y", vec![rows, channels])],
            Work::ReluBatchNormBackward(Pixels { rows, channels }) => {
                vec![("dx", vec![rows, channels])]
            }
            Work::MaxPool(sizes) | Work::AvgPool(sizes) => {
                let [_, y] = sizes.shapes();
                vec![("y", y)]
            }
            Work::MaxPoolBackward(sizes) => {
                let [x, _] = sizes.shapes();
                vec![("dx", x)]
            }
            Work::ConvBlock(Batch { images }) => {
                let [_, w, b, _] = study_convolution(images).shapes();
                vec![("y", vec![images, 14, 14, FILTERS]), ("dw", w), ("db", b)]
            }
            Work::MlpEpoch(Hidden { hidden }) => vec![
                ("losses", vec![3]),
                ("w_h", vec![PIXELS, hidden]),
                ("w_o", vec![hidden, CLASSES]),
            ],
            Work::CnnStep(Batch { images }) => {
                let [_, w, ..] = study_convolution(images).shapes();
                vec![("loss", vec![1]), ("w0", w), ("w2", vec![CNN_HIDDEN, CLASSES])]
            }
        }
    }

    /// How far an output may be from kernelet's, relative to the array's largest magnitude.
    pub fn tolerance(&self, output: &str) -> f64 {
        match (self, output) {
            // Each is a sum of 25,088 numbers that nearly cancel: normalisation takes out the mean
            // of those that ReLU let through, and adds it to the others.
            (Work::ConvBlock(_), "db") => 1e-3,
            _ => 1e-4,
        }
    }
}

/// Inputs in the making, each of other numbers.
#[derive(Default)]
struct Inputs {
    arrays: Vec<(&'static str, Input)>,
}

impl Inputs {
    /// Numbers in [-0.5, 0.5), times `scale`.
    fn numbers(&mut self, name: &'static str, shape: &[usize], scale: f32) {
        let seed = self.arrays.len() as u32 + 1;
        let data = random(seed).map(|x| x * scale).take(shape.iter().product()).collect();
        self.arrays.push((name, Input::Floats(Array { shape: shape.to_vec(), data })));
    }

    /// Images as they are read: bytes divided by 255.
    fn images(&mut self, name: &'static str, shape: &[usize]) {
        let seed = self.arrays.len() as u32 + 1;
        let pixel = |x: f32| (256.0 * (x + 0.5)).floor() / 255.0;
        let data = random(seed).map(pixel).take(shape.iter().product()).collect();
        self.arrays.push((name, Input::Floats(Array { shape: shape.to_vec(), data })));
    }

    /// Labels below `classes`.
    fn labels(&mut self, name: &'static str, rows: usize, classes: usize) {
        let label = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) % classes as u32;
        let data = (0..rows).map(label).collect();
        self.arrays.push((name, Input::Labels(Array { shape: vec![rows], data })));
    }

    /// Weights (..., inputs, outputs) as Xavier has them, but uniform.
    fn weights(&mut self, name: &'static str, shape: &[usize]) {
        if let [window @ .., inputs, outputs] = shape {
            let fans = window.iter().product::<usize>() * (inputs + outputs);
            self.numbers(name, shape, 2.0 * (6.0 / fans as f32).sqrt());
        }
    }

    /// Weights, and small biases.
    fn layer(&mut self, [w, b]: [&'static str; 2], shape: &[usize]) {
        self.weights(w, shape);
        if let Some(&outputs) = shape.last() {
            self.numbers(b, &[outputs], 0.1);
        }
    }
}

/// Numbers in [-0.5, 0.5), the same every time, without a pattern that a cache could like.
fn random(seed: u32) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Work, all};
    use crate::arrays::{Array, Input};

    #[test]
    fn names_are_distinct() {
        let names: HashSet<String> = all().iter().map(Work::to_string).collect();
        assert_eq!(names.len(), all().len(), "works with the same name");
    }

    #[test]
    fn inputs_are_small_and_fit_their_shapes() {
        for work in all().iter().filter(|work| !matches!(work, Work::MlpEpoch(_))) {
            for (name, input) in work.inputs() {
                let (shape, len) = match input {
                    Input::Floats(Array { shape, data }) => {
                        assert!(data.iter().all(|x| x.abs() <= 0.5), "{work}: {name} is large");
                        (shape, data.len())
                    }
                    Input::Labels(Array { shape, data }) => {
                        assert!(data.iter().all(|&y| y < 10), "{work}: {name} has a high label");
                        (shape, data.len())
                    }
                };
                assert_eq!(shape.iter().product::<usize>(), len, "{work}: {name}");
            }
        }
    }
}
