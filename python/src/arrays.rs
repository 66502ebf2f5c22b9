//! NumPy's arrays as slices: checked, borrowed and never copied.

use std::fmt;

use numpy::{
    BorrowError, Element, PyArrayDescr, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods,
    PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An argument of any type, to be looked at.
pub type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// An array that a call reads.
pub struct Input<'py, T: Element> {
    name: &'static str,
    array: PyReadonlyArrayDyn<'py, T>,
}

impl<'py, T: Element> Input<'py, T> {
    /// The argument `name`: a C-contiguous array of elements `T`.
    pub fn new(name: &'static str, argument: Any<'_, 'py>) -> PyResult<Self> {
        let array = typed::<T>(name, argument)?;
        if !array.is_c_contiguous() {
            return Err(order(name, &array));
        }
        Ok(Self { name, array: borrow(name, &array)? })
    }

    /// Its elements, row by row.
    pub fn slice(&self) -> &[T] {
        // Whatever is neither contiguous nor aligned has been refused.
        self.array.as_slice().unwrap_or(&[])
    }

    pub fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// The lengths of `N` axes, which are `named` for the message.
    pub fn axes<const N: usize>(&self, named: &str) -> PyResult<[usize; N]> {
        self.shape().try_into().map_err(|_| wrong_shape(self.name, self.shape(), named))
    }

    /// Makes sure of a shape, which is `named` for the message.
    pub fn has_shape(&self, shape: &[usize], named: &str) -> PyResult<()> {
        if self.shape() == shape {
            return Ok(());
        }
        let wanted = format!("{named} = {}", Tuple(shape));
        Err(wrong_shape(self.name, self.shape(), &wanted))
    }
}

/// A matrix that a product reads: of either order, so that `x.T` needs no copy.
pub struct Matrix<'py> {
    array: PyReadonlyArrayDyn<'py, f32>,
    shape: [usize; 2],
    transposed: bool,
}

impl<'py> Matrix<'py> {
    pub fn new(name: &'static str, argument: Any<'_, 'py>) -> PyResult<Self> {
        let array = typed::<f32>(name, argument)?;
        let shape = array.shape().try_into();
        let shape = shape.map_err(|_| wrong_shape(name, array.shape(), "(rows, columns)"))?;
        if !array.is_c_contiguous() && !array.is_fortran_contiguous() {
            return Err(PyValueError::new_err(format!(
                "{name}: a contiguous array or the transpose of one is wanted, not one with gaps: \
                 numpy.ascontiguousarray({name}) makes a copy without"
            )));
        }
        let transposed = !array.is_c_contiguous();
        Ok(Self { array: borrow(name, &array)?, shape, transposed })
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub fn matrix(&self) -> kernelet::kernels::gemm::Matrix<'_> {
        let data = self.array.as_slice().unwrap_or(&[]);
        if self.transposed {
            kernelet::kernels::gemm::Matrix::T(data)
        } else {
            kernelet::kernels::gemm::Matrix::N(data)
        }
    }
}

/// An array that a call writes.
pub struct Output<'py, T: Element> {
    name: &'static str,
    array: PyReadwriteArrayDyn<'py, T>,
}

impl<'py, T: Element> Output<'py, T> {
    /// The argument `name`, a C-contiguous array of elements `T` that may be written.
    pub fn given(name: &'static str, argument: Any<'_, 'py>) -> PyResult<Self> {
        let array = typed::<T>(name, argument)?;
        if !array.is_c_contiguous() {
            return Err(order(name, &array));
        }
        let array = array.try_readwrite().map_err(|e| match e {
            BorrowError::NotWriteable => {
                PyValueError::new_err(format!("{name}: is read-only, but is to be written"))
            }
            _ => overlap(name),
        })?;
        Ok(Self { name, array })
    }

    /// The argument `name` of a shape, or a new array of that shape where none is given.
    pub fn new(
        py: Python<'py>,
        name: &'static str,
        argument: Option<Any<'_, 'py>>,
        shape: &[usize],
    ) -> PyResult<Self> {
        if let Some(argument) = argument {
            let output = Self::given(name, argument)?;
            output.has_shape(shape, "its shape")?;
            return Ok(output);
        }
        check_size(name, shape)?;
        // By NumPy's own function, which asks for large pages; that of the bindings would panic
        // without the memory. What is in it does not matter: kernels overwrite.
        let empty = py.import("numpy")?.getattr("empty")?;
        let array = empty.call1((shape, PyArrayDescr::of::<T>(py)))?;
        Self::given(name, &array)
    }

    /// Its elements, row by row.
    pub fn slice(&mut self) -> &mut [T] {
        self.array.as_slice_mut().unwrap_or(&mut [])
    }

    pub fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    pub fn has_shape(&self, shape: &[usize], named: &str) -> PyResult<()> {
        if self.shape() == shape {
            return Ok(());
        }
        let wanted = format!("{named} = {}", Tuple(shape));
        Err(wrong_shape(self.name, self.shape(), &wanted))
    }

    pub fn into_array(self) -> Bound<'py, PyArrayDyn<T>> {
        (**self.array).clone()
    }
}

/// Class numbers, one for each of `rows` rows and all below `classes`; of any integer type.
pub fn labels(argument: Any, rows: usize, classes: usize) -> PyResult<Vec<u32>> {
    let name = "labels";
    let array = untyped(name, argument)?;
    if !matches!(array.dtype().kind(), b'i' | b'u') {
        let found = array.dtype();
        return Err(PyTypeError::new_err(format!(
            "{name}: class numbers of an integer type are wanted, not {found}"
        )));
    }
    if array.shape() != [rows] {
        return Err(wrong_shape(name, array.shape(), &format!("(rows,) = ({rows},)")));
    }
    let numbers: PyReadonlyArrayDyn<i64> =
        argument.call_method1("astype", ("int64",))?.extract()?;
    let check = |(row, &label): (usize, &i64)| match u32::try_from(label) {
        Ok(small) if (small as usize) < classes => Ok(small),
        _ => Err(PyValueError::new_err(format!(
            "{name}: {label} of row {row} is not one of the {classes} classes 0 to {}",
            classes as i64 - 1
        ))),
    };
    numbers.as_array().iter().enumerate().map(check).collect()
}

/// Refuses shapes whose sizes could overflow, which an array without elements may have.
fn check_size(name: &str, shape: &[usize]) -> PyResult<()> {
    const MOST: usize = 1 << 46;
    let elements = shape.iter().try_fold(1, |product: usize, &n| product.checked_mul(n.max(1)));
    if elements.is_some_and(|elements| elements <= MOST) {
        return Ok(());
    }
    Err(PyMemoryError::new_err(format!("{name}: an array of shape {} is too large", Tuple(shape))))
}

/// An array of whatever type.
pub fn untyped<'a, 'py>(
    name: &str,
    argument: Any<'a, 'py>,
) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    argument.cast().map_err(|_| {
        let found = argument.get_type();
        let found = found.name().map_or_else(|_| "something else".into(), |name| name.to_string());
        PyTypeError::new_err(format!("{name}: a NumPy array is wanted, not {found}"))
    })
}

/// An array of elements `T`, aligned.
fn typed<'py, T: Element>(
    name: &str,
    argument: Any<'_, 'py>,
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let (found, wanted) = (untyped(name, argument)?.dtype(), PyArrayDescr::of::<T>(argument.py()));
    if !found.is_equiv_to(&wanted) {
        return Err(PyTypeError::new_err(format!(
            "{name}: {wanted} is wanted, not {found}: {name}.astype('{wanted}') makes a copy"
        )));
    }
    let array = argument.cast::<PyArrayDyn<T>>()?;
    check_size(name, array.shape())?;
    let aligned: bool = array.getattr("flags")?.getattr("aligned")?.extract()?;
    if !aligned {
        return Err(PyValueError::new_err(format!(
            "{name}: is not aligned to its elements: {name}.copy() is"
        )));
    }
    Ok(array.clone())
}

fn borrow<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyArrayDyn<T>>,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    array.try_readonly().map_err(|_| overlap(name))
}

fn overlap(name: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{name}: shares memory with an array that this call or one of another thread writes"
    ))
}

fn order<T: Element>(name: &str, array: &Bound<PyArrayDyn<T>>) -> PyErr {
    let found = if array.is_fortran_contiguous() { "in Fortran order" } else { "one with gaps" };
    PyValueError::new_err(format!(
        "{name}: a C-contiguous array is wanted, not {found}: numpy.ascontiguousarray({name}) makes \
         a copy"
    ))
}

/// The complaint about an array's shape.
pub fn wrong_shape(name: &str, found: &[usize], wanted: &str) -> PyErr {
    PyValueError::new_err(format!("{name}: shape {wanted} is wanted, not {}", Tuple(found)))
}

/// A shape as Python writes it.
pub struct Tuple<'a>(pub &'a [usize]);

impl fmt::Display for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            [only] => write!(f, "({only},)"),
            all => {
                let all: Vec<_> = all.iter().map(usize::to_string).collect();
                write!(f, "({})", all.join(", "))
            }
        }
    }
}
