//! Shapes, checked once at the boundary: kernels compare the slices they are given with the shape
//! and name both lengths when they disagree.

#![forbid(unsafe_code)]

/// A row-major matrix, such as a batch of logits.
///
/// ```
/// use kernelet::{Cpu, kernels::softmax, shape::MatrixShape};
///
/// let cpu = Cpu::detect()?;
/// // 32 rows of 10 logits are a slice of 320 values.
/// let shape = MatrixShape { rows: 32, cols: 10 };
/// let (logits, mut probabilities) = ([0.0; 320], [0.0; 320]);
/// softmax::forward(&cpu, shape, &logits, &mut probabilities);
/// assert!((probabilities[0] - 0.1).abs() < 1e-6);
/// # Ok::<(), kernelet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Number of rows (samples).
    pub rows: usize,
    /// Number of columns (classes).
    pub cols: usize,
}

/// A linear layer applied to a batch: y (rows, outputs) = x (rows, inputs) w (inputs, outputs) + b.
///
/// ```
/// use kernelet::{Cpu, kernels::linear, shape::LinearShape};
///
/// let cpu = Cpu::detect()?;
/// let shape = LinearShape { rows: 1, inputs: 2, outputs: 3 };
/// let (x, w, b) = ([1.0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5; 3]);
/// let mut y = [0.0; 3];
/// linear::forward(&cpu, shape, &x, &w, &b, &mut y);
/// assert_eq!(y, [41.5, 52.5, 63.5]);
/// # Ok::<(), kernelet::Error>(())
/// ```
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
///
/// ```
/// use kernelet::shape::ImageShape;
///
/// let shape = ImageShape { batch: 32, height: 28, width: 28, channels: 3 };
/// // Where the element (image, row, column, channel) lies in the slice.
/// let [image, row, column, channel] = [1, 2, 3, 1];
/// let at = ((image * shape.height + row) * shape.width + column) * shape.channels + channel;
/// assert_eq!(at, shape.image_len() + (2 * 28 + 3) * 3 + 1);
/// ```
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
    /// ```
    /// use kernelet::shape::ImageShape;
    ///
    /// assert_eq!(ImageShape { batch: 32, height: 28, width: 28, channels: 3 }.image_len(), 2352);
    /// ```
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
    /// ```
    /// use kernelet::shape::{ImageShape, MatrixShape};
    ///
    /// let images = ImageShape { batch: 2, height: 4, width: 5, channels: 3 };
    /// assert_eq!(images.pixels(), MatrixShape { rows: 40, cols: 3 });
    /// ```
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
///
/// ```
/// use kernelet::shape::{Padding, Window};
///
/// // Windows of 3 x 3 that make steps of 2, over an image of 6 x 6.
/// assert_eq!(Window::square(3, 2, Padding::Same).count(6, 6), [3, 3]);
/// assert_eq!(Window::square(3, 2, Padding::Valid).count(6, 6), [2, 2]);
/// ```
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
///
/// ```
/// use kernelet::shape::{Padding, Window};
///
/// // Two rows of three columns, moved by one row and by three columns.
/// let window = Window { size: [2, 3], stride: [1, 3], padding: Padding::Valid };
/// assert_eq!(window.count(4, 9), [3, 3]);
/// ```
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
    ///
    /// ```
    /// use kernelet::shape::{Padding, Window};
    ///
    /// let window = Window::square(2, 1, Padding::Same);
    /// assert_eq!((window.size, window.stride), ([2, 2], [1, 1]));
    /// ```
    #[must_use]
    pub const fn square(size: usize, stride: usize, padding: Padding) -> Self {
        Self { size: [size; 2], stride: [stride; 2], padding }
    }

    /// Elements of the window.
    ///
    /// ```
    /// use kernelet::shape::{Padding, Window};
    ///
    /// assert_eq!(Window::square(3, 1, Padding::Same).area(), 9);
    /// ```
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
    /// ```
    /// use kernelet::shape::{Padding, Window};
    ///
    /// assert_eq!(Window::square(2, 2, Padding::Same).count(5, 4), [3, 2]);
    /// assert_eq!(Window::square(2, 2, Padding::Valid).count(5, 1), [2, 0]);
    /// ```
    ///
    /// # Panics
    /// If a size or a stride is 0.
    #[must_use]
    pub fn count(self, height: usize, width: usize) -> [usize; 2] {
        [self.count_along(0, height), self.count_along(1, width)]
    }

    /// Rows of padding above and columns of padding left of an image of `height` x `width`.
    ///
    /// ```
    /// use kernelet::shape::{Padding, Window};
    ///
    /// assert_eq!(Window::square(3, 1, Padding::Same).padding_before(28, 28), [1, 1]);
    /// // An odd row or column of padding goes to the bottom or to the right.
    /// assert_eq!(Window::square(2, 1, Padding::Same).padding_before(28, 28), [0, 0]);
    /// ```
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
                // How far the last window, which begins inside the image, goes beyond it.
                let last = (count - 1) * self.stride[axis];
                self.size[axis].saturating_sub(len - last)
            }
        }
    }
}

/// A convolution: images (batch, height, width, channels) to as many with `filters` channels,
/// weights (window height, window width, channels, filters).
///
/// ```
/// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
///
/// let input = ImageShape { batch: 32, height: 28, width: 28, channels: 3 };
/// let shape = Conv2dShape { input, window: Window::square(3, 1, Padding::Same), filters: 16 };
/// // Weights (3, 3, 3, 16).
/// assert_eq!(shape.taps() * shape.filters, 432);
/// ```
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
    ///
    /// ```
    /// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
    ///
    /// let input = ImageShape { batch: 32, height: 28, width: 28, channels: 3 };
    /// let window = Window::square(3, 2, Padding::Valid);
    /// let shape = Conv2dShape { input, window, filters: 16 };
    /// assert_eq!(shape.output(), ImageShape { batch: 32, height: 13, width: 13, channels: 16 });
    /// ```
    ///
    /// # Panics
    /// If a size or a stride of the window is 0.
    #[must_use]
    pub fn output(self) -> ImageShape {
        let [height, width] = self.window.count(self.input.height, self.input.width);
        ImageShape { batch: self.input.batch, height, width, channels: self.filters }
    }

    /// Weights per filter: window height x window width x channels.
    ///
    /// ```
    /// use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};
    ///
    /// let input = ImageShape { batch: 32, height: 28, width: 28, channels: 3 };
    /// let shape = Conv2dShape { input, window: Window::square(3, 1, Padding::Same), filters: 16 };
    /// assert_eq!(shape.taps(), 27);
    /// ```
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
///
/// ```
/// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
///
/// let input = ImageShape { batch: 32, height: 28, width: 28, channels: 16 };
/// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
/// assert_eq!(shape.output().image_len(), 14 * 14 * 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// The images that go in.
    pub input: ImageShape,
    /// What becomes one value.
    pub window: Window,
}

impl PoolShape {
    /// The images that come out.
    ///
    /// ```
    /// use kernelet::shape::{ImageShape, Padding, PoolShape, Window};
    ///
    /// let input = ImageShape { batch: 32, height: 29, width: 28, channels: 16 };
    /// let shape = PoolShape { input, window: Window::square(2, 2, Padding::Same) };
    /// assert_eq!(shape.output(), ImageShape { batch: 32, height: 15, width: 14, channels: 16 });
    /// ```
    ///
    /// # Panics
    /// If a size or a stride of the window is 0.
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
