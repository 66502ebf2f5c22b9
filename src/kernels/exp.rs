//! e^x, vectorised: what softmax is made of.
//!
//! Cody and Waite's reduction to `|r| <= ln 2 / 2` ("Software Manual for the Elementary Functions",
//! 1980), ln 2 in two parts (softmax's has one), and a minimax polynomial of degree 6 in r.

#![forbid(unsafe_code)]

use pulp::{Simd, WithSimd};

use super::{ELEMENTWISE_CHUNK, ELEMENTWISE_PARALLEL_MIN, kernel_span};
use crate::cpu::Cpu;
use crate::shape::check_len;

/// Largest error of [`forward`] over all finite inputs, in units in the last place of the exact
/// result, on every instruction set, where that is in the normal range. `tests/exp.rs` checks it on
/// all 2^32 inputs; measured: 1.009 with FMA, 0.978 without.
pub const MAX_ERROR_ULPS: f64 = 1.05;

/// y = e^x to within [`MAX_ERROR_ULPS`]. Overflow gives infinity, -infinity and results below the
/// normal range give 0, NaN stays NaN.
///
/// ```
/// use kernelet::{Cpu, kernels::exp};
///
/// let cpu = Cpu::detect()?;
/// let mut y = [0.0; 4];
/// exp::forward(&cpu, &[0.0, 1.0, 89.0, -200.0], &mut y);
/// assert_eq!((y[0], y[2], y[3]), (1.0, f32::INFINITY, 0.0));
/// let ulp = 2_f64.powi(-22);
/// assert!((f64::from(y[1]) - std::f64::consts::E).abs() <= exp::MAX_ERROR_ULPS * ulp);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Panics
/// If `y` is not as long as `x`.
pub fn forward(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
    struct Forward<'a>(&'a [f32], &'a mut [f32]);
    impl WithSimd for Forward<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (x, x_tail) = S::as_simd_f32s(self.0);
            let (y, y_tail) = S::as_mut_simd_f32s(self.1);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp(simd, x);
            }
            simd.partial_store_f32s(y_tail, exp(simd, simd.partial_load_f32s(x_tail)));
        }
    }
    check_len("y", y.len(), 1, x.len());
    kernel_span!("exp::forward", 15 * x.len(), 8 * x.len());
    let parallel = cpu.shares(x.len(), ELEMENTWISE_PARALLEL_MIN / 8);
    cpu.for_each_chunk(parallel, y, ELEMENTWISE_CHUNK, |index, y| {
        let x = &x[index * ELEMENTWISE_CHUNK..][..y.len()];
        cpu.dispatch(Forward(x, y));
    });
}

/// e^x of one vector.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Where e^x, and so 2^n (see [`reduced`]), is in the normal range.
    let is_usual = simd.less_than_or_equal_f32s(simd.abs_f32s(x), simd.splat_f32s(87.0));
    if simd.first_true_m32s(simd.not_m32s(is_usual)) < S::F32_LANES {
        return exp_of_any(simd, x);
    }
    let (e_r, shifted) = reduced(simd, x, MAGIC + EXPONENT_BIAS);
    simd.mul_f32s(e_r, power_of_two(simd, simd.transmute_u32s_f32s(shifted)))
}

/// [`exp`] of a vector that has a number far from zero, an infinity or NaN in it. What else is in it gets the
/// same bits.
///
/// 2^n is applied as two factors, because for subnormal results and just below the overflow it is not a
/// float itself.
#[inline(always)]
fn exp_of_any<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Beyond these bounds the result is 0 or infinity; inside, n fits the two factors.
    let bounded = simd.min_f32s(simd.splat_f32s(89.0), x);
    let bounded = simd.max_f32s(simd.splat_f32s(-104.0), bounded);

    // n + 254 = a + b, both positive; 2^n = 2^(a - 127) 2^(b - 127).
    let (e_r, shifted) = reduced(simd, bounded, MAGIC + 2.0 * EXPONENT_BIAS);
    let sum = simd.sub_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(MAGIC.to_bits()));
    let a = simd.wrapping_dyn_shr_u32s(sum, simd.splat_u32s(1));
    let b = simd.sub_u32s(sum, a);
    let y = simd.mul_f32s(simd.mul_f32s(e_r, power_of_two(simd, a)), power_of_two(simd, b));
    // The bounds above lose NaN on some instruction sets.
    simd.select_f32s(simd.equal_f32s(x, x), y, x)
}

/// e^x of one vector that is nowhere positive, as softmax has it: without [`exp`]'s branch. Nothing can
/// overflow, and an error of 0.05 |x| u is nothing beside that of softmax's x, |x| u. Below the logarithm
/// of the smallest normal number the result is 0.
#[inline(always)]
pub(super) fn exp_nonpositive<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let magic = MAGIC + EXPONENT_BIAS;
    let two_to_n = |shifted| power_of_two(simd, simd.transmute_u32s_f32s(shifted));
    // pulp's vectors on x86-64 that `Isa` has, AVX2's and AVX-512's, come with fused multiply-adds.
    let fused_x86 = cfg!(target_arch = "x86_64") && S::F32_LANES >= 8;
    if fused_x86 {
        // The exponent n is -127 at least, whose power of two is 0 by its bits; what is subnormal with
        // -126 is flushed. Of two operands, one of them NaN, the maximum is the second. (Elsewhere it
        // need not be.)
        let x = simd.max_f32s(simd.splat_f32s(-88.0), x);
        let (shifted, n) = nearest(simd, x, magic);
        // Products are not rounded, so that ln 2 may have a single part, which is 1.9e-9 off: for each
        // unit of x 0.05 u.
        let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-std::f32::consts::LN_2), x);
        let one = simd.splat_f32s(1.0);
        let slope = simd.mul_add_e_f32s(quotient(simd, r), r, one);
        simd.mul_f32s(simd.mul_add_e_f32s(slope, r, one), two_to_n(shifted))
    } else {
        /// Just above ln 2^-126: the exponent n is -126 at least.
        const MIN: f32 = -87.336_54;
        let (e_r, shifted) = reduced(simd, x, magic);
        // NaN is not less than anything, and NaN times anything is NaN.
        let y = simd.mul_f32s(e_r, two_to_n(shifted));
        simd.select_f32s(simd.less_than_f32s(x, simd.splat_f32s(MIN)), simd.splat_f32s(0.0), y)
    }
}

/// 1.5 * 2^23: adding it to a smaller number rounds that to an integer and leaves it in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// What a float's exponent is stored with.
const EXPONENT_BIAS: f32 = 127.0;

/// e^r and n + `magic` with x = n ln 2 + r, |r| <= ln 2 / 2 (Cody and Waite's reduction, ln 2 in two
/// parts). e^r = 1 + r + r^2 q(r) with a minimax polynomial q of degree 4 (relative error 2^-28
/// before rounding). n comes from adding [`MAGIC`], or that and an integer, as in XNNPACK's
/// exponentials.
#[inline(always)]
fn reduced<S: Simd>(simd: S, x: S::f32s, magic: f32) -> (S::f32s, S::f32s) {
    let (shifted, n) = nearest(simd, x, magic);
    // The first part of ln 2 has 12 bits, so that its product with n is exact without FMA too.
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_115_23), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-3.194_618_3e-5), r);
    let r_squared = simd.mul_f32s(r, r);
    let e_r = simd.mul_add_e_f32s(quotient(simd, r), r_squared, r);
    (simd.add_f32s(e_r, simd.splat_f32s(1.0)), shifted)
}

/// n + `magic` and n, the integer nearest to x / ln 2.
#[inline(always)]
fn nearest<S: Simd>(simd: S, x: S::f32s, magic: f32) -> (S::f32s, S::f32s) {
    let magic = simd.splat_f32s(magic);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), magic);
    (shifted, simd.sub_f32s(shifted, magic))
}

/// q(r) of [`reduced`], (e^r - 1 - r) / r^2.
#[inline(always)]
fn quotient<S: Simd>(simd: S, r: S::f32s) -> S::f32s {
    let q = simd.splat_f32s(0.001_381_307_4);
    let q = simd.mul_add_e_f32s(q, r, simd.splat_f32s(0.008_369_419));
    let q = simd.mul_add_e_f32s(q, r, simd.splat_f32s(0.041_668_46));
    let q = simd.mul_add_e_f32s(q, r, simd.splat_f32s(0.166_665_15));
    simd.mul_add_e_f32s(q, r, simd.splat_f32s(0.499_999_94))
}

/// 2^(biased - 127) by way of the exponent bits. Only the low 8 bits of `biased` count, as long as the ninth
/// is 0.
#[inline(always)]
fn power_of_two<S: Simd>(simd: S, biased: S::u32s) -> S::f32s {
    simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(biased, simd.splat_u32s(23)))
}
