//! Convolution of NHWC images with an HWIO kernel, without a flip: what neural networks call a
//! convolution. Stands in for the study's `tf.nn.conv2d` and its bias.
//!
//! It is a matrix product: the columns of an image (im2col: for every output pixel, a row with the
//! elements under its window) times the kernel (taps, filters). The columns are never written:
//! every image, or the rows of it that a thread takes, is copied into a frame of zeros that stays in
//! the first- or second-level cache, and the product's inner loop reads the rows of the columns from
//! where they lie in it. Dukhan's "The Indirect Convolution Algorithm" (2019) has the idea.
//! [`backward_input`] is a convolution too where windows make steps of one pixel and there are channels
//! enough to fill vectors, unless a weight is infinite or NaN; otherwise it writes columns, those of one row
//! of output pixels at a time.
//!
//! Padding takes part in the sums: where a weight or a gradient is infinite or NaN, so is (or NaN is)
//! what it is multiplied with a padding's zero for.
//!
//! Accuracy, with u = 2^-24, t taps, p output pixels in the batch, f filters: y is within
//! `(t + 1) u (sum |x w| + |b|)`; dx within `(f a + 1) u sum |dy w|` with a the windows an element
//! is in; dw within `(p + 1) u sum |x dy|`; db within `(p + 1) u sum |dy|`; sums that are added to what
//! was there include it. Moments are as
//! [`relu_batch_norm`](super::relu_batch_norm) states, with a row of the output as a block and an image
//! as a piece, and where rows have w pixels w / 4 more roundings in a mean, w in a variance. Operands below the normal
//! range count as zero.

use std::cell::Cell;
use std::hint::black_box;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::channels::{for_each_vector, load, store};
use super::gemm::microkernel::{PanelA, PanelB, Tile, multiply_add, multiply_add_rows, zeros};
use super::gemm::pack::{Strided, pack_b_panel};
use super::gemm::{Matrix, Write};
use super::relu::relu;
use super::relu_batch_norm::{Moments, PIECES, merge_block};
use super::scratch::Buffer;
use super::windows::rows_by_image;
use super::{ELEMENTWISE_CHUNK, kernel_span};
use crate::cpu::{Chunks, Cpu};
use crate::shape::{Conv2dShape, ImageShape, check_len};

/// y = conv(x, w) + b: x as `shape.input`, w (window height, window width, channels, filters),
/// b (filters), y as `shape.output()`.
///
/// ```
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
/// use kernelet::{Cpu, kernels::conv2d};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = Conv2dShape { input, window: Window::square(2, 1, Padding::Valid), filters: 2 };
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// // One filter sums its window, the other takes the bottom right from the top left.
/// let w = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, -1.0];
/// let mut y = [0.0; 2 * 2 * 2];
/// conv2d::forward(&cpu, shape, &x, &w, &[0.5, 0.0], &mut y);
/// // Channels are the last axis, so that the two filters alternate.
/// assert_eq!(y, [12.5, -4.0, 16.5, -4.0, 24.5, -4.0, 28.5, -4.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn forward(cpu: &Cpu, shape: Conv2dShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    kernel_span!("conv2d::forward", flops(shape), bytes(shape));
    run_forward(cpu, shape, x, w, b, y, false, None);
}

/// y = max(conv(x, w) + b, 0), in one sweep; NaN stays NaN.
///
/// ```
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
/// use kernelet::{Cpu, kernels::conv2d};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = Conv2dShape { input, window: Window::square(2, 1, Padding::Valid), filters: 2 };
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let w = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, -1.0];
/// let mut y = [0.0; 8];
/// conv2d::forward_relu(&cpu, shape, &x, &w, &[0.5, 0.0], &mut y);
/// assert_eq!(y, [12.5, 0.0, 16.5, 0.0, 24.5, 0.0, 28.5, 0.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn forward_relu(cpu: &Cpu, shape: Conv2dShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    kernel_span!("conv2d::forward_relu", flops(shape), bytes(shape));
    run_forward(cpu, shape, x, w, b, y, true, None);
}

/// y = max(conv(x, w) + b, 0), and its moments per filter merged into `moments`, in one sweep:
/// [`forward`] and [`relu_batch_norm::forward_moments`](super::relu_batch_norm::forward_moments).
///
/// ```
/// use kernelet::kernels::{conv2d, relu_batch_norm::Moments};
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = Conv2dShape { input, window: Window::square(2, 1, Padding::Valid), filters: 2 };
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let w = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, -1.0];
/// let (mut y, mut moments) = ([0.0; 8], Moments::new(2));
/// conv2d::forward_relu_moments(&cpu, shape, &x, &w, &[0.5, 0.0], &mut y, &mut moments);
/// // Of 12.5, 16.5, 24.5 and 28.5; and of zeros.
/// assert_eq!(moments.mean(), [20.5, 0.0]);
/// assert_eq!((moments.variance(0), moments.variance(1)), (40.0, 0.0));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice or `moments` does not fit `shape`.
pub fn forward_relu_moments(
    cpu: &Cpu,
    shape: Conv2dShape,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
    moments: &mut Moments,
) {
    kernel_span!("conv2d::forward_relu_moments", flops(shape) + 4.0 * y.len() as f64, bytes(shape));
    forward_relu_moments_then(cpu, shape, x, w, b, y, moments, &|_, _| {});
}

/// [`forward_relu_moments`] without a span of its own; `then` gets each image of y exactly once, with its
/// number, while it is still in the cache.
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "the public function's, and what comes after")]
pub(super) fn forward_relu_moments_then(
    cpu: &Cpu,
    shape: Conv2dShape,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
    moments: &mut Moments,
    then: &(dyn Fn(usize, &[f32]) + Sync),
) {
    check_len("moments", moments.mean().len(), 1, shape.filters);
    run_forward(cpu, shape, x, w, b, y, true, Some((moments, then)));
}

/// dx (as `shape.input`) from dy (as `shape.output()`) and w (as [`forward`] has it): for every
/// element the sum of dy w over the windows that it lies in.
///
/// ```
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
/// use kernelet::{Cpu, kernels::conv2d};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = Conv2dShape { input, window: Window::square(2, 1, Padding::Valid), filters: 1 };
/// let mut dx = [0.0; 9];
/// conv2d::backward_input(&cpu, shape, &[1.0; 4], &[1.0; 4], &mut dx);
/// // With ones everywhere: the number of windows that a pixel is in.
/// assert_eq!(dx, [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward_input(cpu: &Cpu, shape: Conv2dShape, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    kernel_span!("conv2d::backward_input", flops(shape), bytes(shape));
    check_len("dy", dy.len(), shape.output().batch, shape.output().image_len());
    check_len("w", w.len(), shape.taps(), shape.filters);
    check_len("dx", dx.len(), shape.input.batch, shape.input.image_len());
    if dy.is_empty() || w.is_empty() {
        return dx.fill(0.0);
    }
    cpu.arch().dispatch(BackwardInput { cpu, shape, dy, w, dx });
}

/// dw (as [`forward`] has w) = the sum of x dy over the windows and db (filters) = the sum of dy
/// over the pixels, overwritten or added to as `write` says; x as `shape.input`, dy as
/// `shape.output()`.
///
/// ```
/// use kernelet::kernels::{conv2d, gemm::Write};
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = Conv2dShape { input, window: Window::square(2, 1, Padding::Valid), filters: 1 };
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let (mut dw, mut db) = ([0.0; 4], [0.0]);
/// conv2d::backward_weights(&cpu, shape, &x, &[1.0; 4], Write::Overwrite, &mut dw, &mut db);
/// assert_eq!((dw, db), ([12.0, 16.0, 24.0, 28.0], [4.0]));
/// // Another batch's gradients can be added.
/// conv2d::backward_weights(&cpu, shape, &x, &[1.0; 4], Write::Add, &mut dw, &mut db);
/// assert_eq!((dw, db), ([24.0, 32.0, 48.0, 56.0], [8.0]));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward_weights(
    cpu: &Cpu,
    shape: Conv2dShape,
    x: &[f32],
    dy: &[f32],
    write: Write,
    dw: &mut [f32],
    db: &mut [f32],
) {
    kernel_span!("conv2d::backward_weights", flops(shape), bytes(shape));
    check_len("dy", dy.len(), shape.output().batch, shape.output().image_len());
    run_backward_weights(cpu, shape, x, ImagesOfDy::Given(dy), write, dw, db);
}

/// [`backward_weights`] without a span of its own, of a dy that never exists as a whole: `dy` makes
/// each image's, by its number, in a buffer that stays in the cache.
#[track_caller]
pub(super) fn backward_weights_by_images(
    cpu: &Cpu,
    shape: Conv2dShape,
    x: &[f32],
    dy: &(dyn Fn(usize, &mut [f32]) + Sync),
    write: Write,
    dw: &mut [f32],
    db: &mut [f32],
) {
    run_backward_weights(cpu, shape, x, ImagesOfDy::Made(dy), write, dw, db);
}

/// Where the images of dy come from.
#[derive(Clone, Copy)]
enum ImagesOfDy<'a> {
    /// They lie side by side.
    Given(&'a [f32]),
    /// Each is made when its turn has come, by its number.
    Made(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

#[track_caller]
fn run_backward_weights(
    cpu: &Cpu,
    shape: Conv2dShape,
    x: &[f32],
    dy: ImagesOfDy<'_>,
    write: Write,
    dw: &mut [f32],
    db: &mut [f32],
) {
    check_len("x", x.len(), shape.input.batch, shape.input.image_len());
    check_len("dw", dw.len(), shape.taps(), shape.filters);
    check_len("db", db.len(), 1, shape.filters);
    if write == Write::Overwrite {
        dw.fill(0.0);
        db.fill(0.0);
    }
    if shape.output().batch > 0 && shape.output().image_len() > 0 {
        cpu.arch().dispatch(BackwardWeights { cpu, shape, x, dy, dw, db });
    }
}

pub(super) fn flops(shape: Conv2dShape) -> f64 {
    2.0 * shape.taps() as f64 * shape.output().image_len() as f64 * shape.input.batch as f64
}

pub(super) fn bytes(shape: Conv2dShape) -> f64 {
    let images = shape.input.image_len() + shape.output().image_len();
    4.0 * (shape.input.batch as f64 * images as f64 + (shape.taps() * shape.filters) as f64)
}

/// Below this many floating-point operations a second thread costs more than it gives: where it need not be woken, and
/// from outside.
const PARALLEL_MIN_FLOPS: [f64; 2] = [5e5, 1e7];

fn is_shared(cpu: &Cpu, shape: Conv2dShape) -> bool {
    let [inside, outside] = PARALLEL_MIN_FLOPS;
    cpu.threads() > 1 && flops(shape) >= if cpu.is_inside() { inside } else { outside }
}

/// Calls `body` for rows of the images `to`, with the image's number, which of its rows, and those: for whole images,
/// or, where there are fewer than threads, for as many rows as make them equal shares. For what has the same bits
/// either way. (Moments have not, where an image is a piece.)
fn for_each_band(
    cpu: &Cpu,
    shape: Conv2dShape,
    images: ImageShape,
    to: &mut [f32],
    body: impl Fn(usize, Range<usize>, &mut [f32]) + Sync + Send,
) {
    let (parallel, threads) = (is_shared(cpu, shape), cpu.threads());
    let rows = if parallel && images.batch < threads {
        (images.batch * images.height).div_ceil(threads)
    } else {
        images.height
    };
    cpu.for_each_chunk(parallel, to, rows * images.width * images.channels, |index, to| {
        for (image, rows, to) in rows_by_image(images, index * rows, to) {
            body(image, rows, to);
        }
    });
}

thread_local! {
    /// The kernel, packed for the tiles.
    static PACKED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// An image in its frame.
    static FRAME: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Columns of a row of output pixels, rows of dy padded to whole vectors, or zeros in place of biases.
    static COLUMNS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// An image's dy.
    static DY: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Gradients of the kernel, one per group of images, or band of one.
    static GRADIENTS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// An image with its padding, cut to what the windows touch.
#[derive(Clone, Copy)]
struct Frame {
    shape: Conv2dShape,
    height: usize,
    width: usize,
    /// Rows above and columns left of the image.
    padding: [usize; 2],
    /// Output pixels down and across.
    output: [usize; 2],
    /// The window's; 1 where it makes no step, so that what a tile may touch stays within the image.
    stride: [usize; 2],
    /// Rows left out above, where this is of some rows of output pixels only.
    above: usize,
}

impl Frame {
    /// For a shape with output pixels.
    fn new(shape: Conv2dShape) -> Self {
        let Conv2dShape { input, window, .. } = shape;
        let output = window.count(input.height, input.width);
        let stride = [0, 1].map(|axis| if output[axis] == 1 { 1 } else { window.stride[axis] });
        let side = |axis: usize| {
            let side = (output[axis] - 1).checked_mul(stride[axis])?;
            side.checked_add(window.size[axis])
        };
        let padding = window.padding_before(input.height, input.width);
        let (Some(height), Some(width)) = (side(0), side(1)) else { panic!("{shape:?} overflows") };
        Self { shape, height, width, padding, output, stride, above: 0 }.checked()
    }

    /// Of dy, for the convolution that makes dx of it: windows of all dy that an element takes part in.
    /// Only where windows make steps of one pixel.
    fn transposed(shape: Conv2dShape) -> Self {
        let Conv2dShape { input, window, filters } = shape;
        let before = window.padding_before(input.height, input.width);
        let [height, width] = window.size;
        let side = |len: usize, window: usize| len.checked_add(window - 1);
        let sides = (side(input.height, height), side(input.width, width));
        let (Some(framed_height), Some(framed_width)) = sides else {
            panic!("{shape:?} overflows")
        };
        let frame = Self {
            shape: Conv2dShape {
                input: ImageShape { channels: filters, ..shape.output() },
                window,
                filters: input.channels,
            },
            height: framed_height,
            width: framed_width,
            padding: [height - 1 - before[0], width - 1 - before[1]],
            output: [input.height, input.width],
            stride: [1, 1],
            above: 0,
        };
        frame.checked()
    }

    /// Itself, whose number of elements is known to fit then.
    fn checked(self) -> Self {
        let pixels = self.height.checked_mul(self.width);
        let len = pixels.and_then(|pixels| pixels.checked_mul(self.shape.input.channels));
        assert!(len.is_some(), "{:?} overflows", self.shape);
        self
    }

    /// The part of a whole frame that the given rows of output pixels, at least one, are made of.
    fn of_rows(self, rows: &Range<usize>) -> Self {
        let height = (rows.len() - 1) * self.stride[0] + self.shape.window.size[0];
        let above = rows.start * self.stride[0];
        Self { height, output: [rows.len(), self.output[1]], above, ..self }
    }

    /// The rows of output pixels whose windows have any of the given rows of the image, at least one, in them.
    fn rows_touching(self, rows: &Range<usize>) -> Range<usize> {
        let first = (rows.start + self.padding[0] + 1).saturating_sub(self.shape.window.size[0]);
        let last = (rows.end + self.padding[0] - 1) / self.stride[0];
        first.div_ceil(self.stride[0])..self.output[0].min(last + 1)
    }

    fn len(self) -> usize {
        self.height * self.width * self.shape.input.channels
    }

    /// Elements from one row of the frame to the next.
    fn row_stride(self) -> usize {
        self.width * self.shape.input.channels
    }

    /// Elements from one output pixel's window to the next one's on its right.
    fn step(self) -> usize {
        self.stride[1] * self.shape.input.channels
    }

    /// Elements of a window's row, which lie side by side.
    fn run(self) -> usize {
        self.shape.window.size[1] * self.shape.input.channels
    }

    /// Where the window of an output pixel begins.
    fn start(self, oy: usize, ox: usize) -> usize {
        oy * self.stride[0] * self.row_stride() + ox * self.step()
    }

    /// The image's rows and the elements of each that lie in the frame, as ranges of the image.
    fn visible(self) -> (Range<usize>, Range<usize>) {
        let input = self.shape.input;
        let end = (self.above + self.height).saturating_sub(self.padding[0]).min(input.height);
        let rows = self.above.saturating_sub(self.padding[0]).min(end)..end;
        let columns = input.width.min(self.width - self.padding[1].min(self.width));
        (rows, 0..columns * input.channels)
    }

    /// Where an image's row begins in the frame.
    fn row_start(self, row: usize) -> usize {
        (row + self.padding[0] - self.above) * self.row_stride()
            + self.padding[1] * self.shape.input.channels
    }

    /// Puts an image into the frame, with zeros around it.
    fn fill(self, image: &[f32], frame: &mut [f32]) {
        let (rows, elements) = self.visible();
        let image_stride = self.shape.input.width * self.shape.input.channels;
        frame[..self.len()].fill(0.0);
        for row in rows {
            let from = &image[row * image_stride..][elements.clone()];
            frame[self.row_start(row)..][..from.len()].copy_from_slice(from);
        }
    }
}

/// The moments that are gathered, and what gets each image of y, with its number, while it is in the cache.
type MomentsThen<'a> = (&'a mut Moments, &'a (dyn Fn(usize, &[f32]) + Sync));

#[expect(clippy::too_many_arguments, reason = "one body for three functions")]
fn run_forward(
    cpu: &Cpu,
    shape: Conv2dShape,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    y: &mut [f32],
    relu: bool,
    moments: Option<MomentsThen>,
) {
    check_len("x", x.len(), shape.input.batch, shape.input.image_len());
    check_len("w", w.len(), shape.taps(), shape.filters);
    check_len("b", b.len(), 1, shape.filters);
    check_len("y", y.len(), shape.output().batch, shape.output().image_len());
    if !y.is_empty() {
        cpu.arch().dispatch(Forward { cpu, shape, x, w, b, y, relu, moments });
    }
}

/// Taps up to which writing y takes as long as computing it, so that tiles are smaller: of them several are under
/// way. (Measured on AVX-512.)
const THIN_TAPS: usize = 16;

struct Forward<'a> {
    cpu: &'a Cpu,
    shape: Conv2dShape,
    x: &'a [f32],
    w: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    relu: bool,
    moments: Option<MomentsThen<'a>>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::REGISTER_COUNT {
            32.. if self.shape.taps() <= THIN_TAPS => self.run::<S, 7, 2>(simd),
            32.. => self.run::<S, 14, 2>(simd),
            _ => self.run::<S, 6, 2>(simd),
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, shape, x, w, b, y, relu, moments } = self;
        let (input, output) = (shape.input.image_len(), shape.output().image_len());
        let (taps, filters) = (shape.taps(), shape.filters);
        let nr = NV * S::F32_LANES;
        let mut packed = Buffer::borrow(&PACKED, filters.div_ceil(nr) * taps * nr);
        let kernel = Strided::new(Matrix::N(w), taps, filters);
        for panel in 0..filters.div_ceil(nr) {
            let packed = &mut packed[panel * taps * nr..][..taps * nr];
            pack_b_panel::<S, NV>(kernel, (0, taps), panel * nr, packed);
        }
        let packed = &*packed;
        let frame = Frame::new(shape);
        let batch = shape.input.batch;
        let Some((merged, then)) = moments else {
            return for_each_band(cpu, shape, shape.output(), y, |image, rows, y| {
                let (frame, x) = (frame.of_rows(&rows), &x[image * input..][..input]);
                let moments = None;
                simd.vectorize(ForwardRows::<MR, NV> { frame, x, packed, b, y, relu, moments });
            });
        };
        let mut pieces = Buffer::borrow(&PIECES, batch * 2 * filters);
        let scratch = Chunks::new(&mut pieces, 2 * filters);
        cpu.for_each_chunk(is_shared(cpu, shape), y, output, |index, image| {
            // SAFETY: `for_each_chunk` calls this once for every index.
            let moments = Some(unsafe { scratch.get(index) });
            let (x, y) = (&x[index * input..][..input], &mut *image);
            simd.vectorize(ForwardRows::<MR, NV> { frame, x, packed, b, y, relu, moments });
            then(index, image);
        });
        let pixels = frame.output[0] * frame.output[1];
        merged.merge_pieces(&pieces, std::iter::repeat_n(pixels, batch));
    }
}

/// Rows of output pixels of one image, all that `frame` has.
struct ForwardRows<'a, const MR: usize, const NV: usize> {
    frame: Frame,
    x: &'a [f32],
    packed: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    relu: bool,
    moments: Option<&'a mut [f32]>,
}

impl<const MR: usize, const NV: usize> WithSimd for ForwardRows<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { frame, x, packed, b, y, relu, mut moments } = self;
        let (taps, filters) = (frame.shape.taps(), frame.shape.filters);
        let nr = NV * S::F32_LANES;
        let [height, width] = frame.output;
        // A row shorter than a tile: what the tile reads beyond it is not used.
        let mut image = Buffer::borrow(&FRAME, frame.len() + MR * frame.step());
        frame.fill(x, &mut image);
        let offsets: [usize; THIN_TAPS] = tap_offsets(frame, 0);
        for (panel, filter) in (0..filters).step_by(nr).enumerate() {
            let packed = &packed[panel * taps * nr..][..taps * nr];
            let mut bias = [simd.splat_f32s(0.0); NV];
            for (j, bias) in bias.iter_mut().enumerate() {
                let from = filters.min(filter + j * S::F32_LANES);
                let lanes = S::F32_LANES.min(filters - from);
                // Sums begin at +0: where there is no tap, a subnormal bias is zero all the same.
                *bias = simd.add_f32s(load::<S, false>(simd, b, from, lanes), simd.splat_f32s(0.0));
            }
            for oy in 0..height {
                for ox in (0..width).step_by(MR) {
                    // The last tile begins within the one before, if there is one: whole tiles are
                    // written faster.
                    let ox = ox.min(width.saturating_sub(MR));
                    let start = &image[frame.start(oy, ox)..];
                    // SAFETY: the windows of the row's pixels lie inside the frame, those of a tile's
                    // missing pixels in the MR steps behind it.
                    let sums = unsafe {
                        match offsets.get(..taps) {
                            Some(taps) => {
                                add_thin_windows(simd, [bias; MR], frame, start, taps, packed)
                            }
                            None => add_windows(simd, [bias; MR], frame, start, packed),
                        }
                    };
                    let pixel = oy * width + ox;
                    let rows = MR.min(width - ox);
                    store_tile(simd, sums, (pixel, rows), (filter, filters), relu, y);
                }
                let Some(moments) = moments.as_deref_mut() else { continue };
                let (mean, deviations) = moments.split_at_mut(filters);
                let row = (&y[oy * width * filters..][..width * filters], width, filters);
                let before = oy * width;
                for_each_vector!(simd, nr.min(filters - filter), |at, lanes, WHOLE| {
                    let at = filter + at;
                    merge_block::<S, WHOLE>(simd, row, at, lanes, before, mean, deviations);
                });
            }
        }
    }
}

/// Adds the windows of `MR` output pixels side by side, times a packed panel of the kernel; the first window
/// begins where `image` does.
///
/// # Safety
/// `image` must hold the windows of these pixels, and `packed` a row of the tile's width for every tap.
#[inline(always)]
unsafe fn add_windows<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut sums: Tile<S, MR, NV>,
    frame: Frame,
    image: &[f32],
    packed: &[f32],
) -> Tile<S, MR, NV> {
    let nr = NV * S::F32_LANES;
    for ky in 0..frame.shape.window.size[0] {
        let from = &image[ky * frame.row_stride()..];
        let a = PanelA { ptr: from.as_ptr(), row_stride: frame.step(), k_stride: 1 };
        let panel = &packed[ky * frame.run() * nr..][..frame.run() * nr];
        let b = PanelB::packed(panel, nr);
        // SAFETY: the caller promises A; B has `run` rows, sliced above.
        sums = unsafe { multiply_add(simd, sums, frame.run(), a, b) };
    }
    sums
}

/// [`add_windows`] of few taps, of which `taps` says where they lie from a window's begin: one short loop
/// instead of several shorter ones.
///
/// # Safety
/// As for [`add_windows`].
#[inline(always)]
unsafe fn add_thin_windows<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut sums: Tile<S, MR, NV>,
    frame: Frame,
    image: &[f32],
    taps: &[usize],
    packed: &[f32],
) -> Tile<S, MR, NV> {
    for (tap, b) in taps.iter().zip(packed.chunks_exact(NV * S::F32_LANES)) {
        let b: [S::f32s; NV] = std::array::from_fn(|j| S::as_simd_f32s(b).0[j]);
        let mut a = image.as_ptr().wrapping_add(*tap);
        for row in &mut sums {
            // SAFETY: this pixel's tap is one that the caller promises.
            let x = simd.splat_f32s(unsafe { *a });
            for (sum, &b) in row.iter_mut().zip(&b) {
                *sum = simd.mul_add_e_f32s(x, b, *sum);
            }
            a = a.wrapping_add(frame.step());
        }
    }
    sums
}

/// Writes sums, rectified if that is asked for, to the given output pixels (the first and their number) and
/// the filters from the first given (of so many).
#[inline(always)]
fn store_tile<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut sums: Tile<S, MR, NV>,
    (pixel, rows): (usize, usize),
    (filter, filters): (usize, usize),
    rectify: bool,
    y: &mut [f32],
) {
    let first = pixel * filters + filter;
    if rectify {
        // A loop of its own, short enough for LLVM to unroll, or the sums would leave their registers.
        for row in &mut sums {
            for sum in row {
                *sum = relu(simd, *sum);
            }
        }
    }
    if rows == MR && filter + NV * S::F32_LANES <= filters {
        let mut y = y[first..][..(MR - 1) * filters + NV * S::F32_LANES].as_mut_ptr();
        for row in &sums {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: the rows are `filters` apart, so that the last one's last vector ends with the slice
                // taken above. Vectors are aligned like their elements.
                unsafe { y.add(j * S::F32_LANES).cast::<S::f32s>().write_unaligned(sum) };
            }
            y = y.wrapping_add(filters);
        }
        return;
    }
    // A copy in memory, so that a loop can pick its vectors.
    let copy = sums;
    for (i, row) in black_box(&copy).iter().enumerate().take(rows) {
        for (j, &sum) in row.iter().enumerate() {
            let column = filter + j * S::F32_LANES;
            if column >= filters {
                break;
            }
            let width = S::F32_LANES.min(filters - column);
            store::<S, false>(simd, y, (pixel + i) * filters + column, width, sum);
        }
    }
}

struct BackwardWeights<'a> {
    cpu: &'a Cpu,
    shape: Conv2dShape,
    x: &'a [f32],
    dy: ImagesOfDy<'a>,
    dw: &'a mut [f32],
    db: &'a mut [f32],
}

/// Images are shared out in at most so many groups, each with gradients of its own, which are added
/// up in order: the same for any number of threads.
const MAX_GROUPS: usize = 32;

/// Of fewer images the rows are shared out in bands, so that there are about so many groups at least.
const MIN_GROUPS: usize = 8;

/// Pixels of a band, about so many at least, so that its arithmetic takes longer than adding up what comes of it.
const MIN_BAND_PIXELS: usize = 128;

impl WithSimd for BackwardWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Tiles that 3x3 kernels and the sum of dy fill.
        match S::REGISTER_COUNT {
            32.. => self.run::<S, 10, 2>(simd),
            _ => self.run::<S, 5, 2>(simd),
        }
    }
}

impl BackwardWeights<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, shape, x, dy, dw, db } = self;
        let input = shape.input.image_len();
        let batch = shape.input.batch;
        let parallel = is_shared(cpu, shape);
        let frame = Frame::new(shape);
        let [height, width] = frame.output;
        // Not `parallel`: bands, and so the bits of the sums, may depend neither on the number of threads nor on
        // where the call comes from.
        let is_worth_it = flops(shape) >= PARALLEL_MIN_FLOPS[0];
        let bands = if is_worth_it { MIN_GROUPS.div_ceil(batch) } else { 1 };
        let bands = bands.min(height * width / MIN_BAND_PIXELS).max(1);
        let rows = height.div_ceil(bands);
        let bands = height.div_ceil(rows);
        let images = batch.div_ceil(MAX_GROUPS);
        let groups = batch.div_ceil(images) * bands;
        // What is made is made once, whole.
        let bands_at_once = match dy {
            ImagesOfDy::Given(_) => 1,
            ImagesOfDy::Made(_) => bands,
        };
        let output = shape.output().image_len();
        let row = width * shape.filters;
        let len = dw.len() + db.len();
        let mut gradients = Buffer::borrow(&GRADIENTS, groups * len);
        let gradients = &mut gradients[..groups * len];
        cpu.for_each_chunk(parallel, gradients, bands_at_once * len, |index, gradients| {
            gradients.fill(0.0);
            let first = index * bands_at_once;
            let (group, first_band) = (first / bands, first % bands);
            for image in group * images..batch.min((group + 1) * images) {
                let x = &x[image * input..][..input];
                let mut made;
                let dy = match dy {
                    ImagesOfDy::Given(dy) => &dy[image * output..][..output],
                    ImagesOfDy::Made(make) => {
                        made = Buffer::borrow(&DY, output);
                        make(image, &mut made[..output]);
                        &made[..output]
                    }
                };
                for (band, gradients) in (first_band..).zip(gradients.chunks_exact_mut(len)) {
                    let rows = band * rows..height.min((band + 1) * rows);
                    let (frame, dy) = (frame.of_rows(&rows), &dy[rows.start * row..rows.end * row]);
                    simd.vectorize(BackwardWeightsRows::<MR, NV> { frame, x, dy, gradients });
                }
            }
        });
        let gradients = &*gradients;
        let add_groups = |first: usize, to: &mut [f32]| {
            for gradients in gradients.chunks_exact(len) {
                cpu.dispatch(Add(&gradients[first..][..to.len()], to));
            }
        };
        let shared = parallel && gradients.len() >= ELEMENTWISE_CHUNK;
        let weights = dw.len();
        cpu.for_each_chunk(shared, dw, ADDED, |index, dw| add_groups(index * ADDED, dw));
        add_groups(weights, db);
    }
}

/// Elements of dw that a thread adds up at a time.
const ADDED: usize = 512;

/// Adds the first slice to the second.
struct Add<'a>(&'a [f32], &'a mut [f32]);

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (to, from) in self.1.iter_mut().zip(self.0) {
            *to += from;
        }
    }
}

/// Adds the gradients of one image's rows of output pixels, all that `frame` has, to dw and, behind it, db.
struct BackwardWeightsRows<'a, const MR: usize, const NV: usize> {
    frame: Frame,
    x: &'a [f32],
    dy: &'a [f32],
    gradients: &'a mut [f32],
}

impl<const MR: usize, const NV: usize> WithSimd for BackwardWeightsRows<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { frame, x, dy, gradients } = self;
        let (taps, filters) = (frame.shape.taps(), frame.shape.filters);
        let nr = NV * S::F32_LANES;
        let [height, width] = frame.output;
        let pixels = height * width;
        // Behind the image lie ones: db is the gradient of a tap that is 1 everywhere.
        let ones = (width - 1) * frame.step() + 1;
        let mut image = Buffer::borrow(&FRAME, frame.len() + ones);
        frame.fill(x, &mut image);
        image[frame.len()..][..ones].fill(1.0);
        let ones = image[frame.len()..][..ones].as_ptr();
        let mut padded = Buffer::borrow(&COLUMNS, pixels * nr);
        for filter in (0..filters).step_by(nr) {
            // The last filters do not fill whole vectors: theirs are copied, with zeros behind.
            let (dy, stride) = if nr <= filters - filter {
                (&dy[filter..], filters)
            } else {
                let dy = Strided::new(Matrix::N(dy), pixels, filters);
                pack_b_panel::<S, NV>(dy, (0, pixels), filter, &mut padded);
                (&padded[..pixels * nr], nr)
            };
            for first in (0..=taps).step_by(MR) {
                let offsets: [usize; MR] = tap_offsets(frame, first);
                let mut sums: Tile<S, MR, NV> = zeros(simd);
                for oy in 0..height {
                    let start = image[frame.start(oy, 0)..].as_ptr();
                    // A loop: `map` would be a call, and the sums would leave their registers.
                    let mut a = [ones; MR];
                    for (i, a) in a.iter_mut().enumerate() {
                        if first + i < taps {
                            *a = start.wrapping_add(offsets[i]);
                        }
                    }
                    let dy = &dy[oy * width * stride..];
                    assert!(dy.len() >= (width - 1) * stride + nr, "a row of dy");
                    let b = PanelB { ptr: dy.as_ptr(), k_stride: stride, ahead: 8 * stride };
                    // SAFETY: the taps of a row's windows lie inside the frame, `frame.step()`
                    // apart, and so do the ones behind it; dy's length has been asserted.
                    sums = unsafe { multiply_add_rows(simd, sums, width, a, frame.step(), b) };
                }
                for (i, row) in sums.iter().enumerate().take(taps + 1 - first) {
                    for (j, &sum) in row.iter().enumerate() {
                        let column = filter + j * S::F32_LANES;
                        if column < filters {
                            let lanes = S::F32_LANES.min(filters - column);
                            let at = (first + i) * filters + column;
                            let old = load::<S, false>(simd, gradients, at, lanes);
                            let new = simd.add_f32s(old, sum);
                            store::<S, false>(simd, gradients, at, lanes, new);
                        }
                    }
                }
            }
        }
    }
}

/// Where taps from the given one on lie from the start of their window; 0 where there are no more.
fn tap_offsets<const N: usize>(frame: Frame, first: usize) -> [usize; N] {
    std::array::from_fn(|i| match first + i {
        tap if tap < frame.shape.taps() => {
            tap / frame.run() * frame.row_stride() + tap % frame.run()
        }
        _ => 0,
    })
}

struct BackwardInput<'a> {
    cpu: &'a Cpu,
    shape: Conv2dShape,
    dy: &'a [f32],
    w: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for BackwardInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::REGISTER_COUNT {
            32.. => self.run::<S, 14, 2>(simd),
            _ => self.run::<S, 6, 2>(simd),
        }
    }
}

impl BackwardInput<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Conv2dShape { input, window, .. } = self.shape;
        let nr = NV * S::F32_LANES;
        // Up to twice the arithmetic makes up for columns that need not be added up.
        let convolved = input.channels.next_multiple_of(nr) * window.area();
        let is_convolution =
            window.stride == [1, 1] && convolved <= 2 * self.shape.taps().next_multiple_of(nr);
        // Its padding would make NaN of what no window gives.
        if is_convolution && self.w.iter().all(|w| w.is_finite()) {
            self.run_convolution::<S, MR, NV>(simd);
        } else {
            self.run_columns::<S, MR, NV>(simd);
        }
    }

    /// dx as the convolution of dy with the kernel, its rows and columns reversed and its filters and
    /// channels swapped.
    #[inline(always)]
    fn run_convolution<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, shape, dy, w, dx } = self;
        let Conv2dShape { input: ImageShape { channels, .. }, window, filters } = shape;
        let nr = NV * S::F32_LANES;
        let (area, panels) = (window.area(), channels.div_ceil(nr));
        let mut packed = Buffer::borrow(&PACKED, panels * area * filters * nr);
        let packed = &mut packed[..panels * area * filters * nr];
        for (index, packed) in packed.chunks_exact_mut(filters * nr).enumerate() {
            let (panel, place) = (index / area, area - 1 - index % area);
            let data = &w[place * channels * filters..][..channels * filters];
            let kernel = Strided::new(Matrix::T(data), filters, channels);
            pack_b_panel::<S, NV>(kernel, (0, filters), panel * nr, packed);
        }
        let packed = &*packed;
        let mut b = Buffer::borrow(&COLUMNS, channels);
        b[..channels].fill(0.0);
        let b = &b[..channels];
        let (frame, output) = (Frame::transposed(shape), shape.output().image_len());
        for_each_band(cpu, shape, shape.input, dx, |image, rows, y| {
            let (frame, x) = (frame.of_rows(&rows), &dy[image * output..][..output]);
            let (relu, moments) = (false, None);
            simd.vectorize(ForwardRows::<MR, NV> { frame, x, packed, b, y, relu, moments });
        });
    }

    /// dx by columns, the product of dy and the transposed kernel, which are added up where windows
    /// overlap.
    #[inline(always)]
    fn run_columns<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { cpu, shape, dy, w, dx } = self;
        let output = shape.output().image_len();
        let (taps, filters) = (shape.taps(), shape.filters);
        let nr = NV * S::F32_LANES;
        let panels = taps.div_ceil(nr);
        let mut packed = Buffer::borrow(&PACKED, panels * filters * nr);
        let kernel = Strided::new(Matrix::T(w), filters, taps);
        for (panel, packed) in packed.chunks_exact_mut(filters * nr).take(panels).enumerate() {
            pack_b_panel::<S, NV>(kernel, (0, filters), panel * nr, packed);
        }
        let packed = &packed[..panels * filters * nr];
        let frame = Frame::new(shape);
        for_each_band(cpu, shape, shape.input, dx, |image, rows, dx| {
            let dy = &dy[image * output..][..output];
            simd.vectorize(BackwardInputRows::<MR, NV> { frame, dy, packed, rows, dx });
        });
    }
}

/// Rows of one image's dx, from all of its dy.
struct BackwardInputRows<'a, const MR: usize, const NV: usize> {
    frame: Frame,
    dy: &'a [f32],
    packed: &'a [f32],
    rows: Range<usize>,
    dx: &'a mut [f32],
}

impl<const MR: usize, const NV: usize> WithSimd for BackwardInputRows<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { frame, dy, packed, rows, dx } = self;
        let filters = frame.shape.filters;
        let nr = NV * S::F32_LANES;
        dx.fill(0.0);
        let touching = frame.rows_touching(&rows);
        if touching.is_empty() {
            return;
        }
        let frame = frame.of_rows(&touching);
        let [height, width] = frame.output;
        let dy = &dy[touching.start * width * filters..][..height * width * filters];
        let panels = packed.len() / (filters * nr);
        let stride = panels * nr;
        let mut image = Buffer::borrow(&FRAME, frame.len());
        let image = &mut image[..frame.len()];
        image.fill(0.0);
        // Whole tiles: the pixels missing from the last are given room.
        let mut columns = Buffer::borrow(&COLUMNS, width.next_multiple_of(MR) * stride);
        for oy in 0..height {
            for ox in (0..width).step_by(MR) {
                // Beyond the row lie other pixels; beyond the band the last tile must stop short.
                let pixel = (oy * width + ox).min((height * width).saturating_sub(MR));
                let skipped = oy * width + ox - pixel;
                for (panel, packed) in packed.chunks_exact(filters * nr).enumerate() {
                    let b = PanelB::packed(packed, nr);
                    let sums: Tile<S, MR, NV> = if height * width >= MR {
                        let dy = &dy[pixel * filters..][..MR * filters];
                        let a = PanelA { ptr: dy.as_ptr(), row_stride: filters, k_stride: 1 };
                        // SAFETY: A has MR rows of `filters` elements, sliced above, B as many rows
                        // of nr.
                        unsafe { multiply_add(simd, zeros(simd), filters, a, b) }
                    } else {
                        // Fewer pixels than a tile has: the last again for those missing.
                        let last = height * width - 1;
                        let a: [*const f32; MR] =
                            std::array::from_fn(|i| dy[i.min(last) * filters..].as_ptr());
                        // SAFETY: every row has `filters` elements in dy, B as many rows of nr.
                        unsafe { multiply_add_rows(simd, zeros(simd), filters, a, 1, b) }
                    };
                    for (i, row) in sums.iter().enumerate().skip(skipped) {
                        for (j, &sum) in row.iter().enumerate() {
                            let at = (ox + i - skipped) * stride + panel * nr + j * S::F32_LANES;
                            store::<S, true>(simd, &mut columns, at, S::F32_LANES, sum);
                        }
                    }
                }
            }
            for ox in 0..width {
                let column = &columns[ox * stride..][..stride];
                for ky in 0..frame.shape.window.size[0] {
                    let from = &column[ky * frame.run()..][..frame.run()];
                    let to = &mut image[frame.start(oy, ox) + ky * frame.row_stride()..];
                    for (to, from) in to[..frame.run()].iter_mut().zip(from) {
                        *to += from;
                    }
                }
            }
        }
        let (visible, elements) = frame.visible();
        let image_stride = frame.shape.input.width * frame.shape.input.channels;
        for row in visible.start.max(rows.start)..visible.end.min(rows.end) {
            let to = &mut dx[(row - rows.start) * image_stride..][elements.clone()];
            let len = to.len();
            to.copy_from_slice(&image[frame.row_start(row)..][..len]);
        }
    }
}
