//! Copies of parts of the operands, laid out as the register tile reads them.

use std::marker::PhantomData;

use faer::MatRef;
use pulp::Simd;

use super::Matrix;
use super::microkernel::{PanelA, PanelB, Tile, multiply_add, prefetch};

/// One of the two operands, its strides in elements. One of them is 1: that of the axis along which
/// it is contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    ptr: *const f32,
    /// Elements from the first to behind the last.
    len: usize,
    pub(in crate::kernels) row_stride: usize,
    pub(in crate::kernels) col_stride: usize,
    borrow: PhantomData<&'a [f32]>,
}

// SAFETY: it is a shared borrow of its elements.
unsafe impl Send for Strided<'_> {}
// SAFETY: as above.
unsafe impl Sync for Strided<'_> {}

impl<'a> Strided<'a> {
    /// Rows or columns, side by side, of a slice: element (i, j) is number
    /// `i * row_stride + j * col_stride`.
    pub(in crate::kernels) fn new(data: &'a [f32], row_stride: usize, col_stride: usize) -> Self {
        let (ptr, len) = (data.as_ptr(), data.len());
        Self { ptr, len, row_stride, col_stride, borrow: PhantomData }
    }

    /// A matrix of `rows` x `cols`.
    pub(super) fn of(matrix: Matrix<'a>, rows: usize, cols: usize) -> Self {
        match matrix {
            Matrix::N(data) => Self::new(data, cols, 1),
            Matrix::T(data) => Self::new(data, 1, rows),
        }
    }

    /// `count` contiguous runs of `run` elements, `stride` apart: the rows of a matrix, or, if
    /// `transposed`, its columns.
    ///
    /// # Safety
    /// The elements are readable and nobody writes them for `'a`. There may be anything between
    /// the runs.
    #[cfg(any(feature = "faer", feature = "ndarray"))]
    pub(crate) unsafe fn from_runs(
        ptr: *const f32,
        [count, run]: [usize; 2],
        stride: usize,
        transposed: bool,
    ) -> Self {
        let len = if count == 0 || run == 0 { 0 } else { (count - 1) * stride + run };
        let by_rows = Self { ptr, len, row_stride: stride, col_stride: 1, borrow: PhantomData };
        if transposed { by_rows.transposed() } else { by_rows }
    }

    pub(super) fn transposed(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// `len` elements from number `start` on.
    ///
    /// # Safety
    /// They are of one run: of a row if `col_stride` is 1, else of a column.
    #[inline(always)]
    unsafe fn run(self, start: usize, len: usize) -> &'a [f32] {
        assert!(start <= self.len && len <= self.len - start, "beyond the matrix");
        // SAFETY: inside the matrix, and elements of one run lie side by side.
        unsafe { std::slice::from_raw_parts(self.ptr.add(start), len) }
    }

    /// Element number `start`, from which `span` more than one can be reached.
    #[inline(always)]
    pub(super) fn pointer(self, start: usize, span: usize) -> *const f32 {
        assert!(start < self.len && span < self.len - start, "beyond the matrix");
        // In bounds, as just asserted.
        self.ptr.wrapping_add(start)
    }

    /// As faer has it.
    pub(super) fn view(self, rows: usize, cols: usize) -> MatRef<'a, f32> {
        // SAFETY: the strides are those of the elements, which are borrowed for 'a.
        unsafe {
            MatRef::from_raw_parts(
                self.ptr,
                rows,
                cols,
                self.row_stride as isize,
                self.col_stride as isize,
            )
        }
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
            // SAFETY: of one column, which A has side by side.
            let from = unsafe { a.run((start + p) * a.col_stride + first, rows) };
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
                // SAFETY: of one row, which A has side by side.
                copy::<S>(unsafe { a.run((first + i) * a.row_stride + start, kc) }, to);
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
    let Strided { row_stride, col_stride: k_stride, .. } = a;
    let begin = first * row_stride + start * k_stride;
    let ptr = a.pointer(begin, (MR - 1) * row_stride + (kc - 1) * k_stride);
    PanelA { ptr, row_stride, k_stride }
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
            // SAFETY: of one row, which B has side by side.
            let from = unsafe { b.run((first + p) * b.row_stride + column, width) };
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
                // SAFETY: of one column, which B has side by side.
                let from = unsafe { b.run((column + j) * b.col_stride + first + start, rows) };
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
