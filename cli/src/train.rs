//! `kernelet train mlp`, and `kernelet` alone.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use kernelet::data::{Dataset, PIXELS};
use kernelet::nn::{Mlp, MlpShape};
use kernelet::train::weights::{load_mlp, save_mlp};
use kernelet::train::{History, mlp as training};
use kernelet::{Cpu, Error};

use crate::args::MlpOptions;
use crate::files::{Files, Summary, write_history};
use crate::progress::Progress;
use crate::{Done, curves, interrupt, output, study, table};

/// Hidden units where neither `--hidden` nor `--init` says otherwise.
const HIDDEN: usize = 1000;

/// Trains, shows the study's table with ours beside it, and writes the files.
pub fn mlp(options: &MlpOptions) -> Result<Done, Error> {
    let files = Files::prepare(options)?;
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
    output::complain(&format!(
        "{hidden} hidden units on {data} ({} train, {} valid, {} test), {} on {} threads\n",
        split.train.len(),
        split.valid.len(),
        split.test.len(),
        cpu.isa(),
        cpu.threads(),
    ));

    interrupt::listen()?;
    let mut progress = Progress::new(options.epochs);
    let begin = Instant::now();
    let history = training::train(&cpu, &options.settings(), &split, &mut mlp, &mut |epoch| {
        progress.show(epoch);
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    progress.finish();

    // The weights first: they are what cannot be had again without training.
    for path in &files.weights {
        save_mlp(path, &mlp)?;
    }
    for path in &files.history {
        write_history(path, &history)?;
    }
    let title = format!("MLP with {hidden} hidden units on {data}");
    let curves = match &files.curves {
        Some(folder) => curves::write(folder, &title, &history)?,
        None => Vec::new(),
    };
    let summary = Summary::new(options, hidden, &data, &split, &cpu, &history, &files, &curves);
    for path in &files.summary {
        summary.write(path)?;
    }
    output::print(&report(options, hidden, &data, seconds, &history, &files, &curves))?;
    Ok(if history.interrupted { Done::Interrupted } else { Done::Complete })
}

/// The `Cpu` that `--threads` asks for.
pub fn cpu(threads: Option<usize>) -> Result<Cpu, Error> {
    let cpu = Cpu::detect()?;
    match threads {
        Some(threads) => cpu.with_threads(threads),
        None => Ok(cpu),
    }
}

/// The starting weights: those of `--init`, or new ones.
fn start(options: &MlpOptions, classes: usize) -> Result<Mlp, Error> {
    let Some(path) = &options.init else {
        let hidden = options.hidden.unwrap_or(HIDDEN);
        return Ok(Mlp::xavier(MlpShape { inputs: PIXELS, hidden, classes }, options.seed));
    };
    let mlp = load_mlp(path)?;
    match options.hidden {
        Some(hidden) if hidden != mlp.shape.hidden => Err(Error::File {
            path: path.clone(),
            why: format!("has {} hidden units, but --hidden is {hidden}", mlp.shape.hidden),
        }),
        _ => Ok(mlp),
    }
}

fn report(
    options: &MlpOptions,
    hidden: usize,
    data: &str,
    seconds: f64,
    history: &History,
    files: &Files,
    curves: &[PathBuf],
) -> String {
    let mut text = String::new();
    let Some(last) = history.epochs.last() else { return text };
    // The study's figures stand beside ours where the run is the study's.
    let printed =
        study::mlp(hidden).filter(|_| options.settings() == training::Settings::default());
    let interrupted = if history.interrupted { " (interrupted)" } else { "" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "Table 1: {hidden} hidden units after {} epochs on {data}{interrupted}\n{}",
        last.epoch,
        table::table_1(seconds, last, printed),
    );
    if printed.is_some() && options.data.is_none() {
        let _ = writeln!(
            text,
            "The study's figures are on notMNIST, ours on the embedded letters, which are about as\n\
             hard: compare the sizes of the figures, not their digits.",
        );
    }
    if let Some((best, valid)) = history.best().and_then(|best| Some((best, best.valid?))) {
        let _ = writeln!(
            text,
            "Early stopping would have stopped at epoch {}: valid {:.6} / {:.2} %{}.",
            best.epoch,
            valid.loss,
            valid.accuracy,
            best.test
                .map_or(String::new(), |m| format!(", test {:.6} / {:.2} %", m.loss, m.accuracy)),
        );
    }
    for path in files.weights.iter().chain(&files.history).chain(&files.summary).chain(curves) {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    text
}
