//! A training run of a study.

use std::path::Path;
use std::time::Instant;

use kernelet::data::Split;
use kernelet::nn::CnnShape;
use kernelet::train::cnn::{Event, Trained};
use kernelet::train::weights::{save_cnn, save_mlp};
use kernelet::train::{Epoch, History, cnn, mlp};
use kernelet::{Cpu, Error};
use serde::{Deserialize, Serialize};

use super::parts::Made;
use super::printed::{CNN_HIDDEN, MLP_HIDDEN, Printed, printed};
use crate::interrupt;
use crate::network::{Network, new_cnn, new_mlp};
use crate::run::Seconds;
use crate::sets::Set;

/// A training run of a study, before it is made.
#[derive(Clone, Serialize)]
pub struct Experiment {
    /// Short: of its files, and what tables and chapters know it by.
    #[serde(skip)]
    pub name: String,
    pub network: Network,
    pub hidden: usize,
}

/// What came of it.
pub struct Outcome {
    pub experiment: Experiment,
    pub result: Training,
    pub made: Made,
    /// Whether it is on the study's data, split as there.
    pub as_the_study: bool,
}

/// What is kept of a training run.
#[derive(Serialize, Deserialize)]
pub struct Training {
    pub seconds: Seconds,
    pub history: History,
}

impl Experiment {
    /// The study's perceptron with so many hidden units.
    pub fn mlp(hidden: usize, epochs: usize) -> Self {
        let settings = mlp::Settings { epochs, ..mlp::Settings::default() };
        Self { name: format!("mlp-{hidden}"), network: Network::Mlp(settings), hidden }
    }

    /// The perceptron of the study's Table 1.
    pub fn study_mlp(epochs: usize) -> Self {
        Self::mlp(MLP_HIDDEN, epochs)
    }

    /// The study's convolutional network, without a penalty if `l2` is 0 and without dropout if
    /// `keep` is 1.
    pub fn cnn(l2: f32, keep: f32, epochs: usize) -> Self {
        let mut name = "cnn".to_owned();
        if l2 != 0.0 {
            name += &format!("-l2-{l2:?}");
        }
        if keep != 1.0 {
            name += &format!("-keep-{keep:?}");
        }
        let settings =
            cnn::Settings { epochs, l2, keep_probability: keep, ..cnn::Settings::default() };
        Self { name, network: Network::Cnn(settings), hidden: CNN_HIDDEN }
    }

    /// For people: `MLP with 100 hidden units`.
    pub fn subject(&self) -> String {
        self.network.subject(self.hidden)
    }

    /// Roughly the seconds that it takes on two cores with so many images: enough to tell how much
    /// of a study is done.
    pub fn cost(&self, images: usize) -> f64 {
        let share = images as f64 / 18_724.0;
        let seconds = match self.network {
            Network::Mlp(_) => 2.6e-4 * self.hidden as f64,
            Network::Cnn(_) => 4.0 * self.hidden as f64 / CNN_HIDDEN as f64,
        };
        seconds * share * self.network.epochs() as f64
    }

    /// What the study printed of it, if anything.
    pub fn printed(&self) -> Option<Printed> {
        printed(&self.network, self.hidden)
    }

    /// Makes the run and saves the weights that it ends with. `watch` is told the share of it that
    /// is done, and the newest epoch.
    pub fn train(
        &self,
        cpu: &Cpu,
        split: &Split,
        seed: u64,
        weights: Option<&Path>,
        watch: &mut (dyn FnMut(f64, Option<&Epoch>) + Send),
    ) -> Result<Training, Error> {
        let start = Instant::now();
        let mut seconds = Seconds::default();
        let epochs = self.network.epochs().max(1) as f64;
        let mut observe = |event: Event| {
            match event {
                Event::Step { step, of, .. } => watch(step as f64 / of as f64, None),
                Event::Epoch(epoch) => {
                    seconds.train += epoch.train_seconds;
                    seconds.eval += epoch.eval_seconds;
                    watch(epoch.epoch as f64 / epochs, Some(epoch));
                }
            }
            interrupt::flow()
        };
        // What is interrupted is made anew: its weights are of no use.
        let keep = |history: &History| weights.filter(|_| !history.interrupted);
        let classes = split.classes;
        let history = match &self.network {
            Network::Mlp(settings) => {
                let mut network = new_mlp(self.hidden, classes, seed)?;
                let observe = &mut |epoch: &Epoch| observe(Event::Epoch(epoch));
                let history = mlp::train(cpu, settings, split, &mut network, observe)?;
                seconds.total = start.elapsed().as_secs_f64();
                if let Some(path) = keep(&history) {
                    save_mlp(path, &network)?;
                }
                history
            }
            Network::Cnn(settings) => {
                let shape = CnnShape::study(self.hidden, classes);
                let mut network = new_cnn(shape, settings.batch, seed)?;
                let settings = cnn::Settings { seed, ..*settings };
                let Trained { history, running_moments, .. } =
                    cnn::train(cpu, &settings, split, &mut network, &mut observe)?;
                seconds.total = start.elapsed().as_secs_f64();
                if let Some(path) = keep(&history) {
                    save_cnn(path, &network, running_moments.as_ref())?;
                }
                history
            }
        };
        Ok(Training { seconds, history })
    }
}

impl Outcome {
    /// The last row of the history, which describes the weights as they were left.
    pub fn last(&self) -> Option<&Epoch> {
        self.result.history.epochs.last()
    }

    /// Whether the run had as many epochs as the study's.
    pub fn has_the_study_s_epochs(&self) -> bool {
        self.experiment.network.epochs() == self.study_epochs()
    }

    /// How many epochs the study's run had.
    pub fn study_epochs(&self) -> usize {
        match self.experiment.network {
            Network::Mlp(_) => mlp::Settings::default().epochs,
            Network::Cnn(_) => cnn::Settings::default().epochs,
        }
    }

    /// Accuracy on a set in percent after the last epoch; NaN without one.
    pub fn accuracy(&self, set: Set) -> f64 {
        self.last().and_then(set.metrics).map_or(f64::NAN, |metrics| metrics.accuracy)
    }

    /// Loss on a set after the last epoch; NaN without one.
    pub fn loss(&self, set: Set) -> f64 {
        self.last().and_then(set.metrics).map_or(f64::NAN, |metrics| metrics.loss)
    }
}
