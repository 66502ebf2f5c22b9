//! Vectors of channels: NHWC images have a pixel's channels side by side.

use pulp::Simd;

/// Calls `$body` for every vector of `$channels` channels, with `$at` the first channel, `$width` their
/// number and `$whole` a constant that says whether they fill the vector. (A macro, because a
/// closure would be compiled without the vector instructions.)
macro_rules! for_each_vector {
    ($simd:ident, $channels:expr, |$at:ident, $width:ident, $whole:ident| $body:block) => {{
        let (channels, lanes) = ($channels, S::F32_LANES);
        let mut $at = 0;
        while $at + lanes <= channels {
            let $width = lanes;
            const $whole: bool = true;
            $body
            $at += lanes;
        }
        if $at < channels {
            let $width = channels - $at;
            const $whole: bool = false;
            $body
        }
    }};
}
pub(super) use for_each_vector;

/// [`for_each_vector`], but four whole vectors at a time, then two, as long as there are so many: `$count` is a
/// constant, too. What is added up of one vector after the other waits for the sum; of several it need not.
macro_rules! for_each_vectors {
    ($simd:ident, $channels:expr, |$at:ident, $width:ident, $whole:ident, $count:ident| $body:block) => {{
        let (channels, lanes) = ($channels, S::F32_LANES);
        let several = channels - channels % (4 * lanes);
        for $at in (0..several).step_by(4 * lanes) {
            let $width = lanes;
            const $whole: bool = true;
            const $count: usize = 4;
            $body
        }
        let paired = channels - channels % (2 * lanes);
        if several < paired {
            let ($at, $width) = (several, lanes);
            const $whole: bool = true;
            const $count: usize = 2;
            $body
        }
        const $count: usize = 1;
        for_each_vector!($simd, channels - paired, |at, $width, $whole| {
            let $at = paired + at;
            $body
        });
    }};
}
pub(super) use for_each_vectors;

/// A vector of `width` elements from `at`; lanes that are missing (only if not `WHOLE`) are 0.
#[inline(always)]
pub(super) fn load<S: Simd, const WHOLE: bool>(
    simd: S,
    from: &[f32],
    at: usize,
    width: usize,
) -> S::f32s {
    if WHOLE {
        S::as_simd_f32s(&from[at..][..S::F32_LANES]).0[0]
    } else {
        simd.partial_load_f32s(&from[at..][..width])
    }
}

/// Writes what [`load`] reads.
#[inline(always)]
pub(super) fn store<S: Simd, const WHOLE: bool>(
    simd: S,
    to: &mut [f32],
    at: usize,
    width: usize,
    value: S::f32s,
) {
    if WHOLE {
        S::as_mut_simd_f32s(&mut to[at..][..S::F32_LANES]).0[0] = value;
    } else {
        simd.partial_store_f32s(&mut to[at..][..width], value);
    }
}

/// [`load`] without a check, for loops that it would slow down.
///
/// # Safety
/// `at + width` must be at most the slice's length, and `width` the vector's if `WHOLE`.
#[inline(always)]
pub(super) unsafe fn load_unchecked<S: Simd, const WHOLE: bool>(
    simd: S,
    from: &[f32],
    at: usize,
    width: usize,
) -> S::f32s {
    debug_assert!(at + width <= from.len(), "{width} elements from {at} of {}", from.len());
    // SAFETY: the caller's promise. Vectors are aligned like their elements.
    unsafe {
        if WHOLE {
            from.as_ptr().add(at).cast::<S::f32s>().read_unaligned()
        } else {
            simd.partial_load_f32s(from.get_unchecked(at..at + width))
        }
    }
}

/// [`store`] without a check.
///
/// # Safety
/// As for [`load_unchecked`].
#[inline(always)]
pub(super) unsafe fn store_unchecked<S: Simd, const WHOLE: bool>(
    simd: S,
    to: &mut [f32],
    at: usize,
    width: usize,
    value: S::f32s,
) {
    debug_assert!(at + width <= to.len(), "{width} elements from {at} of {}", to.len());
    // SAFETY: the caller's promise. Vectors are aligned like their elements.
    unsafe {
        if WHOLE {
            to.as_mut_ptr().add(at).cast::<S::f32s>().write_unaligned(value);
        } else {
            simd.partial_store_f32s(to.get_unchecked_mut(at..at + width), value);
        }
    }
}
