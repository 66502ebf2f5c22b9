//! Gradient descent with momentum: v = momentum v + rate g, then w = w - v.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};

use super::{ELEMENTWISE_CHUNK, ELEMENTWISE_PARALLEL_MIN, kernel_span};
use crate::cpu::Cpu;
use crate::shape::check_len;

/// The two constants of the method (Polyak's heavy ball, with the learning rate inside v as in the
/// study).
///
/// ```
/// use kernelet::{Cpu, kernels::momentum::{self, Momentum}};
///
/// let cpu = Cpu::detect()?;
/// // Without momentum it is plain gradient descent.
/// let settings = Momentum { learning_rate: 0.5, momentum: 0.0 };
/// let (mut w, mut v) = ([3.0], [0.0]);
/// momentum::update(&cpu, settings, &mut w, &mut v, &[2.0]);
/// assert_eq!(w, [2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// Learning rate.
    pub learning_rate: f32,
    /// Share of the velocity that is kept.
    pub momentum: f32,
}

/// Updates the velocity `v` (0 at first) from the gradient `g`, and the weights `w` from the new v,
/// in one pass over memory.
///
/// Accuracy, with u = 2^-24: the new v is within `u (|momentum v| + |rate g| + |new v|)` of the exact
/// expression, and w - v is rounded once.
///
/// ```
/// use kernelet::{Cpu, kernels::momentum::{self, Momentum}};
///
/// let cpu = Cpu::detect()?;
/// let settings = Momentum { learning_rate: 0.25, momentum: 0.5 };
/// let (mut w, mut v, g) = ([1.0, 1.0], [0.0; 2], [2.0, -4.0]);
/// momentum::update(&cpu, settings, &mut w, &mut v, &g);
/// assert_eq!((w, v), ([0.5, 2.0], [0.5, -1.0]));
/// momentum::update(&cpu, settings, &mut w, &mut v, &g);
/// assert_eq!((w, v), ([-0.25, 3.5], [0.75, -1.5]));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If the three slices differ in length.
pub fn update(cpu: &Cpu, settings: Momentum, w: &mut [f32], v: &mut [f32], g: &[f32]) {
    check_len("v", v.len(), 1, w.len());
    check_len("g", g.len(), 1, w.len());
    kernel_span!("momentum::update", 4 * w.len(), 20 * w.len());
    let parallel = cpu.shares(w.len(), ELEMENTWISE_PARALLEL_MIN / 2);
    cpu.for_each_chunk_pair(parallel, w, v, ELEMENTWISE_CHUNK, |index, w, v| {
        let g = &g[index * ELEMENTWISE_CHUNK..][..w.len()];
        cpu.dispatch(Update { settings, w, v, g });
    });
}

struct Update<'a> {
    settings: Momentum,
    w: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
}

impl WithSimd for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rate = simd.splat_f32s(self.settings.learning_rate);
        let momentum = simd.splat_f32s(self.settings.momentum);
        let (w, w_tail) = S::as_mut_simd_f32s(self.w);
        let (v, v_tail) = S::as_mut_simd_f32s(self.v);
        let (g, g_tail) = S::as_simd_f32s(self.g);
        for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
            *v = simd.mul_add_e_f32s(momentum, *v, simd.mul_f32s(rate, g));
            *w = simd.sub_f32s(*w, *v);
        }
        let g = simd.partial_load_f32s(g_tail);
        let v = simd.partial_load_f32s(v_tail);
        let v = simd.mul_add_e_f32s(momentum, v, simd.mul_f32s(rate, g));
        let w = simd.sub_f32s(simd.partial_load_f32s(w_tail), v);
        simd.partial_store_f32s(v_tail, v);
        simd.partial_store_f32s(w_tail, w);
    }
}
