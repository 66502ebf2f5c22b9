//! What a run ends with on standard output: the study's Table 1 with ours beside it, the epoch
//! that early stopping would have chosen, and where the files went.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use kernelet::train::mlp::{Reduction, Settings};
use kernelet::train::{Epoch, Metrics};

use crate::output::decimal;
use crate::study::{self, Printed};
use crate::train::{Run, count, name};

/// Columns of the terminal that the table fits.
const WIDTH: u16 = 80;

/// The report of a run.
pub fn of(run: &Run) -> String {
    let mut text = String::new();
    let Some(last) = run.history.epochs.last() else { return text };
    let printed = study::mlp(run.hidden).filter(|_| has_the_studys_settings(&run.settings));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\nTable 1: MLP with {}", count(run.hidden, "hidden unit"));
    let _ = writeln!(text, "{}", table(run, last, printed));
    if printed.is_some() && run.options.data.is_none() {
        let _ = writeln!(
            text,
            "The embedded letters are other images than the study's notMNIST, about as hard."
        );
    }
    if run.history.interrupted {
        let _ =
            writeln!(text, "Interrupted after {} of {} epochs.", last.epoch, run.settings.epochs);
    }
    let start = run.history.epochs.first().map_or(f64::NAN, |epoch| epoch.train.loss);
    // A loss that is no number is not lower either.
    let learned = last.train.loss < start;
    if last.epoch > 0 && !learned {
        let _ = writeln!(text, "The training diverged: try a smaller --lr.");
    }
    if let Some((epoch, valid)) = run.history.best().and_then(|best| Some((best, best.valid?))) {
        let _ = write!(
            text,
            "Early stopping: epoch {} has the lowest valid loss, {}",
            epoch.epoch,
            cell(valid)
        );
        let _ = match epoch.test {
            Some(test) => writeln!(text, ";\ntest there {}.", cell(test)),
            None => writeln!(text, "."),
        };
    }
    for path in run.files.all() {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    text
}

/// Only then do the study's figures say anything about ours. (An epoch more or less the table
/// shows.)
fn has_the_studys_settings(settings: &Settings) -> bool {
    let &Settings { learning_rate, momentum, reduction, .. } = settings;
    let study = Settings::default();
    learning_rate == study.learning_rate
        && momentum == study.momentum
        && reduction == Reduction::Sum
}

/// Circumstances, time, and loss and accuracy of the three sets after the last epoch.
fn table(run: &Run, last: &Epoch, printed: Option<&Printed>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    let row = |name: &str, study: Option<String>, ours: Option<String>| {
        let study = printed.map(|_| study);
        let cells = study.into_iter().chain([ours]).map(|cell| cell.unwrap_or_else(|| "-".into()));
        [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    table.set_header(row("", Some("study".into()), Some("kernelet".into())));
    let mut add = |name, study, ours| {
        table.add_row(row(name, study, ours));
    };
    add("data", Some("notMNIST".into()), Some(name(run.data).into()));
    add(
        "run by",
        Some("NumPy, AMD Ryzen 5 2600".into()),
        Some(format!("{}, {}", run.cpu.isa(), count(run.cpu.threads(), "thread"))),
    );
    add("epochs", Some(Settings::default().epochs.to_string()), Some(last.epoch.to_string()));
    add(
        "time taken",
        printed.map(|study| format!("{:.2} s", study.seconds)),
        Some(format!("{:.2} s", run.seconds.total)),
    );
    let study = |set: fn(&Printed) -> Option<Metrics>| printed.and_then(set).map(cell);
    add("train loss / accuracy", study(|study| study.train), Some(cell(last.train)));
    add("valid loss / accuracy", study(|study| study.valid), last.valid.map(cell));
    add("test loss / accuracy", study(|study| Some(study.test)), last.test.map(cell));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cell(metrics: Metrics) -> String {
    format!("{} / {:.2} %", decimal(metrics.loss, 6), metrics.accuracy)
}
