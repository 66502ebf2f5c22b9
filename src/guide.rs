//! Docs only: [how things are named](naming), and [how to write a layer of one's
//! own](write_your_own_layer).

#![forbid(unsafe_code)]

pub mod naming {
    //! How functions, slices and shapes are named, and what others call the same things.
    //!
    //! # Functions
    //!
    //! A module is a layer, a loss or an optimiser. The name of a function says, in this order,
    //! which way it goes, which of the gradients it makes, and what is fused into it:
    //!
    //! | part | says |
    //! |---|---|
    //! | `forward` | outputs from inputs |
    //! | `backward` | the gradients of all inputs from the gradient of the output |
    //! | `forward_backward` | both: the loss, and the gradient of its input |
    //! | `backward_input` | dx alone: the first layer of a network has no use for it |
    //! | `backward_weights` | dw and db alone |
    //! | `update` | an optimiser's step: weights and the optimiser's memory from a gradient |
    //! | `_relu` after `forward` | a ReLU follows: [`linear::forward_relu`] |
    //! | `_relu` after `backward_input` | dx is taken on through the ReLU that made x: [`linear::backward_input_relu`] |
    //! | `_moments` | mean and variance per channel of what is written are gathered: [`conv2d::forward_relu_moments`] |
    //! | `_normalize` | the second pass of batch normalisation: [`relu_batch_norm::forward_normalize`] |
    //! | `_max_pool` | a max pool follows; in a backward it comes first: [`relu_batch_norm::backward_max_pool`] |
    //! | `_adam` | the gradient goes into Adam's update and is never written: [`linear::backward_weights_adam`], with dx as well: [`linear::backward_adam`] |
    //! | `_in_place` | the output takes the place of the input: [`dropout::forward_in_place`] |
    //!
    //! Fused parts come in the order in which they are computed. A module whose name has two parts,
    //! [`softmax_cross_entropy`] or [`relu_batch_norm`], has two layers: its backward goes through
    //! both. Named for what they compute are [`gemm`], the matrix product, and
    //! [`linear::column_sums`], the db of `backward_weights` alone.
    //! [`reference`](mod@crate::reference) has the scalar twin of each function under the same
    //! name.
    //!
    //! # Slices
    //!
    //! | name | is |
    //! |---|---|
    //! | `x`, `y` | a layer's input and output |
    //! | `w`, `b` | its weights and biases |
    //! | `r` | a rectified value, max(x, 0), that batch normalisation or a pool takes on |
    //! | `z` | in formulas: what goes into an activation, or a normalised value |
    //! | `logits`, `probabilities` | what goes into a softmax, and what comes out of it |
    //! | `labels` | the class of every row, counted from 0 |
    //! | `argmax` | the place of the largest element in each window, row by row from the top left |
    //! | `dx`, `dy`, `dw`, ... | the gradient of the loss with respect to x, y, w, ...; shaped like it |
    //! | `g` | a gradient that an optimiser takes |
    //! | `m`, `v` | an optimiser's memory: Adam's first and second moment; momentum's velocity is `v` |
    //! | `scale` | of a loss: what its gradient is multiplied with, 1 for the sum over the rows, 1 / rows for the mean |
    //! | `scale`, `offset` | of batch normalisation: gamma and beta |
    //!
    //! # What happens to what an output held
    //!
    //! | word | means |
    //! |---|---|
    //! | overwritten | it is not read, so it may hold anything: the rule, or [`Write::Overwrite`] |
    //! | added to | the result is added to it: [`Write::Add`], for a gradient from several batches |
    //! | updated | the old value is part of the formula: `w`, `m`, `v` of an optimiser |
    //! | merged | as if both had been gathered together: [`Moments`] |
    //! | in place | input before the call, output after it |
    //!
    //! # Shapes
    //!
    //! A shape is a struct that ends in `Shape`; its fields are counts. Docs write the shape of a
    //! slice in parentheses, the slowest axis first: x (rows, inputs) has x of row i and input j at
    //! `i * inputs + j`.
    //!
    //! | shape | fields | slices |
    //! |---|---|---|
    //! | [`MatrixShape`] | `rows`, `cols` | (rows, cols) |
    //! | [`LinearShape`] | `rows`, `inputs`, `outputs` | x (rows, inputs), w (inputs, outputs), b (outputs), y (rows, outputs) |
    //! | [`GemmShape`] | `m`, `k`, `n` | A (m, k), B (k, n), C (m, n), as in BLAS |
    //! | [`ImageShape`] | `batch`, `height`, `width`, `channels` | (batch, height, width, channels): NHWC |
    //! | [`Window`] | `size`, `stride`, `padding` | rows before columns |
    //! | [`Conv2dShape`] | `input`, `window`, `filters` | w (window height, window width, channels, filters): HWIO; b (filters) |
    //! | [`PoolShape`] | `input`, `window` | |
    //!
    //! # The same things elsewhere
    //!
    //! | here | PyTorch | TensorFlow | the study |
    //! |---|---|---|---|
    //! | `rows`, `batch` | N | batch | samples |
    //! | `inputs`, `outputs` | `in_features`, `out_features` | `units` are the outputs | |
    //! | `filters` | `out_channels` | `filters` | filters |
    //! | [`Window`]'s `size`, `stride` | `kernel_size`, `stride` | `ksize`, `strides` | |
    //! | [`Padding::Same`] | `padding="same"`, for a stride of 1 | `"SAME"` | `"SAME"` |
    //! | [`Padding::Valid`] | `padding=0` | `"VALID"` | |
    //! | images NHWC | NCHW; `channels_last` is NHWC in memory | NHWC | NHWC |
    //! | `w` of a convolution: HWIO | OIHW | HWIO | HWIO |
    //! | `w` of a linear layer: (inputs, outputs) | `weight`: (outputs, inputs), the transpose | `kernel`: (inputs, outputs) | `w`: (inputs, outputs) |
    //! | [`gemm`] | `torch.mm` | `tf.matmul` | `np.matmul` in `computeLayer` |
    //! | [`linear::forward`] | `nn.Linear` | `keras.layers.Dense` | `computeLayer` |
    //! | [`softmax_cross_entropy::forward`] | `nn.CrossEntropyLoss(reduction="sum")` | `tf.nn.sparse_softmax_cross_entropy_with_logits`, summed | `softmax`, `averageCE` |
    //! | [`softmax_cross_entropy::backward`] | | | `gradCE` |
    //! | [`cross_entropy::forward`] | `nn.NLLLoss` of the logarithms | `keras.losses.SparseCategoricalCrossentropy` | `averageCE` (`CE`) |
    //! | `labels` | targets that are class indices | sparse labels | one-hot targets |
    //! | [`conv2d::forward`] | `nn.Conv2d` | `tf.nn.conv2d`, `tf.nn.bias_add` | the same |
    //! | [`max_pool::forward`] and its `argmax` | `nn.MaxPool2d(return_indices=True)`; its indices count through the plane | `tf.nn.max_pool_with_argmax`; its indices count through the image | `tf.nn.max_pool` |
    //! | [`avg_pool::forward`] | `nn.AvgPool2d(count_include_pad=False)` | `tf.nn.avg_pool` | |
    //! | [`relu_batch_norm`] | `nn.ReLU`, then `nn.BatchNorm2d` | `tf.nn.moments`, `tf.nn.batch_normalization` | the same |
    //! | [`Affine`]'s `scale`, `offset` | `weight`, `bias` | gamma, beta | neither |
    //! | [`RunningMoments`] with decay 0.99 | `running_mean`, `running_var` (unbiased) with momentum 0.01 | `moving_mean`, `moving_variance` with momentum 0.99 | |
    //! | [`Dropout`]'s `keep` | `p` is 1 - keep | `rate` is 1 - keep; in TensorFlow 1 `keep_prob` | keep probability |
    //! | [`Momentum`]: v = momentum v + rate g, w = w - v | `optim.SGD`: v = momentum v + g, w = w - rate v | Keras's `SGD`: as here, with v's sign turned; TensorFlow 1's `MomentumOptimizer`: as PyTorch | as here; gamma, alpha |
    //! | [`Adam`]: epsilon is added to the root of v | `optim.Adam`: to the root of the corrected v | TensorFlow 1's `AdamOptimizer`: as here | `AdamOptimizer` |
    //! | [`Adam`]'s `l2` | `weight_decay` of `optim.Adam` (not of `AdamW`) | the gradient of `l2 * tf.nn.l2_loss(w)` | lambda |
    //! | [`Write::Add`] | what `backward()` does to `.grad` | | |
    //! | [`xavier_normal`] | `nn.init.xavier_normal_` | | the MLP's start |
    //! | [`truncated_xavier`] | | TensorFlow 1's `xavier_initializer(uniform=False)` | the CNN's start |
    //!
    //! ```
    //! use kernelet::{Cpu, kernels::linear, shape::LinearShape};
    //!
    //! // PyTorch's `nn.Linear(3, 2)` keeps its weight as (outputs, inputs): transpose it once.
    //! let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    //! let mut w = [0.0; 6];
    //! for (output, row) in weight.chunks(3).enumerate() {
    //!     for (input, &value) in row.iter().enumerate() {
    //!         w[input * 2 + output] = value;
    //!     }
    //! }
    //! let shape = LinearShape { rows: 1, inputs: 3, outputs: 2 };
    //! let mut y = [0.0; 2];
    //! linear::forward(&Cpu::detect()?, shape, &[1.0, 0.0, 1.0], &w, &[0.0; 2], &mut y);
    //! assert_eq!(y, [1.0 + 3.0, 4.0 + 6.0]);
    //! # Ok::<(), kernelet::Error>(())
    //! ```
    //!
    //! [`linear::forward_relu`]: crate::kernels::linear::forward_relu
    //! [`linear::forward`]: crate::kernels::linear::forward
    //! [`gemm`]: fn@crate::kernels::gemm::gemm
    //! [`linear::column_sums`]: crate::kernels::linear::column_sums
    //! [`linear::backward_input_relu`]: crate::kernels::linear::backward_input_relu
    //! [`linear::backward_adam`]: crate::kernels::linear::backward_adam
    //! [`linear::backward_weights_adam`]: crate::kernels::linear::backward_weights_adam
    //! [`conv2d::forward_relu_moments`]: crate::kernels::conv2d::forward_relu_moments
    //! [`conv2d::forward`]: crate::kernels::conv2d::forward
    //! [`relu_batch_norm`]: crate::kernels::relu_batch_norm
    //! [`relu_batch_norm::forward_normalize`]: crate::kernels::relu_batch_norm::forward_normalize
    //! [`relu_batch_norm::backward_max_pool`]: crate::kernels::relu_batch_norm::backward_max_pool
    //! [`dropout::forward_in_place`]: crate::kernels::dropout::forward_in_place
    //! [`softmax_cross_entropy`]: crate::kernels::softmax_cross_entropy
    //! [`softmax_cross_entropy::forward`]: crate::kernels::softmax_cross_entropy::forward
    //! [`softmax_cross_entropy::backward`]: crate::kernels::softmax_cross_entropy::backward
    //! [`cross_entropy::forward`]: crate::kernels::cross_entropy::forward
    //! [`max_pool::forward`]: crate::kernels::max_pool::forward
    //! [`avg_pool::forward`]: crate::kernels::avg_pool::forward
    //! [`Write::Overwrite`]: crate::kernels::gemm::Write::Overwrite
    //! [`Write::Add`]: crate::kernels::gemm::Write::Add
    //! [`Moments`]: crate::kernels::relu_batch_norm::Moments
    //! [`RunningMoments`]: crate::kernels::relu_batch_norm::RunningMoments
    //! [`Affine`]: crate::kernels::relu_batch_norm::Affine
    //! [`Dropout`]: crate::kernels::dropout::Dropout
    //! [`Momentum`]: crate::kernels::momentum::Momentum
    //! [`Adam`]: crate::kernels::adam::Adam
    //! [`GemmShape`]: crate::kernels::gemm::GemmShape
    //! [`MatrixShape`]: crate::shape::MatrixShape
    //! [`LinearShape`]: crate::shape::LinearShape
    //! [`ImageShape`]: crate::shape::ImageShape
    //! [`Window`]: crate::shape::Window
    //! [`Conv2dShape`]: crate::shape::Conv2dShape
    //! [`PoolShape`]: crate::shape::PoolShape
    //! [`Padding::Same`]: crate::shape::Padding::Same
    //! [`Padding::Valid`]: crate::shape::Padding::Valid
    //! [`xavier_normal`]: crate::nn::init::xavier_normal
    //! [`truncated_xavier`]: crate::nn::init::truncated_xavier
}

pub mod write_your_own_layer {
    //! A layer that kernelet does not have, from its kernels and a loop of one's own: forward,
    //! backward, checked against finite differences, trained.
    //!
    //! The layer is a linear one with a leaky ReLU behind it: z = x w + b, then y = z where z > 0
    //! and y = z / 8 elsewhere. The product is where the time goes, and there is a kernel for it.
    //! The activation is a loop over slices.
    //!
    //! # Forward
    //!
    //! [`linear::forward`] writes z, and the loop turns it into y where it lies. Kernels check the
    //! lengths of their slices; `zip` does not, it stops at the shorter one. So a loop over several
    //! slices needs a check of its own, unless a kernel has looked at all of them before.
    //!
    //! ```
    //! use kernelet::{Cpu, kernels::linear, shape::LinearShape};
    //!
    //! /// The share of a negative value that is passed on.
    //! const SLOPE: f32 = 0.125;
    //!
    //! /// y (rows, outputs) = leaky(x w + b): x (rows, inputs), w (inputs, outputs), b (outputs).
    //! fn forward(cpu: &Cpu, shape: LinearShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    //!     linear::forward(cpu, shape, x, w, b, y);
    //!     for y in y {
    //!         *y = if *y > 0.0 { *y } else { SLOPE * *y };
    //!     }
    //! }
    //!
    //! let shape = LinearShape { rows: 2, inputs: 2, outputs: 1 };
    //! let mut y = [0.0; 2];
    //! forward(&Cpu::detect()?, shape, &[1.0, 2.0, -3.0, 0.0], &[1.0, 1.0], &[-1.0], &mut y);
    //! assert_eq!(y, [2.0, -0.5]);
    //! # Ok::<(), kernelet::Error>(())
    //! ```
    //!
    //! # Backward
    //!
    //! The chain rule, from the end: the gradient of y becomes that of z, and from there on the
    //! layer is linear. What does the activation's derivative depend on? On the sign of z, which is
    //! that of y: nothing has to be kept but y. (The kernels' ReLU does the same; an activation
    //! whose derivative cannot be told from its output keeps z in a slice of its own.)
    //!
    //! ```
    //! use kernelet::kernels::{gemm::Write, linear};
    //! use kernelet::{Cpu, shape::LinearShape};
    //! # const SLOPE: f32 = 0.125;
    //!
    //! /// dw and db (overwritten) and dx from dy, of which dz is left; y is what `forward` wrote.
    //! fn backward(
    //!     cpu: &Cpu,
    //!     shape: LinearShape,
    //!     (x, w, y): (&[f32], &[f32], &[f32]),
    //!     dy: &mut [f32],
    //!     (dx, dw, db): (&mut [f32], &mut [f32], &mut [f32]),
    //! ) {
    //!     assert_eq!(y.len(), dy.len(), "y and dy differ in length");
    //!     for (dy, &y) in dy.iter_mut().zip(y) {
    //!         *dy = if y > 0.0 { *dy } else { SLOPE * *dy };
    //!     }
    //!     linear::backward_weights(cpu, shape, x, dy, Write::Overwrite, dw, db);
    //!     linear::backward_input(cpu, shape, dy, w, dx);
    //! }
    //!
    //! let shape = LinearShape { rows: 2, inputs: 2, outputs: 1 };
    //! let (x, w, y, mut dy) = ([1.0, 2.0, -3.0, 0.0], [1.0, 1.0], [2.0, -0.5], [1.0, 8.0]);
    //! let (mut dx, mut dw, mut db) = ([0.0; 4], [0.0; 2], [0.0]);
    //! let gradients = (&mut dx[..], &mut dw[..], &mut db[..]);
    //! backward(&Cpu::detect()?, shape, (&x, &w, &y), &mut dy, gradients);
    //! assert_eq!(dy, [1.0, 1.0]);
    //! assert_eq!((dx, dw, db), ([1.0; 4], [-2.0, 2.0], [2.0]));
    //! # Ok::<(), kernelet::Error>(())
    //! ```
    //!
    //! # Check it
    //!
    //! A backward pass that is almost right trains, a little worse, and nobody notices. Finite
    //! differences notice: (L(w + h) - L(w - h)) / 2h is dL/dw but for an error of the order of
    //! h^2. In `f32` the difference of two losses drowns in rounding, so the loss is computed by
    //! [`reference`](mod@crate::reference), whose functions have the kernels' names and take `f64`.
    //! The loop is made generic in the same way.
    //!
    //! Here the layer has a softmax with cross-entropy behind it. Away from z = 0, where there is
    //! no derivative, the two gradients agree to what `f32` can hold. Then one step of gradient
    //! descent along them has to lower the loss.
    //!
    //! ```
    //! use kernelet::kernels::{gemm::Write, linear, softmax_cross_entropy};
    //! use kernelet::kernels::momentum::{self, Momentum};
    //! use kernelet::reference::{self, Float};
    //! use kernelet::{Cpu, shape::{LinearShape, MatrixShape}};
    //!
    //! fn leaky<T: Float>(y: &mut [T]) {
    //!     for y in y {
    //!         *y = if *y > T::ZERO { *y } else { T::from_f64(0.125) * *y };
    //!     }
    //! }
    //!
    //! const SHAPE: LinearShape = LinearShape { rows: 3, inputs: 4, outputs: 3 };
    //! const LOGITS: MatrixShape = MatrixShape { rows: 3, cols: 3 };
    //! const LABELS: [u32; 3] = [2, 0, 1];
    //!
    //! /// The summed loss, by the twins.
    //! fn loss(x: &[f64], w: &[f64], b: &[f64]) -> f64 {
    //!     let mut y = [0.0; 9];
    //!     reference::linear::forward(SHAPE, x, w, b, &mut y);
    //!     leaky(&mut y);
    //!     reference::softmax_cross_entropy::forward(LOGITS, &y, &LABELS).loss
    //! }
    //!
    //! // By the kernels, from numbers between -1 and 1 that both precisions hold exactly.
    //! let cpu = Cpu::detect()?;
    //! let x: [f32; 12] = std::array::from_fn(|i| (i * 37 % 16) as f32 / 8.0 - 1.0);
    //! let mut w: [f32; 12] = std::array::from_fn(|i| (i * 29 % 16) as f32 / 8.0 - 1.0);
    //! let mut b = [0.25, -0.125, 0.5];
    //! let (mut y, mut dy) = ([0.0; 9], [0.0; 9]);
    //! linear::forward(&cpu, SHAPE, &x, &w, &b, &mut y);
    //! leaky(&mut y);
    //! softmax_cross_entropy::forward_backward(&cpu, LOGITS, &y, &LABELS, 1.0, &mut dy);
    //! for (dy, &y) in dy.iter_mut().zip(&y) {
    //!     *dy = if y > 0.0 { *dy } else { 0.125 * *dy };
    //! }
    //! let (mut dw, mut db) = ([0.0; 12], [0.0; 3]);
    //! linear::backward_weights(&cpu, SHAPE, &x, &dy, Write::Overwrite, &mut dw, &mut db);
    //!
    //! // By differences.
    //! let (x64, w64, b64) = (x.map(f64::from), w.map(f64::from), b.map(f64::from));
    //! const H: f64 = 1e-5;
    //! for i in 0..w.len() {
    //!     let (mut above, mut below) = (w64, w64);
    //!     above[i] += H;
    //!     below[i] -= H;
    //!     let difference = (loss(&x64, &above, &b64) - loss(&x64, &below, &b64)) / (2.0 * H);
    //!     assert!((f64::from(dw[i]) - difference).abs() < 1e-5, "{} {difference}", dw[i]);
    //! }
    //! # for i in 0..b.len() {
    //! #     let (mut above, mut below) = (b64, b64);
    //! #     above[i] += H;
    //! #     below[i] -= H;
    //! #     let difference = (loss(&x64, &w64, &above) - loss(&x64, &w64, &below)) / (2.0 * H);
    //! #     assert!((f64::from(db[i]) - difference).abs() < 1e-5, "{} {difference}", db[i]);
    //! # }
    //!
    //! // A step along them.
    //! let settings = Momentum { learning_rate: 0.1, momentum: 0.0 };
    //! let (mut vw, mut vb) = ([0.0; 12], [0.0; 3]);
    //! momentum::update(&cpu, settings, &mut w, &mut vw, &dw);
    //! momentum::update(&cpu, settings, &mut b, &mut vb, &db);
    //! assert!(loss(&x64, &w.map(f64::from), &b.map(f64::from)) < loss(&x64, &w64, &b64));
    //! # Ok::<(), kernelet::Error>(())
    //! ```
    //!
    //! # A residual connection
    //!
    //! y = x + max(x w + b, 0) sends dy back along both ways, which add up.
    //! [`linear::backward_input`] overwrites its output; the product beneath it, [`gemm`], can add
    //! to what is there. So dx begins as a copy of dy:
    //!
    //! ```
    //! use kernelet::kernels::gemm::{self, GemmShape, Matrix, Write};
    //! use kernelet::kernels::{linear, relu};
    //! use kernelet::{Cpu, shape::LinearShape};
    //!
    //! let cpu = Cpu::detect()?;
    //! let shape = LinearShape { rows: 1, inputs: 2, outputs: 2 };
    //! let (x, w, b) = ([1.0, -1.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.5]);
    //! // r is kept for the backward pass.
    //! let mut r = [0.0; 2];
    //! linear::forward_relu(&cpu, shape, &x, &w, &b, &mut r);
    //! let y = [x[0] + r[0], x[1] + r[1]];
    //! assert_eq!(y, [2.0, -1.0]);
    //!
    //! let (dy, mut dz) = ([1.0, 1.0], [0.0; 2]);
    //! relu::backward(&cpu, &r, &dy, &mut dz);
    //! let mut dx = dy;
    //! let product = GemmShape { m: shape.rows, k: shape.outputs, n: shape.inputs };
    //! gemm::gemm(&cpu, product, Matrix::N(&dz), Matrix::T(&w), Write::Add, &mut dx);
    //! assert_eq!(dx, [2.0, 1.0]);
    //! # Ok::<(), kernelet::Error>(())
    //! ```
    //!
    //! # What else to know
    //!
    //! - Kernels allocate nothing once their threads have their buffers. Keep the slices from step
    //!   to step, as [`nn::mlp::Workspace`](crate::nn::mlp::Workspace) does.
    //! - Kernels choose their instruction set when the program runs. A loop of one's own has the
    //!   one that the program is compiled for: on x86-64 that of 2003, unless `target-cpu` says
    //!   otherwise. For an activation behind a product of some size it makes little difference.
    //! - Kernels take subnormals for zeros; the caller's own arithmetic is left as it was. A loop
    //!   that meets many of them is slow.
    //! - A large loop can be shared out among the same threads: rayon's parallel iterators use them
    //!   inside [`Cpu::install`](crate::Cpu::install), if there is more than one.
    //! - `cargo bench` and `tests/` in the repository hold every kernel against its twin. The twins
    //!   are public so that you can do the same.
    //!
    //! [`linear::forward`]: crate::kernels::linear::forward
    //! [`linear::backward_input`]: crate::kernels::linear::backward_input
    //! [`gemm`]: fn@crate::kernels::gemm::gemm
}
