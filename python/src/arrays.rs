//! NumPy's arrays as slices: checked, borrowed and never copied.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{
    BorrowError, Element, PyArrayDescr, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods,
    PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An argument of any type, to be looked at.
pub type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// The memory of the arrays that calls work on, of all threads: their addresses, and whether they are
/// written. (The bindings' own borrows do not see that two arrays share memory which they have by way
/// of different objects, such as two views of one `bytearray`.)
static CLAIMS: Mutex<Vec<(Range<usize>, bool)>> = Mutex::new(Vec::new());

/// A place in [`CLAIMS`], given back when dropped.
struct Claim(Range<usize>, bool);

impl Claim {
    /// Of these elements, or an error if a call writes what another one works on.
    fn new<T>(name: &str, elements: &[T], writes: bool) -> PyResult<Self> {
        let Range { start, end } = elements.as_ptr_range();
        let range = start as usize..end as usize;
        let overlaps = |other: &Range<usize>| {
            !range.is_empty() && range.start < other.end && other.start < range.end
        };
        let mut claims = Self::all();
        if claims.iter().any(|(other, written)| (writes || *written) && overlaps(other)) {
            return Err(overlap(name));
        }
        claims.push((range.clone(), writes));
        Ok(Self(range, writes))
    }

    fn all() -> MutexGuard<'static, Vec<(Range<usize>, bool)>> {
        CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = Self::all();
        let own = |(range, writes): &(Range<usize>, bool)| *range == self.0 && *writes == self.1;
        if let Some(at) = claims.iter().position(own) {
            claims.swap_remove(at);
        }
    }
}

/// An array that a call reads.
pub struct Input<'py, T: Element> {
    name: &'static str,
    array: PyReadonlyArrayDyn<'py, T>,
    _claim: Claim,
}

impl<'py, T: Element> Input<'py, T> {
    /// The argument `name`: a C-contiguous array of elements `T`.
    pub fn new(name: &'static str, argument: Any<'_, 'py>) -> PyResult<Self> {
        let array = typed::<T>(name, argument)?;
        if !array.is_c_contiguous() {
            return Err(order(name, &array));
        }
        let array = array.try_readonly().map_err(|_| overlap(name))?;
        let claim = Claim::new(name, elements(name, &array)?, false)?;
        Ok(Self { name, array, _claim: claim })
    }

    /// Its elements, row by row.
    pub fn slice(&self) -> &[T] {
        // They have been looked at in `new`.
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
        check_shape(self.name, self.shape(), shape, named)
    }
}

/// A matrix that a product reads: of either order, so that `x.T` needs no copy.
pub struct Matrix<'py> {
    array: PyReadonlyArrayDyn<'py, f32>,
    shape: [usize; 2],
    transposed: bool,
    _claim: Claim,
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
        let array = array.try_readonly().map_err(|_| overlap(name))?;
        let claim = Claim::new(name, elements(name, &array)?, false)?;
        Ok(Self { array, shape, transposed, _claim: claim })
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
    _claim: Claim,
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
        let claim = Claim::new(name, elements(name, &array)?, true)?;
        Ok(Self { name, array, _claim: claim })
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
            output.has_shape(shape, "")?;
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

    /// As [`Input::has_shape`].
    pub fn has_shape(&self, shape: &[usize], named: &str) -> PyResult<()> {
        check_shape(self.name, self.shape(), shape, named)
    }

    pub fn into_array(self) -> Bound<'py, PyArrayDyn<T>> {
        (**self.array).clone()
    }
}

/// Class numbers, one for each of `rows` rows and all below `classes`; of any integer type.
pub fn labels(
    name: &'static str,
    argument: Any,
    rows: usize,
    classes: usize,
) -> PyResult<Vec<u32>> {
    let shape = untyped(name, argument)?.shape();
    check_shape(name, shape, &[rows], "(rows,)")?;
    // Of NumPy's own class, whose methods do what they say, and without gaps; most are that anyway.
    let py = argument.py();
    let plain = py.import("numpy")?.call_method1("ascontiguousarray", (argument,))?;
    let found = untyped(name, &plain)?.dtype();
    macro_rules! of_any_type {
        ($($int:ident)*) => {
            $(if found.is_equiv_to(&PyArrayDescr::of::<$int>(py)) {
                let numbers = Input::<$int>::new(name, &plain)?;
                numbers.has_shape(&[rows], "(rows,)")?;
                let numbers = numbers.slice().iter();
                let numbers = numbers.map(|&label| (label.into(), u32::try_from(label).ok()));
                return below(name, numbers, classes);
            })*
        };
    }
    of_any_type!(u8 u16 u32 u64 i8 i16 i32 i64);
    Err(PyTypeError::new_err(format!(
        "{name}: class numbers of an integer type are wanted, not {found}"
    )))
}

/// The labels, given with what they are as `u32`, if all of them are below `classes`.
fn below(
    name: &str,
    labels: impl Iterator<Item = (i128, Option<u32>)>,
    classes: usize,
) -> PyResult<Vec<u32>> {
    let check = |(row, (label, small)): (usize, (i128, Option<u32>))| match small {
        Some(small) if (small as usize) < classes => Ok(small),
        _ => Err(PyValueError::new_err(format!(
            "{name}: {label} of row {row} is not below the {classes} classes"
        ))),
    };
    labels.enumerate().map(check).collect()
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

/// An array of elements `T`.
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
    Ok(array.clone())
}

/// The elements of an array without gaps.
fn elements<'a, T: Element>(name: &str, array: &'a PyReadonlyArrayDyn<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| {
        PyValueError::new_err(format!("{name}: is not aligned to its elements: {name}.copy() is"))
    })
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

/// Makes sure of a shape, which may be `named` for the message.
fn check_shape(name: &str, found: &[usize], wanted: &[usize], named: &str) -> PyResult<()> {
    if found == wanted {
        return Ok(());
    }
    let equals = if named.is_empty() { "" } else { " = " };
    Err(wrong_shape(name, found, &format!("{named}{equals}{}", Tuple(wanted))))
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
