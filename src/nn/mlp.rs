//! A multilayer perceptron with one hidden layer: x -> linear -> ReLU -> linear -> softmax.

use crate::cpu::Cpu;
use crate::kernels::gemm::Write;
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
    fn hidden_layer(self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.inputs, outputs: self.hidden }
    }

    fn output_layer(self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.hidden, outputs: self.classes }
    }
}

/// The weights of a perceptron with one hidden layer, or anything of their shape: gradients and
/// velocities are `Mlp`s too. All row-major.
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
    #[must_use]
    pub fn xavier(shape: MlpShape, seed: u64) -> Self {
        let mut mlp = Self::zeros(shape);
        xavier_normal(&mut mlp.w_h, shape.inputs, shape.hidden, seed, 0);
        xavier_normal(&mut mlp.w_o, shape.hidden, shape.classes, seed, 1);
        mlp
    }

    /// The arrays, with the names and the shapes that they have in files.
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

    /// Loss and hits on `x` (labels.len(), inputs).
    ///
    /// # Panics
    /// If `x` does not fit the labels and the network's inputs, or a label is out of range.
    pub fn evaluate(&self, cpu: &Cpu, work: &mut Workspace, x: &[f32], labels: &[u32]) -> Tally {
        check_len("x", x.len(), labels.len(), self.shape.inputs);
        let mut tally = Tally::default();
        for (x, labels) in blocks(x, labels, self.shape) {
            let Activations { logits, .. } = self.forward(cpu, work, x, labels.len());
            let shape = MatrixShape { rows: labels.len(), cols: self.shape.classes };
            tally += softmax_cross_entropy::forward(cpu, shape, logits, labels);
        }
        tally
    }

    /// Class probabilities (rows, classes) of `x` (rows, inputs).
    ///
    /// # Panics
    /// If the slices do not fit the network's sizes.
    pub fn predict(&self, cpu: &Cpu, work: &mut Workspace, x: &[f32], probabilities: &mut [f32]) {
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

    /// Loss and hits on `x` (labels.len(), inputs), and in `gradients` (overwritten) `scale` times
    /// the sum of the samples' gradients: 1 for the sum, 1 / samples for the mean.
    ///
    /// # Panics
    /// As [`evaluate`](Self::evaluate), and if `gradients` has another shape.
    pub fn gradients(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        x: &[f32],
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
    fn forward<'w>(
        &self,
        cpu: &Cpu,
        work: &'w mut Workspace,
        x: &[f32],
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
#[derive(Debug, Default)]
pub struct Workspace {
    hidden: Vec<f32>,
    dhidden: Vec<f32>,
    logits: Vec<f32>,
    dlogits: Vec<f32>,
}

impl Workspace {
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
fn blocks<'a>(
    x: &'a [f32],
    labels: &'a [u32],
    MlpShape { inputs, hidden, .. }: MlpShape,
) -> impl Iterator<Item = (&'a [f32], &'a [u32])> {
    let block = block_rows(hidden);
    labels
        .chunks(block)
        .enumerate()
        .map(move |(index, labels)| (&x[index * block * inputs..][..labels.len() * inputs], labels))
}
