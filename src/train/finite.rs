//! Runs that diverge: the last weights whose loss was finite.

use super::history::History;
use super::patience::{self, Best};
use crate::error::Error;

/// The newest weights whose loss is known to be finite, and their epoch; before there are any, the
/// weights that the run began with.
pub(super) struct Finite<W> {
    pub epoch: Option<usize>,
    pub weights: W,
}

impl<W> Finite<W> {
    /// What a run is left with that has diverged before its update `step`, counted from 1: these
    /// weights, or with patience the best; and its error.
    pub(super) fn instead_of(
        self,
        (loss, value): (&'static str, f64),
        step: u64,
        best: Option<Best<W>>,
        history: &mut History,
    ) -> (W, Error) {
        let (weights, kept) = match patience::finish(best, history) {
            Some(weights) => (weights, history.kept),
            None => (self.weights, self.epoch),
        };
        (weights, Error::Diverged { loss, value, step, kept })
    }
}
