//! Matrix products of the networks' layers, and awkward ones.

mod common;

use common::shapes::{self, Layer};
use common::{Group, Work, auto, layers, numbers, unwritten};
use criterion::Criterion;
use kernelet::kernels::gemm::{Matrix, Write, gemm};
use kernelet::reference;

fn main() {
    common::main(bench);
}

fn bench(criterion: &mut Criterion) {
    for (name, layer) in shapes::all() {
        let Layer::Gemm { shape, a_transposed, b_transposed } = layer else { continue };
        let (a, b) = (numbers(shape.m * shape.k, 1), numbers(shape.k * shape.n, 2));
        let operand = |data, transposed| {
            if transposed { Matrix::T(data) } else { Matrix::N(data) }
        };
        let (op_a, op_b) = (operand(&a, a_transposed), operand(&b, b_transposed));
        let twin = |[c]: &mut [Vec<f32>; 1]| {
            let (a, b) = ((&a[..], a_transposed), (&b[..], b_transposed));
            reference::gemm::gemm(shape, a, b, Write::Overwrite, c);
        };

        let (name, work) = (format!("gemm/{name}"), Work::Flops(shape.flops()));
        let start = [unwritten(shape.m * shape.n)];
        let mut group = Group::new(criterion, name, work, start, twin);
        group.naive();
        group.auto(|[c]| auto::gemm(shape, op_a, op_b, c));
        group.kernelet(|cpu, [c]| gemm(cpu, shape, op_a, op_b, Write::Overwrite, c));
        group.faer(|par, [c]| layers::faer(par)(shape, op_a, op_b, c));
    }
}
