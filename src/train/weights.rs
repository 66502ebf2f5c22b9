//! Weight files: `.npz` with one float32 array per layer, readable by `numpy.load`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::data::npz::{Archive, Input, write_float_arrays};
use crate::error::Error;
use crate::kernels::relu_batch_norm::RunningMoments;
use crate::nn::{Cnn, CnnShape, Mlp, MlpShape};

/// Reads an MLP from an `.npz` file: `w_h` (inputs, hidden), `b_h` (hidden), `w_o` (hidden,
/// classes), `b_o` (classes), float32 or float64. A bias may also be a single row.
///
/// ```
/// use kernelet::data::npz::write_float_arrays;
/// use kernelet::train::weights;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("mlp.npz");
///
/// // As `numpy.savez` writes them, too.
/// write_float_arrays(
///     path,
///     &[
///         ("w_h", &[2, 1], &[1.0, 2.0]),
///         ("b_h", &[1], &[0.0]),
///         ("w_o", &[1, 2], &[3.0, 4.0]),
///         ("b_o", &[2], &[5.0, 6.0]),
///     ],
/// )?;
/// let mlp = weights::load_mlp(path)?;
/// assert_eq!((mlp.shape.inputs, mlp.shape.hidden, mlp.shape.classes), (2, 1, 2));
/// assert_eq!(mlp.b_o, [5.0, 6.0]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// If the file cannot be read, an array is missing or too large, the shapes do not fit each other,
/// or a value is not finite.
pub fn load_mlp<'a>(file: impl Into<Input<'a>>) -> Result<Mlp, Error> {
    read_mlp(file.into(), "")
}

/// Reads an MLP whose arrays have `prefix` before their names.
pub(super) fn read_mlp(file: Input, prefix: &str) -> Result<Mlp, Error> {
    let archive = &mut Archive::open(file)?;
    let [w_h, b_h, w_o, b_o] = headers(archive, file.path, prefix, ["w_h", "b_h", "w_o", "b_o"])?;
    let [inputs, hidden] = w_h.shape("[inputs, hidden]")?;
    let [rows, classes] = w_o.shape(&format!("[{hidden}, classes]"))?;
    if rows != hidden {
        return Err(w_o.wrong(&format!("[{hidden}, {classes}], as w_h is {:?}", w_h.shape)));
    }
    w_h.check_some()?;
    w_o.check_some()?;
    b_h.check_vector(hidden)?;
    b_o.check_vector(classes)?;
    let shape = MlpShape { inputs, hidden, classes };
    Ok(Mlp {
        shape,
        w_h: w_h.values(archive)?,
        b_h: b_h.values(archive)?,
        w_o: w_o.values(archive)?,
        b_o: b_o.values(archive)?,
    })
}

/// Writes an MLP so that [`load_mlp`] and `numpy.load` can read it. The file appears complete or
/// not at all.
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::weights;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("mlp.npz");
///
/// let mlp = Mlp::xavier(MlpShape { inputs: 2, hidden: 3, classes: 2 }, 1);
/// weights::save_mlp(path, &mlp)?;
/// assert_eq!(weights::load_mlp(path)?, mlp);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn save_mlp(path: &Path, mlp: &Mlp) -> Result<(), Error> {
    let arrays = mlp.arrays();
    let arrays: Vec<_> = arrays.iter().map(|(name, shape, w)| (*name, &**shape, *w)).collect();
    write_float_arrays(path, &arrays)
}

const RUNNING: [&str; 2] = ["running_mean", "running_variance"];

/// Reads a CNN for images of `height` x `width` from an `.npz` file: `w0` (3, 3, channels, filters),
/// `b0` (filters), `w1` (pooled, hidden), `b1` (hidden), `w2` (hidden, classes), `b2` (classes), float32 or
/// float64; a bias may also be a single row. The running moments come from `running_mean` and
/// `running_variance` (filters), if the file has them.
///
/// ```
/// use kernelet::nn::{Cnn, CnnShape};
/// use kernelet::train::weights;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("cnn.npz");
///
/// let shape = CnnShape { height: 4, width: 4, channels: 1, filters: 2, hidden: 8, classes: 2 };
/// weights::save_cnn(path, &Cnn::xavier(shape, 1), None)?;
/// let (cnn, running) = weights::load_cnn(path, 4, 4)?;
/// assert_eq!((cnn.shape, running), (shape, None));
/// // The file does not say how large the images are, but w1 fits no others than these.
/// assert!(weights::load_cnn(path, 28, 28).is_err());
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// If the file cannot be read, an array is missing or too large, the shapes do not fit each other or
/// the images, or a value is not finite.
pub fn load_cnn<'a>(
    file: impl Into<Input<'a>>,
    height: usize,
    width: usize,
) -> Result<(Cnn, Option<RunningMoments>), Error> {
    read_cnn(file.into(), "", height, width)
}

/// Reads a CNN and its running moments, whose arrays have `prefix` before their names.
pub(super) fn read_cnn(
    file: Input,
    prefix: &str,
    height: usize,
    width: usize,
) -> Result<(Cnn, Option<RunningMoments>), Error> {
    // They may come from a checkpoint, and no product of sides may overflow.
    if ![height, width].iter().all(|side| (1..=0xFFFF).contains(side)) {
        let why = format!("is of a network for images of {height} x {width} pixels");
        return Err(Error::File { path: file.path.into(), why });
    }
    let archive = &mut Archive::open(file)?;
    let names = ["w0", "b0", "w1", "b1", "w2", "b2"];
    let [w0, b0, w1, b1, w2, b2] = headers(archive, file.path, prefix, names)?;
    let [3, 3, channels, filters] = w0.shape("[3, 3, channels, filters]")? else {
        return Err(w0.wrong("[3, 3, channels, filters]"));
    };
    let [inputs, hidden] = w1.shape("[inputs, hidden]")?;
    let [rows, classes] = w2.shape(&format!("[{hidden}, classes]"))?;
    let shape = CnnShape { height, width, channels, filters, hidden, classes };
    for array in [&w0, &w1, &w2] {
        array.check_some()?;
    }
    let pooled = shape.pooled();
    if inputs != pooled {
        return Err(w1.wrong(&format!(
            "[{pooled}, {hidden}], as {filters} filters of {height} x {width} images give {pooled} \
             pooled values"
        )));
    }
    if rows != hidden {
        return Err(w2.wrong(&format!("[{hidden}, {classes}], as w1 is {:?}", w1.shape)));
    }
    b0.check_vector(filters)?;
    b1.check_vector(hidden)?;
    b2.check_vector(classes)?;
    let cnn = Cnn {
        shape,
        w0: w0.values(archive)?,
        b0: b0.values(archive)?,
        w1: w1.values(archive)?,
        b1: b1.values(archive)?,
        w2: w2.values(archive)?,
        b2: b2.values(archive)?,
    };
    let names = archive.names();
    let has = |wanted| names.iter().any(|name| name.strip_prefix(prefix) == Some(wanted));
    if !RUNNING.into_iter().any(has) {
        return Ok((cnn, None));
    }
    let [mean, variance] = headers(archive, file.path, prefix, RUNNING)?;
    mean.check_vector(filters)?;
    variance.check_vector(filters)?;
    let running =
        RunningMoments { mean: mean.values(archive)?, variance: variance.values(archive)? };
    if let Some(at) = running.variance.iter().position(|&v| v < 0.0) {
        let negative = running.variance[at];
        return Err(variance.error(format!("is {negative} at element {at}: no variance is")));
    }
    Ok((cnn, Some(running)))
}

/// Writes a CNN, and the running moments if there are any, so that [`load_cnn`] and `numpy.load` can
/// read it. The file appears complete or not at all.
///
/// ```
/// use kernelet::kernels::relu_batch_norm::RunningMoments;
/// use kernelet::nn::{Cnn, CnnShape};
/// use kernelet::train::weights;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("cnn.npz");
///
/// let shape = CnnShape { height: 4, width: 4, channels: 1, filters: 2, hidden: 8, classes: 2 };
/// let (cnn, running) = (Cnn::xavier(shape, 1), RunningMoments::new(2));
/// weights::save_cnn(path, &cnn, Some(&running))?;
/// assert_eq!(weights::load_cnn(path, 4, 4)?, (cnn, Some(running)));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn save_cnn(path: &Path, cnn: &Cnn, running: Option<&RunningMoments>) -> Result<(), Error> {
    let filters = [cnn.shape.filters];
    let (weights, running) = (cnn.arrays(), running.map(running_arrays));
    let running = running.iter().flatten().map(|&(name, values)| (name, &filters[..], values));
    let weights = weights.iter().map(|(name, shape, w)| (*name, &**shape, *w));
    write_float_arrays(path, &weights.chain(running).collect::<Vec<_>>())
}

/// The names that running moments have in files, and their values.
pub(super) fn running_arrays(running: &RunningMoments) -> [(&'static str, &[f32]); 2] {
    [(RUNNING[0], &running.mean), (RUNNING[1], &running.variance)]
}

/// An array of which only the header has been read: memory is taken for the values when all shapes
/// fit each other.
struct Header<'a> {
    path: &'a Path,
    name: String,
    shape: Vec<usize>,
}

fn headers<'a, const N: usize>(
    archive: &mut Archive<BufReader<File>>,
    path: &'a Path,
    prefix: &str,
    names: [&str; N],
) -> Result<[Header<'a>; N], Error> {
    let mut headers = Vec::with_capacity(N);
    for name in names {
        let name = format!("{prefix}{name}");
        let shape = archive.floats(&name)?.shape;
        headers.push(Header { path, name, shape });
    }
    Ok(headers.try_into().unwrap_or_else(|_| unreachable!("as many headers as names")))
}

impl Header<'_> {
    fn error(&self, why: String) -> Error {
        Error::Array { path: self.path.to_owned(), array: self.name.clone(), why }
    }

    fn wrong(&self, wanted: &str) -> Error {
        self.error(format!("has shape {:?}, expected {wanted}", self.shape))
    }

    fn shape<const N: usize>(&self, wanted: &str) -> Result<[usize; N], Error> {
        self.shape.as_slice().try_into().map_err(|_| self.wrong(wanted))
    }

    fn check_some(&self) -> Result<(), Error> {
        if self.shape.contains(&0) {
            return Err(self.error(format!("is empty: its shape is {:?}", self.shape)));
        }
        Ok(())
    }

    fn check_vector(&self, len: usize) -> Result<(), Error> {
        if self.shape == [len] || self.shape == [1, len] {
            Ok(())
        } else {
            Err(self.wrong(&format!("[{len}]")))
        }
    }

    /// The values, all of them finite.
    fn values(&self, archive: &mut Archive<BufReader<File>>) -> Result<Vec<f32>, Error> {
        let mut entry = archive.floats(&self.name)?;
        if entry.shape != self.shape {
            return Err(self.error("has been changed while it was read".into()));
        }
        let values = entry.read()?.floats();
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.error(format!("is {} at element {at}", values[at]))),
            None => Ok(values),
        }
    }
}
