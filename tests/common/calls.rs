//! Every public function of every kernel, on sizes, a processor and memory of the caller's choice. The
//! results are kept as hashes of their bits, for tests that compare one run with another.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};

use kernelet::Cpu;
use kernelet::kernels::adam::Adam;
use kernelet::kernels::conv_block::ConvBlockShape;
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::max_pool::Place;
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::{Affine, Moments, Normalization};
use kernelet::kernels::softmax_cross_entropy::Tally;
use kernelet::kernels::{
    adam, avg_pool, conv_block, conv2d, cross_entropy, dropout, exp, gemm, linear, max_pool,
    momentum, relu, relu_batch_norm, softmax, softmax_cross_entropy,
};
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};

use super::Random;

/// Where the slices lie that kernels are given.
pub trait Memory {
    type Input<T: Copy>: Deref<Target = [T]>;
    type Output<T: Copy>: DerefMut<Target = [T]>;
    /// A slice that kernels only read.
    fn input<T: Copy>(&self, content: &[T]) -> Self::Input<T>;
    /// A slice that kernels write, with what it holds before.
    fn output<T: Copy>(&self, content: &[T]) -> Self::Output<T>;
    /// A kernel is about to be called.
    fn before_call(&self) {}
    /// It has returned.
    fn after_call(&self) {}
}

/// Ordinary `Vec`s.
pub struct Heap;

impl Memory for Heap {
    type Input<T: Copy> = Vec<T>;
    type Output<T: Copy> = Vec<T>;

    fn input<T: Copy>(&self, content: &[T]) -> Vec<T> {
        content.to_vec()
    }

    fn output<T: Copy>(&self, content: &[T]) -> Vec<T> {
        content.to_vec()
    }
}

/// A call and the hash of what it wrote.
pub type CallResult = (String, u64);

/// Kernels that take the same shape, and the shape.
#[derive(Clone, Copy)]
pub enum Case {
    Elementwise(usize),
    Rows(MatrixShape),
    Gemm(GemmShape),
    Linear(LinearShape),
    Conv2d(Conv2dShape),
    ConvBlock(ConvBlockShape),
    BatchNorm(MatrixShape),
    Pools(PoolShape),
}

pub fn images(batch: usize, height: usize, width: usize, channels: usize) -> ImageShape {
    ImageShape { batch, height, width, channels }
}

/// Every kernel, at sizes at which it shares its work out.
pub fn shared_out() -> Vec<Case> {
    let mut cases = vec![Case::Elementwise(128 * 1024 + 77)];
    // In five pieces and more: of two, the losses' sum is the same in either order.
    for (rows, cols) in [(8001, 10), (1201, 70), (4200, 40)] {
        cases.push(Case::Rows(MatrixShape { rows, cols }));
    }
    // Few rows, few columns, vectors, B packed by each piece, for everybody, and in several sweeps.
    for (m, k, n) in [
        (20, 900, 300),
        (300, 900, 20),
        (1, 1001, 1003),
        (1003, 1001, 1),
        (40, 90, 700),
        (190, 90, 133),
        (150, 810, 345),
        (7200, 9, 16),
        (6200, 9, 31),
    ] {
        cases.push(Case::Gemm(GemmShape { m, k, n }));
    }
    for (rows, inputs, outputs) in [(190, 133, 90), (17, 900, 300), (300, 290, 75)] {
        cases.push(Case::Linear(LinearShape { rows, inputs, outputs }));
    }
    for (rows, cols) in [(5001, 33), (40_001, 3)] {
        cases.push(Case::BatchNorm(MatrixShape { rows, cols }));
    }
    for (input, padding, stride, filters) in [
        (images(35, 13, 15, 1), Padding::Same, 1, 32),
        (images(6, 12, 13, 17), Padding::Same, 1, 33),
        (images(9, 14, 13, 5), Padding::Valid, 2, 20),
        (images(1, 43, 21, 9), Padding::Same, 1, 35),
        (images(2, 61, 30, 9), Padding::Same, 2, 35),
    ] {
        let window = Window::square(3, stride, padding);
        let convolution = Conv2dShape { input, window, filters };
        cases.push(Case::Conv2d(convolution));
        for (size, stride) in [(2, 2), (3, 2)] {
            let pool = Window::square(size, stride, Padding::Same);
            cases.push(Case::ConvBlock(ConvBlockShape { convolution, pool }));
        }
    }
    // One image: windows that leave rows out, of which some threads get nothing else; a single row of windows; and
    // fewer pixels for each thread than a tile has.
    for (input, size, stride, filters) in [
        (images(1, 14, 90, 16), [2, 2], [3, 3], 35),
        (images(1, 4, 200, 8), [2, 2], [3, 1], 40),
        (images(1, 16, 6, 64), [3, 3], [2, 2], 33),
    ] {
        for padding in [Padding::Same, Padding::Valid] {
            let window = Window { size, stride, padding };
            cases.push(Case::Conv2d(Conv2dShape { input, window, filters }));
        }
    }
    for (size, stride) in [(2, 2), (3, 2)] {
        let window = Window::square(size, stride, Padding::Same);
        // Many images, and one.
        for input in [images(41, 15, 15, 16), images(1, 61, 33, 70)] {
            cases.push(Case::Pools(PoolShape { input, window }));
        }
    }
    cases
}

/// What goes into the kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// The same random numbers in every run.
    Random,
    NaN,
}

/// Calls the kernels of every case and returns what they wrote.
pub fn results<M: Memory>(
    cpu: &Cpu,
    memory: &M,
    numbers: Numbers,
    cases: &[Case],
) -> Vec<CallResult> {
    let poisoned = numbers == Numbers::NaN;
    let mut calls = Calls { cpu, memory, poisoned, random: Random::new(71), results: Vec::new() };
    for &case in cases {
        match case {
            Case::Elementwise(n) => calls.elementwise(n),
            Case::Rows(shape) => calls.rows(shape),
            Case::Gemm(shape) => calls.gemm(shape),
            Case::Linear(shape) => calls.linear(shape),
            Case::Conv2d(shape) => calls.conv2d(shape),
            Case::ConvBlock(shape) => calls.conv_block(shape),
            Case::BatchNorm(shape) => calls.batch_norm(shape),
            Case::Pools(shape) => calls.pools(shape),
        }
    }
    calls.results
}

struct Calls<'a, M> {
    cpu: &'a Cpu,
    memory: &'a M,
    /// Whether the numbers that go in are all NaN.
    poisoned: bool,
    random: Random,
    results: Vec<CallResult>,
}

/// Bits to be hashed.
trait Bits {
    fn hash_into(&self, hasher: &mut DefaultHasher);
    fn has_nan(&self) -> bool;
}

impl Bits for [f32] {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        self.iter().for_each(|x| x.to_bits().hash(hasher));
    }
    fn has_nan(&self) -> bool {
        self.iter().any(|x| x.is_nan())
    }
}

impl Bits for f64 {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        self.to_bits().hash(hasher);
    }
    fn has_nan(&self) -> bool {
        self.is_nan()
    }
}

impl Bits for Tally {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        (self.rows, self.hits, self.loss.to_bits()).hash(hasher);
    }
    fn has_nan(&self) -> bool {
        self.loss.is_nan()
    }
}

impl Bits for Moments {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        self.count().hash(hasher);
        for (channel, mean) in self.mean().iter().enumerate() {
            (mean.to_bits(), self.variance(channel).to_bits()).hash(hasher);
        }
    }
    fn has_nan(&self) -> bool {
        let variances = || (0..self.mean().len()).map(|channel| self.variance(channel));
        self.mean().iter().any(|x| x.is_nan())
            // The variance of nothing is NaN.
            || self.count() > 0 && variances().any(f64::is_nan)
    }
}

/// Places as numbers.
fn numbered<P: Place>(argmax: &[P]) -> Vec<f32> {
    argmax.iter().map(|place| place.index() as f32).collect()
}

/// Calls a kernel.
macro_rules! call {
    ($calls:ident, $call:expr) => {{
        $calls.memory.before_call();
        let result = $call;
        $calls.memory.after_call();
        result
    }};
}

/// Notes a call's outputs.
macro_rules! note {
    ($calls:ident, $label:expr, $($output:expr),+) => {{
        let (mut hasher, mut nan) = (DefaultHasher::new(), false);
        $(
            $output.hash_into(&mut hasher);
            nan |= $output.has_nan();
        )+
        $calls.note($label, hasher.finish(), nan);
    }};
}

const WRITES: [Write; 2] = [Write::Overwrite, Write::Add];

impl<M: Memory> Calls<'_, M> {
    /// Outputs that are not read are NaN before: if they are still, they have not been written.
    fn note(&mut self, label: impl Debug, hash: u64, nan: bool) {
        let label = format!("{label:?}");
        assert!(self.poisoned || !nan, "{label} on {:?} left a NaN", self.cpu);
        self.results.push((label, hash));
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        if self.poisoned { vec![f32::NAN; n] } else { self.random.uniform(n, 1.0) }
    }

    fn positive(&mut self, n: usize) -> Vec<f32> {
        self.numbers(n).iter().map(|x| x.abs() + 0.01).collect()
    }

    fn input(&mut self, n: usize) -> M::Input<f32> {
        let content = self.numbers(n);
        self.memory.input(&content)
    }

    /// An output that is read as well.
    fn updated(&mut self, n: usize) -> M::Output<f32> {
        let content = self.numbers(n);
        self.memory.output(&content)
    }

    /// An output that is not read.
    fn blank(&mut self, n: usize) -> M::Output<f32> {
        self.memory.output(&vec![f32::NAN; n])
    }

    fn destination(&mut self, write: Write, n: usize) -> M::Output<f32> {
        match write {
            Write::Overwrite => self.blank(n),
            Write::Add => self.updated(n),
        }
    }

    fn normalization(&mut self, channels: usize) -> Normalization {
        Normalization { mean: self.numbers(channels), inv_deviation: self.positive(channels) }
    }

    /// What goes through `n` elements one by one.
    fn elementwise(&mut self, n: usize) {
        let cpu = self.cpu;
        let (x, dy) = (self.input(n), self.input(n));
        let mut y = self.blank(n);
        call!(self, relu::forward(cpu, &x, &mut y));
        note!(self, ("relu::forward", n), y);

        let mut y = self.updated(n);
        call!(self, relu::forward_in_place(cpu, &mut y));
        note!(self, ("relu::forward_in_place", n), y);

        let mut dx = self.blank(n);
        call!(self, relu::backward(cpu, &x, &dy, &mut dx));
        note!(self, ("relu::backward", n), dx);

        let mut y = self.blank(n);
        call!(self, exp::forward(cpu, &x, &mut y));
        note!(self, ("exp::forward", n), y);

        let settings = Dropout { keep: 0.6, seed: 5, step: 6 };
        let mut y = self.updated(n);
        call!(self, dropout::forward_in_place(cpu, settings, &mut y));
        note!(self, ("dropout::forward_in_place", n), y);

        let mut dx = self.updated(n);
        call!(self, dropout::backward_in_place(cpu, settings, &mut dx));
        note!(self, ("dropout::backward_in_place", n), dx);

        let settings = Momentum { learning_rate: 0.1, momentum: 0.9 };
        let (mut w, mut v, g) = (self.updated(n), self.updated(n), self.input(n));
        call!(self, momentum::update(cpu, settings, &mut w, &mut v, &g));
        note!(self, ("momentum::update", n), w, v);

        let settings = Adam { l2: 0.1, ..Adam::default() };
        // Of many magnitudes: the sum of squares of like ones is exact, in whatever order.
        let w: Vec<_> = (self.numbers(n).iter().enumerate())
            .map(|(i, w)| w / (1 << (i / 512 % 31)) as f32)
            .collect();
        let (mut w, mut m, g) = (self.memory.output(&w), self.updated(n), self.input(n));
        let v = self.positive(n);
        let mut v = self.memory.output(&v);
        let squares = call!(self, adam::update(cpu, settings, 3, &mut w, &mut m, &mut v, &g));
        note!(self, ("adam::update", n), w, m, v, squares);
    }

    /// What goes along the rows of a matrix.
    fn rows(&mut self, shape: MatrixShape) {
        let cpu = self.cpu;
        let (n, scale) = (shape.rows * shape.cols, 0.5);
        let (x, dy) = (self.input(n), self.input(n));
        let mut y = self.blank(n);
        call!(self, softmax::forward(cpu, shape, &x, &mut y));
        note!(self, ("softmax::forward", shape), y);

        let mut dx = self.blank(n);
        call!(self, softmax::backward(cpu, shape, &x, &dy, &mut dx));
        note!(self, ("softmax::backward", shape), dx);

        // Without classes there is no label.
        let rows = if shape.cols == 0 { 0 } else { shape.rows };
        let shape = MatrixShape { rows, ..shape };
        let labels = self.random.labels(rows, shape.cols);
        let labels = self.memory.input(&labels);
        let tally = call!(self, softmax_cross_entropy::forward(cpu, shape, &x, &labels));
        note!(self, ("softmax_cross_entropy::forward", shape), tally);

        let mut dx = self.blank(n);
        let forward_backward = softmax_cross_entropy::forward_backward;
        let tally = call!(self, forward_backward(cpu, shape, &x, &labels, scale, &mut dx));
        note!(self, ("softmax_cross_entropy::forward_backward", shape), tally, dx);

        let mut dx = self.blank(n);
        call!(self, softmax_cross_entropy::backward(cpu, shape, &x, &labels, scale, &mut dx));
        note!(self, ("softmax_cross_entropy::backward", shape), dx);

        let p = self.positive(n);
        let p = self.memory.input(&p);
        let tally = call!(self, cross_entropy::forward(cpu, shape, &p, &labels));
        note!(self, ("cross_entropy::forward", shape), tally);

        let mut dp = self.blank(n);
        call!(self, cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut dp));
        note!(self, ("cross_entropy::backward", shape), dp);
    }

    fn gemm(&mut self, shape: GemmShape) {
        let GemmShape { m, k, n } = shape;
        let (a, b) = (self.input(m * k), self.input(k * n));
        for (a, b) in [
            (Matrix::N(&a), Matrix::N(&b)),
            (Matrix::N(&a), Matrix::T(&b)),
            (Matrix::T(&a), Matrix::N(&b)),
            (Matrix::T(&a), Matrix::T(&b)),
        ] {
            for write in WRITES {
                let mut c = self.destination(write, m * n);
                call!(self, gemm::gemm(self.cpu, shape, a, b, write, &mut c));
                let transposed = [a, b].map(|matrix| matches!(matrix, Matrix::T(_)));
                note!(self, ("gemm", shape, transposed, write), c);
            }
        }
    }

    fn linear(&mut self, shape: LinearShape) {
        let cpu = self.cpu;
        let LinearShape { rows, inputs, outputs } = shape;
        let (x, w) = (self.input(rows * inputs), self.input(inputs * outputs));
        let (b, dy) = (self.input(outputs), self.input(rows * outputs));
        let mut y = self.blank(rows * outputs);
        call!(self, linear::forward(cpu, shape, &x, &w, &b, &mut y));
        note!(self, ("linear::forward", shape), y);

        let mut y = self.blank(rows * outputs);
        call!(self, linear::forward_relu(cpu, shape, &x, &w, &b, &mut y));
        note!(self, ("linear::forward_relu", shape), y);

        let bytes = self.random.bytes(rows * inputs);
        let bytes = self.memory.input(&bytes);
        let mut y = self.blank(rows * outputs);
        call!(self, linear::forward_relu(cpu, shape, &bytes, &w, &b, &mut y));
        note!(self, ("linear::forward_relu of bytes", shape), y);

        let mut dx = self.blank(rows * inputs);
        call!(self, linear::backward_input(cpu, shape, &dy, &w, &mut dx));
        note!(self, ("linear::backward_input", shape), dx);

        let mut dx = self.blank(rows * inputs);
        call!(self, linear::backward_input_relu(cpu, shape, &dy, &w, &x, &mut dx));
        note!(self, ("linear::backward_input_relu", shape), dx);

        for write in WRITES {
            let mut dw = self.destination(write, inputs * outputs);
            let mut db = self.destination(write, outputs);
            call!(self, linear::backward_weights(cpu, shape, &x, &dy, write, &mut dw, &mut db));
            note!(self, ("linear::backward_weights", shape, write), dw, db);

            let mut dw = self.destination(write, inputs * outputs);
            let mut db = self.destination(write, outputs);
            call!(self, linear::backward_weights(cpu, shape, &bytes, &dy, write, &mut dw, &mut db));
            note!(self, ("linear::backward_weights of bytes", shape, write), dw, db);

            let mut db = self.destination(write, outputs);
            call!(self, linear::column_sums(cpu, shape, &dy, write, &mut db));
            note!(self, ("linear::column_sums", shape, write), db);
        }

        let settings = Adam { l2: 0.1, ..Adam::default() };
        let weights = inputs * outputs;
        let (mut w, mut m, v) =
            (self.updated(weights), self.updated(weights), self.positive(weights));
        let mut v = self.memory.output(&v);
        let update = linear::backward_weights_adam;
        let squares = call!(self, update(cpu, shape, &x, &dy, settings, 3, &mut w, &mut m, &mut v));
        note!(self, ("linear::backward_weights_adam", shape), w, m, v, squares);

        let (mut w, mut m, v) =
            (self.updated(weights), self.updated(weights), self.positive(weights));
        let (mut v, mut dx) = (self.memory.output(&v), self.blank(rows * inputs));
        let update = linear::backward_adam;
        let squares =
            call!(self, update(cpu, shape, &x, &dy, settings, 3, &mut w, &mut m, &mut v, &mut dx));
        note!(self, ("linear::backward_adam", shape), w, m, v, dx, squares);
    }

    fn conv2d(&mut self, shape: Conv2dShape) {
        let cpu = self.cpu;
        let Conv2dShape { input, filters, .. } = shape;
        let output = shape.output();
        let (inputs, outputs) =
            (input.batch * input.image_len(), output.batch * output.image_len());
        let weights = shape.taps() * filters;
        let (x, w) = (self.input(inputs), self.input(weights));
        let (b, dy) = (self.input(filters), self.input(outputs));
        let mut y = self.blank(outputs);
        call!(self, conv2d::forward(cpu, shape, &x, &w, &b, &mut y));
        note!(self, ("conv2d::forward", shape), y);

        let mut y = self.blank(outputs);
        call!(self, conv2d::forward_relu(cpu, shape, &x, &w, &b, &mut y));
        note!(self, ("conv2d::forward_relu", shape), y);

        let (mut y, mut moments) = (self.blank(outputs), Moments::new(filters));
        call!(self, conv2d::forward_relu_moments(cpu, shape, &x, &w, &b, &mut y, &mut moments));
        note!(self, ("conv2d::forward_relu_moments", shape), y, moments);

        let mut dx = self.blank(inputs);
        call!(self, conv2d::backward_input(cpu, shape, &dy, &w, &mut dx));
        note!(self, ("conv2d::backward_input", shape), dx);

        for write in WRITES {
            let (mut dw, mut db) =
                (self.destination(write, weights), self.destination(write, filters));
            call!(self, conv2d::backward_weights(cpu, shape, &x, &dy, write, &mut dw, &mut db));
            note!(self, ("conv2d::backward_weights", shape, write), dw, db);
        }
    }

    fn conv_block(&mut self, shape: ConvBlockShape) {
        let cpu = self.cpu;
        let ConvBlockShape { convolution, .. } = shape;
        let Conv2dShape { input, filters, .. } = convolution;
        let (rectified, output) = (convolution.output(), shape.pool().output());
        let weights = convolution.taps() * filters;
        let outputs = output.batch * output.image_len();
        let (x, w) = (self.input(input.batch * input.image_len()), self.input(weights));
        let b = self.input(filters);
        let mut r = self.blank(rectified.batch * rectified.image_len());
        let (mut y, mut argmax) = (self.blank(outputs), self.memory.output(&vec![9_u8; outputs]));
        let mut moments = Moments::new(filters);
        call!(
            self,
            conv_block::forward(cpu, shape, &x, &w, &b, &mut r, &mut moments, &mut y, &mut argmax)
        );
        note!(self, ("conv_block::forward", shape), r, moments, y, numbered(&argmax));

        let normalization = self.normalization(filters);
        let (r, y) = (self.memory.input(&r), self.memory.input(&y));
        let (argmax, dy) = (self.memory.input(&argmax), self.input(outputs));
        for write in WRITES {
            let (mut dw, mut db) =
                (self.destination(write, weights), self.destination(write, filters));
            let backward = conv_block::backward_weights;
            let norm = &normalization;
            call!(
                self,
                backward(cpu, shape, &x, &r, norm, &y, &argmax, &dy, write, &mut dw, &mut db)
            );
            note!(self, ("conv_block::backward_weights", shape, write), dw, db);
        }
    }

    fn batch_norm(&mut self, shape: MatrixShape) {
        let cpu = self.cpu;
        let MatrixShape { rows, cols } = shape;
        let x = self.input(rows * cols);
        let (mut r, mut moments) = (self.blank(rows * cols), Moments::new(cols));
        call!(self, relu_batch_norm::forward_moments(cpu, shape, &x, &mut r, &mut moments));
        note!(self, ("relu_batch_norm::forward_moments", shape), r, moments);

        let normalization = self.normalization(cols);
        let (scale, offset, dy) = (self.input(cols), self.input(cols), self.input(rows * cols));
        let affine = Affine { scale: &scale, offset: &offset };
        for affine in [None, Some(affine)] {
            let mut y = self.blank(rows * cols);
            call!(
                self,
                relu_batch_norm::forward_normalize(cpu, shape, &x, &normalization, affine, &mut y)
            );
            note!(self, ("relu_batch_norm::forward_normalize", shape, affine.is_some()), y);

            let mut y = self.updated(rows * cols);
            let in_place = relu_batch_norm::forward_normalize_in_place;
            call!(self, in_place(cpu, shape, &normalization, affine, &mut y));
            note!(self, ("relu_batch_norm::forward_normalize_in_place", shape), y);

            let mut dx = self.blank(rows * cols);
            let (mut dscale, mut doffset) = (self.blank(cols), self.blank(cols));
            let scale = affine.map(|affine| affine.scale);
            let (backward, norm) = (relu_batch_norm::backward, &normalization);
            call!(
                self,
                backward(cpu, shape, &x, norm, scale, &dy, &mut dx, &mut dscale, &mut doffset)
            );
            note!(self, ("relu_batch_norm::backward", shape, scale.is_some()), dx, dscale, doffset);
        }
    }

    fn pools(&mut self, shape: PoolShape) {
        let cpu = self.cpu;
        let ImageShape { batch, channels, .. } = shape.input;
        let inputs = batch * shape.input.image_len();
        let outputs = batch * shape.output().image_len();
        self.max_pool::<u8>(shape);
        self.max_pool::<u32>(shape);

        let (x, dy) = (self.input(inputs), self.input(outputs));
        let mut y = self.blank(outputs);
        call!(self, avg_pool::forward(cpu, shape, &x, &mut y));
        note!(self, ("avg_pool::forward", shape), y);

        let mut dx = self.blank(inputs);
        call!(self, avg_pool::backward(cpu, shape, &dy, &mut dx));
        note!(self, ("avg_pool::backward", shape), dx);

        let normalization = self.normalization(channels);
        let (mut y, mut argmax) = (self.blank(outputs), self.memory.output(&vec![9_u8; outputs]));
        let forward = relu_batch_norm::forward_normalize_max_pool;
        call!(self, forward(cpu, shape, &x, &normalization, &mut y, &mut argmax));
        note!(self, ("relu_batch_norm::forward_normalize_max_pool", shape), y, numbered(&argmax));

        let (y, argmax) = (self.memory.input(&y), self.memory.input(&argmax));
        let mut dx = self.blank(inputs);
        let backward = relu_batch_norm::backward_max_pool;
        call!(self, backward(cpu, shape, &x, &normalization, &y, &argmax, &dy, &mut dx));
        note!(self, ("relu_batch_norm::backward_max_pool", shape), dx);
    }

    fn max_pool<P: Place>(&mut self, shape: PoolShape) {
        let inputs = shape.input.batch * shape.input.image_len();
        let outputs = shape.input.batch * shape.output().image_len();
        let (x, dy) = (self.input(inputs), self.input(outputs));
        let mut y = self.blank(outputs);
        let mut argmax = self.memory.output(&vec![P::new(9); outputs]);
        call!(self, max_pool::forward(self.cpu, shape, &x, &mut y, &mut argmax));
        note!(self, ("max_pool::forward", shape, P::PLACES), y, numbered(&argmax));

        let argmax = self.memory.input(&argmax);
        let mut dx = self.blank(inputs);
        call!(self, max_pool::backward(self.cpu, shape, &argmax, &dy, &mut dx));
        note!(self, ("max_pool::backward", shape, P::PLACES), dx);
    }
}

/// Panics at the first call that has other results in one run than in another.
#[track_caller]
pub fn assert_same(want: &[CallResult], got: &[CallResult], what: impl Debug) {
    assert!(!want.is_empty() && want.len() == got.len(), "{what:?}: other calls");
    for ((label, want), (other_label, got)) in want.iter().zip(got) {
        assert_eq!(label, other_label, "{what:?}: other calls");
        assert!(want == got, "{label}: other bits {what:?}");
    }
}
