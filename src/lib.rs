//! SIMD kernels for small neural networks on a CPU: forward and backward, on plain slices.
//!
//! **What it is.** Matrix products with fused bias and ReLU, convolutions, ReLU with batch
//! normalisation, pools, dropout, softmax with cross-entropy, momentum and Adam, and thin training
//! loops on top. The kernels take slices and write into slices; AMX, AVX-512, AVX2 or
//! plain code is chosen when the program runs. **What it is not.** No tensors, no graph, no
//! automatic differentiation, no GPU; one data type, `f32`.
//!
//! A network trained from kernels, on letters that come with the crate:
//!
//! ```
//! use kernelet::kernels::{gemm::Write, linear, momentum, softmax_cross_entropy};
//! use kernelet::shape::{LinearShape, MatrixShape};
//! use kernelet::{Cpu, data::Dataset, nn::init::xavier_normal};
//!
//! let cpu = Cpu::detect()?;
//! let letters = Dataset::letters()?.split(Some((1000, 0)), Some(521))?.train;
//! let (x, labels, rows) = (&letters.images, &letters.labels, letters.len());
//! let hidden = LinearShape { rows, inputs: 784, outputs: 32 };
//! let output = LinearShape { rows, inputs: 32, outputs: 10 };
//! // Values, gradients and velocities of weights and biases; values and gradients of the layers.
//! let zeros = |len| [vec![0.0; len], vec![0.0; len], vec![0.0; len]];
//! let ([mut w1, mut dw1, mut vw1], [mut b1, mut db1, mut vb1]) = (zeros(784 * 32), zeros(32));
//! let ([mut w2, mut dw2, mut vw2], [mut b2, mut db2, mut vb2]) = (zeros(32 * 10), zeros(10));
//! let ([mut h, mut dh, _], [mut z, mut dz, _]) = (zeros(rows * 32), zeros(rows * 10));
//! xavier_normal(&mut w1, 784, 32, 1, 0);
//! xavier_normal(&mut w2, 32, 10, 1, 1);
//!
//! let settings = momentum::Momentum { learning_rate: 0.02, momentum: 0.9 };
//! let (logits, mean, mut losses) = (MatrixShape { rows, cols: 10 }, 1.0 / rows as f32, vec![]);
//! for _ in 0..30 {
//!     linear::forward_relu(&cpu, hidden, x, &w1, &b1, &mut h);
//!     linear::forward(&cpu, output, &h, &w2, &b2, &mut z);
//!     let tally =
//!         softmax_cross_entropy::forward_backward(&cpu, logits, &z, labels, mean, &mut dz);
//!     losses.push(tally.mean_loss());
//!     linear::backward_weights(&cpu, output, &h, &dz, Write::Overwrite, &mut dw2, &mut db2);
//!     linear::backward_input_relu(&cpu, output, &dz, &w2, &h, &mut dh);
//!     linear::backward_weights(&cpu, hidden, x, &dh, Write::Overwrite, &mut dw1, &mut db1);
//!     momentum::update(&cpu, settings, &mut w1, &mut vw1, &dw1);
//!     momentum::update(&cpu, settings, &mut b1, &mut vb1, &db1);
//!     momentum::update(&cpu, settings, &mut w2, &mut vw2, &dw2);
//!     momentum::update(&cpu, settings, &mut b2, &mut vb2, &db2);
//! }
//! // From 2.5 nats to 1.2 in 30 steps.
//! assert!(losses[29] < 0.6 * losses[0]);
//! # Ok::<(), kernelet::Error>(())
//! ```
//!
//! The same with less of one's own code: [`train::mlp`] and [`train::cnn`]. With other layers:
//! [`guide::write_your_own_layer`].
//!
//! # When to use something else
//!
//! - For a GPU, automatic differentiation, networks of many layers, or models that others have
//!   trained: burn or candle in Rust, PyTorch, TensorFlow or JAX. Here a backward pass is written
//!   by hand, and there are no recurrent layers and no attention.
//! - To run a trained model from an ONNX file: tract or ort.
//! - For linear algebra, that is decompositions, solvers, `f64` and complex numbers: faer or
//!   nalgebra. For arrays of any number of axes with strides, views and broadcasting: ndarray.
//! - For networks of large convolutions, on a CPU too: with many channels PyTorch's are about as fast, and their
//!   gradients faster where channels come last. Kernelet is made for small networks, with a thousand units or so
//!   per layer; the repository's `BENCHMARKS.md` says what it is ahead of, and where it is behind.
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
//! | [`data`] | `.npz` and `.safetensors` files, the split, the embedded letters |
//! | [`peak`] | what this machine can do at most |
//! | [`allocator`] | a global allocator that places arrays as the kernels like them |
//! | `interop` | with the features `ndarray` and `faer`: their arrays and matrices as arguments |
//! | [`guide`] | how things are named, and how to write a layer of one's own |
//!
//! Data flow one way: data, train, nn, kernels. Each knows only those after it.
//!
//! # Speed
//!
//! Kernels run in parallel on their [`Cpu`]'s threads where that pays. Threads that are called from outside have to
//! be woken, some 20 microseconds, so small calls from there stay on the caller's thread: wrap a sequence of
//! them in [`Cpu::install`]. Build with optimisation: without it the kernels are many times
//! slower (this workspace's own `dev` profile is optimised for that reason; a crate that depends on
//! kernelet needs `[profile.dev.package."*"] opt-level = 3`), and leave `lto` alone or turn it on: with
//! `lto = "off"` the standard library's iterators stay function calls in the innermost loops, which
//! then take nine times as long. No `target-cpu` flag is needed.
//!
//! Arrays had better begin at cache lines, and the large ones be on huge pages, which many Linux systems give only
//! to those who ask: a program that says
//! `#[global_allocator] static ALLOCATOR: kernelet::allocator::Aligned = kernelet::allocator::Aligned;` has the
//! first for its arrays of 1 KiB and more, the second, on Linux, for those of 2 MiB and more (see [`allocator`]).
//!
//! # Features
//!
//! None is on by default, so that `default-features = false` changes nothing, and none takes
//! anything away: threads and every instruction set are always compiled in, and are chosen when the
//! program runs, by [`Cpu`].
//!
//! | feature | what it adds |
//! |---|---|
//! | `serde` | the settings of the training loops, and what they report, can be written and read in serde's formats |
//! | `safetensors` | the weights of networks also in `.safetensors` files ([`train::weights`]) |
//! | `ndarray` | views of ndarray's (0.17) arrays as arguments of the kernels, without copies |
//! | `faer` | products of faer's (0.24) matrices, without copies |

pub mod allocator;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod cpu;
pub mod data;
pub mod error;
pub mod guide;
#[cfg(any(feature = "faer", feature = "ndarray"))]
pub mod interop;
pub mod kernels;
pub mod nn;
pub mod peak;
pub mod reference;
pub mod shape;
mod subnormals;
pub mod train;

pub use cpu::{Cpu, Isa};
pub use error::Error;
