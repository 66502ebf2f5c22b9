//! Matrix product: `C = A B` or `C += A B`, each operand as it is or transposed.
//!
//! Stands in for the study's `computeLayer` (`np.matmul`).

#[cfg(target_arch = "x86_64")]
mod amx;
mod blocked;
pub(super) mod microkernel;
pub(crate) mod pack;
mod streamed;

use std::cell::Cell;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, Par};

pub(super) use blocked::TransposedByRows;
use pack::Strided;
pub(super) use streamed::FEW_ROWS;

use super::kernel_span;
use super::scratch::Buffer;
use crate::cpu::Cpu;
use crate::shape::check_len;

/// The sizes of a product `C (m x n) = A (m x k) B (k x n)`.
///
/// ```
/// use kernelet::kernels::gemm::GemmShape;
///
/// let shape = GemmShape { m: 2, k: 3, n: 4 };
/// assert_eq!((shape.flops(), shape.bytes()), (48.0, 104.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Columns of B and C.
    pub n: usize,
}

impl GemmShape {
    /// Floating-point operations of the product: a multiplication and an addition each.
    ///
    /// ```
    /// use kernelet::kernels::gemm::GemmShape;
    ///
    /// assert_eq!(GemmShape { m: 1000, k: 1000, n: 1000 }.flops(), 2e9);
    /// ```
    #[must_use]
    pub fn flops(self) -> f64 {
        2.0 * self.m as f64 * self.k as f64 * self.n as f64
    }

    /// Bytes of the three matrices, each counted once.
    ///
    /// ```
    /// use kernelet::kernels::gemm::GemmShape;
    ///
    /// assert_eq!(GemmShape { m: 1000, k: 1000, n: 1000 }.bytes(), 12e6);
    /// ```
    #[must_use]
    pub fn bytes(self) -> f64 {
        let (m, k, n) = (self.m as f64, self.k as f64, self.n as f64);
        4.0 * (m * k + k * n + m * n)
    }
}

/// A row-major operand: as it is, or transposed (the names are BLAS's).
///
/// ```
/// use kernelet::kernels::gemm::{self, GemmShape, Matrix, Write};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// // x (3, 2) times its transpose, from the same memory.
/// let shape = GemmShape { m: 3, k: 2, n: 3 };
/// let mut c = [0.0; 9];
/// gemm::gemm(&cpu, shape, Matrix::N(&x), Matrix::T(&x), Write::Overwrite, &mut c);
/// assert_eq!(c, [5.0, 11.0, 17.0, 11.0, 25.0, 39.0, 17.0, 39.0, 61.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Not transposed: the slice holds the operand's rows.
    N(&'a [f32]),
    /// Transposed: the slice holds the operand's columns.
    T(&'a [f32]),
}

impl<'a> Matrix<'a> {
    /// The elements, in the order in which they lie in memory.
    ///
    /// ```
    /// use kernelet::kernels::gemm::Matrix;
    ///
    /// assert_eq!(Matrix::T(&[1.0, 2.0]).data(), [1.0, 2.0]);
    /// ```
    #[must_use]
    pub fn data(self) -> &'a [f32] {
        match self {
            Matrix::N(data) | Matrix::T(data) => data,
        }
    }
}

/// What a kernel does with the destination's old content.
///
/// ```
/// use kernelet::{Cpu, kernels::{gemm::Write, linear}, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 1, inputs: 1, outputs: 2 };
/// let mut db = [f32::NAN; 2];
/// linear::column_sums(&cpu, shape, &[1.0, 2.0], Write::Overwrite, &mut db);
/// assert_eq!(db, [1.0, 2.0]);
/// linear::column_sums(&cpu, shape, &[1.0, 2.0], Write::Add, &mut db);
/// assert_eq!(db, [2.0, 4.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Overwrites it, and never reads it: it may be NaN or uninitialised numbers.
    Overwrite,
    /// Adds to it.
    Add,
}

/// What to do to a finished element before it leaves the registers.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// Nothing.
    None,
    /// Add the bias of its column.
    Bias(&'a [f32]),
    /// Add the bias of its column, then ReLU.
    BiasRelu(&'a [f32]),
    /// Keep it where the same element of this matrix is positive, else zero.
    ReluMask(&'a [f32]),
}

/// C (m, n) = A (m, k) B (k, n), or C += A B, as `write` says. An empty sum (k = 0) is 0.
///
/// Accuracy: each element is a sum of k products, added in an order that depends on the shape
/// alone (if it is added to, on how the operands lie as well). Its error is at most `k 2^-24` times
/// the sum of the products' magnitudes (`(k + 1) 2^-24` times that sum and the old element's, if it
/// is added to), plus `k 2^-126` where products are subnormal; operands below the normal range count
/// as zero. With [`Isa::Amx`](crate::Isa) that holds, too, where its tiles compute (from 129 rows, k
/// and n of 256 on), but for the smallest numbers: `7 k 2^-126`, and what an operand below 2^-109 has below the normal range counts as zero as well. How a
/// row of A is rounded there depends on whether all of it are pixels (bytes divided by 255), too.
///
/// ```
/// use kernelet::kernels::gemm::{self, GemmShape, Matrix, Write};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let shape = GemmShape { m: 2, k: 3, n: 2 };
/// let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let b = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
/// let mut c = [0.0; 4];
/// gemm::gemm(&cpu, shape, Matrix::N(&a), Matrix::N(&b), Write::Overwrite, &mut c);
/// assert_eq!(c, [4.0, 2.0, 10.0, 5.0]);
/// // The same right side, laid out column by column.
/// let b = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
/// gemm::gemm(&cpu, shape, Matrix::N(&a), Matrix::T(&b), Write::Add, &mut c);
/// assert_eq!(c, [8.0, 4.0, 20.0, 10.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn gemm(cpu: &Cpu, shape: GemmShape, a: Matrix, b: Matrix, write: Write, c: &mut [f32]) {
    kernel_span!("gemm", shape.flops(), shape.bytes());
    gemm_with(cpu, shape, a, b, write, c, Epilogue::None);
}

/// [`gemm`] of matrices that have gaps, for other crates' matrices.
///
/// # Safety
/// C has `m` rows of `n` elements, so far apart that they do not overlap, which are nobody else's.
#[cfg(any(feature = "faer", feature = "ndarray"))]
pub(crate) unsafe fn gemm_with_gaps(
    cpu: &Cpu,
    shape: GemmShape,
    a: Strided,
    b: Strided,
    write: Write,
    c: (*mut f32, usize),
) {
    kernel_span!("gemm", shape.flops(), shape.bytes());
    // SAFETY: the caller's promise.
    unsafe { gemm_strided(cpu, shape, a, b, write, c, Epilogue::None) }
}

thread_local! {
    /// A product without summands is computed from these.
    static ZEROS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// [`gemm`] with an epilogue, and without a span of its own.
#[track_caller]
pub(super) fn gemm_with(
    cpu: &Cpu,
    shape: GemmShape,
    a: Matrix,
    b: Matrix,
    write: Write,
    c: &mut [f32],
    epilogue: Epilogue,
) {
    let GemmShape { m, k, n } = shape;
    check_len("A", a.data().len(), m, k);
    check_len("B", b.data().len(), k, n);
    check_len("C", c.len(), m, n);
    let (a, b) = (Strided::new(a, m, k), Strided::new(b, k, n));
    // SAFETY: C has the length of the shape.
    unsafe { gemm_strided(cpu, shape, a, b, write, (c.as_mut_ptr(), n), epilogue) }
}

/// Whether [`gemm_of_bytes`] does a product.
pub(super) fn multiplies_bytes(cpu: &Cpu, shape: GemmShape) -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::suits::<u8>(cpu, shape);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// [`gemm_with`] of bytes, that count as their 255th parts: A is (m, k), or (k, m) if `transposed`. Returns
/// false, and has done nothing, where they had better become floats before.
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "a product's, and how A lies")]
pub(super) fn gemm_of_bytes(
    cpu: &Cpu,
    shape: GemmShape,
    a: &[u8],
    transposed: bool,
    b: Matrix,
    write: Write,
    c: &mut [f32],
    epilogue: Epilogue,
) -> bool {
    let GemmShape { m, k, n } = shape;
    check_len("A", a.len(), m, k);
    check_len("B", b.data().len(), k, n);
    check_len("C", c.len(), m, n);
    let a =
        if transposed { Strided::by_rows(a, k, m).transposed() } else { Strided::by_rows(a, m, k) };
    let (b, c) = (Strided::new(b, k, n), (c.as_mut_ptr(), n));
    // SAFETY: C has the length of the shape.
    unsafe { blocked::gemm_of_bytes(cpu, shape, a, b, write, c, epilogue) }
}

/// [`gemm_with`] on rows, or columns of A and B, that may lie apart. `c` is where C begins and how far
/// apart its rows are.
///
/// # Safety
/// C has `m` rows of `n` elements, so far apart that they do not overlap, which are nobody else's.
unsafe fn gemm_strided(
    cpu: &Cpu,
    shape: GemmShape,
    a: Strided,
    b: Strided,
    write: Write,
    c: (*mut f32, usize),
    epilogue: Epilogue,
) {
    let GemmShape { m, k, n } = shape;
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        // An empty sum is a product with zeros, epilogue and all.
        let mut zeros = Buffer::borrow(&ZEROS, m.max(n));
        zeros.fill(0.0);
        let (a, b) = (Strided::new(Matrix::N(&zeros), m, 1), Strided::new(Matrix::N(&zeros), 1, n));
        // SAFETY: the caller's promise.
        unsafe { blocked::gemm(cpu, GemmShape { k: 1, ..shape }, a, b, write, c, epilogue) }
    } else if matches!(epilogue, Epilogue::None) && faer_is_faster(cpu, shape, a, b) {
        // SAFETY: the caller's promise.
        unsafe { faer(cpu, shape, a, b, write, c) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { blocked::gemm(cpu, shape, a, b, write, c, epilogue) }
    }
}

/// A product whose C never exists as a whole: it is computed `block` rows at a time ([`row_block`]),
/// on all threads, and `consume` gets each block, with its number, while it is still in the cache.
#[track_caller]
pub(super) fn gemm_by_row_blocks(
    cpu: &Cpu,
    shape: GemmShape,
    a: Matrix,
    b: Matrix,
    block: usize,
    consume: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    check_len("A", a.data().len(), shape.m, shape.k);
    check_len("B", b.data().len(), shape.k, shape.n);
    if shape.m > 0 && shape.n > 0 {
        blocked::gemm_by_row_blocks(cpu, shape, a, b, block, consume);
    }
}

/// Rows of a block of [`gemm_by_row_blocks`], so that `m` rows make at most `blocks` of them: three
/// tiles of AVX-512 and seven of AVX2, which with the study's 784 columns are 131 KB and fit in the
/// second-level cache.
pub(super) fn row_block(m: usize, blocks: usize) -> usize {
    m.div_ceil(blocks).next_multiple_of(42).max(42)
}

/// Where faer beats our own product by more than the noise: matrix-vector products, which it does
/// without packing, and cubes so small that packing shows. It picks its own instruction set,
/// though, so it takes part only where ours is the same, the best there is.
fn faer_is_faster(cpu: &Cpu, shape: GemmShape, a: Strided, b: Strided) -> bool {
    let GemmShape { m, k, n } = shape;
    let vector = (m == 1 || n == 1) && shape.flops() < blocked::PARALLEL_MIN_FLOPS;
    let small = m.max(k).max(n) <= 64;
    (vector || are_dot_products(shape, a, b) || small) && cpu.is_best()
}

/// Whether a matrix-vector product is dot products of what lies side by side, of which any number is read as fast
/// as all. (Otherwise it adds up rows of the matrix, each times a number, and parts of rows are read more slowly.)
fn are_dot_products(shape: GemmShape, a: Strided, b: Strided) -> bool {
    (shape.n == 1 && a.col_stride == 1) || (shape.m == 1 && b.row_stride == 1)
}

/// Floating-point operations of the dot products that a thread takes at a time, if they are short.
const DOT_PRODUCTS_FLOPS: usize = 1 << 17;

/// Below this many floating-point operations of dot products, which wait for the matrix, a second thread costs
/// more than it gives.
const DOT_PRODUCTS_PARALLEL_MIN_FLOPS: f64 = 4e5;

/// # Safety
/// As for [`gemm_strided`].
unsafe fn faer(
    cpu: &Cpu,
    shape: GemmShape,
    a: Strided,
    b: Strided,
    write: Write,
    (c, row_stride): (*mut f32, usize),
) {
    /// C, of which each thread writes its own part.
    struct Shared(*mut f32);
    // SAFETY: parts do not overlap.
    unsafe impl Sync for Shared {}
    impl Shared {
        fn at(&self, offset: usize) -> *mut f32 {
            self.0.wrapping_add(offset)
        }
    }

    let GemmShape { m, k, n } = shape;
    let accumulate = match write {
        Write::Overwrite => Accum::Replace,
        Write::Add => Accum::Add,
    };
    let piece = if are_dot_products(shape, a, b) {
        (DOT_PRODUCTS_FLOPS / (2 * k)).max(1)
    } else {
        m.max(n)
    };
    let parallel = cpu.shares(shape.flops() as usize, DOT_PRODUCTS_PARALLEL_MIN_FLOPS as usize);
    let c = Shared(c);
    cpu.for_each(parallel, m.max(n).div_ceil(piece), |index| {
        let first = index * piece;
        let (i, rows) = if n == 1 { (first, piece.min(m - first)) } else { (0, m) };
        let (j, columns) = if n == 1 { (0, 1) } else { (first, piece.min(n - first)) };
        let (a, b) = (a.part((i, 0), (rows, k)).view(), b.part((0, j), (k, columns)).view());
        let to = c.at(i * row_stride + j);
        // SAFETY: the caller promises C, of which this is a part that no other index has.
        let to = unsafe { MatMut::from_raw_parts_mut(to, rows, columns, row_stride as isize, 1) };
        // Never faer's threads: they would be a second pool beside ours.
        matmul(to, accumulate, a, b, 1.0, Par::Seq);
    });
}
