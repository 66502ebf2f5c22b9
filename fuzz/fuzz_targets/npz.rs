//! Files of arrays: data, images, weights and checkpoints. Whatever the bytes are, they are read or
//! refused with an error; what is read keeps the promises of the loaders' docs.

#![no_main]

use std::cell::RefCell;
use std::io::Cursor;
use std::path::Path;

use kernelet::data::npz::array_names;
use kernelet::data::{Dataset, Images, PIXELS, read_images};
use kernelet::kernels::relu_batch_norm::RunningMoments;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::checkpoint;
use kernelet::train::weights::{load_cnn, load_mlp};
use kernelet_fuzz::archive;
use kernelet_fuzz::checkpoint::sealed;
use kernelet_fuzz::file::Bytes;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    thread_local! {
        static FILE: RefCell<Bytes> = RefCell::new(Bytes::new().expect("a temporary file"));
    }
    dataset(data);
    FILE.with_borrow_mut(|file| {
        let path = file.set(data).expect("space for a small file");
        images(path);
        mlp(path);
        // As the program does, and small ones, whose weights fit a small file.
        cnn(path, 28, 28);
        cnn(path, 2, 3);
        // Its names may be anything, so that there is nothing to hold them to.
        let _ = array_names(path);
        // Without its checksum, a checkpoint would seldom get any further.
        let sealed = sealed(data);
        let path = match &sealed {
            Some(sealed) => file.set(sealed).expect("space for a small file"),
            None => path,
        };
        checkpoint_of_mlp(path);
        checkpoint_of_cnn(path);
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    archive::mutate(data, size, max_size, seed)
});

fn dataset(data: &[u8]) {
    let Ok(dataset) = Dataset::parse(Cursor::new(data), "fuzzed") else { return };
    let Dataset { images, labels, classes, .. } = &dataset;
    assert!(!labels.is_empty(), "no images");
    let pixels = match images {
        Images::U8(pixels) => pixels.len(),
        Images::F32(pixels) => {
            assert_finite("pixels", pixels);
            pixels.len()
        }
    };
    assert_eq!(pixels, labels.len() * PIXELS, "pixels of {} images", labels.len());
    for &label in labels {
        assert!((label as usize) < *classes, "label {label} of {classes} classes");
    }
    let split = dataset.split(None, Some(521)).expect("a data set that was read can be split");
    let parts = [&split.train, &split.valid, &split.test];
    assert_eq!(parts.map(|part| part.len()).iter().sum::<usize>(), labels.len(), "split images");
    for part in parts {
        assert_eq!(part.images.len(), part.len() * PIXELS, "pixels of a part");
        assert_finite("pixels of a part", &part.images);
    }
}

fn images(path: &Path) {
    let Ok(pixels) = read_images(path) else { return };
    assert_eq!(pixels.len() % PIXELS, 0, "a part of an image");
    assert_finite("pixels", &pixels);
}

fn mlp(path: &Path) {
    if let Ok(mlp) = load_mlp(path) {
        check_mlp(&mlp);
    }
}

fn checkpoint_of_mlp(path: &Path) {
    let Ok((_, _, mlp, state)) = checkpoint::load_mlp(path) else { return };
    check_mlp(&mlp);
    check_mlp(&state.velocity);
    assert_eq!(mlp.shape, state.velocity.shape, "the velocity's shape");
}

fn check_mlp(mlp: &Mlp) {
    let Mlp { shape, w_h, b_h, w_o, b_o } = mlp;
    let MlpShape { inputs, hidden, classes } = *shape;
    assert!(inputs > 0 && hidden > 0 && classes > 0, "{shape:?}");
    weights("w_h", w_h, inputs * hidden);
    weights("b_h", b_h, hidden);
    weights("w_o", w_o, hidden * classes);
    weights("b_o", b_o, classes);
}

fn cnn(path: &Path, height: usize, width: usize) {
    let Ok((cnn, running)) = load_cnn(path, height, width) else { return };
    assert!(cnn.shape.height == height && cnn.shape.width == width, "{:?}", cnn.shape);
    check_cnn(&cnn);
    check_running(cnn.shape, running);
}

fn checkpoint_of_cnn(path: &Path) {
    let Ok((_, _, cnn, state)) = checkpoint::load_cnn(path) else { return };
    for network in [&cnn, &state.adam.m, &state.adam.v] {
        check_cnn(network);
        assert_eq!(network.shape, cnn.shape, "the moments' shape");
    }
    check_running(cnn.shape, state.running_moments);
}

fn check_cnn(cnn: &Cnn) {
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

fn check_running(CnnShape { filters, .. }: CnnShape, running: Option<RunningMoments>) {
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

fn assert_finite(name: &str, values: &[f32]) {
    assert!(values.iter().all(|value| value.is_finite()), "{name} that are not finite");
}
