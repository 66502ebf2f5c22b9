//! Where the windows of pools lie, and how images are shared out between threads by their rows.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::ELEMENTWISE_CHUNK;
use crate::shape::{ImageShape, PoolShape, Window};

/// Where the windows of an image lie.
pub(super) struct Windows {
    shape: PoolShape,
    /// Rows of windows.
    height: usize,
    padding: [usize; 2],
}

impl Windows {
    pub(super) fn new(shape: PoolShape) -> Self {
        let padding = shape.window.padding_before(shape.input.height, shape.input.width);
        Self { shape, height: shape.output().height, padding }
    }

    /// How many windows of a row, from its first on, are 2 x 2 pixels side by side, all of them the image's.
    pub(super) fn fours(&self, oy: usize) -> usize {
        let PoolShape { input, window } = self.shape;
        let side_by_side = window.size == [2, 2] && window.stride[1] == 2;
        if side_by_side && input.channels > 0 && self.at(oy, 0).rows.len() == 2 {
            input.width / 2
        } else {
            0
        }
    }

    /// The rows of windows that reach into an image's `rows`, of which there is one at least.
    pub(super) fn touching(&self, rows: Range<usize>) -> Range<usize> {
        let Window { size: [height, _], stride: [stride, _], .. } = self.shape.window;
        let (top, bottom) = (rows.start + self.padding[0], rows.end - 1 + self.padding[0]);
        // The first ends below the top, the last begins at the bottom or above.
        let first = if top < height { 0 } else { (top - height) / stride + 1 };
        first..(bottom / stride + 1).min(self.height)
    }

    /// The window of an output pixel: never empty, and its rows and columns are always the image's,
    /// because padding is less than a window on either side.
    #[inline(always)]
    pub(super) fn at(&self, oy: usize, ox: usize) -> PoolWindow {
        let PoolShape { input, window } = self.shape;
        let along = |axis: usize, out: usize, len: usize| {
            let start = out * window.stride[axis];
            let range = start.saturating_sub(self.padding[axis])
                ..(start.saturating_add(window.size[axis]) - self.padding[axis]).min(len);
            (range, start)
        };
        let (rows, top) = along(0, oy, input.height);
        let (columns, left) = along(1, ox, input.width);
        PoolWindow {
            rows,
            columns,
            padded_origin: [top, left],
            padding: self.padding,
            size: window.size,
            image: [input.height, input.width],
        }
    }
}

/// A window: its rows and columns inside the image.
pub(super) struct PoolWindow {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    /// Top left of the window in the padded image.
    padded_origin: [usize; 2],
    padding: [usize; 2],
    pub(super) size: [usize; 2],
    pub(super) image: [usize; 2],
}

impl PoolWindow {
    /// The place in the window of a pixel of the image.
    #[inline(always)]
    pub(super) fn place(&self, row: usize, column: usize) -> usize {
        let down = row + self.padding[0] - self.padded_origin[0];
        let right = column + self.padding[1] - self.padded_origin[1];
        down * self.size[1] + right
    }

    /// The number of a pixel in the image.
    #[inline(always)]
    pub(super) fn pixel(&self, row: usize, column: usize) -> usize {
        row * self.image[1] + column
    }

    /// The number in the image of the pixel at a place.
    #[inline(always)]
    #[track_caller]
    pub(super) fn pixel_of_place(&self, place: usize) -> usize {
        let row = self.padded_origin[0] + place / self.size[1];
        let column = self.padded_origin[1] + place % self.size[1];
        let inside = row.checked_sub(self.padding[0]).zip(column.checked_sub(self.padding[1]));
        match inside {
            Some((row, column)) if row < self.rows.end && column < self.columns.end => {
                self.pixel(row, column)
            }
            _ => panic!("argmax {place} lies outside the window or the image"),
        }
    }
}

/// Whether every pixel is in exactly one window.
pub(super) fn covers_every_pixel_once(shape: PoolShape) -> bool {
    let Window { size, stride, .. } = shape.window;
    let output = shape.output();
    size == stride
        && output.height.saturating_mul(stride[0]) >= shape.input.height
        && output.width.saturating_mul(stride[1]) >= shape.input.width
}

/// Runs `$body` for every pixel of a window, with `$place` its place there and `$pixel` its number in the
/// image. (A macro, because a closure would be compiled without the vector instructions.)
macro_rules! for_each_pixel {
    ($window:expr, |$place:ident, $pixel:ident| $body:block) => {{
        let window = &$window;
        let (first_row, first_column) = (window.rows.start, window.columns.start);
        if window.rows.len() == 2 && window.columns.len() == 2 {
            // The window that networks have, unrolled.
            for down in 0..2 {
                for right in 0..2 {
                    let $place =
                        window.place(first_row, first_column) + down * window.size[1] + right;
                    let $pixel =
                        window.pixel(first_row, first_column) + down * window.image[1] + right;
                    $body
                }
            }
        } else {
            for row in window.rows.clone() {
                for column in window.columns.clone() {
                    let ($place, $pixel) = (window.place(row, column), window.pixel(row, column));
                    $body
                }
            }
        }
    }};
}
pub(super) use for_each_pixel;

/// How many of the batch's rows a thread takes at a time, where all of them together have, or are made of,
/// `elements`: a multiple of `stride`, so that as a rule no window of that height is cut.
pub(super) fn rows_per_chunk(images: ImageShape, elements: usize, stride: usize) -> usize {
    let rows = images.batch.saturating_mul(images.height);
    let chunk = rows.div_ceil(elements.div_ceil(ELEMENTWISE_CHUNK).max(1));
    chunk.checked_next_multiple_of(stride).map_or(rows, |chunk| chunk.min(rows))
}

/// What there is of every image in `rows`, whose first is the batch's `first`: the image's number, which of its
/// rows, and those.
pub(super) fn rows_by_image(
    images: ImageShape,
    mut first: usize,
    mut rows: &mut [f32],
) -> impl Iterator<Item = (usize, Range<usize>, &mut [f32])> {
    let row = images.width * images.channels;
    std::iter::from_fn(move || {
        let (image, top) = (first.checked_div(images.height)?, first % images.height);
        let bottom = images.height.min(top + rows.len().checked_div(row)?);
        first += bottom - top;
        let part = rows.split_off_mut(..(bottom - top) * row)?;
        (!part.is_empty()).then_some((image, top..bottom, part))
    })
}
