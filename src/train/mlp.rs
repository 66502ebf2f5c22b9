//! Full-batch gradient descent with momentum, the study's first program.
//!
//! ```
//! use std::ops::ControlFlow;
//! use kernelet::data::Dataset;
//! use kernelet::nn::{Mlp, MlpShape};
//! use kernelet::train::mlp::{self, Reduction, Settings};
//!
//! let cpu = kernelet::Cpu::detect()?;
//! // 500 letters to learn from, 200 to validate, and 50 epochs: the study has 10,000, 6,000, 200.
//! let mut split = Dataset::letters()?.split(Some((500, 200)), Some(521))?;
//! split.test = Default::default();
//! let mut network = Mlp::xavier(MlpShape { inputs: 784, hidden: 16, classes: 10 }, 1);
//! let settings = Settings {
//!     epochs: 50,
//!     learning_rate: 0.01,
//!     reduction: Reduction::Mean,
//!     eval_every: 25,
//!     ..Settings::default()
//! };
//! let go_on = &mut |_: &_| ControlFlow::Continue(());
//! let history = mlp::train(&cpu, &settings, &split, &mut network, go_on)?;
//! let accuracy = |row: usize| history.epochs[row].valid.map_or(0.0, |valid| valid.accuracy);
//! assert!(accuracy(0) < 30.0 && accuracy(2) > 50.0);
//! # Ok::<(), kernelet::Error>(())
//! ```

use std::ops::ControlFlow;
use std::time::Instant;

use super::finite::Finite;
use super::history::{Epoch, History, Metrics};
use super::patience::{self, Best};
use super::train_span;
use crate::cpu::Cpu;
use crate::data::{Samples, Split};
use crate::error::Error;
use crate::kernels::momentum::Momentum;
use crate::kernels::softmax_cross_entropy::Tally;
use crate::kernels::{input, linear};
use crate::nn::mlp::Workspace;
use crate::nn::{Mlp, MlpShape};
use crate::shape::LinearShape;

/// What the samples' gradients are reduced to.
///
/// ```
/// use kernelet::train::mlp::{Reduction, Settings};
///
/// // The same steps on 10,000 samples, but for rounding.
/// let sum = Settings { learning_rate: 1e-5, reduction: Reduction::Sum, ..Settings::default() };
/// let mean = Settings { learning_rate: 1e-1, reduction: Reduction::Mean, ..sum };
/// assert_eq!((sum.reduction, sum), (Reduction::Sum, Settings::default()));
/// assert_ne!(mean, sum);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Reduction {
    /// Their sum, as in the study's MLP (hence its small learning rate).
    Sum,
    /// Their mean, the usual choice.
    Mean,
}

/// Settings of a training run; [`Settings::default`] gives the study's.
///
/// ```
/// use kernelet::train::mlp::{Reduction, Settings};
///
/// let settings = Settings { epochs: 50, patience: Some(5), ..Settings::default() };
/// assert_eq!((settings.learning_rate, settings.momentum), (1e-5, 0.95));
/// assert_eq!(settings.reduction, Reduction::Sum);
/// ```
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

/// A run before an update: with settings, data and network all that the rest of it depends on.
/// (Nothing random is drawn on the way.)
///
/// ```
/// use kernelet::nn::MlpShape;
/// use kernelet::train::mlp::State;
///
/// let state = State::new(MlpShape { inputs: 784, hidden: 8, classes: 10 });
/// assert_eq!((state.epoch, state.velocity.b_o), (0, vec![0.0; 10]));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Updates made.
    pub epoch: usize,
    /// The momentum's velocity.
    pub velocity: Mlp,
    /// The epochs that have been evaluated.
    pub history: History,
    pub(super) best: Option<Best<Mlp>>,
    /// Of the newest update.
    pub(super) train_seconds: f64,
}

impl State {
    /// Before the first update.
    ///
    /// ```
    /// use kernelet::nn::MlpShape;
    /// use kernelet::train::mlp::State;
    ///
    /// let state = State::new(MlpShape { inputs: 784, hidden: 8, classes: 10 });
    /// assert!(state.history.epochs.is_empty());
    /// ```
    #[must_use]
    pub fn new(shape: MlpShape) -> Self {
        Self {
            epoch: 0,
            velocity: Mlp::zeros(shape),
            history: History::default(),
            best: None,
            train_seconds: 0.0,
        }
    }
}

/// Trains `mlp` in place and returns the history. `observe` is called with every epoch's figures,
/// evaluated or not; when it breaks, the run ends after one more evaluation, so that the last row
/// of the history always describes the weights as they are left (with `patience`, they are those of
/// the epoch that [`History::kept`] names). Images that are pixels, bytes divided by 255, are taken as
/// bytes where that is faster: their figures then differ from those of floats by rounding.
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
/// // An observer that stops the run after epoch 2.
/// let observe = &mut |row: &kernelet::train::Epoch| match row.epoch {
///     2 => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// };
/// let history = mlp::train(&cpu, &Settings::default(), &split, &mut network, observe)?;
/// assert!(history.interrupted);
/// assert_eq!(history.epochs.last().map(|row| row.epoch), Some(3));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// [`Error::Setting`] if the training set is empty, `eval_every` or `patience` is 0, there is
/// `patience` but no validation set, or the network does not fit the data. [`Error::Diverged`] if
/// the loss on the training set is not finite any more; `mlp` is then left with the weights of the
/// last epoch at which it was (with `patience`, of the best).
pub fn train(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    mlp: &mut Mlp,
    observe: &mut (dyn FnMut(&Epoch) -> ControlFlow<()> + Send),
) -> Result<History, Error> {
    let mut state = State::new(mlp.shape);
    resume(cpu, settings, split, mlp, &mut state, observe, &mut |_, _| Ok(()))?;
    Ok(state.history)
}

/// Goes on with a run from `state`, which [`State::new`] begins, as [`train`] does. `keep` is
/// called with the network and the state before every update and at the end: a run that is resumed
/// from copies of any of them ends with the same bits as one that was never stopped, if the
/// settings (but for `epochs`, which may be more), the data and the instruction set are the same.
/// See [`checkpoint`](super::checkpoint) for keeping them in files.
///
/// ```
/// use std::ops::ControlFlow;
/// use kernelet::data::Dataset;
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::mlp::{self, Settings, State};
///
/// let cpu = kernelet::Cpu::detect()?;
/// let split = Dataset::letters()?.split(Some((100, 50)), Some(521))?;
/// let shape = MlpShape { inputs: 784, hidden: 8, classes: 10 };
/// let observe = &mut |_: &_| ControlFlow::Continue(());
/// let keep = &mut |_: &_, _: &_| Ok(());
///
/// let (mut network, mut state) = (Mlp::xavier(shape, 1), State::new(shape));
/// for epochs in [3, 5] {
///     let settings = Settings { epochs, ..Settings::default() };
///     mlp::resume(&cpu, &settings, &split, &mut network, &mut state, observe, keep)?;
/// }
/// let mut other = Mlp::xavier(shape, 1);
/// mlp::train(&cpu, &Settings { epochs: 5, ..Settings::default() }, &split, &mut other, observe)?;
/// assert_eq!(network, other);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// As [`train`], and [`Error::Setting`] if more updates have been made than are asked for or the
/// state is another network's; what `keep` returns, which ends the run.
pub fn resume(
    cpu: &Cpu,
    settings: &Settings,
    split: &Split,
    mlp: &mut Mlp,
    state: &mut State,
    observe: &mut (dyn FnMut(&Epoch) -> ControlFlow<()> + Send),
    keep: &mut (dyn FnMut(&Mlp, &State) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    check(settings, split, mlp)?;
    if state.epoch > settings.epochs {
        return Err(Error::Setting(format!(
            "{} epochs have been made already, but epochs is {}",
            state.epoch, settings.epochs
        )));
    }
    if state.velocity.shape != mlp.shape {
        return Err(Error::Setting("the state is that of a network of another shape".into()));
    }
    cpu.install(|| run(cpu, settings, split, mlp, state, observe, keep))
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
    state: &mut State,
    observe: &mut (dyn FnMut(&Epoch) -> ControlFlow<()> + Send),
    keep: &mut (dyn FnMut(&Mlp, &State) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let [train_set, valid_set, test_set] =
        [&split.train, &split.valid, &split.test].map(|samples| Set::new(cpu, mlp.shape, samples));
    let labels = train_set.labels;
    let step = Momentum { learning_rate: settings.learning_rate, momentum: settings.momentum };
    let scale = match settings.reduction {
        Reduction::Sum => 1.0,
        Reduction::Mean => 1.0 / labels.len() as f32,
    };
    let mut work = Workspace::default();
    let mut gradients = Mlp::zeros(mlp.shape);
    let mut finite = Finite { epoch: None, weights: mlp.clone() };
    // No allocation later, unless somebody asks for more epochs than anybody waits for.
    state.history.epochs.reserve((settings.epochs / settings.eval_every).min(100_000) + 2);
    (state.history.interrupted, state.history.stopped_early) = (false, false);
    loop {
        keep(mlp, state)?;
        let State { epoch, velocity, history, best, train_seconds } = state;
        let ended = *epoch == settings.epochs || history.interrupted;
        let recorded = ended || epoch.is_multiple_of(settings.eval_every);

        let start = Instant::now();
        let span = recorded.then(|| train_span!("evaluate"));
        let measure = |set: &Set, work: &mut Workspace| {
            (recorded && !set.labels.is_empty()).then(|| metrics(set.evaluate(cpu, work, mlp)))
        };
        let valid = measure(&valid_set, &mut work);
        let test = measure(&test_set, &mut work);
        let mut row = Epoch {
            epoch: *epoch,
            train_seconds: *train_seconds,
            eval_seconds: 0.0,
            train: None,
            valid,
            test,
            batch: None,
        };
        // Before the update below: these are the weights that were evaluated.
        let over = recorded && patience::is_over(settings.patience, best, &row, || mlp.clone());
        history.stopped_early = over && !ended;
        let last = ended || over;
        // Every other epoch's figures on the training set come with its gradients, below.
        let trained = if last { measure(&train_set, &mut work) } else { None };
        drop(span);
        row.eval_seconds = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let span = (!last).then(|| train_span!("step"));
        let train = trained.unwrap_or_else(|| {
            metrics(train_set.gradients(cpu, &mut work, mlp, scale, &mut gradients))
        });
        row.train = Some(train);
        if !train.loss.is_finite() {
            let found = ("the training loss", train.loss);
            let (weights, error) =
                finite.instead_of(found, *epoch as u64 + 1, best.take(), history);
            *mlp = weights;
            return Err(error);
        }
        if !last {
            finite.epoch = Some(*epoch);
            finite.weights.copy_from(mlp);
            mlp.momentum_step(cpu, step, velocity, &gradients);
        }
        drop(span);
        *train_seconds = start.elapsed().as_secs_f64();

        if recorded {
            history.epochs.push(row);
        }
        let flow = observe(&row);
        if last {
            if let Some(weights) = patience::finish(best.take(), history) {
                *mlp = weights;
            }
            return Ok(());
        }
        history.interrupted = flow.is_break();
        *epoch += 1;
    }
}

/// Samples in the form with which the network is fastest.
struct Set<'a> {
    images: Images<'a>,
    labels: &'a [u32],
}

enum Images<'a> {
    Floats(&'a [f32]),
    Bytes(Vec<u8>),
}

impl<'a> Set<'a> {
    /// Pixels become bytes again where bytes are multiplied as they are.
    fn new(cpu: &Cpu, shape: MlpShape, samples: &'a Samples) -> Self {
        let layer =
            LinearShape { rows: samples.len(), inputs: shape.inputs, outputs: shape.hidden };
        let as_bytes = linear::multiplies_bytes(cpu, layer);
        let bytes = as_bytes.then(|| input::bytes(cpu, &samples.images)).flatten();
        let images = bytes.map_or(Images::Floats(&samples.images), Images::Bytes);
        Self { images, labels: &samples.labels }
    }

    fn evaluate(&self, cpu: &Cpu, work: &mut Workspace, mlp: &Mlp) -> Tally {
        match &self.images {
            Images::Floats(x) => mlp.evaluate(cpu, work, x, self.labels),
            Images::Bytes(x) => mlp.evaluate(cpu, work, x, self.labels),
        }
    }

    fn gradients(
        &self,
        cpu: &Cpu,
        work: &mut Workspace,
        mlp: &Mlp,
        scale: f32,
        gradients: &mut Mlp,
    ) -> Tally {
        match &self.images {
            Images::Floats(x) => mlp.gradients(cpu, work, x, self.labels, scale, gradients),
            Images::Bytes(x) => mlp.gradients(cpu, work, x, self.labels, scale, gradients),
        }
    }
}

fn metrics(tally: Tally) -> Metrics {
    Metrics::new(tally, 0.0)
}
