//! ReLU followed by batch normalisation: `r = max(x, 0)`, then per channel
//! `y = scale * (r - mean) / sqrt(variance + epsilon) + offset` with the moments of r.
//!
//! Ioffe and Szegedy, "Batch Normalization" (ICML 2015); the ReLU comes first, as in the study.
//! Training takes two passes, [`forward_moments`] and [`forward_normalize`]; in between the moments
//! of several batches may be [merged](Moments::merge), so that a set of any size is normalised with
//! the moments of the whole. Inference takes [running moments](RunningMoments) or a whole set's.
//!
//! Accuracy, with u = 2^-24. Moments are gathered in `f32` over blocks of 32 pixels about the mean of the
//! blocks before (the first block's about its own) and merged as Chan, Golub and LeVeque do ("Updating Formulae
//! and a Pairwise Algorithm for Computing Sample Variances", 1979), so that little cancels: with b blocks in a
//! piece (at most 64 pieces, each of at least 16,384 elements) a mean is within `e = (64 + b / 2) u` of
//! itself, a variance within `e variance + 16 u mean sqrt(variance) + (e mean)^2`. y is within
//! `4 u` of `|scale| (|r| + |mean|) inv_deviation + |offset|`, dx within
//! `(96 + rows / 2^14) u` of its formula with every term's magnitude.
//!
//! Where r is so large that a sum of its squared deviations overflows (from about 1e18 on), the
//! variance is infinite or NaN, and y is NaN rather than the zeros that division by it would give. dx is
//! 0 where r is NaN, as ReLU's is.

use std::cell::Cell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::channels::{
    for_each_vector, for_each_vectors, load, load_unchecked, store, store_unchecked,
};
use super::relu::{keep_where_positive, relu};
use super::scratch::Buffer;
use super::windows::{self, Windows};
use super::{ELEMENTWISE_CHUNK, ELEMENTWISE_PARALLEL_MIN, kernel_span, max_pool};
use crate::cpu::{Chunks, Cpu};
use crate::shape::{MatrixShape, PoolShape, check_len};
use crate::subnormals::FlushSubnormals;

/// Count, mean and sum of squared deviations of every channel, in `f64`: those of any number of
/// batches can be merged.
///
/// ```
/// use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 2, cols: 1 };
/// let (mut r, mut moments) = ([0.0; 2], Moments::new(1));
/// // Two batches, gathered one after the other.
/// for x in [[1.0, 1.0], [3.0, 3.0]] {
///     relu_batch_norm::forward_moments(&cpu, shape, &x, &mut r, &mut moments);
/// }
/// assert_eq!((moments.count(), moments.mean()[0], moments.variance(0)), (4, 2.0, 1.0));
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Moments {
    count: u64,
    mean: Vec<f64>,
    deviations: Vec<f64>,
}

impl Moments {
    /// Of nothing yet, for `channels` channels.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::Moments;
    ///
    /// let moments = Moments::new(2);
    /// assert_eq!((moments.count(), moments.mean()), (0, &[0.0, 0.0][..]));
    /// ```
    #[must_use]
    pub fn new(channels: usize) -> Self {
        let zeros = vec![0.0; channels];
        Self { count: 0, mean: zeros.clone(), deviations: zeros }
    }

    /// Forgets everything, keeps the memory.
    ///
    /// ```
    /// # use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
    /// # let cpu = Cpu::detect()?;
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// let (mut r, mut moments) = ([0.0; 2], Moments::new(1));
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 3.0], &mut r, &mut moments);
    /// moments.clear();
    /// assert_eq!((moments.count(), moments.mean()), (0, &[0.0][..]));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    pub fn clear(&mut self) {
        self.count = 0;
        self.mean.fill(0.0);
        self.deviations.fill(0.0);
    }

    /// Values per channel so far.
    ///
    /// ```
    /// # use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
    /// # let cpu = Cpu::detect()?;
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// let (mut r, mut moments) = ([0.0; 2], Moments::new(1));
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 3.0], &mut r, &mut moments);
    /// assert_eq!(moments.count(), 2);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean per channel; 0 of nothing.
    ///
    /// ```
    /// # use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
    /// # let cpu = Cpu::detect()?;
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// let (mut r, mut moments) = ([0.0; 2], Moments::new(1));
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 3.0], &mut r, &mut moments);
    /// assert_eq!(moments.mean(), [2.0]);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Biased variance (the mean squared deviation) of a channel; NaN of nothing.
    ///
    /// ```
    /// # use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
    /// # let cpu = Cpu::detect()?;
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// let (mut r, mut moments) = ([0.0; 2], Moments::new(1));
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 3.0], &mut r, &mut moments);
    /// // Divided by the number of values, not by one less.
    /// assert_eq!(moments.variance(0), 1.0);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such channel.
    #[must_use]
    pub fn variance(&self, channel: usize) -> f64 {
        self.deviations[channel] / self.count as f64
    }

    /// Adds what `other` has gathered, as if one had seen it all.
    ///
    /// ```
    /// # use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
    /// # let cpu = Cpu::detect()?;
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// let (mut r, mut moments, mut others) = ([0.0; 2], Moments::new(1), Moments::new(1));
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 1.0], &mut r, &mut moments);
    /// relu_batch_norm::forward_moments(&cpu, shape, &[3.0, 3.0], &mut r, &mut others);
    /// moments.merge(&others);
    /// assert_eq!((moments.count(), moments.mean()[0], moments.variance(0)), (4, 2.0, 1.0));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn merge(&mut self, other: &Moments) {
        check_len("the other moments", other.mean.len(), 1, self.mean.len());
        self.merge_each(other.count, |c| (other.mean[c], other.deviations[c]));
    }

    /// Merges what the `pieces` of a kernel call hold, means and squared deviations; `counts` are
    /// their numbers of values per channel.
    pub(super) fn merge_pieces(&mut self, pieces: &[f32], counts: impl Iterator<Item = usize>) {
        let channels = self.mean.len();
        for (index, count) in counts.enumerate() {
            let (mean, deviations) =
                pieces[index * 2 * channels..][..2 * channels].split_at(channels);
            self.merge_each(count as u64, |c| (mean[c].into(), deviations[c].into()));
        }
    }

    fn merge_each(&mut self, count: u64, other: impl Fn(usize) -> (f64, f64)) {
        if count == 0 {
            return;
        }
        let (before, added) = (self.count as f64, count as f64);
        self.count += count;
        let share = added / self.count as f64;
        for (c, (mean, deviations)) in self.mean.iter_mut().zip(&mut self.deviations).enumerate() {
            let (other_mean, other_deviations) = other(c);
            let apart = other_mean - *mean;
            *mean += apart * share;
            *deviations += other_deviations + apart * apart * before * share;
        }
    }
}

/// What normalisation takes per channel: `(r - mean) * inv_deviation`.
///
/// ```
/// use kernelet::kernels::relu_batch_norm::Normalization;
///
/// // Of a mean of 2 and a variance of 4, without an epsilon.
/// let normalization = Normalization { mean: vec![2.0], inv_deviation: vec![0.5] };
/// assert_ne!(normalization, Normalization::identity(1));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Mean per channel.
    pub mean: Vec<f32>,
    /// `1 / sqrt(variance + epsilon)` per channel.
    pub inv_deviation: Vec<f32>,
}

impl Normalization {
    /// Of `channels` channels: mean 0, deviation 1.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::Normalization;
    ///
    /// let identity = Normalization::identity(2);
    /// assert_eq!((identity.mean, identity.inv_deviation), (vec![0.0; 2], vec![1.0; 2]));
    /// ```
    #[must_use]
    pub fn identity(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], inv_deviation: vec![1.0; channels] }
    }

    /// Takes over the moments of a batch or of a whole set (the study's `epsilon` is 1e-5). Those of
    /// nothing give NaN, and so does a deviation of more than 8.5e37, whose inverse `f32` cannot hold.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
    /// use kernelet::{Cpu, shape::MatrixShape};
    ///
    /// let cpu = Cpu::detect()?;
    /// let (mut r, mut moments) = ([0.0; 2], Moments::new(1));
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 5.0], &mut r, &mut moments);
    /// let mut normalization = Normalization::identity(1);
    /// normalization.set(&moments, 0.0);
    /// assert_eq!(normalization, Normalization { mean: vec![3.0], inv_deviation: vec![0.5] });
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn set(&mut self, moments: &Moments, epsilon: f64) {
        check_len("moments", moments.mean.len(), 1, self.mean.len());
        for (c, &mean) in moments.mean.iter().enumerate() {
            self.set_channel(c, mean, moments.variance(c), epsilon);
        }
    }

    /// Takes over running moments.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::{Normalization, RunningMoments};
    ///
    /// let mut normalization = Normalization::identity(1);
    /// normalization.set_running(&RunningMoments { mean: vec![3.0], variance: vec![4.0] }, 0.0);
    /// assert_eq!(normalization, Normalization { mean: vec![3.0], inv_deviation: vec![0.5] });
    /// ```
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn set_running(&mut self, moments: &RunningMoments, epsilon: f64) {
        check_len("moments", moments.mean.len(), 1, self.mean.len());
        for (c, (&mean, &variance)) in moments.mean.iter().zip(&moments.variance).enumerate() {
            self.set_channel(c, mean.into(), variance.into(), epsilon);
        }
    }

    fn set_channel(&mut self, channel: usize, mean: f64, variance: f64, epsilon: f64) {
        self.mean[channel] = mean as f32;
        let inv_deviation = (1.0 / (variance + epsilon).sqrt()) as f32;
        // Kernels would take it for zero, and give the offset for any r.
        let lost = inv_deviation < f32::MIN_POSITIVE;
        self.inv_deviation[channel] = if lost { f32::NAN } else { inv_deviation };
    }

    #[track_caller]
    fn check(&self, channels: usize) {
        check_len("the normalization's mean", self.mean.len(), 1, channels);
        check_len("the normalization's inv_deviation", self.inv_deviation.len(), 1, channels);
    }
}

/// Exponential moving averages of the batches' moments, to normalise single images with.
///
/// ```
/// use kernelet::kernels::relu_batch_norm::{Normalization, RunningMoments};
///
/// // Read from somewhere, to predict one image at a time with.
/// let running = RunningMoments { mean: vec![0.5, 2.0], variance: vec![0.25, 1.0] };
/// let mut normalization = Normalization::identity(2);
/// normalization.set_running(&running, 0.0);
/// assert_eq!(normalization.inv_deviation, [2.0, 1.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RunningMoments {
    /// Mean per channel.
    pub mean: Vec<f32>,
    /// Biased variance per channel.
    pub variance: Vec<f32>,
}

impl RunningMoments {
    /// Of `channels` channels: mean 0, variance 1.
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::RunningMoments;
    ///
    /// let running = RunningMoments::new(2);
    /// assert_eq!((running.mean, running.variance), (vec![0.0; 2], vec![1.0; 2]));
    /// ```
    #[must_use]
    pub fn new(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], variance: vec![1.0; channels] }
    }

    /// `running = decay * running + (1 - decay) * batch` (TensorFlow's decay is 0.99).
    ///
    /// ```
    /// use kernelet::kernels::relu_batch_norm::{self, Moments, RunningMoments};
    /// use kernelet::{Cpu, shape::MatrixShape};
    ///
    /// let cpu = Cpu::detect()?;
    /// let (mut r, mut batch) = ([0.0; 2], Moments::new(1));
    /// let shape = MatrixShape { rows: 2, cols: 1 };
    /// relu_batch_norm::forward_moments(&cpu, shape, &[1.0, 7.0], &mut r, &mut batch);
    /// let mut running = RunningMoments::new(1);
    /// running.update(&batch, 0.75);
    /// // A quarter of 4; a quarter of 9 and three quarters of 1.
    /// assert_eq!(running, RunningMoments { mean: vec![1.0], variance: vec![3.0] });
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn update(&mut self, batch: &Moments, decay: f64) {
        check_len("moments", batch.mean.len(), 1, self.mean.len());
        let blend = |old: f32, new: f64| (decay * f64::from(old) + (1.0 - decay) * new) as f32;
        for (c, (mean, variance)) in self.mean.iter_mut().zip(&mut self.variance).enumerate() {
            *mean = blend(*mean, batch.mean[c]);
            *variance = blend(*variance, batch.variance(c));
        }
    }
}

/// Scale and offset (gamma and beta) per channel.
///
/// ```
/// use kernelet::kernels::relu_batch_norm::{self, Affine, Normalization};
/// use kernelet::{Cpu, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 1, cols: 2 };
/// let affine = Affine { scale: &[3.0, -1.0], offset: &[10.0, 0.0] };
/// let (identity, mut y) = (Normalization::identity(2), [1.0, 2.0]);
/// relu_batch_norm::forward_normalize_in_place(&cpu, shape, &identity, Some(affine), &mut y);
/// assert_eq!(y, [13.0, -2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// Factor per channel.
    pub scale: &'a [f32],
    /// Summand per channel.
    pub offset: &'a [f32],
}

/// Pixels whose moments are gathered together before they are merged.
const BLOCK: usize = 32;

/// A pass with sums over the pixels is cut into at most so many pieces, each with sums of its own.
const MAX_PIECES: usize = 64;

thread_local! {
    /// Means and squared deviations of the pieces of a kernel call, side by side.
    pub(super) static PIECES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Sums of the pieces, what they add up to, and the coefficients made of that.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static TOTALS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static COEFFICIENTS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Pixels of a piece of a pass with sums: the same for any number of threads.
fn piece_rows(shape: MatrixShape) -> usize {
    let least = ELEMENTWISE_CHUNK.div_ceil(shape.cols.max(1));
    shape.rows.div_ceil(MAX_PIECES).max(least).next_multiple_of(BLOCK)
}

fn is_shared(cpu: &Cpu, shape: MatrixShape) -> bool {
    // A quarter of what a copy takes to be worth a second thread: these passes do more.
    cpu.shares(shape.rows * shape.cols, ELEMENTWISE_PARALLEL_MIN / 4)
}

/// r = max(x, 0) with x and r (pixels, channels), and the moments of r merged into `moments` (to begin
/// anew, [clear](Moments::clear) them), in one pass.
///
/// ```
/// use kernelet::{Cpu, kernels::relu_batch_norm::{self, Moments}, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// // Four pixels of two channels.
/// let shape = MatrixShape { rows: 4, cols: 2 };
/// let x = [1.0, -1.0, 2.0, 0.0, 3.0, 4.0, -2.0, 4.0];
/// let (mut r, mut moments) = ([0.0; 8], Moments::new(2));
/// relu_batch_norm::forward_moments(&cpu, shape, &x, &mut r, &mut moments);
/// assert_eq!(r, [1.0, 0.0, 2.0, 0.0, 3.0, 4.0, 0.0, 4.0]);
/// assert_eq!(moments.mean(), [1.5, 2.0]);
/// assert_eq!((moments.variance(0), moments.variance(1)), (1.25, 4.0));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice or `moments` does not fit `shape`.
pub fn forward_moments(
    cpu: &Cpu,
    shape: MatrixShape,
    x: &[f32],
    r: &mut [f32],
    moments: &mut Moments,
) {
    struct Piece<'a> {
        channels: usize,
        x: &'a [f32],
        r: &'a mut [f32],
        moments: &'a mut [f32],
    }
    impl WithSimd for Piece<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { channels, x, r, moments } = self;
            let (mean, deviations) = moments.split_at_mut(channels);
            let mut before = 0;
            for (x, r) in x.chunks(BLOCK * channels).zip(r.chunks_mut(BLOCK * channels)) {
                let rows = x.len() / channels;
                for_each_vector!(simd, channels, |at, width, WHOLE| {
                    for row in 0..rows {
                        let at = row * channels + at;
                        let x = load::<S, WHOLE>(simd, x, at, width);
                        store::<S, WHOLE>(simd, r, at, width, relu(simd, x));
                    }
                    let block = (&*r, rows, channels);
                    merge_block::<S, WHOLE>(simd, block, at, width, before, mean, deviations);
                });
                before += rows;
            }
        }
    }
    let MatrixShape { rows, cols: channels } = shape;
    check_len("x", x.len(), rows, channels);
    check_len("r", r.len(), rows, channels);
    check_len("moments", moments.mean.len(), 1, channels);
    kernel_span!("relu_batch_norm::forward_moments", 5 * x.len(), 8 * x.len());
    if x.is_empty() {
        return;
    }
    let piece = piece_rows(shape);
    let count = rows.div_ceil(piece);
    let mut pieces = Buffer::borrow(&PIECES, count * 2 * channels);
    let scratch = Chunks::new(&mut pieces[..count * 2 * channels], 2 * channels);
    cpu.for_each_chunk(is_shared(cpu, shape), r, piece * channels, |index, r| {
        let x = &x[index * piece * channels..][..r.len()];
        // SAFETY: `for_each_chunk` calls this once for every index.
        let moments = unsafe { scratch.get(index) };
        cpu.dispatch(Piece { channels, x, r, moments });
    });
    moments.merge_pieces(&pieces, (0..count).map(|index| piece.min(rows - index * piece)));
}

/// Sums over rows, each in four parts that are added up at the end: one alone would wait for each addition
/// before the next. `add` adds a row to a part of each.
#[inline(always)]
fn sum_rows<S: Simd, const N: usize>(
    simd: S,
    rows: usize,
    add: impl Fn(usize, [S::f32s; N]) -> [S::f32s; N],
) -> [S::f32s; N] {
    let mut parts = [[simd.splat_f32s(0.0); N]; 4];
    let mut row = 0;
    while row + 4 <= rows {
        for (i, part) in parts.iter_mut().enumerate() {
            *part = add(row + i, *part);
        }
        row += 4;
    }
    for row in row..rows {
        parts[0] = add(row, parts[0]);
    }
    let mut sums = parts[0];
    for (i, sum) in sums.iter_mut().enumerate() {
        let (a, b) = (simd.add_f32s(*sum, parts[1][i]), simd.add_f32s(parts[2][i], parts[3][i]));
        *sum = simd.add_f32s(a, b);
    }
    sums
}

/// Merges the moments of a block of r (the slice, its pixels, and the distance between them), in a
/// vector of channels from `at`, into `mean` and `deviations` of `before` earlier pixels (which are
/// not read if there were none).
#[inline(always)]
pub(super) fn merge_block<S: Simd, const WHOLE: bool>(
    simd: S,
    (r, rows, stride): (&[f32], usize, usize),
    at: usize,
    width: usize,
    before: usize,
    mean: &mut [f32],
    deviations: &mut [f32],
) {
    assert!(!WHOLE || width == S::F32_LANES, "a whole vector");
    assert!(rows > 0 && (rows - 1) * stride + at + width <= r.len(), "a block");
    // SAFETY: `sum_rows` asks for rows below `rows`, of which the last has its vector in r, by the second
    // assertion; the first is the other condition.
    let load_row =
        |row: usize| unsafe { load_unchecked::<S, WHOLE>(simd, r, row * stride + at, width) };
    if before == 0 {
        let [sum] = sum_rows(simd, rows, |row, [sum]| [simd.add_f32s(sum, load_row(row))]);
        let block_mean = simd.div_f32s(sum, simd.splat_f32s(rows as f32));
        let [squares] = sum_rows(simd, rows, |row, [sum]| {
            let apart = simd.sub_f32s(load_row(row), block_mean);
            [simd.mul_add_e_f32s(apart, apart, sum)]
        });
        store::<S, WHOLE>(simd, mean, at, width, block_mean);
        store::<S, WHOLE>(simd, deviations, at, width, squares);
        return;
    }
    // About the mean of those before, in one pass. Little cancels: of `squares` at most the share that the
    // block is of all.
    let old = load::<S, WHOLE>(simd, mean, at, width);
    let [sum, squares] = sum_rows(simd, rows, |row, [sum, squares]| {
        let apart = simd.sub_f32s(load_row(row), old);
        [simd.add_f32s(sum, apart), simd.mul_add_e_f32s(apart, apart, squares)]
    });
    let moved = simd.mul_f32s(sum, simd.splat_f32s(1.0 / (before + rows) as f32));
    store::<S, WHOLE>(simd, mean, at, width, simd.add_f32s(old, moved));
    // Fused on every instruction set: where `squares` overflows, the product would, too.
    let squares = simd.mul_add_f32s(simd.neg_f32s(sum), moved, squares);
    let old = load::<S, WHOLE>(simd, deviations, at, width);
    store::<S, WHOLE>(simd, deviations, at, width, simd.add_f32s(old, squares));
}

/// Cuts pixels into blocks that the first-level cache has room for, which are gone through channel by channel.
fn blocks(pixels: usize, channels: usize) -> impl Iterator<Item = Range<usize>> {
    let block = (2048 / channels).max(1);
    (0..pixels).step_by(block).map(move |start| start..pixels.min(start + block))
}

/// `y = (r - mean) * inv_deviation`, times scale plus offset if there is an `affine`: r and y
/// (pixels, channels).
///
/// ```
/// use kernelet::kernels::relu_batch_norm::{self, Affine, Normalization};
/// use kernelet::{Cpu, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 4, cols: 1 };
/// let normalization = Normalization { mean: vec![2.0], inv_deviation: vec![0.5] };
/// let (r, mut y) = ([0.0, 0.0, 4.0, 4.0], [0.0; 4]);
/// relu_batch_norm::forward_normalize(&cpu, shape, &r, &normalization, None, &mut y);
/// assert_eq!(y, [-1.0, -1.0, 1.0, 1.0]);
/// let affine = Some(Affine { scale: &[3.0], offset: &[10.0] });
/// relu_batch_norm::forward_normalize(&cpu, shape, &r, &normalization, affine, &mut y);
/// assert_eq!(y, [7.0, 7.0, 13.0, 13.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice or `normalization` does not fit `shape`.
pub fn forward_normalize(
    cpu: &Cpu,
    shape: MatrixShape,
    r: &[f32],
    normalization: &Normalization,
    affine: Option<Affine>,
    y: &mut [f32],
) {
    kernel_span!("relu_batch_norm::forward_normalize", 2 * r.len(), 8 * r.len());
    check_len("r", r.len(), shape.rows, shape.cols);
    normalize(cpu, shape, Some(r), normalization, affine, y);
}

/// [`forward_normalize`] of what y holds.
///
/// ```
/// use kernelet::{Cpu, kernels::relu_batch_norm::{self, Normalization}, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 4, cols: 1 };
/// let normalization = Normalization { mean: vec![2.0], inv_deviation: vec![0.5] };
/// let mut y = [0.0, 0.0, 4.0, 4.0];
/// relu_batch_norm::forward_normalize_in_place(&cpu, shape, &normalization, None, &mut y);
/// assert_eq!(y, [-1.0, -1.0, 1.0, 1.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If y or `normalization` does not fit `shape`.
pub fn forward_normalize_in_place(
    cpu: &Cpu,
    shape: MatrixShape,
    normalization: &Normalization,
    affine: Option<Affine>,
    y: &mut [f32],
) {
    kernel_span!("relu_batch_norm::forward_normalize_in_place", 2 * y.len(), 8 * y.len());
    normalize(cpu, shape, None, normalization, affine, y);
}

/// Without `r`, y holds it.
#[track_caller]
fn normalize(
    cpu: &Cpu,
    shape: MatrixShape,
    r: Option<&[f32]>,
    normalization: &Normalization,
    affine: Option<Affine>,
    y: &mut [f32],
) {
    struct Piece<'a> {
        normalization: &'a Normalization,
        affine: Option<Affine<'a>>,
        r: Option<&'a [f32]>,
        y: &'a mut [f32],
    }
    impl WithSimd for Piece<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { normalization: Normalization { mean, inv_deviation }, affine, r, y } = self;
            let channels = mean.len();
            let zero = simd.splat_f32s(0.0);
            assert!(r.is_none_or(|r| r.len() == y.len()), "as many pixels");
            for pixels in blocks(y.len() / channels, channels) {
                for_each_vectors!(simd, channels, |at, width, WHOLE, COUNT| {
                    let mut coefficients = [(zero, zero, zero, zero); COUNT];
                    for (i, of_vector) in coefficients.iter_mut().enumerate() {
                        let of = |x: &[f32]| load::<S, WHOLE>(simd, x, at + i * width, width);
                        let (scale, offset) =
                            affine.map_or((zero, zero), |a| (of(a.scale), of(a.offset)));
                        *of_vector = (of(mean), of(inv_deviation), scale, offset);
                    }
                    for pixel in pixels.clone() {
                        for (i, &(mean, inv, scale, offset)) in coefficients.iter().enumerate() {
                            let at = pixel * channels + at + i * width;
                            // SAFETY: y has these pixels, and r is as long; `for_each_vectors` gives whole
                            // vectors where WHOLE.
                            unsafe {
                                let r = load_unchecked::<S, WHOLE>(simd, r.unwrap_or(y), at, width);
                                let mut value = simd.mul_f32s(simd.sub_f32s(r, mean), inv);
                                if affine.is_some() {
                                    value = simd.mul_add_e_f32s(value, scale, offset);
                                }
                                store_unchecked::<S, WHOLE>(simd, y, at, width, value);
                            }
                        }
                    }
                });
            }
        }
    }
    let MatrixShape { rows, cols: channels } = shape;
    check_len("y", y.len(), rows, channels);
    normalization.check(channels);
    if let Some(Affine { scale, offset }) = affine {
        check_len("scale", scale.len(), 1, channels);
        check_len("offset", offset.len(), 1, channels);
    }
    if y.is_empty() {
        return;
    }
    let chunk = ELEMENTWISE_CHUNK.div_ceil(channels) * channels;
    cpu.for_each_chunk(is_shared(cpu, shape), y, chunk, |index, y| {
        let r = r.map(|r| &r[index * chunk..][..y.len()]);
        cpu.dispatch(Piece { normalization, affine, r, y });
    });
}

/// dx (pixels, channels) from dy, through the normalisation (with moments that depend on x: those
/// of this batch) and ReLU: 0 where r is not positive. Overwrites `dscale` and `doffset` (channels)
/// with the gradients of scale and offset, which dx takes anyway.
///
/// `dx = scale inv_deviation (dy - doffset / rows - z dscale / rows)` where r > 0, with
/// `z = (r - mean) inv_deviation`, `doffset = sum(dy)`, `dscale = sum(dy z)`.
///
/// ```
/// use kernelet::{Cpu, kernels::relu_batch_norm::{self, Normalization}, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = MatrixShape { rows: 4, cols: 1 };
/// let normalization = Normalization { mean: vec![2.0], inv_deviation: vec![1.0] };
/// let (r, dy) = ([1.0, 1.0, 3.0, 3.0], [1.0, 0.0, 0.0, 0.0]);
/// let (mut dx, mut dscale, mut doffset) = ([0.0; 4], [0.0], [0.0]);
/// relu_batch_norm::backward(
///     &cpu, shape, &r, &normalization, None, &dy, &mut dx, &mut dscale, &mut doffset,
/// );
/// assert_eq!((dx, dscale, doffset), ([0.5, -0.5, 0.0, 0.0], [-1.0], [1.0]));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice or `normalization` does not fit `shape`.
#[expect(clippy::too_many_arguments, reason = "three gradients and what they are made of")]
pub fn backward(
    cpu: &Cpu,
    shape: MatrixShape,
    r: &[f32],
    normalization: &Normalization,
    scale: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    dscale: &mut [f32],
    doffset: &mut [f32],
) {
    let MatrixShape { rows, cols: channels } = shape;
    check_len("r", r.len(), rows, channels);
    check_len("dy", dy.len(), rows, channels);
    check_len("dx", dx.len(), rows, channels);
    check_len("dscale", dscale.len(), 1, channels);
    check_len("doffset", doffset.len(), 1, channels);
    check_len("scale", scale.map_or(channels, <[f32]>::len), 1, channels);
    normalization.check(channels);
    kernel_span!("relu_batch_norm::backward", 9 * r.len(), 20 * r.len());
    if r.is_empty() {
        dscale.fill(0.0);
        doffset.fill(0.0);
        return;
    }
    sum_gradients(cpu, shape, r, Some(normalization), dy, dscale, doffset);

    let mut coefficients = Buffer::borrow(&COEFFICIENTS, 4 * channels);
    let coefficients = &mut coefficients[..4 * channels];
    set_coefficients(coefficients, rows, normalization, scale, dscale, doffset);
    let coefficients = &*coefficients;
    let chunk = ELEMENTWISE_CHUNK.div_ceil(channels) * channels;
    cpu.for_each_chunk(is_shared(cpu, shape), dx, chunk, |index, dx| {
        let start = index * chunk;
        let (r, dy) = (&r[start..][..dx.len()], &dy[start..][..dx.len()]);
        cpu.dispatch(Gradients { channels, coefficients, r, dy: Some(dy), dx });
    });
}

/// dscale = the sums over pixels of dy z, doffset = those of dy, with z (pixels, channels) as it is, or
/// as `normalization` makes it.
fn sum_gradients(
    cpu: &Cpu,
    shape: MatrixShape,
    z: &[f32],
    normalization: Option<&Normalization>,
    dy: &[f32],
    dscale: &mut [f32],
    doffset: &mut [f32],
) {
    struct Piece<'a> {
        channels: usize,
        z: &'a [f32],
        normalization: Option<&'a Normalization>,
        dy: &'a [f32],
        sums: &'a mut [f32],
    }
    impl WithSimd for Piece<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { channels, z, normalization, dy, sums } = self;
            let (offset_sums, scale_sums) = sums.split_at_mut(channels);
            offset_sums.fill(0.0);
            scale_sums.fill(0.0);
            for (z, dy) in z.chunks(BLOCK * channels).zip(dy.chunks(BLOCK * channels)) {
                for_each_vector!(simd, channels, |at, width, WHOLE| {
                    let normalization =
                        normalization.map(|Normalization { mean, inv_deviation }| {
                            let mean = load::<S, WHOLE>(simd, mean, at, width);
                            (mean, load::<S, WHOLE>(simd, inv_deviation, at, width))
                        });
                    let (mut sum, mut sum_z) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
                    for row in 0..z.len() / channels {
                        let at = row * channels + at;
                        let dy = load::<S, WHOLE>(simd, dy, at, width);
                        let mut z = load::<S, WHOLE>(simd, z, at, width);
                        if let Some((mean, inv)) = normalization {
                            z = simd.mul_f32s(simd.sub_f32s(z, mean), inv);
                        }
                        sum = simd.add_f32s(sum, dy);
                        sum_z = simd.mul_add_e_f32s(dy, z, sum_z);
                    }
                    let old = load::<S, WHOLE>(simd, offset_sums, at, width);
                    store::<S, WHOLE>(simd, offset_sums, at, width, simd.add_f32s(old, sum));
                    let old = load::<S, WHOLE>(simd, scale_sums, at, width);
                    store::<S, WHOLE>(simd, scale_sums, at, width, simd.add_f32s(old, sum_z));
                });
            }
        }
    }
    let MatrixShape { rows, cols: channels } = shape;
    let piece = piece_rows(shape);
    let count = rows.div_ceil(piece);
    let mut sums = Buffer::borrow(&SUMS, count * 2 * channels);
    let sums = &mut sums[..count * 2 * channels];
    cpu.for_each_chunk(is_shared(cpu, shape), sums, 2 * channels, |index, sums| {
        let start = index * piece * channels;
        let len = (piece * channels).min(z.len() - start);
        let (z, dy) = (&z[start..][..len], &dy[start..][..len]);
        cpu.dispatch(Piece { channels, z, normalization, dy, sums });
    });
    add_pieces(sums, doffset, dscale);
}

/// Adds up the pieces' sums, in `f64` and in the order of the pieces: in each the channels' sums of
/// dy, then those of dy z.
fn add_pieces(pieces: &[f32], doffset: &mut [f32], dscale: &mut [f32]) {
    let channels = doffset.len();
    for c in 0..channels {
        let total = |first: usize| -> f64 {
            pieces.iter().skip(first).step_by(2 * channels).map(|&sum| f64::from(sum)).sum()
        };
        doffset[c] = total(c) as f32;
        dscale[c] = total(channels + c) as f32;
    }
}

/// What `dx = factor (dy - mean_dy + (r - mean) slope)` takes, one after the other.
fn set_coefficients(
    coefficients: &mut [f32],
    rows: usize,
    normalization: &Normalization,
    scale: Option<&[f32]>,
    dscale: &[f32],
    doffset: &[f32],
) {
    let Normalization { mean, inv_deviation } = normalization;
    let channels = mean.len();
    let (factor, rest) = coefficients.split_at_mut(channels);
    let (mean_dy, rest) = rest.split_at_mut(channels);
    let (slope, means) = rest.split_at_mut(channels);
    let rows = rows as f64;
    let _flush = FlushSubnormals::new();
    for c in 0..channels {
        factor[c] = inv_deviation[c] * scale.map_or(1.0, |scale| scale[c]);
        mean_dy[c] = (f64::from(doffset[c]) / rows) as f32;
        slope[c] = -(f64::from(dscale[c]) / rows * f64::from(inv_deviation[c])) as f32;
        means[c] = mean[c];
    }
}

/// dx of whole pixels; without `dy`, dx holds it.
struct Gradients<'a> {
    channels: usize,
    coefficients: &'a [f32],
    r: &'a [f32],
    dy: Option<&'a [f32]>,
    dx: &'a mut [f32],
}

impl WithSimd for Gradients<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { channels, coefficients, r, dy, dx } = self;
        for pixel in 0..r.len() / channels {
            for_each_vector!(simd, channels, |at, width, WHOLE| {
                let coefficients = Coefficients::load::<WHOLE>(simd, coefficients, at, width);
                let at = pixel * channels + at;
                let dy = load::<S, WHOLE>(simd, dy.unwrap_or(dx), at, width);
                let r = load::<S, WHOLE>(simd, r, at, width);
                let dy = coefficients.centred(simd, dy);
                store::<S, WHOLE>(simd, dx, at, width, coefficients.dx(simd, dy, r));
            });
        }
    }
}

/// The coefficients of a vector of channels.
struct Coefficients<S: Simd> {
    factor: S::f32s,
    mean_dy: S::f32s,
    slope: S::f32s,
    mean: S::f32s,
}

impl<S: Simd> Coefficients<S> {
    #[inline(always)]
    fn load<const WHOLE: bool>(simd: S, all: &[f32], at: usize, width: usize) -> Self {
        let channels = all.len() / 4;
        Self {
            factor: load::<S, WHOLE>(simd, all, at, width),
            mean_dy: load::<S, WHOLE>(simd, all, channels + at, width),
            slope: load::<S, WHOLE>(simd, all, 2 * channels + at, width),
            mean: load::<S, WHOLE>(simd, all, 3 * channels + at, width),
        }
    }

    /// dy without its mean, which [`dx`](Self::dx) takes.
    #[inline(always)]
    fn centred(&self, simd: S, dy: S::f32s) -> S::f32s {
        simd.sub_f32s(dy, self.mean_dy)
    }

    /// dx from [`centred`](Self::centred) dy: 0 where r is not positive.
    #[inline(always)]
    fn dx(&self, simd: S, centred: S::f32s, r: S::f32s) -> S::f32s {
        let apart = simd.sub_f32s(r, self.mean);
        let sum = simd.mul_add_e_f32s(apart, self.slope, centred);
        keep_where_positive(simd, r, simd.mul_f32s(sum, self.factor))
    }

    /// dx in the first `windows` windows of a row of them, 2 x 2 pixels each, side by side, from their dy and
    /// argmax: `width` of the channels from `at`. r and dx are two rows of an image.
    #[inline(always)]
    fn dx_of_fours<const WHOLE: bool>(
        &self,
        simd: S,
        (channels, at, width): (usize, usize, usize),
        windows: usize,
        r: &[f32],
        (dy, argmax): (&[f32], &[u8]),
        dx: &mut [f32],
    ) {
        let elsewhere = self.centred(simd, simd.splat_f32s(0.0));
        let ((r_above, r_below), (above, below)) =
            (r.split_at(r.len() / 2), dx.split_at_mut(r.len() / 2));
        let r = r_above.chunks_exact(2 * channels).zip(r_below.chunks_exact(2 * channels));
        let dx = above.chunks_exact_mut(2 * channels).zip(below.chunks_exact_mut(2 * channels));
        let pooled = dy.chunks_exact(channels).zip(argmax.chunks_exact(channels));
        for (((r_above, r_below), (above, below)), (dy, argmax)) in
            r.zip(dx).zip(pooled).take(windows)
        {
            let largest = self.centred(simd, load::<S, WHOLE>(simd, dy, at, width));
            let place = max_pool::places(simd, &argmax[at..]);
            for (down, (r, dx)) in [(r_above, above), (r_below, below)].into_iter().enumerate() {
                for right in 0..2 {
                    let here = simd.splat_u32s(2 * down as u32 + right);
                    let dy = simd.select_f32s(simd.equal_u32s(place, here), largest, elsewhere);
                    let to = right as usize * channels + at;
                    let value = self.dx(simd, dy, load::<S, WHOLE>(simd, r, to, width));
                    store::<S, WHOLE>(simd, dx, to, width, value);
                }
            }
        }
    }
}

/// [`forward_normalize`] and [`max_pool::forward`] in one pass, the normalised images never written:
/// r as `shape.input`, y and argmax as `shape.output()`. There is no affine map, because its scale
/// may be negative: normalisation grows with r, so the largest r of a window gives the largest y. (So
/// `inv_deviation` must not be negative, which [`Normalization::set`] never makes it.)
///
/// ```
/// use kernelet::kernels::relu_batch_norm::{self, Normalization};
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 2, width: 2, channels: 1 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// let normalization = Normalization { mean: vec![2.0], inv_deviation: vec![0.5] };
/// let (r, mut y, mut argmax) = ([1.0, 1.0, 4.0, 2.0], [0.0], [0]);
/// relu_batch_norm::forward_normalize_max_pool(
///     &cpu, shape, &r, &normalization, &mut y, &mut argmax,
/// );
/// assert_eq!((y, argmax), ([1.0], [2]));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice or `normalization` does not fit `shape`, or its window has more than 256 places.
pub fn forward_normalize_max_pool(
    cpu: &Cpu,
    shape: PoolShape,
    r: &[f32],
    normalization: &Normalization,
    y: &mut [f32],
    argmax: &mut [u8],
) {
    max_pool::check(shape, r.len(), "r", y.len(), "y", argmax);
    normalization.check(shape.input.channels);
    kernel_span!(
        "relu_batch_norm::forward_normalize_max_pool",
        r.len() + 2 * y.len(),
        4 * r.len() + 5 * y.len()
    );
    max_pool::run(cpu, shape, r, Some(normalization), y, argmax);
}

/// The backward of [`forward_normalize_max_pool`], with moments that depend on x, and of the ReLU
/// before it: dx (as `shape.input`) from dy, and from y and argmax as the forward wrote them (as
/// `shape.output()`).
///
/// ```
/// use kernelet::kernels::relu_batch_norm::{self, Normalization};
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 2, width: 2, channels: 1 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// let normalization = Normalization { mean: vec![2.0], inv_deviation: vec![1.0] };
/// let (r, y, argmax) = ([1.0, 1.0, 3.0, 3.0], [1.0], [2]);
/// let mut dx = [0.0; 4];
/// relu_batch_norm::backward_max_pool(
///     &cpu, shape, &r, &normalization, &y, &argmax, &[1.0], &mut dx,
/// );
/// assert_eq!(dx, [0.0, 0.0, 0.5, -0.5]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// As [`forward_normalize_max_pool`]. (An argmax that no forward could have written is a panic, or its
/// dy is dropped.)
#[expect(clippy::too_many_arguments, reason = "what the forward read and wrote")]
pub fn backward_max_pool(
    cpu: &Cpu,
    shape: PoolShape,
    r: &[f32],
    normalization: &Normalization,
    y: &[f32],
    argmax: &[u8],
    dy: &[f32],
    dx: &mut [f32],
) {
    kernel_span!(
        "relu_batch_norm::backward_max_pool",
        5 * r.len() + 3 * y.len(),
        8 * r.len() + 9 * y.len()
    );
    check_len("dx", dx.len(), 1, r.len());
    let backward = BackwardMaxPool::new(cpu, shape, r, normalization, y, argmax, dy);
    let parallel = is_shared(cpu, shape.input.pixels());
    let rows = if windows::covers_every_pixel_once(shape) {
        shape.input.height
    } else {
        windows::rows_per_chunk(shape.input, dx.len(), shape.window.stride[0])
    };
    let chunk = rows * shape.input.width * shape.input.channels;
    cpu.for_each_chunk(parallel, dx, chunk, |index, dx| backward.rows(cpu, index * rows, dx));
}

/// [`backward_max_pool`] with its sums over the batch done, so that dx can be had image by image.
pub(super) struct BackwardMaxPool<'a> {
    shape: PoolShape,
    coefficients: Buffer,
    r: &'a [f32],
    argmax: &'a [u8],
    dy: &'a [f32],
}

impl<'a> BackwardMaxPool<'a> {
    #[track_caller]
    pub(super) fn new(
        cpu: &Cpu,
        shape: PoolShape,
        r: &'a [f32],
        normalization: &Normalization,
        y: &[f32],
        argmax: &'a [u8],
        dy: &'a [f32],
    ) -> Self {
        max_pool::check(shape, r.len(), "r", y.len(), "y", argmax);
        check_len("dy", dy.len(), 1, y.len());
        normalization.check(shape.input.channels);
        let (pixels, pooled) = (shape.input.pixels(), shape.output().pixels());
        let channels = pixels.cols;
        let mut totals = Buffer::borrow(&TOTALS, 2 * channels);
        let (dscale, doffset) = totals[..2 * channels].split_at_mut(channels);
        sum_gradients(cpu, pooled, y, None, dy, dscale, doffset);

        let mut coefficients = Buffer::borrow(&COEFFICIENTS, 4 * channels);
        let of_channels = &mut coefficients[..4 * channels];
        set_coefficients(of_channels, pixels.rows, normalization, None, dscale, doffset);
        Self { shape, coefficients, r, argmax, dy }
    }

    /// dx of an image, by its number.
    pub(super) fn image(&self, cpu: &Cpu, index: usize, dx: &mut [f32]) {
        self.rows(cpu, index * self.shape.input.height, dx);
    }

    /// dx of rows from the batch's `first` on: an image's if every pixel is in one window.
    fn rows(&self, cpu: &Cpu, first: usize, dx: &mut [f32]) {
        let Self { shape, argmax, dy, .. } = *self;
        let channels = shape.input.channels;
        let r = &self.r[first * shape.input.width * channels..][..dx.len()];
        let coefficients = &self.coefficients[..4 * channels];
        if windows::covers_every_pixel_once(shape) {
            let pooled = shape.output().image_len();
            let from = first / shape.input.height * pooled;
            let (argmax, dy) = (&argmax[from..][..pooled], &dy[from..][..pooled]);
            cpu.dispatch(PooledGradients { shape, coefficients, r, argmax, dy, dx });
        } else {
            cpu.dispatch(max_pool::BackwardRows { shape, argmax, dy, first, dx });
            cpu.dispatch(Gradients { channels, coefficients, r, dy: None, dx });
        }
    }
}

/// dx of one image whose pixels are each in one window.
struct PooledGradients<'a> {
    shape: PoolShape,
    coefficients: &'a [f32],
    r: &'a [f32],
    argmax: &'a [u8],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for PooledGradients<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, coefficients, r, argmax, dy, dx } = self;
        let channels = shape.input.channels;
        let windows = Windows::new(shape);
        let output = shape.output();
        let zero = simd.splat_f32s(0.0);
        assert!(r.len() == shape.input.image_len() && dx.len() == r.len(), "an image");
        for oy in 0..output.height {
            let fours = windows.fours(oy);
            let (row, to) = (shape.input.width * channels, oy * output.width * channels);
            for_each_vector!(simd, channels, |at, width, WHOLE| {
                let coefficients = Coefficients::load::<WHOLE>(simd, coefficients, at, width);
                let elsewhere = coefficients.centred(simd, zero);
                if fours > 0 {
                    let first = windows.at(oy, 0).rows.start * row;
                    let (r, dx) = (&r[first..][..2 * row], &mut dx[first..][..2 * row]);
                    let pooled = (&dy[to..], &argmax[to..]);
                    let part = (channels, at, width);
                    coefficients.dx_of_fours::<WHOLE>(simd, part, fours, r, pooled, dx);
                }
                for ox in fours..output.width {
                    let from = (oy * output.width + ox) * channels + at;
                    let dy = load::<S, WHOLE>(simd, dy, from, width);
                    let largest = coefficients.centred(simd, dy);
                    let place = max_pool::places(simd, &argmax[from..]);
                    windows::for_each_pixel!(windows.at(oy, ox), |here, pixel| {
                        let is_here = simd.equal_u32s(place, simd.splat_u32s(here as u32));
                        let dy = simd.select_f32s(is_here, largest, elsewhere);
                        let at = pixel * channels + at;
                        // SAFETY: a window's pixels are the image's, of which r and dx have all;
                        // `for_each_vector` gives whole vectors where WHOLE.
                        unsafe {
                            let r = load_unchecked::<S, WHOLE>(simd, r, at, width);
                            let value = coefficients.dx(simd, dy, r);
                            store_unchecked::<S, WHOLE>(simd, dx, at, width, value);
                        }
                    });
                }
            });
        }
    }
}
