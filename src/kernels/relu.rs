//! ReLU: y = max(x, 0). Stands in for the study's `relu`.
//!
//! By itself this kernel is bound by memory; where the input comes from a linear layer use
//! [`linear::forward_relu`](super::linear::forward_relu), which never writes it.

use pulp::{Simd, WithSimd};

use super::{ELEMENTWISE_CHUNK, ELEMENTWISE_PARALLEL_MIN, kernel_span};
use crate::cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::cpu::is_avx512;
use crate::shape::check_len;

/// y = max(x, 0), exactly; NaN stays NaN, and -0 becomes +0.
///
/// ```
/// use kernelet::{Cpu, kernels::relu};
///
/// let cpu = Cpu::detect()?;
/// let mut y = [0.0; 3];
/// relu::forward(&cpu, &[-1.0, 0.0, 2.0], &mut y);
/// assert_eq!(y, [0.0, 0.0, 2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If `y` is not as long as `x`.
pub fn forward(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
    struct Forward<'a>(&'a [f32], &'a mut [f32]);
    impl WithSimd for Forward<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (x, x_tail) = S::as_simd_f32s(self.0);
            let (y, y_tail) = S::as_mut_simd_f32s(self.1);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = relu(simd, x);
            }
            simd.partial_store_f32s(y_tail, relu(simd, simd.partial_load_f32s(x_tail)));
        }
    }
    check_len("y", y.len(), 1, x.len());
    kernel_span!("relu::forward", x.len(), 8 * x.len());
    let parallel = cpu.shares(x.len(), ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, y, ELEMENTWISE_CHUNK, |index, y| {
        let x = &x[index * ELEMENTWISE_CHUNK..][..y.len()];
        cpu.dispatch(Forward(x, y));
    });
}

/// [`forward`] in place: x in, y out.
///
/// ```
/// use kernelet::{Cpu, kernels::relu};
///
/// let cpu = Cpu::detect()?;
/// let mut y = [-1.0, 2.0];
/// relu::forward_in_place(&cpu, &mut y);
/// assert_eq!(y, [0.0, 2.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
pub fn forward_in_place(cpu: &Cpu, y: &mut [f32]) {
    struct InPlace<'a>(&'a mut [f32]);
    impl WithSimd for InPlace<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (y, tail) = S::as_mut_simd_f32s(self.0);
            for y in y {
                *y = relu(simd, *y);
            }
            simd.partial_store_f32s(tail, relu(simd, simd.partial_load_f32s(tail)));
        }
    }
    kernel_span!("relu::forward_in_place", y.len(), 8 * y.len());
    let parallel = cpu.shares(y.len(), ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, y, ELEMENTWISE_CHUNK, |_, y| cpu.dispatch(InPlace(y)));
}

/// dx = dy where y > 0, else 0 (so ReLU'(0) = 0, and so is that of NaN). `y` may be ReLU's output
/// or its input.
///
/// ```
/// use kernelet::{Cpu, kernels::relu};
///
/// let cpu = Cpu::detect()?;
/// let (y, dy) = ([0.0, 0.0, 2.0], [5.0, 6.0, 7.0]);
/// let mut dx = [0.0; 3];
/// relu::backward(&cpu, &y, &dy, &mut dx);
/// assert_eq!(dx, [0.0, 0.0, 7.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If the three slices differ in length.
pub fn backward(cpu: &Cpu, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    struct Backward<'a>(&'a [f32], &'a [f32], &'a mut [f32]);
    impl WithSimd for Backward<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (y, y_tail) = S::as_simd_f32s(self.0);
            let (dy, dy_tail) = S::as_simd_f32s(self.1);
            let (dx, dx_tail) = S::as_mut_simd_f32s(self.2);
            for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
                *dx = keep_where_positive(simd, y, dy);
            }
            let y = simd.partial_load_f32s(y_tail);
            let dy = simd.partial_load_f32s(dy_tail);
            simd.partial_store_f32s(dx_tail, keep_where_positive(simd, y, dy));
        }
    }
    check_len("dy", dy.len(), 1, y.len());
    check_len("dx", dx.len(), 1, y.len());
    kernel_span!("relu::backward", y.len(), 12 * y.len());
    let parallel = cpu.shares(y.len(), ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, dx, ELEMENTWISE_CHUNK, |index, dx| {
        let start = index * ELEMENTWISE_CHUNK;
        let (y, dy) = (&y[start..][..dx.len()], &dy[start..][..dx.len()]);
        cpu.dispatch(Backward(y, dy, dx));
    });
}

/// max(x, 0), by a comparison rather than a maximum: what a maximum makes of NaN differs between
/// instruction sets.
#[inline(always)]
pub(super) fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Two instructions, where LLVM would invert the comparison's result with a third.
    #[cfg(target_arch = "x86_64")]
    if is_avx512::<S>() {
        use core::arch::x86_64::{
            __m512, _CMP_NLE_UQ, _mm512_cmp_ps_mask, _mm512_maskz_mov_ps, _mm512_setzero_ps,
        };
        // SAFETY: `S` is V4, of which there is a token only where there is AVX-512, and whose `f32s` are 16
        // floats, as `__m512` is.
        unsafe {
            let x = std::mem::transmute_copy::<S::f32s, __m512>(&x);
            let keep = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, _mm512_setzero_ps());
            let y = _mm512_maskz_mov_ps(keep, x);
            return std::mem::transmute_copy::<__m512, S::f32s>(&y);
        }
    }
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_or_equal_f32s(x, zero), zero, x)
}

/// `value` where `y` is positive, else 0: ReLU's backward.
#[inline(always)]
pub(super) fn keep_where_positive<S: Simd>(simd: S, y: S::f32s, value: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.greater_than_f32s(y, zero), value, zero)
}
