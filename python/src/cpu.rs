//! `Cpu`: which instruction set and how many threads.

use std::process;
use std::sync::{Mutex, PoisonError};

use kernelet::Error;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The optional argument `cpu`.
pub type OnCpu<'a, 'py> = Option<&'a Bound<'py, Cpu>>;

/// More threads than any processor has.
const MOST_THREADS: usize = 4096;

/// The instruction set and the threads that a call runs on.
#[pyclass(frozen, module = "kernelet")]
pub struct Cpu {
    isa: kernelet::Isa,
    threads: usize,
    /// With the process that its threads are in: a fork leaves them behind, and whoever waited for
    /// them in the child would wait for ever.
    made: Mutex<(u32, kernelet::Cpu)>,
}

#[pymethods]
impl Cpu {
    #[new]
    #[pyo3(signature = (isa = None, threads = None))]
    fn new(isa: Option<&str>, threads: Option<usize>) -> PyResult<Self> {
        let cpu = match isa {
            Some(name) => kernelet::Cpu::with_isa(name.parse().map_err(value_error)?),
            None => kernelet::Cpu::detect(),
        };
        let mut cpu = cpu.map_err(value_error)?;
        if let Some(threads) = threads {
            if threads > MOST_THREADS {
                let why = format!("threads: {threads} are more than {MOST_THREADS}");
                return Err(PyValueError::new_err(why));
            }
            cpu = cpu.with_threads(threads).map_err(value_error)?;
        }
        let (isa, threads) = (cpu.isa(), cpu.threads());
        Ok(Self { isa, threads, made: Mutex::new((process::id(), cpu)) })
    }

    /// The instruction set: "scalar", "avx2", "avx512", "amx" or "native".
    #[getter]
    fn isa(&self) -> String {
        self.isa.to_string()
    }

    /// The number of threads.
    #[getter]
    fn threads(&self) -> usize {
        self.threads
    }

    fn __repr__(&self) -> String {
        format!("Cpu(isa='{}', threads={})", self.isa, self.threads)
    }
}

impl Cpu {
    /// The `Cpu` that a call is given, or the one that all calls without share: the best instruction
    /// set on all threads.
    pub fn of(py: Python, given: Option<&Bound<Self>>) -> PyResult<kernelet::Cpu> {
        static SHARED: PyOnceLock<Py<Cpu>> = PyOnceLock::new();
        match given {
            Some(cpu) => cpu.get().here(),
            None => {
                SHARED.get_or_try_init(py, || Py::new(py, Self::new(None, None)?))?.get().here()
            }
        }
    }

    /// The `Cpu` with threads of this process.
    fn here(&self) -> PyResult<kernelet::Cpu> {
        let process = process::id();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != process {
            let cpu = kernelet::Cpu::with_isa(self.isa)
                .and_then(|cpu| cpu.with_threads(self.threads))
                .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
            // The pool of the parent has no thread here that would take notice of its end.
            std::mem::forget(std::mem::replace(&mut *made, (process, cpu)));
        }
        Ok(made.1.clone())
    }
}

fn value_error(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
