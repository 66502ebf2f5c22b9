//! What every benchmark shares: the contestants, how long each runs, the check against the twin,
//! and the share of what the machine can do.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub mod auto;
pub mod layers;
pub mod shapes;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use faer::Par;
use kernelet::allocator::Aligned;
use kernelet::kernels::relu_batch_norm::{Moments, Normalization};
use kernelet::kernels::softmax_cross_entropy::Tally;
use kernelet::reference::relu_batch_norm as twins;
use kernelet::{Cpu, Isa, peak};

/// Every contestant's arrays begin at cache lines, and the large ones are on huge pages.
#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

/// The twin of more work than this is only compared with, not timed: it would take seconds a call.
const NAIVE_MAX_FLOPS: f64 = 4e8;

/// Runs one file's benchmarks. How long a row takes is set here, for all of them: all files together
/// take some eleven minutes on two cores.
pub fn main(bench: fn(&mut Criterion)) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(350))
        .sample_size(10)
        // The bootstrap behind criterion's intervals; its default takes longer than some rows.
        .nresamples(1000)
        .configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}

/// What one call of a kernel does, which its time is compared with.
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations, held against multiply-adds in registers.
    Flops(f64),
    /// Bytes read plus bytes written, held against a copy inside as much memory as the kernel's
    /// arrays take together.
    Bytes {
        /// Read plus written.
        moved: usize,
        /// All arrays, each once.
        working_set: usize,
    },
}

impl Work {
    /// Arrays of `bytes` together, each read or written once.
    pub fn bytes(bytes: usize) -> Self {
        Work::Bytes { moved: bytes, working_set: bytes }
    }

    /// As criterion takes it.
    fn throughput(self) -> Throughput {
        match self {
            Work::Flops(flops) => Throughput::Elements(flops as u64),
            Work::Bytes { moved, .. } => Throughput::Bytes(moved as u64),
        }
    }

    /// Throughput, its unit, and the most that `cpu` reaches, measured once per process.
    fn rate_and_peak(self, cpu: &Cpu, seconds: f64) -> (f64, &'static str, f64) {
        static PEAKS: LazyLock<Mutex<HashMap<String, f64>>> = LazyLock::new(Mutex::default);
        let (work, unit, key) = match self {
            Work::Flops(flops) => (flops, "GFLOP/s", format!("{}/{}", cpu.isa(), cpu.threads())),
            Work::Bytes { moved, working_set } => {
                (moved as f64, "GB/s", format!("{working_set} bytes/{}", cpu.threads()))
            }
        };
        let mut peaks = PEAKS.lock().expect("no panic while it was held");
        let peak = *peaks.entry(key).or_insert_with(|| match self {
            Work::Flops(_) => peak::gflops(cpu),
            Work::Bytes { working_set, .. } => peak::copy_gbytes(cpu, working_set),
        });
        (work / seconds * 1e-9, unit, peak)
    }
}

/// One kernel on one shape: its contestants are the group's rows. Each writes `N` outputs. (A training
/// step has none: its benchmark compares a step itself, of as many samples as the twin can do in a second.)
pub struct Group<'a, const N: usize> {
    name: String,
    work: Work,
    rows: BenchmarkGroup<'a, WallTime>,
    /// What the outputs hold before the first call.
    start: [Vec<f32>; N],
    twin: Twin<'a, N>,
    /// What the twin makes of them, once a row has asked.
    expected: Option<[Vec<f32>; N]>,
    tolerance: f32,
    /// Compares what is no output, before the first row.
    check: Option<Box<dyn FnOnce() + Send + 'a>>,
    /// What the rows on one thread took for a call, by whose they are.
    on_one_thread: HashMap<String, f64>,
}

/// The scalar twin's call on a group's outputs.
type Twin<'a, const N: usize> = Box<dyn FnMut(&mut [Vec<f32>; N]) + Send + 'a>;

impl<'a, const N: usize> Group<'a, N> {
    /// `twin` turns outputs that hold `start` into what every contestant must make of them.
    pub fn new(
        criterion: &'a mut Criterion,
        name: String,
        work: Work,
        start: [Vec<f32>; N],
        twin: impl FnMut(&mut [Vec<f32>; N]) + Send + 'a,
    ) -> Self {
        let mut rows = criterion.benchmark_group(&name);
        // Flat: all samples are of the same number of calls.
        rows.throughput(work.throughput()).sampling_mode(SamplingMode::Flat);
        let twin = Box::new(twin);
        let on_one_thread = HashMap::new();
        let (expected, tolerance, check) = (None, 1e-5, None);
        Self { name, work, rows, start, twin, expected, tolerance, check, on_one_thread }
    }

    /// How far an output may be from the twin's, relative to the largest; 1e-5 unless said
    /// otherwise.
    pub fn tolerance(mut self, tolerance: f32) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// What else there is to compare, which is done before the first row that the command line asks for.
    pub fn check(mut self, check: impl FnOnce() + Send + 'a) -> Self {
        self.check = Some(Box::new(check));
        self
    }

    /// The row of the twin itself.
    pub fn naive(&mut self) {
        if matches!(self.work, Work::Flops(flops) if flops > NAIVE_MAX_FLOPS) {
            return;
        }
        // For a while there is no twin: nothing is compared with itself.
        let mut twin: Twin<'a, N> = std::mem::replace(&mut self.twin, Box::new(|_| ()));
        self.row("naive", &best(1), false, &mut *twin);
        self.twin = twin;
    }

    /// The row of plain loops, which the compiler has vectorised.
    pub fn auto(&mut self, run: impl FnMut(&mut [Vec<f32>; N]) + Send) {
        self.row("auto", &best(1), true, run);
    }

    /// The kernel's rows: one for each of [`cpus`].
    pub fn kernelet(&mut self, mut run: impl FnMut(&Cpu, &mut [Vec<f32>; N]) + Send) {
        for cpu in cpus() {
            self.row(&cpu.isa().to_string(), &cpu, true, |outputs| run(&cpu, outputs));
        }
    }

    /// One of several ways to do it with kernels: on the best instruction set, on one thread and on all.
    pub fn way(&mut self, name: &str, mut run: impl FnMut(&Cpu, &mut [Vec<f32>; N]) + Send) {
        for cpu in std::iter::once(best(1)).chain((threads() > 1).then(|| best(threads()))) {
            self.row(name, &cpu, true, |outputs| run(&cpu, outputs));
        }
    }

    /// The rows of faer: on one thread and on all.
    pub fn faer(&mut self, mut run: impl FnMut(Par, &mut [Vec<f32>; N]) + Send) {
        self.row("faer", &best(1), true, |outputs| run(Par::Seq, outputs));
        if threads() > 1 {
            let all = Par::rayon(threads());
            self.row("faer", &best(threads()), true, |outputs| run(all, outputs));
        }
    }

    /// The row `who/THREADS`: checked once, then timed, on the threads of `cpu`.
    fn row(
        &mut self,
        who: &str,
        cpu: &Cpu,
        checked: bool,
        mut run: impl FnMut(&mut [Vec<f32>; N]) + Send,
    ) {
        let row = format!("{who}/{}", cpu.threads());
        let mut outputs = None;
        let mut calls = Vec::new();
        // A row that the command line filters out gets no call here, and does not wake the twin.
        self.rows.bench_function(&row, |bencher| {
            let outputs = outputs.get_or_insert_with(|| {
                if let Some(check) = self.check.take() {
                    check();
                }
                let mut outputs = self.start.clone();
                if checked && N > 0 {
                    let expected = self.expected.get_or_insert_with(|| {
                        let mut outputs = self.start.clone();
                        (self.twin)(&mut outputs);
                        outputs
                    });
                    cpu.install(|| run(&mut outputs));
                    for (ours, twin) in outputs.iter().zip(expected) {
                        check(ours, twin, self.tolerance);
                    }
                }
                outputs
            });
            bencher.iter_custom(|count| {
                let time = cpu.install(|| {
                    let start = Instant::now();
                    for _ in 0..count {
                        // As if inputs and outputs were seen by others between the calls, so that
                        // none is left out.
                        black_box(&mut run)(black_box(&mut *outputs));
                    }
                    start.elapsed()
                });
                calls.push((count, time));
                time
            });
        });
        // The samples are those with as many calls as the last; what was before is warm-up. A
        // single one is a test, or none, a row that was filtered out.
        if let [_, .., (count, _)] = calls[..] {
            let samples = calls.iter().filter(|(calls, _)| *calls == count);
            let mut seconds: Vec<_> =
                samples.map(|(_, time)| time.as_secs_f64() / count as f64).collect();
            seconds.sort_by(f64::total_cmp);
            let seconds = seconds[seconds.len() / 2];
            let (rate, unit, peak) = self.work.rate_and_peak(cpu, seconds);
            let share = rate / peak * 100.0;
            let scaling = match self.on_one_thread.get(who) {
                Some(one) => format!(", {:.2} times as fast as on one thread", one / seconds),
                None => String::new(),
            };
            println!("  {}/{row}  {rate:.3} {unit}  {share:.1} % of peak{scaling}", self.name);
            if cpu.threads() == 1 {
                self.on_one_thread.insert(who.to_owned(), seconds);
            }
        }
    }
}

/// What kernels are measured on: every vector instruction set of this machine on one thread, and the best
/// one on all threads.
pub fn cpus() -> impl Iterator<Item = Cpu> {
    let isas = Isa::available();
    // The first is scalar, which is measured where there is nothing else.
    let vectors = isas.into_iter().skip(usize::from(Isa::available().len() > 1));
    let one = vectors.map(|isa| with_threads(Cpu::with_isa(isa), 1));
    one.chain((threads() > 1).then(|| best(threads())))
}

/// The threads to measure with, other than one.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The best instruction set of this machine.
pub fn best(threads: usize) -> Cpu {
    with_threads(Cpu::with_isa(*Isa::available().last().expect("scalar at least")), threads)
}

fn with_threads(cpu: Result<Cpu, kernelet::Error>, threads: usize) -> Cpu {
    cpu.and_then(|cpu| cpu.with_threads(threads))
        .expect("an available instruction set, few threads")
}

/// `len` numbers in [-0.5, 0.5), the same every time, without a pattern that a cache could like.
pub fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    })
    .take(len)
    .collect()
}

/// An output of `len` elements that nobody has written yet.
pub fn unwritten(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

/// Labels below `classes`.
pub fn labels(len: usize, classes: u32) -> Vec<u32> {
    (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) % classes).collect()
}

/// Loss and hits as an output, which a group compares.
pub fn tell_tally(Tally { loss, hits, .. }: Tally, to: &mut [f32]) {
    to.copy_from_slice(&[loss as f32, hits as f32]);
}

/// Moments as outputs.
pub fn tell_moments(moments: &Moments, mean: &mut [f32], variance: &mut [f32]) {
    for channel in 0..mean.len() {
        mean[channel] = moments.mean()[channel] as f32;
        variance[channel] = moments.variance(channel) as f32;
    }
}

/// What the twin normalises with, for a kernel.
pub fn normalization_of(twin: &twins::Normalization<f32>) -> Normalization {
    Normalization { mean: twin.mean.clone(), inv_deviation: twin.inv_deviation.clone() }
}

/// Panics unless every element is within `tolerance` of the twin's, relative to the largest: a
/// benchmark of a wrong result measures nothing.
#[track_caller]
pub fn check(ours: &[f32], twin: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), twin.len(), "the twin's result has another length");
    let scale = twin.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    for (i, (ours, twin)) in ours.iter().zip(twin).enumerate() {
        let error = (ours - twin).abs();
        assert!(error <= tolerance * scale, "element {i} is {ours}, the twin has {twin}");
    }
}
