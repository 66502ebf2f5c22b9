//! The command line as scripts know it: options, files, exit status.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    assert_closed_pipe_is_fine, assert_error, assert_success, folder_with_data, kernelet, read,
    rows, run, text,
};
use kernelet::data::npz::{read_float_arrays, write_float_arrays};
use tempfile::TempDir;

const HEADER: &str = "epoch,train_seconds,eval_seconds,train_loss,train_accuracy,\
                      valid_loss,valid_accuracy,test_loss,test_accuracy";

/// What the CNN's header goes on with.
const CNN_HEADER: &str = ",batch_loss,batch_accuracy,train_cross_entropy,valid_cross_entropy,\
                          test_cross_entropy,batch_cross_entropy";

#[test]
fn a_run_writes_every_file_it_is_asked_for() {
    let folder = folder_with_data(200);
    let output = run(
        folder.path(),
        "train mlp --data data.npz --hidden 12 --epochs 6 --lr 1e-3 --threads 1 --out new/out \
         --save w.npz --history h.csv --summary s.json",
    );
    assert_success(&output);
    let stdout = text(&output.stdout);
    let files = ["weights.npz", "history.csv", "summary.json"];
    let curves = ["loss.svg", "loss.png", "accuracy.svg", "accuracy.png"];
    for name in files.iter().chain(&curves) {
        let path = folder.path().join("new/out").join(name);
        assert!(fs::metadata(&path).is_ok_and(|m| m.len() > 100), "{name} is missing or empty");
        assert!(stdout.contains(name), "the result does not name {name}");
    }
    assert_eq!(read(&folder, "h.csv"), read(&folder, "new/out/history.csv"), "the two histories");
    let svg = read(&folder, "new/out/loss.svg");
    assert!(svg.starts_with("<svg") && svg.contains("train: "), "loss.svg is no labelled figure");
    let png = fs::read(folder.path().join("new/out/loss.png")).expect("loss.png");
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "loss.png is no PNG");

    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
    assert_eq!(summary["settings"]["hidden"], 12, "hidden in {summary}");
    assert_eq!(summary["last"]["epoch"], 6, "last epoch in {summary}");
    assert_eq!(summary["interrupted"], false, "interrupted in {summary}");
    assert_eq!(summary["settings"]["learning_rate"], 1e-3, "learning rate in {summary}");
    let last = rows(&read(&folder, "h.csv")).pop().expect("a last row");
    assert_eq!(summary["last"]["valid"]["loss"].to_string(), last[5], "valid loss in {summary}");
    let left: Vec<_> = fs::read_dir(folder.path())
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left.len(), 5, "only what was asked for is left: {left:?}");
}

#[test]
fn a_run_of_the_cnn_writes_every_file_it_is_asked_for() {
    let folder = folder_with_data(90);
    let output = run(
        folder.path(),
        "train cnn --data data.npz --hidden 12 --epochs 2 --batch 20 --l2 0.01 --keep-prob 0.9 \
         --out out --save w.npz --history h.csv --summary s.json --steps-history steps.csv",
    );
    assert_success(&output);
    let stdout = text(&output.stdout);
    let files = ["weights.npz", "history.csv", "steps.csv", "summary.json"];
    let curves = ["loss.svg", "loss.png", "accuracy.svg", "accuracy.png"];
    for name in files.iter().chain(&curves) {
        let path = folder.path().join("out").join(name);
        assert!(fs::metadata(&path).is_ok_and(|m| m.len() > 50), "{name} is missing or empty");
        assert!(stdout.contains(name), "the result does not name {name}");
    }
    for part in ["CNN with 12 hidden units, L2 0.01, keep 0.9", "batch loss / accuracy"] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    assert_eq!(read(&folder, "h.csv"), read(&folder, "out/history.csv"), "the two histories");
    assert_eq!(read(&folder, "steps.csv"), read(&folder, "out/steps.csv"), "the two step files");

    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
    assert_eq!(summary["network"], "cnn", "network in {summary}");
    // 90 images of 18724 are 48 to train: three minibatches, twice.
    assert_eq!(summary["updates"], 6, "updates in {summary}");
    let settings = serde_json::json!({
        "hidden": 12, "epochs": 2, "learning_rate": 1e-4, "batch": 20, "l2": 0.01,
        "keep_probability": 0.9, "shuffle": true, "eval_every": 1, "patience": null, "seed": 1, "split_seed": 521,
        "init": null,
    });
    assert_eq!(summary["settings"], settings, "settings in {summary}");
    let last = rows(&read(&folder, "h.csv")).pop().expect("a last row");
    for (set, cell) in [("train", 3), ("valid", 5), ("test", 7), ("batch", 9)] {
        assert_eq!(summary["last"][set]["loss"].to_string(), last[cell], "{set} in {summary}");
    }
}

#[test]
fn the_history_of_the_cnn_goes_on_with_columns_of_its_own() {
    let folder = folder_with_data(90);
    let history = |options: &str| {
        let line = format!(
            "train cnn --data data.npz --hidden 12 --epochs 3 --batch 20 --split 50,0 \
             --history h.csv --steps-history s.csv {options}"
        );
        assert_success(&run(folder.path(), &line));
        let history = read(&folder, "h.csv");
        assert_eq!(history.lines().next(), Some(&*(HEADER.to_owned() + CNN_HEADER)), "the header");
        rows(&history)
    };
    for (options, penalised) in [("", false), ("--l2 0.1 --eval-every 2", true)] {
        let rows = history(options);
        let last = rows.last().expect("a last row");
        assert_eq!((&*rows[0][0], &*last[0]), ("0", "3"), "the evaluated epochs of {rows:?}");
        for row in &rows {
            assert_eq!(row.len(), 15, "cells of {row:?}");
            let start = row[0] == "0";
            for (cell, text) in row.iter().enumerate() {
                // The validation set, and the minibatch of the start.
                let empty = [5, 6, 12].contains(&cell) || start && [9, 10, 14].contains(&cell);
                assert_eq!(text.is_empty(), empty, "cell {cell} of {row:?}");
                assert!(empty || text.parse::<f64>().is_ok(), "cell {cell} of {row:?}");
            }
        }
        let figure = |cell: usize| last[cell].parse::<f64>().expect("a figure");
        for (loss, cross_entropy) in [(3, 11), (7, 13), (9, 14)] {
            let penalty = figure(loss) - figure(cross_entropy);
            assert_eq!(penalty > 0.01, penalised, "loss less cross-entropy is {penalty}");
            assert!(penalised || penalty == 0.0, "loss less cross-entropy is {penalty}");
        }
        // The last step of the last epoch is its last minibatch.
        let steps = read(&folder, "s.csv");
        assert_eq!(steps.lines().next(), Some("step,loss"), "the header of the steps");
        assert_eq!(steps.lines().count(), 10, "three minibatches in three epochs, and a header");
        assert_eq!(steps.lines().last(), Some(&*format!("9,{}", last[9])), "the last step");
    }
}

#[test]
fn the_history_has_the_columns_of_the_contract() {
    let folder = folder_with_data(200);
    let line = "train mlp --data data.npz --hidden 12 --epochs 7 --eval-every 3 --lr 1e-3 \
                --history h.csv --split 120,0";
    assert_success(&run(folder.path(), line));
    let history = read(&folder, "h.csv");
    assert_eq!(history.lines().next(), Some(HEADER), "the header");
    let rows = rows(&history);
    let epochs: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(epochs, ["0", "3", "6", "7"], "the evaluated epochs");
    for row in &rows {
        assert_eq!(row.len(), 9, "cells of {row:?}");
        assert_eq!((row[5].as_str(), row[6].as_str()), ("", ""), "the empty validation set");
        for cell in [1, 2, 3, 4, 7, 8] {
            row[cell].parse::<f64>().unwrap_or_else(|e| panic!("cell {cell} of {row:?}: {e}"));
        }
    }
    let loss = |row: &[String]| row[3].parse::<f64>().expect("a loss");
    assert!(loss(&rows[3]) < loss(&rows[0]), "training lowers the loss");
}

#[test]
fn weights_may_be_safetensors() {
    let folder = folder_with_data(60);
    let path = folder.path();
    let train = "train mlp --data data.npz --hidden 9 --epochs";
    assert_success(&run(path, &format!("{train} 2 --save w.npz")));
    assert_success(&run(path, &format!("{train} 0 --init w.npz --save w.safetensors")));
    assert_success(&run(path, &format!("{train} 0 --init w.safetensors --save again.npz")));
    let bytes = |name| fs::read(path.join(name)).expect("the weights");
    assert!(bytes("w.npz") == bytes("again.npz"), "there and back, the weights are others");
    let begin = &bytes("w.safetensors")[8..10];
    assert_eq!(begin, b"{\"", "a header in JSON");
}

#[test]
fn saved_weights_start_the_next_run() {
    let folder = folder_with_data(150);
    let common = "train mlp --data data.npz --lr 1e-3 --momentum 0";
    let path = folder.path();
    assert_success(&run(path, &format!("{common} --hidden 9 --epochs 4 --history all.csv")));
    assert_success(&run(path, &format!("{common} --hidden 9 --epochs 2 --save half.npz")));
    assert_success(&run(path, &format!("{common} --init half.npz --epochs 2 --history rest.csv")));
    // Without momentum two runs of two epochs are one of four, bit for bit.
    let metrics = |name| {
        let rows = rows(&read(&folder, name));
        rows.last().expect("a last row")[3..].to_vec()
    };
    assert_eq!(metrics("all.csv"), metrics("rest.csv"), "the last rows");
    let output = run(path, &format!("{common} --init half.npz --hidden 10"));
    assert_error(&output, &["half.npz", "9 hidden units", "--hidden is 10"]);
}

#[test]
fn saved_weights_start_the_next_run_of_the_cnn() {
    let folder = folder_with_data(90);
    let path = folder.path();
    let common = "train cnn --data data.npz --batch 20 --l2 0.01";
    let line = "--hidden 9 --epochs 2 --save w.npz --history first.csv";
    assert_success(&run(path, &format!("{common} {line}")));
    let line = "--init w.npz --epochs 0 --history second.csv --save again.npz";
    assert_success(&run(path, &format!("{common} {line}")));
    let first = rows(&read(&folder, "first.csv")).pop().expect("a last row");
    let second = &rows(&read(&folder, "second.csv"))[0];
    for cells in [3..9, 11..14] {
        assert_eq!(first[cells.clone()], second[cells], "the weights' figures");
    }
    let bytes = |name| fs::read(path.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(bytes("w.npz") == bytes("again.npz"), "loaded and saved, the weights are others");

    let names = ["w0", "b0", "w1", "b1", "w2", "b2"];
    let arrays = read_float_arrays(&path.join("w.npz"), &names).expect("the weights can be read");
    let shapes: Vec<_> = arrays.iter().map(|array| &array.shape[..]).collect();
    let wanted: [&[usize]; 6] = [&[3, 3, 1, 32], &[32], &[6272, 9], &[9], &[9, 10], &[10]];
    assert_eq!(shapes, wanted, "the shapes");
    let output = run(path, &format!("{common} --init w.npz --hidden 10"));
    assert_error(&output, &["w.npz", "9 hidden units", "--hidden is 10"]);
}

#[test]
fn seeds_and_threads_of_the_cnn() {
    let folder = folder_with_data(150);
    let steps = |options: &str| {
        let line = format!(
            "train cnn --data data.npz --hidden 40 --epochs 2 --steps-history s.csv \
             --history h.csv {options}"
        );
        assert_success(&run(folder.path(), &line));
        let rows = rows(&read(&folder, "h.csv"));
        let history: Vec<_> = rows.into_iter().map(|row| row[3..].join(",")).collect();
        (read(&folder, "s.csv"), history)
    };
    let one = steps("--threads 1 --seed 5 --keep-prob 0.5");
    for threads in [2, 3] {
        let other = steps(&format!("--threads {threads} --seed 5 --keep-prob 0.5"));
        assert_eq!(one, other, "the bits depend on the number of threads");
    }
    assert_ne!(one, steps("--seed 6 --keep-prob 0.5"), "another seed gives the same run");
    assert_ne!(one, steps("--seed 5 --keep-prob 0.5 --no-shuffle"), "the order changes nothing");
    assert_ne!(one, steps("--seed 5"), "dropout makes no difference");
}

#[test]
fn seeds_and_threads() {
    let folder = folder_with_data(3000);
    let history = |options: &str| {
        let line = format!(
            "train mlp --data data.npz --hidden 40 --epochs 3 --lr 1e-4 --history h.csv {options}"
        );
        assert_success(&run(folder.path(), &line));
        let rows = rows(&read(&folder, "h.csv"));
        rows.into_iter().map(|row| row[3..].join(",")).collect::<Vec<_>>()
    };
    let one = history("--threads 1 --seed 5");
    assert_eq!(one, history("--threads 2 --seed 5"), "the bits depend on the number of threads");
    assert_eq!(one, history("--threads 3 --seed 5"), "the bits depend on the number of threads");
    assert_ne!(one, history("--seed 6"), "another seed gives the same run");
    assert_ne!(one, history("--seed 5 --split-seed none"), "the split's seed makes no difference");
}

#[test]
fn patience_keeps_the_best_epoch_s_weights() {
    let folder = folder_with_data(400);
    // A step so large that the validation loss rises again; the CNN fits noise.
    let runs = [
        ("mlp", "--hidden 30 --lr 2e-2 --momentum 0.9 --epochs 300 --patience 7", ""),
        ("cnn", "--hidden 20 --lr 0.3 --batch 16 --keep-prob 0.3 --epochs 200 --patience 3", ""),
        ("mlp", "--hidden 30 --lr 2e-2 --momentum 0.9 --epochs 300 --patience 6", "--eval-every 4"),
    ];
    for (network, options, more) in runs {
        let line = format!(
            "train {network} --data data.npz {options} {more} --history h.csv --summary s.json \
             --save w.npz"
        );
        let output = run(folder.path(), &line);
        assert_success(&output);
        let stdout = text(&output.stdout);
        let summary: serde_json::Value =
            serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
        let patience = summary["settings"]["patience"].as_u64().expect("the patience");
        let history = rows(&read(&folder, "h.csv"));
        let losses = history.iter().map(|row| row[5].parse::<f64>().expect("a loss"));
        let best = losses.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).expect("rows").0;
        let epoch = |row: &Vec<String>| row[0].parse::<u64>().expect("an epoch");
        let (kept, last) = (epoch(&history[best]), epoch(&history[history.len() - 1]));
        assert_eq!(summary["stopped_early"], true, "it did not stop: {line}");
        assert_eq!(summary["kept_epoch"], kept, "the epoch that was kept: {line}");
        assert_eq!(summary["best_valid"]["epoch"], kept, "the best epoch: {line}");
        // The first evaluation that is as late as that.
        let every = if more.is_empty() { 1 } else { 4 };
        assert_eq!(last, (kept + patience).next_multiple_of(every), "the last epoch: {line}");
        assert!(stdout.contains("Stopped early: no lower valid loss in"), "it says\n{stdout}");
        assert!(
            stdout.contains(&format!("Kept the weights of epoch {kept}:")),
            "it says\n{stdout}"
        );

        let again =
            format!("train {network} --data data.npz --init w.npz --epochs 0 --history again.csv");
        assert_success(&run(folder.path(), &again));
        let again = rows(&read(&folder, "again.csv"));
        assert_eq!(again[0][3..9], history[best][3..9], "the weights' figures: {line}");

        // Until it stops, the run is the same as one without patience.
        let line = line.split(" --patience").next().expect("a line").to_owned()
            + &format!(" {more} --history whole.csv");
        let line = line.replace("--epochs 300", "--epochs 8").replace("--epochs 200", "--epochs 8");
        assert_success(&run(folder.path(), &line));
        let whole = rows(&read(&folder, "whole.csv"));
        for (row, other) in whole.iter().zip(&history).take(2) {
            assert_eq!(row[3..9], other[3..9], "an epoch with and without patience: {line}");
        }
    }
}

#[test]
fn patience_that_does_not_run_out_keeps_the_best_weights_too() {
    let folder = folder_with_data(200);
    let line = "train mlp --data data.npz --hidden 10 --lr 2e-2 --epochs 30 --patience 1000 \
                --history h.csv --summary s.json --save w.npz";
    assert_success(&run(folder.path(), line));
    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
    assert_eq!(summary["stopped_early"], false, "it stopped: {summary}");
    assert_eq!(summary["last"]["epoch"], 30, "the last epoch: {summary}");
    assert_eq!(summary["kept_epoch"], summary["best_valid"]["epoch"], "the best: {summary}");
    let without = "train mlp --data data.npz --split 100,0 --patience 3";
    let output = run(folder.path(), without);
    assert_error(&output, &["patience", "validation set"]);
}

#[test]
fn mistakes_in_files_and_settings_are_named() {
    let folder = folder_with_data(60);
    let path = folder.path();
    fs::write(path.join("text.npz"), "not a zip file").expect("text.npz is written");
    let cases: [(&str, &[&str]); 11] = [
        ("--data absent.npz", &["absent.npz"]),
        ("--data text.npz", &["text.npz"]),
        ("--data data.npz --split 50,20", &["50", "20", "60"]),
        ("--data data.npz --split 0,20", &["training set is empty"]),
        ("--data data.npz --init data.npz", &["data.npz", "w_h"]),
        ("--data data.npz --save .", &["is a folder"]),
        ("--data data.npz --out data.npz/x", &["data.npz"]),
        ("--data data.npz --save x/data.npz/w.npz --history x/data.npz", &["x/data.npz"]),
        ("--data data.npz --save ./data.npz", &["data.npz", "overwritten"]),
        ("--data data.npz --save same --history same", &["same", "overwritten"]),
        ("--data data.npz --out o --summary o/../o/history.csv", &["history.csv", "overwritten"]),
    ];
    for (options, parts) in cases {
        let output = run(path, &format!("train mlp --epochs 1 --hidden 3 {options}"));
        assert_error(&output, parts);
    }
    let cases: [(&str, &[&str]); 3] = [
        ("--data data.npz --split 0,20", &["training set is empty"]),
        ("--data data.npz --init data.npz", &["data.npz", "w0"]),
        ("--data data.npz --steps-history same --history same", &["same", "overwritten"]),
    ];
    for (options, parts) in cases {
        let output = run(path, &format!("train cnn --epochs 1 --hidden 3 {options}"));
        assert_error(&output, parts);
    }
    assert!(Path::new(&path.join("data.npz")).is_file(), "the data are still there");
}

#[cfg(target_os = "linux")]
#[test]
fn a_network_that_does_not_fit_into_memory_is_refused() {
    let folder = folder_with_data(60);
    let output = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", "ulimit -v 6000000; exec \"$0\" train cnn --data data.npz --hidden 100000"])
        .arg(env!("CARGO_BIN_EXE_kernelet"))
        .output()
        .expect("sh starts");
    assert_error(&output, &["100000 hidden units", "memory"]);
}

#[test]
fn nothing_is_left_behind_by_a_mistake_in_the_data() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_error(&run(folder.path(), "train mlp --data absent.npz --out out"), &["absent.npz"]);
    assert!(!folder.path().join("out").exists(), "the folder for the results is there");
}

#[test]
fn without_options_for_files_none_is_written() {
    let folder = folder_with_data(60);
    let line = "train mlp --data data.npz --epochs 1 --hidden 3";
    assert_success(&run(folder.path(), line));
    let left = fs::read_dir(folder.path()).expect("the folder can be read").count();
    assert_eq!(left, 1, "files in the folder");
}

#[test]
fn the_study_stands_beside_a_run_of_its_size_and_settings() {
    let folder = folder_with_data(60);
    let shown = |options: &str| {
        let line = format!("train mlp --data data.npz --epochs 1 --threads 1 {options}");
        let output = run(folder.path(), &line);
        assert_success(&output);
        text(&output.stdout)
    };
    let table = shown("");
    for part in ["study", "232.41 s", "0.377778 / 90.35 %", "data.npz", "1 thread"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    assert!(shown("--hidden 100").contains("0.388943 / 89.90 %"), "100 units");
    assert!(!shown("--hidden 99").contains("study"), "the study has no 99 units");
    assert!(!shown("--momentum 0.9").contains("study"), "the study has no momentum of 0.9");
    let widest = table.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "the table has {widest:?} columns");
}

#[test]
fn the_study_stands_beside_a_cnn_of_its_size_and_settings() {
    let folder = folder_with_data(60);
    let shown = |options: &str| {
        let line = format!("train cnn --data data.npz --epochs 0 --threads 1 {options}");
        let output = run(folder.path(), &line);
        assert_success(&output);
        text(&output.stdout)
    };
    let table = shown("--l2 0.01");
    for part in ["Table 4", "study", "0.118 / 100 %", "0.391 / 92.55 %", "data.npz", "1 thread"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    let widest = table.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "the table has {widest:?} columns");
    let table = shown("--keep-prob 0.75");
    for part in ["Table 5", "5.111e-6 / 100 %", "0.668 / 91.18 %"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    for other in ["", "--l2 0.1 --hidden 10", "--l2 0.1 --batch 64", "--l2 0.1 --keep-prob 0.9"] {
        assert!(!shown(other).contains("study"), "the study has no run with {other:?}");
    }
}

#[test]
fn wrong_usage_is_status_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for line in [
        "fly",
        "train",
        "train mlp --hidden 0",
        "train mlp --hidden 1000000000000",
        "train mlp --lr -1",
        "train mlp --lr nan",
        "train mlp --momentum 1",
        "train mlp --reduction median",
        "train mlp --threads 0",
        "train mlp --eval-every 0",
        "train mlp --split 5",
        "train mlp --split-seed soon",
        "train mlp --nonsense",
        "train mlp --batch 32",
        "train cnn --hidden 0",
        "train cnn --lr 0",
        "train cnn --batch 0",
        "train cnn --l2 -0.1",
        "train cnn --l2 inf",
        "train cnn --keep-prob 0",
        "train cnn --keep-prob 1.1",
        "train cnn --keep-prob nan",
        "train cnn --eval-every 0",
        "train cnn --threads 0",
        "train cnn --momentum 0.9",
    ] {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(2), "status of {line:?}");
        assert!(!output.stderr.is_empty(), "{line:?} is refused without a word");
    }
}

#[test]
fn help_names_every_option_of_the_contract() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let common = "--data --hidden --epochs --lr --threads --seed --split --split-seed --init --save \
                  --history --summary --eval-every --out";
    for (network, own) in [
        ("mlp", "--momentum --reduction"),
        ("cnn", "--batch --l2 --keep-prob --no-shuffle --steps-history"),
    ] {
        let help = text(&run(folder.path(), &format!("train {network} --help")).stdout);
        for option in common.split(' ').chain(own.split(' ')) {
            let there = help.split_whitespace().any(|word| word == option);
            assert!(there, "{option} is not in the help of {network}");
        }
    }
}

#[test]
fn shells_and_man_learn_the_command_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let commands =
        ["train", "study", "reproduce", "info", "completions", "man", "hidden-units", "dropout"];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(folder.path(), &format!("completions {shell}"));
        assert_success(&output);
        let script = text(&output.stdout);
        for command in commands {
            assert!(script.contains(command), "{command} is not in the script for {shell}");
        }
        if shell == "bash" {
            fs::write(folder.path().join("script"), &script).expect("the script is written");
            let mut bash = Command::new("bash");
            let check = bash.args(["-n", "script"]).current_dir(folder.path()).status();
            assert!(check.is_ok_and(|status| status.success()), "bash refuses it");
        }
    }
    let page = run(folder.path(), "man");
    assert_success(&page);
    assert!(text(&page.stdout).starts_with(".ie"), "it is no man page: {}", text(&page.stdout));
    let pages = run(folder.path(), "man --out pages");
    assert_success(&pages);
    let page = read(&folder, "pages/kernelet-train-mlp.1");
    for option in ["hidden", "momentum", "patience", "eval\\-every", "split\\-seed", "json"] {
        assert!(page.contains(&format!("\\-\\-{option}")), "--{option} is not in\n{page}");
    }
    for command in ["", "-study", "-study-hidden-units", "-reproduce", "-info"] {
        assert!(text(&pages.stdout).contains(&format!("kernelet{command}.1\n")), "{command}");
    }
}

#[test]
fn json_is_all_that_standard_output_gets() {
    let folder = folder_with_data(60);
    let parse = |line: &str| -> serde_json::Value {
        let output = run(folder.path(), line);
        assert_success(&output);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}"))
    };
    for network in ["mlp", "cnn"] {
        let line =
            format!("train {network} --data data.npz --hidden 4 --epochs 2 --summary s.json");
        let printed = parse(&format!("{line} --json"));
        let summary: serde_json::Value =
            serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
        assert_eq!(printed, summary, "what is printed and what is written");
        assert_eq!(printed["network"], network, "the network");
    }
    let info = parse("info --json --threads 2");
    assert_eq!(info["threads"], 2, "threads in {info}");
    for peak in ["gflops", "memory_gbytes"] {
        for threads in ["one_thread", "all_threads"] {
            assert!(info[peak][threads].as_f64() > Some(0.0), "{peak} {threads} in {info}");
        }
    }
}

#[test]
fn instruction_sets_can_be_forced() {
    let info = |isa: &str| kernelet().env("KERNELET_ISA", isa).arg("info").output();
    let scalar = info("scalar").expect("kernelet starts");
    assert_success(&scalar);
    assert!(text(&scalar.stdout).contains("instruction set   scalar"), "scalar was not chosen");
    assert_error(&info("sse9").expect("kernelet starts"), &["sse9", "avx2"]);
    for isa in ["avx2", "avx512", "amx"] {
        let output = info(isa).expect("kernelet starts");
        let there = kernelet::Isa::available().iter().any(|i| i.to_string() == isa);
        if there {
            assert_success(&output);
        } else {
            assert_error(&output, &["no", isa]);
        }
    }
}

/// Starts `kernelet` in `folder`, sends it a signal at the start and returns its status.
#[cfg(unix)]
fn interrupted(folder: &Path, line: &str, signal: &str) -> Option<i32> {
    use std::io::{BufRead, BufReader, Read};
    let mut child = kernelet()
        .current_dir(folder)
        .args(line.split_whitespace())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("kernelet starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut line = String::new();
    while !line.starts_with("epoch 0/") {
        line.clear();
        let read = stderr.read_line(&mut line).expect("stderr is text");
        assert!(read > 0, "kernelet ended before its first epoch");
    }
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success(), "the signal was not sent");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("stderr is text");
    child.wait().expect("kernelet ends").code()
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_what_there_is_and_exits_130() {
    let folder = folder_with_data(2000);
    let line = "train mlp --data data.npz --hidden 64 --epochs 1000000 --eval-every 1000 --out out";
    assert_eq!(interrupted(folder.path(), line, "-INT"), Some(130), "the status");

    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "out/summary.json")).expect("the summary is JSON");
    assert_eq!(summary["interrupted"], true, "the summary does not say so");
    let history = rows(&read(&folder, "out/history.csv"));
    let last = history.last().expect("a last row");
    assert_eq!(summary["last"]["epoch"].to_string(), last[0], "history and summary");
    // The weights are those of the last row.
    let again = "train mlp --data data.npz --init out/weights.npz --epochs 0 --history again.csv";
    assert_success(&run(folder.path(), again));
    assert_eq!(rows(&read(&folder, "again.csv"))[0][3..], last[3..], "the weights' figures");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_cnn_within_an_epoch() {
    let folder = folder_with_data(3000);
    // Minibatches of one image, so that an epoch takes seconds.
    let line = "train cnn --data data.npz --hidden 300 --batch 1 --split 2900,50 --out out";
    assert_eq!(interrupted(folder.path(), line, "-INT"), Some(130), "the status");

    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "out/summary.json")).expect("the summary is JSON");
    assert_eq!(summary["interrupted"], true, "the summary does not say so");
    let steps = read(&folder, "out/steps.csv").lines().count() - 1;
    assert_eq!(summary["updates"], steps, "summary and steps");
    assert!(steps < 2900, "the epoch was finished first");
    let history = rows(&read(&folder, "out/history.csv"));
    let last = history.last().expect("a last row");
    assert_eq!(summary["last"]["epoch"].to_string(), last[0], "history and summary");
    // The weights are those of the last row.
    let again = "train cnn --data data.npz --init out/weights.npz --epochs 0 --split 2900,50 \
                 --history again.csv";
    assert_success(&run(folder.path(), again));
    assert_eq!(rows(&read(&folder, "again.csv"))[0][3..9], last[3..9], "the weights' figures");
}

#[cfg(unix)]
#[test]
fn the_main_job_trains_on_the_embedded_letters_and_heeds_sigterm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(interrupted(folder.path(), "", "-TERM"), Some(130), "the status");
    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "kernelet-out/summary.json")).expect("it is JSON");
    assert_eq!(summary["data"], "the embedded letters", "data in {summary}");
    assert_eq!(summary["settings"]["hidden"], 1000, "hidden units in {summary}");
    assert_eq!(summary["settings"]["epochs"], 200, "epochs in {summary}");
    let samples = serde_json::json!({ "train": 10000, "valid": 6000, "test": 2724 });
    assert_eq!(summary["samples"], samples, "samples in {summary}");
}

/// The path of a golden file, if it is there.
fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden").join(name);
    if !path.exists() {
        // Past the test harness, which keeps what `eprintln!` says of a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no golden run at {}", path.display());
        return None;
    }
    Some(path)
}

/// A folder with `init.npz`, the weights that a golden run starts from.
fn folder_with_init(golden: &Path, names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let in_golden: Vec<_> = names.iter().map(|name| format!("init_{name}")).collect();
    let in_golden: Vec<_> = in_golden.iter().map(String::as_str).collect();
    let arrays = read_float_arrays(golden, &in_golden).expect("the golden run can be read");
    let weights: Vec<(&str, &[usize], &[f32])> =
        names.iter().zip(&arrays).map(|(name, a)| (*name, &a.shape[..], &a.values[..])).collect();
    write_float_arrays(&folder.path().join("init.npz"), &weights).expect("init.npz is written");
    folder
}

#[test]
fn the_golden_runs_of_the_cnn_are_reproduced() {
    for name in ["cnn.npz", "cnn_l2.npz"] {
        let Some(golden) = golden(name) else { continue };
        let folder = folder_with_init(&golden, &["w0", "b0", "w1", "b1", "w2", "b2"]);
        let integer = |name| integers(&golden, name)[0];
        let float = |name| floats(&golden, name)[0];
        let n = integers_shape(&golden, "labels") as i64;
        let (batch, steps) = (integer("batch"), integer("steps"));
        assert_eq!(n % batch, 0, "the minibatches of {name} cross the end of the data");
        let line = format!(
            "train cnn --data {} --split {n},0 --split-seed none --no-shuffle --init init.npz \
             --hidden {} --batch {batch} --lr {} --l2 {} --epochs {} --history h.csv \
             --steps-history s.csv",
            golden.display(),
            integer("units"),
            float("lr"),
            float("l2"),
            steps / (n / batch),
        );
        assert_success(&run(folder.path(), &line));
        let mut wrong = Vec::new();
        let mut compare = |what: &str, ours: &str, wanted: f64, tolerance: f64| {
            let ours: f64 = ours.parse().expect("a figure");
            if (ours - wanted).abs() > tolerance {
                wrong.push(format!("{name}, {what}: {ours} for {wanted}"));
            }
        };
        let wanted = floats(&golden, "losses");
        let ours = rows(&read(&folder, "s.csv"));
        assert_eq!(ours.len(), wanted.len(), "steps of {name}");
        for (row, wanted) in ours.iter().zip(wanted) {
            compare(&format!("step {}", row[0]), &row[1], wanted, 5e-4 * wanted);
        }
        let last = rows(&read(&folder, "h.csv")).pop().expect("a last row");
        let loss = float("whole_loss");
        compare("the whole set's loss", &last[3], loss, 5e-4 * loss);
        let sample = 100.01 / n as f64;
        compare("the whole set's accuracy", &last[4], float("whole_accuracy"), sample);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn the_golden_run_is_reproduced() {
    let Some(golden) = golden("mlp.npz") else { return };
    let folder = folder_with_init(&golden, &["w_h", "b_h", "w_o", "b_o"]);
    let scalar = |name| integers(&golden, name);
    let split = scalar("split");
    let (lr, momentum) = (floats(&golden, "lr")[0], floats(&golden, "momentum")[0]);
    let line = format!(
        "train mlp --data {} --split {},{} --split-seed none --init init.npz --lr {lr} \
         --momentum {momentum} --epochs {} --history h.csv",
        golden.display(),
        split[0],
        split[1],
        scalar("epochs")[0],
    );
    assert_success(&run(folder.path(), &line));
    let wanted = floats(&golden, "history");
    let ours = rows(&read(&folder, "h.csv"));
    assert_eq!(ours.len() * 6, wanted.len(), "rows of the history");
    let n = integers_shape(&golden, "labels");
    let sizes = [split[0], split[1], n as i64 - split[0] - split[1]];
    let mut wrong = Vec::new();
    for (row, wanted) in ours.iter().zip(wanted.chunks(6)) {
        for set in 0..3 {
            let cell = |i: usize| row[3 + 2 * set + i].parse::<f64>().expect("a figure");
            let (loss, accuracy) = (wanted[2 * set], wanted[2 * set + 1]);
            let loss_error = (cell(0) - loss).abs();
            if loss_error > (2e-4 * loss).max(1e-6) {
                wrong.push(format!("epoch {} set {set}: loss {} for {loss}", row[0], cell(0)));
            }
            if (cell(1) - accuracy).abs() > 100.01 / sizes[set] as f64 {
                wrong.push(format!("epoch {} set {set}: {} % for {accuracy}", row[0], cell(1)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An array of the golden file as npyz reads it.
fn npy(path: &Path, name: &str) -> npyz::NpyFile<std::io::Cursor<Vec<u8>>> {
    let file = fs::File::open(path).expect("the golden run can be opened");
    let mut zip = zip::ZipArchive::new(file).expect("the golden run is a zip file");
    let mut entry = zip.by_name(&format!("{name}.npy")).expect("the array is there");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).expect("the array can be read");
    npyz::NpyFile::new(std::io::Cursor::new(bytes)).expect("the array is an npy file")
}

fn integers(path: &Path, name: &str) -> Vec<i64> {
    npy(path, name).into_vec().expect("64-bit integers")
}

fn floats(path: &Path, name: &str) -> Vec<f64> {
    npy(path, name).into_vec().expect("64-bit floats")
}

fn integers_shape(path: &Path, name: &str) -> u64 {
    npy(path, name).shape()[0]
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = folder_with_data(60);
    for line in ["info", "train mlp --data data.npz --epochs 1 --hidden 3"] {
        assert_closed_pipe_is_fine(folder.path(), line);
    }
}
