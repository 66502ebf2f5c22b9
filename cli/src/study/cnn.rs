//! Figures 10 and 11: the study's convolutional network, without a penalty and without dropout.

use super::experiment::{Experiment, Outcome};
use super::verdict::Verdict;
use super::{Chapter, Finding, Outcomes, cell, percent, points};
use crate::charts::{Chart, Figure, Lines};
use crate::output::loss;
use crate::sets::{SETS, TEST, TRAIN};
use crate::table::{Column, Table};

/// The network of Figures 10 and 11.
pub fn experiment(epochs: usize) -> Experiment {
    Experiment::cnn(0.0, 1.0, epochs)
}

/// `perceptron` is the network that the study compares it with, if that has been run.
pub fn chapter(
    outcomes: &Outcomes,
    epochs: usize,
    perceptron: Option<&Outcome>,
) -> Option<Chapter> {
    let outcome = outcomes.of(&experiment(epochs).name)?;
    let mut findings = vec![fits_the_training_set(outcome)];
    findings.extend(perceptron.map(|perceptron| better(outcomes, outcome, perceptron)));
    Some(Chapter {
        name: "cnn",
        title: "The convolutional network",
        text: vec![
            "3x3 convolution with 32 filters, ReLU, batch normalisation, 2x2 max pool, 784 hidden \
             units with ReLU, an output per class with softmax; Adam, learning rate 1e-4, minibatches of \
             32. Every set is evaluated with its own moments, as in the study."
                .into(),
        ],
        tables: vec![end_of_run(outcome)],
        findings,
        figures: figures(outcome),
    })
}

/// The study printed no table of this run.
fn end_of_run(outcome: &Outcome) -> Table {
    let columns = [Column::left(""), Column::right("kernelet")];
    let title = "The convolutional network after its last epoch";
    let mut table = Table::new("cnn", title, columns);
    let seconds = outcome.result.seconds;
    table.row(["time taken".into(), format!("{:.2} s", seconds.total)]);
    table.row(["of which training".into(), format!("{:.2} s", seconds.train)]);
    for set in SETS {
        let ours = cell(outcome.last().and_then(set.metrics));
        table.row([format!("{} loss / accuracy", set.name), ours]);
    }
    table.notes.push("The study shows this run in figures only.".into());
    table
}

fn figures(outcome: &Outcome) -> Vec<Figure> {
    let history = &outcome.result.history;
    vec![
        Figure {
            name: "figure-10".into(),
            title: "Figure 10: loss of the convolutional network".into(),
            caption: "Mean cross-entropy after every epoch on the three sets.".into(),
            chart: Chart::Lines(Lines::loss_of(history)),
        },
        Figure {
            name: "figure-11".into(),
            title: "Figure 11: accuracy of the convolutional network".into(),
            caption: "Accuracy after every epoch on the three sets.".into(),
            chart: Chart::Lines(Lines::accuracy_of(history)),
        },
    ]
}

/// "The CNN model was able to classify the training set with 100 % accuracy."
fn fits_the_training_set(outcome: &Outcome) -> Finding {
    let (accuracy, train_loss) = (outcome.accuracy(TRAIN), outcome.loss(TRAIN));
    Finding {
        place: "Section 3",
        study: "the training set is classified with 100 % accuracy".into(),
        ours: format!(
            "{} of the whole training set, loss {}",
            percent(accuracy),
            loss(train_loss, 4)
        ),
        verdict: Verdict::of_claim(
            &[outcome],
            &[accuracy],
            accuracy >= 99.9,
            "at least 99.9 %; the study's is of a minibatch",
        ),
    }
}

/// "Approximately a 2.5 % improvement over the Numpy model ... 68 more images."
fn better(outcomes: &Outcomes, outcome: &Outcome, perceptron: &Outcome) -> Finding {
    let gain = outcome.accuracy(TEST) - perceptron.accuracy(TEST);
    let images = gain / 100.0 * outcomes.samples[TEST.index] as f64;
    Finding {
        place: "Section 3",
        study: "about 2.5 points better than the perceptron, 68 more test images".into(),
        ours: format!("{}, {images:.0} more test images", points(gain)),
        verdict: Verdict::of_claim(
            &[outcome, perceptron],
            &[gain],
            (1.0..=4.0).contains(&gain),
            "between 1 and 4 points",
        ),
    }
}
