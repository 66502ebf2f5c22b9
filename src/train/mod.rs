//! The training loops: data in, history out, a network changed in place.
//!
//! An update of the weights opens a `tracing` span `step`, an evaluation one of the name `evaluate`,
//! both of target `kernelet::train`; the spans of the kernels lie within.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cnn;
mod finite;
pub mod history;
pub mod mlp;
mod patience;
pub mod weights;

/// Opens the span of a part of a training loop: `let _span = train_span!("name");`.
macro_rules! train_span {
    ($name:literal) => {
        tracing::trace_span!(target: "kernelet::train", $name).entered()
    };
}
use train_span;

pub use history::{Epoch, History, Metrics};
