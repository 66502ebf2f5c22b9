//! Twin of [`nn::Mlp`](crate::nn::Mlp): the whole network in one piece.
//!
//! ```
//! use kernelet::nn::MlpShape;
//! use kernelet::reference::mlp::{self, Parameters};
//!
//! let shape = MlpShape { inputs: 2, hidden: 3, classes: 2 };
//! let (w_h, b_h, w_o, b_o) = (vec![0.0; 6], vec![0.0; 3], vec![0.0; 6], vec![0.0; 2]);
//! let zeros = Parameters { w_h, b_h, w_o, b_o };
//! let (tally, gradients) = mlp::gradients(shape, &zeros, &[1.0_f64, 2.0], &[0], 1.0);
//! assert!((tally.mean_loss() - 2_f64.ln()).abs() < 1e-12);
//! assert_eq!(gradients.b_o, [-0.5, 0.5]);
//! ```

use super::{Float, linear, softmax_cross_entropy};
use crate::kernels::gemm::Write;
use crate::kernels::softmax_cross_entropy::Tally;
use crate::nn::MlpShape;
use crate::shape::{LinearShape, MatrixShape};

/// The four parameters of an MLP, or their gradients, laid out as in [`nn::Mlp`](crate::nn::Mlp).
#[derive(Clone, Debug)]
pub struct Parameters<T> {
    /// Hidden weights (inputs, hidden).
    pub w_h: Vec<T>,
    /// Hidden biases (hidden).
    pub b_h: Vec<T>,
    /// Output weights (hidden, classes).
    pub w_o: Vec<T>,
    /// Output biases (classes).
    pub b_o: Vec<T>,
}

/// Loss and hits on `x` (labels.len(), inputs), and `scale` times the sum of the gradients.
pub fn gradients<T: Float>(
    shape: MlpShape,
    mlp: &Parameters<T>,
    x: &[T],
    labels: &[u32],
    scale: T,
) -> (Tally, Parameters<T>) {
    let MlpShape { inputs, hidden, classes } = shape;
    let rows = labels.len();
    let hidden_layer = LinearShape { rows, inputs, outputs: hidden };
    let output_layer = LinearShape { rows, inputs: hidden, outputs: classes };
    let logits_shape = MatrixShape { rows, cols: classes };

    let mut s_h = vec![T::ZERO; rows * hidden];
    linear::forward_relu(hidden_layer, x, &mlp.w_h, &mlp.b_h, &mut s_h);
    let mut logits = vec![T::ZERO; rows * classes];
    linear::forward(output_layer, &s_h, &mlp.w_o, &mlp.b_o, &mut logits);

    let mut delta_o = vec![T::ZERO; logits.len()];
    let tally =
        softmax_cross_entropy::forward_backward(logits_shape, &logits, labels, scale, &mut delta_o);
    let mut delta_h = vec![T::ZERO; s_h.len()];
    linear::backward_input_relu(output_layer, &delta_o, &mlp.w_o, &s_h, &mut delta_h);

    let mut g = Parameters {
        w_h: vec![T::ZERO; mlp.w_h.len()],
        b_h: vec![T::ZERO; mlp.b_h.len()],
        w_o: vec![T::ZERO; mlp.w_o.len()],
        b_o: vec![T::ZERO; mlp.b_o.len()],
    };
    let write = Write::Overwrite;
    linear::backward_weights(output_layer, &s_h, &delta_o, write, &mut g.w_o, &mut g.b_o);
    linear::backward_weights(hidden_layer, x, &delta_h, write, &mut g.w_h, &mut g.b_h);
    (tally, g)
}
