//! Kernels under the roof of what a machine can do: operations per second against operations per
//! byte, both logarithmic.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{INK, LABEL, builder, font, key, plain};

/// The roof and the kernels below it.
pub struct Roofline {
    /// 1e9 operations per second at most.
    pub gflops: f64,
    /// 1e9 bytes per second at most.
    pub gbytes: f64,
    /// Name, operations per byte and 1e9 operations per second, the most important first.
    pub kernels: Vec<(String, f64, f64)>,
}

/// Half the size of a dot, and of a number beside it.
const DOT: i32 = 11;
const NUMBER: (i32, i32) = (12, 14);

/// What the words at the flat roof take, and the space between.
const PEAK: (i32, i32) = (200, 48);

/// Pixels from left, top to right, bottom.
type Region = [i32; 4];

fn around((x, y): (i32, i32), size: i32) -> Region {
    [x - size, y - size, x + size, y + size]
}

impl Roofline {
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let drawn = |(_, x, y): &&(String, f64, f64)| *x > 0.0 && *y > 0.0;
        let kernels: Vec<_> = self.kernels.iter().filter(drawn).take(key::MOST - 2).collect();
        let (area, names) = key::split(area, kernels.len());
        let entries: Vec<_> = kernels
            .iter()
            .enumerate()
            .map(|(index, (name, ..))| (key::color(index), format!("{}  {name}", index + 1)))
            .collect();
        key::draw(&names, &entries)?;

        let (gflops, gbytes) = (self.gflops.max(1e-9), self.gbytes.max(1e-9));
        let ridge = gflops / gbytes;
        let lowest = |start: f64, value: fn(&(String, f64, f64)) -> f64| {
            kernels.iter().map(|kernel| value(kernel)).fold(start, f64::min)
        };
        let x_low = lowest(ridge / 4.0, |kernel| kernel.1) / 1.6;
        let x_high = kernels.iter().map(|kernel| kernel.1).fold(ridge * 4.0, f64::max) * 1.6;
        let y_low = lowest(gflops / 10.0, |kernel| kernel.2) / 2.0;
        let y_high = kernels.iter().map(|kernel| kernel.2).fold(gflops, f64::max) * 3.0;

        let mut chart = builder(&area)
            .build_cartesian_2d((x_low..x_high).log_scale(), (y_low..y_high).log_scale())?;
        plain(&mut chart.configure_mesh())
            .x_desc("operations per byte")
            .y_desc("GFLOP/s")
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|&x| tick(x))
            .y_label_formatter(&|&y| tick(y))
            .draw()?;

        let start = x_low.max(y_low / gbytes);
        let roof = [(start, start * gbytes), (ridge, gflops), (x_high, gflops)];
        chart.draw_series(LineSeries::new(roof, INK.stroke_width(4)))?;
        let (left, top) = area.get_base_pixel();
        let pixel = |x: f64, y: f64| {
            let (x, y) = chart.backend_coord(&(x, y));
            (x - left, y - top)
        };
        let text = |text: String, at, h, v| {
            area.draw(&Text::new(text, at, font(LABEL - 4).pos(Pos::new(h, v))))
        };
        let dots: Vec<_> = kernels.iter().map(|(_, x, y)| pixel(*x, *y)).collect();
        // Above the flat roof, or below it where kernels are faster than that (as on AMX).
        let (x, y) = pixel(x_high, gflops);
        let crowd =
            |region| -> i32 { dots.iter().map(|&dot| overlap(region, around(dot, DOT))).sum() };
        let above = (y - 8, VPos::Bottom, [x - PEAK.0, y - PEAK.1, x, y]);
        let below = (y + 8, VPos::Top, [x - PEAK.0, y, x, y + PEAK.1]);
        let (y, vertical, peak) = if crowd(above.2) <= crowd(below.2) { above } else { below };
        text(format!("{gflops:.0} GFLOP/s"), (x - 8, y), HPos::Right, vertical)?;
        // Left of the slope, where it is half as high as the flat roof.
        let (x, y) = pixel((ridge * start).sqrt(), (ridge * start).sqrt() * gbytes);
        text(format!("{gbytes:.0} GB/s"), (x - 16, y - 6), HPos::Right, VPos::Bottom)?;

        let numbers = places(&dots, &roof.map(|(x, y)| pixel(x, y)), peak);
        // The most important last, on top.
        for (index, (&dot, &number)) in dots.iter().zip(&numbers).enumerate().rev() {
            let style = key::color(index).filled();
            area.draw(&Circle::new(dot, DOT, style))?;
            area.draw(&Circle::new(dot, DOT, WHITE.stroke_width(2)))?;
            let at = (number.0, number.1 + 2);
            text((index + 1).to_string(), at, HPos::Center, VPos::Center)?;
        }
        Ok(())
    }
}

/// Where the dots' numbers go: beside their dots, clear of other dots, numbers, the roof, a line
/// through the given points, and the words at its peak, as far as there is a place.
fn places(dots: &[(i32, i32)], roof: &[(i32, i32)], peak: Region) -> Vec<(i32, i32)> {
    let mut taken: Vec<Region> = dots.iter().map(|&dot| around(dot, DOT)).collect();
    taken.push(peak);
    for ends in roof.windows(2) {
        let &[(x, y), (x_end, y_end)] = ends else { continue };
        // The line as a row of small fields.
        let steps = ((x_end - x).abs().max((y_end - y).abs()) / 4).max(1);
        let at = |step| (x + (x_end - x) * step / steps, y + (y_end - y) * step / steps);
        taken.extend((0..=steps).map(|step| around(at(step), 3)));
    }
    let mut places = Vec::new();
    let (width, height) = NUMBER;
    for &(x, y) in dots {
        let (right, up) = (DOT + width + 4, DOT + height + 2);
        let candidates = [1, 2].into_iter().flat_map(|far| {
            let (right, up) = (right * far, up * far);
            [(right, 0), (0, -up), (-right, 0), (0, up)].into_iter().chain([
                (right, -up),
                (-right, -up),
                (right, up),
                (-right, up),
            ])
        });
        let place = candidates
            .map(|(dx, dy)| (x + dx, y + dy))
            .min_by_key(|&(x, y)| {
                let own = [x - width, y - height, x + width, y + height];
                taken.iter().map(|other| overlap(own, *other)).sum::<i32>()
            })
            .unwrap_or((x, y));
        let (x, y) = place;
        taken.push([x - width, y - height, x + width, y + height]);
        places.push(place);
    }
    places
}

/// The area that two regions share.
fn overlap(a: Region, b: Region) -> i32 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    width.max(0) * height.max(0)
}

fn tick(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::{DOT, NUMBER, overlap, places};

    #[test]
    fn numbers_keep_clear_of_dots_and_of_each_other() {
        let dots = [(100, 100), (104, 100), (100, 125), (300, 40), (325, 40), (312, 60)];
        let roof = [(0, 92), (200, 92)];
        // Where the number of (325, 40) would go.
        let peak = [337, 20, 480, 70];
        let numbers = places(&dots, &roof, peak);
        let clear = |a: (i32, i32), b: (i32, i32), width, height| {
            (a.0 - b.0).abs() >= width || (a.1 - b.1).abs() >= height
        };
        for (i, &number) in numbers.iter().enumerate() {
            let apart = number.0 > 200 || (number.1 - 92).abs() >= NUMBER.1;
            assert!(apart, "number {i} at {number:?} is on the roof");
            let (x, y) = number;
            let own = [x - NUMBER.0, y - NUMBER.1, x + NUMBER.0, y + NUMBER.1];
            assert_eq!(overlap(own, peak), 0, "number {i} at {number:?} is on the words");
            for &dot in &dots {
                let apart = clear(number, dot, NUMBER.0 + DOT, NUMBER.1 + DOT);
                assert!(apart, "number {i} at {number:?} is on the dot {dot:?}");
            }
            for &other in &numbers[..i] {
                let apart = clear(number, other, 2 * NUMBER.0, 2 * NUMBER.1);
                assert!(apart, "number {i} at {number:?} is on the one at {other:?}");
            }
        }
    }
}
