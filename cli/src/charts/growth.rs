//! How something grows with something else: points on logarithmic axes, where a power law is a
//! straight line.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::{PALETTE, builder, legend, plain};

/// Points on logarithmic axes with the power law that fits each series best.
pub struct Growth {
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub series: Vec<Series>,
}

/// Measured points, all above 0.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// y = factor x^exponent.
#[derive(Clone, Copy)]
pub struct PowerLaw {
    pub factor: f64,
    pub exponent: f64,
}

impl Series {
    /// The straight line through the points' logarithms with the least squares; `None` unless there
    /// are two points with different x.
    pub fn fit(&self) -> Option<PowerLaw> {
        let logs = self.points.iter().map(|(x, y)| (x.ln(), y.ln()));
        let n = self.points.len() as f64;
        let (sx, sy) = logs.clone().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
        let (mx, my) = (sx / n, sy / n);
        let (xx, xy) = logs.fold((0.0, 0.0), |(xx, xy), (x, y)| {
            (xx + (x - mx) * (x - mx), xy + (x - mx) * (y - my))
        });
        let exponent = xy / xx;
        let law = PowerLaw { factor: (my - exponent * mx).exp(), exponent };
        (law.exponent.is_finite() && law.factor.is_finite()).then_some(law)
    }
}

impl Growth {
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let ends = |value: fn(&(f64, f64)) -> f64, margin: f64| {
            let (low, high) = points()
                .map(value)
                .fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
            if low <= high { (low / margin, high * margin) } else { (1.0, 10.0) }
        };
        let (x_low, x_high) = ends(|p| p.0, 1.35);
        // Room for the legend above.
        let (y_low, y_high) = ends(|p| p.1, 2.5);

        let mut chart = builder(area)
            .build_cartesian_2d((x_low..x_high).log_scale(), (y_low..y_high).log_scale())?;
        plain(&mut chart.configure_mesh())
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .x_label_formatter(&|&x| tick(x))
            .y_label_formatter(&|&y| tick(y))
            .draw()?;
        for (series, &color) in self.series.iter().zip(PALETTE.iter().cycle()) {
            let law = series.fit();
            let name = match law {
                Some(law) => format!("{}: grows as units^{:.2}", series.name, law.exponent),
                None => series.name.clone(),
            };
            let style = color.stroke_width(3);
            if let Some(PowerLaw { factor, exponent }) = law {
                let line = [x_low, x_high].map(|x| (x, factor * x.powf(exponent)));
                // What leaves the drawing is cut off where it does.
                let within = |(x, y): (f64, f64)| {
                    let inside = y.clamp(y_low, y_high);
                    if inside == y || exponent == 0.0 {
                        (x, y)
                    } else {
                        ((inside / factor).powf(1.0 / exponent), inside)
                    }
                };
                chart.draw_series(DashedLineSeries::new(line.map(within), 12, 8, style))?;
            }
            chart
                .draw_series(series.points.iter().map(|&at| Circle::new(at, 9, color.filled())))?
                .label(name)
                .legend(move |(x, y)| {
                    let ends = [(x, y), (x + 36, y)].into_iter();
                    DashedPathElement::new(ends, 8, 6, style)
                });
        }
        legend(&mut chart.configure_series_labels()).position(SeriesLabelPosition::UpperLeft).draw()
    }
}

/// Only 1, 2 and 5 and their multiples by powers of ten: the others stand too close.
fn tick(value: f64) -> String {
    let digits = format!("{value:.0e}");
    match digits.split_once('e') {
        Some(("1" | "2" | "5", _)) if value >= 10.0 => format!("{value:.0}"),
        Some(("1" | "2" | "5", _)) => format!("{value}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::Series;

    #[test]
    fn a_power_law_is_found_again() {
        let points = [100.0, 500.0, 2000.0].map(|x: f64| (x, 3.0 * x.powf(0.9))).to_vec();
        let law = Series { name: String::new(), points }.fit().expect("three points");
        assert!((law.exponent - 0.9).abs() < 1e-12, "the exponent is {}", law.exponent);
        assert!((law.factor - 3.0).abs() < 1e-9, "the factor is {}", law.factor);
    }

    #[test]
    fn a_single_point_has_no_law() {
        for points in [vec![], vec![(1.0, 2.0)], vec![(1.0, 2.0), (1.0, 3.0)]] {
            assert!(Series { name: String::new(), points }.fit().is_none(), "it has a law");
        }
    }
}
