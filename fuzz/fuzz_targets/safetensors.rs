//! Weights in `.safetensors` files. Whatever the bytes are, they are read or refused with an error;
//! what is read keeps the promises of the loaders' docs.

#![no_main]

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use kernelet::train::weights::array_names;
use kernelet_fuzz::networks::{cnn, mlp};
use libfuzzer_sys::fuzz_target;
use tempfile::{Builder, NamedTempFile};

fuzz_target!(|data: &[u8]| {
    thread_local! {
        // The format is known by the name, so that it has to have one.
        static FILE: RefCell<NamedTempFile> = RefCell::new(
            Builder::new().suffix(".safetensors").tempfile().expect("a temporary file"),
        );
    }
    FILE.with_borrow_mut(|file| {
        let path = file.path();
        read(path, data);
        // A header seldom is as long as the eight bytes before it say.
        let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
        let len = (end as u64).to_le_bytes();
        let zero = data.get(end + 1..).unwrap_or_default();
        read(path, &[&len, &data[..end], zero].concat());
    });
});

fn read(path: &Path, data: &[u8]) {
    fs::write(path, data).expect("space for a small file");
    mlp(path);
    cnn(path, 28, 28);
    cnn(path, 2, 3);
    let _ = array_names(path);
}
