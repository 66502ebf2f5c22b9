//! Max pooling of NHWC images. Stands in for the study's `tf.nn.max_pool`.
//!
//! Exact: every output is one of its inputs, subnormals as zero. Where windows overlap, a dx is a
//! sum of the dy of w windows, within `w u` of the sum of their magnitudes, with u = 2^-24.

use std::sync::atomic::{AtomicUsize, Ordering};

use pulp::{Simd, WithSimd};

use super::channels::{
    for_each_vector, for_each_vectors, load, load_unchecked, store, store_unchecked,
};
use super::relu_batch_norm::Normalization;
use super::windows::{
    PoolWindow, Windows, covers_every_pixel_once, for_each_pixel, rows_by_image, rows_per_chunk,
};
use super::{ELEMENTWISE_PARALLEL_MIN, kernel_span};
#[cfg(target_arch = "x86_64")]
use crate::cpu::is_avx512;
use crate::cpu::{Chunks, Cpu};
use crate::shape::{PoolShape, check_len};

/// A number that names a place in a window, row by row: `u8`, `u16` or `u32`, whichever is large
/// enough, and nothing else.
///
/// ```
/// use kernelet::kernels::max_pool::Place;
///
/// // A window of 16 x 16 is the largest that bytes are enough for.
/// assert_eq!(<u8 as Place>::PLACES, 256);
/// assert_eq!(u16::new(256).index(), 256);
/// ```
pub trait Place: Copy + Send + Sync + sealed::Sealed + 'static {
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

mod sealed {
    pub trait Sealed {}
}

macro_rules! place {
    ($($int:ident)*) => {$(
        impl sealed::Sealed for $int {}
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
    let parallel = cpu.shares(dx.len(), ELEMENTWISE_PARALLEL_MIN);
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
    let parallel = cpu.shares(x.len(), ELEMENTWISE_PARALLEL_MIN / 4);
    cpu.for_each_chunk(parallel, y, chunk, |index, y| {
        // SAFETY: `for_each_chunk` calls this once for every index.
        let argmax = unsafe { argmax.get(index) };
        cpu.dispatch(Rows { shape, x, normalization, first: index * rows, y, argmax });
    });
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
