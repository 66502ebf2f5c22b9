//! Kernels flush subnormals to zero on the threads that work for them, and leave no trace of it:
//! the caller's own arithmetic keeps its subnormals. So training does not slow down where weights
//! and moments decay to nothing.

mod common;

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::{Random, for_each_cpu, processors, say};
use kernelet::kernels::adam::Adam;
use kernelet::kernels::conv_block::{self, ConvBlockShape};
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write};
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::{Moments, Normalization};
use kernelet::kernels::{
    adam, avg_pool, conv2d, cross_entropy, dropout, exp, gemm, linear, max_pool, momentum, relu,
    relu_batch_norm, softmax, softmax_cross_entropy,
};
use kernelet::nn::cnn::{AdamState, Regularization, Workspace};
use kernelet::nn::{Cnn, CnnShape};
use kernelet::shape::{
    Conv2dShape, ImageShape, LinearShape, MatrixShape, Padding, PoolShape, Window,
};
use kernelet::{Cpu, Isa};

const SUBNORMAL: f32 = f32::from_bits(0x0012_3456);

/// Whether this thread's arithmetic takes and gives subnormals.
fn has_subnormals() -> bool {
    let given = black_box(f32::MIN_POSITIVE) / 2.0;
    let taken = black_box(f32::from_bits(1)) * 8_388_608.0;
    let in_f64 = black_box(f64::MIN_POSITIVE) / 2.0;
    black_box(given).to_bits() != 0 && black_box(taken) > 0.0 && black_box(in_f64).to_bits() != 0
}

type Call = (&'static str, fn(&Cpu));

/// A call of every kernel, with enough work for several threads, if it is made on one of them.
const CALLS: &[Call] = &[
    ("adam::update", |cpu| {
        let (mut w, mut m, mut v, g) = (tiny(200_000), tiny(200_000), tiny(200_000), tiny(200_000));
        let _ = adam::update(cpu, Adam::default(), 1, &mut w, &mut m, &mut v, &g);
    }),
    ("momentum::update", |cpu| {
        let settings = Momentum { learning_rate: 0.1, momentum: 0.9 };
        momentum::update(cpu, settings, &mut tiny(200_000), &mut tiny(200_000), &tiny(200_000));
    }),
    ("relu", |cpu| {
        let (x, mut y) = (tiny(200_000), tiny(200_000));
        relu::forward(cpu, &x, &mut y);
        relu::backward(cpu, &x, &x, &mut y);
        exp::forward(cpu, &x, &mut y);
    }),
    ("gemm", |cpu| {
        let (a, b) = (tiny(200 * 300), tiny(300 * 200));
        for (m, n) in [(200, 200), (1, 200), (200, 1)] {
            let shape = GemmShape { m, k: 300, n };
            let (a, b) = (Matrix::N(&a[..m * 300]), Matrix::N(&b[..n * 300]));
            gemm::gemm(cpu, shape, a, b, Write::Overwrite, &mut tiny(m * n));
        }
    }),
    ("linear", |cpu| {
        let shape = LinearShape { rows: 300, inputs: 300, outputs: 500 };
        let (x, dy, mut w) = (tiny(300 * 300), tiny(300 * 500), tiny(300 * 500));
        let (mut m, mut v) = (w.clone(), w.clone());
        linear::forward_relu(cpu, shape, &x, &w, &[0.0; 500], &mut dy.clone());
        linear::backward_weights(cpu, shape, &x, &dy, Write::Add, &mut m, &mut [0.0; 500]);
        let step = linear::backward_weights_adam;
        let _ = step(cpu, shape, &x, &dy, Adam::default(), 1, &mut w, &mut m, &mut v);
        let (shape, mut dx) = (LinearShape { rows: 30, ..shape }, tiny(30 * 300));
        let (x, dy, step) = (&x[..30 * 300], &dy[..30 * 500], linear::backward_adam);
        let _ = step(cpu, shape, x, dy, Adam::default(), 1, &mut w, &mut m, &mut v, &mut dx);
    }),
    ("softmax", |cpu| {
        let shape = MatrixShape { rows: 2000, cols: 40 };
        let (x, mut y, labels) = (tiny(80_000), tiny(80_000), vec![0; 2000]);
        softmax::forward(cpu, shape, &x, &mut y);
        softmax::backward(cpu, shape, &x, &x, &mut y);
        softmax_cross_entropy::forward_backward(cpu, shape, &x, &labels, 0.5, &mut y);
        softmax_cross_entropy::backward(cpu, shape, &x, &labels, 0.5, &mut y);
        cross_entropy::backward(cpu, shape, &x, &labels, 0.5, &mut y);
        let _ = cross_entropy::forward(cpu, shape, &x, &labels);
    }),
    ("dropout", |cpu| {
        let settings = Dropout { keep: 0.5, seed: 1, step: 1 };
        dropout::forward_in_place(cpu, settings, &mut tiny(200_000));
    }),
    ("conv2d", |cpu| {
        let shape = Conv2dShape {
            input: ImageShape { batch: 8, height: 28, width: 28, channels: 3 },
            window: Window::square(3, 1, Padding::Same),
            filters: 32,
        };
        let (x, w, b) = (tiny(8 * 784 * 3), tiny(27 * 32), tiny(32));
        let mut y = tiny(8 * 784 * 32);
        let mut moments = Moments::new(32);
        conv2d::forward(cpu, shape, &x, &w, &b, &mut y);
        conv2d::forward_relu_moments(cpu, shape, &x, &w, &b, &mut y, &mut moments);
        conv2d::backward_input(cpu, shape, &y, &w, &mut x.clone());
        conv2d::backward_weights(cpu, shape, &x, &y, Write::Add, &mut w.clone(), &mut b.clone());
    }),
    ("conv_block", |cpu| {
        let convolution = Conv2dShape {
            input: ImageShape { batch: 8, height: 28, width: 28, channels: 1 },
            window: Window::square(3, 1, Padding::Same),
            filters: 32,
        };
        let pool = Window::square(2, 2, Padding::Same);
        let shape = ConvBlockShape { convolution, pool };
        let (x, mut w, mut b, mut r) = (tiny(8 * 784), tiny(9 * 32), tiny(32), tiny(6272 * 32));
        let (mut y, mut argmax, mut moments) =
            (tiny(1568 * 32), vec![0; 1568 * 32], Moments::new(32));
        let norm = Normalization::identity(32);
        let forward = conv_block::forward;
        forward(cpu, shape, &x, &w, &b, &mut r, &mut moments, &mut y, &mut argmax);
        let pixels = shape.pool().output().pixels();
        relu_batch_norm::forward_normalize_in_place(cpu, pixels, &norm, None, &mut y);
        let (dy, backward) = (y.clone(), conv_block::backward_weights);
        let write = Write::Add;
        backward(cpu, shape, &x, &r, &norm, &y, &argmax, &dy, write, &mut w, &mut b);
    }),
    ("relu_batch_norm", |cpu| {
        let (shape, norm) = (MatrixShape { rows: 6272, cols: 32 }, Normalization::identity(32));
        let (x, mut r) = (tiny(6272 * 32), tiny(6272 * 32));
        relu_batch_norm::forward_moments(cpu, shape, &x, &mut r, &mut Moments::new(32));
        relu_batch_norm::forward_normalize(cpu, shape, &x, &norm, None, &mut r);
        let (mut dscale, mut doffset) = (tiny(32), tiny(32));
        let backward = relu_batch_norm::backward;
        backward(cpu, shape, &x, &norm, None, &x, &mut r, &mut dscale, &mut doffset);
    }),
    ("pools", |cpu| {
        let shape = PoolShape {
            input: ImageShape { batch: 8, height: 28, width: 28, channels: 32 },
            window: Window::square(2, 2, Padding::Same),
        };
        let norm = Normalization::identity(32);
        let (mut x, mut y, mut argmax) = (tiny(6272 * 32), tiny(1568 * 32), vec![0u8; 1568 * 32]);
        max_pool::forward(cpu, shape, &x, &mut y, &mut argmax);
        max_pool::backward(cpu, shape, &argmax, &y, &mut x);
        avg_pool::forward(cpu, shape, &x, &mut y);
        avg_pool::backward(cpu, shape, &y, &mut x);
        relu_batch_norm::forward_normalize_max_pool(cpu, shape, &x, &norm, &mut y, &mut argmax);
        let (r, dy) = (x.clone(), y.clone());
        let backward = relu_batch_norm::backward_max_pool;
        backward(cpu, shape, &r, &norm, &y, &argmax, &dy, &mut x);
    }),
    ("Cnn::adam_step", |cpu| {
        let shape = CnnShape::study(40, 10);
        let (mut cnn, mut state) = (Cnn::xavier(shape, 1), AdamState::new(shape));
        let (x, labels) = (tiny(8 * shape.pixels()), [0; 8]);
        let (adam, plain, mut work) =
            (Adam::default(), Regularization::default(), Workspace::default());
        let _ = cnn.adam_step(cpu, &mut work, &x, &labels, adam, plain, &mut state);
    }),
    // What panics leaves no trace, either.
    ("wrong lengths", |cpu| {
        let wrong = || relu::forward(cpu, &tiny(200_000), &mut tiny(5));
        assert!(catch_unwind(AssertUnwindSafe(wrong)).is_err(), "lengths differ");
        let shape = PoolShape {
            input: ImageShape { batch: 40, height: 28, width: 28, channels: 32 },
            window: Window::square(2, 2, Padding::Same),
        };
        let outside = vec![200u8; 40 * 196 * 32];
        let dy = tiny(outside.len());
        let wrong = || max_pool::backward(cpu, shape, &outside, &dy, &mut tiny(40 * 784 * 32));
        assert!(catch_unwind(AssertUnwindSafe(wrong)).is_err(), "an argmax is outside");
    }),
];

fn tiny(n: usize) -> Vec<f32> {
    vec![SUBNORMAL; n]
}

/// Every instruction set on 1 and on 3 threads, to be called from this one.
fn cpus() -> impl Iterator<Item = &'static Cpu> {
    processors().iter().flat_map(|processor| &processor.cpus)
}

/// On the calling thread and on all threads of the pool, which is this `Cpu`'s own.
fn assert_subnormals(cpu: &Cpu, when: &str) {
    assert!(has_subnormals(), "the caller has no subnormals {when}, {cpu:?}");
    let inside = cpu.install(|| rayon::broadcast(|_| has_subnormals()));
    assert!(inside.iter().all(|&has| has), "a thread has no subnormals {when}, {cpu:?}");
}

/// Found by the fuzz target `kernels`: infinity times a subnormal deviation is no infinity.
#[test]
fn a_subnormal_deviation_is_zero_in_the_gradient_too() {
    let shape = MatrixShape { rows: 2, cols: 1 };
    let normalization = Normalization { mean: vec![0.5], inv_deviation: vec![SUBNORMAL] };
    for_each_cpu(|cpu| {
        for (scale, wanted) in [(1e30, 0.0), (f32::INFINITY, f32::NAN)] {
            let (mut dx, mut dscale, mut doffset) = ([9.0; 2], [9.0], [9.0]);
            let backward = relu_batch_norm::backward;
            let (r, dy, scale) = ([1.0, 2.0], [1.0, 3.0], Some(&[scale][..]));
            let (dscale, doffset) = (&mut dscale, &mut doffset);
            backward(cpu, shape, &r, &normalization, scale, &dy, &mut dx, dscale, doffset);
            let right = |dx: &f32| *dx == wanted || dx.is_nan() && wanted.is_nan();
            assert!(dx.iter().all(right), "scale {scale:?} gives {dx:?} on {cpu:?}");
        }
    });
}

#[test]
fn the_callers_arithmetic_is_as_before() {
    for cpu in cpus() {
        assert_subnormals(cpu, "before");
        for (kernel, call) in CALLS {
            call(cpu);
            assert_subnormals(cpu, &format!("after {kernel}"));
            cpu.install(|| call(cpu));
            assert_subnormals(cpu, &format!("after {kernel} inside the pool"));
        }
    }
}

/// On rayon's own global threads, which other code shares.
#[test]
fn global_threads_are_as_before() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(isa).expect("it is available");
        for (kernel, call) in CALLS {
            call(&cpu);
            assert_subnormals(&cpu, &format!("after {kernel}"));
            cpu.install(|| call(&cpu));
            assert_subnormals(&cpu, &format!("after {kernel} inside the pool"));
        }
    }
}

/// The control word itself: a caller that flushes subnormals goes on doing so, and one that rounds
/// up or traps nothing else keeps that, too.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_control_word_is_as_before() {
    use std::arch::asm;

    /// Everything but the six flags of what has happened.
    const CONTROL: u32 = !0x3f;
    const FLUSH: u32 = 1 << 15 | 1 << 6;

    fn read() -> u32 {
        let mut word = 0u32;
        // SAFETY: stores the four bytes of MXCSR, which every x86-64 processor has, into `word`.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
        word & CONTROL
    }

    fn write(word: u32) {
        // SAFETY: `word` is what MXCSR held, or that with bits set that every x86-64 processor
        // allows: no exception is unmasked. What is computed until it is restored is not looked at.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags));
        }
    }

    let before = read();
    assert_eq!(before & FLUSH, 0, "nothing is flushed at the start");
    let mut changed = Vec::new();
    for cpu in cpus() {
        for bits in [0, FLUSH, 1 << 15, 1 << 6] {
            for (kernel, call) in CALLS {
                write(before | bits);
                call(cpu);
                let after = read();
                write(before);
                if after != before | bits {
                    changed.push(format!("{kernel}: {:#x} to {after:#x}", before | bits));
                }
            }
        }
    }
    assert!(changed.is_empty(), "changed:\n{}", changed.join("\n"));
}

/// Weights whose gradients are zero, with moments that have decayed to subnormals, are updated as
/// fast as others: without the flush it takes several times as long (and with PyTorch's Adam,
/// 14 times).
#[test]
fn decayed_moments_do_not_slow_adam_down() {
    const N: usize = 1_000_000;
    /// Half as much again: the least of what subnormals cost is twice, while the median of turns
    /// that alternate seldom differs by a fifth on a machine that others use too.
    const SLOWER: f64 = 1.5;
    let mut random = Random::new(41);
    let w = random.uniform(N, 1.0);
    let (m, g) = (random.uniform(N, 1.0), random.uniform(N, 1.0));
    let v: Vec<f32> = m.iter().map(|m| m * m).collect();
    let (decayed, zero) = (tiny(N), vec![0.0; N]);
    for processor in processors() {
        let cpu = &processor.cpus[0];
        let time = |m: &[f32], v: &[f32], g: &[f32]| -> Duration {
            let (mut w, mut m, mut v) = (w.clone(), m.to_vec(), v.to_vec());
            let start = Instant::now();
            let _ = adam::update(cpu, Adam::default(), 1000, &mut w, &mut m, &mut v, g);
            start.elapsed()
        };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..15 {
            times[0].push(time(&m, &v, &g));
            times[1].push(time(&decayed, &decayed, &zero));
        }
        let [ordinary, subnormal] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64()
        });
        let isa = processor.isa;
        let ratio = subnormal / ordinary;
        say(&format!("Adam on decayed moments takes {ratio:.2} of the ordinary time, {isa}"));
        assert!(ratio < SLOWER, "Adam on decayed moments is {ratio:.2} times as slow on {isa}");
    }
}
