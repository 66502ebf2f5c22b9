//! Shapes, checked once at the boundary: kernels compare the slices they are given with the shape
//! and name both lengths when they disagree.

/// A row-major matrix, such as a batch of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Number of rows (samples).
    pub rows: usize,
    /// Number of columns (classes).
    pub cols: usize,
}

/// A linear layer applied to a batch: y (rows, outputs) = x (rows, inputs) w (inputs, outputs) + b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Number of rows (samples).
    pub rows: usize,
    /// Values per row of x.
    pub inputs: usize,
    /// Values per row of y.
    pub outputs: usize,
}

/// Panics unless `len`, the length of the slice `name`, is `rows * cols`.
#[track_caller]
pub(crate) fn check_len(name: &str, len: usize, rows: usize, cols: usize) {
    let wanted = rows.checked_mul(cols);
    assert!(
        wanted == Some(len),
        "{name} has {len} elements, but its shape is {rows} x {cols}{}",
        wanted.map_or(" (which overflows)".into(), |n| format!(" = {n}")),
    );
}
