//! What a training run reports: one row per evaluated epoch.

/// Loss and accuracy of a network on a set of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of samples classified correctly, in percent.
    pub accuracy: f64,
}

/// One epoch: the figures of the network after `epoch` updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Number of updates made so far; 0 is the start.
    pub epoch: usize,
    /// Seconds spent on the update that led here (0 at the start). Full-batch training needs the
    /// training set's forward pass for its next update anyway: its figures come from there, and
    /// their cost is in the next update's seconds.
    pub train_seconds: f64,
    /// Seconds spent on evaluating the validation and test sets (after the last update, the
    /// training set too).
    pub eval_seconds: f64,
    /// On the training set.
    pub train: Metrics,
    /// On the validation set; `None` if it is empty or this epoch was not evaluated.
    pub valid: Option<Metrics>,
    /// On the test set; `None` if it is empty or this epoch was not evaluated.
    pub test: Option<Metrics>,
}

/// The rows of a training run, in order of epochs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The evaluated epochs; the last one belongs to the weights as they were left.
    pub epochs: Vec<Epoch>,
    /// Whether the observer stopped the run before its last epoch.
    pub interrupted: bool,
}

impl History {
    /// The epoch with the lowest validation loss (the first of equals), where early stopping
    /// would have stopped; `None` without a validation set.
    #[must_use]
    pub fn best(&self) -> Option<&Epoch> {
        let loss = |epoch: &Epoch| epoch.valid.map_or(f64::NAN, |m| m.loss);
        self.epochs
            .iter()
            .filter(|epoch| !loss(epoch).is_nan())
            .min_by(|a, b| loss(a).total_cmp(&loss(b)))
    }
}
