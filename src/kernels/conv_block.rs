//! The study's convolution block: convolution, bias, ReLU, batch normalisation and max pooling.
//!
//! The same arithmetic as [`conv2d`], [`relu_batch_norm`](super::relu_batch_norm) and
//! [`max_pool`] one after the other, and the same bits; but every image is pooled
//! while it is in the cache, and the gradient of its rectified convolution, as large as the whole
//! batch's activations, is made image by image and never written to memory.
//!
//! Normalisation has a positive scale only, so it grows with what it normalises: a window's largest
//! element can be found before the batch's moments are known.

use super::gemm::Write;
use super::relu_batch_norm::{BackwardMaxPool, Moments, Normalization};
use super::{conv2d, kernel_span, max_pool};
use crate::cpu::{Chunks, Cpu};
use crate::shape::{Conv2dShape, PoolShape, Window};

/// The sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvBlockShape {
    /// The convolution.
    pub convolution: Conv2dShape,
    /// The pool's window over the convolution's output.
    pub pool: Window,
}

impl ConvBlockShape {
    /// The pool.
    #[must_use]
    pub fn pool(self) -> PoolShape {
        PoolShape { input: self.convolution.output(), window: self.pool }
    }
}

/// x, w and b as [`conv2d::forward`] has them; r = max(conv(x, w) + b, 0) (as
/// `convolution.output()`), its moments per filter merged into `moments`, and, as `pool().output()`,
/// y = the largest r of every window and in `argmax` its place. What the block gives is y
/// [normalised](super::relu_batch_norm::forward_normalize_in_place).
///
/// # Panics
/// If a slice or `moments` does not fit `shape`, or the pool's window has more than 256 places.
#[expect(clippy::too_many_arguments, reason = "three layers' inputs and outputs")]
pub fn forward(
    cpu: &Cpu,
    shape: ConvBlockShape,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    r: &mut [f32],
    moments: &mut Moments,
    y: &mut [f32],
    argmax: &mut [u8],
) {
    let pool = shape.pool();
    max_pool::check(pool, r.len(), "r", y.len(), "y", argmax);
    let operations = conv2d::flops(shape.convolution) + 5.0 * r.len() as f64;
    let bytes = conv2d::bytes(shape.convolution) + 5.0 * y.len() as f64;
    kernel_span!("conv_block::forward", operations, bytes);
    let image = pool.output().image_len();
    let (y, argmax) = (Chunks::new(y, image), Chunks::new(argmax, image));
    let convolution = shape.convolution;
    conv2d::forward_relu_moments_then(cpu, convolution, x, w, b, r, moments, &|index, r| {
        if image > 0 {
            // SAFETY: every image comes once.
            let (y, argmax) = unsafe { (y.get(index), argmax.get(index)) };
            cpu.dispatch(max_pool::Image { shape: pool, x: r, normalization: None, y, argmax });
        }
    });
}

/// dw (like w) and db (filters), overwritten or added to as `write` says, from dy (as
/// `pool().output()`), with moments that depend on x: from x (as `convolution.input`), r and argmax
/// as [`forward`] had and wrote them, and its y, normalised.
///
/// # Panics
/// If a slice or `normalization` does not fit `shape`, or the pool's window has more than 256 places.
/// (An argmax that no forward could have written is a panic, or its dy is dropped.)
#[expect(clippy::too_many_arguments, reason = "what the forward read and wrote")]
pub fn backward_weights(
    cpu: &Cpu,
    shape: ConvBlockShape,
    x: &[f32],
    r: &[f32],
    normalization: &Normalization,
    y: &[f32],
    argmax: &[u8],
    dy: &[f32],
    write: Write,
    dw: &mut [f32],
    db: &mut [f32],
) {
    let convolution = shape.convolution;
    let operations = conv2d::flops(convolution) + (5 * r.len() + 3 * y.len()) as f64;
    let bytes = conv2d::bytes(convolution) + 9.0 * y.len() as f64;
    kernel_span!("conv_block::backward_weights", operations, bytes);
    let backward = BackwardMaxPool::new(cpu, shape.pool(), r, normalization, y, argmax, dy);
    let dy = |index: usize, dr: &mut [f32]| backward.image(cpu, index, dr);
    conv2d::backward_weights_by_images(cpu, convolution, x, &dy, write, dw, db);
}
