//! Checkpoints: files from which a training run goes on, to the same bits as if it had never been
//! stopped.
//!
//! A checkpoint is an `.npz` file that `numpy.load` reads, too: the weights under the names of a
//! [weight file](super::weights) (so that it is one), the optimiser's state, the history, what
//! early stopping keeps, the settings and a fingerprint of the data. Everything random is drawn by
//! the seed and the numbers of epoch and step, which are there as well. The archive's comment, the
//! last 64 bytes of the file, is the SHA-256 of all bytes before it in hexadecimal digits: any
//! change of the file is found.
//!
//! A file is written beside its final place, under its name with `.partial`, and synced; then the
//! checkpoint that was there becomes the one with `.previous` and the new one takes its name. A
//! whole checkpoint is there at every moment.
//!
//! ```
//! use kernelet::nn::{Mlp, MlpShape};
//! use kernelet::train::{checkpoint, mlp};
//! use kernelet::{Cpu, data::Dataset};
//!
//! let split = Dataset::letters()?.split(Some((100, 20)), Some(521))?;
//! let cpu = Cpu::detect()?;
//! let settings = mlp::Settings { epochs: 3, ..Default::default() };
//! let mut network = Mlp::xavier(MlpShape { inputs: 784, hidden: 8, classes: 10 }, 1);
//! let mut state = mlp::State::new(network.shape);
//! let about = checkpoint::About { data: checkpoint::fingerprint(&split), note: String::new() };
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = &folder.path().join("run.npz");
//!
//! let observe = &mut |_: &_| std::ops::ControlFlow::Continue(());
//! let keep = &mut |network: &Mlp, state: &mlp::State| {
//!     checkpoint::save_mlp(path, &about, &settings, network, state)
//! };
//! mlp::resume(&cpu, &settings, &split, &mut network, &mut state, observe, keep)?;
//!
//! // Later, five epochs more:
//! let (about, settings, mut network, mut state) = checkpoint::load_mlp(path)?;
//! assert_eq!(about.data, checkpoint::fingerprint(&split), "other data");
//! let settings = mlp::Settings { epochs: 8, ..settings };
//! let keep = &mut |_: &_, _: &_| Ok(());
//! mlp::resume(&cpu, &settings, &split, &mut network, &mut state, observe, keep)?;
//! assert_eq!(state.history.epochs.len(), 9);
//! # Ok::<(), kernelet::Error>(())
//! ```

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use npyz::AutoSerialize;
use sha2::{Digest, Sha256};
use zip::ZipWriter;

use super::history::{Epoch, History, Metrics};
use super::patience::Best;
use super::weights::{is_safetensors, read_cnn, read_mlp, running_arrays};
use super::{cnn, mlp};
use crate::data::Split;
use crate::data::npz::{
    Archive, Array, FirstError, Input, folder, resolve, write_array, write_zip,
};
use crate::error::Error;
use crate::kernels::relu_batch_norm::RunningMoments;
use crate::nn::cnn::AdamState;
use crate::nn::{Cnn, Mlp};

/// What a checkpoint tells besides the run itself.
///
/// ```
/// use kernelet::data::{Samples, Split};
/// use kernelet::train::checkpoint::{About, fingerprint};
///
/// let none = Samples::default();
/// let train = Samples { images: vec![0.0; 784], labels: vec![3] };
/// let split = Split { train, valid: none.clone(), test: none, classes: 10 };
/// let about = About { data: fingerprint(&split), note: "the third try".into() };
/// assert_eq!(about.data, fingerprint(&split));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The [`fingerprint`] of the data that the run learns from.
    pub data: [u8; 32],
    /// Whatever the caller wants to find again.
    pub note: String,
}

/// The SHA-256 of the samples, their labels and the split: other data have another one.
///
/// ```
/// use kernelet::data::{Samples, Split};
/// use kernelet::train::checkpoint::fingerprint;
///
/// let (train, none) = (Samples { images: vec![0.0; 784], labels: vec![3] }, Samples::default());
/// let split = Split { train, valid: none.clone(), test: none, classes: 10 };
/// let mut other = split.clone();
/// assert_eq!(fingerprint(&split), fingerprint(&other));
/// other.train.labels[0] = 4;
/// assert_ne!(fingerprint(&split), fingerprint(&other));
/// ```
#[must_use]
pub fn fingerprint(split: &Split) -> [u8; 32] {
    const BLOCK: usize = 4096;
    let mut hash = Sha256::new();
    let mut bytes = Vec::with_capacity(4 * BLOCK);
    hash.update((split.classes as u64).to_le_bytes());
    for samples in [&split.train, &split.valid, &split.test] {
        hash.update((samples.len() as u64).to_le_bytes());
        hash.update((samples.images.len() as u64).to_le_bytes());
        for block in samples.images.chunks(BLOCK) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
            hash.update(&bytes);
        }
        for block in samples.labels.chunks(BLOCK) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|label| label.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    hash.finalize().into()
}

/// Writes a checkpoint of an MLP's run to `path`; the one that was there is kept, see
/// [`previous`]. The same run gives the same bytes, but for the seconds in its history.
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::checkpoint::{self, About};
/// use kernelet::train::mlp::{Settings, State};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("run.npz");
///
/// let mlp = Mlp::xavier(MlpShape { inputs: 2, hidden: 3, classes: 2 }, 1);
/// let (settings, state) = (Settings::default(), State::new(mlp.shape));
/// let about = About { data: [0; 32], note: "before the first update".into() };
/// checkpoint::save_mlp(path, &about, &settings, &mlp, &state)?;
/// assert_eq!(checkpoint::load_mlp(path)?, (about, settings, mlp, state));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be written; the old ones are then as they were.
/// [`Error::File`] if `path` is there but no regular file, or ends in `.safetensors`.
pub fn save_mlp(
    path: &Path,
    about: &About,
    settings: &mlp::Settings,
    network: &Mlp,
    state: &mlp::State,
) -> Result<(), Error> {
    let mlp::State { epoch, velocity, history, best, train_seconds } = state;
    save(path, about, MLP, |to| {
        to.weights("", &network.arrays())?;
        to.weights("velocity.", &velocity.arrays())?;
        if let Some(Best { epoch, loss, weights }) = best {
            to.best(*epoch, *loss)?;
            to.weights("best.", &weights.arrays())?;
        }
        to.run(*epoch, *train_seconds, history)?;
        let mlp::Settings { epochs, learning_rate, momentum, reduction, eval_every, patience } =
            settings;
        to.number("settings.epochs", *epochs as u64)?;
        to.number("settings.learning_rate", *learning_rate)?;
        to.number("settings.momentum", *momentum)?;
        to.number("settings.mean", u64::from(*reduction == mlp::Reduction::Mean))?;
        to.number("settings.eval_every", *eval_every as u64)?;
        to.number("settings.patience", patience.unwrap_or(0) as u64)
    })
}

/// Reads what [`save_mlp`] has written.
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::checkpoint::{self, About};
/// use kernelet::train::mlp::{Settings, State};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("run.npz");
///
/// let mlp = Mlp::xavier(MlpShape { inputs: 2, hidden: 3, classes: 2 }, 1);
/// let about = About { data: [0; 32], note: String::new() };
/// checkpoint::save_mlp(path, &about, &Settings::default(), &mlp, &State::new(mlp.shape))?;
/// // A file that has been changed is refused.
/// let mut bytes = std::fs::read(path).unwrap();
/// bytes[100] ^= 1;
/// std::fs::write(path, bytes).unwrap();
/// assert!(checkpoint::load_mlp(path).is_err());
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// If the file cannot be read, is no whole checkpoint of an MLP, or has been changed since it was
/// written. If the checkpoint before it is whole, the error is [`Error::Checkpoint`], which names
/// that one; but an [`Error::TooLarge`] stays one, as the other is as large.
pub fn load_mlp<'a>(
    file: impl Into<Input<'a>>,
) -> Result<(About, mlp::Settings, Mlp, mlp::State), Error> {
    load(file.into(), MLP, |from| {
        let network = read_mlp(&mut *from.archive.borrow_mut(), "")?;
        let fits = |prefix: &str, mlp: Mlp| match mlp.shape == network.shape {
            true => Ok(mlp),
            false => Err(from.fail(format!("the arrays of {prefix} have other shapes"))),
        };
        let read = |prefix| fits(prefix, read_mlp(&mut *from.archive.borrow_mut(), prefix)?);
        let (epoch, train_seconds, history) = from.run()?;
        let best = from.best(epoch, || read("best."))?;
        let velocity = read("velocity.")?;
        let settings = mlp::Settings {
            epochs: from.count("settings.epochs")?,
            learning_rate: from.float("settings.learning_rate")? as f32,
            momentum: from.float("settings.momentum")? as f32,
            reduction: match from.count("settings.mean")? {
                0 => mlp::Reduction::Sum,
                _ => mlp::Reduction::Mean,
            },
            eval_every: from.count("settings.eval_every")?,
            patience: from.patience()?,
        };
        let state = mlp::State { epoch, velocity, history, best, train_seconds };
        Ok((from.about()?, settings, network, state))
    })
}

/// As [`save_mlp`], of a CNN's run.
///
/// ```
/// use kernelet::nn::{Cnn, CnnShape};
/// use kernelet::train::checkpoint::{self, About};
/// use kernelet::train::cnn::{Settings, State};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("run.npz");
///
/// let shape = CnnShape { height: 4, width: 4, channels: 1, filters: 2, hidden: 8, classes: 2 };
/// let (cnn, settings, state) = (Cnn::xavier(shape, 1), Settings::default(), State::new(shape));
/// let about = About { data: [0; 32], note: "before the first step".into() };
/// checkpoint::save_cnn(path, &about, &settings, &cnn, &state)?;
/// assert_eq!(checkpoint::load_cnn(path)?, (about, settings, cnn, state));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// As [`save_mlp`].
pub fn save_cnn(
    path: &Path,
    about: &About,
    settings: &cnn::Settings,
    network: &Cnn,
    state: &cnn::State,
) -> Result<(), Error> {
    let cnn::State {
        epoch,
        adam,
        running_moments,
        history,
        step_losses,
        best,
        batch,
        train_seconds,
    } = state;
    save(path, about, CNN, |to| {
        to.weights("", &network.arrays())?;
        to.moments("", running_moments.as_ref())?;
        to.number("height", network.shape.height as u64)?;
        to.number("width", network.shape.width as u64)?;
        to.weights("adam.m.", &adam.m.arrays())?;
        to.weights("adam.v.", &adam.v.arrays())?;
        to.number("adam.step", adam.step)?;
        if let Some(Best { epoch, loss, weights: (weights, moments) }) = best {
            to.best(*epoch, *loss)?;
            to.weights("best.", &weights.arrays())?;
            to.moments("best.", moments.as_ref())?;
        }
        to.array("step_losses", &[step_losses.len()], step_losses)?;
        to.array("batch", &[3], &metrics_row(*batch))?;
        to.run(*epoch, *train_seconds, history)?;
        let cnn::Settings {
            epochs,
            learning_rate,
            batch,
            l2,
            keep_probability,
            shuffle,
            seed,
            eval_every,
            patience,
        } = settings;
        to.number("settings.epochs", *epochs as u64)?;
        to.number("settings.learning_rate", *learning_rate)?;
        to.number("settings.batch", *batch as u64)?;
        to.number("settings.l2", *l2)?;
        to.number("settings.keep_probability", *keep_probability)?;
        to.number("settings.shuffle", u64::from(*shuffle))?;
        to.number("settings.seed", *seed)?;
        to.number("settings.eval_every", *eval_every as u64)?;
        to.number("settings.patience", patience.unwrap_or(0) as u64)
    })
}

/// As [`load_mlp`], what [`save_cnn`] has written.
///
/// ```
/// use kernelet::nn::{Mlp, MlpShape};
/// use kernelet::train::{checkpoint::{self, About}, mlp};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("run.npz");
///
/// let mlp = Mlp::xavier(MlpShape { inputs: 2, hidden: 3, classes: 2 }, 1);
/// let (settings, state) = (mlp::Settings::default(), mlp::State::new(mlp.shape));
/// let about = About { data: [0; 32], note: String::new() };
/// checkpoint::save_mlp(path, &about, &settings, &mlp, &state)?;
/// // The other network's.
/// assert!(checkpoint::load_cnn(path).is_err());
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
/// As [`load_mlp`].
pub fn load_cnn<'a>(
    file: impl Into<Input<'a>>,
) -> Result<(About, cnn::Settings, Cnn, cnn::State), Error> {
    load(file.into(), CNN, |from| {
        let (height, width) = (from.count("height")?, from.count("width")?);
        let (network, running_moments) =
            read_cnn(&mut *from.archive.borrow_mut(), "", height, width)?;
        let read = |prefix: &str| {
            let (cnn, moments) = read_cnn(&mut *from.archive.borrow_mut(), prefix, height, width)?;
            match cnn.shape == network.shape {
                true => Ok((cnn, moments)),
                false => Err(from.fail(format!("the arrays of {prefix} have other shapes"))),
            }
        };
        let (epoch, train_seconds, history) = from.run()?;
        let best = from.best(epoch, || read("best."))?;
        let adam = AdamState {
            step: from.integer("adam.step")?,
            m: read("adam.m.")?.0,
            v: read("adam.v.")?.0,
        };
        let (_, step_losses) = from.array("step_losses")?;
        let (_, batch) = from.array("batch")?;
        let settings = cnn::Settings {
            epochs: from.count("settings.epochs")?,
            learning_rate: from.float("settings.learning_rate")? as f32,
            batch: from.count("settings.batch")?,
            l2: from.float("settings.l2")? as f32,
            keep_probability: from.float("settings.keep_probability")? as f32,
            shuffle: from.count("settings.shuffle")? != 0,
            seed: from.integer("settings.seed")?,
            eval_every: from.count("settings.eval_every")?,
            patience: from.patience()?,
        };
        let state = cnn::State {
            epoch,
            adam,
            running_moments,
            history,
            step_losses: step_losses.numbers().collect(),
            best,
            batch: metrics(&batch.numbers().collect::<Vec<_>>()),
            train_seconds,
        };
        Ok((from.about()?, settings, network, state))
    })
}

/// Where the checkpoint is kept that was at `path` before the last one was written.
///
/// ```
/// use std::path::Path;
/// use kernelet::train::checkpoint::previous;
///
/// assert_eq!(previous(Path::new("runs/a.npz")), Path::new("runs/a.npz.previous"));
/// ```
#[must_use]
pub fn previous(path: &Path) -> PathBuf {
    beside(path, ".previous")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
    name.push(end);
    path.with_file_name(name)
}

/// Of the file's arrays and what they mean.
const FORMAT: u64 = 1;

/// Kinds of runs.
const KINDS: [&str; 2] = ["an MLP", "a CNN"];
const MLP: usize = 0;
const CNN: usize = 1;

/// Bytes of the checksum at the end of the file.
const CHECKSUM: u64 = 64;

/// Writes a checkpoint and gives it its place.
fn save(
    path: &Path,
    about: &About,
    kind: usize,
    fill: impl FnOnce(&mut Arrays<FirstError<BufWriter<&File>>>) -> io::Result<()>,
) -> Result<(), Error> {
    if is_safetensors(path) {
        let why = "a checkpoint is an .npz file, which would not be read under this name";
        return Err(Error::File { path: path.into(), why: why.into() });
    }
    // A link stays a link: its target is what is replaced.
    let target = resolve(path).map_err(|source| Error::Io { path: path.into(), source })?;
    if target.exists() && !target.is_file() {
        return Err(Error::File { path: path.into(), why: "is no regular file".into() });
    }
    let partial = beside(&target, ".partial");
    let write = || {
        // The remains of a run that was killed while it wrote.
        let _ = fs::remove_file(&partial);
        let file = File::options().read(true).write(true).create_new(true).open(&partial)?;
        write_zip(BufWriter::new(&file), |zip| {
            zip.set_comment("0".repeat(CHECKSUM as usize))?;
            let mut arrays = Arrays(zip);
            arrays.array("checkpoint", &[2], &[FORMAT, kind as u64])?;
            arrays.array("data", &[about.data.len()], &about.data)?;
            arrays.array("note", &[about.note.len()], about.note.as_bytes())?;
            fill(&mut arrays)
        })?;
        let checksum = checksum(&file)?;
        (&file).seek(SeekFrom::End(-(CHECKSUM as i64)))?;
        (&file).write_all(checksum.as_bytes())?;
        file.sync_all()?;
        replace(&partial, &target)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&partial);
        Error::Io { path: path.into(), source }
    })
}

/// Moves a file to the place of another, which is kept as its [`previous`].
fn replace(new: &Path, target: &Path) -> io::Result<()> {
    if target.exists() {
        let previous = previous(target);
        // First a second name for the old one, so that the target is there all the time.
        let link = beside(target, ".link");
        let _ = fs::remove_file(&link);
        match fs::hard_link(target, &link) {
            Ok(()) => fs::rename(&link, &previous)?,
            // Some file systems have no links.
            Err(_) => fs::rename(target, &previous)?,
        }
        // Where both were names of one file, the system has left it.
        let _ = fs::remove_file(&link);
    }
    fs::rename(new, target)?;
    if cfg!(unix) {
        File::open(folder(target))?.sync_all()?;
    }
    Ok(())
}

/// The checksum of all bytes of a file but its own.
fn checksum(mut file: &File) -> io::Result<String> {
    let bytes = file.metadata()?.len().saturating_sub(CHECKSUM);
    file.rewind()?;
    let mut hash = Sha256::new();
    io::copy(&mut file.take(bytes), &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes sure that a file has the checksum that it ends with.
fn check(path: &Path) -> Result<(), Error> {
    let fail = |why: &str| Err(Error::File { path: path.into(), why: why.into() });
    let io = |source| Error::Io { path: path.into(), source };
    // Opening a pipe would wait for somebody to write to it.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return fail("is no regular file");
    }
    let mut file = File::open(path).map_err(io)?;
    let mut end = [0; CHECKSUM as usize];
    let tail = file.seek(SeekFrom::End(-(CHECKSUM as i64))).and_then(|_| file.read_exact(&mut end));
    if tail.is_err() || !end.iter().all(u8::is_ascii_hexdigit) {
        return fail("does not end with a checksum: it is no checkpoint, or not a whole one");
    }
    if checksum(&file).map_err(io)?.as_bytes() != end {
        return fail("is damaged: its checksum is that of other bytes");
    }
    Ok(())
}

/// Checks a file, and reads it as a checkpoint of a kind.
fn load<T>(
    file: Input,
    kind: usize,
    read: impl FnOnce(&Saved) -> Result<T, Error>,
) -> Result<T, Error> {
    let saved = check(file.path).and_then(|()| {
        let archive = RefCell::new(Archive::open(file)?);
        Ok(Saved { file, archive })
    });
    if let Ok(saved) = &saved {
        saved.check_kind(kind)?;
    }
    saved.and_then(|saved| read(&saved)).map_err(|source| {
        let previous = previous(file.path);
        match check(&previous) {
            // A higher limit is what helps: the one before it is as large.
            Ok(()) if !matches!(source, Error::TooLarge { .. }) => {
                Error::Checkpoint { source: Box::new(source), previous }
            }
            _ => source,
        }
    })
}

/// A checkpoint that is being written.
struct Arrays<'a, W: Write + Seek>(&'a mut ZipWriter<W>);

impl<W: Write + Seek> Arrays<'_, W> {
    fn array<T: AutoSerialize + Copy>(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[T],
    ) -> io::Result<()> {
        write_array(self.0, name, shape, values)
    }

    fn number<T: AutoSerialize + Copy>(&mut self, name: &str, value: T) -> io::Result<()> {
        self.array(name, &[], &[value])
    }

    fn weights(&mut self, prefix: &str, arrays: &[(&str, Vec<usize>, &[f32])]) -> io::Result<()> {
        arrays.iter().try_for_each(|(name, shape, values)| {
            self.array(&format!("{prefix}{name}"), shape, values)
        })
    }

    fn moments(&mut self, prefix: &str, moments: Option<&RunningMoments>) -> io::Result<()> {
        moments.iter().flat_map(|moments| running_arrays(moments)).try_for_each(|(name, values)| {
            self.array(&format!("{prefix}{name}"), &[values.len()], values)
        })
    }

    fn best(&mut self, epoch: usize, loss: f64) -> io::Result<()> {
        self.number("best.epoch", epoch as u64)?;
        self.number("best.loss", loss)
    }

    fn run(&mut self, epoch: usize, train_seconds: f64, history: &History) -> io::Result<()> {
        self.number("epoch", epoch as u64)?;
        self.number("train_seconds", train_seconds)?;
        let rows: Vec<f64> = history.epochs.iter().flat_map(history_row).collect();
        self.array("history", &[history.epochs.len(), HISTORY_COLUMNS], &rows)
    }
}

/// Epoch and seconds, then loss, cross-entropy and accuracy of train, valid, test and batch.
const HISTORY_COLUMNS: usize = 3 + 4 * 3;

fn history_row(row: &Epoch) -> [f64; HISTORY_COLUMNS] {
    let mut cells = [0.0; HISTORY_COLUMNS];
    cells[..3].copy_from_slice(&[row.epoch as f64, row.train_seconds, row.eval_seconds]);
    let sets = [row.train, row.valid, row.test, row.batch];
    for (cells, metrics) in cells[3..].chunks_exact_mut(3).zip(sets) {
        cells.copy_from_slice(&metrics_row(metrics));
    }
    cells
}

/// Three NaN if there are none. (Of those that are there, the accuracy is never NaN.)
fn metrics_row(metrics: Option<Metrics>) -> [f64; 3] {
    metrics.map_or([f64::NAN; 3], |Metrics { loss, cross_entropy, accuracy }| {
        [loss, cross_entropy, accuracy]
    })
}

/// What [`metrics_row`] was made of.
fn metrics(row: &[f64]) -> Option<Metrics> {
    let &[loss, cross_entropy, accuracy] = row else { return None };
    (!accuracy.is_nan()).then_some(Metrics { loss, cross_entropy, accuracy })
}

/// A checkpoint whose checksum is right.
struct Saved<'a> {
    file: Input<'a>,
    archive: RefCell<Archive<'a, BufReader<File>>>,
}

impl Saved<'_> {
    fn fail(&self, why: String) -> Error {
        Error::File { path: self.file.path.into(), why }
    }

    fn array(&self, name: &str) -> Result<(Vec<usize>, Array), Error> {
        self.archive.borrow_mut().array(name)
    }

    fn check_kind(&self, wanted: usize) -> Result<(), Error> {
        let (_, array) = self.array("checkpoint")?;
        match array.integers().collect::<Vec<_>>()[..] {
            [format, kind] if format == i128::from(FORMAT) => {
                let kind = usize::try_from(kind).ok().and_then(|kind| KINDS.get(kind));
                if kind == Some(&KINDS[wanted]) {
                    return Ok(());
                }
                let kind = kind.unwrap_or(&"something unknown");
                Err(self.fail(format!("is a checkpoint of {kind}, not of {}", KINDS[wanted])))
            }
            [format, ..] => Err(self.fail(format!(
                "is a checkpoint of format {format}: this version reads format {FORMAT}"
            ))),
            [] => Err(self.fail("is a checkpoint of no format".into())),
        }
    }

    fn about(&self) -> Result<About, Error> {
        let (_, data) = self.array("data")?;
        let (_, note) = self.array("note")?;
        let data = data.bytes.try_into();
        let data = data.map_err(|_| self.fail("has a fingerprint of another length".into()))?;
        let note = String::from_utf8(note.bytes);
        let note = note.map_err(|_| self.fail("has a note that is no text".into()))?;
        Ok(About { data, note })
    }

    fn float(&self, name: &str) -> Result<f64, Error> {
        let (_, array) = self.array(name)?;
        let number = array.numbers().next();
        number.ok_or_else(|| self.fail(format!("array {name:?} is empty")))
    }

    fn integer(&self, name: &str) -> Result<u64, Error> {
        let (_, array) = self.array(name)?;
        let number = array.is_integer().then(|| array.integers().next()).flatten();
        let number = number.and_then(|n| u64::try_from(n).ok());
        number.ok_or_else(|| self.fail(format!("array {name:?} is no whole number, at least 0")))
    }

    fn count(&self, name: &str) -> Result<usize, Error> {
        let n = self.integer(name)?;
        usize::try_from(n).map_err(|_| self.fail(format!("array {name:?} is {n}: too much")))
    }

    fn patience(&self) -> Result<Option<usize>, Error> {
        Ok(Some(self.count("settings.patience")?).filter(|&patience| patience > 0))
    }

    fn best<W>(
        &self,
        epoch: usize,
        weights: impl FnOnce() -> Result<W, Error>,
    ) -> Result<Option<Best<W>>, Error> {
        if !self.archive.borrow().names().iter().any(|name| name == "best.epoch") {
            return Ok(None);
        }
        let best = self.count("best.epoch")?;
        if best > epoch {
            return Err(self.fail(format!("has its best epoch, {best}, after epoch {epoch}")));
        }
        Ok(Some(Best { epoch: best, loss: self.float("best.loss")?, weights: weights()? }))
    }

    /// Epoch, seconds and history.
    fn run(&self) -> Result<(usize, f64, History), Error> {
        let (epoch, train_seconds) = (self.count("epoch")?, self.float("train_seconds")?);
        let (shape, history) = self.array("history")?;
        let [_, HISTORY_COLUMNS] = shape[..] else {
            return Err(self.fail(format!("has a history of shape {shape:?}")));
        };
        let history: Vec<f64> = history.numbers().collect();
        let row = |cells: &[f64]| Epoch {
            epoch: cells[0] as usize,
            train_seconds: cells[1],
            eval_seconds: cells[2],
            train: metrics(&cells[3..6]),
            valid: metrics(&cells[6..9]),
            test: metrics(&cells[9..12]),
            batch: metrics(&cells[12..15]),
        };
        let epochs: Vec<_> = history.chunks_exact(HISTORY_COLUMNS).map(row).collect();
        if !epochs.is_sorted_by(|a, b| a.epoch < b.epoch)
            || epochs.last().is_some_and(|last| last.epoch > epoch)
        {
            return Err(self.fail(format!("has a history that does not lead to epoch {epoch}")));
        }
        Ok((epoch, train_seconds, History { epochs, ..History::default() }))
    }
}
