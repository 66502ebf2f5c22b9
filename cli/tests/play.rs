//! `kernelet play` and `kernelet predict`: what they show and write, and what they refuse.

mod common;

use std::fs;
use std::path::Path;

use common::{
    assert_closed_pipe_is_fine, assert_error, assert_success, folder_with_data, kernelet, read,
    run, text,
};
use kernelet::data::PIXELS;
use kernelet::data::npz::{read_float_arrays, write_float_arrays};
use npyz::WriterBuilder;
use tempfile::TempDir;

/// The first images train, the last test, in the file's order.
const SPLIT: &str = "--data data.npz --split-seed none --split 100,20";

/// A folder with the data of [`folder_with_data`], `images.npy` with those of the test split, and
/// `w.npz` with the weights of a network that has been trained so; and its accuracy there.
fn folder_with_model(n: usize, network: &str) -> (TempDir, f64) {
    let folder = folder_with_data(n);
    let line = format!("train {network} {SPLIT} --save w.npz --summary s.json");
    assert_success(&run(folder.path(), &line));
    let summary: serde_json::Value =
        serde_json::from_str(&read(&folder, "s.json")).expect("the summary is JSON");
    let images = read_float_arrays(&folder.path().join("data.npz"), &["images"]).expect("images");
    write_npy(&folder, "images.npy", &images[0].values[120 * PIXELS..]);
    (folder, summary["last"]["test"]["accuracy"].as_f64().expect("an accuracy"))
}

/// Learns the data to some 60 %.
const HALF: &str = "mlp --hidden 12 --epochs 7 --lr 1e-3";

/// Learns them by heart.
const WHOLE: &str = "mlp --hidden 30 --epochs 60 --lr 2e-3";

const CNN: &str = "cnn --hidden 9 --epochs 3 --batch 20 --lr 1e-3";

fn write_npy(folder: &TempDir, name: &str, images: &[f32]) {
    let file = fs::File::create(folder.path().join(name)).expect("the file is created");
    let mut npy = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[(images.len() / PIXELS) as u64, 28, 28])
        .writer(std::io::BufWriter::new(file))
        .begin_nd()
        .expect("the header is written");
    npy.extend(images.iter().copied()).expect("the images are written");
    npy.finish().expect("the file is written");
}

/// A letter that was shown: place, truth, guess, whether it is marked.
#[derive(Debug, PartialEq)]
struct Shown {
    index: usize,
    truth: String,
    guess: String,
    marked: bool,
}

fn shown(stdout: &str) -> Vec<Shown> {
    let lines: Vec<_> = stdout.lines().collect();
    let letters = lines.windows(2).filter_map(|pair| {
        let index = pair[0].split_once("test image ")?.1.parse().expect("a number");
        let (truth, rest) = pair[1].split_once("truth ")?.1.split_once(", guess ")?;
        let (guess, mark) = rest.split_at(1);
        let (truth, guess) = (truth.to_owned(), guess.to_owned());
        Some(Shown { index, truth, guess, marked: mark == "  wrong" })
    });
    letters.collect()
}

#[test]
fn letters_are_shown_in_plain_characters_when_piped() {
    let (folder, accuracy) = folder_with_model(200, HALF);
    let output = run(folder.path(), &format!("play {SPLIT} --model w.npz --count 7"));
    assert_success(&output);
    let stdout = text(&output.stdout);
    assert!(stdout.is_ascii() && !stdout.contains('\x1b'), "plain characters: {stdout}");
    assert!(output.stderr.is_empty(), "it said {}", text(&output.stderr));
    let widest = stdout.lines().map(str::len).max();
    assert!(widest <= Some(80), "{widest:?} columns");
    assert!(stdout.contains('@') || stdout.contains('%'), "no bright pixel in {stdout}");

    let letters = shown(&stdout);
    assert_eq!(letters.len(), 7, "letters in {stdout}");
    for letter in &letters {
        // As the data are made.
        let class = (120 + letter.index) * 7 % 10;
        assert_eq!(letter.truth, char::from(b'A' + class as u8).to_string(), "{letter:?}");
        assert_eq!(letter.marked, letter.truth != letter.guess, "{letter:?}");
    }
    let right = letters.iter().filter(|letter| !letter.marked).count();
    assert!((1..7).contains(&right), "some right, some wrong are needed here: {letters:?}");
    let of_all = (accuracy * 80.0 / 100.0).round();
    let last =
        format!("{of_all} of 80 right in the test split ({accuracy:.2} %), {right} of the 7 shown");
    assert_eq!(stdout.lines().last(), Some(&*last), "the last line");
    assert_eq!(stdout.lines().count(), 7 * 15 + 1, "lines of {stdout}");

    // A bar per class; its numbers add up, and the longest is that of the guess.
    for (letter, lines) in letters.iter().zip(stdout.lines().collect::<Vec<_>>().chunks(15)) {
        let bars: Vec<(&str, f64)> = lines[3..13]
            .iter()
            .map(|line| {
                let words: Vec<_> = line[30..].split_whitespace().collect();
                assert_eq!(words[2], "%", "a bar of {line:?}");
                (words[0], words[1].parse().expect("a number"))
            })
            .collect();
        let sum: f64 = bars.iter().map(|bar| bar.1).sum();
        assert!((sum - 100.0).abs() < 0.06, "percents of {bars:?}");
        let most = bars.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("a bar");
        assert_eq!(most.0, letter.guess, "the most probable of {bars:?}");
    }
}

#[test]
fn colours_are_used_where_there_are_some_and_words_with_them() {
    let (folder, _) = folder_with_model(200, HALF);
    let shown = |environment: &[(&str, &str)]| {
        let line = format!("play {SPLIT} --model w.npz --only-wrong --count 2");
        let output = kernelet()
            .current_dir(folder.path())
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .args(line.split(' '))
            .output()
            .expect("kernelet starts");
        assert_success(&output);
        text(&output.stdout)
    };
    for (level, grey) in [("3", "\x1b[38;2;"), ("2", "\x1b[38;5;")] {
        let stdout = shown(&[("FORCE_COLOR", level)]);
        assert!(stdout.starts_with(grey) && stdout.contains('▀'), "level {level}: {stdout}");
        assert_eq!(stdout.matches("\x1b[1;31mwrong\x1b[0m").count(), 2, "marks in {stdout}");
    }
    let stdout = shown(&[("FORCE_COLOR", "1")]);
    assert!(stdout.contains("wrong\x1b[0m") && !stdout.contains('▀'), "no greys: {stdout}");
    // As in a terminal.
    let terminal = [("IGNORE_IS_TERMINAL", "1"), ("TERM", "xterm"), ("COLORTERM", "truecolor")];
    assert!(shown(&terminal).starts_with("\x1b[38;2;"), "no colours in a terminal");
    let refused = shown(&[&terminal[..], &[("NO_COLOR", "1")]].concat());
    assert!(refused.is_ascii() && !refused.contains('\x1b'), "in spite of NO_COLOR: {refused}");
}

#[test]
fn only_wrong_letters_are_shown_when_asked_for() {
    let (folder, accuracy) = folder_with_model(200, HALF);
    let line = format!("play {SPLIT} --model w.npz --only-wrong --count 1000");
    let output = run(folder.path(), &line);
    assert_success(&output);
    let stdout = text(&output.stdout);
    let letters = shown(&stdout);
    let wrong = 80 - (accuracy * 80.0 / 100.0).round() as usize;
    assert!(letters.iter().all(|letter| letter.marked), "{letters:?}");
    assert_eq!(letters.len(), wrong, "letters in {stdout}");
    let end = format!("{wrong} of the {wrong} wrong ones shown\n");
    assert!(stdout.ends_with(&end), "the end of {stdout}");

    let (folder, accuracy) = folder_with_model(200, WHOLE);
    assert_eq!(accuracy, 100.0, "the network does not know its letters by heart");
    let line = format!("play {SPLIT} --model w.npz --only-wrong --png sheet.png");
    let output = run(folder.path(), &line);
    assert_success(&output);
    let wanted = "80 of 80 right in the test split (100.00 %), none is wrong: nothing to show or \
                  to write\n";
    assert_eq!(text(&output.stdout), wanted, "with nothing wrong");
    assert!(!folder.path().join("sheet.png").exists(), "an empty picture");
}

#[test]
fn more_letters_than_there_are_is_all_of_them_once() {
    let (folder, accuracy) = folder_with_model(200, CNN);
    let all = |options: &str| {
        let line = format!("play {SPLIT} --model w.npz --count 1000 {options}");
        let output = run(folder.path(), &line);
        assert_success(&output);
        text(&output.stdout)
    };
    let stdout = all("");
    let mut letters = shown(&stdout);
    let right = letters.iter().filter(|letter| !letter.marked).count();
    assert_eq!(100.0 * right as f64 / 80.0, accuracy, "right ones in {stdout}");
    letters.sort_by_key(|letter| letter.index);
    let indices: Vec<_> = letters.iter().map(|letter| letter.index).collect();
    assert_eq!(indices, (0..80).collect::<Vec<_>>(), "each letter once");

    assert_eq!(stdout, all("--threads 1 --seed 1"), "the threads or the default seed matter");
    let other = shown(&all("--seed 2"));
    assert_ne!(shown(&stdout), other, "another seed shows the same order");
}

#[test]
fn both_networks_are_as_accurate_as_their_training_says() {
    for network in [HALF, CNN] {
        let (folder, accuracy) = folder_with_model(400, network);
        let output = run(folder.path(), &format!("play {SPLIT} --model w.npz --count 1"));
        assert_success(&output);
        let stdout = text(&output.stdout);
        let part = format!(" of 280 right in the test split ({accuracy:.2} %), ");
        assert!(stdout.contains(&part), "{part:?} is not in\n{stdout}");
    }
}

#[test]
fn the_picture_is_as_large_as_its_letters_and_frames_wrong_ones() {
    let (folder, _) = folder_with_model(200, HALF);
    let picture = |count: usize, columns: u32, rows: u32| {
        let line = format!("play {SPLIT} --model w.npz --count {count} --png new/sheet.png");
        let output = run(folder.path(), &line);
        assert_success(&output);
        let stdout = text(&output.stdout);
        assert!(stdout.contains("wrote new/sheet.png"), "the file's name in {stdout}");
        let file = fs::File::open(folder.path().join("new/sheet.png")).expect("the picture");
        let mut reader =
            png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut pixels).expect("its pixels");
        assert_eq!((info.width, info.height), (176 * columns, 192 * rows), "of {count} letters");
        assert_eq!(pixels.len() as u32, 3 * info.width * info.height, "red, green, blue");
        for (index, letter) in shown(&stdout).iter().enumerate() {
            let (column, row) = (index as u32 % columns, index as u32 / columns);
            // On the frame, in the middle of the left side.
            let at = (row * 192 + 88) * info.width + column * 176 + 16;
            let color = &pixels[3 * at as usize..][..3];
            let wanted: &[u8] = if letter.marked { &[204, 0, 0] } else { &[255; 3] };
            assert_eq!(color, wanted, "the frame of letter {index}, {letter:?}");
            // The letter itself is grey, and not all the same.
            let line = (row * 192 + 60) * info.width + column * 176 + 18;
            let line = &pixels[3 * line as usize..][..3 * 140];
            assert!(line.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]), "grey {line:?}");
            assert!(line.iter().any(|&p| p != line[0]), "letter {index} is blank");
        }
    };
    picture(1, 1, 1);
    picture(7, 5, 2);
    picture(1000, 12, 7);
}

/// The rows of a CSV file, without its header.
fn rows(csv: &str) -> Vec<Vec<&str>> {
    csv.lines().skip(1).map(|line| line.split(',').collect()).collect()
}

/// Writes the CNN of `w.npz` back with other running moments.
fn write_cnn(folder: &TempDir, running_moments: &[(&str, &[usize], &[f32])]) {
    let names = ["w0", "b0", "w1", "b1", "w2", "b2"];
    let path = folder.path().join("w.npz");
    let arrays = read_float_arrays(&path, &names).expect("the weights");
    let weights = names.iter().zip(&arrays).map(|(name, a)| (*name, &a.shape[..], &a.values[..]));
    let arrays: Vec<_> = weights.chain(running_moments.iter().copied()).collect();
    write_float_arrays(&path, &arrays).expect("the weights are written");
}

#[test]
fn running_moments_matter_to_predict_and_not_to_play() {
    let (folder, _) = folder_with_model(200, CNN);
    let both = || {
        let lines = [
            format!("play {SPLIT} --model w.npz"),
            "predict --model w.npz --images images.npy".into(),
        ];
        lines.map(|line| {
            let output = run(folder.path(), &line);
            assert_success(&output);
            text(&output.stdout)
        })
    };
    let before = both();
    write_cnn(
        &folder,
        &[("running_mean", &[32], &[0.5; 32]), ("running_variance", &[32], &[9.0; 32])],
    );
    let after = both();
    assert_eq!(before[0], after[0], "play");
    assert_ne!(before[1], after[1], "predict");
}

#[test]
fn predictions_are_as_accurate_as_training_says() {
    for network in [HALF, CNN] {
        let (folder, accuracy) = folder_with_model(200, network);
        if network == CNN {
            // Without the running moments those of the images are taken, as training does.
            write_cnn(&folder, &[]);
        }
        let output = run(folder.path(), "predict --model w.npz --images images.npy");
        assert_success(&output);
        assert!(output.stderr.is_empty(), "it said {}", text(&output.stderr));
        let stdout = text(&output.stdout);
        let header = "index,class,letter,probability,p_A,p_B,p_C,p_D,p_E,p_F,p_G,p_H,p_I,p_J";
        assert_eq!(stdout.lines().next(), Some(header), "the header");
        let rows = rows(&stdout);
        assert_eq!(rows.len(), 80, "rows");
        let mut right = 0;
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(row[0], index.to_string(), "index of {row:?}");
            let class: usize = row[1].parse().expect("a class");
            assert_eq!(row[2], char::from(b'A' + class as u8).to_string(), "letter of {row:?}");
            assert_eq!(row[3], row[4 + class], "probability of {row:?}");
            let each = row[4..].iter().map(|p| p.parse::<f32>().expect("a probability"));
            let each: Vec<f32> = each.collect();
            assert_eq!(each.len(), 10, "probabilities of {row:?}");
            assert!((each.iter().sum::<f32>() - 1.0).abs() < 1e-5, "sum of {row:?}");
            assert!(each.iter().all(|&p| p <= each[class]), "largest of {row:?}");
            right += usize::from(class == (120 + index) * 7 % 10);
        }
        assert_eq!(100.0 * right as f64 / 80.0, accuracy, "accuracy of {network}");

        let line = "predict --model w.npz --images images.npy --out new/p.csv --threads 1";
        let output = run(folder.path(), line);
        assert_success(&output);
        assert!(output.stdout.is_empty(), "something is printed besides --out");
        assert_eq!(read(&folder, "new/p.csv"), stdout, "file and standard output");
    }
}

#[test]
fn running_moments_make_predictions_independent_of_each_other() {
    let (folder, _) = folder_with_model(200, CNN);
    let predict = |images: &str| {
        let output = run(folder.path(), &format!("predict --model w.npz --images {images}"));
        assert_success(&output);
        text(&output.stdout)
    };
    let all = predict("images.npy");
    let images = read_float_arrays(&folder.path().join("data.npz"), &["images"]).expect("images");
    write_npy(&folder, "one.npy", &images[0].values[123 * PIXELS..][..PIXELS]);
    let one = predict("one.npy");
    assert_eq!(rows(&one)[0][1..], rows(&all)[3][1..], "one image alone, and among others");
    write_npy(&folder, "none.npy", &[]);
    assert_eq!(predict("none.npy").lines().count(), 1, "no image: the header only");
}

/// Writes an MLP that has the same weight everywhere.
fn write_mlp(folder: &TempDir, name: &str, [inputs, hidden, classes]: [usize; 3], weight: f32) {
    let of = |n: usize| vec![weight; n];
    let arrays: [(&str, &[usize], &[f32]); 4] = [
        ("w_h", &[inputs, hidden], &of(inputs * hidden)),
        ("b_h", &[hidden], &of(hidden)),
        ("w_o", &[hidden, classes], &of(hidden * classes)),
        ("b_o", &[classes], &of(classes)),
    ];
    write_float_arrays(&folder.path().join(name), &arrays).expect("the weights are written");
}

#[test]
fn any_number_of_classes_has_its_columns() {
    let (folder, _) = folder_with_model(140, HALF);
    let header = |classes: usize| {
        write_mlp(&folder, "other.npz", [784, 3, classes], 0.1);
        let output = run(folder.path(), "predict --model other.npz --images images.npy");
        assert_success(&output);
        text(&output.stdout)
    };
    let csv = header(3);
    assert_eq!(csv.lines().next(), Some("index,class,letter,probability,p_0,p_1,p_2"), "3 classes");
    assert!(csv.lines().nth(1).is_some_and(|row| row.starts_with("0,0,A,0.33333")), "{csv}");
    assert!(header(40).starts_with("index,class,letter,probability,p_0,"), "40 classes");
    assert!(header(40).lines().next().is_some_and(|row| row.ends_with(",p_39")), "40 classes");

    // One-hot labels of the last of 40 classes, which has no letter and no bar of its own.
    let (images, mut labels) = (vec![100.0; 2 * 784], vec![0.0; 80]);
    (labels[39], labels[79]) = (1.0, 1.0);
    let arrays: [(&str, &[usize], &[f32]); 2] =
        [("images", &[2, 784], &images), ("labels", &[2, 40], &labels)];
    write_float_arrays(&folder.path().join("wide.npz"), &arrays).expect("wide.npz is written");
    let line = "play --model other.npz --data wide.npz --split 0,0 --png sheet.png";
    let output = run(folder.path(), line);
    assert_success(&output);
    let stdout = text(&output.stdout);
    assert!(stdout.contains("truth 39, guess A  wrong"), "the names in {stdout}");
    assert!(stdout.contains("39   2.50 %  # truth"), "the truth's bar in {stdout}");
    assert_eq!(stdout.lines().count(), 2 * 15 + 2, "lines of {stdout}");
}

#[test]
fn without_a_model_it_is_the_main_job_s_or_a_small_one() {
    let folder = folder_with_data(200);
    let play = || run(folder.path(), &format!("play {SPLIT} --count 1"));
    let output = play();
    assert_success(&output);
    let stderr = text(&output.stderr);
    let start = "no kernelet-out/weights.npz: training an MLP with 100 hidden units, 60 epochs\n";
    assert!(stderr.starts_with(start), "it said {stderr}");
    let trained = text(&output.stdout);

    let line = format!("train {HALF} {SPLIT} --out kernelet-out");
    assert_success(&run(folder.path(), &line));
    let output = play();
    assert_success(&output);
    assert_eq!(text(&output.stderr), "using kernelet-out/weights.npz\n", "which model it is");
    assert_ne!(text(&output.stdout), trained, "another model says the same");
    let output = run(folder.path(), "play --png kernelet-out/weights.npz --data data.npz");
    assert_error(&output, &["kernelet-out/weights.npz", "overwritten"]);
}

#[test]
fn a_network_that_computes_no_numbers_guesses_nothing() {
    let (folder, _) = folder_with_model(140, HALF);
    write_mlp(&folder, "w.npz", [784, 3, 10], 3e38);
    let output = run(folder.path(), "predict --model w.npz --images images.npy");
    assert_success(&output);
    let first = "0,,,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN";
    assert_eq!(text(&output.stdout).lines().nth(1), Some(first), "the first image");
    let output =
        run(folder.path(), &format!("play {SPLIT} --model w.npz --count 2 --png sheet.png"));
    assert_success(&output);
    let stdout = text(&output.stdout);
    assert!(stdout.contains("no guess: probabilities are no numbers  wrong"), "in {stdout}");
    assert!(stdout.ends_with("(0.00 %), 0 of the 2 shown\n"), "the end of {stdout}");
}

#[test]
fn mistakes_in_models_and_images_are_named() {
    let (folder, _) = folder_with_model(140, HALF);
    let path = folder.path();
    let whole = fs::read(path.join("images.npy")).expect("images.npy");
    let write = |name: &str, bytes: &[u8]| fs::write(path.join(name), bytes).expect("a file");
    write("short.npy", &whole[..whole.len() - 1]);
    write("text.npy", b"not an array");
    write("empty.npy", b"");
    let header = text(&whole[10..128]);
    let with_header = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} is not in {header:?}");
        let header = header.replacen(from, to, 1);
        let mut bytes = whole[..8].to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(&whole[128..]);
        bytes
    };
    write("pickled.npy", &with_header("'<f4'", "'|O'"));
    write("huge.npy", &with_header("(20, 28, 28, )", "(99999999999, 28, 28)"));
    write("shape.npy", &with_header("(20, 28, 28, )", "(20, 392, 2)"));
    let predict: [(&str, &[&str]); 10] = [
        ("--model w.npz --images absent.npy", &["absent.npy"]),
        ("--model w.npz --images .", &["directory"]),
        ("--model w.npz --images short.npy", &["short.npy", "needs 62720 bytes"]),
        ("--model w.npz --images text.npy", &["text.npy", "NumPy's .npy format"]),
        ("--model w.npz --images empty.npy", &["empty.npy", "damaged"]),
        ("--model w.npz --images data.npz", &["data.npz", "NumPy's .npy format"]),
        ("--model w.npz --images pickled.npy", &["pickled.npy", "'|O'"]),
        ("--model w.npz --images huge.npy", &["huge.npy", "99999999999"]),
        ("--model w.npz --images shape.npy", &["shape.npy", "(20, 392, 2)", "(28, 28)"]),
        ("--model w.npz --images images.npy --out images.npy", &["images.npy", "overwritten"]),
    ];
    for (options, parts) in predict {
        assert_error(&run(path, &format!("predict {options}")), parts);
    }
    assert!(fs::read(path.join("images.npy")).is_ok_and(|now| now == whole), "images.npy changed");

    write_mlp(&folder, "small.npz", [100, 3, 10], 0.1);
    write_mlp(&folder, "classes.npz", [784, 3, 4], 0.1);
    write_mlp(&folder, "no_units.npz", [784, 0, 10], 0.1);
    write_mlp(&folder, "no_classes.npz", [784, 3, 0], 0.1);
    let both: [(&str, &[usize], &[f32]); 2] = [("w_h", &[1], &[0.0]), ("w0", &[1], &[0.0])];
    write_float_arrays(&path.join("both.npz"), &both).expect("both.npz is written");
    write_float_arrays(&path.join("w0.npz"), &both[1..]).expect("w0.npz is written");
    write_float_arrays(&path.join("none.npz"), &[]).expect("none.npz is written");
    let colored: [(&str, &[usize], &[f32]); 6] = [
        ("w0", &[3, 3, 2, 1], &[0.0; 18]),
        ("b0", &[1], &[0.0]),
        ("w1", &[196, 1], &[0.0; 196]),
        ("b1", &[1], &[0.0]),
        ("w2", &[1, 10], &[0.0; 10]),
        ("b2", &[10], &[0.0; 10]),
    ];
    write_float_arrays(&path.join("colored.npz"), &colored).expect("colored.npz is written");
    let models: [(&str, &[&str]); 10] = [
        ("absent.npz", &["absent.npz"]),
        ("images.npy", &["images.npy", "not a whole .npz file"]),
        ("data.npz", &["data.npz", "holds \"images\", \"labels\"", "w_h", "w0"]),
        ("both.npz", &["both.npz", "holds \"w_h\", \"w0\""]),
        ("none.npz", &["none.npz", "holds nothing"]),
        ("w0.npz", &["w0.npz", "\"b0\" is missing"]),
        ("small.npz", &["small.npz", "100", "784"]),
        ("colored.npz", &["colored.npz", "1568", "784"]),
        ("no_units.npz", &["no_units.npz", "\"w_h\"", "is empty", "[784, 0]"]),
        ("no_classes.npz", &["no_classes.npz", "\"w_o\"", "is empty", "[3, 0]"]),
    ];
    for (model, parts) in models {
        let line = format!("predict --model {model} --images images.npy");
        assert_error(&run(path, &line), parts);
        assert_error(&run(path, &format!("play {SPLIT} --model {model}")), parts);
    }

    let play: [(&str, &[&str]); 7] = [
        ("--model classes.npz", &["classes.npz", "4 classes", "data.npz has 10"]),
        ("--model w.npz --split 100,40", &["test split is empty", "140", "100", "40"]),
        ("--model w.npz --split 100,41", &["100", "41", "140"]),
        ("--split 0,20", &["training set is empty"]),
        ("--model w.npz --png data.npz", &["data.npz", "overwritten"]),
        ("--model w.npz --png ./w.npz", &["w.npz", "overwritten"]),
        ("--model w.npz --png .", &["is a folder"]),
    ];
    for (options, parts) in play {
        assert_error(&run(path, &format!("play --data data.npz {options}")), parts);
    }
    for line in [
        "play --count 0",
        "play --seed -1",
        "play --seed 4294967296",
        "play --split 5",
        "predict --model w.npz",
        "predict --images images.npy",
        "predict --model w.npz --images images.npy --threads 0",
    ] {
        let output = run(path, line);
        assert_eq!(output.status.code(), Some(2), "status of {line:?}");
    }
    assert!(!Path::new(&path.join("kernelet-out")).exists(), "a folder nobody asked for");
}

#[test]
fn a_picture_of_too_many_letters_is_refused() {
    let (folder, _) = folder_with_model(3121, "mlp --hidden 3 --epochs 0");
    let line = format!("play {SPLIT} --model w.npz --count 3001 --png sheet.png");
    let output = run(folder.path(), &line);
    assert_error(&output, &["3001 letters", "3000"]);
    assert!(output.stdout.is_empty(), "letters are shown before the error");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let (folder, _) = folder_with_model(1500, HALF);
    for line in ["predict --model w.npz --images images.npy", "play --model w.npz --data data.npz"]
    {
        assert_closed_pipe_is_fine(folder.path(), line);
    }
}
