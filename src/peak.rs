//! What this machine can do at most, measured: the roofline that kernels are held against.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use pulp::{Simd, WithSimd};

use crate::cpu::Cpu;

/// How long each measurement runs. Turbo clocks and neighbours on a shared machine make shorter
/// ones jump.
const DURATION: Duration = Duration::from_millis(300);

/// Floating-point operations per second, in 1e9 (GFLOP/s): independent fused multiply-adds in
/// registers, on every thread of `cpu`, with its instruction set. AMX's tiles, another unit, are not
/// measured: a large product on them can be faster. Takes about 0.3 seconds.
///
/// ```
/// use kernelet::{Cpu, peak};
///
/// let cpu = Cpu::detect()?.with_threads(1)?;
/// assert!(peak::gflops(&cpu) > 0.0);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[must_use]
pub fn gflops(cpu: &Cpu) -> f64 {
    cpu.broadcast(&|| {
        let start = Instant::now();
        let mut operations = 0.0;
        while start.elapsed() < DURATION {
            operations += cpu.arch().dispatch(MultiplyAdds);
        }
        operations / start.elapsed().as_secs_f64() * 1e-9
    })
}

/// Bytes per second between the cores and main memory, in 1e9 (GB/s): copies of arrays far larger
/// than the caches, bytes read plus bytes written, on every thread of `cpu`. Takes about 0.3
/// seconds and 256 MiB of memory.
///
/// ```
/// use kernelet::{Cpu, peak};
///
/// let cpu = Cpu::detect()?.with_threads(1)?;
/// assert!(peak::memory_gbytes(&cpu) > 0.0);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[must_use]
pub fn memory_gbytes(cpu: &Cpu) -> f64 {
    copy_gbytes(cpu, 256 << 20)
}

/// Bytes per second that copying moves inside `working_set` bytes of memory, in 1e9 (GB/s): each
/// thread of `cpu` copies the first half of its share to the second half, over and over; bytes read
/// plus bytes written. Where the working set fits a cache, this is that cache's bandwidth. Takes
/// about 0.3 seconds and the memory.
///
/// ```
/// use kernelet::{Cpu, peak};
/// let cpu = Cpu::detect()?.with_threads(1)?;
/// assert!(peak::copy_gbytes(&cpu, 16 << 10) > 0.0);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[must_use]
pub fn copy_gbytes(cpu: &Cpu, working_set: usize) -> f64 {
    /// Reading the clock takes as long as copying some hundred bytes: this many are copied between
    /// two readings.
    const BYTES_PER_READING: usize = 256 << 10;
    let len = (working_set / 2 / cpu.threads().max(1)).max(1);
    cpu.broadcast(&|| {
        let from = vec![1_u8; len];
        let mut to = vec![0_u8; len];
        let start = Instant::now();
        let mut bytes = 0.0;
        while start.elapsed() < DURATION {
            for _ in 0..BYTES_PER_READING.div_ceil(len) {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
                bytes += 2.0 * len as f64;
            }
        }
        bytes / start.elapsed().as_secs_f64() * 1e-9
    })
}

struct MultiplyAdds;

impl WithSimd for MultiplyAdds {
    type Output = f64;

    /// Returns the number of operations done.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        /// As many as a GEMM tile: more than latency times throughput of any current core.
        const ACCUMULATORS: usize = 12;
        const STEPS: usize = 10_000;
        let factor = simd.splat_f32s(black_box(0.999_9));
        let mut sums = [simd.splat_f32s(black_box(1.0)); ACCUMULATORS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, factor);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
        (2 * STEPS * ACCUMULATORS * S::F32_LANES) as f64
    }
}
