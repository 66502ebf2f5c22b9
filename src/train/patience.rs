//! Early stopping: the weights of the best epoch, and when to wait no longer.

use super::history::{Epoch, History};
use crate::data::Samples;
use crate::error::Error;

/// Keeps what was best so far, by the validation loss.
pub(super) struct Patience<W> {
    epochs: usize,
    /// Epoch and validation loss of the best, and what there was after it.
    best: Option<(usize, f64, W)>,
}

impl<W> Patience<W> {
    /// Waits for so many epochs.
    pub(super) fn new(epochs: usize) -> Self {
        Self { epochs, best: None }
    }

    /// Takes note of an evaluated epoch, and of `weights` if it is the best so far. The first of
    /// equals stays the best, and a loss that is no number is never better. Returns whether it is
    /// time to stop.
    pub(super) fn is_over(&mut self, row: &Epoch, weights: impl FnOnce() -> W) -> bool {
        let loss = row.valid.map_or(f64::NAN, |valid| valid.loss);
        let better = match &self.best {
            Some((_, best, _)) => loss < *best,
            None => !loss.is_nan(),
        };
        if better {
            self.best = Some((row.epoch, loss, weights()));
        }
        let best = self.best.as_ref().map_or(0, |(epoch, ..)| *epoch);
        row.epoch - best >= self.epochs
    }

    /// The best, which `history` is told of.
    pub(super) fn finish(self, history: &mut History) -> Option<W> {
        let (epoch, _, weights) = self.best?;
        history.kept = Some(epoch);
        Some(weights)
    }
}

/// Refuses settings that early stopping cannot work with.
pub(super) fn check(patience: Option<usize>, valid: &Samples) -> Result<(), Error> {
    let why = match patience {
        Some(0) => "patience is 0, but must be at least 1",
        Some(_) if valid.is_empty() => {
            "patience needs a validation set to judge by, but there is none"
        }
        _ => return Ok(()),
    };
    Err(Error::Setting(why.into()))
}
