//! The study's convolution block: convolution, bias, ReLU, batch normalisation and max pooling.
//!
//! The same arithmetic as [`conv2d`], [`relu_batch_norm`](super::relu_batch_norm) and
//! [`max_pool`] one after the other, and the same bits; but every image is pooled
//! while it is in the cache, and the gradient of its rectified convolution, as large as the whole
//! batch's activations, is made image by image and never written to memory.
//!
//! Normalisation has a positive scale only, so it grows with what it normalises: a window's largest
//! element can be found before the batch's moments are known.
//!
//! Accuracy: that of the three, each as its module states it.

use super::gemm::Write;
use super::relu_batch_norm::{BackwardMaxPool, Moments, Normalization};
use super::{conv2d, kernel_span, max_pool};
use crate::cpu::{Chunks, Cpu};
use crate::shape::{Conv2dShape, PoolShape, Window};

/// The sizes of a block.
///
/// ```
/// use kernelet::kernels::conv_block::ConvBlockShape;
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
///
/// // The study's block, for 32 of its images.
/// let input = ImageShape { batch: 32, height: 28, width: 28, channels: 1 };
/// let window = Window::square(3, 1, Padding::Same);
/// let convolution = Conv2dShape { input, window, filters: 32 };
/// let block = ConvBlockShape { convolution, pool: Window::square(2, 2, Padding::Same) };
/// assert_eq!(block.pool().output().image_len(), 14 * 14 * 32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvBlockShape {
    /// The convolution.
    pub convolution: Conv2dShape,
    /// The pool's window over the convolution's output.
    pub pool: Window,
}

impl ConvBlockShape {
    /// The pool.
    ///
    /// ```
    /// use kernelet::kernels::conv_block::ConvBlockShape;
    /// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
    ///
    /// let input = ImageShape { batch: 1, height: 28, width: 28, channels: 1 };
    /// let window = Window::square(3, 1, Padding::Same);
    /// let convolution = Conv2dShape { input, window, filters: 4 };
    /// let block = ConvBlockShape { convolution, pool: Window::square(2, 2, Padding::Same) };
    /// assert_eq!(block.pool().input, block.convolution.output());
    /// ```
    ///
    /// # Panics
    /// If a size or a stride of the convolution's window is 0.
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
/// ```
/// use kernelet::kernels::{conv_block::{self, ConvBlockShape}, relu_batch_norm::Moments};
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 2, width: 2, channels: 1 };
/// let window = Window::square(1, 1, Padding::Same);
/// let convolution = Conv2dShape { input, window, filters: 1 };
/// let shape = ConvBlockShape { convolution, pool: Window::square(2, 2, Padding::Same) };
/// let x = [1.0, -2.0, 3.0, 0.0];
/// let (mut r, mut moments) = ([0.0; 4], Moments::new(1));
/// let (mut y, mut argmax) = ([0.0], [0]);
/// let (w, b) = (&[1.0], &[0.0]);
/// conv_block::forward(&cpu, shape, &x, w, b, &mut r, &mut moments, &mut y, &mut argmax);
/// assert_eq!((r, y, argmax), ([1.0, 0.0, 3.0, 0.0], [3.0], [2]));
/// assert_eq!((moments.mean()[0], moments.variance(0)), (1.0, 1.5));
/// # Ok::<(), kernelet::Error>(())
/// ```
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
            // SAFETY: `forward_relu_moments_then` gives every image once.
            let (y, argmax) = unsafe { (y.get(index), argmax.get(index)) };
            let (x, normalization, first) = (r, None, 0);
            cpu.dispatch(max_pool::Rows { shape: pool, x, normalization, first, y, argmax });
        }
    });
}

/// dw (like w) and db (filters), overwritten or added to as `write` says, from dy (as
/// `pool().output()`), with moments that depend on x: from x (as `convolution.input`), r and argmax
/// as [`forward`] had and wrote them, and its y, normalised.
///
/// ```
/// use kernelet::kernels::conv_block::{self, ConvBlockShape};
/// use kernelet::kernels::{gemm::Write, relu_batch_norm::Normalization};
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 2, width: 2, channels: 1 };
/// let window = Window::square(1, 1, Padding::Same);
/// let convolution = Conv2dShape { input, window, filters: 1 };
/// let shape = ConvBlockShape { convolution, pool: Window::square(2, 2, Padding::Same) };
/// // What the forward pass read and wrote: mean 1, variance 1.5, the largest in place 2.
/// let (x, r, argmax) = ([1.0, -2.0, 3.0, 0.0], [1.0, 0.0, 3.0, 0.0], [2]);
/// let inv_deviation = 1.0 / 1.5_f32.sqrt();
/// let normalization = Normalization { mean: vec![1.0], inv_deviation: vec![inv_deviation] };
/// let y = [(3.0 - 1.0) * inv_deviation];
/// let (dy, write, mut dw, mut db) = ([1.0], Write::Overwrite, [0.0], [0.0]);
/// conv_block::backward_weights(
///     &cpu, shape, &x, &r, &normalization, &y, &argmax, &dy, write, &mut dw, &mut db,
/// );
/// // Without a bias, normalisation undoes whatever scales the weight.
/// assert!(dw[0].abs() < 1e-6);
/// assert!((db[0] + inv_deviation / 6.0).abs() < 1e-6);
/// # Ok::<(), kernelet::Error>(())
/// ```
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
