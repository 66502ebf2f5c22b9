//! Minibatch training with Adam, the study's second program.

use std::ops::ControlFlow;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;

use super::history::{Epoch, History, Metrics};
use super::patience::{self, Patience};
use super::train_span;
use crate::cpu::Cpu;
use crate::data::{Samples, Split};
use crate::error::Error;
use crate::kernels::adam::Adam;
use crate::kernels::dropout::Dropout;
use crate::kernels::relu_batch_norm::{Moments, Normalization, RunningMoments};
use crate::kernels::softmax_cross_entropy::Tally;
use crate::nn::Cnn;
use crate::nn::cnn::{AdamState, EPSILON, Regularization, Workspace};

/// Settings of a training run; [`Settings::default`] gives the study's, without regularisation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Settings {
    /// Passes over the training set.
    pub epochs: usize,
    /// Adam's learning rate.
    pub learning_rate: f32,
    /// Images per step; the last step of an epoch takes what is left.
    pub batch: usize,
    /// Factor lambda of the L2 penalty.
    pub l2: f32,
    /// Probability that a hidden unit is kept in a training step, in (0, 1].
    pub keep_probability: f32,
    /// Whether every epoch takes the training set in a new order.
    pub shuffle: bool,
    /// Seed of the orders and of dropout.
    pub seed: u64,
    /// Evaluate every so many epochs (and at the start and the end).
    pub eval_every: usize,
    /// End the run when so many epochs have passed since the one with the lowest validation loss
    /// (of those that were evaluated), and leave that one's weights, however the run ends.
    pub patience: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epochs: 50,
            learning_rate: 1e-4,
            batch: 32,
            l2: 0.0,
            keep_probability: 1.0,
            shuffle: true,
            seed: 1,
            eval_every: 1,
            patience: None,
        }
    }
}

/// What a run tells its observer.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step has been made.
    Step {
        /// Steps made so far.
        step: usize,
        /// Steps of the whole run.
        of: usize,
        /// Loss of its minibatch before its update, penalty included.
        loss: f64,
    },
    /// An epoch has ended (or the run is about to begin: epoch 0), evaluated or not.
    Epoch(&'a Epoch),
}

/// What a run leaves besides the weights.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The evaluated epochs.
    pub history: History,
    /// Loss of every step's minibatch before its update, penalty included.
    pub step_losses: Vec<f64>,
    /// Running moments of the training steps, to normalise single images with: the mean of the
    /// first hundred steps' moments, then their exponential average with decay 0.99.
    /// `None` without a step.
    pub running_moments: Option<RunningMoments>,
}

/// Decay of the running moments, TensorFlow's.
const DECAY: f64 = 0.99;

/// Trains `cnn` in place. `observe` is called after every step and every epoch; when it breaks, the
/// run ends after one more evaluation, so that the last row of the history always describes the
/// weights as they are left (its epoch is then the one that was broken off). With `patience`, they
/// are those of the epoch that [`History::kept`] names, and so are the running moments.
///
/// Evaluation normalises each set with the moments of the whole set, as the study does, in two
/// passes of bounded memory, without dropout.
///
/// # Errors
/// [`Error::Setting`] if the training set is empty, a setting is out of range, or the network does
/// not fit the data.
pub fn train(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    cnn: &mut Cnn,
    observe: &mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
) -> Result<Trained, Error> {
    check(settings, split, cnn)?;
    Ok(cpu.install(|| run(cpu, settings, split, cnn, observe)))
}

fn check(settings: &Settings, split: &Split, cnn: &Cnn) -> Result<(), Error> {
    let error = |why: String| Err(Error::Setting(why));
    let &Settings { learning_rate, batch, l2, keep_probability, eval_every, .. } = settings;
    let train = &split.train;
    let pixels = cnn.shape.pixels();
    if train.is_empty() {
        return error("the training set is empty".into());
    }
    patience::check(settings.patience, &split.valid)?;
    for (name, value) in [("batch", batch), ("eval_every", eval_every)] {
        if value == 0 {
            return error(format!("{name} is 0, but must be at least 1"));
        }
    }
    if !(learning_rate > 0.0 && learning_rate.is_finite()) {
        return error(format!("learning_rate is {learning_rate}, but must be above 0 and finite"));
    }
    if !(l2 >= 0.0 && l2.is_finite()) {
        return error(format!("l2 is {l2}, but must be at least 0 and finite"));
    }
    if !(keep_probability > 0.0 && keep_probability <= 1.0) {
        return error(format!(
            "keep_probability is {keep_probability}, but must be above 0 and at most 1"
        ));
    }
    if train.images.len() != train.len() * pixels {
        return error(format!(
            "the network takes {pixels} values, but images have {}",
            train.images.len() / train.len()
        ));
    }
    if split.classes != cnn.shape.classes {
        return error(format!(
            "the network has {} classes, but the data have {}",
            cnn.shape.classes, split.classes
        ));
    }
    Ok(())
}

fn run(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    cnn: &mut Cnn,
    observe: &mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
) -> Trained {
    let train = &split.train;
    let pixels = cnn.shape.pixels();
    let batch = settings.batch.min(train.len());
    let steps = settings.epochs.saturating_mul(train.len().div_ceil(batch));
    let adam = Adam { learning_rate: settings.learning_rate, ..Adam::default() };
    let mut state = AdamState::new(cnn.shape);
    let mut work = Workspace::default();
    let mut images = vec![0.0; batch * pixels];
    let mut labels = vec![0; batch];
    let mut order: Vec<usize> = (0..train.len()).collect();
    // No allocation later, unless somebody asks for more steps than anybody waits for.
    let mut trained = Trained {
        history: History::default(),
        step_losses: Vec::with_capacity(steps.min(1_000_000)),
        running_moments: None,
    };
    let Trained { history, step_losses, running_moments } = &mut trained;
    history.epochs.reserve((settings.epochs / settings.eval_every).min(100_000) + 2);

    let mut patience = settings.patience.map(Patience::new);

    for epoch in 0..=settings.epochs {
        let start = Instant::now();
        let mut last_batch = None;
        if epoch > 0 {
            if settings.shuffle {
                shuffle(&mut order, settings.seed, epoch);
            }
            for chosen in order.chunks(batch) {
                let span = train_span!("step");
                let (images, labels) =
                    (&mut images[..chosen.len() * pixels], &mut labels[..chosen.len()]);
                gather(train, chosen, images, labels);
                let dropout = (settings.keep_probability < 1.0).then_some(Dropout {
                    keep: settings.keep_probability,
                    seed: settings.seed,
                    step: state.step,
                });
                let regularization = Regularization { l2: settings.l2, dropout };
                let (tally, penalty) =
                    cnn.adam_step(cpu, &mut work, images, labels, adam, regularization, &mut state);
                let decay = DECAY.min(1.0 - 1.0 / state.step as f64);
                running_moments
                    .get_or_insert_with(|| RunningMoments::new(cnn.shape.filters))
                    .update(work.batch_moments(), decay);
                drop(span);
                let metrics = Metrics::new(tally, penalty);
                last_batch = Some(metrics);
                step_losses.push(metrics.loss);
                let step = step_losses.len();
                if observe(Event::Step { step, of: steps, loss: metrics.loss }).is_break() {
                    history.interrupted = step < steps;
                    break;
                }
            }
        }

        let mut row = Epoch {
            epoch,
            train_seconds: start.elapsed().as_secs_f64(),
            eval_seconds: 0.0,
            train: None,
            valid: None,
            test: None,
            batch: last_batch,
        };
        let last = epoch == settings.epochs || history.interrupted;
        let due = last || epoch % settings.eval_every == 0;
        if due {
            evaluate_epoch(cpu, settings, split, cnn, &mut work, &mut row);
            history.epochs.push(row);
        }
        let mut is_over = |row: &Epoch, cnn: &Cnn, running: &Option<RunningMoments>| {
            let weights = || (cnn.clone(), running.clone());
            patience.as_mut().is_some_and(|patience| patience.is_over(row, weights))
        };
        let over = due && is_over(&row, cnn, running_moments);
        history.stopped_early = over && !last;
        let flow = observe(Event::Epoch(&row));
        if last || over {
            break;
        }
        if flow.is_break() {
            history.interrupted = true;
            if !due {
                evaluate_epoch(cpu, settings, split, cnn, &mut work, &mut row);
                history.epochs.push(row);
                is_over(&row, cnn, running_moments);
            }
            break;
        }
    }
    if let Some(best) = patience.and_then(|patience| patience.finish(history)) {
        (*cnn, *running_moments) = best;
    }
    trained
}

/// Adds the figures of the three sets to an epoch's row.
fn evaluate_epoch(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    cnn: &Cnn,
    work: &mut Workspace,
    row: &mut Epoch,
) {
    let start = Instant::now();
    let _span = train_span!("evaluate");
    let penalty = cnn.penalty(settings.l2);
    let mut measure = |samples: &Samples| {
        (!samples.is_empty()).then(|| Metrics::new(evaluate(cpu, cnn, work, samples), penalty))
    };
    row.train = measure(&split.train);
    row.valid = measure(&split.valid);
    row.test = measure(&split.test);
    row.eval_seconds = start.elapsed().as_secs_f64();
}

/// Loss (without a penalty) and hits of a network on samples that are normalised with the moments
/// of them all.
///
/// # Panics
/// If the samples do not fit the network.
pub fn evaluate(cpu: &Cpu, cnn: &Cnn, work: &mut Workspace, samples: &Samples) -> Tally {
    let mut moments = Moments::new(cnn.shape.filters);
    cnn.moments(cpu, work, &samples.images, &mut moments);
    let mut normalization = Normalization::identity(cnn.shape.filters);
    normalization.set(&moments, EPSILON);
    cnn.evaluate(cpu, work, &normalization, &samples.images, &samples.labels)
}

/// A new order of the samples, which depends on seed and epoch alone. (From another generator than
/// dropout's, whose streams are numbered by the step.)
fn shuffle(order: &mut [usize], seed: u64, epoch: usize) {
    for (index, sample) in order.iter_mut().enumerate() {
        *sample = index;
    }
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64);
    order.shuffle(&mut random);
}

/// Copies the chosen samples side by side.
fn gather(samples: &Samples, chosen: &[usize], images: &mut [f32], labels: &mut [u32]) {
    let pixels = images.len() / chosen.len();
    for ((image, label), &sample) in images.chunks_exact_mut(pixels).zip(labels).zip(chosen) {
        image.copy_from_slice(&samples.images[sample * pixels..][..pixels]);
        *label = samples.labels[sample];
    }
}
