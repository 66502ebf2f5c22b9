//! `kernelet profile`: what it says adds up, and its files can be read.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{assert_error, assert_success, folder_with_data, text};
use serde_json::Value;

/// Runs `kernelet` in `folder` with the words of `line`, and expects that it succeeds.
#[track_caller]
fn run(folder: &Path, line: &str) -> Output {
    let output = common::run(folder, line);
    assert_success(&output);
    output
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Asserts that a profile adds up, and returns the names of the kernels of a step.
#[track_caller]
fn check(profile: &Value) -> Vec<String> {
    // JSON knows no infinity, for which serde_json writes null.
    fn numbers(value: &Value) {
        match value {
            Value::Null => panic!("a number is not finite"),
            Value::Array(values) => values.iter().for_each(numbers),
            Value::Object(values) => values.values().for_each(numbers),
            _ => {}
        }
    }
    numbers(profile);
    let figure = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    for phase in ["step", "evaluation"] {
        let part = &profile[phase];
        let kernels = part["kernels"].as_array().expect("kernels");
        let shares = kernels.iter().map(|kernel| figure(&kernel["share"]));
        let whole = shares.sum::<f64>() + figure(&part["outside_share"]);
        assert!((whole - 1.0).abs() < 1e-9, "the shares of the {phase} add up to {whole}");
        assert!(figure(&part["calls"]) > 0.0, "there was no {phase}");
        for kernel in kernels {
            for cell in ["calls", "seconds", "share", "gflops", "gbytes", "intensity", "roofline"] {
                assert!(figure(&kernel[cell]) > 0.0, "{cell} of {kernel}");
            }
        }
    }
    let kernels = profile["step"]["kernels"].as_array().expect("kernels");
    kernels.iter().map(|kernel| kernel["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_profile_of_the_mlp_adds_up_and_writes_its_files() {
    let folder = folder_with_data(300);
    let path = folder.path();
    let line = "profile mlp --data data.npz --hidden 12 --threads 2 --rounds 1 --out new/out \
                --trace t.json";
    let stdout = text(&run(path, line).stdout);
    let names = [
        "profile.csv",
        "profile.json",
        "shares.svg",
        "shares.png",
        "roofline.svg",
        "roofline.png",
        "trace.json",
    ];
    for name in names {
        let file = path.join("new/out").join(name);
        assert!(fs::metadata(file).is_ok_and(|m| m.len() > 100), "{name} is missing or empty");
        assert!(stdout.contains(name), "the result does not name {name}");
    }
    let table = [
        "linear::forward_relu",
        "linear::forward",
        "linear::backward_weights",
        "linear::backward_input_relu",
        "momentum::update",
        "outside kernels",
        "cost of profiling",
    ];
    for part in table {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    let widest = stdout.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "the table has {widest:?} columns");

    let profile = json(&path.join("new/out/profile.json"));
    let kernels = check(&profile);
    assert_eq!(kernels.len(), 6, "the kernels of a step are {kernels:?}");
    assert_eq!(profile["subject"]["network"], "mlp", "the subject");
    assert_eq!((&profile["images"], &profile["threads"]), (&160.into(), &2.into()), "settings");

    let mut csv = csv::Reader::from_path(path.join("new/out/profile.csv")).expect("profile.csv");
    assert_eq!(csv.headers().expect("a header").len(), 11, "columns");
    let mut share = 0.0;
    for row in csv.records() {
        let row = row.expect("a row");
        if &row[2] == "step" {
            share += row[6].parse::<f64>().unwrap_or_else(|e| panic!("{row:?}: {e}"));
        }
    }
    assert!((share - 1.0).abs() < 1e-9, "the shares in profile.csv add up to {share}");

    let trace = json(&path.join("t.json"));
    assert_eq!(trace, json(&path.join("new/out/trace.json")), "the two traces");
    let events = trace.as_array().expect("a list of events");
    let named = |name: &str, ph: &str| {
        events.iter().filter(|e| e["name"] == name && e["ph"] == ph).collect::<Vec<_>>()
    };
    let kernel = named("linear::forward_relu", "B");
    // In two steps, three evaluations of a step's end, and two of its begin.
    assert!(kernel.len() >= 4, "{} calls of the kernel in the trace", kernel.len());
    // 2 n k m of the largest call, 160 images or more.
    let flops = |event: &Value| event["args"]["flops"].as_str().and_then(|f| f.parse::<f64>().ok());
    let largest = kernel.iter().filter_map(|event| flops(event)).fold(0.0, f64::max);
    assert!(largest >= 2.0 * 160.0 * 784.0 * 12.0, "the largest call has {largest} flops");
    for name in ["step", "evaluate"] {
        assert_eq!(named(name, "B").len(), 2, "{name} begins in the trace");
        assert_eq!(named(name, "E").len(), 2, "{name} ends in the trace");
    }
}

#[test]
fn a_profile_of_the_cnn_is_json_if_it_is_asked_for() {
    let folder = folder_with_data(90);
    let line = "profile cnn --data data.npz --hidden 12 --batch 20 --l2 0.01 --keep-prob 0.9 \
                --rounds 1 --json --out out";
    let output = run(folder.path(), line);
    let profile: Value = serde_json::from_slice(&output.stdout).expect("the output is JSON");
    assert_eq!(profile, json(&folder.path().join("out/profile.json")), "the two profiles");
    let subject = serde_json::json!({
        "network": "cnn", "hidden": 12, "batch": 20, "l2": 0.01, "keep_probability": 0.9,
    });
    let close = |name: &str| {
        let value = |from: &Value| from[name].as_f64().expect("a number");
        (value(&profile["subject"]) - value(&subject)).abs() < 1e-6
    };
    assert_eq!(profile["subject"]["network"], "cnn", "the subject");
    for name in ["hidden", "batch", "l2", "keep_probability"] {
        assert!(close(name), "{name} in {}", profile["subject"]);
    }
    let kernels = check(&profile);
    for name in [
        "conv_block::forward",
        "conv_block::backward_weights",
        "dropout::forward_in_place",
        "linear::backward_adam",
        "adam::update",
    ] {
        assert!(kernels.iter().any(|kernel| kernel == name), "{name} is not in {kernels:?}");
    }
    assert!(text(&output.stderr).contains("wrote out/trace.json"), "the files are not named");
    let trace = json(&folder.path().join("out/trace.json"));
    let steps = trace.as_array().expect("a list of events").iter();
    let steps = steps.filter(|event| event["name"] == "step" && event["ph"] == "B").count();
    assert!(steps >= 10, "{steps} steps in the trace");
}

#[test]
fn a_profile_does_not_overwrite_its_data() {
    let folder = folder_with_data(20);
    let line = "profile mlp --data data.npz --trace data.npz";
    assert_error(&common::run(folder.path(), line), &["data.npz", "would be overwritten"]);
}
