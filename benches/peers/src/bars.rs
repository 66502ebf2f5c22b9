//! What kernelet is to reach: the table that BENCHMARKS.md is held against.

use crate::works::{Classes, Family, Hidden, Work};

/// kernelet's time over that of the fastest of some peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The fastest of these counts.
    pub peers: &'static [&'static str],
    /// The ratio that is reached at or below this.
    pub at_most: f64,
}

/// A memory-bound kernel's bandwidth over that of a copy is at least this.
pub const COPY_SHARE: f64 = 0.85;

const EAGER: &[&str] = &["torch-eager"];
const TORCH: &[&str] = &["torch-eager", "torch-fused", "torch-channels-last", "torch-compile"];
const LAYOUTS: &[&str] = &["torch-eager", "torch-channels-last"];

/// The bars of a work.
pub fn of(work: &Work) -> Vec<Bar> {
    let bar = |peers, at_most| Bar { peers, at_most };
    let mut bars = match *work {
        Work::Gemm(_) => vec![bar(EAGER, 1.0)],
        Work::MlpEpoch(Hidden { hidden: 1000 }) => {
            vec![bar(EAGER, 0.72), bar(&["numpy"], 0.65), bar(&["numpy64"], 0.3)]
        }
        Work::MlpEpoch(Hidden { hidden: 100 }) => vec![bar(EAGER, 0.55)],
        Work::CnnStep(_) => vec![bar(TORCH, 0.45), bar(&["tensorflow"], 0.33)],
        Work::ConvBlock(_) => vec![bar(LAYOUTS, 0.12)],
        Work::Softmax(Classes { rows: 10_000, classes: 10 }) => vec![bar(EAGER, 0.25)],
        Work::Softmax(Classes { rows: 10_000, classes: 1000 }) => vec![bar(EAGER, 0.5)],
        Work::Softmax(Classes { rows: 1024, classes: 1024 }) => vec![bar(EAGER, 0.9)],
        Work::Adam(_) => vec![bar(&["torch-fused"], 0.95)],
        _ => vec![],
    };
    if work.family() == Family::Kernels {
        bars.extend([bar(&["candle"], 0.8), bar(&["burn"], 0.8)]);
    }
    bars
}
