//! Table 2 and Figure 8: how accuracy and time grow with the perceptron's hidden units.

use super::experiment::{Experiment, Outcome};
use super::printed::HIDDEN_UNITS;
use super::verdict::Verdict;
use super::{Chapter, Finding, Outcomes, cell, percent, points};
use crate::charts::{Chart, Curve, Figure, Growth, Lines, Series};
use crate::output::{count, decimal, loss};
use crate::sets::TEST;
use crate::table::{Column, Table};

/// What has to be run.
pub fn experiments(units: &[usize], epochs: usize) -> Vec<Experiment> {
    units.iter().map(|&hidden| Experiment::mlp(hidden, epochs)).collect()
}

pub fn chapter(outcomes: &Outcomes, units: &[usize], epochs: usize) -> Chapter {
    let runs = outcomes.all(experiments(units, epochs).into_iter().map(|run| run.name));
    let growth = [study_times(), times(&runs)];
    let mut findings = vec![accuracy_rises(&runs), loss_falls(&runs), linear(&runs, &growth)];
    findings.extend(twice_the_units(&runs));
    findings.push(plateau(&runs));
    Chapter {
        name: "hidden-units",
        title: "The number of hidden units",
        text: vec![format!(
            "The perceptron with {} hidden units, everything else as it was. Time is that of the \
             whole run, with the evaluation of all three sets after every epoch.",
            units.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        )],
        tables: vec![table_2(outcomes, &runs)],
        findings,
        figures: vec![figure_8(&runs), growth_figure(growth)],
    }
}

fn table_2(outcomes: &Outcomes, runs: &[&Outcome]) -> Table {
    let columns = [
        Column::right("units"),
        Column::right("study: time"),
        Column::right("kernelet: time"),
        Column::right("study: test"),
        Column::right("kernelet: test"),
    ];
    let mut table =
        Table::new("table-2", "Table 2: time, test loss and accuracy by hidden units", columns);
    table.verdict = Some("verdict on the accuracy");
    for outcome in runs {
        let printed = outcome.experiment.printed();
        let test = printed.and_then(|p| p.test);
        let text = |seconds: f64| format!("{seconds:.2} s");
        let verdict = test.map(|test| {
            let study = (test.percent(), TEST.study_samples);
            let ours = (outcome.accuracy(TEST), outcomes.samples[TEST.index]);
            Verdict::of_accuracy(outcome, study, ours)
        });
        let cells = [
            outcome.experiment.hidden.to_string(),
            printed.and_then(|p| p.seconds).map_or("-".into(), text),
            text(outcome.result.seconds.total),
            test.map_or("-".into(), |test| test.text()),
            cell(outcome.last().and_then(TEST.metrics)),
        ];
        table.judged(cells, verdict);
    }
    table
        .notes
        .push("The study's times are those of NumPy in float64 on an AMD Ryzen 5 2600.".into());
    table
}

fn figure_8(runs: &[&Outcome]) -> Figure {
    let curve = |outcome: &&Outcome| {
        let name = count(outcome.experiment.hidden, "unit");
        Curve::loss(&name, &outcome.result.history, TEST.metrics)
    };
    Figure {
        name: "figure-8".into(),
        title: "Figure 8: test loss by hidden units".into(),
        caption: "Loss on the test set after every epoch, for every number of hidden units.".into(),
        chart: Chart::Lines(Lines::losses(runs.iter().map(curve).collect())),
    }
}

fn study_times() -> Series {
    let time = |units| Some((units as f64, Experiment::mlp(units, 1).printed()?.seconds?));
    Series { name: "study".into(), points: HIDDEN_UNITS.into_iter().filter_map(time).collect() }
}

fn times(runs: &[&Outcome]) -> Series {
    let time = |o: &&Outcome| (o.experiment.hidden as f64, o.result.seconds.total);
    Series {
        name: "kernelet".into(),
        points: runs.iter().map(time).filter(|&(_, seconds)| seconds > 0.0).collect(),
    }
}

fn growth_figure(series: [Series; 2]) -> Figure {
    Figure {
        name: "growth".into(),
        title: "Time of a run by hidden units".into(),
        caption: "Logarithmic axes: a straight line is a power of the number of units, and its \
                  slope the exponent (1 is linear)."
            .into(),
        chart: Chart::Growth(Growth {
            x_label: "hidden units",
            y_label: "seconds",
            series: series.into(),
        }),
    }
}

/// Whether a figure never falls from one run to the next.
fn never_falls(figures: &[f64]) -> bool {
    figures.windows(2).all(|pair| pair[0] <= pair[1])
}

/// Of a claim about several runs.
fn several(runs: &[&Outcome], figures: &[f64], holds: bool, why: &str) -> Verdict {
    if runs.len() < 2 {
        return Verdict::Open("a single run".into());
    }
    Verdict::of_claim(runs, figures, holds, why)
}

fn list(figures: &[f64], format: impl Fn(f64) -> String) -> String {
    figures.iter().map(|&figure| format(figure)).collect::<Vec<_>>().join(", ")
}

fn accuracy_rises(runs: &[&Outcome]) -> Finding {
    let figures: Vec<_> = runs.iter().map(|outcome| outcome.accuracy(TEST)).collect();
    Finding {
        place: "Table 2",
        study: "more hidden units increase the test accuracy".into(),
        ours: list(&figures, percent),
        verdict: several(runs, &figures, never_falls(&figures), "never falls"),
    }
}

fn loss_falls(runs: &[&Outcome]) -> Finding {
    let figures: Vec<_> = runs.iter().map(|outcome| outcome.loss(TEST)).collect();
    let negative: Vec<_> = figures.iter().map(|loss| -loss).collect();
    Finding {
        place: "Table 2",
        study: "more hidden units lower the test loss".into(),
        ours: list(&figures, |value| loss(value, 4)),
        verdict: several(runs, &figures, never_falls(&negative), "never rises"),
    }
}

fn linear(runs: &[&Outcome], growth: &[Series; 2]) -> Finding {
    let [study, ours] = growth.each_ref().map(|series| series.fit().map(|law| law.exponent));
    let text = |exponent: Option<f64>| exponent.map_or("-".into(), |e| format!("{e:.2}"));
    Finding {
        place: "Table 2",
        study: format!("time grows almost linearly (its own times: units^{})", text(study)),
        ours: format!("units^{}", text(ours)),
        verdict: match ours {
            // A fit needs no full run: every epoch takes the same time.
            Some(exponent) if runs.len() > 2 && (0.8..=1.2).contains(&exponent) => {
                Verdict::Agrees("an exponent within 0.2 of 1".into())
            }
            Some(_) if runs.len() > 2 => Verdict::Differs("an exponent further from 1".into()),
            _ => Verdict::Open("too few sizes".into()),
        },
    }
}

/// "Only 0.03 % improvement going from the former to the latter, but requires twice as much time."
fn twice_the_units(runs: &[&Outcome]) -> Option<Finding> {
    let of = |units| runs.iter().find(|outcome| outcome.experiment.hidden == units);
    let (former, latter) = (of(1000)?, of(2000)?);
    let gain = latter.accuracy(TEST) - former.accuracy(TEST);
    let ratio = latter.result.seconds.total / former.result.seconds.total;
    Some(Finding {
        place: "Table 2",
        study: "from 1000 to 2000 units: +0.03 points for 1.84 times the time".into(),
        ours: format!("{} for {ratio:.2} times the time", points(gain)),
        verdict: Verdict::of_claim(
            &[former, latter],
            &[gain, ratio],
            gain.abs() < 1.0 && (1.5..2.5).contains(&ratio),
            "less than a point, about twice the time",
        ),
    })
}

/// "The lower the number of hidden units, the quicker the network reaches its plateau."
fn plateau(runs: &[&Outcome]) -> Finding {
    /// Above the last epoch's loss.
    const NEAR: f64 = 0.05;
    let reached = |outcome: &&Outcome| {
        let last = outcome.loss(TEST);
        let within = |loss: f64| loss <= last * (1.0 + NEAR);
        let epochs = &outcome.result.history.epochs;
        let first = epochs.iter().find(|epoch| epoch.test.is_some_and(|m| within(m.loss)));
        first.map_or(f64::NAN, |epoch| epoch.epoch as f64)
    };
    let figures: Vec<_> = runs.iter().map(reached).collect();
    Finding {
        place: "Figure 8",
        study: "the fewer the units, the sooner the plateau".into(),
        ours: format!(
            "test loss within {:.0} % of its last first after epoch {}",
            100.0 * NEAR,
            list(&figures, |epoch| decimal(epoch, 0))
        ),
        verdict: several(runs, &figures, never_falls(&figures), "never sooner"),
    }
}
