//! What is said of a figure of ours beside the study's.

use serde::Serialize;

use super::experiment::Outcome;

/// The judgement of a comparison, with its reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", content = "why", rename_all = "lowercase")]
pub enum Verdict {
    /// Ours is what the study has, within what chance explains.
    Agrees(String),
    /// Ours is something else.
    Differs(String),
    /// There is nothing to judge by.
    Open(String),
}

impl Verdict {
    /// What a run of another length than the study's gets.
    fn of_other_length(outcome: &Outcome) -> Option<Self> {
        let (ours, study) = (outcome.experiment.network.epochs(), outcome.study_epochs());
        (ours != study).then(|| Self::Open(format!("{ours} of {study} epochs")))
    }

    /// Of two accuracies in percent, each with the number of its images: whether they differ by more
    /// than twice the standard error of the difference of two such shares.
    pub fn of_accuracy(outcome: &Outcome, study: (f64, usize), ours: (f64, usize)) -> Self {
        if let Some(open) = Self::of_other_length(outcome) {
            return open;
        }
        let variance = |(percent, n): (f64, usize)| percent * (100.0 - percent) / n.max(1) as f64;
        let chance = 2.0 * (variance(study) + variance(ours)).sqrt();
        let difference = ours.0 - study.0;
        if !difference.is_finite() {
            Self::Open("no figure".into())
        } else if !outcome.as_the_study {
            Self::Open(format!("{difference:+.2} points, on other data"))
        } else if difference.abs() <= chance {
            Self::Agrees(format!("{difference:+.2} points, chance {chance:.2}"))
        } else {
            Self::Differs(format!("{difference:+.2} points, chance {chance:.2}"))
        }
    }

    /// Of something that the study says, which our `figures` bear out or not.
    pub fn of_claim(outcomes: &[&Outcome], figures: &[f64], holds: bool, why: &str) -> Self {
        if let Some(open) = outcomes.iter().find_map(|outcome| Self::of_other_length(outcome)) {
            open
        } else if figures.iter().any(|figure| !figure.is_finite()) {
            Self::Open("no figure".into())
        } else if holds {
            Self::Agrees(why.into())
        } else {
            Self::Differs(why.into())
        }
    }

    /// One word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Agrees(_) => "agrees",
            Self::Differs(_) => "differs",
            Self::Open(_) => "open",
        }
    }

    /// The word and its reason.
    pub fn text(&self) -> String {
        let (Self::Agrees(why) | Self::Differs(why) | Self::Open(why)) = self;
        if why.is_empty() { self.word().into() } else { format!("{}: {why}", self.word()) }
    }
}
