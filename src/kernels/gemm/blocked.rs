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
use std::thread::LocalKey;

use pulp::{Simd, WithSimd};

use super::microkernel::{PanelA, PanelB, multiply};
use super::{Epilogue, GemmShape, Matrix, Write};
use crate::cpu::Cpu;
use crate::kernels::relu::{keep_where_positive, relu};

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

thread_local! {
    /// Packing buffers, kept between calls: a training loop allocates in its first step only.
    static PACKED_A: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PACKED_B: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A packing buffer on loan from its thread, given back when dropped. A nested call on the same
/// thread (work stealing) finds none and allocates its own.
struct Buffer {
    home: &'static LocalKey<Cell<Vec<f32>>>,
    data: Vec<f32>,
}

impl Buffer {
    /// At least `len` elements of unspecified content.
    fn borrow(home: &'static LocalKey<Cell<Vec<f32>>>, len: usize) -> Self {
        let mut data = home.take();
        if data.len() < len {
            data.resize(len, 0.0);
        }
        Self { home, data }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.set(std::mem::take(&mut self.data));
    }
}

/// A raw pointer to C that pieces on several threads share.
#[derive(Clone, Copy)]
struct SharedOut(*mut f32);
// SAFETY: the pieces that use the pointer write disjoint rectangles of C, see `Piece`.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

/// One of the two operands with its strides in elements; element (i, j) is at
/// `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
struct Strided<'a> {
    data: &'a [f32],
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Strided<'a> {
    fn new(matrix: Matrix<'a>, rows: usize, cols: usize) -> Self {
        match matrix {
            Matrix::N(data) => Self { data, row_stride: cols, col_stride: 1 },
            Matrix::T(data) => Self { data, row_stride: 1, col_stride: rows },
        }
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
    cpu.arch().dispatch(Gemm { cpu, shape, a, b, write, c, epilogue });
}

struct Gemm<'a> {
    cpu: &'a Cpu,
    shape: GemmShape,
    a: Matrix<'a>,
    b: Matrix<'a>,
    write: Write,
    c: &'a mut [f32],
    epilogue: Epilogue<'a>,
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The largest tile whose accumulators, a row of B and a broadcast fit in the registers.
        match S::REGISTER_COUNT {
            32.. => self.run::<S, 14, 2>(simd),
            _ => self.run::<S, 6, 2>(simd),
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, shape, a, b, write, c, epilogue } = self;
        let GemmShape { m, k, n } = shape;
        let a = Strided::new(a, m, k);
        let b = Strided::new(b, k, n);
        let panels = n.div_ceil(NV * S::F32_LANES);
        let padded_n = panels * NV * S::F32_LANES;
        let kc = k.div_ceil(k.div_ceil(KC));
        let sweep = (PACKED_B_MAX / padded_n / kc).max(1) * kc;

        let mc = (MC / MR) * MR;
        let row_pieces = m.div_ceil(mc);
        let column_pieces = MIN_PIECES.div_ceil(row_pieces).min(panels);
        let panels_per_piece = panels.div_ceil(column_pieces);
        let column_pieces = panels.div_ceil(panels_per_piece);
        let out = SharedOut(c.as_mut_ptr());
        let parallel = shape.flops() >= PARALLEL_MIN_FLOPS;

        let mut buffer = Buffer::borrow(&PACKED_B, sweep.min(k).next_multiple_of(kc) * padded_n);
        let mut start = 0;
        while start < k {
            let len = sweep.min(k - start);
            let packed_b = &mut buffer.data[..len.next_multiple_of(kc) * padded_n];
            pack_b::<S, NV>(cpu, parallel, b, start, len, kc, n, packed_b);
            let packed_b = &*packed_b;
            cpu.for_each(parallel, row_pieces * column_pieces, |index| {
                let (row, column) = (index / column_pieces, index % column_pieces);
                let panel = column * panels_per_piece;
                simd.vectorize(Piece::<MR, NV> {
                    shape,
                    a,
                    packed_b,
                    padded_n,
                    kc,
                    k_range: (start, len),
                    rows: (row * mc, mc.min(m - row * mc)),
                    panels: (panel, panels_per_piece.min(panels - panel)),
                    out,
                    accumulate: write == Write::Add || start > 0,
                    epilogue: if start + len == k { epilogue } else { Epilogue::None },
                });
            });
            start += len;
        }
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
        let column = index % panels * nr;
        let rows = kc.min(start + len - first);
        let width = nr.min(n - column);
        if width < nr {
            panel.fill(0.0);
        }
        if b.col_stride == 1 {
            for (p, to) in panel.chunks_exact_mut(nr).take(rows).enumerate() {
                let from = &b.data[(first + p) * b.row_stride + column..][..width];
                if width == nr {
                    // Vector by vector: `copy_from_slice` would call memmove for each few bytes.
                    for (to, &from) in
                        S::as_mut_simd_f32s(to).0.iter_mut().zip(S::as_simd_f32s(from).0)
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
    });
}

/// A rectangle of C, computed by one thread.
struct Piece<'a, const MR: usize, const NV: usize> {
    shape: GemmShape,
    a: Strided<'a>,
    packed_b: &'a [f32],
    padded_n: usize,
    kc: usize,
    /// Start and length along k of what is packed.
    k_range: (usize, usize),
    /// First row and number of rows.
    rows: (usize, usize),
    /// First panel of columns and number of panels.
    panels: (usize, usize),
    out: SharedOut,
    accumulate: bool,
    epilogue: Epilogue<'a>,
}

impl<const MR: usize, const NV: usize> WithSimd for Piece<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let nr = NV * S::F32_LANES;
        let (k_start, k_len) = self.k_range;
        let tiles = self.rows.1.div_ceil(MR);
        let pack_whole = self.panels.1 >= PACK_A_MIN_PANELS;
        let mut buffer = Buffer::borrow(&PACKED_A, tiles * MR * self.kc);
        let packed_a = &mut buffer.data[..];
        let mut done = 0;
        while done < k_len {
            let kc = self.kc.min(k_len - done);
            let chunk = &self.packed_b[done * self.padded_n..];
            for tile in 0..tiles {
                // Without packing, only a last tile with missing rows needs a padded copy.
                if pack_whole || self.tile_rows(tile) < MR {
                    self.pack_a_tile(tile, k_start + done, kc, packed_a);
                }
            }
            let accumulate = self.accumulate || done > 0;
            let epilogue = if done + kc == k_len { self.epilogue } else { Epilogue::None };
            for panel in self.panels.0..self.panels.0 + self.panels.1 {
                let b = &chunk[panel * self.kc * nr..][..kc * nr];
                let b = PanelB { ptr: b.as_ptr(), k_stride: nr };
                for tile in 0..tiles {
                    let rows = self.tile_rows(tile);
                    let sums = if pack_whole || rows < MR {
                        let packed = &packed_a[tile * MR * kc..][..MR * kc];
                        let a = PanelA { ptr: packed.as_ptr(), row_stride: 1, k_stride: MR };
                        // SAFETY: the panels have MR * kc and kc * nr elements, sliced above.
                        unsafe { multiply::<S, MR, NV>(simd, kc, a, b) }
                    } else {
                        let a = self.unpacked_a_tile(tile, k_start + done, kc);
                        // SAFETY: the panel of A has MR rows and kc steps of k inside the
                        // operand, sliced there; the panel of B as above.
                        unsafe { multiply::<S, MR, NV>(simd, kc, a, b) }
                    };
                    self.store(simd, tile, panel, sums, accumulate, epilogue);
                }
            }
            done += kc;
        }
    }
}

impl<const MR: usize, const NV: usize> Piece<'_, MR, NV> {
    /// Rows of C in tile number `tile`: `MR`, or fewer in the last.
    #[inline(always)]
    fn tile_rows(&self, tile: usize) -> usize {
        MR.min(self.rows.1 - tile * MR)
    }

    /// A whole tile's rows of A where they lie, `kc` steps of k from `k_start`.
    #[inline(always)]
    fn unpacked_a_tile(&self, tile: usize, k_start: usize, kc: usize) -> PanelA {
        let Strided { data, row_stride, col_stride: k_stride } = self.a;
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
        let a = self.a;
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
        let n = self.shape.n;
        let first = (self.rows.0 + tile * MR) * n + column;
        if rows == MR && column + NV * S::F32_LANES <= n {
            // Without a branch on the place in the tile the sums stay in their registers.
            for (i, row) in sums.iter().enumerate() {
                for (j, &sum) in row.iter().enumerate() {
                    let at = first + i * n + j * S::F32_LANES;
                    let bias_at = column + j * S::F32_LANES;
                    // SAFETY: the whole vector lies inside C, whose length is m * n, and no other
                    // piece covers it. Vectors are aligned like their elements.
                    let to = unsafe { &mut *self.out.0.add(at).cast::<S::f32s>() };
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
                let at = first + i * n + j * S::F32_LANES;
                // SAFETY: this row and these `width` columns lie inside C, whose length is m * n;
                // no other piece covers them, and only this slice of C is alive here.
                let to = unsafe { std::slice::from_raw_parts_mut(self.out.0.add(at), width) };
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
