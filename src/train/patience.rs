//! Early stopping: the weights of the best epoch, and when to wait no longer.

use super::history::{Epoch, History};
use crate::data::Samples;
use crate::error::Error;

/// What a run with patience keeps: the weights of the epoch with the lowest validation loss so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best<W> {
    pub epoch: usize,
    pub loss: f64,
    pub weights: W,
}

/// Takes note of an evaluated epoch, and of `weights` if it is the best so far. The first of equals
/// stays the best, and a loss that is no number is never better. Returns whether `patience`, if
/// there is any, has run out.
pub(super) fn is_over<W>(
    patience: Option<usize>,
    best: &mut Option<Best<W>>,
    row: &Epoch,
    weights: impl FnOnce() -> W,
) -> bool {
    let Some(patience) = patience else { return false };
    let loss = row.valid.map_or(f64::NAN, |valid| valid.loss);
    let better = match best {
        Some(best) => loss < best.loss,
        None => !loss.is_nan(),
    };
    if better {
        *best = Some(Best { epoch: row.epoch, loss, weights: weights() });
    }
    row.epoch - best.as_ref().map_or(0, |best| best.epoch) >= patience
}

/// The best weights, which `history` is told of.
pub(super) fn finish<W>(best: Option<Best<W>>, history: &mut History) -> Option<W> {
    let Best { epoch, weights, .. } = best?;
    history.kept = Some(epoch);
    Some(weights)
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
