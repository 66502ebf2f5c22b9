//! The split into training, validation and test samples, and NumPy's shuffle behind it.

use rand_mt::Mt;

use super::PIXELS;

/// Samples of one split.
///
/// ```
/// use kernelet::data::{PIXELS, Samples};
///
/// let samples = Samples { images: vec![0.0; 2 * PIXELS], labels: vec![3, 7] };
/// assert_eq!(samples.len(), 2);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// The pixels, image by image: [`len`](Self::len) x [`PIXELS`] values. Bytes have become
    /// 0 to 1, floats are as the file had them.
    pub images: Vec<f32>,
    /// The class of every image.
    pub labels: Vec<u32>,
}

impl Samples {
    /// The number of samples.
    ///
    /// ```
    /// use kernelet::data::{PIXELS, Samples};
    ///
    /// assert_eq!(Samples { images: vec![0.0; PIXELS], labels: vec![3] }.len(), 1);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no sample.
    ///
    /// ```
    /// assert!(kernelet::data::Samples::default().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A data set, split in three.
///
/// ```
/// use kernelet::data::{PIXELS, Samples, Split};
///
/// // Samples of one's own, without a data set.
/// let train = Samples { images: vec![0.0; PIXELS], labels: vec![1] };
/// let split = Split { train, valid: Samples::default(), test: Samples::default(), classes: 2 };
/// assert!(split.train.labels.iter().all(|&label| (label as usize) < split.classes));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// What the model learns from.
    pub train: Samples,
    /// What settings are chosen by.
    pub valid: Samples,
    /// What the result is measured with.
    pub test: Samples,
    /// The number of classes; every label is below it.
    pub classes: usize,
}

/// The sizes (train, valid) that split `n` images as the study splits its 18,724: 10,000 train,
/// 6,000 validate, the rest test.
pub(super) fn study_sizes(n: usize) -> (usize, usize) {
    let share = |part| (n as u128 * part / 18_724) as usize;
    (share(10_000), share(6_000))
}

/// The numbers 0 to `n` - 1, shuffled as `numpy.random.RandomState(seed).shuffle` shuffles
/// `numpy.arange(n)`.
///
/// ```
/// use kernelet::data::split::permutation;
///
/// // numpy: a = arange(8); RandomState(521).shuffle(a)
/// assert_eq!(permutation(8, 521), [5, 3, 1, 4, 0, 6, 7, 2]);
/// ```
///
/// # Panics
///
/// If `n` exceeds `u32::MAX`.
pub fn permutation(n: usize, seed: u32) -> Vec<u32> {
    let n = u32::try_from(n).unwrap_or_else(|_| panic!("cannot shuffle {n} indices: over 32 bits"));
    let mut indices: Vec<u32> = (0..n).collect();
    let mut mt = Mt::new(seed);
    for i in (1..n).rev() {
        // Uniform in 0..=i by rejection under the smallest mask of ones that covers i.
        let mask = u32::MAX >> i.leading_zeros();
        let j = loop {
            let draw = mt.next_u32() & mask;
            if draw <= i {
                break draw;
            }
        };
        indices.swap(i as usize, j as usize);
    }
    indices
}

/// The images `order` of `images`, one after the other, each pixel converted.
pub(super) fn gather<T: Copy>(images: &[T], order: &[u32], convert: impl Fn(T) -> f32) -> Vec<f32> {
    let mut gathered = Vec::with_capacity(order.len() * PIXELS);
    for &i in order {
        let image = &images[i as usize * PIXELS..][..PIXELS];
        gathered.extend(image.iter().map(|&pixel| convert(pixel)));
    }
    gathered
}
