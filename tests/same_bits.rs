//! The same seed, instruction set and options give the same bits: with any number of threads, beside
//! other busy threads, run after run, and whatever the thread has computed before.

mod common;

use std::hint;
use std::iter;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use common::calls::{Case, Heap, Numbers, assert_same, images, results, shared_out};
use common::{Random, inside, processors};
use kernelet::data::{Samples, Split};
use kernelet::kernels::conv_block::ConvBlockShape;
use kernelet::kernels::gemm::GemmShape;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape};
use kernelet::shape::{Conv2dShape, LinearShape, MatrixShape, Padding, PoolShape, Window};
use kernelet::train::cnn::Event;
use kernelet::train::mlp::Reduction;
use kernelet::train::{History, Metrics, cnn, mlp};
use kernelet::{Cpu, Isa};

/// Threads that do nothing but take the cores from others, until this is dropped.
struct Load {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn new() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let busy = || {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            })
        };
        let threads = iter::repeat_with(busy).take(cores).collect();
        Self { over, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::with_isa(isa).and_then(|cpu| cpu.with_threads(threads)).expect("an available processor")
}

/// Runs on every instruction set with 1, 2, 3 and 16 threads, and with 2 and 16 again under load, and
/// hands each result to `compare`, with the first of its instruction set. With 3 from outside the threads, where less
/// is shared between them.
fn for_each_run<R: Send>(
    run: impl Fn(&Cpu) -> R + Sync,
    compare: impl Fn(&R, &R, (Isa, usize, &str)),
) {
    let inside = |cpu: &Cpu| inside(cpu, || run(cpu));
    for processor in processors() {
        let isa = processor.isa;
        let first = run(&cpu(isa, 1));
        for threads in [2, 16] {
            compare(&first, &inside(&cpu(isa, threads)), (isa, threads, "threads"));
        }
        compare(&first, &run(&cpu(isa, 3)), (isa, 3, "threads from outside"));
        let _load = Load::new();
        for threads in [2, 16] {
            compare(&first, &inside(&cpu(isa, threads)), (isa, threads, "threads under load"));
        }
    }
}

#[test]
fn kernels_with_any_number_of_threads_and_under_load() {
    let cases = shared_out();
    for_each_run(
        |cpu| results(cpu, &Heap, Numbers::Random, &cases),
        |first, other, what| assert_same(first, other, what),
    );
}

/// Buffers stay with their threads. What lies in them is not to be seen: neither other numbers nor NaN.
#[test]
fn kernels_whatever_their_thread_has_computed_before() {
    let cases = shared_out();
    let small = [
        Case::Elementwise(19),
        Case::Rows(MatrixShape { rows: 19, cols: 9 }),
        Case::Gemm(GemmShape { m: 15, k: 33, n: 35 }),
        Case::Gemm(GemmShape { m: 3, k: 130, n: 70 }),
        Case::Linear(LinearShape { rows: 17, inputs: 33, outputs: 19 }),
        Case::BatchNorm(MatrixShape { rows: 70, cols: 9 }),
        Case::Pools(PoolShape {
            input: images(2, 5, 5, 9),
            window: Window::square(2, 2, Padding::Same),
        }),
    ];
    let small_blocks = [(1, 1), (9, 17), (16, 5)].map(|(channels, filters)| {
        let window = Window::square(3, 1, Padding::Same);
        let convolution = Conv2dShape { input: images(2, 5, 9, channels), window, filters };
        let pool = Window::square(2, 2, Padding::Same);
        ConvBlockShape { convolution, pool }
    });
    let small: Vec<_> = (small.into_iter())
        .chain(small_blocks.map(|block| Case::Conv2d(block.convolution)))
        .chain(small_blocks.map(Case::ConvBlock))
        .collect();
    for processor in processors() {
        // A thread that has computed nothing before, and does everything itself.
        let fresh = |before: Option<Numbers>| {
            let body = || {
                let cpu = cpu(processor.isa, 1);
                if let Some(numbers) = before {
                    results(&cpu, &Heap, numbers, &cases);
                }
                let mut calls = results(&cpu, &Heap, Numbers::Random, &small);
                calls.extend(results(&cpu, &Heap, Numbers::Random, &cases));
                calls
            };
            thread::scope(|scope| scope.spawn(body).join().expect("no panic"))
        };
        let first = fresh(None);
        for before in [Numbers::Random, Numbers::NaN] {
            assert_same(&first, &fresh(Some(before)), (processor.isa, "after", before));
        }
    }
}

fn samples(random: &mut Random, n: usize, inputs: usize, classes: usize) -> Samples {
    Samples { images: random.uniform(n * inputs, 1.0), labels: random.labels(n, classes) }
}

/// A history without its seconds.
type Figures = (Vec<[Option<Metrics>; 4]>, Option<usize>);

fn figures(history: &History) -> Figures {
    let rows = history.epochs.iter().map(|row| [row.train, row.valid, row.test, row.batch]);
    (rows.collect(), history.kept)
}

fn bits(weights: &[&[f32]]) -> Vec<u32> {
    weights.concat().iter().map(|w| w.to_bits()).collect()
}

/// Sizes at which every kernel of the step shares its work out: in one run more weights (131,072)
/// than one thread updates, in another more rows (1,024) than the network takes at a time. The last has
/// images, which AMX takes as bytes.
#[test]
fn training_the_mlp() {
    let mut random = Random::new(31);
    let mean = mlp::Settings {
        epochs: 3,
        learning_rate: 0.5,
        momentum: 0.9,
        reduction: Reduction::Mean,
        eval_every: 1,
        patience: None,
    };
    let sum = mlp::Settings {
        learning_rate: 1e-4,
        reduction: Reduction::Sum,
        eval_every: 2,
        patience: Some(1),
        ..mean
    };
    for (inputs, hidden, rows, settings, images) in [
        (33, 4097, 270, mean, false),
        (90, 130, 1100, sum, false),
        (300, 43, 270, mlp::Settings { learning_rate: 0.05, ..mean }, true),
    ] {
        let shape = MlpShape { inputs, hidden, classes: 10 };
        let mut split = Split {
            train: samples(&mut random, rows, inputs, shape.classes),
            valid: samples(&mut random, rows - 10, inputs, shape.classes),
            test: samples(&mut random, 5, inputs, shape.classes),
            classes: shape.classes,
        };
        if images {
            for samples in [&mut split.train, &mut split.valid, &mut split.test] {
                samples.images = random.pixels(samples.images.len());
            }
        }
        let start = Mlp::xavier(shape, 3);
        let run = |cpu: &Cpu| {
            let mut mlp = start.clone();
            let observe = &mut |_: &_| ControlFlow::Continue(());
            let history = mlp::train(cpu, &settings, &split, &mut mlp, observe);
            let (rows, kept) = figures(&history.expect("valid settings"));
            let Mlp { w_h, b_h, w_o, b_o, .. } = &mlp;
            assert!(w_h.iter().all(|w| w.is_finite()), "training stays finite");
            let loss = |row: &[Option<Metrics>; 4]| row[0].map(|train| train.loss);
            assert!(loss(&rows[1]) < loss(&rows[0]), "training learns: {rows:?}");
            (bits(&[w_h, b_h, w_o, b_o]), rows, kept)
        };
        for_each_run(run, |first, other, what| {
            assert!(first.0 == other.0, "other weights with {settings:?}: {what:?}");
            assert!(first == other, "another history with {settings:?}: {what:?}");
        });
    }
}

/// The study's CNN with fewer units, with and without everything that it is regularised by.
#[test]
fn training_the_cnn() {
    let shape = CnnShape::study(48, 10);
    let mut random = Random::new(32);
    let train = samples(&mut random, 34, shape.pixels(), shape.classes);
    let split = Split {
        // The labels are random: of other images there is nothing to be learned.
        valid: train.clone(),
        train,
        test: samples(&mut random, 5, shape.pixels(), shape.classes),
        classes: shape.classes,
    };
    let plain = cnn::Settings {
        epochs: 2,
        learning_rate: 1e-3,
        shuffle: false,
        ..cnn::Settings::default()
    };
    let regularized = cnn::Settings {
        l2: 0.01,
        keep_probability: 0.5,
        shuffle: true,
        seed: 7,
        patience: Some(1),
        ..plain
    };
    let start = Cnn::xavier(shape, 3);
    for settings in [plain, regularized] {
        let run = |cpu: &Cpu| {
            let mut cnn = start.clone();
            let observe = &mut |_: Event| ControlFlow::Continue(());
            let trained = cnn::train(cpu, &settings, &split, &mut cnn, observe);
            let cnn::Trained { history, step_losses, running_moments } =
                trained.expect("valid settings");
            let running = running_moments.expect("an epoch with steps is kept");
            let Cnn { w0, b0, w1, b1, w2, b2, .. } = &cnn;
            assert!(w1.iter().all(|w| w.is_finite()), "training stays finite");
            assert_ne!(w0, &start.w0, "training changes the weights");
            let weights = bits(&[w0, b0, w1, b1, w2, b2, &running.mean, &running.variance]);
            (weights, figures(&history), step_losses)
        };
        for_each_run(run, |first, other, what| {
            assert!(first.0 == other.0, "other weights with {settings:?}: {what:?}");
            assert!(first == other, "another history with {settings:?}: {what:?}");
        });
    }
}
