//! Which network is trained, with which settings; and new ones that fit into memory.

use kernelet::Error;
use kernelet::data::PIXELS;
use kernelet::nn::{self, Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::{cnn, mlp};
use serde::Serialize;

use crate::output::count;

/// What is trained, and how.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    Mlp(mlp::Settings),
    Cnn(cnn::Settings),
}

impl Network {
    /// The network with what makes it differ from the study's others: `MLP with 100 hidden units`.
    pub fn subject(&self, hidden: usize) -> String {
        let units = count(hidden, "hidden unit");
        match self {
            Self::Mlp(_) => format!("MLP with {units}"),
            // Debug's numbers stay short where they are very small or large.
            Self::Cnn(settings) => {
                let l2 = match settings.l2 {
                    0.0 => String::new(),
                    l2 => format!(", L2 {l2:?}"),
                };
                let keep = match settings.keep_probability {
                    1.0 => String::new(),
                    keep => format!(", keep {keep:?}"),
                };
                format!("CNN with {units}{l2}{keep}")
            }
        }
    }

    /// Passes over the training set that are asked for.
    pub fn epochs(&self) -> usize {
        match self {
            Self::Mlp(settings) => settings.epochs,
            Self::Cnn(settings) => settings.epochs,
        }
    }
}

/// New starting weights, if they and their training fit into memory.
pub fn new_mlp(hidden: usize, classes: usize, seed: u64) -> Result<Mlp, Error> {
    check_mlp_memory(hidden, classes)?;
    Ok(Mlp::xavier(MlpShape { inputs: PIXELS, hidden, classes }, seed))
}

/// As [`new_mlp`].
pub fn new_cnn(shape: CnnShape, batch: usize, seed: u64) -> Result<Cnn, Error> {
    check_cnn_memory(shape, batch)?;
    Ok(Cnn::xavier(shape, seed))
}

/// Makes sure that a perceptron and its training fit into memory.
pub fn check_mlp_memory(hidden: usize, classes: usize) -> Result<(), Error> {
    let shape = MlpShape { inputs: PIXELS, hidden, classes };
    // Weights, gradients, velocity and what early stopping keeps.
    let weights = shape.parameters().saturating_mul(4 * size_of::<f32>());
    let work = nn::mlp::Workspace::bytes(shape, usize::MAX);
    check_memory(weights.saturating_add(work), || {
        format!("{} and {classes} classes", count(hidden, "hidden unit"))
    })
}

/// As [`check_mlp_memory`], for minibatches of so many images.
pub fn check_cnn_memory(shape: CnnShape, batch: usize) -> Result<(), Error> {
    // Weights, gradients, Adam's two moments and what early stopping keeps.
    let weights = shape.parameters().saturating_mul(5 * size_of::<f32>());
    let work = nn::cnn::Workspace::bytes_to_train(shape, batch);
    check_memory(weights.saturating_add(work), || {
        let units = count(shape.hidden, "hidden unit");
        format!("{units} and minibatches of {}", count(batch, "image"))
    })
}

/// Makes sure that a network finds the memory that it is about to ask for: without, the program
/// would abort.
pub fn check_memory(bytes: usize, what: impl FnOnce() -> String) -> Result<(), Error> {
    Vec::<u8>::new()
        .try_reserve_exact(bytes)
        .map_err(|_| Error::Setting(format!("{} do not fit into memory", what())))
}
