//! Draws a glyph into 28 x 28 grey levels, plainly or with variation.

use rand_pcg::{
    Pcg64Mcg,
    rand_core::{Rng, SeedableRng},
};
use tiny_skia::{FillRule, Mask, Path, Stroke, Transform};

/// Width and height of an image.
pub const SIDE: usize = 28;
/// Samples per pixel and axis of the canvas that is drawn on.
const FINE: usize = 4;
/// The brightest pixel of an image must have this level at least, before noise and inversion.
const FAINTEST: f32 = 112.0;
/// The share of its bounding box that a glyph with a heavier stroke may fill.
const DENSEST: f32 = 0.68;
/// The share of a glyph's area that its image must show.
const KEPT: f32 = 0.88;
const CANVAS: usize = SIDE * FINE;

/// An image, row by row.
pub type Image = [u8; SIDE * SIDE];

/// Random numbers whose values depend on the seed alone.
pub struct Dice(Pcg64Mcg);

impl Dice {
    /// The dice for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }
    /// Uniform in `low..high`, one of 2^24 values.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.0.next_u32() >> 8) as f32 / 16_777_216.0)
    }
    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.between(0.0, 1.0) < probability
    }
    /// A whole number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }
    /// Puts a list into random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// How an image departs from the plain glyph.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Rotation in degrees.
    pub rotate: f32,
    /// Horizontal shift per unit of height.
    pub shear: f32,
    /// Width over height, relative to the glyph's own.
    pub stretch: f32,
    /// Stroke added around (or, if negative, taken off) the outline, in pixels.
    pub weight: f32,
    /// The glyph's larger extent in pixels; above 28 the image crops it.
    pub size: f32,
    /// Shift right and down in pixels.
    pub shift: [f32; 2],
    /// Samples per side that the image is reduced to before it is enlarged again; 28 for none.
    pub coarse: usize,
    /// Standard deviation of the blur in pixels; 0 for none.
    pub blur: f32,
    /// Largest grey level added or taken by noise, in steps of 16; 0 for none.
    pub noise: f32,
    /// Black on white.
    pub invert: bool,
}

impl Look {
    /// The plain glyph.
    pub const PLAIN: Self = Self {
        rotate: 0.0,
        shear: 0.0,
        stretch: 1.0,
        weight: 0.0,
        size: 27.0,
        shift: [0.0, 0.0],
        coarse: SIDE,
        blur: 0.0,
        noise: 0.0,
        invert: false,
    };

    /// A random look. About one image in six is plain; the others have one or more of the
    /// variations.
    pub fn random(dice: &mut Dice) -> Self {
        let mut look = Self::PLAIN;
        look.size = dice.between(25.5, 28.0);
        if dice.chance(0.16) {
            return look;
        }
        if dice.chance(0.65) {
            look.rotate = dice.between(-10.0, 10.0);
        }
        if dice.chance(0.38) {
            look.shear = dice.between(-0.25, 0.25);
        }
        if dice.chance(0.36) {
            look.stretch = dice.between(0.72, 1.35);
        }
        if dice.chance(0.4) {
            look.weight = dice.between(-1.2, 2.4);
        }
        if dice.chance(0.5) {
            look.size = dice.between(17.5, 26.0);
            let room = (28.0 - look.size) / 2.0 + 1.5;
            look.shift = [dice.between(-room, room), dice.between(-room, room)];
        } else if dice.chance(0.2) {
            look.size = dice.between(28.0, 32.0);
            look.shift = [dice.between(-2.0, 2.0), dice.between(-2.0, 2.0)];
        }
        if dice.chance(0.12) {
            look.coarse = 12 + dice.below(6);
        }
        if dice.chance(0.2) {
            look.blur = dice.between(0.4, 1.2);
        }
        if dice.chance(0.06) {
            look.noise = dice.between(24.0, 72.0);
        }
        look.invert = dice.chance(0.06);
        look
    }
}

/// Draws `glyph`; `None` if it has no area, is too faint to be seen or is
/// cropped too much. `dice` is used for the noise.
pub fn draw(glyph: &Path, look: &Look, dice: &mut Dice) -> Option<Image> {
    let angle = look.rotate * (core::f32::consts::PI / 180.0);
    let (sin, cos) = (libm::sinf(angle), libm::cosf(angle));
    // Stretch, then shear, then turn.
    let (a, c) = (look.stretch, -look.shear);
    let turned = Transform::from_row(cos * a, sin * a, cos * c - sin, sin * c + cos, 0.0, 0.0);
    let path = glyph.clone().transform(turned)?;
    let bounds = path.compute_tight_bounds()?;
    let extent = bounds.width().max(bounds.height());
    if extent.is_nan() || extent <= 0.0 {
        return None;
    }
    let fine = FINE as f32;
    let scale = look.size * fine / extent;
    let middle = CANVAS as f32 / 2.0;
    let placed = Transform::from_row(
        scale,
        0.0,
        0.0,
        scale,
        middle + look.shift[0] * fine - scale * (bounds.left() + bounds.right()) / 2.0,
        middle + look.shift[1] * fine - scale * (bounds.top() + bounds.bottom()) / 2.0,
    );
    let path = path.transform(placed)?;
    let fill = coverage(&path)?;
    let ink = sum(&fill);
    // What the edges cut off must not be a stroke: an E without its foot is an F.
    let half = middle / 2.0;
    let whole = path.clone().transform(Transform::from_row(0.5, 0.0, 0.0, 0.5, half, half))?;
    if (ink as f32) < KEPT * 4.0 * sum(&coverage(&whole)?) as f32 {
        return None;
    }
    let mut canvas = fill;
    let width = look.weight.abs() * fine;
    if width > 0.05 {
        let stroke = Stroke { width, ..Stroke::default() };
        if let Some(edge) = path.stroke(&stroke, 1.0) {
            let edge = coverage(&edge)?;
            let mut weighted = canvas.clone();
            for (v, &e) in weighted.iter_mut().zip(&edge) {
                *v = if look.weight > 0.0 { (*v).max(e) } else { (*v).min(255 - e) };
            }
            // A glyph that would lose its thin strokes or close its holes keeps its weight.
            let now = sum(&weighted);
            let area = bounds.width() * bounds.height() * scale * scale * 255.0;
            let thinned = look.weight < 0.0 && now * 10 > ink * 7;
            let thickened = look.weight > 0.0 && now < 2 * ink && (now as f32) < DENSEST * area;
            if thinned || thickened {
                canvas = weighted;
            }
        }
    }
    let mut image = reduce(&canvas, CANVAS, SIDE);
    if look.coarse < SIDE {
        image = enlarge(&reduce(&canvas, CANVAS, look.coarse), look.coarse);
    }
    if look.blur > 0.0 {
        image = blur(&image, look.blur);
    }
    // A glyph too faint to be seen.
    if image.iter().fold(0.0, |most, &v| v.max(most)) < FAINTEST {
        return None;
    }
    let mut out = [0; SIDE * SIDE];
    for (o, &v) in out.iter_mut().zip(&image) {
        let mut v = v;
        if look.noise > 0.0 {
            let n = dice.between(-look.noise, look.noise) / 16.0;
            v += libm::roundf(n) * 16.0;
        }
        let v = libm::roundf(v).clamp(0.0, 255.0) as u8;
        *o = if look.invert { 255 - v } else { v };
    }
    Some(out)
}

fn sum(canvas: &[u8]) -> u64 {
    canvas.iter().map(|&v| u64::from(v)).sum()
}

fn coverage(path: &Path) -> Option<Vec<u8>> {
    let mut mask = Mask::new(CANVAS as u32, CANVAS as u32)?;
    mask.fill_path(path, FillRule::Winding, true, Transform::identity());
    Some(mask.data().to_vec())
}

/// Averages a square of `from` levels a side down to `to` a side.
fn reduce(canvas: &[u8], from: usize, to: usize) -> Vec<f32> {
    let ratio = from as f32 / to as f32;
    let mut out = Vec::with_capacity(to * to);
    // The share of each source line in each target line.
    let spans: Vec<Vec<(usize, f32)>> = (0..to)
        .map(|t| {
            let (low, high) = (t as f32 * ratio, (t + 1) as f32 * ratio);
            (0..from)
                .filter_map(|s| {
                    let share = high.min((s + 1) as f32) - low.max(s as f32);
                    (share > 1e-3).then_some((s, share / ratio))
                })
                .collect()
        })
        .collect();
    for rows in &spans {
        for columns in &spans {
            let mut sum = 0.0;
            for &(r, across) in rows {
                for &(c, along) in columns {
                    sum += f32::from(canvas[r * from + c]) * across * along;
                }
            }
            out.push(sum);
        }
    }
    out
}

/// Enlarges a square of `from` levels a side to an image, linearly.
fn enlarge(small: &[f32], from: usize) -> Vec<f32> {
    let place = |i: usize| {
        let x = ((i as f32 + 0.5) * from as f32 / SIDE as f32 - 0.5).clamp(0.0, (from - 1) as f32);
        let low = x as usize;
        (low, (low + 1).min(from - 1), x - low as f32)
    };
    let mut out = Vec::with_capacity(SIDE * SIDE);
    for y in 0..SIDE {
        let (top, bottom, v) = place(y);
        for x in 0..SIDE {
            let (left, right, u) = place(x);
            let upper = small[top * from + left] * (1.0 - u) + small[top * from + right] * u;
            let lower = small[bottom * from + left] * (1.0 - u) + small[bottom * from + right] * u;
            out.push(upper * (1.0 - v) + lower * v);
        }
    }
    out
}

fn blur(image: &[f32], sigma: f32) -> Vec<f32> {
    const REACH: i32 = 4;
    let taps: Vec<f32> =
        (-REACH..=REACH).map(|d| libm::expf(-((d * d) as f32) / (2.0 * sigma * sigma))).collect();
    let total: f32 = taps.iter().sum();
    let pass = |source: &[f32], step: usize, line: usize| {
        let mut out = vec![0.0; SIDE * SIDE];
        for l in 0..SIDE {
            for i in 0..SIDE as i32 {
                let mut sum = 0.0;
                for (tap, d) in taps.iter().zip(-REACH..) {
                    let at = (i + d).clamp(0, SIDE as i32 - 1) as usize;
                    sum += tap * source[l * line + at * step];
                }
                out[l * line + i as usize * step] = sum / total;
            }
        }
        out
    };
    pass(&pass(image, 1, SIDE), SIDE, 1)
}
