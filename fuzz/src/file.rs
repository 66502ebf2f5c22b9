//! Bytes behind a path, for loaders that take one.

use std::fs::File;
use std::io::{Result, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A file without a name, so that nothing is left behind however the process ends.
pub struct Bytes {
    file: File,
    path: PathBuf,
}

impl Bytes {
    /// An empty one.
    ///
    /// # Errors
    /// If the folder for temporary files cannot be written to.
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile()?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Ok(Self { file, path })
    }

    /// Replaces its content; the path opens the file anew, at its start.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn set(&mut self, data: &[u8]) -> Result<&Path> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(data)?;
        Ok(&self.path)
    }
}
