//! The study's convolutional network: 3x3 convolution -> ReLU -> batch norm -> 2x2 max pool -> linear -> dropout ->
//! ReLU -> linear -> softmax.
//!
//! ```
//! use kernelet::kernels::adam::Adam;
//! use kernelet::kernels::relu_batch_norm::Normalization;
//! use kernelet::nn::cnn::{AdamState, Cnn, CnnShape, EPSILON, Regularization, Workspace};
//!
//! let cpu = kernelet::Cpu::detect()?;
//! // Two images of 4 x 4, one light at the top, the other at the bottom.
//! let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 2) };
//! let x = [[[1.0; 8], [0.0; 8]], [[0.0; 8], [1.0; 8]]];
//! let (x, labels) = (x.as_flattened().as_flattened(), [0, 1]);
//! let (mut cnn, mut state) = (Cnn::xavier(shape, 1), AdamState::new(shape));
//! let (mut work, adam) = (Workspace::default(), Adam { learning_rate: 0.01, ..Adam::default() });
//! let mut losses = Vec::new();
//! for _ in 0..100 {
//!     let plain = Regularization::default();
//!     let (tally, _) = cnn.adam_step(&cpu, &mut work, x, &labels, adam, plain, &mut state);
//!     losses.push(tally.mean_loss());
//! }
//! assert!(losses[99] < 0.1 * losses[0]);
//!
//! // Evaluation normalises with moments of the caller's choice, here those of the last step.
//! let mut normalization = Normalization::identity(shape.filters);
//! normalization.set(work.batch_moments(), EPSILON);
//! assert_eq!(cnn.evaluate(&cpu, &mut work, &normalization, x, &labels).hits, 2);
//! # Ok::<(), kernelet::Error>(())
//! ```

use crate::cpu::Cpu;
use crate::kernels::adam::{self, Adam};
use crate::kernels::conv_block::ConvBlockShape;
use crate::kernels::dropout::{self, Dropout};
use crate::kernels::gemm::Write;
use crate::kernels::relu_batch_norm::{self, Moments, Normalization};
use crate::kernels::softmax_cross_entropy::{self, Tally};
use crate::kernels::{conv_block, conv2d, linear, softmax};
use crate::nn::init::truncated_xavier;
use crate::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window, check_len,
};

/// Added to the variance before its square root is taken.
pub const EPSILON: f64 = 1e-5;

/// The sizes of a [`Cnn`].
///
/// ```
/// use kernelet::nn::CnnShape;
///
/// // The study's, and a smaller one for images of three channels.
/// let shape = CnnShape::study(784, 10);
/// assert_eq!((shape.pixels(), shape.pooled()), (784, 6272));
/// let small = CnnShape { height: 8, width: 8, channels: 3, filters: 4, hidden: 16, classes: 2 };
/// assert_eq!((small.pixels(), small.pooled()), (192, 64));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CnnShape {
    /// Rows of an image, 28 for the letters.
    pub height: usize,
    /// Columns of an image, 28 for the letters.
    pub width: usize,
    /// Values per pixel, 1 for the letters.
    pub channels: usize,
    /// Filters of the convolution, 32 in the study.
    pub filters: usize,
    /// Units of the first linear layer, 784 in the study.
    pub hidden: usize,
    /// Classes, 10 for the letters.
    pub classes: usize,
}

impl CnnShape {
    /// The study's network with `hidden` units and `classes` classes.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// assert_eq!(CnnShape::study(784, 10).filters, 32);
    /// ```
    #[must_use]
    pub const fn study(hidden: usize, classes: usize) -> Self {
        Self { height: 28, width: 28, channels: 1, filters: 32, hidden, classes }
    }

    /// The convolution of `batch` images.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// let output = CnnShape::study(784, 10).convolution(5).output();
    /// assert_eq!((output.batch, output.image_len()), (5, 28 * 28 * 32));
    /// ```
    #[must_use]
    pub fn convolution(self, batch: usize) -> Conv2dShape {
        let Self { height, width, channels, filters, .. } = self;
        Conv2dShape {
            input: ImageShape { batch, height, width, channels },
            window: Window::square(3, 1, Padding::Same),
            filters,
        }
    }

    /// The pool of `batch` images.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// assert_eq!(CnnShape::study(784, 10).pool(5).output().image_len(), 14 * 14 * 32);
    /// ```
    #[must_use]
    pub fn pool(self, batch: usize) -> PoolShape {
        PoolShape {
            input: self.convolution(batch).output(),
            window: Window::square(2, 2, Padding::Same),
        }
    }

    /// The convolution and the pool of `batch` images.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// let shape = CnnShape::study(784, 10);
    /// assert_eq!(shape.block(5).pool(), shape.pool(5));
    /// ```
    #[must_use]
    pub fn block(self, batch: usize) -> ConvBlockShape {
        ConvBlockShape { convolution: self.convolution(batch), pool: self.pool(batch).window }
    }

    /// Values per image after the pool: the inputs of the first linear layer.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// assert_eq!(CnnShape::study(784, 10).pooled(), 6272);
    /// ```
    ///
    /// # Panics
    /// If the product overflows.
    #[must_use]
    pub fn pooled(self) -> usize {
        self.pool(1).output().image_len()
    }

    /// Values per image.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// assert_eq!(CnnShape::study(784, 10).pixels(), 784);
    /// ```
    ///
    /// # Panics
    /// If the product overflows.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.convolution(1).input.image_len()
    }

    /// Number of weights and biases; `usize::MAX` if it is not below that.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    ///
    /// let w0_b0 = (3 * 3 * 1 + 1) * 32;
    /// let w1_b1 = (14 * 14 * 32 + 1) * 784;
    /// assert_eq!(CnnShape::study(784, 10).parameters(), w0_b0 + w1_b1 + 785 * 10);
    /// ```
    ///
    /// # Panics
    /// If an image's sizes overflow.
    #[must_use]
    pub fn parameters(self) -> usize {
        let Self { filters, hidden, classes, .. } = self;
        let layer = |inputs: usize, outputs| inputs.saturating_add(1).saturating_mul(outputs);
        let convolution = layer(self.convolution(1).taps(), filters);
        let linear = layer(self.pooled(), hidden).saturating_add(layer(hidden, classes));
        convolution.saturating_add(linear)
    }

    fn hidden_layer(self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.pooled(), outputs: self.hidden }
    }

    fn output_layer(self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.hidden, outputs: self.classes }
    }
}

/// The weights of the network, or anything of their shape: gradients and Adam's moments are `Cnn`s too.
///
/// ```
/// use kernelet::nn::{Cnn, CnnShape};
///
/// let cnn = Cnn::zeros(CnnShape::study(784, 10));
/// let lens = cnn.arrays().map(|(_, _, values)| values.len());
/// assert_eq!(lens, [288, 32, 6272 * 784, 784, 7840, 10]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Cnn {
    /// The sizes.
    pub shape: CnnShape,
    /// Convolution kernel (3, 3, channels, filters).
    pub w0: Vec<f32>,
    /// Convolution biases (filters).
    pub b0: Vec<f32>,
    /// Weights of the first linear layer (pooled, hidden).
    pub w1: Vec<f32>,
    /// Biases of the first linear layer (hidden).
    pub b1: Vec<f32>,
    /// Weights of the second linear layer (hidden, classes).
    pub w2: Vec<f32>,
    /// Biases of the second linear layer (classes).
    pub b2: Vec<f32>,
}

/// What is added to the mean cross-entropy, and what is dropped, during training.
///
/// ```
/// use kernelet::kernels::dropout::Dropout;
/// use kernelet::nn::cnn::Regularization;
///
/// // Dropout takes the number of the step, so that every step drops other units.
/// let of_step = |step| Regularization {
///     l2: 0.01,
///     dropout: Some(Dropout { keep: 0.5, seed: 1, step }),
/// };
/// assert_ne!(of_step(0), of_step(1));
/// assert_eq!(Regularization::default(), Regularization { l2: 0.0, dropout: None });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regularization {
    /// Factor lambda of the penalty `lambda (sum(w1^2) + sum(w2^2)) / 2`.
    pub l2: f32,
    /// Which hidden units are kept; `None` keeps all.
    pub dropout: Option<Dropout>,
}

impl Cnn {
    /// All weights zero.
    ///
    /// ```
    /// use kernelet::nn::{Cnn, CnnShape};
    ///
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 2) };
    /// let cnn = Cnn::zeros(shape);
    /// assert_eq!((cnn.w0.len(), cnn.w1.len(), cnn.w2.len()), (18, 64, 16));
    /// ```
    #[must_use]
    pub fn zeros(shape: CnnShape) -> Self {
        Self { w1: vec![0.0; shape.pooled() * shape.hidden], ..Self::zeros_but_w1(shape) }
    }

    fn zeros_but_w1(shape: CnnShape) -> Self {
        let CnnShape { filters, hidden, classes, .. } = shape;
        Self {
            shape,
            w0: vec![0.0; shape.convolution(1).taps() * filters],
            b0: vec![0.0; filters],
            w1: Vec::new(),
            b1: vec![0.0; hidden],
            w2: vec![0.0; hidden * classes],
            b2: vec![0.0; classes],
        }
    }

    /// The study's start: truncated Xavier (see [`truncated_xavier`]), biases too. A convolution's
    /// fans count its window's elements; a vector's are both its length.
    ///
    /// ```
    /// use kernelet::nn::{Cnn, CnnShape};
    ///
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 2) };
    /// assert_eq!(Cnn::xavier(shape, 1), Cnn::xavier(shape, 1));
    /// assert_ne!(Cnn::xavier(shape, 1), Cnn::xavier(shape, 2));
    /// ```
    #[must_use]
    pub fn xavier(shape: CnnShape, seed: u64) -> Self {
        let CnnShape { channels, filters, hidden, classes, .. } = shape;
        let area = shape.convolution(1).window.area();
        let mut cnn = Self::zeros(shape);
        let Self { w0, b0, w1, b1, w2, b2, .. } = &mut cnn;
        truncated_xavier(w0, area * channels, area * filters, seed, 0);
        truncated_xavier(b0, filters, filters, seed, 1);
        truncated_xavier(w1, shape.pooled(), hidden, seed, 2);
        truncated_xavier(b1, hidden, hidden, seed, 3);
        truncated_xavier(w2, hidden, classes, seed, 4);
        truncated_xavier(b2, classes, classes, seed, 5);
        cnn
    }

    /// The penalty `l2 (sum(w1^2) + sum(w2^2)) / 2`; 0 without looking if `l2` is.
    ///
    /// ```
    /// use kernelet::nn::{Cnn, CnnShape};
    ///
    /// let shape = CnnShape { height: 4, width: 4, filters: 1, ..CnnShape::study(1, 2) };
    /// let cnn = Cnn { w2: vec![3.0, 4.0], ..Cnn::zeros(shape) };
    /// assert_eq!((cnn.penalty(0.0), cnn.penalty(0.5)), (0.0, 6.25));
    /// ```
    #[must_use]
    pub fn penalty(&self, l2: f32) -> f64 {
        let squares = |w: &[f32]| w.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        if l2 == 0.0 { 0.0 } else { penalty(l2, squares(&self.w1) + squares(&self.w2)) }
    }

    /// The arrays, with the names and the shapes that they have in files.
    ///
    /// ```
    /// use kernelet::nn::{Cnn, CnnShape};
    ///
    /// let cnn = Cnn::zeros(CnnShape::study(8, 10));
    /// let (name, shape, _) = &cnn.arrays()[0];
    /// assert_eq!((*name, &shape[..]), ("w0", &[3, 3, 1, 32][..]));
    /// ```
    #[must_use]
    pub fn arrays(&self) -> [(&'static str, Vec<usize>, &[f32]); 6] {
        let CnnShape { channels, filters, hidden, classes, .. } = self.shape;
        [
            ("w0", vec![3, 3, channels, filters], &self.w0),
            ("b0", vec![filters], &self.b0),
            ("w1", vec![self.shape.pooled(), hidden], &self.w1),
            ("b1", vec![hidden], &self.b1),
            ("w2", vec![hidden, classes], &self.w2),
            ("b2", vec![classes], &self.b2),
        ]
    }

    /// Takes over the weights of a network of the same shape, without an allocation.
    ///
    /// ```
    /// use kernelet::nn::{Cnn, CnnShape};
    ///
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 2) };
    /// let (mut copy, cnn) = (Cnn::zeros(shape), Cnn::xavier(shape, 1));
    /// copy.copy_from(&cnn);
    /// assert_eq!(copy, cnn);
    /// ```
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn copy_from(&mut self, other: &Self) {
        let Self { shape, w0, b0, w1, b1, w2, b2 } = self;
        assert_eq!(*shape, other.shape, "a network of another shape");
        w0.copy_from_slice(&other.w0);
        b0.copy_from_slice(&other.b0);
        w1.copy_from_slice(&other.w1);
        b1.copy_from_slice(&other.b1);
        w2.copy_from_slice(&other.w2);
        b2.copy_from_slice(&other.b2);
    }

    /// Loss (without the penalty) and hits on a minibatch `x` (labels.len(), height, width,
    /// channels), normalised with its own moments, and in `gradients` (overwritten) those of the
    /// mean loss with the penalty.
    ///
    /// ```
    /// use kernelet::nn::cnn::{Cnn, CnnShape, Regularization, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 4) };
    /// let cnn = Cnn::zeros(shape);
    /// let (mut work, mut gradients) = (Workspace::default(), Cnn::zeros(shape));
    /// let plain = Regularization::default();
    /// let tally = cnn.gradients(&cpu, &mut work, &[0.5; 16], &[0], plain, &mut gradients);
    /// assert!((tally.mean_loss() - 4_f64.ln()).abs() < 1e-6);
    /// // Probabilities of 1/4 each, less the label's 1.
    /// for (db, exact) in gradients.b2.into_iter().zip([-0.75, 0.25, 0.25, 0.25]) {
    ///     assert!((db - exact).abs() < 1e-6);
    /// }
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If `x` or `gradients` does not fit the network, or a label is out of range.
    pub fn gradients(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[f32],
        labels: &[u32],
        regularization: Regularization,
        gradients: &mut Cnn,
    ) -> Tally {
        assert_eq!(self.shape, gradients.shape, "gradients have another shape than the network");
        let Cnn { w0, b0, w1, b1, w2, b2, .. } = gradients;
        let output = OutputGradients { b1, w2, b2 };
        let tally = self.output_gradients(cpu, work, x, labels, regularization, output);
        let layer = self.shape.hidden_layer(labels.len());
        let (pooled, dhidden, dpooled) = work.hidden_backward(layer);
        linear::backward_input(cpu, layer, dhidden, &self.w1, dpooled);
        linear::backward_weights(cpu, layer, pooled, dhidden, Write::Overwrite, w1, b1);
        self.block_gradients(cpu, work, x, labels.len(), w0, b0);
        for (dw, w) in [(w1, &self.w1), (w2, &self.w2)] {
            for (dw, w) in dw.iter_mut().zip(w) {
                *dw += regularization.l2 * w;
            }
        }
        tally
    }

    /// [`gradients`](Self::gradients) and Adam's update in one: the gradient of w1 is used where it
    /// arises and never written. Returns loss and hits, and the penalty, all before the update.
    /// (`adam.l2` is ignored: `regularization` has it, for w1 and w2.)
    ///
    /// ```
    /// use kernelet::kernels::adam::Adam;
    /// use kernelet::nn::cnn::{AdamState, Cnn, CnnShape, Regularization, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 2) };
    /// let (mut cnn, mut state) = (Cnn::xavier(shape, 1), AdamState::new(shape));
    /// let (mut work, adam) = (Workspace::default(), Adam::default());
    /// let x: Vec<f32> = (0..32).map(|i| (i % 5) as f32).collect();
    /// let l2 = Regularization { l2: 0.01, dropout: None };
    /// let expected = cnn.penalty(0.01);
    /// let (tally, penalty) = cnn.adam_step(&cpu, &mut work, &x, &[0, 1], adam, l2, &mut state);
    /// assert_eq!((tally.rows, state.step), (2, 1));
    /// assert!((penalty / expected - 1.0).abs() < 1e-5);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// As [`gradients`](Self::gradients), and if `state` is another network's.
    #[expect(clippy::too_many_arguments, reason = "a minibatch, the method, and its memory")]
    pub fn adam_step(
        &mut self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[f32],
        labels: &[u32],
        adam: Adam,
        regularization: Regularization,
        state: &mut AdamState,
    ) -> (Tally, f64) {
        assert_eq!(self.shape, state.m.shape, "Adam's state has another shape than the network");
        assert_eq!(self.shape, state.v.shape, "Adam's state has another shape than the network");
        let mut small = work.small_gradients(self.shape);
        let Cnn { b1, w2, b2, .. } = &mut small;
        let output = OutputGradients { b1, w2, b2 };
        let tally = self.output_gradients(cpu, work, x, labels, regularization, output);

        state.step += 1;
        let AdamState { step, m, v } = state;
        let step = *step;
        let plain = Adam { l2: 0.0, ..adam };
        let decayed = Adam { l2: regularization.l2, ..adam };
        let layer = self.shape.hidden_layer(labels.len());
        let (pooled, dhidden, dpooled) = work.hidden_backward(layer);
        let squares =
            linear::backward_adam(
                cpu,
                layer,
                pooled,
                dhidden,
                decayed,
                step,
                &mut self.w1,
                &mut m.w1,
                &mut v.w1,
                dpooled,
            ) + adam::update(cpu, decayed, step, &mut self.w2, &mut m.w2, &mut v.w2, &small.w2);
        let Cnn { w0, b0, .. } = &mut small;
        self.block_gradients(cpu, work, x, labels.len(), w0, b0);
        adam::update(cpu, plain, step, &mut self.w0, &mut m.w0, &mut v.w0, &small.w0);
        adam::update(cpu, plain, step, &mut self.b0, &mut m.b0, &mut v.b0, &small.b0);
        adam::update(cpu, plain, step, &mut self.b1, &mut m.b1, &mut v.b1, &small.b1);
        adam::update(cpu, plain, step, &mut self.b2, &mut m.b2, &mut v.b2, &small.b2);
        work.small_gradients = Some(small);
        (tally, penalty(regularization.l2, squares))
    }

    /// A minibatch forward, and backward as far as the hidden layer: what that and the block go on with is left
    /// behind in `work`.
    fn output_gradients(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[f32],
        labels: &[u32],
        Regularization { dropout, .. }: Regularization,
        OutputGradients { b1, w2, b2 }: OutputGradients,
    ) -> Tally {
        let shape = self.shape;
        let rows = labels.len();
        check_len("x", x.len(), rows, shape.pixels());
        work.fit(shape, rows, rows);
        work.fit_backward(shape, rows);
        let block = shape.block(rows);
        let (hidden_layer, output_layer) = (shape.hidden_layer(rows), shape.output_layer(rows));
        let Workspace { moments, normalization, .. } = work;
        let r = &mut work.r[..rows * block.convolution.output().image_len()];
        let pooled = &mut work.pooled[..rows * shape.pooled()];
        let argmax = &mut work.argmax[..pooled.len()];
        let hidden = &mut work.hidden[..rows * shape.hidden];
        let dhidden = &mut work.dhidden[..hidden.len()];
        let logits = &mut work.logits[..rows * shape.classes];
        let dlogits = &mut work.dlogits[..logits.len()];

        moments.clear();
        conv_block::forward(cpu, block, x, &self.w0, &self.b0, r, moments, pooled, argmax);
        normalization.set(moments, EPSILON);
        let pixels = block.pool().output().pixels();
        relu_batch_norm::forward_normalize_in_place(cpu, pixels, normalization, None, pooled);
        linear::forward_relu(cpu, hidden_layer, pooled, &self.w1, &self.b1, hidden);
        if let Some(dropout) = dropout {
            // The study drops before ReLU; ReLU keeps zeros and scales, so the order is the same.
            dropout::forward_in_place(cpu, dropout, hidden);
        }
        linear::forward(cpu, output_layer, hidden, &self.w2, &self.b2, logits);
        let logits_shape = MatrixShape { rows, cols: shape.classes };
        let mean = 1.0 / rows as f32;
        let tally = softmax_cross_entropy::forward_backward(
            cpu,
            logits_shape,
            logits,
            labels,
            mean,
            dlogits,
        );

        let write = Write::Overwrite;
        linear::backward_weights(cpu, output_layer, hidden, dlogits, write, w2, b2);
        linear::backward_input_relu(cpu, output_layer, dlogits, &self.w2, hidden, dhidden);
        if let Some(dropout) = dropout {
            dropout::backward_in_place(cpu, dropout, dhidden);
        }
        linear::column_sums(cpu, hidden_layer, dhidden, write, b1);
        tally
    }

    /// The gradients of w0 and b0, from what [`output_gradients`](Self::output_gradients) and the hidden layer's
    /// backward have left in `work`.
    fn block_gradients(
        &self,
        cpu: &Cpu,
        work: &Workspace,
        x: &[f32],
        rows: usize,
        w0: &mut [f32],
        b0: &mut [f32],
    ) {
        let block = self.shape.block(rows);
        let r = &work.r[..rows * block.convolution.output().image_len()];
        let pooled = &work.pooled[..rows * self.shape.pooled()];
        let (argmax, dpooled) = (&work.argmax[..pooled.len()], &work.dpooled[..pooled.len()]);
        let (normalization, write) = (&work.normalization, Write::Overwrite);
        conv_block::backward_weights(
            cpu,
            block,
            x,
            r,
            normalization,
            pooled,
            argmax,
            dpooled,
            write,
            w0,
            b0,
        );
    }

    /// Merges the moments of the convolution's rectified output on `x` (images, height, width,
    /// channels) into `moments`.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::Moments;
    /// use kernelet::nn::cnn::{Cnn, CnnShape, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = CnnShape { height: 4, width: 4, filters: 1, ..CnnShape::study(8, 2) };
    /// // The filter copies the image: only its middle is 1.
    /// let mut cnn = Cnn::zeros(shape);
    /// cnn.w0[4] = 1.0;
    /// let mut moments = Moments::new(1);
    /// cnn.moments(&cpu, &mut Workspace::default(), &[3.0; 2 * 16], &mut moments);
    /// assert_eq!((moments.count(), moments.mean()[0]), (32, 3.0));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If a size does not fit the network.
    pub fn moments(&self, cpu: &Cpu, work: &mut Workspace, x: &[f32], moments: &mut Moments) {
        let pixels = self.shape.pixels();
        let images = x.len() / pixels.max(1);
        check_len("x", x.len(), images, pixels);
        for x in x.chunks((CONVOLVED * pixels).max(1)) {
            let convolution = self.shape.convolution(x.len() / pixels);
            let len = convolution.input.batch * convolution.output().image_len();
            let r = at_least(&mut work.r, len);
            conv2d::forward_relu_moments(cpu, convolution, x, &self.w0, &self.b0, r, moments);
        }
    }

    /// Loss (without the penalty) and hits on `x` (labels.len(), height, width, channels), without
    /// dropout, normalised as given.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::Normalization;
    /// use kernelet::nn::cnn::{Cnn, CnnShape, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 4) };
    /// let (cnn, identity) = (Cnn::zeros(shape), Normalization::identity(shape.filters));
    /// let x = [0.5; 2 * 16];
    /// let tally = cnn.evaluate(&cpu, &mut Workspace::default(), &identity, &x, &[0, 3]);
    /// assert!((tally.mean_loss() - 4_f64.ln()).abs() < 1e-6);
    /// assert_eq!(tally.hits, 1);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If a size does not fit the network, or a label is out of range.
    pub fn evaluate(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        normalization: &Normalization,
        x: &[f32],
        labels: &[u32],
    ) -> Tally {
        let pixels = self.shape.pixels();
        check_len("x", x.len(), labels.len(), pixels);
        let mut tally = Tally::default();
        for (index, labels) in labels.chunks(BLOCK).enumerate() {
            let x = &x[index * BLOCK * pixels..][..labels.len() * pixels];
            let logits = self.logits(cpu, work, normalization, x, labels.len());
            let shape = MatrixShape { rows: labels.len(), cols: self.shape.classes };
            tally += softmax_cross_entropy::forward(cpu, shape, logits, labels);
        }
        tally
    }

    /// Class probabilities (images, classes) of `x` (images, height, width, channels), normalised
    /// as given.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::Normalization;
    /// use kernelet::nn::cnn::{Cnn, CnnShape, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 4) };
    /// let (cnn, identity) = (Cnn::zeros(shape), Normalization::identity(shape.filters));
    /// let mut probabilities = [0.0; 4];
    /// cnn.predict(&cpu, &mut Workspace::default(), &identity, &[0.5; 16], &mut probabilities);
    /// assert!(probabilities.iter().all(|p| (p - 0.25).abs() < 1e-6));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If a size does not fit the network.
    pub fn predict(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        normalization: &Normalization,
        x: &[f32],
        probabilities: &mut [f32],
    ) {
        let (pixels, classes) = (self.shape.pixels(), self.shape.classes);
        let images = x.len() / pixels.max(1);
        check_len("x", x.len(), images, pixels);
        check_len("probabilities", probabilities.len(), images, classes);
        for (index, probabilities) in probabilities.chunks_mut((BLOCK * classes).max(1)).enumerate()
        {
            let rows = probabilities.len() / classes;
            let x = &x[index * BLOCK * pixels..][..rows * pixels];
            let logits = self.logits(cpu, work, normalization, x, rows);
            let shape = MatrixShape { rows, cols: classes };
            softmax::forward(cpu, shape, logits, probabilities);
        }
    }

    /// Logits of one block of images.
    fn logits<'w>(
        &self,
        cpu: &Cpu,
        work: &'w mut Workspace,
        normalization: &Normalization,
        x: &[f32],
        rows: usize,
    ) -> &'w [f32] {
        let shape = self.shape;
        work.fit(shape, rows, rows.min(CONVOLVED));
        let pooled = &mut work.pooled[..rows * shape.pooled()];
        let per_step = (CONVOLVED * shape.pixels()).max(1);
        for (x, pooled) in
            x.chunks(per_step).zip(pooled.chunks_mut((CONVOLVED * shape.pooled()).max(1)))
        {
            let convolution = shape.convolution(x.len() / shape.pixels());
            let images = convolution.input.batch;
            let r = &mut work.r[..images * convolution.output().image_len()];
            let argmax = &mut work.argmax[..pooled.len()];
            conv2d::forward_relu(cpu, convolution, x, &self.w0, &self.b0, r);
            relu_batch_norm::forward_normalize_max_pool(
                cpu,
                shape.pool(images),
                r,
                normalization,
                pooled,
                argmax,
            );
        }
        let hidden = &mut work.hidden[..rows * shape.hidden];
        let logits = &mut work.logits[..rows * shape.classes];
        linear::forward_relu(cpu, shape.hidden_layer(rows), pooled, &self.w1, &self.b1, hidden);
        linear::forward(cpu, shape.output_layer(rows), hidden, &self.w2, &self.b2, logits);
        logits
    }
}

/// Images that pass through the linear layers together in evaluation, enough to make up for reading
/// w1; their pooled values are 13 MB.
const BLOCK: usize = 512;

/// Images that are convolved together in evaluation: their rectified outputs are 3 MB, which are
/// pooled while they are in the cache.
const CONVOLVED: usize = 32;

fn penalty(l2: f32, squares: f64) -> f64 {
    f64::from(l2) * squares / 2.0
}

/// Where the gradients go of what comes after w1.
struct OutputGradients<'a> {
    b1: &'a mut [f32],
    w2: &'a mut [f32],
    b2: &'a mut [f32],
}

/// What Adam remembers from step to step.
///
/// ```
/// use kernelet::nn::{Cnn, CnnShape, cnn::AdamState};
///
/// let shape = CnnShape::study(8, 10);
/// let state = AdamState::new(shape);
/// assert_eq!((state.step, state.m), (0, Cnn::zeros(shape)));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AdamState {
    /// Steps made.
    pub step: u64,
    /// First moments.
    pub m: Cnn,
    /// Second moments.
    pub v: Cnn,
}

impl AdamState {
    /// Before the first step.
    ///
    /// ```
    /// use kernelet::nn::{CnnShape, cnn::AdamState};
    ///
    /// assert_eq!(AdamState::new(CnnShape::study(8, 10)).step, 0);
    /// ```
    #[must_use]
    pub fn new(shape: CnnShape) -> Self {
        Self { step: 0, m: Cnn::zeros(shape), v: Cnn::zeros(shape) }
    }
}

/// Scratch of the passes: allocated by the first pass, kept for the next.
///
/// ```
/// use kernelet::kernels::relu_batch_norm::Normalization;
/// use kernelet::nn::cnn::{Cnn, CnnShape, Workspace};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let shape = CnnShape { height: 4, width: 4, filters: 2, ..CnnShape::study(8, 2) };
/// let (cnn, identity) = (Cnn::zeros(shape), Normalization::identity(shape.filters));
/// // One for batches of all sizes: it grows to the largest.
/// let mut work = Workspace::default();
/// for images in [1, 3, 2] {
///     let (x, labels) = (vec![0.5; images * 16], vec![0; images]);
///     assert_eq!(cnn.evaluate(&cpu, &mut work, &identity, &x, &labels).hits, images);
/// }
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Debug)]
pub struct Workspace {
    /// Rectified output of the convolution.
    r: Vec<f32>,
    moments: Moments,
    normalization: Normalization,
    pooled: Vec<f32>,
    argmax: Vec<u8>,
    dpooled: Vec<f32>,
    /// After ReLU and dropout.
    hidden: Vec<f32>,
    dhidden: Vec<f32>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
    /// Gradients of everything but w1, which is empty.
    small_gradients: Option<Cnn>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            r: Vec::new(),
            moments: Moments::new(0),
            normalization: Normalization::identity(0),
            pooled: Vec::new(),
            argmax: Vec::new(),
            dpooled: Vec::new(),
            hidden: Vec::new(),
            dhidden: Vec::new(),
            logits: Vec::new(),
            dlogits: Vec::new(),
            small_gradients: None,
        }
    }
}

impl Workspace {
    /// Bytes that training with minibatches of `rows` images takes in an empty workspace;
    /// `usize::MAX` if it is not below that. (The kernels' own buffers, which stay with their threads,
    /// are not in it.)
    ///
    /// # Panics
    /// If an image's sizes overflow.
    ///
    /// ```
    /// use kernelet::nn::{CnnShape, cnn::Workspace};
    ///
    /// let shape = CnnShape::study(784, 10);
    /// assert!(Workspace::bytes_to_train(shape, 32) < 6 << 20);
    /// // An evaluation takes the images a block at a time.
    /// let most = Workspace::bytes_to_evaluate(shape, 512);
    /// assert_eq!(Workspace::bytes_to_evaluate(shape, 100_000), most);
    /// ```
    #[must_use]
    pub fn bytes_to_train(shape: CnnShape, rows: usize) -> usize {
        let CnnShape { filters, hidden, classes, .. } = shape;
        let backward = (shape.pooled()).saturating_add(hidden).saturating_add(classes);
        let backward = floats(backward).saturating_mul(rows);
        // Mean and deviations in f64, and what normalises.
        let per_filter = filters.saturating_mul(2 * (size_of::<f64>() + size_of::<f32>()));
        let w1 = shape.pooled().saturating_mul(hidden);
        let small_gradients = floats(shape.parameters().saturating_sub(w1));
        forward_bytes(shape, rows, rows)
            .saturating_add(backward)
            .saturating_add(per_filter)
            .saturating_add(small_gradients)
    }

    /// Bytes that an evaluation of `rows` images takes in an empty workspace, as
    /// [`bytes_to_train`](Self::bytes_to_train).
    ///
    /// # Panics
    /// If an image's sizes overflow.
    #[must_use]
    pub fn bytes_to_evaluate(shape: CnnShape, rows: usize) -> usize {
        forward_bytes(shape, rows.min(BLOCK), rows.min(CONVOLVED))
    }

    /// The moments that the last minibatch was normalised with.
    ///
    /// ```
    /// use kernelet::nn::cnn::{Cnn, CnnShape, Regularization, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = CnnShape { height: 4, width: 4, filters: 1, ..CnnShape::study(8, 2) };
    /// // The filter copies the image: only its middle is 1.
    /// let mut cnn = Cnn::zeros(shape);
    /// cnn.w0[4] = 1.0;
    /// let (mut work, mut gradients) = (Workspace::default(), Cnn::zeros(shape));
    /// let plain = Regularization::default();
    /// cnn.gradients(&cpu, &mut work, &[3.0; 16], &[0], plain, &mut gradients);
    /// assert_eq!(work.batch_moments().mean(), [3.0]);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn batch_moments(&self) -> &Moments {
        &self.moments
    }

    /// Makes room for a forward pass of `rows` images, `convolved` of them at a time.
    fn fit(&mut self, shape: CnnShape, rows: usize, convolved: usize) {
        at_least(&mut self.r, convolved * shape.convolution(1).output().image_len());
        at_least(&mut self.pooled, rows * shape.pooled());
        let argmax = convolved * shape.pooled();
        if self.argmax.len() < argmax {
            self.argmax.resize(argmax, 0);
        }
        at_least(&mut self.hidden, rows * shape.hidden);
        at_least(&mut self.logits, rows * shape.classes);
    }

    /// Makes room for a minibatch's backward pass.
    fn fit_backward(&mut self, shape: CnnShape, rows: usize) {
        at_least(&mut self.dpooled, rows * shape.pooled());
        at_least(&mut self.dhidden, rows * shape.hidden);
        at_least(&mut self.dlogits, rows * shape.classes);
        if self.moments.mean().len() != shape.filters {
            self.moments = Moments::new(shape.filters);
            self.normalization = Normalization::identity(shape.filters);
        }
    }

    /// What the hidden layer was given, and its gradient, from which it makes that of what it was given.
    fn hidden_backward(&mut self, layer: LinearShape) -> (&[f32], &[f32], &mut [f32]) {
        let LinearShape { rows, inputs, outputs } = layer;
        let dhidden = &self.dhidden[..rows * outputs];
        (&self.pooled[..rows * inputs], dhidden, &mut self.dpooled[..rows * inputs])
    }

    /// Takes the gradients of everything but w1 out of the workspace.
    fn small_gradients(&mut self, shape: CnnShape) -> Cnn {
        match self.small_gradients.take() {
            Some(gradients) if gradients.shape == shape => gradients,
            _ => Cnn::zeros_but_w1(shape),
        }
    }
}

/// Bytes of so many floats.
const fn floats(count: usize) -> usize {
    count.saturating_mul(size_of::<f32>())
}

/// Bytes of what [`Workspace::fit`] makes room for.
fn forward_bytes(shape: CnnShape, rows: usize, convolved: usize) -> usize {
    let CnnShape { hidden, classes, .. } = shape;
    let rectified = floats(shape.convolution(1).output().image_len());
    let argmax = shape.pooled();
    let row = floats(shape.pooled().saturating_add(hidden).saturating_add(classes));
    let per_image = rectified.saturating_add(argmax).saturating_mul(convolved);
    per_image.saturating_add(row.saturating_mul(rows))
}

/// The first `len` elements of a buffer that grows if it must.
fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
