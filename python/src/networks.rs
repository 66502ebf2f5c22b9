//! `MLP` and `CNN`: networks with their training loops.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kernelet::data::Split;
use kernelet::kernels::relu_batch_norm::{Moments, Normalization, RunningMoments};
use kernelet::nn::{self, CnnShape, MlpShape, cnn, mlp};
use kernelet::train::mlp::Reduction;
use kernelet::train::{self, weights};
use numpy::{PyArray, PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::{PyKeyError, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Any, Input, Output};
use crate::cpu::{Cpu, OnCpu};
use crate::pixels::{Pixels, optional_samples, samples};
use crate::training::{self, Observer, columns, exception};

/// An array of one axis.
type Vector<'py> = Bound<'py, PyArray1<f32>>;

/// A network that one thread may replace while others use it as it was.
struct Shared<N>(Mutex<Arc<N>>);

impl<N> Shared<N> {
    fn new(network: N) -> Self {
        Self(Mutex::new(Arc::new(network)))
    }

    fn get(&self) -> Arc<N> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, network: N) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(network);
    }
}

/// A perceptron with one hidden layer: linear, ReLU, linear, softmax.
#[pyclass(frozen, name = "MLP", module = "kernelet")]
pub struct Mlp(Shared<nn::Mlp>);

#[pymethods]
impl Mlp {
    /// With the study's start: Xavier weights, drawn by the seed, and biases of zero.
    #[new]
    #[pyo3(signature = (hidden = 1000, *, inputs = 784, classes = 10, seed = 1))]
    fn new(hidden: usize, inputs: usize, classes: usize, seed: u64) -> PyResult<Self> {
        check_sizes(&[("hidden", hidden), ("inputs", inputs), ("classes", classes)])?;
        let shape = MlpShape { inputs, hidden, classes };
        check_memory(shape.parameters(), mlp::Workspace::bytes(shape, usize::MAX))?;
        Ok(Self(Shared::new(nn::Mlp::xavier(shape, seed))))
    }

    /// Reads the weights of an .npz or .safetensors file that `save` or `kernelet train mlp` wrote.
    #[staticmethod]
    fn load(py: Python, path: PathBuf) -> PyResult<Self> {
        let network = py.detach(|| weights::load_mlp(&*path)).map_err(exception)?;
        Ok(Self(Shared::new(network)))
    }

    /// Writes the weights to an .npz or, by its name, a .safetensors file, which appears complete or not
    /// at all.
    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        let network = self.0.get();
        py.detach(|| weights::save_mlp(&path, &network)).map_err(exception)
    }

    /// Trains on images (n, ...) and labels (n,) by gradient descent with momentum on all of them.
    #[pyo3(signature = (
        images, labels, validation = None, test = None, *, epochs = 200, learning_rate = 1e-5,
        momentum = 0.95, reduction = "sum", eval_every = 1, patience = None, progress = None,
        cpu = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn fit<'py>(
        &self,
        images: Any<'_, 'py>,
        labels: Any<'_, 'py>,
        validation: Option<Any<'_, 'py>>,
        test: Option<Any<'_, 'py>>,
        epochs: usize,
        learning_rate: f32,
        momentum: f32,
        reduction: &str,
        eval_every: usize,
        patience: Option<usize>,
        progress: Option<Any<'_, 'py>>,
        cpu: OnCpu<'_, 'py>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let py = images.py();
        let cpu = Cpu::of(py, cpu)?;
        let reduction = match reduction {
            "sum" => Reduction::Sum,
            "mean" => Reduction::Mean,
            other => {
                let why = format!("reduction: 'sum' or 'mean' is wanted, not '{other}'");
                return Err(PyValueError::new_err(why));
            }
        };
        let settings = train::mlp::Settings {
            epochs,
            learning_rate,
            momentum,
            reduction,
            eval_every,
            patience,
        };
        let mut network = nn::Mlp::clone(&self.0.get());
        let shape = network.shape;
        let split = split(images, labels, validation, test, (shape.inputs, shape.classes))?;
        let mut state = train::mlp::State::new(shape);
        let run = |observer: &mut Observer| {
            let observe = &mut |epoch: &train::Epoch| observer.epoch(epoch);
            let keep = &mut |_: &_, _: &_| Ok(());
            train::mlp::resume(&cpu, &settings, &split, &mut network, &mut state, observe, keep)
        };
        let (result, raised) = training::run(py, progress, run)?;
        self.0.set(network);
        finish(result, raised)?;
        history(py, &state.history)
    }

    /// The most probable class of each image; with `probabilities`, those of all classes.
    #[pyo3(signature = (images, *, probabilities = false, cpu = None))]
    fn predict<'py>(
        &self,
        images: Any<'_, 'py>,
        probabilities: bool,
        cpu: OnCpu<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = images.py();
        let cpu = Cpu::of(py, cpu)?;
        let network = self.0.get();
        let MlpShape { inputs, classes, .. } = network.shape;
        let images = Pixels::new("images", images, inputs)?;
        let x = images.slice();
        let mut output = Output::new(py, "probabilities", None, &[x.len() / inputs, classes])?;
        let into = output.slice();
        py.detach(|| {
            let work = &mut mlp::Workspace::default();
            cpu.install(|| network.predict(&cpu, work, x, into));
        });
        prediction(output, probabilities)
    }

    /// Mean loss and the share of images classified correctly in percent.
    #[pyo3(signature = (images, labels, *, cpu = None))]
    fn evaluate<'py>(
        &self,
        images: Any<'_, 'py>,
        labels: Any<'_, 'py>,
        cpu: OnCpu<'_, 'py>,
    ) -> PyResult<(f64, f64)> {
        let py = images.py();
        let cpu = Cpu::of(py, cpu)?;
        let network = self.0.get();
        let MlpShape { inputs, classes, .. } = network.shape;
        let set = samples(("images", images), ("labels", labels), (inputs, classes))?;
        let tally = py.detach(|| {
            let work = &mut mlp::Workspace::default();
            cpu.install(|| network.evaluate(&cpu, work, &set.images, &set.labels))
        });
        Ok((tally.mean_loss(), tally.accuracy()))
    }

    /// Copies of the weights, by the names that they have in files.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        named(py, &self.0.get().arrays())
    }

    #[setter]
    fn set_weights(&self, weights: &Bound<PyDict>) -> PyResult<()> {
        let mut network = nn::Mlp::clone(&self.0.get());
        let shapes = network.arrays().map(|(name, shape, _)| (name, shape));
        let nn::Mlp { w_h, b_h, w_o, b_o, .. } = &mut network;
        take_over(weights, &shapes, [w_h, b_h, w_o, b_o])?;
        self.0.set(network);
        Ok(())
    }

    fn __repr__(&self) -> String {
        let MlpShape { inputs, hidden, classes } = self.0.get().shape;
        format!("MLP(hidden={hidden}, inputs={inputs}, classes={classes})")
    }
}

/// The study's convolutional network: 3x3 convolution, ReLU, batch normalisation, 2x2 max pool, linear,
/// dropout, ReLU, linear, softmax.
#[pyclass(frozen, name = "CNN", module = "kernelet")]
pub struct Cnn(Shared<TrainedCnn>);

/// A network, and the moments that its training has seen, if it has been trained.
#[derive(Clone)]
struct TrainedCnn {
    network: nn::Cnn,
    running_moments: Option<RunningMoments>,
}

#[pymethods]
impl Cnn {
    /// With the study's start: truncated Xavier weights and biases, drawn by the seed.
    #[new]
    #[pyo3(signature = (
        hidden = 784, *, filters = 32, classes = 10, height = 28, width = 28, channels = 1, seed = 1
    ))]
    fn new(
        hidden: usize,
        filters: usize,
        classes: usize,
        height: usize,
        width: usize,
        channels: usize,
        seed: u64,
    ) -> PyResult<Self> {
        check_sizes(&[
            ("hidden", hidden),
            ("filters", filters),
            ("classes", classes),
            ("height", height),
            ("width", width),
            ("channels", channels),
        ])?;
        // So that no size of an image overflows.
        let sides = [("height", height), ("width", width), ("channels", channels)];
        let sides = sides.into_iter().chain([("filters", filters)]);
        if let Some((name, side)) = sides.into_iter().find(|(_, side)| *side > 0xFFFF) {
            return Err(PyValueError::new_err(format!("{name}: is {side}, but at most 65535 fit")));
        }
        let shape = CnnShape { height, width, channels, filters, hidden, classes };
        check_memory(shape.parameters(), cnn::Workspace::bytes_to_train(shape, 1))?;
        let network = nn::Cnn::xavier(shape, seed);
        Ok(Self(Shared::new(TrainedCnn { network, running_moments: None })))
    }

    /// Reads the weights, and the running moments if there are any, of an .npz or .safetensors file
    /// that `save` or `kernelet train cnn` wrote.
    #[staticmethod]
    #[pyo3(signature = (path, *, height = 28, width = 28))]
    fn load(py: Python, path: PathBuf, height: usize, width: usize) -> PyResult<Self> {
        let load = || weights::load_cnn(&*path, height, width);
        let (network, running_moments) = py.detach(load).map_err(exception)?;
        Ok(Self(Shared::new(TrainedCnn { network, running_moments })))
    }

    /// Writes the weights and the running moments to an .npz or, by its name, a .safetensors file,
    /// which appears complete or not at all.
    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        let TrainedCnn { network, running_moments } = &*self.0.get();
        py.detach(|| weights::save_cnn(&path, network, running_moments.as_ref())).map_err(exception)
    }

    /// Trains on images (n, ...) and labels (n,) by Adam in minibatches.
    #[pyo3(signature = (
        images, labels, validation = None, test = None, *, epochs = 50, learning_rate = 1e-4,
        batch = 32, l2 = 0.0, keep_probability = 1.0, shuffle = true, seed = 1, eval_every = 1,
        patience = None, progress = None, cpu = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn fit<'py>(
        &self,
        images: Any<'_, 'py>,
        labels: Any<'_, 'py>,
        validation: Option<Any<'_, 'py>>,
        test: Option<Any<'_, 'py>>,
        epochs: usize,
        learning_rate: f32,
        batch: usize,
        l2: f32,
        keep_probability: f32,
        shuffle: bool,
        seed: u64,
        eval_every: usize,
        patience: Option<usize>,
        progress: Option<Any<'_, 'py>>,
        cpu: OnCpu<'_, 'py>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let py = images.py();
        let cpu = Cpu::of(py, cpu)?;
        let settings = train::cnn::Settings {
            epochs,
            learning_rate,
            batch,
            l2,
            keep_probability,
            shuffle,
            seed,
            eval_every,
            patience,
        };
        let TrainedCnn { mut network, running_moments: before } = TrainedCnn::clone(&self.0.get());
        let shape = network.shape;
        let split = split(images, labels, validation, test, (shape.pixels(), shape.classes))?;
        let mut state = train::cnn::State::new(shape);
        let run = |observer: &mut Observer| {
            let observe = &mut |event: train::cnn::Event| match event {
                train::cnn::Event::Step { .. } => observer.step(),
                train::cnn::Event::Epoch(epoch) => observer.epoch(epoch),
            };
            let keep = &mut |_: &_, _: &_| Ok(());
            train::cnn::resume(&cpu, &settings, &split, &mut network, &mut state, observe, keep)
        };
        let (result, raised) = training::run(py, progress, run)?;
        // Without a step there are no new ones.
        let running_moments = state.running_moments.take().or(before);
        self.0.set(TrainedCnn { network, running_moments });
        finish(result, raised)?;
        let history = history(py, &state.history)?;
        history.set_item("step_losses", PyArray1::from_slice(py, &state.step_losses))?;
        Ok(history)
    }

    /// The most probable class of each image; with `probabilities`, those of all classes. Normalises
    /// with the running moments of training; where there are none, with those of the images.
    #[pyo3(signature = (images, *, probabilities = false, cpu = None))]
    fn predict<'py>(
        &self,
        images: Any<'_, 'py>,
        probabilities: bool,
        cpu: OnCpu<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = images.py();
        let cpu = Cpu::of(py, cpu)?;
        let trained = self.0.get();
        let shape = trained.network.shape;
        let (pixels, classes) = (shape.pixels(), shape.classes);
        let images = Pixels::new("images", images, pixels)?;
        let x = images.slice();
        let mut output = Output::new(py, "probabilities", None, &[x.len() / pixels, classes])?;
        let into = output.slice();
        let TrainedCnn { network, running_moments } = &*trained;
        py.detach(|| {
            cpu.install(|| {
                let work = &mut cnn::Workspace::default();
                let moments = running_moments.as_ref();
                let normalization = normalization(&cpu, network, work, x, moments);
                network.predict(&cpu, work, &normalization, x, into);
            });
        });
        prediction(output, probabilities)
    }

    /// Mean loss and the share of images classified correctly in percent, normalised as training
    /// evaluates, with the moments of the images.
    #[pyo3(signature = (images, labels, *, cpu = None))]
    fn evaluate<'py>(
        &self,
        images: Any<'_, 'py>,
        labels: Any<'_, 'py>,
        cpu: OnCpu<'_, 'py>,
    ) -> PyResult<(f64, f64)> {
        let py = images.py();
        let cpu = Cpu::of(py, cpu)?;
        let trained = self.0.get();
        let shape = trained.network.shape;
        let set = samples(("images", images), ("labels", labels), (shape.pixels(), shape.classes))?;
        let tally = py.detach(|| {
            cpu.install(|| {
                let work = &mut cnn::Workspace::default();
                let (network, x) = (&trained.network, &set.images);
                let normalization = normalization(&cpu, network, work, x, None);
                network.evaluate(&cpu, work, &normalization, x, &set.labels)
            })
        });
        Ok((tally.mean_loss(), tally.accuracy()))
    }

    /// Copies of the weights, by the names that they have in files.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        named(py, &self.0.get().network.arrays())
    }

    /// Takes over weights; the running moments, which are those of others, are forgotten.
    #[setter]
    fn set_weights(&self, weights: &Bound<PyDict>) -> PyResult<()> {
        let mut network = self.0.get().network.clone();
        let shapes = network.arrays().map(|(name, shape, _)| (name, shape));
        let nn::Cnn { w0, b0, w1, b1, w2, b2, .. } = &mut network;
        take_over(weights, &shapes, [w0, b0, w1, b1, w2, b2])?;
        self.0.set(TrainedCnn { network, running_moments: None });
        Ok(())
    }

    /// Mean and variance per filter that training has seen, if it has.
    #[getter]
    fn running_moments<'py>(&self, py: Python<'py>) -> Option<(Vector<'py>, Vector<'py>)> {
        let trained = self.0.get();
        let RunningMoments { mean, variance } = trained.running_moments.as_ref()?;
        Some((PyArray1::from_slice(py, mean), PyArray1::from_slice(py, variance)))
    }

    #[setter]
    fn set_running_moments(&self, moments: Option<(Bound<PyAny>, Bound<PyAny>)>) -> PyResult<()> {
        let network = self.0.get().network.clone();
        let filters = network.shape.filters;
        let array = |name, argument: &Bound<PyAny>| {
            let input = Input::<f32>::new(name, argument)?;
            input.has_shape(&[filters], "(filters,)")?;
            Ok::<_, PyErr>(input.slice().to_vec())
        };
        let read = |(mean, variance): (Bound<PyAny>, Bound<PyAny>)| {
            let (mean, variance) = (array("mean", &mean)?, array("variance", &variance)?);
            Ok::<_, PyErr>(RunningMoments { mean, variance })
        };
        let running_moments = moments.map(read).transpose()?;
        self.0.set(TrainedCnn { network, running_moments });
        Ok(())
    }

    fn __repr__(&self) -> String {
        let CnnShape { height, width, channels, filters, hidden, classes } =
            self.0.get().network.shape;
        format!(
            "CNN(hidden={hidden}, filters={filters}, classes={classes}, height={height}, \
             width={width}, channels={channels})"
        )
    }
}

/// By the running moments, or where there are none by those of the images.
fn normalization(
    cpu: &kernelet::Cpu,
    network: &nn::Cnn,
    work: &mut cnn::Workspace,
    x: &[f32],
    running_moments: Option<&RunningMoments>,
) -> Normalization {
    let filters = network.shape.filters;
    let mut normalization = Normalization::identity(filters);
    match running_moments {
        Some(moments) => normalization.set_running(moments, cnn::EPSILON),
        None => {
            let mut moments = Moments::new(filters);
            network.moments(cpu, work, x, &mut moments);
            normalization.set(&moments, cnn::EPSILON);
        }
    }
    normalization
}

/// Refuses a network without units.
fn check_sizes(sizes: &[(&str, usize)]) -> PyResult<()> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => {
            Err(PyValueError::new_err(format!("{name}: is 0, but must be at least 1")))
        }
        None => Ok(()),
    }
}

/// Refuses a network that there is no memory for: for its weights, their gradients, the optimiser's
/// moments and what early stopping keeps, and for the bytes of its workspace.
fn check_memory(parameters: usize, workspace: usize) -> PyResult<()> {
    let bytes = parameters.saturating_mul(5 * size_of::<f32>()).saturating_add(workspace);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        PyMemoryError::new_err(format!("no memory for a network of {parameters} weights"))
    })
}

fn split(
    images: Any,
    labels: Any,
    validation: Option<Any>,
    test: Option<Any>,
    shape: (usize, usize),
) -> PyResult<Split> {
    Ok(Split {
        train: samples(("images", images), ("labels", labels), shape)?,
        valid: optional_samples("validation", validation, shape)?,
        test: optional_samples("test", test, shape)?,
        classes: shape.1,
    })
}

/// What a run ends with: what Python has raised comes first.
fn finish(result: Result<(), kernelet::Error>, raised: Option<PyErr>) -> PyResult<()> {
    match raised {
        Some(raised) => Err(raised),
        None => result.map_err(exception),
    }
}

fn history<'py>(py: Python<'py>, history: &train::History) -> PyResult<Bound<'py, PyDict>> {
    let columns = columns(py, history)?;
    columns.set_item("kept", history.kept)?;
    columns.set_item("stopped_early", history.stopped_early)?;
    Ok(columns)
}

/// Probabilities as they are, or the first of the largest of every row.
fn prediction<'py>(
    probabilities: Output<'py, f32>,
    as_they_are: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let probabilities: Bound<PyArrayDyn<f32>> = probabilities.into_array();
    if as_they_are {
        return Ok(probabilities.into_any());
    }
    probabilities.call_method1("argmax", (1,))
}

/// Arrays as files have them: name, shape, values.
type Named<'a> = (&'static str, Vec<usize>, &'a [f32]);

fn named<'py>(py: Python<'py>, arrays: &[Named]) -> PyResult<Bound<'py, PyDict>> {
    let copies = PyDict::new(py);
    for (name, shape, values) in arrays {
        copies.set_item(name, PyArray::from_slice(py, values).reshape(&shape[..])?)?;
    }
    Ok(copies)
}

/// Takes over the arrays of `given`: all or none.
fn take_over<const N: usize>(
    given: &Bound<PyDict>,
    shapes: &[(&'static str, Vec<usize>); N],
    own: [&mut Vec<f32>; N],
) -> PyResult<()> {
    let known = |name: &str| shapes.iter().any(|(known, _)| *known == name);
    for name in given.keys() {
        let name: String = name.extract()?;
        if !known(&name) {
            return Err(PyKeyError::new_err(format!("{name}: is no array of this network")));
        }
    }
    let mut inputs = Vec::with_capacity(N);
    for (name, shape) in shapes {
        let array = given.get_item(name)?;
        let array = array.ok_or_else(|| PyKeyError::new_err(format!("{name}: is missing")))?;
        let input = Input::<f32>::new(name, &array)?;
        input.has_shape(shape, "")?;
        inputs.push(input);
    }
    for (own, input) in own.into_iter().zip(inputs) {
        own.copy_from_slice(input.slice());
    }
    Ok(())
}
