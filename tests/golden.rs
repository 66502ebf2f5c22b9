//! The kernels and the training loop against files that NumPy, PyTorch and TensorFlow have made
//! (`../shared/golden/make_golden.py`), on every instruction set that the machine has.
//!
//! The files are not part of the repository: where they are absent a line says `SKIPPED`.
//! `KERNELET_GOLDEN=DIR` names another folder with files of the same make (another seed makes
//! other sizes); then they have to be there.

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;

use common::{Checker, Expected, TINY, U, abs, cases::softmax_relative, for_each_cpu};
use common::{narrow, say, widen};
use kernelet::data::Dataset;
use kernelet::kernels::gemm::{GemmShape, Write};
use kernelet::kernels::{cross_entropy, linear, relu, softmax, softmax_cross_entropy};
use kernelet::nn::{Mlp, MlpShape};
use kernelet::reference;
use kernelet::shape::{LinearShape, MatrixShape};
use kernelet::train::Metrics;
use kernelet::train::mlp::{Reduction, Settings, train};
use npyz::NpyFile;

/// Where golden file `name` is; `None`, after saying so, if it is absent.
fn golden(name: &str) -> Option<PathBuf> {
    let (folder, demanded) = match std::env::var_os("KERNELET_GOLDEN") {
        Some(folder) => (PathBuf::from(folder), true),
        None => (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"), false),
    };
    let path = folder.join(name);
    assert!(path.is_file() || !demanded, "KERNELET_GOLDEN: there is no {}", path.display());
    if !path.is_file() {
        say(&format!("SKIPPED: golden file {name} is not on this machine"));
        return None;
    }
    Some(path)
}

/// An array of an `.npz` file, whatever its type.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Array {
    /// As the kernels get it.
    fn narrow(&self) -> Vec<f32> {
        narrow(&self.values)
    }

    fn integers(&self) -> Vec<u32> {
        self.values.iter().map(|&value| value as u32).collect()
    }
}

/// All arrays of an `.npz` file but the images, which have a reader of their own.
struct Npz(BTreeMap<String, Array>);

impl Npz {
    fn open(path: &PathBuf) -> Self {
        let file = std::fs::File::open(path).expect("the golden file can be opened");
        let mut archive = zip::ZipArchive::new(file).expect("the golden file is a zip file");
        let mut arrays = BTreeMap::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).expect("an entry of the golden file");
            let name = entry.name().expect("a name in UTF-8");
            let name = name.trim_end_matches(".npy").to_owned();
            if name == "images" {
                continue;
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("the golden file can be read");
            let npy = NpyFile::new(&bytes[..]).expect("an array of the golden file");
            let shape = npy.shape().iter().map(|&extent| extent as usize).collect();
            arrays.insert(name, Array { shape, values: numbers(npy) });
        }
        Self(arrays)
    }

    #[track_caller]
    fn get(&self, name: &str) -> &Array {
        self.0.get(name).unwrap_or_else(|| panic!("the golden file has no array {name}"))
    }

    #[track_caller]
    fn number(&self, name: &str) -> f64 {
        let values = &self.get(name).values;
        assert_eq!(values.len(), 1, "{name} is one number");
        values[0]
    }

    /// `kernel_0`, `kernel_1` and so on, as far as there are any.
    fn cases(&self, kernel: &str, array: &str) -> Vec<String> {
        let there = |case: &String| self.0.contains_key(&format!("{case}/{array}"));
        let cases: Vec<String> = (0..).map(|i| format!("{kernel}_{i}")).take_while(there).collect();
        assert!(!cases.is_empty(), "the golden file has no case of {kernel}");
        cases
    }
}

fn numbers<R: Read>(npy: NpyFile<R>) -> Vec<f64> {
    macro_rules! try_types {
        ($($number:ty),*) => {{
            let npy = npy;
            $(let npy = match npy.try_data::<$number>() {
                Ok(data) => {
                    return data.map(|x| x.expect("a whole array") as f64).collect();
                }
                Err(npy) => npy,
            };)*
            panic!("an array of type {}", npy.dtype().descr())
        }};
    }
    try_types!(f64, f32, i64, i32, i16, i8, u64, u32, u16, u8)
}

/// The rounding of the file's numbers to `f32`, once for each factor of a product.
const INPUT_ROUNDINGS: f64 = 2.0;

/// How far off x w + b may be: as in `cases`, and the roundings of the inputs.
fn product_bound(shape: GemmShape, a: (&[f64], bool), b: (&[f64], bool), plus: &[f64]) -> Vec<f64> {
    let mut bound = abs(plus);
    let (a_abs, b_abs) = (abs(a.0), abs(b.0));
    reference::gemm::gemm(shape, (&a_abs, a.1), (&b_abs, b.1), Write::Add, &mut bound);
    bound.iter().map(|sum| (shape.k as f64 + 1.0 + INPUT_ROUNDINGS) * U * sum + TINY).collect()
}

#[test]
fn linear_relu() {
    let Some(path) = golden("ops.npz") else { return };
    let npz = Npz::open(&path);
    let mut checker = Checker::new("linear_relu");
    for case in npz.cases("linear_relu", "x") {
        let get = |name: &str| npz.get(&format!("{case}/{name}"));
        let [rows, inputs] = get("x").shape[..] else { panic!("{case}/x is a matrix") };
        let outputs = get("b").values.len();
        let shape = LinearShape { rows, inputs, outputs };
        let (x64, w64) = (&get("x").values, &get("w").values);

        let bias = get("b").values.repeat(rows);
        let product = GemmShape { m: rows, k: inputs, n: outputs };
        let bound = product_bound(product, (x64, false), (w64, false), &bias);
        let y = Expected::new("y", get("y").values.clone(), bound);

        // ReLU's backward goes by the file's own y: a z within a rounding of 0 may have
        // either sign in f32.
        let dz: Vec<f64> = (get("dy").values.iter().zip(&get("y").values))
            .map(|(&dy, &y)| if y > 0.0 { dy } else { 0.0 })
            .collect();
        let nothing = |n| vec![0.0; n];
        let product = GemmShape { m: rows, k: outputs, n: inputs };
        let bound = product_bound(product, (&dz, false), (w64, true), &nothing(rows * inputs));
        let dx = Expected::new("dx", get("dx").values.clone(), bound);
        let product = GemmShape { m: inputs, k: rows, n: outputs };
        let bound = product_bound(product, (x64, true), (&dz, false), &nothing(inputs * outputs));
        let dw = Expected::new("dw", get("dw").values.clone(), bound);
        let product = GemmShape { m: 1, k: rows, n: outputs };
        let ones = vec![1.0; rows];
        let bound = product_bound(product, (&ones, false), (&dz, false), &nothing(outputs));
        let db = Expected::new("db", get("db").values.clone(), bound);

        let [x, w, b, dy] = ["x", "w", "b", "dy"].map(|name| get(name).narrow());
        let golden_y = get("y").narrow();
        checker.case(&format!("{case} {shape:?}"), &[y, dx, dw, db], |cpu| {
            let mut y = vec![f32::NAN; rows * outputs];
            linear::forward_relu(cpu, shape, &x, &w, &b, &mut y);
            let mut dz = vec![f32::NAN; rows * outputs];
            relu::backward(cpu, &golden_y, &dy, &mut dz);
            let mut dx = vec![f32::NAN; rows * inputs];
            linear::backward_input(cpu, shape, &dz, &w, &mut dx);
            let (mut dw, mut db) = (vec![f32::NAN; inputs * outputs], vec![f32::NAN; outputs]);
            linear::backward_weights(cpu, shape, &x, &dz, Write::Overwrite, &mut dw, &mut db);
            [y, dx, dw, db].map(|values| widen(&values)).to_vec()
        });
    }
    checker.finish();
}

#[test]
fn softmax_with_cross_entropy() {
    let Some(path) = golden("ops.npz") else { return };
    let npz = Npz::open(&path);
    let mut checker = Checker::new("softmax_cross_entropy");
    for case in npz.cases("softmax_cross_entropy", "logits") {
        let get = |name: &str| npz.get(&format!("{case}/{name}"));
        let [rows, cols] = get("logits").shape[..] else { panic!("{case}/logits is a matrix") };
        let shape = MatrixShape { rows, cols };
        let logits64 = &get("logits").values;
        let p64 = &get("probabilities").values;
        let labels = get("labels").integers();
        let scale = 1.0 / rows as f64;

        // What the kernel's docs allow, and what rounding a row's logits to f32 does to it.
        let largest = logits64.iter().map(|z| z.abs()).fold(0.0, f64::max);
        let rounded = 2.0 * U * largest;
        let relative: Vec<f64> =
            softmax_relative(shape, logits64).iter().map(|r| r + rounded).collect();
        let bound = p64.iter().zip(&relative).map(|(p, r)| p * r + 3.0 * TINY).collect();
        let p = Expected::new("probabilities", p64.clone(), bound);

        let (loss, accuracy) =
            (npz.number(&format!("{case}/loss")), npz.number(&format!("{case}/accuracy")));
        let loss_bound = U * (6.0 + cols as f64 / 8.0) + rounded + 1e-12 * loss;
        let figures = |name| Expected::new(name, vec![loss, accuracy], vec![loss_bound, 1e-9]);

        let dlogits64 = &get("dlogits_mean").values;
        // scale itself is rounded, too.
        let bound = |roundings: f64| {
            (dlogits64.iter().zip(p64).zip(&relative))
                .map(|((d, p), r)| {
                    scale * p * r + roundings * U * (d.abs() + scale * p) + 3.0 * TINY
                })
                .collect()
        };
        let fused = Expected::new("dlogits of forward_backward", dlogits64.clone(), bound(3.0));
        let apart = Expected::new("dlogits of backward", dlogits64.clone(), bound(4.0));

        // By way of -ln p and of 1 / p only where no p of a label is nearly 0.
        let least = (labels.iter().enumerate())
            .map(|(row, &label)| p64[row * cols + label as usize])
            .fold(1.0, f64::min);
        let by_probabilities = least > 1e-30;
        let mut expected = vec![p, figures("forward"), figures("forward_backward"), fused, apart];
        if by_probabilities {
            expected.push(figures("cross_entropy"));
            // y (dy - dot), with dy = -scale / p at the label: an exact result of scale (p - 1)
            // comes from a difference of numbers as large as scale / p.
            let bound = (p64.iter().zip(&relative))
                .map(|(p, r)| scale * p * r + (cols as f64 + 8.0) * U * scale + r * scale)
                .collect();
            expected.push(Expected::new("dlogits by p", dlogits64.clone(), bound));
        }

        let logits = get("logits").narrow();
        checker.case(&format!("{case} {shape:?}"), &expected, |cpu| {
            let scale = scale as f32;
            let nan = || vec![f32::NAN; logits.len()];
            let (mut p, mut fused, mut apart) = (nan(), nan(), nan());
            softmax::forward(cpu, shape, &logits, &mut p);
            let forward = softmax_cross_entropy::forward(cpu, shape, &logits, &labels);
            let both = softmax_cross_entropy::forward_backward(
                cpu, shape, &logits, &labels, scale, &mut fused,
            );
            softmax_cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut apart);
            let mut outputs = vec![
                widen(&p),
                vec![forward.mean_loss(), forward.accuracy()],
                vec![both.mean_loss(), both.accuracy()],
                widen(&fused),
                widen(&apart),
            ];
            if by_probabilities {
                let tally = cross_entropy::forward(cpu, shape, &p, &labels);
                let (mut dp, mut dlogits) = (nan(), nan());
                cross_entropy::backward(cpu, shape, &p, &labels, scale, &mut dp);
                softmax::backward(cpu, shape, &p, &dp, &mut dlogits);
                outputs.extend([vec![tally.mean_loss(), tally.accuracy()], widen(&dlogits)]);
            }
            outputs
        });
    }
    checker.finish();
}

/// Every loss within 2e-4 relative or 1e-6 absolute, every accuracy within one sample, over the
/// whole history; the final weights within 1e-5 of the largest of their array.
#[test]
fn mlp_training() {
    let Some(path) = golden("mlp.npz") else { return };
    let npz = Npz::open(&path);
    let &[train_size, valid_size] = &npz.get("split").values[..] else {
        panic!("the split is two numbers")
    };
    let split = Dataset::open(&path)
        .and_then(|data| data.split(Some((train_size as usize, valid_size as usize)), None))
        .expect("the golden data can be read and split");
    let &[inputs, hidden] = &npz.get("init_w_h").shape[..] else { panic!("init_w_h is a matrix") };
    assert_eq!(hidden, npz.number("hidden") as usize, "hidden units");
    let shape = MlpShape { inputs, hidden, classes: npz.get("init_b_o").values.len() };
    let start = Mlp {
        shape,
        w_h: npz.get("init_w_h").narrow(),
        b_h: npz.get("init_b_h").narrow(),
        w_o: npz.get("init_w_o").narrow(),
        b_o: npz.get("init_b_o").narrow(),
    };
    let settings = Settings {
        epochs: npz.number("epochs") as usize,
        learning_rate: npz.number("lr") as f32,
        momentum: npz.number("momentum") as f32,
        reduction: Reduction::Sum,
        eval_every: 1,
    };
    let history: Vec<&[f64]> = npz.get("history").values.chunks_exact(6).collect();
    assert_eq!(history.len(), settings.epochs + 1, "rows of the golden history");

    let mut failures = Vec::new();
    let (mut worst_loss, mut worst_weight) = (0.0, 0.0);
    for_each_cpu(|cpu| {
        let mut mlp = start.clone();
        let observe = &mut |_: &_| ControlFlow::Continue(());
        let trained = train(cpu, &settings, &split, &mut mlp, observe).expect("valid settings");
        assert_eq!(trained.epochs.len(), history.len(), "rows of the history on {cpu:?}");
        for (row, golden) in trained.epochs.iter().zip(&history) {
            let empty = Metrics { loss: f64::NAN, accuracy: f64::NAN };
            let (valid, test) = (row.valid.unwrap_or(empty), row.test.unwrap_or(empty));
            let parts = [
                ("train", row.train, split.train.len()),
                ("valid", valid, split.valid.len()),
                ("test", test, split.test.len()),
            ];
            for ((part, got, samples), golden) in parts.into_iter().zip(golden.chunks_exact(2)) {
                let off = (got.loss - golden[0]).abs();
                let samples_off = (got.accuracy - golden[1]).abs() * samples as f64 / 100.0;
                let share = off / f64::max(1e-6, 2e-4 * golden[0]);
                if share.is_nan() || share > 1.0 || samples_off.is_nan() || samples_off > 1.001 {
                    failures.push(format!(
                        "epoch {} {part} on {cpu:?}: {got:?}, not {golden:?}",
                        row.epoch
                    ));
                }
                worst_loss = f64::max(worst_loss, share);
            }
        }
        let arrays = [("w_h", &mlp.w_h), ("b_h", &mlp.b_h), ("w_o", &mlp.w_o), ("b_o", &mlp.b_o)];
        for (name, got) in arrays {
            let golden = &npz.get(&format!("final_{name}")).values;
            assert_eq!(got.len(), golden.len(), "length of {name}");
            let largest = golden.iter().map(|w| w.abs()).fold(0.0, f64::max);
            let off = (got.iter().zip(golden))
                .map(|(&got, w)| (f64::from(got) - w).abs() / largest)
                .fold(0.0, |worst: f64, off| if off <= worst { worst } else { off });
            if off.is_nan() || off > 1e-5 {
                failures.push(format!("final {name} on {cpu:?} is off by {off:e} of its largest"));
            }
            worst_weight = f64::max(worst_weight, off);
        }
    });
    println!("losses take {worst_loss:.3} of the bar; weights are off by {worst_weight:.2e}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
