//! Figures 1 to 5 and 9: the study's code, and how far each of our kernels is from it.

use kernelet::data::Samples;
use kernelet::kernels::{cross_entropy, gemm, relu, softmax, softmax_cross_entropy};
use kernelet::nn::{Mlp, MlpShape};
use kernelet::reference;
use kernelet::shape::MatrixShape;
use kernelet::{Cpu, kernels::gemm::GemmShape};
use kernelet::{kernels::gemm::Matrix, kernels::gemm::Write};
use serde::{Deserialize, Serialize};

use super::verdict::Verdict;
use super::{Chapter, Finding};

/// Images that the functions are compared on: the scalar twins are slow.
const IMAGES: usize = 256;

/// Largest differences between each kernel and the same formula in float64, relative to the
/// largest value; the loss's is relative to the loss.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Differences {
    images: usize,
    relu: f64,
    softmax: f64,
    compute_layer: f64,
    ce: f64,
    grad_ce: f64,
}

/// Runs a trained perceptron's forward pass with the study's five functions, kernel by kernel, and
/// each kernel's twin in float64 on the kernel's own input.
pub fn differences(cpu: &Cpu, mlp: &Mlp, test: &Samples) -> Differences {
    let MlpShape { inputs, hidden, classes } = mlp.shape;
    let images = IMAGES.min(test.len());
    let (x, labels) = (&test.images[..images * inputs], &test.labels[..images]);

    let layer = GemmShape { m: images, k: inputs, n: hidden };
    let mut z = vec![0.0; images * hidden];
    gemm::gemm(cpu, layer, Matrix::N(x), Matrix::N(&mlp.w_h), Write::Overwrite, &mut z);
    let mut twin = vec![0.0; z.len()];
    let (x, w) = (doubles(x), doubles(&mlp.w_h));
    reference::gemm::gemm(layer, (&x, false), (&w, false), Write::Overwrite, &mut twin);
    let compute_layer = difference(&z, &twin);

    for z in z.chunks_exact_mut(hidden.max(1)) {
        z.iter_mut().zip(&mlp.b_h).for_each(|(z, b)| *z += b);
    }
    let mut s = vec![0.0; z.len()];
    relu::forward(cpu, &z, &mut s);
    let mut twin = vec![0.0; z.len()];
    reference::relu::forward(&doubles(&z), &mut twin);
    let relu = difference(&s, &twin);

    let layer = GemmShape { m: images, k: hidden, n: classes };
    let mut logits = vec![0.0; images * classes];
    gemm::gemm(cpu, layer, Matrix::N(&s), Matrix::N(&mlp.w_o), Write::Overwrite, &mut logits);
    let shape = MatrixShape { rows: images, cols: classes };
    let mut p = vec![0.0; logits.len()];
    softmax::forward(cpu, shape, &logits, &mut p);
    let mut twin = vec![0.0; logits.len()];
    reference::softmax::forward(shape, &doubles(&logits), &mut twin);
    let softmax = difference(&p, &twin);

    let ours = cross_entropy::forward(cpu, shape, &p, labels).mean_loss();
    let exact = reference::cross_entropy::forward(shape, &doubles(&p), labels).mean_loss();
    // Without an image there is no mean, and JSON has no NaN.
    let ce = ((ours - exact).abs() / exact.abs()).max(0.0);

    let mut gradient = vec![0.0; p.len()];
    softmax_cross_entropy::backward(cpu, shape, &p, labels, 1.0, &mut gradient);
    let mut twin = vec![0.0; p.len()];
    reference::softmax_cross_entropy::backward(shape, &doubles(&p), labels, 1.0, &mut twin);
    let grad_ce = difference(&gradient, &twin);
    Differences { images, relu, softmax, compute_layer, ce, grad_ce }
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn difference(ours: &[f32], exact: &[f64]) -> f64 {
    let largest = exact.iter().fold(f64::MIN_POSITIVE, |max, x| max.max(x.abs()));
    let pairs = ours.iter().zip(exact);
    pairs.fold(0.0, |max: f64, (&ours, exact)| max.max((f64::from(ours) - exact).abs())) / largest
}

/// `None` if there was no image to compare on.
pub fn chapter(differences: Differences) -> Option<Chapter> {
    // Sums of a thousand products in float32.
    const BOUND: f64 = 1e-5;
    let within = format!("within {BOUND:.0e}");
    let finding = |place, study: &str, kernel: &str, difference: f64| Finding {
        place,
        study: study.into(),
        ours: match difference {
            0.0 => format!("{kernel}, as float64"),
            _ => format!("{kernel}, {difference:.1e} from float64"),
        },
        verdict: Verdict::of_claim(&[], &[difference], difference <= BOUND, &within),
    };
    let Differences { images, relu, softmax, compute_layer, ce, grad_ce } = differences;
    (images > 0).then(|| Chapter {
        name: "functions",
        title: "The study's functions",
        text: vec![format!(
            "The study's Figures 1 to 5 and 9 are code. The kernels that stand in for the five \
             functions of NumPy, run on the trained perceptron and {images} test images: the largest \
             difference from the same formula in float64, relative to the largest value."
        )],
        tables: Vec::new(),
        findings: vec![
            finding("Figure 1", "relu", "relu::forward", relu),
            finding("Figure 2", "softmax", "softmax::forward", softmax),
            finding("Figure 3", "computeLayer", "gemm::gemm", compute_layer),
            finding("Figure 4", "CE", "cross_entropy::forward", ce),
            finding("Figure 5", "gradCE", "softmax_cross_entropy::backward", grad_ce),
            Finding {
                place: "Figure 9",
                study: "buildGraph".into(),
                ours: "nn::Cnn".into(),
                verdict: Verdict::Open("the tests hold its steps to TensorFlow's".into()),
            },
        ],
        figures: Vec::new(),
    })
}
