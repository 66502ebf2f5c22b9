//! The product: one file per kernel, forward then backward, slices in and slices out.
//!
//! Conventions, the same in every file:
//! - The first argument is the [`Cpu`](crate::Cpu), the second the shape; then inputs, then
//!   outputs. Values are `f32` (a first layer takes [bytes](input), too), labels `u32`. Matrices are row-major; images are NHWC, that is
//!   (batch, height, width, channels) with the channels of a pixel side by side. Docs give a
//!   slice's shape in parentheses, the slowest axis first.
//! - A function's name spells what is fused into it: [`linear::forward_relu`] is a matrix product,
//!   a bias and a ReLU in one pass. [`guide::naming`](crate::guide::naming) has all the rules.
//! - Gradients begin with `d`: `dx` is the gradient of the loss with respect to `x`.
//! - Outputs are overwritten unless the function takes a [`gemm::Write`] or its name says
//!   `_in_place`; optimisers update what they are given, and
//!   [moments](relu_batch_norm::Moments) are merged.
//! - Losses are in nats, accuracies in percent.
//! - A slice that does not fit the shape is a panic that names both lengths.
//! - The same instruction set gives the same bits with any number of threads.
//! - NaN in, NaN out, unless the docs say otherwise; what overflows is infinite or NaN, never a wrong
//!   number. But ReLU's gradient is zero where its input was NaN: NaN is not greater than zero.
//! - Subnormals are zeros: read as such, and written for results below the normal range, on every
//!   thread that works (x86-64 and AArch64). What L2 regularisation drives towards zero would
//!   otherwise slow a training run down many times over. The caller's own arithmetic is left as it was.
//! - Every call opens a `tracing` span (target `kernelet::kernel`) with its floating-point
//!   operations and the bytes it must move at least.
//!
//! ```
//! use kernelet::{Cpu, kernels::linear, shape::LinearShape};
//!
//! let cpu = Cpu::detect()?;
//! // Two samples of three inputs through a layer of two outputs.
//! let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
//! let x = [1.0, 2.0, 3.0, -1.0, 0.0, 1.0];
//! let w = [1.0, -1.0, 0.5, -0.5, 0.0, 1.0];
//! let b = [0.5, -6.0];
//! let mut y = [0.0; 4];
//! linear::forward_relu(&cpu, shape, &x, &w, &b, &mut y);
//! assert_eq!(y, [2.5, 0.0, 0.0, 0.0]);
//! # Ok::<(), kernelet::Error>(())
//! ```
//!
//! | study | kernel |
//! |---|---|
//! | `relu` | [`relu::forward`], fused: [`linear::forward_relu`] |
//! | `softmax` | [`softmax::forward`] |
//! | `computeLayer` | [`gemm::gemm`], with bias: [`linear::forward`] |
//! | `averageCE` (its figure's `CE`) | [`cross_entropy::forward`], from logits: [`softmax_cross_entropy::forward`] |
//! | `gradCE` as printed (prediction - target) | [`softmax_cross_entropy::backward`] |
//! | `gradCE` as derived (with respect to the softmax's output) | [`cross_entropy::backward`] |
//! | `tf.nn.conv2d` and its bias | [`conv2d::forward`], fused with what follows: [`conv2d::forward_relu_moments`] |
//! | `tf.nn.moments`, `tf.nn.batch_normalization` | [`relu_batch_norm`] |
//! | `tf.nn.max_pool` | [`max_pool::forward`], fused with what precedes: [`relu_batch_norm::forward_normalize_max_pool`], with everything from the convolution on: [`conv_block`] |
//! | `tf.nn.dropout` | [`dropout::forward_in_place`] |
//! | `tf.train.AdamOptimizer`, `tf.nn.l2_loss` | [`adam::update`], fused with the gradient: [`linear::backward_weights_adam`], with both gradients of a layer: [`linear::backward_adam`] |

pub mod adam;
pub mod avg_pool;
mod channels;
pub mod conv2d;
pub mod conv_block;
pub mod cross_entropy;
pub mod dropout;
pub mod exp;
pub mod gemm;
pub mod input;
pub mod linear;
pub mod max_pool;
pub mod momentum;
pub mod relu;
pub mod relu_batch_norm;
mod scratch;
pub mod softmax;
pub mod softmax_cross_entropy;
mod windows;

/// Opens the span of a kernel call: `kernel_span!("name", flops, bytes)`. It stays open until the
/// end of the enclosing block.
macro_rules! kernel_span {
    ($name:literal, $flops:expr, $bytes:expr) => {
        let _span = tracing::trace_span!(
            target: "kernelet::kernel",
            $name,
            flops = $flops as f64,
            bytes = $bytes as f64
        )
        .entered();
    };
}
pub(crate) use kernel_span;

/// Elements that a thread takes at a time from an element-wise kernel: 64 KiB of `f32` per slice.
const ELEMENTWISE_CHUNK: usize = 16 * 1024;

/// Below this many elements an element-wise kernel stays on one thread: it takes some 10 to 20
/// microseconds.
const ELEMENTWISE_PARALLEL_MIN: usize = 128 * 1024;
