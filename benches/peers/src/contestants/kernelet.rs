//! This crate's kernels, fused where they can be.

use anyhow::Result;
use kernelet::kernels::adam::{self, Adam};
use kernelet::kernels::conv_block::{self, ConvBlockShape};
use kernelet::kernels::gemm::{GemmShape, Matrix, Write, gemm};
use kernelet::kernels::momentum::{self, Momentum};
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::kernels::{
    avg_pool, conv2d, exp, input, linear, max_pool, relu, softmax, softmax_cross_entropy,
};
use kernelet::nn::cnn::{self, AdamState, Regularization};
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape, mlp};
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};
use kernelet::{Cpu, Isa};

use super::{Contestant, Inputs, Prepared, crate_version, job};
use crate::works::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, ADAM_RATE, Batch, CLASSES, CNN_HIDDEN, Classes,
    Convolution, EPOCH_RATE, EPSILON, Gemm, Hidden, Images, Linear, MOMENTUM, MOMENTUM_RATE,
    PIXELS, Pixels, Vector, Work, study_convolution,
};

/// kernelet on the best instruction set there is, or the one that `KERNELET_ISA` names.
pub struct Kernelet {
    cpu: Cpu,
}

impl Kernelet {
    /// On `threads` threads.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self { cpu: Cpu::detect()?.with_threads(threads)? })
    }
}

/// The protocol's Adam.
pub const ADAM: Adam = Adam {
    learning_rate: ADAM_RATE,
    beta1: ADAM_BETA1,
    beta2: ADAM_BETA2,
    epsilon: ADAM_EPSILON,
    l2: 0.0,
};

impl Contestant for Kernelet {
    fn version(&self) -> String {
        format!("{} {}", crate_version("kernelet"), self.cpu.isa())
    }

    fn install(&self, body: &mut (dyn FnMut() + Send)) {
        self.cpu.install(body);
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let cpu = self.cpu.clone();
        let floats = |name| inputs.floats(name);
        match *work {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => job(
                (floats("a")?, floats("b")?, vec![0.0; m * n]),
                move |(a, b, c)| {
                    let a = if a_transposed { Matrix::T(a) } else { Matrix::N(a) };
                    let b = if b_transposed { Matrix::T(b) } else { Matrix::N(b) };
                    gemm(&cpu, GemmShape { m, k, n }, a, b, Write::Overwrite, c);
                    Ok(())
                },
                |(_, _, c)| Ok(vec![("c", c.clone())]),
            ),
            Work::LinearRelu(Linear { rows, inputs, outputs }) => job(
                (floats("x")?, floats("w")?, floats("b")?, vec![0.0; rows * outputs]),
                move |(x, w, b, y)| {
                    linear::forward_relu(&cpu, LinearShape { rows, inputs, outputs }, x, w, b, y);
                    Ok(())
                },
                |(.., y)| Ok(vec![("y", y.clone())]),
            ),
            Work::Softmax(Classes { rows, classes }) => job(
                (floats("z")?, vec![0.0; rows * classes]),
                move |(z, p)| {
                    softmax::forward(&cpu, MatrixShape { rows, cols: classes }, z, p);
                    Ok(())
                },
                |(_, p)| Ok(vec![("p", p.clone())]),
            ),
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => job(
                (floats("z")?, inputs.labels("labels")?, vec![0.0; rows * classes], 0.0),
                move |(z, labels, dz, loss)| {
                    let shape = MatrixShape { rows, cols: classes };
                    let mean = 1.0 / rows as f32;
                    let tally =
                        softmax_cross_entropy::forward_backward(&cpu, shape, z, labels, mean, dz);
                    *loss = tally.mean_loss() as f32;
                    Ok(())
                },
                |(_, _, dz, loss)| Ok(vec![("loss", vec![*loss]), ("dz", dz.clone())]),
            ),
            Work::Relu(Vector { len }) => job(
                (floats("x")?, vec![0.0; len]),
                move |(x, y)| {
                    relu::forward(&cpu, x, y);
                    Ok(())
                },
                |(_, y)| Ok(vec![("y", y.clone())]),
            ),
            Work::Exp(Vector { len }) => job(
                (floats("x")?, vec![0.0; len]),
                move |(x, y)| {
                    exp::forward(&cpu, x, y);
                    Ok(())
                },
                |(_, y)| Ok(vec![("y", y.clone())]),
            ),
            Work::Momentum(_) => job(
                (floats("w")?, floats("v")?, floats("g")?),
                move |(w, v, g)| {
                    let settings = Momentum { learning_rate: MOMENTUM_RATE, momentum: MOMENTUM };
                    momentum::update(&cpu, settings, w, v, g);
                    Ok(())
                },
                |(w, v, _)| Ok(vec![("w", w.clone()), ("v", v.clone())]),
            ),
            Work::Adam(Vector { len }) => job(
                (floats("w")?, vec![0.0; len], vec![0.0; len], floats("g")?, 0),
                move |(w, m, v, g, step)| {
                    *step += 1;
                    adam::update(&cpu, ADAM, *step, w, m, v, g);
                    Ok(())
                },
                |(w, m, v, ..)| Ok(vec![("w", w.clone()), ("m", m.clone()), ("v", v.clone())]),
            ),
            Work::Conv2d(sizes) => {
                let shape = convolution(sizes);
                job(
                    (floats("x")?, floats("w")?, floats("b")?, zeros(shape.output())),
                    move |(x, w, b, y)| {
                        conv2d::forward(&cpu, shape, x, w, b, y);
                        Ok(())
                    },
                    |(.., y)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::Conv2dBackward(sizes) => {
                let shape = convolution(sizes);
                let dw = vec![0.0; shape.taps() * shape.filters];
                let db = vec![0.0; shape.filters];
                let dx = if sizes.inputs > 1 { zeros(shape.input) } else { vec![] };
                job(
                    ((floats("x")?, floats("w")?, floats("dy")?), (dw, db, dx)),
                    move |((x, w, dy), (dw, db, dx))| {
                        conv2d::backward_weights(&cpu, shape, x, dy, Write::Overwrite, dw, db);
                        if !dx.is_empty() {
                            conv2d::backward_input(&cpu, shape, dy, w, dx);
                        }
                        Ok(())
                    },
                    |(_, (dw, db, dx))| {
                        let mut outputs = vec![("dw", dw.clone()), ("db", db.clone())];
                        if !dx.is_empty() {
                            outputs.push(("dx", dx.clone()));
                        }
                        Ok(outputs)
                    },
                )
            }
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                let x = floats("x")?;
                let (r, y) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                job(
                    (x, r, y, Moments::new(channels), Normalization::identity(channels)),
                    move |(x, r, y, moments, normalization)| {
                        let shape = MatrixShape { rows, cols: channels };
                        moments.clear();
                        relu_batch_norm::forward_moments(&cpu, shape, x, r, moments);
                        normalization.set(moments, EPSILON.into());
                        relu_batch_norm::forward_normalize(&cpu, shape, r, normalization, None, y);
                        Ok(())
                    },
                    |(_, _, y, ..)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::ReluBatchNormBackward(Pixels { rows, channels }) => {
                let shape = MatrixShape { rows, cols: channels };
                let x = floats("x")?;
                let mut r = vec![0.0; x.len()];
                let mut moments = Moments::new(channels);
                relu_batch_norm::forward_moments(&cpu, shape, &x, &mut r, &mut moments);
                let mut normalization = Normalization::identity(channels);
                normalization.set(&moments, EPSILON.into());
                let dx = vec![0.0; x.len()];
                let (dscale, doffset) = (vec![0.0; channels], vec![0.0; channels]);
                job(
                    ((r, normalization, floats("dy")?), (dx, dscale, doffset)),
                    move |((r, normalization, dy), (dx, dscale, doffset))| {
                        relu_batch_norm::backward(
                            &cpu,
                            shape,
                            r,
                            normalization,
                            None,
                            dy,
                            dx,
                            dscale,
                            doffset,
                        );
                        Ok(())
                    },
                    |(_, (dx, ..))| Ok(vec![("dx", dx.clone())]),
                )
            }
            Work::MaxPool(sizes) => {
                let shape = pool(sizes);
                let y = zeros(shape.output());
                let argmax = vec![0_u8; y.len()];
                job(
                    (floats("x")?, y, argmax),
                    move |(x, y, argmax)| {
                        max_pool::forward(&cpu, shape, x, y, argmax);
                        Ok(())
                    },
                    |(_, y, _)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::MaxPoolBackward(sizes) => {
                let shape = pool(sizes);
                let mut y = zeros(shape.output());
                let mut argmax = vec![0_u8; y.len()];
                max_pool::forward(&cpu, shape, &floats("x")?, &mut y, &mut argmax);
                job(
                    (argmax, floats("dy")?, zeros(shape.input)),
                    move |(argmax, dy, dx)| {
                        max_pool::backward(&cpu, shape, argmax, dy, dx);
                        Ok(())
                    },
                    |(.., dx)| Ok(vec![("dx", dx.clone())]),
                )
            }
            Work::AvgPool(sizes) => {
                let shape = pool(sizes);
                let y = zeros(shape.output());
                job(
                    (floats("x")?, y),
                    move |(x, y)| {
                        avg_pool::forward(&cpu, shape, x, y);
                        Ok(())
                    },
                    |(_, y)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::ConvBlock(Batch { images }) => conv_block(cpu, images, inputs),
            Work::MlpEpoch(Hidden { hidden }) => mlp_epoch(cpu, hidden, inputs),
            Work::CnnStep(Batch { images }) => cnn_step(cpu, images, inputs),
        }
    }
}

fn conv_block(cpu: Cpu, images: usize, inputs: &Inputs) -> Result<Prepared> {
    struct Block {
        x: Vec<f32>,
        w: Vec<f32>,
        b: Vec<f32>,
        dy: Vec<f32>,
        moments: Moments,
        normalization: Normalization,
        r: Vec<f32>,
        y: Vec<f32>,
        argmax: Vec<u8>,
        dw: Vec<f32>,
        db: Vec<f32>,
    }
    let sizes = study_convolution(images);
    let convolution = convolution(sizes);
    let pool = Window::square(2, 2, Padding::Same);
    let shape = ConvBlockShape { convolution, pool };
    let output = shape.pool().output();
    let y = zeros(output);
    let block = Block {
        x: inputs.floats("x")?,
        w: inputs.floats("w")?,
        b: inputs.floats("b")?,
        dy: inputs.floats("dy")?,
        moments: Moments::new(convolution.filters),
        normalization: Normalization::identity(convolution.filters),
        r: zeros(convolution.output()),
        argmax: vec![0; y.len()],
        y,
        dw: vec![0.0; convolution.taps() * convolution.filters],
        db: vec![0.0; convolution.filters],
    };
    job(
        block,
        move |block| {
            let Block { x, w, b, dy, moments, normalization: norm, r, y, argmax, dw, db } = block;
            moments.clear();
            conv_block::forward(&cpu, shape, x, w, b, r, moments, y, argmax);
            norm.set(moments, EPSILON.into());
            relu_batch_norm::forward_normalize_in_place(&cpu, output.pixels(), norm, None, y);
            let (backward, write) = (conv_block::backward_weights, Write::Overwrite);
            backward(&cpu, shape, x, r, norm, y, argmax, dy, write, dw, db);
            Ok(())
        },
        |block| {
            let Block { y, dw, db, .. } = block;
            Ok(vec![("y", y.clone()), ("dw", dw.clone()), ("db", db.clone())])
        },
    )
}

fn mlp_epoch(cpu: Cpu, hidden: usize, inputs: &Inputs) -> Result<Prepared> {
    let floats = |name| inputs.floats(name);
    let shape = MlpShape { inputs: PIXELS, hidden, classes: CLASSES };
    let mlp = Mlp {
        shape,
        w_h: floats("w_h")?,
        b_h: floats("b_h")?,
        w_o: floats("w_o")?,
        b_o: floats("b_o")?,
    };
    let (velocity, gradients) = (Mlp::zeros(shape), Mlp::zeros(shape));
    let mut sets = vec![];
    for (x, y) in [("x_train", "y_train"), ("x_valid", "y_valid"), ("x_test", "y_test")] {
        let x = floats(x)?;
        // As `train::mlp` does, once for all epochs.
        let bytes = (cpu.isa() == Isa::Amx).then(|| input::bytes(&cpu, &x)).flatten();
        sets.push((x, bytes, inputs.labels(y)?));
    }
    job(
        (mlp, velocity, gradients, mlp::Workspace::default(), vec![]),
        move |(mlp, velocity, gradients, work, tallies)| {
            let step = Momentum { learning_rate: EPOCH_RATE, momentum: MOMENTUM };
            tallies.clear();
            for (set, (x, bytes, labels)) in sets.iter().enumerate() {
                tallies.push(match (set, bytes) {
                    (0, Some(x)) => mlp.gradients(&cpu, work, x, labels, 1.0, gradients),
                    (0, None) => mlp.gradients(&cpu, work, x, labels, 1.0, gradients),
                    (_, Some(x)) => mlp.evaluate(&cpu, work, x, labels),
                    (_, None) => mlp.evaluate(&cpu, work, x, labels),
                });
                if set == 0 {
                    mlp.momentum_step(&cpu, step, velocity, gradients);
                }
            }
            Ok(())
        },
        |(mlp, .., tallies)| {
            let losses = tallies.iter().map(|tally| tally.mean_loss() as f32).collect();
            Ok(vec![("losses", losses), ("w_h", mlp.w_h.clone()), ("w_o", mlp.w_o.clone())])
        },
    )
}

fn cnn_step(cpu: Cpu, images: usize, inputs: &Inputs) -> Result<Prepared> {
    let floats = |name| inputs.floats(name);
    let shape = CnnShape::study(CNN_HIDDEN, CLASSES);
    let cnn = Cnn {
        shape,
        w0: floats("w0")?,
        b0: floats("b0")?,
        w1: floats("w1")?,
        b1: floats("b1")?,
        w2: floats("w2")?,
        b2: floats("b2")?,
    };
    let (x, labels) = (floats("x")?, inputs.labels("labels")?);
    job(
        (cnn, AdamState::new(shape), cnn::Workspace::default(), 0.0),
        move |(cnn, state, work, loss)| {
            let plain = Regularization::default();
            let (tally, _) = cnn.adam_step(&cpu, work, &x, &labels, ADAM, plain, state);
            *loss = tally.loss / images as f64;
            Ok(())
        },
        |(cnn, _, _, loss)| {
            let loss = vec![*loss as f32];
            Ok(vec![("loss", loss), ("w0", cnn.w0.clone()), ("w2", cnn.w2.clone())])
        },
    )
}

/// The shape of a 3x3 convolution with stride 1 and zeros around.
pub fn convolution(sizes: Convolution) -> Conv2dShape {
    let Convolution { images, height, width, inputs, outputs } = sizes;
    Conv2dShape {
        input: ImageShape { batch: images, height, width, channels: inputs },
        window: Window::square(3, 1, Padding::Same),
        filters: outputs,
    }
}

/// The shape of a 2x2 pool with stride 2.
pub fn pool(sizes: Images) -> PoolShape {
    let Images { images, height, width, channels } = sizes;
    PoolShape {
        input: ImageShape { batch: images, height, width, channels },
        window: Window::square(2, 2, Padding::Same),
    }
}

/// Images of zeros.
pub fn zeros(shape: ImageShape) -> Vec<f32> {
    vec![0.0; shape.batch * shape.image_len()]
}
