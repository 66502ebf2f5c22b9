//! `kernelet train mlp`, and `kernelet` alone.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use kernelet::data::{Dataset, PIXELS};
use kernelet::nn::{Mlp, MlpShape};
use kernelet::train::weights::{load_mlp, save_mlp};
use kernelet::train::{History, mlp as training};
use kernelet::{Cpu, Error};
use serde::Serialize;

use crate::args::MlpOptions;
use crate::files::Files;
use crate::progress::Progress;
use crate::{Done, curves, history, interrupt, output, report, summary};

/// Hidden units where neither `--hidden` nor `--init` says otherwise.
const HIDDEN: usize = 1000;

/// A finished run: what its report and its summary tell of.
pub struct Run<'a> {
    pub options: &'a MlpOptions,
    pub settings: training::Settings,
    pub hidden: usize,
    /// Where the data came from.
    pub data: &'a str,
    /// How many train, validate and test.
    pub samples: [usize; 3],
    pub cpu: &'a Cpu,
    pub history: History,
    pub seconds: Seconds,
    pub files: &'a Files,
}

/// What the time went to.
#[derive(Default, Serialize)]
pub struct Seconds {
    pub total: f64,
    pub train: f64,
    pub eval: f64,
}

/// Trains, shows the study's table with ours beside it, and writes the files.
pub fn mlp(options: &MlpOptions) -> Result<Done, Error> {
    let cpu = cpu(options.threads)?;
    let dataset = match &options.data {
        Some(path) => Dataset::open(path)?,
        None => Dataset::letters()?,
    };
    let data = dataset.origin.clone();
    let split = dataset.split(options.split, options.split_seed.0)?;
    drop(dataset);
    let mut mlp = start(options, split.classes)?;
    let hidden = mlp.shape.hidden;
    let files = Files::prepare(options)?;
    let samples = [split.train.len(), split.valid.len(), split.test.len()];
    let [train, valid, test] = samples;
    let headline = format!(
        "MLP with {} on {data}, {} on {}\n{train} images train, {valid} validate, {test} test\n",
        count(hidden, "hidden unit"),
        cpu.isa(),
        count(cpu.threads(), "thread"),
    );

    interrupt::listen()?;
    let settings = options.settings();
    let mut progress = Progress::new(settings.epochs);
    let mut seconds = Seconds::default();
    let begin = Instant::now();
    let history = training::train(&cpu, &settings, &split, &mut mlp, &mut |epoch| {
        seconds.train += epoch.train_seconds;
        seconds.eval += epoch.eval_seconds;
        if epoch.epoch == 0 {
            // Not before: until here the library may have refused the weights or the data.
            output::complain(&headline);
        }
        progress.show(epoch);
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    seconds.total = begin.elapsed().as_secs_f64();
    progress.finish();

    // The weights first: they are what cannot be had again without training.
    for path in &files.weights {
        save_mlp(path, &mlp)?;
    }
    for path in &files.history {
        history::write(path, &history)?;
    }
    if let Some(folder) = &options.out {
        let subject = format!("MLP with {} on {}", count(hidden, "hidden unit"), name(&data));
        curves::write(folder, &subject, &history)?;
    }
    let run = Run {
        options,
        settings,
        hidden,
        data: &data,
        samples,
        cpu: &cpu,
        history,
        seconds,
        files: &files,
    };
    for path in &files.summary {
        summary::write(path, &run)?;
    }
    output::print(&report::of(&run))?;
    Ok(if run.history.interrupted { Done::Interrupted } else { Done::Complete })
}

/// The `Cpu` that `--threads` asks for.
pub fn cpu(threads: Option<usize>) -> Result<Cpu, Error> {
    let cpu = Cpu::detect()?;
    match threads {
        Some(threads) => cpu.with_threads(threads),
        None => Ok(cpu),
    }
}

/// A number and what it counts: `1 thread`, `2 threads`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A data set's name without the folders, for places that are not wide.
pub fn name(data: &str) -> &str {
    Path::new(data).file_name().and_then(|name| name.to_str()).unwrap_or(data)
}

/// The starting weights: those of `--init`, or new ones.
fn start(options: &MlpOptions, classes: usize) -> Result<Mlp, Error> {
    let Some(path) = &options.init else {
        let hidden = options.hidden.unwrap_or(HIDDEN);
        check_memory(hidden)?;
        return Ok(Mlp::xavier(MlpShape { inputs: PIXELS, hidden, classes }, options.seed));
    };
    let mlp = load_mlp(path)?;
    match options.hidden {
        Some(hidden) if hidden != mlp.shape.hidden => Err(Error::File {
            path: path.clone(),
            why: format!(
                "has {}, but --hidden is {hidden}",
                count(mlp.shape.hidden, "hidden unit")
            ),
        }),
        _ => Ok(mlp),
    }
}

/// Makes sure that training finds the memory that it is about to ask for: without, it would abort.
fn check_memory(hidden: usize) -> Result<(), Error> {
    // Weights, gradients and velocity take 800 floats each, two blocks of activations 1024 each.
    const BYTES_PER_UNIT: usize = (3 * 800 + 2 * 1024) * size_of::<f32>();
    Vec::<u8>::new().try_reserve_exact(hidden.saturating_mul(BYTES_PER_UNIT)).map_err(|_| {
        Error::Setting(format!("{} do not fit into memory", count(hidden, "hidden unit")))
    })
}
