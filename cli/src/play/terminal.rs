//! A letter in the terminal: in half blocks where there are colours, in characters elsewhere.

use std::fmt::Write;

use supports_color::Stream;

use super::Shown;
use crate::output::class_name;

const WIDTH: usize = 28;

/// Lines that a letter takes: two rows of pixels each.
const HEIGHT: usize = 14;

/// Bars that fit beside a letter, below three other lines.
const BARS: usize = HEIGHT - 3;

/// Columns of the bar of 100 %, so that all fits 80 columns.
const BAR: usize = 30;

/// Characters from dark to bright.
const RAMP: &[u8] = b" .:-=+*#%@";

const BOLD_RED: &str = "1;31";
const RED: &str = "31";
const GREEN: &str = "32";

/// What the terminal can show.
#[derive(Clone, Copy, PartialEq)]
pub enum Colors {
    /// None: no terminal, or one that is told so by `NO_COLOR`.
    None,
    /// Those of words, but no greys.
    Sixteen,
    /// A palette with 24 greys between black and white.
    Palette,
    /// 24 bits.
    True,
}

impl Colors {
    pub fn of_stdout() -> Self {
        match supports_color::on(Stream::Stdout) {
            None => Self::None,
            Some(level) if level.has_16m => Self::True,
            Some(level) if level.has_256 => Self::Palette,
            Some(_) => Self::Sixteen,
        }
    }

    fn paint(self, text: &str, color: &str) -> String {
        match self {
            Self::None => text.into(),
            _ if text.is_empty() => String::new(),
            _ => format!("\x1b[{color}m{text}\x1b[0m"),
        }
    }

    /// The parameters of an escape sequence that chooses a grey: 38 for the ink, 48 for the paper.
    fn grey(self, ground: u8, grey: u8) -> String {
        match self {
            Self::True => format!("{ground};2;{grey};{grey};{grey}"),
            _ => format!("{ground};5;{}", palette(grey)),
        }
    }
}

/// The colour of the 256 that is nearest to a grey.
fn palette(grey: u8) -> u8 {
    match grey {
        0..4 => 16,
        // 8, 18, ..., 238
        4..=246 => 232 + ((grey.max(8) - 3) / 10).min(23),
        247.. => 231,
    }
}

/// The letter, beside it what it is, what it is taken for, and a bar per class.
pub fn draw(letter: &Shown, colors: Colors) -> String {
    let greys = letter.greys();
    let beside = beside(letter, colors);
    let mut text = String::new();
    for (line, rows) in greys.chunks(2 * WIDTH).enumerate() {
        let image = match colors {
            Colors::None | Colors::Sixteen => characters(rows),
            Colors::Palette | Colors::True => half_blocks(rows, colors),
        };
        let beside = beside.get(line).map_or("", String::as_str);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", format!("{image}  {beside}").trim_end());
    }
    text.push('\n');
    text
}

/// Two rows of pixels as a line of characters.
fn characters(rows: &[u8]) -> String {
    let (upper, lower) = rows.split_at(WIDTH);
    let pairs = upper.iter().zip(lower);
    let level = pairs.map(|(&a, &b)| (usize::from(a) + usize::from(b)) * RAMP.len() / 511);
    level.map(|level| char::from(RAMP[level])).collect()
}

/// Two rows of pixels as a line of half blocks, whose ink is the upper one and whose paper the
/// lower.
fn half_blocks(rows: &[u8], colors: Colors) -> String {
    let (upper, lower) = rows.split_at(WIDTH);
    let mut line = String::new();
    let mut last = None;
    for pair in upper.iter().zip(lower) {
        if last != Some(pair) {
            // Writing to a string cannot fail.
            let _ = write!(line, "\x1b[{};{}m", colors.grey(38, *pair.0), colors.grey(48, *pair.1));
            last = Some(pair);
        }
        line.push('▀');
    }
    line + "\x1b[0m"
}

/// At most [`HEIGHT`] lines.
fn beside(letter: &Shown, colors: Colors) -> Vec<String> {
    let Shown { index, truth, guess, probabilities, .. } = *letter;
    let guessed = match guess {
        Some(guess) => format!("guess {}", class_name(guess)),
        None => "no guess: probabilities are no numbers".into(),
    };
    let wrong = match letter.is_right() {
        true => String::new(),
        false => format!("  {}", colors.paint("wrong", BOLD_RED)),
    };
    let names = format!("truth {}, {guessed}{wrong}", class_name(truth));
    let mut lines = vec![format!("test image {index}"), names, String::new()];

    let mut classes: Vec<_> = (0..probabilities.len()).collect();
    if classes.len() > BARS {
        // The likeliest, and the truth in any case.
        classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        if !classes[..BARS].contains(&truth) {
            classes[BARS - 1] = truth;
        }
        classes.truncate(BARS);
    }
    let widest = classes.iter().map(|&class| class_name(class).len()).max().unwrap_or(0);
    lines.extend(classes.into_iter().map(|class| {
        let percent = 100.0 * f64::from(probabilities[class]);
        // Only where the two differ is there something to tell apart.
        let (mark, color) = match (class == truth, Some(class) == guess) {
            (true, true) => ("", Some(GREEN)),
            (true, false) => (" truth", Some(GREEN)),
            (false, true) => (" guess", Some(RED)),
            (false, false) => ("", None),
        };
        let bar = bar(percent, colors) + mark;
        let bar = color.map_or_else(|| bar.clone(), |color| colors.paint(&bar, color));
        format!("{:>widest$} {percent:6.2} %  {bar}", class_name(class)).trim_end().to_owned()
    }));
    lines
}

/// A bar in eighths of a column, or in whole columns where there may be no such characters.
fn bar(percent: f64, colors: Colors) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let columns = BAR as f64 * percent / 100.0;
    match colors {
        // What is no number becomes 0.
        Colors::None => "#".repeat(columns.round() as usize),
        _ => {
            let eighths = (8.0 * columns).round() as usize;
            "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_palette_s_grey_is_the_nearest() {
        let value = |color| match color {
            16 => 0,
            231 => 255,
            color => 8 + 10 * (i32::from(color) - 232),
        };
        for grey in 0..=255 {
            let error = |color| (value(color) - i32::from(grey)).abs();
            let best = (231..=255).chain([16]).map(error).min();
            assert_eq!(Some(error(palette(grey))), best, "the colour for {grey}");
        }
    }

    #[test]
    fn letters_with_colours_have_as_many_columns_as_pixels() {
        let mut image = vec![0.0; 784];
        image[..14].fill(1.0);
        image[28..42].fill(0.5);
        let probabilities = [0.25, 0.75];
        let letter = Shown {
            index: 3,
            image: &image,
            truth: 0,
            guess: Some(1),
            probabilities: &probabilities,
        };
        let drawn = draw(&letter, Colors::True);
        let first = drawn.lines().next().expect("a first line");
        let (white, black) =
            ("\x1b[38;2;255;255;255;48;2;128;128;128m", "\x1b[38;2;0;0;0;48;2;0;0;0m");
        let half = "▀".repeat(14);
        assert_eq!(first, format!("{white}{half}{black}{half}\x1b[0m  test image 3"), "a line");
        assert!(drawn.contains("truth A, guess B  \x1b[1;31mwrong\x1b[0m"), "marked in {drawn}");
        let palette = draw(&letter, Colors::Palette);
        assert!(palette.starts_with("\x1b[38;5;231;48;5;244m▀"), "the palette's {palette:?}");
        let sixteen = draw(&letter, Colors::Sixteen);
        assert!(sixteen.starts_with("######"), "without greys: {sixteen}");
        assert!(sixteen.contains("\x1b[1;31mwrong\x1b[0m"), "marked in {sixteen}");
        let plain = draw(&letter, Colors::None);
        assert!(!plain.contains('\x1b') && plain.is_ascii(), "plain is {plain}");
        assert!(plain.contains("B  75.00 %  ####################### guess"), "a bar in {plain}");
    }
}
