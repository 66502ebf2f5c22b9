//! The training loops: data in, history out, a network changed in place.

pub mod cnn;
pub mod history;
pub mod mlp;
mod patience;
pub mod weights;

pub use history::{Epoch, History, Metrics};
