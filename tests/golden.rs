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
use kernelet::kernels::adam::Adam;
use kernelet::kernels::gemm::{GemmShape, Write};
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::kernels::{conv2d, max_pool};
use kernelet::kernels::{cross_entropy, linear, relu, softmax, softmax_cross_entropy};
use kernelet::nn::cnn::{self, AdamState, Regularization};
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::reference;
use kernelet::reference::cnn::Parameters;
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};
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

/// The scalar twin itself, in `f64` as the file: sums of some thousand terms may be in another
/// order, no more.
#[track_caller]
fn check_twin(case: &str, outputs: &[(&str, &[f64], &[f64])]) {
    for (name, got, golden) in outputs {
        assert_eq!(got.len(), golden.len(), "{case}: length of {name}");
        let largest = golden.iter().map(|x| x.abs()).fold(1.0, f64::max);
        for (at, (got, golden)) in got.iter().zip(*golden).enumerate() {
            let off = (got - golden).abs();
            assert!(
                off <= 1e-12 * largest,
                "the twin of {case}: {name}[{at}] is {got:e}, not {golden:e}"
            );
        }
    }
}

/// The four extents of an array of images.
#[track_caller]
fn images(array: &Array) -> ImageShape {
    let [batch, height, width, channels] = array.shape[..] else {
        panic!("an array of {:?} is no batch of images", array.shape)
    };
    ImageShape { batch, height, width, channels }
}

#[test]
fn conv2d_same() {
    let Some(path) = golden("ops.npz") else { return };
    let npz = Npz::open(&path);
    let mut checker = Checker::new("conv2d_same");
    for case in npz.cases("conv2d_same", "x") {
        let get = |name: &str| npz.get(&format!("{case}/{name}"));
        let [height, width, _, filters] = get("w").shape[..] else {
            panic!("{case}/w has four extents")
        };
        let stride = npz.number(&format!("{case}/stride")) as usize;
        let window = Window { size: [height, width], stride: [stride; 2], padding: Padding::Same };
        let shape = Conv2dShape { input: images(get("x")), window, filters };
        assert_eq!(shape.output(), images(get("y")), "{case}: the shape of the output");

        let [x64, w64, b64, dy64] = ["x", "w", "b", "dy"].map(|name| &get(name).values[..]);
        let nan = |name: &str| vec![f64::NAN; get(name).values.len()];
        let run = |x: &[f64], w: &[f64], b: &[f64], dy: &[f64]| {
            let (mut y, mut dx, mut dw, mut db) = (nan("y"), nan("x"), nan("w"), nan("b"));
            reference::conv2d::forward(shape, x, w, b, &mut y);
            reference::conv2d::backward_input(shape, dy, w, &mut dx);
            let write = Write::Overwrite;
            reference::conv2d::backward_weights(shape, x, dy, write, &mut dw, &mut db);
            [y, dx, dw, db]
        };
        const OUTPUTS: [&str; 4] = ["y", "dx", "dw", "db"];
        let twin = run(x64, w64, b64, dy64);
        for (name, got) in OUTPUTS.into_iter().zip(&twin) {
            check_twin(&case, &[(name, got, &get(name).values)]);
        }

        // Every output is a sum of products: a rounding for each, for the bias, and for both
        // factors on the way to f32.
        let sums = run(&abs(x64), &abs(w64), &abs(b64), &abs(dy64));
        let windows = shape.output().pixels().rows;
        let terms = [shape.taps(), window.area() * filters, windows, windows];
        let expected: Vec<_> = (OUTPUTS.into_iter().zip(sums).zip(terms))
            .map(|((name, sums), terms)| {
                let roundings = terms as f64 + 1.0 + INPUT_ROUNDINGS;
                let bounds = sums.iter().map(|sum| roundings * U * sum + TINY).collect();
                Expected::new(name, get(name).values.clone(), bounds)
            })
            .collect();
        let [x, w, b, dy] = ["x", "w", "b", "dy"].map(|name| get(name).narrow());
        checker.case(&format!("{case} {shape:?}"), &expected, |cpu| {
            let [mut y, mut dx, mut dw, mut db] =
                ["y", "x", "w", "b"].map(|name| vec![f32::NAN; get(name).values.len()]);
            conv2d::forward(cpu, shape, &x, &w, &b, &mut y);
            conv2d::backward_input(cpu, shape, &dy, &w, &mut dx);
            conv2d::backward_weights(cpu, shape, &x, &dy, Write::Overwrite, &mut dw, &mut db);
            [y, dx, dw, db].map(|values| widen(&values)).to_vec()
        });
    }
    checker.finish();
}

/// Added to the variance by `make_golden.py`.
const EPSILON: f64 = 1e-5;

#[test]
fn relu_and_batch_norm() {
    let Some(path) = golden("ops.npz") else { return };
    let npz = Npz::open(&path);
    let mut checker = Checker::new("relu_batch_norm");
    for case in npz.cases("relu_batch_norm", "x") {
        let get = |name: &str| npz.get(&format!("{case}/{name}"));
        let shape = images(get("x")).pixels();
        let MatrixShape { rows, cols } = shape;
        let len = rows * cols;
        let (x64, dy64) = (&get("x").values, &get("dy").values);

        let [mut r64, mut y64, mut dx64] = [(); 3].map(|()| vec![f64::NAN; len]);
        let [mut dscale64, mut doffset64] = [(); 2].map(|()| vec![f64::NAN; cols]);
        let moments = reference::relu_batch_norm::forward_moments(shape, x64, &mut r64);
        let normalization = reference::relu_batch_norm::Normalization::new(&moments, EPSILON);
        let forward = reference::relu_batch_norm::forward_normalize::<f64>;
        forward(shape, &r64, &normalization, None, &mut y64);
        let backward = reference::relu_batch_norm::backward::<f64>;
        let (dscale, doffset) = (&mut dscale64, &mut doffset64);
        backward(shape, &r64, &normalization, None, dy64, &mut dx64, dscale, doffset);
        let (mean64, variance64) = (&get("mean").values, &get("variance").values);
        check_twin(
            &case,
            &[
                ("mean", &moments.mean, mean64),
                ("variance", &moments.variance, variance64),
                ("y", &y64, &get("y").values),
                ("dx", &dx64, &get("dx").values),
            ],
        );

        // Rounding x to f32 moves r by u r, and with it the mean by u mean and the deviation by
        // u (root mean square of r); the kernel's own roundings are as many again.
        let condition: Vec<f64> = (0..cols)
            .map(|c| 1.0 + mean64[c].powi(2) / variance64[c].max(EPSILON))
            .map(|squared| 4.0 + 2.0 * squared.sqrt())
            .collect();
        let mean_bound = mean64.iter().map(|mean| 4.0 * U * mean).collect();
        let variance_bound =
            variance64.iter().zip(&condition).map(|(v, c)| 2.0 * c * U * v).collect();
        let inv = &normalization.inv_deviation;
        let y_bound = (r64.iter().zip(&y64).enumerate())
            .map(|(at, (r, y))| {
                let c = at % cols;
                U * (inv[c] * (2.0 * r + 4.0 * mean64[c]) + y.abs() * condition[c]) + TINY
            })
            .collect();
        // The same for inv (dy - mean(dy) - y mean(dy y)), whose means take 64 rows at a time.
        let roundings = (rows.min(64) + rows.div_ceil(64)) as f64;
        let means = |weight: &dyn Fn(usize) -> f64| {
            let mut means = vec![0.0; cols];
            for at in 0..len {
                means[at % cols] += (dy64[at] * weight(at)).abs() / rows as f64;
            }
            means
        };
        let (mean_dy, mean_dy_y) = (means(&|_| 1.0), means(&|at| y64[at]));
        let dx_bound = (0..len)
            .map(|at| {
                let c = at % cols;
                let parts = dy64[at].abs() + mean_dy[c] + y64[at].abs() * mean_dy_y[c];
                if r64[at] > 0.0 {
                    (roundings + 4.0 * condition[c]) * U * inv[c] * parts
                } else {
                    0.0
                }
            })
            .collect();
        let golden =
            |name: &'static str, bound| Expected::new(name, get(name).values.clone(), bound);
        let expected = [
            golden("mean", mean_bound),
            golden("variance", variance_bound),
            golden("y", y_bound),
            golden("dx", dx_bound),
        ];
        let (x, dy) = (get("x").narrow(), get("dy").narrow());
        checker.case(&format!("{case} {shape:?}"), &expected, |cpu| {
            let [mut r, mut y, mut dx] = [(); 3].map(|()| vec![f32::NAN; len]);
            let [mut dscale, mut doffset] = [(); 2].map(|()| vec![f32::NAN; cols]);
            let mut moments = Moments::new(cols);
            relu_batch_norm::forward_moments(cpu, shape, &x, &mut r, &mut moments);
            let mut normalization = Normalization::identity(cols);
            normalization.set(&moments, EPSILON);
            relu_batch_norm::forward_normalize(cpu, shape, &r, &normalization, None, &mut y);
            relu_batch_norm::backward(
                cpu,
                shape,
                &r,
                &normalization,
                None,
                &dy,
                &mut dx,
                &mut dscale,
                &mut doffset,
            );
            let variance = (0..cols).map(|channel| moments.variance(channel)).collect();
            vec![moments.mean().to_vec(), variance, widen(&y), widen(&dx)]
        });
    }
    checker.finish();
}

#[test]
fn max_pool_2x2_same() {
    let Some(path) = golden("ops.npz") else { return };
    let npz = Npz::open(&path);
    let mut checker = Checker::new("max_pool_2x2_same");
    for case in npz.cases("max_pool_2x2_same", "x") {
        let get = |name: &str| npz.get(&format!("{case}/{name}"));
        let window = Window::square(2, 2, Padding::Same);
        let shape = PoolShape { input: images(get("x")), window };
        assert_eq!(shape.output(), images(get("y")), "{case}: the shape of the output");
        let (inputs, outputs) = (get("x").values.len(), get("y").values.len());

        let (mut y64, mut argmax) = (vec![f64::NAN; outputs], vec![u8::MAX; outputs]);
        reference::max_pool::forward(shape, &get("x").values, &mut y64, &mut argmax);
        let mut dx64 = vec![f64::NAN; inputs];
        reference::max_pool::backward(shape, &argmax, &get("dy").values, &mut dx64);
        check_twin(&case, &[("y", &y64, &get("y").values), ("dx", &dx64, &get("dx").values)]);

        // Exact: rounding to f32 keeps the order.
        let rounded = |name: &'static str| Expected::exact(name, widen(&get(name).narrow()));
        let (x, dy) = (get("x").narrow(), get("dy").narrow());
        checker.case(&format!("{case} {shape:?}"), &[rounded("y"), rounded("dx")], |cpu| {
            let (mut y, mut argmax) = (vec![f32::NAN; outputs], vec![u8::MAX; outputs]);
            max_pool::forward(cpu, shape, &x, &mut y, &mut argmax);
            let mut dx = vec![f32::NAN; inputs];
            max_pool::backward(cpu, shape, &argmax, &dy, &mut dx);
            vec![widen(&y), widen(&dx)]
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
        patience: None,
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
            let empty = Metrics { loss: f64::NAN, cross_entropy: f64::NAN, accuracy: f64::NAN };
            let [train, valid, test] =
                [row.train, row.valid, row.test].map(|metrics| metrics.unwrap_or(empty));
            let parts = [
                ("train", train, split.train.len()),
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

/// The six arrays of a CNN, as the files call them.
const CNN_ARRAYS: [&str; 6] = ["w0", "b0", "w1", "b1", "w2", "b2"];

fn cnn_arrays<T>(cnn: &mut Parameters<T>) -> [&mut Vec<T>; 6] {
    let Parameters { w0, b0, w1, b1, w2, b2 } = cnn;
    [w0, b0, w1, b1, w2, b2]
}

/// A golden training run of the CNN: where it starts, and what it does.
struct CnnRun {
    name: &'static str,
    npz: Npz,
    shape: CnnShape,
    start: Parameters<f32>,
    x: Vec<f32>,
    labels: Vec<u32>,
    batch: usize,
    steps: usize,
    adam: Adam,
    regularization: Regularization,
}

/// What has been made of it: losses before every step, the first gradients, the weights after the
/// last, and the whole set's loss and accuracy with them. Of w1 only the file's first rows.
#[derive(Default)]
struct CnnResult {
    losses: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    weights: Vec<Vec<f64>>,
    whole_loss: f64,
    whole_accuracy: f64,
}

impl CnnRun {
    fn open(name: &'static str) -> Option<Self> {
        let path = golden(&format!("{name}.npz"))?;
        let npz = Npz::open(&path);
        let data = Dataset::open(&path)
            .and_then(|data| data.split(Some((data.len(), 0)), None))
            .expect("the golden data can be read");
        let [w0, b0, w1, b1, w2, b2] =
            CNN_ARRAYS.map(|array| npz.get(&format!("init_{array}")).narrow());
        let learning_rate = npz.number("lr") as f32;
        Some(Self {
            name,
            shape: CnnShape::study(npz.number("units") as usize, b2.len()),
            start: Parameters { w0, b0, w1, b1, w2, b2 },
            x: data.train.images,
            labels: data.train.labels,
            batch: npz.number("batch") as usize,
            steps: npz.number("steps") as usize,
            adam: Adam { learning_rate, ..Adam::default() },
            regularization: Regularization { l2: npz.number("l2") as f32, dropout: None },
            npz,
        })
    }

    /// Images and labels of every step, in file order.
    fn minibatches(&self) -> impl Iterator<Item = (&[f32], &[u32])> {
        (0..self.steps).map(|step| {
            let first = step * self.batch % self.labels.len();
            let labels = &self.labels[first..self.labels.len().min(first + self.batch)];
            let pixels = self.shape.pixels();
            (&self.x[first * pixels..][..labels.len() * pixels], labels)
        })
    }

    /// What is wrong with a result: losses and the whole set's figures beyond 5e-4 relative and one
    /// sample; gradients beyond 2e-4 of the largest of their array (the file's are sums of 25,088
    /// pixels in f32, and a quarter of that off themselves); weights by more than 1 % of the way
    /// that they went. (Adam's first steps go by the sign of a gradient: where that is
    /// rounding noise a weight may go either way, so no bound holds for every single one.)
    fn failures(&self, who: &str, result: &CnnResult) -> Vec<String> {
        let (name, npz) = (self.name, &self.npz);
        let mut failures = Vec::new();
        let mut worst = BTreeMap::new();
        let mut check = |what: String, kind: &'static str, share: f64| {
            if share.is_nan() || share > 1.0 {
                failures.push(format!("{name}, {who}: {what} is off by {share:.3} of its bar"));
            }
            let worst = worst.entry(kind).or_insert(0.0);
            *worst = f64::max(*worst, share);
        };
        let losses = &npz.get("losses").values;
        assert_eq!(losses.len(), result.losses.len(), "number of losses");
        for (step, (got, golden)) in result.losses.iter().zip(losses).enumerate() {
            check(format!("loss {step}, {got},"), "losses", (got - golden).abs() / (5e-4 * golden));
        }
        let golden = npz.number("whole_loss");
        let off = (result.whole_loss - golden).abs();
        check("the whole loss".into(), "the whole loss", off / (5e-4 * golden));
        let off = (result.whole_accuracy - npz.number("whole_accuracy")).abs();
        let samples = off * self.labels.len() as f64 / 100.0;
        check("the whole accuracy".into(), "the whole accuracy", samples / 1.001);
        for (index, array) in CNN_ARRAYS.into_iter().enumerate() {
            let rows = if array == "w1" { "_rows" } else { "" };
            let golden = &npz.get(&format!("grad0_{array}{rows}")).values;
            let largest = golden.iter().map(|g| g.abs()).fold(0.0, f64::max);
            let off = distances(&result.gradients[index], golden).fold(0.0, f64::max);
            check(format!("the first gradient of {array}"), "gradients", off / (2e-4 * largest));

            if array == "b1" {
                // Not in the file.
                continue;
            }
            let golden = &npz.get(&format!("final_{array}{rows}")).values;
            let start = &npz.get(&format!("init_{array}")).values;
            let way: f64 = distances(start, golden).map(|d| d * d).sum();
            let off: f64 = distances(&result.weights[index], golden).map(|d| d * d).sum();
            check(format!("the final {array}"), "weights", (off / way).sqrt() / 0.01);
        }
        println!("{name}, {who}: of their bars take {worst:.4?}");
        failures
    }
}

/// Distances of the first elements of `got` from those of `golden`; NaN counts as infinite.
fn distances<'a>(got: &'a [f64], golden: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    assert!(got.len() >= golden.len(), "{} elements, not {}", got.len(), golden.len());
    let finite = |off: f64| if off.is_nan() { f64::INFINITY } else { off };
    got.iter().zip(golden).map(move |(got, golden)| finite((got - golden).abs()))
}

fn widen_cnn(cnn: &Parameters<f32>) -> Parameters<f64> {
    let Parameters { w0, b0, w1, b1, w2, b2 } = cnn;
    let [w0, b0, w1, b1, w2, b2] = [w0, b0, w1, b1, w2, b2].map(|array| widen(array));
    Parameters { w0, b0, w1, b1, w2, b2 }
}

/// By the scalar twins in `f64`.
fn train_twin(run: &CnnRun) -> CnnResult {
    let CnnRun { shape, regularization, adam, .. } = run;
    let l2 = f64::from(regularization.l2);
    let mut result = CnnResult::default();
    let mut cnn = widen_cnn(&run.start);
    let zeros = cnn_arrays(&mut cnn).map(|array| vec![0.0; array.len()]);
    let (mut m, mut v) = (zeros.clone(), zeros);
    for (step, (x, labels)) in (1..).zip(run.minibatches()) {
        let x = widen(x);
        let penalty = reference::cnn::penalty(&cnn, l2);
        let (tally, mut g) = reference::cnn::gradients(*shape, &cnn, &x, labels, *regularization);
        result.losses.push(tally.mean_loss() + penalty);
        if step == 1 {
            result.gradients = cnn_arrays(&mut g).map(|g| g.clone()).to_vec();
        }
        let arrays = cnn_arrays(&mut cnn).into_iter().zip(cnn_arrays(&mut g));
        for ((w, g), (m, v)) in arrays.zip(m.iter_mut().zip(&mut v)) {
            reference::adam::update(*adam, step, w, m, v, g);
        }
    }
    let logits = reference::cnn::forward(*shape, &cnn, &widen(&run.x), None, None).logits;
    let logits_shape = MatrixShape { rows: run.labels.len(), cols: shape.classes };
    let tally = reference::softmax_cross_entropy::forward(logits_shape, &logits, &run.labels);
    result.whole_loss = tally.mean_loss() + reference::cnn::penalty(&cnn, l2);
    result.whole_accuracy = tally.accuracy();
    result.weights = cnn_arrays(&mut cnn).map(|w| w.clone()).to_vec();
    result
}

/// By the library, as a user would write it.
fn train_cnn(run: &CnnRun, cpu: &kernelet::Cpu) -> CnnResult {
    let arrays = |cnn: &Cnn| {
        let Cnn { w0, b0, w1, b1, w2, b2, .. } = cnn;
        [w0, b0, w1, b1, w2, b2].map(|array| widen(array)).to_vec()
    };
    let mut result = CnnResult::default();
    let Parameters { w0, b0, w1, b1, w2, b2 } = run.start.clone();
    let mut cnn = Cnn { shape: run.shape, w0, b0, w1, b1, w2, b2 };
    let mut work = cnn::Workspace::default();
    let mut state = AdamState::new(run.shape);
    for (step, (x, labels)) in run.minibatches().enumerate() {
        if step == 0 {
            let mut gradients = Cnn::zeros(run.shape);
            let regularization = run.regularization;
            let tally = cnn.gradients(cpu, &mut work, x, labels, regularization, &mut gradients);
            result.gradients = arrays(&gradients);
            let loss = tally.mean_loss() + cnn.penalty(regularization.l2);
            let golden = run.npz.get("losses").values[0];
            assert!((loss - golden).abs() <= 5e-4 * golden, "loss {loss} of gradients");
        }
        let (tally, penalty) =
            cnn.adam_step(cpu, &mut work, x, labels, run.adam, run.regularization, &mut state);
        result.losses.push(tally.mean_loss() + penalty);
    }
    assert_eq!(state.step, run.steps as u64, "steps made");
    let mut moments = Moments::new(run.shape.filters);
    for x in run.x.chunks(100 * run.shape.pixels()) {
        cnn.moments(cpu, &mut work, x, &mut moments);
    }
    let mut normalization = Normalization::identity(run.shape.filters);
    normalization.set(&moments, cnn::EPSILON);
    let tally = cnn.evaluate(cpu, &mut work, &normalization, &run.x, &run.labels);
    result.whole_loss = tally.mean_loss() + cnn.penalty(run.regularization.l2);
    result.whole_accuracy = tally.accuracy();
    result.weights = arrays(&cnn);
    result
}

fn cnn_training(name: &'static str) {
    let Some(run) = CnnRun::open(name) else { return };
    let twin = train_twin(&run);
    let mut failures = run.failures("the twin", &twin);
    for_each_cpu(|cpu| {
        let result = train_cnn(&run, cpu);
        failures.extend(run.failures(&format!("{cpu:?}"), &result));
        for ((array, got), twin) in CNN_ARRAYS.iter().zip(&result.gradients).zip(&twin.gradients) {
            let largest = twin.iter().map(|g| g.abs()).fold(0.0, f64::max);
            let off = distances(got, twin).fold(0.0, f64::max) / largest;
            if off > 1e-5 {
                failures.push(format!(
                    "{name}, {cpu:?}: the first gradient of {array} is off by {off:e} of its \
                     largest from the twin's"
                ));
            }
        }
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn cnn_training_without_regularization() {
    cnn_training("cnn");
}

#[test]
fn cnn_training_with_l2() {
    cnn_training("cnn_l2");
}
