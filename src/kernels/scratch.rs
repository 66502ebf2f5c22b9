//! Buffers that stay with their thread between calls: a training loop allocates in its first step
//! only.

use std::cell::Cell;
use std::thread::LocalKey;

/// Where a buffer waits while nobody uses it.
pub(super) type Home = LocalKey<Cell<Vec<f32>>>;

/// A buffer on loan from its thread, given back when dropped. A nested call on the same thread
/// (work stealing) finds none and allocates its own.
pub(super) struct Buffer {
    home: &'static Home,
    data: Vec<f32>,
}

impl Buffer {
    /// At least `len` elements of unspecified content.
    pub(super) fn borrow(home: &'static Home, len: usize) -> Self {
        let mut data = home.take();
        if data.len() < len {
            data.resize(len, 0.0);
        }
        Self { home, data }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.set(std::mem::take(&mut self.data));
    }
}
