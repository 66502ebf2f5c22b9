//! Arrays in `.safetensors` files: a length, a header in JSON, and the elements, little-endian and in
//! C order (<https://huggingface.co/docs/safetensors>).
//!
//! As with `.npz` files, nothing that a file says is trusted: its header may not be long, it must
//! account for every byte of the file, and an array must be within its [`Limit`](super::npz::Limit).
//! Of two arrays of the same name, which can only be of the same bytes, the later counts.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};

use super::npz::{Input, floats, list_names, open_regular, printable, write_atomically};
use crate::Error;

/// A network's header has a kilobyte.
const MAX_HEADER: u64 = 1 << 20;

/// As many as NumPy's arrays may have. Messages show the whole shape.
const MAX_AXES: usize = 64;

/// An open file.
pub(crate) struct Archive<'a> {
    input: Input<'a>,
    file: BufReader<File>,
    metadata: Metadata,
    /// Where the elements begin.
    start: u64,
}

impl<'a> Archive<'a> {
    /// Opens a file and reads its header.
    pub(crate) fn open(input: Input<'a>) -> Result<Self, Error> {
        let path = input.path;
        let io = |source| Error::Io { path: path.into(), source };
        let fail = |why| Error::File { path: path.into(), why };
        let mut file = open_regular(path)?;
        let held = file.get_ref().metadata().map_err(io)?.len();

        let mut len = [0; 8];
        let short = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                fail(format!("not a whole .safetensors file: it has {held} bytes"))
            }
            _ => io(e),
        };
        file.read_exact(&mut len).map_err(short)?;
        let len = u64::from_le_bytes(len);
        if len > MAX_HEADER {
            return Err(fail(format!(
                "not a .safetensors file, or one with a header of {len} bytes, more than {MAX_HEADER}"
            )));
        }
        let mut json = vec![0; len as usize];
        file.read_exact(&mut json).map_err(short)?;
        let metadata: Metadata = serde_json::from_slice(&json).map_err(|e| {
            fail(format!("not a .safetensors file: {}", printable(&e.to_string(), 200)))
        })?;

        let start = 8 + len;
        let needed = start.checked_add(metadata.data_len() as u64);
        if needed != Some(held) {
            let needed = needed.map_or("more than any file's".into(), |n| n.to_string());
            let why = format!("holds {held} bytes: its header calls for {needed}");
            return Err(fail(why));
        }
        Ok(Self { input, file, metadata, start })
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.input.path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    fn fail(&self, name: &str, why: String) -> Error {
        Error::Array { path: self.input.path.into(), array: name.into(), why }
    }

    /// What the header says of an array of float32 or float64 that is within its limit.
    pub(crate) fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        let Some(info) = self.metadata.info(name) else {
            let why = format!("is missing: the file holds {}", list_names(self.names()));
            return Err(self.fail(name, why));
        };
        let TensorInfo { dtype, shape, data_offsets: (start, end) } = info;
        if !matches!(dtype, Dtype::F32 | Dtype::F64) {
            return Err(self.fail(name, format!("has dtype {dtype}: F32 and F64 are supported")));
        }
        if shape.len() > MAX_AXES {
            let why = format!("has {} axes, more than {MAX_AXES}", shape.len());
            return Err(self.fail(name, why));
        }
        let needed = (end - start) as u64;
        let limit = self.input.limit.bytes(Some(needed));
        if needed > limit {
            let (path, array) = (self.input.path.into(), Some(name.into()));
            return Err(Error::TooLarge { path, array, shape: shape.clone(), needed, limit });
        }
        Ok(info)
    }

    /// Reads an array's elements; float64 is rounded to float32.
    pub(crate) fn read(&mut self, name: &str) -> Result<Vec<f32>, Error> {
        let TensorInfo { dtype, data_offsets: (start, end), .. } = *self.info(name)?;
        let mut bytes = vec![0; end - start];
        let mut read = |file: &mut BufReader<File>| {
            file.seek(SeekFrom::Start(self.start + start as u64))?;
            file.read_exact(&mut bytes)
        };
        read(&mut self.file).map_err(|e| self.fail(name, format!("cannot be read: {e}")))?;
        Ok(floats(&bytes, dtype == Dtype::F64))
    }
}

/// An array to be written.
struct Tensor<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// Writes (name, shape, values) arrays as float32. The same arrays always give the same bytes, and
/// the file appears at once or not at all.
pub(crate) fn write(path: &Path, arrays: &[(&str, &[usize], &[f32])]) -> Result<(), Error> {
    let tensors = arrays.iter().map(|&(name, shape, values)| (name, Tensor { shape, values }));
    write_atomically(path, |file| {
        let bytes = safetensors::serialize(tensors, None).map_err(io::Error::other)?;
        file.write_all(&bytes)
    })
}
