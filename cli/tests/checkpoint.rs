//! Runs that are killed and resumed, as a user does it.
//!
//! The thorough version, 200 kills, with its figures:
//!
//! ```text
//! cargo test --workspace --test checkpoint -- --ignored --nocapture
//! ```

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{assert_error, assert_success, folder_with_data, kernelet, read, rows, run, text};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A run of either loop with all that a checkpoint has to keep.
const RUNS: [&str; 2] = [
    "train mlp --data data.npz --hidden 30 --lr 1e-3 --epochs 40 --patience 30 --eval-every 3",
    "train cnn --data data.npz --hidden 30 --lr 1e-3 --epochs 12 --patience 9 --eval-every 2 \
     --batch 20 --keep-prob 0.8 --l2 0.001",
];

fn start(folder: &Path, line: &str) -> Child {
    kernelet()
        .current_dir(folder)
        .args(line.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kernelet starts")
}

/// Kills runs of `line` with SIGKILL at random moments until that has happened `wanted` times,
/// resumes each on another number of threads, and compares every one that reaches its end with one
/// that was never stopped. Returns a line about it.
fn kill_and_resume(line: &str, wanted: usize, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = folder_with_data(200);
    let path = |name: &str| folder.path().join(name);
    let begin = Instant::now();
    let plain = format!("{line} --save whole.npz --history whole.csv");
    assert_success(&run(folder.path(), &plain));
    let whole = fs::read(path("whole.npz")).expect("whole.npz");
    // Long enough for a run to get somewhere, and short enough for it not to end every time.
    let longest = 2 * begin.elapsed();

    let history = |name: &str| -> Vec<Vec<String>> {
        let without_seconds = |row: Vec<String>| [&row[..1], &row[3..]].concat();
        rows(&read(&folder, name)).into_iter().map(without_seconds).collect()
    };
    let (mut kills, mut in_writing, mut resumes, mut ends) = (0, 0, 0, 0);
    while kills < wanted || ends == 0 {
        let resume = path("run.npz").exists();
        let kind = &line[..line.find(" --").expect("an option")];
        let begin = if resume { format!("{kind} --resume run.npz") } else { line.to_owned() };
        let threads = random.random_range(1..=3);
        let mut child = start(
            folder.path(),
            &format!(
                "{begin} --threads {threads} --checkpoint run.npz --save end.npz --history end.csv"
            ),
        );
        resumes += usize::from(resume);
        let time = longest.mul_f64(random.random());
        if kills < wanted {
            sleep(time);
            // To a process that has ended already this does nothing.
            child.kill().expect("the signal is sent");
        }
        let status = child.wait().expect("kernelet ends");
        if status.code().is_none() {
            kills += 1;
            in_writing += usize::from(path("run.npz.partial").exists());
            continue;
        }
        assert!(status.success(), "a run that was resumed ended with {status}");
        ends += 1;
        assert!(fs::read(path("end.npz")).expect("end.npz") == whole, "the weights differ");
        assert_eq!(history("end.csv"), history("whole.csv"), "the histories");
        for name in ["run.npz", "run.npz.previous", "end.npz", "end.csv"] {
            let _ = fs::remove_file(path(name));
        }
    }
    let kind = &line[..9];
    format!(
        "{kind}: {kills} kills ({in_writing} while a checkpoint was written), {resumes} resumes, \
         {ends} runs to the end, each with the bits of the one that was never stopped"
    )
}

#[test]
fn a_killed_run_is_resumed_to_the_same_bits() {
    for line in RUNS {
        println!("{}", kill_and_resume(line, 5, 1));
    }
}

#[test]
#[ignore = "half a minute: the thorough version of the test above"]
fn two_hundred_kills() {
    for line in RUNS {
        println!("{}", kill_and_resume(line, 100, 2));
    }
}

#[test]
fn an_interrupted_run_is_resumed_where_it_stopped_and_may_be_longer() {
    for line in RUNS {
        let folder = folder_with_data(200);
        let longer = format!("{line} --epochs 60").replacen("--epochs 40 ", "", 1);
        let longer = longer.replacen("--epochs 12 ", "", 1);
        assert_success(&run(folder.path(), &format!("{longer} --save whole.npz")));

        let line = format!("{longer} --checkpoint run.npz --checkpoint-every 1000");
        let mut child = start(folder.path(), &line);
        let begin = Instant::now();
        while !folder.path().join("run.npz").exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "there is no first checkpoint");
            sleep(Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status();
        assert!(kill.is_ok_and(|status| status.success()), "the signal is sent");
        let code = child.wait().expect("kernelet ends").code();
        assert!(code == Some(130) || code == Some(0), "it ended with {code:?}");

        let kind = &line[..9];
        let resume = format!("{kind} --resume run.npz --save end.npz --summary s.json");
        assert_success(&run(folder.path(), &resume));
        let file = |name: &str| fs::read(folder.path().join(name)).expect("a weight file");
        assert!(file("end.npz") == file("whole.npz"), "{kind}: the weights differ");
        let summary: serde_json::Value =
            serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
        assert_eq!(summary["settings"]["epochs"], 60, "epochs in {summary}");
        assert!(summary["settings"]["patience"].is_u64(), "patience in {summary}");
        assert_eq!(summary["samples"]["train"], 106, "the data of the checkpoint in {summary}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_refused_by_name() {
    let folder = folder_with_data(100);
    let line = "train mlp --data data.npz --hidden 5 --epochs 3 --checkpoint run.npz";
    assert_success(&run(folder.path(), line));
    let path = |name: &str| folder.path().join(name);
    let whole = fs::read(path("run.npz")).expect("run.npz");

    let refused = |line: &str, parts: &[&str]| assert_error(&run(folder.path(), line), parts);
    refused("train cnn --resume run.npz", &["run.npz", "is a checkpoint of an MLP, not of a CNN"]);
    refused("train mlp --resume data.npz", &["data.npz", "does not end with a checksum"]);
    refused("train mlp --resume none.npz", &["none.npz", "No such file"]);
    refused("train mlp --resume .", &[".", "is no regular file"]);
    refused("train mlp --resume run.npz --epochs 2", &["3 epochs have been made already"]);
    refused("train mlp --resume run.npz --save run.npz", &["run.npz", "would be overwritten"]);
    refused(&line.replace("run.npz", "."), &[".", "is a folder"]);

    fs::copy(folder_with_data(120).path().join("data.npz"), path("other.npz")).expect("a copy");
    let parts = ["run.npz", "is of a run on other data than", "other.npz"];
    refused("train mlp --resume run.npz --data other.npz", &parts);

    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for (bytes, why) in [(&changed[..], "is damaged"), (&whole[..whole.len() / 2], "not a whole")] {
        fs::write(path("run.npz"), bytes).expect("run.npz");
        refused("train mlp --resume run.npz", &["run.npz: ", why, "whole: run.npz.previous"]);
    }
    assert_success(&run(folder.path(), "train mlp --resume run.npz.previous"));

    for option in ["--lr 1", "--hidden 5", "--init w.npz", "--seed 2", "--split 5,5"] {
        let output = run(folder.path(), &format!("train mlp --resume run.npz {option}"));
        assert_eq!(output.status.code(), Some(2), "{option} beside --resume");
    }
    let output = run(folder.path(), "train mlp --checkpoint-every 3");
    assert_eq!(output.status.code(), Some(2), "--checkpoint-every without --checkpoint");
}

#[test]
fn a_run_that_diverges_keeps_the_last_finite_weights_and_fails() {
    let folder = folder_with_data(100);
    for (kind, rate) in [("mlp", "1e12"), ("cnn", "1e25")] {
        let line = format!(
            "train {kind} --data data.npz --hidden 5 --epochs 20 --lr {rate} --save w.npz \
             --history h.csv"
        );
        let output = run(folder.path(), &line);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{kind}: status; it said {stderr}");
        let error = stderr.lines().last().expect("a line");
        let parts = ["error: training has diverged: ", " is NaN at step ", "after epoch "];
        for part in parts {
            assert!(error.contains(part), "{kind}: {part:?} is not in {error:?}");
        }
        // Weights are read only if they are finite.
        let line =
            format!("train {kind} --data data.npz --init w.npz --epochs 0 --history again.csv");
        assert_success(&run(folder.path(), &line));
        let loss = rows(&read(&folder, "again.csv"))[0][3].clone();
        assert!(loss.parse::<f64>().is_ok_and(f64::is_finite), "{kind}: the loss is {loss}");
        assert!(rows(&read(&folder, "h.csv")).iter().any(|row| row[3] == loss), "{kind}: {loss}");
    }
}

/// On a file system of its own of a megabyte, in a mount namespace, which the system may forbid.
#[test]
fn a_full_disk_ends_the_run_and_leaves_the_last_checkpoint() {
    let folder = folder_with_data(100);
    let script = format!(
        "set -e; mkdir small; mount -t tmpfs -o size=1m tmpfs small || exit 77
         {kernelet} train mlp --data data.npz --hidden 25 --epochs 3 --checkpoint small/run.npz
         before=$(sha256sum < small/run.npz)
         head -c 2m /dev/zero > small/filler || true
         code=0
         {kernelet} train mlp --resume small/run.npz --epochs 9 --checkpoint small/run.npz || code=$?
         after=$(sha256sum < small/run.npz)
         [ \"$before\" = \"$after\" ] || {{ echo 'the checkpoint has changed' >&2; exit 3; }}
         ls -A small >&2
         {kernelet} train mlp --resume small/run.npz >/dev/null
         exit $code",
        kernelet = env!("CARGO_BIN_EXE_kernelet")
    );
    let output = Command::new("unshare")
        .current_dir(folder.path())
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .output();
    let Ok(output) = output else {
        println!("SKIPPED: there is no unshare(1) to mount a small file system with");
        return;
    };
    let stderr = text(&output.stderr);
    if output.status.code() == Some(77) || stderr.contains("unshare") {
        println!("SKIPPED: no small file system may be mounted here: {stderr}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "status on a full disk: {stderr}");
    let error = "error: small/run.npz: No space left on device";
    assert!(stderr.contains(error), "{error:?} is not in {stderr}");
    assert!(!stderr.contains("partial"), "a partial file is left: {stderr}");
}
