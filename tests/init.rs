//! Starting weights: their distribution, and that they depend on seed and layer alone.

use kernelet::nn::init::truncated_xavier;
use kernelet::nn::{Cnn, CnnShape};

/// Mean and standard deviation.
fn moments(w: &[f32]) -> (f64, f64) {
    let n = w.len() as f64;
    let mean = w.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
    let variance = w.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// A normal distribution cut off at two standard deviations keeps 0.8796 of its deviation: so much
/// is left of sqrt(1.3 * 2 / (fan_in + fan_out)).
#[test]
fn the_cnns_weights_are_truncated_normals_of_their_fans() {
    let shape =
        CnnShape { height: 28, width: 28, channels: 3, filters: 64, hidden: 784, classes: 10 };
    let cnn = Cnn::xavier(shape, 5);
    let arrays = [
        ("w0", &cnn.w0, 9 * 3 + 9 * 64),
        ("b0", &cnn.b0, 64 + 64),
        ("w1", &cnn.w1, 14 * 14 * 64 + 784),
        ("b1", &cnn.b1, 784 + 784),
        ("w2", &cnn.w2, 784 + 10),
        ("b2", &cnn.b2, 10 + 10),
    ];
    for (name, w, fans) in arrays {
        let deviation = (1.3 * 2.0 / f64::from(fans)).sqrt();
        let largest = w.iter().map(|w| f64::from(w.abs())).fold(0.0, f64::max);
        assert!(largest <= 2.0 * deviation * 1.000_001, "{name} has {largest}");
        let (mean, got) = moments(w);
        // Five standard errors.
        let noise = 5.0 / (w.len() as f64).sqrt();
        assert!(mean.abs() <= noise * deviation, "{name}: mean {mean}");
        let off = (got / (0.8796 * deviation) - 1.0).abs();
        assert!(off <= noise + 1e-4, "{name}: deviation {got}, not {}", 0.8796 * deviation);
    }
}

#[test]
fn the_same_seed_gives_the_same_network_and_layers_differ() {
    let shape = CnnShape::study(20, 10);
    assert_eq!(Cnn::xavier(shape, 1), Cnn::xavier(shape, 1), "the same seed");
    assert_ne!(Cnn::xavier(shape, 1), Cnn::xavier(shape, 2), "another seed");
    let [mut first, mut second] = [vec![0.0; 50], vec![0.0; 50]];
    truncated_xavier(&mut first, 10, 20, 1, 0);
    truncated_xavier(&mut second, 10, 20, 1, 1);
    assert_ne!(first, second, "another stream");
}
