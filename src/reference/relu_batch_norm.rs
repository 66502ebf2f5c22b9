//! Twin of [`kernels::relu_batch_norm`](crate::kernels::relu_batch_norm).
//!
//! ```
//! use kernelet::reference::relu_batch_norm::{self, Normalization};
//! use kernelet::shape::MatrixShape;
//!
//! let shape = MatrixShape { rows: 4, cols: 1 };
//! let (mut r, mut y) = ([0.0_f64; 4], [0.0; 4]);
//! let moments = relu_batch_norm::forward_moments(shape, &[-1.0, 0.0, 4.0, 4.0], &mut r);
//! let normalization = Normalization::new(&moments, 0.0);
//! relu_batch_norm::forward_normalize(shape, &r, &normalization, None, &mut y);
//! assert_eq!(y, [-1.0, -1.0, 1.0, 1.0]);
//! ```

use super::{Float, max_pool, relu};
use crate::shape::{MatrixShape, PoolShape};

/// Moments of one batch.
#[derive(Clone, Debug)]
pub struct Moments<T> {
    /// Mean per channel; NaN of nothing.
    pub mean: Vec<T>,
    /// Biased variance per channel; NaN of nothing.
    pub variance: Vec<T>,
}

/// What normalisation takes per channel, as [`kernels::relu_batch_norm::Normalization`](crate::kernels::relu_batch_norm::Normalization).
#[derive(Clone, Debug)]
pub struct Normalization<T> {
    /// Mean per channel.
    pub mean: Vec<T>,
    /// `1 / sqrt(variance + epsilon)` per channel.
    pub inv_deviation: Vec<T>,
}

impl<T: Float> Normalization<T> {
    /// With a batch's moments.
    #[must_use]
    pub fn new(moments: &Moments<T>, epsilon: T) -> Self {
        let inv_deviation = |&variance: &T| T::ONE / (variance + epsilon).sqrt();
        Self {
            mean: moments.mean.clone(),
            inv_deviation: moments.variance.iter().map(inv_deviation).collect(),
        }
    }
}

/// Optional scale and offset (gamma and beta) per channel.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a, T> {
    /// Factor per channel.
    pub scale: &'a [T],
    /// Summand per channel.
    pub offset: &'a [T],
}

/// r = max(x, 0), its mean, and then its mean squared deviation from that mean.
pub fn forward_moments<T: Float>(shape: MatrixShape, x: &[T], r: &mut [T]) -> Moments<T> {
    let MatrixShape { rows, cols } = shape;
    relu::forward(x, r);
    let count = T::from_f64(rows as f64);
    let (mut mean, mut variance) = (vec![T::ZERO; cols], vec![T::ZERO; cols]);
    for channel in 0..cols {
        let mut sum = T::ZERO;
        for row in 0..rows {
            sum += r[row * cols + channel];
        }
        mean[channel] = sum / count;
        let mut deviations = T::ZERO;
        for row in 0..rows {
            let deviation = r[row * cols + channel] - mean[channel];
            deviations += deviation * deviation;
        }
        variance[channel] = deviations / count;
    }
    Moments { mean, variance }
}

/// y = (r - mean) / sqrt(variance + epsilon), times scale plus offset.
pub fn forward_normalize<T: Float>(
    shape: MatrixShape,
    r: &[T],
    normalization: &Normalization<T>,
    affine: Option<Affine<T>>,
    y: &mut [T],
) {
    let MatrixShape { rows, cols } = shape;
    for row in 0..rows {
        for channel in 0..cols {
            let at = row * cols + channel;
            let normal =
                (r[at] - normalization.mean[channel]) * normalization.inv_deviation[channel];
            y[at] = match affine {
                Some(affine) => affine.scale[channel] * normal + affine.offset[channel],
                None => normal,
            };
        }
    }
}

/// With y = scale n + offset: doffset = sum dy; dscale = sum dy n; dr = scale inv_deviation
/// (dy - mean(dy) - n mean(dy n)); dx = dr where r > 0, else 0.
#[expect(clippy::too_many_arguments, reason = "the kernel's, without its Cpu")]
pub fn backward<T: Float>(
    shape: MatrixShape,
    r: &[T],
    normalization: &Normalization<T>,
    scale: Option<&[T]>,
    dy: &[T],
    dx: &mut [T],
    dscale: &mut [T],
    doffset: &mut [T],
) {
    let MatrixShape { rows, cols } = shape;
    let mut normal = vec![T::ZERO; r.len()];
    forward_normalize(shape, r, normalization, None, &mut normal);
    let count = T::from_f64(rows as f64);
    let mut dr = vec![T::ZERO; r.len()];
    for channel in 0..cols {
        (dscale[channel], doffset[channel]) = (T::ZERO, T::ZERO);
        for row in 0..rows {
            let at = row * cols + channel;
            dscale[channel] += dy[at] * normal[at];
            doffset[channel] += dy[at];
        }
        let scale = scale.map_or(T::ONE, |scale| scale[channel]);
        for row in 0..rows {
            let at = row * cols + channel;
            let centred = dy[at] - doffset[channel] / count - normal[at] * dscale[channel] / count;
            dr[at] = scale * normalization.inv_deviation[channel] * centred;
        }
    }
    relu::backward(r, &dr, dx);
}

/// [`forward_normalize`], then [`max_pool::forward`].
pub fn forward_normalize_max_pool<T: Float>(
    shape: PoolShape,
    r: &[T],
    normalization: &Normalization<T>,
    y: &mut [T],
    argmax: &mut [u8],
) {
    let mut normal = vec![T::ZERO; r.len()];
    forward_normalize(shape.input.pixels(), r, normalization, None, &mut normal);
    max_pool::forward(shape, &normal, y, argmax);
}

/// [`max_pool::backward`], then [`backward`].
pub fn backward_max_pool<T: Float>(
    shape: PoolShape,
    r: &[T],
    normalization: &Normalization<T>,
    argmax: &[u8],
    dy: &[T],
    dx: &mut [T],
) {
    let mut dnormal = vec![T::ZERO; r.len()];
    max_pool::backward(shape, argmax, dy, &mut dnormal);
    let channels = shape.input.channels;
    let (mut dscale, mut doffset) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
    let pixels = shape.input.pixels();
    backward(pixels, r, normalization, None, &dnormal, dx, &mut dscale, &mut doffset);
}
