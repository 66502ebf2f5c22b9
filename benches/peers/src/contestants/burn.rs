//! burn on Flex, its CPU backend: works as its users write them, with channels first, and autodiff
//! where a gradient is asked for.

use anyhow::{Context, Result, anyhow};
use burn::tensor::activation::{log_softmax, relu, softmax};
use burn::tensor::module::{avg_pool2d, batch_norm_train, conv2d, linear, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

use super::layout::{
    TO_CHANNELS_FIRST, TO_CHANNELS_LAST, TO_FILTERS_FIRST, TO_FILTERS_LAST, permute,
};
use super::{Contestant, Inputs, Outputs, Prepared, crate_version, job, refilled_job};
use crate::works::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, Batch, CLASSES, CNN_HIDDEN, Classes, Convolution,
    EPOCH_RATE, EPOCH_ROWS, EPSILON, FILTERS, Gemm, Hidden, Images, Linear, MOMENTUM,
    MOMENTUM_RATE, PIXELS, POOLED, Pixels, Work, adam_rate,
};

/// burn on as many threads as the environment says.
pub struct Burn;

impl Contestant for Burn {
    fn version(&self) -> String {
        format!("{}, {}", crate_version("burn"), crate_version("burn-flex"))
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let inputs = Tensors(inputs);
        match *work {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => {
                let matrix = |name, rows, cols, transposed| -> Result<Tensor<2>> {
                    Ok(if transposed {
                        inputs.floats(name, [cols, rows])?.transpose()
                    } else {
                        inputs.floats(name, [rows, cols])?
                    })
                };
                let a = matrix("a", m, k, a_transposed)?;
                let b = matrix("b", k, n, b_transposed)?;
                forward("c", move || a.clone().matmul(b.clone()), vec_of)
            }
            Work::LinearRelu(Linear { rows, inputs: columns, outputs }) => {
                let x = inputs.floats("x", [rows, columns])?;
                let w = inputs.floats("w", [columns, outputs])?;
                let b = inputs.floats("b", [outputs])?;
                let run = move || relu(linear(x.clone(), w.clone(), Some(b.clone())));
                forward("y", run, vec_of)
            }
            Work::Softmax(Classes { rows, classes }) => {
                let z = inputs.floats("z", [rows, classes])?;
                forward("p", move || softmax(z.clone(), 1), vec_of)
            }
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => {
                let z = inputs.floats("z", [rows, classes])?.autodiff();
                let labels = inputs.labels("labels", true)?;
                job(
                    None,
                    move |result| {
                        let z = z.clone().require_grad();
                        let loss = cross_entropy(z.clone(), labels.clone());
                        let dz = z.grad(&loss.backward());
                        *result = dz.map(|dz| (loss.into_scalar::<f32>(), dz));
                        Ok(())
                    },
                    |result| {
                        let (loss, dz) = result.clone().context("nothing came back")?;
                        Ok(vec![("loss", vec![loss]), ("dz", vec_of(dz)?)])
                    },
                )
            }
            Work::Relu(sizes) => {
                let x = inputs.floats("x", [sizes.len])?;
                forward("y", move || relu(x.clone()), vec_of)
            }
            Work::Exp(sizes) => {
                let x = inputs.floats("x", [sizes.len])?;
                forward("y", move || x.clone().exp(), vec_of)
            }
            Work::Momentum(sizes) => {
                let [w, v, g] = ["w", "v", "g"].map(|name| inputs.floats(name, [sizes.len]));
                job(
                    (w?, v?, g?),
                    |(w, v, g)| {
                        v.inplace(|v| v * MOMENTUM + g.clone() * MOMENTUM_RATE);
                        w.inplace(|w| w - v.clone());
                        Ok(())
                    },
                    |(w, v, _)| Ok(vec![("w", vec_of(w.clone())?), ("v", vec_of(v.clone())?)]),
                )
            }
            Work::Adam(sizes) => {
                let [w, g] = ["w", "g"].map(|name| inputs.floats(name, [sizes.len]));
                let (w, g) = (w?, g?);
                job(
                    (Adam::new(&w), w, g, 0),
                    |(adam, w, g, step)| {
                        *step += 1;
                        w.inplace(|w| adam.update(w, g.clone(), *step));
                        Ok(())
                    },
                    |(Adam { m, v }, w, ..)| {
                        let [w, m, v] = [w, m, v].map(|tensor| vec_of(tensor.clone()));
                        Ok(vec![("w", w?), ("m", m?), ("v", v?)])
                    },
                )
            }
            Work::Conv2d(sizes) => {
                let Convolution { images, height, width, inputs: channels, outputs } = sizes;
                let x = inputs.images("x", [images, height, width, channels])?;
                let w = inputs.filters("w", channels, outputs)?;
                let b = inputs.floats("b", [outputs])?;
                let run = move || conv2d(x.clone(), w.clone(), Some(b.clone()), same());
                forward("y", run, channels_last)
            }
            Work::Conv2dBackward(sizes) => conv2d_backward(sizes, &inputs),
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                let x = inputs.pixels("x", rows, channels)?;
                forward("y", move || normalize(relu(x.clone())), rows_last)
            }
            Work::ReluBatchNormBackward(Pixels { rows, channels }) => {
                let x = inputs.pixels("x", rows, channels)?.autodiff();
                let dy = inputs.pixels("dy", rows, channels)?.autodiff();
                backward(x, dy, |x| normalize(relu(x)), rows_last)
            }
            Work::MaxPool(Images { images, height, width, channels }) => {
                let x = inputs.images("x", [images, height, width, channels])?;
                forward("y", move || pool(x.clone()), channels_last)
            }
            Work::MaxPoolBackward(Images { images, height, width, channels }) => {
                let x = inputs.images("x", [images, height, width, channels])?.autodiff();
                let dy = inputs.images("dy", [images, height / 2, width / 2, channels])?;
                backward(x, dy.autodiff(), pool, channels_last)
            }
            Work::AvgPool(Images { images, height, width, channels }) => {
                let x = inputs.images("x", [images, height, width, channels])?;
                let options = AvgPoolOptions::new([2, 2]);
                forward("y", move || avg_pool2d(x.clone(), options.clone()), channels_last)
            }
            Work::ConvBlock(Batch { images }) => conv_block(images, &inputs),
            Work::MlpEpoch(Hidden { hidden }) => mlp_epoch(hidden, &inputs),
            Work::CnnStep(Batch { images }) => cnn_step(images, &inputs),
        }
    }
}

/// Inputs as tensors in burn's layout.
struct Tensors<'a>(&'a Inputs<'a>);

impl Tensors<'_> {
    fn floats<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        Ok(tensor(self.0.floats(name)?, shape))
    }

    fn labels(&self, name: &str, autodiff: bool) -> Result<Tensor<2, Int>> {
        let labels: Vec<i32> =
            self.0.labels(name)?.into_iter().map(i32::try_from).collect::<Result<_, _>>()?;
        let shape = [labels.len(), 1];
        let device = if autodiff { Device::flex().autodiff() } else { Device::flex() };
        Ok(Tensor::from_data(TensorData::new(labels, shape), &device))
    }

    fn images(&self, name: &str, shape: [usize; 4]) -> Result<Tensor<4>> {
        let data = permute(&self.0.floats(name)?, shape, TO_CHANNELS_FIRST);
        Ok(tensor(data, TO_CHANNELS_FIRST.map(|axis| shape[axis])))
    }

    /// One image with a row for every channel.
    fn pixels(&self, name: &str, rows: usize, channels: usize) -> Result<Tensor<3>> {
        let data = permute(&self.0.floats(name)?, [rows, channels], [1, 0]);
        Ok(tensor(data, [1, channels, rows]))
    }

    fn filters(&self, name: &str, inputs: usize, outputs: usize) -> Result<Tensor<4>> {
        let data = permute(&self.0.floats(name)?, [3, 3, inputs, outputs], TO_FILTERS_FIRST);
        Ok(tensor(data, [outputs, inputs, 3, 3]))
    }
}

fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), &Device::flex())
}

fn vec_of<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_into_vec().map_err(|error| anyhow!("no numbers: {error:?}"))
}

fn channels_last(images: Tensor<4>) -> Result<Vec<f32>> {
    let shape = images.dims();
    Ok(permute(&vec_of(images)?, shape, TO_CHANNELS_LAST))
}

fn filters_last(filters: Tensor<4>) -> Result<Vec<f32>> {
    let shape = filters.dims();
    Ok(permute(&vec_of(filters)?, shape, TO_FILTERS_LAST))
}

fn rows_last(pixels: Tensor<3>) -> Result<Vec<f32>> {
    let shape = pixels.dims();
    Ok(permute(&vec_of(pixels)?, shape, [0, 2, 1]))
}

/// A work with one result, which `read` then lays out as the protocol has it.
fn forward<const D: usize>(
    name: &'static str,
    mut run: impl FnMut() -> Tensor<D> + Send + 'static,
    read: fn(Tensor<D>) -> Result<Vec<f32>>,
) -> Result<Prepared> {
    job(
        None,
        move |result| {
            *result = Some(run());
            Ok(())
        },
        move |result| Ok(vec![(name, read(result.clone().context("nothing came")?)?)]),
    )
}

/// The gradient of x, through a graph that is made anew for every run: a run uses it up.
fn backward<const D: usize>(
    x: Tensor<D>,
    dy: Tensor<D>,
    mut make: impl FnMut(Tensor<D>) -> Tensor<D> + Send + 'static,
    read: fn(Tensor<D>) -> Result<Vec<f32>>,
) -> Result<Prepared> {
    refilled_job(
        (None, None),
        move |(graph, _)| {
            let x = x.clone().require_grad();
            *graph = Some(((make(x.clone()) * dy.clone()).sum(), x));
            Ok(())
        },
        |(graph, dx)| {
            let (loss, x) = graph.take().context("there is no graph")?;
            *dx = x.grad(&loss.backward());
            Ok(())
        },
        move |(_, dx)| Ok(vec![("dx", read(dx.clone().context("nothing came back")?)?)]),
    )
}

fn conv2d_backward(sizes: Convolution, inputs: &Tensors) -> Result<Prepared> {
    let Convolution { images, height, width, inputs: channels, outputs } = sizes;
    let x = inputs.images("x", [images, height, width, channels])?.autodiff();
    let w = inputs.filters("w", channels, outputs)?.autodiff();
    let b = tensor(vec![0.0; outputs], [outputs]).autodiff();
    let dy = inputs.images("dy", [images, height, width, outputs])?.autodiff();
    refilled_job(
        (None, None),
        move |(graph, _)| {
            let x = if channels > 1 { x.clone().require_grad() } else { x.clone() };
            let (w, b) = (w.clone().require_grad(), b.clone().require_grad());
            let y = conv2d(x.clone(), w.clone(), Some(b.clone()), same());
            *graph = Some(((y * dy.clone()).sum(), x, w, b));
            Ok(())
        },
        |(graph, gradients)| {
            let (loss, x, w, b) = graph.take().context("there is no graph")?;
            let found: Gradients = loss.backward();
            *gradients = Some((x.grad(&found), w.grad(&found), b.grad(&found)));
            Ok(())
        },
        |(_, gradients)| {
            let mut outputs: Outputs = vec![];
            let (dx, dw, db) = gradients.clone().context("nothing came back")?;
            outputs.push(("dw", filters_last(dw.context("no dw")?)?));
            outputs.push(("db", vec_of(db.context("no db")?)?));
            if let Some(dx) = dx {
                outputs.push(("dx", channels_last(dx)?));
            }
            Ok(outputs)
        },
    )
}

/// 3x3, stride 1, zeros around.
fn same() -> ConvOptions<2> {
    ConvOptions::new([1, 1], [1, 1], [1, 1], 1)
}

fn pool(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([2, 2]))
}

/// Minus mean over deviation by channel: burn's batch norm with scale 1 and shift 0.
fn normalize<const D: usize>(r: Tensor<D>) -> Tensor<D> {
    let channels = [r.dims()[1]];
    let device = r.device();
    let (scale, shift) = (Tensor::ones(channels, &device), Tensor::zeros(channels, &device));
    batch_norm_train(r, scale, shift, f64::from(EPSILON)).output
}

/// Convolution, ReLU, normalisation, pool.
fn block(x: Tensor<4>, w: Tensor<4>, b: Tensor<1>) -> Tensor<4> {
    pool(normalize(relu(conv2d(x, w, Some(b), same()))))
}

fn conv_block(images: usize, inputs: &Tensors) -> Result<Prepared> {
    let x = inputs.images("x", [images, 28, 28, 1])?.autodiff();
    let w = inputs.filters("w", 1, FILTERS)?.autodiff();
    let b = inputs.floats("b", [FILTERS])?.autodiff();
    let dy = inputs.images("dy", [images, 14, 14, FILTERS])?.autodiff();
    job(
        None,
        move |result| {
            let (w, b) = (w.clone().require_grad(), b.clone().require_grad());
            let y = block(x.clone(), w.clone(), b.clone());
            let gradients = (y.clone() * dy.clone()).sum().backward();
            *result = Some((y, w.grad(&gradients), b.grad(&gradients)));
            Ok(())
        },
        |result| {
            let (y, dw, db) = result.clone().context("nothing came back")?;
            let (dw, db) = (dw.context("no dw")?, db.context("no db")?);
            Ok(vec![("y", channels_last(y)?), ("dw", filters_last(dw)?), ("db", vec_of(db)?)])
        },
    )
}

/// The mean, as burn's own loss computes it; `labels` are a column.
fn cross_entropy(logits: Tensor<2>, labels: Tensor<2, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, labels).mean().neg()
}

/// Loss, and the share of hits.
fn figures(logits: Tensor<2>, labels: Tensor<2, Int>) -> (Tensor<1>, f32) {
    let loss = cross_entropy(logits.clone(), labels.clone());
    let hits = logits.argmax(1).equal(labels).float().mean();
    (loss, hits.into_scalar())
}

/// The weights of two dense layers.
#[derive(Clone)]
struct Perceptron {
    w_h: Tensor<2>,
    b_h: Tensor<1>,
    w_o: Tensor<2>,
    b_o: Tensor<1>,
}

impl Perceptron {
    fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        let Self { w_h, b_h, w_o, b_o } = self.clone();
        linear(relu(linear(x, w_h, Some(b_h))), w_o, Some(b_o))
    }
}

fn mlp_epoch(hidden: usize, inputs: &Tensors) -> Result<Prepared> {
    let weights = Perceptron {
        w_h: inputs.floats("w_h", [PIXELS, hidden])?,
        b_h: inputs.floats("b_h", [hidden])?,
        w_o: inputs.floats("w_o", [hidden, CLASSES])?,
        b_o: inputs.floats("b_o", [CLASSES])?,
    };
    let velocities = Perceptron {
        w_h: weights.w_h.zeros_like(),
        b_h: weights.b_h.zeros_like(),
        w_o: weights.w_o.zeros_like(),
        b_o: weights.b_o.zeros_like(),
    };
    let [train, valid, test] = EPOCH_ROWS;
    let x = inputs.floats("x_train", [train, PIXELS])?.autodiff();
    let labels = inputs.labels("y_train", true)?;
    let mut others = vec![];
    for (set, rows) in [("valid", valid), ("test", test)] {
        let x = inputs.floats(&format!("x_{set}"), [rows, PIXELS])?;
        others.push((x, inputs.labels(&format!("y_{set}"), false)?));
    }
    job(
        (weights, velocities, vec![]),
        move |(weights, velocities, losses)| {
            losses.clear();
            let Perceptron { w_h, b_h, w_o, b_o } = weights;
            let tracked = Perceptron {
                w_h: w_h.clone().autodiff().require_grad(),
                b_h: b_h.clone().autodiff().require_grad(),
                w_o: w_o.clone().autodiff().require_grad(),
                b_o: b_o.clone().autodiff().require_grad(),
            };
            let (loss, _) = figures(tracked.logits(x.clone()), labels.clone());
            let mut gradients = loss.backward();
            losses.push(loss.into_scalar::<f32>());
            descend(w_h, &mut velocities.w_h, tracked.w_h, &mut gradients)?;
            descend(b_h, &mut velocities.b_h, tracked.b_h, &mut gradients)?;
            descend(w_o, &mut velocities.w_o, tracked.w_o, &mut gradients)?;
            descend(b_o, &mut velocities.b_o, tracked.b_o, &mut gradients)?;
            for (x, labels) in &others {
                let (loss, _) = figures(weights.logits(x.clone()), labels.clone());
                losses.push(loss.into_scalar::<f32>());
            }
            Ok(())
        },
        |(weights, _, losses)| {
            let w_h = vec_of(weights.w_h.clone())?;
            let w_o = vec_of(weights.w_o.clone())?;
            Ok(vec![("losses", losses.clone()), ("w_h", w_h), ("w_o", w_o)])
        },
    )
}

/// A step with momentum; the loss was the mean, the rate is for the sum.
fn descend<const D: usize>(
    w: &mut Tensor<D>,
    v: &mut Tensor<D>,
    tracked: Tensor<D>,
    gradients: &mut Gradients,
) -> Result<()> {
    let g = tracked.grad_remove(gradients).context("no gradient")?;
    drop(tracked);
    let rate = EPOCH_RATE * EPOCH_ROWS[0] as f32;
    v.inplace(|v| v * MOMENTUM + g * rate);
    w.inplace(|w| w - v.clone());
    Ok(())
}

/// A weight of the network that Adam trains.
struct Trained<const D: usize> {
    w: Tensor<D>,
    adam: Adam<D>,
}

impl<const D: usize> Trained<D> {
    fn new(w: Tensor<D>) -> Self {
        Self { adam: Adam::new(&w), w }
    }

    /// The weight as a leaf of a new graph.
    fn leaf(&self) -> Tensor<D> {
        self.w.clone().autodiff().require_grad()
    }

    fn update(&mut self, leaf: Tensor<D>, gradients: &mut Gradients, step: u64) -> Result<()> {
        let g = leaf.grad_remove(gradients).context("no gradient")?;
        drop(leaf);
        self.w.inplace(|w| self.adam.update(w, g, step));
        Ok(())
    }
}

fn cnn_step(images: usize, inputs: &Tensors) -> Result<Prepared> {
    // What leaves the pool is flat with channels first.
    let w1 = permute(&inputs.0.floats("w1")?, [14, 14, FILTERS, CNN_HIDDEN], [2, 0, 1, 3]);
    let network = (
        Trained::new(inputs.filters("w0", 1, FILTERS)?),
        Trained::new(inputs.floats("b0", [FILTERS])?),
        Trained::new(tensor(w1, [POOLED, CNN_HIDDEN])),
        Trained::new(inputs.floats("b1", [CNN_HIDDEN])?),
        Trained::new(inputs.floats("w2", [CNN_HIDDEN, CLASSES])?),
        Trained::new(inputs.floats("b2", [CLASSES])?),
    );
    let x = inputs.images("x", [images, 28, 28, 1])?.autodiff();
    let labels = inputs.labels("labels", true)?;
    job(
        (network, 0, 0.0),
        move |((w0, b0, w1, b1, w2, b2), step, loss)| {
            *step += 1;
            let leaves = (w0.leaf(), b0.leaf(), w1.leaf(), b1.leaf(), w2.leaf(), b2.leaf());
            let pooled = block(x.clone(), leaves.0.clone(), leaves.1.clone());
            let flat = pooled.reshape([images, POOLED]);
            let hidden = relu(linear(flat, leaves.2.clone(), Some(leaves.3.clone())));
            let logits = linear(hidden, leaves.4.clone(), Some(leaves.5.clone()));
            let mean = cross_entropy(logits, labels.clone());
            let mut gradients = mean.backward();
            *loss = mean.into_scalar::<f32>();
            w0.update(leaves.0, &mut gradients, *step)?;
            b0.update(leaves.1, &mut gradients, *step)?;
            w1.update(leaves.2, &mut gradients, *step)?;
            b1.update(leaves.3, &mut gradients, *step)?;
            w2.update(leaves.4, &mut gradients, *step)?;
            b2.update(leaves.5, &mut gradients, *step)
        },
        |((w0, _, _, _, w2, _), _, loss)| {
            let (w0, w2) = (filters_last(w0.w.clone())?, vec_of(w2.w.clone())?);
            Ok(vec![("loss", vec![*loss]), ("w0", w0), ("w2", w2)])
        },
    )
}

/// Adam's memory of one tensor.
struct Adam<const D: usize> {
    m: Tensor<D>,
    v: Tensor<D>,
}

impl<const D: usize> Adam<D> {
    fn new(w: &Tensor<D>) -> Self {
        Self { m: w.zeros_like(), v: w.zeros_like() }
    }

    /// The updated w, in the operations of burn's own Adam.
    fn update(&mut self, w: Tensor<D>, g: Tensor<D>, step: u64) -> Tensor<D> {
        self.m.inplace(|m| m * ADAM_BETA1 + g.clone() * (1.0 - ADAM_BETA1));
        self.v.inplace(|v| v * ADAM_BETA2 + g.square() * (1.0 - ADAM_BETA2));
        let change = self.m.clone() * adam_rate(step) as f32;
        w - change / (self.v.clone().sqrt() + ADAM_EPSILON)
    }
}
