//! Loss and accuracy against the epoch, as in the study's Figures 6 and 7: SVG and PNG from one
//! drawing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use kernelet::train::{Epoch, History, Metrics};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::output::{decimal, loss};

/// Units of the drawing: a PNG's pixels. An SVG is shown at half the size, so that its whole-number
/// coordinates are fine enough for smooth curves.
const SIZE: (u32, u32) = (1600, 1000);
const SVG_SIZE: (u32, u32) = (SIZE.0 / 2, SIZE.1 / 2);

/// Okabe and Ito's colours, which most colour-blind people can tell apart.
const TRAIN: RGBColor = RGBColor(0, 114, 178);
const VALID: RGBColor = RGBColor(213, 94, 0);
const TEST: RGBColor = RGBColor(0, 158, 115);
const INK: RGBColor = RGBColor(60, 60, 60);
const MARK: RGBColor = RGBColor(130, 130, 130);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// What a figure shows of every epoch.
struct Figure {
    name: &'static str,
    title: &'static str,
    y_label: &'static str,
    value: fn(Metrics) -> f64,
    /// A value in the legend.
    format: fn(f64) -> String,
    legend: SeriesLabelPosition,
}

const FIGURES: [Figure; 2] = [
    Figure {
        name: "loss",
        title: "Loss",
        y_label: "loss in nats",
        value: |metrics| metrics.loss,
        format: |value| loss(value, 4),
        legend: SeriesLabelPosition::UpperRight,
    },
    Figure {
        name: "accuracy",
        title: "Accuracy",
        y_label: "accuracy in %",
        value: |metrics| metrics.accuracy,
        format: |percent| format!("{percent:.2} %"),
        legend: SeriesLabelPosition::LowerRight,
    },
];

/// The files that [`write`] writes into `folder`.
pub fn paths(folder: &Path) -> Vec<PathBuf> {
    let of = |figure: &Figure| ["svg", "png"].map(|kind| file(folder, figure, kind));
    FIGURES.iter().flat_map(of).collect()
}

fn file(folder: &Path, figure: &Figure, kind: &str) -> PathBuf {
    folder.join(figure.name).with_extension(kind)
}

/// Draws every figure as `.svg` and as `.png` into `folder`. `subject` is what was trained.
pub fn write(folder: &Path, subject: &str, history: &History) -> Result<(), Error> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // The only error is a broken font file, and then drawing reports a missing font.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    for figure in &FIGURES {
        let path = file(folder, figure, "svg");
        let svg = figure.svg(subject, history).map_err(|why| undrawn(&path, why))?;
        write_atomically(&path, |to| to.write_all(svg.as_bytes()))?;
        let path = file(folder, figure, "png");
        let pixels = figure.pixels(subject, history).map_err(|why| undrawn(&path, why))?;
        write_atomically(&path, |to| write_png(to, &pixels))?;
    }
    Ok(())
}

fn undrawn(path: &Path, why: String) -> Error {
    Error::File { path: path.into(), why: format!("cannot be drawn: {why}") }
}

fn write_png(to: &mut dyn io::Write, pixels: &[u8]) -> io::Result<()> {
    let mut encoder = png::Encoder::new(to, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

/// One line of a figure.
struct Curve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Figure {
    fn svg(&self, subject: &str, history: &History) -> Result<String, String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw(&area, subject, history).map_err(|e| e.to_string())?;
        drop(area);
        // The view box keeps the drawing's units.
        let size = |(width, height)| format!("width=\"{width}\" height=\"{height}\" viewBox");
        Ok(svg.replacen(&size(SIZE), &size(SVG_SIZE), 1))
    }

    /// Red, green and blue of every pixel.
    fn pixels(&self, subject: &str, history: &History) -> Result<Vec<u8>, String> {
        let mut pixels = vec![0; 3 * SIZE.0 as usize * SIZE.1 as usize];
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        self.draw(&area, subject, history).map_err(|e| e.to_string())?;
        drop(area);
        Ok(pixels)
    }

    /// The three sets' curves; those of an empty set have no points.
    fn curves(&self, history: &History) -> [Curve; 3] {
        let curve = |name, color, set: fn(&Epoch) -> Option<Metrics>| {
            let point = |epoch: &Epoch| Some((epoch.epoch as f64, (self.value)(set(epoch)?)));
            let points = history.epochs.iter().filter_map(point);
            Curve { name, color, points: points.filter(|(_, y)| y.is_finite()).collect() }
        };
        [
            curve("train", TRAIN, |epoch| epoch.train),
            curve("valid", VALID, |epoch| epoch.valid),
            curve("test", TEST, |epoch| epoch.test),
        ]
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        subject: &str,
        history: &History,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let title = format!("{} of the {subject}", self.title);
        // A long title gets smaller letters, of which a line holds some 90 of 36 pixels.
        let title_font = font((36 * 90 / title.chars().count().max(90) as u32).max(12));
        let curves = self.curves(history);
        let (low, high) = range(&curves);
        let last = history.epochs.last().map_or(1, |epoch| epoch.epoch.max(1)) as f64;

        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(title, title_font)
            .margin(28)
            .margin_right(44)
            .x_label_area_size(96)
            .y_label_area_size(128)
            .build_cartesian_2d(0.0..last, low..high)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .y_desc(self.y_label)
            .axis_desc_style(font(32))
            .label_style(font(28))
            .axis_style(INK.stroke_width(2))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(10)
            .x_labels(11.min(last as usize + 1))
            .y_labels(8)
            // A short run has ticks between its epochs.
            .x_label_formatter(&|&x| if x.fract() == 0.0 { x.to_string() } else { String::new() })
            .y_label_formatter(&|&y| tick(y, high - low))
            .draw()?;

        for Curve { name, color, points } in curves {
            let (Some(&first), Some(&(_, end))) = (points.first(), points.last()) else { continue };
            let style = color.stroke_width(4);
            if points.len() == 1 {
                chart.draw_series([Circle::new(first, 8, color.filled())])?;
            }
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(format!("{name}: {}", (self.format)(end)))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 36, y)], style));
        }
        if let Some(best) = history.best() {
            let x = best.epoch as f64;
            let style = MARK.stroke_width(2);
            chart
                .draw_series(DashedLineSeries::new([(x, low), (x, high)], 12, 8, style))?
                .label(format!("lowest valid loss: epoch {}", best.epoch))
                .legend(move |(x, y)| {
                    let ends = [(x, y), (x + 36, y)].into_iter();
                    DashedPathElement::new(ends, 8, 6, style)
                });
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .legend_area_size(52)
            .margin(20)
            .label_font(font(28))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID.stroke_width(2))
            .draw()?;
        area.present()
    }
}

/// Lowest and highest value with a margin.
fn range(curves: &[Curve]) -> (f64, f64) {
    let values = curves.iter().flat_map(|curve| &curve.points).map(|&(_, y)| y);
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return (0.0, 1.0); // nothing to draw
    }
    let margin = (0.05 * (high - low)).max(1e-3 * high).max(1e-6);
    ((low - margin).max(0.0), high + margin)
}

/// A label of the y axis, with as many digits as `span` needs.
fn tick(y: f64, span: f64) -> String {
    // Some eight ticks share the span.
    let digits = -(span / 8.0).log10().floor().clamp(-9.0, 0.0) as usize;
    decimal(y, digits)
}
