//! What a training run reports: one row per evaluated epoch.

use crate::kernels::softmax_cross_entropy::Tally;

/// Loss and accuracy of a network on a set of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Metrics {
    /// What training minimises, in nats: the mean cross-entropy and, with L2 regularisation, the
    /// penalty on the weights.
    pub loss: f64,
    /// The mean cross-entropy alone, in nats.
    pub cross_entropy: f64,
    /// Share of samples classified correctly, in percent.
    pub accuracy: f64,
}

impl Metrics {
    /// Of labelled samples, with the penalty on the weights.
    pub(super) fn new(tally: Tally, penalty: f64) -> Self {
        let cross_entropy = tally.mean_loss();
        Self { loss: cross_entropy + penalty, cross_entropy, accuracy: tally.accuracy() }
    }
}

/// One epoch: the figures of the network after `epoch` passes over the training set.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Epoch {
    /// Number of epochs trained so far; 0 is the start.
    pub epoch: usize,
    /// Seconds spent on the updates of the epoch that led here (0 at the start). Full-batch
    /// training (the MLP) needs the training set's forward pass for its next update anyway: its
    /// figures come from there, and their cost is in the next epoch's seconds.
    pub train_seconds: f64,
    /// Seconds spent on evaluation.
    pub eval_seconds: f64,
    /// On the training set; `None` if this epoch was not evaluated.
    pub train: Option<Metrics>,
    /// On the validation set; `None` if it is empty or this epoch was not evaluated.
    pub valid: Option<Metrics>,
    /// On the test set; `None` if it is empty or this epoch was not evaluated.
    pub test: Option<Metrics>,
    /// On the epoch's last minibatch as training saw it: before its update, with dropout. `None`
    /// at the start and in full-batch training.
    pub batch: Option<Metrics>,
}

/// The rows of a training run, in order of epochs.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct History {
    /// The evaluated epochs; the last one belongs to the weights as they were left, unless `kept`
    /// says otherwise.
    pub epochs: Vec<Epoch>,
    /// Whether the observer stopped the run before its last epoch.
    pub interrupted: bool,
    /// Whether the run ended because the validation loss had not fallen for as many epochs as its
    /// settings had patience.
    pub stopped_early: bool,
    /// With patience, the epoch whose weights were left: the one with the lowest validation loss
    /// (see [`best`](Self::best)), if any of these was a number.
    pub kept: Option<usize>,
}

impl History {
    /// The epoch with the lowest validation loss (the first of equals), whose weights early
    /// stopping keeps; `None` without a validation set.
    #[must_use]
    pub fn best(&self) -> Option<&Epoch> {
        let loss = |epoch: &Epoch| epoch.valid.map_or(f64::NAN, |m| m.loss);
        self.epochs
            .iter()
            .filter(|epoch| !loss(epoch).is_nan())
            .min_by(|a, b| loss(a).total_cmp(&loss(b)))
    }
}
