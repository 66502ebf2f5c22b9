//! Products with few rows: every element of B is used once per tile of rows, so B is not packed (but
//! for a last panel that does not fill its vectors) but read where it lies, each byte once from memory.
//!
//! k is cut into pieces that threads sum up into a C of their own, and those are added up in order:
//! their number depends on k alone, so the bits do not depend on the number of threads. Nor do they
//! depend on the number of rows: a piece is one of [`blocked`](super::blocked)'s chunks (or several,
//! where k is so long that there would be too many), so that an image has the same prediction alone
//! and among others.
//! Within a piece some rows of B at a time ([`GROUP_ROWS`]) meet all columns, so that memory is read
//! from its first byte to its last, and the next panel of columns is announced while this one is
//! multiplied. (By columns every row of B would be another page: measured, the page table's walks
//! took as long as the arithmetic.)

use pulp::{Simd, WithSimd};

use super::GemmShape;
use super::blocked::{BLOCK, KC, PACKED_A, PACKED_B, Piece, Product, chunk_len, is_shared};
use super::microkernel::{PanelA, PanelB, Tile, load_tile, multiply_add, store_tile, zeros};
use super::pack::{multiply_add_packed, pack_a, pack_b_panel, packed_a_len, unpacked_a};
use crate::cpu::{Chunks, Cpu};
use crate::kernels::scratch::Buffer;

/// Products with at most this many rows, but for narrow ones; with more, packing B pays (measured: at 160 it does).
pub(in crate::kernels) const FEW_ROWS: usize = 128;

/// Rows of B that meet all columns before the next ones come. Sums wait in the second-level cache
/// meanwhile: with 64 rows reading and writing them is a thirtieth of the work, and 128 are no faster.
const GROUP_ROWS: usize = 64;

/// Distance between rows of a packed group of A: no power of two, whose rows would fall on each
/// other in the cache.
const A_STRIDE: usize = GROUP_ROWS + 16;

/// Pieces at most: enough for the cores of a large machine to share evenly.
const PIECES: usize = 16;

/// Columns in a piece at least: 1 KiB of every row, so that memory is read in runs.
const COLUMN_PIECE_MIN: usize = 256;

/// Vectors in a row of a tile.
const NV: usize = 2;

/// Panels of columns by which the loads of B are announced ahead.
const PANELS_AHEAD: usize = 2;

/// Steps of k by which they are where there is only one panel.
const STEPS_AHEAD: usize = 16;

/// Rows from which a product of so few columns that they fill one vector at most is [`blocked`](super::blocked)'s:
/// tiles are of two vectors here. (Measured on AVX-512: 0.55 to 0.75 of the time; with 32 rows the same.) Not if there
/// are several chunks of k, which threads share here alone.
const NARROW_MIN_ROWS: usize = 48;

/// Whether this is the way for a product: see the module's text.
pub(super) fn suits(cpu: &Cpu, product: &Product) -> bool {
    let GemmShape { m, k, n } = product.shape;
    let narrow = m >= NARROW_MIN_ROWS && n <= cpu.isa().lanes() && k <= KC;
    m <= FEW_ROWS && product.b.col_stride == 1 && k > 1 && !narrow
}

/// The product, on all threads. No dimension is 0.
pub(super) struct Streamed<'a> {
    pub cpu: &'a Cpu,
    pub product: Product<'a>,
}

impl WithSimd for Streamed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        /// Tiles of as many rows as there are, or a fair share of them.
        macro_rules! with_rows {
            ($largest:literal: $($rows:literal)*) => {{
                let m = self.product.shape.m;
                match m.div_ceil(m.div_ceil($largest)) {
                    $($rows => self.run::<S, $rows>(simd),)*
                    _ => self.run::<S, $largest>(simd),
                }
            }};
        }
        match S::REGISTER_COUNT {
            32.. => with_rows!(14: 1 2 3 4 5 6 7 8 9 10 11 12 13),
            _ => with_rows!(6: 1 2 3 4 5),
        }
    }
}

impl Streamed<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(self, simd: S) {
        let Self { cpu, product } = self;
        let GemmShape { m, k, n } = product.shape;
        let nr = NV * S::F32_LANES;
        let panels = n.div_ceil(nr);

        let chunk = chunk_len(k);
        let k_len = k.div_ceil(chunk).div_ceil(PIECES) * chunk;
        let k_pieces = k.div_ceil(k_len);
        let column_pieces = (PIECES / k_pieces).min(n / COLUMN_PIECE_MIN).max(1);
        let panels_per_piece = panels.div_ceil(column_pieces);
        let column_pieces = panels.div_ceil(panels_per_piece);

        let parallel = is_shared(cpu, product.shape);
        // The sums of a panel's tiles, panel by panel, piece of k by piece of k, if they have to wait.
        let panel_len = m.div_ceil(MR) * MR * nr;
        let waits = k > GROUP_ROWS;
        let sums_len = if waits { k_pieces * panels * panel_len } else { 0 };
        let mut sums = Buffer::borrow(&BLOCK, sums_len);
        let sums = &mut sums[..sums_len];
        let chunks = Chunks::new(sums, panel_len);
        cpu.for_each(parallel, k_pieces * column_pieces, |index| {
            let (k_piece, column_piece) = (index / column_pieces, index % column_pieces);
            let first = column_piece * panels_per_piece;
            simd.vectorize(StreamedPiece::<MR> {
                piece: Piece {
                    product,
                    kc: GROUP_ROWS,
                    rows: (0, m),
                    panels: (first, panels_per_piece.min(panels - first)),
                },
                k_range: (k_piece * k_len, k_len.min(k - k_piece * k_len)),
                sums: waits.then_some(&chunks),
                first_chunk: k_piece * panels,
                finish: k_pieces == 1,
            });
        });
        if k_pieces > 1 {
            let sums = &*sums;
            cpu.for_each(parallel, panels, |panel| {
                let piece = Piece { product, kc: GROUP_ROWS, rows: (0, m), panels: (panel, 1) };
                simd.vectorize(AddUp::<MR> { piece, sums, panel_len });
            });
        }
    }
}

/// Some steps of k for some panels of columns, by one thread.
struct StreamedPiece<'a, const MR: usize> {
    piece: Piece<'a, MR, NV>,
    /// Start and length.
    k_range: (usize, usize),
    /// Where sums wait, unless there is only one group of rows.
    sums: Option<&'a Chunks<'a, f32>>,
    /// The chunk of this piece of k and panel 0.
    first_chunk: usize,
    /// Whether this piece of k is the only one: its sums go to C.
    finish: bool,
}

impl<const MR: usize> WithSimd for StreamedPiece<'_, MR> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { piece, k_range: (start, len), .. } = self;
        let Product { shape: GemmShape { m, n, .. }, a, b, .. } = piece.product;
        let nr = NV * S::F32_LANES;
        // Tiles of a transposed A, each of whose steps of k lies in a piece, need no copy.
        let transposed = a.row_stride == 1;
        let whole = if transposed { m / MR } else { 0 };
        let tiles = m.div_ceil(MR);
        let alone = piece.panels.1 == 1 && whole == 1 && tiles == 1 && n.is_multiple_of(nr);
        // A single tile's sums need not wait for others': they stay in the registers to the end.
        let group = if alone { len } else { GROUP_ROWS };
        let ahead = if alone { STEPS_AHEAD * b.row_stride } else { PANELS_AHEAD * nr };
        let mut packed_a = Buffer::borrow(&PACKED_A, packed_a_len(m, MR, A_STRIDE));
        let mut edge = Buffer::borrow(&PACKED_B, GROUP_ROWS * nr);
        let mut done = 0;
        while done < len {
            let (k_start, kc) = (start + done, group.min(len - done));
            if whole < tiles {
                pack_a::<S, MR, A_STRIDE>(
                    a,
                    (whole * MR, m - whole * MR),
                    (k_start, kc),
                    &mut packed_a,
                );
            }
            let last = done + kc == len;
            for panel in piece.panels.0..piece.panels.0 + piece.panels.1 {
                let column = panel * nr;
                let b = if column + nr <= n {
                    let ptr = b.block((k_start, column), (kc, nr));
                    PanelB { ptr, k_stride: b.row_stride, ahead }
                } else {
                    pack_b_panel::<S, NV>(b, (k_start, kc), column, &mut edge[..GROUP_ROWS * nr]);
                    PanelB::packed(&edge, nr)
                };
                // SAFETY: the chunks of this piece of k and these panels are this thread's alone, and
                // the one before is no longer alive.
                let mut sums = self.sums.map(|sums| unsafe { sums.get(self.first_chunk + panel) });
                for tile in 0..tiles {
                    let sums = sums.as_mut().map(|sums| &mut sums[tile * MR * nr..][..MR * nr]);
                    let acc = match &sums {
                        Some(sums) if done > 0 => load_tile(simd, sums),
                        _ => zeros(simd),
                    };
                    let acc = if tile < whole {
                        let a = unpacked_a::<MR>(a, tile * MR, (k_start, kc));
                        // SAFETY: A and B have MR rows and NV vectors at each of kc steps: `block` has
                        // seen to it, or they are packed.
                        unsafe { multiply_add(simd, acc, kc, PanelA { row_stride: 1, ..a }, b) }
                    } else {
                        let packed = &packed_a[(tile - whole) * MR * A_STRIDE..];
                        // SAFETY: as above.
                        unsafe {
                            multiply_add_packed::<S, MR, NV, A_STRIDE>(
                                simd, acc, kc, transposed, packed, b,
                            )
                        }
                    };
                    if last && self.finish {
                        let Product { accumulate, epilogue, .. } = piece.product;
                        // SAFETY: `Streamed` gives every column of C to one piece, with all rows.
                        unsafe { piece.store(simd, tile, panel, acc, accumulate, epilogue) };
                    } else if let Some(sums) = sums {
                        store_tile::<S, MR, NV>(acc, sums);
                    }
                }
            }
            done += kc;
        }
    }
}

/// Adds up the sums of a panel over the pieces of k, in order, and finishes them.
struct AddUp<'a, const MR: usize> {
    /// Its panel is the one.
    piece: Piece<'a, MR, NV>,
    sums: &'a [f32],
    panel_len: usize,
}

impl<const MR: usize> WithSimd for AddUp<'_, MR> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { piece, sums, panel_len } = self;
        let Product { shape, accumulate, epilogue, .. } = piece.product;
        let panel = piece.panels.0;
        let tile_len = MR * NV * S::F32_LANES;
        let stride = shape.n.div_ceil(NV * S::F32_LANES) * panel_len;
        for tile in 0..panel_len / tile_len {
            let mut pieces = sums[panel * panel_len + tile * tile_len..].chunks(stride);
            let first = pieces.next().expect("a piece of k");
            let mut total: Tile<S, MR, NV> = load_tile(simd, &first[..tile_len]);
            for sums in pieces {
                let sums: Tile<S, MR, NV> = load_tile(simd, &sums[..tile_len]);
                for (total, sums) in total.iter_mut().zip(sums) {
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total = simd.add_f32s(*total, sum);
                    }
                }
            }
            // SAFETY: every panel comes once, with all its rows.
            unsafe { piece.store(simd, tile, panel, total, accumulate, epilogue) };
        }
    }
}
