//! Every kernel on slices with an inaccessible page before and behind: reading or writing one element
//! too far is a crash, and so is writing an input, which is mapped read-only. Results are compared,
//! bit for bit, with those on memory of another alignment.
#![cfg(unix)]

mod common;

use std::env;
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::ptr;

use common::calls::{Case, Memory, Numbers, assert_same, images, results};
use common::{inside, processors, sizes};
use kernelet::kernels::conv_block::ConvBlockShape;
use kernelet::kernels::gemm::GemmShape;
use kernelet::shape::{Conv2dShape, LinearShape, MatrixShape, Padding, PoolShape, Window};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

/// Where a slice lies between the two inaccessible pages.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// It ends where the second begins.
    End,
    /// It begins where the first ends.
    Start,
    /// One element behind that: off the alignment of every vector.
    Askew,
}

/// Memory whose slices all lie at the same place between their pages.
struct Guarded(Place);

impl Memory for Guarded {
    type Input<T: Copy> = Pages<T>;
    type Output<T: Copy> = Pages<T>;

    fn input<T: Copy>(&self, content: &[T]) -> Pages<T> {
        let pages = Pages::new(self.0, content);
        // SAFETY: these pages are `pages`' own, to which no reference exists.
        let result = unsafe { mprotect(pages.inside(), pages.inside_len(), MprotectFlags::READ) };
        result.expect("the pages can be protected");
        pages
    }

    fn output<T: Copy>(&self, content: &[T]) -> Pages<T> {
        Pages::new(self.0, content)
    }
}

/// What the bytes between a slice and its pages hold.
const FILL: u8 = 0xa5;

/// A slice on pages of its own: an inaccessible one, those that hold the slice, another one.
struct Pages<T> {
    mapping: *mut c_void,
    mapped: usize,
    slice: *mut T,
    len: usize,
}

impl<T: Copy> Pages<T> {
    fn new(place: Place, content: &[T]) -> Self {
        let (bytes, page) = (size_of_val(content), page_size());
        let inside_len = (bytes + size_of::<T>()).next_multiple_of(page);
        let mapped = inside_len + 2 * page;
        // SAFETY: a new mapping where the system likes.
        let mapping = unsafe {
            mmap_anonymous(ptr::null_mut(), mapped, ProtFlags::empty(), MapFlags::PRIVATE)
        };
        let mapping = mapping.expect("there is memory");
        let offset = match place {
            Place::End => inside_len - bytes,
            Place::Start => 0,
            Place::Askew => size_of::<T>(),
        };
        let inside = mapping.wrapping_byte_add(page);
        let slice = inside.wrapping_byte_add(offset).cast::<T>();
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the pages inside are ours. The slice lies in them, aligned: the page is, and the
        // offset is a multiple of the element's size.
        unsafe {
            mprotect(inside, inside_len, access).expect("the pages can be made accessible");
            ptr::write_bytes(inside.cast::<u8>(), FILL, inside_len);
            ptr::copy_nonoverlapping(content.as_ptr(), slice, content.len());
        }
        Self { mapping, mapped, slice, len: content.len() }
    }
}

impl<T> Pages<T> {
    /// Where the accessible pages begin.
    fn inside(&self) -> *mut c_void {
        self.mapping.wrapping_byte_add(page_size())
    }

    fn inside_len(&self) -> usize {
        self.mapped - 2 * page_size()
    }
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the slice was written in `new` and lives as long as `self`, which owns it.
        unsafe { std::slice::from_raw_parts(self.slice, self.len) }
    }
}

impl<T> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.slice, self.len) }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        let inside = self.inside().cast::<u8>().cast_const();
        // SAFETY: the pages inside are readable and nobody refers to them any more.
        let inside = unsafe { std::slice::from_raw_parts(inside, self.inside_len()) };
        let start = self.slice.addr() - inside.as_ptr().addr();
        let (before, behind) = (&inside[..start], &inside[start + self.len * size_of::<T>()..]);
        let intact = [before, behind].iter().all(|bytes| bytes.iter().all(|&byte| byte == FILL));
        // SAFETY: the whole mapping, which is ours.
        unsafe { munmap(self.mapping, self.mapped) }.expect("the pages can be given back");
        assert!(intact || std::thread::panicking(), "a kernel wrote beside its slice");
    }
}

/// Runs cases on guarded memory, on every instruction set. Where slices lie must not matter.
#[track_caller]
fn check(cases: &[Case]) {
    for processor in processors() {
        // What is too small for several threads runs on the one that `results` is on.
        let [_, cpu] = &processor.cpus;
        let run = |place| inside(cpu, || results(cpu, &Guarded(place), Numbers::Random, cases));
        let want = run(Place::End);
        for place in [Place::Start, Place::Askew] {
            assert_same(&want, &run(place), (place, processor.isa));
        }
    }
}

#[test]
fn elementwise() {
    // One more than a block of Adam's and dropout's, than a chunk, and than one thread takes.
    let sizes = sizes().into_iter().chain([257, 4097, 16 * 1024 + 1, 128 * 1024 + 5]);
    check(&sizes.map(Case::Elementwise).collect::<Vec<_>>());
}

#[test]
fn rows() {
    let mut cases = Vec::new();
    for cols in sizes() {
        // One vector of rows, one more, and one fewer.
        for rows in [0, 1, 7, 8, 9, 15, 16, 17] {
            cases.push(Case::Rows(MatrixShape { rows, cols }));
        }
    }
    // Longer than the buffer of a wide row; several threads.
    for (rows, cols) in [(3, 513), (1701, 10), (331, 50)] {
        cases.push(Case::Rows(MatrixShape { rows, cols }));
    }
    check(&cases);
}

/// Few rows, few columns, packed and not, in one chunk of k and in several, on one thread and on
/// several, and B packed in several sweeps.
const PRODUCTS: [(usize, usize, usize); 15] = [
    (50, 70, 35),
    (49, 801, 33),
    (129, 40, 260),
    (3, 901, 700),
    (700, 900, 3),
    (1, 1001, 1003),
    (1003, 1001, 1),
    (128, 66, 257),
    (130, 2, 201),
    (170, 90, 133),
    (60, 1601, 345),
    (270, 290, 301),
    (260, 289, 46),
    (900, 9, 15),
    (900, 16, 31),
];

#[test]
fn gemm() {
    let mut cases = Vec::new();
    for m in [0, 1, 6, 15, 43] {
        for k in [0, 1, 5, 17] {
            for n in [0, 1, 7, 8, 16, 17, 31, 32, 33] {
                cases.push(Case::Gemm(GemmShape { m, k, n }));
            }
        }
    }
    cases.extend(PRODUCTS.map(|(m, k, n)| Case::Gemm(GemmShape { m, k, n })));
    check(&cases);
}

#[test]
fn linear() {
    let mut cases = Vec::new();
    for rows in [0, 1, 6, 15, 43] {
        for inputs in [0, 1, 5, 17] {
            for outputs in [0, 1, 7, 8, 16, 17, 31, 32, 33] {
                cases.push(Case::Linear(LinearShape { rows, inputs, outputs }));
            }
        }
    }
    let large = |(rows, inputs, outputs)| Case::Linear(LinearShape { rows, inputs, outputs });
    cases.extend(PRODUCTS.map(large));
    check(&cases);
}

#[test]
fn batch_norm() {
    let mut cases = Vec::new();
    for cols in sizes() {
        // One row more and fewer than a block has.
        for rows in [0, 1, 5, 31, 32, 33] {
            cases.push(Case::BatchNorm(MatrixShape { rows, cols }));
        }
    }
    for (rows, cols) in [(1001, 33), (40_001, 3)] {
        cases.push(Case::BatchNorm(MatrixShape { rows, cols }));
    }
    check(&cases);
}

const PADDINGS: [Padding; 2] = [Padding::Same, Padding::Valid];

fn convolutions() -> Vec<Conv2dShape> {
    let mut shapes = Vec::new();
    for (input, size, filters) in [
        (images(0, 5, 5, 1), 3, 4),
        (images(1, 5, 5, 1), 3, 0),
        (images(1, 1, 1, 1), 1, 1),
        (images(1, 2, 2, 3), 5, 9),
        (images(2, 5, 6, 1), 3, 17),
        (images(1, 6, 5, 9), 2, 35),
        (images(2, 7, 20, 3), 3, 8),
        (images(1, 4, 17, 16), 3, 15),
        (images(2, 3, 15, 31), 3, 16),
        (images(1, 3, 14, 32), 3, 33),
        // Several threads, and several images in a group.
        (images(35, 13, 15, 1), 3, 32),
        (images(6, 12, 13, 17), 3, 33),
        // Several threads that share an image.
        (images(1, 31, 30, 9), 3, 35),
    ] {
        for padding in PADDINGS {
            for stride in [1, 2] {
                let window = Window::square(size, stride, padding);
                shapes.push(Conv2dShape { input, window, filters });
            }
        }
    }
    let window = Window { size: [2, 5], stride: [3, 1], padding: Padding::Same };
    shapes.push(Conv2dShape { input: images(1, 8, 19, 2), window, filters: 7 });
    shapes
}

#[test]
fn conv2d() {
    check(&convolutions().into_iter().map(Case::Conv2d).collect::<Vec<_>>());
}

#[test]
fn conv_block() {
    let mut cases = Vec::new();
    for convolution in convolutions() {
        for pool in [(2, 2), (3, 2), (2, 3)] {
            let pool = Window::square(pool.0, pool.1, Padding::Same);
            cases.push(Case::ConvBlock(ConvBlockShape { convolution, pool }));
        }
    }
    check(&cases);
}

#[test]
fn pools() {
    let mut cases = Vec::new();
    for input in [
        images(0, 4, 4, 3),
        images(1, 4, 4, 0),
        images(1, 1, 1, 1),
        images(2, 3, 5, 7),
        images(1, 4, 4, 8),
        images(1, 4, 6, 16),
        images(2, 7, 3, 17),
        images(1, 5, 5, 31),
        images(1, 6, 5, 33),
        // Several threads.
        images(37, 15, 15, 16),
    ] {
        for (size, stride) in [(1, 1), (2, 2), (3, 2), (3, 1), (2, 3)] {
            for padding in PADDINGS {
                let window = Window::square(size, stride, padding);
                cases.push(Case::Pools(PoolShape { input, window }));
            }
        }
    }
    check(&cases);
}

/// What [`the_pages_are_guarded`] does in a process of its own.
#[test]
#[ignore = "crashes, which is what the_pages_are_guarded looks for"]
fn trespass() {
    let content = [1.0_f32; 40];
    let at_end = Guarded(Place::End).input(&content);
    let at_start = Guarded(Place::Start).input(&content);
    let read = |ptr: *const f32| {
        // SAFETY: none: this is what must not go well.
        unsafe { ptr.read_volatile() }
    };
    match env::var(TRESPASS).as_deref() {
        Ok("nothing") => assert_eq!(read(&raw const at_end[39]), 1.0, "the last element"),
        Ok("behind") => drop(read(at_end.as_ptr().wrapping_add(40))),
        Ok("before") => drop(read(at_start.as_ptr().wrapping_sub(1))),
        // SAFETY: as above.
        Ok("write") => unsafe { at_end.as_ptr().cast_mut().write_volatile(2.0) },
        other => panic!("{TRESPASS} is {other:?}"),
    }
}

const TRESPASS: &str = "KERNELET_TEST_TRESPASS";

#[test]
fn the_pages_are_guarded() {
    for (trespass, caught) in
        [("nothing", false), ("behind", true), ("before", true), ("write", true)]
    {
        let program = env::current_exe().expect("this program's path");
        let status = Command::new(program)
            .args(["--ignored", "--exact", "trespass", "--test-threads=1"])
            .env(TRESPASS, trespass)
            // Sanitizers would make an exit of the signal.
            .env("ASAN_OPTIONS", "handle_segv=0")
            .env("TSAN_OPTIONS", "handle_segv=0")
            .output()
            .expect("this program runs again")
            .status;
        // SIGSEGV, or the SIGBUS of other systems.
        let killed = matches!(status.signal(), Some(11 | 10 | 7));
        assert!(if caught { killed } else { status.success() }, "{trespass}: {status}");
    }
}
