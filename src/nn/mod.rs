//! Networks: weights and workspaces. A forward and a backward pass are the kernels in order, and as
//! accurate as these. Weights are row-major, images NHWC; losses are in nats, accuracies in
//! percent.
//!
//! ```
//! use kernelet::nn::{Mlp, MlpShape, mlp::Workspace};
//!
//! let cpu = kernelet::Cpu::detect()?;
//! // The hidden unit adds the inputs, if their sum is positive; the first class likes it large.
//! let mlp = Mlp {
//!     shape: MlpShape { inputs: 2, hidden: 1, classes: 2 },
//!     w_h: vec![1.0, 1.0],
//!     b_h: vec![0.0],
//!     w_o: vec![1.0, -1.0],
//!     b_o: vec![0.0, 2.0],
//! };
//! let (mut work, x) = (Workspace::default(), [1.0, 2.0, -1.0, -2.0]);
//! let tally = mlp.evaluate(&cpu, &mut work, &x, &[0, 1]);
//! assert_eq!(tally.accuracy(), 100.0);
//! # Ok::<(), kernelet::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod cnn;
pub mod init;
pub mod mlp;

pub use cnn::{Cnn, CnnShape};
pub use mlp::{Mlp, MlpShape};
