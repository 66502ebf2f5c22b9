//! Tables 4 and 5, Figures 12 to 15: the convolutional network with an L2 penalty, and with
//! dropout.

use kernelet::train::Metrics;

use super::experiment::{Experiment, Outcome};
use super::printed::Figures;
use super::verdict::Verdict;
use super::{Chapter, Finding, Outcomes, percent, points};
use crate::charts::{Chart, Curve, Figure, Lines};
use crate::network::Network;
use crate::output::loss;
use crate::sets::{SETS, TEST, TRAIN, VALID};
use crate::table::{Column, Table};

/// What Table 4 needs: the network with each penalty, and without.
pub fn l2_experiments(factors: &[f32], epochs: usize) -> Vec<Experiment> {
    let plain = [super::cnn::experiment(epochs)];
    let with = factors.iter().map(|&l2| Experiment::cnn(l2, 1.0, epochs));
    plain.into_iter().chain(with).collect()
}

/// What Table 5 needs: the network with each probability that dropout keeps a unit, and with 1.
pub fn dropout_experiments(probabilities: &[f32], epochs: usize) -> Vec<Experiment> {
    let plain = [super::cnn::experiment(epochs)];
    let with = probabilities.iter().map(|&keep| Experiment::cnn(0.0, keep, epochs));
    plain.into_iter().chain(with).collect()
}

pub fn l2_chapter(outcomes: &Outcomes, factors: &[f32], epochs: usize) -> Chapter {
    let runs = outcomes.all(l2_experiments(factors, epochs).into_iter().map(|run| run.name));
    let rows: Vec<_> = [0.0].iter().chain(factors).map(f32::to_string).zip(&runs).collect();
    let table = table("table-4", "Table 4: L2 regularisation", outcomes, &rows, "\u{3bb}", true);
    let curves = rows.iter().map(|(l2, outcome)| {
        Curve::accuracy(&format!("\u{3bb} {l2}"), &outcome.result.history, TEST.metrics)
    });
    let figure = Figure {
        name: "figure-12".into(),
        title: "Figure 12: test accuracy by \u{3bb}".into(),
        caption: "Accuracy on the test set after every epoch, by the factor of the penalty.".into(),
        chart: Chart::Lines(Lines::accuracies(curves.collect())),
    };
    Chapter {
        name: "l2",
        title: "L2 regularisation",
        text: vec![
            "\u{3bb} times half the sum of the squared weights of both dense layers is added to \
             the loss. With its term is what training minimises and what the study printed; \
             without it is the cross-entropy alone."
                .into(),
        ],
        tables: vec![table],
        findings: drops_at_half(outcomes, epochs)
            .into_iter()
            .chain(small_between(outcomes, epochs))
            .collect(),
        figures: vec![figure],
    }
}

pub fn dropout_chapter(outcomes: &Outcomes, probabilities: &[f32], epochs: usize) -> Chapter {
    let runs =
        outcomes.all(dropout_experiments(probabilities, epochs).into_iter().map(|run| run.name));
    let rows: Vec<_> = [1.0].iter().chain(probabilities).map(f32::to_string).zip(&runs).collect();
    let table = table("table-5", "Table 5: dropout", outcomes, &rows, "p", false);
    // The study's figures are of its three probabilities; others are drawn in the same way.
    let number = |keep: &str| match keep {
        "0.9" => Some(13),
        "0.75" => Some(14),
        "0.5" => Some(15),
        _ => None,
    };
    let figure = |(keep, outcome): &(String, &&Outcome)| {
        let what = format!("accuracy with dropout, p = {keep}");
        let (name, title) = match number(keep) {
            Some(number) => (format!("figure-{number}"), format!("Figure {number}: {what}")),
            None => (format!("dropout-{keep}"), what),
        };
        Figure {
            name,
            title,
            caption: format!(
                "Accuracy after every epoch; each unit is kept with probability {keep}."
            ),
            chart: Chart::Lines(Lines::accuracy_of(&outcome.result.history)),
        }
    };
    Chapter {
        name: "dropout",
        title: "Dropout",
        text: vec![
            "In training, each unit of the first dense layer is kept with probability p and divided \
             by it. Evaluation keeps them all."
                .into(),
        ],
        figures: rows.iter().skip(1).map(figure).collect(),
        findings: vec![minimal_effect(&runs)],
        tables: vec![table],
    }
}

/// Four rows for every run: the last minibatch, which the study calls train, and the three sets.
fn table(
    name: &str,
    title: &str,
    outcomes: &Outcomes,
    rows: &[(String, &&Outcome)],
    varied: &str,
    penalty: bool,
) -> Table {
    let with = if penalty { "loss with its term" } else { "loss" };
    let columns = [Column::right(varied), Column::left("set"), Column::right("study")]
        .into_iter()
        .chain([Column::right(with)])
        .chain(penalty.then(|| Column::right("without")))
        .chain([Column::right("accuracy")]);
    let mut table = Table::new(name, title, columns);
    table.verdict = Some("verdict on the accuracy");
    for (value, outcome) in rows {
        let printed = outcome.experiment.printed();
        let last = outcome.last();
        let mut add =
            |set: &str, study: Option<Figures>, ours: Option<Metrics>, samples: [usize; 2]| {
                let number = |f: fn(Metrics) -> f64| ours.map_or("-".into(), |m| loss(f(m), 4));
                let judge = |study: Figures, ours: Metrics| {
                    let [of_study, of_ours] = samples;
                    let (study, ours) = ((study.percent(), of_study), (ours.accuracy, of_ours));
                    Verdict::of_accuracy(outcome, study, ours)
                };
                let cells = [
                    value.clone(),
                    set.into(),
                    study.map_or("-".into(), Figures::text),
                    number(|m| m.loss),
                ];
                let without = penalty.then(|| number(|m| m.cross_entropy));
                let accuracy = percent(ours.map_or(f64::NAN, |m| m.accuracy));
                let cells = cells.into_iter().chain(without).chain([accuracy]);
                table.judged(cells, study.zip(ours).map(|(study, ours)| judge(study, ours)));
            };
        let batch = last.and_then(|epoch| epoch.batch);
        // What the last step of an epoch is left with.
        let left = |train: usize| match outcome.experiment.network {
            Network::Cnn(settings) => train - (train.max(1) - 1) / settings.batch * settings.batch,
            Network::Mlp(_) => train,
        };
        let images = [TRAIN.study_samples, outcomes.samples[TRAIN.index]].map(left);
        add("batch", printed.and_then(|p| p.batch), batch, images);
        let study = [None, printed.and_then(|p| p.valid), printed.and_then(|p| p.test)];
        for (set, study) in SETS.into_iter().zip(study) {
            let samples = [set.study_samples, outcomes.samples[set.index]];
            add(set.name, study, last.and_then(set.metrics), samples);
        }
    }
    table.notes.push(
        "batch: the last minibatch before its update, which the study's table calls train; the \
         whole training set's figures stand below it."
            .into(),
    );
    table
}

fn of(outcomes: &Outcomes, l2: f32, epochs: usize) -> Option<&Outcome> {
    outcomes.of(&Experiment::cnn(l2, 1.0, epochs).name)
}

/// "When lambda = 0.5 the accuracy drops a couple of percent."
fn drops_at_half(outcomes: &Outcomes, epochs: usize) -> Option<Finding> {
    let (tenth, half) = (of(outcomes, 0.1, epochs)?, of(outcomes, 0.5, epochs)?);
    let drop = tenth.accuracy(TEST) - half.accuracy(TEST);
    Some(Finding {
        place: "Figure 12",
        study: "with \u{3bb} 0.5 the accuracy drops a couple of percent".into(),
        ours: format!("{} against \u{3bb} 0.1", points(-drop)),
        verdict: Verdict::of_claim(
            &[tenth, half],
            &[drop],
            (1.0..=4.0).contains(&drop),
            "between 1 and 4 points",
        ),
    })
}

/// "Between lambda = 0.01 and lambda = 0.1, the difference on the final test set is small."
fn small_between(outcomes: &Outcomes, epochs: usize) -> Option<Finding> {
    let (hundredth, tenth) = (of(outcomes, 0.01, epochs)?, of(outcomes, 0.1, epochs)?);
    let difference = tenth.accuracy(TEST) - hundredth.accuracy(TEST);
    Some(Finding {
        place: "Table 4",
        study: "between \u{3bb} 0.01 and 0.1 the difference is small (0.44 points)".into(),
        ours: points(difference),
        verdict: Verdict::of_claim(
            &[hundredth, tenth],
            &[difference],
            difference.abs() <= 1.0,
            "at most a point",
        ),
    })
}

/// "Varying the drop-out rate had minimal effect on improving the accuracy of the CNN."
fn minimal_effect(runs: &[&Outcome]) -> Finding {
    // Over valid and test, because a single set of 2,724 is good for half a point.
    let mean = |outcome: &&Outcome| (outcome.accuracy(VALID) + outcome.accuracy(TEST)) / 2.0;
    let figures: Vec<_> = runs.iter().map(mean).collect();
    let (low, high) = figures
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let spread = high - low;
    let verdict = match runs {
        [_, _, ..] => Verdict::of_claim(runs, &figures, spread <= 1.5, "at most 1.5 points"),
        _ => Verdict::Open("a single run".into()),
    };
    Finding {
        place: "Table 5",
        study: "varying dropout has minimal effect on the accuracy".into(),
        ours: if spread.is_finite() {
            format!(
                "the mean of valid and test spreads over {}",
                points(spread).trim_start_matches('+')
            )
        } else {
            "-".into()
        },
        verdict,
    }
}
