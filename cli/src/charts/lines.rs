//! Curves over epochs, as in most of the study's figures.

use kernelet::train::{Epoch, History, Metrics};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::{Chart, Figure, MARK, PALETTE, builder, legend, plain};
use crate::output::{decimal, loss};
use crate::sets::SETS;

/// Curves that share their axes; x is the epoch.
pub struct Lines {
    pub y_label: &'static str,
    pub curves: Vec<Curve>,
    /// An epoch to be marked, and what it is.
    pub mark: Option<(usize, String)>,
    pub legend: Legend,
}

/// Where there is room for the names of the curves.
#[derive(Clone, Copy)]
pub enum Legend {
    /// Above curves that fall.
    Upper,
    /// Below curves that rise.
    Lower,
}

/// One curve; values that are no numbers are left out.
pub struct Curve {
    /// With what the legend is to say of it.
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// A figure of every evaluated epoch, its last value behind the name.
    fn new(
        name: &str,
        history: &History,
        value: impl Fn(&Epoch) -> Option<f64>,
        format: impl Fn(f64) -> String,
    ) -> Self {
        let point = |epoch: &Epoch| Some((epoch.epoch as f64, value(epoch)?));
        let points: Vec<_> =
            history.epochs.iter().filter_map(point).filter(|(_, y)| y.is_finite()).collect();
        let name = match points.last() {
            Some(&(_, end)) => format!("{name}: {}", format(end)),
            None => name.to_owned(),
        };
        Self { name, points }
    }

    /// An accuracy of every evaluated epoch.
    pub fn accuracy(name: &str, history: &History, set: fn(&Epoch) -> Option<Metrics>) -> Self {
        Self::new(name, history, |epoch| Some(set(epoch)?.accuracy), |p| format!("{p:.2} %"))
    }

    /// A loss of every evaluated epoch.
    pub fn loss(name: &str, history: &History, set: fn(&Epoch) -> Option<Metrics>) -> Self {
        Self::new(name, history, |epoch| Some(set(epoch)?.loss), |value| loss(value, 4))
    }
}

impl Lines {
    /// Several runs' accuracies on one axis.
    pub fn accuracies(curves: Vec<Curve>) -> Self {
        Self { y_label: "accuracy in %", curves, mark: None, legend: Legend::Lower }
    }

    /// Several runs' losses on one axis.
    pub fn losses(curves: Vec<Curve>) -> Self {
        Self { y_label: "loss in nats", curves, mark: None, legend: Legend::Upper }
    }

    /// The accuracies of one run on its three sets, as in the study's Figure 6.
    pub fn accuracy_of(history: &History) -> Self {
        let curves = SETS.map(|set| Curve::accuracy(set.name, history, set.metrics));
        Self { mark: best(history), ..Self::accuracies(curves.into()) }
    }

    /// The losses of one run on its three sets, as in the study's Figure 7.
    pub fn loss_of(history: &History) -> Self {
        let curves = SETS.map(|set| Curve::loss(set.name, history, set.metrics));
        Self { mark: best(history), ..Self::losses(curves.into()) }
    }

    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let skip = self.skip();
        let (low, high) = self.range(skip);
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let last = points().fold(1.0, |last: f64, &(x, _)| last.max(x));

        let mut chart = builder(area).build_cartesian_2d(0.0..last, low..high)?;
        plain(&mut chart.configure_mesh())
            .x_desc("epoch")
            .y_desc(self.y_label)
            .x_labels(11.min(last as usize + 1))
            .y_labels(8)
            // A short run has ticks between its epochs.
            .x_label_formatter(&|&x| if x.fract() == 0.0 { x.to_string() } else { String::new() })
            .y_label_formatter(&|&y| tick(y, high - low))
            .draw()?;

        for (Curve { name, points }, color) in self.curves.iter().zip(PALETTE.iter().cycle()) {
            let points = points.get(skip..).unwrap_or_default();
            let Some(&first) = points.first() else { continue };
            let style = color.stroke_width(4);
            if points.len() == 1 {
                chart.draw_series([Circle::new(first, 8, color.filled())])?;
            }
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 36, y)], style));
        }
        if let Some((epoch, what)) = &self.mark {
            let x = *epoch as f64;
            let style = MARK.stroke_width(2);
            chart
                .draw_series(DashedLineSeries::new([(x, low), (x, high)], 12, 8, style))?
                .label(what)
                .legend(move |(x, y)| {
                    let ends = [(x, y), (x + 36, y)].into_iter();
                    DashedPathElement::new(ends, 8, 6, style)
                });
        }
        legend(&mut chart.configure_series_labels())
            .position(match self.legend {
                Legend::Upper => SeriesLabelPosition::UpperRight,
                Legend::Lower => SeriesLabelPosition::LowerRight,
            })
            .draw()
    }

    /// How many points at the start are left out: one, the untrained network's, if it would press
    /// all that follows into a third of the height.
    fn skip(&self) -> usize {
        let span = |skip| {
            let (low, high) = self.range(skip);
            high - low
        };
        let long = self.curves.iter().any(|curve| curve.points.len() > 10);
        usize::from(long && span(0) > 3.0 * span(1))
    }

    /// Lowest and highest value, but for the first points, with a margin.
    fn range(&self, skip: usize) -> (f64, f64) {
        let points = self.curves.iter().flat_map(|curve| curve.points.iter().skip(skip));
        let values = points.map(|&(_, y)| y);
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        if low > high {
            return (0.0, 1.0); // nothing to draw
        }
        let margin = (0.05 * (high - low)).max(1e-3 * high).max(1e-6);
        ((low - margin).max(0.0), high + margin)
    }
}

/// The figures of one training run: loss and accuracy of `subject`.
pub fn of_run(subject: &str, history: &History) -> [Figure; 2] {
    [
        ("loss", "Loss", Lines::loss_of(history)),
        ("accuracy", "Accuracy", Lines::accuracy_of(history)),
    ]
    .map(|(name, what, lines)| Figure {
        name: name.into(),
        title: format!("{what} of the {subject}"),
        caption: String::new(),
        chart: Chart::Lines(lines),
    })
}

fn best(history: &History) -> Option<(usize, String)> {
    let epoch = history.best()?.epoch;
    Some((epoch, format!("lowest valid loss: epoch {epoch}")))
}

/// A label of the y axis, with as many digits as `span` needs.
fn tick(y: f64, span: f64) -> String {
    // Some eight ticks share the span.
    let digits = -(span / 8.0).log10().floor().clamp(-9.0, 0.0) as usize;
    decimal(y, digits)
}
