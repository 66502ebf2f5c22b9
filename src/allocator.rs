//! A global allocator that places arrays as kernels like them: from the start of a cache line, and if they are
//! large on huge pages.
//!
//! A large `Vec` usually begins, where the C library is glibc, 16 bytes behind the start of a page, so that every
//! vector of 64 bytes lies in two cache lines; and its pages are of 4 KiB, of which the processor remembers too few
//! addresses for arrays of megabytes. NumPy asks for huge pages for arrays as large, and PyTorch's begin at cache
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
pub(crate) const LINE: usize = 64;

/// Bytes from which an array begins at a cache line. Whatever is smaller had better stay close together.
const LINE_FROM: usize = 1 << 10;

/// Bytes of a huge page. Where they are larger, as on some machines with Arm processors, asking has little effect.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes before the caller's, where the system's address of a block is kept.
const HEADER: usize = size_of::<*mut u8>();

/// The system's allocator, which begins what takes 1 KiB or more at a cache line, and on Linux what takes 2 MiB
/// or more at a huge page, which it asks for (in vain where `transparent_hugepage/enabled` is `never`).
///
/// With it large products of few steps, or of few rows, take 0.78 to 0.85 of the time, others 0.91 to 1, and a step
/// of the study's convolutional network 0.93 to 0.96: the repository's `BENCHMARKS.md` has the measurements. An array
/// of 1 KiB or more takes 72 bytes more; one of 2 MiB or more takes 2 MiB more of the address space, of which some
/// may be memory: at least what is left over of its last huge page. What grows or shrinks moves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aligned;

/// A block of the system's with room for an array wherever it may have to begin, and for a header before it.
struct Block {
    /// What the system is asked for.
    layout: Layout,
    /// Where the array begins: at a multiple of this.
    align: usize,
}

impl Block {
    /// The block for an array; `None` if the system's way is as good: the array is small, or its type has a
    /// stricter alignment, or it is too large to be had. It depends on the layout alone, so that memory is
    /// given back as it was taken.
    fn of(array: Layout) -> Option<Self> {
        let align = match array.size() {
            HUGE_PAGE.. if cfg!(target_os = "linux") => HUGE_PAGE,
            LINE_FROM.. => LINE,
            _ => return None,
        };
        let size = array.size().checked_add(HEADER + align)?;
        let layout = Layout::from_size_align(size, align_of::<*mut u8>()).ok()?;
        (array.align() <= align).then_some(Self { layout, align })
    }

    /// Writes the header, asks for huge pages, and returns the array; null if `start` is.
    ///
    /// # Safety
    /// `start` is null or a block of this layout, in which nothing is needed before the array.
    unsafe fn begin(&self, start: *mut u8) -> *mut u8 {
        if start.is_null() {
            return start;
        }
        let offset = (start.addr() + HEADER).next_multiple_of(self.align) - start.addr();
        // SAFETY: `offset` is at least HEADER, and less than HEADER + align, which the block has. The array begins
        // at a multiple of 64 at least, so the address before it is aligned.
        let array = unsafe {
            let array = start.add(offset);
            array.cast::<*mut u8>().sub(1).write(start);
            array
        };
        #[cfg(all(target_os = "linux", not(miri)))]
        if self.align == HUGE_PAGE {
            use rustix::mm::{Advice, madvise};
            // A system without huge pages says so, and nothing is lost.
            // SAFETY: pages from the array's first, which begins where a page does, to the block's last. No
            // content changes, also not what else may be in the last one.
            let _ = unsafe {
                madvise(array.cast(), self.layout.size() - offset, Advice::LinuxHugepage)
            };
        }
        array
    }
}

// SAFETY: an array without a block is the system's. One with a block lies in it, since `begin` puts it less than
// HEADER + align bytes behind the start of a block that is as much larger; it begins at a multiple of `align`, no
// less than its own alignment; and the block goes back with the layout that it was taken with, which
// `Block::of` makes of the array's. Nothing here panics: sizes are at most `isize::MAX`, and the array begins inside
// the block, whose addresses do not wrap.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: neither layout is empty: the array's by the caller's promise, a block's is larger.
        unsafe {
            match Block::of(layout) {
                Some(block) => block.begin(System.alloc(block.layout)),
                None => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match Block::of(layout) {
                Some(block) => block.begin(System.alloc_zeroed(block.layout)),
                None => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, array: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise: the array was taken with this layout, hence in such a block, whose header is
        // before it, or without.
        unsafe {
            match Block::of(layout) {
                Some(block) => {
                    let start = array.cast::<*mut u8>().sub(1).read();
                    System.dealloc(start, block.layout);
                }
                None => System.dealloc(array, layout),
            }
        }
    }

    unsafe fn realloc(&self, array: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the array was taken with `layout`; the new size is not 0, and does not
        // overflow with this alignment. Both have the bytes that are copied, and do not overlap: the old one is
        // still allocated.
        unsafe {
            let new_layout = Layout::from_size_align_unchecked(size, layout.align());
            if Block::of(layout).is_none() && Block::of(new_layout).is_none() {
                return System.realloc(array, layout, size);
            }
            let moved = self.alloc(new_layout);
            if !moved.is_null() {
                array.copy_to_nonoverlapping(moved, layout.size().min(size));
                self.dealloc(array, layout);
            }
            moved
        }
    }
}
