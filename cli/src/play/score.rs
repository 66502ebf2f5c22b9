//! Which letters are shown, and what a network says of them; nothing here prints.

use kernelet::Cpu;
use kernelet::data::split::permutation;
use kernelet::data::{PIXELS, Samples};

use crate::model::{Model, NormalizeWith, guess};

/// What a network says of labelled images.
pub struct Scores<'a> {
    samples: &'a Samples,
    classes: usize,
    probabilities: Vec<f32>,
}

/// A letter with what a network says of it.
pub struct Shown<'a> {
    /// Its place among the samples.
    pub index: usize,
    pub image: &'a [f32],
    pub truth: usize,
    /// The most probable class.
    pub guess: Option<usize>,
    /// Of every class.
    pub probabilities: &'a [f32],
}

impl<'a> Scores<'a> {
    pub fn new(cpu: &Cpu, model: &Model, with: NormalizeWith, samples: &'a Samples) -> Self {
        let probabilities = model.probabilities(cpu, &samples.images, with);
        Self { samples, classes: model.classes(), probabilities }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn get(&self, index: usize) -> Shown<'_> {
        let probabilities = &self.probabilities[index * self.classes..][..self.classes];
        Shown {
            index,
            image: &self.samples.images[index * PIXELS..][..PIXELS],
            truth: self.samples.labels[index] as usize,
            guess: guess(probabilities),
            probabilities,
        }
    }

    /// How many images are right.
    pub fn right(&self) -> usize {
        (0..self.len()).filter(|&index| self.get(index).is_right()).count()
    }

    /// The share of images that are right, in percent.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.right() as f64 / self.len() as f64
    }

    /// At most `count` images in an order that depends on the seed, none twice.
    pub fn pick(&self, count: usize, seed: u32, only_wrong: bool) -> Vec<Shown<'_>> {
        permutation(self.len(), seed)
            .into_iter()
            .map(|index| self.get(index as usize))
            .filter(|letter| !(only_wrong && letter.is_right()))
            .take(count)
            .collect()
    }
}

impl Shown<'_> {
    pub fn is_right(&self) -> bool {
        self.guess == Some(self.truth)
    }

    /// The probability of the guess.
    pub fn probability(&self) -> f32 {
        self.guess.map_or(f32::NAN, |guess| self.probabilities[guess])
    }

    /// The pixels as levels of grey, 0 black. Values from 0 to 1 are taken as they are, others
    /// such that the smallest is black and the largest white.
    pub fn greys(&self) -> Vec<u8> {
        let range = self
            .image
            .iter()
            .fold((0.0_f32, 1.0_f32), |(low, high), &pixel| (low.min(pixel), high.max(pixel)));
        let (low, high) = match range {
            (0.0, 1.0) => range,
            _ => self.image.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &p| {
                (low.min(p), high.max(p))
            }),
        };
        // In f64, where the difference of two f32 is finite; an image of one value is black.
        let (low, high) = (f64::from(low), f64::from(high));
        let grey = |&pixel: &f32| (255.0 * (f64::from(pixel) - low) / (high - low)).round() as u8;
        self.image.iter().map(grey).collect()
    }
}
