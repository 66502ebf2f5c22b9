//! Copies of parts of the operands, laid out as the register tile reads them.

use std::marker::PhantomData;

use faer::MatRef;
use pulp::Simd;

use super::Matrix;
use super::microkernel::{PanelA, PanelB, Tile, multiply_add, prefetch};

/// One of the two operands: element (i, j) is `i * row_stride + j * col_stride` behind the first. One of
/// the strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, T = f32> {
    ptr: *const T,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    borrow: PhantomData<&'a [T]>,
}

// SAFETY: it is a shared borrow of its elements.
unsafe impl<T: Sync> Send for Strided<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Strided<'_, T> {}

impl<'a> Strided<'a> {
    /// A matrix of `rows` x `cols`, as its slice begins.
    pub(in crate::kernels) fn new(matrix: Matrix<'a>, rows: usize, cols: usize) -> Self {
        match matrix {
            Matrix::N(data) => Self::by_rows(data, rows, cols),
            Matrix::T(data) => Strided::by_rows(data, cols, rows).transposed(),
        }
    }

    /// A matrix whose rows may lie apart, or, if `transposed`, one whose columns are those rows.
    ///
    /// # Safety
    /// `rows` times `cols` elements side by side, each `stride` behind the one before, are readable,
    /// and nobody writes them for `'a`. There may be anything between them.
    #[cfg(any(feature = "faer", feature = "ndarray"))]
    pub(crate) unsafe fn with_gaps(
        ptr: *const f32,
        [rows, cols]: [usize; 2],
        stride: usize,
        transposed: bool,
    ) -> Self {
        let (row_stride, col_stride) = (stride, 1);
        let by_rows = Self { ptr, rows, cols, row_stride, col_stride, borrow: PhantomData };
        if transposed { by_rows.transposed() } else { by_rows }
    }

    /// As faer has it.
    pub(super) fn view(self) -> MatRef<'a, f32> {
        let Self { ptr, rows, cols, row_stride, col_stride, .. } = self;
        // SAFETY: rows, columns and strides are the matrix's, which is borrowed for 'a.
        unsafe { MatRef::from_raw_parts(ptr, rows, cols, row_stride as isize, col_stride as isize) }
    }
}

impl<'a, T: Copy> Strided<'a, T> {
    /// A matrix of `rows` x `cols`, whose rows the slice begins with.
    pub(super) fn by_rows(data: &'a [T], rows: usize, cols: usize) -> Self {
        let len = rows.checked_mul(cols);
        assert!(len.is_some_and(|len| len <= data.len()), "more than the slice has");
        let (ptr, borrow) = (data.as_ptr(), PhantomData);
        Self { ptr, rows, cols, row_stride: cols, col_stride: 1, borrow }
    }

    pub(super) fn transposed(self) -> Self {
        let Self { rows, cols, row_stride, col_stride, .. } = self;
        Self { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    /// Where element (i, j) is, with `height` rows and `width` columns of the matrix from there on.
    #[inline(always)]
    pub(super) fn block(self, (i, j): (usize, usize), (height, width): (usize, usize)) -> *const T {
        assert!(i <= self.rows && height <= self.rows - i, "rows beyond the matrix");
        assert!(j <= self.cols && width <= self.cols - j, "columns beyond the matrix");
        self.ptr.wrapping_add(i * self.row_stride + j * self.col_stride)
    }

    /// The part that [`block`](Self::block) points to.
    pub(super) fn part(self, from: (usize, usize), (rows, cols): (usize, usize)) -> Self {
        Self { ptr: self.block(from, (rows, cols)), rows, cols, ..self }
    }

    /// `len` elements of row `i`, from column `j` on, of a matrix that has them side by side.
    #[inline(always)]
    pub(super) fn row(self, i: usize, j: usize, len: usize) -> &'a [T] {
        assert!(self.col_stride == 1, "its rows are no slices");
        // SAFETY: inside the matrix, side by side, and borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.block((i, j), (1, len)), len) }
    }

    /// `len` elements of column `j`, from row `i` on, of a matrix that has them side by side.
    #[inline(always)]
    pub(super) fn column(self, j: usize, i: usize, len: usize) -> &'a [T] {
        assert!(self.row_stride == 1, "its columns are no slices");
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.block((i, j), (len, 1)), len) }
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
            let from = a.column(start + p, first, rows);
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
                copy::<S>(a.row(first + i, start, kc), to);
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
    let ptr = a.block((first, start), (MR, kc));
    PanelA { ptr, row_stride: a.row_stride, k_stride: a.col_stride }
}

/// Packs one panel of B: the given rows (the first and their number), `NV` vectors from `column`.
/// Missing columns are zeros.
#[inline(always)]
pub(in crate::kernels) fn pack_b_panel<S: Simd, const NV: usize>(
    b: Strided,
    (first, rows): (usize, usize),
    column: usize,
    panel: &mut [f32],
) {
    let nr = NV * S::F32_LANES;
    let width = nr.min(b.cols - column);
    if width < nr {
        panel.fill(0.0);
    }
    if b.col_stride == 1 {
        for (p, to) in panel.chunks_exact_mut(nr).take(rows).enumerate() {
            let from = b.row(first + p, column, width);
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
            let whole = width - width % 4;
            for j in (0..whole).step_by(4) {
                let columns =
                    std::array::from_fn(|i| b.column(column + j + i, first + start, rows));
                copy_transposed(columns, &mut panel[j..], nr);
            }
            for j in whole..width {
                let from = b.column(column + j, first + start, rows);
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

/// Copies four columns, so that they lie side by side: element p of each goes to row p of `to`, whose rows are
/// `stride` apart.
#[inline(always)]
fn copy_transposed(columns: [&[f32]; 4], to: &mut [f32], stride: usize) {
    let [(a, a_rest), (b, b_rest), (c, c_rest), (d, d_rest)] =
        columns.map(|column| column.as_chunks::<4>());
    let (whole, rest) = to.split_at_mut((4 * a.len() * stride).min(to.len()));
    let blocks = a.iter().zip(b).zip(c.iter().zip(d));
    for (((&a, &b), (&c, &d)), to) in blocks.zip(whole.chunks_mut(4 * stride)) {
        for (row, to) in transpose([a, b, c, d]).into_iter().zip(to.chunks_mut(stride)) {
            to[..4].copy_from_slice(&row);
        }
    }
    let blocks = a_rest.iter().zip(b_rest).zip(c_rest.iter().zip(d_rest));
    for (((&a, &b), (&c, &d)), to) in blocks.zip(rest.chunks_mut(stride)) {
        to[..4].copy_from_slice(&[a, b, c, d]);
    }
}

/// Element (i, j) becomes element (j, i).
#[inline(always)]
pub(super) fn transpose(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    // By name: what LLVM makes of the loop is many times as long, with every element on its own or with
    // permutations that are dear.
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            __m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps,
        };
        let [a, b, c, d] = rows.map(pulp::cast::<_, __m128>);
        // SAFETY: SSE is in the baseline.
        unsafe {
            let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            let low = [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)];
            let high = [_mm_movelh_ps(ab_high, cd_high), _mm_movehl_ps(cd_high, ab_high)];
            pulp::cast([low, high])
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|i| rows.map(|row| row[i]))
}
