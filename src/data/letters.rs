//! The letters that come with the library: `data/letters.npz`, made as `data/README.md` tells.

use std::io::Cursor;

use super::Dataset;
use crate::Error;

const NPZ: &[u8] = include_bytes!("../../data/letters.npz");

impl Dataset {
    /// The embedded letters, so that everything runs without a file of one's own.
    ///
    /// ```
    /// use kernelet::data::Dataset;
    ///
    /// let letters = Dataset::letters()?;
    /// assert_eq!((letters.len(), letters.classes), (18_724, 10));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse); the library's tests see to it that there is none.
    pub fn letters() -> Result<Self, Error> {
        Self::parse(Cursor::new(NPZ), "the embedded letters")
    }
}
