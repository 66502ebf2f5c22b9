//! Full-batch gradient descent with momentum, the study's first program.

use std::ops::ControlFlow;
use std::time::Instant;

use super::history::{Epoch, History, Metrics};
use super::patience::{self, Patience};
use super::train_span;
use crate::cpu::Cpu;
use crate::data::{Samples, Split};
use crate::error::Error;
use crate::kernels::momentum::Momentum;
use crate::kernels::softmax_cross_entropy::Tally;
use crate::nn::Mlp;
use crate::nn::mlp::Workspace;

/// What the samples' gradients are reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Reduction {
    /// Their sum, as in the study's MLP (hence its small learning rate).
    Sum,
    /// Their mean, the usual choice.
    Mean,
}

/// Settings of a training run; [`Settings::default`] gives the study's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Settings {
    /// Number of updates.
    pub epochs: usize,
    /// Learning rate.
    pub learning_rate: f32,
    /// Share of the velocity that is kept from update to update.
    pub momentum: f32,
    /// Sum or mean of the gradients.
    pub reduction: Reduction,
    /// Evaluate every so many epochs (and at the start and the end).
    pub eval_every: usize,
    /// End the run when so many epochs have passed since the one with the lowest validation loss
    /// (of those that were evaluated), and leave that one's weights, however the run ends.
    pub patience: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epochs: 200,
            learning_rate: 1e-5,
            momentum: 0.95,
            reduction: Reduction::Sum,
            eval_every: 1,
            patience: None,
        }
    }
}

/// Trains `mlp` in place and returns the history. `observe` is called with every epoch's figures,
/// evaluated or not; when it breaks, the run ends after one more evaluation, so that the last row
/// of the history always describes the weights as they are left (with `patience`, they are those of
/// the epoch that [`History::kept`] names).
///
/// # Errors
/// [`Error::Setting`] if the training set is empty, `eval_every` or `patience` is 0, there is
/// `patience` but no validation set, or the network does not fit the data.
pub fn train(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    mlp: &mut Mlp,
    observe: &mut (dyn FnMut(&Epoch) -> ControlFlow<()> + Send),
) -> Result<History, Error> {
    check(settings, split, mlp)?;
    Ok(cpu.install(|| run(cpu, settings, split, mlp, observe)))
}

fn check(settings: &Settings, split: &Split, mlp: &Mlp) -> Result<(), Error> {
    let error = |why: String| Err(Error::Setting(why));
    let train = &split.train;
    if train.is_empty() {
        return error("the training set is empty".into());
    }
    if settings.eval_every == 0 {
        return error("eval_every is 0, but must be at least 1".into());
    }
    patience::check(settings.patience, &split.valid)?;
    if train.images.len() != train.len() * mlp.shape.inputs {
        return error(format!(
            "the network takes {} inputs, but images have {} pixels",
            mlp.shape.inputs,
            train.images.len() / train.len()
        ));
    }
    if split.classes != mlp.shape.classes {
        return error(format!(
            "the network has {} classes, but the data have {}",
            mlp.shape.classes, split.classes
        ));
    }
    Ok(())
}

fn run(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    mlp: &mut Mlp,
    observe: &mut (dyn FnMut(&Epoch) -> ControlFlow<()> + Send),
) -> History {
    let Samples { images, labels } = &split.train;
    let step = Momentum { learning_rate: settings.learning_rate, momentum: settings.momentum };
    let scale = match settings.reduction {
        Reduction::Sum => 1.0,
        Reduction::Mean => 1.0 / labels.len() as f32,
    };
    let mut work = Workspace::default();
    let mut gradients = Mlp::zeros(mlp.shape);
    let mut velocity = Mlp::zeros(mlp.shape);
    let mut history = History::default();
    // No allocation later, unless somebody asks for more epochs than anybody waits for.
    history.epochs.reserve((settings.epochs / settings.eval_every).min(100_000) + 2);
    let mut patience = settings.patience.map(Patience::new);
    let mut train_seconds = 0.0;
    let mut epoch = 0;
    loop {
        let ended = epoch == settings.epochs || history.interrupted;
        let recorded = ended || epoch % settings.eval_every == 0;

        let start = Instant::now();
        let span = recorded.then(|| train_span!("evaluate"));
        let measure = |samples: &Samples, work: &mut Workspace| {
            (recorded && !samples.is_empty())
                .then(|| metrics(mlp.evaluate(cpu, work, &samples.images, &samples.labels)))
        };
        let valid = measure(&split.valid, &mut work);
        let test = measure(&split.test, &mut work);
        let mut row = Epoch {
            epoch,
            train_seconds,
            eval_seconds: 0.0,
            train: None,
            valid,
            test,
            batch: None,
        };
        // Before the update below: these are the weights that were evaluated.
        let over = recorded
            && patience.as_mut().is_some_and(|patience| patience.is_over(&row, || mlp.clone()));
        history.stopped_early = over && !ended;
        let last = ended || over;
        // Every other epoch's figures on the training set come with its gradients, below.
        let trained = if last { measure(&split.train, &mut work) } else { None };
        drop(span);
        row.eval_seconds = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let train = trained.unwrap_or_else(|| {
            let _span = train_span!("step");
            let tally = mlp.gradients(cpu, &mut work, images, labels, scale, &mut gradients);
            mlp.momentum_step(cpu, step, &mut velocity, &gradients);
            metrics(tally)
        });
        row.train = Some(train);
        train_seconds = start.elapsed().as_secs_f64();

        if recorded {
            history.epochs.push(row);
        }
        let flow = observe(&row);
        if last {
            if let Some(best) = patience.and_then(|patience| patience.finish(&mut history)) {
                *mlp = best;
            }
            return history;
        }
        history.interrupted = flow.is_break();
        epoch += 1;
    }
}

fn metrics(tally: Tally) -> Metrics {
    Metrics::new(tally, 0.0)
}
