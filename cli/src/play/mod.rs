//! `kernelet play`, the study's playGame: letters with what a network takes them for.

mod score;
mod sheet;
mod terminal;

use std::ops::ControlFlow;
use std::path::Path;

use kernelet::data::Split;
use kernelet::data::npz::write_atomically;
use kernelet::train::Epoch;
use kernelet::train::mlp::{Settings, train};
use kernelet::{Cpu, Error};

use crate::args::{MAIN_FOLDER, PlayOptions};
use crate::charts::{Picture, write_png};
use crate::model::{Model, NormalizeWith};
use crate::network::new_mlp;
use crate::output::{complain, count, print};
use crate::progress::Progress;
use crate::{Done, files};

pub use score::{Scores, Shown};
pub use sheet::sheet;
use terminal::Colors;

/// The network that is trained where there is none: good enough after a few seconds.
const HIDDEN: usize = 100;
const EPOCHS: usize = 60;

/// Shows the letters, and how many of the whole test split are right.
pub fn run(options: &PlayOptions) -> Result<Done, Error> {
    let cpu = options.threads.cpu()?;
    let dataset = options.data.open()?;
    let split = options.data.split(&dataset)?;
    if split.test.is_empty() {
        return Err(Error::Setting(format!(
            "the test split is empty: of {} in {}, {} train and {} validate",
            count(dataset.len(), "image"),
            dataset.origin,
            split.train.len(),
            split.valid.len()
        )));
    }
    let of_main_job = Path::new(MAIN_FOLDER).join(files::WEIGHTS);
    let inputs = options.model.iter().chain(&options.data.path).chain([&of_main_job]);
    files::check(options.png.as_deref(), inputs.map(|path| path.as_path()))?;
    let model = find_model(options, &of_main_job, &cpu, &split, &dataset.origin)?;
    let scores = Scores::new(&cpu, &model, NormalizeWith::Images, &split.test);
    let shown = scores.pick(options.count, options.seed, options.only_wrong);
    // Drawn before anything is shown: there may be too many.
    let picture = match &options.png {
        Some(path) if !shown.is_empty() => Some((path, sheet(&shown)?)),
        _ => None,
    };

    let colors = Colors::of_stdout();
    for letter in &shown {
        print(&terminal::draw(letter, colors))?;
    }
    if let Some((path, Picture { size, pixels })) = picture {
        write_atomically(path, |to| write_png(to, size, &pixels))?;
        print(&format!("wrote {}\n", path.display()))?;
    }
    print(&verdict(&scores, &shown, options))?;
    Ok(Done::Complete)
}

/// The last line.
fn verdict(scores: &Scores, shown: &[Shown], options: &PlayOptions) -> String {
    let (right, of) = (scores.right(), scores.len());
    let of_all = format!("{right} of {of} right in the test split ({:.2} %)", scores.accuracy());
    let of_shown = match (shown.iter().filter(|letter| letter.is_right()).count(), shown.len()) {
        (_, 0) if options.png.is_some() => "none is wrong: nothing to show or to write".into(),
        (_, 0) => "none is wrong: nothing to show".into(),
        (_, n) if options.only_wrong => format!("{n} of the {} wrong ones shown", of - right),
        (right, n) => format!("{right} of the {n} shown"),
    };
    format!("{of_all}, {of_shown}\n")
}

/// The network of `--model`; without, that of the main job; without, a small one trained for the
/// occasion. Standard error tells which of the latter two it is.
fn find_model(
    options: &PlayOptions,
    of_main_job: &Path,
    cpu: &Cpu,
    split: &Split,
    origin: &str,
) -> Result<Model, Error> {
    let load = |path: &Path| {
        let model = Model::load(options.data.limit.input(path))?;
        let (has, wanted) = (model.classes(), split.classes);
        if has != wanted {
            let why = format!("is a network for {has} classes, but {origin} has {wanted}");
            return Err(Error::File { path: path.into(), why });
        }
        Ok(model)
    };
    if let Some(path) = &options.model {
        return load(path);
    }
    if !of_main_job.exists() {
        return small_mlp(cpu, split, &format!("no {}", of_main_job.display()));
    }
    let model = load(of_main_job)?;
    complain(&format!("using {}\n", of_main_job.display()));
    Ok(model)
}

fn small_mlp(cpu: &Cpu, split: &Split, why: &str) -> Result<Model, Error> {
    let mut mlp = new_mlp(HIDDEN, split.classes, 1)?;
    let settings = Settings { epochs: EPOCHS, eval_every: EPOCHS, ..Settings::default() };
    let mut progress = Progress::new(EPOCHS, 0);
    train(cpu, &settings, split, &mut mlp, &mut |epoch| {
        if epoch.epoch == 0 {
            // Not before: until here the library may have refused the data.
            let units = count(HIDDEN, "hidden unit");
            complain(&format!("{why}: training an MLP with {units}, {EPOCHS} epochs\n"));
        }
        // The validation set is looked at twice only: its figures would seem to stand still.
        progress.epoch(&Epoch { valid: None, ..*epoch });
        ControlFlow::Continue(())
    })?;
    progress.finish();
    Ok(Model::Mlp(mlp))
}
