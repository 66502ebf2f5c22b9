//! `kernelet train mlp`, which is also `kernelet` alone, and `kernelet train cnn`.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use kernelet::data::Split;
use kernelet::kernels::relu_batch_norm::RunningMoments;
use kernelet::nn::{Cnn, CnnShape, Mlp};
use kernelet::train::cnn::{Event, Trained};
use kernelet::train::weights::{load_cnn, load_mlp, save_cnn, save_mlp};
use kernelet::train::{self, Epoch};
use kernelet::{Cpu, Error};

use crate::args::{CnnOptions, MlpOptions, TrainOptions};
use crate::files::Files;
use crate::network::{Network, check_cnn_memory, check_mlp_memory, new_cnn, new_mlp};
use crate::output::{count, name};
use crate::progress::Progress;
use crate::run::{Run, Seconds};
use crate::study::printed::{CNN_HIDDEN, MLP_HIDDEN};
use crate::{Done, charts, history, interrupt, output, result, summary};

/// Trains an MLP, shows the study's table with ours beside it, and writes the files.
pub fn mlp(options: &MlpOptions) -> Result<Done, Error> {
    let input = Input::open(&options.common)?;
    let mut mlp = first_mlp(options, input.split.classes)?;
    let settings = options.settings();
    let files = Files::of_mlp(options)?;
    let network = Network::Mlp(settings);
    let (mut run, split) = input.start(&options.common, network, mlp.shape.hidden, files);

    let mut observer = Observer::new(&run)?;
    let observe = &mut |epoch: &Epoch| observer.epoch(epoch);
    run.history = train::mlp::train(&run.cpu, &settings, &split, &mut mlp, observe)?;
    run.seconds = observer.finish();

    // The weights first: they are what cannot be had again without training.
    for path in &run.files.weights {
        save_mlp(path, &mlp)?;
    }
    finish(&run)
}

/// Trains a CNN, shows the study's table with ours beside it, and writes the files.
pub fn cnn(options: &CnnOptions) -> Result<Done, Error> {
    let input = Input::open(&options.common)?;
    let (mut cnn, first_moments) = first_cnn(options, &input.split)?;
    let settings = options.settings();
    let files = Files::of_cnn(options)?;
    let network = Network::Cnn(settings);
    let (mut run, split) = input.start(&options.common, network, cnn.shape.hidden, files);

    let mut observer = Observer::new(&run)?;
    let observe = &mut |event: Event| match event {
        Event::Step { step, of, loss } => observer.step(step, of, loss),
        Event::Epoch(epoch) => observer.epoch(epoch),
    };
    let Trained { history, step_losses, running_moments } =
        train::cnn::train(&run.cpu, &settings, &split, &mut cnn, observe)?;
    run.seconds = observer.finish();
    run.history = history;

    // Without a step there are no new running moments.
    let running_moments = running_moments.or(first_moments);
    for path in &run.files.weights {
        save_cnn(path, &cnn, running_moments.as_ref())?;
    }
    for path in &run.files.steps {
        history::write_steps(path, &step_losses)?;
    }
    run.step_losses = step_losses;
    finish(&run)
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

/// Writes what both networks have besides their weights, and reports.
fn finish(run: &Run) -> Result<Done, Error> {
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
    if run.options.json {
        output::print_json(&summary::of(run))?;
    } else {
        output::print(&result::of(run))?;
    }
    Ok(if run.history.interrupted { Done::Interrupted } else { Done::Complete })
}

/// What goes on while a network is trained: shows the progress, adds up the time, heeds Ctrl-C.
struct Observer {
    headline: String,
    progress: Progress,
    seconds: Seconds,
    begin: Instant,
}

impl Observer {
    fn new(run: &Run) -> Result<Self, Error> {
        interrupt::listen()?;
        let [train, valid, test] = run.samples;
        let headline = format!(
            "{} on {}, {} on {}\n{train} images train, {valid} validate, {test} test\n",
            run.subject(),
            run.origin,
            run.cpu.isa(),
            count(run.cpu.threads(), "thread"),
        );
        let progress = Progress::new(run.network.epochs());
        Ok(Self { headline, progress, seconds: Seconds::default(), begin: Instant::now() })
    }

    fn step(&mut self, step: usize, of: usize, loss: f64) -> ControlFlow<()> {
        self.progress.step(step, of, loss);
        interrupt::flow()
    }

    fn epoch(&mut self, epoch: &Epoch) -> ControlFlow<()> {
        self.seconds.train += epoch.train_seconds;
        self.seconds.eval += epoch.eval_seconds;
        if epoch.epoch == 0 {
            // Not before: until here the library may have refused the weights or the data.
            output::complain(&self.headline);
        }
        self.progress.epoch(epoch);
        interrupt::flow()
    }

    fn finish(self) -> Seconds {
        self.progress.finish();
        Seconds { total: self.begin.elapsed().as_secs_f64(), ..self.seconds }
    }
}

/// The starting weights: those of `--init`, or new ones.
fn first_mlp(options: &MlpOptions, classes: usize) -> Result<Mlp, Error> {
    let Some(path) = &options.common.init else {
        return new_mlp(options.hidden.unwrap_or(MLP_HIDDEN), classes, options.common.seed);
    };
    let mlp = load_mlp(path)?;
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
    let (cnn, running_moments) = load_cnn(path, shape.height, shape.width)?;
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
