//! [`Cpu`]: which instruction set the kernels use, and how many threads. Every kernel's first
//! argument.
//!
//! The result of a kernel depends on the instruction set, never on the number of threads:
//!
//! ```
//! use kernelet::{Cpu, kernels::linear, shape::LinearShape};
//!
//! let cpu = Cpu::detect()?;
//! let shape = LinearShape { rows: 1, inputs: 2, outputs: 1 };
//! let run = |cpu: &Cpu| {
//!     let mut y = [0.0];
//!     linear::forward(cpu, shape, &[1.0, 2.0], &[3.0, 4.0], &[0.5], &mut y);
//!     y
//! };
//! assert_eq!(run(&cpu), [11.5]);
//! assert_eq!(run(&cpu.clone().with_threads(2)?), run(&cpu));
//! # Ok::<(), kernelet::Error>(())
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::error::Error;
use crate::subnormals::FlushSubnormals;

/// Environment variable that forces an instruction set: `scalar`, `avx2`, `avx512` or `amx`; on
/// processors that are not x86, `scalar` or `native`.
pub const ISA_VARIABLE: &str = "KERNELET_ISA";

/// An instruction set that the kernels are compiled for.
///
/// ```
/// use kernelet::Isa;
///
/// let isa: Isa = "avx2".parse()?;
/// assert_eq!((isa, isa.lanes()), (Isa::Avx2, 8));
/// assert_eq!(isa.to_string(), "avx2");
/// assert!("sse2".parse::<Isa>().is_err());
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// One lane, whatever the compiler makes of it. Runs everywhere.
    Scalar,
    /// AVX2 with FMA: 8 lanes of `f32`, 16 registers (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, CD, DQ and VL: 16 lanes of `f32`, 32 registers (x86-64-v4).
    Avx512,
    /// AVX-512 as above, and large matrix products on AMX's tiles of bfloat16, of which three are as
    /// exact as an `f32` ([`gemm`](crate::kernels::gemm::gemm)). Linux only, which is asked for the tiles once,
    /// for the whole process. It refuses where a thread has an alternate signal stack too small to save
    /// them on, and such stacks afterwards.
    Amx,
    /// The vector unit of a processor that is not x86, as `pulp` finds it (NEON, for example).
    Native,
}

impl Isa {
    /// Those that this processor can run, simplest first.
    ///
    /// ```
    /// use kernelet::Isa;
    /// assert_eq!(Isa::available()[0], Isa::Scalar);
    /// ```
    #[must_use]
    pub fn available() -> Vec<Isa> {
        [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Native]
            .into_iter()
            .filter(|isa| isa.arch().is_some())
            .collect()
    }

    /// Number of `f32` lanes in a vector.
    ///
    /// ```
    /// use kernelet::Isa;
    ///
    /// assert_eq!([Isa::Scalar, Isa::Avx2, Isa::Avx512].map(Isa::lanes), [1, 8, 16]);
    /// ```
    #[must_use]
    pub fn lanes(self) -> usize {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        match self {
            Isa::Scalar => 1,
            Isa::Avx2 => 8,
            Isa::Avx512 | Isa::Amx => 16,
            Isa::Native => Arch::new().dispatch(Lanes),
        }
    }

    /// The token that proves the instruction set is there, or `None` where it is not.
    fn arch(self) -> Option<Arch> {
        match self {
            Isa::Scalar => Some(Arch::Scalar),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pulp::x86::V3::try_new().map(Arch::V3),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => pulp::x86::V4::try_new().map(Arch::V4),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.arch().filter(|_| amx::is_available()),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Native => Some(Arch::new()).filter(|arch| !matches!(arch, Arch::Scalar)),
            _ => None,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Native => "native",
        })
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "scalar" => Ok(Isa::Scalar),
            "avx2" => Ok(Isa::Avx2),
            "avx512" => Ok(Isa::Avx512),
            "amx" => Ok(Isa::Amx),
            "native" => Ok(Isa::Native),
            _ => Err(Error::UnknownIsa(name.to_owned())),
        }
    }
}

/// The instruction set and the threads that kernels run on. Cheap to clone.
///
/// The results of every kernel depend on the instruction set, never on the number of threads.
///
/// ```
/// use kernelet::{Cpu, Isa};
///
/// // What users want by default, and what tests want: plain code on one thread.
/// let fast = Cpu::detect()?;
/// let plain = Cpu::with_isa(Isa::Scalar)?.with_threads(1)?;
/// assert_eq!((plain.isa(), plain.threads()), (Isa::Scalar, 1));
/// assert!(fast.threads() >= plain.threads());
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone)]
pub struct Cpu {
    isa: Isa,
    arch: Arch,
    /// Whether the processor has no longer vectors than `isa`'s.
    best: bool,
    threads: usize,
    /// The threads to use instead of rayon's global ones.
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl Cpu {
    /// The best instruction set that the processor has, or the one that the environment variable
    /// `KERNELET_ISA` names, on rayon's global threads.
    ///
    /// ```
    /// use kernelet::{Cpu, Isa};
    ///
    /// let cpu = Cpu::detect()?;
    /// assert!(Isa::available().contains(&cpu.isa()));
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownIsa`] or [`Error::IsaUnavailable`] if the variable is set to something
    /// that is not an instruction set or that this processor does not have.
    pub fn detect() -> Result<Self, Error> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) => Self::with_isa(name.parse()?),
            Err(std::env::VarError::NotPresent) => {
                let best = Isa::available().pop().unwrap_or(Isa::Scalar);
                Self::with_isa(best)
            }
            Err(std::env::VarError::NotUnicode(name)) => {
                Err(Error::UnknownIsa(name.to_string_lossy().into_owned()))
            }
        }
    }

    /// A given instruction set on rayon's global threads.
    ///
    /// ```
    /// use kernelet::{Cpu, Isa};
    ///
    /// assert_eq!(Cpu::with_isa(Isa::Scalar)?.isa(), Isa::Scalar);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if the processor does not have it.
    pub fn with_isa(isa: Isa) -> Result<Self, Error> {
        let arch = isa.arch().ok_or_else(|| {
            let available = Isa::available();
            Error::IsaUnavailable { wanted: isa, available }
        })?;
        // Without AMX, which has no vectors of its own, and is not to be asked for by those who want another.
        let vectors = [Isa::Avx2, Isa::Avx512, Isa::Native];
        let longer = |other: &Isa| other.arch().is_some() && other.lanes() > isa.lanes();
        let best = !vectors.iter().any(longer);
        Ok(Self { isa, arch, best, threads: rayon::current_num_threads(), pool: None })
    }

    /// The same instruction set on `threads` threads of its own.
    ///
    /// ```
    /// use kernelet::Cpu;
    ///
    /// let cpu = Cpu::detect()?;
    /// assert_eq!(cpu.clone().with_threads(2)?.threads(), 2);
    /// assert!(cpu.with_threads(0).is_err());
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Threads`] if `threads` is 0 or the system does not give that many.
    pub fn with_threads(self, threads: usize) -> Result<Self, Error> {
        if threads == 0 {
            return Err(Error::Threads { wanted: threads, why: "at least one is needed".into() });
        }
        let pool = match threads {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|i| format!("kernelet-{i}"))
                    .build()
                    .map(Arc::new)
                    .map_err(|e| Error::Threads { wanted: threads, why: e.to_string() })?,
            ),
        };
        Ok(Self { threads, pool, ..self })
    }

    /// The instruction set in use.
    ///
    /// ```
    /// use kernelet::{Cpu, Isa};
    ///
    /// for isa in Isa::available() {
    ///     assert_eq!(Cpu::with_isa(isa)?.isa(), isa);
    /// }
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads in use.
    ///
    /// ```
    /// use kernelet::Cpu;
    ///
    /// assert_eq!(Cpu::detect()?.with_threads(3)?.threads(), 3);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `body` on one of this `Cpu`'s threads. Kernels called inside start their parallel
    /// parts at once instead of waking the threads anew at every call: wrap a training loop, or
    /// anything that calls many small kernels, in one `install`.
    ///
    /// ```
    /// use kernelet::{Cpu, kernels::relu};
    ///
    /// let cpu = Cpu::detect()?.with_threads(2)?;
    /// let (x, mut y) = ([-1.0, 2.0], [0.0; 2]);
    /// let sum: f32 = cpu.install(|| {
    ///     for _ in 0..1000 {
    ///         relu::forward(&cpu, &x, &mut y);
    ///     }
    ///     y.iter().sum()
    /// });
    /// assert_eq!(sum, 2.0);
    /// # Ok::<(), kernelet::Error>(())
    /// ```
    pub fn install<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(body),
            None if self.threads == 1 => body(),
            None => rayon::scope(|_| body()),
        }
    }

    /// Whether work of this size is shared between the threads, where one of these shares it from `min` on. They have to
    /// be woken for a call from outside, and at its end the caller, which takes some 20 microseconds on either side.
    pub(crate) fn shares(&self, size: usize, min: usize) -> bool {
        /// (Measured with two threads on AVX-512: what takes `min` takes 8 to 20 microseconds on one, and from outside
        /// two are faster from 50 on.)
        const FROM_OUTSIDE: usize = 3;
        self.threads > 1 && size >= min && (size / FROM_OUTSIDE >= min || self.is_inside())
    }

    /// Whether this is one of the threads.
    pub(crate) fn is_inside(&self) -> bool {
        match &self.pool {
            Some(pool) => pool.current_thread_index().is_some(),
            None => rayon::current_thread_index().is_some(),
        }
    }

    /// Whether the vectors in use are the longest that the processor has.
    pub(crate) fn is_best(&self) -> bool {
        self.best
    }

    /// Runs `body` on every thread at once and returns the sum of the results.
    pub(crate) fn broadcast(&self, body: &(dyn Fn() -> f64 + Sync)) -> f64 {
        if self.threads == 1 {
            return body();
        }
        self.install(|| rayon::broadcast(|_| body()).into_iter().sum())
    }

    /// The `pulp` token, for an operation that shares its arithmetic out with
    /// [`for_each`](Self::for_each).
    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// Runs an operation compiled for this instruction set on this thread, with subnormals flushed
    /// to zero.
    pub(crate) fn dispatch<Op: WithSimd>(&self, op: Op) -> Op::Output {
        let _flush = FlushSubnormals::new();
        self.arch.dispatch(op)
    }

    /// Calls `body` with every index below `count`, on all threads if `parallel`, with subnormals
    /// flushed to zero. The indices name fixed pieces of work: which thread takes which makes no
    /// difference to the result.
    pub(crate) fn for_each(
        &self,
        parallel: bool,
        count: usize,
        body: impl Fn(usize) + Sync + Send,
    ) {
        self.for_each_dyn(parallel, count, &|index| {
            let _flush = FlushSubnormals::new();
            body(index);
        });
    }

    /// One for all kernels: a call through a pointer is nothing beside a piece of work, and rayon's
    /// code for each of a hundred closures would be a third of the library, and of its compile time.
    fn for_each_dyn(&self, parallel: bool, count: usize, body: &(dyn Fn(usize) + Sync)) {
        if parallel && self.threads > 1 && count > 1 {
            self.install(|| (0..count).into_par_iter().with_max_len(1).for_each(body));
        } else {
            (0..count).for_each(body);
        }
    }

    /// [`for_each`](Self::for_each) over the chunks of `data`, `len` elements each.
    pub(crate) fn for_each_chunk<T: Send>(
        &self,
        parallel: bool,
        data: &mut [T],
        len: usize,
        body: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        let chunks = Chunks::new(data, len);
        self.for_each(parallel, chunks.count(), |index| {
            // SAFETY: `for_each` calls this once for every index.
            body(index, unsafe { chunks.get(index) });
        });
    }

    /// [`for_each_chunk`](Self::for_each_chunk) over two slices of the same length in step.
    pub(crate) fn for_each_chunk_pair<T: Send, U: Send>(
        &self,
        parallel: bool,
        first: &mut [T],
        second: &mut [U],
        len: usize,
        body: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
    ) {
        let (first, second) = (Chunks::new(first, len), Chunks::new(second, len));
        self.for_each(parallel, first.count().min(second.count()), |index| {
            // SAFETY: `for_each` calls this once for every index.
            let (first, second) = unsafe { (first.get(index), second.get(index)) };
            body(index, first, second);
        });
    }
}

/// A mutable slice cut into chunks that several threads may write, each chunk by one of them.
pub(crate) struct Chunks<'a, T> {
    data: *mut T,
    len: usize,
    chunk: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a chunk is reached by one thread at a time (see `get`), to which `T: Send` lets it go.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}
// SAFETY: as for `&mut [T]`.
unsafe impl<T: Send> Send for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    /// Chunks of `chunk` elements; the last may be shorter.
    pub(crate) fn new(data: &'a mut [T], chunk: usize) -> Self {
        let (data, len) = (data.as_mut_ptr(), data.len());
        Self { data, len, chunk: chunk.max(1), borrow: PhantomData }
    }

    /// The number of chunks.
    pub(crate) fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// Chunk number `index`, to read.
    ///
    /// # Safety
    /// While the result is alive, nobody may [`get`](Self::get) the same index or have it.
    pub(crate) unsafe fn shared(&self, index: usize) -> &[T] {
        let (start, len) = self.bounds(index);
        // SAFETY: start + len <= self.len; nobody writes the chunk, as the caller promises.
        unsafe { std::slice::from_raw_parts(self.data.add(start), len) }
    }

    /// Chunk number `index`.
    ///
    /// # Safety
    /// No two calls may get the same index while an earlier result is alive.
    #[expect(clippy::mut_from_ref, reason = "the chunks are disjoint")]
    pub(crate) unsafe fn get(&self, index: usize) -> &mut [T] {
        let (start, len) = self.bounds(index);
        // SAFETY: start + len <= self.len; the caller keeps chunks with the same index apart, and
        // chunks with different indices do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// Where a chunk begins, and how long it is.
    fn bounds(&self, index: usize) -> (usize, usize) {
        assert!(index < self.count(), "chunk {index} of {}", self.count());
        let start = index * self.chunk;
        (start, self.chunk.min(self.len - start))
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Cpu").field("isa", &self.isa).field("threads", &self.threads).finish()
    }
}

/// Whether vectors are AVX-512's: then kernels may use its instructions that pulp has no word for. A
/// constant once it is compiled.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn is_avx512<S: Simd>() -> bool {
    std::any::TypeId::of::<S>() == std::any::TypeId::of::<pulp::x86::V4>()
}
