//! AMX, the matrix unit of some x86 processors: whether this process may use it, and its tiles set up.
//!
//! Linux lets a process use the tiles' 8 KiB of registers once it has asked (its documentation's
//! `arch/x86/xstate.rst`), and saves them like a thread's other registers, also on the stack of a signal
//! handler. Instructions are written as assembly: the compiler's names for them are not stable yet.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Whether the processor has tiles of bfloat16 and the system lets this process use them. It is asked
/// once.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        #[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
        // SAFETY: every x86-64 processor has the instruction; leaf 7 of one that ends before it is zeros
        // or the last leaf's, but who has AVX-512 has it, and nobody else asks.
        let leaf = unsafe { __cpuid_count(7, 0) };
        leaf.edx & BF16_AND_TILES == BF16_AND_TILES && request()
    })
}

/// Asks Linux for the tiles' registers.
#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call takes two numbers and touches no memory of ours; a kernel that does not know it
    // says so. The instruction overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have other ways, which nobody has tried.
#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

/// While this lives, this thread's eight tiles have 16 rows of 64 bytes each.
///
/// Only to be held around a kernel's arithmetic, like [`FlushSubnormals`](crate::subnormals): the
/// tiles are one thread's, and other code may have other plans for them.
pub(crate) struct Tiles(PhantomData<*const ()>);

/// What `ldtilecfg` reads (Intel's SDM, volume 1, 18.3).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// # Safety
    /// [`is_available`] must have said so.
    #[must_use]
    #[inline]
    pub(crate) unsafe fn new() -> Self {
        let mut bytes_per_row = [0; 16];
        let mut rows = [0; 16];
        bytes_per_row[..8].fill(64);
        rows[..8].fill(16);
        let reserved = [0; 14];
        let configuration =
            Configuration { palette: 1, start_row: 0, reserved, bytes_per_row, rows };
        // SAFETY: the instruction is there, by the caller's promise, and reads these 64 bytes, which
        // describe eight tiles of palette 1 at their full size.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: there are tiles, or there would be no `Tiles`.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem, preserves_flags),
            );
        }
    }
}
