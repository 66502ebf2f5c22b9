//! The training loops: data in, history out, a network changed in place.
//!
//! ```
//! use std::ops::ControlFlow;
//! use kernelet::nn::{Mlp, MlpShape};
//! use kernelet::{Cpu, data::Dataset, train::mlp};
//!
//! let cpu = Cpu::detect()?;
//! let split = Dataset::letters()?.split(Some((100, 50)), Some(521))?;
//! let mut network = Mlp::xavier(MlpShape { inputs: 784, hidden: 8, classes: 10 }, 1);
//! let settings = mlp::Settings { epochs: 10, learning_rate: 1e-4, ..Default::default() };
//! let observe = &mut |_: &_| ControlFlow::Continue(());
//! let history = mlp::train(&cpu, &settings, &split, &mut network, observe)?;
//! let loss = |epoch: usize| history.epochs[epoch].train.map(|train| train.loss);
//! assert!(loss(10) < loss(0));
//! # Ok::<(), kernelet::Error>(())
//! ```
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
