//! Loss and accuracy against the epoch, as in the study's Figures 6 and 7: SVG and PNG from one
//! drawing.

use std::path::{Path, PathBuf};
use std::sync::Once;

use kernelet::Error;
use kernelet::data::npz::write_atomically;
use kernelet::train::{Epoch, History, Metrics};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

/// Size of an SVG; a PNG has `PNG_SCALE` times as many pixels each way.
const SIZE: (u32, u32) = (800, 500);
const PNG_SCALE: u32 = 2;

/// Okabe and Ito's colours, which most colour-blind people can tell apart.
const TRAIN: RGBColor = RGBColor(0, 114, 178);
const VALID: RGBColor = RGBColor(213, 94, 0);
const TEST: RGBColor = RGBColor(0, 158, 115);
const INK: RGBColor = RGBColor(60, 60, 60);

/// One figure.
struct Figure<'a> {
    title: &'a str,
    name: &'static str,
    y_label: &'static str,
    value: fn(Metrics) -> f64,
    history: &'a History,
}

/// Writes `loss` and `accuracy`, each as `.svg` and `.png`, into `folder`. A history without a
/// finite figure gives none.
pub fn write(folder: &Path, title: &str, history: &History) -> Result<Vec<PathBuf>, Error> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // It can only fail for a broken font, and then the text is missing, no more.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font("sans-serif", FontStyle::Bold, dejavu::sans::bold());
    });
    let figures = [
        Figure { title, name: "loss", y_label: "mean cross-entropy", value: |m| m.loss, history },
        Figure {
            title,
            name: "accuracy",
            y_label: "accuracy in %",
            value: |m| m.accuracy,
            history,
        },
    ];
    let mut paths = Vec::new();
    for figure in figures.iter().filter(|figure| figure.range().is_some()) {
        let path = folder.join(figure.name);
        let (svg, png) = (path.with_extension("svg"), path.with_extension("png"));
        figure.write_svg(&svg)?;
        figure.write_png(&png)?;
        paths.extend([svg, png]);
    }
    Ok(paths)
}

/// One line of a figure.
struct Curve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Figure<'_> {
    fn write_svg(&self, path: &Path) -> Result<(), Error> {
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), 1)
            .map_err(|why| Error::File { path: path.into(), why })?;
        write_atomically(path, |to| to.write_all(svg.as_bytes()))
    }

    fn write_png(&self, path: &Path) -> Result<(), Error> {
        // plotters writes PNG only to a path: draw beside the target, then put it in place.
        let failed = |why: String| Error::File { path: path.into(), why };
        let folder = path.parent().unwrap_or(Path::new("."));
        let scratch = tempfile::Builder::new()
            .suffix(".png")
            .tempfile_in(folder)
            .map_err(|source| Error::Io { path: path.into(), source })?;
        let size = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
        let area = BitMapBackend::new(scratch.path(), size).into_drawing_area();
        self.draw(area, PNG_SCALE).map_err(failed)?;
        let png = std::fs::read(scratch.path())
            .map_err(|source| Error::Io { path: path.into(), source })?;
        write_atomically(path, |to| to.write_all(&png))
    }

    /// The three sets' curves; those of an empty set have no points.
    fn curves(&self) -> [Curve; 3] {
        let curve = |name, color, set: fn(&Epoch) -> Option<Metrics>| {
            let point = |epoch: &Epoch| Some((epoch.epoch as f64, (self.value)(set(epoch)?)));
            let points = self.history.epochs.iter().filter_map(point);
            Curve { name, color, points: points.filter(|(_, y)| y.is_finite()).collect() }
        };
        [
            curve("train", TRAIN, |epoch| Some(epoch.train)),
            curve("valid", VALID, |epoch| epoch.valid),
            curve("test", TEST, |epoch| epoch.test),
        ]
    }

    /// Lowest and highest figure with a margin; `None` without any.
    fn range(&self) -> Option<(f64, f64)> {
        let curves = self.curves();
        let values = curves.iter().flat_map(|curve| &curve.points).map(|&(_, y)| y);
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let margin = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-6);
        (low <= high).then_some(((low - margin).max(0.0), high + margin))
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<(), String> {
        self.try_draw(&area, scale).map_err(|e| format!("cannot be drawn: {e}"))?;
        area.present().map_err(|e| format!("cannot be drawn: {e}"))
    }

    fn try_draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let font = |size: u32| ("sans-serif", size * scale).into_font();
        let line = |color: RGBColor| color.stroke_width(2 * scale);
        let (low, high) = self.range().unwrap_or((0.0, 1.0));
        let last = self.history.epochs.last().map_or(1, |epoch| epoch.epoch.max(1)) as f64;

        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, font(17).color(&INK))
            .margin(14 * scale)
            .x_label_area_size(44 * scale)
            .y_label_area_size(64 * scale)
            .build_cartesian_2d(0.0..last, low..high)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .y_desc(self.y_label)
            .axis_desc_style(font(15).color(&INK))
            .label_style(font(13).color(&INK))
            .axis_style(INK.stroke_width(scale))
            .bold_line_style(RGBColor(225, 225, 225).stroke_width(scale))
            .light_line_style(TRANSPARENT)
            .x_labels(11)
            .y_labels(8)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()?;

        if let Some(best) = self.history.best() {
            let x = best.epoch as f64;
            let style = RGBColor(150, 150, 150).stroke_width(scale);
            let dashes = [(x, low), (x, high)];
            let (on, off) = ((6 * scale) as i32, (4 * scale) as i32);
            chart
                .draw_series(DashedLineSeries::new(dashes, on as u32, off as u32, style))?
                .label(format!("lowest valid loss, epoch {}", best.epoch))
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + (18 * scale) as i32, y)], style)
                });
        }
        for Curve { name, color, points } in self.curves() {
            let Some(&(_, end)) = points.last() else { continue };
            chart
                .draw_series(LineSeries::new(points, line(color)))?
                .label(format!("{name} ({end:.4})"))
                .legend(move |(x, y)| {
                    let to = x + (18 * scale) as i32;
                    PathElement::new([(x, y), (to, y)], color.stroke_width(2 * scale))
                });
        }
        let rising = self.name == "accuracy";
        chart
            .configure_series_labels()
            .position(if rising {
                SeriesLabelPosition::LowerRight
            } else {
                SeriesLabelPosition::UpperRight
            })
            .legend_area_size(26 * scale)
            .margin(10 * scale)
            .label_font(font(14).color(&INK))
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(210, 210, 210).stroke_width(scale))
            .draw()
    }
}
