//! Where a study is made: part by part, every finished part kept, the progress of all shown.

use std::path::{Path, PathBuf};

use kernelet::data::{Dataset, Images, Split};
use kernelet::train::Epoch;
use kernelet::{Cpu, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::experiment::{Experiment, Outcome, Training};
use super::parts::{Made, Part, Parts};
use super::{Outcomes, cell};
use crate::args::StudyOptions;
use crate::network::Network;
use crate::output::{count, loss};
use crate::progress::Overall;
use crate::report::Report;
use crate::sets::{SETS, TEST};
use crate::{info, interrupt};

/// Data, threads and the folder of finished parts.
pub struct Lab {
    pub cpu: Cpu,
    pub split: Split,
    /// How many images train, validate and test.
    pub samples: [usize; 3],
    /// Where the data came from.
    pub origin: String,
    pub fingerprint: String,
    /// Whether these are the study's data, split as there.
    pub as_the_study: bool,
    pub seed: u64,
    parts: Parts,
    /// What decides every part's result.
    base: Value,
}

/// What the study's own data, 18,724 letters of notMNIST in its order, hash to.
const NOT_MNIST: &str = "1fff957ed695e84171a71373cdf243131562b804ba97b690f661efc1d45e4e86";

/// How a piece of work ended.
pub enum Work<T> {
    Done(T),
    /// Ctrl-C came first.
    Interrupted,
}

impl Lab {
    /// Reads the data, makes sure that the report can be written to `out`, and opens the folder of
    /// finished parts there, `runs`.
    pub fn open(options: &StudyOptions, out: Option<&Path>) -> Result<Self, Error> {
        let cpu = options.threads.cpu()?;
        let dataset = options.data.open()?;
        let split = options.data.split(&dataset)?;
        if split.train.is_empty() {
            return Err(Error::Setting("the training set is empty".into()));
        }
        if let Some(out) = out {
            Report::check(out, options.data.path.as_deref())?;
        }
        let fingerprint = fingerprint(&dataset);
        let samples = [&split.train, &split.valid, &split.test].map(|samples| samples.len());
        let split_seed = options.data.split_seed.0;
        let as_the_study = fingerprint == NOT_MNIST
            && (samples, split_seed) == (SETS.map(|set| set.study_samples), Some(521));
        let runs = out.map(|out| out.join("runs"));
        let parts = Parts::new(runs.as_deref(), !options.fresh)?;
        let base = json!({
            "kernelet": env!("CARGO_PKG_VERSION"),
            "data": fingerprint,
            "classes": split.classes,
            "split": samples,
            "split_seed": split_seed,
            "seed": options.seed,
            // These change the times.
            "processor": info::processor(),
            "instruction_set": cpu.isa().to_string(),
            "threads": cpu.threads(),
            "optimised": !cfg!(debug_assertions),
        });
        interrupt::listen()?;
        let origin = dataset.origin;
        let seed = options.seed;
        Ok(Self { cpu, split, samples, origin, fingerprint, as_the_study, seed, parts, base })
    }

    /// How many images there are.
    pub fn images(&self) -> usize {
        self.samples.iter().sum()
    }

    /// Where the weights of an experiment are kept, if there is a folder.
    pub fn weights(&self, experiment: &Experiment) -> Result<Option<PathBuf>, Error> {
        Ok(self.parts.path(&self.identify(&experiment.name, experiment)?, "npz"))
    }

    /// Makes the runs, in order. Keeps the weights of those that `keep` asks for.
    pub fn train(
        &self,
        experiments: &[Experiment],
        keep: impl Fn(&Experiment) -> bool,
        overall: &mut Overall,
    ) -> Result<Work<Outcomes>, Error> {
        let mut outcomes = Vec::new();
        for experiment in experiments {
            overall.begin(&experiment.subject(), experiment.cost(self.images()));
            let part = self.identify(&experiment.name, experiment)?;
            let weights = self.parts.path(&part, "npz").filter(|_| keep(experiment));
            let complete = weights.as_ref().is_none_or(|path| path.exists());
            let found = self.parts.find::<Training>(&part).filter(|_| complete);
            let (result, made) = match found {
                Some(found) => {
                    overall.skip(&figures(&found.0));
                    found
                }
                None => {
                    let watch = &mut |share: f64, epoch: Option<&Epoch>| {
                        overall.advance(share, &epoch.map_or_else(String::new, newest));
                    };
                    let (cpu, split) = (&self.cpu, &self.split);
                    let training =
                        experiment.train(cpu, split, self.seed, weights.as_deref(), watch)?;
                    if training.history.interrupted {
                        return Ok(Work::Interrupted);
                    }
                    let made = Made::now(cpu);
                    self.parts.keep(&part, &made, &training)?;
                    overall.end(&figures(&training));
                    (training, made)
                }
            };
            let (experiment, as_the_study) = (experiment.clone(), self.as_the_study);
            outcomes.push(Outcome { experiment, result, made, as_the_study });
        }
        Ok(Work::Done(Outcomes { outcomes, samples: self.samples }))
    }

    /// Does one more piece of work, unless it is found finished. `say` puts its result in a few
    /// words.
    pub fn part<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        settings: &impl Serialize,
        overall: &mut Overall,
        work: impl FnOnce(&Self) -> Result<Work<T>, Error>,
        say: impl FnOnce(&T) -> String,
    ) -> Result<Work<T>, Error> {
        let part = self.identify(name, settings)?;
        if let Some((result, _)) = self.parts.find(&part) {
            overall.skip(&say(&result));
            return Ok(Work::Done(result));
        }
        let Work::Done(result) = work(self)? else { return Ok(Work::Interrupted) };
        self.parts.keep(&part, &Made::now(&self.cpu), &result)?;
        overall.end(&say(&result));
        Ok(Work::Done(result))
    }

    fn identify(&self, name: &str, what: &impl Serialize) -> Result<Part, Error> {
        let what = serde_json::to_value(what)
            .map_err(|e| Error::Setting(format!("the settings cannot be written as JSON: {e}")))?;
        Ok(Part::new(name, json!({ "base": self.base, "what": what })))
    }
}

/// What a finished run is remembered by.
fn figures(training: &Training) -> String {
    let test = training.history.epochs.last().and_then(TEST.metrics);
    format!("test {}, {:.1} s", cell(test), training.seconds.total)
}

/// What the newest epoch shows.
fn newest(epoch: &Epoch) -> String {
    let mut text = format!("  epoch {}", epoch.epoch);
    if let Some(metrics) = epoch.valid.or(epoch.train) {
        text += &format!("  loss {}  {:.2} %", loss(metrics.loss, 4), metrics.accuracy);
    }
    text
}

/// SHA-256 of the pixels and labels: the same for the same images in the same order, however their
/// file is packed.
fn fingerprint(dataset: &Dataset) -> String {
    let mut hash = Sha256::new();
    match &dataset.images {
        Images::U8(pixels) => hash.update(pixels),
        Images::F32(pixels) => pixels.iter().for_each(|pixel| hash.update(pixel.to_le_bytes())),
    }
    dataset.labels.iter().for_each(|label| hash.update(label.to_le_bytes()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `MLP: 4 runs of 200 epochs`
pub fn describe(experiments: &[Experiment]) -> String {
    let of = |name: &str, wanted: fn(&Network) -> bool| {
        let runs: Vec<_> = experiments.iter().filter(|e| wanted(&e.network)).collect();
        let epochs = runs.first()?.network.epochs();
        Some(format!("{name}: {} of {}", count(runs.len(), "run"), count(epochs, "epoch")))
    };
    let mlp = of("MLP", |network| matches!(network, Network::Mlp(_)));
    let cnn = of("CNN", |network| matches!(network, Network::Cnn(_)));
    mlp.into_iter().chain(cnn).collect::<Vec<_>>().join(", ")
}
