//! Pictures to look at: contact sheets of the images and of the judged faces.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
};

use anyhow::{Context, Result};
use tiny_skia::{Pixmap, PremultipliedColorU8};

use crate::{
    dataset::Sample,
    faces::Face,
    judge::Verdict,
    render::{Dice, Image, SIDE},
};

/// A grey picture that images are placed on.
struct Sheet {
    pixmap: Pixmap,
    zoom: usize,
}

impl Sheet {
    fn new(width: usize, height: usize, zoom: usize) -> Result<Self> {
        let mut pixmap = Pixmap::new((width * zoom) as u32, (height * zoom) as u32)
            .context("the sheet is too large")?;
        pixmap.fill(tiny_skia::Color::from_rgba8(70, 90, 140, 255));
        Ok(Self { pixmap, zoom })
    }

    fn dot(&mut self, x: usize, y: usize, level: u8) {
        let width = self.pixmap.width() as usize;
        let Some(colour) = PremultipliedColorU8::from_rgba(level, level, level, 255) else {
            return;
        };
        for r in y * self.zoom..(y + 1) * self.zoom {
            for c in x * self.zoom..(x + 1) * self.zoom {
                if let Some(pixel) = self.pixmap.pixels_mut().get_mut(r * width + c) {
                    *pixel = colour;
                }
            }
        }
    }

    fn image(&mut self, x: usize, y: usize, image: &Image) {
        for (i, &level) in image.iter().enumerate() {
            self.dot(x + i % SIDE, y + i / SIDE, level);
        }
    }

    fn number(&mut self, x: usize, y: usize, number: usize) {
        // Digits of 3 x 5 dots, five rows of three bits from the top.
        const DIGITS: [u16; 10] = [
            0o75557, 0o26227, 0o71747, 0o71717, 0o55711, 0o74717, 0o74757, 0o71111, 0o75757,
            0o75717,
        ];
        for (place, digit) in number.to_string().bytes().enumerate() {
            let bits = DIGITS[usize::from(digit - b'0') % 10];
            for i in 0..15 {
                if bits >> (14 - i) & 1 == 1 {
                    self.dot(x + place * 4 + i % 3, y + i / 3, 255);
                }
            }
        }
    }

    fn save(&self, path: &FilePath) -> Result<()> {
        self.pixmap.save_png(path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Writes 400 random images, 40 of each letter in two rows, A at the top; beside it, with `.txt`
/// for an extension, the face of each.
///
/// # Errors
/// If the picture cannot be written.
pub fn contact(samples: &[Sample], faces: &[Face], seed: u64, path: &FilePath) -> Result<()> {
    let cell = SIDE + 2;
    let mut sheet = Sheet::new(20 * cell, 20 * cell, 2)?;
    let mut dice = Dice::new(seed);
    let mut names = String::new();
    for letter in 0..10 {
        let mut of_letter: Vec<&Sample> =
            samples.iter().filter(|s| usize::from(s.label) == letter).collect();
        dice.shuffle(&mut of_letter);
        for (i, sample) in of_letter.iter().take(40).enumerate() {
            let (row, column) = (letter * 2 + i / 20, i % 20);
            sheet.image(column * cell + 1, row * cell + 1, &sample.image);
            let face = &faces[sample.face].path;
            names += &format!("row {} column {}\t{face}\n", row + 1, column + 1);
        }
    }
    let beside = path.with_extension("txt");
    fs::write(&beside, names).with_context(|| format!("cannot write {}", beside.display()))?;
    sheet.save(path)
}

/// Writes the plain letters of the faces in `order`, 120 to a page, each with its place in the
/// order; the pages' names are `path` with `-00`, `-01` and so on before the extension.
///
/// # Errors
/// If a page cannot be written.
pub fn judged(verdicts: &[Verdict], order: &[usize], path: &FilePath) -> Result<()> {
    const ROWS: usize = 40;
    const COLUMNS: usize = 3;
    let (cell, wide) = (SIDE + 1, 10 * (SIDE + 1) + 22);
    for (page, faces) in order.chunks(ROWS * COLUMNS).enumerate() {
        let mut sheet = Sheet::new(COLUMNS * wide, ROWS * cell, 1)?;
        for (i, &face) in faces.iter().enumerate() {
            let (x, y) = (i / ROWS * wide, i % ROWS * cell);
            sheet.number(x + 2, y + 10, page * ROWS * COLUMNS + i);
            for (letter, image) in verdicts[face].plain.iter().enumerate() {
                sheet.image(x + 20 + letter * cell, y, image);
            }
        }
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("sheet");
        let file: PathBuf = path.with_file_name(format!("{stem}-{page:02}.png"));
        sheet.save(&file)?;
    }
    Ok(())
}
