//! Letters side by side in a picture, under each what it is and what it is taken for.

use kernelet::Error;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Shown;
use crate::charts::{INK, Picture, font, load_font};
use crate::output::{class_name, count};

const SIDE: usize = 28;

/// A pixel of a letter is a square of so many of the picture.
const SCALE: usize = 5;

/// A letter with what belongs to it.
const CELL: (usize, usize) = (176, 192);

/// From the left and upper edge of a cell to the letter.
const MARGIN: usize = (CELL.0 - SIDE * SCALE) / 2;

/// Size of the words, and how many characters of it a cell holds.
const LABEL: u32 = 21;
const CHARACTERS: usize = 14;

/// More make a picture that no viewer opens.
const MOST: usize = 3000;

const WRONG: RGBColor = RGBColor(204, 0, 0);

/// Draws the letters in rows, wrong ones in a red frame.
pub fn sheet(letters: &[Shown]) -> Result<Picture, Error> {
    if letters.is_empty() || letters.len() > MOST {
        let letters = count(letters.len(), "letter");
        return Err(Error::Setting(format!("cannot draw {letters} in a picture: 1 to {MOST}")));
    }
    // About as wide as the screens it is looked at on.
    let columns = (1.6 * letters.len() as f64).sqrt().ceil() as usize;
    let columns = columns.max(5).min(letters.len());
    let (width, height) = (columns * CELL.0, letters.len().div_ceil(columns) * CELL.1);
    let size = (width as u32, height as u32);
    let mut pixels = vec![255; 3 * width * height];
    let corner = |index: usize| (index % columns * CELL.0, index / columns * CELL.1);
    for (index, letter) in letters.iter().enumerate() {
        let (x, y) = corner(index);
        for (row, greys) in letter.greys().chunks(SIDE).enumerate() {
            for line in 0..SCALE {
                let start = (y + MARGIN + row * SCALE + line) * width + x + MARGIN;
                let line = &mut pixels[3 * start..][..3 * SIDE * SCALE];
                for (square, &grey) in line.chunks_mut(3 * SCALE).zip(greys) {
                    square.fill(grey);
                }
            }
        }
    }

    load_font();
    let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
    let draw = || {
        for (index, letter) in letters.iter().enumerate() {
            let (x, y) = corner(index);
            let (x, y) = (x as i32, y as i32);
            let (margin, end) = (MARGIN as i32, (MARGIN + SIDE * SCALE) as i32);
            // The frame lies around the letter, not on it.
            if !letter.is_right() {
                for thick in 1..=5 {
                    let corners = [
                        (x + margin - thick, y + margin - thick),
                        (x + end + thick - 1, y + end + thick - 1),
                    ];
                    area.draw(&Rectangle::new(corners, WRONG))?;
                }
            }
            let label = label(letter);
            let long = label.chars().count().max(CHARACTERS);
            let color = if letter.is_right() { INK } else { WRONG };
            let style = font(LABEL * CHARACTERS as u32 / long as u32)
                .color(&color)
                .pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(label, (x + CELL.0 as i32 / 2, y + end + 11), style))?;
        }
        area.present()
    };
    draw().map_err(|why: DrawingAreaErrorKind<_>| {
        Error::Setting(format!("the letters cannot be drawn: {why}"))
    })?;
    drop(area);
    Ok(Picture { size, pixels })
}

/// `A → B  97.3 %`
fn label(letter: &Shown) -> String {
    let truth = class_name(letter.truth);
    match letter.guess {
        Some(guess) => {
            let percent = 100.0 * letter.probability();
            format!("{truth} → {}  {percent:.1} %", class_name(guess))
        }
        None => format!("{truth} → ?"),
    }
}
