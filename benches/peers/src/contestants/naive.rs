//! kernelet's scalar twins: what plain loops take, on one thread.

use anyhow::Result;
use kernelet::kernels::gemm::{GemmShape, Write};
use kernelet::kernels::momentum::Momentum;
use kernelet::reference::{
    adam, avg_pool, conv2d, exp, gemm, linear, max_pool, momentum, relu, relu_batch_norm, softmax,
    softmax_cross_entropy,
};
use kernelet::shape::{LinearShape, MatrixShape};

use super::kernelet::{ADAM, convolution, pool, zeros};
use super::{Contestant, Inputs, Prepared, job};
use crate::works::{Classes, EPSILON, Gemm, Linear, MOMENTUM, MOMENTUM_RATE, Pixels, Vector, Work};

/// The twins in `f32`.
pub struct Naive;

impl Contestant for Naive {
    fn version(&self) -> String {
        "kernelet's scalar twins".into()
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let floats = |name| inputs.floats(name);
        match *work {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => job(
                (floats("a")?, floats("b")?, vec![0.0; m * n]),
                move |(a, b, c)| {
                    let (a, b) = ((&a[..], a_transposed), (&b[..], b_transposed));
                    gemm::gemm(GemmShape { m, k, n }, a, b, Write::Overwrite, c);
                    Ok(())
                },
                |(_, _, c)| Ok(vec![("c", c.clone())]),
            ),
            Work::LinearRelu(Linear { rows, inputs, outputs }) => job(
                (floats("x")?, floats("w")?, floats("b")?, vec![0.0; rows * outputs]),
                move |(x, w, b, y)| {
                    linear::forward_relu(LinearShape { rows, inputs, outputs }, x, w, b, y);
                    Ok(())
                },
                |(.., y)| Ok(vec![("y", y.clone())]),
            ),
            Work::Softmax(Classes { rows, classes }) => job(
                (floats("z")?, vec![0.0; rows * classes]),
                move |(z, p)| {
                    softmax::forward(MatrixShape { rows, cols: classes }, z, p);
                    Ok(())
                },
                |(_, p)| Ok(vec![("p", p.clone())]),
            ),
            Work::SoftmaxCrossEntropy(Classes { rows, classes }) => job(
                (floats("z")?, inputs.labels("labels")?, vec![0.0; rows * classes], 0.0),
                move |(z, labels, dz, loss)| {
                    let shape = MatrixShape { rows, cols: classes };
                    let mean = 1.0 / rows as f32;
                    let tally = softmax_cross_entropy::forward_backward(shape, z, labels, mean, dz);
                    *loss = tally.mean_loss() as f32;
                    Ok(())
                },
                |(_, _, dz, loss)| Ok(vec![("loss", vec![*loss]), ("dz", dz.clone())]),
            ),
            Work::Relu(Vector { len }) => job(
                (floats("x")?, vec![0.0; len]),
                |(x, y)| {
                    relu::forward(x, y);
                    Ok(())
                },
                |(_, y)| Ok(vec![("y", y.clone())]),
            ),
            Work::Exp(Vector { len }) => job(
                (floats("x")?, vec![0.0; len]),
                |(x, y)| {
                    exp::forward(x, y);
                    Ok(())
                },
                |(_, y)| Ok(vec![("y", y.clone())]),
            ),
            Work::Momentum(_) => job(
                (floats("w")?, floats("v")?, floats("g")?),
                |(w, v, g)| {
                    let settings = Momentum { learning_rate: MOMENTUM_RATE, momentum: MOMENTUM };
                    momentum::update(settings, w, v, g);
                    Ok(())
                },
                |(w, v, _)| Ok(vec![("w", w.clone()), ("v", v.clone())]),
            ),
            Work::Adam(Vector { len }) => job(
                (floats("w")?, vec![0.0; len], vec![0.0; len], floats("g")?, 0),
                |(w, m, v, g, step)| {
                    *step += 1;
                    adam::update(ADAM, *step, w, m, v, g);
                    Ok(())
                },
                |(w, m, v, ..)| Ok(vec![("w", w.clone()), ("m", m.clone()), ("v", v.clone())]),
            ),
            Work::Conv2d(sizes) => {
                let shape = convolution(sizes);
                job(
                    (floats("x")?, floats("w")?, floats("b")?, zeros(shape.output())),
                    move |(x, w, b, y)| {
                        conv2d::forward(shape, x, w, b, y);
                        Ok(())
                    },
                    |(.., y)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::ReluBatchNorm(Pixels { rows, channels }) => {
                let x = floats("x")?;
                let (r, y) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                job(
                    (x, r, y),
                    move |(x, r, y)| {
                        let shape = MatrixShape { rows, cols: channels };
                        let moments = relu_batch_norm::forward_moments(shape, x, r);
                        let normalization = relu_batch_norm::Normalization::new(&moments, EPSILON);
                        relu_batch_norm::forward_normalize(shape, r, &normalization, None, y);
                        Ok(())
                    },
                    |(.., y)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::MaxPool(sizes) => {
                let shape = pool(sizes);
                let y = zeros(shape.output());
                let argmax = vec![0_u8; y.len()];
                job(
                    (floats("x")?, y, argmax),
                    move |(x, y, argmax)| {
                        max_pool::forward(shape, x, y, argmax);
                        Ok(())
                    },
                    |(_, y, _)| Ok(vec![("y", y.clone())]),
                )
            }
            Work::AvgPool(sizes) => {
                let shape = pool(sizes);
                let y = zeros(shape.output());
                job(
                    (floats("x")?, y),
                    move |(x, y)| {
                        avg_pool::forward(shape, x, y);
                        Ok(())
                    },
                    |(_, y)| Ok(vec![("y", y.clone())]),
                )
            }
            _ => Ok(Prepared::Unsupported("Its plain loops would take too long.")),
        }
    }
}
