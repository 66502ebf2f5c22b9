//! What the study printed of its runs (18,724 notMNIST letters), digit for digit.

use kernelet::train::{cnn, mlp};

use crate::network::Network;

/// Units of the study's networks: of its perceptron's hidden layer, and of the first dense layer of
/// its convolutional network.
pub const MLP_HIDDEN: usize = 1000;
pub const CNN_HIDDEN: usize = 784;

/// What Table 2 varies; Table 1 has the 1000 units.
pub const HIDDEN_UNITS: [usize; 4] = [100, 500, 1000, 2000];
/// What Table 4 varies.
pub const L2: [f32; 3] = [0.01, 0.1, 0.5];
/// What Table 5 varies.
pub const KEEP_PROBABILITIES: [f32; 3] = [0.9, 0.75, 0.5];

/// What the study printed of one run; loss and accuracy are those of the last epoch.
#[derive(Clone, Copy)]
pub struct Printed {
    pub table: &'static str,
    pub run_by: &'static str,
    pub epochs: usize,
    pub seconds: Option<f64>,
    /// Of the whole training set.
    pub train: Option<Figures>,
    /// Of the last minibatch, which the study's tables call train.
    pub batch: Option<Figures>,
    pub valid: Option<Figures>,
    pub test: Option<Figures>,
}

/// A loss and an accuracy as printed.
#[derive(Clone, Copy)]
pub struct Figures {
    pub loss: &'static str,
    /// In percent.
    pub accuracy: &'static str,
}

impl Figures {
    const fn new(loss: &'static str, accuracy: &'static str) -> Option<Self> {
        Some(Self { loss, accuracy })
    }

    pub fn text(self) -> String {
        format!("{} / {} %", self.loss, self.accuracy)
    }

    /// The accuracy in percent.
    pub fn percent(self) -> f64 {
        self.accuracy.parse().unwrap_or(f64::NAN)
    }
}

/// Table 3: accuracies in percent (train, valid, test) of the network of Table 1 after so many
/// epochs.
pub const EARLY_STOPPING: [(usize, [f64; 3]); 2] =
    [(50, [88.60, 88.15, 88.14]), (200, [96.93, 90.32, 90.35])];

/// The study's figures for a run of this size and these settings, where it printed any. How many
/// epochs there are makes no difference: whoever compares sees it.
pub fn printed(network: &Network, hidden: usize) -> Option<Printed> {
    match network {
        Network::Mlp(settings) => mlp(hidden, *settings),
        Network::Cnn(settings) => cnn(hidden, *settings),
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
        100 => ("Table 2", 27.56, None, None, Figures::new("0.388943", "89.90")),
        500 => ("Table 2", 129.44, None, None, Figures::new("0.383086", "90.05")),
        1000 => (
            "Table 1",
            232.41,
            Figures::new("0.122815", "96.93"),
            Figures::new("0.345485", "90.32"),
            Figures::new("0.377778", "90.35"),
        ),
        2000 => ("Table 2", 426.98, None, None, Figures::new("0.367983", "90.38")),
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
        test,
    })
}

fn cnn(hidden: usize, settings: cnn::Settings) -> Option<Printed> {
    let study = cnn::Settings::default();
    let cnn::Settings { epochs, .. } = study;
    let cnn::Settings { learning_rate, batch, shuffle, .. } = settings;
    if hidden != CNN_HIDDEN
        || settings.patience.is_some()
        || (learning_rate, batch, shuffle) != (study.learning_rate, study.batch, study.shuffle)
    {
        return None;
    }
    let figures = |batch: [&'static str; 2], valid: [&'static str; 2], test: [&'static str; 2]| {
        [batch, valid, test].map(|[loss, accuracy]| Figures::new(loss, accuracy))
    };
    let (table, [batch, valid, test]) = match (settings.l2, settings.keep_probability) {
        (0.01, 1.0) => {
            ("Table 4", figures(["0.118", "100"], ["0.370", "92.92"], ["0.391", "92.55"]))
        }
        (0.1, 1.0) => {
            ("Table 4", figures(["0.422", "93.75"], ["0.508", "92.70"], ["0.506", "92.99"]))
        }
        (0.5, 1.0) => {
            ("Table 4", figures(["1.063", "93.75"], ["0.970", "89.82"], ["0.961", "90.31"]))
        }
        (0.0, 0.9) => {
            ("Table 5", figures(["1.196e-5", "100"], ["0.568", "92.75"], ["0.656", "92.51"]))
        }
        (0.0, 0.75) => {
            ("Table 5", figures(["5.111e-6", "100"], ["0.583", "92.67"], ["0.668", "91.18"]))
        }
        (0.0, 0.5) => {
            ("Table 5", figures(["4.560e-6", "100"], ["0.536", "92.93"], ["0.589", "92.62"]))
        }
        _ => return None,
    };
    Some(Printed {
        table,
        run_by: "TensorFlow, CPU and GPU",
        epochs,
        seconds: None,
        train: None,
        batch,
        valid,
        test,
    })
}
