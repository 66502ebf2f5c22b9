//! Checkpoints: runs that are resumed anywhere end with the same bits as one that was not stopped,
//! and a file that is not as it was written is refused. Also runs that diverge.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use common::Random;
use kernelet::data::npz::{Input, Limit};
use kernelet::data::{Samples, Split};
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::train::checkpoint::{self, About, fingerprint, previous};
use kernelet::train::cnn::Event;
use kernelet::train::{Epoch, History, cnn, mlp};
use kernelet::{Cpu, Error};

/// Samples whose label can be told from their brightest band.
fn samples(random: &mut Random, n: usize) -> Samples {
    let labels: Vec<u32> = (0..n as u32).map(|i| i * 7 % 10).collect();
    let mut images = random.uniform(n * 784, 1.0);
    for (image, label) in images.chunks_exact_mut(784).zip(&labels) {
        for pixel in &mut image[*label as usize * 78..][..78] {
            *pixel += 1.0;
        }
    }
    Samples { images, labels }
}

fn split() -> Split {
    let mut random = Random::new(3);
    let [train, valid, test] = [50, 20, 10].map(|n| samples(&mut random, n));
    Split { train, valid, test, classes: 10 }
}

fn about(split: &Split) -> About {
    About { data: fingerprint(split), note: "a note \u{e9}".into() }
}

/// A history without its seconds.
fn timeless(mut history: History) -> History {
    for row in &mut history.epochs {
        (row.train_seconds, row.eval_seconds) = (0.0, 0.0);
    }
    history
}

fn first_mlp() -> Mlp {
    Mlp::xavier(MlpShape { inputs: 784, hidden: 5, classes: 10 }, 1)
}

fn first_cnn() -> Cnn {
    Cnn::xavier(CnnShape { filters: 2, ..CnnShape::study(6, 10) }, 1)
}

fn go_on(_: &Epoch) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn step_on(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// All of a state that can be seen, without seconds.
fn seen(state: cnn::State) -> impl PartialEq + std::fmt::Debug {
    let cnn::State { epoch, adam, running_moments, history, step_losses, .. } = state;
    (epoch, adam, running_moments, timeless(history), step_losses)
}

#[test]
fn an_mlp_resumed_from_any_checkpoint_ends_with_the_same_bits() {
    let (cpu, split) = (Cpu::detect().expect("a processor"), split());
    let folder = tempfile::tempdir().expect("a folder");
    for patience in [None, Some(2)] {
        let settings = mlp::Settings {
            epochs: 7,
            learning_rate: 2e-3,
            eval_every: 2,
            patience,
            ..Default::default()
        };
        let file = |epoch: usize| folder.path().join(format!("{epoch}.npz"));
        let (mut whole, mut state) = (first_mlp(), mlp::State::new(first_mlp().shape));
        let keep = &mut |mlp: &Mlp, state: &mlp::State| {
            checkpoint::save_mlp(&file(state.epoch), &about(&split), &settings, mlp, state)
        };
        mlp::resume(&cpu, &settings, &split, &mut whole, &mut state, &mut go_on, keep)
            .expect("valid settings");
        let history = timeless(state.history);
        for epoch in 0..=state.epoch {
            let (read, settings_read, mut resumed, mut state) =
                checkpoint::load_mlp(&file(epoch)).expect("a whole checkpoint");
            assert_eq!(read, about(&split), "what the checkpoint of epoch {epoch} tells");
            assert_eq!(settings_read, settings, "settings of epoch {epoch}");
            assert_eq!(state.epoch, epoch, "updates made");
            let keep = &mut |_: &_, _: &_| Ok(());
            mlp::resume(&cpu, &settings, &split, &mut resumed, &mut state, &mut go_on, keep)
                .expect("valid settings");
            assert!(resumed == whole, "weights of a run resumed at epoch {epoch}");
            assert_eq!(timeless(state.history), history, "history resumed at epoch {epoch}");
        }
    }
}

/// The CNN's settings with everything random switched on.
fn cnn_settings(epochs: usize, eval_every: usize, patience: Option<usize>) -> cnn::Settings {
    cnn::Settings {
        epochs,
        learning_rate: 1e-2,
        batch: 16, // four steps an epoch, the last one of two images
        l2: 1e-3,
        keep_probability: 0.8,
        eval_every,
        patience,
        ..Default::default()
    }
}

#[test]
fn a_cnn_resumed_from_any_checkpoint_ends_with_the_same_bits() {
    let (cpu, split) = (Cpu::detect().expect("a processor"), split());
    let folder = tempfile::tempdir().expect("a folder");
    let file = &folder.path().join("run.npz");
    for (eval_every, patience) in [(1, None), (2, None), (1, Some(1))] {
        let settings = cnn_settings(3, eval_every, patience);
        let (mut whole, mut state) = (first_cnn(), cnn::State::new(first_cnn().shape));
        let keep = &mut |_: &_, _: &_| Ok(());
        cnn::resume(&cpu, &settings, &split, &mut whole, &mut state, &mut step_on, keep)
            .expect("valid settings");
        let expected = seen(state);
        // Interrupted after every step, and after every epoch's figures.
        for stop in 1..=12 + 3 {
            let (mut events, mut cnn) = (0, first_cnn());
            let mut state = cnn::State::new(cnn.shape);
            let observe = &mut |event: Event| {
                let start = matches!(event, Event::Epoch(&Epoch { epoch: 0, .. }));
                events += usize::from(!start);
                if events == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let keep = &mut |cnn: &Cnn, state: &cnn::State| {
                checkpoint::save_cnn(file, &about(&split), &settings, cnn, state)
            };
            cnn::resume(&cpu, &settings, &split, &mut cnn, &mut state, observe, keep)
                .expect("valid settings");
            let (read, settings_read, mut resumed, mut state) =
                checkpoint::load_cnn(file).expect("a whole checkpoint");
            assert_eq!(read, about(&split), "what the checkpoint tells");
            assert_eq!(settings_read, settings, "settings");
            let keep = &mut |_: &_, _: &_| Ok(());
            cnn::resume(&cpu, &settings, &split, &mut resumed, &mut state, &mut step_on, keep)
                .expect("valid settings");
            let case = format!("eval_every {eval_every}, {patience:?}, stopped at event {stop}");
            assert!(resumed == whole, "weights: {case}");
            assert!(seen(state) == expected, "state: {case}");
        }
    }
}

#[test]
fn a_finished_run_goes_on_as_a_longer_one() {
    let (cpu, split) = (Cpu::detect().expect("a processor"), split());
    let folder = tempfile::tempdir().expect("a folder");
    let file = &folder.path().join("run.npz");
    let run = |settings: &cnn::Settings, cnn: &mut Cnn, state: &mut cnn::State| {
        let keep = &mut |cnn: &Cnn, state: &cnn::State| {
            checkpoint::save_cnn(file, &about(&split), settings, cnn, state)
        };
        cnn::resume(&cpu, settings, &split, cnn, state, &mut step_on, keep)
            .expect("valid settings");
    };
    let longer = cnn_settings(5, 3, None);
    let (mut whole, mut state) = (first_cnn(), cnn::State::new(first_cnn().shape));
    run(&longer, &mut whole, &mut state);
    let history = timeless(state.history);

    let (mut cnn, mut state) = (first_cnn(), cnn::State::new(first_cnn().shape));
    run(&cnn_settings(2, 3, None), &mut cnn, &mut state);
    let (_, settings, mut cnn, mut state) = checkpoint::load_cnn(file).expect("a checkpoint");
    run(&cnn::Settings { epochs: 5, ..settings }, &mut cnn, &mut state);
    assert!(cnn == whole, "the weights");
    assert_eq!(timeless(state.history.clone()), history, "the history");

    let shorter = cnn_settings(4, 3, None);
    let keep = &mut |_: &_, _: &_| Ok(());
    let error = cnn::resume(&cpu, &shorter, &split, &mut cnn, &mut state, &mut step_on, keep);
    let message = error.expect_err("fewer epochs than there are").to_string();
    assert_eq!(message, "5 epochs have been made already, but epochs is 4", "the message");
}

/// Writes two checkpoints, one after the other, to `path`.
fn save_twice(path: &Path) {
    let (cpu, split) = (Cpu::detect().expect("a processor"), split());
    let settings = mlp::Settings { epochs: 1, ..Default::default() };
    let (mut mlp, mut state) = (first_mlp(), mlp::State::new(first_mlp().shape));
    let keep = &mut |mlp: &Mlp, state: &mlp::State| {
        checkpoint::save_mlp(path, &about(&split), &settings, mlp, state)
    };
    mlp::resume(&cpu, &settings, &split, &mut mlp, &mut state, &mut go_on, keep).expect("settings");
}

#[test]
fn any_change_of_a_checkpoint_is_found_and_the_previous_one_offered() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.npz");
    save_twice(&path);
    let names: Vec<_> = fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(names.len(), 2, "the checkpoint and the previous one: {names:?}");
    let (.., state) = checkpoint::load_mlp(&previous(&path)).expect("the previous one is whole");
    assert_eq!(state.epoch, 0, "the epoch of the previous one");
    let (.., state) = checkpoint::load_mlp(&path).expect("the newest one is whole");
    assert_eq!(state.epoch, 1, "the epoch of the newest one");

    let whole = fs::read(&path).expect("the checkpoint");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).expect("the checkpoint is changed");
        let error = checkpoint::load_mlp(&path).expect_err(what);
        assert!(matches!(error, Error::Checkpoint { .. }), "{what}: {error:?}");
        let message = error.to_string();
        for part in ["run.npz: ", "before it is whole", "run.npz.previous"] {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    };
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        refused(&changed, &format!("bit {} of byte {at}", at % 8));
        refused(&whole[..at], &format!("cut to {at} bytes"));
    }
    refused(&[&whole[..], b"0"].concat(), "a byte more");
    fs::remove_file(&path).expect("the checkpoint is removed");
    let message = checkpoint::load_mlp(&path).expect_err("no file").to_string();
    assert!(message.contains("run.npz.previous"), "a missing one: {message}");

    fs::write(&path, &whole).expect("the checkpoint is back");
    let file = Input { path: &path, limit: Limit::Bytes(16) };
    let error = checkpoint::load_mlp(file).expect_err("weights of more than 16 bytes");
    assert!(matches!(error, Error::TooLarge { .. }), "no other checkpoint helps: {error}");
    let message = checkpoint::load_cnn(&path).expect_err("another network").to_string();
    assert!(message.contains("is a checkpoint of an MLP, not of a CNN"), "{message}");
    checkpoint::load_mlp(&path).expect("it is whole again");
}

#[test]
fn what_is_left_of_a_write_that_was_killed_is_no_obstacle() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.npz");
    // Killed while it wrote; and between the two names for the old checkpoint.
    save_twice(&path);
    fs::write(folder.path().join("run.npz.partial"), "half a file").expect("a partial file");
    fs::remove_file(previous(&path)).expect("the previous one");
    fs::hard_link(&path, previous(&path)).expect("a link");
    fs::hard_link(&path, folder.path().join("run.npz.link")).expect("a link");
    save_twice(&path);
    let (.., state) = checkpoint::load_mlp(&path).expect("a whole checkpoint");
    assert_eq!(state.epoch, 1, "the epoch of the newest one");
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["run.npz", "run.npz.previous"], "what is left");
}

#[test]
fn a_checkpoint_is_a_weight_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.npz");
    save_twice(&path);
    let (_, _, mlp, _) = checkpoint::load_mlp(&path).expect("a whole checkpoint");
    let weights = kernelet::train::weights::load_mlp(&path).expect("its weights");
    assert!(weights == mlp, "the weights");

    let (about, settings, mlp, state) = checkpoint::load_mlp(&path).expect("a whole checkpoint");
    let path = folder.path().join("run.safetensors");
    let error = checkpoint::save_mlp(&path, &about, &settings, &mlp, &state);
    let message = error.expect_err("another format's name").to_string();
    assert!(message.ends_with("which would not be read under this name"), "{message}");
}

#[test]
fn other_data_have_another_fingerprint() {
    let first = fingerprint(&split());
    assert_eq!(first, fingerprint(&split()), "the same data");
    let changed = |change: fn(&mut Split)| {
        let mut split = split();
        change(&mut split);
        fingerprint(&split)
    };
    let others = [
        changed(|split| split.train.images[784] = 0.25),
        changed(|split| split.test.labels[9] = 9),
        changed(|split| split.classes = 11),
        changed(|split| std::mem::swap(&mut split.valid, &mut split.test)),
    ];
    assert!(!others.contains(&first), "changed data");
}

#[test]
fn a_run_that_diverges_says_where_and_leaves_the_last_finite_weights() {
    let (cpu, split) = (Cpu::detect().expect("a processor"), split());

    let settings = mlp::Settings { learning_rate: 1e10, ..Default::default() };
    let (mut mlp, mut rows) = (first_mlp(), Vec::new());
    let observe = &mut |row: &Epoch| {
        rows.push(*row);
        ControlFlow::Continue(())
    };
    let error = mlp::train(&cpu, &settings, &split, &mut mlp, observe).expect_err("diverged");
    let Error::Diverged { value, step, kept, .. } = error else { panic!("{error}") };
    assert!(!value.is_finite(), "the loss is {value}");
    assert_eq!(step as usize, rows.len() + 1, "every epoch before had a finite loss");
    assert_eq!(kept, Some(rows.len() - 1), "the epoch that is kept");
    let shorter = mlp::Settings { epochs: rows.len() - 1, ..settings };
    let mut expected = first_mlp();
    mlp::train(&cpu, &shorter, &split, &mut expected, &mut go_on).expect("finite so far");
    assert!(mlp == expected, "the MLP's weights");

    // A step of Adam's is as long as its rate, so it takes a large one.
    let settings = cnn::Settings { learning_rate: 1e25, batch: 50, ..cnn_settings(9, 1, None) };
    let mut cnn = first_cnn();
    let error = cnn::train(&cpu, &settings, &split, &mut cnn, &mut step_on).expect_err("diverged");
    let Error::Diverged { value, kept, .. } = error else { panic!("{error}") };
    assert!(!value.is_finite(), "the loss is {value}");
    assert_eq!(kept, Some(0), "the epoch that is kept");
    assert!(cnn == first_cnn(), "the CNN's weights");

    let mut broken = first_mlp();
    broken.b_o[3] = f32::NAN;
    let error = mlp::train(&cpu, &shorter, &split, &mut broken, &mut go_on).expect_err("diverged");
    assert_eq!(
        error.to_string(),
        "training has diverged: the training loss is NaN at step 1; the weights are left as the \
         run began with them",
        "weights that are no good from the start"
    );
}
