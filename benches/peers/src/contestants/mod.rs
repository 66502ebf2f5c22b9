//! The contestants that this program is itself: one file each, and what they have in common.

mod burn;
mod candle;
mod faer;
mod gemm;
mod kernelet;
mod layout;
mod matrixmultiply;
mod memcpy;
mod naive;
mod ndarray;

use std::io::{BufRead, Write, stdin, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::arrays;
use crate::protocol::{Answer, Request};
use crate::works::Work;

/// What a contestant is started with.
#[derive(Args)]
pub struct Options {
    /// Which one
    name: Name,
    /// How many threads it may use
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Contestants written in Rust.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Name {
    /// This crate's kernels
    Kernelet,
    /// faer's matrix product
    Faer,
    /// The product of the crate gemm
    Gemm,
    /// The product of the crate matrixmultiply
    Matrixmultiply,
    /// ndarray, with rayon
    Ndarray,
    /// candle
    Candle,
    /// burn, on its CPU backend Flex
    Burn,
    /// A copy of half a work's memory to the other half
    Memcpy,
    /// kernelet's scalar twins, on one thread
    Naive,
}

/// A library that does works.
trait Contestant {
    /// Name and version of the library.
    fn version(&self) -> String;

    /// Gets a work ready.
    ///
    /// # Errors
    /// If an input cannot be read.
    fn prepare(&self, work: &Work, inputs: &Inputs) -> Result<Prepared>;

    /// Runs `body` on the thread from which the library's parallel parts start soonest.
    fn install(&self, body: &mut (dyn FnMut() + Send)) {
        rayon::scope(|_| body());
    }
}

/// What becomes of a work.
enum Prepared {
    /// It can be done.
    Job(Box<dyn Job>),
    /// It cannot, for the reason given.
    Unsupported(&'static str),
}

/// A work that is ready to be done.
trait Job: Send {
    /// Whether every run needs a [`refill`](Self::refill).
    fn needs_refill(&self) -> bool {
        false
    }

    /// Makes anew what a run uses up, a graph for example. Its time does not count.
    fn refill(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does the work: this is what is timed.
    fn run(&mut self) -> Result<()>;

    /// What the last run made, row-major.
    fn outputs(&mut self) -> Result<Outputs>;
}

/// Arrays by name.
type Outputs = Vec<(&'static str, Vec<f32>)>;

/// What to do with a state.
type Step<S, R> = Box<dyn FnMut(&mut S) -> Result<R> + Send>;

/// A job of a state and what is done with it.
struct Task<S> {
    state: S,
    refill: Option<Step<S, ()>>,
    run: Step<S, ()>,
    outputs: Step<S, Outputs>,
}

impl<S: Send> Job for Task<S> {
    fn needs_refill(&self) -> bool {
        self.refill.is_some()
    }

    fn refill(&mut self) -> Result<()> {
        self.refill.as_mut().map_or(Ok(()), |refill| refill(&mut self.state))
    }

    fn run(&mut self) -> Result<()> {
        (self.run)(&mut self.state)
    }

    fn outputs(&mut self) -> Result<Outputs> {
        (self.outputs)(&mut self.state)
    }
}

/// A job that does `run` with `state`, in which `outputs` then finds the results.
fn job<S: Send + 'static>(
    state: S,
    run: impl FnMut(&mut S) -> Result<()> + Send + 'static,
    outputs: impl FnMut(&mut S) -> Result<Outputs> + Send + 'static,
) -> Result<Prepared> {
    let task = Task { state, refill: None, run: Box::new(run), outputs: Box::new(outputs) };
    Ok(Prepared::Job(Box::new(task)))
}

/// A [`job`] whose every run uses up what `refill` makes.
fn refilled_job<S: Send + 'static>(
    state: S,
    refill: impl FnMut(&mut S) -> Result<()> + Send + 'static,
    run: impl FnMut(&mut S) -> Result<()> + Send + 'static,
    outputs: impl FnMut(&mut S) -> Result<Outputs> + Send + 'static,
) -> Result<Prepared> {
    let refill: Step<S, ()> = Box::new(refill);
    let task = Task { state, refill: Some(refill), run: Box::new(run), outputs: Box::new(outputs) };
    Ok(Prepared::Job(Box::new(task)))
}

/// The folder that a work's inputs are in.
struct Inputs<'a>(&'a Path);

impl Inputs<'_> {
    /// The numbers of `name.npy`.
    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(arrays::read(self.0, name)?.data)
    }

    /// The numbers of `name.npy`, of which there must be `rows * cols`.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>> {
        let data = self.floats(name)?;
        ensure!(data.len() == rows * cols, "{name} has {} elements", data.len());
        Ok(data)
    }

    /// The labels of `name.npy`.
    fn labels(&self, name: &str) -> Result<Vec<u32>> {
        Ok(arrays::read(self.0, name)?.data)
    }
}

fn start(name: Name, threads: usize) -> Result<Box<dyn Contestant>> {
    Ok(match name {
        Name::Kernelet => Box::new(kernelet::Kernelet::new(threads)?),
        Name::Faer => Box::new(faer::Faer::new(threads)),
        Name::Gemm => Box::new(gemm::Gemm::new(threads)),
        Name::Matrixmultiply => Box::new(matrixmultiply::Matrixmultiply),
        Name::Ndarray => Box::new(ndarray::Ndarray),
        Name::Candle => Box::new(candle::Candle),
        Name::Burn => Box::new(burn::Burn),
        Name::Naive => Box::new(naive::Naive),
        Name::Memcpy => Box::new(memcpy::Memcpy::new(threads)),
    })
}

/// Answers requests until there are no more.
pub fn serve(options: &Options) -> Result<()> {
    let threads = options.threads;
    ensure!(threads > 0, "at least one thread is needed");
    for variable in ["RAYON_NUM_THREADS", "MATMUL_NUM_THREADS"] {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(variable, threads.to_string()) };
    }
    let contestant = start(options.name, threads)?;
    let mut job = None;
    for line in stdin().lock().lines() {
        let line = line.context("standard input cannot be read")?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = catch_unwind(AssertUnwindSafe(|| answer(&*contestant, &mut job, &line)));
        let answer = answer.unwrap_or_else(|_| {
            job = None;
            bail!("it panicked")
        });
        let answer = answer.unwrap_or_else(|error| Answer::Error(format!("{error:#}")));
        let mut stdout = stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
        stdout.flush()?;
    }
    Ok(())
}

fn answer(
    contestant: &dyn Contestant,
    job: &mut Option<Box<dyn Job>>,
    line: &str,
) -> Result<Answer> {
    let request: Request = serde_json::from_str(line).context("the request is not understood")?;
    match request {
        Request::Prepare { work, inputs, outputs } => {
            // The last work's memory goes before the next one's comes.
            *job = None;
            match contestant.prepare(&work, &Inputs(&inputs))? {
                Prepared::Unsupported(why) => Ok(Answer::Unsupported(why.into())),
                Prepared::Job(mut prepared) => {
                    install(contestant, || {
                        prepared.refill()?;
                        prepared.run()
                    })?;
                    write_outputs(&work, prepared.outputs()?, &outputs)?;
                    *job = Some(prepared);
                    Ok(Answer::Ready {})
                }
            }
        }
        Request::Run { seconds } => {
            let job = job.as_mut().context("nothing is prepared")?;
            let seconds = Duration::try_from_secs_f64(seconds).context("a strange time")?;
            Ok(Answer::Times(install(contestant, || times(&mut **job, seconds))?))
        }
        Request::Version {} => Ok(Answer::Version(contestant.version())),
    }
}

/// What `body` gives on the thread that the contestant wants.
fn install<T: Send>(
    contestant: &dyn Contestant,
    mut body: impl FnMut() -> Result<T> + Send,
) -> Result<T> {
    let mut result = None;
    contestant.install(&mut || result = Some(body()));
    result.context("the contestant did not begin")?
}

/// Writes what a job made, which must be what the work asks for; a copy makes nothing.
fn write_outputs(work: &Work, found: Outputs, folder: &Path) -> Result<()> {
    for (name, data) in found {
        let shapes = work.outputs();
        let shape = shapes.iter().find(|(output, _)| *output == name);
        let (_, shape) = shape.with_context(|| format!("{work} has no output {name}"))?;
        ensure!(
            shape.iter().product::<usize>() == data.len(),
            "{name} has {} elements",
            data.len()
        );
        arrays::write(folder, name, shape, &data)?;
    }
    Ok(())
}

/// Seconds of each run, for so long. Short runs are timed in batches: reading the clock takes time.
fn times(job: &mut dyn Job, duration: Duration) -> Result<Vec<f64>> {
    const SHORT: f64 = 50e-6;
    let start = Instant::now();
    let mut times = Vec::new();
    let mut batch = 1_u32;
    loop {
        job.refill()?;
        let begin = Instant::now();
        for _ in 0..batch {
            job.run()?;
        }
        let each = begin.elapsed().as_secs_f64() / f64::from(batch);
        if batch == 1 && each < SHORT && !job.needs_refill() {
            // This one only told how long a batch must be.
            batch = (SHORT / each.max(1e-9)).ceil().max(2.0) as u32;
            continue;
        }
        times.push(each);
        if start.elapsed() >= duration {
            return Ok(times);
        }
    }
}

/// Name and version of a crate that this program is built with.
fn crate_version(name: &str) -> String {
    let version = locked_version(include_str!("../../Cargo.lock"), name);
    format!("{name} {}", version.unwrap_or("of an unknown version"))
}

/// The version of a package in a lockfile: the one that `kernelet-peers` depends on, if there are
/// several.
fn locked_version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let packages = || lock.split("[[package]]");
    let is = |package: &str, name: &str| package.contains(&format!("\nname = \"{name}\"\n"));
    // A dependency has its version beside its name only where the name is not enough.
    let ours = packages().find(|package| is(package, "kernelet-peers"))?;
    let dependency = ours.lines().find_map(|line| {
        line.trim().strip_prefix('"')?.strip_prefix(name)?.strip_prefix(' ')?.strip_suffix("\",")
    });
    dependency.or_else(|| {
        let package = packages().find(|package| is(package, name))?;
        package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::locked_version;

    #[test]
    fn the_version_is_the_one_that_is_used() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0\"\n\n\
            [[package]]\nname = \"a\"\nversion = \"2.0\"\n\n\
            [[package]]\nname = \"ab\"\nversion = \"3.0\"\n\n\
            [[package]]\nname = \"kernelet-peers\"\nversion = \"0.1\"\n\
            dependencies = [\n \"a 2.0\",\n \"ab\",\n]\n";
        assert_eq!(locked_version(lock, "a"), Some("2.0"), "of two");
        assert_eq!(locked_version(lock, "ab"), Some("3.0"), "of one");
        assert_eq!(locked_version(lock, "b"), None, "of none");
    }
}
