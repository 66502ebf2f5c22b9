//! The summary as JSON: everything about a run that a script may want to know.

use std::path::{Path, PathBuf};

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use kernelet::train::{self, mlp::Reduction};
use serde::Serialize;

use crate::files;
use crate::network::Network;
use crate::run::{Run, Seconds};

#[derive(Serialize)]
pub struct Summary<'a> {
    kernelet: &'static str,
    network: &'static str,
    data: &'a str,
    samples: Samples,
    settings: Settings,
    instruction_set: String,
    threads: usize,
    seconds: &'a Seconds,
    interrupted: bool,
    stopped_early: bool,
    /// Updates of the weights that were made.
    updates: usize,
    last: Option<Epoch>,
    /// The epoch with the lowest validation loss.
    best_valid: Option<Epoch>,
    /// With patience, the epoch whose weights were kept; else the last one's were.
    kept_epoch: Option<usize>,
    files: Files,
}

#[derive(Serialize)]
struct Samples {
    train: usize,
    valid: usize,
    test: usize,
}

#[derive(Serialize)]
struct Settings {
    hidden: usize,
    epochs: usize,
    #[serde(flatten)]
    network: NetworkSettings,
    eval_every: usize,
    patience: Option<usize>,
    seed: u64,
    split_seed: Option<u32>,
    init: Option<String>,
}

/// What only one of the networks has.
#[derive(Serialize)]
#[serde(untagged)]
enum NetworkSettings {
    Mlp { learning_rate: f32, momentum: f32, reduction: &'static str },
    Cnn { learning_rate: f32, batch: usize, l2: f32, keep_probability: f32, shuffle: bool },
}

#[derive(Serialize)]
struct Epoch {
    epoch: usize,
    train: Option<Metrics>,
    valid: Option<Metrics>,
    test: Option<Metrics>,
    /// The last minibatch before its update.
    batch: Option<Metrics>,
}

/// A loss that is no number becomes `null`.
#[derive(Serialize)]
struct Metrics {
    loss: f64,
    cross_entropy: f64,
    accuracy: f64,
}

#[derive(Serialize)]
struct Files {
    weights: Vec<String>,
    history: Vec<String>,
    steps: Vec<String>,
    summary: Vec<String>,
    curves: Vec<String>,
    checkpoint: Option<String>,
}

impl From<train::Metrics> for Metrics {
    fn from(train::Metrics { loss, cross_entropy, accuracy }: train::Metrics) -> Self {
        Self { loss, cross_entropy, accuracy }
    }
}

impl From<&train::Epoch> for Epoch {
    fn from(epoch: &train::Epoch) -> Self {
        Self {
            epoch: epoch.epoch,
            train: epoch.train.map(Into::into),
            valid: epoch.valid.map(Into::into),
            test: epoch.test.map(Into::into),
            batch: epoch.batch.map(Into::into),
        }
    }
}

impl From<&files::Files> for Files {
    fn from(files: &files::Files) -> Self {
        // Paths need not be Unicode, JSON is.
        let text = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect();
        Self {
            weights: text(&files.weights),
            history: text(&files.history),
            steps: text(&files.steps),
            summary: text(&files.summary),
            curves: text(&files.curves),
            checkpoint: files.checkpoint.as_ref().map(|path| path.display().to_string()),
        }
    }
}

impl From<&Network> for NetworkSettings {
    fn from(network: &Network) -> Self {
        match network {
            Network::Mlp(settings) => Self::Mlp {
                learning_rate: settings.learning_rate,
                momentum: settings.momentum,
                reduction: match settings.reduction {
                    Reduction::Sum => "sum",
                    Reduction::Mean => "mean",
                },
            },
            Network::Cnn(settings) => Self::Cnn {
                learning_rate: settings.learning_rate,
                batch: settings.batch,
                l2: settings.l2,
                keep_probability: settings.keep_probability,
                shuffle: settings.shuffle,
            },
        }
    }
}

/// Writes the summary of a run.
pub fn write(path: &Path, run: &Run) -> Result<(), Error> {
    write_atomically(path, |to| {
        serde_json::to_writer_pretty(&mut *to, &of(run))?;
        to.write_all(b"\n")
    })
}

/// The summary of a run.
pub fn of<'a>(run: &'a Run) -> Summary<'a> {
    let Run { options, history, .. } = run;
    let [train, valid, test] = run.samples;
    let [updates, _] = run.updates();
    Summary {
        kernelet: env!("CARGO_PKG_VERSION"),
        network: match run.network {
            Network::Mlp(_) => "mlp",
            Network::Cnn(_) => "cnn",
        },
        data: &run.origin,
        samples: Samples { train, valid, test },
        settings: Settings {
            hidden: run.hidden,
            epochs: run.network.epochs(),
            network: (&run.network).into(),
            eval_every: options.eval_every,
            patience: options.patience,
            seed: options.seed,
            split_seed: options.data.split_seed.0,
            init: options.init.as_ref().map(|path| path.display().to_string()),
        },
        instruction_set: run.cpu.isa().to_string(),
        threads: run.cpu.threads(),
        seconds: &run.seconds,
        interrupted: history.interrupted,
        stopped_early: history.stopped_early,
        updates,
        last: history.epochs.last().map(Into::into),
        best_valid: history.best().map(Into::into),
        kept_epoch: history.kept,
        files: (&run.files).into(),
    }
}
