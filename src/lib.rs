//! SIMD kernels for small neural networks on a CPU: forward and backward, on plain slices.
//!
//! **What it is.** Matrix products with fused bias and ReLU, convolutions, ReLU with batch
//! normalisation, pools, dropout, softmax with cross-entropy, momentum and Adam, and thin training
//! loops on top. The kernels take slices and write into slices; AVX-512, AVX2 or
//! plain code is chosen when the program runs. **What it is not.** No tensors, no graph, no
//! automatic differentiation, no GPU.
//!
//! ```
//! use kernelet::{Cpu, kernels::linear, shape::LinearShape};
//!
//! let cpu = Cpu::detect()?;
//! // Two samples of three inputs through a layer of two outputs.
//! let shape = LinearShape { rows: 2, inputs: 3, outputs: 2 };
//! let x = [1.0, 2.0, 3.0, -1.0, 0.0, 1.0];
//! let w = [1.0, -1.0, 0.5, -0.5, 0.0, 1.0];
//! let b = [0.5, -6.0];
//! let mut y = [0.0; 4];
//! linear::forward_relu(&cpu, shape, &x, &w, &b, &mut y);
//! assert_eq!(y, [2.5, 0.0, 0.0, 0.0]);
//! # Ok::<(), kernelet::Error>(())
//! ```
//!
//! # Map
//!
//! | module | what is in it |
//! |---|---|
//! | [`cpu`] | [`Cpu`]: instruction set and threads, every kernel's first argument |
//! | [`kernels`] | the product: one file per kernel; which function of the study each stands in for |
//! | [`mod@reference`] | the scalar twin of every kernel, for `f32` and `f64` |
//! | [`nn`] | networks: weights, workspaces, the kernels in order |
//! | [`train`] | the training loops and their history |
//! | [`data`] | `.npz` files, the split, the embedded letters |
//! | [`peak`] | what this machine can do at most |
//! | [`guide`] | how things are named, and how to write a layer of one's own |
//!
//! Data flow one way: data, train, nn, kernels. Each knows only those after it.
//!
//! # Speed
//!
//! Kernels run in parallel on their [`Cpu`]'s threads where that pays; wrap a sequence of small
//! calls in [`Cpu::install`]. Build with optimisation: without it the kernels are many times
//! slower (this workspace's own `dev` profile is optimised for that reason; a crate that depends on
//! kernelet needs `[profile.dev.package."*"] opt-level = 3`). No `target-cpu` flag is needed.
//!
//! # Features
//!
//! None by default, and none takes anything away. `serde` lets the settings of the training loops
//! and what they report be written and read in serde's formats.

pub mod cpu;
pub mod data;
pub mod error;
pub mod guide;
pub mod kernels;
pub mod nn;
pub mod peak;
pub mod reference;
pub mod shape;
mod subnormals;
pub mod train;

pub use cpu::{Cpu, Isa};
pub use error::Error;
