//! A training run: what its files, its summary and its report tell of.

use kernelet::Cpu;
use kernelet::train::History;
use serde::{Deserialize, Serialize};

use crate::args::TrainOptions;
use crate::files::Files;
use crate::network::Network;

/// A training run; history, losses and seconds are empty until it is over.
pub struct Run<'a> {
    pub options: &'a TrainOptions,
    pub network: Network,
    pub hidden: usize,
    /// Where the data came from.
    pub origin: String,
    /// How many train, validate and test.
    pub samples: [usize; 3],
    pub cpu: Cpu,
    pub files: Files,
    pub history: History,
    /// The CNN's loss of every minibatch.
    pub step_losses: Vec<f64>,
    pub seconds: Seconds,
}

/// What the time went to.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Seconds {
    pub total: f64,
    pub train: f64,
    pub eval: f64,
}

impl Run<'_> {
    /// [`Network::subject`] of this run.
    pub fn subject(&self) -> String {
        self.network.subject(self.hidden)
    }

    /// How many updates of the weights have been made, and how many were asked for.
    pub fn updates(&self) -> [usize; 2] {
        match &self.network {
            Network::Mlp(settings) => {
                [self.history.epochs.last().map_or(0, |last| last.epoch), settings.epochs]
            }
            Network::Cnn(settings) => {
                let per_epoch = self.samples[0].div_ceil(settings.batch);
                [self.step_losses.len(), per_epoch.saturating_mul(settings.epochs)]
            }
        }
    }
}
