//! candle: works as its users write them, with channels first.

use anyhow::Result;
use candle_core::{D, Device, Tensor, Var, backprop::GradStore};
use candle_nn::{loss::cross_entropy, ops::softmax_last_dim};

use super::layout::{
    TO_CHANNELS_FIRST, TO_CHANNELS_LAST, TO_FILTERS_FIRST, TO_FILTERS_LAST, permute,
};
use super::{Contestant, Inputs, Outputs, Prepared, crate_version, job};
use crate::works::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, Batch, CLASSES, CNN_HIDDEN, Classes, Convolution,
    EPOCH_RATE, EPOCH_ROWS, EPSILON, FILTERS, Gemm, Hidden, Images, Linear, MOMENTUM,
    MOMENTUM_RATE, PIXELS, POOLED, Pixels, Work, adam_rate,
};

/// candle on as many threads as the environment says.
pub struct Candle;

impl Contestant for Candle {
    fn version(&self) -> String {
        crate_version("candle-core")
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let inputs = Tensors(inputs);
        match *work {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => {
                let matrix = |name, rows, cols, transposed| -> Result<Tensor> {
                    Ok(if transposed {
                        inputs.floats(name, &[cols, rows])?.t()?
                    } else {
                        inputs.floats(name, &[rows, cols])?
                    })
                };
                let a = matrix("a", m, k, a_transposed)?;
                let b = matrix("b", k, n, b_transposed)?;
                forward("c", move || a.matmul(&b))
            }
            Work::LinearRelu(Linear { rows, inputs: columns, outputs }) => {
                let x = inputs.floats("x", &[rows, columns])?;
                let w = inputs.floats("w", &[columns, outputs])?;
                let b = inputs.floats("b", &[outputs])?;
                forward("y", move || x.matmul(&w)?.broadcast_add(&b)?.relu())
            }
            Work::Softmax(Classes { rows, classes }) => {
                let z = inputs.floats("z", &[rows, classes])?;
                forward("p", move || softmax_last_dim(&z))
            }
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => {
                let z = Var::from_tensor(&inputs.floats("z", &[rows, classes])?)?;
                let labels = inputs.labels("labels")?;
                job(
                    None,
                    move |result| {
                        let loss = cross_entropy(&z, &labels)?;
                        let dz = loss.backward()?.remove(&z);
                        *result = Some((loss.to_scalar::<f32>()?, dz));
                        Ok(())
                    },
                    |result| {
                        let Some((loss, Some(dz))) = result else { return Ok(vec![]) };
                        Ok(vec![("loss", vec![*loss]), ("dz", vec_of(dz)?)])
                    },
                )
            }
            Work::Relu(sizes) => {
                let x = inputs.floats("x", &[sizes.len])?;
                forward("y", move || x.relu())
            }
            Work::Exp(sizes) => {
                let x = inputs.floats("x", &[sizes.len])?;
                forward("y", move || x.exp())
            }
            Work::Momentum(sizes) => {
                let [w, v, g] = ["w", "v", "g"].map(|name| inputs.floats(name, &[sizes.len]));
                job(
                    (w?, v?, g?),
                    |(w, v, g)| {
                        *v = ((&*v * f64::from(MOMENTUM))? + (&*g * f64::from(MOMENTUM_RATE))?)?;
                        *w = (&*w - &*v)?;
                        Ok(())
                    },
                    |(w, v, _)| Ok(vec![("w", vec_of(w)?), ("v", vec_of(v)?)]),
                )
            }
            Work::Adam(sizes) => {
                let (w, g) = (inputs.floats("w", &[sizes.len])?, inputs.floats("g", &[sizes.len])?);
                job(
                    (w.clone(), Moments::new(&w)?, g, 0),
                    |(w, moments, g, step)| {
                        *step += 1;
                        *w = (&*w - moments.step(g, *step)?)?;
                        Ok(())
                    },
                    |(w, Moments { m, v }, ..)| {
                        Ok(vec![("w", vec_of(w)?), ("m", vec_of(m)?), ("v", vec_of(v)?)])
                    },
                )
            }
            Work::Conv2d(sizes) => {
                let Convolution { images, height, width, inputs: channels, outputs } = sizes;
                let x = inputs.images("x", [images, height, width, channels])?;
                let w = inputs.filters("w", channels, outputs)?;
                let b = inputs.floats("b", &[1, outputs, 1, 1])?;
                job(
                    None,
                    move |y| {
                        *y = Some(conv2d(&x, &w, &b)?);
                        Ok(())
                    },
                    |y| y.iter().map(|y| Ok(("y", channels_last(y)?))).collect(),
                )
            }
            Work::Conv2dBackward(sizes) => {
                let Convolution { images, height, width, inputs: channels, outputs } = sizes;
                let mut x = inputs.images("x", [images, height, width, channels])?;
                let mut wanted = vec![];
                if channels > 1 {
                    let var = Var::from_tensor(&x)?;
                    x = var.as_tensor().clone();
                    wanted.push(("dx", var, Kind::Images));
                }
                let w = Var::from_tensor(&inputs.filters("w", channels, outputs)?)?;
                let b = Var::zeros((1, outputs, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
                let y = conv2d(&x, &w, &b)?;
                wanted.extend([("dw", w, Kind::Filters), ("db", b, Kind::Plain)]);
                backward(&y, &inputs.images("dy", [images, height, width, outputs])?, wanted)
            }
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                let x = inputs.pixels("x", rows, channels)?;
                job(
                    None,
                    move |y| {
                        *y = Some(normalize(&x.relu()?, &[1])?);
                        Ok(())
                    },
                    |y| y.iter().map(|y| Ok(("y", vec_of(&y.t()?)?))).collect(),
                )
            }
            Work::ReluBatchNormBackward(Pixels { rows, channels }) => {
                let x = Var::from_tensor(&inputs.pixels("x", rows, channels)?)?;
                let y = normalize(&x.relu()?, &[1])?;
                backward(&y, &inputs.pixels("dy", rows, channels)?, vec![("dx", x, Kind::Pixels)])
            }
            Work::MaxPool(Images { images, height, width, channels }) => {
                let x = inputs.images("x", [images, height, width, channels])?;
                job(
                    None,
                    move |y| {
                        *y = Some(x.max_pool2d(2)?);
                        Ok(())
                    },
                    |y| y.iter().map(|y| Ok(("y", channels_last(y)?))).collect(),
                )
            }
            Work::MaxPoolBackward(Images { images, height, width, channels }) => {
                let x = Var::from_tensor(&inputs.images("x", [images, height, width, channels])?)?;
                let dy = inputs.images("dy", [images, height / 2, width / 2, channels])?;
                backward(&pool(&x)?, &dy, vec![("dx", x, Kind::Images)])
            }
            Work::AvgPool(Images { images, height, width, channels }) => {
                let x = inputs.images("x", [images, height, width, channels])?;
                job(
                    None,
                    move |y| {
                        *y = Some(x.avg_pool2d(2)?);
                        Ok(())
                    },
                    |y| y.iter().map(|y| Ok(("y", channels_last(y)?))).collect(),
                )
            }
            Work::ConvBlock(Batch { images }) => conv_block(images, &inputs),
            Work::MlpEpoch(Hidden { hidden }) => mlp_epoch(hidden, &inputs),
            Work::CnnStep(Batch { images }) => cnn_step(images, &inputs),
        }
    }
}

/// Inputs as tensors in candle's layout.
struct Tensors<'a>(&'a Inputs<'a>);

impl Tensors<'_> {
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.0.floats(name)?, shape, &Device::Cpu)?)
    }

    fn labels(&self, name: &str) -> Result<Tensor> {
        let labels = self.0.labels(name)?;
        let len = labels.len();
        Ok(Tensor::from_vec(labels, len, &Device::Cpu)?)
    }

    fn images(&self, name: &str, shape: [usize; 4]) -> Result<Tensor> {
        let data = permute(&self.0.floats(name)?, shape, TO_CHANNELS_FIRST);
        Ok(Tensor::from_vec(data, &TO_CHANNELS_FIRST.map(|axis| shape[axis]), &Device::Cpu)?)
    }

    /// A row for every channel.
    fn pixels(&self, name: &str, rows: usize, channels: usize) -> Result<Tensor> {
        let data = permute(&self.0.floats(name)?, [rows, channels], [1, 0]);
        Ok(Tensor::from_vec(data, (channels, rows), &Device::Cpu)?)
    }

    fn filters(&self, name: &str, inputs: usize, outputs: usize) -> Result<Tensor> {
        let data = permute(&self.0.floats(name)?, [3, 3, inputs, outputs], TO_FILTERS_FIRST);
        Ok(Tensor::from_vec(data, (outputs, inputs, 3, 3), &Device::Cpu)?)
    }
}

fn vec_of(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.contiguous()?.flatten_all()?.to_vec1()
}

fn channels_last(images: &Tensor) -> candle_core::Result<Vec<f32>> {
    let (n, c, h, w) = images.dims4()?;
    Ok(permute(&vec_of(images)?, [n, c, h, w], TO_CHANNELS_LAST))
}

fn filters_last(filters: &Tensor) -> candle_core::Result<Vec<f32>> {
    let (o, i, h, w) = filters.dims4()?;
    Ok(permute(&vec_of(filters)?, [o, i, h, w], TO_FILTERS_LAST))
}

/// A work with one result that needs no other layout.
fn forward(
    name: &'static str,
    mut run: impl FnMut() -> candle_core::Result<Tensor> + Send + 'static,
) -> Result<Prepared> {
    job(
        None,
        move |result| {
            *result = Some(run()?);
            Ok(())
        },
        move |result| result.iter().map(|result| Ok((name, vec_of(result)?))).collect(),
    )
}

/// How the gradient of something is laid out.
enum Kind {
    Plain,
    Images,
    Filters,
    Pixels,
}

/// Back through the graph that made `y`, which is kept from run to run.
fn backward(y: &Tensor, dy: &Tensor, wanted: Vec<(&'static str, Var, Kind)>) -> Result<Prepared> {
    let loss = (y * dy)?.sum_all()?;
    job(
        None,
        move |gradients| {
            *gradients = Some(loss.backward()?);
            Ok(())
        },
        move |gradients: &mut Option<GradStore>| {
            let Some(gradients) = gradients else { return Ok(vec![]) };
            let mut outputs: Outputs = vec![];
            for (name, var, kind) in &wanted {
                let Some(gradient) = gradients.get(var) else { continue };
                let data = match kind {
                    Kind::Plain => vec_of(gradient)?,
                    Kind::Images => channels_last(gradient)?,
                    Kind::Filters => filters_last(gradient)?,
                    Kind::Pixels => vec_of(&gradient.t()?)?,
                };
                outputs.push((name, data));
            }
            Ok(outputs)
        },
    )
}

fn conv2d(x: &Tensor, w: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    x.conv2d(w, 1, 1, 1, 1)?.broadcast_add(b)
}

/// Minus mean over deviation, both over the axes `over`.
fn normalize(r: &Tensor, over: &[usize]) -> candle_core::Result<Tensor> {
    let centred = r.broadcast_sub(&r.mean_keepdim(over)?)?;
    let variance = centred.sqr()?.mean_keepdim(over)?;
    centred.broadcast_div(&(variance + f64::from(EPSILON))?.sqrt()?)
}

/// Convolution, ReLU, normalisation, pool.
fn block(x: &Tensor, w: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    pool(&normalize(&conv2d(x, w, b)?.relu()?, &[0, 2, 3])?)
}

/// A 2x2 pool with a gradient. That of candle's own pool is a quarter of the right one (in 0.11.1
/// its share of ties counts the window's whole area), so this is the largest of four tensors.
fn pool(x: &Tensor) -> candle_core::Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let rows = x.reshape((n, c, h / 2, 2, w))?;
    let taller = rows.narrow(3, 0, 1)?.maximum(&rows.narrow(3, 1, 1)?)?;
    let columns = taller.reshape((n, c, h / 2, w / 2, 2))?;
    columns.narrow(4, 0, 1)?.maximum(&columns.narrow(4, 1, 1)?)?.squeeze(4)
}

fn conv_block(images: usize, inputs: &Tensors) -> Result<Prepared> {
    let x = inputs.images("x", [images, 28, 28, 1])?;
    let w = Var::from_tensor(&inputs.filters("w", 1, FILTERS)?)?;
    let b = Var::from_tensor(&inputs.floats("b", &[1, FILTERS, 1, 1])?)?;
    let dy = inputs.images("dy", [images, 14, 14, FILTERS])?;
    job(
        None,
        move |result| {
            let y = block(&x, &w, &b)?;
            let mut gradients = (&y * &dy)?.sum_all()?.backward()?;
            *result = gradients.remove(&w).zip(gradients.remove(&b)).map(|(dw, db)| (y, dw, db));
            Ok(())
        },
        |result| {
            let Some((y, dw, db)) = result else { return Ok(vec![]) };
            Ok(vec![("y", channels_last(y)?), ("dw", filters_last(dw)?), ("db", vec_of(db)?)])
        },
    )
}

/// Loss and share of hits.
fn figures(logits: &Tensor, labels: &Tensor) -> candle_core::Result<(Tensor, f32)> {
    let loss = cross_entropy(logits, labels)?;
    let hits = logits.argmax(D::Minus1)?.eq(labels)?.to_dtype(candle_core::DType::F32)?;
    Ok((loss, hits.mean_all()?.to_scalar()?))
}

/// Logits of x, with the weights and biases of two layers.
fn perceptron(x: &Tensor, weights: &[Tensor]) -> candle_core::Result<Tensor> {
    let hidden = x.matmul(&weights[0])?.broadcast_add(&weights[1])?.relu()?;
    hidden.matmul(&weights[2])?.broadcast_add(&weights[3])
}

fn mlp_epoch(hidden: usize, inputs: &Tensors) -> Result<Prepared> {
    let shapes = [
        ("w_h", vec![PIXELS, hidden]),
        ("b_h", vec![hidden]),
        ("w_o", vec![hidden, CLASSES]),
        ("b_o", vec![CLASSES]),
    ];
    let mut weights = vec![];
    for (name, shape) in shapes {
        let var = Var::from_tensor(&inputs.floats(name, &shape)?)?;
        let velocity = var.zeros_like()?;
        weights.push((var, velocity));
    }
    let mut sets = vec![];
    for (name, rows) in ["train", "valid", "test"].into_iter().zip(EPOCH_ROWS) {
        let x = inputs.floats(&format!("x_{name}"), &[rows, PIXELS])?;
        sets.push((x, inputs.labels(&format!("y_{name}"))?));
    }
    job(
        (weights, vec![]),
        move |(weights, losses)| {
            losses.clear();
            for (set, (x, labels)) in sets.iter().enumerate() {
                if set > 0 {
                    // Tensors without a graph.
                    let now: Vec<_> = weights.iter().map(|(w, _)| w.as_detached_tensor()).collect();
                    let (loss, _) = figures(&perceptron(x, &now)?, labels)?;
                    losses.push(loss.to_scalar::<f32>()?);
                    continue;
                }
                let now: Vec<_> = weights.iter().map(|(w, _)| w.as_tensor().clone()).collect();
                let (loss, _) = figures(&perceptron(x, &now)?, labels)?;
                losses.push(loss.to_scalar::<f32>()?);
                let gradients = loss.backward()?;
                // The loss is the mean, the rate is for the sum.
                let rate = f64::from(EPOCH_RATE) * EPOCH_ROWS[0] as f64;
                for (w, v) in weights.iter_mut() {
                    let Some(g) = gradients.get(w) else { continue };
                    *v = ((&*v * f64::from(MOMENTUM))? + (g * rate)?)?;
                    w.set(&(w.as_tensor() - &*v)?)?;
                }
            }
            Ok(())
        },
        |(weights, losses)| {
            let (w_h, w_o) = (vec_of(&weights[0].0)?, vec_of(&weights[2].0)?);
            Ok(vec![("losses", losses.clone()), ("w_h", w_h), ("w_o", w_o)])
        },
    )
}

fn cnn_step(images: usize, inputs: &Tensors) -> Result<Prepared> {
    let x = inputs.images("x", [images, 28, 28, 1])?;
    let labels = inputs.labels("labels")?;
    // What leaves the pool is flat with channels first.
    let w1 = permute(&inputs.0.floats("w1")?, [14, 14, FILTERS, CNN_HIDDEN], [2, 0, 1, 3]);
    let mut weights = vec![];
    for tensor in [
        inputs.filters("w0", 1, FILTERS)?,
        inputs.floats("b0", &[1, FILTERS, 1, 1])?,
        Tensor::from_vec(w1, (POOLED, CNN_HIDDEN), &Device::Cpu)?,
        inputs.floats("b1", &[CNN_HIDDEN])?,
        inputs.floats("w2", &[CNN_HIDDEN, CLASSES])?,
        inputs.floats("b2", &[CLASSES])?,
    ] {
        weights.push((Var::from_tensor(&tensor)?, Moments::new(&tensor)?));
    }
    job(
        (weights, 0, 0.0),
        move |(weights, step, loss)| {
            *step += 1;
            let of = |index: usize| weights[index].0.as_tensor();
            let pooled = block(&x, of(0), of(1))?.flatten_from(1)?;
            let hidden = pooled.matmul(of(2))?.broadcast_add(of(3))?.relu()?;
            let logits = hidden.matmul(of(4))?.broadcast_add(of(5))?;
            let mean = cross_entropy(&logits, &labels)?;
            let gradients = mean.backward()?;
            *loss = mean.to_scalar::<f32>()?;
            for (w, moments) in weights.iter_mut() {
                let Some(g) = gradients.get(w) else { continue };
                let change = moments.step(g, *step)?;
                w.set(&(w.as_tensor() - change)?)?;
            }
            Ok(())
        },
        |(weights, _, loss)| {
            let (w0, w2) = (filters_last(&weights[0].0)?, vec_of(&weights[4].0)?);
            Ok(vec![("loss", vec![*loss]), ("w0", w0), ("w2", w2)])
        },
    )
}

/// Adam's memory of one tensor.
struct Moments {
    m: Tensor,
    v: Tensor,
}

impl Moments {
    fn new(w: &Tensor) -> Result<Self> {
        Ok(Self { m: w.zeros_like()?, v: w.zeros_like()? })
    }

    /// What to subtract, in the operations of candle's own AdamW, without its weight decay.
    fn step(&mut self, g: &Tensor, step: u64) -> candle_core::Result<Tensor> {
        let (beta1, beta2) = (f64::from(ADAM_BETA1), f64::from(ADAM_BETA2));
        self.m = ((&self.m * beta1)? + (g * (1.0 - beta1))?)?;
        self.v = ((&self.v * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
        (&self.m / (self.v.sqrt()? + f64::from(ADAM_EPSILON))?)? * adam_rate(step)
    }
}
