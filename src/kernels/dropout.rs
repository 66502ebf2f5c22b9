//! Inverted dropout: every element is kept with a probability and divided by it, or zeroed.
//!
//! Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (JMLR 15,
//! 2014). Exact but for the division's rounding.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};

use super::{ELEMENTWISE_CHUNK, kernel_span};
use crate::cpu::Cpu;

/// Which elements are kept: a function of seed, step and position alone, the same on every machine
/// and with any number of threads.
///
/// ```
/// use kernelet::kernels::dropout::Dropout;
///
/// let dropout = Dropout { keep: 0.75, seed: 1, step: 0 };
/// let kept = (0..1000).filter(|&position| dropout.keeps(position)).count();
/// assert!((700..800).contains(&kept));
/// // Another step keeps others.
/// let next = Dropout { step: 1, ..dropout };
/// assert!((0..1000).any(|position| dropout.keeps(position) != next.keeps(position)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is kept, in (0, 1].
    pub keep: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the training step.
    pub step: u64,
}

impl Dropout {
    /// Whether the element at `position` is kept: whether word number `position` of ChaCha8's
    /// stream number `step`, keyed by `seed`, is below `keep 2^32`. (For single questions: it sets
    /// up the generator every time.)
    ///
    /// ```
    /// use kernelet::kernels::dropout::Dropout;
    ///
    /// let dropout = Dropout { keep: 0.5, seed: 1, step: 0 };
    /// let kept = [0, 1, 2, 3].map(|position| dropout.keeps(position));
    /// assert_eq!(kept, [false, true, false, true]);
    /// ```
    #[must_use]
    pub fn keeps(self, position: usize) -> bool {
        u64::from(self.words(position).next_u32()) < self.threshold()
    }

    fn words(self, position: usize) -> ChaCha8Rng {
        let mut words = ChaCha8Rng::seed_from_u64(self.seed);
        words.set_stream(self.step);
        words.set_word_pos(position as u128);
        words
    }

    fn threshold(self) -> u64 {
        (f64::from(self.keep) * 2f64.powi(32)) as u64
    }
}

/// x = x / keep where the element is kept, else 0, whatever it was. An element's position is its
/// index in x.
///
/// ```
/// use kernelet::{Cpu, kernels::dropout::{self, Dropout}};
///
/// let cpu = Cpu::detect()?;
/// let mut x = [1.0, 2.0, 3.0, 4.0];
/// dropout::forward_in_place(&cpu, Dropout { keep: 0.5, seed: 1, step: 0 }, &mut x);
/// assert_eq!(x, [0.0, 4.0, 0.0, 8.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If `keep` is not in (0, 1].
pub fn forward_in_place(cpu: &Cpu, dropout: Dropout, x: &mut [f32]) {
    kernel_span!("dropout::forward_in_place", x.len(), 8 * x.len());
    run(cpu, dropout, x);
}

/// dx = dy / keep where the element was kept, else 0: dy in, dx out. `dropout` is the forward's, of
/// which nothing else has to be remembered.
///
/// ```
/// use kernelet::{Cpu, kernels::dropout::{self, Dropout}};
///
/// let cpu = Cpu::detect()?;
/// // The same seed and step as in the forward pass keep the same elements.
/// let mut dx = [1.0; 4];
/// dropout::backward_in_place(&cpu, Dropout { keep: 0.5, seed: 1, step: 0 }, &mut dx);
/// assert_eq!(dx, [0.0, 2.0, 0.0, 2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If `keep` is not in (0, 1].
pub fn backward_in_place(cpu: &Cpu, dropout: Dropout, dx: &mut [f32]) {
    kernel_span!("dropout::backward_in_place", dx.len(), 8 * dx.len());
    run(cpu, dropout, dx);
}

/// From here on a second thread helps: drawing a number takes about a nanosecond.
const PARALLEL_MIN: usize = 16 * 1024;

fn run(cpu: &Cpu, dropout: Dropout, x: &mut [f32]) {
    let keep = dropout.keep;
    assert!(keep > 0.0 && keep <= 1.0, "keep is {keep}, but must be above 0 and at most 1");
    let parallel = cpu.shares(x.len(), PARALLEL_MIN);
    let chunk = ELEMENTWISE_CHUNK / 4;
    cpu.for_each_chunk(parallel, x, chunk, |index, x| {
        cpu.dispatch(Run { dropout, position: index * chunk, x });
    });
}

struct Run<'a> {
    dropout: Dropout,
    position: usize,
    x: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { dropout, position, x } = self;
        let Some(largest) = dropout.threshold().checked_sub(1) else { return x.fill(0.0) };
        // At most 2^32 - 1, because keep is at most 1.
        let largest = largest as u32;
        let mut words = dropout.words(position);
        let mut buffer = [0; 256];
        for x in x.chunks_mut(buffer.len()) {
            let words_of_x = &mut buffer[..x.len()];
            words.fill(words_of_x);
            for (x, &word) in x.iter_mut().zip(&*words_of_x) {
                *x = if word <= largest { *x / dropout.keep } else { 0.0 };
            }
        }
    }
}
