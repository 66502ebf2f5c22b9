//! The kernels, a function for each. They check their arrays, take the output's memory where none is
//! given, and let other Python threads run while they compute.

use kernelet::kernels::gemm::{GemmShape, Write};
use kernelet::kernels::relu_batch_norm::{Affine, Moments, RunningMoments};
use kernelet::kernels::softmax_cross_entropy::Tally;
use kernelet::kernels::{self, conv_block::ConvBlockShape};
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};
use numpy::{PyArray1, PyArrayDyn};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::{Any, Input, Matrix, Output, labels as class_numbers, wrong_shape};
use crate::cpu::{Cpu, OnCpu};

/// What a function returns: a new array or the one that it was given.
type Array<'py, T = f32> = Bound<'py, PyArrayDyn<T>>;

const IMAGES: &str = "(images, height, width, channels)";
const MATRIX: &str = "(rows, columns)";

/// max(x, 0), element by element; NaN stays NaN.
#[pyfunction]
#[pyo3(signature = (x, out = None, *, cpu = None))]
pub fn relu<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    elementwise(py, x, out, cpu, kernels::relu::forward)
}

/// e^x, element by element.
#[pyfunction]
#[pyo3(signature = (x, out = None, *, cpu = None))]
pub fn exp<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    elementwise(py, x, out, cpu, kernels::exp::forward)
}

fn elementwise<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
    kernel: fn(&kernelet::Cpu, &[f32], &mut [f32]),
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let x = Input::new("x", x)?;
    let mut y = Output::new(py, "out", out, x.shape())?;
    let (x, into) = (x.slice(), y.slice());
    py.detach(|| kernel(&cpu, x, into));
    Ok(y.into_array())
}

/// dy where y > 0, else 0; y is ReLU's output or its input.
#[pyfunction]
#[pyo3(signature = (y, dy, out = None, *, cpu = None))]
pub fn relu_backward<'py>(
    py: Python<'py>,
    y: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (y, dy) = (Input::new("y", y)?, Input::new("dy", dy)?);
    dy.has_shape(y.shape(), "y's shape")?;
    let mut dx = Output::new(py, "out", out, y.shape())?;
    let (y, dy, into) = (y.slice(), dy.slice(), dx.slice());
    py.detach(|| kernels::relu::backward(&cpu, y, dy, into));
    Ok(dx.into_array())
}

/// Softmax of every row of x (rows, columns).
#[pyfunction]
#[pyo3(signature = (x, out = None, *, cpu = None))]
pub fn softmax<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let x = Input::new("x", x)?;
    let shape = matrix(&x)?;
    let mut y = Output::new(py, "out", out, x.shape())?;
    let (x, into) = (x.slice(), y.slice());
    py.detach(|| kernels::softmax::forward(&cpu, shape, x, into));
    Ok(y.into_array())
}

/// The gradient of softmax's input from its output y and that output's gradient dy.
#[pyfunction]
#[pyo3(signature = (y, dy, out = None, *, cpu = None))]
pub fn softmax_backward<'py>(
    py: Python<'py>,
    y: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (y, dy) = (Input::new("y", y)?, Input::new("dy", dy)?);
    let shape = matrix(&y)?;
    dy.has_shape(y.shape(), "y's shape")?;
    let mut dx = Output::new(py, "out", out, y.shape())?;
    let (y, dy, into) = (y.slice(), dy.slice(), dx.slice());
    py.detach(|| kernels::softmax::backward(&cpu, shape, y, dy, into));
    Ok(dx.into_array())
}

/// The matrix product a (m, k) b (k, n); with add, it is added to out. Transposes are not copied.
#[pyfunction]
#[pyo3(signature = (a, b, out = None, *, add = false, cpu = None))]
pub fn matmul<'py>(
    py: Python<'py>,
    a: Any<'_, 'py>,
    b: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    add: bool,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (a, b) = (Matrix::new("a", a)?, Matrix::new("b", b)?);
    let ([m, k], [rows, n]) = (a.shape(), b.shape());
    if rows != k {
        return Err(wrong_shape("b", &[rows, n], &format!("({k}, n), as a is ({m}, {k}),")));
    }
    let write = write(add, &[("out", out)])?;
    let mut c = Output::new(py, "out", out, &[m, n])?;
    let shape = GemmShape { m, k, n };
    let (a, b, into) = (a.matrix(), b.matrix(), c.slice());
    py.detach(|| kernels::gemm::gemm(&cpu, shape, a, b, write, into));
    Ok(c.into_array())
}

/// x (rows, inputs) w (inputs, outputs) + b (outputs), followed by ReLU if asked for.
#[pyfunction]
#[pyo3(signature = (x, w, b, out = None, *, relu = false, cpu = None))]
pub fn linear<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    w: Any<'_, 'py>,
    b: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    relu: bool,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let x = Input::<f32>::new("x", x)?;
    let (w, b) = (Input::new("w", w)?, Input::new("b", b)?);
    let [rows, inputs] = x.axes("(rows, inputs)")?;
    let [_, outputs] = w.axes("(inputs, outputs)")?;
    w.has_shape(&[inputs, outputs], "(inputs, outputs)")?;
    b.has_shape(&[outputs], "(outputs,)")?;
    let mut y = Output::new(py, "out", out, &[rows, outputs])?;
    let shape = LinearShape { rows, inputs, outputs };
    let (x, w, b, into) = (x.slice(), w.slice(), b.slice(), y.slice());
    py.detach(|| match relu {
        false => kernels::linear::forward(&cpu, shape, x, w, b, into),
        true => kernels::linear::forward_relu(&cpu, shape, x, w, b, into),
    });
    Ok(y.into_array())
}

/// The gradient dy (rows, outputs) w^T of a linear layer's input; with the layer's input x, which a
/// ReLU made, it goes on through that ReLU.
#[pyfunction]
#[pyo3(signature = (dy, w, x = None, out = None, *, cpu = None))]
pub fn linear_backward_input<'py>(
    py: Python<'py>,
    dy: Any<'_, 'py>,
    w: Any<'_, 'py>,
    x: Option<Any<'_, 'py>>,
    out: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (dy, w) = (Input::new("dy", dy)?, Input::new("w", w)?);
    let [rows, outputs] = dy.axes("(rows, outputs)")?;
    let [inputs, _] = w.axes("(inputs, outputs)")?;
    w.has_shape(&[inputs, outputs], "(inputs, outputs)")?;
    let x = x.map(|x| Input::new("x", x)).transpose()?;
    if let Some(x) = &x {
        x.has_shape(&[rows, inputs], "(rows, inputs)")?;
    }
    let mut dx = Output::new(py, "out", out, &[rows, inputs])?;
    let shape = LinearShape { rows, inputs, outputs };
    let (dy, w, x, into) = (dy.slice(), w.slice(), x.as_ref().map(Input::slice), dx.slice());
    py.detach(|| match x {
        None => kernels::linear::backward_input(&cpu, shape, dy, w, into),
        Some(x) => kernels::linear::backward_input_relu(&cpu, shape, dy, w, x, into),
    });
    Ok(dx.into_array())
}

/// The gradients x^T dy of a linear layer's weights and the sums of dy's columns, those of its biases;
/// with add, they are added to dw and db.
#[pyfunction]
#[pyo3(signature = (x, dy, dw = None, db = None, *, add = false, cpu = None))]
pub fn linear_backward_weights<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    dw: Option<Any<'_, 'py>>,
    db: Option<Any<'_, 'py>>,
    add: bool,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(Array<'py>, Array<'py>)> {
    let cpu = Cpu::of(py, cpu)?;
    let (x, dy) = (Input::new("x", x)?, Input::new("dy", dy)?);
    let shape @ LinearShape { inputs, outputs, .. } = layer(&x, &dy)?;
    let write = write(add, &[("dw", dw), ("db", db)])?;
    let mut dw = Output::new(py, "dw", dw, &[inputs, outputs])?;
    let mut db = Output::new(py, "db", db, &[outputs])?;
    let (x, dy, into, into_db) = (x.slice(), dy.slice(), dw.slice(), db.slice());
    py.detach(|| kernels::linear::backward_weights(&cpu, shape, x, dy, write, into, into_db));
    Ok((dw.into_array(), db.into_array()))
}

/// The sums of the columns of dy (rows, columns), the gradient of a linear layer's biases; with add, they
/// are added to out.
#[pyfunction]
#[pyo3(signature = (dy, out = None, *, add = false, cpu = None))]
pub fn column_sums<'py>(
    py: Python<'py>,
    dy: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    add: bool,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let dy = Input::new("dy", dy)?;
    let [rows, outputs] = dy.axes(MATRIX)?;
    let write = write(add, &[("out", out)])?;
    let mut db = Output::new(py, "out", out, &[outputs])?;
    let shape = LinearShape { rows, inputs: 0, outputs };
    let (dy, into) = (dy.slice(), db.slice());
    py.detach(|| kernels::linear::column_sums(&cpu, shape, dy, write, into));
    Ok(db.into_array())
}

/// linear_backward_weights and adam in one: the gradient x^T dy of w (inputs, outputs) is never written
/// to memory. Updates w, m and v in place and returns the sum of w's squares before the update.
#[pyfunction]
#[pyo3(signature = (x, dy, w, m, v, step, *, learning_rate = 1e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, l2 = 0.0, cpu = None))]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn linear_backward_weights_adam<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    w: Any<'_, 'py>,
    m: Any<'_, 'py>,
    v: Any<'_, 'py>,
    step: u64,
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    l2: f32,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<f64> {
    let cpu = Cpu::of(py, cpu)?;
    let (x, dy) = (Input::new("x", x)?, Input::new("dy", dy)?);
    let shape @ LinearShape { inputs, outputs, .. } = layer(&x, &dy)?;
    let (mut w, mut m) = (Output::given("w", w)?, Output::given("m", m)?);
    let mut v = Output::given("v", v)?;
    for weights in [&w, &m, &v] {
        weights.has_shape(&[inputs, outputs], "(inputs, outputs)")?;
    }
    counted_from_1(step)?;
    let adam = kernels::adam::Adam { learning_rate, beta1, beta2, epsilon, l2 };
    let (x, dy, w, m, v) = (x.slice(), dy.slice(), w.slice(), m.slice(), v.slice());
    let update = kernels::linear::backward_weights_adam;
    Ok(py.detach(|| update(&cpu, shape, x, dy, adam, step, w, m, v)))
}

/// The convolution of x (images, height, width, channels) with w (height, width, channels, filters),
/// plus b (filters), followed by ReLU if asked for.
#[pyfunction]
#[pyo3(signature = (x, w, b, out = None, *, stride = Pair::ONE, padding = Pad::SAME, relu = false, cpu = None), text_signature = "(x, w, b, out=None, *, stride=1, padding='same', relu=False, cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn conv2d<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    w: Any<'_, 'py>,
    b: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    stride: Pair,
    padding: Pad,
    relu: bool,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (x, w, b) = (Input::new("x", x)?, Input::new("w", w)?, Input::new("b", b)?);
    let shape = convolution(image_shape(x.axes(IMAGES)?), &w, stride, padding)?;
    b.has_shape(&[shape.filters], "(filters,)")?;
    let mut y = Output::new(py, "out", out, &axes(shape.output()))?;
    let (x, w, b, into) = (x.slice(), w.slice(), b.slice(), y.slice());
    py.detach(|| match relu {
        false => kernels::conv2d::forward(&cpu, shape, x, w, b, into),
        true => kernels::conv2d::forward_relu(&cpu, shape, x, w, b, into),
    });
    Ok(y.into_array())
}

/// The gradient of a convolution's input, of the given shape, from its output's gradient dy.
#[pyfunction]
#[pyo3(signature = (dy, w, shape, out = None, *, stride = Pair::ONE, padding = Pad::SAME, cpu = None), text_signature = "(dy, w, shape, out=None, *, stride=1, padding='same', cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn conv2d_backward_input<'py>(
    py: Python<'py>,
    dy: Any<'_, 'py>,
    w: Any<'_, 'py>,
    shape: [usize; 4],
    out: Option<Any<'_, 'py>>,
    stride: Pair,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (dy, w) = (Input::new("dy", dy)?, Input::new("w", w)?);
    // Its output first, whose size is then known to be one.
    let mut dx = Output::new(py, "out", out, &shape)?;
    let shape = convolution(image_shape(shape), &w, stride, padding)?;
    dy.has_shape(&axes(shape.output()), "the convolution's output shape")?;
    let (dy, w, into) = (dy.slice(), w.slice(), dx.slice());
    py.detach(|| kernels::conv2d::backward_input(&cpu, shape, dy, w, into));
    Ok(dx.into_array())
}

/// The gradients of a convolution's weights, of the window's given height and width, and biases; with
/// add, they are added to dw and db.
#[pyfunction]
#[pyo3(signature = (x, dy, size, dw = None, db = None, *, stride = Pair::ONE, padding = Pad::SAME, add = false, cpu = None), text_signature = "(x, dy, size, dw=None, db=None, *, stride=1, padding='same', add=False, cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn conv2d_backward_weights<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    size: Pair,
    dw: Option<Any<'_, 'py>>,
    db: Option<Any<'_, 'py>>,
    stride: Pair,
    padding: Pad,
    add: bool,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(Array<'py>, Array<'py>)> {
    let cpu = Cpu::of(py, cpu)?;
    let (x, dy) = (Input::new("x", x)?, Input::new("dy", dy)?);
    let input = image_shape(x.axes(IMAGES)?);
    let [_, _, _, filters] = dy.axes(IMAGES)?;
    let write = write(add, &[("dw", dw), ("db", db)])?;
    let [height, width] = size.0;
    let mut dw = Output::new(py, "dw", dw, &[height, width, input.channels, filters])?;
    let mut db = Output::new(py, "db", db, &[filters])?;
    let shape = Conv2dShape { input, window: window(size, stride, padding), filters };
    dy.has_shape(&axes(shape.output()), "the convolution's output shape")?;
    let (x, dy, into, into_db) = (x.slice(), dy.slice(), dw.slice(), db.slice());
    py.detach(|| kernels::conv2d::backward_weights(&cpu, shape, x, dy, write, into, into_db));
    Ok((dw.into_array(), db.into_array()))
}

/// Mean and inverse deviation per channel, by which batch normalisation normalises.
#[pyclass(frozen, module = "kernelet")]
pub struct Normalization(pub kernels::relu_batch_norm::Normalization);

#[pymethods]
impl Normalization {
    /// Of moments (channels), for example the running ones of training.
    #[new]
    #[pyo3(signature = (mean, variance, *, epsilon = 1e-5))]
    fn new(mean: Any, variance: Any, epsilon: f64) -> PyResult<Self> {
        let (mean, variance) = (Input::new("mean", mean)?, Input::new("variance", variance)?);
        let [channels] = mean.axes("(channels,)")?;
        variance.has_shape(&[channels], "mean's shape")?;
        let moments =
            RunningMoments { mean: mean.slice().to_vec(), variance: variance.slice().to_vec() };
        let mut normalization = kernels::relu_batch_norm::Normalization::identity(channels);
        normalization.set_running(&moments, epsilon);
        Ok(Self(normalization))
    }

    /// Mean per channel.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.0.mean)
    }

    /// 1 / sqrt(variance + epsilon) per channel.
    #[getter]
    fn inv_deviation<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.0.inv_deviation)
    }
}

impl Normalization {
    fn of(moments: &Moments, epsilon: f64) -> Self {
        let channels = moments.mean().len();
        let mut normalization = kernels::relu_batch_norm::Normalization::identity(channels);
        normalization.set(moments, epsilon);
        Self(normalization)
    }

    fn check(&self, channels: usize) -> PyResult<()> {
        let own = self.0.mean.len();
        if own == channels {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "normalization: is of {own} channels, but the array has {channels}"
        )))
    }
}

/// What `relu_batch_norm` returns.
type Normalized<'py> = (Array<'py>, Array<'py>, Normalization);

/// ReLU, then batch normalisation of every channel, the last axis of x, with the moments of x or a
/// normalization that is given; then scale and offset per channel. Returns y, r = max(x, 0) and the
/// normalization, which the backward pass takes.
#[pyfunction]
#[pyo3(signature = (x, scale = None, offset = None, *, normalization = None, epsilon = 1e-5, cpu = None))]
pub fn relu_batch_norm<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    scale: Option<Any<'_, 'py>>,
    offset: Option<Any<'_, 'py>>,
    normalization: Option<&Bound<'py, Normalization>>,
    epsilon: f64,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Normalized<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let x = Input::new("x", x)?;
    let shape = pixels("x", x.shape())?;
    if shape.rows == 0 && shape.cols > 1 << 20 {
        // Their moments would take memory that no array of them does.
        return Err(wrong_shape("x", x.shape(), "of a pixel, or of fewer channels"));
    }
    let scale = per_channel("scale", scale, shape.cols)?;
    let offset = per_channel("offset", offset, shape.cols)?;
    let given = normalization.map(|normalization| normalization.get());
    if let Some(normalization) = given {
        normalization.check(shape.cols)?;
    }
    let mut r = Output::new(py, "r", None, x.shape())?;
    let mut y = Output::new(py, "y", None, x.shape())?;
    let (ones, zeros) = (vec![1.0; shape.cols], vec![0.0; shape.cols]);
    let affine = (scale.is_some() || offset.is_some()).then(|| Affine {
        scale: scale.as_ref().map_or(&ones[..], Input::slice),
        offset: offset.as_ref().map_or(&zeros[..], Input::slice),
    });
    let (x, into_r, into_y) = (x.slice(), r.slice(), y.slice());
    let normalization = py.detach(|| {
        let mut moments = Moments::new(shape.cols);
        kernels::relu_batch_norm::forward_moments(&cpu, shape, x, into_r, &mut moments);
        let normalization = match given {
            Some(given) => given.0.clone(),
            None => Normalization::of(&moments, epsilon).0,
        };
        kernels::relu_batch_norm::forward_normalize(
            &cpu,
            shape,
            into_r,
            &normalization,
            affine,
            into_y,
        );
        Normalization(normalization)
    });
    Ok((y.into_array(), r.into_array(), normalization))
}

/// The gradients of relu_batch_norm's input, scale and offset from r and normalization, which it
/// returned for a batch normalised by its own moments, and the output's gradient dy.
#[pyfunction]
#[pyo3(signature = (r, normalization, dy, scale = None, *, cpu = None))]
pub fn relu_batch_norm_backward<'py>(
    py: Python<'py>,
    r: Any<'_, 'py>,
    normalization: &Bound<'py, Normalization>,
    dy: Any<'_, 'py>,
    scale: Option<Any<'_, 'py>>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
    let cpu = Cpu::of(py, cpu)?;
    let (r, dy) = (Input::new("r", r)?, Input::new("dy", dy)?);
    let shape = pixels("r", r.shape())?;
    dy.has_shape(r.shape(), "r's shape")?;
    let scale = per_channel("scale", scale, shape.cols)?;
    let normalization = normalization.get();
    normalization.check(shape.cols)?;
    let mut dx = Output::new(py, "dx", None, r.shape())?;
    let mut dscale = Output::new(py, "dscale", None, &[shape.cols])?;
    let mut doffset = Output::new(py, "doffset", None, &[shape.cols])?;
    let scale = scale.as_ref().map(Input::slice);
    let (r, dy) = (r.slice(), dy.slice());
    let (into, into_scale, into_offset) = (dx.slice(), dscale.slice(), doffset.slice());
    py.detach(|| {
        kernels::relu_batch_norm::backward(
            &cpu,
            shape,
            r,
            &normalization.0,
            scale,
            dy,
            into,
            into_scale,
            into_offset,
        );
    });
    Ok((dx.into_array(), dscale.into_array(), doffset.into_array()))
}

/// The largest element of every window of x (images, height, width, channels), and its place in the
/// window, counted row by row.
#[pyfunction]
#[pyo3(signature = (x, *, size = Pair::TWO, stride = None, padding = Pad::SAME, cpu = None), text_signature = "(x, *, size=2, stride=None, padding='same', cpu=None)")]
pub fn max_pool<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    size: Pair,
    stride: Option<Pair>,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(Array<'py>, Array<'py, u32>)> {
    let cpu = Cpu::of(py, cpu)?;
    let x = Input::new("x", x)?;
    let shape = pool(x.axes(IMAGES)?, size, stride, padding);
    let output = axes(shape.output());
    let mut y = Output::new(py, "y", None, &output)?;
    let mut argmax = Output::new(py, "argmax", None, &output)?;
    let (x, into, into_argmax) = (x.slice(), y.slice(), argmax.slice());
    py.detach(|| kernels::max_pool::forward::<u32>(&cpu, shape, x, into, into_argmax));
    Ok((y.into_array(), argmax.into_array()))
}

/// The gradient of max_pool's input, of the given shape.
#[pyfunction]
#[pyo3(signature = (argmax, dy, shape, out = None, *, size = Pair::TWO, stride = None, padding = Pad::SAME, cpu = None), text_signature = "(argmax, dy, shape, out=None, *, size=2, stride=None, padding='same', cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn max_pool_backward<'py>(
    py: Python<'py>,
    argmax: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    shape: [usize; 4],
    out: Option<Any<'_, 'py>>,
    size: Pair,
    stride: Option<Pair>,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (argmax, dy) = (Input::<u32>::new("argmax", argmax)?, Input::new("dy", dy)?);
    let mut dx = Output::new(py, "out", out, &shape)?;
    let shape = pool(shape, size, stride, padding);
    let output = axes(shape.output());
    dy.has_shape(&output, "the pool's output shape")?;
    argmax.has_shape(&output, "the pool's output shape")?;
    let (argmax, dy, into) = (argmax.slice(), dy.slice(), dx.slice());
    check_places(shape, argmax)?;
    py.detach(|| kernels::max_pool::backward(&cpu, shape, argmax, dy, into));
    Ok(dx.into_array())
}

/// The normalisation of relu_batch_norm and max_pool in one: of r (images, height, width, channels), which
/// is max(x, 0). Returns the pooled y and the places of its elements in their windows.
#[pyfunction]
#[pyo3(signature = (r, normalization, *, size = Pair::TWO, stride = None, padding = Pad::SAME, cpu = None), text_signature = "(r, normalization, *, size=2, stride=None, padding='same', cpu=None)")]
pub fn normalize_max_pool<'py>(
    py: Python<'py>,
    r: Any<'_, 'py>,
    normalization: &Bound<'py, Normalization>,
    size: Pair,
    stride: Option<Pair>,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(Array<'py>, Array<'py, u8>)> {
    let cpu = Cpu::of(py, cpu)?;
    let r = Input::new("r", r)?;
    let shape = pool(r.axes(IMAGES)?, size, stride, padding);
    places_in_a_byte("size", shape.window)?;
    let normalization = normalization.get();
    normalization.check(shape.input.channels)?;
    let output = axes(shape.output());
    let mut y = Output::new(py, "y", None, &output)?;
    let mut argmax = Output::new(py, "argmax", None, &output)?;
    let (r, into, into_argmax) = (r.slice(), y.slice(), argmax.slice());
    let forward = kernels::relu_batch_norm::forward_normalize_max_pool;
    py.detach(|| forward(&cpu, shape, r, &normalization.0, into, into_argmax));
    Ok((y.into_array(), argmax.into_array()))
}

/// The gradient of relu_batch_norm's x from what normalize_max_pool took and returned, for a batch
/// normalised by its own moments, and the gradient dy of its y. After conv_block it is the convolution's
/// dy, of which conv2d_backward_input makes the gradient of the block's x.
#[pyfunction]
#[pyo3(signature = (r, normalization, y, argmax, dy, out = None, *, size = Pair::TWO, stride = None, padding = Pad::SAME, cpu = None), text_signature = "(r, normalization, y, argmax, dy, out=None, *, size=2, stride=None, padding='same', cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn normalize_max_pool_backward<'py>(
    py: Python<'py>,
    r: Any<'_, 'py>,
    normalization: &Bound<'py, Normalization>,
    y: Any<'_, 'py>,
    argmax: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    size: Pair,
    stride: Option<Pair>,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (r, y) = (Input::new("r", r)?, Input::new("y", y)?);
    let (argmax, dy) = (Input::<u8>::new("argmax", argmax)?, Input::new("dy", dy)?);
    let shape = pool(r.axes(IMAGES)?, size, stride, padding);
    places_in_a_byte("size", shape.window)?;
    let normalization = normalization.get();
    normalization.check(shape.input.channels)?;
    let output = axes(shape.output());
    y.has_shape(&output, "the pool's output shape")?;
    argmax.has_shape(&output, "the pool's output shape")?;
    dy.has_shape(&output, "the pool's output shape")?;
    let mut dx = Output::new(py, "out", out, r.shape())?;
    let (r, y, argmax, dy, into) = (r.slice(), y.slice(), argmax.slice(), dy.slice(), dx.slice());
    check_places(shape, argmax)?;
    let backward = kernels::relu_batch_norm::backward_max_pool;
    py.detach(|| backward(&cpu, shape, r, &normalization.0, y, argmax, dy, into));
    Ok(dx.into_array())
}

/// The mean of every window of x (images, height, width, channels).
#[pyfunction]
#[pyo3(signature = (x, out = None, *, size = Pair::TWO, stride = None, padding = Pad::SAME, cpu = None), text_signature = "(x, out=None, *, size=2, stride=None, padding='same', cpu=None)")]
pub fn avg_pool<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    size: Pair,
    stride: Option<Pair>,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let x = Input::new("x", x)?;
    let shape = pool(x.axes(IMAGES)?, size, stride, padding);
    let mut y = Output::new(py, "out", out, &axes(shape.output()))?;
    let (x, into) = (x.slice(), y.slice());
    py.detach(|| kernels::avg_pool::forward(&cpu, shape, x, into));
    Ok(y.into_array())
}

/// The gradient of avg_pool's input, of the given shape.
#[pyfunction]
#[pyo3(signature = (dy, shape, out = None, *, size = Pair::TWO, stride = None, padding = Pad::SAME, cpu = None), text_signature = "(dy, shape, out=None, *, size=2, stride=None, padding='same', cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn avg_pool_backward<'py>(
    py: Python<'py>,
    dy: Any<'_, 'py>,
    shape: [usize; 4],
    out: Option<Any<'_, 'py>>,
    size: Pair,
    stride: Option<Pair>,
    padding: Pad,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let dy = Input::new("dy", dy)?;
    let mut dx = Output::new(py, "out", out, &shape)?;
    let shape = pool(shape, size, stride, padding);
    dy.has_shape(&axes(shape.output()), "the pool's output shape")?;
    let (dy, into) = (dy.slice(), dx.slice());
    py.detach(|| kernels::avg_pool::backward(&cpu, shape, dy, into));
    Ok(dx.into_array())
}

/// What `conv_block` returns.
type Block<'py> = (Array<'py>, Array<'py>, Normalization, Array<'py, u8>);

/// The study's block in one: convolution, bias, ReLU, batch normalisation, max pooling. Returns y and
/// what the backward pass takes: r, the normalization, argmax.
#[pyfunction]
#[pyo3(signature = (x, w, b, *, stride = Pair::ONE, padding = Pad::SAME, pool_size = Pair::TWO, pool_stride = None, epsilon = 1e-5, cpu = None), text_signature = "(x, w, b, *, stride=1, padding='same', pool_size=2, pool_stride=None, epsilon=1e-5, cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn conv_block<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    w: Any<'_, 'py>,
    b: Any<'_, 'py>,
    stride: Pair,
    padding: Pad,
    pool_size: Pair,
    pool_stride: Option<Pair>,
    epsilon: f64,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Block<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let (x, w, b) = (Input::new("x", x)?, Input::new("w", w)?, Input::new("b", b)?);
    let convolution = convolution(image_shape(x.axes(IMAGES)?), &w, stride, padding)?;
    let shape = block(convolution, pool_size, pool_stride)?;
    b.has_shape(&[convolution.filters], "(filters,)")?;
    let output = axes(shape.pool().output());
    let mut r = Output::new(py, "r", None, &axes(convolution.output()))?;
    let mut y = Output::new(py, "y", None, &output)?;
    let mut argmax = Output::new(py, "argmax", None, &output)?;
    let (x, w, b) = (x.slice(), w.slice(), b.slice());
    let (into_r, into, into_argmax) = (r.slice(), y.slice(), argmax.slice());
    let normalization = py.detach(|| {
        cpu.install(|| {
            let mut moments = Moments::new(convolution.filters);
            kernels::conv_block::forward(
                &cpu,
                shape,
                x,
                w,
                b,
                into_r,
                &mut moments,
                into,
                into_argmax,
            );
            let normalization = Normalization::of(&moments, epsilon);
            kernels::relu_batch_norm::forward_normalize_in_place(
                &cpu,
                shape.pool().output().pixels(),
                &normalization.0,
                None,
                into,
            );
            normalization
        })
    });
    Ok((y.into_array(), r.into_array(), normalization, argmax.into_array()))
}

/// The gradients of a block's weights and biases from what conv_block took and returned and the
/// gradient dy of its y.
#[pyfunction]
#[pyo3(signature = (x, r, normalization, y, argmax, dy, *, size = Pair::THREE, stride = Pair::ONE, padding = Pad::SAME, pool_size = Pair::TWO, pool_stride = None, cpu = None), text_signature = "(x, r, normalization, y, argmax, dy, *, size=3, stride=1, padding='same', pool_size=2, pool_stride=None, cpu=None)")]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn conv_block_backward_weights<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    r: Any<'_, 'py>,
    normalization: &Bound<'py, Normalization>,
    y: Any<'_, 'py>,
    argmax: Any<'_, 'py>,
    dy: Any<'_, 'py>,
    size: Pair,
    stride: Pair,
    padding: Pad,
    pool_size: Pair,
    pool_stride: Option<Pair>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(Array<'py>, Array<'py>)> {
    let cpu = Cpu::of(py, cpu)?;
    let (x, r, y) = (Input::new("x", x)?, Input::new("r", r)?, Input::new("y", y)?);
    let (argmax, dy) = (Input::<u8>::new("argmax", argmax)?, Input::new("dy", dy)?);
    let input = image_shape(x.axes(IMAGES)?);
    let [_, _, _, filters] = r.axes(IMAGES)?;
    let [height, width] = size.0;
    let mut dw = Output::new(py, "dw", None, &[height, width, input.channels, filters])?;
    let mut db = Output::new(py, "db", None, &[filters])?;
    let convolution = Conv2dShape { input, window: window(size, stride, padding), filters };
    let shape = block(convolution, pool_size, pool_stride)?;
    r.has_shape(&axes(convolution.output()), "the convolution's output shape")?;
    let output = axes(shape.pool().output());
    y.has_shape(&output, "the pool's output shape")?;
    argmax.has_shape(&output, "the pool's output shape")?;
    dy.has_shape(&output, "the pool's output shape")?;
    let normalization = normalization.get();
    normalization.check(filters)?;
    let (x, r, y, argmax, dy) = (x.slice(), r.slice(), y.slice(), argmax.slice(), dy.slice());
    check_places(shape.pool(), argmax)?;
    let (into, into_db) = (dw.slice(), db.slice());
    py.detach(|| {
        kernels::conv_block::backward_weights(
            &cpu,
            shape,
            x,
            r,
            &normalization.0,
            y,
            argmax,
            dy,
            Write::Overwrite,
            into,
            into_db,
        );
    });
    Ok((dw.into_array(), db.into_array()))
}

/// Inverted dropout, in place: every element of x is kept with the probability keep and divided by it,
/// or zeroed; which are is a function of seed, step and position. Applied to dy, it is the backward pass.
#[pyfunction]
#[pyo3(signature = (x, keep, *, seed, step, cpu = None))]
pub fn dropout<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    keep: f32,
    seed: u64,
    step: u64,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let mut x = Output::given("x", x)?;
    if !(keep > 0.0 && keep <= 1.0) {
        let why = format!("keep: is {keep}, but must be above 0 and at most 1");
        return Err(PyValueError::new_err(why));
    }
    let dropout = kernels::dropout::Dropout { keep, seed, step };
    let into = x.slice();
    py.detach(|| kernels::dropout::forward_in_place(&cpu, dropout, into));
    Ok(x.into_array())
}

/// Mean loss -ln p of every row's label and the share of hits in percent, of probabilities (rows,
/// classes) against class numbers (rows).
#[pyfunction]
#[pyo3(signature = (probabilities, labels, *, cpu = None))]
pub fn cross_entropy<'py>(
    py: Python<'py>,
    probabilities: Any<'_, 'py>,
    labels: Any<'_, 'py>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(f64, f64)> {
    let cpu = Cpu::of(py, cpu)?;
    let p = Input::new("probabilities", probabilities)?;
    let shape = matrix(&p)?;
    let labels = class_numbers("labels", labels, shape.rows, shape.cols)?;
    let p = p.slice();
    Ok(means(py.detach(|| kernels::cross_entropy::forward(&cpu, shape, p, &labels))))
}

/// The gradient of the summed cross-entropy with respect to the probabilities, times scale: -scale / p
/// at every row's label, 0 elsewhere.
#[pyfunction]
#[pyo3(signature = (probabilities, labels, out = None, *, scale = 1.0, cpu = None))]
pub fn cross_entropy_backward<'py>(
    py: Python<'py>,
    probabilities: Any<'_, 'py>,
    labels: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    scale: f32,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let backward = kernels::cross_entropy::backward;
    labelled(py, probabilities, labels, out, scale, cpu, backward)
}

/// The gradient of the summed cross-entropy after a softmax with respect to that softmax's input,
/// times scale: scale (probabilities - onehot(labels)).
#[pyfunction]
#[pyo3(signature = (probabilities, labels, out = None, *, scale = 1.0, cpu = None))]
pub fn softmax_cross_entropy_backward<'py>(
    py: Python<'py>,
    probabilities: Any<'_, 'py>,
    labels: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    scale: f32,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<Array<'py>> {
    let backward = kernels::softmax_cross_entropy::backward;
    labelled(py, probabilities, labels, out, scale, cpu, backward)
}

/// A kernel that takes probabilities, labels and a scale.
type Labelled = fn(&kernelet::Cpu, MatrixShape, &[f32], &[u32], f32, &mut [f32]);

fn labelled<'py>(
    py: Python<'py>,
    probabilities: Any<'_, 'py>,
    labels: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    scale: f32,
    cpu: OnCpu<'_, 'py>,
    backward: Labelled,
) -> PyResult<Array<'py>> {
    let cpu = Cpu::of(py, cpu)?;
    let p = Input::new("probabilities", probabilities)?;
    let shape = matrix(&p)?;
    let labels = class_numbers("labels", labels, shape.rows, shape.cols)?;
    let mut gradient = Output::new(py, "out", out, p.shape())?;
    let (p, into) = (p.slice(), gradient.slice());
    py.detach(|| backward(&cpu, shape, p, &labels, scale, into));
    Ok(gradient.into_array())
}

/// Mean loss and share of hits in percent of logits (rows, classes) against class numbers (rows):
/// softmax_cross_entropy without the gradient.
#[pyfunction]
#[pyo3(signature = (logits, labels, *, cpu = None))]
pub fn softmax_cross_entropy_forward<'py>(
    py: Python<'py>,
    logits: Any<'_, 'py>,
    labels: Any<'_, 'py>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(f64, f64)> {
    let cpu = Cpu::of(py, cpu)?;
    let logits = Input::new("logits", logits)?;
    let shape = matrix(&logits)?;
    let labels = class_numbers("labels", labels, shape.rows, shape.cols)?;
    let logits = logits.slice();
    Ok(means(py.detach(|| kernels::softmax_cross_entropy::forward(&cpu, shape, logits, &labels))))
}

/// Softmax and cross-entropy of logits (rows, classes) in one pass: mean loss, the share of hits in
/// percent, and the gradient of the logits, scale (softmax(logits) - onehot(labels)); scale is 1 / rows
/// where none is given, which makes it the mean loss's.
#[pyfunction]
#[pyo3(signature = (logits, labels, out = None, *, scale = None, cpu = None))]
pub fn softmax_cross_entropy<'py>(
    py: Python<'py>,
    logits: Any<'_, 'py>,
    labels: Any<'_, 'py>,
    out: Option<Any<'_, 'py>>,
    scale: Option<f32>,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<(f64, f64, Array<'py>)> {
    let cpu = Cpu::of(py, cpu)?;
    let logits = Input::new("logits", logits)?;
    let shape = matrix(&logits)?;
    let labels = class_numbers("labels", labels, shape.rows, shape.cols)?;
    let scale = scale.unwrap_or(1.0 / shape.rows as f32);
    let mut gradient = Output::new(py, "out", out, logits.shape())?;
    let (logits, into) = (logits.slice(), gradient.slice());
    let forward_backward = kernels::softmax_cross_entropy::forward_backward;
    let tally = py.detach(|| forward_backward(&cpu, shape, logits, &labels, scale, into));
    let (loss, accuracy) = means(tally);
    Ok((loss, accuracy, gradient.into_array()))
}

/// One update of gradient descent with momentum, in place: v = momentum v + learning_rate g, then
/// w = w - v.
#[pyfunction]
#[pyo3(signature = (w, v, g, *, learning_rate, momentum = 0.95, cpu = None))]
pub fn momentum<'py>(
    py: Python<'py>,
    w: Any<'_, 'py>,
    v: Any<'_, 'py>,
    g: Any<'_, 'py>,
    learning_rate: f32,
    momentum: f32,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<()> {
    let cpu = Cpu::of(py, cpu)?;
    let (mut w, mut v) = (Output::given("w", w)?, Output::given("v", v)?);
    let g = Input::new("g", g)?;
    v.has_shape(w.shape(), "w's shape")?;
    g.has_shape(w.shape(), "w's shape")?;
    let settings = kernels::momentum::Momentum { learning_rate, momentum };
    let (w, v, g) = (w.slice(), v.slice(), g.slice());
    py.detach(|| kernels::momentum::update(&cpu, settings, w, v, g));
    Ok(())
}

/// Update number step (from 1) of Adam as TensorFlow writes it, in place, with the gradient of
/// l2 sum(w^2) / 2 added to g. Returns the sum of w's squares before the update.
#[pyfunction]
#[pyo3(signature = (w, m, v, g, step, *, learning_rate = 1e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, l2 = 0.0, cpu = None))]
#[expect(clippy::too_many_arguments, reason = "Python names them")]
pub fn adam<'py>(
    py: Python<'py>,
    w: Any<'_, 'py>,
    m: Any<'_, 'py>,
    v: Any<'_, 'py>,
    g: Any<'_, 'py>,
    step: u64,
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    l2: f32,
    cpu: OnCpu<'_, 'py>,
) -> PyResult<f64> {
    let cpu = Cpu::of(py, cpu)?;
    let (mut w, mut m) = (Output::given("w", w)?, Output::given("m", m)?);
    let (mut v, g) = (Output::given("v", v)?, Input::new("g", g)?);
    m.has_shape(w.shape(), "w's shape")?;
    v.has_shape(w.shape(), "w's shape")?;
    g.has_shape(w.shape(), "w's shape")?;
    counted_from_1(step)?;
    let adam = kernels::adam::Adam { learning_rate, beta1, beta2, epsilon, l2 };
    let (w, m, v, g) = (w.slice(), m.slice(), v.slice(), g.slice());
    Ok(py.detach(|| kernels::adam::update(&cpu, adam, step, w, m, v, g)))
}

fn counted_from_1(step: u64) -> PyResult<()> {
    match step {
        0 => Err(PyValueError::new_err("step: is 0, but updates are counted from 1")),
        _ => Ok(()),
    }
}

/// A window's size or stride: one number or two, (height, width).
#[derive(Clone, Copy)]
pub struct Pair([usize; 2]);

impl Pair {
    const ONE: Self = Self([1; 2]);
    const TWO: Self = Self([2; 2]);
    const THREE: Self = Self([3; 2]);
}

impl<'py> FromPyObject<'_, 'py> for Pair {
    type Error = PyErr;

    fn extract(argument: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let pair = argument.extract().map(|n| [n; 2]).or_else(|_| argument.extract());
        match pair {
            // A window's places have numbers below 2^32.
            Ok(pair) if pair.iter().all(|n| (1..=0xFFFF).contains(n)) => Ok(Self(pair)),
            Ok(pair) => {
                let why = format!("1 to 65535 is wanted for each side, not {pair:?}");
                Err(PyValueError::new_err(why))
            }
            Err(_) => Err(PyTypeError::new_err(format!(
                "1 to 65535 or a pair of these, (height, width), is wanted, not {argument:?}"
            ))),
        }
    }
}

/// The name of a padding.
#[derive(Clone, Copy)]
pub struct Pad(Padding);

impl Pad {
    const SAME: Self = Self(Padding::Same);
}

impl<'py> FromPyObject<'_, 'py> for Pad {
    type Error = PyErr;

    fn extract(argument: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let wrong = || format!("'same' or 'valid' is wanted, not {argument:?}");
        let name = argument.extract::<String>().map_err(|_| PyTypeError::new_err(wrong()))?;
        match &*name {
            "same" => Ok(Self(Padding::Same)),
            "valid" => Ok(Self(Padding::Valid)),
            _ => Err(PyValueError::new_err(wrong())),
        }
    }
}

fn write(add: bool, outputs: &[(&str, Option<Any>)]) -> PyResult<Write> {
    match outputs.iter().find(|(_, given)| add && given.is_none()) {
        Some((name, _)) => Err(PyValueError::new_err(format!("add: there is no {name} to add to"))),
        None if add => Ok(Write::Add),
        None => Ok(Write::Overwrite),
    }
}

fn means(tally: Tally) -> (f64, f64) {
    (tally.mean_loss(), tally.accuracy())
}

fn matrix(x: &Input<f32>) -> PyResult<MatrixShape> {
    x.axes(MATRIX).map(|[rows, cols]| MatrixShape { rows, cols })
}

/// An array as a matrix of pixels and channels.
fn pixels(name: &str, shape: &[usize]) -> PyResult<MatrixShape> {
    match shape {
        [pixels @ .., channels] => {
            Ok(MatrixShape { rows: pixels.iter().product(), cols: *channels })
        }
        [] => Err(wrong_shape(name, shape, "(..., channels)")),
    }
}

fn per_channel<'py>(
    name: &'static str,
    argument: Option<Any<'_, 'py>>,
    channels: usize,
) -> PyResult<Option<Input<'py, f32>>> {
    let input = argument.map(|argument| Input::new(name, argument)).transpose()?;
    if let Some(input) = &input {
        input.has_shape(&[channels], "(channels,)")?;
    }
    Ok(input)
}

/// The linear layer with this input and this gradient of its output.
fn layer(x: &Input<f32>, dy: &Input<f32>) -> PyResult<LinearShape> {
    let [rows, inputs] = x.axes("(rows, inputs)")?;
    let [_, outputs] = dy.axes("(rows, outputs)")?;
    dy.has_shape(&[rows, outputs], "(rows, outputs)")?;
    Ok(LinearShape { rows, inputs, outputs })
}

fn image_shape([batch, height, width, channels]: [usize; 4]) -> ImageShape {
    ImageShape { batch, height, width, channels }
}

fn axes(ImageShape { batch, height, width, channels }: ImageShape) -> [usize; 4] {
    [batch, height, width, channels]
}

fn window(size: Pair, stride: Pair, padding: Pad) -> Window {
    Window { size: size.0, stride: stride.0, padding: padding.0 }
}

fn convolution(
    input: ImageShape,
    w: &Input<f32>,
    stride: Pair,
    padding: Pad,
) -> PyResult<Conv2dShape> {
    let named = "(height, width, channels, filters)";
    let [height, width, _, filters] = w.axes(named)?;
    w.has_shape(&[height, width, input.channels, filters], named)?;
    if height == 0 || width == 0 {
        return Err(wrong_shape("w", w.shape(), "of a window with an element"));
    }
    let window = Window { size: [height, width], stride: stride.0, padding: padding.0 };
    Ok(Conv2dShape { input, window, filters })
}

fn pool(shape: [usize; 4], size: Pair, stride: Option<Pair>, pad: Pad) -> PoolShape {
    let window = window(size, stride.unwrap_or(size), pad);
    PoolShape { input: image_shape(shape), window }
}

fn block(convolution: Conv2dShape, size: Pair, stride: Option<Pair>) -> PyResult<ConvBlockShape> {
    let pool = window(size, stride.unwrap_or(size), Pad::SAME);
    places_in_a_byte("pool_size", pool)?;
    Ok(ConvBlockShape { convolution, pool })
}

/// Makes sure of a window whose places an argmax of bytes can number.
fn places_in_a_byte(name: &str, window: Window) -> PyResult<()> {
    if window.area() <= 256 {
        return Ok(());
    }
    let why = format!("{name}: {:?} has more than 256 places", window.size);
    Err(PyValueError::new_err(why))
}

/// Makes sure that every place is one of its window and of the image: no other can come from a
/// forward pass, and the kernels take them at their word.
fn check_places<P: kernels::max_pool::Place>(shape: PoolShape, argmax: &[P]) -> PyResult<()> {
    if argmax.is_empty() {
        return Ok(());
    }
    let PoolShape { input, window } = shape;
    let output = shape.output();
    let before = window.padding_before(input.height, input.width);
    // Of a place in the window that stands at `at`, whether it lies in the image along an axis.
    let within = |axis: usize, at: usize, offset: usize, len: usize| {
        let position = at * window.stride[axis] + offset;
        position >= before[axis] && position - before[axis] < len
    };
    let mut places = argmax.chunks_exact(output.channels.max(1));
    for _ in 0..output.batch {
        for row in 0..output.height {
            for (column, places) in (0..output.width).zip(&mut places) {
                for place in places {
                    let (down, right) =
                        (place.index() / window.size[1], place.index() % window.size[1]);
                    if down >= window.size[0]
                        || !within(0, row, down, input.height)
                        || !within(1, column, right, input.width)
                    {
                        let why = format!(
                            "argmax: {} at row {row}, column {column} is no place of its window",
                            place.index()
                        );
                        return Err(PyValueError::new_err(why));
                    }
                }
            }
        }
    }
    Ok(())
}
