//! Adam as TensorFlow writes it, with L2 regularisation folded in.
//!
//! Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), in the form before its
//! section 2.1's end, which TensorFlow's `ResourceApplyAdam` implements: epsilon is added to the
//! square root of the uncorrected second moment.
//!
//! Accuracy, with u = 2^-24 and g' = g + l2 w: the new m is within
//! `u (3 |m| + 3 |g'| + |l2 w|)` of the exact expression and the new v within
//! `u (3 v + 6 g'^2 + 2 |g' l2 w|)`; given these, w moves by `rate m / (sqrt(v) + epsilon)` within
//! 5 u of that, and is rounded once.

use pulp::{Simd, WithSimd};

use super::kernel_span;
use crate::cpu::{Chunks, Cpu};
use crate::shape::check_len;

/// The constants of the method; the default is the study's.
///
/// ```
/// use kernelet::kernels::adam::Adam;
///
/// // The study's constants, but longer steps and a penalty on large weights.
/// let adam = Adam { learning_rate: 1e-3, l2: 0.01, ..Adam::default() };
/// assert_eq!((adam.beta1, adam.beta2, adam.epsilon), (0.9, 0.999, 1e-8));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub epsilon: f32,
    /// Factor lambda of the penalty `lambda sum(w^2) / 2`, whose gradient `lambda w` is added to g.
    pub l2: f32,
}

impl Default for Adam {
    fn default() -> Self {
        Self { learning_rate: 1e-4, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, l2: 0.0 }
    }
}

impl Adam {
    /// The learning rate of update number `step` (from 1), which makes up for the moments' start at
    /// zero: `learning_rate sqrt(1 - beta2^step) / (1 - beta1^step)`. There is no update 0: NaN.
    ///
    /// ```
    /// use kernelet::kernels::adam::Adam;
    ///
    /// let adam = Adam::default();
    /// // sqrt(1 - 0.999) / (1 - 0.9) = 0.3162 at first, 1 in the end.
    /// assert!((adam.rate(1) / adam.learning_rate - 0.3162).abs() < 1e-4);
    /// assert_eq!(adam.rate(1_000_000), adam.learning_rate);
    /// ```
    #[must_use]
    pub fn rate(self, step: u64) -> f32 {
        let rest = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        (f64::from(self.learning_rate) * rest(self.beta2).sqrt() / rest(self.beta1)) as f32
    }
}

/// Update number `step` (from 1) of the weights `w` and the moments `m` and `v` (0 at first) from
/// the gradient `g`, in one pass over memory:
///
/// ```text
/// g' = g + l2 w
/// m = m + (1 - beta1) (g' - m)
/// v = v + (1 - beta2) (g'^2 - v)
/// w = w - learning_rate sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + epsilon)
/// ```
///
/// Returns the sum of squares of `w` before the update, which the penalty takes, to 32 u of itself;
/// squares below the normal range count as zero. Where g' is so large that its square overflows (from
/// 1.8e19 on), v is infinite and w stands still; the next update makes both NaN.
///
/// ```
/// use kernelet::{Cpu, kernels::adam::{self, Adam}};
///
/// let cpu = Cpu::detect()?;
/// let adam = Adam { learning_rate: 0.5, ..Adam::default() };
/// let (mut w, mut m, mut v) = ([1.0, -2.0], [0.0; 2], [0.0; 2]);
/// // The first step is as long as the learning rate, whatever the size of the gradient.
/// let squares = adam::update(&cpu, adam, 1, &mut w, &mut m, &mut v, &[10.0, -0.1]);
/// assert_eq!(squares, 5.0);
/// assert!((w[0] - 0.5).abs() < 1e-4 && (w[1] + 1.5).abs() < 1e-4);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If the slices differ in length, or `step` is 0.
pub fn update(
    cpu: &Cpu,
    adam: Adam,
    step: u64,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
) -> f64 {
    check_len("m", m.len(), 1, w.len());
    check_len("v", v.len(), 1, w.len());
    check_len("g", g.len(), 1, w.len());
    kernel_span!("adam::update", 16 * w.len(), 28 * w.len());
    // From here on a second thread helps: some 20 microseconds' work.
    let parallel = cpu.shares(w.len(), super::ELEMENTWISE_PARALLEL_MIN / 4);
    let piece = w.len().div_ceil(PIECES).next_multiple_of(PIECE_MULTIPLE);
    let weights = Weights::new(adam, step, (w, m, v), piece);
    let mut squares = [0.0; PIECES];
    let squares = &mut squares[..weights.pieces()];
    cpu.for_each_chunk(parallel, squares, 1, |index, squares| {
        let g = &g[index * piece..];
        // SAFETY: `for_each_chunk` calls this once for every index.
        squares[0] = unsafe { weights.update_piece(cpu, index, &g[..piece.min(g.len())]) };
    });
    // From +0, which is what no weights have; a `sum` begins at -0.
    squares.iter().fold(0.0, |sum, squares| sum + squares)
}

/// At most so many pieces, each with a sum of squares: their number must not depend on the number
/// of threads.
pub(super) const PIECES: usize = 256;

/// Elements of a piece, so that all but the last are made of whole vectors.
const PIECE_MULTIPLE: usize = 256;

/// Squares are summed in `f32` over so many vectors.
const BLOCK_VECTORS: usize = 16;

/// What is updated, cut into pieces that several threads may take.
pub(super) struct Weights<'a> {
    adam: Adam,
    rate: f32,
    w: Chunks<'a, f32>,
    m: Chunks<'a, f32>,
    v: Chunks<'a, f32>,
}

impl<'a> Weights<'a> {
    /// # Panics
    /// If `step` is 0.
    #[track_caller]
    pub(super) fn new(
        adam: Adam,
        step: u64,
        (w, m, v): (&'a mut [f32], &'a mut [f32], &'a mut [f32]),
        piece: usize,
    ) -> Self {
        assert!(step > 0, "Adam's steps are numbered from 1, but step is 0");
        let (w, m, v) = (Chunks::new(w, piece), Chunks::new(m, piece), Chunks::new(v, piece));
        Self { adam, rate: adam.rate(step), w, m, v }
    }

    pub(super) fn pieces(&self) -> usize {
        self.w.count()
    }

    /// Piece number `index` of w.
    ///
    /// # Safety
    /// It may not be updated while the result is alive.
    pub(super) unsafe fn piece_of_w(&self, index: usize) -> &[f32] {
        // SAFETY: as the caller promises.
        unsafe { self.w.shared(index) }
    }

    /// Updates piece number `index` from its gradient and returns the sum of squares it had.
    ///
    /// # Safety
    /// No two calls may be for the same piece at the same time.
    pub(super) unsafe fn update_piece(&self, cpu: &Cpu, index: usize, g: &[f32]) -> f64 {
        // SAFETY: as the caller promises.
        let (w, m, v) = unsafe { (self.w.get(index), self.m.get(index), self.v.get(index)) };
        cpu.dispatch(Update { adam: self.adam, rate: self.rate, w, m, v, g })
    }
}

struct Update<'a> {
    adam: Adam,
    rate: f32,
    w: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
}

impl WithSimd for Update<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let Self { adam, rate, w, m, v, g } = self;
        let constants = Constants::<S> {
            rest1: simd.splat_f32s(1.0 - adam.beta1),
            rest2: simd.splat_f32s(1.0 - adam.beta2),
            epsilon: simd.splat_f32s(adam.epsilon),
            l2: simd.splat_f32s(adam.l2),
            rate: simd.splat_f32s(rate),
        };
        let mut total = 0.0;
        let block = BLOCK_VECTORS * S::F32_LANES;
        let blocks = w.chunks_mut(block).zip(m.chunks_mut(block)).zip(v.chunks_mut(block));
        for (((w, m), v), g) in blocks.zip(g.chunks(block)) {
            let mut squares = simd.splat_f32s(0.0);
            let (w, w_tail) = S::as_mut_simd_f32s(w);
            let (m, m_tail) = S::as_mut_simd_f32s(m);
            let (v, v_tail) = S::as_mut_simd_f32s(v);
            let (g, g_tail) = S::as_simd_f32s(g);
            for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
                squares = simd.mul_add_e_f32s(*w, *w, squares);
                (*w, *m, *v) = constants.step(simd, *w, *m, *v, g);
            }
            if !g_tail.is_empty() {
                let old = simd.partial_load_f32s(w_tail);
                squares = simd.mul_add_e_f32s(old, old, squares);
                let (w, m, v) = constants.step(
                    simd,
                    old,
                    simd.partial_load_f32s(m_tail),
                    simd.partial_load_f32s(v_tail),
                    simd.partial_load_f32s(g_tail),
                );
                simd.partial_store_f32s(w_tail, w);
                simd.partial_store_f32s(m_tail, m);
                simd.partial_store_f32s(v_tail, v);
            }
            total += f64::from(simd.reduce_sum_f32s(squares));
        }
        total
    }
}

struct Constants<S: Simd> {
    rest1: S::f32s,
    rest2: S::f32s,
    epsilon: S::f32s,
    l2: S::f32s,
    rate: S::f32s,
}

impl<S: Simd> Constants<S> {
    /// The new w, m and v.
    #[inline(always)]
    fn step(
        &self,
        simd: S,
        w: S::f32s,
        m: S::f32s,
        v: S::f32s,
        g: S::f32s,
    ) -> (S::f32s, S::f32s, S::f32s) {
        let g = simd.mul_add_e_f32s(self.l2, w, g);
        let m = simd.mul_add_e_f32s(self.rest1, simd.sub_f32s(g, m), m);
        let v = simd.mul_add_e_f32s(self.rest2, simd.sub_f32s(simd.mul_f32s(g, g), v), v);
        let root = simd.add_f32s(simd.sqrt_f32s(v), self.epsilon);
        let w = simd.sub_f32s(w, simd.div_f32s(simd.mul_f32s(self.rate, m), root));
        (w, m, v)
    }
}
