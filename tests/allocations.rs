//! No kernel takes memory, but for buffers that stay with their threads: after a first call of the same
//! sizes nothing is taken from the allocator any more. Neither is it in a training loop after its first
//! step.

mod common;

use std::alloc::System;
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use common::calls::{Case, Heap, Memory, Numbers, results, shared_out};
use common::{Random, processors};
use kernelet::Cpu;
use kernelet::data::{Samples, Split};
use kernelet::kernels::gemm::GemmShape;
use kernelet::kernels::relu_batch_norm::Normalization;
use kernelet::nn::cnn::Regularization;
use kernelet::nn::{Cnn, CnnShape, Mlp, MlpShape, cnn as nn_cnn, mlp as nn_mlp};
use kernelet::shape::MatrixShape;
use kernelet::train::{cnn, mlp};
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test, as the allocator counts for all threads, also for one that reports another test's end.
#[test]
fn memory_is_taken_once() {
    kernels_take_no_memory_after_their_first_call();
    training_the_mlp_takes_no_memory_after_the_first_step();
    training_the_cnn_takes_no_memory_after_the_first_step();
    workspaces_take_what_they_say();
}

/// Times that memory has been taken.
fn taken() -> usize {
    let Stats { allocations, reallocations, .. } = ALLOCATOR.stats();
    allocations + reallocations
}

/// The heap, and how often each kernel takes memory from it.
#[derive(Default)]
struct Counted {
    before: Cell<usize>,
    taken: RefCell<Vec<usize>>,
}

impl Memory for Counted {
    type Input<T: Copy> = Vec<T>;
    type Output<T: Copy> = Vec<T>;

    fn input<T: Copy>(&self, content: &[T]) -> Vec<T> {
        Heap.input(content)
    }

    fn output<T: Copy>(&self, content: &[T]) -> Vec<T> {
        Heap.output(content)
    }

    fn before_call(&self) {
        self.before.set(taken());
    }

    fn after_call(&self) {
        let count = taken() - self.before.get();
        self.taken.borrow_mut().push(count);
    }
}

fn kernels_take_no_memory_after_their_first_call() {
    let mut cases = shared_out();
    // Of nothing, and a sum without summands.
    cases.push(Case::Elementwise(0));
    cases.push(Case::Rows(MatrixShape { rows: 0, cols: 0 }));
    cases.push(Case::Gemm(GemmShape { m: 30, k: 0, n: 40 }));
    for processor in processors() {
        let [cpu, _] = &processor.cpus;
        let (first, second) = (Counted::default(), Counted::default());
        results(cpu, &first, Numbers::Random, &cases);
        let labels = results(cpu, &second, Numbers::Random, &cases);
        assert!(first.taken.take().iter().sum::<usize>() > 0, "the first calls take their buffers");
        let taken = second.taken.take();
        assert_eq!(labels.len(), taken.len(), "a count for each call");
        for ((label, _), taken) in labels.iter().zip(taken) {
            assert_eq!(taken, 0, "{label} on {cpu:?} has taken memory");
        }
    }
}

fn samples(random: &mut Random, n: usize, inputs: usize, classes: usize) -> Samples {
    Samples { images: random.uniform(n * inputs, 1.0), labels: random.labels(n, classes) }
}

/// Checks what the steps of a run have taken.
#[track_caller]
fn check(cpu: &Cpu, steps: &[usize]) {
    if cpu.threads() == 1 {
        assert!(steps[1..].iter().all(|&taken| taken == 0), "{steps:?} on {cpu:?}");
    } else {
        // Each thread takes a buffer when it first gets a piece that needs it, which is chance, and a
        // larger one for a larger layer.
        const BUFFERS: usize = 13;
        const LAYERS: usize = 5;
        let taken = steps[1..].iter().sum::<usize>();
        let most = cpu.threads() * BUFFERS * LAYERS;
        assert!(most < steps.len(), "a step that always takes memory would be seen");
        assert!(taken <= most, "{taken} in {} steps on {cpu:?}", steps.len());
    }
}

fn training_the_mlp_takes_no_memory_after_the_first_step() {
    let shape = MlpShape { inputs: 24, hidden: 130, classes: 10 };
    let mut random = Random::new(31);
    let split = Split {
        train: samples(&mut random, 1100, shape.inputs, shape.classes),
        valid: samples(&mut random, 1090, shape.inputs, shape.classes),
        test: samples(&mut random, 5, shape.inputs, shape.classes),
        classes: shape.classes,
    };
    for processor in processors() {
        for cpu in &processor.cpus {
            let epochs = if cpu.threads() == 1 { 8 } else { 200 };
            let settings = mlp::Settings { epochs, ..mlp::Settings::default() };
            let mut mlp = Mlp::xavier(shape, 3);
            let mut counts = Vec::with_capacity(epochs + 1);
            let observe = &mut |_: &_| {
                counts.push(taken());
                ControlFlow::Continue(())
            };
            mlp::train(cpu, &settings, &split, &mut mlp, observe).expect("valid settings");
            // Evaluations take no memory either.
            let steps: Vec<_> = counts.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert_eq!(steps.len(), epochs, "an update each");
            check(cpu, &steps);
        }
    }
}

fn training_the_cnn_takes_no_memory_after_the_first_step() {
    let shape = CnnShape { filters: 8, height: 14, width: 14, ..CnnShape::study(48, 10) };
    let mut random = Random::new(32);
    let train = samples(&mut random, 70, shape.pixels(), shape.classes);
    let nothing = Samples::default();
    let split = Split { train, valid: nothing.clone(), test: nothing, classes: shape.classes };
    for processor in processors() {
        for cpu in &processor.cpus {
            let epochs = if cpu.threads() == 1 { 3 } else { 100 };
            let settings = cnn::Settings {
                epochs,
                l2: 0.01,
                keep_probability: 0.5,
                ..cnn::Settings::default()
            };
            let mut cnn = Cnn::xavier(shape, 3);
            let (mut before, mut steps) = (taken(), Vec::with_capacity(3 * epochs));
            let observe = &mut |event: cnn::Event| {
                let now = taken();
                // An evaluation's moments are its own.
                if matches!(event, cnn::Event::Step { .. }) {
                    steps.push(now - before);
                }
                before = now;
                ControlFlow::Continue(())
            };
            cnn::train(cpu, &settings, &split, &mut cnn, observe).expect("valid settings");
            assert_eq!(steps.len(), 3 * epochs, "of 32, 32 and 6 images");
            check(cpu, &steps);
        }
    }
}

/// Bytes that a pass takes on a thread that has made such a pass before.
fn bytes_of(mut pass: impl FnMut()) -> usize {
    pass();
    let before = ALLOCATOR.stats();
    pass();
    let after = ALLOCATOR.stats();
    after.bytes_allocated - before.bytes_allocated
}

fn workspaces_take_what_they_say() {
    let [cpu, _] = &processors()[0].cpus;
    assert_eq!(cpu.threads(), 1, "buffers of threads stay out of the count");
    let mut random = Random::new(33);

    let shape = MlpShape { inputs: 20, hidden: 30, classes: 10 };
    let mlp = Mlp::xavier(shape, 1);
    for rows in [0, 1, 33] {
        let set = samples(&mut random, rows, shape.inputs, shape.classes);
        let bytes = bytes_of(|| {
            let work = &mut nn_mlp::Workspace::default();
            mlp.evaluate(cpu, work, &set.images, &set.labels);
        });
        assert_eq!(bytes, nn_mlp::Workspace::bytes(shape, rows), "an MLP of {rows} rows");
    }

    let shape = CnnShape::study(20, 10);
    let cnn = Cnn::xavier(shape, 1);
    for rows in [1, 33, 600] {
        let set = samples(&mut random, rows, shape.pixels(), shape.classes);
        let normalization = Normalization::identity(shape.filters);
        let bytes = bytes_of(|| {
            let work = &mut nn_cnn::Workspace::default();
            cnn.evaluate(cpu, work, &normalization, &set.images, &set.labels);
        });
        let said = nn_cnn::Workspace::bytes_to_evaluate(shape, rows);
        assert_eq!(bytes, said, "a CNN that evaluates {rows} images");
        let mut trained = cnn.clone();
        let mut state = nn_cnn::AdamState::new(shape);
        let bytes = bytes_of(|| {
            let work = &mut nn_cnn::Workspace::default();
            let (adam, nothing) = (Default::default(), Regularization::default());
            let (x, labels) = (&set.images, &set.labels);
            trained.adam_step(cpu, work, x, labels, adam, nothing, &mut state);
        });
        let said = nn_cnn::Workspace::bytes_to_train(shape, rows);
        assert_eq!(bytes, said, "a CNN that learns from {rows} images");
    }
}
