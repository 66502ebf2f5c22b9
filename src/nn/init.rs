//! Starting weights.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

/// Fills `w` with draws from N(0, 2 / (inputs + outputs)): Glorot and Bengio's "Understanding the
/// difficulty of training deep feedforward neural networks" (AISTATS 2010), with a normal
/// distribution as in the study. The same seed and `stream` give the same numbers everywhere;
/// streams keep the layers of a network apart.
///
/// ```
/// use kernelet::nn::init::xavier_normal;
///
/// let mut w = vec![0.0; 784 * 1000];
/// xavier_normal(&mut w, 784, 1000, 1, 0);
/// let squares: f64 = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
/// let variance = squares / w.len() as f64;
/// assert!((variance / (2.0 / 1784.0) - 1.0).abs() < 0.01);
/// ```
pub fn xavier_normal(w: &mut [f32], inputs: usize, outputs: usize, seed: u64, stream: u64) {
    let deviation = (2.0 / (inputs + outputs).max(1) as f64).sqrt();
    let mut draws = normal(deviation, seed, stream);
    for value in w {
        *value = draws() as f32;
    }
}

/// Fills `w` with draws from N(0, 1.3 * 2 / (inputs + outputs)) that are drawn again where they are
/// more than two deviations from 0, as TensorFlow 1's `contrib.layers.xavier_initializer` with
/// `uniform=False` does. (Without its tails the distribution has the variance that
/// [`xavier_normal`] has; hence 1.3.) Seed and stream as there.
///
/// ```
/// use kernelet::nn::init::truncated_xavier;
///
/// let mut w = [0.0; 1000];
/// truncated_xavier(&mut w, 8, 8, 1, 0);
/// let deviation = (1.3 * 2.0 / 16.0_f32).sqrt();
/// assert!(w.iter().all(|w| w.abs() <= 2.0 * deviation));
/// ```
pub fn truncated_xavier(w: &mut [f32], inputs: usize, outputs: usize, seed: u64, stream: u64) {
    let deviation = (1.3 * 2.0 / (inputs + outputs).max(1) as f64).sqrt();
    let mut draws = normal(deviation, seed, stream);
    for value in w {
        *value = loop {
            let draw = draws();
            if draw.abs() <= 2.0 * deviation {
                break draw as f32;
            }
        };
    }
}

fn normal(deviation: f64, seed: u64, stream: u64) -> impl FnMut() -> f64 {
    let Ok(normal) = Normal::new(0.0, deviation) else {
        unreachable!("{deviation} is finite and positive");
    };
    let mut rng =
        StdRng::seed_from_u64(seed.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    move || normal.sample(&mut rng)
}
