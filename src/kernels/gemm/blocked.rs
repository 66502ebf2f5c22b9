//! Our own GEMM: packed panels, a register tile from [`microkernel`](super::microkernel), and
//! epilogues applied while the finished tile is still in registers.
//!
//! The blocking is Goto and van de Geijn's ("Anatomy of High-Performance Matrix Multiplication",
//! ACM TOMS 34(3), 2008) in BLIS's words: C is cut into pieces of `MC` rows (thin products of more), and of columns
//! where those are few, k into chunks of at most `KC` so that an `MC x KC` block of A and a `KC x NR` panel of
//! B stay in the second-level cache together. Some chunks of B at a time (a sweep) are packed by all
//! threads, or by the thread whose piece alone needs them; A is packed where enough columns use it.
//! Each piece adds up its chunks in order: the bits do not depend on the number of threads.

use std::cell::Cell;
use std::hint::black_box;
use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use pulp::Arch;
use pulp::{MemMask, Simd, WithSimd};

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::microkernel::{
    PanelA, PanelB, Tile, multiply_add, multiply_add_matrix, prefetch, zeros,
};
use super::pack::{
    Strided, multiply_add_packed, pack_a, pack_b_panel, packed_a_len, transpose, unpacked_a,
};
use super::{Epilogue, GemmShape, Matrix, Write, streamed};
use crate::cpu::Cpu;
use crate::kernels::relu::{keep_where_positive, relu};
use crate::kernels::scratch::Buffer;
use crate::shape::check_len;

/// Longest chunk of k. A panel of B then takes 50 or 100 KiB and streams from the second-level
/// cache; that is 5 % faster than panels of 20 KiB in the first-level cache (k up to 320), because
/// the study's 784 inputs are one chunk and C is written once instead of three times.
///
/// `MORE_STEPS` in tests/reference.rs must go beyond it.
pub(super) const KC: usize = 800;

/// Length of the chunks of k, of which there are as many as [`KC`] makes necessary: the order in which
/// an element's products are added up, where C is overwritten, depends on nothing else.
pub(super) fn chunk_len(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC).max(1)).max(1)
}

/// Distance between packed rows of A: no power of two, whose rows would fall on each other in the
/// cache.
const A_STRIDE: usize = KC + 16;

/// Rows of C in a piece, before rounding down to whole tiles: the packed block of A then takes at
/// most 150 KiB, and a matrix of 1,000 rows gives 20 pieces to share out. (96 rows: no faster.)
const MC: usize = 48;

/// The same of a thin product whose A is not transposed, if there are rows enough for [`MIN_PIECES`]: pieces of `MC`
/// rows take so little time that setting out shows. (Measured on AVX-512: 0.88 of their time where C is in the
/// cache, 0.93 to 0.99 where it is not.)
const THIN_MC: usize = 384;

/// C is cut along its columns too until there are this many pieces, where its rows alone give
/// fewer: enough for the cores of a large machine to share evenly.
pub(super) const MIN_PIECES: usize = 16;

/// Floating-point operations that a thread takes at a time at least, if there is enough for all: some
/// 5 microseconds of one core, of which handing them out takes a twentieth.
const TASK_FLOPS: f64 = 1e6;

/// Below this many panels of columns, packing A costs more than it saves: each packed element
/// would be read only that many times. (Measured: at 7 panels it costs 6 %, at 32 it saves as much.)
const PACK_A_MIN_PANELS: usize = 16;

/// Elements of a transposed A up to which it is read where it lies, as one that is not transposed: it then stays
/// in the second-level cache (1 MiB), on few enough pages. (Measured on AVX-512 against packing and against
/// C^T = B^T A^T, with 16 to 128 columns: 0.6 to 0.95 of the time.) `STREAMED` in tests/reference.rs must go
/// beyond it.
const A_IN_PLACE_MAX: usize = 1 << 18;

/// Steps of k, times a vector's lanes, that take as long as transposing a number of C on its way. (Measured on
/// AVX-512 and AVX2.)
const TRANSPOSED_STORE: usize = 2;

/// Steps of k up to which writing C takes as long as computing it: its cache lines are then asked for
/// a tile ahead, and with one panel tiles are smaller. (Measured on AVX-512.)
const THIN_K: usize = 16;

/// Elements up to which a piece's chunk of packed B stays in the second-level cache (256 KiB).
const SHORT_B: usize = 64 << 10;

/// Elements of packed B held at a time (1 MiB, or one chunk of k), so that it is still in the cache when
/// it is multiplied; a longer k is done in several sweeps. `SWEEPS` in tests/reference.rs must go
/// beyond it.
const PACKED_B_MAX: usize = 1 << 18;

thread_local! {
    /// Packing buffers, kept between calls: a training loop allocates in its first step only.
    pub(super) static PACKED_A: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    pub(super) static PACKED_B: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// B of [`TransposedByRows`].
    static TRANSPOSED_B: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// A block of rows of C on its way to its consumer, or what the pieces of k sum up to.
    pub(super) static BLOCK: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// `C = epilogue([C +] A B)`. No dimension is 0.
///
/// # Safety
/// C has `m` rows of `n` elements, `row_stride >= n` apart, which are nobody else's.
pub(super) unsafe fn gemm(
    cpu: &Cpu,
    shape: GemmShape,
    a: Strided,
    b: Strided,
    write: Write,
    (c, row_stride): (*mut f32, usize),
    epilogue: Epilogue,
) {
    let GemmShape { m, k, n } = shape;
    let accumulate = write == Write::Add;
    let to = Destination { ptr: c, first_row: 0, row_stride, col_stride: 1 };
    let mut product = Product { shape, a, b, accumulate, to, epilogue };
    if multiplied_on_tiles(cpu, product) {
        return;
    }
    // With few rows or few columns the large operand is best read where it lies, row by row, and
    // only the small one packed: where it is transposed, C^T = B^T A^T does that. (C^T is transposed on its way,
    // which has fewer elements than the B to pack if there are fewer rows than steps of k.)
    let few_rows = m <= streamed::FEW_ROWS && m < n && b.row_stride == 1 && m <= k;
    let few_columns = n <= streamed::FEW_ROWS && n < m && a.row_stride == 1 && {
        // Columns that the last vector of a row lacks are computed in vain, as long as C^T is not.
        let lanes = cpu.isa().lanes();
        let lacking = n.next_multiple_of(lanes) - n;
        !is_read_in_place(a) || lacking * k > TRANSPOSED_STORE * lanes * n
    };
    let by_element = matches!(epilogue, Epilogue::None | Epilogue::ReluMask(_));
    if (few_rows || few_columns) && k > 1 && by_element {
        let to = Destination { row_stride: 1, col_stride: row_stride, ..to };
        let shape = GemmShape { m: n, k, n: m };
        product = Product { shape, a: b.transposed(), b: a.transposed(), to, ..product };
    }
    // Without the flush of subnormals, which `for_each` sees to: rayon may run other code here.
    if streamed::suits(cpu, &product) {
        cpu.arch().dispatch(streamed::Streamed { cpu, product });
    } else {
        cpu.arch().dispatch(Gemm { cpu, product });
    }
}

/// [`gemm`] of A's bytes as they are, if that pays; returns whether it did.
///
/// # Safety
/// As for [`gemm`].
pub(super) unsafe fn gemm_of_bytes(
    cpu: &Cpu,
    shape: GemmShape,
    a: Strided<u8>,
    b: Strided,
    write: Write,
    (c, row_stride): (*mut f32, usize),
    epilogue: Epilogue,
) -> bool {
    let accumulate = write == Write::Add;
    let to = Destination { ptr: c, first_row: 0, row_stride, col_stride: 1 };
    multiplied_on_tiles(cpu, Product { shape, a, b, accumulate, to, epilogue })
}

/// Multiplies with AMX, if that pays; returns whether it did.
#[cfg(target_arch = "x86_64")]
fn multiplied_on_tiles<T: amx::Element>(cpu: &Cpu, product: Product<T>) -> bool {
    let Arch::V4(simd) = cpu.arch() else { return false };
    let suits = amx::suits::<T>(cpu, product.shape);
    if suits {
        amx::Amx { cpu, product }.with_simd(simd);
    }
    suits
}

#[cfg(not(target_arch = "x86_64"))]
fn multiplied_on_tiles<T>(_: &Cpu, _: Product<T>) -> bool {
    false
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
pub(super) struct Product<'a, T = f32> {
    pub shape: GemmShape,
    pub a: Strided<'a, T>,
    pub b: Strided<'a>,
    /// Whether C is added to.
    pub accumulate: bool,
    to: Destination,
    pub epilogue: Epilogue<'a>,
}

impl Product<'_> {
    /// The same with the rows of C from `first_row` going to `c`.
    fn to_block(self, c: &mut [f32], first_row: usize) -> Self {
        Self { to: Destination { ptr: c.as_mut_ptr(), first_row, ..self.to }, ..self }
    }
}

/// C: element (i, j) is at `ptr[(i - first_row) * row_stride + j * col_stride]`. One of the strides is 1.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    ptr: *mut f32,
    first_row: usize,
    row_stride: usize,
    col_stride: usize,
}
// SAFETY: the pieces of one product write disjoint rectangles of C: rows and panels are cut into
// ranges that do not overlap, those of `TransposedByRows` by its caller's promise.
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
        let GemmShape { m, k, n } = self.product.shape;
        // Rows of C that are written as fast as they are computed: smaller tiles, of which several are under way.
        let thin = k <= THIN_K && n > S::F32_LANES && n <= 2 * S::F32_LANES;
        let large = thin && self.product.a.col_stride == 1;
        let mc = if large { (m / MIN_PIECES).clamp(MC, THIN_MC) } else { MC };
        // Otherwise the largest whose accumulators, a row of B and a broadcast fit in the registers.
        match S::REGISTER_COUNT {
            32.. if !thin => self.run::<S, 14, 2>(simd, mc),
            _ => self.run::<S, 6, 2>(simd, mc),
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S, mc: usize) {
        let Self { cpu, product } = self;
        let GemmShape { m, k, n } = product.shape;
        let panels = n.div_ceil(NV * S::F32_LANES);
        let padded_n = panels * NV * S::F32_LANES;
        let kc = chunk_len(k);

        let mc = (mc / MR) * MR;
        let (pieces, piece) = cut::<_, MR, NV>(product, kc, mc, panels, MIN_PIECES);
        let parallel = is_shared(cpu, product.shape);

        // Small pieces are handed out several at a time.
        let flops = product.shape.flops() / pieces as f64;
        let per_task = ((TASK_FLOPS / flops) as usize).clamp(1, pieces.div_ceil(4 * MIN_PIECES));
        let for_each_piece = |body: &(dyn Fn(usize) + Sync)| {
            cpu.for_each(parallel, pieces.div_ceil(per_task), |task| {
                (task * per_task..pieces.min((task + 1) * per_task)).for_each(body);
            });
        };
        if m <= mc {
            // Nobody else needs a piece's columns of B.
            for_each_piece(&|index| simd.vectorize(PackingPiece(piece(index))));
            return;
        }
        let sweep = (PACKED_B_MAX / padded_n / kc).max(1) * kc;
        let mut buffer = Buffer::borrow(&PACKED_B, sweep.min(k).next_multiple_of(kc) * padded_n);
        let mut start = 0;
        while start < k {
            let len = sweep.min(k - start);
            let packed_b = &mut buffer[..len.next_multiple_of(kc) * padded_n];
            pack_b::<S, NV>(cpu, parallel, product.b, start, len, kc, packed_b);
            let packed_b = &*packed_b;
            for_each_piece(&|index| {
                let packed = PackedB { data: packed_b, padded_n, start, len };
                simd.vectorize(PackedPiece(piece(index), packed));
            });
            start += len;
        }
    }
}

/// Whether rows of A need no packing, unless many columns use them.
fn is_read_in_place(a: Strided) -> bool {
    a.col_stride == 1 || a.col_stride * a.cols <= A_IN_PLACE_MAX
}

/// C in pieces of `mc` rows, and of columns until there are `at_least` so many: their number, and each.
pub(super) fn cut<'a, T: Copy + Sync, const MR: usize, const NV: usize>(
    product: Product<'a, T>,
    kc: usize,
    mc: usize,
    panels: usize,
    at_least: usize,
) -> (usize, impl Fn(usize) -> Piece<'a, MR, NV, T> + Sync) {
    let m = product.shape.m;
    let row_pieces = m.div_ceil(mc);
    let column_pieces = at_least.div_ceil(row_pieces).min(panels);
    let panels_per_piece = panels.div_ceil(column_pieces);
    let column_pieces = panels.div_ceil(panels_per_piece);
    let piece = move |index: usize| {
        let (row, column) = (index / column_pieces * mc, index % column_pieces);
        let panel = column * panels_per_piece;
        let panels = (panel, panels_per_piece.min(panels - panel));
        Piece { product, kc, rows: (row, mc.min(m - row)), panels }
    };
    (row_pieces * column_pieces, piece)
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
        let kc = chunk_len(k);
        let parallel = is_shared(cpu, product.shape);
        let mut buffer = Buffer::borrow(&PACKED_B, k.next_multiple_of(kc) * padded_n);
        let packed_b = &mut buffer[..k.next_multiple_of(kc) * padded_n];
        pack_b::<S, NV>(cpu, parallel, product.b, 0, k, kc, packed_b);
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

/// C (n, m) = (A B)^T with an A whose rows come some at a time, on any threads: B is packed once.
pub(in crate::kernels) struct TransposedByRows<'c> {
    /// Whose vectors B is packed for.
    cpu: &'c Cpu,
    shape: GemmShape,
    to: Destination,
    packed_b: Buffer,
    c: PhantomData<&'c mut [f32]>,
}

impl<'c> TransposedByRows<'c> {
    /// For a B that is not empty.
    #[track_caller]
    pub fn new(cpu: &'c Cpu, shape: GemmShape, b: Matrix, c: &'c mut [f32]) -> Self {
        struct Pack<'a>(&'a Cpu, GemmShape, Strided<'a>);
        impl WithSimd for Pack<'_> {
            type Output = Buffer;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> Buffer {
                let Self(cpu, GemmShape { k, n, .. }, b) = self;
                let kc = chunk_len(k);
                let len = k.next_multiple_of(kc) * padded::<S>(n);
                let mut packed = Buffer::borrow(&TRANSPOSED_B, len);
                pack_b::<S, NV>(cpu, false, b, 0, k, kc, &mut packed[..len]);
                packed
            }
        }
        let GemmShape { m, k, n } = shape;
        check_len("B", b.data().len(), k, n);
        check_len("C", c.len(), n, m);
        let packed_b = cpu.dispatch(Pack(cpu, shape, Strided::new(b, k, n)));
        let to = Destination { ptr: c.as_mut_ptr(), first_row: 0, row_stride: 1, col_stride: m };
        Self { cpu, shape, to, packed_b, c: PhantomData }
    }

    /// The columns of C that whole rows of A give, of which the first is number `first`.
    ///
    /// # Safety
    /// No two calls may be for the same rows at the same time.
    pub unsafe fn multiply(&self, first: usize, a: &[f32]) {
        struct Rows<'a>(Product<'a>, &'a [f32]);
        impl WithSimd for Rows<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                match S::REGISTER_COUNT {
                    32.. => self.run::<S, 14>(simd),
                    _ => self.run::<S, 6>(simd),
                }
            }
        }
        impl Rows<'_> {
            #[inline(always)]
            fn run<S: Simd, const MR: usize>(self, simd: S) {
                let Self(product, data) = self;
                let GemmShape { m, k, n } = product.shape;
                let padded_n = padded::<S>(n);
                let panels = (0, padded_n / (NV * S::F32_LANES));
                let piece = Piece::<MR, NV> { product, kc: chunk_len(k), rows: (0, m), panels };
                let packed = PackedB { data, padded_n, start: 0, len: k };
                simd.vectorize(PackedPiece(piece, packed));
            }
        }
        let Self { shape: GemmShape { m, k, n }, to, .. } = *self;
        let rows = a.len() / k;
        assert!(rows * k == a.len() && first + rows <= m, "{rows} rows from {first} of {m}");
        let product = Product {
            shape: GemmShape { m: rows, k, n },
            a: Strided::new(Matrix::N(a), rows, k),
            // Packed; what is read of it is its shape.
            b: Strided::new(Matrix::N(&[]), 0, n),
            accumulate: false,
            // Row i of these goes to column `first + i`, which lies in C by the assertion.
            to: Destination { ptr: to.ptr.wrapping_add(first), ..to },
            epilogue: Epilogue::None,
        };
        self.cpu.dispatch(Rows(product, &self.packed_b));
    }
}

/// Vectors in a row of a tile of [`TransposedByRows`].
const NV: usize = 2;

/// So many columns, made up to whole panels.
fn padded<S: Simd>(n: usize) -> usize {
    n.next_multiple_of(NV * S::F32_LANES)
}

/// Below this many floating-point operations, some 10 microseconds' work, a second thread costs more than it gives.
pub(super) const PARALLEL_MIN_FLOPS: f64 = 2e6;

/// Whether a product is shared between the threads.
pub(super) fn is_shared(cpu: &Cpu, shape: GemmShape) -> bool {
    cpu.shares(shape.flops() as usize, PARALLEL_MIN_FLOPS as usize)
}

/// Packs `len` rows of B from `start`: chunks of `kc` rows, each as panels of `NV` vectors, each
/// panel row by row. Missing columns are zeros; missing rows of the last chunk are left alone.
fn pack_b<S: Simd, const NV: usize>(
    cpu: &Cpu,
    parallel: bool,
    b: Strided,
    start: usize,
    len: usize,
    kc: usize,
    packed: &mut [f32],
) {
    let nr = NV * S::F32_LANES;
    let panels = b.cols.div_ceil(nr);
    cpu.for_each_chunk(parallel, packed, kc * nr, |index, panel| {
        let first = start + index / panels * kc;
        let rows = kc.min(start + len - first);
        pack_b_panel::<S, NV>(b, (first, rows), index % panels * nr, panel);
    });
}

/// A rectangle of C, computed by one thread.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a, const MR: usize, const NV: usize, T = f32> {
    pub product: Product<'a, T>,
    /// Longest chunk of k.
    pub kc: usize,
    /// First row and number of rows.
    pub rows: (usize, usize),
    /// First panel of columns and number of panels.
    pub panels: (usize, usize),
}

/// A tile's rows of A.
#[derive(Clone, Copy)]
enum RowsOfA<'a> {
    /// Where they lie, each row contiguous or each step of k.
    InPlace(PanelA),
    /// As [`pack_a`] leaves them.
    Packed(&'a [f32]),
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
        let GemmShape { k, .. } = piece.product.shape;
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
                pack_b_panel::<S, NV>(piece.product.b, (done, kc), column, panel);
            }
            piece.multiply_chunk(simd, (done, kc), &packed_b, &mut packed_a);
            done += kc;
        }
    }
}

impl<const MR: usize, const NV: usize> Piece<'_, MR, NV> {
    /// Tiles whose rows of A are read in place, those before all others. Without packing, only a last tile with
    /// missing rows needs a padded copy.
    fn tiles_in_place(&self) -> usize {
        let pack = self.panels.1 >= PACK_A_MIN_PANELS || !is_read_in_place(self.product.a);
        if pack { 0 } else { self.rows.1 / MR }
    }

    fn borrow_packed_a(&self) -> Buffer {
        let rows = self.rows.1 - self.tiles_in_place() * MR;
        Buffer::borrow(&PACKED_A, packed_a_len(rows, MR, A_STRIDE))
    }

    /// Adds one chunk of k (its start and length) to the piece, and finishes it if that is the
    /// last. `panels` starts with the piece's first.
    #[inline(always)]
    fn multiply_chunk<S: Simd>(
        &self,
        simd: S,
        (start, kc): (usize, usize),
        panels: &[f32],
        packed_a: &mut [f32],
    ) {
        let Product { a, shape, .. } = self.product;
        let nr = NV * S::F32_LANES;
        let tiles = self.rows.1.div_ceil(MR);
        let k_range = (start, kc);
        let whole = self.tiles_in_place();
        if whole < tiles {
            let rows = (self.rows.0 + whole * MR, self.rows.1 - whole * MR);
            pack_a::<S, MR, A_STRIDE>(a, rows, k_range, packed_a);
        }
        let accumulate = self.product.accumulate || start > 0;
        let epilogue = if start + kc == shape.k { self.product.epilogue } else { Epilogue::None };
        // A short chunk's B stays in the second-level cache: C is then written row by row.
        let by_rows = kc * self.panels.1 * nr <= SHORT_B;
        let (outer, inner) = if by_rows { (tiles, self.panels.1) } else { (self.panels.1, tiles) };
        for outer in 0..outer {
            for inner in 0..inner {
                let (tile, panel) = if by_rows { (outer, inner) } else { (inner, outer) };
                let b = PanelB::packed(&panels[panel * self.kc * nr..][..kc * nr], nr);
                let panel = self.panels.0 + panel;
                if kc <= THIN_K {
                    let alone = self.panels.1 == 1;
                    self.prefetch_c::<S>(tile + usize::from(alone), panel + usize::from(!alone));
                }
                let rows_of_a = if tile < whole {
                    RowsOfA::InPlace(unpacked_a::<MR>(a, self.rows.0 + tile * MR, k_range))
                } else {
                    RowsOfA::Packed(&packed_a[(tile - whole) * MR * A_STRIDE..])
                };
                // SAFETY: the panel has kc rows of nr elements, sliced above. The rows of A are in the
                // matrix (`unpacked_a` has seen to it), or they have been packed. Tile and
                // panel are the piece's, of which each thread has its own: `Gemm` cuts C into them, and who calls
                // `TransposedByRows::multiply` does.
                unsafe {
                    if (panel * NV + 1) * S::F32_LANES < shape.n {
                        let sums: Tile<S, MR, NV> = self.multiply(simd, kc, rows_of_a, b);
                        self.store(simd, tile, panel, sums, accumulate, epilogue);
                    } else {
                        // A last panel of one vector at most.
                        let sums: Tile<S, MR, 1> = self.multiply(simd, kc, rows_of_a, b);
                        self.store(simd, tile, panel, sums, accumulate, epilogue);
                    }
                }
            }
        }
    }

    /// The product of a tile's rows of A and the first `W` vectors of a panel of B.
    ///
    /// # Safety
    /// As for [`multiply_add`], where the rows of A are in place; otherwise as for
    /// [`multiply_add_packed`].
    #[inline(always)]
    unsafe fn multiply<S: Simd, const W: usize>(
        &self,
        simd: S,
        kc: usize,
        a: RowsOfA,
        b: PanelB,
    ) -> Tile<S, MR, W> {
        let transposed = self.product.a.row_stride == 1;
        // SAFETY: the caller's promise.
        unsafe {
            match a {
                RowsOfA::InPlace(a) if transposed => {
                    let a = PanelA { row_stride: 1, ..a };
                    multiply_add::<S, MR, W>(simd, zeros(simd), kc, a, b)
                }
                RowsOfA::InPlace(a) => multiply_add_matrix::<S, MR, W>(simd, zeros(simd), kc, a, b),
                RowsOfA::Packed(a) => multiply_add_packed::<S, MR, W, A_STRIDE>(
                    simd,
                    zeros(simd),
                    kc,
                    transposed,
                    a,
                    b,
                ),
            }
        }
    }

    /// Asks for the cache lines of a tile of C, if the rows of C are contiguous.
    #[inline(always)]
    fn prefetch_c<S: Simd>(&self, tile: usize, panel: usize) {
        let Destination { ptr, first_row, row_stride, col_stride } = self.product.to;
        if col_stride != 1 {
            return;
        }
        let row = self.rows.0 - first_row + tile * MR;
        let first = ptr.wrapping_add(row * row_stride + panel * NV * S::F32_LANES);
        for i in 0..MR {
            for j in 0..NV {
                prefetch(first.wrapping_add(i * row_stride + j * S::F32_LANES));
            }
        }
    }
}

impl<T, const MR: usize, const NV: usize> Piece<'_, MR, NV, T> {
    /// Rows of C in tile number `tile`: `MR`, or fewer in the last.
    #[inline(always)]
    fn tile_rows(&self, tile: usize) -> usize {
        MR.min(self.rows.1 - tile * MR)
    }

    /// Finishes the first `rows` of a tile and writes them to C, whose rows are contiguous and whose element
    /// `first` is the tile's first, in column `column`; if `MASKED`, without the columns that C does
    /// not have. Each step is a loop of its own, short enough for LLVM to unroll, or the sums would
    /// leave their registers.
    ///
    /// # Safety
    /// Those rows, without those columns, must lie inside C and belong to no other piece.
    #[inline(always)]
    unsafe fn store_rows<S: Simd, const W: usize, const MASKED: bool>(
        &self,
        simd: S,
        (first, rows): (usize, usize),
        column: usize,
        mut sums: Tile<S, MR, W>,
        accumulate: bool,
        epilogue: Epilogue,
    ) {
        let n = self.product.shape.n;
        let Destination { ptr, row_stride, .. } = self.product.to;
        let mut masks = [first_elements(simd, S::F32_LANES); W];
        if MASKED {
            for (j, mask) in masks.iter_mut().enumerate() {
                let left = n.saturating_sub(column + j * S::F32_LANES);
                *mask = first_elements(simd, left.min(S::F32_LANES));
            }
        }
        if accumulate {
            for (i, row) in sums.iter_mut().enumerate() {
                if i >= rows {
                    continue;
                }
                for (j, sum) in row.iter_mut().enumerate() {
                    let at = first + i * row_stride + j * S::F32_LANES;
                    // SAFETY: inside C, by the caller's promise.
                    let old = unsafe { read::<S, MASKED>(simd, masks[j], ptr.wrapping_add(at)) };
                    *sum = simd.add_f32s(old, *sum);
                }
            }
        }
        match epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) | Epilogue::BiasRelu(bias) => {
                let bias = bias[..n].as_ptr().wrapping_add(column);
                for j in 0..W {
                    // SAFETY: C's columns are the bias's elements, of which there are n.
                    let bias = unsafe {
                        read::<S, MASKED>(simd, masks[j], bias.wrapping_add(j * S::F32_LANES))
                    };
                    for row in &mut sums {
                        row[j] = simd.add_f32s(row[j], bias);
                    }
                }
                if matches!(epilogue, Epilogue::BiasRelu(_)) {
                    for row in &mut sums {
                        for sum in row {
                            *sum = relu(simd, *sum);
                        }
                    }
                }
            }
            Epilogue::ReluMask(activation) => {
                let len = (self.product.shape.m - 1) * row_stride + n;
                assert!(activation.len() >= len, "a mask of another size");
                for (i, row) in sums.iter_mut().enumerate() {
                    if i >= rows {
                        continue;
                    }
                    for (j, sum) in row.iter_mut().enumerate() {
                        let at = first + i * row_stride + j * S::F32_LANES;
                        let x = activation.as_ptr().wrapping_add(at);
                        // SAFETY: an element of C has its fellow in the activation, of C's size.
                        let x = unsafe { read::<S, MASKED>(simd, masks[j], x) };
                        *sum = keep_where_positive(simd, x, *sum);
                    }
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            if i >= rows {
                continue;
            }
            for (j, &sum) in row.iter().enumerate() {
                let to = ptr.wrapping_add(first + i * row_stride + j * S::F32_LANES);
                // SAFETY: inside C, by the caller's promise. Vectors are aligned like their elements.
                unsafe {
                    if MASKED {
                        simd.mask_store_ptr_f32s(masks[j], to, sum);
                    } else {
                        to.cast::<S::f32s>().write_unaligned(sum);
                    }
                }
            }
        }
    }

    /// Writes the first rows and columns of a tile to a C whose columns are contiguous, beginning at the given row
    /// and column: four by four numbers at a time, transposed in registers.
    ///
    /// # Safety
    /// They must lie inside C and belong to no other piece.
    #[inline(always)]
    unsafe fn store_columns<S: Simd, const W: usize>(
        &self,
        (row, rows): (usize, usize),
        (column, width): (usize, usize),
        sums: Tile<S, MR, W>,
        accumulate: bool,
        epilogue: Epilogue,
    ) {
        let GemmShape { m, n, .. } = self.product.shape;
        let Destination { ptr, row_stride, col_stride, .. } = self.product.to;
        assert!(row_stride == 1 && rows <= MR && width <= W * S::F32_LANES, "another tile");
        let mask = match epilogue {
            Epilogue::None => None,
            Epilogue::ReluMask(activation) => {
                assert!(activation.len() >= (n - 1) * col_stride + m, "a mask of another size");
                Some(activation.as_ptr())
            }
            Epilogue::Bias(_) | Epilogue::BiasRelu(_) => unreachable!("by rows alone"),
        };
        let finish = Finish { ptr, mask, accumulate };
        let at = |i, j| row + i + (column + j) * col_stride;
        // A copy: what is addressed lies in memory, from the start.
        let copy = sums;
        let sums = black_box(&copy).as_ptr().cast::<f32>();
        let sum = |i, j| sums.wrapping_add(i * W * S::F32_LANES + j);
        let (blocks, columns) = (rows - rows % 4, width - width % 4);
        for j in (0..columns).step_by(4) {
            for i in (0..blocks).step_by(4) {
                // SAFETY: `sums` has MR rows of W * LANES elements; i + 3 is below `rows` and j + 3 below `width`,
                // of which there are no more. Four elements of a column of C, which are contiguous, lie inside it and
                // belong to no other piece.
                unsafe {
                    let block = std::array::from_fn(|r| sum(i + r, j).cast::<[f32; 4]>().read());
                    for (c, values) in transpose(block).into_iter().enumerate() {
                        finish.elements(at(i, j + c), values);
                    }
                }
            }
        }
        for j in 0..width {
            for i in if j < columns { blocks } else { 0 }..rows {
                // SAFETY: as above, of one element.
                unsafe { finish.elements(at(i, j), [*sum(i, j)]) };
            }
        }
    }

    /// Writes a tile to C: adds what is there if `accumulate`, then applies the epilogue.
    ///
    /// # Safety
    /// The piece must lie in C and be this thread's alone, and the tile and the panel be of the piece.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd, const W: usize>(
        &self,
        simd: S,
        tile: usize,
        panel: usize,
        sums: Tile<S, MR, W>,
        accumulate: bool,
        epilogue: Epilogue,
    ) {
        let column = panel * NV * S::F32_LANES;
        let rows = self.tile_rows(tile);
        let n = self.product.shape.n;
        let Destination { first_row, row_stride, col_stride, .. } = self.product.to;
        let row = self.rows.0 - first_row + tile * MR;
        if col_stride != 1 {
            let width = (W * S::F32_LANES).min(n - column);
            // SAFETY: the caller's promise: the tile's rows and these columns lie inside C and belong to no other
            // piece.
            return unsafe {
                self.store_columns::<S, W>((row, rows), (column, width), sums, accumulate, epilogue)
            };
        }
        let first = row * row_stride + column;
        let rows = (first, rows);
        // SAFETY: these rows and columns lie inside C, and belong to no other piece.
        unsafe {
            if column + W * S::F32_LANES <= n {
                self.store_rows::<S, W, false>(simd, rows, column, sums, accumulate, epilogue);
            } else {
                self.store_rows::<S, W, true>(simd, rows, column, sums, accumulate, epilogue);
            }
        }
    }
}

/// How sums become elements of a C.
struct Finish {
    ptr: *mut f32,
    /// Where it is not positive, an element is 0.
    mask: Option<*const f32>,
    accumulate: bool,
}

impl Finish {
    /// Finishes and writes `N` neighbours from element `at` on.
    ///
    /// # Safety
    /// They must be elements of C, and this thread's; the mask has as many.
    #[inline(always)]
    unsafe fn elements<const N: usize>(&self, at: usize, mut sums: [f32; N]) {
        let to = self.ptr.wrapping_add(at).cast::<[f32; N]>();
        // SAFETY: the caller's promise; arrays are aligned like their elements.
        unsafe {
            if self.accumulate {
                let old = to.read();
                sums = std::array::from_fn(|i| old[i] + sums[i]);
            }
            if let Some(mask) = self.mask {
                let mask = mask.wrapping_add(at).cast::<[f32; N]>().read();
                sums = std::array::from_fn(|i| if mask[i] > 0.0 { sums[i] } else { 0.0 });
            }
            to.write(sums);
        }
    }
}

/// The mask of a vector's first `width` elements.
#[inline(always)]
fn first_elements<S: Simd>(simd: S, width: usize) -> MemMask<S::m32s> {
    let mask = simd.mask_between_m32s(0, width as u32);
    // Pulp's own way is a call to one of many small functions, for processors whose masked
    // loads and stores are slow; AVX-512's are not.
    if S::REGISTER_COUNT >= 32 { MemMask::new(mask.mask()) } else { mask }
}

/// The vector at `ptr`, or its elements in `mask` and zeros if `MASKED`.
///
/// # Safety
/// What is read must be readable.
#[inline(always)]
unsafe fn read<S: Simd, const MASKED: bool>(
    simd: S,
    mask: MemMask<S::m32s>,
    ptr: *const f32,
) -> S::f32s {
    // SAFETY: the caller's promise.
    unsafe {
        if MASKED {
            simd.mask_load_ptr_f32s(mask, ptr)
        } else {
            ptr.cast::<S::f32s>().read_unaligned()
        }
    }
}

/// A vector from up to `LANES` elements; the missing ones are 0.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from) {
        (&[whole], _) => whole,
        _ => simd.partial_load_f32s(from),
    }
}
