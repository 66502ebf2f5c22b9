//! Arrays of other crates as the kernels' arguments, each behind a feature of its name.
//!
//! Nothing is copied: what lies in memory as a kernel wants it is handed on, and anything else is
//! refused with an error that names the argument, its shape and its strides.

#![forbid(unsafe_code)]

#[cfg(feature = "ndarray")]
pub mod ndarray;
