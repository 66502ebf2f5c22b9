//! `kernelet predict`: classes and probabilities of images, as CSV.

use std::io::{self, Write};
use std::path::PathBuf;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use kernelet::data::{CLASSES, read_images};

use crate::args::PredictOptions;
use crate::model::{Model, NormalizeWith, guess};
use crate::output::letter;
use crate::{Done, files, output};

/// Classifies the images and writes a row for each.
pub fn run(options: &PredictOptions) -> Result<Done, Error> {
    let cpu = options.threads.cpu()?;
    let model = Model::load(options.limit.input(&options.model))?;
    let images = read_images(options.limit.input(&options.images))?;
    let inputs = [&options.model, &options.images].map(PathBuf::as_path);
    files::check(options.out.as_deref(), inputs)?;
    let probabilities = model.probabilities(&cpu, &images, NormalizeWith::RunningMoments);
    let write = |to: &mut dyn Write| write_csv(to, &probabilities, model.classes());
    match &options.out {
        Some(path) => write_atomically(path, write)?,
        None => output::stream(write)?,
    }
    Ok(Done::Complete)
}

/// Numbers have as many digits as it takes to read the same number again.
fn write_csv(to: &mut dyn Write, probabilities: &[f32], classes: usize) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(to);
    let column = |class| match letter(class).filter(|_| classes == CLASSES) {
        Some(letter) => format!("p_{letter}"),
        None => format!("p_{class}"),
    };
    let fixed = ["index", "class", "letter", "probability"].map(str::to_owned);
    csv.write_record(fixed.into_iter().chain((0..classes).map(column))).map_err(cause)?;
    for (index, row) in probabilities.chunks_exact(classes).enumerate() {
        let class = guess(row);
        // NaN where there is no largest one.
        let probability = class.map_or(f32::NAN, |class| row[class]);
        csv.serialize((index, class, class.and_then(letter), probability, row)).map_err(cause)?;
    }
    csv.flush()
}

/// The error behind one of the CSV library's, so that a closed pipe is still seen as one.
fn cause(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
