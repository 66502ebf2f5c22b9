//! Twin of [`nn::Cnn`](crate::nn::Cnn): the whole network in one piece.
//!
//! ```
//! use kernelet::nn::{CnnShape, cnn::Regularization};
//! use kernelet::reference::cnn::{self, Parameters};
//!
//! let shape = CnnShape { height: 4, width: 4, channels: 1, filters: 2, hidden: 8, classes: 4 };
//! let zeros = Parameters {
//!     w0: vec![0.0; 9 * 2],
//!     b0: vec![0.0; 2],
//!     w1: vec![0.0; shape.pooled() * 8],
//!     b1: vec![0.0; 8],
//!     w2: vec![0.0; 8 * 4],
//!     b2: vec![0.0; 4],
//! };
//! let (tally, gradients) =
//!     cnn::gradients(shape, &zeros, &[0.5_f64; 16], &[0], Regularization::default());
//! assert!((tally.mean_loss() - 4_f64.ln()).abs() < 1e-12);
//! assert_eq!(gradients.b2, [-0.75, 0.25, 0.25, 0.25]);
//! ```

use super::relu_batch_norm::Normalization;
use super::{Float, conv2d, dropout, linear, relu, relu_batch_norm, softmax_cross_entropy};
use crate::kernels::dropout::Dropout;
use crate::kernels::gemm::Write;
use crate::kernels::softmax_cross_entropy::Tally;
use crate::nn::CnnShape;
use crate::nn::cnn::{EPSILON, Regularization};
use crate::shape::{LinearShape, MatrixShape};

/// The six parameters of a CNN, or their gradients, laid out as in [`nn::Cnn`](crate::nn::Cnn).
#[derive(Clone, Debug)]
pub struct Parameters<T> {
    /// Convolution kernel (3, 3, channels, filters).
    pub w0: Vec<T>,
    /// Convolution biases (filters).
    pub b0: Vec<T>,
    /// Weights of the first linear layer (pooled, hidden).
    pub w1: Vec<T>,
    /// Biases of the first linear layer (hidden).
    pub b1: Vec<T>,
    /// Weights of the second linear layer (hidden, classes).
    pub w2: Vec<T>,
    /// Biases of the second linear layer (classes).
    pub b2: Vec<T>,
}

/// Everything that a forward pass computes, in the order of the layers.
#[derive(Clone, Debug)]
pub struct Activations<T> {
    /// What leaves the convolution and its ReLU (images, height, width, filters).
    pub r: Vec<T>,
    /// What `r` is normalised with.
    pub normalization: Normalization<T>,
    /// What leaves the pool (images, pooled).
    pub pooled: Vec<T>,
    /// Which element of its window each of them is.
    pub argmax: Vec<u8>,
    /// What leaves the first linear layer and dropout, and enters ReLU (images, hidden).
    pub z: Vec<T>,
    /// What leaves that ReLU (images, hidden).
    pub hidden: Vec<T>,
    /// What leaves the second linear layer (images, classes).
    pub logits: Vec<T>,
}

/// The forward pass on `x` (images, height, width, channels), normalised as given, or else with
/// the moments of `x`.
pub fn forward<T: Float>(
    shape: CnnShape,
    cnn: &Parameters<T>,
    x: &[T],
    normalization: Option<&Normalization<T>>,
    dropout: Option<Dropout>,
) -> Activations<T> {
    let images = x.len() / shape.pixels();
    let (convolution, pool) = (shape.convolution(images), shape.pool(images));
    let mut r = vec![T::ZERO; images * convolution.output().image_len()];
    let moments = conv2d::forward_relu_moments(convolution, x, &cnn.w0, &cnn.b0, &mut r);
    let own = Normalization::new(&moments, T::from_f64(EPSILON));
    let normalization = normalization.cloned().unwrap_or(own);

    let mut pooled = vec![T::ZERO; images * shape.pooled()];
    let mut argmax = vec![0; pooled.len()];
    relu_batch_norm::forward_normalize_max_pool(pool, &r, &normalization, &mut pooled, &mut argmax);

    let (hidden_layer, output_layer) = layers(shape, images);
    let mut z = vec![T::ZERO; images * shape.hidden];
    linear::forward(hidden_layer, &pooled, &cnn.w1, &cnn.b1, &mut z);
    if let Some(dropout) = dropout {
        dropout::forward_in_place(dropout, &mut z);
    }
    let mut hidden = vec![T::ZERO; z.len()];
    relu::forward(&z, &mut hidden);
    let mut logits = vec![T::ZERO; images * shape.classes];
    linear::forward(output_layer, &hidden, &cnn.w2, &cnn.b2, &mut logits);
    Activations { r, normalization, pooled, argmax, z, hidden, logits }
}

/// The penalty `l2 (sum(w1^2) + sum(w2^2)) / 2`.
pub fn penalty<T: Float>(cnn: &Parameters<T>, l2: T) -> T {
    let mut squares = T::ZERO;
    for &w in cnn.w1.iter().chain(&cnn.w2) {
        squares += w * w;
    }
    l2 * squares / T::from_f64(2.0)
}

/// Loss (without the penalty) and hits on a minibatch `x` (labels.len(), height, width, channels),
/// and the gradients of the mean loss with the penalty.
pub fn gradients<T: Float>(
    shape: CnnShape,
    cnn: &Parameters<T>,
    x: &[T],
    labels: &[u32],
    regularization: Regularization,
) -> (Tally, Parameters<T>) {
    let images = labels.len();
    let (hidden_layer, output_layer) = layers(shape, images);
    let forward = forward(shape, cnn, x, None, regularization.dropout);

    let logits_shape = MatrixShape { rows: images, cols: shape.classes };
    let mean = T::ONE / T::from_f64(images as f64);
    let mut dlogits = vec![T::ZERO; forward.logits.len()];
    let tally = softmax_cross_entropy::forward_backward(
        logits_shape,
        &forward.logits,
        labels,
        mean,
        &mut dlogits,
    );
    let mut dz = vec![T::ZERO; forward.z.len()];
    linear::backward_input_relu(output_layer, &dlogits, &cnn.w2, &forward.hidden, &mut dz);
    if let Some(dropout) = regularization.dropout {
        dropout::backward_in_place(dropout, &mut dz);
    }
    let mut dpooled = vec![T::ZERO; forward.pooled.len()];
    linear::backward_input(hidden_layer, &dz, &cnn.w1, &mut dpooled);
    let mut dconvolved = vec![T::ZERO; forward.r.len()];
    relu_batch_norm::backward_max_pool(
        shape.pool(images),
        &forward.r,
        &forward.normalization,
        &forward.argmax,
        &dpooled,
        &mut dconvolved,
    );

    let zeros = |w: &[T]| vec![T::ZERO; w.len()];
    let mut g = Parameters {
        w0: zeros(&cnn.w0),
        b0: zeros(&cnn.b0),
        w1: zeros(&cnn.w1),
        b1: zeros(&cnn.b1),
        w2: zeros(&cnn.w2),
        b2: zeros(&cnn.b2),
    };
    let write = Write::Overwrite;
    let convolution = shape.convolution(images);
    linear::backward_weights(output_layer, &forward.hidden, &dlogits, write, &mut g.w2, &mut g.b2);
    linear::backward_weights(hidden_layer, &forward.pooled, &dz, write, &mut g.w1, &mut g.b1);
    conv2d::backward_weights(convolution, x, &dconvolved, write, &mut g.w0, &mut g.b0);
    let l2 = T::from_f64(f64::from(regularization.l2));
    for (dw, &w) in g.w1.iter_mut().zip(&cnn.w1).chain(g.w2.iter_mut().zip(&cnn.w2)) {
        *dw += l2 * w;
    }
    (tally, g)
}

/// The two linear layers.
fn layers(shape: CnnShape, rows: usize) -> (LinearShape, LinearShape) {
    let CnnShape { hidden, classes, .. } = shape;
    (
        LinearShape { rows, inputs: shape.pooled(), outputs: hidden },
        LinearShape { rows, inputs: hidden, outputs: classes },
    )
}
