//! The study's printed figures for its MLP (18,724 notMNIST letters, 200 epochs, NumPy in double
//! precision on an AMD Ryzen 5 2600).

use kernelet::train::Metrics;

/// What the study printed for one number of hidden units.
pub struct Printed {
    pub hidden: usize,
    pub seconds: f64,
    /// Printed for 1000 units only.
    pub train: Option<Metrics>,
    pub valid: Option<Metrics>,
    pub test: Metrics,
}

/// Tables 1 and 2.
const MLP: [Printed; 4] = [
    test_only(100, 27.56, 0.388943, 89.90),
    test_only(500, 129.44, 0.383086, 90.05),
    Printed {
        hidden: 1000,
        seconds: 232.41,
        train: Some(Metrics { loss: 0.122815, accuracy: 96.93 }),
        valid: Some(Metrics { loss: 0.345485, accuracy: 90.32 }),
        test: Metrics { loss: 0.377778, accuracy: 90.35 },
    },
    test_only(2000, 426.98, 0.367983, 90.38),
];

const fn test_only(hidden: usize, seconds: f64, loss: f64, accuracy: f64) -> Printed {
    Printed { hidden, seconds, train: None, valid: None, test: Metrics { loss, accuracy } }
}

/// The study's figures for an MLP of `hidden` units, where it printed any.
pub fn mlp(hidden: usize) -> Option<&'static Printed> {
    MLP.iter().find(|printed| printed.hidden == hidden)
}
