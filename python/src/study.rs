//! The study's functions that are not a kernel as they stand: `kernelet.study` gives them their names.

use numpy::PyArrayDyn;
use pyo3::prelude::*;

use crate::arrays::{Any, Input, Output};
use crate::cpu::Cpu;

/// x = max(x, 0), in place; returns x.
#[pyfunction]
pub fn study_relu<'py>(py: Python<'py>, x: Any<'_, 'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let cpu = Cpu::of(py, None)?;
    let mut x = Output::given("x", x)?;
    let into = x.slice();
    py.detach(|| kernelet::kernels::relu::forward_in_place(&cpu, into));
    Ok(x.into_array())
}

/// Mean of -sum(target ln(prediction)) over the rows, and the share in percent of the rows whose
/// largest elements are at the same place. A class that is no target adds nothing, whatever its
/// prediction (0 ln(0) is 0). In float64.
#[pyfunction]
pub fn study_average_ce<'py>(
    py: Python<'py>,
    target: Any<'_, 'py>,
    prediction: Any<'_, 'py>,
) -> PyResult<(f64, f64)> {
    let (target, prediction) = pair(("target", target), ("prediction", prediction))?;
    let [rows, classes] = target.axes("(rows, classes)")?;
    let (t, p) = (target.slice(), prediction.slice());
    let (loss, hits) = py.detach(|| {
        let (mut loss, mut hits) = (0.0, 0);
        for (t, p) in t.chunks_exact(classes.max(1)).zip(p.chunks_exact(classes.max(1))) {
            for (&t, &p) in t.iter().zip(p).filter(|&(&t, _)| t != 0.0) {
                loss -= f64::from(t) * f64::from(p).ln();
            }
            hits += usize::from(argmax(t) == argmax(p));
        }
        (loss, hits)
    });
    Ok((loss / rows as f64, 100.0 * hits as f64 / rows as f64))
}

/// The place of the largest element, the first of equals; NaN is larger than any number, as NumPy has
/// it.
fn argmax(row: &[f32]) -> usize {
    let mut largest = 0;
    for (at, &value) in row.iter().enumerate() {
        if value > row[largest] || (value.is_nan() && !row[largest].is_nan()) {
            largest = at;
        }
    }
    largest
}

/// prediction - target: the gradient of the summed cross-entropy with respect to the softmax's input.
#[pyfunction]
pub fn study_grad_ce<'py>(
    py: Python<'py>,
    prediction: Any<'_, 'py>,
    target: Any<'_, 'py>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let (prediction, target) = pair(("prediction", prediction), ("target", target))?;
    let mut gradient = Output::new(py, "the result", None, prediction.shape())?;
    let (p, t, into) = (prediction.slice(), target.slice(), gradient.slice());
    py.detach(|| {
        for ((gradient, &p), &t) in into.iter_mut().zip(p).zip(t) {
            *gradient = p - t;
        }
    });
    Ok(gradient.into_array())
}

/// Two arrays of the same shape.
fn pair<'py>(
    (name, first): (&'static str, Any<'_, 'py>),
    (other_name, second): (&'static str, Any<'_, 'py>),
) -> PyResult<(Input<'py, f32>, Input<'py, f32>)> {
    let (first, second) = (Input::new(name, first)?, Input::new(other_name, second)?);
    second.has_shape(first.shape(), &format!("{name}'s"))?;
    Ok((first, second))
}
