//! Networks: weights and workspaces. A forward and a backward pass are the kernels in order.

#![forbid(unsafe_code)]

pub mod cnn;
pub mod init;
pub mod mlp;

pub use cnn::{Cnn, CnnShape};
pub use mlp::{Mlp, MlpShape};
