//! Images and labels: read from `.npz` and `.npy` files, and split into training, validation and
//! test samples.
//!
//! ```
//! use kernelet::data::{Dataset, PIXELS};
//!
//! let data = Dataset::letters()?;
//! let split = data.split(None, Some(521))?;
//! assert_eq!((split.train.len(), split.valid.len(), split.test.len()), (10_000, 6_000, 2_724));
//! assert_eq!(split.train.images.len(), 10_000 * PIXELS);
//! # Ok::<(), kernelet::Error>(())
//! ```

#![forbid(unsafe_code)]

mod letters;
pub mod npz;
#[cfg(feature = "safetensors")]
pub(crate) mod safetensors;
pub mod split;

use std::io::{Read, Seek};

pub use split::{Samples, Split};

use crate::Error;
use crate::kernels::input::pixel;
use npz::{Archive, Entry, Input, tuple};

/// Pixels of an image: 28 rows of 28 columns.
pub const PIXELS: usize = 28 * 28;

/// Classes of class-number labels: the letters A to J.
pub const CLASSES: usize = 10;

/// Columns that one-hot labels may have. A network grows with them, so a small file must not ask
/// for any number.
const MAX_CLASSES: usize = 1 << 16;

/// Pixels as a file holds them: n x [`PIXELS`] values, image by image, row by row.
///
/// ```
/// use kernelet::data::{Dataset, Images, PIXELS};
///
/// // The embedded letters are bytes.
/// let data = Dataset::letters()?;
/// assert!(matches!(&data.images, Images::U8(pixels) if pixels.len() == data.len() * PIXELS));
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Images {
    /// Bytes, to be scaled by 1/255.
    U8(Vec<u8>),
    /// Floats, to be taken as they are.
    F32(Vec<f32>),
}

/// Labelled images.
///
/// ```
/// use kernelet::data::{Dataset, Images, PIXELS};
///
/// // Three images of one's own, without a file.
/// let data = Dataset {
///     images: Images::U8(vec![255; 3 * PIXELS]),
///     labels: vec![0, 1, 0],
///     classes: 2,
///     origin: "three white images".into(),
/// };
/// let split = data.split(Some((2, 1)), None)?;
/// assert_eq!((split.train.labels, split.train.images[0]), (vec![0, 1], 1.0));
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The pixels.
    pub images: Images,
    /// The class of every image, below `classes`.
    pub labels: Vec<u32>,
    /// The number of classes: [`CLASSES`], or the columns of one-hot labels.
    pub classes: usize,
    /// Where the data came from, for messages.
    pub origin: String,
}

impl Dataset {
    /// Reads the arrays `images` and `labels` of an `.npz` file, stored or deflated, and ignores
    /// others.
    ///
    /// - `images` is uint8, float32 or float64 of shape (n, 28, 28), (n, 28, 28, 1) or (n, 784);
    ///   floats must be finite.
    /// - `labels` is (n,) of any integer type, with values below [`CLASSES`], or one-hot
    ///   (n, classes) of any integer, boolean or float type, with at most 65,536 classes.
    ///
    /// Both byte orders, C and Fortran order are read. Arrays may be as large as the
    /// [`Limit`](npz::Limit) of `file` says, which is the usual one for a path.
    ///
    /// ```no_run
    /// # use kernelet::data::{Dataset, npz::{Input, Limit}};
    /// # use std::path::Path;
    /// let path = Path::new("letters.npz");
    /// let data = Dataset::open(path)?;
    /// let large = Dataset::open(Input { path, limit: Limit::Bytes(8 << 30) })?;
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no whole `.npz` file, or if one of the two arrays is missing,
    /// too large or not as above.
    pub fn open<'a>(file: impl Into<Input<'a>>) -> Result<Self, Error> {
        Self::parse_archive(Archive::open(file)?)
    }

    /// Reads what [`open`](Self::open) reads from anything that holds an `.npz` file; `origin` is
    /// its name for messages.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use kernelet::data::{CLASSES, Dataset, PIXELS, npz::write_float_arrays};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = &folder.path().join("one.npz");
    ///
    /// let (image, mut one_hot) = (vec![0.5; PIXELS], vec![0.0; CLASSES]);
    /// one_hot[2] = 1.0;
    /// let labels = ("labels", &[1, CLASSES][..], &one_hot[..]);
    /// write_float_arrays(path, &[("images", &[1, 28, 28], &image), labels])?;
    /// let bytes = std::fs::read(path).unwrap();
    /// let data = Dataset::parse(Cursor::new(bytes), "an image from memory")?;
    /// assert_eq!((data.labels, data.classes), (vec![2], 10));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn parse<'a>(
        reader: impl Read + Seek,
        origin: impl Into<Input<'a>>,
    ) -> Result<Self, Error> {
        Self::parse_archive(Archive::new(reader, origin.into())?)
    }

    fn parse_archive(mut archive: Archive<impl Read + Seek>) -> Result<Self, Error> {
        let n = check_some_images(&archive.entry("images")?)?;
        // The labels first: what is left of them is small when the images take their memory.
        let (labels, classes) = read_labels(archive.entry("labels")?, n)?;
        let images = read_pixels(archive.entry("images")?)?;
        Ok(Self { images, labels, classes, origin: archive.path().display().to_string() })
    }

    /// The number of images.
    ///
    /// ```
    /// # use kernelet::data::Dataset;
    /// assert_eq!(Dataset::letters()?.len(), 18_724);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no image.
    ///
    /// ```
    /// # use kernelet::data::Dataset;
    /// assert!(!Dataset::letters()?.is_empty());
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Splits the images: the first `train` of `sizes` train, the next `valid` validate, the rest
    /// test. Without `sizes` the shares are the study's, 10,000 and 6,000 of 18,724 images.
    ///
    /// A `seed` first shuffles the images as NumPy's `RandomState(seed).shuffle` shuffles their
    /// indices (the study's seed is 521); without one the file's order stays.
    ///
    /// ```
    /// use kernelet::data::Dataset;
    ///
    /// let data = Dataset::letters()?;
    /// let split = data.split(Some((1_000, 200)), Some(521))?;
    /// assert_eq!((split.train.len(), split.valid.len(), split.test.len()), (1_000, 200, 17_524));
    /// // In the file's order, which is that of the classes.
    /// assert_eq!(data.split(Some((1_000, 0)), None)?.train.labels, [0; 1_000]);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there are fewer images than `sizes` asks for, or if the fields of `self` contradict
    /// each other.
    pub fn split(&self, sizes: Option<(usize, usize)>, seed: Option<u32>) -> Result<Split, Error> {
        let (n, origin) = (self.len(), &self.origin);
        let pixels = match &self.images {
            Images::U8(pixels) => pixels.len(),
            Images::F32(pixels) => pixels.len(),
        };
        if n.checked_mul(PIXELS) != Some(pixels) || u32::try_from(n).is_err() {
            return Err(Error::Setting(format!("{origin}: {pixels} pixels for {n} labels")));
        }
        let (train, valid) = sizes.unwrap_or_else(|| split::study_sizes(n));
        let Some(test) = n.checked_sub(train).and_then(|rest| rest.checked_sub(valid)) else {
            return Err(Error::Setting(format!(
                "cannot take {train} images to train and {valid} to validate: {origin} has {n}"
            )));
        };
        let order = match seed {
            Some(seed) => split::permutation(n, seed),
            None => (0..n as u32).collect(),
        };
        let samples = |order: &[u32]| Samples {
            images: match &self.images {
                Images::U8(pixels) => split::gather(pixels, order, pixel),
                Images::F32(pixels) => split::gather(pixels, order, |v| v),
            },
            labels: order.iter().map(|&i| self.labels[i as usize]).collect(),
        };
        Ok(Split {
            train: samples(&order[..train]),
            valid: samples(&order[train..n - test]),
            test: samples(&order[n - test..]),
            classes: self.classes,
        })
    }
}

/// Reads images without labels, an `.npy` file of what [`Dataset::open`] takes as `images`, or of
/// a single image (28, 28). There may be none. Returns n x [`PIXELS`] values; bytes are scaled by
/// 1/255.
///
/// ```no_run
/// // `numpy.save("images.npy", images)` with images (n, 28, 28).
/// let images = kernelet::data::read_images("images.npy")?;
/// assert_eq!(images.len() % kernelet::data::PIXELS, 0);
/// # Ok::<(), kernelet::Error>(())
/// ```
///
/// # Errors
///
/// If the file cannot be read, is no whole `.npy` file, or is too large or not as above.
pub fn read_images<'a>(file: impl Into<Input<'a>>) -> Result<Vec<f32>, Error> {
    let entry = Entry::open(file.into())?;
    if entry.shape != [28, 28] {
        check_images(&entry, "(28, 28), ")?;
    }
    Ok(match read_pixels(entry)? {
        Images::U8(pixels) => pixels.into_iter().map(pixel).collect(),
        Images::F32(pixels) => pixels,
    })
}

/// Returns the number of images; `others` are shapes that the caller takes besides those of many.
fn check_images<F: Read>(entry: &Entry<F>, others: &str) -> Result<usize, Error> {
    match entry.shape[..] {
        [n, 28, 28] | [n, 28, 28, 1] | [n, PIXELS] => Ok(n),
        _ => Err(entry.fail(format!(
            "has shape {}: {others}(n, 28, 28), (n, 28, 28, 1) or (n, 784) is expected",
            tuple(&entry.shape)
        ))),
    }
}

fn read_pixels<F: Read>(mut entry: Entry<F>) -> Result<Images, Error> {
    if entry.is_u8() {
        return Ok(Images::U8(entry.read()?.bytes));
    }
    if !entry.is_float() {
        let dtype = &entry.dtype;
        return Err(
            entry.fail(format!("has dtype '{dtype}': uint8, float32 and float64 are supported"))
        );
    }
    let pixels = entry.read()?.floats();
    if let Some(i) = pixels.iter().position(|v| !v.is_finite()) {
        let (value, image, row, column) = (pixels[i], i / PIXELS, i % PIXELS / 28, i % 28);
        return Err(entry.fail(format!("is {value} at image {image}, row {row}, column {column}")));
    }
    Ok(Images::F32(pixels))
}

/// Returns the number of images, of which there has to be one.
fn check_some_images<F: Read>(entry: &Entry<F>) -> Result<usize, Error> {
    match check_images(entry, "")? {
        0 => Err(entry.fail(format!("has no images: its shape is {}", tuple(&entry.shape)))),
        n => Ok(n),
    }
}

/// Returns the labels of `n` images and the number of classes.
fn read_labels<F: Read>(mut entry: Entry<F>, n: usize) -> Result<(Vec<u32>, usize), Error> {
    let (shape, dtype) = (tuple(&entry.shape), entry.dtype.clone());
    let one_hot = match entry.shape[..] {
        [_] if entry.is_integer() => None,
        [_] => {
            return Err(entry.fail(format!(
                "has dtype '{dtype}': class numbers of an integer type are expected"
            )));
        }
        [_, classes @ 1..=MAX_CLASSES] => Some(classes),
        [_, classes] if classes > MAX_CLASSES => {
            return Err(entry.fail(format!(
                "has shape {shape}: one-hot rows of at most {MAX_CLASSES} classes are expected"
            )));
        }
        _ => {
            return Err(entry.fail(format!(
                "has shape {shape}: class numbers (n,) or one-hot rows (n, classes) are expected"
            )));
        }
    };
    if entry.shape[0] != n {
        let rows = entry.shape[0];
        return Err(entry.fail(format!("has {rows} labels of shape {shape} for {n} images")));
    }
    let Some(classes) = one_hot else {
        let array = entry.read()?;
        let label = |(i, label): (usize, i128)| match u32::try_from(label) {
            Ok(label) if (label as usize) < CLASSES => Ok(label),
            _ => Err(entry.fail(format!("has {label} at index {i}: 0 to 9 are expected"))),
        };
        let labels = array.integers().enumerate().map(label).collect::<Result<_, _>>()?;
        return Ok((labels, CLASSES));
    };
    if !(entry.is_integer() || entry.is_bool() || entry.is_float()) {
        return Err(entry.fail(format!(
            "has dtype '{dtype}': one-hot rows of an integer, boolean or float type are expected"
        )));
    }
    let array = entry.read()?;
    let mut numbers = array.numbers();
    let label = |row| {
        let (mut label, mut valid) = (None, true);
        for column in 0..classes as u32 {
            match numbers.next() {
                Some(1.0) if label.is_none() => label = Some(column),
                Some(0.0) => {}
                _ => valid = false,
            }
        }
        label.filter(|_| valid).ok_or_else(|| {
            entry.fail(format!(
                "of shape {shape} is taken as one-hot, but row {row} is not a single 1 among 0s"
            ))
        })
    };
    let labels = (0..n).map(label).collect::<Result<_, _>>()?;
    Ok((labels, classes))
}
