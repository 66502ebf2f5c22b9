//! The study's experiments: what is run, and the chapters of the report that come of it.

pub mod cnn;
pub mod early_stopping;
pub mod experiment;
pub mod functions;
pub mod hidden_units;
pub mod kernels;
pub mod lab;
pub mod letters;
pub mod mlp;
pub mod parts;
pub mod printed;
pub mod regularization;
pub mod verdict;

use kernelet::train::Metrics;
use serde::Serialize;

use crate::charts::Figure;
use crate::output;
use crate::table::{Column, Table};
use experiment::Outcome;
use verdict::Verdict;

/// A piece of the report: what one of the study's sections is about.
pub struct Chapter {
    /// Of its place in the report.
    pub name: &'static str,
    pub title: &'static str,
    /// Paragraphs.
    pub text: Vec<String>,
    pub tables: Vec<Table>,
    pub findings: Vec<Finding>,
    pub figures: Vec<Figure>,
}

/// Something that the study says, with ours beside it.
#[derive(Clone, Serialize)]
pub struct Finding {
    /// Where the study says it: `Figure 8`.
    pub place: &'static str,
    pub study: String,
    pub ours: String,
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Chapter {
    /// The findings as a table.
    pub fn findings(&self) -> Option<Table> {
        if self.findings.is_empty() {
            return None;
        }
        let columns = ["where", "the study", "kernelet"].map(Column::left);
        let name = format!("{}-findings", self.name);
        let mut table = Table::new(&name, "What the study says of it", columns);
        table.verdict = Some("verdict");
        for Finding { place, study, ours, verdict } in &self.findings {
            table.judged([(*place).into(), study.clone(), ours.clone()], Some(verdict.clone()));
        }
        Some(table)
    }
}

/// The outcomes of a study by the names of its experiments.
pub struct Outcomes {
    pub outcomes: Vec<Outcome>,
    /// How many images train, validate and test.
    pub samples: [usize; 3],
}

impl Outcomes {
    /// The outcome of an experiment that has been made.
    pub fn of(&self, name: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.experiment.name == name)
    }

    /// Those of several experiments, in their order.
    pub fn all(&self, names: impl IntoIterator<Item = String>) -> Vec<&Outcome> {
        names.into_iter().filter_map(|name| self.of(&name)).collect()
    }
}

/// `0.377778 / 90.35 %`
fn cell(metrics: Option<Metrics>) -> String {
    metrics.map_or_else(|| "-".into(), output::figures)
}

/// A difference of two accuracies.
fn points(value: f64) -> String {
    if value.is_finite() { format!("{value:+.2} points") } else { "-".into() }
}

fn percent(value: f64) -> String {
    if value.is_finite() { format!("{value:.2} %") } else { "-".into() }
}
