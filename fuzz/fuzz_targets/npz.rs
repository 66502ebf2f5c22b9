//! Files of arrays: data, images, weights and checkpoints. Whatever the bytes are, they are read or
//! refused with an error; what is read keeps the promises of the loaders' docs.

#![no_main]

use std::cell::RefCell;
use std::io::Cursor;
use std::path::Path;

use kernelet::data::npz::array_names;
use kernelet::data::{Dataset, Images, PIXELS, read_images};
use kernelet::train::checkpoint;
use kernelet_fuzz::archive;
use kernelet_fuzz::checkpoint::sealed;
use kernelet_fuzz::file::Bytes;
use kernelet_fuzz::networks::{assert_finite, check_cnn, check_mlp, check_running, cnn, mlp};
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

fn checkpoint_of_mlp(path: &Path) {
    let Ok((_, _, mlp, state)) = checkpoint::load_mlp(path) else { return };
    check_mlp(&mlp);
    check_mlp(&state.velocity);
    assert_eq!(mlp.shape, state.velocity.shape, "the velocity's shape");
}

fn checkpoint_of_cnn(path: &Path) {
    let Ok((_, _, cnn, state)) = checkpoint::load_cnn(path) else { return };
    for network in [&cnn, &state.adam.m, &state.adam.v] {
        check_cnn(network);
        assert_eq!(network.shape, cnn.shape, "the moments' shape");
    }
    check_running(cnn.shape, state.running_moments);
}
