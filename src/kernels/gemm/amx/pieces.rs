//! A and B as the tiles multiply them: panels of 32 rows or columns, step by step of k, each float as
//! pieces of bfloat16.

use std::arch::x86_64::*;

use pulp::{Simd, WithSimd};

use super::{BLOCK, MC, PIECES, STEP, STEP_LEN, TILE};
use crate::kernels::gemm::blocked::load;
use crate::kernels::gemm::microkernel::prefetch;
use crate::kernels::gemm::pack::Strided;
use crate::kernels::input::{BYTE, pixel};

/// Words of a piece in a step of a panel: two tiles.
const PIECE_LEN: usize = 2 * TILE * TILE;

/// What the elements of a row of A are, in a chunk of k.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::kernels::gemm) enum Kind {
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

/// Added and subtracted it rounds to whole numbers what is below 2^22.
const WHOLE: f32 = (3 << 22) as f32;

/// The byte whose 255th part a pixel is, as a float.
#[inline(always)]
fn byte<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let whole = simd.splat_f32s(WHOLE);
    simd.sub_f32s(simd.mul_add_e_f32s(x, simd.splat_f32s(MAX_BYTE), whole), whole)
}

/// What lanes have had: bits of which those that tell are looked at in the end.
struct Found<S: Simd> {
    /// Those of all elements. One piece has none in the lower half.
    bits: S::u32s,
    /// Those in which elements differ from their bytes' 255th parts, and their bytes from eight bits.
    differences: S::u32s,
}

impl<S: Simd> Found<S> {
    #[inline(always)]
    fn nothing(simd: S) -> Self {
        let none = simd.splat_u32s(0);
        Self { bits: none, differences: none }
    }

    #[inline(always)]
    fn look_at(&mut self, simd: S, x: S::f32s) {
        let whole = simd.splat_f32s(WHOLE);
        let sum = simd.mul_add_e_f32s(x, simd.splat_f32s(MAX_BYTE), whole);
        let byte = simd.sub_f32s(sum, whole);
        let rest = simd.mul_f32s(byte, simd.splat_f32s(BYTE.1));
        let quotient = simd.mul_add_e_f32s(byte, simd.splat_f32s(BYTE.0), rest);
        let xor = |a, b| simd.xor_u32s(simd.transmute_u32s_f32s(a), simd.transmute_u32s_f32s(b));
        self.bits = simd.or_u32s(self.bits, simd.transmute_u32s_f32s(x));
        self.differences = simd.or_u32s(self.differences, xor(quotient, x));
        let above = simd.and_u32s(xor(sum, whole), simd.splat_u32s(!0xFF));
        self.differences = simd.or_u32s(self.differences, above);
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
        let (mut bits, mut differences) = ([0; TILE], [0; TILE]);
        S::as_mut_simd_u32s(&mut bits).0[0] = self.bits;
        S::as_mut_simd_u32s(&mut differences).0[0] = self.differences;
        std::array::from_fn(|lane| (bits[lane] & 0xFFFF, differences[lane]))
    }
}

/// What A is made of.
pub(in crate::kernels::gemm) trait Element: Copy + Send + Sync {
    /// Columns of B from which the tiles pay. (Measured.)
    const ENOUGH_COLUMNS: usize;

    /// What the rows of A (the first and their number) are in a chunk of k; those missing are no floats.
    fn kinds_of_rows<S: Simd>(
        simd: S,
        a: Strided<Self>,
        rows: (usize, usize),
        steps: (usize, usize),
    ) -> [Kind; MC];

    /// A step of k (the first and their number) of a tile of rows, taken to pieces: a [`Square`] of words for
    /// each, at `words` and then [`PIECE_LEN`] further on; of rows of one piece only the first.
    fn pack_tile<S: Simd>(
        simd: S,
        a: Strided<Self>,
        first: usize,
        steps: (usize, usize),
        kinds: (&[Kind], bool),
        halves: &mut Halves,
        words: &mut [f32],
    );

    /// Rows of A (the first and their number) in steps of k as floats, and which they are of the result:
    /// those of a copy, if they are none.
    fn floats<'a>(
        a: Strided<'a, Self>,
        rows: (usize, usize),
        steps: (usize, usize),
        copy: &'a mut [f32],
    ) -> (Strided<'a>, (usize, usize), (usize, usize));
}

impl Element for f32 {
    const ENOUGH_COLUMNS: usize = 256;

    #[inline(always)]
    fn kinds_of_rows<S: Simd>(
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

    #[inline(always)]
    fn pack_tile<S: Simd>(
        simd: S,
        a: Strided,
        first: usize,
        steps: (usize, usize),
        (kinds, one_piece): (&[Kind], bool),
        halves: &mut Halves,
        words: &mut [f32],
    ) {
        let halves = halves.load(a, first, steps, true);
        let to = &mut *S::as_mut_simd_f32s(words).0;
        for (row, kind) in kinds.iter().enumerate() {
            // SAFETY: one of sixteen rows of a matrix that `a` borrows or of copies that nothing
            // has been loaded to since.
            let (mut low, mut high) = unsafe { (halves[0].row::<S>(row), halves[1].row::<S>(row)) };
            if *kind == Kind::Pixels {
                (low, high) = (byte(simd, low), byte(simd, high));
            }
            let [first, second, third] = pair(simd, pieces(simd, low), pieces(simd, high));
            to[row] = first;
            if !one_piece {
                to[PIECE_LEN / TILE + row] = second;
                to[2 * PIECE_LEN / TILE + row] = third;
            }
        }
    }

    fn floats<'a>(
        a: Strided<'a>,
        rows: (usize, usize),
        steps: (usize, usize),
        _: &'a mut [f32],
    ) -> (Strided<'a>, (usize, usize), (usize, usize)) {
        (a, rows, steps)
    }
}

/// Pixels: bytes that count as their 255th parts.
impl Element for u8 {
    const ENOUGH_COLUMNS: usize = 32;

    #[inline(always)]
    fn kinds_of_rows<S: Simd>(
        _: S,
        _: Strided<u8>,
        _: (usize, usize),
        _: (usize, usize),
    ) -> [Kind; MC] {
        [Kind::Pixels; MC]
    }

    #[inline(always)]
    fn pack_tile<S: Simd>(
        _: S,
        a: Strided<u8>,
        first: usize,
        (start, len): (usize, usize),
        _: (&[Kind], bool),
        halves: &mut Halves,
        words: &mut [f32],
    ) {
        let rows = TILE.min(a.rows.saturating_sub(first));
        let by_rows = a.col_stride == 1;
        let mut copy = [0; TILE * STEP];
        let from = if rows == TILE && len == STEP {
            (a.block((first, start), (TILE, STEP)), a.row_stride.max(a.col_stride))
        } else if by_rows {
            for (i, to) in copy.chunks_exact_mut(STEP).enumerate().take(rows) {
                to[..len].copy_from_slice(a.row(first + i, start, len));
            }
            (copy.as_ptr(), STEP)
        } else {
            for (p, to) in copy.chunks_exact_mut(TILE).enumerate().take(len) {
                if rows > 0 {
                    to[..rows].copy_from_slice(a.column(start + p, first, rows));
                }
            }
            (copy.as_ptr(), TILE)
        };
        // SAFETY: the tile is the matrix's, or a copy as large: sixteen rows of a step or the other way round.
        // Who has AMX has AVX-512.
        unsafe {
            if by_rows {
                words_of_rows(from, words);
            } else {
                words_of_columns(from, &mut halves.0[0].0);
                transpose(halves.0[0].0.as_ptr(), TILE, words);
            }
        }
    }

    fn floats<'a>(
        a: Strided<'a, u8>,
        (first, rows): (usize, usize),
        (start, len): (usize, usize),
        copy: &'a mut [f32],
    ) -> (Strided<'a>, (usize, usize), (usize, usize)) {
        for (i, row) in copy.chunks_exact_mut(len).enumerate().take(rows) {
            for (p, to) in row.iter_mut().enumerate() {
                // SAFETY: `block` has seen to it that the element is the matrix's.
                *to = pixel(unsafe { *a.block((first + i, start + p), (1, 1)) });
            }
        }
        (Strided::by_rows(copy, rows, len), (0, rows), (0, len))
    }
}

/// Takes rows of A (the first and their number) to pieces: panels of [`BLOCK`], `panel_len` apart.
#[inline(always)]
pub(super) fn pack_rows<S: Simd, T: Element>(
    simd: S,
    a: Strided<T>,
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
                let first = first + i * BLOCK + tile * TILE;
                let words = &mut panel[tile * TILE * TILE..];
                T::pack_tile(simd, a, first, steps, (kinds, one_piece), halves, words);
            }
        }
    }
}

/// A step of k of all panels of B.
pub(super) struct PackB<'a> {
    pub b: Strided<'a>,
    pub start: usize,
    pub panels: &'a mut [f32],
}

impl WithSimd for PackB<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { b, start, panels } = self;
        let steps = (start, STEP.min(b.rows - start));
        let columns = b.transposed();
        let halves = &mut Halves::new();
        for (i, panel) in panels.chunks_exact_mut(STEP_LEN).enumerate() {
            for tile in 0..2 {
                let column = i * BLOCK + tile * TILE;
                let halves = halves.load(columns, column, steps, false);
                let panel = &mut *S::as_mut_simd_f32s(panel).0;
                for row in 0..TILE {
                    // SAFETY: one of sixteen rows of a matrix that `b` borrows or of copies that
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
pub(in crate::kernels::gemm) struct Halves([Square; 2]);

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
                    unsafe { transpose(ptr, stride, &mut copy.0) };
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

/// Sixteen bytes as floats, each one bfloat16.
///
/// # Safety
/// All sixteen must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn widened(bytes: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm_loadu_si128(bytes.cast()) };
    _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)))
}

/// Words of two floats, each one bfloat16, `low` in the lower half.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(low: __m512i, high: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32::<16>(low), high))
}

/// A step of k of sixteen rows of bytes, `stride` apart, as words of pairs: of each lane in the two halves of
/// a row.
///
/// # Safety
/// Of each row, 32 bytes must be readable.
#[target_feature(enable = "avx512f")]
unsafe fn words_of_rows((from, stride): (*const u8, usize), to: &mut [f32]) {
    for (i, to) in to[..TILE * TILE].chunks_exact_mut(TILE).enumerate() {
        // SAFETY: the caller's promise; `to` has sixteen elements.
        unsafe {
            let row = from.add(i * stride);
            _mm512_storeu_ps(to.as_mut_ptr(), words(widened(row), widened(row.add(TILE))));
        }
    }
}

/// The same of sixteen columns: what the tiles want, turned.
///
/// # Safety
/// Of each of the 32 steps of k, `stride` apart, sixteen bytes must be readable.
#[target_feature(enable = "avx512f")]
unsafe fn words_of_columns((from, stride): (*const u8, usize), to: &mut [f32]) {
    for (p, to) in to[..TILE * TILE].chunks_exact_mut(TILE).enumerate() {
        // SAFETY: the caller's promise; `to` has sixteen elements.
        unsafe {
            let (low, high) =
                (widened(from.add(p * stride)), widened(from.add((p + TILE) * stride)));
            _mm512_storeu_ps(to.as_mut_ptr(), words(low, high));
        }
    }
}

/// Sixteen rows of sixteen elements, `stride` apart, turned into columns.
///
/// # Safety
/// They must be readable.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const f32, stride: usize, to: &mut [f32]) {
    let to = &mut to[..TILE * TILE];
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
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((4 * quarter + j) * TILE), column) };
        }
    }
}
