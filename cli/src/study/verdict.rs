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
    /// What a run that was shortened gets.
    fn shortened(outcome: &Outcome) -> Option<Self> {
        let (ours, study) = (outcome.experiment.network.epochs(), outcome.study_epochs());
        outcome.shortened().then(|| Self::Open(format!("{ours} of {study} epochs")))
    }

    /// Of two accuracies in percent, each of a run on `samples` images: whether they differ by more
    /// than twice the standard error of the difference of two such shares.
    pub fn of_accuracy(outcome: &Outcome, study: f64, ours: f64, samples: usize) -> Self {
        if let Some(open) = Self::shortened(outcome) {
            return open;
        }
        let variance = |percent: f64| percent * (100.0 - percent) / samples.max(1) as f64;
        let chance = 2.0 * (variance(study) + variance(ours)).sqrt();
        let difference = ours - study;
        if !difference.is_finite() {
            Self::Open("no figure".into())
        } else if difference.abs() <= chance {
            Self::Agrees(format!("{difference:+.2} points, chance {chance:.2}"))
        } else {
            Self::Differs(format!("{difference:+.2} points, chance {chance:.2}"))
        }
    }

    /// Of something that the study says, which our `figures` bear out or not.
    pub fn of_claim(outcomes: &[&Outcome], figures: &[f64], holds: bool, why: &str) -> Self {
        if let Some(open) = outcomes.iter().find_map(|outcome| Self::shortened(outcome)) {
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
