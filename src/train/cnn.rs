//! Minibatch training with Adam, the study's second program.
//!
//! ```
//! use std::ops::ControlFlow;
//! use kernelet::data::Dataset;
//! use kernelet::nn::{Cnn, CnnShape};
//! use kernelet::train::cnn::{self, Settings};
//!
//! let cpu = kernelet::Cpu::detect()?;
//! // 500 letters to learn from, 100 to validate, and a small network: the study has 10,000, 6,000,
//! // and 32 filters and 784 units.
//! let mut split = Dataset::letters()?.split(Some((500, 100)), Some(521))?;
//! split.test = Default::default();
//! let mut network = Cnn::xavier(CnnShape { filters: 4, ..CnnShape::study(32, 10) }, 2);
//! let settings = Settings { epochs: 5, learning_rate: 3e-3, ..Settings::default() };
//! let go_on = &mut |_: cnn::Event| ControlFlow::Continue(());
//! let trained = cnn::train(&cpu, &settings, &split, &mut network, go_on)?;
//! // Sixteen minibatches per epoch: fifteen of 32 images and one of 20.
//! assert_eq!(trained.step_losses.len(), 5 * 16);
//! let last = trained.history.epochs[5];
//! assert!(last.valid.is_some_and(|valid| valid.accuracy > 50.0));
//! # Ok::<(), kernelet::Error>(())
//! ```

use std::ops::ControlFlow;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;

use super::finite::Finite;
use super::history::{Epoch, History, Metrics};
use super::patience::{self, Best};
use super::train_span;
use crate::cpu::Cpu;
use crate::data::{Samples, Split};
use crate::error::Error;
use crate::kernels::adam::Adam;
use crate::kernels::dropout::Dropout;
use crate::kernels::relu_batch_norm::{Moments, Normalization, RunningMoments};
use crate::kernels::softmax_cross_entropy::Tally;
use crate::nn::cnn::{AdamState, EPSILON, Regularization, Workspace};
use crate::nn::{Cnn, CnnShape};

/// Settings of a training run; [`Settings::default`] gives the study's, without regularisation.
///
/// ```
/// use kernelet::train::cnn::Settings;
///
/// let settings = Settings { l2: 0.01, keep_probability: 0.5, ..Settings::default() };
/// assert_eq!((settings.epochs, settings.learning_rate, settings.batch), (50, 1e-4, 32));
/// ```
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
///
/// ```
/// use std::ops::ControlFlow;
/// use kernelet::train::cnn::Event;
///
/// // Stops a run once a minibatch's loss is below 0.1.
/// let observe = |event: Event| match event {
///     Event::Step { loss, .. } if loss < 0.1 => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// };
/// assert!(observe(Event::Step { step: 1, of: 100, loss: 2.5 }).is_continue());
/// assert!(observe(Event::Step { step: 99, of: 100, loss: 0.05 }).is_break());
/// ```
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
///
/// ```
/// use std::ops::ControlFlow;
/// use kernelet::data::Dataset;
/// use kernelet::kernels::relu_batch_norm::Normalization;
/// use kernelet::nn::cnn::{Cnn, CnnShape, EPSILON, Workspace};
/// use kernelet::train::cnn::{self, Settings};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let mut split = Dataset::letters()?.split(Some((64, 0)), Some(521))?;
/// split.test = Default::default();
/// let shape = CnnShape { filters: 4, ..CnnShape::study(16, 10) };
/// let settings = Settings { epochs: 2, ..Settings::default() };
/// let mut network = Cnn::xavier(shape, 1);
/// let go_on = &mut |_: cnn::Event| ControlFlow::Continue(());
/// let trained = cnn::train(&cpu, &settings, &split, &mut network, go_on)?;
///
/// // A single image, normalised with the running moments.
/// let mut normalization = Normalization::identity(shape.filters);
/// if let Some(running) = &trained.running_moments {
///     normalization.set_running(running, EPSILON);
/// }
/// let (image, mut probabilities) = (&split.train.images[..784], [0.0; 10]);
/// network.predict(&cpu, &mut Workspace::default(), &normalization, image, &mut probabilities);
/// assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
/// # Ok::<(), kernelet::Error>(())
/// ```
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

/// A run between two steps: with settings, data and network all that the rest of it depends on.
/// (What is random, the orders and dropout, is drawn by the numbers of epoch and step from streams
/// of the settings' seed; no generator has a state of its own.)
///
/// ```
/// use kernelet::nn::CnnShape;
/// use kernelet::train::cnn::State;
///
/// let state = State::new(CnnShape::study(8, 10));
/// assert_eq!((state.epoch, state.adam.step, state.running_moments), (0, 0, None));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Epochs that have been completed.
    pub epoch: usize,
    /// Steps and moments of the optimiser.
    pub adam: AdamState,
    /// See [`Trained::running_moments`].
    pub running_moments: Option<RunningMoments>,
    /// The epochs that have been evaluated.
    pub history: History,
    /// Loss of every step's minibatch before its update, penalty included.
    pub step_losses: Vec<f64>,
    pub(super) best: Option<Best<(Cnn, Option<RunningMoments>)>>,
    /// The newest minibatch.
    pub(super) batch: Option<Metrics>,
    /// Of the newest epoch, which may not be complete.
    pub(super) train_seconds: f64,
}

impl State {
    /// Before the first step.
    ///
    /// ```
    /// use kernelet::nn::CnnShape;
    /// use kernelet::train::cnn::State;
    ///
    /// assert!(State::new(CnnShape::study(8, 10)).step_losses.is_empty());
    /// ```
    #[must_use]
    pub fn new(shape: CnnShape) -> Self {
        Self {
            epoch: 0,
            adam: AdamState::new(shape),
            running_moments: None,
            history: History::default(),
            step_losses: Vec::new(),
            best: None,
            batch: None,
            train_seconds: 0.0,
        }
    }
}

/// Trains `cnn` in place. `observe` is called after every step and every epoch; when it breaks, the
/// run ends after one more evaluation, so that the last row of the history always describes the
/// weights as they are left (its epoch is then the one that was broken off). With `patience`, they
/// are those of the epoch that [`History::kept`] names, and so are the running moments.
///
/// Evaluation normalises each set with the moments of the whole set, as the study does, in two
/// passes of bounded memory, without dropout.
///
/// ```
/// use std::ops::ControlFlow;
/// use kernelet::data::Dataset;
/// use kernelet::nn::{Cnn, CnnShape};
/// use kernelet::train::cnn::{self, Event, Settings};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let mut split = Dataset::letters()?.split(Some((96, 32)), Some(521))?;
/// split.test = Default::default();
/// let mut network = Cnn::xavier(CnnShape { filters: 4, ..CnnShape::study(16, 10) }, 1);
/// // An observer that stops the run after its fifth step.
/// let observe = &mut |event: Event| match event {
///     Event::Step { step: 5, .. } => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// };
/// let trained = cnn::train(&cpu, &Settings::default(), &split, &mut network, observe)?;
/// assert_eq!((trained.step_losses.len(), trained.history.interrupted), (5, true));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// [`Error::Setting`] if the training set is empty, a setting is out of range, or the network does
/// not fit the data. [`Error::Diverged`] if the loss of a minibatch or on the training set is not
/// finite any more; `cnn` is then left with the weights of the last evaluated epoch at which it was
/// (with `patience`, of the best).
pub fn train(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    cnn: &mut Cnn,
    observe: &mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
) -> Result<Trained, Error> {
    let mut state = State::new(cnn.shape);
    resume(cpu, settings, split, cnn, &mut state, observe, &mut |_, _| Ok(()))?;
    let State { history, step_losses, running_moments, .. } = state;
    Ok(Trained { history, step_losses, running_moments })
}

/// Goes on with a run from `state`, which [`State::new`] begins, as [`train`] does. `keep` is
/// called with the network and the state when an epoch is complete, before it is evaluated, and
/// where the run is interrupted: a run that is resumed from copies of any of them ends with the
/// same bits as one that was never stopped, if the settings (but for `epochs`, which may be more),
/// the data and the instruction set are the same. See [`checkpoint`](super::checkpoint) for keeping
/// them in files.
///
/// ```
/// use std::ops::ControlFlow;
/// use kernelet::data::Dataset;
/// use kernelet::nn::{Cnn, CnnShape};
/// use kernelet::train::cnn::{self, Settings, State};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let mut split = Dataset::letters()?.split(Some((64, 0)), Some(521))?;
/// split.test = Default::default();
/// let shape = CnnShape { filters: 4, ..CnnShape::study(16, 10) };
/// let observe = &mut |_: cnn::Event| ControlFlow::Continue(());
/// let keep = &mut |_: &_, _: &_| Ok(());
///
/// let (mut network, mut state) = (Cnn::xavier(shape, 1), State::new(shape));
/// for epochs in [1, 2] {
///     let settings = Settings { epochs, ..Settings::default() };
///     cnn::resume(&cpu, &settings, &split, &mut network, &mut state, observe, keep)?;
/// }
/// let mut other = Cnn::xavier(shape, 1);
/// cnn::train(&cpu, &Settings { epochs: 2, ..Settings::default() }, &split, &mut other, observe)?;
/// assert_eq!(network, other);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// As [`train`], and [`Error::Setting`] if more epochs have been completed than are asked for or
/// the state does not fit network and data; what `keep` returns, which ends the run.
pub fn resume(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    cnn: &mut Cnn,
    state: &mut State,
    observe: &mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
    keep: &mut (dyn FnMut(&Cnn, &State) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    check(settings, split, cnn)?;
    check_state(settings, split, cnn, state)?;
    cpu.install(|| run(cpu, settings, split, cnn, state, observe, keep))
}

fn check_state(settings: &Settings, split: &Split, cnn: &Cnn, state: &State) -> Result<(), Error> {
    let State { epoch, adam, step_losses, .. } = state;
    let error = |why: String| Err(Error::Setting(why));
    if *epoch > settings.epochs {
        let epochs = settings.epochs;
        return error(format!("{epoch} epochs have been made already, but epochs is {epochs}"));
    }
    if adam.m.shape != cnn.shape || adam.v.shape != cnn.shape {
        return error("the state is that of a network of another shape".into());
    }
    let per_epoch = steps_per_epoch(settings, split);
    let made = epoch.checked_mul(per_epoch).and_then(|made| step_losses.len().checked_sub(made));
    if step_losses.len() as u64 != adam.step || made.is_none_or(|made| made >= per_epoch) {
        return error(format!(
            "{epoch} epochs of {per_epoch} steps cannot have {} steps and {} losses",
            adam.step,
            step_losses.len()
        ));
    }
    Ok(())
}

fn steps_per_epoch(settings: &Settings, split: &Split) -> usize {
    split.train.len().div_ceil(settings.batch)
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
    state: &mut State,
    observe: &mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
    keep: &mut (dyn FnMut(&Cnn, &State) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let train = &split.train;
    let pixels = cnn.shape.pixels();
    let batch = settings.batch.min(train.len());
    let per_epoch = steps_per_epoch(settings, split);
    let steps = settings.epochs.saturating_mul(per_epoch);
    let adam = Adam { learning_rate: settings.learning_rate, ..Adam::default() };
    let mut work = Workspace::default();
    let mut images = vec![0.0; batch * pixels];
    let mut labels = vec![0; batch];
    let mut order: Vec<usize> = (0..train.len()).collect();
    // No allocation later, unless somebody asks for more steps than anybody waits for.
    state.step_losses.reserve(steps.saturating_sub(state.step_losses.len()).min(1_000_000));
    state.history.epochs.reserve((settings.epochs / settings.eval_every).min(100_000) + 2);
    (state.history.interrupted, state.history.stopped_early) = (false, false);
    let mut finite = Finite { epoch: None, weights: (cnn.clone(), state.running_moments.clone()) };
    loop {
        let made = state.step_losses.len() - state.epoch * per_epoch;
        if made == 0 || state.history.interrupted {
            keep(cnn, state)?;
            let epoch = state.epoch + usize::from(made > 0);
            let mut row = Epoch {
                epoch,
                train_seconds: state.train_seconds,
                eval_seconds: 0.0,
                train: None,
                valid: None,
                test: None,
                batch: state.batch,
            };
            let last = epoch == settings.epochs || state.history.interrupted;
            // Evaluated before a run that is resumed was interrupted.
            let known = state.history.epochs.last().is_some_and(|last| last.epoch == epoch);
            let due = (last || epoch.is_multiple_of(settings.eval_every)) && !known;
            let mut over = false;
            if due {
                over = record(cpu, settings, split, cnn, &mut work, state, &mut row);
                if let Some(Metrics { loss, .. }) = row.train.filter(|m| !m.loss.is_finite()) {
                    let (found, step) = (("the training loss", loss), state.adam.step + 1);
                    return Err(diverged(finite, found, step, cnn, state));
                }
                finite.epoch = Some(epoch);
                finite.weights.0.copy_from(cnn);
                finite.weights.1.clone_from(&state.running_moments);
            }
            state.history.stopped_early = over && !last;
            let flow = if known { ControlFlow::Continue(()) } else { observe(Event::Epoch(&row)) };
            let interrupted = flow.is_break() && !last && !over;
            if interrupted {
                state.history.interrupted = true;
                keep(cnn, state)?;
                if !due {
                    record(cpu, settings, split, cnn, &mut work, state, &mut row);
                }
            }
            if last || over || interrupted {
                if let Some(best) = patience::finish(state.best.take(), &mut state.history) {
                    (*cnn, state.running_moments) = best;
                }
                return Ok(());
            }
            state.train_seconds = 0.0;
        }

        if settings.shuffle {
            shuffle(&mut order, settings.seed, state.epoch + 1);
        }
        let start = Instant::now();
        for chosen in order.chunks(batch).skip(made) {
            let span = train_span!("step");
            let (images, labels) =
                (&mut images[..chosen.len() * pixels], &mut labels[..chosen.len()]);
            gather(train, chosen, images, labels);
            let dropout = (settings.keep_probability < 1.0).then_some(Dropout {
                keep: settings.keep_probability,
                seed: settings.seed,
                step: state.adam.step,
            });
            let regularization = Regularization { l2: settings.l2, dropout };
            let (tally, penalty) = cnn.adam_step(
                cpu,
                &mut work,
                images,
                labels,
                adam,
                regularization,
                &mut state.adam,
            );
            let decay = DECAY.min(1.0 - 1.0 / state.adam.step as f64);
            state
                .running_moments
                .get_or_insert_with(|| RunningMoments::new(cnn.shape.filters))
                .update(work.batch_moments(), decay);
            drop(span);
            let metrics = Metrics::new(tally, penalty);
            state.batch = Some(metrics);
            state.step_losses.push(metrics.loss);
            if !metrics.loss.is_finite() {
                let (found, step) = (("a minibatch's loss", metrics.loss), state.adam.step);
                return Err(diverged(finite, found, step, cnn, state));
            }
            let step = state.step_losses.len();
            if observe(Event::Step { step, of: steps, loss: metrics.loss }).is_break() {
                state.history.interrupted = step < steps;
                break;
            }
        }
        state.train_seconds += start.elapsed().as_secs_f64();
        if state.step_losses.len() == (state.epoch + 1) * per_epoch {
            state.epoch += 1;
        }
    }
}

/// Leaves other weights in the place of those that have diverged. Returns the run's error.
fn diverged(
    finite: Finite<(Cnn, Option<RunningMoments>)>,
    found: (&'static str, f64),
    step: u64,
    cnn: &mut Cnn,
    state: &mut State,
) -> Error {
    let State { best, history, running_moments, .. } = state;
    let (weights, error) = finite.instead_of(found, step, best.take(), history);
    (*cnn, *running_moments) = weights;
    error
}

/// Evaluates an epoch and takes it into the history. Returns whether patience has run out.
fn record(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    cnn: &Cnn,
    work: &mut Workspace,
    state: &mut State,
    row: &mut Epoch,
) -> bool {
    evaluate_epoch(cpu, settings, split, cnn, work, row);
    let State { history, best, running_moments, .. } = state;
    history.epochs.push(*row);
    patience::is_over(settings.patience, best, row, || (cnn.clone(), running_moments.clone()))
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
/// ```
/// use kernelet::data::Samples;
/// use kernelet::nn::cnn::{Cnn, CnnShape, Workspace};
/// use kernelet::train::cnn;
///
/// let cpu = kernelet::Cpu::detect()?;
/// // A network without weights finds all of four classes equally likely.
/// let shape = CnnShape { height: 4, width: 4, channels: 1, filters: 2, hidden: 8, classes: 4 };
/// let samples = Samples { images: vec![0.5; 2 * 16], labels: vec![0, 3] };
/// let tally = cnn::evaluate(&cpu, &Cnn::zeros(shape), &mut Workspace::default(), &samples);
/// assert!((tally.mean_loss() - 4_f64.ln()).abs() < 1e-6);
/// assert_eq!(tally.hits, 1);
/// # Ok::<(), kernelet::Error>(())
/// ```
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
