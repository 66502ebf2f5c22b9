//! Twin of [`kernels::dropout`](crate::kernels::dropout).
//!
//! ```
//! use kernelet::kernels::dropout::Dropout;
//! use kernelet::reference::dropout;
//!
//! // It keeps what the kernel keeps.
//! let mut x = [1.0_f64, 2.0, 3.0, 4.0];
//! dropout::forward_in_place(Dropout { keep: 0.5, seed: 1, step: 0 }, &mut x);
//! assert_eq!(x, [0.0, 4.0, 0.0, 8.0]);
//! ```

use super::Float;
use crate::kernels::dropout::Dropout;

/// x = x / keep where the element is kept, else 0.
pub fn forward_in_place<T: Float>(dropout: Dropout, x: &mut [T]) {
    let keep = T::from_f64(f64::from(dropout.keep));
    for (position, x) in x.iter_mut().enumerate() {
        *x = if dropout.keeps(position) { *x / keep } else { T::ZERO };
    }
}

/// dx = dy / keep where the element was kept, else 0.
pub fn backward_in_place<T: Float>(dropout: Dropout, dx: &mut [T]) {
    forward_in_place(dropout, dx);
}
