//! What a run ends with on standard output: the study's table with ours beside it, the epoch
//! that early stopping would have chosen, and where the files went.

use std::fmt::Write;

use kernelet::train::Epoch;

use crate::network::Network;
use crate::output::{count, figures, name};
use crate::run::Run;
use crate::study::printed::{Figures, Printed, printed};
use crate::table::{Column, Table};

/// The report of a run.
pub fn of(run: &Run) -> String {
    let mut text = String::new();
    let Some(last) = run.history.epochs.last() else { return text };
    let printed = printed(&run.network, run.hidden);
    let title = printed.as_ref().map_or_else(String::new, |study| format!("{}: ", study.table));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{title}{}", run.subject());
    let _ = writeln!(text, "{}", table(run, last, printed.as_ref()).grid());
    if printed.is_some() && run.options.data.path.is_none() {
        let _ = writeln!(
            text,
            "The embedded letters are other images than the study's notMNIST, about as hard."
        );
    }
    if let Network::Cnn(settings) = &run.network {
        if last.batch.is_some() {
            let _ = writeln!(
                text,
                "batch: the last minibatch before its update, which the study's tables call train."
            );
        }
        if settings.l2 > 0.0 {
            let _ = writeln!(text, "Losses include the L2 penalty.");
        }
    }
    if run.history.interrupted {
        let [made, of] = run.updates();
        let _ = writeln!(text, "Interrupted after {made} of {}.", count(of, "update"));
    }
    let train_loss = |epoch: &Epoch| epoch.train.map_or(f64::NAN, |train| train.loss);
    // A loss that is no number is not lower either.
    let learned = train_loss(last) < run.history.epochs.first().map_or(f64::NAN, train_loss);
    if last.epoch > 0 && !learned {
        let _ = writeln!(text, "The training loss has not fallen: try a smaller --lr.");
    }
    if run.history.stopped_early {
        let patience = count(run.options.patience.unwrap_or_default(), "epoch");
        let _ = writeln!(text, "Stopped early: no lower valid loss in {patience}.");
    }
    if let Some((epoch, valid)) = run.history.best().and_then(|best| Some((best, best.valid?))) {
        let (best, valid) = (epoch.epoch, figures(valid));
        let _ = match run.history.kept {
            Some(_) => {
                write!(text, "Kept the weights of epoch {best}: the lowest valid loss, {valid}")
            }
            None => write!(text, "Early stopping: epoch {best} has the lowest valid loss, {valid}"),
        };
        let _ = match epoch.test {
            Some(test) => writeln!(text, ";\ntest there {}.", figures(test)),
            None => writeln!(text, "."),
        };
    }
    for path in run.files.all() {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    text
}

/// Circumstances, time, and loss and accuracy of every set after the last epoch.
fn table(run: &Run, last: &Epoch, printed: Option<&Printed>) -> Table {
    // The study's column is there only where there is something to compare with.
    let study = printed.map(|_| Column::right("study"));
    let columns = [Column::left("")].into_iter().chain(study).chain([Column::right("kernelet")]);
    let mut table = Table::new("result", &run.subject(), columns);
    let mut add = |name: &str, study: &dyn Fn(&Printed) -> Option<String>, ours: Option<String>| {
        let cells = printed.map(study).into_iter().chain([ours]);
        let cells = cells.map(|cell| cell.unwrap_or_else(|| "-".into()));
        table.row([name.to_owned()].into_iter().chain(cells));
    };
    add("data", &|_| Some("notMNIST".into()), Some(name(&run.origin).into()));
    add(
        "run by",
        &|study| Some(study.run_by.into()),
        Some(format!("{}, {}", run.cpu.isa(), count(run.cpu.threads(), "thread"))),
    );
    add("epochs", &|study| Some(study.epochs.to_string()), Some(last.epoch.to_string()));
    let seconds = |seconds: f64| format!("{seconds:.2} s");
    add("time taken", &|study| study.seconds.map(seconds), Some(seconds(run.seconds.total)));
    let own = |figures: Option<Figures>| figures.map(Figures::text);
    add("train loss / accuracy", &|study| own(study.train), last.train.map(figures));
    if matches!(run.network, Network::Cnn(_)) {
        add("batch loss / accuracy", &|study| own(study.batch), last.batch.map(figures));
    }
    add("valid loss / accuracy", &|study| own(study.valid), last.valid.map(figures));
    add("test loss / accuracy", &|study| own(study.test), last.test.map(figures));
    table
}
