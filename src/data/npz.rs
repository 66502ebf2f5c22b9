//! Arrays in `.npz` files: zip archives of `.npy` members, as `numpy.savez` and
//! `numpy.savez_compressed` write them. Also single `.npy` files, as `numpy.save` writes them.
//!
//! Nothing that a file says is trusted: sizes are multiplied with overflow checks and compared with
//! what the file holds and with a [`Limit`], and memory grows only as data comes. Archives whose
//! members overlap or have the same name are refused. Nothing is ever unpacked to the disk or
//! unpickled.
//!
//! ```
//! use kernelet::data::npz;
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = &folder.path().join("arrays.npz");
//!
//! npz::write_float_arrays(path, &[("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), ("b", &[1], &[5.0])])?;
//! assert_eq!(npz::array_names(path)?, ["a", "b"]);
//! let arrays = npz::read_float_arrays(path, &["b", "a"])?;
//! assert_eq!((&arrays[0].values[..], &arrays[1].shape[..]), (&[5.0][..], &[2, 2][..]));
//! # Ok::<(), kernelet::Error>(())
//! ```

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use npyz::npz::file_name_from_array_name;
use npyz::{AutoSerialize, DType, NpyHeader, Order, TypeChar, TypeStr, WriterBuilder};
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::Error;

/// The most memory that the elements of one array of a file may take. What needs more is refused
/// before a byte of it is read.
///
/// ```
/// use kernelet::data::npz::{self, Input, Limit};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("arrays.npz");
///
/// npz::write_float_arrays(path, &[("a", &[3], &[1.0, 2.0, 3.0])])?;
/// let input = |bytes| Input { path, limit: Limit::Bytes(bytes) };
/// assert!(npz::read_float_arrays(input(12), &["a"]).is_ok());
/// let error = npz::read_float_arrays(input(11), &["a"]).unwrap_err();
/// assert!(matches!(error, kernelet::Error::TooLarge { needed: 12, limit: 11, .. }));
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// 64 MiB, or a hundred times what the array takes in the file if that is more, but never more
    /// than 16 GiB: enough for data that are worth keeping, and a small file stays harmless.
    #[default]
    OfFile,
    /// So many bytes.
    Bytes(u64),
}

impl Limit {
    /// The bytes for an array that takes `packed` of a file; a pipe does not tell.
    pub(super) fn bytes(self, packed: Option<u64>) -> u64 {
        const MOST: u64 = 16 << 30;
        match self {
            Self::OfFile => packed.map_or(MOST, |n| n.saturating_mul(100).clamp(64 << 20, MOST)),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// A file to read, and how much memory its arrays may take. A path alone is one with the usual
/// [`Limit`].
///
/// ```
/// use kernelet::data::npz::{Input, Limit};
///
/// // What functions that read files make of a path.
/// let input = Input::from("letters.npz");
/// assert_eq!((input.path.to_str(), input.limit), (Some("letters.npz"), Limit::OfFile));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// For every one of its arrays.
    pub limit: Limit,
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Input<'a> {
    fn from(path: &'a P) -> Self {
        Self { path: path.as_ref(), limit: Limit::default() }
    }
}

/// NumPy's own limit (`max_header_size`); an ordinary header has 128 bytes.
const MAX_HEADER: usize = 10_000;

/// An array of floats, in C order.
///
/// ```
/// use kernelet::data::npz::FloatArray;
///
/// let array = FloatArray { shape: vec![2, 3], values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0] };
/// // Element (1, 2).
/// assert_eq!(array.values[array.shape[1] + 2], 5.0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FloatArray {
    /// The extent of every axis, the slowest first.
    pub shape: Vec<usize>,
    /// The elements; there are as many as the shape's product.
    pub values: Vec<f32>,
}

/// Reads arrays of float32 or float64, in either byte order, in C or Fortran order. float64 is
/// rounded to float32; NaN and infinity are passed on.
///
/// ```
/// use kernelet::data::npz;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("arrays.npz");
///
/// npz::write_float_arrays(path, &[("a", &[3], &[1.0, 2.0, 3.0])])?;
/// assert_eq!(npz::read_float_arrays(path, &["a"])?[0].values, [1.0, 2.0, 3.0]);
/// let error = npz::read_float_arrays(path, &["b"]).unwrap_err();
/// assert!(error.to_string().contains("array \"b\""));
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
///
/// If the file cannot be read, or if it lacks an array of `names` or holds a damaged one, one of
/// another type, or one that is too large.
pub fn read_float_arrays<'a>(
    file: impl Into<Input<'a>>,
    names: &[&str],
) -> Result<Vec<FloatArray>, Error> {
    let mut archive = Archive::open(file)?;
    let read = |name: &&str| {
        let mut entry = archive.floats(name)?;
        let array = entry.read()?;
        Ok(FloatArray { shape: entry.shape, values: array.floats() })
    };
    names.iter().map(read).collect()
}

/// The names of a file's arrays, without `.npy`.
///
/// ```
/// use kernelet::data::npz;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("arrays.npz");
///
/// npz::write_float_arrays(path, &[("w", &[1], &[1.0]), ("b", &[0], &[])])?;
/// assert_eq!(npz::array_names(path)?, ["w", "b"]);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
///
/// If the file cannot be read.
pub fn array_names<'a>(file: impl Into<Input<'a>>) -> Result<Vec<String>, Error> {
    Ok(Archive::open(file)?.names())
}

/// Writes (name, shape, values) arrays as little-endian float32 in C order, for `numpy.load` and
/// [`read_float_arrays`]. The same arrays always give the same bytes, and the file appears at
/// once or not at all ([`write_atomically`]).
///
/// The members are stored, not deflated: trained weights would shrink by 7 %, which is not worth
/// the time.
///
/// ```
/// use kernelet::data::npz;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("arrays.npz");
///
/// npz::write_float_arrays(path, &[("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])])?;
/// assert!(npz::write_float_arrays(path, &[("w", &[2, 2], &[1.0])]).is_err());
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
///
/// If the file cannot be written, or if a shape does not fit its values.
pub fn write_float_arrays(path: &Path, arrays: &[(&str, &[usize], &[f32])]) -> Result<(), Error> {
    for &(name, shape, values) in arrays {
        let product = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        if product != Some(values.len()) {
            return Err(Error::Array {
                path: path.into(),
                array: name.into(),
                why: format!("has {} values for shape {}", values.len(), tuple(shape)),
            });
        }
    }
    write_file_atomically(path, |file| {
        write_zip(file, |zip| {
            arrays
                .iter()
                .try_for_each(|(name, shape, values)| write_array(zip, name, shape, values))
        })
    })
}

/// Writes an archive that `fill` adds members to.
pub(crate) fn write_zip<W: Write + Seek>(
    to: W,
    fill: impl FnOnce(&mut ZipWriter<FirstError<W>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut zip = ZipWriter::new(FirstError { to, error: None, at: 0, end: 0 });
    fill(&mut zip)?;
    let FirstError { mut to, error, .. } = zip.finish()?;
    match error {
        Some(error) => Err(error),
        None => to.flush(),
    }
}

/// Keeps the first error of a writer to itself and goes on as if it had taken everything after it:
/// a `ZipWriter` that meets an error reports it to standard error when it is dropped.
pub(crate) struct FirstError<W> {
    to: W,
    error: Option<io::Error>,
    /// Where it is, and where it ends.
    at: u64,
    end: u64,
}

impl<W> FirstError<W> {
    fn attempt(&mut self, operation: impl FnOnce(&mut W) -> io::Result<()>) {
        if self.error.is_none() {
            self.error = operation(&mut self.to).err();
        }
    }
}

impl<W: Write> Write for FirstError<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All of it, as a short write would be tried again.
        self.attempt(|to| to.write_all(bytes));
        self.at += bytes.len() as u64;
        self.end = self.end.max(self.at);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(W::flush);
        Ok(())
    }
}

impl<W: Seek> Seek for FirstError<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        let at = self.at;
        self.attempt(|file| file.seek(SeekFrom::Start(at)).map(drop));
        Ok(self.at)
    }
}

/// Adds an array to an archive, stored.
pub(crate) fn write_array<T: AutoSerialize + Copy>(
    zip: &mut ZipWriter<impl Write + Seek>,
    name: &str,
    shape: &[usize],
    values: &[T],
) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default()) // now, with some of zip's features
        .large_file(size_of_val(values) > (1 << 31));
    zip.start_file(file_name_from_array_name(name), options)?;
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let mut npy = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape)
        .writer(BufWriter::new(zip))
        .begin_nd()?;
    npy.extend(values.iter().copied())?;
    npy.finish() // flushes the buffer, too
}

/// Writes a file that appears at once or not at all: `write` fills a temporary file in the same
/// folder, which then takes the name. On an error the old file stays as it was and nothing is
/// left behind. What is there but no regular file (a pipe, `/dev/stdout`) is written to directly.
///
/// ```
/// use std::io::{self, Write};
/// use kernelet::data::npz::write_atomically;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("text");
///
/// write_atomically(path, |file| write!(file, "whole"))?;
/// let failed = write_atomically(path, |file| {
///     write!(file, "hal")?;
///     Err(io::Error::other("stopped"))
/// });
/// assert!(failed.is_err());
/// assert_eq!(std::fs::read_to_string(path).unwrap(), "whole");
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
///
/// If the file cannot be created, or what `write` returns.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    write_file_atomically(path, |file| write(file))
}

fn write_file_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), Error> {
    let fill = |file: &File| {
        let mut buffer = BufWriter::new(file);
        write(&mut buffer)?;
        buffer.flush()
    };
    let replace = || {
        let target = resolve(path)?;
        let old = fs::metadata(&target).ok();
        if let Some(old) = old.as_ref().filter(|old| !old.is_file()) {
            return fill(&open_special(&target, old)?);
        }
        // Created here, because tempfile's own permissions would hide the file from others.
        let temporary = tempfile::Builder::new()
            .prefix(".kernelet-")
            .make_in(folder(&target), |path| File::create_new(path))?;
        fill(temporary.as_file())?;
        if let Some(old) = old {
            temporary.as_file().set_permissions(old.permissions())?;
        }
        temporary.as_file().sync_all()?;
        temporary.persist(&target).map_err(|e| e.error)?;
        Ok(())
    };
    replace().map_err(|source| Error::Io { path: path.into(), source })
}

/// Opens a pipe or a device to write to.
#[cfg(unix)]
fn open_special(path: &Path, metadata: &Metadata) -> io::Result<File> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

    use rustix::fs::OFlags;

    if !metadata.file_type().is_fifo() {
        return File::options().write(true).open(path);
    }
    // Otherwise this would wait for somebody to read, for ever if nobody does.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().write(true).custom_flags(flags).open(path).map_err(|e| {
        match rustix::io::Errno::from_io_error(&e) {
            Some(rustix::io::Errno::NXIO) => io::Error::other("nobody reads from this pipe"),
            _ => e,
        }
    })?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

#[cfg(not(unix))]
fn open_special(path: &Path, _: &Metadata) -> io::Result<File> {
    File::options().write(true).open(path)
}

/// The folder that a file is in.
pub(crate) fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// What is written when `path` is: a link stays a link, and its target is what is replaced.
///
/// # Errors
///
/// If `path` is a link that leads nowhere.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(_) if !path.is_symlink() => Ok(path.into()),
        target => target,
    }
}

fn open(path: &Path) -> Result<BufReader<File>, Error> {
    let open = || {
        let file = File::open(path)?;
        // Opening a folder works; reading it then fails.
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(BufReader::new(file))
    };
    open().map_err(|source| Error::Io { path: path.into(), source })
}

/// Opens a file to read here and there in it.
pub(super) fn open_regular(path: &Path) -> Result<BufReader<File>, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Io { path: path.into(), source })?;
    // Before it is opened: a pipe would wait for somebody to write to it.
    if !metadata.is_file() && !metadata.is_dir() {
        let why = "is no regular file: an archive cannot be read through a pipe or a device";
        return Err(Error::File { path: path.into(), why: why.into() });
    }
    open(path)
}

/// An open `.npz` file.
pub(crate) struct Archive<'a, R> {
    file: Input<'a>,
    zip: ZipArchive<R>,
}

impl<'a> Archive<'a, BufReader<File>> {
    pub(crate) fn open(file: impl Into<Input<'a>>) -> Result<Self, Error> {
        let file = file.into();
        Self::new(open_regular(file.path)?, file)
    }
}

impl<'a, R: Read + Seek> Archive<'a, R> {
    /// The path of `file` is for messages.
    pub(super) fn new(reader: R, file: Input<'a>) -> Result<Self, Error> {
        let fail = |why: &str| Error::File { path: file.path.into(), why: why.into() };
        let opened = ZipArchive::new(reader).and_then(|mut zip| {
            // Otherwise a few bytes could be the content of many arrays, or pass for many bytes.
            let overlap = zip.has_overlapping_entries()?;
            Ok((zip, overlap))
        });
        let (zip, overlap) = opened.map_err(|e| match e {
            ZipError::Io(source) if source.raw_os_error().is_some() => {
                Error::Io { path: file.path.into(), source }
            }
            e => fail(&format!("not a whole .npz file: {e}")),
        })?;
        if overlap {
            return Err(fail("holds arrays that overlap each other, or more than the file"));
        }
        if zip.has_duplicate_names() {
            return Err(fail("holds two arrays of the same name"));
        }
        Ok(Self { file, zip })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let name = |file: &[u8]| {
            String::from_utf8_lossy(file.strip_suffix(b".npy").unwrap_or(file)).into_owned()
        };
        self.zip.file_names_raw().map(name).collect()
    }

    /// Finds an array and reads its header.
    pub(crate) fn entry<'b>(
        &'b mut self,
        name: &'b str,
    ) -> Result<Entry<'b, ZipFile<'b, R>>, Error> {
        let Input { path, limit } = self.file;
        let place = Place { path, name: Some(name) };
        let Some(index) = self.zip.index_for_name(&file_name_from_array_name(name)) else {
            let why = format!("is missing: the file holds {}", list_names(self.names()));
            return Err(place.fail(why));
        };
        let unreadable = |e| place.fail(format!("cannot be read: {e}"));
        let file = self.zip.by_index(index).map_err(unreadable)?;
        let (packed, held) = (file.compressed_size(), file.size());
        Entry::new(place, file, Some(held), limit.bytes(Some(packed)))
    }

    /// Reads an array of any type that the methods of [`Array`] know; returns also its shape.
    pub(crate) fn array(&mut self, name: &str) -> Result<(Vec<usize>, Array), Error> {
        let mut entry = self.entry(name)?;
        if !(entry.is_float() || entry.is_integer()) {
            return Err(entry.fail(format!("has dtype '{}': numbers are expected", entry.dtype)));
        }
        let array = entry.read()?;
        Ok((entry.shape, array))
    }

    /// Finds an array of float32 or float64 and reads its header.
    pub(crate) fn floats<'b>(
        &'b mut self,
        name: &'b str,
    ) -> Result<Entry<'b, ZipFile<'b, R>>, Error> {
        let entry = self.entry(name)?;
        if entry.is_float() {
            return Ok(entry);
        }
        Err(entry.fail(format!("has dtype '{}': float32 and float64 are supported", entry.dtype)))
    }
}

/// Names of arrays for a message: quoted, and neither many nor long.
///
/// ```
/// use kernelet::data::npz::list_names;
///
/// assert_eq!(list_names(["images", "labels"]), "\"images\", \"labels\"");
/// assert_eq!(list_names([""; 0]), "nothing");
/// ```
pub fn list_names<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> String {
    const MANY: usize = 10;
    let name = |name: N| format!("{:?}", name.as_ref().chars().take(30).collect::<String>());
    let mut names = names.into_iter();
    let mut list: Vec<_> = names.by_ref().take(MANY).map(name).collect();
    if names.next().is_some() {
        list.push("...".into());
    }
    if list.is_empty() { "nothing".into() } else { list.join(", ") }
}

/// The begin of a text out of a file, on one line.
pub(super) fn printable(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(most).collect()
}

/// Reads the header of an `.npy` file. Returns also how many bytes it takes.
fn read_header(file: &mut impl Read) -> Result<(NpyHeader, u64), String> {
    let damaged = |e: io::Error| format!("is damaged: {e}");
    let mut head = [0; 12];
    file.read_exact(&mut head[..10]).map_err(damaged)?;
    if !head.starts_with(b"\x93NUMPY") {
        return Err("is not in NumPy's .npy format".into());
    }
    // The header's length has 16 bits in version 1, 32 bits later.
    let head_len = if head[6] == 1 { 10 } else { 12 };
    file.read_exact(&mut head[10..head_len]).map_err(damaged)?;
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    if len > MAX_HEADER {
        return Err(format!("has a header of {len} bytes, more than {MAX_HEADER}"));
    }
    let mut text = vec![0; len];
    file.read_exact(&mut text).map_err(damaged)?;

    let quote = || printable(String::from_utf8_lossy(&text).trim(), 100);
    check_header(&text).map_err(|why| format!("has a header {why}: {}", quote()))?;
    let header = NpyHeader::from_reader((&head[..head_len]).chain(&text[..])).map_err(|e| {
        // The parser draws its syntax errors over several lines.
        let why = e.to_string();
        if why.contains('\n') {
            format!("has a header that cannot be parsed: {}", quote())
        } else {
            format!("has a header that cannot be used: {why}")
        }
    })?;
    Ok((header, (head_len + len) as u64))
}

/// Refuses headers that npyz 0.9 cannot take: it multiplies the extents without a check for
/// overflow (a panic in debug builds), adds numbers where NumPy never writes a sum, and its
/// parser recurses as deep as the text is nested, in a time that doubles with every level.
fn check_header(text: &[u8]) -> Result<(), &'static str> {
    const DEEPEST: usize = 4; // a dict of a list of tuples with a shape
    // NumPy quotes with ', so every other part lies outside the strings.
    let outside = text.split(|&c| c == b'\'').step_by(2).collect::<Vec<_>>().join(&b' ');
    let expected = |c: &u8| c.is_ascii_digit() || b"{}[](),: \nTrueFalse".contains(c);
    if text.contains(&b'\\') || !outside.iter().all(expected) {
        return Err("unlike a plain array's");
    }
    let mut depth = 0_usize;
    for c in &outside {
        match c {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err("that is nested too deeply");
        }
    }
    let numbers = outside.split(|c| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut numbers = numbers.map(|digits| str::from_utf8(digits).ok()?.parse::<u64>().ok());
    // An extent of 0 does not excuse the overflow before it.
    let product = numbers.try_fold(1_u64, |product, n| product.checked_mul(n?.max(1)));
    product.map(|_| ()).ok_or("whose shape overflows 64 bits")
}

/// Where an array lies, for messages.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    /// In an archive; the array of an `.npy` file has none.
    name: Option<&'a str>,
}

impl Place<'_> {
    fn fail(self, why: String) -> Error {
        let path = self.path.into();
        match self.name {
            Some(name) => Error::Array { path, array: name.into(), why },
            None => Error::File { path, why: format!("the array {why}") },
        }
    }
}

/// An array whose header has been read: a member of an archive, or a file of its own.
pub(crate) struct Entry<'a, F> {
    place: Place<'a>,
    pub(crate) shape: Vec<usize>,
    pub(super) dtype: TypeStr,
    bytes: usize,
    order: Order,
    file: F,
}

impl<'a> Entry<'a, BufReader<File>> {
    /// Opens an `.npy` file and reads its header.
    pub(super) fn open(Input { path, limit }: Input<'a>) -> Result<Self, Error> {
        let file = open(path)?;
        let metadata =
            file.get_ref().metadata().map_err(|source| Error::Io { path: path.into(), source })?;
        // A pipe does not tell.
        let held = metadata.is_file().then_some(metadata.len());
        Self::new(Place { path, name: None }, file, held, limit.bytes(held))
    }
}

impl<'a, F: Read> Entry<'a, F> {
    /// Reads the header; `held` is the size of the whole file, if it is known, and `limit` the most
    /// bytes that the elements may take.
    fn new(place: Place<'a>, mut file: F, held: Option<u64>, limit: u64) -> Result<Self, Error> {
        let fail = |why| place.fail(why);
        let (header, header_bytes) = read_header(&mut file).map_err(fail)?;

        let DType::Plain(dtype) = header.dtype() else {
            return Err(fail("has a structured dtype".into()));
        };
        if dtype.type_char() == TypeChar::Object {
            return Err(fail(format!("has dtype '{dtype}': Python objects are never unpickled")));
        }
        let shape = header.shape().iter().map(|&n| usize::try_from(n).ok());
        let shape = shape.collect::<Option<Vec<_>>>();
        let sizes = shape.and_then(|shape| {
            let bytes = shape.iter().try_fold(dtype.num_bytes()?, |b, &n| b.checked_mul(n))?;
            Some((bytes, shape))
        });
        let Some((bytes, shape)) = sizes else {
            let shape = tuple(header.shape());
            return Err(fail(format!("of dtype '{dtype}' and shape {shape} is of no fixed size")));
        };
        let needed = bytes as u64;
        if let Some(held) = held
            && held.checked_sub(header_bytes) != Some(needed)
        {
            return Err(fail(format!(
                "of dtype '{dtype}' and shape {} needs {bytes} bytes behind its header of \
                 {header_bytes}, but the file holds {held} in all",
                tuple(&shape)
            )));
        }
        if needed > limit {
            let (path, array) = (place.path.into(), place.name.map(str::to_owned));
            return Err(Error::TooLarge { path, array, shape, needed, limit });
        }
        let order = header.order();
        Ok(Self { place, shape, dtype, bytes, order, file })
    }

    pub(crate) fn fail(&self, why: String) -> Error {
        self.place.fail(why)
    }

    /// True for float32 and float64.
    pub(super) fn is_float(&self) -> bool {
        matches!((self.dtype.type_char(), self.dtype.size_field()), (TypeChar::Float, 4 | 8))
    }

    pub(super) fn is_u8(&self) -> bool {
        (self.dtype.type_char(), self.dtype.size_field()) == (TypeChar::Uint, 1)
    }

    pub(super) fn is_integer(&self) -> bool {
        is_integer(&self.dtype)
    }

    pub(super) fn is_bool(&self) -> bool {
        self.dtype.type_char() == TypeChar::Bool
    }

    /// Reads the elements.
    pub(crate) fn read(&mut self) -> Result<Array, Error> {
        // The file's word is good for a first allocation of moderate size only. One byte more
        // than needed is asked for, so that the end is seen and with it the checksum verified.
        let mut bytes = Vec::with_capacity(self.bytes.min(64 << 20));
        (&mut self.file)
            .take(self.bytes as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| self.fail(format!("is damaged: {e}")))?;
        if bytes.len() != self.bytes {
            let (held, needed) = (bytes.len(), self.bytes);
            return Err(self.fail(format!("is damaged: {held} bytes of data instead of {needed}")));
        }
        let item = self.dtype.num_bytes().unwrap_or(1);
        if self.dtype.endianness() == npyz::Endianness::Big {
            bytes.chunks_exact_mut(item).for_each(<[u8]>::reverse);
        }
        if self.order == Order::Fortran && self.shape.len() > 1 {
            bytes = c_order(&bytes, &self.shape, item);
        }
        Ok(Array { dtype: self.dtype.clone(), bytes })
    }
}

fn is_integer(dtype: &TypeStr) -> bool {
    matches!(dtype.type_char(), TypeChar::Int | TypeChar::Uint)
}

/// Reorders an array whose first axis is the fastest into one whose last axis is, in items of
/// `item` bytes.
fn c_order(bytes: &[u8], shape: &[usize], item: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    while ordered.len() < bytes.len() {
        let at = shape.iter().zip(&index).rev().fold(0, |at, (n, i)| at * n + i);
        ordered.extend_from_slice(&bytes[at * item..][..item]);
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

/// An array in memory: little-endian, in C order.
pub(crate) struct Array {
    dtype: TypeStr,
    pub(crate) bytes: Vec<u8>,
}

impl Array {
    /// True for numbers without a fraction; booleans are none.
    pub(crate) fn is_integer(&self) -> bool {
        is_integer(&self.dtype)
    }

    /// The elements of a float array ([`Entry::is_float`]).
    pub(crate) fn floats(&self) -> Vec<f32> {
        floats(&self.bytes, self.dtype.size_field() == 8)
    }

    /// The elements of an integer or boolean array.
    pub(crate) fn integers(&self) -> Box<dyn Iterator<Item = i128> + '_> {
        macro_rules! of {
            ($int:ty) => {
                Box::new(words(&self.bytes).map(|word| <$int>::from_le_bytes(word).into()))
            };
        }
        match (self.dtype.type_char(), self.dtype.size_field()) {
            (TypeChar::Int, 1) => of!(i8),
            (TypeChar::Int, 2) => of!(i16),
            (TypeChar::Int, 4) => of!(i32),
            (TypeChar::Int, _) => of!(i64),
            (_, 1) => of!(u8),
            (_, 2) => of!(u16),
            (_, 4) => of!(u32),
            (_, _) => of!(u64),
        }
    }

    /// The elements of a float, integer or boolean array.
    pub(crate) fn numbers(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match (self.dtype.type_char(), self.dtype.size_field()) {
            (TypeChar::Float, 4) => {
                Box::new(words(&self.bytes).map(|word| f32::from_le_bytes(word).into()))
            }
            (TypeChar::Float, _) => Box::new(words(&self.bytes).map(f64::from_le_bytes)),
            _ => Box::new(self.integers().map(|n| n as f64)),
        }
    }
}

/// Little-endian float32, or, if they are `double`, float64, which are rounded.
pub(super) fn floats(bytes: &[u8], double: bool) -> Vec<f32> {
    match double {
        false => words(bytes).map(f32::from_le_bytes).collect(),
        true => words(bytes).map(|word| f64::from_le_bytes(word) as f32).collect(),
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}

/// A shape as Python prints it; only its begin if it is very long.
pub(crate) fn tuple<T: std::fmt::Display>(shape: &[T]) -> String {
    let extents: Vec<_> = shape.iter().take(8).map(T::to_string).collect();
    let end = match shape.len() {
        1 => ",",
        0..=8 => "",
        _ => ", ...",
    };
    format!("({}{end})", extents.join(", "))
}
