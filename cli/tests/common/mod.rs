//! What the tests of the program share: how to run it, and data to run it on.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kernelet::data::npz::write_float_arrays;
use tempfile::TempDir;

/// The program, without what the environment may tell it.
pub fn kernelet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernelet"));
    for name in ["KERNELET_ISA", "FORCE_COLOR", "CLICOLOR_FORCE", "IGNORE_IS_TERMINAL"] {
        command.env_remove(name);
    }
    command
}

/// Runs `kernelet` in `folder` with the words of `line`.
pub fn run(folder: &Path, line: &str) -> Output {
    kernelet().current_dir(folder).args(line.split_whitespace()).output().expect("kernelet starts")
}

/// What a program said.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the output is UTF-8")
}

/// Asserts that a run failed with status 1 and one line that holds all of `parts`.
#[track_caller]
pub fn assert_error(output: &Output, parts: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "status of a failure; it said: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line is expected in {stderr:?}");
    assert!(stderr.starts_with("error: "), "the line is {stderr:?}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
    }
}

/// Asserts that a run ended well.
#[track_caller]
pub fn assert_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "it said: {}", text(&output.stderr));
}

/// A folder with `data.npz`: `n` images that show their class (a bright band), one-hot labels.
pub fn folder_with_data(n: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut images = vec![0.0; n * 784];
    let mut labels = vec![0.0; n * 10];
    for i in 0..n {
        let class = i * 7 % 10;
        labels[i * 10 + class] = 1.0;
        for pixel in 0..784 {
            let noise = ((i * 784 + pixel) * 7919 % 101) as f32 / 500.0;
            let band = if pixel / 78 == class { 0.8 } else { 0.0 };
            images[i * 784 + pixel] = band + noise;
        }
    }
    let path = folder.path().join("data.npz");
    let arrays: [(&str, &[usize], &[f32]); 2] =
        [("images", &[n, 784], &images), ("labels", &[n, 10], &labels)];
    write_float_arrays(&path, &arrays).expect("data.npz is written");
    folder
}

/// A file of the folder.
pub fn read(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The cells of a history, without its header.
pub fn rows(history: &str) -> Vec<Vec<String>> {
    history.lines().skip(1).map(|row| row.split(',').map(str::to_owned).collect()).collect()
}

/// Asserts that a run succeeds although nobody reads what it prints.
#[track_caller]
pub fn assert_closed_pipe_is_fine(folder: &Path, line: &str) {
    let mut child = kernelet()
        .current_dir(folder)
        .args(line.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kernelet starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("kernelet ends");
    assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
}
