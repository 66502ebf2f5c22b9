//! Large products on AMX's tiles of bfloat16, as exact as with `f32`'s own arithmetic.
//!
//! A float of 24 significant bits is the sum of three bfloat16 of eight. Of the nine products of two
//! floats' pieces the six largest are computed, which the tiles add up in `f32`; the three others are
//! together at most 2^-24 of the whole, one rounding. (Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019.)
//!
//! A row of A of which every element is one bfloat16 takes three products instead of six. So does a row of
//! pixels, which are bytes divided by 255: it is multiplied as bytes, and its sums are divided. That is the
//! first layer of a network, and most of what a perceptron computes.
//!
//! Pieces fail where a factor is infinite, or so large that its first piece is: an infinity times another's
//! piece, a zero, is NaN. So where sums are not finite, they are computed again without tiles. What of a
//! factor is below the normal range counts as zero, as everywhere.
//!
//! The blocking is [`blocked`](super::blocked)'s. How a row is computed depends on that row and on B, not on
//! the rows beside it: it has the same bits alone and among others.

use std::arch::asm;
use std::arch::x86_64::*;

use pulp::{Simd, WithSimd};

use super::blocked::{MIN_PIECES, PACKED_A, PACKED_B, Piece, Product};
use super::microkernel::{PanelB, Tile, prefetch, zeros};
use super::pack::{Strided, multiply_add_packed, pack_a, pack_b_panel, packed_a_len};
use super::{Epilogue, GemmShape, blocked, streamed};
use crate::amx::Tiles;
use crate::cpu::{Cpu, Isa};
use crate::kernels::scratch::Buffer;

/// Rows and columns of a tile of C.
const TILE: usize = 16;

/// Rows and columns of C that are computed together: 2 x 2 tiles.
const BLOCK: usize = 2 * TILE;

/// Steps of k that one instruction multiplies: 16 pairs of bfloat16.
const STEP: usize = 32;

/// Pieces of a float.
const PIECES: usize = 3;

/// Words of a packed panel for each [`STEP`]: piece by piece, tile by tile, row by row.
const STEP_LEN: usize = PIECES * 2 * TILE * TILE;

/// Longest chunk of k, as in [`blocked`](super::blocked).
const KC: usize = 800;

/// Rows of C in a piece: its chunk of packed A takes 600 KiB of the second-level cache.
const MC: usize = 128;

/// Steps of k and columns from which taking A and B to pieces pays. (Measured: at 100 columns it is no faster, at
/// 64 steps slower.)
const ENOUGH: usize = 256;

/// Whether a product is computed here. With few rows B is better streamed than taken to pieces.
pub(super) fn suits(cpu: &Cpu, GemmShape { m, k, n }: GemmShape) -> bool {
    cpu.isa() == Isa::Amx && m > streamed::FEW_ROWS && k >= ENOUGH && n >= ENOUGH
}

/// The product, on all threads, if it [`suits`]. No dimension is 0.
pub(super) struct Amx<'a> {
    pub cpu: &'a Cpu,
    pub product: Product<'a>,
}

impl WithSimd for Amx<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { cpu, product } = self;
        const { assert!(S::F32_LANES == TILE, "AMX comes with AVX-512") };
        let GemmShape { m, k, n } = product.shape;
        let kc = k.div_ceil(k.div_ceil(KC)).next_multiple_of(STEP);
        let panels = n.div_ceil(BLOCK);

        let row_pieces = m.div_ceil(MC);
        // No more than the threads need: every piece of a row takes its A to pieces anew. (How C is cut makes
        // no difference to its bits.)
        let min_pieces = MIN_PIECES.min(4 * cpu.threads());
        let column_pieces = min_pieces.div_ceil(row_pieces).min(panels);
        let panels_per_piece = panels.div_ceil(column_pieces);
        let column_pieces = panels.div_ceil(panels_per_piece);
        let piece = |index: usize| {
            let (row, column) = (index / column_pieces, index % column_pieces);
            let (row, panel) = (row * MC, column * panels_per_piece);
            let panels = (panel, panels_per_piece.min(panels - panel));
            Piece { product, kc, rows: (row, MC.min(m - row)), panels }
        };
        let pieces = row_pieces * column_pieces;
        let step_len = panels * STEP_LEN;
        let mut buffer = Buffer::borrow(&PACKED_B, kc / STEP * step_len);
        for start in (0..k).step_by(kc) {
            let k_range = (start, kc.min(k - start));
            let packed_b = &mut buffer[..k_range.1.div_ceil(STEP) * step_len];
            cpu.for_each_chunk(true, packed_b, step_len, |step, panels| {
                let start = start + step * STEP;
                simd.vectorize(PackB { product, start, panels });
            });
            let packed_b = &*packed_b;
            cpu.for_each(true, pieces, |index| {
                simd.vectorize(AmxPiece { piece: piece(index), k_range, packed_b });
            });
        }
    }
}

/// A step of k of all panels of B.
struct PackB<'a> {
    product: Product<'a>,
    start: usize,
    panels: &'a mut [f32],
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

/// Rows of a piece's tiles as [`Piece::store`] takes them.
const STORED: usize = 8;

/// A chunk of k (its start and length) for a rectangle of C, by one thread.
struct AmxPiece<'a> {
    piece: Piece<'a, STORED, 2>,
    k_range: (usize, usize),
    /// All panels of this chunk of B, step by step.
    packed_b: &'a [f32],
}

impl WithSimd for AmxPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { piece, k_range, packed_b } = self;
        let Piece { product, kc, rows, panels } = piece;
        let GemmShape { k, n, .. } = product.shape;
        let row_panels = rows.1.div_ceil(BLOCK);
        let panel_len = kc / STEP * STEP_LEN;
        let step_len = n.div_ceil(BLOCK) * STEP_LEN;
        let steps = k_range.1.div_ceil(STEP);
        let mut packed_a = Buffer::borrow(&PACKED_A, row_panels * panel_len);
        let kinds = kinds_of_rows(simd, product.a, rows, k_range);
        pack_rows(simd, product.a, rows, k_range, &kinds, (&mut packed_a, panel_len));

        let accumulate = product.accumulate || k_range.0 > 0;
        let last = k_range.0 + k_range.1 == k;
        let epilogue = if last { product.epilogue } else { Epilogue::None };
        let mut sums = Sums([0.0; BLOCK * BLOCK]);
        // SAFETY: a product is only here if the processor has AMX (see `suits`).
        let _tiles = unsafe { Tiles::new() };
        for panel in panels.0..panels.0 + panels.1 {
            let b = &packed_b[panel * STEP_LEN..];
            let wide = (panel * 2 + 1) * TILE < n;
            for (i, kinds) in kinds.chunks(BLOCK).enumerate().take(row_panels) {
                let a = &packed_a[i * panel_len..];
                let one_piece = kinds.iter().all(|kind| *kind != Kind::Floats);
                // Behind this panel's step of B is the next panel's: each of four products asks for a quarter.
                let ahead = STEP_LEN + i % 4 * (STEP_LEN / 4);
                // SAFETY: the tiles are set up.
                unsafe { multiply(a, (b, step_len), steps, one_piece, ahead, &mut sums) };
                for (stored, kinds) in kinds.chunks(STORED).enumerate() {
                    let tile = i * (BLOCK / STORED) + stored;
                    if tile * STORED >= rows.1 {
                        break;
                    }
                    let from = &sums.0[stored * STORED * BLOCK..][..STORED * BLOCK];
                    let mut tile_sums: Tile<S, STORED, 2> = load(simd, from);
                    scale(simd, &mut tile_sums, kinds);
                    if !all_finite(simd, &tile_sums) {
                        let exact = again(simd, &piece, tile, panel, k_range);
                        replace(simd, &mut tile_sums, exact);
                    }
                    // SAFETY: tile and panel are the piece's, of which each thread has its own.
                    unsafe {
                        if wide {
                            piece.store(simd, tile, panel, tile_sums, accumulate, epilogue);
                        } else {
                            let narrow: Tile<S, STORED, 1> = tile_sums.map(|[first, _]| [first]);
                            piece.store(simd, tile, panel, narrow, accumulate, epilogue);
                        }
                    }
                }
            }
        }
    }
}

/// A block of C on its way from the tiles.
#[repr(align(64))]
struct Sums([f32; BLOCK * BLOCK]);

/// The product of two packed panels over so many steps, of B with the distance between them; of A only its
/// first pieces, if the others are zeros, with the same bits.
///
/// The order within a step was chosen for a core that two threads share, which has few tile registers to
/// spare: six tiles in use and a load for each product take 0.7 of the time of eight tiles and half
/// the loads. Where there is one thread, both are as fast, and 0.9 of what the unit can do.
///
/// # Safety
/// [`Tiles`] must be alive on this thread.
#[inline(always)]
unsafe fn multiply(
    a: &[f32],
    (b, b_step): (&[f32], usize),
    steps: usize,
    one_piece: bool,
    ahead: usize,
    sums: &mut Sums,
) {
    let a = a[..steps * STEP_LEN].as_ptr();
    let b = b[..(steps - 1) * b_step + STEP_LEN].as_ptr();
    /// Loads tile `$row` of a piece of A.
    macro_rules! a {
        ($row:literal, $piece:literal) => {
            concat!("tileloadd tmm4, [{a} + {line} + 1024 * ", $row, " + 2048 * ", $piece, "]")
        };
    }
    /// Loads tile `$column` of a piece of B.
    macro_rules! b {
        ($column:literal, $piece:literal) => {
            concat!("tileloadd tmm5, [{b} + {line} + 1024 * ", $column, " + 2048 * ", $piece, "]")
        };
    }
    // What the next step loads is asked for, or on a core that two threads share a product waits for it;
    // and a share of what the next panel of B has in this step, as far as the second-level cache.
    macro_rules! ask {
        ($instruction:literal, $lines:literal, $per_product:literal, $product:literal) => {
            concat!(
                ".irp i,",
                $lines,
                "\n",
                $instruction,
                " + 64 * (",
                $per_product,
                " * ",
                $product,
                " + \\i)]\n",
                ".endr\n",
            )
        };
    }
    /// Twelfth `$product` of it.
    macro_rules! ask_one {
        ($product:literal) => {
            concat!(
                ask!("prefetcht0 [{b} + {b_step}", "0,1,2,3,4,5,6,7", 8, $product),
                ask!("prefetcht0 [{a} + 6144", "0,1,2", 3, $product),
                ask!("prefetcht1 [{b} + {ahead}", "0,1", 2, $product),
            )
        };
    }
    /// The twenty-fourth.
    macro_rules! ask_three {
        ($product:literal) => {
            concat!(
                ask!("prefetcht0 [{b} + {b_step}", "0,1,2,3", 4, $product),
                ask!("prefetcht0 [{a} + 6144", "0,1,2,3", 4, $product),
                ask!("prefetcht1 [{b} + {ahead}", "0", 1, $product),
            )
        };
    }
    /// Adds what is loaded to a tile of C.
    macro_rules! add {
        (0, 0) => {
            "tdpbf16ps tmm0, tmm4, tmm5"
        };
        (0, 1) => {
            "tdpbf16ps tmm1, tmm4, tmm5"
        };
        (1, 0) => {
            "tdpbf16ps tmm2, tmm4, tmm5"
        };
        (1, 1) => {
            "tdpbf16ps tmm3, tmm4, tmm5"
        };
    }
    macro_rules! multiply {
        ($($instruction:expr),*) => {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                $($instruction,)*
                "add {a}, 6144",
                "add {b}, {b_step}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 2112], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                b_step = in(reg) b_step * size_of::<f32>(),
                steps = inout(reg) steps => _,
                sums = in(reg) sums.0.as_mut_ptr(),
                ahead = in(reg) ahead * size_of::<f32>(),
                line = in(reg) 64_usize,
                row = in(reg) 128_usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: the caller has set up the tiles. Each of the steps, of which there is one at least, has 6 KiB
    // in both panels, and `sums` has 32 rows of 128 bytes.
    unsafe {
        // The small ones first.
        if one_piece {
            #[rustfmt::skip]
            multiply!(
                a!(0, 0), b!(0, 1), add!(0, 0), ask_one!(0), b!(1, 1), add!(0, 1), ask_one!(1),
                a!(1, 0), add!(1, 1), ask_one!(2), b!(0, 1), add!(1, 0), ask_one!(3),
                b!(1, 2), add!(1, 1), ask_one!(4), a!(0, 0), add!(0, 1), ask_one!(5),
                b!(0, 2), add!(0, 0), ask_one!(6), a!(1, 0), add!(1, 0), ask_one!(7),
                b!(1, 0), add!(1, 1), ask_one!(8), a!(0, 0), add!(0, 1), ask_one!(9),
                b!(0, 0), add!(0, 0), ask_one!(10), a!(1, 0), add!(1, 0), ask_one!(11)
            );
        } else {
            #[rustfmt::skip]
            multiply!(
                a!(0, 2), b!(0, 0), add!(0, 0), ask_three!(0), b!(1, 0), add!(0, 1), ask_three!(1),
                a!(1, 2), add!(1, 1), ask_three!(2), b!(0, 0), add!(1, 0), ask_three!(3),
                a!(0, 1), add!(0, 0), ask_three!(4), b!(1, 0), add!(0, 1), ask_three!(5),
                a!(1, 1), add!(1, 1), ask_three!(6), b!(0, 0), add!(1, 0), ask_three!(7),
                b!(1, 1), add!(1, 1), ask_three!(8), a!(0, 1), add!(0, 1), ask_three!(9),
                b!(0, 1), add!(0, 0), ask_three!(10), a!(1, 1), add!(1, 0), ask_three!(11),
                a!(0, 0), add!(0, 0), ask_three!(12), b!(1, 1), add!(0, 1), ask_three!(13),
                a!(1, 0), add!(1, 1), ask_three!(14), b!(0, 1), add!(1, 0), ask_three!(15),
                b!(1, 2), add!(1, 1), ask_three!(16), a!(0, 0), add!(0, 1), ask_three!(17),
                b!(0, 2), add!(0, 0), ask_three!(18), a!(1, 0), add!(1, 0), ask_three!(19),
                b!(1, 0), add!(1, 1), ask_three!(20), a!(0, 0), add!(0, 1), ask_three!(21),
                b!(0, 0), add!(0, 0), ask_three!(22), a!(1, 0), add!(1, 0), ask_three!(23)
            );
        }
    }
}

/// The first rows of a block.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> Tile<S, STORED, 2> {
    let mut tile = zeros(simd);
    for (row, from) in tile.iter_mut().zip(S::as_simd_f32s(from).0.chunks_exact(2)) {
        row.copy_from_slice(from);
    }
    tile
}

/// Divides the sums of rows of bytes. A zero becomes +0, as it would if the pieces that a row of one piece has
/// not had been multiplied.
#[inline(always)]
fn scale<S: Simd>(simd: S, tile: &mut Tile<S, STORED, 2>, kinds: &[Kind]) {
    for (row, kind) in tile.iter_mut().zip(kinds) {
        let factor = simd.splat_f32s(if *kind == Kind::Pixels { BYTE.0 } else { 1.0 });
        for sum in row {
            *sum = simd.mul_add_e_f32s(*sum, factor, simd.splat_f32s(0.0));
        }
    }
}

/// A zero times what is finite is zero; all others make it NaN.
#[inline(always)]
fn all_finite<S: Simd>(simd: S, tile: &Tile<S, STORED, 2>) -> bool {
    let zero = simd.splat_f32s(0.0);
    let mut zeros = [zero; 2];
    for row in tile {
        for (zeros, &sum) in zeros.iter_mut().zip(row) {
            *zeros = simd.mul_add_e_f32s(sum, zero, *zeros);
        }
    }
    simd.reduce_sum_f32s(simd.add_f32s(zeros[0], zeros[1])) == 0.0
}

/// Sums that are not finite by what they ought to be.
#[inline(always)]
fn replace<S: Simd>(simd: S, sums: &mut Tile<S, STORED, 2>, exact: Tile<S, STORED, 2>) {
    for (sum, exact) in sums.as_flattened_mut().iter_mut().zip(exact.as_flattened()) {
        let finite = simd.less_than_f32s(simd.abs_f32s(*sum), simd.splat_f32s(f32::INFINITY));
        *sum = simd.select_f32s(finite, *sum, *exact);
    }
}

/// A tile's sums over a chunk of k, computed with vectors.
#[cold]
#[inline(never)]
fn again<S: Simd>(
    simd: S,
    piece: &Piece<STORED, 2>,
    tile: usize,
    panel: usize,
    (start, kc): (usize, usize),
) -> Tile<S, STORED, 2> {
    struct Again<'a> {
        product: Product<'a>,
        rows: (usize, usize),
        column: usize,
        k_range: (usize, usize),
        sums: &'a mut [f32; STORED * BLOCK],
    }
    impl WithSimd for Again<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { product, rows, column, k_range, sums } = self;
            let a_len = packed_a_len(rows.1, STORED, KC);
            let mut buffer = Buffer::borrow(&blocked::BLOCK, a_len + k_range.1 * BLOCK);
            let (a, b) = buffer[..a_len + k_range.1 * BLOCK].split_at_mut(a_len);
            pack_a::<S, STORED, KC>(product.a, rows, k_range, a);
            pack_b_panel::<S, 2>(product.b, k_range, column, b);
            let transposed = product.a.row_stride == 1;
            let b = PanelB::packed(b, BLOCK);
            // SAFETY: B's panel has k_range.1 rows of two vectors.
            let tile: Tile<S, STORED, 2> = unsafe {
                multiply_add_packed::<S, STORED, 2, KC>(
                    simd,
                    zeros(simd),
                    k_range.1,
                    transposed,
                    a,
                    b,
                )
            };
            for (to, row) in S::as_mut_simd_f32s(sums).0.chunks_exact_mut(2).zip(tile) {
                to.copy_from_slice(&row);
            }
        }
    }
    let first = tile * STORED;
    let rows = (piece.rows.0 + first, STORED.min(piece.rows.1 - first));
    let mut sums = [0.0; STORED * BLOCK];
    simd.vectorize(Again {
        product: piece.product,
        rows,
        column: panel * BLOCK,
        k_range: (start, kc),
        sums: &mut sums,
    });
    load(simd, &sums)
}

/// What the elements of a row of A are, in a chunk of k.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Three pieces each.
    Floats,
    /// One each, or there is no such row.
    OnePiece,
    /// Bytes divided by 255.
    Pixels,
}

impl Kind {
    /// Of elements among which more than one piece was found, and what is no pixel.
    fn of((pieces, no_pixel): (u32, u32)) -> Self {
        match (pieces, no_pixel) {
            (0, _) => Self::OnePiece,
            (_, 0) => Self::Pixels,
            _ => Self::Floats,
        }
    }
}

/// The largest byte.
const MAX_BYTE: f32 = 255.0;

/// 1/255, and what is left of it.
const BYTE: (f32, f32) = (1.0 / MAX_BYTE, (1.0 / 255.0 - (1.0_f32 / 255.0) as f64) as f32);

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
                let x = match S::as_simd_f32s(some) {
                    ([x], _) => *x,
                    (_, tail) => simd.partial_load_f32s(tail),
                };
                found.look_at(simd, x);
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
fn pack_rows<S: Simd>(
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
            let one_piece = kinds.iter().all(|kind| *kind != Kind::Floats);
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
