//! The accuracy of the exponential, in units in the last place of the exact result: on a sample of
//! all `f32` in the ordinary run, and on every one of the 2^32 in the run that continuous
//! integration makes of the ignored tests:
//!
//! `cargo test --test exp -- --ignored`

mod common;

use common::{Processor, processors, say, ulp};
use kernelet::kernels::exp;
use rayon::prelude::*;

/// Every so many bit patterns are in the sample. A prime, so that all low bits occur.
const STRIDE: u32 = 1009;

/// Bit patterns that go through the kernel in one call.
const BATCH: u32 = 1 << 13;

/// 2^128.
const TOO_LARGE: f64 = 2.0 * (1_u128 << 127) as f64;

/// How far `got` is from `want`, e^x as `f64` has it, in units in the last place of the exact result. Infinity counts as
/// 2^128, the first number that is too large. Below the normal range, and where a rounding leads
/// there, anything from 0 to its end will do. NaN in the wrong place is infinitely far.
fn error_ulps(want: f64, got: f32) -> f64 {
    if want.is_nan() || got.is_nan() {
        return if want.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let least = f64::from(f32::MIN_POSITIVE);
    if want < least + 2.0 * ulp(least) && (0.0..=least).contains(&f64::from(got)) {
        return 0.0;
    }
    let (want, got) = (want.min(TOO_LARGE), f64::from(got).min(TOO_LARGE));
    (got - want).abs() / ulp(want.min(f64::from(f32::MAX)))
}

/// e^x as `f64` has it. Of most bit patterns it is known without the function, which would take most
/// of the test's time.
fn exact(x: f32) -> f64 {
    let x = f64::from(x);
    if x.abs() < 2f64.powi(-30) {
        // The next term is below 2^-61.
        1.0 + x
    } else if x > 100.0 {
        // Above 2^144.
        f64::INFINITY
    } else if x < -110.0 {
        // Below 2^-158.
        0.0
    } else {
        x.exp()
    }
}

/// An error, and the input that has it.
type Error = (f64, f32);

/// The largest error over the inputs with the given bit patterns, on each instruction set.
fn worst_of(patterns: impl Iterator<Item = u32>) -> Vec<Error> {
    let x: Vec<f32> = patterns.map(f32::from_bits).collect();
    let want: Vec<f64> = x.iter().map(|&x| exact(x)).collect();
    let mut y = vec![-1.0; x.len()];
    let on = |Processor { cpus: [cpu, _], .. }: &Processor| {
        exp::forward(cpu, &x, &mut y);
        let errors = want.iter().zip(&y).map(|(&want, &y)| error_ulps(want, y));
        errors.zip(x.iter().copied()).fold((0.0, 0.0), worse)
    };
    processors().iter().map(on).collect()
}

fn worse(a: Error, b: Error) -> Error {
    if b.0 > a.0 { b } else { a }
}

/// Checks every `stride`-th bit pattern on every instruction set.
fn sweep(stride: u32) {
    let worst = (0..=u32::MAX / BATCH)
        .into_par_iter()
        .map(|batch| {
            let first = (batch * BATCH).next_multiple_of(stride);
            let last = batch * BATCH + (BATCH - 1);
            worst_of((first..=last).step_by(stride as usize))
        })
        .reduce_with(|a, b| a.into_iter().zip(b).map(|(a, b)| worse(a, b)).collect());
    let mut failures = Vec::new();
    for (Processor { isa, .. }, (error, x)) in processors().iter().zip(worst.expect("a batch")) {
        say(&format!("exp on {isa}, 1 in {stride}: off by at most {error:.4} ulp, at {x:e}"));
        if error > exp::MAX_ERROR_ULPS {
            failures.push(format!("e^{x:e} on {isa} is off by {error} ulp"));
        }
    }
    assert!(failures.is_empty(), "more than {} ulp: {}", exp::MAX_ERROR_ULPS, failures.join(", "));
}

#[test]
fn a_sample_of_all_inputs_is_within_the_stated_error() {
    sweep(STRIDE);
}

#[test]
#[ignore = "takes a minute; continuous integration runs it"]
fn every_input_is_within_the_stated_error() {
    sweep(1);
}

/// The yardstick itself, and that it would see what is wrong.
#[test]
fn errors_are_measured_in_units_of_the_exact_result() {
    let one_up = f32::from_bits(1.0f32.to_bits() + 1);
    let cases = [
        (0.0, 1.0, 0.0),
        (0.0, one_up, 1.0),
        (f32::INFINITY, f32::INFINITY, 0.0),
        (100.0, f32::INFINITY, 0.0),
        (100.0, f32::MAX, 1.0),
        (-200.0, 0.0, 0.0),
        (-200.0, f32::from_bits(3), 0.0),
        (-88.0, 1e-20, f64::INFINITY),
        (-87.0, 0.0, f64::INFINITY),
        (f32::NAN, f32::NAN, 0.0),
        (f32::NAN, 1.0, f64::INFINITY),
        (1.0, f32::NAN, f64::INFINITY),
        (0.0, f32::INFINITY, f64::INFINITY),
    ];
    for (x, got, wanted) in cases {
        let error = error_ulps(f64::from(x).exp(), got);
        let near =
            (error - wanted).abs() < 1e-6 || error == wanted || (wanted > 9.0 && error > 1e6);
        assert!(near, "e^{x} = {got} is off by {error} ulp, not {wanted}");
    }
}
