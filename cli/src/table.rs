//! The study's Table 1 with ours beside it.

use comfy_table::{CellAlignment, Table, presets};
use kernelet::train::{Epoch, Metrics};

use crate::study::Printed;

/// Time, and loss and accuracy of the three sets, after the last epoch.
pub fn table_1(seconds: f64, last: &Epoch, printed: Option<&Printed>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let row = |name: &str, study: Option<String>, ours: Option<String>| {
        let blank = || "-".to_owned();
        let mut cells = vec![name.to_owned()];
        if printed.is_some() {
            cells.push(study.unwrap_or_else(blank));
        }
        cells.push(ours.unwrap_or_else(blank));
        cells
    };
    let metrics = |metrics: Metrics| format!("{:.6} / {:.2} %", metrics.loss, metrics.accuracy);

    table.set_header(row("", Some("study".into()), Some("kernelet".into())));
    table.add_row(row(
        "time taken",
        printed.map(|p| format!("{:.2} s", p.seconds)),
        Some(format!("{seconds:.2} s")),
    ));
    let sets = [
        ("train loss / accuracy", printed.and_then(|p| p.train), Some(last.train)),
        ("valid loss / accuracy", printed.and_then(|p| p.valid), last.valid),
        ("test loss / accuracy", printed.map(|p| p.test), last.test),
    ];
    for (name, study, ours) in sets {
        table.add_row(row(name, study.map(metrics), ours.map(metrics)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
