//! What a training run reports: one row per evaluated epoch.

use crate::kernels::softmax_cross_entropy::Tally;

/// Loss and accuracy of a network on a set of samples.
///
/// ```
/// use kernelet::train::Metrics;
///
/// // With L2 regularisation: the penalty is the difference.
/// let metrics = Metrics { loss: 0.75, cross_entropy: 0.5, accuracy: 90.0 };
/// assert_eq!(metrics.loss - metrics.cross_entropy, 0.25);
/// ```
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
///
/// ```
/// use kernelet::train::{Epoch, Metrics};
///
/// let valid = Some(Metrics { loss: 0.5, cross_entropy: 0.5, accuracy: 87.5 });
/// // Evaluated on the validation set alone.
/// let (train, test, batch) = (None, None, None);
/// let epoch =
///     Epoch { epoch: 3, train_seconds: 1.5, eval_seconds: 0.5, train, valid, test, batch };
/// assert_eq!(epoch.valid.map(|metrics| metrics.accuracy), Some(87.5));
/// ```
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
///
/// ```
/// use std::ops::ControlFlow;
/// use kernelet::data::Dataset;
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::mlp::{self, Settings};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let split = Dataset::letters()?.split(Some((100, 50)), Some(521))?;
/// let mut network = Mlp::xavier(MlpShape { inputs: 784, hidden: 8, classes: 10 }, 1);
/// let settings = Settings { epochs: 10, eval_every: 4, ..Settings::default() };
/// let go_on = &mut |_: &_| ControlFlow::Continue(());
/// let history = mlp::train(&cpu, &settings, &split, &mut network, go_on)?;
/// // The start, every fourth epoch, and the end.
/// let epochs: Vec<_> = history.epochs.iter().map(|row| row.epoch).collect();
/// assert_eq!(epochs, [0, 4, 8, 10]);
/// assert!(!history.interrupted && !history.stopped_early && history.kept.is_none());
/// # Ok::<(), kernelet::Error>(())
/// ```
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
    ///
    /// ```
    /// use kernelet::train::{Epoch, History, Metrics};
    ///
    /// let row = |epoch, loss| Epoch {
    ///     epoch,
    ///     train_seconds: 0.0,
    ///     eval_seconds: 0.0,
    ///     train: None,
    ///     valid: Some(Metrics { loss, cross_entropy: loss, accuracy: 90.0 }),
    ///     test: None,
    ///     batch: None,
    /// };
    /// let epochs = vec![row(0, 2.5), row(1, 0.5), row(2, 0.75)];
    /// let history = History { epochs, ..History::default() };
    /// assert_eq!(history.best().map(|row| row.epoch), Some(1));
    /// assert_eq!(History::default().best(), None);
    /// ```
    #[must_use]
    pub fn best(&self) -> Option<&Epoch> {
        let loss = |epoch: &Epoch| epoch.valid.map_or(f64::NAN, |m| m.loss);
        self.epochs
            .iter()
            .filter(|epoch| !loss(epoch).is_nan())
            .min_by(|a, b| loss(a).total_cmp(&loss(b)))
    }
}
