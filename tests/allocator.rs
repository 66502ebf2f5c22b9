//! The global allocator that places arrays for the kernels: where they begin, and that nothing is lost.

#[cfg(target_pointer_width = "64")]
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
    assert_eq!(data.as_ptr().addr() % align, 0, "{bytes} bytes do not begin at {align}");
}

#[test]
fn arrays_begin_at_lines_and_pages() {
    // Several of each size, of which one could lie well by chance, and something between them.
    let mut between = Vec::new();
    for _ in 0..8 {
        for len in [KIB / 4, KIB / 4 + 1, 1000, 30_000, 500_000] {
            let arrays = [vec![0.0_f32; len], vec![1.0; len], (0..len).map(|i| i as f32).collect()];
            arrays.iter().for_each(|array| assert_aligned(array, 64));
            between.push(black_box(vec![0_u8; 24]));
        }
        let huge = if cfg!(target_os = "linux") { 2 * MIB } else { 64 };
        for len in [MIB / 2, MIB / 2 + 1, 3 * MIB] {
            assert_aligned(&vec![0.0_f32; len], huge);
            assert_aligned(&vec![1.0_f32; len], huge);
        }
    }
}

#[test]
fn a_type_s_own_alignment_counts() {
    #[repr(align(32))]
    struct Small(u8);
    #[repr(align(16384))]
    struct Large(u8);
    #[repr(align(4194304))]
    struct Huge(u8);
    for i in 0..8 {
        let (small, large, huge) = (vec![Small(i)], vec![Large(i)], vec![Huge(i)]);
        assert_aligned(&small, 32);
        assert_aligned(&large, 16_384);
        assert_aligned(&huge, 4 * MIB);
        assert_eq!([small[0].0, large[0].0, huge[0].0], [i; 3], "their content");
        // Larger than a huge page, with an alignment below it.
        let mut many: Vec<Large> = (0..200).map(Large).collect();
        many.extend((0..200).map(Large));
        assert_aligned(&many, 16_384);
        assert!(many.iter().zip((0..200).chain(0..200)).all(|(large, i)| large.0 == i), "grown");
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
    let byte = |i: usize| (i % 251) as u8;
    let mut grown = Vec::new();
    for i in 0..5 * MIB {
        grown.push(byte(i));
    }
    for bytes in [5 * MIB, 3 * MIB, 2 * MIB, 2 * MIB - 1, MIB, 3 * KIB, KIB, KIB - 1, 10, 1] {
        grown.truncate(bytes);
        grown.shrink_to_fit();
        let same = grown.iter().enumerate().all(|(i, &found)| found == byte(i));
        assert!(same && grown.len() == bytes, "{bytes} bytes");
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
    let mut array = black_box(vec![7_u8; 3 * MIB]);
    assert!(array.try_reserve_exact(MOST - 3 * MIB).is_err(), "half of all addresses");
    assert!(array.iter().all(|&byte| byte == 7), "the old content");
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
