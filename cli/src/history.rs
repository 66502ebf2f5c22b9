//! The history as CSV, with the columns that scripts know.

use std::path::Path;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use kernelet::train::{Epoch, History};
use serde::Serialize;

/// The columns. Cells of empty sets are left empty.
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

impl From<&Epoch> for Row {
    fn from(&Epoch { epoch, train_seconds, eval_seconds, train, valid, test }: &Epoch) -> Self {
        Self {
            epoch,
            train_seconds,
            eval_seconds,
            train_loss: train.loss,
            train_accuracy: train.accuracy,
            valid_loss: valid.map(|metrics| metrics.loss),
            valid_accuracy: valid.map(|metrics| metrics.accuracy),
            test_loss: test.map(|metrics| metrics.loss),
            test_accuracy: test.map(|metrics| metrics.accuracy),
        }
    }
}

/// Writes one row per evaluated epoch, numbers with as many digits as they have.
pub fn write(path: &Path, history: &History) -> Result<(), Error> {
    write_atomically(path, |to| {
        let mut csv = csv::Writer::from_writer(to);
        for epoch in &history.epochs {
            csv.serialize(Row::from(epoch)).map_err(std::io::Error::other)?;
        }
        csv.flush()
    })
}
