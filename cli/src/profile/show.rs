//! A profile as text, as CSV and as figures.

use std::fmt::Write;
use std::path::Path;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use serde::Serialize;

use super::{Part, Profile, Subject};
use crate::charts::{Bar, Chart, Figure, Roofline, Shares};
use crate::output::{count, decimal};
use crate::table::{Column, Table};

/// The row of what is in no kernel.
const OUTSIDE: &str = "outside kernels";

/// The names of [`figures`], before what they are of.
pub const FIGURES: [&str; 2] = ["shares", "roofline"];

/// The profile for a terminal.
pub fn text(profile: &Profile) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{}", step_table(profile).text());
    let _ = write!(text, "\n{}", table("evaluation", "Evaluation", &profile.evaluation).text());
    let peaks = profile.peaks;
    let _ = writeln!(
        text,
        "calls and ms: of a step, of an evaluation. roof: of what this machine can do at the\n\
         kernel's FLOP/B, with {:.1} GFLOP/s and {:.1} GB/s at most on {}.",
        peaks.gflops,
        peaks.memory_gbytes,
        count(profile.threads, "thread")
    );
    let kernels = || profile.step.kernels.iter().chain(&profile.evaluation.kernels);
    if kernels().any(|kernel| kernel.roofline > 1.0) {
        let _ = writeln!(
            text,
            "Above 100 %: the data come from the caches, which are faster than the memory, or AMX\n\
             computes, which is faster than the vectors that the peak is of."
        );
    }
    let percent = |share: f64| 100.0 * share;
    let (seconds, cost) = (profile.step_seconds, profile.cost);
    let _ = writeln!(
        text,
        "step: {} ms, {} images/s; kernels are {:.1} % of it",
        milliseconds(seconds.off),
        decimal(profile.images as f64 / seconds.off.max(1e-9), 0),
        percent(profile.coverage)
    );
    let _ = writeln!(
        text,
        "cost of profiling: {:+.1} % (half of {}: {:+.1} to {:+.1} %)",
        percent(cost.median),
        count(profile.rounds, "pair"),
        percent(cost.lower_quartile),
        percent(cost.upper_quartile),
    );
    text
}

/// The kernels of a training step.
pub fn step_table(profile: &Profile) -> Table {
    let subject = &profile.subject;
    let name = format!("profile-{}-{}", subject.network(), subject.hidden());
    let images = count(profile.images, "image");
    table(&name, &format!("Training step of {images}: {}", subject.name()), &profile.step)
}

fn table(name: &str, title: &str, part: &Part) -> Table {
    let numbers = ["calls", "ms", "share", "GFLOP/s", "GB/s", "FLOP/B", "roof"].map(Column::right);
    let columns = [Column::left("kernel")].into_iter().chain(numbers);
    let mut table = Table::new(name, title, columns);
    table.wide = true;
    let calls = part.calls.max(1) as f64;
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    for kernel in &part.kernels {
        table.row([
            kernel.name.clone(),
            rounded(kernel.calls as f64 / calls),
            milliseconds(kernel.seconds / calls),
            share(kernel.share),
            short(kernel.gflops),
            short(kernel.gbytes),
            short(kernel.intensity),
            format!("{:.0} %", 100.0 * kernel.roofline),
        ]);
    }
    let whole = [(OUTSIDE, part.outside_seconds, part.outside_share), ("all", part.seconds, 1.0)];
    for (name, seconds, of_all) in whole {
        let none = || "-".to_owned();
        let ms = milliseconds(seconds / calls);
        table.row([name.into(), none(), ms, share(of_all), none(), none(), none(), none()]);
    }
    table
}

fn rounded(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number}") } else { format!("{number:.1}") }
}

fn milliseconds(seconds: f64) -> String {
    let milliseconds = 1e3 * seconds;
    let digits = if milliseconds < 10.0 { 3 } else { 1 };
    decimal(milliseconds, digits)
}

/// Three digits or so.
fn short(number: f64) -> String {
    let digits = if number < 10.0 { 2 } else { usize::from(number < 100.0) };
    decimal(number, digits)
}

/// A row of the CSV file.
#[derive(Serialize)]
struct Row<'a> {
    network: &'static str,
    hidden: usize,
    phase: &'static str,
    kernel: &'a str,
    calls: Option<u64>,
    seconds: f64,
    share: f64,
    gflops: Option<f64>,
    gbytes: Option<f64>,
    flop_per_byte: Option<f64>,
    roofline: Option<f64>,
}

/// Writes a row per profile, phase and kernel, and one for the time outside kernels.
pub fn write_csv(path: &Path, profiles: &[&Profile]) -> Result<(), Error> {
    write_atomically(path, |to| {
        let mut csv = csv::Writer::from_writer(to);
        for row in profiles.iter().flat_map(|profile| rows(profile)) {
            csv.serialize(row).map_err(std::io::Error::other)?;
        }
        csv.flush()
    })
}

fn rows(profile: &Profile) -> Vec<Row<'_>> {
    let network = profile.subject.network();
    let hidden = profile.subject.hidden();
    let parts = [("step", &profile.step), ("evaluation", &profile.evaluation)];
    let mut rows = Vec::new();
    for (phase, part) in parts {
        rows.extend(part.kernels.iter().map(|kernel| Row {
            network,
            hidden,
            phase,
            kernel: &kernel.name,
            calls: Some(kernel.calls),
            seconds: kernel.seconds,
            share: kernel.share,
            gflops: Some(kernel.gflops),
            gbytes: Some(kernel.gbytes),
            flop_per_byte: Some(kernel.intensity),
            roofline: Some(kernel.roofline),
        }));
        rows.push(Row {
            network,
            hidden,
            phase,
            kernel: OUTSIDE,
            calls: None,
            seconds: part.outside_seconds,
            share: part.outside_share,
            gflops: None,
            gbytes: None,
            flop_per_byte: None,
            roofline: None,
        });
    }
    rows
}

/// The kernels' shares of a step in all `profiles`, and the roofline of the last one, whose network
/// is the largest.
pub fn figures(of: &str, profiles: &[&Profile]) -> Vec<Figure> {
    let Some(last) = profiles.last() else { return Vec::new() };
    let network = match (&last.subject, profiles.len()) {
        (subject, 1) => subject.name(),
        (Subject::Mlp { .. }, _) => "MLP".into(),
        (Subject::Cnn { .. }, _) => "CNN".into(),
    };
    let [shares, roofline] = FIGURES.map(|name| match of {
        "" => name.to_owned(),
        of => format!("{name}-{of}"),
    });
    vec![
        Figure {
            name: shares,
            title: format!("Time of a training step: {network}"),
            caption: "Kernels' shares of the time that an update of the weights takes.".into(),
            chart: Chart::Shares(Shares { bars: profiles.iter().map(|p| bar(p)).collect() }),
        },
        Figure {
            name: roofline,
            title: format!("Kernels of a training step: {}", last.subject.name()),
            caption: "Dots are kernels, those that take longest first; the line is what this \
                      machine can do at most, measured: on the left moving data from and to \
                      memory, on the right computing. Above it are kernels whose data stay in \
                      caches."
                .into(),
            chart: Chart::Roofline(Roofline {
                gflops: last.peaks.gflops,
                gbytes: last.peaks.memory_gbytes,
                kernels: last
                    .step
                    .kernels
                    .iter()
                    .map(|kernel| (kernel.name.clone(), kernel.intensity, kernel.gflops))
                    .collect(),
            }),
        },
    ]
}

fn bar(profile: &Profile) -> Bar {
    let step = &profile.step;
    Bar {
        name: count(profile.subject.hidden(), "unit"),
        parts: step.kernels.iter().map(|kernel| (kernel.name.clone(), kernel.share)).collect(),
        rest: (OUTSIDE.into(), step.outside_share),
    }
}
