//! ndarray with its rayon and matrixmultiply's threads.

use anyhow::Result;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis, Zip, par_azip};

use super::{Contestant, Inputs, Prepared, crate_version, job};
use crate::works::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, Classes, Gemm, Linear, MOMENTUM, MOMENTUM_RATE, Vector,
    Work, adam_rate,
};

/// ndarray on as many threads as the environment says.
pub struct Ndarray;

impl Contestant for Ndarray {
    fn version(&self) -> String {
        format!("{}, {}", crate_version("ndarray"), crate_version("matrixmultiply"))
    }

    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared> {
        let matrix = |name, rows, cols| -> Result<_> {
            Ok(Array2::from_shape_vec((rows, cols), inputs.floats(name)?)?)
        };
        let vector = |name| -> Result<_> { Ok(Array1::from_vec(inputs.floats(name)?)) };
        match *work {
            Work::Gemm(Gemm { m, k, n, a_transposed, b_transposed }) => {
                let a = if a_transposed {
                    matrix("a", k, m)?.reversed_axes()
                } else {
                    matrix("a", m, k)?
                };
                let b = if b_transposed {
                    matrix("b", n, k)?.reversed_axes()
                } else {
                    matrix("b", k, n)?
                };
                job(
                    (a, b, Array2::zeros((m, n))),
                    |(a, b, c)| {
                        general_mat_mul(1.0, a, b, 0.0, c);
                        Ok(())
                    },
                    |(_, _, c)| Ok(vec![("c", c.iter().copied().collect())]),
                )
            }
            Work::LinearRelu(Linear { rows, inputs, outputs }) => job(
                (
                    matrix("x", rows, inputs)?,
                    matrix("w", inputs, outputs)?,
                    vector("b")?,
                    Array2::zeros((rows, outputs)),
                ),
                |(x, w, b, y)| {
                    general_mat_mul(1.0, x, w, 0.0, y);
                    Zip::from(y.rows_mut()).par_for_each(|row| {
                        Zip::from(row).and(&*b).for_each(|y, b| *y = (*y + b).max(0.0));
                    });
                    Ok(())
                },
                |(.., y)| Ok(vec![("y", y.iter().copied().collect())]),
            ),
            Work::Softmax(Classes { rows, classes }) => job(
                (matrix("z", rows, classes)?, Array2::zeros((rows, classes))),
                |(z, p): &mut (Array2<f32>, Array2<f32>)| {
                    Zip::from(p.axis_iter_mut(Axis(0))).and(z.rows()).par_for_each(|mut p, z| {
                        let max = z.fold(f32::NEG_INFINITY, |max, &z| max.max(z));
                        p.zip_mut_with(&z, |p, &z| *p = (z - max).exp());
                        p *= p.sum().recip();
                    });
                    Ok(())
                },
                |(_, p)| Ok(vec![("p", p.iter().copied().collect())]),
            ),
            Work::Relu(Vector { len }) => job(
                (vector("x")?, Array1::zeros(len)),
                |(x, y): &mut (Array1<f32>, Array1<f32>)| {
                    par_azip!((y in y, &x in &*x) *y = x.max(0.0));
                    Ok(())
                },
                |(_, y)| Ok(vec![("y", y.to_vec())]),
            ),
            Work::Exp(Vector { len }) => job(
                (vector("x")?, Array1::zeros(len)),
                |(x, y): &mut (Array1<f32>, Array1<f32>)| {
                    par_azip!((y in y, &x in &*x) *y = x.exp());
                    Ok(())
                },
                |(_, y)| Ok(vec![("y", y.to_vec())]),
            ),
            Work::Momentum(_) => job(
                (vector("w")?, vector("v")?, vector("g")?),
                |(w, v, g)| {
                    par_azip!((w in w, v in v, &g in &*g) {
                        *v = MOMENTUM * *v + MOMENTUM_RATE * g;
                        *w -= *v;
                    });
                    Ok(())
                },
                |(w, v, _)| Ok(vec![("w", w.to_vec()), ("v", v.to_vec())]),
            ),
            Work::Adam(Vector { len }) => job(
                (vector("w")?, Array1::zeros(len), Array1::zeros(len), vector("g")?, 0),
                |(w, m, v, g, step): &mut (_, Array1<f32>, Array1<f32>, _, _)| {
                    *step += 1;
                    let rate = adam_rate(*step) as f32;
                    par_azip!((w in w, m in m, v in v, &g in &*g) {
                        *m = ADAM_BETA1 * *m + (1.0 - ADAM_BETA1) * g;
                        *v = ADAM_BETA2 * *v + (1.0 - ADAM_BETA2) * g * g;
                        *w -= rate * *m / (v.sqrt() + ADAM_EPSILON);
                    });
                    Ok(())
                },
                |(w, m, v, ..)| Ok(vec![("w", w.to_vec()), ("m", m.to_vec()), ("v", v.to_vec())]),
            ),
            _ => Ok(Prepared::Unsupported("It has arrays and their product, no networks.")),
        }
    }
}
