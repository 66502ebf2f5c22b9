//! The history as CSV, with the columns that scripts know: a row per evaluated epoch, or one per
//! minibatch.

use std::path::Path;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use kernelet::train::{Epoch, History};
use serde::Serialize;

use crate::network::Network;

/// A column's name and what it says of an epoch; without a figure the cell is left empty.
type Column = (&'static str, fn(&Epoch) -> Option<f64>);

/// After `epoch`.
const COLUMNS: [Column; 8] = [
    ("train_seconds", |epoch| Some(epoch.train_seconds)),
    ("eval_seconds", |epoch| Some(epoch.eval_seconds)),
    ("train_loss", |epoch| Some(epoch.train?.loss)),
    ("train_accuracy", |epoch| Some(epoch.train?.accuracy)),
    ("valid_loss", |epoch| Some(epoch.valid?.loss)),
    ("valid_accuracy", |epoch| Some(epoch.valid?.accuracy)),
    ("test_loss", |epoch| Some(epoch.test?.loss)),
    ("test_accuracy", |epoch| Some(epoch.test?.accuracy)),
];

/// After those. (The MLP has no minibatches, and its loss is the cross-entropy.)
const CNN_COLUMNS: [Column; 6] = [
    ("batch_loss", |epoch| Some(epoch.batch?.loss)),
    ("batch_accuracy", |epoch| Some(epoch.batch?.accuracy)),
    ("train_cross_entropy", |epoch| Some(epoch.train?.cross_entropy)),
    ("valid_cross_entropy", |epoch| Some(epoch.valid?.cross_entropy)),
    ("test_cross_entropy", |epoch| Some(epoch.test?.cross_entropy)),
    ("batch_cross_entropy", |epoch| Some(epoch.batch?.cross_entropy)),
];

/// Writes a row per evaluated epoch.
pub fn write(path: &Path, network: &Network, history: &History) -> Result<(), Error> {
    let own: &[Column] = match network {
        Network::Mlp(_) => &[],
        Network::Cnn(_) => &CNN_COLUMNS,
    };
    let columns = || COLUMNS.iter().chain(own);
    let header: Vec<_> = ["epoch"].into_iter().chain(columns().map(|column| column.0)).collect();
    let row = |epoch: &Epoch| {
        let cells: Vec<_> = columns().map(|column| column.1(epoch)).collect();
        (epoch.epoch, cells)
    };
    table(path, &header, history.epochs.iter().map(row))
}

/// Writes a row per minibatch.
pub fn write_steps(path: &Path, losses: &[f64]) -> Result<(), Error> {
    table(path, &["step", "loss"], (1..).zip(losses))
}

/// Numbers have as many digits as it takes to read the same number again.
fn table<R: Serialize>(
    path: &Path,
    header: &[&str],
    rows: impl Iterator<Item = (usize, R)>,
) -> Result<(), Error> {
    write_atomically(path, |to| {
        let mut csv = csv::Writer::from_writer(to);
        csv.write_record(header).map_err(std::io::Error::other)?;
        for row in rows {
            csv.serialize(row).map_err(std::io::Error::other)?;
        }
        csv.flush()
    })
}
