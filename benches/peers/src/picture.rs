//! Ratios as a picture: a line for every work, a dot for every peer.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A work's name, and kernelet's time over every peer's.
pub struct Line {
    /// What the line is about.
    pub name: String,
    /// Peers and ratios.
    pub points: Vec<(String, f64)>,
}

/// Colours that most colour-blind people can tell apart (Okabe and Ito's), in turn with the marks.
const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// For who reads in the dark: paper, ink and grid change places.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) { \
    [fill=\"#FFFFFF\"] { fill: #0D1117 } [fill=\"#3C3C3C\"] { fill: #D0D0D0 } \
    [stroke=\"#3C3C3C\"] { stroke: #D0D0D0 } [stroke=\"#E1E1E1\"] { stroke: #333A44 } }</style>";

const WIDTH: i32 = 1100;
/// Where the names end and the dots begin.
const LEFT: i32 = 400;
const RIGHT: i32 = WIDTH - 40;
const TOP: i32 = 90;
const LINE: i32 = 26;
const KEY_COLUMNS: i32 = 5;

/// The text of an SVG file. A peer's place among `all` says which mark it has, in every picture.
pub fn draw(title: &str, lines: &[Line], all: &[String]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let peers: Vec<(usize, &str)> = all
        .iter()
        .map(String::as_str)
        .enumerate()
        .filter(|(_, name)| points().any(|(peer, _)| peer == name))
        .collect();
    let bottom = TOP + LINE * lines.len() as i32;
    let key_lines = (peers.len() as i32 + KEY_COLUMNS - 1) / KEY_COLUMNS;
    let height = bottom + 50 + LINE * key_lines;
    let mut svg = String::new();
    draw_into(&mut svg, title, lines, &peers, (bottom, height))
        .map_err(|error| anyhow!("{title:?} cannot be drawn: {error}"))?;
    // After the opening tag, which is the first that ends a line.
    let style = svg.find("xmlns=\"http://www.w3.org/2000/svg\">\n").map(|at| at + 36);
    if let Some(at) = style.and_then(|at| svg[..at].rfind('>')) {
        svg.insert_str(at + 1, DARK);
    }
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_into(
    svg: &mut String,
    title: &str,
    lines: &[Line],
    peers: &[(usize, &str)],
    (bottom, height): (i32, i32),
) -> Drawn {
    let area = SVGBackend::with_string(svg, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size, h, v| ("sans-serif", size).into_font().color(&INK).pos(Pos::new(h, v));
    area.draw(&Text::new(title, (20, 16), font(24, HPos::Left, VPos::Top)))?;

    let x = scale(lines);
    for tick in [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0] {
        let Some(at) = x(tick) else { continue };
        let (color, width) = if tick == 1.0 { (INK, 2) } else { (GRID, 1) };
        let edge = vec![(at, TOP - 8), (at, bottom)];
        area.draw(&PathElement::new(edge, color.stroke_width(width)))?;
        let middle = font(16, HPos::Center, VPos::Bottom);
        area.draw(&Text::new(tick.to_string(), (at, TOP - 12), middle))?;
    }
    for (index, line) in (0..).zip(lines) {
        let y = TOP + LINE * index + LINE / 2;
        let right = font(16, HPos::Right, VPos::Center);
        area.draw(&Text::new(line.name.as_str(), (LEFT - 20, y), right))?;
        for (peer, ratio) in &line.points {
            let place = peers.iter().find(|(_, name)| name == peer);
            if let Some(((place, _), at)) = place.zip(x(*ratio)) {
                mark(&area, *place, (at, y))?;
            }
        }
    }
    for (index, (place, peer)) in (0..).zip(peers) {
        let (column, row) = (index % KEY_COLUMNS, index / KEY_COLUMNS);
        let at = (40 + column * (WIDTH - 60) / KEY_COLUMNS, bottom + 34 + row * LINE);
        mark(&area, *place, at)?;
        let left = font(16, HPos::Left, VPos::Center);
        area.draw(&Text::new(*peer, (at.0 + 14, at.1), left))?;
    }
    area.present()?;
    Ok(())
}

/// Where a ratio is, from left to right, on a scale of equal factors; `None` outside.
fn scale(lines: &[Line]) -> impl Fn(f64) -> Option<i32> {
    let ratios = || lines.iter().flat_map(|line| &line.points).map(|(_, ratio)| *ratio);
    let least = ratios().fold(0.5, f64::min).max(0.005) / 1.1;
    let most = ratios().fold(1.2, f64::max).min(8.0) * 1.1;
    move |ratio: f64| {
        let share = (ratio / least).ln() / (most / least).ln();
        let inside = (0.0..=1.0).contains(&share);
        inside.then(|| LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32)
    }
}

/// A peer's mark: filled circles, then rings, then crosses.
fn mark(
    area: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    peer: usize,
    (x, y): (i32, i32),
) -> Drawn {
    let color = PALETTE[peer % PALETTE.len()];
    match peer / PALETTE.len() {
        0 => area.draw(&Circle::new((x, y), 6, color.filled()))?,
        1 => area.draw(&Circle::new((x, y), 6, color.stroke_width(3)))?,
        _ => {
            for edge in [[(x - 5, y - 5), (x + 5, y + 5)], [(x - 5, y + 5), (x + 5, y - 5)]] {
                area.draw(&PathElement::new(edge, color.stroke_width(3)))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Line, draw};

    #[test]
    fn a_picture_has_names_and_a_dark_side() {
        let points = vec![("torch".to_owned(), 0.5), ("far away".to_owned(), 1e9)];
        let all = ["torch".to_owned(), "far away".to_owned(), "absent".to_owned()];
        let svg = draw("title", &[Line { name: "work".into(), points }], &all).expect("a picture");
        for text in ["title", "work", "torch", "prefers-color-scheme"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(!svg.contains("absent"), "a peer without a time is in the key");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "not an SVG: {svg}");
    }
}
