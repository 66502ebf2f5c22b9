//! Starting weights.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

/// Fills `w` with draws from N(0, 2 / (inputs + outputs)): Glorot and Bengio's "Understanding the
/// difficulty of training deep feedforward neural networks" (AISTATS 2010), with a normal
/// distribution as in the study. The same seed and `stream` give the same numbers everywhere;
/// streams keep the layers of a network apart.
pub fn xavier_normal(w: &mut [f32], inputs: usize, outputs: usize, seed: u64, stream: u64) {
    let deviation = (2.0 / (inputs + outputs).max(1) as f64).sqrt();
    let Ok(normal) = Normal::new(0.0, deviation) else {
        unreachable!("{deviation} is finite and positive");
    };
    let mut rng =
        StdRng::seed_from_u64(seed.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    for value in w {
        *value = normal.sample(&mut rng) as f32;
    }
}
