//! Samples, medians and ratios.

use anyhow::Result;

/// What one contender was measured at, one value for each round, all in the same unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// In the order of the rounds.
    pub values: Vec<f64>,
}

/// A ratio of medians, with a 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ratio {
    /// The ratio itself.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// A median and its extremes over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl From<&Samples> for Spread {
    fn from(samples: &Samples) -> Self {
        Self { median: samples.median(), min: samples.min(), max: samples.max() }
    }
}

impl Samples {
    /// The median; of an even number the mean of the two in the middle. NaN of none.
    pub fn median(&self) -> f64 {
        median(&mut self.values.clone())
    }

    /// The value below which this share of the samples lies, by the nearest rank. NaN of none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut values = self.values.clone();
        values.sort_unstable_by(f64::total_cmp);
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The smallest value.
    pub fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The largest value.
    pub fn max(&self) -> f64 {
        self.values.iter().copied().fold(f64::NAN, f64::max)
    }

    /// This less another that was measured in the same rounds, round by round.
    pub fn less(&self, other: &Self) -> Self {
        Self { values: self.values.iter().zip(&other.values).map(|(one, other)| one - other).collect() }
    }

    /// This over another that was measured in the same rounds. The interval is that of a bootstrap over rounds, so what
    /// made a whole round slow does not widen it.
    pub fn ratio(&self, other: &Self) -> Ratio {
        const RESAMPLES: usize = 2_000;
        let rounds = self.values.len().min(other.values.len());
        let mut random = fastrand::Rng::with_seed(1);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let (mut ours, mut theirs): (Vec<f64>, Vec<f64>) = (0..rounds)
                    .map(|_| random.usize(..rounds))
                    .map(|round| (self.values[round], other.values[round]))
                    .unzip();
                median(&mut ours) / median(&mut theirs)
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| ratios[(share * (RESAMPLES - 1) as f64) as usize];
        Ratio { median: self.median() / other.median(), low: at(0.025), high: at(0.975) }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Measures contenders in interleaved rounds: in their order, then in the opposite order, and so on (ABBA), so that
/// a machine that drifts treats all alike. `round` is told the number of each round before it starts.
///
/// # Errors
/// The first that a measurement gives.
pub fn interleave<C>(
    contenders: &mut [C],
    rounds: usize,
    mut measure: impl FnMut(&mut C) -> Result<f64>,
    mut round: impl FnMut(usize),
) -> Result<Vec<Samples>> {
    let mut samples = vec![Samples::default(); contenders.len()];
    for n in 0..rounds {
        round(n);
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if n % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            samples[contender].values.push(measure(&mut contenders[contender])?);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples { values: values.to_vec() }
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(samples(&[]).median().is_nan());
        let values = samples(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((values.quantile(0.1), values.quantile(0.5), values.quantile(1.0)), (1.0, 3.0, 5.0));
        assert_eq!((values.min(), values.max()), (1.0, 5.0));
    }

    #[test]
    fn a_slow_round_does_not_change_a_ratio() {
        let one = samples(&[10.0, 30.0, 10.0, 20.0]);
        let two = samples(&[20.0, 60.0, 20.0, 40.0]);
        let ratio = two.ratio(&one);
        assert_eq!(ratio.median, 2.0);
        assert!(ratio.low <= 2.0 && ratio.high >= 2.0 && ratio.low > 0.5 && ratio.high < 6.0, "{ratio:?}");
    }

    #[test]
    fn rounds_go_there_and_back() {
        let mut order = Vec::new();
        let samples = interleave(
            &mut ["a", "b"],
            2,
            |name| {
                order.push(*name);
                Ok(order.len() as f64)
            },
            |_| {},
        )
        .unwrap();
        assert_eq!(order, ["a", "b", "b", "a"]);
        assert_eq!(samples[0].values, [1.0, 4.0]);
    }
}
