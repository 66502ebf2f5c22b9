//! How far a run has come: a bar in a terminal, plain lines elsewhere. Both on standard error.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use kernelet::train::{Epoch, Metrics};

use crate::output::{complain, decimal};

/// Plain lines of a whole run.
const LINES: usize = 20;

/// Shows the epochs of one run.
pub struct Progress {
    epochs: usize,
    start: Instant,
    bar: Option<ProgressBar>,
    /// The newest evaluation: not every epoch has one.
    valid: Option<Metrics>,
    /// The newest line, if it has not been shown.
    pending: Option<String>,
}

impl Progress {
    pub fn new(epochs: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar:.cyan/blue} {pos}/{len}  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(epochs as u64).with_style(style.progress_chars("━╸─"))
        });
        Self { epochs, start: Instant::now(), bar, valid: None, pending: None }
    }

    /// Takes note of an epoch.
    pub fn show(&mut self, epoch: &Epoch) {
        self.valid = epoch.valid.or(self.valid);
        let mut figures =
            format!("loss {}  train {:.2} %", decimal(epoch.train.loss, 4), epoch.train.accuracy);
        // Writing to a string cannot fail.
        if let Some(valid) = self.valid {
            let _ = write!(figures, "  valid {:.2} %", valid.accuracy);
        }
        if let Some(seconds) = self.seconds_left(epoch.epoch) {
            let _ = write!(figures, "  {} left", minutes(seconds));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(epoch.epoch as u64);
            bar.set_message(figures);
            return;
        }
        let line = format!("epoch {}/{}  {figures}\n", epoch.epoch, self.epochs);
        if epoch.epoch.is_multiple_of(self.epochs.div_ceil(LINES).max(1)) {
            complain(&line);
            self.pending = None;
        } else {
            self.pending = Some(line);
        }
    }

    /// Leaves the terminal as it was, or shows the last epoch's line.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        if let Some(line) = self.pending {
            complain(&line);
        }
    }

    /// From the mean of the epochs so far; nothing at the two ends, or if nobody will wait so long.
    fn seconds_left(&self, epoch: usize) -> Option<f64> {
        const LONGEST: f64 = 1000.0 * 3600.0;
        let left = self.epochs.saturating_sub(epoch) as f64;
        let seconds = self.start.elapsed().as_secs_f64() * left / epoch as f64;
        (epoch > 0 && left > 0.0 && seconds < LONGEST).then_some(seconds)
    }
}

/// `0:07`, `12:34` or `1:02:03`.
fn minutes(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::minutes;

    #[test]
    fn times_are_legible() {
        let times = [0.4, 59.6, 754.0, 3723.0].map(minutes);
        assert_eq!(times, ["0:00", "1:00", "12:34", "1:02:03"], "minutes of seconds");
    }
}
