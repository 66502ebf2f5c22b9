//! A global allocator that places arrays as kernels like them: from the start of a cache line, and if they are
//! large on huge pages.
//!
//! A large `Vec` of the system's allocator begins 16 bytes behind the start of a page, so that every vector
//! of 64 bytes lies in two cache lines; and its pages are of 4 KiB, of which the processor remembers too few
//! addresses for arrays of megabytes. NumPy asks for huge pages for its arrays, and PyTorch's begin at cache
//! lines. A program that wants both says so once:
//!
//! ```
//! use kernelet::allocator::Aligned;
//!
//! #[global_allocator]
//! static ALLOCATOR: Aligned = Aligned;
//!
//! fn main() {
//!     let array = vec![0.0_f32; 1000];
//!     assert_eq!(array.as_ptr().align_offset(64), 0);
//! }
//! ```

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a cache line, and of the longest vector.
const LINE: usize = 64;

/// Bytes from which an array begins at a cache line. Whatever is smaller had better stay close together.
const LINE_FROM: usize = 1 << 10;

/// Bytes of a huge page. Where they are larger, as on some machines with Arm processors, asking has no effect.
const HUGE_PAGE: usize = 2 << 20;

/// The system's allocator, which begins what takes 1 KiB or more at a cache line, and has what takes 2 MiB or
/// more on huge pages, if the system has some to give (Linux, unless its `transparent_hugepage/enabled` is
/// `never`).
///
/// With it products that write large matrices take 0.8 to 0.95 of the time, and a step of the study's
/// convolutional network 0.95: the repository's `BENCHMARKS.md` has the measurements. An array of 2 MiB or
/// more takes up to 2 MiB more of the address space, not of the memory; zeros are written, where the system's
/// allocator leaves them to the first that touches their page; and what has reached 1 KiB grows by moving.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aligned;

/// Where the memory of a layout is to begin. It depends on the layout alone, so that memory is given back as
/// it was taken.
fn placed(layout: Layout) -> Layout {
    let align = match layout.size() {
        HUGE_PAGE.. => HUGE_PAGE,
        LINE_FROM.. => LINE,
        _ => 1,
    };
    // Sizes near the end of the address space, that nobody can have, stay as they are.
    layout.align_to(align).unwrap_or(layout)
}

/// Asks for huge pages behind `memory`, before it is first touched.
///
/// # Safety
/// It is an allocation of this layout, or null.
unsafe fn advise(memory: *mut u8, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.size() >= HUGE_PAGE && !memory.is_null() {
        use rustix::mm::{Advice, madvise};
        // A system without huge pages says so, and nothing is lost.
        // SAFETY: the allocation's pages, from its start, which is a page's; advice changes none of their content.
        let _ = unsafe { madvise(memory.cast(), layout.size(), Advice::LinuxHugepage) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (memory, layout);
}

// SAFETY: memory comes from the system's allocator, and goes back to it with the layout that it was asked for
// with, which is at least as large and as strictly aligned as the caller's. Nothing here panics, or allocates.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let layout = placed(layout);
        // SAFETY: the caller's promise: the layout is not empty.
        unsafe {
            let memory = System.alloc(layout);
            advise(memory, layout);
            memory
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if placed(layout) == layout {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise; what is zeroed was allocated.
        unsafe {
            let memory = self.alloc(layout);
            if !memory.is_null() {
                memory.write_bytes(0, layout.size());
            }
            memory
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: with this alignment the size does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if placed(layout) == layout && placed(new) == new {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller's promise; both allocations have the bytes that are copied, and are not one.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise: the memory was allocated for this layout.
        unsafe { System.dealloc(memory, placed(layout)) }
    }
}
