//! Max pooling of NHWC images. Stands in for the study's `tf.nn.max_pool`.
//!
//! Exact: every output is one of its inputs, subnormals as zero. Where windows overlap, a dx is a
//! sum of the dy of w windows, within `w u` of the sum of their magnitudes, with u = 2^-24.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use pulp::{Simd, WithSimd};

use super::channels::{
    for_each_vector, for_each_vectors, load, load_unchecked, store, store_unchecked,
};
use super::relu_batch_norm::Normalization;
use super::{ELEMENTWISE_CHUNK, ELEMENTWISE_PARALLEL_MIN, kernel_span};
#[cfg(target_arch = "x86_64")]
use crate::cpu::is_avx512;
use crate::cpu::{Chunks, Cpu};
use crate::shape::{ImageShape, PoolShape, Window, check_len};

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
    let parallel = dx.len() >= ELEMENTWISE_PARALLEL_MIN;
    let rows = rows_per_chunk(shape.input, dx.len(), shape.window.stride[0]);
    let chunk = rows * shape.input.width * shape.input.channels;
    let found = AtomicUsize::new(0);
    cpu.for_each_chunk(parallel, dx, chunk, |index, dx| {
        let here = cpu.dispatch(BackwardRows { shape, argmax, dy, first: index * rows, dx });
        found.fetch_add(here, Ordering::Relaxed);
    });
    if found.into_inner() != dy.len() {
        check_places(shape, argmax);
    }
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

/// Lanes of the widest vector, AVX-512's.
const MAX_LANES: usize = 16;

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
    let output = shape.output();
    let rows = rows_per_chunk(output, x.len(), 1);
    let chunk = rows * output.width * output.channels;
    let argmax = Chunks::new(argmax, chunk);
    let parallel = x.len() >= ELEMENTWISE_PARALLEL_MIN / 4;
    cpu.for_each_chunk(parallel, y, chunk, |index, y| {
        // SAFETY: `for_each_chunk` calls this once for every index.
        let argmax = unsafe { argmax.get(index) };
        cpu.dispatch(Rows { shape, x, normalization, first: index * rows, y, argmax });
    });
}

/// How many of the batch's rows a thread takes at a time, where all of them together have, or are made of,
/// `elements`: a multiple of `stride`, so that as a rule no window of that height is cut.
pub(super) fn rows_per_chunk(images: ImageShape, elements: usize, stride: usize) -> usize {
    let rows = images.batch.saturating_mul(images.height);
    let chunk = rows.div_ceil(elements.div_ceil(ELEMENTWISE_CHUNK).max(1));
    chunk.checked_next_multiple_of(stride).map_or(rows, |chunk| chunk.min(rows))
}

/// [`forward`] of rows of windows, whoever does the others.
pub(super) struct Rows<'a, P> {
    pub(super) shape: PoolShape,
    /// Whole images.
    pub(super) x: &'a [f32],
    pub(super) normalization: Option<&'a Normalization>,
    /// The first of the rows, counted through all images.
    pub(super) first: usize,
    pub(super) y: &'a mut [f32],
    pub(super) argmax: &'a mut [P],
}

impl<P: Place> WithSimd for Rows<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, x, normalization, first, y, argmax } = self;
        let (image, channels) = (shape.input.image_len(), shape.input.channels);
        let windows = Windows::new(shape);
        let output = shape.output();
        let row = output.width * channels;
        let rows = y.chunks_exact_mut(row).zip(argmax.chunks_exact_mut(row));
        for (number, (y, argmax)) in (first..).zip(rows) {
            let x = &x[number / output.height * image..][..image];
            let oy = number % output.height;
            let fours = windows.fours(oy);
            if fours > 0 {
                let row = shape.input.width * channels;
                let x = &x[windows.at(oy, 0).rows.start * row..][..2 * row];
                largest_of_fours(simd, channels, fours, x.split_at(row), normalization, y, argmax);
            }
            for ox in fours..output.width {
                let window = windows.at(oy, ox);
                for_each_vector!(simd, channels, |at, width, WHOLE| {
                    let part = (channels, at, width);
                    // SAFETY: a window's pixels are the image's, of which x has all; `for_each_vector` gives
                    // whole vectors where WHOLE.
                    let (mut best, sum) =
                        unsafe { largest::<S, WHOLE, false>(simd, x, part, &window) };
                    if is_any_nan(simd, sum) {
                        // SAFETY: the same.
                        (best, _) = unsafe { largest::<S, WHOLE, true>(simd, x, part, &window) };
                    }
                    let max = normalized::<S, WHOLE>(simd, best.0, normalization, at, width);
                    let to = ox * channels + at;
                    store::<S, WHOLE>(simd, y, to, width, max);
                    store_places(simd, best.1, &mut argmax[to..][..width]);
                });
            }
        }
    }
}

/// The largest elements of a window, of `width` of its `channels` from `at`, and the sum of all, which is NaN if
/// one of them is (or where it overflows): then they must be looked for with `MAYBE_NAN`.
///
/// # Safety
/// x must have the window's pixels, and `width` be the vector's if `WHOLE`.
#[inline(always)]
unsafe fn largest<S: Simd, const WHOLE: bool, const MAYBE_NAN: bool>(
    simd: S,
    x: &[f32],
    (channels, at, width): (usize, usize, usize),
    window: &PoolWindow,
) -> (Placed<S>, S::f32s) {
    let (top, left) = (window.rows.start, window.columns.start);
    let max = load::<S, WHOLE>(simd, x, window.pixel(top, left) * channels + at, width);
    let mut best = (max, simd.splat_u32s(window.place(top, left) as u32));
    let mut sum = simd.splat_f32s(0.0);
    for row in window.rows.clone() {
        let mut here = simd.splat_u32s(window.place(row, left) as u32);
        for column in window.columns.clone() {
            let from = window.pixel(row, column) * channels + at;
            // SAFETY: the caller's promise.
            let x = unsafe { load_unchecked::<S, WHOLE>(simd, x, from, width) };
            if MAYBE_NAN {
                best = larger_or_nan(simd, best, (x, here));
            } else {
                sum = simd.add_f32s(sum, x);
                best = larger(simd, best, (x, here));
            }
            here = simd.add_u32s(here, simd.splat_u32s(1));
        }
    }
    (best, sum)
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
            let (a, b) = ((a, simd.splat_u32s(0)), (b, simd.splat_u32s(1)));
            let (c, d) = ((c, simd.splat_u32s(2)), (d, simd.splat_u32s(3)));
            let best = if is_any_nan(simd, sum) {
                larger_or_nan(simd, larger_or_nan(simd, larger_or_nan(simd, a, b), c), d)
            } else {
                larger(simd, larger(simd, a, b), larger(simd, c, d))
            };
            let max = normalized::<S, WHOLE>(simd, best.0, normalization, at, width);
            store::<S, WHOLE>(simd, y, at, width, max);
            store_places(simd, best.1, &mut argmax[at..][..width]);
        });
    }
}

/// Elements, and the numbers of their places.
type Placed<S> = (<S as Simd>::f32s, <S as Simd>::u32s);

#[inline(always)]
fn is_any_nan<S: Simd>(simd: S, x: S::f32s) -> bool {
    // (Of no lane it is their number; else it may not be the first.)
    simd.first_true_m32s(simd.not_m32s(simd.equal_f32s(x, x))) != S::F32_LANES
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
    (simd.max_f32s(b.0, a.0), simd.select_u32s(larger, b.1, a.1))
}

/// The larger of two elements, or the first; the second, if it is NaN.
#[inline(always)]
fn larger_or_nan<S: Simd>(simd: S, a: Placed<S>, b: Placed<S>) -> Placed<S> {
    let nan = simd.not_m32s(simd.equal_f32s(b.0, b.0));
    let larger = simd.or_m32s(simd.greater_than_f32s(b.0, a.0), nan);
    (simd.select_f32s(larger, b.0, a.0), simd.select_u32s(larger, b.1, a.1))
}

/// Whether every pixel is in exactly one window.
pub(super) fn covers_every_pixel_once(shape: PoolShape) -> bool {
    let Window { size, stride, .. } = shape.window;
    let output = shape.output();
    size == stride
        && output.height.saturating_mul(stride[0]) >= shape.input.height
        && output.width.saturating_mul(stride[1]) >= shape.input.width
}

/// [`backward`] of rows of pixels, whoever does the others. Gives the number of dy that have found their places,
/// of which each has one.
pub(super) struct BackwardRows<'a, P> {
    pub(super) shape: PoolShape,
    /// Of all images, as dy.
    pub(super) argmax: &'a [P],
    pub(super) dy: &'a [f32],
    /// The first of the rows, counted through all images.
    pub(super) first: usize,
    pub(super) dx: &'a mut [f32],
}

impl<P: Place> WithSimd for BackwardRows<'_, P> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        if covers_every_pixel_once(self.shape) {
            self.add_up::<S, true>(simd)
        } else {
            self.add_up::<S, false>(simd)
        }
    }
}

impl<P: Place> BackwardRows<'_, P> {
    /// With `ONCE`, every pixel is in one window, and its dx is written when that comes.
    #[inline(always)]
    fn add_up<S: Simd, const ONCE: bool>(self, simd: S) -> usize {
        let Self { shape, argmax, dy, first, dx } = self;
        let channels = shape.input.channels;
        let windows = Windows::new(shape);
        let output = shape.output();
        let (zero, none) = (simd.splat_f32s(0.0), simd.splat_u32s(0));
        // Lanes that are missing find nothing.
        let one_of_rest = simd.partial_load_u32s(&[1; MAX_LANES][..channels % S::F32_LANES]);
        let mut found = none;
        // Where windows overlap, the channels that fill no vector come one by one: for each place to load and to
        // store part of a vector takes longer.
        let in_vectors = if ONCE { channels } else { channels - channels % S::F32_LANES };
        let mut found_alone = 0;
        for (image, rows, dx) in rows_by_image(shape.input, first, dx) {
            if !ONCE {
                dx.fill(0.0);
            }
            let pixels = rows.start * shape.input.width..rows.end * shape.input.width;
            for oy in windows.touching(rows.clone()) {
                for ox in 0..output.width {
                    let mut window = windows.at(oy, ox);
                    let from = ((image * output.height + oy) * output.width + ox) * channels;
                    for c in in_vectors..channels {
                        let pixel = window.pixel_of_place(argmax[from + c].index());
                        if pixels.contains(&pixel) {
                            dx[(pixel - pixels.start) * channels + c] += dy[from + c];
                            found_alone += 1;
                        }
                    }
                    window.rows = window.rows.start.max(rows.start)..window.rows.end.min(rows.end);
                    for_each_vectors!(simd, in_vectors, |at, width, WHOLE, COUNT| {
                        let one = if WHOLE { simd.splat_u32s(1) } else { one_of_rest };
                        let (mut dys, mut place) = ([zero; COUNT], [none; COUNT]);
                        let mut missing = [one; COUNT];
                        for i in 0..COUNT {
                            let from = from + at + i * width;
                            dys[i] = load::<S, WHOLE>(simd, dy, from, width);
                            place[i] = places(simd, &argmax[from..]);
                        }
                        for_each_pixel!(window, |here, pixel| {
                            let here = simd.splat_u32s(here as u32);
                            let to = (pixel - pixels.start) * channels + at;
                            for i in 0..COUNT {
                                let to = to + i * width;
                                let is_here = simd.equal_u32s(place[i], here);
                                missing[i] = simd.select_u32s(is_here, none, missing[i]);
                                let dy = simd.select_f32s(is_here, dys[i], zero);
                                // SAFETY: the window's rows are among `rows`, of which dx has all, and its columns
                                // the image's; every pixel has `COUNT` times `width` channels from `at`, a vector's
                                // if WHOLE (`for_each_vectors`).
                                unsafe {
                                    let sum = if ONCE {
                                        zero
                                    } else {
                                        load_unchecked::<S, WHOLE>(simd, dx, to, width)
                                    };
                                    let sum = simd.add_f32s(sum, dy);
                                    store_unchecked::<S, WHOLE>(simd, dx, to, width, sum);
                                }
                            }
                        });
                        for missing in missing {
                            found = simd.add_u32s(found, simd.sub_u32s(one, missing));
                        }
                    });
                }
            }
        }
        let mut lanes = [0; MAX_LANES];
        S::as_mut_simd_u32s(&mut lanes[..S::F32_LANES]).0[0] = found;
        lanes.iter().map(|&found: &u32| found as usize).sum::<usize>() + found_alone
    }
}

/// What there is of every image in `rows`, whose first is the batch's `first`: the image's number, which of its
/// rows, and those.
pub(super) fn rows_by_image(
    images: ImageShape,
    mut first: usize,
    mut rows: &mut [f32],
) -> impl Iterator<Item = (usize, Range<usize>, &mut [f32])> {
    let row = images.width * images.channels;
    std::iter::from_fn(move || {
        let (image, top) = (first.checked_div(images.height)?, first % images.height);
        let bottom = images.height.min(top + rows.len().checked_div(row)?);
        first += bottom - top;
        let part = rows.split_off_mut(..(bottom - top) * row)?;
        (!part.is_empty()).then_some((image, top..bottom, part))
    })
}

/// Numbers of the first places, as many as there are lanes, to compare with; 0 if there are not so many.
#[inline(always)]
pub(super) fn places<S: Simd, P: Place>(_: S, places: &[P]) -> S::u32s {
    // A loop of constant length becomes one instruction.
    if S::F32_LANES == 16
        && let Some(whole) = places.first_chunk::<16>()
    {
        return S::as_simd_u32s(&whole.map(|place| place.index() as u32)).0[0];
    }
    if S::F32_LANES == 8
        && let Some(whole) = places.first_chunk::<8>()
    {
        return S::as_simd_u32s(&whole.map(|place| place.index() as u32)).0[0];
    }
    let mut numbers = [0; MAX_LANES];
    for (number, place) in numbers[..S::F32_LANES].iter_mut().zip(places) {
        *number = place.index() as u32;
    }
    S::as_simd_u32s(&numbers[..S::F32_LANES]).0[0]
}

/// The other way round.
#[inline(always)]
fn store_places<S: Simd, P: Place>(_: S, numbers: S::u32s, places: &mut [P]) {
    // One instruction, where LLVM would write the vector to memory and read it again.
    #[cfg(target_arch = "x86_64")]
    {
        use core::any::TypeId;
        use core::arch::x86_64::{__m512i, _mm_storeu_si128, _mm512_cvtepi32_epi8};
        if is_avx512::<S>() && TypeId::of::<P>() == TypeId::of::<u8>() && places.len() == 16 {
            // SAFETY: `S` is V4, which only a processor with AVX-512 has and whose vectors are as long; sixteen places
            // are written, which are `u8`.
            unsafe {
                let numbers = std::mem::transmute_copy::<S::u32s, __m512i>(&numbers);
                _mm_storeu_si128(places.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(numbers));
            }
            return;
        }
    }
    let mut lanes = [0; MAX_LANES];
    S::as_mut_simd_u32s(&mut lanes[..S::F32_LANES]).0[0] = numbers;
    for (place, number) in places.iter_mut().zip(lanes) {
        *place = P::new(number);
    }
}

/// Panics if a place lies outside its window or the image.
#[track_caller]
fn check_places<P: Place>(shape: PoolShape, argmax: &[P]) {
    let windows = Windows::new(shape);
    let output = shape.output();
    for (pixel, argmax) in argmax.chunks_exact(output.channels.max(1)).enumerate() {
        let window = windows.at(pixel / output.width % output.height, pixel % output.width);
        for place in argmax {
            window.pixel_of_place(place.index());
        }
    }
}

/// Where the windows of an image lie.
pub(super) struct Windows {
    shape: PoolShape,
    /// Rows of windows.
    height: usize,
    padding: [usize; 2],
}

impl Windows {
    pub(super) fn new(shape: PoolShape) -> Self {
        let padding = shape.window.padding_before(shape.input.height, shape.input.width);
        Self { shape, height: shape.output().height, padding }
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

    /// The rows of windows that reach into an image's `rows`, of which there is one at least.
    pub(super) fn touching(&self, rows: Range<usize>) -> Range<usize> {
        let Window { size: [height, _], stride: [stride, _], .. } = self.shape.window;
        let (top, bottom) = (rows.start + self.padding[0], rows.end - 1 + self.padding[0]);
        // The first ends below the top, the last begins at the bottom or above.
        let first = if top < height { 0 } else { (top - height) / stride + 1 };
        first..(bottom / stride + 1).min(self.height)
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
