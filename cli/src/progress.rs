//! How far a run has come: a bar in a terminal, plain lines elsewhere. Both on standard error.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use kernelet::train::{Epoch, Metrics};

use crate::output::complain;

/// Plain lines of a whole run.
const LINES: usize = 20;

/// Shows the epochs of one run.
pub struct Progress {
    epochs: usize,
    start: Instant,
    bar: Option<ProgressBar>,
    /// The newest evaluation: not every epoch has one.
    valid: Option<Metrics>,
}

impl Progress {
    pub fn new(epochs: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = "{bar:24.cyan/blue} {pos}/{len}  {msg}  {prefix}";
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(epochs as u64).with_style(style.progress_chars("━╸─"))
        });
        Self { epochs, start: Instant::now(), bar, valid: None }
    }

    /// Takes note of an epoch.
    pub fn show(&mut self, epoch: &Epoch) {
        self.valid = epoch.valid.or(self.valid);
        let mut figures =
            format!("loss {:.4}  train {:.2} %", epoch.train.loss, epoch.train.accuracy);
        if let Some(valid) = self.valid {
            // Writing to a string cannot fail.
            let _ = write!(figures, "  valid {:.2} %", valid.accuracy);
        }
        let left = self.left(epoch.epoch);
        match &self.bar {
            Some(bar) => {
                bar.set_position(epoch.epoch as u64);
                bar.set_message(figures);
                bar.set_prefix(left);
            }
            None => {
                let due = epoch.epoch.is_multiple_of(self.epochs.div_ceil(LINES).max(1));
                if due || epoch.epoch == self.epochs {
                    complain(&format!(
                        "epoch {}/{}  {figures}  {left}\n",
                        epoch.epoch, self.epochs
                    ));
                }
            }
        }
    }

    /// Leaves the terminal as it was.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    /// The time left, from the mean of the epochs so far; nothing at the two ends.
    fn left(&self, epoch: usize) -> String {
        if epoch == 0 || epoch >= self.epochs {
            return String::new();
        }
        let elapsed = self.start.elapsed();
        let left = elapsed.mul_f64((self.epochs - epoch) as f64 / epoch as f64).as_secs();
        format!("{}:{:02} left", left / 60, left % 60)
    }
}
