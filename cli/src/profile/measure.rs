//! Trains for a while, listened to and not in turn, and says where the time went.

use std::sync::Arc;
use std::time::Instant;

use kernelet::data::{PIXELS, Samples, Split};
use kernelet::nn::{Cnn, CnnShape, Mlp};
use kernelet::train::cnn::Event;
use kernelet::train::{Epoch, cnn, mlp};
use kernelet::{Cpu, Error, peak};
use tracing::dispatcher::{Dispatch, with_default};

use super::recorder::{KernelTotals, Phase, Recorder, Totals};
use super::{Cost, Kernel, Part, Peaks, Profile, StepSeconds, Subject, trace::of as traced};
use crate::interrupt;
use crate::network::{new_cnn, new_mlp};

/// Seconds of steps in a round: so short that the two rounds of a pair see the same machine, even
/// where neighbours share it and come and go.
const ROUND: f64 = 0.15;

/// Steps of a round at most, which is reached by networks that are small.
const MAX_STEPS: f64 = 256.0;

/// Images of the validation and of the test set that are evaluated, for an evaluation says the
/// same about its kernels with more: two of the MLP's blocks, one of the CNN's.
const MLP_EVALUATED: usize = 2048;
const CNN_EVALUATED: usize = 512;

/// Steps of a trace.
const MLP_TRACED: usize = 2;
const CNN_TRACED: usize = 10;

/// Measures a network that learns from `split`: `rounds` rounds listened to and as many that are
/// not, in turn. `None` if Ctrl-C ended it.
pub fn measure(
    cpu: &Cpu,
    split: &Split,
    subject: &Subject,
    seed: u64,
    rounds: usize,
    peaks: Peaks,
) -> Result<Option<Profile>, Error> {
    let network = Network::new(split, subject, seed)?;
    // The first steps wait for memory and wake the threads.
    let warm = network.train(cpu, 6)?;
    let steps = (ROUND / median(&warm)).ceil().clamp(1.0, MAX_STEPS) as usize;

    let recorder = Arc::new(Recorder::new());
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for pair in 0..rounds {
        let mut order = [(false, &mut off), (true, &mut on)];
        // What grows slower from round to round weighs on both alike.
        if pair % 2 == 1 {
            order.reverse();
        }
        for (listening, seconds) in order {
            let round = if listening {
                listened(cpu, &recorder, || network.train(cpu, steps))?
            } else {
                network.train(cpu, steps)?
            };
            if interrupt::asked() {
                return Ok(None);
            }
            seconds.push(round);
        }
    }
    let part = |phase| Part::new(&recorder.totals(phase), peaks);
    let (step, evaluation) = (part(Phase::Step), part(Phase::Evaluate));
    Ok(Some(Profile {
        kernelet: env!("CARGO_PKG_VERSION").into(),
        subject: subject.clone(),
        images: network.images_per_step(),
        seed,
        rounds,
        instruction_set: cpu.isa().to_string(),
        threads: cpu.threads(),
        peaks,
        step_seconds: StepSeconds { off: median_of_all(&off), on: median_of_all(&on) },
        cost: cost(&off, &on),
        coverage: 1.0 - step.outside_share,
        step,
        evaluation,
    }))
}

/// A trace of a few steps and an evaluation or two, as JSON.
pub fn trace(cpu: &Cpu, split: &Split, subject: &Subject, seed: u64) -> Result<Vec<u8>, Error> {
    let network = Network::new(split, subject, seed)?;
    let steps = match subject {
        Subject::Mlp { .. } => MLP_TRACED,
        Subject::Cnn { .. } => CNN_TRACED,
    };
    // One step more than is asked for waits for memory.
    let (result, json) = traced(cpu, || network.train(cpu, steps - 1));
    result.map(|_| json)
}

/// Runs `body` with the recorder listening to its thread, and to nothing before or after.
fn listened<R: Send>(cpu: &Cpu, recorder: &Arc<Recorder>, body: impl FnOnce() -> R + Send) -> R {
    // The step that waits for memory is not measured either.
    recorder.skip(1);
    let dispatch = Dispatch::new(recorder.clone());
    let result = cpu.install(|| with_default(&dispatch, body));
    drop(dispatch);
    // Without this, spans would go on looking for a subscriber that is gone.
    tracing::callsite::rebuild_interest_cache();
    result
}

impl Peaks {
    /// The better of two tries: neighbours can slow a machine down, but nobody speeds it up.
    pub fn measure(cpu: &Cpu) -> Self {
        let best = |measure: fn(&Cpu) -> f64| measure(cpu).max(measure(cpu));
        Self { gflops: best(peak::gflops), memory_gbytes: best(peak::memory_gbytes) }
    }
}

/// A network before its first step, and what it learns from.
struct Network {
    start: Start,
    split: Split,
    seed: u64,
}

enum Start {
    Mlp(Mlp),
    Cnn { cnn: Cnn, batch: usize, l2: f32, keep_probability: f32 },
}

impl Network {
    fn new(split: &Split, subject: &Subject, seed: u64) -> Result<Self, Error> {
        let (start, evaluated) = match *subject {
            Subject::Mlp { hidden } => {
                let mlp = new_mlp(hidden, split.classes, seed)?;
                (Start::Mlp(mlp), MLP_EVALUATED)
            }
            Subject::Cnn { hidden, batch, l2, keep_probability } => {
                let shape = CnnShape::study(hidden, split.classes);
                let cnn = new_cnn(shape, batch.min(split.train.len()), seed)?;
                (Start::Cnn { cnn, batch, l2, keep_probability }, CNN_EVALUATED)
            }
        };
        let split = Split {
            train: split.train.clone(),
            valid: first(&split.valid, evaluated),
            test: first(&split.test, evaluated),
            classes: split.classes,
        };
        Ok(Self { start, split, seed })
    }

    fn images_per_step(&self) -> usize {
        match &self.start {
            Start::Mlp(_) => self.split.train.len(),
            Start::Cnn { batch, .. } => (*batch).min(self.split.train.len()),
        }
    }

    /// Trains from the start: one step that waits for memory, then `steps` whose seconds are
    /// returned. Evaluates before and after.
    fn train(&self, cpu: &Cpu, steps: usize) -> Result<Vec<f64>, Error> {
        match &self.start {
            Start::Mlp(mlp) => self.train_mlp(cpu, mlp.clone(), steps),
            Start::Cnn { cnn, batch, l2, keep_probability } => {
                let settings = cnn::Settings {
                    batch: *batch,
                    l2: *l2,
                    keep_probability: *keep_probability,
                    seed: self.seed,
                    ..cnn::Settings::default()
                };
                self.train_cnn(cpu, cnn.clone(), settings, steps)
            }
        }
    }

    fn train_mlp(&self, cpu: &Cpu, mut mlp: Mlp, steps: usize) -> Result<Vec<f64>, Error> {
        let epochs = steps + 1;
        let settings = mlp::Settings { epochs, eval_every: epochs, ..mlp::Settings::default() };
        let mut seconds = Vec::with_capacity(steps);
        let observe = &mut |epoch: &Epoch| {
            if epoch.epoch > 1 {
                seconds.push(epoch.train_seconds);
            }
            interrupt::flow()
        };
        mlp::train(cpu, &settings, &self.split, &mut mlp, observe)?;
        Ok(seconds)
    }

    fn train_cnn(
        &self,
        cpu: &Cpu,
        mut cnn: Cnn,
        settings: cnn::Settings,
        steps: usize,
    ) -> Result<Vec<f64>, Error> {
        // Whole minibatches, and no more of them than it takes: the evaluation takes them all.
        let images = self.split.train.len();
        let batch = settings.batch.min(images);
        let epoch = (images / batch.max(1)).clamp(1, steps + 1);
        let epochs = (steps + 1).div_ceil(epoch);
        let settings = cnn::Settings { epochs, eval_every: epochs, ..settings };
        let Split { train, valid, test, classes } = &self.split;
        let split = Split {
            train: first(train, epoch * batch),
            valid: valid.clone(),
            test: test.clone(),
            classes: *classes,
        };

        let mut seconds = Vec::with_capacity(epochs * epoch);
        let mut before = Instant::now();
        let observe = &mut |event: Event| {
            let now = Instant::now();
            if let Event::Step { step, .. } = event
                && step > 1
            {
                seconds.push((now - before).as_secs_f64());
            }
            before = now;
            interrupt::flow()
        };
        cnn::train(cpu, &settings, &split, &mut cnn, observe)?;
        Ok(seconds)
    }
}

/// The first `len` samples, or as many as there are.
fn first(samples: &Samples, len: usize) -> Samples {
    let len = len.min(samples.len());
    Samples {
        images: samples.images[..len * PIXELS].to_vec(),
        labels: samples.labels[..len].to_vec(),
    }
}

/// 0 without values.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

fn median_of_all(rounds: &[Vec<f64>]) -> f64 {
    median(&rounds.concat())
}

/// How much longer a step takes while it is listened to, pair of rounds by pair.
fn cost(off: &[Vec<f64>], on: &[Vec<f64>]) -> Cost {
    let more = |off: f64, on: f64| if off > 0.0 { on / off - 1.0 } else { 0.0 };
    let pairs = off.iter().zip(on).map(|(off, on)| more(median(off), median(on)));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by(f64::total_cmp);
    // Of fewer than four pairs the third quartile is the last.
    let quartile = |n: usize| pairs.get(pairs.len() * n / 4).copied().unwrap_or(0.0);
    Cost { median: median(&pairs), lower_quartile: quartile(1), upper_quartile: quartile(3) }
}

impl Part {
    fn new(totals: &Totals, peaks: Peaks) -> Self {
        let in_kernels: f64 = totals.kernels.iter().map(|kernel| kernel.seconds).sum();
        let outside_seconds = (totals.seconds - in_kernels).max(0.0);
        let mut kernels: Vec<_> = totals
            .kernels
            .iter()
            .map(|kernel| Kernel::new(kernel, totals.seconds, peaks))
            .collect();
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Self {
            calls: totals.calls,
            seconds: totals.seconds,
            kernels,
            outside_seconds,
            outside_share: ratio(outside_seconds, totals.seconds),
        }
    }
}

impl Kernel {
    fn new(totals: &KernelTotals, whole: f64, peaks: Peaks) -> Self {
        let &KernelTotals { name, calls, seconds, flops, bytes } = totals;
        let (gflop, gbyte) = (flops * 1e-9, bytes * 1e-9);
        // Whichever takes longer, computing or moving, at the machine's peaks.
        let shortest = ratio(gflop, peaks.gflops).max(ratio(gbyte, peaks.memory_gbytes));
        Self {
            name: name.into(),
            calls,
            seconds,
            share: ratio(seconds, whole),
            gflops: ratio(gflop, seconds),
            gbytes: ratio(gbyte, seconds),
            intensity: ratio(flops, bytes),
            roofline: ratio(shortest, seconds),
        }
    }
}

/// 0 where there is nothing to divide by, for a profile is read by programs that know no infinity.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        for (values, expected) in
            [(&[][..], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 9.0, 2.0], 3.0)]
        {
            assert_eq!(median(values), expected, "the median of {values:?}");
        }
    }

    #[test]
    fn the_cost_is_that_of_the_pairs() {
        let rounds = |seconds: [f64; 5]| seconds.map(|s| vec![s, s]).to_vec();
        // The machine gets slower; three of five pairs cost a tenth.
        let off = rounds([1.0, 2.0, 3.0, 4.0, 5.0]);
        let on = rounds([1.1, 2.2, 3.3, 3.6, 7.5]);
        let Cost { median, lower_quartile, upper_quartile } = cost(&off, &on);
        for (value, expected) in [(median, 0.1), (lower_quartile, 0.1), (upper_quartile, 0.1)] {
            assert!((value - expected).abs() < 1e-9, "{value} instead of {expected}");
        }
    }

    #[test]
    fn a_kernel_is_held_against_the_roof_that_it_is_under() {
        let peaks = Peaks { gflops: 100.0, memory_gbytes: 10.0 };
        let kernel = |flops, bytes| {
            let totals = KernelTotals { name: "k", calls: 2, seconds: 2.0, flops, bytes };
            Kernel::new(&totals, 4.0, peaks)
        };
        // 50 GFLOP/s of 100, and 1 GB/s of 10.
        let computing = kernel(100e9, 2e9);
        assert_eq!((computing.share, computing.intensity), (0.5, 50.0), "share and intensity");
        assert_eq!((computing.gflops, computing.roofline), (50.0, 0.5), "under the flat roof");
        // 1 GFLOP/s, and 8 GB/s of 10.
        let moving = kernel(2e9, 16e9);
        assert_eq!((moving.gbytes, moving.roofline), (8.0, 0.8), "under the slope");
    }
}
