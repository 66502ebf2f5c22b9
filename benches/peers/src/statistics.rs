//! Medians and quartiles.

/// The quantile at `share` (0.5 is the median) of numbers in any order, between two neighbours as
/// NumPy does; NaN of none.
pub fn quantile(numbers: &[f64], share: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

/// The middle one; NaN of none.
pub fn median(numbers: &[f64]) -> f64 {
    quantile(numbers, 0.5)
}

/// A median with the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// A quarter lies below.
    pub lower: f64,
    /// The middle.
    pub median: f64,
    /// A quarter lies above.
    pub upper: f64,
}

impl Spread {
    /// Of the ratios of two series, round by round; `None` without a round that both have.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let at = |share| quantile(&ratios, share);
        (!ratios.is_empty()).then(|| Self { lower: at(0.25), median: at(0.5), upper: at(0.75) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, median, quantile};

    #[test]
    fn medians_lie_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0, "of three");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5, "of four");
        assert_eq!(median(&[7.0]), 7.0, "of one");
        assert!(median(&[]).is_nan(), "of none");
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0, "a quartile");
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0, "the largest");
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // A round in which the machine is three times slower leaves the ratio alone.
        let spread = Spread::of_ratios(&[1.0, 3.0, 1.0], &[2.0, 6.0, 2.0]).expect("rounds");
        assert_eq!(spread, Spread { lower: 0.5, median: 0.5, upper: 0.5 }, "the ratio");
        assert_eq!(Spread::of_ratios(&[], &[1.0]), None, "without rounds");
    }
}
