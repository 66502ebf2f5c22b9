//! The block as a custom op: convolution (3x3, same padding), bias, ReLU, batch normalisation and a
//! 2x2 max pool.
//!
//! kernelet has channels last, candle's own ops have them first. The op takes and returns tensors in
//! kernelet's layout, and reads them where candle has them, without a copy:
//!
//! | tensor | shape |
//! |---|---|
//! | x | (images, height, width, channels) |
//! | w | (3, 3, channels, filters) |
//! | b | (filters) |
//! | y | (images, height / 2, width / 2, filters) |
//!
//! Images of one channel are the same in both layouts but for their shape, so that
//! `x.reshape((images, height, width, 1))` costs nothing. An odd last row or column is not pooled, as in
//! candle's `max_pool2d`. Normalisation is with the moments of the batch, without scale and offset;
//! the gradient takes into account that these moments depend on w and b.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use kernelet::Cpu;
use kernelet::kernels::conv_block::{self as kernel, ConvBlockShape};
use kernelet::kernels::conv2d;
use kernelet::kernels::gemm::Write;
use kernelet::kernels::relu_batch_norm::{self, Moments, Normalization};
use kernelet::nn::cnn::EPSILON;
use kernelet::shape::{Conv2dShape, ImageShape, Padding, Window};

const NAME: &str = "kernelet-conv-block";

/// y of x, w and b, shaped as the [module](self) says; candle's `backward` goes through it.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use kernelet_candle_example::{conv_block::conv_block, normals};
///
/// let cpu = kernelet::Cpu::detect().map_err(candle_core::Error::wrap)?;
/// let x = normals((4, 28, 28, 1), 0)?;
/// let w = Var::from_tensor(&normals((3, 3, 1, 32), 1)?)?;
/// let b = Var::from_tensor(&normals(32, 2)?)?;
/// let y = conv_block(&cpu, &x, &w, &b)?;
/// assert_eq!(y.dims(), [4, 14, 14, 32]);
/// let gradients = y.sqr()?.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&w).map(Tensor::dims), Some(&[3, 3, 1, 32][..]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If a tensor is not contiguous, not of `F32`, not on the CPU or not shaped as above; if there is no
/// image, no channel or no filter, or if the images are smaller than the pool's window.
pub fn conv_block(cpu: &Cpu, x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.apply_op3(w, b, ConvBlock::new(cpu))
}

/// The op itself, for `x.apply_op3(&w, &b, op)`.
///
/// One value is for one forward pass, because it keeps what the backward pass needs of it; a second
/// forward pass is refused. [`conv_block`] makes one per call. `backward` may be called any number of
/// times.
pub struct ConvBlock {
    cpu: Cpu,
    kept: OnceLock<Kept>,
}

/// What the backward pass needs of the forward one. It has x, w and y from candle.
struct Kept {
    shape: ConvBlockShape,
    r: Vec<f32>,
    normalization: Normalization,
    argmax: Vec<u8>,
}

impl ConvBlock {
    /// An op that has not run yet.
    #[must_use]
    pub fn new(cpu: &Cpu) -> Self {
        Self { cpu: cpu.clone(), kept: OnceLock::new() }
    }
}

impl CustomOp3 for ConvBlock {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = block_shape(x_layout.dims(), w_layout.dims(), b_layout.dims())?;
        let x = floats("x", x, x_layout)?;
        let w = floats("w", w, w_layout)?;
        let b = floats("b", b, b_layout)?;
        let (convolved, pooled) = (shape.convolution.output(), shape.pool().output());
        let mut r = vec![0.0; convolved.batch * convolved.image_len()];
        let mut y = vec![0.0; pooled.batch * pooled.image_len()];
        let mut argmax = vec![0; y.len()];
        let mut moments = Moments::new(shape.convolution.filters);
        let mut normalization = Normalization::identity(shape.convolution.filters);

        kernel::forward(&self.cpu, shape, x, w, b, &mut r, &mut moments, &mut y, &mut argmax);
        normalization.set(&moments, EPSILON);
        let pixels = pooled.pixels();
        relu_batch_norm::forward_normalize_in_place(
            &self.cpu,
            pixels,
            &normalization,
            None,
            &mut y,
        );

        if self.kept.set(Kept { shape, r, normalization, argmax }).is_err() {
            bail!("{NAME}: this value has run before; make a new one for every forward pass");
        }
        Ok((CpuStorage::F32(y), Shape::from_dims(&dims(pooled))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(Kept { shape, r, normalization, argmax }) = self.kept.get() else {
            bail!("{NAME}: there is no backward pass before a forward pass");
        };
        let wanted = dims(shape.pool().output());
        if block_shape(x.dims(), w.dims(), b.dims())? != *shape
            || y.dims() != wanted
            || dy.dims() != wanted
        {
            bail!("{NAME}: the backward pass has other shapes than the forward pass had");
        }
        // As candle adds gradients up, they are contiguous: no copy then.
        let dy = dy.contiguous()?;
        let ((x_storage, x_layout), (w_storage, w_layout)) =
            (x.storage_and_layout(), w.storage_and_layout());
        let ((y_storage, y_layout), (dy_storage, dy_layout)) =
            (y.storage_and_layout(), dy.storage_and_layout());
        let x_values = floats("x", on_cpu("x", &x_storage)?, x_layout)?;
        let w_values = floats("w", on_cpu("w", &w_storage)?, w_layout)?;
        let y_values = floats("y", on_cpu("y", &y_storage)?, y_layout)?;
        let dy_values = floats("dy", on_cpu("dy", &dy_storage)?, dy_layout)?;
        let (cpu, convolution, write) = (&self.cpu, shape.convolution, Write::Overwrite);
        let mut dw = vec![0.0; w_values.len()];
        let mut db = vec![0.0; convolution.filters];

        // The first layer's x is data; that of later ones depends on weights.
        let dx = if x.track_op() {
            let mut dz = vec![0.0; r.len()];
            relu_batch_norm::backward_max_pool(
                cpu,
                shape.pool(),
                r,
                normalization,
                y_values,
                argmax,
                dy_values,
                &mut dz,
            );
            conv2d::backward_weights(cpu, convolution, x_values, &dz, write, &mut dw, &mut db);
            let mut dx = vec![0.0; x_values.len()];
            conv2d::backward_input(cpu, convolution, &dz, w_values, &mut dx);
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            // Image by image: the gradient of the whole batch's convolution is never in memory.
            kernel::backward_weights(
                cpu,
                *shape,
                x_values,
                r,
                normalization,
                y_values,
                argmax,
                dy_values,
                write,
                &mut dw,
                &mut db,
            );
            None
        };
        let dw = Tensor::from_vec(dw, w.shape(), w.device())?;
        let db = Tensor::from_vec(db, b.shape(), b.device())?;
        Ok((dx, Some(dw), Some(db)))
    }
}

/// The sizes of a block, checked: kernelet panics where slices do not fit.
fn block_shape(x: &[usize], w: &[usize], b: &[usize]) -> Result<ConvBlockShape> {
    let &[batch, height, width, channels] = x else {
        bail!("{NAME}: x has shape {x:?}, wanted (images, height, width, channels)");
    };
    if batch == 0 || channels == 0 || height < 2 || width < 2 {
        bail!("{NAME}: x has shape {x:?}, wanted at least (1, 2, 2, 1)");
    }
    let filters = match *w {
        [3, 3, inputs, filters] if inputs == channels && filters > 0 => filters,
        _ => bail!(
            "{NAME}: w has shape {w:?}, wanted (3, 3, channels, filters) = (3, 3, {channels}, at \
             least 1)"
        ),
    };
    if *b != [filters] {
        bail!("{NAME}: b has shape {b:?}, wanted (filters) = ({filters})");
    }
    let values = [batch, height, width, filters];
    if values.iter().try_fold(1_usize, |product, &n| product.checked_mul(n)).is_none() {
        bail!("{NAME}: the convolution has {values:?} values, more than memory has addresses");
    }
    let input = ImageShape { batch, height, width, channels };
    let window = Window::square(3, 1, Padding::Same);
    let convolution = Conv2dShape { input, window, filters };
    Ok(ConvBlockShape { convolution, pool: Window::square(2, 2, Padding::Valid) })
}

fn dims(images: ImageShape) -> [usize; 4] {
    [images.batch, images.height, images.width, images.channels]
}

fn on_cpu<'a>(name: &str, storage: &'a Storage) -> Result<&'a CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        other => bail!("{NAME}: {name} is on {:?}, wanted the CPU", other.device().location()),
    }
}

/// The values of a tensor where they lie.
fn floats<'a>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{NAME}: {name} has dtype {:?}, wanted F32", storage.dtype());
    };
    let (shape, stride) = (layout.dims(), layout.stride());
    let Some((from, to)) = layout.contiguous_offsets() else {
        bail!(
            "{NAME}: {name} of shape {shape:?} has strides {stride:?}, wanted contiguous: call \
             contiguous() first"
        );
    };
    let Some(values) = values.get(from..to) else {
        bail!("{NAME}: {name} has {} values in memory, wanted {from}..{to}", values.len());
    };
    Ok(values)
}
