//! How far a run has come: a bar in a terminal, plain lines elsewhere. Both on standard error.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use kernelet::train::{Epoch, Metrics};

use crate::output::{complain, loss};

/// Plain lines of a whole run.
const LINES: usize = 20;

/// Steps of the bar.
const BAR: u64 = 10_000;

/// Shows the epochs of one run.
pub struct Progress {
    epochs: usize,
    start: Instant,
    /// The share of the run that was done then.
    begun: f64,
    bar: Option<ProgressBar>,
    /// The newest loss, with its name.
    loss: (&'static str, f64),
    /// The newest evaluation: not every epoch has one.
    train: Option<Metrics>,
    valid: Option<Metrics>,
    /// The newest line, if it has not been shown.
    pending: Option<String>,
}

impl Progress {
    /// Of a run of which so many epochs have been made.
    pub fn new(epochs: usize, made: usize) -> Self {
        let loss = ("loss", f64::NAN);
        Self {
            epochs,
            start: Instant::now(),
            begun: made as f64 / epochs.max(1) as f64,
            bar: bar(),
            loss,
            train: None,
            valid: None,
            pending: None,
        }
    }

    /// Takes note of a minibatch.
    pub fn step(&mut self, step: usize, of: usize, loss: f64) {
        self.loss = ("batch loss", loss);
        self.advance(step as f64 / of as f64);
    }

    /// Takes note of an epoch.
    pub fn epoch(&mut self, epoch: &Epoch) {
        if epoch.epoch == 0 {
            // The first evaluation says nothing about how long an epoch takes.
            self.start = Instant::now();
        }
        self.train = epoch.train.or(self.train);
        self.valid = epoch.valid.or(self.valid);
        self.loss = match (epoch.batch, epoch.train) {
            (Some(batch), _) => ("batch loss", batch.loss),
            (None, Some(train)) => ("loss", train.loss),
            (None, None) => self.loss,
        };
        let count = format!("{}/{}", epoch.epoch, self.epochs);
        let done = epoch.epoch as f64 / self.epochs as f64;
        if let Some(bar) = &self.bar {
            bar.set_prefix(count);
            self.advance(done);
            return;
        }
        let line = format!("epoch {count}  {}\n", self.figures(done));
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

    /// Moves the bar, if there is one.
    fn advance(&self, done: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position((done * BAR as f64) as u64);
            bar.set_message(self.figures(done));
        }
    }

    /// The newest figures, and the time that is left when so much of the run is done.
    fn figures(&self, done: f64) -> String {
        let (name, value) = self.loss;
        let mut figures = format!("{name} {}", loss(value, 4));
        // Writing to a string cannot fail.
        if let Some(train) = self.train {
            let _ = write!(figures, "  train {:.2} %", train.accuracy);
        }
        if let Some(valid) = self.valid {
            let _ = write!(figures, "  valid {:.2} %", valid.accuracy);
        }
        if let Some(seconds) = self.seconds_left(done) {
            let _ = write!(figures, "  {} left", minutes(seconds));
        }
        figures
    }

    /// From the mean since the start of the training; nothing at the two ends, or if nobody will wait so long.
    fn seconds_left(&self, done: f64) -> Option<f64> {
        const LONGEST: f64 = 1000.0 * 3600.0;
        let made = done - self.begun;
        let seconds = self.start.elapsed().as_secs_f64() * (1.0 - done) / made;
        (made > 0.0 && done < 1.0 && seconds < LONGEST).then_some(seconds)
    }
}

/// Shows how far a study has come: a bar over all of its parts in a terminal, a line for every
/// finished part elsewhere.
pub struct Overall {
    bar: Option<ProgressBar>,
    start: Instant,
    parts: usize,
    /// Number of the part in work, from 1.
    part: usize,
    name: String,
    /// What all parts cost, what this part does, what those before it did, and how much of that
    /// was found finished; in no unit that matters.
    total: f64,
    cost: f64,
    before: f64,
    found: f64,
}

impl Overall {
    /// Of a study of so many parts that cost so much in all.
    pub fn new(parts: usize, total: f64) -> Self {
        let (start, name) = (Instant::now(), String::new());
        Self { bar: bar(), start, parts, part: 0, name, total, cost: 0.0, before: 0.0, found: 0.0 }
    }

    /// Takes up the next part.
    pub fn begin(&mut self, name: &str, cost: f64) {
        self.part += 1;
        self.before += self.cost;
        (self.name, self.cost) = (name.into(), cost);
        self.advance(0.0, "");
    }

    /// Takes note of how much of the part is done.
    pub fn advance(&self, share: f64, figures: &str) {
        let Some(bar) = &self.bar else { return };
        let done = self.before + share.clamp(0.0, 1.0) * self.cost;
        let of_all = done / self.total.max(f64::MIN_POSITIVE);
        bar.set_position((of_all * BAR as f64) as u64);
        bar.set_prefix(format!("{}/{}", self.part, self.parts));
        let (worked, left) = (done - self.found, self.total - done);
        let seconds = self.start.elapsed().as_secs_f64() * left / worked;
        let left = if worked > 0.0 && left > 0.0 {
            format!("  {} left", minutes(seconds))
        } else {
            String::new()
        };
        bar.set_message(format!("{}{figures}{left}", self.name));
    }

    /// The part is finished: here are its figures.
    pub fn end(&mut self, figures: &str) {
        self.say(figures);
        self.advance(1.0, "");
    }

    /// The part was finished by an earlier run.
    pub fn skip(&mut self, figures: &str) {
        self.found += self.cost;
        self.end(&format!("{figures} (finished earlier)"));
    }

    /// Puts a line above the bar.
    fn say(&self, figures: &str) {
        let line = format!("[{}/{}] {}: {figures}", self.part, self.parts, self.name);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => complain(&format!("{line}\n")),
        }
    }

    /// Leaves the terminal as it was.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar, if standard error is a terminal.
fn bar() -> Option<ProgressBar> {
    stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{wide_bar:.cyan/blue} {prefix}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(BAR).with_style(style.progress_chars("━╸─"))
    })
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
