//! Flushing subnormals to zero while a kernel runs.
//!
//! L2 regularisation and decaying moments drive numbers through the subnormals on their way to
//! zero, and there x86 arithmetic is up to a hundred times slower. So every kernel reads subnormals
//! as zero and writes zero for them, on every thread that works for it, as TensorFlow's kernels do.

/// While this lives, this thread's arithmetic takes and gives zeros for subnormals. Dropping it
/// restores what was before.
///
/// Only to be held around a kernel's arithmetic: never while other code may run on this thread, as
/// it may while rayon waits.
pub(crate) struct FlushSubnormals {
    before: control::Word,
}

impl FlushSubnormals {
    /// Takes effect until the result is dropped.
    #[must_use]
    #[inline]
    pub(crate) fn new() -> Self {
        let before = control::read();
        if before & control::FLUSH != control::FLUSH {
            control::write(before | control::FLUSH);
        }
        Self { before }
    }
}

impl Drop for FlushSubnormals {
    #[inline]
    fn drop(&mut self) {
        if self.before & control::FLUSH != control::FLUSH {
            // The exception flags that have been raised meanwhile stay raised.
            let flush = self.before & control::FLUSH;
            control::write(control::read() & !control::FLUSH | flush);
        }
    }
}

// This knowingly goes beyond what Rust promises: the standard library's docs of `_mm_setcsr` forbid
// changing these bits, because the compiler assumes the default floating-point environment. What can
// come of it: the compiler may compute a constant without the flush, or move an operation across the
// switch. The two bits change what an operation on subnormals gives, nothing else, and either result
// is within the kernels' stated bounds. (Intel's SDM, volume 1,
// 10.2.3; Arm's ARM, FPCR.)

#[cfg(target_arch = "x86_64")]
mod control {
    use std::arch::asm;

    pub type Word = u32;

    /// Flush to zero (results) and denormals are zeros (operands).
    pub const FLUSH: Word = 1 << 15 | 1 << 6;

    #[inline]
    pub fn read() -> Word {
        let mut word: Word = 0;
        // SAFETY: stores the four bytes of MXCSR, which every x86-64 processor has, into `word`.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
        word
    }

    #[inline]
    pub fn write(word: Word) {
        // SAFETY: `word` came from MXCSR and differs in `FLUSH` at most, two bits that every x86-64
        // processor allows: no reserved bit is set, no exception unmasked, rounding is unchanged.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags));
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    use std::arch::asm;

    pub type Word = u64;

    /// Flush to zero, operands and results.
    pub const FLUSH: Word = 1 << 24;

    #[inline]
    pub fn read() -> Word {
        let word: Word;
        // SAFETY: reads FPCR, which user code may.
        unsafe { asm!("mrs {}, fpcr", out(reg) word, options(nostack, preserves_flags)) };
        word
    }

    #[inline]
    pub fn write(word: Word) {
        // SAFETY: `word` came from FPCR and differs in `FLUSH` at most; user code may write it.
        unsafe { asm!("msr fpcr, {}", in(reg) word, options(nostack, preserves_flags)) };
    }
}

/// Elsewhere nothing is flushed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub type Word = u32;

    pub const FLUSH: Word = 0;

    pub fn read() -> Word {
        0
    }

    pub fn write(_: Word) {}
}
