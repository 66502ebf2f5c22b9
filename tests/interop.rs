//! Arrays of ndarray as arguments: the same results as slices, or an error.

mod common;

use common::{Random, processors};
use kernelet::interop::ndarray as of_ndarray;
use kernelet::kernels::gemm::{self, GemmShape, Matrix, Write};
use kernelet::{Cpu, Error};
use ndarray::{Array2, Array4, ArrayView2, ShapeBuilder, s};

const SHAPES: [[usize; 3]; 8] = [
    [0, 3, 4],
    [3, 0, 4],
    [3, 4, 0],
    [1, 1, 1],
    [1, 9, 17],
    [33, 1, 16],
    [16, 32, 48],
    [130, 70, 90],
];

/// A product of slices, which the others are held to.
fn product(cpu: &Cpu, [m, k, n]: [usize; 3], a: &[f32], b: &[f32], write: Write) -> Vec<f32> {
    let mut c = vec![1.0; m * n];
    gemm::gemm(cpu, GemmShape { m, k, n }, Matrix::N(a), Matrix::N(b), write, &mut c);
    c
}

/// The elements of a matrix column by column.
fn columns(rows: usize, row_major: &[f32]) -> Vec<f32> {
    let width = row_major.len() / rows.max(1);
    (0..width).flat_map(|j| (0..rows).map(move |i| row_major[i * width + j])).collect()
}

#[track_caller]
fn close(found: impl Iterator<Item = f32>, want: &[f32], k: usize) {
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), want.len(), "as many elements");
    for (found, want) in found.iter().zip(want) {
        // The transpose of a product is computed in another order.
        let bound = 2.0 * (k + 1) as f32 * f32::EPSILON * (k + 1) as f32;
        assert!((found - want).abs() <= bound, "{found} instead of {want}");
    }
}

#[test]
fn products_of_ndarrays_of_either_order() {
    let mut random = Random::new(3);
    for processor in processors() {
        let [_, cpu] = &processor.cpus;
        for [m, k, n] in SHAPES {
            let (a, b) = (random.uniform(m * k, 1.0), random.uniform(k * n, 1.0));
            let (a_columns, b_columns) = (columns(m, &a), columns(k, &b));
            let row_major = |rows, cols, data: &Vec<f32>| {
                Array2::from_shape_vec((rows, cols), data.clone()).expect("as many elements")
            };
            let column_major = |rows, cols: usize, data: &Vec<f32>| {
                Array2::from_shape_vec((rows, cols).f(), data.clone()).expect("as many elements")
            };
            for write in [Write::Overwrite, Write::Add] {
                let want = product(cpu, [m, k, n], &a, &b, write);
                for a in [row_major(m, k, &a), column_major(m, k, &a_columns)] {
                    for b in [row_major(k, n, &b), column_major(k, n, &b_columns)] {
                        let ones = Array2::ones((m, n));
                        let columns_of_ones = Array2::ones((m, n).f());
                        for mut c in [ones, columns_of_ones] {
                            of_ndarray::gemm(cpu, a.view(), b.view(), write, c.view_mut())
                                .expect("no gaps");
                            close(c.iter().copied(), &want, k);
                        }
                    }
                }
            }
        }
    }
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
    let gaps = "rows or columns side by side without gaps are wanted";
    let odd = a.slice(s![.., ..;2]);
    assert_eq!(of(odd, b.view()), format!("A has shape (4, 3) and strides [6, 2]: {gaps}"));
    let backwards = b.slice(s![..;-1, ..]);
    assert_eq!(of(a.view(), backwards), format!("B has shape (6, 5) and strides [-5, 1]: {gaps}"));
    let part = c.slice_mut(s![.., ..4]);
    let error = text(of_ndarray::gemm(&cpu, a.view(), b.slice(s![.., ..4]), Write::Add, part));
    assert_eq!(error, format!("C has shape (4, 4) and strides [5, 1]: {gaps}"));

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
