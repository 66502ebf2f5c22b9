//! The command line.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kernelet::data::npz::{Input, Limit};
use kernelet::data::{Dataset, Split};
use kernelet::train::mlp::Reduction;
use kernelet::train::{cnn, mlp};
use kernelet::{Cpu, Error};

use crate::study::printed;

/// SIMD kernels for small neural networks on a CPU.
///
/// Without a command: trains the study's multilayer perceptron (1000 hidden units, 200 epochs) on
/// the embedded letters, and writes curves, history, summary and weights to kernelet-out.
///
/// KERNELET_ISA=scalar|avx2|avx512|amx forces an instruction set.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what there was has been saved).
#[derive(Parser)]
#[command(name = "kernelet", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a network
    Train {
        #[command(subcommand)]
        network: TrainCommand,
    },
    /// Make one of the study's experiments, and show its figures with ours beside them
    Study {
        #[command(subcommand)]
        study: StudyCommand,
    },
    /// Make the whole study: every table and figure in one report
    ///
    /// Takes some twenty minutes on two cores; --quick takes a minute or two. What is interrupted goes on
    /// where it stopped when it is started again with the same options.
    Reproduce(Box<ReproduceOptions>),
    /// Show letters of the test split with what a network takes them for
    #[command(after_help = "A CNN normalises with the moments of the whole test split, as \
                            training evaluates it.")]
    Play(PlayOptions),
    /// Classify images; writes CSV for scripts
    #[command(
        after_help = "A CNN normalises with the running moments in its file if it has them, \
                            else with the moments of all images given.\n\n\
                            Columns: index,class,letter,probability,p_A,...,p_J (p_0,p_1,... for \
                            other than ten classes); the letter is empty from class 26 on."
    )]
    Predict(PredictOptions),
    /// Show where the time of training goes: kernel by kernel, against the machine's peaks
    Profile {
        #[command(subcommand)]
        network: ProfileCommand,
    },
    /// Show the processor, the instruction set, the threads and the measured peaks
    Info(InfoOptions),
    /// Print a script that teaches a shell to complete this command line
    Completions { shell: Shell },
    /// Print the man page
    Man(ManOptions),
}

#[derive(Subcommand)]
pub enum TrainCommand {
    /// The study's multilayer perceptron: full-batch gradient descent with momentum
    #[command(after_help = "Weight files hold the arrays w_h, b_h, w_o and b_o.")]
    Mlp(Box<MlpOptions>),
    /// The study's convolutional network: minibatches and Adam
    #[command(after_help = "Weight files hold the arrays w0, b0, w1, b1, w2 and b2.")]
    Cnn(Box<CnnOptions>),
}

#[derive(Subcommand)]
pub enum StudyCommand {
    /// The perceptron with more and fewer hidden units: Table 2, Figure 8
    HiddenUnits {
        /// How many hidden units, one run each
        #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = hidden)]
        #[arg(default_values_t = printed::HIDDEN_UNITS)]
        units: Vec<usize>,

        /// Tell where the time of each goes, kernel by kernel
        #[arg(long)]
        profile: bool,

        /// Updates of the weights
        #[arg(long, value_name = "N", default_value_t = 200)]
        epochs: usize,

        #[command(flatten)]
        common: Box<StudyOptions>,
    },
    /// The perceptron, stopped early and not: Tables 1 and 3, Figures 6 and 7
    EarlyStopping {
        /// Updates of the weights
        #[arg(long, value_name = "N", default_value_t = 200)]
        epochs: usize,

        #[command(flatten)]
        common: Box<StudyOptions>,
    },
    /// The convolutional network with an L2 penalty: Table 4, Figures 10 to 12
    L2 {
        /// Factors of the penalty, one run each, besides one without
        #[arg(long, value_name = "X,...", value_delimiter = ',', value_parser = penalty)]
        #[arg(default_values_t = printed::L2)]
        l2: Vec<f32>,

        /// Passes over the training set
        #[arg(long, value_name = "N", default_value_t = 50)]
        epochs: usize,

        #[command(flatten)]
        common: Box<StudyOptions>,
    },
    /// The convolutional network with dropout: Table 5, Figures 10, 11 and 13 to 15
    Dropout {
        /// Probabilities that a unit is kept, one run each, besides one that keeps all
        #[arg(long, value_name = "X,...", value_delimiter = ',', value_parser = keep_probability)]
        #[arg(default_values_t = printed::KEEP_PROBABILITIES)]
        keep_prob: Vec<f32>,

        /// Passes over the training set
        #[arg(long, value_name = "N", default_value_t = 50)]
        epochs: usize,

        #[command(flatten)]
        common: Box<StudyOptions>,
    },
}

/// What every study takes.
#[derive(Args)]
pub struct StudyOptions {
    #[command(flatten)]
    pub data: DataOptions,

    /// Seed of everything else that is random, such as the starting weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    pub threads: ThreadOptions,

    /// Write report, tables, figures and finished runs to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Make every run anew, also those that the folder has
    #[arg(long)]
    pub fresh: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ReproduceOptions {
    /// Only the first 20 epochs of the perceptron and the first 2 of the convolutional network
    #[arg(long)]
    pub quick: bool,

    #[command(flatten)]
    pub common: StudyOptions,
}

#[derive(Args)]
pub struct PlayOptions {
    /// Weights, as --save writes them [default: those in kernelet-out, else a small MLP is trained]
    #[arg(long, value_name = "F.npz")]
    pub model: Option<PathBuf>,

    #[command(flatten)]
    pub data: DataOptions,

    /// How many letters to show
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    pub count: usize,

    /// Show only letters that the network takes for others
    #[arg(long)]
    pub only_wrong: bool,

    /// Write the letters to this picture, too
    #[arg(long, value_name = "F.png")]
    pub png: Option<PathBuf>,

    /// Seed of the choice of letters
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u32,

    #[command(flatten)]
    pub threads: ThreadOptions,
}

#[derive(Args)]
pub struct PredictOptions {
    /// Weights, as --save writes them
    #[arg(long, value_name = "F.npz")]
    pub model: PathBuf,

    /// Images: uint8, float32 or float64, (n, 28, 28), (n, 28, 28, 1), (n, 784) or (28, 28)
    #[arg(long, value_name = "F.npy")]
    pub images: PathBuf,

    /// Write to this file [default: standard output]
    #[arg(long, value_name = "F.csv")]
    pub out: Option<PathBuf>,

    #[command(flatten)]
    pub limit: LimitOptions,

    #[command(flatten)]
    pub threads: ThreadOptions,
}

#[derive(Subcommand)]
pub enum ProfileCommand {
    /// The study's multilayer perceptron
    Mlp(Box<ProfileMlpOptions>),
    /// The study's convolutional network
    Cnn(Box<ProfileCnnOptions>),
}

#[derive(Args)]
pub struct InfoOptions {
    #[command(flatten)]
    pub threads: ThreadOptions,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ManOptions {
    /// Write the pages of all commands to this folder instead
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub struct ThreadOptions {
    /// Threads [default: all]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
}

impl ThreadOptions {
    /// The processor with as many threads as are asked for.
    pub fn cpu(&self) -> Result<Cpu, Error> {
        let cpu = Cpu::detect()?;
        match self.threads {
            Some(threads) => cpu.with_threads(threads),
            None => Ok(cpu),
        }
    }
}

#[derive(Args)]
pub struct MlpOptions {
    /// Hidden units [default: those of --init, else 1000]
    #[arg(long, value_name = "N", value_parser = hidden)]
    pub hidden: Option<usize>,

    /// Updates of the weights [default: those of --resume, else 200]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// Learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-5)]
    #[arg(value_parser = learning_rate, allow_negative_numbers = true)]
    pub lr: f32,

    /// Share of the velocity that is kept from update to update
    #[arg(long, value_name = "X", default_value_t = 0.95)]
    #[arg(value_parser = momentum, allow_negative_numbers = true)]
    pub momentum: f32,

    /// What the samples' gradients are reduced to: the study takes their sum
    #[arg(long, value_name = "KIND", value_enum, default_value_t = ReductionOption::Sum)]
    pub reduction: ReductionOption,

    /// Go on with the run of this checkpoint, with its options; --epochs may be more
    #[arg(long, value_name = "F.npz")]
    #[arg(conflicts_with_all = [
        "hidden", "lr", "momentum", "reduction", "split", "split_seed", "seed", "eval_every",
        "patience", "init",
    ])]
    pub resume: Option<PathBuf>,

    #[command(flatten)]
    pub common: TrainOptions,
}

#[derive(Args)]
pub struct CnnOptions {
    /// Units of the first dense layer [default: those of --init, else 784]
    #[arg(long, value_name = "N", value_parser = hidden)]
    pub hidden: Option<usize>,

    /// Passes over the training set [default: those of --resume, else 50]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// Learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    #[arg(value_parser = learning_rate, allow_negative_numbers = true)]
    pub lr: f32,

    #[command(flatten)]
    pub minibatch: MinibatchOptions,

    /// Take the minibatches in the same order in every epoch
    #[arg(long)]
    pub no_shuffle: bool,

    /// Save the loss of every minibatch before its update
    #[arg(long, value_name = "F.csv")]
    pub steps_history: Option<PathBuf>,

    /// Go on with the run of this checkpoint, with its options; --epochs may be more
    #[arg(long, value_name = "F.npz")]
    #[arg(conflicts_with_all = [
        "hidden", "lr", "batch", "l2", "keep_prob", "no_shuffle", "split", "split_seed", "seed",
        "eval_every", "patience", "init",
    ])]
    pub resume: Option<PathBuf>,

    #[command(flatten)]
    pub common: TrainOptions,
}

/// What a training step of the convolutional network takes.
#[derive(Args)]
pub struct MinibatchOptions {
    /// Images per minibatch; the last one of an epoch takes what is left
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one)]
    pub batch: usize,

    /// Factor of the L2 penalty on the weights of the two dense layers
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    #[arg(value_parser = penalty, allow_negative_numbers = true)]
    pub l2: f32,

    /// Probability that dropout keeps a unit of the first dense layer
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    #[arg(value_parser = keep_probability, allow_negative_numbers = true)]
    pub keep_prob: f32,
}

/// Which images, and what for.
#[derive(Args)]
pub struct DataOptions {
    /// Images and labels, an .npz file [default: the embedded letters]
    #[arg(long = "data", value_name = "F.npz")]
    pub path: Option<PathBuf>,

    /// How many images train and validate, the rest test [default: 10000,6000 of every 18724]
    #[arg(long, value_name = "N_TRAIN,N_VALID", value_parser = split)]
    pub split: Option<(usize, usize)>,

    /// Seed of the shuffle before the split, as NumPy's RandomState; none keeps the file's order
    #[arg(long, value_name = "N|none", default_value = "521", value_parser = split_seed)]
    pub split_seed: SplitSeed,

    #[command(flatten)]
    pub limit: LimitOptions,
}

impl DataOptions {
    pub fn open(&self) -> Result<Dataset, Error> {
        match &self.path {
            Some(path) => Dataset::open(self.limit.input(path)),
            None => Dataset::letters(),
        }
    }

    pub fn split(&self, dataset: &Dataset) -> Result<Split, Error> {
        dataset.split(self.split, self.split_seed.0)
    }
}

/// What files may ask for.
#[derive(Args)]
pub struct LimitOptions {
    /// Memory that an array of a file may take, such as 4GiB [default: 64MiB, or a hundred times what
    /// it takes in the file]
    #[arg(long, value_name = "SIZE")]
    data_limit: Option<ByteSize>,
}

impl LimitOptions {
    /// A file to read.
    pub fn input<'a>(&self, path: &'a Path) -> Input<'a> {
        let limit = self.data_limit.map_or(Limit::default(), |size| Limit::Bytes(size.as_u64()));
        Input { path, limit }
    }
}

/// What both networks take.
#[derive(Args)]
pub struct TrainOptions {
    #[command(flatten)]
    pub data: DataOptions,

    /// Seed of everything else that is random, such as the starting weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    pub threads: ThreadOptions,

    /// Evaluate every K epochs, at the start and at the end
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    pub eval_every: usize,

    /// End when N epochs have passed since the lowest validation loss, and keep that epoch's
    /// weights
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub patience: Option<usize>,

    /// Start from these weights, as --save writes them
    #[arg(long, value_name = "F.npz")]
    pub init: Option<PathBuf>,

    /// Keep all that --resume needs in this file; the one before it is kept as F.npz.previous
    #[arg(long, value_name = "F.npz")]
    pub checkpoint: Option<PathBuf>,

    /// Write the checkpoint every N epochs, at the start, at the end and when interrupted
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    #[arg(requires = "checkpoint")]
    pub checkpoint_every: usize,

    /// Save the final weights; F.safetensors is another format for them
    #[arg(long, value_name = "F.npz")]
    pub save: Option<PathBuf>,

    /// Save the history, a row per evaluated epoch
    #[arg(long, value_name = "F.csv")]
    pub history: Option<PathBuf>,

    /// Save settings and results
    #[arg(long, value_name = "F.json")]
    pub summary: Option<PathBuf>,

    /// Write all of these files and curves (SVG and PNG) to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Print the summary as JSON instead of the table
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ProfileMlpOptions {
    /// Hidden units
    #[arg(long, value_name = "N", default_value_t = printed::MLP_HIDDEN, value_parser = hidden)]
    pub hidden: usize,

    #[command(flatten)]
    pub common: ProfileOptions,
}

#[derive(Args)]
pub struct ProfileCnnOptions {
    /// Units of the first dense layer
    #[arg(long, value_name = "N", default_value_t = printed::CNN_HIDDEN, value_parser = hidden)]
    pub hidden: usize,

    #[command(flatten)]
    pub minibatch: MinibatchOptions,

    #[command(flatten)]
    pub common: ProfileOptions,
}

/// What both networks' profiles take.
#[derive(Args)]
pub struct ProfileOptions {
    #[command(flatten)]
    pub data: DataOptions,

    /// Seed of everything else that is random, such as the starting weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    pub threads: ThreadOptions,

    /// Rounds of training that are listened to, and as many that are not, a sixth of a second each
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = at_least_one)]
    pub rounds: usize,

    /// Print the profile as JSON
    #[arg(long)]
    pub json: bool,

    /// Write the profile (CSV, JSON), figures (SVG and PNG) and a trace to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Save a trace of a few more steps, for ui.perfetto.dev
    #[arg(long, value_name = "F.json")]
    pub trace: Option<PathBuf>,
}

impl MlpOptions {
    /// The library's share of the options.
    pub fn settings(&self) -> mlp::Settings {
        mlp::Settings {
            epochs: self.epochs.unwrap_or(mlp::Settings::default().epochs),
            learning_rate: self.lr,
            momentum: self.momentum,
            reduction: match self.reduction {
                ReductionOption::Sum => Reduction::Sum,
                ReductionOption::Mean => Reduction::Mean,
            },
            eval_every: self.common.eval_every,
            patience: self.common.patience,
        }
    }
}

impl CnnOptions {
    /// The library's share of the options.
    pub fn settings(&self) -> cnn::Settings {
        cnn::Settings {
            epochs: self.epochs.unwrap_or(cnn::Settings::default().epochs),
            learning_rate: self.lr,
            batch: self.minibatch.batch,
            l2: self.minibatch.l2,
            keep_probability: self.minibatch.keep_prob,
            shuffle: !self.no_shuffle,
            seed: self.common.seed,
            eval_every: self.common.eval_every,
            patience: self.common.patience,
        }
    }
}

// Without descriptions, which would spread the help over three times as many lines.
#[derive(Clone, Copy, ValueEnum)]
pub enum ReductionOption {
    Sum,
    Mean,
}

/// The seed of the shuffle before the split, if there is one.
#[derive(Clone, Copy)]
pub struct SplitSeed(pub Option<u32>);

/// Where a run without arguments writes to.
pub const MAIN_FOLDER: &str = "kernelet-out";

/// The options of a run without arguments: the study's, everything written to [`MAIN_FOLDER`].
pub fn main_job() -> MlpOptions {
    parse(["kernelet", "--out", MAIN_FOLDER])
}

fn parse<O: Args>(line: impl IntoIterator<Item = &'static str>) -> O {
    #[derive(Parser)]
    struct Alone<O: Args> {
        #[command(flatten)]
        options: O,
    }
    Alone::parse_from(line).options
}

fn number<T: std::str::FromStr>(
    text: &str,
    valid: impl Fn(&T) -> bool,
    what: &str,
) -> Result<T, String> {
    text.parse().ok().filter(valid).ok_or_else(|| format!("must be {what}"))
}

fn hidden(text: &str) -> Result<usize, String> {
    // A hundred thousand units of the MLP take some 2 GB, of the CNN some 10 GB.
    number(text, |n| (1..=100_000).contains(n), "a whole number from 1 to 100000")
}

fn threads(text: &str) -> Result<usize, String> {
    number(text, |n| (1..=1024).contains(n), "a whole number from 1 to 1024")
}

fn at_least_one(text: &str) -> Result<usize, String> {
    number(text, |n| *n >= 1, "a whole number, at least 1")
}

fn learning_rate(text: &str) -> Result<f32, String> {
    number(text, |x: &f32| x.is_finite() && *x > 0.0, "a number above 0")
}

fn momentum(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..1.0).contains(x), "a number from 0 to below 1")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |x: &f32| x.is_finite() && *x >= 0.0, "a number, at least 0")
}

fn keep_probability(text: &str) -> Result<f32, String> {
    number(text, |x| *x > 0.0 && *x <= 1.0, "a number above 0, at most 1")
}

fn split(text: &str) -> Result<(usize, usize), String> {
    let (train, valid) =
        text.split_once(',').ok_or("must be two whole numbers: N_TRAIN,N_VALID")?;
    let what = "two whole numbers: N_TRAIN,N_VALID";
    Ok((number(train.trim(), |_| true, what)?, number(valid.trim(), |_| true, what)?))
}

fn split_seed(text: &str) -> Result<SplitSeed, String> {
    if text == "none" {
        return Ok(SplitSeed(None));
    }
    number(text, |_| true, "none, or a whole number from 0 to 4294967295")
        .map(|n| SplitSeed(Some(n)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_main_job_is_the_study() {
        let job = main_job();
        assert_eq!(
            job.settings(),
            mlp::Settings::default(),
            "the defaults differ from the study's"
        );
        assert_eq!(job.common.out, Some("kernelet-out".into()), "the main job's folder");
    }

    #[test]
    fn the_defaults_of_the_cnn_are_the_study_s() {
        let options: CnnOptions = parse(["kernelet"]);
        assert_eq!(options.settings(), cnn::Settings::default(), "the defaults differ");
    }
}
