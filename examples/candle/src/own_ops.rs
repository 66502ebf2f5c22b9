//! The same block of candle's own ops, in their layout: channels first, x (images, channels, height,
//! width), w (filters, channels, 3, 3), b (1, filters, 1, 1).

use candle_core::{Result, Tensor};
use kernelet::nn::cnn::EPSILON;

/// How the block's max pool is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// As the largest of four tensors, whose gradient is right.
    LargestOfFour,
    /// With `max_pool2d`. In candle 0.11.1 its gradient is wrong: it is multiplied with the share of
    /// its window that is the largest, a quarter if there are no ties. It is here for its time.
    MaxPool2d,
}

/// Convolution, bias, ReLU, normalisation with the batch's moments, 2x2 max pool.
///
/// # Errors
/// As candle's ops, if the shapes do not fit together.
pub fn conv_block(x: &Tensor, w: &Tensor, b: &Tensor, pool: Pool) -> Result<Tensor> {
    let r = x.conv2d(w, 1, 1, 1, 1)?.broadcast_add(b)?.relu()?;
    let centred = r.broadcast_sub(&r.mean_keepdim((0, 2, 3))?)?;
    let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let normalized = centred.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
    match pool {
        Pool::LargestOfFour => largest_of_four(&normalized),
        Pool::MaxPool2d => normalized.max_pool2d(2),
    }
}

fn largest_of_four(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (h, w) = (h / 2, w / 2);
    // An odd last row or column is in no window.
    let x = x.narrow(2, 0, 2 * h)?.narrow(3, 0, 2 * w)?;
    let rows = x.reshape((n, c, h, 2, 2 * w))?;
    let taller = rows.narrow(3, 0, 1)?.maximum(&rows.narrow(3, 1, 1)?)?;
    let columns = taller.reshape((n, c, h, w, 2))?;
    columns.narrow(4, 0, 1)?.maximum(&columns.narrow(4, 1, 1)?)?.squeeze(4)
}

/// Images with channels last, as kernelet has them, with channels first.
///
/// # Errors
/// If there are not four axes.
pub fn channels_first(images: &Tensor) -> Result<Tensor> {
    images.permute((0, 3, 1, 2))?.contiguous()
}

/// And back.
///
/// # Errors
/// If there are not four axes.
pub fn channels_last(images: &Tensor) -> Result<Tensor> {
    images.permute((0, 2, 3, 1))?.contiguous()
}

/// Weights with filters last, as kernelet has them, with filters first.
///
/// # Errors
/// If there are not four axes.
pub fn filters_first(w: &Tensor) -> Result<Tensor> {
    w.permute((3, 2, 0, 1))?.contiguous()
}

/// And back.
///
/// # Errors
/// If there are not four axes.
pub fn filters_last(w: &Tensor) -> Result<Tensor> {
    w.permute((2, 3, 1, 0))?.contiguous()
}
