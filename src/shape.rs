//! Shapes, checked once at the boundary: kernels compare the slices they are given with the shape
//! and name both lengths when they disagree.

#![forbid(unsafe_code)]

/// A row-major matrix, such as a batch of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Number of rows (samples).
    pub rows: usize,
    /// Number of columns (classes).
    pub cols: usize,
}

/// A linear layer applied to a batch: y (rows, outputs) = x (rows, inputs) w (inputs, outputs) + b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Number of rows (samples).
    pub rows: usize,
    /// Values per row of x.
    pub inputs: usize,
    /// Values per row of y.
    pub outputs: usize,
}

/// A batch of images in NHWC order: (batch, height, width, channels), row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Number of images.
    pub batch: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Values per pixel.
    pub channels: usize,
}

impl ImageShape {
    /// Values per image.
    ///
    /// # Panics
    /// If the product overflows.
    #[must_use]
    pub fn image_len(self) -> usize {
        let Self { height, width, channels, .. } = self;
        let len = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(channels));
        let Some(len) = len else { panic!("{height} x {width} x {channels} overflows") };
        len
    }

    /// The pixels of all images as the rows of a matrix, their channels as its columns.
    ///
    /// # Panics
    /// If the number of pixels overflows.
    #[must_use]
    pub fn pixels(self) -> MatrixShape {
        let Self { batch, height, width, channels } = self;
        let rows = batch.checked_mul(height).and_then(|rows| rows.checked_mul(width));
        let Some(rows) = rows else { panic!("{batch} x {height} x {width} overflows") };
        MatrixShape { rows, cols: channels }
    }
}

/// What a window does at the border of an image, in TensorFlow's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The image is padded until there are `ceil(size / stride)` windows each way; an odd rest goes
    /// to the bottom and the right.
    Same,
    /// Windows lie inside the image; there is none where the image is smaller.
    Valid,
}

/// A window that slides over images: a convolution's kernel, or what a pool reduces to one value.
/// Pairs are of rows, then columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width, at least 1.
    pub size: [usize; 2],
    /// Step down and step to the right, at least 1.
    pub stride: [usize; 2],
    /// What happens at the border.
    pub padding: Padding,
}

impl Window {
    /// A square window.
    #[must_use]
    pub const fn square(size: usize, stride: usize, padding: Padding) -> Self {
        Self { size: [size; 2], stride: [stride; 2], padding }
    }

    /// Elements of the window.
    ///
    /// # Panics
    /// If the product overflows.
    #[must_use]
    pub fn area(self) -> usize {
        let [height, width] = self.size;
        let Some(area) = height.checked_mul(width) else { panic!("{self:?} overflows") };
        area
    }

    /// Windows down and across an image of `height` x `width`.
    ///
    /// # Panics
    /// If a size or a stride is 0.
    #[must_use]
    pub fn count(self, height: usize, width: usize) -> [usize; 2] {
        [self.count_along(0, height), self.count_along(1, width)]
    }

    /// Rows of padding above and columns of padding left of an image of `height` x `width`.
    ///
    /// # Panics
    /// If a size or a stride is 0.
    #[must_use]
    pub fn padding_before(self, height: usize, width: usize) -> [usize; 2] {
        [self.padding_along(0, height) / 2, self.padding_along(1, width) / 2]
    }

    #[track_caller]
    fn count_along(self, axis: usize, len: usize) -> usize {
        let (size, stride) = (self.size[axis], self.stride[axis]);
        assert!(size > 0 && stride > 0, "{self:?} has a size or a stride of 0");
        match self.padding {
            Padding::Same => len.div_ceil(stride),
            Padding::Valid if len < size => 0,
            Padding::Valid => (len - size) / stride + 1,
        }
    }

    /// Padding on both sides together.
    #[track_caller]
    fn padding_along(self, axis: usize, len: usize) -> usize {
        match (self.padding, self.count_along(axis, len)) {
            (Padding::Valid, _) | (_, 0) => 0,
            (Padding::Same, count) => {
                ((count - 1) * self.stride[axis] + self.size[axis]).saturating_sub(len)
            }
        }
    }
}

/// A convolution: images (batch, height, width, channels) to as many with `filters` channels,
/// weights (window height, window width, channels, filters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dShape {
    /// The images that go in.
    pub input: ImageShape,
    /// The kernel.
    pub window: Window,
    /// Channels of the images that come out.
    pub filters: usize,
}

impl Conv2dShape {
    /// The images that come out.
    #[must_use]
    pub fn output(self) -> ImageShape {
        let [height, width] = self.window.count(self.input.height, self.input.width);
        ImageShape { batch: self.input.batch, height, width, channels: self.filters }
    }

    /// Weights per filter: window height x window width x channels.
    ///
    /// # Panics
    /// If the product overflows.
    #[must_use]
    pub fn taps(self) -> usize {
        let Some(taps) = self.window.area().checked_mul(self.input.channels) else {
            panic!("{self:?} overflows")
        };
        taps
    }
}

/// A pool: every window of every channel becomes one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// The images that go in.
    pub input: ImageShape,
    /// What becomes one value.
    pub window: Window,
}

impl PoolShape {
    /// The images that come out.
    #[must_use]
    pub fn output(self) -> ImageShape {
        let [height, width] = self.window.count(self.input.height, self.input.width);
        ImageShape { height, width, ..self.input }
    }
}

/// Panics unless `len`, the length of the slice `name`, is `rows * cols`.
#[track_caller]
pub(crate) fn check_len(name: &str, len: usize, rows: usize, cols: usize) {
    let wanted = rows.checked_mul(cols);
    assert!(
        wanted == Some(len),
        "{name} has {len} elements, but its shape is {rows} x {cols}{}",
        wanted.map_or(" (which overflows)".into(), |n| format!(" = {n}")),
    );
}
