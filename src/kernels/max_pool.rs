//! Max pooling of NHWC images. Stands in for the study's `tf.nn.max_pool`.
//!
//! Exact: every output is one of its inputs, subnormals as zero. Where windows overlap, a dx is a
//! sum of the dy of w windows, within `w u` of the sum of their magnitudes, with u = 2^-24.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::channels::{for_each_vector, load, load_unchecked, store};
use super::relu_batch_norm::Normalization;
use super::{ELEMENTWISE_PARALLEL_MIN, kernel_span};
#[cfg(target_arch = "x86_64")]
use crate::cpu::is_avx512;
use crate::cpu::{Chunks, Cpu};
use crate::shape::{PoolShape, Window, check_len};

/// A number that names a place in a window, row by row: `u8`, `u16` or `u32`, whichever is large
/// enough.
///
/// ```
/// use kernelet::kernels::max_pool::Place;
///
/// // A window of 16 x 16 is the largest that bytes are enough for.
/// assert_eq!(<u8 as Place>::PLACES, 256);
/// assert_eq!(u16::new(256).index(), 256);
/// ```
pub trait Place: Copy + Send + Sync + 'static {
    /// Number of places that can be named.
    const PLACES: usize;
    /// The place numbered `index`, which is below [`PLACES`](Self::PLACES).
    ///
    /// ```
    /// use kernelet::kernels::max_pool::Place;
    ///
    /// assert_eq!(<u8 as Place>::new(3), 3);
    /// ```
    fn new(index: u32) -> Self;
    /// The number of the place.
    ///
    /// ```
    /// use kernelet::kernels::max_pool::Place;
    ///
    /// assert_eq!(3_u8.index(), 3);
    /// ```
    fn index(self) -> usize;
}

macro_rules! place {
    ($($int:ident)*) => {$(
        impl Place for $int {
            const PLACES: usize = ($int::MAX as usize).saturating_add(1);
            #[inline(always)]
            fn new(index: u32) -> Self {
                index as $int
            }
            #[inline(always)]
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}
place!(u8 u16 u32);

/// y = the largest element of every window, and in `argmax` its place in the window (0 is top left,
/// then to the right), both as `shape.output()`; x as `shape.input`. Padding is never the largest.
/// Of equals the first wins. A NaN is larger than any number, and of several the last wins.
///
/// ```
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
/// use kernelet::{Cpu, kernels::max_pool};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let (mut y, mut argmax) = ([0.0; 4], [0_u8; 4]);
/// max_pool::forward(&cpu, shape, &x, &mut y, &mut argmax);
/// assert_eq!(y, [5.0, 6.0, 8.0, 9.0]);
/// // The 6 is in its window's first column and second row.
/// assert_eq!(argmax, [3, 2, 1, 0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`, or the window has more places than `P` can name.
pub fn forward<P: Place>(cpu: &Cpu, shape: PoolShape, x: &[f32], y: &mut [f32], argmax: &mut [P]) {
    check(shape, x.len(), "x", y.len(), "y", argmax);
    kernel_span!("max_pool::forward", x.len(), 4 * x.len() + (4 + size_of::<P>()) * y.len());
    run(cpu, shape, x, None, y, argmax);
}

/// dx (as `shape.input`): 0, and every dy (as `shape.output()`) added to the element that was the
/// largest of its window, as `argmax` from [`forward`] names it.
///
/// ```
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
/// use kernelet::{Cpu, kernels::max_pool};
///
/// let cpu = Cpu::detect()?;
/// let input = ImageShape { batch: 1, height: 3, width: 3, channels: 1 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// let mut dx = [0.0; 9];
/// max_pool::backward(&cpu, shape, &[3_u8, 2, 1, 0], &[1.0, 2.0, 3.0, 4.0], &mut dx);
/// assert_eq!(dx, [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 4.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If a slice does not fit `shape`, the window has more places than `P` can name, or an `argmax`
/// names a place outside the window or the image.
pub fn backward<P: Place>(cpu: &Cpu, shape: PoolShape, argmax: &[P], dy: &[f32], dx: &mut [f32]) {
    check(shape, dx.len(), "dx", dy.len(), "dy", argmax);
    kernel_span!("max_pool::backward", dy.len(), 4 * dx.len() + (4 + size_of::<P>()) * dy.len());
    let output = shape.output().image_len();
    let parallel = dx.len() >= ELEMENTWISE_PARALLEL_MIN;
    cpu.for_each_chunk(parallel, dx, shape.input.image_len(), |index, dx| {
        let argmax = &argmax[index * output..][..output];
        let dy = &dy[index * output..][..output];
        if !covers_every_pixel_once(shape) || !cpu.dispatch(OneWindowEach { shape, argmax, dy, dx })
        {
            backward_image(shape, argmax, dy, dx);
        }
    });
}

/// Runs `$body` for every pixel of a window, with `$place` its place there and `$pixel` its number in the
/// image. (A macro, because a closure would be compiled without the vector instructions.)
macro_rules! for_each_pixel {
    ($window:expr, |$place:ident, $pixel:ident| $body:block) => {{
        let window = &$window;
        let (first_row, first_column) = (window.rows.start, window.columns.start);
        if window.rows.len() == 2 && window.columns.len() == 2 {
            // The window that networks have, unrolled.
            for down in 0..2 {
                for right in 0..2 {
                    let $place =
                        window.place(first_row, first_column) + down * window.size[1] + right;
                    let $pixel =
                        window.pixel(first_row, first_column) + down * window.image[1] + right;
                    $body
                }
            }
        } else {
            for row in window.rows.clone() {
                for column in window.columns.clone() {
                    let ($place, $pixel) = (window.place(row, column), window.pixel(row, column));
                    $body
                }
            }
        }
    }};
}
pub(super) use for_each_pixel;

/// Lanes of the widest vector.
pub(super) const MAX_LANES: usize = 64;

#[track_caller]
pub(super) fn check<P: Place>(
    shape: PoolShape,
    input: usize,
    input_name: &str,
    output: usize,
    output_name: &str,
    argmax: &[P],
) {
    let PoolShape { input: images, window } = shape;
    check_len(input_name, input, images.batch, images.image_len());
    let out = shape.output();
    check_len(output_name, output, out.batch, out.image_len());
    check_len("argmax", argmax.len(), out.batch, out.image_len());
    assert!(
        window.area() <= P::PLACES,
        "a window of {} x {} has {} places, but argmax can name {}",
        window.size[0],
        window.size[1],
        window.area(),
        P::PLACES
    );
}

/// [`forward`], normalising the largest elements if that is asked for.
pub(super) fn run<P: Place>(
    cpu: &Cpu,
    shape: PoolShape,
    x: &[f32],
    normalization: Option<&Normalization>,
    y: &mut [f32],
    argmax: &mut [P],
) {
    let (input, output) = (shape.input.image_len(), shape.output().image_len());
    let argmax = Chunks::new(argmax, output);
    let parallel = x.len() >= ELEMENTWISE_PARALLEL_MIN / 4;
    cpu.for_each_chunk(parallel, y, output, |index, y| {
        let x = &x[index * input..][..input];
        // SAFETY: `for_each_chunk` calls this once for every index.
        let argmax = unsafe { argmax.get(index) };
        cpu.dispatch(Image { shape, x, normalization, y, argmax });
    });
}

/// One image's windows.
pub(super) struct Image<'a, P> {
    pub(super) shape: PoolShape,
    pub(super) x: &'a [f32],
    pub(super) normalization: Option<&'a Normalization>,
    pub(super) y: &'a mut [f32],
    pub(super) argmax: &'a mut [P],
}

impl<P: Place> WithSimd for Image<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, x, normalization, y, argmax } = self;
        let channels = shape.input.channels;
        let windows = Windows::new(shape);
        let output = shape.output();
        assert_eq!(x.len(), shape.input.image_len(), "an image");
        for oy in 0..output.height {
            let fours = windows.fours(oy);
            if fours > 0 {
                let row = shape.input.width * channels;
                let x = &x[windows.at(oy, 0).rows.start * row..][..2 * row];
                let to = oy * output.width * channels;
                let (y, argmax) = (&mut y[to..], &mut argmax[to..]);
                largest_of_fours(simd, channels, fours, x.split_at(row), normalization, y, argmax);
            }
            for_each_vector!(simd, channels, |at, width, WHOLE| {
                for ox in fours..output.width {
                    let window = windows.at(oy, ox);
                    let to = (oy * output.width + ox) * channels + at;
                    let first = window.pixel(window.rows.start, window.columns.start);
                    let max = load::<S, WHOLE>(simd, x, first * channels + at, width);
                    let here = window.place(window.rows.start, window.columns.start);
                    let mut best = (max, place(simd, here));
                    for_each_pixel!(window, |here, pixel| {
                        let from = pixel * channels + at;
                        // SAFETY: a window's pixels are the image's, of which x has all;
                        // `for_each_vector` gives whole vectors where WHOLE.
                        let x = unsafe { load_unchecked::<S, WHOLE>(simd, x, from, width) };
                        best = larger_or_nan(simd, best, (x, place(simd, here)));
                    });
                    let max = normalized::<S, WHOLE>(simd, best.0, normalization, at, width);
                    store::<S, WHOLE>(simd, y, to, width, max);
                    store_places(simd, best.1, &mut argmax[to..][..width]);
                }
            });
        }
    }
}

/// The first `windows` windows of a row of them: 2 x 2 pixels each, side by side, from two rows of an image.
#[inline(always)]
fn largest_of_fours<S: Simd, P: Place>(
    simd: S,
    channels: usize,
    windows: usize,
    (above, below): (&[f32], &[f32]),
    normalization: Option<&Normalization>,
    y: &mut [f32],
    argmax: &mut [P],
) {
    let x = above.chunks_exact(2 * channels).zip(below.chunks_exact(2 * channels));
    let outputs = y.chunks_exact_mut(channels).zip(argmax.chunks_exact_mut(channels));
    for ((above, below), (y, argmax)) in x.zip(outputs).take(windows) {
        let ((a, b), (c, d)) = (above.split_at(channels), below.split_at(channels));
        for_each_vector!(simd, channels, |at, width, WHOLE| {
            let a = load::<S, WHOLE>(simd, a, at, width);
            let b = load::<S, WHOLE>(simd, b, at, width);
            let c = load::<S, WHOLE>(simd, c, at, width);
            let d = load::<S, WHOLE>(simd, d, at, width);
            // None is NaN if their sum is not: three additions instead of a comparison for each.
            // (Infinities, and what overflows, may add up to NaN, which takes longer and does no harm.)
            let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
            let nan = simd.not_m32s(simd.equal_f32s(sum, sum));
            let (a, b) = ((a, place(simd, 0)), (b, place(simd, 1)));
            let (c, d) = ((c, place(simd, 2)), (d, place(simd, 3)));
            // (Of no lane it is their number; else it may not be the first.)
            let none = simd.first_true_m32s(nan) == S::F32_LANES;
            let best = if none {
                larger(simd, larger(simd, a, b), larger(simd, c, d))
            } else {
                larger_or_nan(simd, larger_or_nan(simd, larger_or_nan(simd, a, b), c), d)
            };
            let max = normalized::<S, WHOLE>(simd, best.0, normalization, at, width);
            store::<S, WHOLE>(simd, y, at, width, max);
            store_places(simd, best.1, &mut argmax[at..][..width]);
        });
    }
}

/// Elements, and the numbers of their places, which travel as the bits of floats and are not computed with.
type Placed<S> = (<S as Simd>::f32s, <S as Simd>::f32s);

#[inline(always)]
fn place<S: Simd>(simd: S, place: usize) -> S::f32s {
    simd.splat_f32s(f32::from_bits(place as u32))
}

/// The largest elements, normalised if that is asked for.
#[inline(always)]
fn normalized<S: Simd, const WHOLE: bool>(
    simd: S,
    max: S::f32s,
    normalization: Option<&Normalization>,
    at: usize,
    width: usize,
) -> S::f32s {
    // 0 for a subnormal, whatever the comparisons made of it.
    let mut max = simd.add_f32s(max, simd.splat_f32s(0.0));
    if let Some(Normalization { mean, inv_deviation }) = normalization {
        let mean = load::<S, WHOLE>(simd, mean, at, width);
        let inv = load::<S, WHOLE>(simd, inv_deviation, at, width);
        max = simd.mul_f32s(simd.sub_f32s(max, mean), inv);
    }
    max
}

/// The larger of two elements that are no NaN, or the first, and its place.
#[inline(always)]
fn larger<S: Simd>(simd: S, a: Placed<S>, b: Placed<S>) -> Placed<S> {
    let larger = simd.greater_than_f32s(b.0, a.0);
    (simd.select_f32s(larger, b.0, a.0), simd.select_f32s(larger, b.1, a.1))
}

/// The larger of two elements, or the first; the second, if it is NaN.
#[inline(always)]
fn larger_or_nan<S: Simd>(simd: S, a: Placed<S>, b: Placed<S>) -> Placed<S> {
    let nan = simd.not_m32s(simd.equal_f32s(b.0, b.0));
    let larger = simd.or_m32s(simd.greater_than_f32s(b.0, a.0), nan);
    (simd.select_f32s(larger, b.0, a.0), simd.select_f32s(larger, b.1, a.1))
}

/// Whether every pixel is in exactly one window, and places' numbers are exact as floats.
pub(super) fn covers_every_pixel_once(shape: PoolShape) -> bool {
    let Window { size, stride, .. } = shape.window;
    let output = shape.output();
    size == stride
        && shape.window.area() <= 1 << f32::MANTISSA_DIGITS
        && output.height * stride[0] >= shape.input.height
        && output.width * stride[1] >= shape.input.width
}

/// [`backward`] of one image whose pixels are each in one window: every dx is written once, by the
/// place that it has there. Tells whether every dy has found its place.
struct OneWindowEach<'a, P> {
    shape: PoolShape,
    argmax: &'a [P],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl<P: Place> WithSimd for OneWindowEach<'_, P> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Self { shape, argmax, dy, dx } = self;
        let channels = shape.input.channels;
        let windows = Windows::new(shape);
        let output = shape.output();
        let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        let mut lost = zero;
        for oy in 0..output.height {
            for ox in 0..output.width {
                let window = windows.at(oy, ox);
                let from = (oy * output.width + ox) * channels;
                for_each_vector!(simd, channels, |at, width, WHOLE| {
                    // 0 for a subnormal, as the sum that `backward_image` makes.
                    let dy = simd.add_f32s(load::<S, WHOLE>(simd, dy, from + at, width), zero);
                    let place = places(simd, &argmax[from + at..][..width]);
                    let mut missing = one;
                    for_each_pixel!(window, |here, pixel| {
                        let is_here = simd.equal_f32s(place, simd.splat_f32s(here as f32));
                        missing = simd.select_f32s(is_here, zero, missing);
                        let dx_here = simd.select_f32s(is_here, dy, zero);
                        store::<S, WHOLE>(simd, dx, pixel * channels + at, width, dx_here);
                    });
                    lost = simd.add_f32s(lost, missing);
                });
            }
        }
        simd.reduce_sum_f32s(lost) == 0.0
    }
}

/// Numbers of places as floats, to compare with.
#[inline(always)]
pub(super) fn places<S: Simd, P: Place>(simd: S, places: &[P]) -> S::f32s {
    // As many as AVX-512 has lanes: a loop of constant length becomes one instruction.
    if let Ok(whole) = <&[P; 16]>::try_from(places) {
        let floats = whole.map(|place| place.index() as u32 as f32);
        return load::<S, true>(simd, &floats, 0, 16);
    }
    let mut floats = [0.0; MAX_LANES];
    for (float, &place) in floats.iter_mut().zip(places) {
        *float = place.index() as u32 as f32;
    }
    load::<S, true>(simd, &floats, 0, S::F32_LANES)
}

/// The other way round, from the bits of floats.
#[inline(always)]
fn store_places<S: Simd, P: Place>(simd: S, bits: S::f32s, places: &mut [P]) {
    // One instruction, where LLVM would write the vector to memory and read it again.
    #[cfg(target_arch = "x86_64")]
    {
        use core::any::TypeId;
        use core::arch::x86_64::{__m512i, _mm_storeu_si128, _mm512_cvtepi32_epi8};
        if is_avx512::<S>() && TypeId::of::<P>() == TypeId::of::<u8>() && places.len() == 16 {
            // SAFETY: `S` is V4, which only a processor with AVX-512 has and whose vectors are as long; sixteen places
            // are written, which are `u8`.
            unsafe {
                let bits = std::mem::transmute_copy::<S::f32s, __m512i>(&bits);
                _mm_storeu_si128(places.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(bits));
            }
            return;
        }
    }
    let mut floats = [0.0; MAX_LANES];
    store::<S, true>(simd, &mut floats, 0, S::F32_LANES, bits);
    for (place, float) in places.iter_mut().zip(floats) {
        *place = P::new(float.to_bits());
    }
}

/// [`backward`] of one image.
pub(super) fn backward_image<P: Place>(shape: PoolShape, argmax: &[P], dy: &[f32], dx: &mut [f32]) {
    let channels = shape.input.channels;
    let windows = Windows::new(shape);
    let output = shape.output();
    dx.fill(0.0);
    for oy in 0..output.height {
        for ox in 0..output.width {
            let window = windows.at(oy, ox);
            let from = (oy * output.width + ox) * channels;
            let (argmax, dy) = (&argmax[from..][..channels], &dy[from..][..channels]);
            for (c, (&place, &dy)) in argmax.iter().zip(dy).enumerate() {
                dx[window.pixel_of_place(place.index()) * channels + c] += dy;
            }
        }
    }
}

/// Where the windows of an image lie.
pub(super) struct Windows {
    shape: PoolShape,
    padding: [usize; 2],
}

impl Windows {
    pub(super) fn new(shape: PoolShape) -> Self {
        let padding = shape.window.padding_before(shape.input.height, shape.input.width);
        Self { shape, padding }
    }

    /// How many windows of a row, from its first on, are 2 x 2 pixels side by side, all of them the image's.
    pub(super) fn fours(&self, oy: usize) -> usize {
        let PoolShape { input, window } = self.shape;
        let side_by_side = window.size == [2, 2] && window.stride[1] == 2;
        if side_by_side && input.channels > 0 && self.at(oy, 0).rows.len() == 2 {
            input.width / 2
        } else {
            0
        }
    }

    /// The window of an output pixel: never empty, and its rows and columns are always the image's,
    /// because padding is less than a window on either side.
    #[inline(always)]
    pub(super) fn at(&self, oy: usize, ox: usize) -> PoolWindow {
        let PoolShape { input, window } = self.shape;
        let along = |axis: usize, out: usize, len: usize| {
            let start = out * window.stride[axis];
            let range = start.saturating_sub(self.padding[axis])
                ..(start.saturating_add(window.size[axis]) - self.padding[axis]).min(len);
            (range, start)
        };
        let (rows, top) = along(0, oy, input.height);
        let (columns, left) = along(1, ox, input.width);
        PoolWindow {
            rows,
            columns,
            padded_origin: [top, left],
            padding: self.padding,
            size: window.size,
            image: [input.height, input.width],
        }
    }
}

/// A window: its rows and columns inside the image.
pub(super) struct PoolWindow {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    /// Top left of the window in the padded image.
    padded_origin: [usize; 2],
    padding: [usize; 2],
    pub(super) size: [usize; 2],
    pub(super) image: [usize; 2],
}

impl PoolWindow {
    /// The place in the window of a pixel of the image.
    #[inline(always)]
    pub(super) fn place(&self, row: usize, column: usize) -> usize {
        let down = row + self.padding[0] - self.padded_origin[0];
        let right = column + self.padding[1] - self.padded_origin[1];
        down * self.size[1] + right
    }

    /// The number of a pixel in the image.
    #[inline(always)]
    pub(super) fn pixel(&self, row: usize, column: usize) -> usize {
        row * self.image[1] + column
    }

    /// The number in the image of the pixel at a place.
    #[inline(always)]
    #[track_caller]
    fn pixel_of_place(&self, place: usize) -> usize {
        let row = self.padded_origin[0] + place / self.size[1];
        let column = self.padded_origin[1] + place % self.size[1];
        let inside = row.checked_sub(self.padding[0]).zip(column.checked_sub(self.padding[1]));
        match inside {
            Some((row, column)) if row < self.rows.end && column < self.columns.end => {
                self.pixel(row, column)
            }
            _ => panic!("argmax {place} lies outside the window or the image"),
        }
    }
}
