//! What the kernel tests share: which processors to run on, sizes and numbers to run with, and a
//! comparison that reports every failing case.

#![allow(dead_code, reason = "each test program uses its own part of this module")]

pub mod calls;
pub mod cases;

use std::any::Any;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use kernelet::cpu::ISA_VARIABLE;
use kernelet::{Cpu, Isa};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Half a unit in the last place of 1: a rounding changes a number by at most this share.
pub const U: f64 = 1.0 / (1 << 24) as f64;

/// The smallest normal number: kernels flush what is smaller to zero, so a rounding below the
/// normal range changes a number by less than this.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;

/// From here on rounding to `f32` gives infinity.
const OVERFLOW: f64 = f32::MAX as f64 + (1u128 << 103) as f64;

/// An instruction set of this machine, with the numbers of threads that must not matter.
pub struct Processor {
    pub isa: Isa,
    /// On 1 and on 3 threads.
    pub cpus: [Cpu; 2],
}

/// Every instruction set that this machine has, or the one that `KERNELET_ISA` names. Says once,
/// visibly, which those are and which the machine lacks.
///
/// Panics if `KERNELET_ISA` names one that is not there: a test that was to run on it must fail.
#[track_caller]
pub fn processors() -> &'static [Processor] {
    static PROCESSORS: LazyLock<Result<Vec<Processor>, String>> =
        LazyLock::new(|| find_processors().map_err(|e| format!("{ISA_VARIABLE}: {e}")));
    match &*PROCESSORS {
        Ok(processors) => processors,
        Err(why) => panic!("{why}"),
    }
}

fn find_processors() -> Result<Vec<Processor>, kernelet::Error> {
    let detected = Cpu::detect()?.isa();
    let available = Isa::available();
    assert!(available.contains(&detected), "{detected} was detected but is not in {available:?}");
    let wanted = |isa: &Isa| std::env::var_os(ISA_VARIABLE).is_none() || *isa == detected;
    let known: &[Isa] = if cfg!(target_arch = "x86_64") {
        &[Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx]
    } else {
        &[Isa::Scalar, Isa::Native]
    };
    for isa in known.iter().filter(|isa| wanted(isa)) {
        if available.contains(isa) {
            say(&format!("RUNNING: {isa}, on 1 and 3 threads"));
        } else {
            say(&format!("SKIPPED: {isa} is not on this machine"));
        }
    }
    available
        .into_iter()
        .filter(wanted)
        .map(|isa| {
            let cpu = Cpu::with_isa(isa)?;
            Ok(Processor { isa, cpus: [cpu.clone().with_threads(1)?, cpu.with_threads(3)?] })
        })
        .collect()
}

/// Runs `body` on every instruction set, on 1 and on 3 threads: on one of these, since from outside less is
/// shared between them.
#[track_caller]
pub fn for_each_cpu(mut body: impl FnMut(&Cpu) + Send) {
    for cpu in processors().iter().flat_map(|processor| &processor.cpus) {
        inside(cpu, || body(cpu));
    }
}

/// Runs `body` on one of the threads. If it panics, so does this, with the same message: on this thread, whose output
/// is the test's.
#[track_caller]
pub fn inside<R: Send>(cpu: &Cpu, body: impl FnOnce() -> R + Send) -> R {
    cpu.install(|| catch_unwind(AssertUnwindSafe(body)))
        .unwrap_or_else(|panic| panic!("on {cpu:?}: {}", panic_message(&*panic)))
}

/// A line on the standard error that the test harness does not capture.
pub fn say(line: &str) {
    // Nobody to tell if the standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// 0, 1, and for vectors of every number of lanes: L - 1, L, L + 1, 2 L + 3.
pub fn sizes() -> Vec<usize> {
    let mut sizes = vec![0, 1];
    for lanes in [1, 4, 8, 16] {
        sizes.extend([lanes - 1, lanes, lanes + 1, 2 * lanes + 3]);
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Pseudo-random numbers, the same in every run.
pub struct Random(StdRng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `n` numbers from -`scale` to `scale`.
    pub fn uniform(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.0.random_range(-scale..=scale)).collect()
    }

    /// `n` bytes divided by 255, as images are read.
    pub fn pixels(&mut self, n: usize) -> Vec<f32> {
        self.bytes(n).into_iter().map(|byte| f32::from(byte) / 255.0).collect()
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte()).collect()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.random()
    }

    /// `n` whole numbers from -2 to 2: many ties, many zeros.
    pub fn ties(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.0.random_range(-2..=2) as f32).collect()
    }

    /// `n` labels below `classes`.
    pub fn labels(&mut self, n: usize, classes: usize) -> Vec<u32> {
        (0..n).map(|_| self.0.random_range(0..classes.max(1)) as u32).collect()
    }

    /// `uniform(n, 1)` with about one in `every` replaced by one of `specials`.
    pub fn sprinkled(&mut self, n: usize, every: usize, specials: &[f32]) -> Vec<f32> {
        let mut values = self.uniform(n, 1.0);
        for value in &mut values {
            if self.0.random_range(0..every) == 0 {
                *value = specials[self.0.random_range(0..specials.len())];
            }
        }
        values
    }
}

/// The same numbers as `f64`.
pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The numbers as kernels see them: subnormals count as zero, with their sign.
pub fn flush(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| if x.is_subnormal() { 0.0f32.copysign(x) } else { x }).collect()
}

/// The numbers as kernels see them, as `f64`: what the twins are given.
pub fn seen(x: &[f32]) -> Vec<f64> {
    widen(&flush(x))
}

/// The nearest `f32`s.
pub fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Magnitudes.
pub fn abs(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.abs()).collect()
}

/// The distance between neighbouring `f32`s around `x`: 2^-149 for subnormals.
pub fn ulp(x: f64) -> f64 {
    let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
    // 2 to the power of that, by its bits: a function for it would take most of the time of a test of
    // all `f32`.
    f64::from_bits(((exponent.clamp(-126, 127) - 23 + 1023) as u64) << 52)
}

/// What a kernel should write: the `f64` twin's values, and how far off each may be.
pub struct Expected {
    pub name: &'static str,
    pub values: Vec<f64>,
    pub bounds: Vec<f64>,
}

impl Expected {
    pub fn new(name: &'static str, values: Vec<f64>, bounds: Vec<f64>) -> Self {
        assert_eq!(values.len(), bounds.len(), "{name}: as many bounds as values");
        Self { name, values, bounds }
    }

    /// Nothing but the values will do, and for subnormals zero: a kernel that copies may keep them.
    pub fn copies(name: &'static str, values: &[f32]) -> Self {
        let lost = |value: &f32| if value.is_subnormal() { f64::from(value.abs()) } else { 0.0 };
        Self { name, values: seen(values), bounds: values.iter().map(lost).collect() }
    }

    /// Nothing but the exact values will do.
    pub fn exact(name: &'static str, values: Vec<f64>) -> Self {
        let bounds = vec![0.0; values.len()];
        Self { name, values, bounds }
    }
}

/// Whether `got` will do. NaN for NaN and infinity for infinity; where the exact result is too
/// large for `f32`, infinity too.
pub fn close(got: f64, want: f64, bound: f64) -> bool {
    let bound = if bound.is_finite() { bound } else { 0.0 };
    if want.is_nan() {
        got.is_nan()
    } else if want.is_infinite() {
        got == want
    } else {
        (got - want).abs() <= bound
            || (want.abs() + bound >= OVERFLOW && got == f64::INFINITY.copysign(want))
    }
}

/// Whether `got` will do where sums may overflow on the way, in an order that is the kernel's own
/// affair: as infinity or NaN, or as the zero that ReLU makes of minus infinity. But where the
/// result is infinity or NaN, it is no number.
fn lost_to_overflow(got: f64, want: f64, bound: f64) -> bool {
    if want.is_finite() {
        // A bound is a share of at least U of the magnitudes that are summed.
        let within = bound < U * OVERFLOW;
        !within && (!got.is_finite() || got == 0.0)
    } else {
        want.is_infinite() && got.is_nan()
    }
}

/// Runs cases on every processor and collects what fails.
pub struct Checker {
    name: &'static str,
    /// Whether inputs are so large that [sums may overflow](lost_to_overflow).
    pub overflow: bool,
    cases: usize,
    failures: Vec<String>,
    /// Largest share of its bound that an error took, and where.
    worst: BTreeMap<(&'static str, Isa), (f64, String)>,
}

impl Checker {
    pub fn new(name: &'static str) -> Self {
        Self { name, overflow: false, cases: 0, failures: Vec::new(), worst: BTreeMap::new() }
    }

    /// Runs a kernel on every instruction set with 1 and 3 threads, on one of these, since from outside less is
    /// shared between them. Its outputs must be as `expected`, and the same bits with both numbers of threads.
    #[track_caller]
    pub fn case(
        &mut self,
        label: &str,
        expected: &[Expected],
        run: impl Fn(&Cpu) -> Vec<Vec<f64>> + Sync,
    ) {
        for Processor { isa, cpus } in processors() {
            let mut first: Option<Vec<Vec<f64>>> = None;
            for cpu in cpus {
                self.cases += 1;
                let outputs = match catch_unwind(AssertUnwindSafe(|| cpu.install(|| run(cpu)))) {
                    Ok(outputs) => outputs,
                    Err(panic) => {
                        let message = panic_message(&*panic);
                        self.fail(format!("{label} on {cpu:?}: panicked: {message}"));
                        continue;
                    }
                };
                match &first {
                    None => {
                        self.compare(label, *isa, expected, &outputs);
                        first = Some(outputs);
                    }
                    Some(first) if !same_bits(first, &outputs) => {
                        self.fail(format!("{label} on {cpu:?}: other bits than on 1 thread"));
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Notes a failure that the caller has found.
    pub fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    fn compare(&mut self, label: &str, isa: Isa, expected: &[Expected], outputs: &[Vec<f64>]) {
        assert_eq!(expected.len(), outputs.len(), "{label}: number of outputs");
        for (Expected { name, values, bounds }, output) in expected.iter().zip(outputs) {
            assert_eq!(values.len(), output.len(), "{label}: length of {name}");
            let all = || output.iter().zip(values).zip(bounds).map(|((&g, &w), &b)| (g, w, b));
            let right = |g, w, b| close(g, w, b) || self.overflow && lost_to_overflow(g, w, b);
            let mut wrong = all().enumerate().filter(|&(_, (g, w, b))| !right(g, w, b));
            if let Some((at, (got, want, bound))) = wrong.next() {
                let others = wrong.count();
                self.fail(format!(
                    "{label} on {isa}: {name}[{at}] is {got:e}, not {want:e} +- {bound:.2e}; \
                     {others} others of {} are wrong too",
                    values.len()
                ));
            }
            let share = all()
                .filter(|(got, want, bound)| (got - want).is_finite() && *bound > 0.0)
                .map(|(got, want, bound)| (got - want).abs() / bound)
                .fold(0.0, f64::max);
            let worst = self.worst.entry((name, isa)).or_default();
            if share > worst.0 {
                *worst = (share, label.to_owned());
            }
        }
    }

    /// Fails with the list of everything that failed.
    #[track_caller]
    pub fn finish(self) {
        for ((output, isa), (share, label)) in &self.worst {
            println!(
                "{}, {isa}: {output} off by at most {share:.3} of its bound ({label})",
                self.name
            );
        }
        assert!(self.cases > 0, "{}: nothing was run", self.name);
        assert!(
            self.failures.is_empty(),
            "{}: {} failures in {} runs:\n{}",
            self.name,
            self.failures.len(),
            self.cases,
            self.failures.join("\n")
        );
    }
}

fn same_bits(a: &[Vec<f64>], b: &[Vec<f64>]) -> bool {
    let bits = |x: &[Vec<f64>]| x.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    a.len() == b.len() && bits(a) == bits(b)
}

/// The text of a panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "(not a text)".to_owned())
}
