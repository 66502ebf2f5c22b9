//! Training beside Python: the loop runs in a thread of its own, while the caller's thread calls back
//! into Python and listens to Ctrl-C, which only it hears.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use kernelet::Error;
use kernelet::train::{Epoch, History, Metrics};
use numpy::PyArray1;
use pyo3::create_exception;
use pyo3::exceptions::{PyArithmeticError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

create_exception!(
    kernelet,
    TrainingDiverged,
    PyArithmeticError,
    "A loss is not finite any more. The network is left with the last weights whose loss was."
);

/// The training loop's end of the line to the caller.
pub struct Observer<'a> {
    /// Where epochs go, and where the word comes from that the caller has seen one; only if there is
    /// somebody to show them to.
    line: Option<(Sender<Epoch>, Receiver<()>)>,
    /// Kept until the loop ends, which hangs up.
    _alive: Sender<Epoch>,
    stop: &'a AtomicBool,
}

impl Observer<'_> {
    /// Shows an epoch to the caller.
    pub fn epoch(&mut self, epoch: &Epoch) -> ControlFlow<()> {
        if let Some((epochs, seen)) = &self.line {
            // Without a caller there is nobody to wait for.
            let _ = epochs.send(*epoch).map(|()| seen.recv());
        }
        self.step()
    }

    /// Whether to go on.
    pub fn step(&self) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Runs a training loop, and calls `progress` with every epoch's figures; where that returns `True`,
/// the loop ends. What it raises ends it too, and so does Ctrl-C: both come back beside the result.
pub fn run<R: Send>(
    py: Python,
    progress: Option<&Bound<PyAny>>,
    train: impl FnOnce(&mut Observer) -> R + Send,
) -> PyResult<(R, Option<PyErr>)> {
    let stop = &AtomicBool::new(false);
    let (alive, mut epochs) = channel();
    let (answer, seen) = channel();
    let line = progress.map(|_| (alive.clone(), seen));
    let mut observer = Observer { line, _alive: alive, stop };
    let mut raised = None;
    let result = thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("kernelet-fit".into())
            .spawn_scoped(scope, move || train(&mut observer))?;
        loop {
            let (message, back) =
                py.detach(move || (epochs.recv_timeout(Duration::from_millis(50)), epochs));
            epochs = back;
            let outcome = match message {
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => py.check_signals().map(|()| false),
                Ok(epoch) => py.check_signals().and_then(|()| show(py, progress, &epoch)),
            };
            if !matches!(outcome, Ok(false)) {
                stop.store(true, Ordering::Relaxed);
            }
            raised = raised.take().or(outcome.err());
            // Nobody listens if the loop has ended meanwhile.
            let _ = message.map(|_| answer.send(()));
        }
        Ok::<_, PyErr>(py.detach(|| worker.join()))
    })?;
    let result = result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        PyRuntimeError::new_err(format!("the training loop has panicked: {text}"))
    })?;
    Ok((result, raised))
}

/// Calls `progress`; whether it wants the run to end.
fn show(py: Python, progress: Option<&Bound<PyAny>>, epoch: &Epoch) -> PyResult<bool> {
    let Some(progress) = progress else { return Ok(false) };
    let figures = PyDict::new(py);
    figures.set_item("epoch", epoch.epoch)?;
    figures.set_item("train_seconds", epoch.train_seconds)?;
    for (name, of) in SETS {
        if let Some(Metrics { loss, accuracy, .. }) = of(epoch) {
            figures.set_item(format!("{name}_loss"), loss)?;
            figures.set_item(format!("{name}_accuracy"), accuracy)?;
        }
    }
    let answer = progress.call1((figures,))?;
    Ok(!answer.is_none() && answer.is_truthy()?)
}

/// A set's figures of an epoch.
type Figures = fn(&Epoch) -> Option<Metrics>;

const SETS: [(&str, Figures); 3] =
    [("train", |row| row.train), ("valid", |row| row.valid), ("test", |row| row.test)];

/// A history as arrays, one element for every evaluated epoch and NaN where a figure is missing.
pub fn columns<'py>(py: Python<'py>, history: &History) -> PyResult<Bound<'py, PyDict>> {
    let columns = PyDict::new(py);
    let rows = &history.epochs;
    let epochs = PyArray1::from_iter(py, rows.iter().map(|row| row.epoch as i64));
    columns.set_item("epoch", epochs)?;
    let add = |name: String, of: &dyn Fn(&Epoch) -> f64| {
        columns.set_item(name, PyArray1::from_iter(py, rows.iter().map(of)))
    };
    for (name, of) in SETS {
        add(format!("{name}_loss"), &|row| of(row).map_or(f64::NAN, |m| m.loss))?;
        add(format!("{name}_accuracy"), &|row| of(row).map_or(f64::NAN, |m| m.accuracy))?;
    }
    add("train_seconds".into(), &|row| row.train_seconds)?;
    add("eval_seconds".into(), &|row| row.eval_seconds)?;
    Ok(columns)
}

/// The exception that an error becomes.
pub fn exception(error: Error) -> PyErr {
    match error {
        Error::Io { path, source } => match source.raw_os_error() {
            Some(number) => {
                // Python makes it a FileNotFoundError or whatever else fits the number.
                let text = source.to_string();
                let text = text.split(" (os error").next().unwrap_or_default().to_owned();
                PyOSError::new_err((number, text, path))
            }
            None => PyOSError::new_err(Error::Io { path, source }.to_string()),
        },
        Error::Diverged { .. } => TrainingDiverged::new_err(error.to_string()),
        Error::Threads { .. } => PyRuntimeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}
