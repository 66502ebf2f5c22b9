//! Weight files: `.npz` with one float32 array per layer, readable by `numpy.load`.

use std::path::Path;

use crate::data::npz::{read_float_arrays, write_float_arrays};
use crate::error::Error;
use crate::nn::{Mlp, MlpShape};

const MLP_ARRAYS: [&str; 4] = ["w_h", "b_h", "w_o", "b_o"];

/// Reads an MLP from an `.npz` file: `w_h` (inputs, hidden), `b_h` (hidden), `w_o` (hidden,
/// classes), `b_o` (classes), float32 or float64. A bias may also be a single row.
///
/// # Errors
/// If the file cannot be read, an array is missing, or the shapes do not fit each other.
pub fn load_mlp(path: &Path) -> Result<Mlp, Error> {
    let arrays: [_; 4] = read_float_arrays(path, &MLP_ARRAYS)?
        .try_into()
        .unwrap_or_else(|_| unreachable!("as many arrays as names"));
    let wrong = |index: usize, shape: &[usize], wanted: String| Error::Array {
        path: path.to_owned(),
        array: MLP_ARRAYS[index].to_owned(),
        why: format!("has shape {shape:?}, expected {wanted}"),
    };
    let [w_h, b_h, w_o, b_o] = arrays;
    let &[inputs, hidden] = w_h.shape.as_slice() else {
        return Err(wrong(0, &w_h.shape, "[inputs, hidden]".into()));
    };
    let &[rows, classes] = w_o.shape.as_slice() else {
        return Err(wrong(2, &w_o.shape, format!("[{hidden}, classes]")));
    };
    if rows != hidden {
        return Err(wrong(
            2,
            &w_o.shape,
            format!("[{hidden}, {classes}], as w_h is {:?}", w_h.shape),
        ));
    }
    for (index, bias, len) in [(1, &b_h, hidden), (3, &b_o, classes)] {
        if bias.shape != [len] && bias.shape != [1, len] {
            return Err(wrong(index, &bias.shape, format!("[{len}]")));
        }
    }
    for (index, array) in [&w_h, &b_h, &w_o, &b_o].into_iter().enumerate() {
        if let Some(at) = array.values.iter().position(|v| !v.is_finite()) {
            return Err(Error::Array {
                path: path.to_owned(),
                array: MLP_ARRAYS[index].to_owned(),
                why: format!("is {} at element {at}", array.values[at]),
            });
        }
    }
    let shape = MlpShape { inputs, hidden, classes };
    Ok(Mlp { shape, w_h: w_h.values, b_h: b_h.values, w_o: w_o.values, b_o: b_o.values })
}

/// Writes an MLP so that [`load_mlp`] and `numpy.load` can read it. The file appears complete or
/// not at all.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn save_mlp(path: &Path, mlp: &Mlp) -> Result<(), Error> {
    let MlpShape { inputs, hidden, classes } = mlp.shape;
    write_float_arrays(
        path,
        &[
            ("w_h", &[inputs, hidden], &mlp.w_h),
            ("b_h", &[hidden], &mlp.b_h),
            ("w_o", &[hidden, classes], &mlp.w_o),
            ("b_o", &[classes], &mlp.b_o),
        ],
    )
}
