//! The files of a run: which ones, whether they can be written, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use kernelet::data::npz::write_atomically;
use kernelet::train::{Epoch, History, Metrics};
use kernelet::{Cpu, Error};
use serde::Serialize;

use crate::args::{MlpOptions, ReductionOption};

/// Where the files of a run go.
#[derive(Serialize)]
pub struct Files {
    pub weights: Vec<PathBuf>,
    pub history: Vec<PathBuf>,
    pub summary: Vec<PathBuf>,
    /// The folder for curves.
    #[serde(skip)]
    pub curves: Option<PathBuf>,
}

impl Files {
    /// Works out the paths, makes the folders, and makes sure that every file can be written:
    /// better now than after minutes of training.
    pub fn prepare(options: &MlpOptions) -> Result<Self, Error> {
        let place = |named: &Option<PathBuf>, name: &str| -> Vec<PathBuf> {
            named.iter().cloned().chain(options.out.iter().map(|out| out.join(name))).collect()
        };
        let files = Self {
            weights: place(&options.save, "weights.npz"),
            history: place(&options.history, "history.csv"),
            summary: place(&options.summary, "summary.json"),
            curves: options.out.clone(),
        };
        for path in files.weights.iter().chain(&files.history).chain(&files.summary) {
            check_writable(path)?;
        }
        Ok(files)
    }
}

fn check_writable(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::File { path: path.into(), why: "is a folder, not a file".into() });
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let io = |source| Error::Io { path: folder.into(), source };
    fs::create_dir_all(folder).map_err(io)?;
    tempfile::tempfile_in(folder).map(drop).map_err(io)
}

/// Writes the history: one row per evaluated epoch, cells of empty sets left empty.
pub fn write_history(path: &Path, history: &History) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Row {
        epoch: usize,
        train_seconds: f64,
        eval_seconds: f64,
        train_loss: f64,
        train_accuracy: f64,
        valid_loss: Option<f64>,
        valid_accuracy: Option<f64>,
        test_loss: Option<f64>,
        test_accuracy: Option<f64>,
    }
    write_atomically(path, |to| {
        let mut csv = csv::Writer::from_writer(to);
        for epoch in &history.epochs {
            let &Epoch { epoch, train_seconds, eval_seconds, train, valid, test } = epoch;
            csv.serialize(Row {
                epoch,
                train_seconds,
                eval_seconds,
                train_loss: train.loss,
                train_accuracy: train.accuracy,
                valid_loss: valid.map(|m| m.loss),
                valid_accuracy: valid.map(|m| m.accuracy),
                test_loss: test.map(|m| m.loss),
                test_accuracy: test.map(|m| m.accuracy),
            })
            .map_err(std::io::Error::other)?;
        }
        csv.flush()
    })
}

/// Everything about a run that a script may want to know.
#[derive(Serialize)]
pub struct Summary<'a> {
    kernelet: &'static str,
    network: &'static str,
    data: &'a str,
    samples: Samples,
    settings: Settings<'a>,
    instruction_set: String,
    threads: usize,
    train_seconds: f64,
    eval_seconds: f64,
    interrupted: bool,
    last: Option<EpochSummary>,
    /// The epoch with the lowest validation loss.
    best_valid: Option<EpochSummary>,
    files: &'a Files,
    curves: &'a [PathBuf],
}

#[derive(Serialize)]
struct Samples {
    train: usize,
    valid: usize,
    test: usize,
}

#[derive(Serialize)]
struct Settings<'a> {
    hidden: usize,
    epochs: usize,
    learning_rate: f32,
    momentum: f32,
    reduction: &'static str,
    eval_every: usize,
    seed: u64,
    split_seed: Option<u32>,
    init: Option<&'a Path>,
}

#[derive(Serialize)]
struct EpochSummary {
    epoch: usize,
    train: MetricsSummary,
    valid: Option<MetricsSummary>,
    test: Option<MetricsSummary>,
}

#[derive(Serialize)]
struct MetricsSummary {
    loss: f64,
    accuracy: f64,
}

impl From<Metrics> for MetricsSummary {
    fn from(Metrics { loss, accuracy }: Metrics) -> Self {
        Self { loss, accuracy }
    }
}

impl From<&Epoch> for EpochSummary {
    fn from(epoch: &Epoch) -> Self {
        Self {
            epoch: epoch.epoch,
            train: epoch.train.into(),
            valid: epoch.valid.map(Into::into),
            test: epoch.test.map(Into::into),
        }
    }
}

impl<'a> Summary<'a> {
    #[expect(clippy::too_many_arguments, reason = "a summary brings together all there is")]
    pub fn new(
        options: &'a MlpOptions,
        hidden: usize,
        data: &'a str,
        split: &kernelet::data::Split,
        cpu: &Cpu,
        history: &History,
        files: &'a Files,
        curves: &'a [PathBuf],
    ) -> Self {
        let (train_seconds, eval_seconds) = history.seconds();
        Self {
            kernelet: env!("CARGO_PKG_VERSION"),
            network: "mlp",
            data,
            samples: Samples {
                train: split.train.len(),
                valid: split.valid.len(),
                test: split.test.len(),
            },
            settings: Settings {
                hidden,
                epochs: options.epochs,
                learning_rate: options.lr,
                momentum: options.momentum,
                reduction: match options.reduction {
                    ReductionOption::Sum => "sum",
                    ReductionOption::Mean => "mean",
                },
                eval_every: options.eval_every,
                seed: options.seed,
                split_seed: options.split_seed.0,
                init: options.init.as_deref(),
            },
            instruction_set: cpu.isa().to_string(),
            threads: cpu.threads(),
            train_seconds,
            eval_seconds,
            interrupted: history.interrupted,
            last: history.epochs.last().map(Into::into),
            best_valid: history.best().map(Into::into),
            files,
            curves,
        }
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write_atomically(path, |to| {
            serde_json::to_writer_pretty(&mut *to, self)?;
            to.write_all(b"\n")
        })
    }
}
