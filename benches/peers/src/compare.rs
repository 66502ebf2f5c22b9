//! `compare`: contestants do works in turn, in rounds, and how they compare is said and recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};

use crate::arrays::{difference, read, write_input};
use crate::contestants::Name;
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::protocol::{Answer, Request};
use crate::record::{Environment, Record, Row};
use crate::statistics::{Spread, median};
use crate::works::{self, Work};

/// Contestants of python/contestant.py.
const PYTHON: [&str; 9] = [
    "numpy",
    "numpy64",
    "torch-eager",
    "torch-fused",
    "torch-channels-last",
    "torch-compile",
    "tensorflow",
    "tensorflow-xla",
    "jax",
];

/// The names of all contestants, in the order of tables: kernelet first.
pub fn contestants() -> Vec<String> {
    let rust = Name::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let mut all: Vec<String> = rust.map(|name| name.get_name().to_owned()).collect();
    all.splice(1..1, PYTHON.map(String::from));
    all
}

/// Until a contestant has loaded its libraries.
const START: Duration = Duration::from_secs(120);
/// Until a work is ready: some compile it, and the naive one is slow.
const PREPARE: Duration = Duration::from_secs(300);
/// Beyond the seconds of a run, for the last of its repetitions.
const RUN: Duration = Duration::from_secs(120);

/// What to compare.
#[derive(Args)]
pub struct Options {
    /// Works whose name has one of these in it, separated by commas [default: all]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    works: Vec<String>,
    /// Contestants beside kernelet, separated by commas [default: all but naive]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contestants: Vec<String>,
    /// Numbers of threads, separated by commas [default: all, for products also 1]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Turns that every contestant has
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of a turn
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Writes FOLDER/MACHINE/DATE.csv and .txt, after every work
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// The Python that has the Python contestants' packages
    /// [default: .venv beside Cargo.toml, else python3]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

impl Options {
    fn works(&self) -> Result<Vec<Work>> {
        let works: Vec<_> = works::all()
            .into_iter()
            .filter(|work| {
                let name = work.to_string();
                self.works.is_empty() || self.works.iter().any(|part| name.contains(part))
            })
            .collect();
        let names = || works::all().iter().map(Work::to_string).collect::<Vec<_>>().join("\n  ");
        ensure!(!works.is_empty(), "no work has such a name; there are\n  {}", names());
        Ok(works)
    }

    fn contestants(&self) -> Result<Vec<String>> {
        let mut all = contestants();
        for name in &self.contestants {
            ensure!(all.contains(name), "no contestant {name}; there are {}", all.join(", "));
        }
        all.retain(|name| match name.as_str() {
            "kernelet" => true,
            "naive" if self.contestants.is_empty() => false,
            _ => self.contestants.is_empty() || self.contestants.contains(name),
        });
        Ok(all)
    }

    /// Numbers of threads, and the works that are done with each.
    fn plan(&self) -> Result<BTreeMap<usize, Vec<Work>>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ensure!(!self.threads.contains(&0), "at least one thread is needed");
        let mut plan = BTreeMap::<usize, Vec<Work>>::new();
        for work in self.works()? {
            let mut threads = match work {
                _ if !self.threads.is_empty() => self.threads.clone(),
                Work::Gemm(_) => vec![1, cores],
                _ => vec![cores],
            };
            threads.sort_unstable();
            threads.dedup();
            for threads in threads {
                plan.entry(threads).or_default().push(work);
            }
        }
        Ok(plan)
    }

    fn python(&self) -> PathBuf {
        self.python.clone().unwrap_or_else(|| {
            let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
            if own.exists() { own } else { "python3".into() }
        })
    }
}

/// Compares, and fails at the end if a contestant was wrong or gave up.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.rounds > 0, "at least one round is needed");
    ensure!(options.seconds > 0.0, "a turn needs some time");
    let plan = options.plan()?;
    let names = options.contestants()?;
    let folder = tempfile::tempdir().context("there is no temporary folder")?;
    let interrupt = Interrupt::listen()?;
    let mut environment = Environment::of_this_machine()?;
    let mut record =
        options.record.as_deref().map(|to| Record::new(to, &environment)).transpose()?;
    let mut failures = 0;
    for (threads, works) in plan {
        let mut roster = Roster {
            names: &names,
            python: options.python(),
            threads,
            folder: folder.path(),
            interrupt: &interrupt,
            processes: BTreeMap::new(),
            absent: vec![],
            environment: &mut environment,
        };
        for work in works {
            let comparison = roster.compare(work, options)?;
            println!("{}", comparison.table());
            failures += comparison.failures.len();
            if let Some(record) = &mut record {
                record.add(&comparison.rows(), roster.environment)?;
            }
        }
    }
    Ok(if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The contestants with a number of threads: each starts when it is first asked.
struct Roster<'a> {
    names: &'a [String],
    python: PathBuf,
    threads: usize,
    folder: &'a Path,
    interrupt: &'a Interrupt,
    processes: BTreeMap<String, Process>,
    /// Those that cannot be started.
    absent: Vec<String>,
    environment: &'a mut Environment,
}

impl Roster<'_> {
    fn compare(&mut self, work: Work, options: &Options) -> Result<Comparison> {
        let mut comparison = Comparison::new(work, self.threads);
        let ready = self.prepare(&mut comparison)?;
        let mut medians: BTreeMap<&str, Vec<f64>> =
            ready.iter().map(|name| (name.as_str(), vec![])).collect();
        for round in 0..options.rounds {
            for turn in 0..ready.len() {
                let name = ready[(turn + round) % ready.len()].as_str();
                // One that failed has no further turns, and no figures.
                if !medians.contains_key(name) {
                    continue;
                }
                match self.time(name, options.seconds) {
                    Ok(seconds) => medians.entry(name).or_default().push(seconds),
                    Err(error) => {
                        self.interrupt.check()?;
                        medians.remove(name);
                        self.processes.remove(name);
                        comparison.fail(name, &format!("{error:#}"));
                    }
                }
            }
        }
        for name in &ready {
            if let Some(seconds) = medians.remove(name.as_str()) {
                comparison.seconds.push((name.clone(), seconds));
            }
        }
        Ok(comparison)
    }

    /// Those that have the work ready, and agree about its result.
    fn prepare(&mut self, comparison: &mut Comparison) -> Result<Vec<String>> {
        let work = comparison.work;
        let inputs = tempfile::tempdir_in(self.folder)?;
        for (name, input) in work.inputs() {
            write_input(inputs.path(), name, &input)?;
        }
        let mut ready = vec![];
        let mut expected = BTreeMap::new();
        for name in self.names {
            self.interrupt.check()?;
            let outputs = tempfile::tempdir_in(self.folder)?;
            let request = Request::Prepare {
                work,
                inputs: inputs.path().to_owned(),
                outputs: outputs.path().to_owned(),
            };
            let Some(process) = self.process(name)? else { continue };
            let answer = process.ask(&request, PREPARE);
            match answer {
                Ok(Answer::Ready {}) => {}
                Ok(Answer::Unsupported(_)) => {
                    comparison.unsupported.push(name.clone());
                    continue;
                }
                Ok(answer) => {
                    comparison.fail(name, &format!("{answer:?}"));
                    continue;
                }
                Err(error) => {
                    self.interrupt.check()?;
                    self.processes.remove(name);
                    comparison.fail(name, &format!("{error:#}"));
                    continue;
                }
            }
            if name == "kernelet" {
                for (output, _) in work.outputs() {
                    expected.insert(output, read::<f32>(outputs.path(), output)?);
                }
            } else if name != "memcpy" {
                let mut wrong = vec![];
                for (output, expected) in &expected {
                    let apart = match read::<f32>(outputs.path(), output) {
                        Ok(found) if found.shape == expected.shape => {
                            difference(&found.data, &expected.data)
                        }
                        Ok(found) => {
                            wrong.push(format!("{output} has the shape {:?}", found.shape));
                            continue;
                        }
                        Err(error) => {
                            wrong.push(format!("{error:#}"));
                            continue;
                        }
                    };
                    // Not the other way round: a NaN is wrong too.
                    let agrees = apart <= work.tolerance(output);
                    if !agrees {
                        wrong.push(format!("{output} is off by {apart:.1e}"));
                    }
                }
                if !wrong.is_empty() {
                    comparison.fail(name, &format!("DISAGREES: {}", wrong.join(", ")));
                    continue;
                }
            }
            ready.push(name.clone());
        }
        let first = ready.first().map(String::as_str);
        if first != Some("kernelet") {
            let why = comparison.failures.first().map_or("it has no such work", |(_, why)| why);
            bail!("kernelet cannot do {work}: {why}");
        }
        Ok(ready)
    }

    /// The median of a turn.
    fn time(&mut self, name: &str, seconds: f64) -> Result<f64> {
        let process = self.processes.get_mut(name).context("it has ended")?;
        match process.ask(&Request::Run { seconds }, RUN + Duration::from_secs_f64(seconds))? {
            Answer::Times(times) if !times.is_empty() => Ok(median(&times)),
            answer => bail!("it answered {answer:?}"),
        }
    }

    /// A contestant's process; `None` if it cannot be had, which is said once.
    fn process(&mut self, name: &str) -> Result<Option<&mut Process>> {
        if self.absent.iter().any(|absent| absent == name) {
            return Ok(None);
        }
        if !self.processes.contains_key(name) {
            match self.start(name) {
                Ok((process, version)) => {
                    self.environment.versions.insert(name.to_owned(), version);
                    self.processes.insert(name.to_owned(), process);
                }
                Err(error) => {
                    self.interrupt.check()?;
                    ensure!(name != "kernelet", "kernelet cannot be started: {error:#}");
                    eprintln!("without {name}: {error:#}");
                    self.absent.push(name.to_owned());
                }
            }
        }
        Ok(self.processes.get_mut(name))
    }

    /// Starts a contestant and asks what it is.
    fn start(&self, name: &str) -> Result<(Process, String)> {
        let mut command = if PYTHON.contains(&name) {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/contestant.py");
            ensure!(program.exists(), "python/contestant.py is not there");
            let mut command = Command::new(&self.python);
            command.arg(program);
            command
        } else {
            let mut command = Command::new(std::env::current_exe().context("no own program")?);
            command.arg("contestant");
            command
        };
        command.arg(name).arg("--threads").arg(self.threads.to_string());
        let log = self.folder.join(format!("{name}-{}.log", self.threads));
        let mut process = Process::start(command, &log, self.interrupt)?;
        match process.ask(&Request::Version {}, START)? {
            Answer::Version(version) => Ok((process, version)),
            Answer::Error(error) => bail!(error),
            answer => bail!("it answered {answer:?}"),
        }
    }
}

/// What came of a work with a number of threads.
struct Comparison {
    work: Work,
    threads: usize,
    /// Each contestant's median of every round; kernelet's first.
    seconds: Vec<(String, Vec<f64>)>,
    /// Those that went wrong, and how.
    failures: Vec<(String, String)>,
    unsupported: Vec<String>,
}

impl Comparison {
    fn new(work: Work, threads: usize) -> Self {
        Self { work, threads, seconds: vec![], failures: vec![], unsupported: vec![] }
    }

    fn fail(&mut self, name: &str, why: &str) {
        eprintln!("{}, {}: {name}: {why}", self.work, threads(self.threads));
        self.failures.push((name.to_owned(), why.to_owned()));
    }

    fn rows(&self) -> Vec<Row> {
        let of = |(name, seconds): &(String, Vec<f64>)| -> Vec<Row> {
            let row = |(round, &seconds)| Row {
                work: self.work.to_string(),
                threads: self.threads,
                contestant: name.clone(),
                round,
                seconds,
            };
            (1..).zip(seconds).map(row).collect()
        };
        self.seconds.iter().flat_map(of).collect()
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let traffic = self.work.traffic();
        let rate = match (self.work.flops(), traffic) {
            (Some(_), _) => "GFLOP/s",
            (None, Some(_)) => "GB/s",
            (None, None) => "",
        };
        table.set_header(["", "time", rate, "kernelet / it", "quartiles"]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let ours = self.seconds.first().map_or(&[][..], |(_, seconds)| seconds);
        for (name, seconds) in &self.seconds {
            let middle = median(seconds);
            let amount = match (self.work.flops(), traffic) {
                (Some(flops), _) => Some(flops),
                (None, Some(traffic)) if name == "memcpy" => Some(traffic.arrays),
                (None, Some(traffic)) => Some(traffic.moved),
                (None, None) => None,
            };
            let rate =
                amount.map_or(String::new(), |amount| format!("{:.1}", amount / middle * 1e-9));
            let (share, quartiles) = match Spread::of_ratios(ours, seconds) {
                Some(Spread { lower, median, upper }) if name != "kernelet" => {
                    (format!("{median:.2}"), format!("{lower:.2} to {upper:.2}"))
                }
                _ => (String::new(), String::new()),
            };
            table.add_row([name.clone(), duration(middle), rate, share, quartiles]);
        }
        for (name, why) in &self.failures {
            let disagrees = why.starts_with("DISAGREES");
            table.add_row([name.as_str(), if disagrees { "DISAGREES" } else { "failed" }]);
        }
        let mut text = format!("{}, {}\n{table}", self.work, threads(self.threads));
        let copy = self.seconds.iter().find(|(name, _)| name == "memcpy");
        if let Some(((_, copy), traffic)) = copy.zip(traffic)
            && let Some(spread) = Spread::of_ratios(copy, ours)
        {
            let share = 100.0 * traffic.moved / traffic.arrays * spread.median;
            text += &format!("\nkernelet moves {share:.0} % of what memcpy does in the same time");
        }
        if !self.unsupported.is_empty() {
            text += &format!("\nwithout it: {}", self.unsupported.join(", "));
        }
        text + "\n"
    }
}

/// A number of threads in words.
pub fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}

/// A time with three digits.
pub fn duration(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn times_have_three_digits() {
        let times = [1.234, 0.012_34, 123.4e-6, 1.0e-7].map(duration);
        assert_eq!(times, ["1.23 s", "12.3 ms", "123 µs", "0.10 µs"], "times");
    }
}
