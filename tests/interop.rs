//! Arrays and matrices of other crates as arguments: the same results as slices, or an error.

mod common;

use common::{Random, processors};
use faer::Mat;
use faer::reborrow::{Reborrow, ReborrowMut};
use kernelet::interop::{faer as of_faer, ndarray as of_ndarray};
use kernelet::kernels::gemm::{self, GemmShape, Matrix, Write};
use kernelet::{Cpu, Error};
use ndarray::{Array2, Array4, ArrayView2, ShapeBuilder, s};

/// The last ones are shared out, and have k in several chunks, few rows, few columns, a single one.
const SHAPES: [[usize; 3]; 13] = [
    [0, 3, 4],
    [3, 0, 4],
    [3, 4, 0],
    [1, 1, 1],
    [1, 9, 17],
    [33, 1, 16],
    [16, 32, 48],
    [130, 70, 90],
    [130, 900, 90],
    [150, 300, 290],
    [16, 1700, 300],
    [300, 900, 10],
    [900, 1300, 1],
];

/// A product of slices, which the others are held to.
fn product(cpu: &Cpu, [m, k, n]: [usize; 3], a: &[f32], b: &[f32], write: Write) -> Vec<f32> {
    let mut c = vec![1.0; m * n];
    gemm::gemm(cpu, GemmShape { m, k, n }, Matrix::N(a), Matrix::N(b), write, &mut c);
    c
}

#[track_caller]
fn close(found: impl Iterator<Item = f32>, want: &[f32], k: usize) {
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), want.len(), "as many elements");
    for (found, want) in found.iter().zip(want) {
        // The transpose of a product is computed in another order.
        let bound = 2.0 * (k + 1) as f32 * f32::EPSILON;
        assert!((found - want).abs() <= bound, "{found} instead of {want}");
    }
}

/// Every product of [`SHAPES`], on every instruction set: what it is of, and what comes out.
fn for_each_product(check: impl Fn(&Cpu, [usize; 3], [&[f32]; 2], Write, &[f32])) {
    let mut random = Random::new(3);
    for processor in processors() {
        let [_, cpu] = &processor.cpus;
        for [m, k, n] in SHAPES {
            let (a, b) = (random.uniform(m * k, 1.0), random.uniform(k * n, 1.0));
            for write in [Write::Overwrite, Write::Add] {
                let want = product(cpu, [m, k, n], &a, &b, write);
                check(cpu, [m, k, n], [&a, &b], write, &want);
            }
        }
    }
}

/// A matrix in three layouts: by rows, by columns, and as a part of a larger one with NaN around it.
fn ndarrays(rows: usize, cols: usize, row_major: &[f32]) -> [Array2<f32>; 3] {
    let by_rows = Array2::from_shape_vec((rows, cols), row_major.to_vec()).expect("its elements");
    let mut by_columns = Array2::zeros((rows, cols).f());
    by_columns.assign(&by_rows);
    let mut part = Array2::from_elem((rows + 2, cols + 3), f32::NAN);
    part.slice_mut(s![1..=rows, 2..cols + 2]).assign(&by_rows);
    [by_rows, by_columns, part]
}

/// The matrix in it.
fn inner(array: &Array2<f32>, rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    let whole = array.dim() == (rows, cols);
    if whole { array.view() } else { array.slice(s![1..=rows, 2..cols + 2]) }
}

#[test]
fn products_of_ndarrays_of_any_layout() {
    for_each_product(|cpu, [m, k, n], [a, b], write, want| {
        let (ones, mut checked) = (vec![1.0; m * n], 0);
        for a in ndarrays(m, k, a) {
            for b in ndarrays(k, n, b) {
                for mut c in ndarrays(m, n, &ones) {
                    let around = c.iter().filter(|c| c.is_nan()).count();
                    let whole = c.dim() == (m, n);
                    let part = if whole { c.view_mut() } else { c.slice_mut(s![1..=m, 2..n + 2]) };
                    of_ndarray::gemm(cpu, inner(&a, m, k), inner(&b, k, n), write, part)
                        .expect("rows or columns are side by side");
                    close(inner(&c, m, n).iter().copied(), want, k);
                    assert_eq!(c.iter().filter(|c| c.is_nan()).count(), around, "the rest");
                    checked += 1;
                }
            }
        }
        assert_eq!(checked, 27, "layouts");
    });
}

#[test]
fn products_of_faers_matrices() {
    for_each_product(|cpu, [m, k, n], [a, b], write, want| {
        // Mat leaves gaps between its columns; a transpose has them between its rows.
        let matrix = |rows, cols, data: &[f32]| Mat::from_fn(rows, cols, |i, j| data[i * cols + j]);
        let (a, b) = (matrix(m, k, a), matrix(k, n, b));
        let (a_by_rows, b_by_rows) = (a.transpose().to_owned(), b.transpose().to_owned());
        for a in [a.as_ref(), a_by_rows.transpose()] {
            for b in [b.as_ref(), b_by_rows.transpose()] {
                let mut c = Mat::from_fn(m + 3, n + 2, |_, _| 1.0);
                let mut part = c.as_mut().submatrix_mut(1, 1, m, n);
                of_faer::gemm(cpu, a, b, write, part.rb_mut()).expect("columns are side by side");
                let part = part.rb();
                close((0..m * n).map(|at| *part.get(at / n, at % n)), want, k);
                c.as_mut().submatrix_mut(1, 1, m, n).fill(1.0);
                assert_eq!(c, Mat::from_fn(m + 3, n + 2, |_, _| 1.0), "the rest is as it was");

                let mut c = Mat::from_fn(n, m, |_, _| 1.0);
                of_faer::gemm(cpu, a, b, write, c.as_mut().transpose_mut()).expect("rows are");
                close((0..m * n).map(|at| *c.get(at % n, at / n)), want, k);
            }
        }
    });
}

#[test]
fn a_row_may_be_every_other_element() {
    let cpu = Cpu::detect().expect("the forced instruction set is there");
    let mut random = Random::new(4);
    let (row, b) = (random.uniform(80, 1.0), random.uniform(40 * 30, 1.0));
    let a: Vec<_> = row.iter().copied().step_by(2).collect();
    let want = product(&cpu, [1, 40, 30], &a, &b, Write::Overwrite);
    let row = Array2::from_shape_vec((1, 80), row).expect("its elements");
    let b = Array2::from_shape_vec((40, 30), b).expect("its elements");
    let mut c = Array2::from_elem((1, 60), f32::NAN);
    let (a, part) = (row.slice(s![.., ..;2]), c.slice_mut(s![.., 1..;2]));
    of_ndarray::gemm(&cpu, a, b.view(), Write::Overwrite, part).expect("a row");
    close(c.iter().copied().skip(1).step_by(2), &want, 40);
    assert!(c.iter().step_by(2).all(|c| c.is_nan()), "the rest is as it was");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let cpu = Cpu::detect().expect("the forced instruction set is there");
    let text = |result: Result<(), Error>| result.expect_err("an argument is wrong").to_string();
    let (a, b) = (Array2::<f32>::ones((4, 6)), Array2::<f32>::ones((6, 5)));
    let mut c = Array2::<f32>::ones((4, 5));
    let mut of = |a: ArrayView2<f32>, b: ArrayView2<f32>| {
        text(of_ndarray::gemm(&cpu, a, b, Write::Overwrite, c.view_mut()))
    };
    assert_eq!(of(a.view(), a.view()), "B has shape (4, 6), not (6, 6)");
    assert_eq!(of(a.slice(s![..3, ..]), b.view()), "C has shape (4, 5), not (3, 5)");
    let gaps = "rows, or columns, of elements side by side are wanted, one behind the other";
    let odd = a.slice(s![.., ..;2]);
    assert_eq!(of(odd, b.view()), format!("A has shape (4, 3) and strides [6, 2]: {gaps}"));
    let backwards = b.slice(s![..;-1, ..]);
    assert_eq!(of(a.view(), backwards), format!("B has shape (6, 5) and strides [-5, 1]: {gaps}"));
    let repeated = b.slice(s![..1, ..]);
    let repeated = repeated.broadcast((6, 5)).expect("a row, six times");
    assert_eq!(of(a.view(), repeated), format!("B has shape (6, 5) and strides [0, 1]: {gaps}"));
    let every_other = c.slice_mut(s![.., ..;2]);
    let error = of_ndarray::gemm(&cpu, a.view(), b.slice(s![.., ..3]), Write::Add, every_other);
    assert_eq!(text(error), format!("C has shape (4, 3) and strides [5, 2]: {gaps}"));

    let (a, mut c) = (Mat::<f32>::zeros(4, 6), Mat::<f32>::zeros(4, 4));
    let backwards = a.as_ref().reverse_rows();
    let stride = a.col_stride();
    let error = of_faer::gemm(&cpu, backwards, a.transpose(), Write::Add, c.as_mut());
    assert_eq!(text(error), format!("A has shape (4, 6) and strides [-1, {stride}]: {gaps}"));
    let error = of_faer::gemm(&cpu, a.as_ref(), a.as_ref(), Write::Add, c.as_mut());
    assert_eq!(text(error), "B has shape (4, 6), not (6, 6)");

    let images = Array4::<f32>::zeros((2, 3, 4, 2));
    assert_eq!(of_ndarray::slice("x", images.view()).expect("no gaps").len(), 48);
    let error = of_ndarray::slice("x", images.slice(s![.., 1.., .., ..])).expect_err("a gap");
    let wanted = "rows side by side without gaps are wanted";
    let strides = "shape (2, 2, 4, 2) and strides [24, 8, 2, 1]";
    assert_eq!(error.to_string(), format!("x has {strides}: {wanted}"));
    let mut images = images;
    let error = of_ndarray::slice_mut("y", images.view_mut().permuted_axes([2, 1, 0, 3]));
    assert!(error.expect_err("other order").to_string().starts_with("y has shape (4, 3, 2, 2)"));
}
