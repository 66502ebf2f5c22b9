//! Writing to the terminal without dying of a closed pipe, and numbers and names that stay short.

use std::io::{self, Write};
use std::path::Path;

use kernelet::Error;
use kernelet::train::Metrics;
use serde::Serialize;

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), Error> {
    stream(|stdout| stdout.write_all(text.as_bytes()))
}

/// Writes to standard output. A reader that has gone away (`kernelet info | head -1`) is no error.
pub fn stream(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}

/// Prints JSON to standard output.
pub fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Setting(format!("the result cannot be written as JSON: {e}")))?;
    print(&(text + "\n"))
}

/// Prints to standard error, as far as that is possible.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A number with so many decimals, or in powers of ten where that would be a long row of digits
/// (the loss of a training that diverges).
pub fn decimal(value: f64, decimals: usize) -> String {
    if value.is_finite() && value.abs() >= 1e6 {
        format!("{value:.2e}")
    } else {
        format!("{value:.decimals$}")
    }
}

/// A loss with so many decimals, or in powers of ten where they would show little but zeros.
pub fn loss(value: f64, decimals: usize) -> String {
    if 0.0 < value && value < 1e-3 { format!("{value:.3e}") } else { decimal(value, decimals) }
}

/// A loss and an accuracy as the study's tables have them: `0.377778 / 90.35 %`.
pub fn figures(metrics: Metrics) -> String {
    format!("{} / {:.2} %", loss(metrics.loss, 6), metrics.accuracy)
}

/// A number and what it counts: `1 thread`, `2 threads`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A data set's name without the folders, for places that are not wide.
pub fn name(data: &str) -> &str {
    Path::new(data).file_name().and_then(|name| name.to_str()).unwrap_or(data)
}

/// The letter of a class, as long as there are letters.
pub fn letter(class: usize) -> Option<char> {
    (b'A'..=b'Z').nth(class).map(char::from)
}

/// A class's letter, or its number where there is none.
pub fn class_name(class: usize) -> String {
    letter(class).map_or_else(|| class.to_string(), String::from)
}
