//! Figures: SVG and PNG from one drawing.

mod growth;
mod key;
mod lines;
mod roofline;
mod shares;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use plotters::chart::{MeshStyle, SeriesLabelStyle};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::{CoordTranslate, Shift};
use plotters::prelude::*;
use plotters::style::{FontStyle, TextStyle, register_font};

pub use growth::{Growth, Series};
pub use lines::{Curve, Lines, of_run};
pub use roofline::Roofline;
pub use shares::{Bar, Shares};

/// Units of the drawing: a PNG's pixels. Letters of [`LABEL`] units are legible where it is shown
/// as wide as a telephone.
pub const SIZE: (u32, u32) = (1200, 840);

/// An SVG is shown at half the size, so that its whole-number coordinates are fine enough for
/// smooth curves.
const SVG_SIZE: (u32, u32) = (SIZE.0 / 2, SIZE.1 / 2);

/// Sizes of letters.
const TITLE: u32 = 42;
const LABEL: u32 = 38;

/// Okabe and Ito's colours, which most colour-blind people can tell apart.
pub const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

/// The report recolours these three in the dark.
pub const INK: RGBColor = RGBColor(60, 60, 60);
pub const GRID: RGBColor = RGBColor(225, 225, 225);
pub const MARK: RGBColor = RGBColor(130, 130, 130);

/// A picture with the words that belong to it.
pub struct Figure {
    /// Of its files, without their ending.
    pub name: String,
    /// Over the drawing.
    pub title: String,
    /// Under it, in a report.
    pub caption: String,
    pub chart: Chart,
}

/// What there is to draw.
pub enum Chart {
    Lines(Lines),
    Growth(Growth),
    /// Drawn already; there is no SVG of it.
    Picture(Picture),
    Roofline(Roofline),
    Shares(Shares),
}

/// Red, green and blue of every pixel.
pub struct Picture {
    /// Width and height.
    pub size: (u32, u32),
    pub pixels: Vec<u8>,
}

impl Figure {
    /// The files that [`write`](Self::write) writes into `folder`.
    pub fn paths(name: &str, folder: &Path) -> [PathBuf; 2] {
        ["svg", "png"].map(|kind| folder.join(format!("{name}.{kind}")))
    }

    /// Draws the figure as `.svg`, unless it is a picture, and as `.png` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let [svg, png] = Self::paths(&self.name, folder);
        if !matches!(self.chart, Chart::Picture(_)) {
            let text = self.svg()?;
            write_atomically(&svg, |to| to.write_all(text.as_bytes()))?;
        }
        let picture = self.png()?;
        write_atomically(&png, |to| to.write_all(&picture))
    }

    /// The ending of the file that shows it best.
    pub fn ending(&self) -> &'static str {
        if matches!(self.chart, Chart::Picture(_)) { "png" } else { "svg" }
    }

    /// The bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        let mut file = Vec::new();
        let written = match &self.chart {
            Chart::Picture(Picture { size, pixels }) => write_png(&mut file, *size, pixels),
            _ => write_png(&mut file, SIZE, &self.pixels()?),
        };
        written.map_err(|e| self.undrawn(&e))?;
        Ok(file)
    }

    fn undrawn(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Setting(format!("the figure {:?} cannot be drawn: {why}", self.name))
    }

    /// The drawing as the text of an SVG file.
    pub fn svg(&self) -> Result<String, Error> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw(&area)?;
        drop(area);
        // The view box keeps the drawing's units.
        let size = |(width, height)| format!("width=\"{width}\" height=\"{height}\" viewBox");
        Ok(svg.replacen(&size(SIZE), &size(SVG_SIZE), 1))
    }

    /// Red, green and blue of every pixel.
    fn pixels(&self) -> Result<Vec<u8>, Error> {
        let mut pixels = vec![0; 3 * SIZE.0 as usize * SIZE.1 as usize];
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        self.draw(&area)?;
        drop(area);
        Ok(pixels)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), Error> {
        load_font();
        let draw = || {
            area.fill(&WHITE)?;
            // A long title gets smaller letters, of which a line holds some 52 of TITLE units.
            let letters = self.title.chars().count().max(52) as u32;
            let title = font((TITLE * 52 / letters).max(12));
            let area = area.margin(16, 0, 0, 0).titled(&self.title, title)?;
            match &self.chart {
                Chart::Lines(lines) => lines.draw(&area)?,
                Chart::Growth(growth) => growth.draw(&area)?,
                Chart::Picture(_) => {}
                Chart::Roofline(roofline) => roofline.draw(&area)?,
                Chart::Shares(shares) => shares.draw(&area)?,
            }
            area.present()
        };
        draw().map_err(|why: DrawingAreaErrorKind<B::ErrorType>| self.undrawn(&why))
    }
}

/// Makes the letters known that [`font`] takes.
pub fn load_font() {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // The only error is a broken font file, and then drawing reports a missing font.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
}

/// Letters of a size, in [`INK`].
pub fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Margins, and room for the labels of the axes.
fn builder<'a, 'b, B: DrawingBackend>(area: &'a DrawingArea<B, Shift>) -> ChartBuilder<'a, 'b, B> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(20).margin_right(48).x_label_area_size(108).y_label_area_size(148);
    builder
}

/// Axes and grid as every figure has them.
fn plain<'a, 'b, 'c, X, Y, B>(
    mesh: &'c mut MeshStyle<'a, 'b, X, Y, B>,
) -> &'c mut MeshStyle<'a, 'b, X, Y, B>
where
    X: Ranged + ValueFormatter<X::ValueType>,
    Y: Ranged + ValueFormatter<Y::ValueType>,
    B: DrawingBackend,
{
    mesh.axis_desc_style(font(LABEL))
        .label_style(font(LABEL - 4))
        .axis_style(INK.stroke_width(2))
        .bold_line_style(GRID.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .set_all_tick_mark_size(10)
}

/// The names of the curves as every figure has them.
fn legend<'a, 'b, 'c, B: DrawingBackend + 'a, C: CoordTranslate>(
    labels: &'c mut SeriesLabelStyle<'a, 'b, B, C>,
) -> &'c mut SeriesLabelStyle<'a, 'b, B, C> {
    labels
        .legend_area_size(52)
        .margin(20)
        .label_font(font(LABEL - 2))
        .background_style(WHITE.mix(0.85))
        .border_style(GRID.stroke_width(2))
}

/// Writes pixels (red, green and blue each) as a PNG file.
pub fn write_png(
    to: &mut dyn io::Write,
    (width, height): (u32, u32),
    pixels: &[u8],
) -> io::Result<()> {
    let mut encoder = png::Encoder::new(to, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}
