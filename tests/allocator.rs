//! The global allocator that places arrays for the kernels: where they begin, and that nothing is lost.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use kernelet::allocator::Aligned;

#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[track_caller]
fn assert_aligned<T>(data: &[T], align: usize) {
    let bytes = size_of_val(data);
    // The compiler knows of a type's own alignment, and would not look.
    let address = black_box(data.as_ptr()).addr();
    assert_eq!(address % align, 0, "{bytes} bytes do not begin at {align}");
}

/// What so many bytes begin at, at least.
fn promised(bytes: usize) -> usize {
    match bytes {
        0..1024 => 1,
        2_097_152.. if cfg!(target_os = "linux") => 2 * MIB,
        _ => 64,
    }
}

#[test]
fn arrays_begin_at_lines_and_pages() {
    // Several of each size, of which one could lie well by chance, and something between them.
    let mut between = Vec::new();
    for _ in 0..8 {
        for len in [KIB / 4, KIB / 4 + 1, 1000, 30_000, 500_000, MIB / 2, MIB / 2 + 1, 3 * MIB] {
            let arrays = [vec![0.0_f32; len], vec![1.0; len], (0..len).map(|i| i as f32).collect()];
            arrays.iter().for_each(|array| assert_aligned(array, promised(4 * len)));
            between.push(black_box(vec![0_u8; 24]));
        }
    }
}

#[test]
fn a_type_s_own_alignment_counts() {
    #[repr(align(32))]
    struct Small(u8);
    #[repr(align(16384))]
    struct Large(u8);
    for i in 0..8 {
        let small = vec![Small(i)];
        assert_aligned(&small, 32);
        // 1.6 MB, by the system's way; then 3.2, on huge pages; and back.
        let mut large: Vec<Large> = (0..100).map(Large).collect();
        assert_aligned(&large, 16_384);
        large.extend((0..100).map(Large));
        assert_aligned(&large, promised(3_276_800).max(16_384));
        assert!(large.iter().zip((0..100).chain(0..100)).all(|(large, i)| large.0 == i), "grown");
        large.truncate(100);
        large.shrink_to_fit();
        assert_aligned(&large, 16_384);
        assert!(large.iter().zip(0..100).all(|(large, i)| large.0 == i), "shrunk");
        assert_eq!(small[0].0, i, "its content");
    }
}

/// No array of Rust's has it, but somebody may ask.
#[test]
fn a_stricter_alignment_than_a_huge_page_s_counts() {
    let layout = |size| Layout::from_size_align(size, 4 * MIB).expect("a layout");
    // SAFETY: the layouts are not empty; the memory is written before it is read, within its size, and given
    // back with the layout that it then has.
    unsafe {
        let memory = ALLOCATOR.alloc(layout(3 * MIB));
        assert!(!memory.is_null() && memory.addr().is_multiple_of(4 * MIB), "3 MiB");
        memory.write_bytes(7, 3 * MIB);
        let memory = ALLOCATOR.realloc(memory, layout(3 * MIB), 100);
        assert!(!memory.is_null() && memory.addr().is_multiple_of(4 * MIB), "100 bytes");
        assert_eq!(*std::slice::from_raw_parts(memory, 100), [7; 100], "their content");
        ALLOCATOR.dealloc(memory, layout(100));
    }
}

#[test]
fn zeros_are_zeros_where_others_have_been() {
    for bytes in [8, 100, KIB - 1, KIB, 100 * KIB, 2 * MIB - 1, 2 * MIB, 5 * MIB] {
        for _ in 0..4 {
            drop(black_box(vec![0xff_u8; bytes]));
            assert!(black_box(vec![0_u8; bytes]).iter().all(|&byte| byte == 0), "{bytes} bytes");
        }
    }
}

#[test]
fn what_grows_and_shrinks_keeps_its_content() {
    let byte = |array: usize, i: usize| (array * 101 + i % 251) as u8;
    // Several in turn, so that they are in each other's way and have to move.
    let mut arrays = [const { Vec::new() }; 4];
    let lens =
        [10, 900, KIB, 3 * KIB, 3 * KIB + 80, 70 * KIB, 300 * KIB, MIB, 2 * MIB - 1, 2 * MIB];
    let lens = lens.into_iter().chain([3 * MIB, 5 * MIB, 9 * MIB]);
    for len in lens.clone().chain(lens.rev()) {
        for (number, array) in arrays.iter_mut().enumerate() {
            array.truncate(len);
            array.shrink_to_fit();
            array.reserve_exact(len - array.len());
            array.extend((array.len()..len).map(|i| byte(number, i)));
        }
        for (number, array) in arrays.iter().enumerate() {
            assert_aligned(array, promised(len));
            let same = array.iter().enumerate().all(|(i, &found)| found == byte(number, i));
            assert!(same && array.len() == len, "{len} bytes");
        }
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn what_nobody_has_is_refused() {
    const MOST: usize = isize::MAX as usize;
    for (size, align) in [(MOST, 1), (MOST - 63, 64), (MOST - 2 * MIB - 8, 1), (MOST - 3 * MIB, 1)]
    {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        // SAFETY: the layout is not empty, and what comes back is not used.
        let memory = unsafe { black_box(ALLOCATOR.alloc(layout)) };
        assert!(memory.is_null(), "{size} bytes");
        // SAFETY: as above.
        let memory = unsafe { black_box(ALLOCATOR.alloc_zeroed(layout)) };
        assert!(memory.is_null(), "{size} zeros");
    }
    // What stays of its kind, and what becomes too large for any.
    for (len, more) in [(3 * MIB, MOST - 6 * MIB), (3 * MIB, MOST - 3 * MIB), (64 * KIB, MIB)] {
        let mut array = black_box(vec![7_u8; len]);
        let grown = array.try_reserve_exact(more);
        assert_eq!(grown.is_err(), more > MIB, "{more} bytes more");
        assert!(array.iter().all(|&byte| byte == 7), "the old content");
    }
}

/// The kernel says in `VmFlags` what it has been asked for, whether or not it had huge pages to give.
#[test]
#[cfg(target_os = "linux")]
fn large_arrays_ask_for_huge_pages() {
    let setting = "/sys/kernel/mm/transparent_hugepage/enabled";
    if !std::path::Path::new(setting).exists() {
        eprintln!("SKIPPED: this system has no huge pages ({setting} is missing)");
        return;
    }
    let advised = |address: usize| {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("the process's own memory");
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bound = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(start), Some(end))) = range.map(|(a, b)| (bound(a), bound(b))) {
                inside = (start..end).contains(&address);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                return flags.split_whitespace().any(|flag| flag == "hg");
            }
        }
        panic!("{address:x} is in none of the process's maps");
    };
    for array in [vec![0.0_f32; 5 * MIB], vec![1.0; 5 * MIB], Vec::with_capacity(5 * MIB)] {
        assert!(advised(array.as_ptr().addr() + 2 * MIB), "an array of 20 MiB");
    }
}
