//! Listens to the spans of training loop and kernels, and adds up what they say.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const TRAIN: &str = "kernelet::train";
const KERNEL: &str = "kernelet::kernel";

/// Whether a span is one of those that a profile is made of.
pub fn listens_to(target: &str) -> bool {
    target == TRAIN || target == KERNEL
}

/// A part of the training loop, as an index of [`Totals`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Step,
    Evaluate,
}

/// What a phase came to.
#[derive(Clone, Default)]
pub struct Totals {
    pub calls: u64,
    pub seconds: f64,
    /// In the order of their first calls.
    pub kernels: Vec<KernelTotals>,
}

/// What a kernel came to.
#[derive(Clone)]
pub struct KernelTotals {
    pub name: &'static str,
    pub calls: u64,
    pub seconds: f64,
    pub flops: f64,
    pub bytes: f64,
}

/// A subscriber that adds up, instead of a layer of a registry: it has nothing to look up and
/// nothing to allocate, so that listening costs well below a microsecond a kernel call. It
/// listens to one thread, the one whose default it is.
///
/// Of kernels within kernels only the outermost counts.
pub struct Recorder(Mutex<State>);

struct State {
    totals: [Totals; 2],
    /// The open spans, the innermost last; an id is a place here, counted from 1.
    open: Vec<Open>,
    /// Steps that are yet to be left out.
    skip: u64,
}

struct Open {
    what: What,
    begin: Instant,
    elapsed: Duration,
}

enum What {
    Phase(Phase),
    Kernel {
        phase: Phase,
        name: &'static str,
        flops: f64,
        bytes: f64,
    },
    /// Within another kernel, outside all phases, or left out.
    Nothing,
}

impl Recorder {
    pub fn new() -> Self {
        let totals = || Totals { kernels: Vec::with_capacity(32), ..Totals::default() };
        Self(Mutex::new(State {
            totals: [totals(), totals()],
            open: Vec::with_capacity(16),
            skip: 0,
        }))
    }

    /// Leaves out the next `steps` steps.
    pub fn skip(&self, steps: u64) {
        self.state().skip = steps;
    }

    /// What a phase has come to so far.
    pub fn totals(&self, phase: Phase) -> Totals {
        self.state().totals[phase as usize].clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the sums as they are.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn what(&mut self, span: &Attributes<'_>) -> What {
        let metadata = span.metadata();
        if metadata.target() == TRAIN {
            if metadata.name() != "step" {
                return What::Phase(Phase::Evaluate);
            }
            if self.skip > 0 {
                self.skip -= 1;
                return What::Nothing;
            }
            return What::Phase(Phase::Step);
        }
        let Some(&Open { what: What::Phase(phase), .. }) = self.open.last() else {
            return What::Nothing;
        };
        let mut work = Work::default();
        span.record(&mut work);
        What::Kernel { phase, name: metadata.name(), flops: work.flops, bytes: work.bytes }
    }

    fn close(&mut self, Open { what, elapsed, .. }: Open) {
        let elapsed = elapsed.as_secs_f64();
        match what {
            What::Phase(phase) => {
                let totals = &mut self.totals[phase as usize];
                totals.calls += 1;
                totals.seconds += elapsed;
            }
            What::Kernel { phase, name, flops, bytes } => {
                let kernels = &mut self.totals[phase as usize].kernels;
                let at = kernels.iter().position(|k| k.name == name).unwrap_or_else(|| {
                    let new = KernelTotals { name, calls: 0, seconds: 0.0, flops: 0.0, bytes: 0.0 };
                    kernels.push(new);
                    kernels.len() - 1
                });
                let kernel = &mut kernels[at];
                kernel.calls += 1;
                kernel.seconds += elapsed;
                kernel.flops += flops;
                kernel.bytes += bytes;
            }
            What::Nothing => {}
        }
    }

    fn open(&mut self, id: &Id) -> Option<&mut Open> {
        self.open.get_mut(id.into_u64() as usize - 1)
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && listens_to(metadata.target())
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.state();
        let what = state.what(span);
        state.open.push(Open { what, begin: Instant::now(), elapsed: Duration::ZERO });
        Id::from_u64(state.open.len() as u64)
    }

    fn enter(&self, id: &Id) {
        let mut state = self.state();
        if let Some(open) = state.open(id) {
            open.begin = Instant::now();
        }
    }

    fn exit(&self, id: &Id) {
        let end = Instant::now();
        let mut state = self.state();
        if let Some(open) = state.open(id) {
            open.elapsed += end - open.begin;
        }
    }

    fn try_close(&self, id: Id) -> bool {
        let mut state = self.state();
        // The spans are guards of nested blocks: what is closed is the innermost.
        if state.open.len() as u64 == id.into_u64()
            && let Some(open) = state.open.pop()
        {
            state.close(open);
        }
        true
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}
}

/// The fields of a kernel's span.
#[derive(Default)]
struct Work {
    flops: f64,
    bytes: f64,
}

impl Visit for Work {
    fn record_f64(&mut self, field: &Field, value: f64) {
        match field.name() {
            "flops" => self.flops = value,
            "bytes" => self.bytes = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::sleep;

    use tracing::dispatcher::{Dispatch, with_default};
    use tracing::trace_span;

    use super::*;

    /// A kernel of 2 flops and 8 bytes that takes at least `milliseconds`.
    macro_rules! kernel {
        ($name:literal, $milliseconds:expr, $body:expr) => {{
            let _span =
                trace_span!(target: "kernelet::kernel", $name, flops = 2.0, bytes = 8.0).entered();
            sleep(Duration::from_millis($milliseconds));
            $body
        }};
    }

    macro_rules! phase {
        ($name:literal) => {
            let _span = trace_span!(target: "kernelet::train", $name).entered();
        };
    }

    fn record(recorder: Recorder, body: impl FnOnce()) -> [Totals; 2] {
        let recorder = Arc::new(recorder);
        with_default(&Dispatch::new(recorder.clone()), body);
        [Phase::Step, Phase::Evaluate].map(|phase| recorder.totals(phase))
    }

    /// Name, calls, flops and bytes of every kernel.
    fn sums(totals: &Totals) -> Vec<(&'static str, u64, f64, f64)> {
        totals.kernels.iter().map(|k| (k.name, k.calls, k.flops, k.bytes)).collect()
    }

    #[test]
    fn kernels_are_added_up_by_phase() {
        let [step, evaluate] = record(Recorder::new(), || {
            for _ in 0..3 {
                phase!("step");
                kernel!("a", 2, {});
                kernel!("b", 1, {});
                kernel!("a", 2, {});
            }
            phase!("evaluate");
            kernel!("b", 1, {});
        });
        assert_eq!((step.calls, evaluate.calls), (3, 1), "calls of the phases");
        assert_eq!(sums(&step), [("a", 6, 12.0, 48.0), ("b", 3, 6.0, 24.0)], "the step");
        assert_eq!(sums(&evaluate), [("b", 1, 2.0, 8.0)], "the evaluation");
        let [a, b] = [&step.kernels[0], &step.kernels[1]];
        assert!(a.seconds >= 0.012 && b.seconds >= 0.003, "a {}, b {}", a.seconds, b.seconds);
        assert!(step.seconds >= a.seconds + b.seconds, "the step took {}", step.seconds);
    }

    #[test]
    fn the_outermost_kernel_counts_alone() {
        let [step, _] = record(Recorder::new(), || {
            phase!("step");
            kernel!("outer", 1, kernel!("inner", 2, kernel!("innermost", 1, {})));
            kernel!("inner", 1, {});
        });
        assert_eq!(sums(&step), [("outer", 1, 2.0, 8.0), ("inner", 1, 2.0, 8.0)], "the kernels");
        let outer = step.kernels[0].seconds;
        assert!(outer >= 0.004, "what is within belongs to it, but it took {outer}");
    }

    #[test]
    fn what_is_in_no_phase_or_skipped_is_left_out() {
        let recorder = Recorder::new();
        recorder.skip(1);
        let [step, evaluate] = record(recorder, || {
            kernel!("stray", 0, {});
            {
                phase!("step");
                kernel!("skipped", 0, {});
            }
            {
                phase!("evaluate");
                kernel!("a", 0, {});
            }
            phase!("step");
            kernel!("b", 0, {});
            let _other = trace_span!(target: "elsewhere", "other").entered();
            kernel!("c", 0, {});
        });
        assert_eq!((step.calls, evaluate.calls), (1, 1), "calls of the phases");
        assert_eq!(sums(&step), [("b", 1, 2.0, 8.0), ("c", 1, 2.0, 8.0)], "the step");
        assert_eq!(sums(&evaluate), [("a", 1, 2.0, 8.0)], "the evaluation");
    }
}
