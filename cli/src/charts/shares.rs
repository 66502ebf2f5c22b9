//! What a whole consists of, for several wholes: a bar each.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{LABEL, MARK, builder, font, key, plain};

/// Bars of the same length, cut into parts.
pub struct Shares {
    pub bars: Vec<Bar>,
}

/// A whole; the shares are of 1.
pub struct Bar {
    pub name: String,
    pub parts: Vec<(String, f64)>,
    /// Comes last, in gray.
    pub rest: (String, f64),
}

/// Parts below this share in every bar are drawn as one.
const SMALL: f64 = 0.01;

/// Share of a part that has room for its percentage.
const LABELLED: f64 = 0.05;

/// What has a color of its own in all bars.
struct Group {
    name: String,
    color: RGBColor,
    /// Of each bar.
    shares: Vec<f64>,
}

impl Shares {
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let groups = self.groups();
        let (area, names) = key::split(area, groups.len());
        let entries: Vec<_> = groups.iter().map(|group| (group.color, self.entry(group))).collect();
        key::draw(&names, &entries)?;

        let bars = self.bars.len() as i32;
        let mut chart = builder(&area)
            .y_label_area_size(if bars > 1 { 170 } else { 20 })
            .build_cartesian_2d(0.0..100.0, 0.0..f64::from(bars))?;
        plain(&mut chart.configure_mesh())
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc("share of the time in %")
            .x_label_formatter(&|&x| format!("{x:.0}"))
            .draw()?;

        let middle = |size| font(size).pos(Pos::new(HPos::Center, VPos::Center));
        let outer = font(LABEL - 2).pos(Pos::new(HPos::Right, VPos::Center));
        for (index, bar) in self.bars.iter().enumerate() {
            // The first bar is at the top.
            let y = f64::from(bars) - index as f64 - 0.5;
            let mut from = 0.0;
            for group in &groups {
                let share = group.shares[index];
                let to = from + 100.0 * share;
                let corners = [(from, y - 0.36), (to, y + 0.36)];
                chart.draw_series([Rectangle::new(corners, group.color.filled())])?;
                // A gap of paper, also between colors that somebody cannot tell apart.
                if share > 0.004 {
                    let edge = [(to, y - 0.36), (to, y + 0.36)];
                    chart.draw_series([PathElement::new(edge, WHITE.stroke_width(3))])?;
                }
                if share >= LABELLED {
                    let text = format!("{:.0}", 100.0 * share);
                    let ink = readable(group.color);
                    let style = middle(LABEL - 4).color(&ink);
                    chart.draw_series([Text::new(text, ((from + to) / 2.0, y), style)])?;
                }
                from = to;
            }
            if bars > 1 {
                let (x, y) = chart.backend_coord(&(0.0, y));
                let (left, top) = area.get_base_pixel();
                let at = (x - left - 14, y - top);
                area.draw(&Text::new(bar.name.as_str(), at, outer.clone()))?;
            }
        }
        Ok(())
    }

    /// The parts, those that are large in some bar first; small ones together, then the rest.
    fn groups(&self) -> Vec<Group> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.bars.iter().flat_map(|bar| &bar.parts) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let share = |bar: &Bar, wanted: &str| -> f64 {
            bar.parts.iter().filter(|(name, _)| name == wanted).map(|(_, share)| share).sum()
        };
        let mut all: Vec<(&str, Vec<f64>)> = names
            .into_iter()
            .map(|name| (name, self.bars.iter().map(|bar| share(bar, name)).collect()))
            .collect();
        let largest = |shares: &[f64]| shares.iter().copied().fold(0.0, f64::max);
        all.sort_by(|(_, a), (_, b)| largest(b).total_cmp(&largest(a)));
        let large = all.iter().take_while(|(_, shares)| largest(shares) >= SMALL).count();
        let small = all.split_off(large.min(key::MOST));

        let mut groups: Vec<_> = all
            .into_iter()
            .enumerate()
            .map(|(index, (name, shares))| Group {
                name: name.into(),
                color: key::color(index),
                shares,
            })
            .collect();
        if !small.is_empty() {
            let sum = |bar| small.iter().map(|(_, shares)| shares[bar]).sum();
            groups.push(Group {
                name: match &small[..] {
                    [(name, _)] => (*name).into(),
                    _ => format!("{} small kernels", small.len()),
                },
                color: key::color(groups.len()),
                shares: (0..self.bars.len()).map(sum).collect(),
            });
        }
        if let Some(bar) = self.bars.first() {
            groups.push(Group {
                name: bar.rest.0.clone(),
                color: MARK,
                shares: self.bars.iter().map(|bar| bar.rest.1).collect(),
            });
        }
        groups
    }

    /// A line of the key: the name, and of a single bar the percentage.
    fn entry(&self, group: &Group) -> String {
        match group.shares[..] {
            [share] => format!("{}: {:.1} %", group.name, 100.0 * share),
            _ => group.name.clone(),
        }
    }
}

/// Letters that can be read on a color.
fn readable(RGBColor(red, green, blue): RGBColor) -> RGBColor {
    let light = 0.3 * f32::from(red) + 0.59 * f32::from(green) + 0.11 * f32::from(blue);
    // Not black and white themselves, which the report exchanges in the dark.
    if light > 135.0 { RGBColor(20, 20, 20) } else { RGBColor(250, 250, 250) }
}

#[cfg(test)]
mod tests {
    use super::{Bar, Shares};

    fn bar(parts: &[(&str, f64)], rest: f64) -> Bar {
        let parts = parts.iter().map(|&(name, share)| (name.to_owned(), share)).collect();
        Bar { name: "bar".into(), parts, rest: ("rest".into(), rest) }
    }

    #[test]
    fn small_parts_are_one_and_every_bar_stays_whole() {
        let bars = vec![
            bar(&[("a", 0.9), ("b", 0.004), ("c", 0.006)], 0.09),
            bar(&[("d", 0.6), ("a", 0.38), ("c", 0.005), ("b", 0.005)], 0.01),
        ];
        let groups = Shares { bars }.groups();
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["a", "d", "2 small kernels", "rest"], "the parts");
        for bar in 0..2 {
            let whole: f64 = groups.iter().map(|group| group.shares[bar]).sum();
            assert!((whole - 1.0).abs() < 1e-12, "bar {bar} adds up to {whole}");
        }
    }
}
