//! The scalar twin of every kernel, under the same name: plain loops that follow the mathematics
//! line by line, generic over `f32` and `f64`.
//!
//! They are the oracle of the tests, the far side of the finite differences, and the "naive" row
//! of the benchmarks. Nothing here is meant to be fast. Shapes are those of the kernels; slices
//! that are too short panic by index.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

pub mod cross_entropy;
pub mod exp;
pub mod gemm;
pub mod linear;
pub mod mlp;
pub mod momentum;
pub mod relu;
pub mod softmax;
pub mod softmax_cross_entropy;

/// What the twins compute with: `f32` or `f64`.
pub trait Float:
    Copy
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + 'static
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Minus infinity
    const NEG_INFINITY: Self;
    /// e^self
    fn exp(self) -> Self;
    /// Natural logarithm
    fn ln(self) -> Self;
    /// The nearest value to `x`
    fn from_f64(x: f64) -> Self;
    /// The same value
    fn to_f64(self) -> f64;
}

macro_rules! float {
    ($float:ident) => {
        impl Float for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $float::NEG_INFINITY;
            fn exp(self) -> Self {
                $float::exp(self)
            }
            fn ln(self) -> Self {
                $float::ln(self)
            }
            fn from_f64(x: f64) -> Self {
                x as $float
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
        }
    };
}
float!(f32);
float!(f64);
