//! Buffers that stay with their thread between calls: a training loop allocates in its first step
//! only.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::thread::LocalKey;

use crate::allocator::LINE;

/// Where a buffer waits while nobody uses it.
pub(super) type Home = LocalKey<Cell<Vec<f32>>>;

/// A buffer on loan from its thread, given back when dropped. A nested call on the same thread
/// (work stealing) finds none and allocates its own.
pub(super) struct Buffer {
    home: &'static Home,
    data: Vec<f32>,
    /// Where the first cache line starts.
    start: usize,
}

impl Buffer {
    /// At least `len` elements of unspecified content, from the start of a cache line: a vector that crosses two is
    /// loaded twice.
    pub(super) fn borrow(home: &'static Home, len: usize) -> Self {
        let mut data = home.take();
        let padded = len + LINE / size_of::<f32>();
        if data.len() < padded {
            data.resize(padded, 0.0);
        }
        let start = data.as_ptr().align_offset(LINE);
        Self { home, data, start }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.set(std::mem::take(&mut self.data));
    }
}
