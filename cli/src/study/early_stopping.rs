//! Table 3: what stopping early would have cost the perceptron. The run is that of Table 1.

use kernelet::train::Epoch;

use super::experiment::{Experiment, Outcome};
use super::printed::EARLY_STOPPING;
use super::verdict::Verdict;
use super::{Chapter, Finding, Outcomes, percent, points};
use crate::sets::{SETS, TEST};
use crate::table::{Column, Table};

pub fn chapter(outcomes: &Outcomes, epochs: usize) -> Option<Chapter> {
    let outcome = outcomes.of(&Experiment::study_mlp(epochs).name)?;
    let early = early(outcome)?;
    Some(Chapter {
        name: "early-stopping",
        title: "Early stopping",
        text: vec![format!(
            "The run of Table 1 at epoch {}, as far along as the study's epoch 50 of 200, where it \
             would stop; at the epoch with the lowest validation loss, whose weights train \
             --patience keeps if it waits long enough; and at its end.",
            early.epoch
        )],
        tables: vec![table_3(outcomes, outcome, early)],
        findings: vec![four_times(outcome, early), together(outcome, early)],
        figures: Vec::new(),
    })
}

/// The epoch where the study would stop: 50 of 200, or as far along a shorter run.
fn early(outcome: &Outcome) -> Option<&Epoch> {
    let [(early, _), (last, _)] = EARLY_STOPPING;
    let epoch = outcome.experiment.network.epochs() * early / last;
    outcome.result.history.epochs.iter().find(|row| row.epoch == epoch)
}

/// Accuracies in percent on the three sets.
fn accuracies(epoch: &Epoch) -> [f64; 3] {
    SETS.map(|set| (set.metrics)(epoch).map_or(f64::NAN, |metrics| metrics.accuracy))
}

fn table_3(outcomes: &Outcomes, outcome: &Outcome, early: &Epoch) -> Table {
    let columns = [
        Column::left("epoch"),
        Column::right("study: train, valid, test"),
        Column::right("kernelet: train, valid, test"),
    ];
    let mut table = Table::new("table-3", "Table 3: accuracy when training stops early", columns);
    table.verdict = Some("verdict on the test accuracy");
    let list = |figures: [f64; 3]| figures.map(percent).join(", ");
    let [(at_study_early, study_early), (at_study_last, study_last)] = EARLY_STOPPING;
    let label = |epoch: usize, study: usize| match epoch == study {
        true => epoch.to_string(),
        false => format!("{epoch} (study: {study})"),
    };
    let mut add = |name: String, study: Option<[f64; 3]>, ours: [f64; 3]| {
        let test = TEST.index;
        let verdict = study.map(|study| {
            let study = (study[test], TEST.study_samples);
            Verdict::of_accuracy(outcome, study, (ours[test], outcomes.samples[test]))
        });
        table.judged([name, study.map_or("-".into(), list), list(ours)], verdict);
    };
    let at_early = accuracies(early);
    add(label(early.epoch, at_study_early), Some(study_early), at_early);
    if let Some(best) = outcome.result.history.best() {
        add(format!("{} (lowest valid loss)", best.epoch), None, accuracies(best));
    }
    if let Some(last) = outcome.last() {
        let at_last = accuracies(last);
        add(label(last.epoch, at_study_last), Some(study_last), at_last);
        let minus = |a: [f64; 3], b: [f64; 3]| std::array::from_fn(|set| a[set] - b[set]);
        let points = |figures: [f64; 3]| figures.map(|d: f64| format!("{d:+.2}")).join(", ");
        table.row([
            "difference in points".into(),
            points(minus(study_last, study_early)),
            points(minus(at_last, at_early)),
        ]);
    }
    table
}

/// "The training set improves 4 times more than the validation and test set."
fn four_times(outcome: &Outcome, early: &Epoch) -> Finding {
    let gain = |end: [f64; 3], start: [f64; 3]| {
        let [train, valid, test]: [f64; 3] = std::array::from_fn(|set| end[set] - start[set]);
        train / ((valid + test) / 2.0)
    };
    let [(_, study_early), (_, study_last)] = EARLY_STOPPING;
    let study = gain(study_last, study_early);
    let ours = gain(outcome.last().map_or([f64::NAN; 3], accuracies), accuracies(early));
    Finding {
        place: "Table 3",
        study: format!("afterwards training improves 4 times as much as the rest ({study:.1})"),
        ours: if ours.is_finite() { format!("{ours:.1} times") } else { "-".into() },
        verdict: Verdict::of_claim(
            &[outcome],
            &[ours],
            (2.0..=6.0).contains(&ours),
            "between twice and six times",
        ),
    }
}

/// "Before the 50th epoch, the training, validation, and test data sets are improving at relatively
/// similar rates."
fn together(outcome: &Outcome, early: &Epoch) -> Finding {
    let [train, valid, test] = accuracies(early);
    let gap = train - (valid + test) / 2.0;
    Finding {
        place: "Figure 6",
        study: "until then the three sets improve alike (0.5 points apart)".into(),
        ours: format!("training: {} against the mean of the two", points(gap)),
        verdict: Verdict::of_claim(&[outcome], &[gap], gap.abs() <= 3.0, "at most 3 points"),
    }
}
