//! The arrays that a comparison hands to contestants and gets from them, as `.npy` files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use npyz::{NpyFile, WriterBuilder};

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Elements along every axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<T>,
}

/// An array that a work is done with.
#[derive(Clone, Debug)]
pub enum Input {
    /// Numbers.
    Floats(Array<f32>),
    /// Labels.
    Labels(Array<u32>),
}

/// Reads `folder/name.npy`.
pub fn read<T: npyz::Deserialize>(folder: &Path, name: &str) -> Result<Array<T>> {
    let path = folder.join(format!("{name}.npy"));
    let read = || -> Result<_> {
        let file = NpyFile::new(BufReader::new(File::open(&path)?))?;
        ensure!(file.order() == npyz::Order::C, "it is not row-major");
        let shape = file.shape().iter().map(|&len| usize::try_from(len)).collect::<Result<_, _>>();
        Ok(Array { shape: shape?, data: file.into_vec()? })
    };
    read().with_context(|| format!("{name}.npy cannot be read"))
}

/// Writes `folder/name.npy`.
pub fn write<T: npyz::AutoSerialize>(
    folder: &Path,
    name: &str,
    shape: &[usize],
    data: &[T],
) -> Result<()> {
    let path = folder.join(format!("{name}.npy"));
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(&path)?);
        let shape: Vec<u64> = shape.iter().map(|&len| len as u64).collect();
        let mut writer =
            npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd()?;
        writer.extend(data)?;
        writer.finish()?;
        file.flush()?;
        Ok(())
    };
    write().with_context(|| format!("{name}.npy cannot be written"))
}

/// Writes an input of a work.
pub fn write_input(folder: &Path, name: &str, input: &Input) -> Result<()> {
    match input {
        Input::Floats(Array { shape, data }) => write(folder, name, shape, data),
        Input::Labels(Array { shape, data }) => write(folder, name, shape, data),
    }
}

/// The largest difference of two arrays, relative to the largest magnitude of `expected`; NaN
/// where one of them alone has a NaN, or an infinity.
pub fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    let mut worst = 0.0_f64;
    for (&found, &expected) in found.iter().zip(expected) {
        let apart = (f64::from(found) - f64::from(expected)).abs();
        let same = found == expected || found.is_nan() && expected.is_nan();
        if !same {
            if apart.is_nan() {
                return f64::NAN;
            }
            worst = worst.max(apart);
        }
    }
    worst / f64::from(largest)
}

#[cfg(test)]
mod tests {
    use super::{difference, read, write};

    #[test]
    fn an_array_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a", &[2, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("written");
        let array = read::<f32>(folder.path(), "a").expect("read");
        assert_eq!(array.shape, [2, 3], "its shape");
        assert_eq!(array.data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "its elements");
        assert!(read::<u32>(folder.path(), "a").is_err(), "of another type");
        assert!(read::<f32>(folder.path(), "b").is_err(), "that is not there");
    }

    #[test]
    fn a_lone_nan_is_a_difference() {
        assert_eq!(difference(&[1.0, f32::NAN], &[2.0, f32::NAN]), 0.5, "a NaN in both");
        assert!(difference(&[f32::NAN], &[1.0]).is_nan(), "a NaN in one");
        assert!(difference(&[1.0], &[f32::NAN]).is_nan(), "a NaN in the other");
    }
}
