//! What the study printed of its runs (18,724 notMNIST letters), digit for digit.

use kernelet::train::{cnn, mlp};

use crate::run::{Network, Run};

/// What the study printed of one run; loss and accuracy are those of the last epoch.
pub struct Printed {
    pub table: &'static str,
    pub run_by: &'static str,
    pub epochs: usize,
    pub seconds: Option<f64>,
    /// Of the whole training set.
    pub train: Option<&'static str>,
    /// Of the last minibatch, which the study's tables call train.
    pub batch: Option<&'static str>,
    pub valid: Option<&'static str>,
    pub test: Option<&'static str>,
}

/// The study's figures for a run of this size and these settings, where it printed any. How many
/// epochs there are makes no difference: whoever compares sees it.
pub fn printed(run: &Run) -> Option<Printed> {
    match &run.network {
        Network::Mlp(settings) => mlp(run.hidden, *settings),
        Network::Cnn { settings, .. } => cnn(run.hidden, *settings),
    }
}

fn mlp(hidden: usize, settings: mlp::Settings) -> Option<Printed> {
    let study = mlp::Settings::default();
    let mlp::Settings { epochs, .. } = study;
    if settings
        != (mlp::Settings { epochs: settings.epochs, eval_every: settings.eval_every, ..study })
    {
        return None;
    }
    let (table, seconds, train, valid, test) = match hidden {
        100 => ("Table 2", 27.56, None, None, "0.388943 / 89.90 %"),
        500 => ("Table 2", 129.44, None, None, "0.383086 / 90.05 %"),
        1000 => (
            "Table 1",
            232.41,
            Some("0.122815 / 96.93 %"),
            Some("0.345485 / 90.32 %"),
            "0.377778 / 90.35 %",
        ),
        2000 => ("Table 2", 426.98, None, None, "0.367983 / 90.38 %"),
        _ => return None,
    };
    Some(Printed {
        table,
        run_by: "NumPy, AMD Ryzen 5 2600",
        epochs,
        seconds: Some(seconds),
        train,
        batch: None,
        valid,
        test: Some(test),
    })
}

fn cnn(hidden: usize, settings: cnn::Settings) -> Option<Printed> {
    let study = cnn::Settings::default();
    let cnn::Settings { epochs, .. } = study;
    let cnn::Settings { learning_rate, batch, shuffle, .. } = settings;
    if hidden != 784
        || (learning_rate, batch, shuffle) != (study.learning_rate, study.batch, study.shuffle)
    {
        return None;
    }
    let (table, batch, valid, test) = match (settings.l2, settings.keep_probability) {
        (0.01, 1.0) => ("Table 4", "0.118 / 100 %", "0.370 / 92.92 %", "0.391 / 92.55 %"),
        (0.1, 1.0) => ("Table 4", "0.422 / 93.75 %", "0.508 / 92.70 %", "0.506 / 92.99 %"),
        (0.5, 1.0) => ("Table 4", "1.063 / 93.75 %", "0.970 / 89.82 %", "0.961 / 90.31 %"),
        (0.0, 0.9) => ("Table 5", "1.196e-5 / 100 %", "0.568 / 92.75 %", "0.656 / 92.51 %"),
        (0.0, 0.75) => ("Table 5", "5.111e-6 / 100 %", "0.583 / 92.67 %", "0.668 / 91.18 %"),
        (0.0, 0.5) => ("Table 5", "4.560e-6 / 100 %", "0.536 / 92.93 %", "0.589 / 92.62 %"),
        _ => return None,
    };
    Some(Printed {
        table,
        run_by: "TensorFlow, CPU and GPU",
        epochs,
        seconds: None,
        train: None,
        batch: Some(batch),
        valid: Some(valid),
        test: Some(test),
    })
}
