//! `kernelet study` and `kernelet reproduce`: what they show, what they write, and that they go on
//! where they were stopped.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{assert_error, assert_success, folder_with_data, kernelet, read, rows, run, text};
use serde_json::Value;

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every figure of every finished run but the times, by the run's name.
fn figures(out: &Path) -> BTreeMap<String, Value> {
    let files = fs::read_dir(out.join("runs")).expect("the finished runs");
    let files = files.map(|file| file.expect("an entry").path());
    let kept = files.filter(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // A profile and the peaks are nothing but times.
        name.ends_with(".json") && !name.starts_with("profile-") && !name.starts_with("peaks-")
    });
    kept.map(|path| {
        let mut result = json(&path)["result"].take();
        if let Some(epochs) = result.pointer_mut("/history/epochs").and_then(Value::as_array_mut) {
            for epoch in epochs {
                epoch["train_seconds"] = Value::Null;
                epoch["eval_seconds"] = Value::Null;
            }
            result["seconds"] = Value::Null;
        }
        (path.file_stem().expect("a name").to_string_lossy().into_owned(), result)
    })
    .collect()
}

#[test]
fn hidden_units_shows_its_table_and_writes_its_files() {
    let folder = folder_with_data(120);
    let line = "study hidden-units --units 4,100,8 --epochs 3 --data data.npz --out out";
    let output = run(folder.path(), line);
    assert_success(&output);
    let stdout = text(&output.stdout);
    for part in ["Table 2", "27.56 s", "90.35 %", "units^"] {
        let shown = stdout.contains(part);
        assert_eq!(shown, part != "90.35 %", "{part:?} in\n{stdout}");
    }
    let widest = stdout.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "the tables have {widest:?} columns");
    let table = read(&folder, "out/tables/table-2.csv");
    let units: Vec<_> = rows(&table).into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(units, ["4", "8", "100"], "the units, in order");
    for name in ["report.html", "report.md", "figures/figure-8.svg", "figures/growth.png"] {
        let path = folder.path().join("out").join(name);
        assert!(fs::metadata(path).is_ok_and(|m| m.len() > 100), "{name} is missing or empty");
    }
    // Each run's history has the columns of `train`.
    let trained = "train mlp --hidden 8 --epochs 3 --data data.npz --history h.csv";
    assert_success(&run(folder.path(), trained));
    let figures = |history: String| -> Vec<_> {
        rows(&history).into_iter().map(|row| row[3..].to_vec()).collect()
    };
    let ours = figures(read(&folder, "out/histories/mlp-8.csv"));
    assert_eq!(ours, figures(read(&folder, "h.csv")), "the study's run and train's");
}

#[test]
fn early_stopping_compares_a_quarter_of_the_way_with_the_end() {
    let folder = folder_with_data(120);
    let line = "study early-stopping --epochs 8 --data data.npz --out out";
    let output = run(folder.path(), line);
    assert_success(&output);
    let table = rows(&read(&folder, "out/tables/table-3.csv"));
    let history = rows(&read(&folder, "out/histories/mlp-1000.csv"));
    let accuracies = |epoch: usize| {
        let number = |column: usize| history[epoch][column].parse::<f64>().expect("a number");
        [4, 6, 8].map(|column| format!("{:.2} %", number(column))).join(", ")
    };
    // The cells have commas of their own: the row is split at them.
    let row = |index: usize| table[index].join(",");
    assert!(row(0).starts_with("2 (study: 50),"), "the first row is {:?}", row(0));
    assert!(row(0).contains(&accuracies(2)), "{} is not in {:?}", accuracies(2), row(0));
    assert!(row(2).starts_with("8 (study: 200),"), "the third row is {:?}", row(2));
    assert!(row(2).contains(&accuracies(8)), "{} is not in {:?}", accuracies(8), row(2));
    assert!(row(1).contains("lowest valid loss"), "the second row is {:?}", row(1));
}

#[test]
fn l2_and_dropout_show_both_train_figures_and_the_loss_without_its_term() {
    let folder = folder_with_data(90);
    let line = "study l2 --l2 0.1,0,0.01 --epochs 1 --data data.npz --out l2";
    let output = run(folder.path(), line);
    assert_success(&output);
    let table = rows(&read(&folder, "l2/tables/table-4.csv"));
    let values: Vec<_> = table.iter().map(|row| row[0].as_str()).collect();
    let expected = [["0"; 4], ["0.01"; 4], ["0.1"; 4]].concat();
    assert_eq!(values, expected, "a block of four rows for every factor");
    let sets: Vec<_> = table[..4].iter().map(|row| row[1].as_str()).collect();
    assert_eq!(sets, ["batch", "train", "valid", "test"], "the sets");
    let number = |row: &[String], column: usize| row[column].parse::<f64>().expect("a number");
    for row in &table {
        let (with, without) = (number(row, 3), number(row, 4));
        assert_eq!(with > without, row[0] != "0", "the term in {row:?}");
    }
    let test = rows(&read(&folder, "l2/histories/cnn-l2-0.1.csv"));
    let exact: f64 = test.last().expect("a last row")[7].parse().expect("a number");
    assert!((number(&table[11], 3) - exact).abs() < 1e-4, "the test loss {exact}, {:?}", table[11]);

    let line = "study dropout --keep-prob 0.5,1,0.9 --epochs 1 --data data.npz --json";
    let output = run(folder.path(), line);
    assert_success(&output);
    let report: Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON");
    let chapters = report["chapters"].as_array().expect("chapters");
    let dropout = chapters.iter().find(|chapter| chapter["name"] == "dropout").expect("dropout");
    let rows = dropout["tables"][0]["rows"].as_array().expect("rows");
    let values: Vec<_> = rows.iter().step_by(4).map(|row| &row["cells"][0]).collect();
    assert_eq!(values, ["1", "0.9", "0.5"], "the probabilities");
    assert!(!folder.path().join("kernelet-out").exists(), "nothing is written without --out");
}

#[test]
fn reproduce_has_every_table_and_figure() {
    let folder = folder_with_data(120);
    let output = run(folder.path(), "reproduce --quick --data data.npz --out out");
    assert_success(&output);
    let stdout = text(&output.stdout);
    let glance = read(&folder, "out/tables/glance.md");
    let html = read(&folder, "out/report.html");
    for (what, count) in [("Table", 5), ("Figure", 15)] {
        for number in 1..=count {
            let item = format!("{what} {number}");
            assert!(glance.contains(&format!("| {item} |")), "{item} is not in\n{glance}");
            assert!(stdout.contains(&item), "{item} is not in\n{stdout}");
            assert!(html.contains(&format!(">{item}</a>")), "{item} is not in the HTML");
        }
    }
    for outside in ["src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside} loads something");
    }
    let report = json(&folder.path().join("out/report.json"));
    assert_eq!(report["facts"]["seed"], "1", "the facts: {}", report["facts"]);

    // Again with the same options: nothing is run, and the report is the same.
    let before = figures(&folder.path().join("out"));
    let again = run(folder.path(), "reproduce --quick --data data.npz --out out");
    assert_success(&again);
    assert_eq!(text(&again.stdout), stdout, "the second run's result");
    let said = text(&again.stderr);
    let (lines, earlier) =
        (said.matches("\n[").count(), said.matches("(finished earlier)").count());
    assert!(lines >= 12 && earlier == lines, "{earlier} of {lines} were finished:\n{said}");
    assert_eq!(json(&folder.path().join("out/report.json")), report, "the second report");
    assert_eq!(figures(&folder.path().join("out")), before, "the second run's figures");

    // Another seed is another study, which leaves the first one's runs alone.
    let other =
        run(folder.path(), "study l2 --l2 0.1 --epochs 2 --data data.npz --out out --seed 2");
    assert_success(&other);
    assert!(!text(&other.stderr).contains("finished earlier"), "another seed finds the first's");
    let all = figures(&folder.path().join("out"));
    assert_eq!(all.len(), before.len() + 2, "two more runs");
    assert!(before.iter().all(|(name, result)| all.get(name) == Some(result)), "the first's runs");
    let seeds: Vec<_> = all.iter().filter(|(name, _)| name.starts_with("cnn-l2-0.1-")).collect();
    assert_eq!(seeds.len(), 2, "a run of either seed");
    assert_ne!(seeds[0].1, seeds[1].1, "the seeds' figures");

    // What has no weights is not taken for a run that has.
    let part = |ending: &str| {
        let files = fs::read_dir(folder.path().join("out/runs")).expect("the finished runs");
        let mut files = files.map(|file| file.expect("an entry").path());
        files
            .find(|path| {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                name.starts_with("mlp-1000-") && name.ends_with(ending)
            })
            .expect("the perceptron's part")
    };
    fs::remove_file(part(".npz")).expect("the weights are removed");
    let again = run(folder.path(), "reproduce --quick --data data.npz --out out");
    assert_success(&again);
    let said = text(&again.stderr);
    assert_eq!(
        said.matches("\n[").count(),
        said.matches("(finished earlier)").count() + 1,
        "{said}"
    );
    assert!(part(".npz").exists(), "the weights are not there again");
    assert_eq!(figures(&folder.path().join("out")), all, "the same figures");
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_reproduce_ends_with_the_same_figures() {
    let folder = folder_with_data(400);
    let reproduce = |out: &str| {
        let mut command = kernelet();
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(["reproduce", "--quick", "--data", "data.npz", "--out", out]);
        command
    };
    assert!(reproduce("whole").status().expect("it runs").success(), "the undisturbed run");
    let whole = figures(&folder.path().join("whole"));
    assert!(whole.len() >= 12, "{} runs", whole.len());

    let (mut kills, mut wait) = (0, Duration::from_millis(60));
    loop {
        let mut child = reproduce("killed").spawn().expect("it starts");
        std::thread::sleep(wait);
        // Some survive, because they have finished.
        if let Some(status) = child.try_wait().expect("its state") {
            assert!(status.success(), "it ended with {status}");
            break;
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
        kills += 1;
        wait = wait * 5 / 4;
    }
    assert!(kills >= 3, "only {kills} runs were killed");
    let killed = figures(&folder.path().join("killed"));
    assert!(killed.keys().eq(whole.keys()), "{:?} instead of {:?}", killed.keys(), whole.keys());
    for (name, result) in &whole {
        assert_eq!(&killed[name], result, "{name} after {kills} kills");
    }
    let losses = |out: &str| {
        let report = json(&folder.path().join(out).join("report.json"));
        ["mlp", "l2", "dropout"].map(|name| {
            let mut chapters = report["chapters"].as_array().expect("chapters").iter();
            let chapter = chapters.find(|chapter| chapter["name"] == name).expect("the chapter");
            let rows = chapter["tables"][0]["rows"].as_array().expect("rows").iter();
            rows.filter(|row| row["cells"][0] != "time taken").cloned().collect::<Vec<_>>()
        })
    };
    assert_eq!(losses("killed"), losses("whole"), "the report's tables");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished() {
    let folder = folder_with_data(2000);
    let mut child = kernelet()
        .current_dir(folder.path())
        .args(["study", "hidden-units", "--units", "4,300", "--epochs", "300"])
        .args(["--data", "data.npz", "--out", "out"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let finished = |name: &str| {
        let runs = fs::read_dir(folder.path().join("out/runs")).into_iter().flatten().flatten();
        runs.map(|file| file.file_name().to_string_lossy().into_owned())
            .any(|file| file.starts_with(name) && file.ends_with(".json"))
    };
    while !finished("mlp-4-") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill").success()
    );
    let mut said = String::new();
    let stderr = child.stderr.take().expect("stderr is piped");
    std::io::Read::read_to_string(&mut { stderr }, &mut said).expect("it is text");
    assert_eq!(child.wait().expect("its end").code(), Some(130), "the status; it said {said}");
    assert!(said.contains("goes on from there"), "it said {said}");
    assert!(!finished("mlp-300-"), "half a run was kept");
    assert!(!folder.path().join("out/report.html").exists(), "there is a report of half a study");
}

#[test]
fn mistakes_are_named_before_anything_is_run() {
    let folder = folder_with_data(60);
    fs::write(folder.path().join("file"), "").expect("a file");
    let refused = |line: &str, parts: &[&str]| {
        let output = run(folder.path(), line);
        assert_error(&output, parts);
    };
    refused("reproduce --quick --data data.npz --out file", &["file"]);
    refused("reproduce --quick --data none.npz --out out", &["none.npz"]);
    refused("study l2 --data data.npz --split 0,10", &["the training set is empty"]);
    for line in [
        "study",
        "study hidden-units --units 0",
        "study hidden-units --units 1,x",
        "study l2 --l2 -1",
        "study dropout --keep-prob 0",
        "reproduce --epochs 3",
    ] {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(2), "status of {line:?}");
    }
}
