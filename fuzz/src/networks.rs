//! Networks out of files: what a loader lets through keeps the promises of its docs.

use std::path::Path;

use kernelet::kernels::relu_batch_norm::RunningMoments;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::weights::{load_cnn, load_mlp};

/// Reads a file as an MLP's weights.
pub fn mlp(path: &Path) {
    if let Ok(mlp) = load_mlp(path) {
        check_mlp(&mlp);
    }
}

/// An MLP that was read has arrays of its shape, all of them finite.
pub fn check_mlp(mlp: &Mlp) {
    let Mlp { shape, w_h, b_h, w_o, b_o } = mlp;
    let MlpShape { inputs, hidden, classes } = *shape;
    assert!(inputs > 0 && hidden > 0 && classes > 0, "{shape:?}");
    weights("w_h", w_h, inputs * hidden);
    weights("b_h", b_h, hidden);
    weights("w_o", w_o, hidden * classes);
    weights("b_o", b_o, classes);
}

/// Reads a file as a CNN's weights, for images of that size.
pub fn cnn(path: &Path, height: usize, width: usize) {
    let Ok((cnn, running)) = load_cnn(path, height, width) else { return };
    assert!(cnn.shape.height == height && cnn.shape.width == width, "{:?}", cnn.shape);
    check_cnn(&cnn);
    check_running(cnn.shape, running);
}

/// So has a CNN.
pub fn check_cnn(cnn: &Cnn) {
    let Cnn { shape, w0, b0, w1, b1, w2, b2 } = cnn;
    let CnnShape { channels, filters, hidden, classes, .. } = *shape;
    assert!(channels > 0 && filters > 0 && hidden > 0 && classes > 0, "{shape:?}");
    weights("w0", w0, 9 * channels * filters);
    weights("b0", b0, filters);
    weights("w1", w1, shape.pooled() * hidden);
    weights("b1", b1, hidden);
    weights("w2", w2, hidden * classes);
    weights("b2", b2, classes);
}

/// So have running moments, and no variance is negative.
pub fn check_running(CnnShape { filters, .. }: CnnShape, running: Option<RunningMoments>) {
    if let Some(running) = running {
        weights("running_mean", &running.mean, filters);
        weights("running_variance", &running.variance, filters);
        assert!(running.variance.iter().all(|&variance| variance >= 0.0), "a negative variance");
    }
}

fn weights(name: &str, values: &[f32], len: usize) {
    assert_eq!(values.len(), len, "length of {name}");
    assert_finite(name, values);
}

/// No NaN, no infinity.
pub fn assert_finite(name: &str, values: &[f32]) {
    assert!(values.iter().all(|value| value.is_finite()), "{name} that are not finite");
}
