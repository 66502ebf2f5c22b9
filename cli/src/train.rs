//! `kernelet train mlp`, which is also `kernelet` alone, and `kernelet train cnn`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kernelet::data::Split;
use kernelet::kernels::relu_batch_norm::RunningMoments;
use kernelet::nn::{Cnn, CnnShape, Mlp};
use kernelet::train::cnn::Event;
use kernelet::train::weights::{load_cnn, load_mlp, save_cnn, save_mlp};
use kernelet::train::{self, Epoch, checkpoint};
use kernelet::{Cpu, Error};

use crate::args::{CnnOptions, MlpOptions, TrainOptions};
use crate::checkpoint::{Checkpoints, Resumed};
use crate::files::Files;
use crate::network::{Network, check_cnn_memory, check_mlp_memory, new_cnn, new_mlp};
use crate::output::{count, name};
use crate::progress::Progress;
use crate::run::{Run, Seconds};
use crate::study::printed::{CNN_HIDDEN, MLP_HIDDEN};
use crate::{Done, charts, history, interrupt, output, result, summary};

/// Trains an MLP, shows the study's table with ours beside it, and writes the files.
pub fn mlp(mut options: MlpOptions) -> Result<Done, Error> {
    let mut settings = options.settings();
    let mut loaded = None;
    if let Some(path) = &options.resume {
        let file = options.common.data.limit.input(path);
        let (about, of_run, mlp, state) = checkpoint::load_mlp(file)?;
        let epochs = options.epochs.unwrap_or(of_run.epochs);
        settings = train::mlp::Settings { epochs, ..of_run };
        let common = &mut options.common;
        (common.eval_every, common.patience) = (settings.eval_every, settings.patience);
        loaded = Some((Resumed::new(path, &about, common)?, mlp, state));
    }
    let input = Input::open(&options.common)?;
    let (resumed, mut mlp, mut state) = match loaded {
        Some((resumed, mlp, state)) => {
            check_mlp_memory(mlp.shape.hidden, mlp.shape.classes)?;
            (Some(resumed), mlp, state)
        }
        None => {
            let mlp = first_mlp(&options, input.split.classes)?;
            let state = train::mlp::State::new(mlp.shape);
            (None, mlp, state)
        }
    };
    let files = Files::of_mlp(&options)?;
    let network = Network::Mlp(settings);
    let (mut run, split) = input.start(&options.common, network, mlp.shape.hidden, files);

    let mut checkpoints = Checkpoints::new(&run, &split, resumed.as_ref())?;
    let observer = Mutex::new(Observer::new(&run, state.epoch, resumed.as_ref())?);
    let observe = &mut |epoch: &Epoch| lock(&observer).epoch(epoch);
    let keep = &mut |mlp: &Mlp, state: &train::mlp::State| {
        checkpoints.keep(state.epoch, lock(&observer).seconds(), |path, about| {
            checkpoint::save_mlp(path, about, &settings, mlp, state)
        })
    };
    let end = train::mlp::resume(&run.cpu, &settings, &split, &mut mlp, &mut state, observe, keep);
    let diverged = diverged(end)?;
    run.seconds = finish_observer(observer);
    run.history = state.history;

    // The weights first: they are what cannot be had again without training.
    for path in &run.files.weights {
        save_mlp(path, &mlp)?;
    }
    finish(&run, diverged)
}

/// Trains a CNN, shows the study's table with ours beside it, and writes the files.
pub fn cnn(mut options: CnnOptions) -> Result<Done, Error> {
    let mut settings = options.settings();
    let mut loaded = None;
    if let Some(path) = &options.resume {
        let file = options.common.data.limit.input(path);
        let (about, of_run, cnn, state) = checkpoint::load_cnn(file)?;
        let epochs = options.epochs.unwrap_or(of_run.epochs);
        settings = train::cnn::Settings { epochs, ..of_run };
        let common = &mut options.common;
        (common.eval_every, common.patience) = (settings.eval_every, settings.patience);
        loaded = Some((Resumed::new(path, &about, common)?, cnn, state));
    }
    let input = Input::open(&options.common)?;
    let (resumed, mut cnn, first_moments, mut state) = match loaded {
        Some((resumed, cnn, state)) => {
            check_cnn_memory(cnn.shape, settings.batch.min(input.split.train.len()))?;
            (Some(resumed), cnn, None, state)
        }
        None => {
            let (cnn, first_moments) = first_cnn(&options, &input.split)?;
            let state = train::cnn::State::new(cnn.shape);
            (None, cnn, first_moments, state)
        }
    };
    let files = Files::of_cnn(&options)?;
    let network = Network::Cnn(settings);
    let (mut run, split) = input.start(&options.common, network, cnn.shape.hidden, files);

    let mut checkpoints = Checkpoints::new(&run, &split, resumed.as_ref())?;
    let observer = Mutex::new(Observer::new(&run, state.epoch, resumed.as_ref())?);
    let observe = &mut |event: Event| match event {
        Event::Step { step, of, loss } => lock(&observer).step(step, of, loss),
        Event::Epoch(epoch) => lock(&observer).epoch(epoch),
    };
    let keep = &mut |cnn: &Cnn, state: &train::cnn::State| {
        checkpoints.keep(state.epoch, lock(&observer).seconds(), |path, about| {
            checkpoint::save_cnn(path, about, &settings, cnn, state)
        })
    };
    let end = train::cnn::resume(&run.cpu, &settings, &split, &mut cnn, &mut state, observe, keep);
    let diverged = diverged(end)?;
    run.seconds = finish_observer(observer);
    run.history = state.history;

    // Without a step there are no new running moments.
    let running_moments = state.running_moments.or(first_moments);
    for path in &run.files.weights {
        save_cnn(path, &cnn, running_moments.as_ref())?;
    }
    for path in &run.files.steps {
        history::write_steps(path, &state.step_losses)?;
    }
    run.step_losses = state.step_losses;
    finish(&run, diverged)
}

/// What both networks begin with.
struct Input {
    cpu: Cpu,
    /// Where the data came from.
    origin: String,
    split: Split,
}

impl Input {
    fn open(options: &TrainOptions) -> Result<Self, Error> {
        let cpu = options.threads.cpu()?;
        let dataset = options.data.open()?;
        let split = options.data.split(&dataset)?;
        Ok(Self { cpu, origin: dataset.origin, split })
    }

    /// The run that is about to begin, and the data for it.
    fn start(
        self,
        options: &TrainOptions,
        network: Network,
        hidden: usize,
        files: Files,
    ) -> (Run<'_>, Split) {
        let Self { cpu, origin, split } = self;
        let samples = [&split.train, &split.valid, &split.test].map(|samples| samples.len());
        let (history, step_losses, seconds) = Default::default();
        let run = Run {
            options,
            network,
            hidden,
            origin,
            samples,
            cpu,
            files,
            history,
            step_losses,
            seconds,
        };
        (run, split)
    }
}

/// The error of a run that has diverged: what there was before is saved all the same.
fn diverged(end: Result<(), Error>) -> Result<Option<Error>, Error> {
    match end {
        Ok(()) => Ok(None),
        Err(error @ Error::Diverged { .. }) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Writes what both networks have besides their weights, and reports.
fn finish(run: &Run, diverged: Option<Error>) -> Result<Done, Error> {
    for path in &run.files.history {
        history::write(path, &run.network, &run.history)?;
    }
    if let Some(folder) = &run.options.out {
        let subject = format!("{} on {}", run.subject(), name(&run.origin));
        for figure in charts::of_run(&subject, &run.history) {
            figure.write(folder)?;
        }
    }
    for path in &run.files.summary {
        summary::write(path, run)?;
    }
    if let Some(error) = diverged {
        return Err(error);
    }
    if run.options.json {
        output::print_json(&summary::of(run))?;
    } else {
        output::print(&result::of(run))?;
    }
    Ok(if run.history.interrupted { Done::Interrupted } else { Done::Complete })
}

/// What goes on while a network is trained: shows the progress, adds up the time, heeds Ctrl-C.
struct Observer {
    /// Until it has been shown.
    headline: Option<String>,
    progress: Progress,
    seconds: Seconds,
    /// What the run had taken before it was resumed.
    earlier: f64,
    begin: Instant,
}

impl Observer {
    /// Of a run of which so many epochs have been made.
    fn new(run: &Run, made: usize, resumed: Option<&Resumed>) -> Result<Self, Error> {
        interrupt::listen()?;
        let [train, valid, test] = run.samples;
        let headline = format!(
            "{} on {}, {} on {}\n{train} images train, {valid} validate, {test} test\n",
            run.subject(),
            run.origin,
            run.cpu.isa(),
            count(run.cpu.threads(), "thread"),
        );
        let seconds = resumed.map(Resumed::seconds).unwrap_or_default();
        Ok(Self {
            headline: Some(headline),
            progress: Progress::new(run.network.epochs(), made),
            seconds,
            earlier: seconds.total,
            begin: Instant::now(),
        })
    }

    /// Not before something has happened: until then the library may have refused the weights or
    /// the data.
    fn announce(&mut self) {
        if let Some(headline) = self.headline.take() {
            output::complain(&headline);
        }
    }

    fn step(&mut self, step: usize, of: usize, loss: f64) -> ControlFlow<()> {
        self.announce();
        self.progress.step(step, of, loss);
        interrupt::flow()
    }

    fn epoch(&mut self, epoch: &Epoch) -> ControlFlow<()> {
        self.seconds.train += epoch.train_seconds;
        self.seconds.eval += epoch.eval_seconds;
        self.announce();
        self.progress.epoch(epoch);
        interrupt::flow()
    }

    fn seconds(&self) -> Seconds {
        Seconds { total: self.earlier + self.begin.elapsed().as_secs_f64(), ..self.seconds }
    }
}

/// The observer is asked by two functions, one at a time, so nobody ever waits.
fn lock(observer: &Mutex<Observer>) -> MutexGuard<'_, Observer> {
    observer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves the terminal as it was. Returns what the run has taken.
fn finish_observer(observer: Mutex<Observer>) -> Seconds {
    let observer = observer.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = observer.seconds();
    observer.progress.finish();
    seconds
}

/// The starting weights: those of `--init`, or new ones.
fn first_mlp(options: &MlpOptions, classes: usize) -> Result<Mlp, Error> {
    let Some(path) = &options.common.init else {
        return new_mlp(options.hidden.unwrap_or(MLP_HIDDEN), classes, options.common.seed);
    };
    let mlp = load_mlp(options.common.data.limit.input(path))?;
    check_hidden(path, mlp.shape.hidden, options.hidden)?;
    check_mlp_memory(mlp.shape.hidden, mlp.shape.classes)?;
    Ok(mlp)
}

/// As [`first_mlp`], with the running moments that the weights of `--init` may have.
fn first_cnn(options: &CnnOptions, split: &Split) -> Result<(Cnn, Option<RunningMoments>), Error> {
    let hidden = options.hidden.unwrap_or(CNN_HIDDEN);
    let shape = CnnShape::study(hidden, split.classes);
    let batch = options.minibatch.batch.min(split.train.len());
    let Some(path) = &options.common.init else {
        return Ok((new_cnn(shape, batch, options.common.seed)?, None));
    };
    let file = options.common.data.limit.input(path);
    let (cnn, running_moments) = load_cnn(file, shape.height, shape.width)?;
    check_hidden(path, cnn.shape.hidden, options.hidden)?;
    check_cnn_memory(cnn.shape, batch)?;
    Ok((cnn, running_moments))
}

/// Makes sure that `--hidden`, where it is given, agrees with `--init`.
fn check_hidden(init: &Path, found: usize, wanted: Option<usize>) -> Result<(), Error> {
    match wanted {
        Some(wanted) if wanted != found => Err(Error::File {
            path: init.into(),
            why: format!("has {}, but --hidden is {wanted}", count(found, "hidden unit")),
        }),
        _ => Ok(()),
    }
}
