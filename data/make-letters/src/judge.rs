//! Drops the faces whose letters look unlike the letters of the other faces.
//!
//! Every glyph is drawn plainly, reduced to 14 x 14 and compared with the glyphs of the faces of
//! other families; its nearest ones vote on the letter that it is. A face whose own letters are
//! confirmed too seldom is dropped, and so is a single glyph with too few votes.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::{
    faces::Face,
    render::{Dice, Image, Look, SIDE, draw},
};

const SMALL: usize = SIDE / 2;
/// The nearest glyphs that vote.
const VOTERS: usize = 12;
/// The faces of one family that may vote.
const VOTING_FACES: usize = 3;
/// A face keeps its letters if at least this many of the ten are confirmed.
pub const NEEDED: usize = 7;

/// What the others say about a face.
#[derive(Clone)]
pub struct Verdict {
    /// The plain images of the ten letters.
    pub plain: Vec<Image>,
    /// Of the [`VOTERS`] nearest glyphs of other families, those with the same letter.
    pub votes: [usize; 10],
}

impl Verdict {
    /// How many of the ten letters are confirmed: by a third of the votes or more.
    pub fn confirmed(&self) -> usize {
        self.votes.iter().filter(|&&v| v * 3 >= VOTERS).count()
    }
    /// Whether the face may stay.
    pub fn keeps(&self) -> bool {
        self.confirmed() >= NEEDED
    }
    /// Whether this letter of a face that stays may be used: a quarter of the votes or more.
    pub fn keeps_letter(&self, letter: usize) -> bool {
        self.votes[letter] * 4 >= VOTERS
    }
    /// The order of the judge's sheets: the doubtful ones first.
    pub fn score(&self) -> usize {
        self.confirmed() * 1000 + self.votes.iter().sum::<usize>()
    }
}

/// Judges every face; the verdicts come in the order of the faces. A face with a glyph that
/// cannot be drawn gets no votes.
pub fn judge(faces: &[Face]) -> Vec<Verdict> {
    let drawn: Vec<(Vec<Image>, Vec<Vec<f32>>)> = faces
        .par_iter()
        .map(|face| {
            let plain: Vec<Image> = face
                .glyphs
                .iter()
                .map(|g| draw(g, &Look::PLAIN, &mut Dice::new(0)).unwrap_or([0; SIDE * SIDE]))
                .collect();
            let features = plain.iter().map(feature).collect();
            (plain, features)
        })
        .collect();
    let mut families: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut family_of = Vec::with_capacity(faces.len());
    let mut voters = Vec::new();
    for (index, face) in faces.iter().enumerate() {
        let next = families.len();
        let (family, size) = families.entry(&face.family).or_insert((next, 0));
        family_of.push(*family);
        if *size < VOTING_FACES {
            voters.push(index);
        }
        *size += 1;
    }
    (0..faces.len())
        .into_par_iter()
        .map(|index| {
            let (plain, features) = &drawn[index];
            let mut votes = [0; 10];
            for (letter, feature) in features.iter().enumerate() {
                // The nearest so far, nearest first.
                let mut nearest: Vec<(f32, usize)> = Vec::with_capacity(VOTERS + 1);
                for &voter in &voters {
                    if family_of[voter] == family_of[index] {
                        continue;
                    }
                    for (other, candidate) in drawn[voter].1.iter().enumerate() {
                        let near: f32 = feature.iter().zip(candidate).map(|(a, b)| a * b).sum();
                        if nearest.len() < VOTERS || near > nearest[VOTERS - 1].0 {
                            let at = nearest.partition_point(|n| n.0 >= near);
                            nearest.insert(at, (near, other));
                            nearest.truncate(VOTERS);
                        }
                    }
                }
                votes[letter] = nearest.iter().filter(|n| n.1 == letter).count();
            }
            Verdict { plain: plain.clone(), votes }
        })
        .collect()
}

/// The image at half its size, lightly smoothed, with mean 0 and length 1.
fn feature(image: &Image) -> Vec<f32> {
    let mut small = Vec::with_capacity(SMALL * SMALL);
    for y in 0..SMALL as i32 {
        for x in 0..SMALL as i32 {
            let mut sum = 0.0;
            for r in 2 * y - 1..2 * y + 3 {
                for c in 2 * x - 1..2 * x + 3 {
                    if (0..SIDE as i32).contains(&r) && (0..SIDE as i32).contains(&c) {
                        sum += f32::from(image[r as usize * SIDE + c as usize]);
                    }
                }
            }
            small.push(sum);
        }
    }
    let mean = small.iter().sum::<f32>() / small.len() as f32;
    let length = small.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>().sqrt().max(1e-6);
    small.iter().map(|v| (v - mean) / length).collect()
}
