//! Errors that name the file, array, shape or value at fault.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::cpu::Isa;
use crate::data::npz::tuple;

/// What can go wrong outside the kernels. (A kernel called with slices that do not fit its shape
/// panics, with both lengths in the message.)
///
/// ```
/// use kernelet::{Error, Isa};
///
/// let error = "mmx".parse::<Isa>().unwrap_err();
/// assert!(matches!(&error, Error::UnknownIsa(name) if name == "mmx"));
/// // Such as `instruction set "mmx" is unknown; this processor has scalar, avx2`.
/// assert!(error.to_string().contains("this processor has scalar"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `KERNELET_ISA`, or text parsed as an [`Isa`], is not the name of an instruction set.
    #[error("instruction set {0:?} is unknown; this processor has {has}", has = list(&Isa::available()))]
    UnknownIsa(String),

    /// The instruction set asked for is not there.
    #[error("this processor has no {wanted}; it has {}", list(available))]
    IsaUnavailable {
        /// The one asked for.
        wanted: Isa,
        /// Those that are there.
        available: Vec<Isa>,
    },

    /// The number of threads asked for cannot be had.
    #[error("cannot run on {wanted} threads: {why}")]
    Threads {
        /// The number asked for.
        wanted: usize,
        /// What stands in the way.
        why: String,
    },

    /// A file cannot be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },

    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },

    /// An array in an `.npz` or `.safetensors` file is missing or is not what it should be.
    #[error("{}: array {array:?} {why}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The array's name, without `.npy`.
        array: String,
        /// What is wrong.
        why: String,
    },

    /// An array of a file would take more memory than its [`Limit`](crate::data::npz::Limit).
    #[error(
        "{}: {} of shape {} needs {needed} bytes of memory, more than its limit of {limit}",
        path.display(),
        array.as_ref().map_or("the array".into(), |array| format!("array {array:?}")),
        tuple(shape)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The array's name, if the file holds several.
        array: Option<String>,
        /// What its header says.
        shape: Vec<usize>,
        /// The bytes of its elements.
        needed: u64,
        /// How many there may be.
        limit: u64,
    },

    /// An array of another crate's does not have the shape that the others call for.
    #[error("{name} has shape {}, not {}", tuple(found), tuple(wanted))]
    Shape {
        /// Which argument it is.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits.
        wanted: Vec<usize>,
    },

    /// An array of another crate's does not lie in memory as a kernel wants it.
    #[error("{name} has shape {} and strides {strides:?}: {wanted}", tuple(shape))]
    Layout {
        /// Which argument it is.
        name: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements from one to the next along each axis.
        strides: Vec<isize>,
        /// What is wanted.
        wanted: &'static str,
    },

    /// A loss is no number any more, or infinite: training has diverged. The network has been
    /// left with the last weights whose loss was finite.
    #[error(
        "training has diverged: {loss} is {value} at step {step}; the weights are left as {}",
        kept.map_or("the run began with them".into(), |epoch| format!(
            "they were after epoch {epoch}"
        ))
    )]
    Diverged {
        /// Which loss it is.
        loss: &'static str,
        /// NaN or an infinity.
        value: f64,
        /// The update of the weights that was about to be made, counted from 1.
        step: u64,
        /// The epoch whose weights have been left: none if not even the first loss was finite.
        kept: Option<usize>,
    },

    /// A checkpoint cannot be used, but the one before it can.
    #[error("{source}; the checkpoint before it is whole: {}", previous.display())]
    Checkpoint {
        /// What is wrong.
        source: Box<Error>,
        /// The checkpoint before it.
        previous: PathBuf,
    },

    /// A setting is out of range, or two settings contradict each other.
    #[error("{0}")]
    Setting(String),
}

fn list(isas: &[Isa]) -> String {
    isas.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ")
}
