//! What every benchmark shares: inputs, the instruction sets and threads to compare, the check.

#![allow(dead_code, reason = "each benchmark uses its part")]

use kernelet::{Cpu, Isa};

/// Every instruction set of this machine on one thread, then the best one on all threads, each
/// with the name of its row.
pub fn cpus() -> Vec<(String, Cpu)> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cpus: Vec<_> = Isa::available().into_iter().map(|isa| (isa, 1)).collect();
    if let Some(&(best, _)) = cpus.last().filter(|_| all > 1) {
        cpus.push((best, all));
    }
    cpus.into_iter()
        .map(|(isa, threads)| {
            let cpu = Cpu::with_isa(isa).and_then(|cpu| cpu.with_threads(threads));
            let cpu = cpu.expect("an available instruction set and a few threads");
            (format!("{isa}/{threads}"), cpu)
        })
        .collect()
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

/// Labels below `classes`.
pub fn labels(len: usize, classes: u32) -> Vec<u32> {
    (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) % classes).collect()
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
