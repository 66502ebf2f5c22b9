//! What the fuzz targets share.

#![forbid(unsafe_code)]

pub mod archive;
pub mod checkpoint;
pub mod file;
pub mod networks;
