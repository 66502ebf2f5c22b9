//! A multilayer perceptron with one hidden layer: x -> linear -> ReLU -> linear -> softmax.
//!
//! ```
//! use kernelet::kernels::momentum::Momentum;
//! use kernelet::nn::mlp::{Mlp, MlpShape, Workspace};
//!
//! let cpu = kernelet::Cpu::detect()?;
//! let shape = MlpShape { inputs: 2, hidden: 4, classes: 2 };
//! let mut mlp = Mlp::xavier(shape, 1);
//! let (mut velocity, mut gradients) = (Mlp::zeros(shape), Mlp::zeros(shape));
//! let mut work = Workspace::default();
//! let (x, labels) = ([0.0, 1.0, 1.0, 0.0], [0, 1]);
//! let before = mlp.evaluate(&cpu, &mut work, &x, &labels);
//! for _ in 0..50 {
//!     mlp.gradients(&cpu, &mut work, &x, &labels, 1.0 / 2.0, &mut gradients);
//!     let settings = Momentum { learning_rate: 0.1, momentum: 0.9 };
//!     mlp.momentum_step(&cpu, settings, &mut velocity, &gradients);
//! }
//! let after = mlp.evaluate(&cpu, &mut work, &x, &labels);
//! assert!(after.mean_loss() < 0.1 * before.mean_loss() && after.hits == 2);
//! # Ok::<(), kernelet::Error>(())
//! ```

use crate::cpu::Cpu;
use crate::kernels::gemm::Write;
use crate::kernels::input::Input;
use crate::kernels::softmax_cross_entropy::{self, Tally};
use crate::kernels::{linear, momentum, softmax};
use crate::nn::init::xavier_normal;
use crate::shape::{LinearShape, MatrixShape, check_len};

/// Values of a hidden layer's block of rows: 4 MB, which stay in the last-level cache between one
/// kernel and the next.
const BLOCK: usize = 1 << 20;

/// Rows that pass through all layers together: a [`BLOCK`], or as many as a matrix product needs to
/// run at full speed. Measured: at 100 units 10,240 rows take 0.8 of the time of 1,024; at 1,000
/// units any number from 512 to 5,120 takes the same.
fn block_rows(hidden: usize) -> usize {
    (BLOCK / hidden.max(1)).clamp(1024, 10_240)
}

/// The sizes of an [`Mlp`].
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
///
/// // The study's.
/// let shape = MlpShape { inputs: 784, hidden: 1000, classes: 10 };
/// assert_eq!(Mlp::zeros(shape).w_h.len(), 784_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlpShape {
    /// Values per sample, 784 for the letters.
    pub inputs: usize,
    /// Hidden units.
    pub hidden: usize,
    /// Classes, 10 for the letters.
    pub classes: usize,
}

impl MlpShape {
    /// Number of weights and biases; `usize::MAX` if it is not below that.
    ///
    /// ```
    /// use kernelet::nn::MlpShape;
    ///
    /// let shape = MlpShape { inputs: 784, hidden: 1000, classes: 10 };
    /// assert_eq!(shape.parameters(), 785 * 1000 + 1001 * 10);
    /// ```
    #[must_use]
    pub const fn parameters(self) -> usize {
        let Self { inputs, hidden, classes } = self;
        let into_hidden = inputs.saturating_add(1).saturating_mul(hidden);
        into_hidden.saturating_add(hidden.saturating_add(1).saturating_mul(classes))
    }

    fn hidden_layer(self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.inputs, outputs: self.hidden }
    }

    fn output_layer(self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.hidden, outputs: self.classes }
    }
}

/// The weights of a perceptron with one hidden layer, or anything of their shape: gradients and
/// velocities are `Mlp`s too. All row-major.
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
///
/// let shape = MlpShape { inputs: 2, hidden: 3, classes: 2 };
/// let mlp = Mlp { b_o: vec![0.5, -0.5], ..Mlp::xavier(shape, 1) };
/// // The weight from input 1 to hidden unit 2.
/// let weight = mlp.w_h[shape.hidden + 2];
/// assert_eq!(Some(&weight), mlp.w_h.last());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// The sizes.
    pub shape: MlpShape,
    /// Hidden weights (inputs, hidden).
    pub w_h: Vec<f32>,
    /// Hidden biases (hidden).
    pub b_h: Vec<f32>,
    /// Output weights (hidden, classes).
    pub w_o: Vec<f32>,
    /// Output biases (classes).
    pub b_o: Vec<f32>,
}

impl Mlp {
    /// All weights zero.
    ///
    /// ```
    /// use kernelet::nn::{Mlp, MlpShape};
    ///
    /// let mlp = Mlp::zeros(MlpShape { inputs: 2, hidden: 3, classes: 2 });
    /// assert_eq!((mlp.w_h.len(), mlp.b_h.len(), mlp.w_o.len(), mlp.b_o.len()), (6, 3, 6, 2));
    /// ```
    #[must_use]
    pub fn zeros(shape: MlpShape) -> Self {
        let MlpShape { inputs, hidden, classes } = shape;
        Self {
            shape,
            w_h: vec![0.0; inputs * hidden],
            b_h: vec![0.0; hidden],
            w_o: vec![0.0; hidden * classes],
            b_o: vec![0.0; classes],
        }
    }

    /// The study's start: weights from N(0, 2 / (inputs + outputs)), biases zero.
    ///
    /// ```
    /// use kernelet::nn::{Mlp, MlpShape};
    ///
    /// let shape = MlpShape { inputs: 784, hidden: 8, classes: 10 };
    /// assert_eq!(Mlp::xavier(shape, 1), Mlp::xavier(shape, 1));
    /// assert_ne!(Mlp::xavier(shape, 1), Mlp::xavier(shape, 2));
    /// assert_eq!(Mlp::xavier(shape, 1).b_h, [0.0; 8]);
    /// ```
    #[must_use]
    pub fn xavier(shape: MlpShape, seed: u64) -> Self {
        let mut mlp = Self::zeros(shape);
        xavier_normal(&mut mlp.w_h, shape.inputs, shape.hidden, seed, 0);
        xavier_normal(&mut mlp.w_o, shape.hidden, shape.classes, seed, 1);
        mlp
    }

    /// The arrays, with the names and the shapes that they have in files.
    ///
    /// ```
    /// use kernelet::nn::{Mlp, MlpShape};
    ///
    /// let mlp = Mlp::zeros(MlpShape { inputs: 2, hidden: 3, classes: 2 });
    /// let shapes = mlp.arrays().map(|(name, shape, _)| (name, shape));
    /// assert_eq!(shapes[..2], [("w_h", vec![2, 3]), ("b_h", vec![3])]);
    /// ```
    #[must_use]
    pub fn arrays(&self) -> [(&'static str, Vec<usize>, &[f32]); 4] {
        let MlpShape { inputs, hidden, classes } = self.shape;
        [
            ("w_h", vec![inputs, hidden], &self.w_h),
            ("b_h", vec![hidden], &self.b_h),
            ("w_o", vec![hidden, classes], &self.w_o),
            ("b_o", vec![classes], &self.b_o),
        ]
    }

    /// Takes over the weights of a network of the same shape, without an allocation.
    ///
    /// ```
    /// use kernelet::nn::{Mlp, MlpShape};
    ///
    /// let shape = MlpShape { inputs: 2, hidden: 3, classes: 2 };
    /// let (mut copy, mlp) = (Mlp::zeros(shape), Mlp::xavier(shape, 1));
    /// copy.copy_from(&mlp);
    /// assert_eq!(copy, mlp);
    /// ```
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn copy_from(&mut self, other: &Self) {
        let Self { shape, w_h, b_h, w_o, b_o } = self;
        assert_eq!(*shape, other.shape, "a network of another shape");
        w_h.copy_from_slice(&other.w_h);
        b_h.copy_from_slice(&other.b_h);
        w_o.copy_from_slice(&other.w_o);
        b_o.copy_from_slice(&other.b_o);
    }

    /// Loss and hits on `x` (labels.len(), inputs), floats or bytes (see [`input`](crate::kernels::input)).
    ///
    /// ```
    /// use kernelet::nn::mlp::{Mlp, MlpShape, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// // Without weights all classes are equally likely, and of equals the first counts.
    /// let mlp = Mlp::zeros(MlpShape { inputs: 2, hidden: 3, classes: 4 });
    /// let tally = mlp.evaluate(&cpu, &mut Workspace::default(), &[1.0, 2.0, 3.0, 4.0], &[0, 3]);
    /// assert!((tally.mean_loss() - 4_f64.ln()).abs() < 1e-6);
    /// assert_eq!(tally.hits, 1);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If `x` does not fit the labels and the network's inputs, or a label is out of range.
    pub fn evaluate<T: Input>(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[T],
        labels: &[u32],
    ) -> Tally {
        check_len("x", x.len(), labels.len(), self.shape.inputs);
        let mut tally = Tally::default();
        for (x, labels) in blocks(x, labels, self.shape) {
            let Activations { logits, .. } = self.forward(cpu, work, x, labels.len());
            let shape = MatrixShape { rows: labels.len(), cols: self.shape.classes };
            tally += softmax_cross_entropy::forward(cpu, shape, logits, labels);
        }
        tally
    }

    /// Class probabilities (rows, classes) of `x` (rows, inputs), floats or bytes.
    ///
    /// ```
    /// use kernelet::nn::mlp::{Mlp, MlpShape, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let mlp = Mlp::zeros(MlpShape { inputs: 2, hidden: 3, classes: 4 });
    /// let mut probabilities = [0.0; 4];
    /// mlp.predict(&cpu, &mut Workspace::default(), &[1.0, 2.0], &mut probabilities);
    /// assert!(probabilities.iter().all(|p| (p - 0.25).abs() < 1e-6));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the slices do not fit the network's sizes.
    pub fn predict<T: Input>(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[T],
        probabilities: &mut [f32],
    ) {
        let MlpShape { inputs, classes, .. } = self.shape;
        let rows = x.len() / inputs.max(1);
        check_len("x", x.len(), rows, inputs);
        check_len("probabilities", probabilities.len(), rows, classes);
        let block = block_rows(self.shape.hidden);
        let blocks = probabilities.chunks_mut((block * classes).max(1));
        for (index, probabilities) in blocks.enumerate() {
            let rows = probabilities.len() / classes;
            let x = &x[index * block * inputs..][..rows * inputs];
            let Activations { logits, .. } = self.forward(cpu, work, x, rows);
            softmax::forward(cpu, MatrixShape { rows, cols: classes }, logits, probabilities);
        }
    }

    /// Loss and hits on `x` (labels.len(), inputs), floats or bytes, and in `gradients` (overwritten) `scale` times
    /// the sum of the samples' gradients: 1 for the sum, 1 / samples for the mean.
    ///
    /// ```
    /// use kernelet::nn::mlp::{Mlp, MlpShape, Workspace};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let mlp = Mlp::zeros(MlpShape { inputs: 2, hidden: 3, classes: 4 });
    /// let mut gradients = mlp.clone();
    /// mlp.gradients(&cpu, &mut Workspace::default(), &[1.0, 2.0], &[0], 1.0, &mut gradients);
    /// // Probabilities of 1/4 each, less the label's 1.
    /// for (db, exact) in gradients.b_o.into_iter().zip([-0.75, 0.25, 0.25, 0.25]) {
    ///     assert!((db - exact).abs() < 1e-6);
    /// }
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// As [`evaluate`](Self::evaluate), and if `gradients` has another shape.
    pub fn gradients<T: Input>(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[T],
        labels: &[u32],
        scale: f32,
        gradients: &mut Mlp,
    ) -> Tally {
        let shape = self.shape;
        assert_eq!(shape, gradients.shape, "gradients have another shape than the network");
        check_len("x", x.len(), labels.len(), shape.inputs);
        let mut tally = Tally::default();
        let mut write = Write::Overwrite;
        for (x, labels) in blocks(x, labels, shape) {
            let rows = labels.len();
            let (hidden_layer, output_layer) = (shape.hidden_layer(rows), shape.output_layer(rows));
            let Activations { hidden, logits, dlogits, dhidden } = self.forward(cpu, work, x, rows);
            let logits_shape = MatrixShape { rows, cols: shape.classes };
            tally += softmax_cross_entropy::forward_backward(
                cpu,
                logits_shape,
                logits,
                labels,
                scale,
                dlogits,
            );
            let Mlp { w_h, b_h, w_o, b_o, .. } = gradients;
            linear::backward_weights(cpu, output_layer, hidden, dlogits, write, w_o, b_o);
            linear::backward_input_relu(cpu, output_layer, dlogits, &self.w_o, hidden, dhidden);
            linear::backward_weights(cpu, hidden_layer, x, dhidden, write, w_h, b_h);
            write = Write::Add;
        }
        if write == Write::Overwrite {
            *gradients = Mlp::zeros(shape);
        }
        tally
    }

    /// One step of gradient descent with momentum: v = momentum v + rate g; w = w - v.
    ///
    /// ```
    /// use kernelet::kernels::momentum::Momentum;
    /// use kernelet::nn::{Mlp, MlpShape};
    ///
    /// let cpu = kernelet::Cpu::detect()?;
    /// let shape = MlpShape { inputs: 2, hidden: 3, classes: 2 };
    /// let (mut mlp, mut velocity) = (Mlp::zeros(shape), Mlp::zeros(shape));
    /// let gradients = Mlp { b_o: vec![2.0, -2.0], ..Mlp::zeros(shape) };
    /// let settings = Momentum { learning_rate: 0.25, momentum: 0.5 };
    /// mlp.momentum_step(&cpu, settings, &mut velocity, &gradients);
    /// assert_eq!(mlp.b_o, [-0.5, 0.5]);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the three shapes differ.
    pub fn momentum_step(
        &mut self,
        cpu: &Cpu,
        settings: momentum::Momentum,
        velocity: &mut Mlp,
        gradients: &Mlp,
    ) {
        momentum::update(cpu, settings, &mut self.w_h, &mut velocity.w_h, &gradients.w_h);
        momentum::update(cpu, settings, &mut self.b_h, &mut velocity.b_h, &gradients.b_h);
        momentum::update(cpu, settings, &mut self.w_o, &mut velocity.w_o, &gradients.w_o);
        momentum::update(cpu, settings, &mut self.b_o, &mut velocity.b_o, &gradients.b_o);
    }

    /// Hidden activations and logits of one block of `rows` rows.
    fn forward<'w, T: Input>(
        &self,
        cpu: &Cpu,
        work: &'w mut Workspace,
        x: &[T],
        rows: usize,
    ) -> Activations<'w> {
        work.fit(self.shape, rows);
        let (hidden_layer, output_layer) =
            (self.shape.hidden_layer(rows), self.shape.output_layer(rows));
        let hidden = &mut work.hidden[..rows * self.shape.hidden];
        let logits = &mut work.logits[..rows * self.shape.classes];
        linear::forward_relu(cpu, hidden_layer, x, &self.w_h, &self.b_h, hidden);
        linear::forward(cpu, output_layer, hidden, &self.w_o, &self.b_o, logits);
        Activations {
            hidden,
            logits,
            dlogits: &mut work.dlogits[..rows * self.shape.classes],
            dhidden: &mut work.dhidden[..rows * self.shape.hidden],
        }
    }
}

/// What a forward pass leaves in the workspace, and where its backward pass may write.
struct Activations<'w> {
    hidden: &'w [f32],
    logits: &'w [f32],
    dlogits: &'w mut [f32],
    dhidden: &'w mut [f32],
}

/// Scratch of the passes, for one block of rows: allocated by the first pass, kept for the next.
///
/// ```
/// use kernelet::nn::mlp::{Mlp, MlpShape, Workspace};
///
/// let cpu = kernelet::Cpu::detect()?;
/// // One for networks and batches of all sizes: it grows to the largest.
/// let mut work = Workspace::default();
/// for hidden in [1, 100, 10] {
///     let mlp = Mlp::zeros(MlpShape { inputs: 2, hidden, classes: 2 });
///     assert_eq!(mlp.evaluate(&cpu, &mut work, &[1.0, 2.0], &[0]).hits, 1);
/// }
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Workspace {
    hidden: Vec<f32>,
    dhidden: Vec<f32>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
}

impl Workspace {
    /// Bytes that a pass of `rows` rows, of whatever kind, takes in an empty workspace;
    /// `usize::MAX` if it is not below that. (The kernels' own buffers, which stay with their threads,
    /// are not in it.)
    ///
    /// ```
    /// use kernelet::nn::{MlpShape, mlp::Workspace};
    ///
    /// let shape = MlpShape { inputs: 784, hidden: 1000, classes: 10 };
    /// // Activations and logits, and the gradients of both.
    /// assert_eq!(Workspace::bytes(shape, 64), 64 * 2 * (1000 + 10) * 4);
    /// // Of more rows, those of a block.
    /// assert_eq!(Workspace::bytes(shape, 10_000), Workspace::bytes(shape, 20_000));
    /// ```
    #[must_use]
    pub fn bytes(shape: MlpShape, rows: usize) -> usize {
        let row = shape.hidden.saturating_add(shape.classes).saturating_mul(2 * size_of::<f32>());
        rows.min(block_rows(shape.hidden)).saturating_mul(row)
    }

    /// Makes room for `rows` rows.
    fn fit(&mut self, shape: MlpShape, rows: usize) {
        let sizes = [shape.hidden, shape.hidden, shape.classes, shape.classes];
        let Self { hidden, dhidden, logits, dlogits } = self;
        for (slice, size) in [hidden, dhidden, logits, dlogits].into_iter().zip(sizes) {
            if slice.len() < rows * size {
                slice.resize(rows * size, 0.0);
            }
        }
    }
}

/// `x` and `labels`, [`block_rows`] samples at a time.
fn blocks<'a, T: Input>(
    x: &'a [T],
    labels: &'a [u32],
    MlpShape { inputs, hidden, .. }: MlpShape,
) -> impl Iterator<Item = (&'a [T], &'a [u32])> {
    let block = block_rows(hidden);
    labels
        .chunks(block)
        .enumerate()
        .map(move |(index, labels)| (&x[index * block * inputs..][..labels.len() * inputs], labels))
}
