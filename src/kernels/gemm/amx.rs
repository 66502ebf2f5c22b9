//! Large products on AMX's tiles of bfloat16, as exact as with `f32`'s own arithmetic.
//!
//! A float of 24 significant bits is the sum of three bfloat16 of eight. Of the nine products of two
//! floats' pieces the six largest are computed, which the tiles add up in `f32`; the three others are
//! together at most 2^-24 of the whole, one rounding. (Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019.)
//!
//! A row of A of which every element is one bfloat16 takes three products instead of six. So does a row of
//! pixels, which are bytes divided by 255: it is multiplied as bytes, and its sums are divided. That is the
//! first layer of a network, and most of what a perceptron computes. Where A is given as bytes, no row has to
//! be looked at, and a quarter of the memory is read.
//!
//! Pieces fail where a factor is infinite, or so large that its first piece is: an infinity times another's
//! piece, a zero, is NaN. So where sums are not finite, they are computed again without tiles. What of a
//! factor is below the normal range counts as zero, as everywhere.
//!
//! The blocking is [`blocked`](super::blocked)'s. How a row is computed depends on that row and on B, not on
//! the rows beside it: it has the same bits alone and among others.

mod pieces;

use std::arch::asm;

pub(super) use pieces::Element;
use pieces::{Kind, PackB, pack_rows};
use pulp::{Simd, WithSimd};

use super::blocked::{
    KC, MIN_PIECES, PACKED_A, PACKED_B, Piece, Product, chunk_len, cut, is_shared,
};
use super::microkernel::{PanelB, Tile, load_tile, store_tile, zeros};
use super::pack::{multiply_add_packed, pack_a, pack_b_panel, packed_a_len};
use super::{Epilogue, GemmShape, blocked, streamed};
use crate::amx::Tiles;
use crate::cpu::{Cpu, Isa};
use crate::kernels::input::BYTE;
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

/// Rows of C in a piece: its chunk of packed A takes 600 KiB of the second-level cache.
const MC: usize = 128;

/// Steps of k from which taking A and B to pieces pays. (Measured: at 64 it is slower.)
const ENOUGH_STEPS: usize = 256;

/// Whether a product is computed here. With few rows B is better streamed than taken to pieces.
pub(super) fn suits<T: Element>(cpu: &Cpu, GemmShape { m, k, n }: GemmShape) -> bool {
    let enough = k >= ENOUGH_STEPS && n >= T::ENOUGH_COLUMNS;
    cpu.isa() == Isa::Amx && m > streamed::FEW_ROWS && enough
}

/// The product, on all threads, if it [`suits`]. No dimension is 0.
pub(super) struct Amx<'a, T> {
    pub cpu: &'a Cpu,
    pub product: Product<'a, T>,
}

impl<T: Element> WithSimd for Amx<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { cpu, product } = self;
        const { assert!(S::F32_LANES == TILE, "AMX comes with AVX-512") };
        const { assert!(KC.is_multiple_of(STEP), "the longest chunk is of whole steps") };
        let GemmShape { k, n, .. } = product.shape;
        let kc = chunk_len(k).next_multiple_of(STEP);
        let panels = n.div_ceil(BLOCK);
        // No more than the threads need: every piece of a row takes its A to pieces anew. (How C is cut makes
        // no difference to its bits.)
        let min_pieces = MIN_PIECES.min(2 * cpu.threads());
        let (pieces, piece) = cut(product, kc, MC, panels, min_pieces);
        let shared = is_shared(cpu, product.shape);
        let step_len = panels * STEP_LEN;
        let mut buffer = Buffer::borrow(&PACKED_B, kc / STEP * step_len);
        for start in (0..k).step_by(kc) {
            let k_range = (start, kc.min(k - start));
            let packed_b = &mut buffer[..k_range.1.div_ceil(STEP) * step_len];
            cpu.for_each_chunk(shared, packed_b, step_len, |step, panels| {
                let start = start + step * STEP;
                simd.vectorize(PackB { b: product.b, start, panels });
            });
            let packed_b = &*packed_b;
            cpu.for_each(shared, pieces, |index| {
                simd.vectorize(AmxPiece { piece: piece(index), k_range, packed_b });
            });
        }
    }
}

/// Rows of a piece's tiles as [`Piece::store`] takes them.
const STORED: usize = 8;

/// A chunk of k (its start and length) for a rectangle of C, by one thread.
struct AmxPiece<'a, T> {
    piece: Piece<'a, STORED, 2, T>,
    k_range: (usize, usize),
    /// All panels of this chunk of B, step by step.
    packed_b: &'a [f32],
}

impl<T: Element> WithSimd for AmxPiece<'_, T> {
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
        let kinds = T::kinds_of_rows(simd, product.a, rows, k_range);
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
                let one_piece = Kind::of_one_piece(kinds);
                // Behind this panel's step of B is the next panel's: each of four products asks for a quarter.
                let ahead = STEP_LEN + i % 4 * (STEP_LEN / 4);
                // SAFETY: the tiles are set up.
                unsafe {
                    multiply(a, (b, step_len), steps, (one_piece, wide), ahead, &mut sums);
                }
                for (stored, kinds) in kinds.chunks(STORED).enumerate() {
                    let tile = i * (BLOCK / STORED) + stored;
                    if tile * STORED >= rows.1 {
                        break;
                    }
                    let from = &sums.0[stored * STORED * BLOCK..][..STORED * BLOCK];
                    let mut tile_sums: Tile<S, STORED, 2> = load_tile(simd, from);
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
/// first pieces, if the others are zeros, and of those only with B's first tiles, if nobody wants the
/// other sums: with the same bits.
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
    (one_piece, wide): (bool, bool),
    ahead: usize,
    sums: &mut Sums,
) {
    let a = a[..steps * STEP_LEN].as_ptr();
    let b = b[..(steps - 1) * b_step + STEP_LEN].as_ptr();
    /// Loads tile `$row` of a piece of A.
    macro_rules! a {
        ($row:literal, $piece:literal) => {
            a!("tmm4", $row, $piece)
        };
        ($tile:literal, $row:literal, $piece:literal) => {
            concat!(
                "tileloadd ",
                $tile,
                ", [{a} + {line} + 1024 * ",
                $row,
                " + 2048 * ",
                $piece,
                "]"
            )
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
    /// Adds what is loaded to a tile of C: with both tiles of A loaded, the second is tmm6.
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
        (1, 0, "tmm6") => {
            "tdpbf16ps tmm2, tmm6, tmm5"
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
        if one_piece && !wide {
            #[rustfmt::skip]
            multiply!(
                b!(0, 1), a!(0, 0), add!(0, 0), ask_one!(0), ask_one!(1),
                a!("tmm6", 1, 0), add!(1, 0, "tmm6"), ask_one!(2), ask_one!(3),
                b!(0, 2), add!(0, 0), ask_one!(4), ask_one!(5), add!(1, 0, "tmm6"), ask_one!(6), ask_one!(7),
                b!(0, 0), add!(0, 0), ask_one!(8), ask_one!(9), add!(1, 0, "tmm6"), ask_one!(10), ask_one!(11)
            );
        } else if one_piece {
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
fn again<S: Simd, T: Element>(
    simd: S,
    piece: &Piece<STORED, 2, T>,
    tile: usize,
    panel: usize,
    (start, kc): (usize, usize),
) -> Tile<S, STORED, 2> {
    struct Again<'a, T> {
        product: Product<'a, T>,
        rows: (usize, usize),
        column: usize,
        k_range: (usize, usize),
        sums: &'a mut [f32; STORED * BLOCK],
    }
    impl<T: Element> WithSimd for Again<'_, T> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { product, rows, column, k_range, sums } = self;
            let a_len = packed_a_len(rows.1, STORED, KC);
            let (b_len, copy_len) = (k_range.1 * BLOCK, STORED * KC);
            let mut buffer = Buffer::borrow(&blocked::BLOCK, a_len + b_len + copy_len);
            let (a, rest) = buffer.split_at_mut(a_len);
            let (b, copy) = rest.split_at_mut(b_len);
            let (floats, rows, k_of_floats) = T::floats(product.a, rows, k_range, copy);
            pack_a::<S, STORED, KC>(floats, rows, k_of_floats, a);
            pack_b_panel::<S, 2>(product.b, k_range, column, b);
            let transposed = floats.row_stride == 1;
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
            store_tile::<S, STORED, 2>(tile, sums);
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
    load_tile(simd, &sums)
}
