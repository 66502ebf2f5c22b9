//! Matrix products on the shapes of the study's MLP and CNN and on awkward ones.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernelet::kernels::gemm::{GemmShape, Matrix, Write, gemm};
use kernelet::reference;

/// Name, m, k, n, whether A and B are transposed.
const SHAPES: [(&str, usize, usize, usize, bool, bool); 10] = [
    ("mlp_forward", 1024, 784, 1000, false, false),
    ("mlp_dw_h", 784, 1024, 1000, true, false),
    ("mlp_output", 1024, 1000, 10, false, false),
    ("mlp_dw_o", 1000, 1024, 10, true, false),
    ("mlp_delta_h", 1024, 10, 1000, false, true),
    ("cnn_forward", 32, 6272, 784, false, false),
    ("cnn_dx", 32, 784, 6272, false, true),
    ("cnn_dw", 6272, 32, 784, true, false),
    ("square_256", 256, 256, 256, false, false),
    ("odd_97", 97, 101, 103, true, true),
];

fn bench(criterion: &mut Criterion) {
    for (name, m, k, n, a_transposed, b_transposed) in SHAPES {
        let shape = GemmShape { m, k, n };
        let (a, b) = (common::numbers(m * k, 1), common::numbers(k * n, 2));
        let operand = |data, transposed| {
            if transposed { Matrix::T(data) } else { Matrix::N(data) }
        };
        let (op_a, op_b) = (operand(&a, a_transposed), operand(&b, b_transposed));
        let mut twin = vec![0.0; m * n];
        let (ta, tb) = ((&a[..], a_transposed), (&b[..], b_transposed));
        reference::gemm::gemm(shape, ta, tb, Write::Overwrite, &mut twin);

        let mut group = criterion.benchmark_group(format!("gemm/{name}"));
        group.throughput(Throughput::Elements(shape.flops() as u64));
        for (row, cpu) in common::cpus() {
            let mut c = vec![f32::NAN; m * n];
            cpu.install(|| gemm(&cpu, shape, op_a, op_b, Write::Overwrite, &mut c));
            common::check(&c, &twin, 1e-5);
            group.bench_function(row, |bencher| {
                cpu.install(|| {
                    bencher.iter(|| gemm(&cpu, shape, op_a, op_b, Write::Overwrite, &mut c));
                });
            });
        }
        if shape.flops() < 1e8 {
            group.bench_function("naive/1", |bencher| {
                let run = |c: &mut [f32]| {
                    reference::gemm::gemm(shape, ta, tb, Write::Overwrite, c);
                };
                bencher.iter(|| run(&mut twin));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
