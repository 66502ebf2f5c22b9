//! Images and labels from arrays, as the training loops take them.

use kernelet::data::Samples;
use numpy::{PyArrayDescrMethods, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::{Any, Input, labels, untyped, wrong_shape};

/// The values of `pixels` each of some images, float32 as they are or uint8 scaled by 1/255.
pub enum Pixels<'py> {
    Floats(Input<'py, f32>),
    Scaled(Vec<f32>),
}

impl<'py> Pixels<'py> {
    pub fn new(name: &'static str, argument: Any<'_, 'py>, pixels: usize) -> PyResult<Self> {
        let array = untyped(name, argument)?;
        let (found, py) = (array.dtype(), argument.py());
        let images = if found.is_equiv_to(&dtype::<f32>(py)) {
            Self::Floats(Input::new(name, argument)?)
        } else if found.is_equiv_to(&dtype::<u8>(py)) {
            let bytes = Input::<u8>::new(name, argument)?;
            Self::Scaled(bytes.slice().iter().map(|&byte| f32::from(byte) / 255.0).collect())
        } else {
            return Err(PyTypeError::new_err(format!(
                "{name}: float32, or uint8 to be scaled by 1/255, is wanted, not {found}: \
                 {name}.astype('float32') makes a copy"
            )));
        };
        match array.shape() {
            [_, each @ ..] if !each.is_empty() && each.iter().product::<usize>() == pixels => {}
            shape => {
                let wanted = format!("(images, ...) with {pixels} values per image");
                return Err(wrong_shape(name, shape, &wanted));
            }
        }
        if let Some(at) = images.slice().iter().position(|v| !v.is_finite()) {
            let (value, image) = (images.slice()[at], at / pixels);
            return Err(PyValueError::new_err(format!(
                "{name}: is {value} at value {} of image {image}",
                at % pixels
            )));
        }
        Ok(images)
    }

    pub fn slice(&self) -> &[f32] {
        match self {
            Self::Floats(input) => input.slice(),
            Self::Scaled(values) => values,
        }
    }
}

impl From<Pixels<'_>> for Vec<f32> {
    fn from(pixels: Pixels) -> Self {
        match pixels {
            Pixels::Floats(input) => input.slice().to_vec(),
            Pixels::Scaled(values) => values,
        }
    }
}

/// Samples of images and labels, each with the name of its argument, of `pixels` values and `classes`
/// classes.
pub fn samples(
    (name, images): (&'static str, Any),
    (labels_name, class_numbers): (&'static str, Any),
    (pixels, classes): (usize, usize),
) -> PyResult<Samples> {
    let images = Pixels::new(name, images, pixels)?;
    let labels = labels(labels_name, class_numbers, images.slice().len() / pixels, classes)?;
    Ok(Samples { images: images.into(), labels })
}

/// Samples of an optional pair of images and labels; none where there is no pair.
pub fn optional_samples(
    name: &'static str,
    argument: Option<Any>,
    shape: (usize, usize),
) -> PyResult<Samples> {
    let Some(argument) = argument else { return Ok(Samples::default()) };
    let (images, labels) = argument.extract::<(Bound<PyAny>, Bound<PyAny>)>().map_err(|_| {
        let found = argument.get_type();
        PyTypeError::new_err(format!("{name}: a pair (images, labels) is wanted, not {found}"))
    })?;
    samples((name, &images), (name, &labels), shape)
}
