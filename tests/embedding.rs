//! Kernels as a guest: in threads and pools of the caller's.

mod common;

use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::Random;
use kernelet::kernels::gemm::{GemmShape, Matrix, Write, gemm};
use kernelet::kernels::relu;
use kernelet::{Cpu, Isa};
use rayon::prelude::*;

/// Fails, rather than waiting for ever, where `body` has come to a standstill.
fn soon<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = channel();
    thread::spawn(move || send.send(body()));
    receive.recv_timeout(Duration::from_secs(120)).expect("neither a deadlock nor a panic")
}

const SHAPE: GemmShape = GemmShape { m: 190, k: 260, n: 273 };

/// A product that is shared out, and what it must be.
struct Product {
    a: Vec<f32>,
    b: Vec<f32>,
    want: Vec<f32>,
}

impl Product {
    fn new() -> Self {
        let mut random = Random::new(9);
        let (a, b) =
            (random.uniform(SHAPE.m * SHAPE.k, 1.0), random.uniform(SHAPE.k * SHAPE.n, 1.0));
        let mut product = Self { a, b, want: Vec::new() };
        product.want = product.with(&one_thread());
        product
    }

    fn with(&self, cpu: &Cpu) -> Vec<f32> {
        let mut c = vec![f32::NAN; SHAPE.m * SHAPE.n];
        gemm(cpu, SHAPE, Matrix::N(&self.a), Matrix::N(&self.b), Write::Overwrite, &mut c);
        c
    }

    #[track_caller]
    fn check(&self, cpu: &Cpu) {
        assert!(self.with(cpu) == self.want, "other bits on {cpu:?}");
    }
}

fn detect() -> Cpu {
    Cpu::detect().expect("the forced instruction set is there")
}

fn one_thread() -> Cpu {
    detect().with_threads(1).expect("one thread")
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("some threads")
}

/// What is cheap to copy takes no memory of its own but for a pointer.
#[test]
fn a_cpu_is_cheap_to_copy() {
    assert!(size_of::<Cpu>() <= 64, "{} bytes", size_of::<Cpu>());
    let cpu = detect().with_threads(2).expect("two threads");
    let copy = cpu.clone();
    drop(cpu);
    Product::new().check(&copy);
}

/// A `Cpu` without threads of its own works where it is called: in the caller's pool.
#[test]
fn kernels_work_in_the_callers_pool() {
    soon(|| {
        let own = pool(3);
        let names = own.install(|| {
            let cpu = detect();
            Product::new().check(&cpu);
            let mut y = vec![-1.0; 1 << 20];
            relu::forward_in_place(&cpu, &mut y);
            rayon::current_num_threads()
        });
        assert_eq!(names, 3, "threads of the caller's pool");
    });
}

/// From within rayon's work of every kind: parallel iterators, joins, scopes, other pools.
#[test]
fn kernels_may_be_called_from_rayons_work() {
    for threads in [1, 2, 3] {
        soon(move || {
            let product = Product::new();
            let cpus = [
                detect(),
                one_thread(),
                detect().with_threads(2).expect("two threads"),
                detect().with_threads(3).expect("three threads"),
            ];
            pool(threads).install(|| {
                (0..16).into_par_iter().for_each(|i| product.check(&cpus[i % cpus.len()]));
                rayon::join(|| product.check(&cpus[0]), || product.check(&cpus[2]));
                rayon::scope(|scope| {
                    for cpu in &cpus {
                        scope.spawn(|_| product.check(cpu));
                    }
                });
                // One pool in another, in another.
                cpus[2].install(|| cpus[3].install(|| product.check(&cpus[2])));
            });
        });
    }
}

/// From many threads at once, with a `Cpu` that they share and with those of their own.
#[test]
fn kernels_may_be_called_from_many_threads_at_once() {
    soon(|| {
        let (product, shared) = (Product::new(), detect().with_threads(2).expect("two threads"));
        let together = Barrier::new(8);
        thread::scope(|scope| {
            for caller in 0..8 {
                let (product, shared, together) = (&product, &shared, &together);
                scope.spawn(move || {
                    together.wait();
                    for _ in 0..10 {
                        match caller % 4 {
                            0 => product.check(&detect()),
                            1 => product.check(&one_thread()),
                            2 => product.check(shared),
                            _ => product.check(&detect().with_threads(2).expect("two threads")),
                        }
                    }
                });
            }
        });
    });
}

/// With one thread everything happens on the caller's, whatever rayon has.
#[test]
fn one_thread_is_the_callers() {
    soon(|| {
        let caller = thread::current().id();
        let cpu = one_thread();
        cpu.install(|| assert_eq!(thread::current().id(), caller));
        // A pool that is busy with something else is not waited for.
        let (busy, over) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                rayon::broadcast(|context| {
                    if context.index() == 0 {
                        busy.wait();
                        over.wait();
                    }
                });
            });
            busy.wait();
            Product::new().check(&cpu);
            over.wait();
        });
    });
}

/// Detection leaves nothing behind: two `Cpu`s of different instruction sets work side by side.
#[test]
fn instruction_sets_side_by_side() {
    soon(|| {
        let product = Product::new();
        let cpus = Isa::available().into_iter().map(|isa| Cpu::with_isa(isa).expect("available"));
        let cpus: Vec<_> = cpus.collect();
        let alone: Vec<_> = cpus.iter().map(|cpu| product.with(cpu)).collect();
        thread::scope(|scope| {
            for (cpu, alone) in cpus.iter().zip(&alone) {
                let product = &product;
                scope.spawn(move || {
                    for _ in 0..10 {
                        assert!(product.with(cpu) == *alone, "other bits beside others on {cpu:?}");
                    }
                });
            }
        });
    });
}
