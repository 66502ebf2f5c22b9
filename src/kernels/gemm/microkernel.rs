//! The register tile: `MR` rows by `NV` vectors of C, updated by one rank-1 product per step of k.

use std::hint::black_box;

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
    /// How far ahead of a load its cache line is asked for, in elements: there may be nothing.
    pub ahead: usize,
}

impl PanelB {
    /// A packed panel of rows `nr` long. It is longer than the first-level cache, and its lines would
    /// come late from the second if they were not asked for eight steps of k ahead.
    #[inline(always)]
    pub fn packed(panel: &[f32], nr: usize) -> Self {
        Self { ptr: panel.as_ptr(), k_stride: nr, ahead: 8 * nr }
    }
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

/// A tile that waits in memory, row by row.
#[inline(always)]
pub(super) fn load_tile<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    from: &[f32],
) -> Tile<S, MR, NV> {
    let mut tile = zeros(simd);
    for (row, from) in tile.iter_mut().zip(S::as_simd_f32s(from).0.chunks_exact(NV)) {
        row.copy_from_slice(from);
    }
    tile
}

/// Where [`load_tile`] finds it.
#[inline(always)]
pub(super) fn store_tile<S: Simd, const MR: usize, const NV: usize>(
    tile: Tile<S, MR, NV>,
    to: &mut [f32],
) {
    for (row, to) in tile.iter().zip(S::as_mut_simd_f32s(to).0.chunks_exact_mut(NV)) {
        to.copy_from_slice(row);
    }
}

/// `acc` plus the product of an `MR x k` panel of A and a `k x NV*LANES` panel of B, in registers.
///
/// The loops over `MR` and `NV` have constant bounds, so that LLVM unrolls them and keeps every
/// accumulator in a register: 12 + 3 of 16 for AVX2's 6 x 2, 28 + 3 of 32 for AVX-512's 14 x 2.
///
/// # Safety
/// `a.ptr + i*a.row_stride + p*a.k_stride` must be readable for `i < MR`, `p < k`, and
/// `b.ptr + p*b.k_stride + j` for `j < NV*S::F32_LANES`, `p < k`.
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

/// Elements of a cache line.
const LINE: usize = 16;

/// Steps of k per turn of the loop.
const UNROLL: usize = 4;

/// Step `p` of k from the given pointers: one rank-1 update of the accumulators.
///
/// # Safety
/// As [`multiply_add`], for the step of k at hand.
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
    // SAFETY: the caller promises NV vectors of LANES elements at every step of k.
    let columns = unsafe { columns::<S, NV>(simd, b_ptr.wrapping_add(p * b.k_stride), b.ahead) };
    for (i, row) in acc.iter_mut().enumerate() {
        // SAFETY: the caller promises MR rows at every step of k.
        let scalar = unsafe { *a_ptr.add(i * a.row_stride + p * a.k_stride) };
        let scalar = simd.splat_f32s(scalar);
        for (sum, &column) in row.iter_mut().zip(&columns) {
            *sum = simd.mul_add_e_f32s(scalar, column, *sum);
        }
    }
}

/// [`multiply_add`] with rows of A where they lie in a matrix, `row_stride` apart and contiguous.
///
/// # Safety
/// As [`multiply_add`], with `a.k_stride` 1.
#[inline(always)]
pub(in crate::kernels) unsafe fn multiply_add_matrix<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut acc: Tile<S, MR, NV>,
    k: usize,
    a: PanelA,
    b: PanelB,
) -> Tile<S, MR, NV> {
    // A pointer for every three rows: x86 adds once or twice a stride by itself. LLVM would compute
    // row by row from the row before, a chain of additions as long as the tile; `black_box` hides
    // what the pointers have to do with each other.
    const { assert!(MR <= 3 * GROUPS, "more rows than the groups have") };
    let mut groups = [a.ptr; GROUPS];
    for (group, ptr) in groups.iter_mut().enumerate() {
        *ptr = black_box(a.ptr.wrapping_add(3 * group * a.row_stride));
    }
    let mut b_ptr = b.ptr;
    let mut left = k;
    while left >= UNROLL {
        for p in 0..UNROLL {
            // SAFETY: p < left, so this step of k is one that the caller promises.
            unsafe { step_matrix(simd, &groups, a, b_ptr, b, p, &mut acc) };
        }
        b_ptr = b_ptr.wrapping_add(UNROLL * b.k_stride);
        for group in &mut groups {
            *group = group.wrapping_add(UNROLL);
        }
        left -= UNROLL;
    }
    for p in 0..left {
        // SAFETY: as above.
        unsafe { step_matrix(simd, &groups, a, b_ptr, b, p, &mut acc) };
    }
    acc
}

/// [`step`] for [`multiply_add_matrix`].
///
/// # Safety
/// As [`multiply_add_matrix`], for the step of k at hand.
#[inline(always)]
unsafe fn step_matrix<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    groups: &[*const f32; GROUPS],
    a: PanelA,
    b_ptr: *const f32,
    b: PanelB,
    p: usize,
    acc: &mut Tile<S, MR, NV>,
) {
    // SAFETY: the caller promises NV vectors of LANES elements at every step of k.
    let columns = unsafe { columns::<S, NV>(simd, b_ptr.wrapping_add(p * b.k_stride), b.ahead) };
    // By groups, or LLVM leaves the loop over the rows as it is.
    for (group, &from) in groups.iter().enumerate() {
        for i in 0..3 {
            if 3 * group + i < MR {
                // SAFETY: the caller promises MR rows at every step of k.
                let scalar = unsafe { *from.wrapping_add(i * a.row_stride + p) };
                let scalar = simd.splat_f32s(scalar);
                for (sum, &column) in acc[3 * group + i].iter_mut().zip(&columns) {
                    *sum = simd.mul_add_e_f32s(scalar, column, *sum);
                }
            }
        }
    }
}

/// A row of a panel of B, and the one `ahead` announced.
///
/// # Safety
/// `NV * S::F32_LANES` elements must be readable at `ptr`.
#[inline(always)]
unsafe fn columns<S: Simd, const NV: usize>(
    simd: S,
    ptr: *const f32,
    ahead: usize,
) -> [S::f32s; NV] {
    let mut columns = [simd.splat_f32s(0.0); NV];
    for (j, column) in columns.iter_mut().enumerate() {
        let from = ptr.wrapping_add(j * S::F32_LANES);
        // SAFETY: the caller's promise.
        *column = unsafe { from.cast::<S::f32s>().read_unaligned() };
        if (j * S::F32_LANES).is_multiple_of(LINE) {
            prefetch(from.wrapping_add(ahead));
        }
    }
    columns
}

/// Pointers into the rows of a tile, one for every three of them.
const GROUPS: usize = 5;

/// [`multiply_add`] with rows of A that lie anywhere: element (i, p) is at `a[i] + p * k_stride`.
///
/// # Safety
/// `a[i] + p*k_stride` must be readable for `i < MR`, `p < k`, and B as for [`multiply_add`].
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
        // SAFETY: the caller promises NV vectors of LANES elements at every step of k.
        let columns =
            unsafe { columns::<S, NV>(simd, b.ptr.wrapping_add(p * b.k_stride), b.ahead) };
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
