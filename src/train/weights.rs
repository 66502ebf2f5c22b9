//! Weight files: one float32 array per layer, in `.npz` for `numpy.load`, or in `.safetensors` for
//! candle, burn, PyTorch and others.
//!
//! A file whose name ends in `.safetensors` is of that format, which needs the feature `safetensors`;
//! every other one is an `.npz`. Both have the same names and shapes of arrays: a dense layer's
//! weights are (inputs, outputs), where PyTorch's are (outputs, inputs).

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::data::npz::{self, Input, write_float_arrays};
#[cfg(feature = "safetensors")]
use crate::data::safetensors;
use crate::error::Error;
use crate::kernels::relu_batch_norm::RunningMoments;
use crate::nn::{Cnn, CnnShape, Mlp, MlpShape};

/// Reads an MLP from a file: `w_h` (inputs, hidden), `b_h` (hidden), `w_o` (hidden,
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
    read_mlp(&mut *open(file.into())?, "")
}

/// Reads an MLP whose arrays have `prefix` before their names.
pub(super) fn read_mlp(archive: &mut dyn Archive, prefix: &str) -> Result<Mlp, Error> {
    let [w_h, b_h, w_o, b_o] = headers(archive, prefix, ["w_h", "b_h", "w_o", "b_o"])?;
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

/// Writes an MLP so that [`load_mlp`] and others can read it. The file appears complete or not at
/// all.
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
/// [`Error::Io`] if the file cannot be written, [`Error::File`] if its format needs a feature that is
/// off.
pub fn save_mlp(path: &Path, mlp: &Mlp) -> Result<(), Error> {
    let arrays = mlp.arrays();
    let arrays: Vec<_> = arrays.iter().map(|(name, shape, w)| (*name, &**shape, *w)).collect();
    write(path, &arrays)
}

const RUNNING: [&str; 2] = ["running_mean", "running_variance"];

/// Reads a CNN for images of `height` x `width` from a file: `w0` (3, 3, channels, filters),
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
    read_cnn(&mut *open(file.into())?, "", height, width)
}

/// Reads a CNN and its running moments, whose arrays have `prefix` before their names.
pub(super) fn read_cnn(
    archive: &mut dyn Archive,
    prefix: &str,
    height: usize,
    width: usize,
) -> Result<(Cnn, Option<RunningMoments>), Error> {
    // They may come from a checkpoint, and no product of sides may overflow.
    if ![height, width].iter().all(|side| (1..=0xFFFF).contains(side)) {
        let why = format!("is of a network for images of {height} x {width} pixels");
        return Err(Error::File { path: archive.path().into(), why });
    }
    let names = ["w0", "b0", "w1", "b1", "w2", "b2"];
    let [w0, b0, w1, b1, w2, b2] = headers(archive, prefix, names)?;
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
    let [mean, variance] = headers(archive, prefix, RUNNING)?;
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

/// Writes a CNN, and the running moments if there are any, so that [`load_cnn`] and others can read
/// it. The file appears complete or not at all.
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
/// [`Error::Io`] if the file cannot be written, [`Error::File`] if its format needs a feature that is
/// off.
pub fn save_cnn(path: &Path, cnn: &Cnn, running: Option<&RunningMoments>) -> Result<(), Error> {
    let filters = [cnn.shape.filters];
    let (weights, running) = (cnn.arrays(), running.map(running_arrays));
    let running = running.iter().flatten().map(|&(name, values)| (name, &filters[..], values));
    let weights = weights.iter().map(|(name, shape, w)| (*name, &**shape, *w));
    write(path, &weights.chain(running).collect::<Vec<_>>())
}

/// The names that running moments have in files, and their values.
pub(super) fn running_arrays(running: &RunningMoments) -> [(&'static str, &[f32]); 2] {
    [(RUNNING[0], &running.mean), (RUNNING[1], &running.variance)]
}

/// The names of a weight file's arrays, in the order in which their elements lie in it.
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::weights;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("mlp.npz");
///
/// weights::save_mlp(path, &Mlp::xavier(MlpShape { inputs: 2, hidden: 3, classes: 2 }, 1))?;
/// assert_eq!(weights::array_names(path)?, ["w_h", "b_h", "w_o", "b_o"]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// If the file cannot be read.
pub fn array_names<'a>(file: impl Into<Input<'a>>) -> Result<Vec<String>, Error> {
    Ok(open(file.into())?.names())
}

/// What is in the names of files that are no `.npz`.
pub(super) fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

#[cfg(not(feature = "safetensors"))]
fn needs_feature(path: &Path) -> Error {
    let why = "this format can be had with kernelet's feature `safetensors`, which is off";
    Error::File { path: path.into(), why: why.into() }
}

fn open<'a>(file: Input<'a>) -> Result<Box<dyn Archive + 'a>, Error> {
    match is_safetensors(file.path) {
        #[cfg(feature = "safetensors")]
        true => Ok(Box::new(safetensors::Archive::open(file)?)),
        #[cfg(not(feature = "safetensors"))]
        true => Err(needs_feature(file.path)),
        false => Ok(Box::new(npz::Archive::open(file)?)),
    }
}

fn write(path: &Path, arrays: &[(&str, &[usize], &[f32])]) -> Result<(), Error> {
    match is_safetensors(path) {
        #[cfg(feature = "safetensors")]
        true => safetensors::write(path, arrays),
        #[cfg(not(feature = "safetensors"))]
        true => Err(needs_feature(path)),
        false => write_float_arrays(path, arrays),
    }
}

/// Arrays of floats by name, whatever the format of their file.
pub(super) trait Archive {
    fn path(&self) -> &Path;

    fn names(&self) -> Vec<String>;

    /// An array's shape, if it is one of float32 or float64 and within its limit.
    fn shape(&mut self, name: &str) -> Result<Vec<usize>, Error>;

    /// An array's elements.
    fn values(&mut self, name: &str) -> Result<Vec<f32>, Error>;
}

impl Archive for npz::Archive<'_, BufReader<File>> {
    fn path(&self) -> &Path {
        self.path()
    }

    fn names(&self) -> Vec<String> {
        self.names()
    }

    fn shape(&mut self, name: &str) -> Result<Vec<usize>, Error> {
        Ok(self.floats(name)?.shape)
    }

    fn values(&mut self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.floats(name)?.read()?.floats())
    }
}

#[cfg(feature = "safetensors")]
impl Archive for safetensors::Archive<'_> {
    fn path(&self) -> &Path {
        self.path()
    }

    fn names(&self) -> Vec<String> {
        self.names()
    }

    fn shape(&mut self, name: &str) -> Result<Vec<usize>, Error> {
        Ok(self.info(name)?.shape.clone())
    }

    fn values(&mut self, name: &str) -> Result<Vec<f32>, Error> {
        self.read(name)
    }
}

/// An array of which only the header has been read: memory is taken for the values when all shapes
/// fit each other.
struct Header {
    path: PathBuf,
    name: String,
    shape: Vec<usize>,
}

fn headers<const N: usize>(
    archive: &mut dyn Archive,
    prefix: &str,
    names: [&str; N],
) -> Result<[Header; N], Error> {
    let path = archive.path().to_path_buf();
    let mut headers = Vec::with_capacity(N);
    for name in names {
        let name = format!("{prefix}{name}");
        let shape = archive.shape(&name)?;
        headers.push(Header { path: path.clone(), name, shape });
    }
    Ok(headers.try_into().unwrap_or_else(|_| unreachable!("as many headers as names")))
}

impl Header {
    fn error(&self, why: String) -> Error {
        Error::Array { path: self.path.clone(), array: self.name.clone(), why }
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
    fn values(&self, archive: &mut dyn Archive) -> Result<Vec<f32>, Error> {
        let values = archive.values(&self.name)?;
        if values.len() != self.shape.iter().product::<usize>() {
            return Err(self.error("has been changed while it was read".into()));
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.error(format!("is {} at element {at}", values[at]))),
            None => Ok(values),
        }
    }
}
