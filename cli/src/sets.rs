//! The three sets of samples.

use kernelet::train::{Epoch, Metrics};

/// A set of samples: its name, its place among the three, and its figures of an epoch.
#[derive(Clone, Copy)]
pub struct Set {
    pub name: &'static str,
    pub index: usize,
    /// How many the study has.
    pub study_samples: usize,
    pub metrics: fn(&Epoch) -> Option<Metrics>,
}

pub const TRAIN: Set =
    Set { name: "train", index: 0, study_samples: 10_000, metrics: |epoch| epoch.train };
pub const VALID: Set =
    Set { name: "valid", index: 1, study_samples: 6_000, metrics: |epoch| epoch.valid };
pub const TEST: Set =
    Set { name: "test", index: 2, study_samples: 2_724, metrics: |epoch| epoch.test };
pub const SETS: [Set; 3] = [TRAIN, VALID, TEST];
