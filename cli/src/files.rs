//! The files of a run: which ones, and whether they can be written.

use std::fs;
use std::path::{Path, PathBuf};

use kernelet::Error;

use crate::args::{CnnOptions, MlpOptions, TrainOptions};
use crate::charts::Figure;

/// The figures of a run, which [`charts::of_run`](crate::charts::of_run) draws.
const CURVES: [&str; 2] = ["loss", "accuracy"];

/// The weights in the folder of `--out`.
pub const WEIGHTS: &str = "weights.npz";

/// Where the files of a run go.
pub struct Files {
    pub weights: Vec<PathBuf>,
    pub history: Vec<PathBuf>,
    pub steps: Vec<PathBuf>,
    pub summary: Vec<PathBuf>,
    pub curves: Vec<PathBuf>,
    pub checkpoint: Option<PathBuf>,
}

impl Files {
    /// Those of `train mlp`.
    pub fn of_mlp(options: &MlpOptions) -> Result<Self, Error> {
        Self::prepare(&options.common, options.resume.as_deref(), Vec::new())
    }

    /// Those of `train cnn`.
    pub fn of_cnn(options: &CnnOptions) -> Result<Self, Error> {
        let steps = place(&options.common, &options.steps_history, "steps.csv");
        Self::prepare(&options.common, options.resume.as_deref(), steps)
    }

    /// Works out the paths and [`check`]s them.
    fn prepare(
        options: &TrainOptions,
        resume: Option<&Path>,
        steps: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let files = Self {
            weights: place(options, &options.save, WEIGHTS),
            history: place(options, &options.history, "history.csv"),
            steps,
            summary: place(options, &options.summary, "summary.json"),
            curves: options
                .out
                .iter()
                .flat_map(|folder| CURVES.map(|name| Figure::paths(name, folder)))
                .flatten()
                .collect(),
            checkpoint: options.checkpoint.clone(),
        };
        // A run that is resumed may go on with the same file.
        let same = |path| files.checkpoint.as_deref().map(resolve) == Some(resolve(path));
        let resume = resume.filter(|path| !same(path));
        let inputs = options.data.path.as_deref().into_iter().chain(resume);
        check(files.all().map(PathBuf::as_path), inputs)?;
        Ok(files)
    }

    /// Every file, those that matter most first.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        let Self { weights, history, steps, summary, curves, checkpoint } = self;
        weights.iter().chain(history).chain(steps).chain(summary).chain(curves).chain(checkpoint)
    }
}

/// Where a file goes: to the path that its own option has, and under `name` to the folder of
/// `--out`.
fn place(options: &TrainOptions, own: &Option<PathBuf>, name: &str) -> Vec<PathBuf> {
    own.iter().cloned().chain(options.out.iter().map(|out| out.join(name))).collect()
}

/// Makes the folders of `outputs`, and makes sure that every file can be written and that none
/// takes the place of another or of one of `inputs`: better now than after minutes of training.
pub fn check<'a>(
    outputs: impl IntoIterator<Item = &'a Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Error> {
    let mut taken: Vec<_> = inputs.into_iter().map(resolve).collect();
    for path in outputs {
        check_writable(path)?;
        let resolved = resolve(path);
        // Pipes and devices can take one thing after the other.
        if resolved.is_file() || !resolved.exists() {
            if taken.contains(&resolved) {
                let why = "would be overwritten: two options name this file".into();
                return Err(Error::File { path: path.into(), why });
            }
            taken.push(resolved);
        }
    }
    Ok(())
}

pub fn check_writable(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::File { path: path.into(), why: "is a folder, not a file".into() });
    }
    if path.is_symlink() && !path.exists() {
        return Err(Error::File { path: path.into(), why: "is a link that leads nowhere".into() });
    }
    if path.exists() && !path.is_file() {
        return Ok(()); // a pipe or a device, whose folder does not matter
    }
    let folder = folder(path);
    let io = |source| Error::Io { path: folder.into(), source };
    fs::create_dir_all(folder).map_err(io)?;
    tempfile::tempfile_in(folder).map(drop).map_err(io)
}

/// The same for every way to name the same file, whether it is there yet or not.
fn resolve(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| {
        match (folder(path).canonicalize(), path.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => path.into(),
        }
    })
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
