//! Copies of parts of the operands, laid out as the register tile reads them.

use pulp::Simd;

use super::Matrix;
use super::microkernel::{PanelA, PanelB, Tile, multiply_add, prefetch};

/// One of the two operands with its strides in elements; element (i, j) is at
/// `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Strided<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Strided<'a> {
    pub(super) fn new(matrix: Matrix<'a>, rows: usize, cols: usize) -> Self {
        match matrix {
            Matrix::N(data) => Self { data, row_stride: cols, col_stride: 1 },
            Matrix::T(data) => Self { data, row_stride: 1, col_stride: rows },
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// Rows of a transposed A by which their loads are announced ahead: each lies on another page.
const ROWS_AHEAD: usize = 16;

/// Rows of a panel that a transposed B is written to at a time.
const ROWS_TRANSPOSED: usize = 64;

/// Elements that [`pack_a`] needs for `rows` rows.
pub(super) fn packed_a_len(rows: usize, mr: usize, stride: usize) -> usize {
    rows.next_multiple_of(mr) * stride
}

/// Packs rows of A (the first and their number) for tiles of `MR` rows, over `kc` steps of k from
/// `start`. A tile takes `MR * STRIDE` elements, in the order in which A lies: if by rows, as rows
/// `STRIDE` apart, so that they are copied as they are; if transposed, as `MR` elements per step of k.
/// Missing rows of the last tile become zeros.
#[inline(always)]
pub(super) fn pack_a<S: Simd, const MR: usize, const STRIDE: usize>(
    a: Strided,
    (first, rows): (usize, usize),
    (start, kc): (usize, usize),
    packed: &mut [f32],
) {
    debug_assert!(kc <= STRIDE, "{kc} steps of k in rows of {STRIDE}");
    let packed = &mut packed[..packed_a_len(rows, MR, STRIDE)];
    if a.row_stride == 1 {
        for p in 0..kc {
            let from = &a.data[(start + p) * a.col_stride + first..][..rows];
            for (from, tile) in from.chunks(MR).zip(packed.chunks_exact_mut(MR * STRIDE)) {
                prefetch(from.as_ptr().wrapping_add(ROWS_AHEAD * a.col_stride));
                let to = &mut tile[p * MR..][..MR];
                if let Ok(whole) = <&[f32; MR]>::try_from(from) {
                    to.copy_from_slice(whole);
                } else {
                    to[..from.len()].copy_from_slice(from);
                    to[from.len()..].fill(0.0);
                }
            }
        }
    } else {
        for (i, to) in packed.chunks_exact_mut(STRIDE).enumerate() {
            let to = &mut to[..kc];
            if i < rows {
                copy::<S>(&a.data[(first + i) * a.row_stride + start..][..kc], to);
            } else {
                to.fill(0.0);
            }
        }
    }
}

/// `acc` plus the product of a tile's packed rows of A, which was `transposed` or not, and a panel of
/// B.
///
/// # Safety
/// As for [`multiply_add`], as far as B goes.
#[inline(always)]
pub(super) unsafe fn multiply_add_packed<
    S: Simd,
    const MR: usize,
    const NV: usize,
    const STRIDE: usize,
>(
    simd: S,
    acc: Tile<S, MR, NV>,
    kc: usize,
    transposed: bool,
    tile: &[f32],
    b: PanelB,
) -> Tile<S, MR, NV> {
    let ptr = tile[..MR * STRIDE].as_ptr();
    assert!(kc <= STRIDE, "{kc} steps of k in rows of {STRIDE}");
    // Two calls, so that the strides are constants in both.
    if transposed {
        let a = PanelA { ptr, row_stride: 1, k_stride: MR };
        // SAFETY: the tile has kc <= STRIDE steps of MR elements; B is the caller's promise.
        unsafe { multiply_add::<S, MR, NV>(simd, acc, kc, a, b) }
    } else {
        let a = PanelA { ptr, row_stride: STRIDE, k_stride: 1 };
        // SAFETY: the tile has MR rows of STRIDE >= kc elements; B is the caller's promise.
        unsafe { multiply_add::<S, MR, NV>(simd, acc, kc, a, b) }
    }
}

/// The rows of A of a whole tile where they lie: `MR` from `first`, over `kc > 0` steps of k from
/// `start`.
#[inline(always)]
pub(super) fn unpacked_a<const MR: usize>(
    a: Strided,
    first: usize,
    (start, kc): (usize, usize),
) -> PanelA {
    let Strided { data, row_stride, col_stride: k_stride } = a;
    let begin = first * row_stride + start * k_stride;
    let last = begin + (MR - 1) * row_stride + (kc - 1) * k_stride;
    PanelA { ptr: data[begin..=last].as_ptr(), row_stride, k_stride }
}

/// Packs one panel of B: the given rows (the first and their number), `NV` vectors from `column`.
/// Missing columns are zeros.
#[inline(always)]
pub(in crate::kernels) fn pack_b_panel<S: Simd, const NV: usize>(
    b: Strided,
    (first, rows): (usize, usize),
    column: usize,
    n: usize,
    panel: &mut [f32],
) {
    let nr = NV * S::F32_LANES;
    let width = nr.min(n - column);
    if width < nr {
        panel.fill(0.0);
    }
    if b.col_stride == 1 {
        for (p, to) in panel.chunks_exact_mut(nr).take(rows).enumerate() {
            let from = &b.data[(first + p) * b.row_stride + column..][..width];
            prefetch(from.as_ptr().wrapping_add(ROWS_AHEAD * b.row_stride));
            if width == nr {
                copy::<S>(from, to);
            } else {
                to[..width].copy_from_slice(from);
            }
        }
    } else {
        // Some rows at a time, whose lines of the panel stay in the first-level cache meanwhile.
        for start in (0..rows).step_by(ROWS_TRANSPOSED) {
            let rows = ROWS_TRANSPOSED.min(rows - start);
            let panel = &mut panel[start * nr..][..rows * nr];
            for j in 0..width {
                let from = &b.data[(column + j) * b.col_stride + first + start..][..rows];
                for (to, &value) in panel.chunks_exact_mut(nr).zip(from) {
                    to[j] = value;
                }
            }
        }
    }
}

/// Vector by vector: `copy_from_slice` would call memmove for each few bytes.
#[inline(always)]
fn copy<S: Simd>(from: &[f32], to: &mut [f32]) {
    let ((from, from_tail), (to, to_tail)) = (S::as_simd_f32s(from), S::as_mut_simd_f32s(to));
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from;
    }
    for (to, &from) in to_tail.iter_mut().zip(from_tail) {
        *to = from;
    }
}
