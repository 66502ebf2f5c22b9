//! A and B as the tiles multiply them: panels of 32 rows or columns, step by step of k, each float as
//! pieces of bfloat16.

use std::arch::x86_64::*;

use pulp::{Simd, WithSimd};

use super::{BLOCK, MC, PIECES, STEP, STEP_LEN, TILE};
use crate::kernels::gemm::blocked::{Product, load};
use crate::kernels::gemm::microkernel::prefetch;
use crate::kernels::gemm::pack::Strided;

/// What the elements of a row of A are, in a chunk of k.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Three pieces each.
    Floats,
    /// One each, or there is no such row.
    OnePiece,
    /// Bytes divided by 255.
    Pixels,
}

impl Kind {
    /// Of elements among which more than one piece was found, and what is no pixel.
    #[inline(always)]
    fn of((pieces, no_pixel): (u32, u32)) -> Self {
        match (pieces, no_pixel) {
            (0, _) => Self::OnePiece,
            (_, 0) => Self::Pixels,
            _ => Self::Floats,
        }
    }

    /// Whether rows of these kinds have nothing but first pieces.
    #[inline(always)]
    pub(super) fn of_one_piece(kinds: &[Self]) -> bool {
        kinds.iter().all(|kind| *kind != Self::Floats)
    }
}

/// The largest byte.
const MAX_BYTE: f32 = 255.0;

/// 1/255, and what is left of it.
pub(super) const BYTE: (f32, f32) =
    (1.0 / MAX_BYTE, (1.0 / 255.0 - (1.0_f32 / 255.0) as f64) as f32);

/// Added and subtracted it rounds to whole numbers what is below 2^22.
const WHOLE: f32 = (3 << 22) as f32;

/// The byte whose 255th part a pixel is, as a float.
#[inline(always)]
fn byte<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let whole = simd.splat_f32s(WHOLE);
    simd.sub_f32s(simd.mul_add_e_f32s(x, simd.splat_f32s(MAX_BYTE), whole), whole)
}

/// Whether lanes have had an element that is more than one piece, and one that is no pixel.
struct Found<S: Simd> {
    pieces: S::u32s,
    no_pixel: S::u32s,
}

impl<S: Simd> Found<S> {
    #[inline(always)]
    fn nothing(simd: S) -> Self {
        Self { pieces: simd.splat_u32s(0), no_pixel: simd.splat_u32s(0) }
    }

    #[inline(always)]
    fn look_at(&mut self, simd: S, x: S::f32s) {
        let lower = simd.and_u32s(simd.transmute_u32s_f32s(x), simd.splat_u32s(0xFFFF));
        self.pieces = simd.or_u32s(self.pieces, lower);
        // A quotient's rounding is at most 2^-24 of it; this computation's are nothing beside that.
        let byte = byte(simd, x);
        let error = simd.mul_add_e_f32s(byte, simd.splat_f32s(BYTE.0), simd.neg_f32s(x));
        let error = simd.mul_add_e_f32s(byte, simd.splat_f32s(BYTE.1), error);
        let bound = simd.mul_f32s(simd.abs_f32s(x), simd.splat_f32s(1.000_001 / (1 << 24) as f32));
        let rounded = simd.less_than_or_equal_f32s(simd.abs_f32s(error), bound);
        let small = simd.less_than_or_equal_f32s(simd.abs_f32s(byte), simd.splat_f32s(MAX_BYTE));
        let (one, zero) = (simd.splat_u32s(1), simd.splat_u32s(0));
        let no_pixel = simd.select_u32s(simd.and_m32s(rounded, small), zero, one);
        self.no_pixel = simd.or_u32s(self.no_pixel, no_pixel);
    }

    /// Of each lane.
    #[inline(always)]
    fn kinds(&self) -> [Kind; TILE] {
        self.lanes().map(Kind::of)
    }

    /// Of all lanes together.
    #[inline(always)]
    fn kind(&self) -> Kind {
        let lanes = self.lanes().into_iter();
        Kind::of(lanes.fold((0, 0), |all, lane| (all.0 | lane.0, all.1 | lane.1)))
    }

    #[inline(always)]
    fn all_floats(&self) -> bool {
        self.kinds().iter().all(|kind| *kind == Kind::Floats)
    }

    #[inline(always)]
    fn lanes(&self) -> [(u32, u32); TILE] {
        let (mut pieces, mut no_pixel) = ([0; TILE], [0; TILE]);
        S::as_mut_simd_u32s(&mut pieces).0[0] = self.pieces;
        S::as_mut_simd_u32s(&mut no_pixel).0[0] = self.no_pixel;
        std::array::from_fn(|lane| (pieces[lane], no_pixel[lane]))
    }
}

/// What the rows of A (the first and their number) are in a chunk of k; those missing are one piece.
#[inline(always)]
pub(super) fn kinds_of_rows<S: Simd>(
    simd: S,
    a: Strided,
    (first, rows): (usize, usize),
    (start, len): (usize, usize),
) -> [Kind; MC] {
    let mut kinds = [Kind::OnePiece; MC];
    if a.col_stride == 1 {
        for (i, kind) in kinds.iter_mut().enumerate().take(rows) {
            let row = a.row(first + i, start, len);
            let mut found = Found::nothing(simd);
            // Most floats show at once.
            let (some, others) = row.split_at(len.min(4 * TILE));
            for part in [some, others] {
                let (vectors, tail) = S::as_simd_f32s(part);
                for &x in vectors {
                    found.look_at(simd, x);
                }
                if !tail.is_empty() {
                    found.look_at(simd, simd.partial_load_f32s(tail));
                }
                *kind = found.kind();
                if *kind == Kind::Floats {
                    break;
                }
            }
        }
    } else {
        let mut found: [Found<S>; MC / TILE] = std::array::from_fn(|_| Found::nothing(simd));
        for p in start..start + len {
            let column = a.column(p, first, rows);
            for (found, some) in found.iter_mut().zip(column.chunks(TILE)) {
                // Each step of k is on another page.
                prefetch(some.as_ptr().wrapping_add(STEP * a.col_stride));
                found.look_at(simd, load(simd, some));
            }
            // Most floats show at once. (Lanes without a row show nothing.)
            if p == start + STEP && found[..rows.div_ceil(TILE)].iter().all(Found::all_floats) {
                break;
            }
        }
        for (kinds, found) in kinds.chunks_exact_mut(TILE).zip(found) {
            kinds.copy_from_slice(&found.kinds());
        }
    }
    kinds
}

/// Takes rows of A (the first and their number) to pieces: panels of [`BLOCK`], `panel_len` apart.
#[inline(always)]
pub(super) fn pack_rows<S: Simd>(
    simd: S,
    a: Strided,
    (first, rows): (usize, usize),
    (start, len): (usize, usize),
    kinds: &[Kind; MC],
    (packed, panel_len): (&mut [f32], usize),
) {
    let halves = &mut Halves::new();
    for (step, k) in (start..start + len).step_by(STEP).enumerate() {
        let steps = (k, STEP.min(start + len - k));
        let panels = packed.chunks_exact_mut(panel_len).take(rows.div_ceil(BLOCK));
        for ((i, panel), kinds) in panels.enumerate().zip(kinds.chunks_exact(BLOCK)) {
            let panel = &mut panel[step * STEP_LEN..][..STEP_LEN];
            let one_piece = Kind::of_one_piece(kinds);
            for (tile, kinds) in kinds.chunks_exact(TILE).enumerate() {
                let halves = halves.load(a, first + i * BLOCK + tile * TILE, steps, true);
                let panel = &mut *S::as_mut_simd_f32s(panel).0;
                for (row, kind) in kinds.iter().enumerate() {
                    // SAFETY: one of sixteen rows of a matrix that `a` borrows or of copies that nothing
                    // has been loaded to since.
                    let (mut low, mut high) =
                        unsafe { (halves[0].row::<S>(row), halves[1].row::<S>(row)) };
                    if *kind == Kind::Pixels {
                        (low, high) = (byte(simd, low), byte(simd, high));
                    }
                    let words = pair(simd, pieces(simd, low), pieces(simd, high));
                    panel[tile * TILE + row] = words[0];
                    if !one_piece {
                        panel[(2 + tile) * TILE + row] = words[1];
                        panel[(4 + tile) * TILE + row] = words[2];
                    }
                }
            }
        }
    }
}

/// A step of k of all panels of B.
pub(super) struct PackB<'a> {
    pub product: Product<'a>,
    pub start: usize,
    pub panels: &'a mut [f32],
}

impl WithSimd for PackB<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, start, panels } = self;
        let steps = (start, STEP.min(product.shape.k - start));
        let columns = product.b.transposed();
        let halves = &mut Halves::new();
        for (i, panel) in panels.chunks_exact_mut(STEP_LEN).enumerate() {
            for tile in 0..2 {
                let column = i * BLOCK + tile * TILE;
                let halves = halves.load(columns, column, steps, false);
                let panel = &mut *S::as_mut_simd_f32s(panel).0;
                for row in 0..TILE {
                    // SAFETY: one of sixteen rows of a matrix that `product` borrows or of copies that
                    // nothing has been loaded to since.
                    let (low, high) = unsafe { (halves[0].row::<S>(row), halves[1].row::<S>(row)) };
                    let words = pair(simd, pieces(simd, low), pieces(simd, high));
                    for (piece, word) in words.into_iter().enumerate() {
                        panel[(piece * 2 + tile) * TILE + row] = word;
                    }
                }
            }
        }
    }
}

/// Copies of sixteen rows of A or columns of B over two times sixteen steps of k, where the matrix does
/// not have them as the tiles do: A's rows as rows, B's as columns. A pair of bfloat16 is then a
/// lane of either half.
struct Halves([Square; 2]);

/// Sixteen rows of sixteen elements.
#[repr(align(64))]
struct Square([f32; TILE * TILE]);

/// Where they are, `stride` apart.
#[derive(Clone, Copy)]
struct Rows {
    ptr: *const f32,
    stride: usize,
}

impl Rows {
    /// # Safety
    /// It must be one of the sixteen, and they must still be there.
    #[inline(always)]
    unsafe fn row<S: Simd>(self, row: usize) -> S::f32s {
        // SAFETY: the caller's promise.
        unsafe { self.ptr.add(row * self.stride).cast::<S::f32s>().read_unaligned() }
    }
}

impl Halves {
    #[inline(always)]
    fn new() -> Self {
        let copy = || Square([0.0; TILE * TILE]);
        Self([copy(), copy()])
    }

    /// Rows of a matrix from `first` on; `steps` of k are the first and their number. What the matrix does
    /// not have is zeros. The result is good until the next call.
    #[inline(always)]
    fn load(
        &mut self,
        matrix: Strided,
        first: usize,
        (start, len): (usize, usize),
        steps_in_rows: bool,
    ) -> [Rows; 2] {
        let stride = matrix.row_stride.max(matrix.col_stride);
        let in_place = (matrix.col_stride == 1) == steps_in_rows;
        let rows = TILE.min(matrix.rows.saturating_sub(first));
        let mut halves = [Rows { ptr: std::ptr::null(), stride: TILE }; 2];
        for (half, (copy, rows_of_half)) in self.0.iter_mut().zip(&mut halves).enumerate() {
            let start = start + half * TILE;
            let steps = TILE.min(len.saturating_sub(half * TILE));
            if rows == TILE && steps == TILE {
                let ptr = matrix.block((first, start), (TILE, TILE));
                if matrix.col_stride != 1 {
                    // Each step of k is on another page: the next ones are asked for.
                    for row in 0..TILE {
                        prefetch(ptr.wrapping_add((row + STEP) * stride));
                    }
                }
                if in_place {
                    *rows_of_half = Rows { ptr, stride };
                } else {
                    // SAFETY: sixteen times sixteen elements side by side, `stride` apart, are the
                    // matrix's, as `block` has seen to. Who has AMX has AVX-512.
                    unsafe { transpose(ptr, stride, copy) };
                    rows_of_half.ptr = copy.0.as_ptr();
                }
                continue;
            }
            copy.0.fill(0.0);
            for i in 0..rows {
                for p in 0..steps {
                    let at = if steps_in_rows { i * TILE + p } else { p * TILE + i };
                    // SAFETY: `block` has seen to it that the element is the matrix's.
                    copy.0[at] = unsafe { *matrix.block((first + i, start + p), (1, 1)) };
                }
            }
            rows_of_half.ptr = copy.0.as_ptr();
        }
        halves
    }
}

/// The three bfloat16 whose sum a float is, as the upper halves of words. They are rounded to the
/// nearest, ties away from zero, so that each has what eight bits can of what is left.
#[inline(always)]
fn pieces<S: Simd>(simd: S, x: S::f32s) -> [S::u32s; PIECES] {
    let half = simd.splat_u32s(0x8000);
    let upper = simd.splat_u32s(0xFFFF_0000);
    let bits = simd.transmute_u32s_f32s(x);
    let first = simd.and_u32s(simd.add_u32s(bits, half), upper);
    let rest = simd.sub_f32s(x, simd.transmute_f32s_u32s(first));
    let bits = simd.transmute_u32s_f32s(rest);
    let second = simd.and_u32s(simd.add_u32s(bits, half), upper);
    let rest = simd.sub_f32s(rest, simd.transmute_f32s_u32s(second));
    [first, second, simd.transmute_u32s_f32s(rest)]
}

/// Words of two bfloat16, `low` in the lower half.
#[inline(always)]
fn pair<S: Simd>(simd: S, low: [S::u32s; PIECES], high: [S::u32s; PIECES]) -> [S::f32s; PIECES] {
    let upper = simd.splat_u32s(0xFFFF_0000);
    let sixteen = simd.splat_u32s(16);
    let mut words = [simd.splat_f32s(0.0); PIECES];
    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
        let low = simd.wrapping_dyn_shr_u32s(low, sixteen);
        *word = simd.transmute_f32s_u32s(simd.or_u32s(low, simd.and_u32s(high, upper)));
    }
    words
}

/// Sixteen rows of sixteen elements, `stride` apart, turned into columns.
///
/// # Safety
/// They must be readable.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const f32, stride: usize, to: &mut Square) {
    let mut rows = [_mm512_setzero_ps(); TILE];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_ps(from.add(i * stride)) };
    }
    // Pairs of rows, then fours: of each four columns in every quarter of a register.
    let mut fours = [_mm512_setzero_ps(); TILE];
    for i in (0..TILE).step_by(4) {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
        fours[i] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
        fours[i + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
        fours[i + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
        fours[i + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
    }
    // Then the quarters: column 4 q + j is quarter q of the fours' j.
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let ab = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        let cd = _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d);
        let even = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
        ];
        let ab = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
        let cd = _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d);
        let odd = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
        ];
        for (quarter, column) in [even[0], odd[0], even[1], odd[1]].into_iter().enumerate() {
            // SAFETY: sixteen elements from the start of one of sixteen columns.
            unsafe { _mm512_storeu_ps(to.0.as_mut_ptr().add((4 * quarter + j) * TILE), column) };
        }
    }
}
