//! Names of many things below a drawing, where long ones have room.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{LABEL, PALETTE, font};

/// The height of a line.
const LINE: u32 = 38;

/// Things that have a place of their own at most; further ones are too small to be seen.
pub(super) const MOST: usize = 10;

/// The color of a thing: those of the palette without its last, gray, then lighter ones in another
/// order, so that like ones are far apart.
pub(super) fn color(index: usize) -> RGBColor {
    let colors = &PALETTE[..PALETTE.len() - 1];
    if let Some(&color) = colors.get(index) {
        return color;
    }
    let RGBColor(red, green, blue) = colors[(index + 2) % colors.len()];
    let lighter = |part: u8| 255 - (255 - part) / 2;
    RGBColor(lighter(red), lighter(green), lighter(blue))
}

/// What is left over an area for the drawing, and below for a key of so many lines.
pub(super) fn split<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    lines: usize,
) -> (DrawingArea<B, Shift>, DrawingArea<B, Shift>) {
    let (_, height) = area.dim_in_pixel();
    area.split_vertically(height.saturating_sub(LINE * lines as u32 + 16))
}

/// Writes names, one below the other, each behind a field of its color.
pub(super) fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    entries: &[(RGBColor, String)],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let style = font(LABEL - 4).pos(Pos::new(HPos::Left, VPos::Center));
    for (line, (color, text)) in (0..).zip(entries) {
        let y = LINE as i32 * line;
        area.draw(&Rectangle::new([(40, y + 2), (76, y + 30)], color.filled()))?;
        // Bitmaps have letters some pixels higher than SVGs: this is between the two.
        area.draw(&Text::new(text.as_str(), (92, y + 18), style.clone()))?;
    }
    Ok(())
}
