//! What a first layer takes: floats, or the bytes of images.
//!
//! A byte counts as its 255th part, a pixel from 0 to 1. Bytes take a quarter of the memory, and with
//! [`Isa::Amx`](crate::Isa) they are multiplied as they are; for other instruction sets, and for small layers,
//! some rows at a time become floats.

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use pulp::{Simd, WithSimd};

use super::{ELEMENTWISE_CHUNK, ELEMENTWISE_PARALLEL_MIN, kernel_span};
use crate::cpu::Cpu;

/// An element of a layer's input: `f32`, or `u8`, which counts as its 255th part.
///
/// ```
/// use kernelet::{Cpu, kernels::linear, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 1, inputs: 3, outputs: 1 };
/// let (w, b, mut y) = ([1.0, 10.0, 100.0], [0.5], [0.0]);
/// linear::forward(&cpu, shape, &[0.0, 1.0, 0.2], &w, &b, &mut y);
/// assert_eq!(y, [30.5]);
/// linear::forward(&cpu, shape, &[0_u8, 255, 51], &w, &b, &mut y);
/// assert_eq!(y, [30.5]);
/// # Ok::<(), kernelet::Error>(())
/// ```
pub trait Input: Copy + Send + Sync + sealed::Sealed {}

impl Input for f32 {}
impl Input for u8 {}

pub(super) use sealed::Elements;

mod sealed {
    /// A layer's input, whichever it is.
    #[derive(Clone, Copy)]
    pub enum Elements<'a> {
        Floats(&'a [f32]),
        Bytes(&'a [u8]),
    }

    pub trait Sealed: Sized {
        fn elements(x: &[Self]) -> Elements<'_>;
    }

    impl Sealed for f32 {
        fn elements(x: &[Self]) -> Elements<'_> {
            Elements::Floats(x)
        }
    }

    impl Sealed for u8 {
        fn elements(x: &[Self]) -> Elements<'_> {
            Elements::Bytes(x)
        }
    }
}

/// The number that a byte counts as.
#[inline(always)]
pub(crate) fn pixel(byte: u8) -> f32 {
    f32::from(byte) / 255.0
}

/// The bytes of `pixels`, if each is one: a byte divided by 255, rounded to the nearest float. (-0 and
/// subnormals count as 0.)
///
/// ```
/// use kernelet::{Cpu, kernels::input};
///
/// let cpu = Cpu::detect()?;
/// assert_eq!(input::bytes(&cpu, &[0.0, 1.0, 51.0 / 255.0]), Some(vec![0, 255, 51]));
/// assert_eq!(input::bytes(&cpu, &[0.0, 1.0, 0.5]), None);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[must_use]
pub fn bytes(cpu: &Cpu, pixels: &[f32]) -> Option<Vec<u8>> {
    struct Bytes<'a>(&'a [f32], &'a mut [u8]);
    impl WithSimd for Bytes<'_> {
        type Output = bool;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> bool {
            let mut all = true;
            for (&x, byte) in self.0.iter().zip(self.1) {
                *byte = (x * 255.0 + 0.5) as u8;
                all &= pixel(*byte) == x;
            }
            all
        }
    }
    kernel_span!("input::bytes", pixels.len(), 5 * pixels.len());
    let mut bytes = vec![0; pixels.len()];
    let all = AtomicBool::new(true);
    // Most floats show at once.
    let some = pixels.len().min(ELEMENTWISE_CHUNK / 16);
    if !cpu.dispatch(Bytes(&pixels[..some], &mut bytes[..some])) {
        return None;
    }
    let parallel = cpu.shares(pixels.len(), ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, &mut bytes, ELEMENTWISE_CHUNK, |index, bytes| {
        let pixels = &pixels[index * ELEMENTWISE_CHUNK..][..bytes.len()];
        if all.load(Relaxed) && !cpu.dispatch(Bytes(pixels, bytes)) {
            all.store(false, Relaxed);
        }
    });
    all.into_inner().then_some(bytes)
}

/// `to` becomes the numbers that `bytes` count as.
pub(super) fn floats(cpu: &Cpu, bytes: &[u8], to: &mut [f32]) {
    struct Floats<'a>(&'a [u8], &'a mut [f32]);
    impl WithSimd for Floats<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for (&byte, to) in self.0.iter().zip(self.1) {
                // Without vectors there may be no instruction for the other way.
                *to = if S::F32_LANES == 1 { pixel(byte) } else { quotient(byte.into()) };
            }
        }
    }
    /// [`pixel`] without a division.
    #[inline(always)]
    fn quotient(byte: f32) -> f32 {
        byte.mul_add(BYTE.0, byte * BYTE.1)
    }
    let parallel = cpu.shares(to.len(), ELEMENTWISE_PARALLEL_MIN);
    cpu.for_each_chunk(parallel, to, ELEMENTWISE_CHUNK, |index, to| {
        let bytes = &bytes[index * ELEMENTWISE_CHUNK..][..to.len()];
        cpu.dispatch(Floats(bytes, to));
    });
}

/// 1/255, and what is left of it. b BYTE.0 + (b BYTE.1), the product in parentheses rounded and then the sum, is
/// b / 255 rounded to the nearest: a quotient is at least 1/510 of a unit in the last place away from the
/// middle of two floats, and the first rounding moves it by less than 2^-24 of one.
pub(super) const BYTE: (f32, f32) = (1.0 / 255.0, (1.0 / 255.0 - (1.0_f32 / 255.0) as f64) as f32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn bytes_and_floats_are_each_others() {
        let all: Vec<u8> = (0..=255).cycle().take(ELEMENTWISE_PARALLEL_MIN + 77).collect();
        let exact: Vec<f32> = all.iter().map(|&byte| pixel(byte)).collect();
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(isa).expect("it is available");
            let mut widened = vec![f32::NAN; all.len()];
            floats(&cpu, &all, &mut widened);
            assert_eq!(widened, exact, "{isa}");
            assert_eq!(bytes(&cpu, &exact).as_ref(), Some(&all), "{isa}");
            let zeros = [0.0, -0.0, f32::from_bits(1)];
            assert_eq!(bytes(&cpu, &zeros), Some(vec![0; 3]), "{isa}");
            for (at, other) in [(0, 0.5), (255, f32::NAN), (all.len() - 1, 1.0_f32.next_up())] {
                let mut pixels = exact.clone();
                pixels[at] = other;
                assert_eq!(bytes(&cpu, &pixels), None, "{isa}: {other} at {at}");
            }
        }
    }
}
