//! `kernelet profile`: where the time of training goes, kernel by kernel, and how far each kernel is
//! from what the machine can do.

mod measure;
mod recorder;
mod show;
mod trace;

use std::path::{Path, PathBuf};

use kernelet::data::npz::write_atomically;
use kernelet::train::{cnn, mlp};
use kernelet::{Cpu, Error};
use serde::{Deserialize, Serialize};

use crate::args::{MinibatchOptions, ProfileCnnOptions, ProfileMlpOptions, ProfileOptions};
use crate::charts::Figure;
use crate::network::Network;
use crate::output::{complain, count};
use crate::study::printed::CNN_HIDDEN;
use crate::{Done, files, interrupt, output};

pub use measure::{measure, trace};
pub use show::{figures, step_table};
use show::{text, write_csv};

/// What a profile is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "network", rename_all = "lowercase")]
pub enum Subject {
    Mlp { hidden: usize },
    Cnn { hidden: usize, batch: usize, l2: f32, keep_probability: f32 },
}

/// Where the time of a training step and of an evaluation goes. Shares are of 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The program's version.
    pub kernelet: String,
    pub subject: Subject,
    /// Images of a step.
    pub images: usize,
    pub seed: u64,
    /// Rounds that were listened to; there were as many that were not.
    pub rounds: usize,
    pub instruction_set: String,
    pub threads: usize,
    pub peaks: Peaks,
    pub step_seconds: StepSeconds,
    pub cost: Cost,
    /// Share of a step's time that kernels take.
    pub coverage: f64,
    pub step: Part,
    pub evaluation: Part,
}

/// What the machine can do at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    /// 1e9 floating-point operations per second.
    pub gflops: f64,
    /// 1e9 bytes per second between cores and main memory.
    pub memory_gbytes: f64,
}

/// Median seconds of a step, by the training loop's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSeconds {
    /// Not listened to.
    pub off: f64,
    /// Listened to.
    pub on: f64,
}

/// How much longer a step takes while it is listened to: 0.01 is one percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of the pairs of rounds, one listened to and one not.
    pub median: f64,
    /// Half of the pairs are between the two.
    pub lower_quartile: f64,
    pub upper_quartile: f64,
}

/// A part of the training loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub calls: u64,
    pub seconds: f64,
    /// Those that take longest first.
    pub kernels: Vec<Kernel>,
    pub outside_seconds: f64,
    /// Share of the part's time that is spent outside kernels.
    pub outside_share: f64,
}

/// A kernel in a part of the training loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    pub name: String,
    pub calls: u64,
    pub seconds: f64,
    /// Of the part's time.
    pub share: f64,
    /// 1e9 floating-point operations per second.
    pub gflops: f64,
    /// 1e9 bytes per second, those that the kernel has to read and write: each once.
    pub gbytes: f64,
    /// Floating-point operations per byte.
    pub intensity: f64,
    /// Achieved operations per second, as a share of what the peaks allow at this intensity: more than 1 where
    /// data come from the caches or AMX computes.
    pub roofline: f64,
}

impl Subject {
    /// The network with what makes it differ from the study's others.
    pub fn name(&self) -> String {
        let network = match *self {
            Self::Mlp { .. } => Network::Mlp(mlp::Settings::default()),
            Self::Cnn { batch, l2, keep_probability, .. } => {
                Network::Cnn(cnn::Settings { batch, l2, keep_probability, ..Default::default() })
            }
        };
        network.subject(self.hidden())
    }

    /// The study's convolutional network, plain.
    pub fn study_cnn() -> Self {
        let cnn::Settings { batch, l2, keep_probability, .. } = cnn::Settings::default();
        Self::Cnn { hidden: CNN_HIDDEN, batch, l2, keep_probability }
    }

    /// As the command line calls it.
    pub fn network(&self) -> &'static str {
        match self {
            Self::Mlp { .. } => "mlp",
            Self::Cnn { .. } => "cnn",
        }
    }

    /// Of the network's hidden layer.
    pub fn hidden(&self) -> usize {
        match *self {
            Self::Mlp { hidden } | Self::Cnn { hidden, .. } => hidden,
        }
    }
}

/// Profiles an MLP.
pub fn mlp(options: &ProfileMlpOptions) -> Result<Done, Error> {
    run(&options.common, &Subject::Mlp { hidden: options.hidden })
}

/// Profiles a CNN.
pub fn cnn(options: &ProfileCnnOptions) -> Result<Done, Error> {
    let &MinibatchOptions { batch, l2, keep_prob } = &options.minibatch;
    let hidden = options.hidden;
    run(&options.common, &Subject::Cnn { hidden, batch, l2, keep_probability: keep_prob })
}

fn run(options: &ProfileOptions, subject: &Subject) -> Result<Done, Error> {
    let cpu = options.threads.cpu()?;
    let dataset = options.data.open()?;
    let split = options.data.split(&dataset)?;
    let files = Files::of(options);
    files::check(files.all().map(PathBuf::as_path), options.data.path.as_deref())?;
    interrupt::listen()?;

    complain(&headline(subject, &dataset.origin, &cpu, options.rounds));
    let peaks = Peaks::measure(&cpu);
    let Some(profile) = measure(&cpu, &split, subject, options.seed, options.rounds, peaks)? else {
        return Ok(Done::Interrupted);
    };
    if files.traces().next().is_some() {
        let json = trace(&cpu, &split, subject, options.seed)?;
        if interrupt::asked() {
            return Ok(Done::Interrupted);
        }
        for path in files.traces() {
            write_atomically(path, |to| to.write_all(&json))?;
        }
    }
    if let Some(folder) = &options.out {
        profile.write(folder)?;
    }
    let wrote: String = files.all().map(|path| format!("wrote {}\n", path.display())).collect();
    if options.json {
        output::print_json(&profile)?;
        complain(&wrote);
    } else {
        output::print(&(text(&profile) + &wrote))?;
    }
    Ok(Done::Complete)
}

fn headline(subject: &Subject, origin: &str, cpu: &Cpu, rounds: usize) -> String {
    format!(
        "{} on {origin}, {} on {}\n{} listened to, and as many not\n",
        subject.name(),
        cpu.isa(),
        count(cpu.threads(), "thread"),
        count(rounds, "round"),
    )
}

const TABLE: &str = "profile.csv";
const JSON: &str = "profile.json";
const TRACE: &str = "trace.json";

/// Where the files go.
struct Files {
    tables: Vec<PathBuf>,
    traces: Vec<PathBuf>,
}

impl Files {
    fn of(options: &ProfileOptions) -> Self {
        let mut tables = Vec::new();
        let mut traces: Vec<_> = options.trace.iter().cloned().collect();
        if let Some(folder) = &options.out {
            tables.extend([TABLE, JSON].map(|name| folder.join(name)));
            tables.extend(show::FIGURES.map(|name| Figure::paths(name, folder)).concat());
            traces.push(folder.join(TRACE));
        }
        Self { tables, traces }
    }

    fn traces(&self) -> impl Iterator<Item = &PathBuf> {
        self.traces.iter()
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.tables.iter().chain(&self.traces)
    }
}

impl Profile {
    /// Writes everything but a trace into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        write_csv(&folder.join(TABLE), &[self])?;
        write_atomically(&folder.join(JSON), |to| {
            serde_json::to_writer_pretty(&mut *to, self)?;
            to.write_all(b"\n")
        })?;
        for figure in figures("", &[self]) {
            figure.write(folder)?;
        }
        Ok(())
    }
}
