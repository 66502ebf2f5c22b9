//! What a careful programmer gets from the compiler: plain loops over slices, which it vectorises
//! for the best instruction set of this machine. No library, no intrinsics, one thread.
//!
//! Careful means: the inner loop runs over neighbours in memory, multiplications and additions are
//! fused by name, and sums are taken in parts, because the compiler may not reorder them itself.

use kernelet::kernels::adam::Adam;
use kernelet::kernels::dropout::Dropout;
use kernelet::kernels::gemm::{GemmShape, Matrix};
use kernelet::kernels::momentum::Momentum;
use kernelet::kernels::relu_batch_norm::Normalization;
use kernelet::shape::{Conv2dShape, ImageShape, MatrixShape, PoolShape, Window};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// Makes functions whose bodies are compiled for AVX-512 and for AVX2 with FMA too; a call picks
/// the best that this machine has.
macro_rules! auto {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $type),*) {
            #[inline(always)]
            fn loops($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) {
                    loops($($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) {
                    loops($($arg),*);
                }
                let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                let v4 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                if v3 && v4 {
                    // SAFETY: the processor has every feature that the function is compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if v3 {
                    // SAFETY: the same.
                    return unsafe { avx2($($arg),*) };
                }
            }
            loops($($arg),*);
        }
    )*};
}

auto! {
    /// C = op(A) op(B).
    fn gemm(shape: GemmShape, a: Matrix, b: Matrix, c: &mut [f32]) {
        let GemmShape { m, k, n } = shape;
        let mut a_row = vec![0.0; k];
        for (i, c) in c.chunks_exact_mut(n).enumerate() {
            match a {
                Matrix::N(a) => a_row.copy_from_slice(&a[i * k..][..k]),
                Matrix::T(a) => {
                    for (to, a) in a_row.iter_mut().zip(a.chunks_exact(m)) {
                        *to = a[i];
                    }
                }
            }
            match b {
                Matrix::N(b) => {
                    c.fill(0.0);
                    for (&a, b) in a_row.iter().zip(b.chunks_exact(n)) {
                        add_scaled(c, a, b);
                    }
                }
                Matrix::T(b) => {
                    for (c, b) in c.iter_mut().zip(b.chunks_exact(k)) {
                        *c = dot(&a_row, b);
                    }
                }
            }
        }
    }

    /// y = y + b in every row.
    fn add_bias(b: &[f32], y: &mut [f32]) {
        for y in y.chunks_exact_mut(b.len()) {
            add_scaled(y, 1.0, b);
        }
    }

    /// y = max(y + b, 0) in every row.
    fn add_bias_relu(b: &[f32], y: &mut [f32]) {
        for y in y.chunks_exact_mut(b.len()) {
            for (y, &b) in y.iter_mut().zip(b) {
                *y = (*y + b).max(0.0);
            }
        }
    }

    /// db = the sum of the rows of dy.
    fn column_sums(dy: &[f32], db: &mut [f32]) {
        db.fill(0.0);
        for dy in dy.chunks_exact(db.len()) {
            add_scaled(db, 1.0, dy);
        }
    }

    /// y = max(conv(x, w) + b, 0).
    fn conv2d_forward_relu(shape: Conv2dShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
        let Conv2dShape { input, window, filters } = shape;
        for y in y.chunks_exact_mut(filters) {
            y.copy_from_slice(b);
        }
        for_each_tap(input, window, |output, place, pixel| {
            let y = &mut y[output * filters..][..filters];
            let x = &x[pixel * input.channels..][..input.channels];
            let w = &w[place * input.channels * filters..];
            for (&x, w) in x.iter().zip(w.chunks_exact(filters)) {
                add_scaled(y, x, w);
            }
        });
        for y in y {
            *y = y.max(0.0);
        }
    }

    /// dx of the convolution.
    fn conv2d_backward_input(shape: Conv2dShape, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        let Conv2dShape { input, window, filters } = shape;
        dx.fill(0.0);
        for_each_tap(input, window, |output, place, pixel| {
            let dy = &dy[output * filters..][..filters];
            let dx = &mut dx[pixel * input.channels..][..input.channels];
            let w = &w[place * input.channels * filters..];
            for (dx, w) in dx.iter_mut().zip(w.chunks_exact(filters)) {
                *dx += dot(dy, w);
            }
        });
    }

    /// dw of the convolution.
    fn conv2d_backward_weights(shape: Conv2dShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let Conv2dShape { input, window, filters } = shape;
        dw.fill(0.0);
        for_each_tap(input, window, |output, place, pixel| {
            let dy = &dy[output * filters..][..filters];
            let x = &x[pixel * input.channels..][..input.channels];
            let dw = &mut dw[place * input.channels * filters..];
            for (&x, dw) in x.iter().zip(dw.chunks_exact_mut(filters)) {
                add_scaled(dw, x, dy);
            }
        });
    }

    /// The pixels of every window as a row, zeros where it hangs over the border: the convolution is
    /// the product of these columns with w.
    fn im2col(shape: Conv2dShape, x: &[f32], columns: &mut [f32]) {
        let (channels, taps) = (shape.input.channels, shape.taps());
        columns.fill(0.0);
        for_each_tap(shape.input, shape.window, |output, place, pixel| {
            let to = &mut columns[output * taps + place * channels..][..channels];
            to.copy_from_slice(&x[pixel * channels..][..channels]);
        });
    }

    /// The columns added up to where [`im2col`] took them from.
    fn col2im(shape: Conv2dShape, columns: &[f32], x: &mut [f32]) {
        let (channels, taps) = (shape.input.channels, shape.taps());
        x.fill(0.0);
        for_each_tap(shape.input, shape.window, |output, place, pixel| {
            let from = &columns[output * taps + place * channels..][..channels];
            add_scaled(&mut x[pixel * channels..][..channels], 1.0, from);
        });
    }

    /// The largest element of every window, and its place.
    fn max_pool_forward(shape: PoolShape, x: &[f32], y: &mut [f32], argmax: &mut [u8]) {
        let channels = shape.input.channels;
        y.fill(f32::NEG_INFINITY);
        for_each_tap(shape.input, shape.window, |output, place, pixel| {
            let x = &x[pixel * channels..][..channels];
            let y = &mut y[output * channels..][..channels];
            let argmax = &mut argmax[output * channels..][..channels];
            for ((y, argmax), &x) in y.iter_mut().zip(argmax).zip(x) {
                *argmax = if x > *y { place as u8 } else { *argmax };
                *y = larger(*y, x);
            }
        });
    }

    /// dy added to the largest element of its window.
    fn max_pool_backward(shape: PoolShape, argmax: &[u8], dy: &[f32], dx: &mut [f32]) {
        let channels = shape.input.channels;
        dx.fill(0.0);
        for_each_tap(shape.input, shape.window, |output, place, pixel| {
            let dx = &mut dx[pixel * channels..][..channels];
            let dy = &dy[output * channels..][..channels];
            let argmax = &argmax[output * channels..][..channels];
            for ((dx, &dy), &argmax) in dx.iter_mut().zip(dy).zip(argmax) {
                *dx += if usize::from(argmax) == place { dy } else { 0.0 };
            }
        });
    }

    /// The mean of every window's elements inside the image.
    fn avg_pool_forward(shape: PoolShape, x: &[f32], y: &mut [f32]) {
        let channels = shape.input.channels;
        let shares = shares(shape);
        y.fill(0.0);
        for_each_tap(shape.input, shape.window, |output, _, pixel| {
            let x = &x[pixel * channels..][..channels];
            add_scaled(&mut y[output * channels..][..channels], shares[output], x);
        });
    }

    /// To every element of a window its share of dy.
    fn avg_pool_backward(shape: PoolShape, dy: &[f32], dx: &mut [f32]) {
        let channels = shape.input.channels;
        let shares = shares(shape);
        dx.fill(0.0);
        for_each_tap(shape.input, shape.window, |output, _, pixel| {
            let dy = &dy[output * channels..][..channels];
            add_scaled(&mut dx[pixel * channels..][..channels], shares[output], dy);
        });
    }

    /// y = max(x, 0).
    fn relu_forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x.max(0.0);
        }
    }

    /// dx = dy where y > 0, else 0.
    fn relu_backward(y: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
            *dx = if y > 0.0 { dy } else { 0.0 };
        }
    }

    /// dx = dx where y > 0, else 0.
    fn relu_backward_in_place(y: &[f32], dx: &mut [f32]) {
        for (dx, &y) in dx.iter_mut().zip(y) {
            *dx = if y > 0.0 { *dx } else { 0.0 };
        }
    }

    /// y = e^x.
    fn exp_forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = exp(x);
        }
    }

    /// Softmax of every row.
    fn softmax_forward(shape: MatrixShape, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.chunks_exact(shape.cols).zip(y.chunks_exact_mut(shape.cols)) {
            let (_, sum) = exponentials(x, y);
            for y in y {
                *y *= 1.0 / sum;
            }
        }
    }

    /// dx = y (dy - y . dy) in every row.
    fn softmax_backward(shape: MatrixShape, y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let rows = y.chunks_exact(shape.cols).zip(dy.chunks_exact(shape.cols));
        for (dx, (y, dy)) in dx.chunks_exact_mut(shape.cols).zip(rows) {
            let dot = dot(y, dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - dot);
            }
        }
    }

    /// dlogits = scale (softmax(logits) - onehot); the loss and the hits in `tally`.
    fn softmax_cross_entropy(
        shape: MatrixShape,
        logits: &[f32],
        labels: &[u32],
        scale: f32,
        dlogits: &mut [f32],
        tally: &mut [f32],
    ) {
        let (mut loss, mut hits) = (0.0, 0);
        let rows = logits.chunks_exact(shape.cols).zip(dlogits.chunks_exact_mut(shape.cols));
        for ((x, dx), &label) in rows.zip(labels) {
            let (max, sum) = exponentials(x, dx);
            for dx in &mut *dx {
                *dx *= scale / sum;
            }
            let label = label as usize;
            dx[label] -= scale;
            loss += f64::from(sum.ln() + max - x[label]);
            hits += usize::from(x[label] == max);
        }
        tally.copy_from_slice(&[loss as f32, hits as f32]);
    }

    /// The loss and the hits of probabilities in `tally`.
    fn cross_entropy_forward(
        shape: MatrixShape,
        probabilities: &[f32],
        labels: &[u32],
        tally: &mut [f32],
    ) {
        let (mut loss, mut hits) = (0.0, 0);
        for (p, &label) in probabilities.chunks_exact(shape.cols).zip(labels) {
            let label = p[label as usize];
            loss -= f64::from(label).ln();
            hits += usize::from(label == largest(p));
        }
        tally.copy_from_slice(&[loss as f32, hits as f32]);
    }

    /// dp = -scale / p at each row's label, else 0.
    fn cross_entropy_backward(
        shape: MatrixShape,
        probabilities: &[f32],
        labels: &[u32],
        scale: f32,
        dp: &mut [f32],
    ) {
        dp.fill(0.0);
        let rows = probabilities.chunks_exact(shape.cols).zip(dp.chunks_exact_mut(shape.cols));
        for ((p, dp), &label) in rows.zip(labels) {
            dp[label as usize] = -scale / p[label as usize];
        }
    }

    /// x = x / keep where the element is kept, else 0. Random words come in bulk.
    fn dropout(dropout: Dropout, x: &mut [f32]) {
        let threshold = (f64::from(dropout.keep) * 2f64.powi(32)) as u64;
        let mut generator = ChaCha8Rng::seed_from_u64(dropout.seed);
        generator.set_stream(dropout.step);
        let mut words = [0; 256];
        for x in x.chunks_mut(words.len()) {
            for word in &mut words[..x.len()] {
                *word = generator.next_u32();
            }
            for (x, &word) in x.iter_mut().zip(&words) {
                *x = if u64::from(word) < threshold { *x / dropout.keep } else { 0.0 };
            }
        }
    }

    /// v = momentum v + rate g; w = w - v.
    fn momentum(settings: Momentum, w: &mut [f32], v: &mut [f32], g: &[f32]) {
        for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
            *v = settings.momentum.mul_add(*v, settings.learning_rate * g);
            *w -= *v;
        }
    }

    /// Adam's update.
    fn adam(adam: Adam, step: u64, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        let rate = adam.rate(step);
        for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
            let g = adam.l2.mul_add(*w, g);
            *m = (1.0 - adam.beta1).mul_add(g - *m, *m);
            *v = (1.0 - adam.beta2).mul_add(g * g - *v, *v);
            *w -= rate * *m / (v.sqrt() + adam.epsilon);
        }
    }

    /// r = max(x, 0), and its mean and variance per channel.
    fn relu_moments(x: &[f32], r: &mut [f32], mean: &mut [f32], variance: &mut [f32]) {
        let channels = mean.len();
        mean.fill(0.0);
        for (r, x) in r.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for ((r, &x), mean) in r.iter_mut().zip(x).zip(&mut *mean) {
                *r = x.max(0.0);
                *mean += *r;
            }
        }
        mean_and_variance(r, mean, variance);
    }

    /// Mean and variance of r per channel.
    fn moments(r: &[f32], mean: &mut [f32], variance: &mut [f32]) {
        mean.fill(0.0);
        for r in r.chunks_exact(mean.len()) {
            for (&r, mean) in r.iter().zip(&mut *mean) {
                *mean += r;
            }
        }
        mean_and_variance(r, mean, variance);
    }

    /// y = (r - mean) / deviation.
    fn normalize(norm: &Normalization, r: &[f32], y: &mut [f32]) {
        let channels = norm.mean.len();
        for (y, r) in y.chunks_exact_mut(channels).zip(r.chunks_exact(channels)) {
            let channels = norm.mean.iter().zip(&norm.inv_deviation);
            for ((y, &r), (&mean, &inv_deviation)) in y.iter_mut().zip(r).zip(channels) {
                *y = (r - mean) * inv_deviation;
            }
        }
    }

    /// From dnormal, the gradient of what is normalised, that of what goes into ReLU.
    fn relu_normalize_backward(norm: &Normalization, r: &[f32], dnormal: &[f32], dx: &mut [f32]) {
        let channels = norm.mean.len();
        let (mut sums, mut products) = (vec![0.0; channels], vec![0.0; channels]);
        for (dn, r) in dnormal.chunks_exact(channels).zip(r.chunks_exact(channels)) {
            for i in 0..channels {
                sums[i] += dn[i];
                products[i] += dn[i] * (r[i] - norm.mean[i]) * norm.inv_deviation[i];
            }
        }
        let count = (r.len() / channels) as f32;
        for (sum, product) in sums.iter_mut().zip(&mut products) {
            *sum /= count;
            *product /= count;
        }
        let rows = dnormal.chunks_exact(channels).zip(r.chunks_exact(channels));
        for (dx, (dn, r)) in dx.chunks_exact_mut(channels).zip(rows) {
            for i in 0..channels {
                let normal = (r[i] - norm.mean[i]) * norm.inv_deviation[i];
                let dr = norm.inv_deviation[i] * (dn[i] - sums[i] - normal * products[i]);
                dx[i] = if r[i] > 0.0 { dr } else { 0.0 };
            }
        }
    }
}

/// What [`normalize`] takes, from the moments; once for each channel.
pub fn normalization(mean: &[f32], variance: &[f32], epsilon: f64) -> Normalization {
    let inv_deviation = |variance: &f32| 1.0 / (variance + epsilon as f32).sqrt();
    let inv_deviation = variance.iter().map(inv_deviation).collect();
    Normalization { mean: mean.to_vec(), inv_deviation }
}

/// `mean` becomes the mean of what it is the sum of, r, whose variance is added up about it.
#[inline(always)]
fn mean_and_variance(r: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let channels = mean.len();
    let count = (r.len() / channels) as f32;
    for mean in &mut *mean {
        *mean /= count;
    }
    variance.fill(0.0);
    for r in r.chunks_exact(channels) {
        for ((&r, &mean), variance) in r.iter().zip(&*mean).zip(&mut *variance) {
            *variance += (r - mean) * (r - mean);
        }
    }
    for variance in variance {
        *variance /= count;
    }
}

/// y = y + a x.
#[inline(always)]
fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

/// Sums and maxima are taken in so many parts: two vectors of AVX-512, four of AVX2.
const PARTS: usize = 32;

/// x . y
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; PARTS];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<PARTS>(), y.as_chunks::<PARTS>());
    for (x, y) in x.iter().zip(y) {
        for i in 0..PARTS {
            sums[i] = x[i].mul_add(y[i], sums[i]);
        }
    }
    let rest = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f32>();
    if x.is_empty() { rest } else { halve(sums, |a, b| a + b) + rest }
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0; PARTS];
    let (x, rest) = x.as_chunks::<PARTS>();
    for x in x {
        for i in 0..PARTS {
            sums[i] += x[i];
        }
    }
    let rest = rest.iter().sum::<f32>();
    if x.is_empty() { rest } else { halve(sums, |a, b| a + b) + rest }
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; PARTS];
    let (x, rest) = x.as_chunks::<PARTS>();
    for x in x {
        for i in 0..PARTS {
            maxima[i] = larger(maxima[i], x[i]);
        }
    }
    let rest = rest.iter().fold(f32::NEG_INFINITY, |max, &x| larger(max, x));
    if x.is_empty() { rest } else { larger(halve(maxima, larger), rest) }
}

/// The parts taken together, half of them with the other half at a time.
#[inline(always)]
fn halve(mut parts: [f32; PARTS], together: impl Fn(f32, f32) -> f32) -> f32 {
    let mut len = PARTS;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            parts[i] = together(parts[i], parts[i + len]);
        }
    }
    parts[0]
}

/// The larger of two, without `f32::max`'s care for NaN, for which there is no instruction.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// y = e^(x - max); max and the sum of y.
#[inline(always)]
fn exponentials(x: &[f32], y: &mut [f32]) -> (f32, f32) {
    let max = largest(x);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = exp(x - max);
    }
    (max, sum(y))
}

/// e^x for results in the normal range: `f32::exp` is a call, which keeps a loop from being
/// vectorised. x = n ln 2 + r, e^r by its Taylor series, 2^n by way of the exponent bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer, and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(1.428_606_8e-6, n.mul_add(-0.693_148_6, x));
    let mut e_r = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        e_r = r.mul_add(e_r, coefficient);
    }
    e_r * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

/// One by the number of elements inside the image, for every window.
#[inline(always)]
fn shares(shape: PoolShape) -> Vec<f32> {
    let mut counts = vec![0.0; shape.output().pixels().rows];
    for_each_tap(shape.input, shape.window, |output, _, _| counts[output] += 1.0);
    counts.iter().map(|count| 1.0 / count).collect()
}

/// Calls `body` with every element of every window that lies inside its image: the window's number,
/// the element's place in it, and its pixel.
#[inline(always)]
fn for_each_tap(input: ImageShape, window: Window, mut body: impl FnMut(usize, usize, usize)) {
    let ImageShape { batch, height, width, .. } = input;
    let [rows, columns] = window.count(height, width);
    let [above, left] = window.padding_before(height, width);
    let inside = |at: usize, size: usize, before: usize, len: usize| {
        before.saturating_sub(at)..size.min((len + before).saturating_sub(at))
    };
    for image in 0..batch {
        for row in 0..rows {
            let top = row * window.stride[0];
            for column in 0..columns {
                let start = column * window.stride[1];
                let output = (image * rows + row) * columns + column;
                for down in inside(top, window.size[0], above, height) {
                    let line = (image * height + top + down - above) * width;
                    for right in inside(start, window.size[1], left, width) {
                        let place = down * window.size[1] + right;
                        body(output, place, line + start + right - left);
                    }
                }
            }
        }
    }
}
