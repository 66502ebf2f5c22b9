//! Table 1 and Figures 6 and 7: the study's perceptron.

use super::experiment::{Experiment, Outcome};
use super::verdict::Verdict;
use super::{Chapter, Finding, Outcomes, cell, percent};
use crate::charts::{Chart, Figure, Lines};
use crate::sets::{SETS, TEST};
use crate::table::{Column, Table};

/// What has to be run.
pub fn experiments(epochs: usize) -> Vec<Experiment> {
    vec![Experiment::study_mlp(epochs)]
}

pub fn chapter(outcomes: &Outcomes, epochs: usize) -> Option<Chapter> {
    let outcome = outcomes.of(&Experiment::study_mlp(epochs).name)?;
    Some(Chapter {
        name: "mlp",
        title: "The perceptron",
        text: vec![
            "784 pixels, 1000 hidden units with ReLU, an output per class with softmax; full-batch gradient \
             descent with momentum 0.95, learning rate 1e-5 on the summed gradient. The study's \
             program is NumPy in float64, kernelet computes in float32."
                .into(),
        ],
        tables: vec![table_1(outcomes, outcome)],
        findings: vec![smooth(outcome), nine_of_ten(outcome)],
        figures: figures(outcome),
    })
}

fn table_1(outcomes: &Outcomes, outcome: &Outcome) -> Table {
    let columns = [Column::left(""), Column::right("study"), Column::right("kernelet")];
    let mut table = Table::new("table-1", "Table 1: the perceptron after its last epoch", columns);
    table.verdict = Some("verdict on the accuracy");
    let printed = outcome.experiment.printed();
    let text = |seconds: f64| format!("{seconds:.2} s");
    let seconds = outcome.result.seconds.total;
    let study_seconds = printed.and_then(|p| p.seconds);
    table.row(["time taken".into(), study_seconds.map_or("-".into(), text), text(seconds)]);
    let studied = printed.map_or([None; 3], |p| [p.train, p.valid, p.test]);
    for (set, study) in SETS.into_iter().zip(studied) {
        let samples = outcomes.samples[set.index];
        let ours = cell(outcome.last().and_then(set.metrics));
        let printed = study.map_or("-".into(), |study| study.text());
        let verdict = study.map(|study| {
            let study = (study.percent(), set.study_samples);
            Verdict::of_accuracy(outcome, study, (outcome.accuracy(set), samples))
        });
        table.judged([format!("{} loss / accuracy", set.name), printed, ours], verdict);
    }
    if outcome.as_the_study && outcome.has_the_study_s_epochs() {
        table.notes.push(
            "PyTorch 2.15 with these settings and data ends at test 0.3371 / 91.67 %, and with \
             momentum 0.9 at 0.3500 / 91.04 %, nearer to what the study printed."
                .into(),
        );
    }
    table
}

/// Figures 6 and 7.
pub fn figures(outcome: &Outcome) -> Vec<Figure> {
    vec![figure_6(outcome), figure_7(outcome)]
}

fn figure_6(outcome: &Outcome) -> Figure {
    Figure {
        name: "figure-6".into(),
        title: "Figure 6: accuracy of the perceptron".into(),
        caption: "Accuracy after every epoch on the three sets; 1000 hidden units.".into(),
        chart: Chart::Lines(Lines::accuracy_of(&outcome.result.history)),
    }
}

fn figure_7(outcome: &Outcome) -> Figure {
    Figure {
        name: "figure-7".into(),
        title: "Figure 7: loss of the perceptron".into(),
        caption: "Mean cross-entropy after every epoch on the three sets; 1000 hidden units."
            .into(),
        chart: Chart::Lines(Lines::loss_of(&outcome.result.history)),
    }
}

/// "At this rate, the error converges, and the graph is smooth."
fn smooth(outcome: &Outcome) -> Finding {
    let losses: Vec<_> =
        outcome.result.history.epochs.iter().filter_map(|e| Some(e.train?.loss)).collect();
    let rises = losses.windows(2).filter(|pair| pair[1] > pair[0]).count();
    let converged = losses.last() < losses.first();
    Finding {
        place: "Figure 7",
        study: "the error converges, and the graph is smooth".into(),
        ours: format!(
            "the training loss rose in {rises} of {} epochs",
            losses.len().saturating_sub(1)
        ),
        verdict: Verdict::of_claim(
            &[outcome],
            &losses,
            converged && 20 * rises <= losses.len(),
            "smooth: at most one epoch in twenty",
        ),
    }
}

/// "9 out of 10 times, the model predicts the right letter."
fn nine_of_ten(outcome: &Outcome) -> Finding {
    let accuracy = outcome.accuracy(TEST);
    Finding {
        place: "Section 3",
        study: "nine times out of ten the model predicts the right letter".into(),
        ours: format!("{} of the test set", percent(accuracy)),
        verdict: Verdict::of_claim(&[outcome], &[accuracy], accuracy.round() >= 90.0, "90 %"),
    }
}
