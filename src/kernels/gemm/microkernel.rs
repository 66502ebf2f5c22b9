//! The register tile: `MR` rows by `NV` vectors of C, updated by one rank-1 product per step of k.

use pulp::Simd;

/// Where a micro-panel of A starts and how it is laid out.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct PanelA {
    /// Element (0, 0) of the panel.
    pub ptr: *const f32,
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between steps of k, in elements.
    pub k_stride: usize,
}

/// Where a micro-panel of B starts; its columns are contiguous.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct PanelB {
    /// Element (0, 0) of the panel.
    pub ptr: *const f32,
    /// Distance between steps of k, in elements.
    pub k_stride: usize,
}

/// Accumulators of a register tile.
pub(in crate::kernels) type Tile<S, const MR: usize, const NV: usize> =
    [[<S as Simd>::f32s; NV]; MR];

/// A tile of zeros.
#[inline(always)]
pub(in crate::kernels) fn zeros<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
) -> Tile<S, MR, NV> {
    [[simd.splat_f32s(0.0); NV]; MR]
}

/// The product of an `MR x k` panel of A and a `k x NV*LANES` panel of B, in registers.
///
/// The loops over `MR` and `NV` have constant bounds, so that LLVM unrolls them and keeps every
/// accumulator in a register: 12 + 3 of 16 for AVX2's 6 x 2, 28 + 3 of 32 for AVX-512's 14 x 2.
///
/// # Safety
/// `a.ptr + i*a.row_stride + p*a.k_stride` must be readable for `i < MR`, `p < k`, and
/// `b.ptr + p*b.k_stride + j` for `j < NV*S::F32_LANES`, `p < k`.
#[inline(always)]
pub(in crate::kernels) unsafe fn multiply<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    k: usize,
    a: PanelA,
    b: PanelB,
) -> Tile<S, MR, NV> {
    // SAFETY: the caller's promise is the same.
    unsafe { multiply_add(simd, zeros(simd), k, a, b) }
}

/// [`multiply`], added to `acc`.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(in crate::kernels) unsafe fn multiply_add<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut acc: Tile<S, MR, NV>,
    k: usize,
    a: PanelA,
    b: PanelB,
) -> Tile<S, MR, NV> {
    let mut a_ptr = a.ptr;
    let mut b_ptr = b.ptr;
    let mut left = k;
    while left >= UNROLL {
        for p in 0..UNROLL {
            // SAFETY: p < left, so this step of k is one that the caller promises.
            unsafe { step(simd, a, a_ptr, b, b_ptr, p, &mut acc) };
        }
        a_ptr = a_ptr.wrapping_add(UNROLL * a.k_stride);
        b_ptr = b_ptr.wrapping_add(UNROLL * b.k_stride);
        left -= UNROLL;
    }
    for p in 0..left {
        // SAFETY: as above.
        unsafe { step(simd, a, a_ptr, b, b_ptr, p, &mut acc) };
    }
    acc
}

/// Steps of k by which the loads of B are announced ahead: a panel is longer than the first-level
/// cache, and its lines would come late from the second.
const PREFETCH_STEPS: usize = 8;

/// Asks for the cache line at `ptr`, which may lie anywhere: nothing is read.
#[inline(always)]
pub(in crate::kernels) fn prefetch(ptr: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that never faults; SSE is in the baseline.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// Steps of k per turn of the loop.
const UNROLL: usize = 4;

/// Step `p` of k from the given pointers: one rank-1 update of the accumulators.
///
/// # Safety
/// As [`multiply`], for the step of k at hand.
#[inline(always)]
unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    a: PanelA,
    a_ptr: *const f32,
    b: PanelB,
    b_ptr: *const f32,
    p: usize,
    acc: &mut [[S::f32s; NV]; MR],
) {
    let mut columns = [simd.splat_f32s(0.0); NV];
    for (j, column) in columns.iter_mut().enumerate() {
        let at = p * b.k_stride + j * S::F32_LANES;
        // SAFETY: the caller promises NV vectors of LANES elements at every step of k.
        *column = unsafe { b_ptr.add(at).cast::<S::f32s>().read_unaligned() };
        prefetch(b_ptr.wrapping_add(at + PREFETCH_STEPS * b.k_stride));
    }
    for (i, row) in acc.iter_mut().enumerate() {
        // SAFETY: the caller promises MR rows at every step of k.
        let scalar = unsafe { *a_ptr.add(i * a.row_stride + p * a.k_stride) };
        let scalar = simd.splat_f32s(scalar);
        for (sum, &column) in row.iter_mut().zip(&columns) {
            *sum = simd.mul_add_e_f32s(scalar, column, *sum);
        }
    }
}

/// [`multiply_add`] with rows of A that lie anywhere: element (i, p) is at `a[i] + p * k_stride`.
///
/// # Safety
/// `a[i] + p*k_stride` must be readable for `i < MR`, `p < k`, and B as for [`multiply`].
#[inline(always)]
pub(in crate::kernels) unsafe fn multiply_add_rows<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut acc: Tile<S, MR, NV>,
    k: usize,
    a: [*const f32; MR],
    k_stride: usize,
    b: PanelB,
) -> Tile<S, MR, NV> {
    for p in 0..k {
        let mut columns = [simd.splat_f32s(0.0); NV];
        for (j, column) in columns.iter_mut().enumerate() {
            let at = p * b.k_stride + j * S::F32_LANES;
            // SAFETY: the caller promises NV vectors of LANES elements at every step of k.
            *column = unsafe { b.ptr.add(at).cast::<S::f32s>().read_unaligned() };
        }
        for (row, a) in acc.iter_mut().zip(a) {
            // SAFETY: the caller promises this element.
            let scalar = simd.splat_f32s(unsafe { *a.add(p * k_stride) });
            for (sum, &column) in row.iter_mut().zip(&columns) {
                *sum = simd.mul_add_e_f32s(scalar, column, *sum);
            }
        }
    }
    acc
}
