//! Where the time of the study's networks goes, kernel by kernel.

use crate::output::{count, decimal};
use crate::profile::{Profile, Subject, figures, step_table};
use crate::study::Chapter;
use crate::table::{Column, Table};

pub fn chapter(profiles: &[Profile]) -> Option<Chapter> {
    if profiles.is_empty() {
        return None;
    }
    let is_mlp = |profile: &&Profile| matches!(profile.subject, Subject::Mlp { .. });
    let (mlp, cnn): (Vec<_>, Vec<_>) = profiles.iter().partition(is_mlp);
    let steps = profiles.iter().map(step_table);
    Some(Chapter {
        name: "kernels",
        title: "Where the time goes",
        text: vec![
            "Each network trains for a while with a listener at the kernels' spans, in turn with \
             as much without one. calls and ms are of a training step: of a perceptron an update \
             with all training images, of a convolutional network one with a minibatch. roof is \
             the share of what this machine was measured to do at most at the kernel's number of \
             operations per byte."
                .into(),
        ],
        tables: [summary(profiles)].into_iter().chain(steps).collect(),
        findings: Vec::new(),
        figures: figures("mlp", &mlp).into_iter().chain(figures("cnn", &cnn)).collect(),
    })
}

fn summary(profiles: &[Profile]) -> Table {
    let columns = [
        Column::left("network"),
        Column::right("step"),
        Column::right("images/s"),
        Column::right("in kernels"),
        Column::right("cost of profiling"),
    ];
    let mut table = Table::new("profile", "Training steps, and how well they are covered", columns);
    for profile in profiles {
        let seconds = profile.step_seconds.off;
        let percent = |share: f64| 100.0 * share;
        let cost = profile.cost;
        table.row([
            profile.subject.name(),
            format!("{} ms", decimal(1e3 * seconds, 1)),
            decimal(profile.images as f64 / seconds.max(1e-9), 0),
            format!("{:.1} %", percent(profile.coverage)),
            format!(
                "{:+.1} % ({:+.1} to {:+.1})",
                percent(cost.median),
                percent(cost.lower_quartile),
                percent(cost.upper_quartile)
            ),
        ]);
    }
    if let Some(Profile { peaks, threads, .. }) = profiles.last() {
        table.notes.push(format!(
            "in kernels: the share of a step's time that the kernels take. cost of profiling: the \
             median of pairs of rounds, in brackets where half of them lie. The machine's peaks: \
             {:.0} GFLOP/s and {:.1} GB/s on {}.",
            peaks.gflops,
            peaks.memory_gbytes,
            count(*threads, "thread"),
        ));
    }
    table
}
