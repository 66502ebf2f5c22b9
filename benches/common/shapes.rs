//! The layers to measure, from the text files in `benches/shapes`. A line is a kind, a name and
//! sizes; `#` starts a comment.

use kernelet::kernels::gemm::GemmShape;
use kernelet::nn::MlpShape;
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};

const FILES: [(&str, &str); 5] = [
    ("study", include_str!("../shapes/study.txt")),
    ("lenet5", include_str!("../shapes/lenet5.txt")),
    ("resnet18", include_str!("../shapes/resnet18.txt")),
    ("mnist_mlp", include_str!("../shapes/mnist_mlp.txt")),
    ("awkward", include_str!("../shapes/awkward.txt")),
];

/// What a line of a file says.
#[derive(Clone, Copy)]
pub enum Layer {
    /// `gemm NAME m k n [a_transposed] [b_transposed]`
    Gemm { shape: GemmShape, a_transposed: bool, b_transposed: bool },
    /// `linear NAME rows inputs outputs`
    Linear(LinearShape),
    /// `conv2d NAME images height width channels filters window stride same|valid`
    Conv2d(Conv2dShape),
    /// `max_pool NAME images height width channels window stride same|valid`
    MaxPool(PoolShape),
    /// `avg_pool`, as `max_pool`
    AvgPool(PoolShape),
    /// `softmax NAME rows classes`, for everything that takes a batch's classes
    Softmax(MatrixShape),
    /// `elements NAME count`: of a batch's activations
    Elements(usize),
    /// `parameters NAME count`: weights to update
    Parameters(usize),
    /// `mlp NAME rows inputs hidden classes`: a training step
    Mlp { rows: usize, shape: MlpShape },
}

/// Every layer of every file, each with its name, `FILE/NAME`.
///
/// # Panics
/// At a line that says nothing, with its file and number.
pub fn all() -> Vec<(String, Layer)> {
    let mut layers = Vec::new();
    for (file, text) in FILES {
        for (index, line) in text.lines().enumerate() {
            let words: Vec<_> = line.split_whitespace().take_while(|word| *word != "#").collect();
            let [kind, name, sizes @ ..] = &words[..] else {
                assert!(words.is_empty(), "shapes/{file}.txt:{}: a name is missing", index + 1);
                continue;
            };
            let Some(layer) = parse(kind, sizes) else {
                panic!("shapes/{file}.txt:{}: not a layer: {line:?}", index + 1);
            };
            layers.push((format!("{file}/{name}"), layer));
        }
    }
    layers
}

fn parse(kind: &str, words: &[&str]) -> Option<Layer> {
    let count = words.iter().take_while(|word| word.parse::<usize>().is_ok()).count();
    let (numbers, flags) = words.split_at(count);
    let numbers = numbers.iter().map(|word| word.parse().ok().filter(|&size| size > 0));
    let numbers = numbers.collect::<Option<Vec<usize>>>()?;
    let padding = match *flags {
        ["same"] => Some(Padding::Same),
        ["valid"] => Some(Padding::Valid),
        _ => None,
    };
    Some(match (kind, &numbers[..], padding) {
        ("gemm", &[m, k, n], None) => {
            let (a_transposed, b_transposed) = match *flags {
                [] => (false, false),
                ["a_transposed"] => (true, false),
                ["b_transposed"] => (false, true),
                ["a_transposed", "b_transposed"] => (true, true),
                _ => return None,
            };
            Layer::Gemm { shape: GemmShape { m, k, n }, a_transposed, b_transposed }
        }
        ("conv2d", &[batch, height, width, channels, filters, size, stride], Some(padding)) => {
            let input = ImageShape { batch, height, width, channels };
            Layer::Conv2d(Conv2dShape {
                input,
                window: Window::square(size, stride, padding),
                filters,
            })
        }
        (
            "max_pool" | "avg_pool",
            &[batch, height, width, channels, size, stride],
            Some(padding),
        ) => {
            let input = ImageShape { batch, height, width, channels };
            let shape = PoolShape { input, window: Window::square(size, stride, padding) };
            if kind == "max_pool" { Layer::MaxPool(shape) } else { Layer::AvgPool(shape) }
        }
        _ if !flags.is_empty() => return None,
        ("linear", &[rows, inputs, outputs], _) => {
            Layer::Linear(LinearShape { rows, inputs, outputs })
        }
        ("softmax", &[rows, cols], _) => Layer::Softmax(MatrixShape { rows, cols }),
        ("elements", &[count], _) => Layer::Elements(count),
        ("parameters", &[count], _) => Layer::Parameters(count),
        ("mlp", &[rows, inputs, hidden, classes], _) => {
            Layer::Mlp { rows, shape: MlpShape { inputs, hidden, classes } }
        }
        _ => return None,
    })
}
