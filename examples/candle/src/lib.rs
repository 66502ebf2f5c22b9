//! kernelet's convolution block inside candle: as a custom op with a gradient ([`conv_block`]), and
//! the same block of candle's own ops, to compare with ([`own_ops`]).

pub mod conv_block;
pub mod own_ops;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use kernelet::nn::init::xavier_normal;

/// Draws from N(0, 1), the same for the same `stream`: candle's own cannot be seeded on a CPU.
///
/// # Errors
/// None that a shape of reasonable size could cause.
pub fn normals(shape: impl Into<Shape>, stream: u64) -> Result<Tensor> {
    let shape = shape.into();
    let mut values = vec![0.0; shape.elem_count()];
    // Its variance is 2 / (inputs + outputs).
    xavier_normal(&mut values, 1, 1, 1, stream);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The largest difference between two tensors, as a share of the largest magnitude in the second.
/// NaN where one of them has NaN.
///
/// # Errors
/// If the shapes differ, or there are no values.
pub fn largest_difference(ours: &Tensor, theirs: &Tensor) -> Result<f64> {
    let (ours, theirs) = (ours.to_dtype(DType::F64)?, theirs.to_dtype(DType::F64)?);
    match (largest(&(ours - &theirs)?)?, largest(&theirs)?) {
        (Some(0.0), Some(_)) => Ok(0.0),
        (Some(difference), Some(magnitude)) => Ok(difference / magnitude),
        _ => bail!("no values to compare"),
    }
}

fn largest(tensor: &Tensor) -> Result<Option<f64>> {
    let magnitudes = tensor.abs()?.flatten_all()?.to_vec1::<f64>()?;
    // f64::max would pass over NaN.
    Ok(magnitudes.into_iter().reduce(|a, b| if a.is_nan() || a > b { a } else { b }))
}
