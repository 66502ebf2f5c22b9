//! Our own GEMM: packed panels, a register tile from [`microkernel`](super::microkernel), and
//! epilogues applied while the finished tile is still in registers.
//!
//! The blocking is Goto and van de Geijn's ("Anatomy of High-Performance Matrix Multiplication",
//! ACM TOMS 34(3), 2008) in BLIS's words: C is cut into pieces of `MC` rows, k into chunks of
//! at most `KC` so that an `MC x KC` block of A and a `KC x NR` panel of B stay in the second-level
//! cache together. B is packed once by all threads, then every piece of C is
//! computed from start to end by one thread, in an order that depends on the shape alone: the
//! bits do not depend on the number of threads.

use std::cell::Cell;

use pulp::{Simd, WithSimd};

use super::microkernel::{PanelA, PanelB, multiply};
use super::{Epilogue, GemmShape, Matrix, Write};
use crate::cpu::Cpu;
use crate::kernels::relu::{keep_where_positive, relu};
use crate::kernels::scratch::Buffer;

/// Longest chunk of k. A panel of B then takes 50 or 100 KiB and streams from the second-level
/// cache; that is 5 % faster than panels of 20 KiB in the first-level cache (k up to 320), because
/// the study's 784 inputs are one chunk and C is written once instead of three times.
///
/// `MORE_STEPS` in tests/reference.rs must go beyond it.
const KC: usize = 800;

/// Rows of C in a piece, before rounding down to whole tiles: the packed block of A then takes at
/// most 150 KiB, and a matrix of 1,000 rows gives 20 pieces to share out. (96 rows: no faster.)
const MC: usize = 48;

/// C is cut along its columns too until there are this many pieces, where its rows alone give
/// fewer: enough for the cores of a large machine to share evenly.
const MIN_PIECES: usize = 16;

/// Below this many panels of columns, packing A costs more than it saves: each packed element
/// would be read only that many times.
const PACK_A_MIN_PANELS: usize = 4;

/// The row of A that a tile's missing rows are packed from.
static ZEROS: [f32; KC] = [0.0; KC];

/// Elements of packed B held at a time (16 MiB); a longer k is done in several sweeps. `SWEEPS` in
/// tests/reference.rs must go beyond it.
const PACKED_B_MAX: usize = 4 << 20;

/// Products with at most this many rows are worth ways of their own: so few rows use a packed B once
/// or twice.
const FEW_ROWS: usize = 64;

thread_local! {
    /// Packing buffers, kept between calls: a training loop allocates in its first step only.
    static PACKED_A: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PACKED_B: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// A block of rows of C on its way to its consumer, or what the pieces of k sum up to.
    static BLOCK: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// One of the two operands with its strides in elements; element (i, j) is at
/// `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Strided<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Strided<'a> {
    fn new(matrix: Matrix<'a>, rows: usize, cols: usize) -> Self {
        match matrix {
            Matrix::N(data) => Self { data, row_stride: cols, col_stride: 1 },
            Matrix::T(data) => Self { data, row_stride: 1, col_stride: rows },
        }
    }

    fn transposed(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// `C = epilogue([C +] A B)`. The caller (see [`super::gemm`]) has checked the lengths, and no
/// dimension is 0.
pub(super) fn gemm(
    cpu: &Cpu,
    shape: GemmShape,
    a: Matrix,
    b: Matrix,
    write: Write,
    c: &mut [f32],
    epilogue: Epilogue,
) {
    let GemmShape { m, k, n } = shape;
    let (a, b) = (Strided::new(a, m, k), Strided::new(b, k, n));
    let accumulate = write == Write::Add;
    let to = Destination { ptr: c.as_mut_ptr(), first_row: 0, row_stride: n, col_stride: 1 };
    let few_rows = m <= FEW_ROWS && m < n && b.row_stride == 1 && k > 1;
    let product = if few_rows && matches!(epilogue, Epilogue::None) {
        // C^T = B^T A^T: the large operand is then the one that is read where it lies, row by row,
        // and only the small one is packed.
        let to = Destination { row_stride: 1, col_stride: n, ..to };
        let shape = GemmShape { m: n, k, n: m };
        Product { shape, a: b.transposed(), b: a.transposed(), accumulate, to, epilogue }
    } else {
        Product { shape, a, b, accumulate, to, epilogue }
    };
    // Without the flush of subnormals, which `for_each` sees to: rayon may run other code here.
    cpu.arch().dispatch(Gemm { cpu, product });
}

/// See [`super::gemm_by_row_blocks`]. Only k may be 0.
pub(super) fn gemm_by_row_blocks(
    cpu: &Cpu,
    shape: GemmShape,
    a: Matrix,
    b: Matrix,
    block: usize,
    consume: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    let GemmShape { m, k, n } = shape;
    let (a, b) = (Strided::new(a, m, k), Strided::new(b, k, n));
    let to = Destination { ptr: std::ptr::null_mut(), first_row: 0, row_stride: n, col_stride: 1 };
    let product = Product { shape, a, b, accumulate: false, to, epilogue: Epilogue::None };
    cpu.arch().dispatch(GemmByRowBlocks { cpu, product, block, consume });
}

/// What is to be computed.
#[derive(Clone, Copy)]
struct Product<'a> {
    shape: GemmShape,
    a: Strided<'a>,
    b: Strided<'a>,
    /// Whether C is added to.
    accumulate: bool,
    to: Destination,
    epilogue: Epilogue<'a>,
}

impl Product<'_> {
    /// The same with the rows of C from `first_row` going to `c`.
    fn to_block(self, c: &mut [f32], first_row: usize) -> Self {
        Self { to: Destination { ptr: c.as_mut_ptr(), first_row, ..self.to }, ..self }
    }
}

/// C: element (i, j) is at `ptr[(i - first_row) * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
struct Destination {
    ptr: *mut f32,
    first_row: usize,
    row_stride: usize,
    col_stride: usize,
}
// SAFETY: the pieces of one product write disjoint rectangles of C: `run` cuts rows and panels into
// ranges that do not overlap, and `run_in_slabs` gives each piece, then each row, a part of its own.
unsafe impl Send for Destination {}
// SAFETY: as above.
unsafe impl Sync for Destination {}

struct Gemm<'a> {
    cpu: &'a Cpu,
    product: Product<'a>,
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The largest tile whose accumulators, a row of B and a broadcast fit in the registers;
        // with few rows one that they fill better.
        let m = self.product.shape.m;
        match S::REGISTER_COUNT {
            32.. if m <= FEW_ROWS && m.next_multiple_of(11) < m.next_multiple_of(14) => {
                self.run::<S, 11, 2>(simd);
            }
            32.. => self.run::<S, 14, 2>(simd),
            _ => self.run::<S, 6, 2>(simd),
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, product } = self;
        let GemmShape { m, k, n } = product.shape;
        let panels = n.div_ceil(NV * S::F32_LANES);
        let padded_n = panels * NV * S::F32_LANES;
        let kc = k.div_ceil(k.div_ceil(KC));

        let mc = (MC / MR) * MR;
        let row_pieces = m.div_ceil(mc);
        let column_pieces = MIN_PIECES.div_ceil(row_pieces).min(panels);
        let panels_per_piece = panels.div_ceil(column_pieces);
        let column_pieces = panels.div_ceil(panels_per_piece);
        let parallel = product.shape.flops() >= PARALLEL_MIN_FLOPS;
        let piece = |index: usize| {
            let (row, column) = (index / column_pieces, index % column_pieces);
            let panel = column * panels_per_piece;
            Piece::<MR, NV> {
                product,
                kc,
                rows: (row * mc, mc.min(m - row * mc)),
                panels: (panel, panels_per_piece.min(panels - panel)),
            }
        };

        let slabs = k >= SLAB_PIECES * SLAB_ROWS / 2 && n <= SLAB_MAX_COLUMNS;
        if row_pieces == 1 && product.b.col_stride == 1 && slabs && 4 * k * n > SLABS_MIN_BYTES {
            return self.run_in_slabs::<S, MR, NV>(simd);
        }
        if row_pieces == 1 {
            // Nobody else needs a piece's columns of B.
            cpu.for_each(parallel, column_pieces, |index| {
                simd.vectorize(PackingPiece(piece(index)));
            });
            return;
        }
        let sweep = (PACKED_B_MAX / padded_n / kc).max(1) * kc;
        let mut buffer = Buffer::borrow(&PACKED_B, sweep.min(k).next_multiple_of(kc) * padded_n);
        let mut start = 0;
        while start < k {
            let len = sweep.min(k - start);
            let packed_b = &mut buffer[..len.next_multiple_of(kc) * padded_n];
            pack_b::<S, NV>(cpu, parallel, product.b, start, len, kc, n, packed_b);
            let packed_b = &*packed_b;
            cpu.for_each(parallel, row_pieces * column_pieces, |index| {
                let packed = PackedB { data: packed_b, padded_n, start, len };
                simd.vectorize(PackedPiece(piece(index), packed));
            });
            start += len;
        }
    }
}

impl Gemm<'_> {
    /// For few rows of A and a B that is too large for the caches: every byte of B is then used once
    /// or twice, so it is read where it lies, from its first byte to its last. (By columns every row
    /// of B would be another page: measured, the page table's walks took as long as the arithmetic.)
    ///
    /// k is cut into pieces with a C of their own, which are added up in order.
    #[inline(always)]
    fn run_in_slabs<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, product } = self;
        let GemmShape { m, k, n } = product.shape;
        let len = k.div_ceil(SLAB_PIECES).next_multiple_of(SLAB_ROWS);
        let pieces = k.div_ceil(len);
        let parallel = product.shape.flops() >= PARALLEL_MIN_FLOPS;
        let mut partial = Buffer::borrow(&BLOCK, pieces * m * n);
        let partial = &mut partial[..pieces * m * n];
        cpu.for_each_chunk(parallel, partial, m * n, |index, c| {
            let k_range = (index * len, len.min(k - index * len));
            simd.vectorize(SlabPiece::<MR, NV> { product: product.to_block(c, 0), k_range });
        });
        let partial = &*partial;
        // (If C and its pieces are transposed, "row" is a name for a share of their elements, and
        // there is no epilogue.)
        cpu.for_each(parallel, m, |row| simd.vectorize(SumPieces { product, partial, row }));
    }
}

/// From here on B is read in slabs: more than most second-level caches hold.
const SLABS_MIN_BYTES: usize = 2 << 20;

/// Columns up to which a slab stays in the second-level cache.
const SLAB_MAX_COLUMNS: usize = 2048;

/// Pieces that k is cut into for them, if it is long enough for half of them.
const SLAB_PIECES: usize = 16;

/// Rows of B in a slab: with 784 columns they are 200 KB, which stay in the second-level cache for
/// the tiles after the first, and 50 pages.
const SLAB_ROWS: usize = 64;

/// A part of k, summed by one thread into a C of its own.
struct SlabPiece<'a, const MR: usize, const NV: usize> {
    product: Product<'a>,
    /// Start and length.
    k_range: (usize, usize),
}

impl<const MR: usize, const NV: usize> WithSimd for SlabPiece<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, k_range: (start, len) } = self;
        let GemmShape { m, n, .. } = product.shape;
        let nr = NV * S::F32_LANES;
        let panels = n.div_ceil(nr);
        let product = Product { epilogue: Epilogue::None, accumulate: false, ..product };
        let piece = Piece::<MR, NV> { product, kc: SLAB_ROWS, rows: (0, m), panels: (0, panels) };
        let tiles = m.div_ceil(MR);
        let mut packed_a = piece.borrow_packed_a();
        let mut packed_b = Buffer::borrow(&PACKED_B, SLAB_ROWS * nr * panels);
        let b = product.b;
        let mut done = 0;
        while done < len {
            let kc = SLAB_ROWS.min(len - done);
            let k_start = start + done;
            for tile in 0..tiles {
                piece.pack_a_tile(tile, k_start, kc, &mut packed_a);
            }
            for p in 0..kc {
                let row = &b.data[(k_start + p) * b.row_stride..][..n];
                for (panel, from) in row.chunks(nr).enumerate() {
                    let to = &mut packed_b[(panel * SLAB_ROWS + p) * nr..][..nr];
                    if from.len() == nr {
                        for (to, &from) in
                            S::as_mut_simd_f32s(to).0.iter_mut().zip(S::as_simd_f32s(from).0)
                        {
                            *to = from;
                        }
                    } else {
                        to.fill(0.0);
                        to[..from.len()].copy_from_slice(from);
                    }
                }
            }
            for panel in 0..panels {
                let b = &packed_b[panel * SLAB_ROWS * nr..][..kc * nr];
                let b = PanelB { ptr: b.as_ptr(), k_stride: nr };
                for tile in 0..tiles {
                    let packed = &packed_a[tile * MR * kc..][..MR * kc];
                    let a = PanelA { ptr: packed.as_ptr(), row_stride: 1, k_stride: MR };
                    // SAFETY: A has MR * kc elements, sliced above; B has kc rows of nr, sliced
                    // above too.
                    let sums = unsafe { multiply::<S, MR, NV>(simd, kc, a, b) };
                    piece.store(simd, tile, panel, sums, done > 0, Epilogue::None);
                }
            }
            done += kc;
        }
    }
}

/// Adds up one row of the pieces' C and finishes it.
struct SumPieces<'a> {
    product: Product<'a>,
    partial: &'a [f32],
    row: usize,
}

impl WithSimd for SumPieces<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, partial, row } = self;
        let GemmShape { m, n, .. } = product.shape;
        // SAFETY: the row lies inside C, and nobody else has it.
        let c = unsafe { std::slice::from_raw_parts_mut(product.to.ptr.add(row * n), n) };
        for column in (0..n).step_by(S::F32_LANES) {
            let width = S::F32_LANES.min(n - column);
            let to = &mut c[column..][..width];
            let mut sum = simd.splat_f32s(0.0);
            if product.accumulate {
                sum = load(simd, to);
            }
            for piece in partial.chunks_exact(m * n) {
                sum = simd.add_f32s(sum, load(simd, &piece[row * n + column..][..width]));
            }
            let value = finish(simd, sum, product.epilogue, column, row * n + column, width);
            match S::as_mut_simd_f32s(to) {
                ([whole], _) => *whole = value,
                (_, tail) => simd.partial_store_f32s(tail, value),
            }
        }
    }
}

struct GemmByRowBlocks<'a> {
    cpu: &'a Cpu,
    product: Product<'a>,
    block: usize,
    consume: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

impl WithSimd for GemmByRowBlocks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::REGISTER_COUNT {
            32.. => self.run::<S, 14, 2>(simd),
            _ => self.run::<S, 6, 2>(simd),
        }
    }
}

impl GemmByRowBlocks<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, product, block, consume } = self;
        let GemmShape { m, k, n } = product.shape;
        let panels = n.div_ceil(NV * S::F32_LANES);
        let padded_n = panels * NV * S::F32_LANES;
        let kc = k.div_ceil(k.div_ceil(KC).max(1)).max(1);
        let parallel = product.shape.flops() >= PARALLEL_MIN_FLOPS;
        let mut buffer = Buffer::borrow(&PACKED_B, k.next_multiple_of(kc) * padded_n);
        let packed_b = &mut buffer[..k.next_multiple_of(kc) * padded_n];
        pack_b::<S, NV>(cpu, parallel, product.b, 0, k, kc, n, packed_b);
        let packed_b = &*packed_b;
        cpu.for_each(parallel, m.div_ceil(block), |index| {
            let first_row = index * block;
            let rows = block.min(m - first_row);
            let mut c = Buffer::borrow(&BLOCK, rows * n);
            let c = &mut c[..rows * n];
            if k == 0 {
                c.fill(0.0);
            } else {
                let product = product.to_block(c, first_row);
                let rows = (first_row, rows);
                let piece = Piece::<MR, NV> { product, kc, rows, panels: (0, panels) };
                let packed = PackedB { data: packed_b, padded_n, start: 0, len: k };
                simd.vectorize(PackedPiece(piece, packed));
            }
            consume(index, c);
        });
    }
}

/// Below this many floating-point operations a second thread costs more than it gives: waking it
/// takes some 5 to 10 microseconds, in which one core does half a million operations.
pub(super) const PARALLEL_MIN_FLOPS: f64 = 2e6;

/// Packs `len` rows of B from `start`: chunks of `kc` rows, each as panels of `NV` vectors, each
/// panel row by row. Missing columns are zeros; missing rows of the last chunk are left alone.
#[expect(clippy::too_many_arguments, reason = "the blocking, spelled out once")]
fn pack_b<S: Simd, const NV: usize>(
    cpu: &Cpu,
    parallel: bool,
    b: Strided,
    start: usize,
    len: usize,
    kc: usize,
    n: usize,
    packed: &mut [f32],
) {
    let nr = NV * S::F32_LANES;
    let panels = n.div_ceil(nr);
    cpu.for_each_chunk(parallel, packed, kc * nr, |index, panel| {
        let first = start + index / panels * kc;
        let rows = kc.min(start + len - first);
        pack_b_panel::<S, NV>(b, (first, rows), index % panels * nr, n, panel);
    });
}

/// Packs one panel: the given rows of B (the first and their number), `NV` vectors from `column`.
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
            if width == nr {
                // Vector by vector: `copy_from_slice` would call memmove for each few bytes.
                for (to, &from) in S::as_mut_simd_f32s(to).0.iter_mut().zip(S::as_simd_f32s(from).0)
                {
                    *to = from;
                }
            } else {
                to[..width].copy_from_slice(from);
            }
        }
    } else {
        for j in 0..width {
            let from = &b.data[(column + j) * b.col_stride + first..][..rows];
            for (to, &value) in panel[j..].iter_mut().step_by(nr).zip(from) {
                *to = value;
            }
        }
    }
}

/// A rectangle of C, computed by one thread.
#[derive(Clone, Copy)]
struct Piece<'a, const MR: usize, const NV: usize> {
    product: Product<'a>,
    /// Longest chunk of k.
    kc: usize,
    /// First row and number of rows.
    rows: (usize, usize),
    /// First panel of columns and number of panels.
    panels: (usize, usize),
}

/// Rows of B, packed for everybody: `len` of them from `start`, see [`pack_b`].
#[derive(Clone, Copy)]
struct PackedB<'a> {
    data: &'a [f32],
    padded_n: usize,
    start: usize,
    len: usize,
}

/// A piece, as far as the rows of B go that are packed.
struct PackedPiece<'a, const MR: usize, const NV: usize>(Piece<'a, MR, NV>, PackedB<'a>);

impl<const MR: usize, const NV: usize> WithSimd for PackedPiece<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(piece, PackedB { data, padded_n, start, len }) = self;
        let panel_len = piece.kc * NV * S::F32_LANES;
        let mut packed_a = piece.borrow_packed_a();
        let mut done = 0;
        while done < len {
            let kc = piece.kc.min(len - done);
            let panels = &data[done * padded_n..][piece.panels.0 * panel_len..];
            piece.multiply_chunk(simd, (start + done, kc), panels, &mut packed_a);
            done += kc;
        }
    }
}

/// A piece that packs its columns of B by itself.
struct PackingPiece<'a, const MR: usize, const NV: usize>(Piece<'a, MR, NV>);

impl<const MR: usize, const NV: usize> WithSimd for PackingPiece<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(piece) = self;
        let GemmShape { k, n, .. } = piece.product.shape;
        let (first_panel, panels) = piece.panels;
        let nr = NV * S::F32_LANES;
        let panel_len = piece.kc * nr;
        let mut packed_a = piece.borrow_packed_a();
        let mut packed_b = Buffer::borrow(&PACKED_B, panels * panel_len);
        let mut done = 0;
        while done < k {
            let kc = piece.kc.min(k - done);
            for (i, panel) in packed_b.chunks_exact_mut(panel_len).take(panels).enumerate() {
                let column = (first_panel + i) * nr;
                pack_b_panel::<S, NV>(piece.product.b, (done, kc), column, n, panel);
            }
            piece.multiply_chunk(simd, (done, kc), &packed_b, &mut packed_a);
            done += kc;
        }
    }
}

impl<const MR: usize, const NV: usize> Piece<'_, MR, NV> {
    fn borrow_packed_a(&self) -> Buffer {
        Buffer::borrow(&PACKED_A, self.rows.1.div_ceil(MR) * MR * self.kc)
    }

    /// Adds one chunk of k (its start and length) to the piece, and finishes it if that is the
    /// last. `panels` starts with the piece's first.
    #[inline(always)]
    fn multiply_chunk<S: Simd>(
        &self,
        simd: S,
        (k_start, kc): (usize, usize),
        panels: &[f32],
        packed_a: &mut [f32],
    ) {
        let nr = NV * S::F32_LANES;
        let tiles = self.rows.1.div_ceil(MR);
        let pack_whole = self.panels.1 >= PACK_A_MIN_PANELS;
        for tile in 0..tiles {
            // Without packing, only a last tile with missing rows needs a padded copy.
            if pack_whole || self.tile_rows(tile) < MR {
                self.pack_a_tile(tile, k_start, kc, packed_a);
            }
        }
        let accumulate = self.product.accumulate || k_start > 0;
        let last = k_start + kc == self.product.shape.k;
        let epilogue = if last { self.product.epilogue } else { Epilogue::None };
        for panel in 0..self.panels.1 {
            let b = &panels[panel * self.kc * nr..][..kc * nr];
            let b = PanelB { ptr: b.as_ptr(), k_stride: nr };
            for tile in 0..tiles {
                let rows = self.tile_rows(tile);
                let sums = if pack_whole || rows < MR {
                    let packed = &packed_a[tile * MR * kc..][..MR * kc];
                    let a = PanelA { ptr: packed.as_ptr(), row_stride: 1, k_stride: MR };
                    // SAFETY: the panels have MR * kc and kc * nr elements, sliced above.
                    unsafe { multiply::<S, MR, NV>(simd, kc, a, b) }
                } else {
                    let a = self.unpacked_a_tile(tile, k_start, kc);
                    // SAFETY: the panel of A has MR rows and kc steps of k inside the operand,
                    // sliced there; the panel of B as above.
                    unsafe { multiply::<S, MR, NV>(simd, kc, a, b) }
                };
                self.store(simd, tile, self.panels.0 + panel, sums, accumulate, epilogue);
            }
        }
    }

    /// Rows of C in tile number `tile`: `MR`, or fewer in the last.
    #[inline(always)]
    fn tile_rows(&self, tile: usize) -> usize {
        MR.min(self.rows.1 - tile * MR)
    }

    /// A whole tile's rows of A where they lie, `kc` steps of k from `k_start`.
    #[inline(always)]
    fn unpacked_a_tile(&self, tile: usize, k_start: usize, kc: usize) -> PanelA {
        let Strided { data, row_stride, col_stride: k_stride } = self.product.a;
        let start = (self.rows.0 + tile * MR) * row_stride + k_start * k_stride;
        let last = start + (MR - 1) * row_stride + (kc - 1) * k_stride;
        PanelA { ptr: data[start..=last].as_ptr(), row_stride, k_stride }
    }

    /// Copies a tile's rows of A, `kc` steps of k from `k_start`, as `MR` elements per step;
    /// missing rows become zeros.
    #[inline(always)]
    fn pack_a_tile(&self, tile: usize, k_start: usize, kc: usize, packed: &mut [f32]) {
        let packed = &mut packed[tile * MR * kc..][..MR * kc];
        let first = self.rows.0 + tile * MR;
        let rows = self.tile_rows(tile);
        let a = self.product.a;
        if a.row_stride == 1 {
            for (p, to) in packed.chunks_exact_mut(MR).enumerate() {
                let from = &a.data[(k_start + p) * a.col_stride + first..][..rows];
                if let Ok(whole) = <&[f32; MR]>::try_from(from) {
                    to.copy_from_slice(whole);
                } else {
                    to[..rows].copy_from_slice(from);
                    to[rows..].fill(0.0);
                }
            }
        } else {
            let sources: [&[f32]; MR] = std::array::from_fn(|i| {
                if i < rows {
                    &a.data[(first + i) * a.row_stride + k_start..][..kc]
                } else {
                    &ZEROS[..kc]
                }
            });
            for (p, to) in packed.chunks_exact_mut(MR).enumerate() {
                for (value, source) in to.iter_mut().zip(&sources) {
                    *value = source[p];
                }
            }
        }
    }

    /// Writes a tile to C: adds what is there if `accumulate`, then applies the epilogue.
    #[inline(always)]
    fn store<S: Simd>(
        &self,
        simd: S,
        tile: usize,
        panel: usize,
        sums: [[S::f32s; NV]; MR],
        accumulate: bool,
        epilogue: Epilogue,
    ) {
        let column = panel * NV * S::F32_LANES;
        let rows = self.tile_rows(tile);
        let n = self.product.shape.n;
        let Destination { ptr, first_row, row_stride, col_stride } = self.product.to;
        let row = self.rows.0 - first_row + tile * MR;
        if col_stride != 1 {
            let width = (NV * S::F32_LANES).min(n - column);
            let sums = sums.as_ptr().cast::<f32>();
            for j in 0..width {
                for i in 0..rows {
                    // SAFETY: `sums` has MR rows of NV * LANES elements; the element of C lies
                    // inside it and belongs to no other piece.
                    unsafe {
                        let sum = *sums.add(i * NV * S::F32_LANES + j);
                        let to = ptr.add((row + i) * row_stride + (column + j) * col_stride);
                        *to = if accumulate { *to + sum } else { sum };
                    }
                }
            }
            return;
        }
        let first = row * row_stride + column;
        if rows == MR && column + NV * S::F32_LANES <= n {
            // Without a branch on the place in the tile the sums stay in their registers.
            for (i, row) in sums.iter().enumerate() {
                for (j, &sum) in row.iter().enumerate() {
                    let at = first + i * row_stride + j * S::F32_LANES;
                    let bias_at = column + j * S::F32_LANES;
                    // SAFETY: the whole vector lies inside C, and no other piece covers it. Vectors
                    // are aligned like their elements.
                    let to = unsafe { &mut *ptr.add(at).cast::<S::f32s>() };
                    let sum = if accumulate { simd.add_f32s(*to, sum) } else { sum };
                    *to = finish(simd, sum, epilogue, bias_at, at, S::F32_LANES);
                }
            }
            return;
        }
        // Spilled to memory, so that a loop can pick its vectors.
        for (i, row) in sums.iter().enumerate().take(rows) {
            for (j, &sum) in row.iter().enumerate() {
                let bias_at = column + j * S::F32_LANES;
                if bias_at >= n {
                    break;
                }
                let width = S::F32_LANES.min(n - bias_at);
                let at = first + i * row_stride + j * S::F32_LANES;
                // SAFETY: this row and these `width` columns lie inside C; no other piece covers
                // them, and only this slice of C is alive here.
                let to = unsafe { std::slice::from_raw_parts_mut(ptr.add(at), width) };
                let sum = if accumulate { simd.add_f32s(load(simd, to), sum) } else { sum };
                let value = finish(simd, sum, epilogue, bias_at, at, width);
                match S::as_mut_simd_f32s(to) {
                    ([whole], _) => *whole = value,
                    (_, tail) => simd.partial_store_f32s(tail, value),
                }
            }
        }
    }
}

/// Applies the epilogue to a vector of `width` sums at element `at` of C, whose columns start at
/// `bias_at`.
#[inline(always)]
fn finish<S: Simd>(
    simd: S,
    sum: S::f32s,
    epilogue: Epilogue,
    bias_at: usize,
    at: usize,
    width: usize,
) -> S::f32s {
    match epilogue {
        Epilogue::None => sum,
        Epilogue::Bias(bias) => simd.add_f32s(sum, load(simd, &bias[bias_at..][..width])),
        Epilogue::BiasRelu(bias) => {
            relu(simd, simd.add_f32s(sum, load(simd, &bias[bias_at..][..width])))
        }
        Epilogue::ReluMask(activation) => {
            keep_where_positive(simd, load(simd, &activation[at..][..width]), sum)
        }
    }
}

/// A vector from up to `LANES` elements; the missing ones are 0.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from) {
        (&[whole], _) => whole,
        _ => simd.partial_load_f32s(from),
    }
}
