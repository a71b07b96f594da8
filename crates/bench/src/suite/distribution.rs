//! Distributions of touches over keys, and seeded draws from them.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// How touches spread over keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Distribution {
    /// All keys equally likely.
    Uniform,
    /// A key of rank `r`, from 1, has a weight of `r` to the power of minus this exponent.
    Zipf(f64),
    /// A fraction `keys` of the keys gets the share `share` of the touches.
    Hotspot { keys: f64, share: f64 },
}

impl Distribution {
    /// Returns the weights of ranks 1 to `count`.
    fn weights(self, count: u32) -> impl Iterator<Item = f64> {
        let hot = match self {
            Self::Hotspot { keys, .. } => (f64::from(count) * keys).ceil(),
            _ => 0.0,
        };
        (0..count).map(f64::from).map(move |rank| match self {
            Self::Uniform => 1.0,
            Self::Zipf(theta) => (rank + 1.0).powf(-theta),
            Self::Hotspot { share, .. } if rank < hot => share / hot,
            Self::Hotspot { share, .. } => (1.0 - share) / (f64::from(count) - hot),
        })
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
        let share = |text: &str| number(text).filter(|share| *share < 1.0);
        let parsed = match text.split(':').collect::<Vec<_>>()[..] {
            ["uniform"] => Some(Self::Uniform),
            ["zipf", theta] => number(theta).map(Self::Zipf),
            ["hotspot", keys, of] => share(keys).zip(share(of)).map(|(keys, share)| Self::Hotspot { keys, share }),
            _ => None,
        };
        parsed.ok_or_else(|| "a distribution is uniform, zipf:THETA, or hotspot:F:P with 0 < F, P < 1".to_owned())
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(theta) => write!(f, "zipf:{theta}"),
            Self::Hotspot { keys, share } => write!(f, "hotspot:{keys}:{share}"),
        }
    }
}

/// Draws positions in `0..count` from a distribution.
///
/// Allocates all memory up front, so that memory measurements are not affected by draws.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Cumulative weights by rank.
    cumulative: Vec<f64>,
    scores: Vec<(f64, u32)>,
    random: Random,
}

impl Sampler {
    pub(super) fn new(distribution: Distribution, count: u32, seed: u64) -> Self {
        let mut sum = 0.0;
        let cumulative = distribution.weights(count).map(|weight| {
            sum += weight;
            sum
        });
        Self { cumulative: cumulative.collect(), scores: vec![(0.0, 0); count as usize], random: Random::new(seed) }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.cumulative.len()).unwrap_or(u32::MAX)
    }

    /// Draws a position; 0 if `count` is 0.
    pub(super) fn draw(&mut self) -> u32 {
        let sum = self.cumulative.last().copied().unwrap_or_default();
        let at = self.random.draw_unit() * sum;
        let rank = self.cumulative.partition_point(|up_to| *up_to <= at);
        scattered(u32::try_from(rank).unwrap_or(u32::MAX).min(self.count().saturating_sub(1)), self.count())
    }

    /// Replaces `positions` by the first `wanted` distinct draws, in draw order.
    ///
    /// # Source
    /// Exponential keys: Efraimidis, Spirakis, IPL 97(5), 2006, doi:10.1016/j.ipl.2005.11.003.
    pub(super) fn draw_distinct(&mut self, wanted: u32, positions: &mut Vec<u32>) {
        let count = self.count();
        let mut before = 0.0;
        for ((score, rank), up_to) in self.scores.iter_mut().zip(&self.cumulative) {
            *score = -(1.0 - self.random.draw_unit()).ln() / (up_to - before);
            before = *up_to;
            *rank = 0;
        }
        (0..).zip(&mut self.scores).for_each(|(rank, score)| score.1 = rank);
        let wanted = wanted.min(count) as usize;
        if let Some(last) = wanted.checked_sub(1) {
            self.scores.select_nth_unstable_by(last, |a, b| a.0.total_cmp(&b.0));
        }
        let first = self.scores.get_mut(..wanted).unwrap_or_default();
        first.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        positions.clear();
        positions.extend(first.iter().map(|(_, rank)| scattered(*rank, count)));
    }
}

/// Returns the position of the key of `rank` among `count`: a bijection that scatters neighbouring ranks, so that hot
/// keys are not loaded next to each other.
fn scattered(rank: u32, count: u32) -> u32 {
    // A prime above `u32::MAX` is coprime with every count; this one (XXH64's first) has no visible pattern.
    const STRIDE: u64 = 0x9e37_79b1_85eb_ca87;
    let position = u128::from(rank) * u128::from(STRIDE) % u128::from(count.max(1));
    u32::try_from(position).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_print_as_they_parse() {
        for name in ["uniform", "zipf:0.99", "hotspot:0.1:0.9"] {
            assert_eq!(name.parse::<Distribution>().unwrap().to_string(), name);
        }
        for name in ["", "zipf:", "zipf:-1", "zipf:nan", "hotspot:0.1", "hotspot:0:0.5", "hotspot:0.1:1", "uniform:1"] {
            assert!(name.parse::<Distribution>().is_err(), "{name}");
        }
    }

    /// Returns how often each of `count` positions is drawn, in descending order.
    fn drawn(distribution: Distribution, count: u32, draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(distribution, count, 7);
        let mut drawn = vec![0; count as usize];
        (0..draws).for_each(|_| drawn[sampler.draw() as usize] += 1);
        drawn.sort_unstable_by(|a, b| b.cmp(a));
        drawn
    }

    #[test]
    fn draws_follow_the_distribution() {
        let uniform = drawn(Distribution::Uniform, 100, 100_000);
        assert!(uniform[0] < 1200 && uniform[99] > 800, "{uniform:?}");
        // The first of 100 ranks has a share of 1 / 5.187, the harmonic sum of 100.
        let zipf = drawn(Distribution::Zipf(1.0), 100, 100_000);
        assert!((18_500..20_100).contains(&zipf[0]), "{zipf:?}");
        assert!((9_000..10_300).contains(&zipf[1]), "{zipf:?}");
        let hotspot = drawn(Distribution::Hotspot { keys: 0.1, share: 0.9 }, 100, 100_000);
        assert!((89_000..91_000).contains(&hotspot[..10].iter().sum::<usize>()), "{hotspot:?}");
    }

    #[test]
    fn distinct_draws_follow_the_distribution() {
        for distribution in [Distribution::Uniform, Distribution::Zipf(0.99)] {
            let mut sampler = Sampler::new(distribution, 1000, 7);
            let mut positions = Vec::new();
            for wanted in [0, 1, 10, 1000, 2000] {
                sampler.draw_distinct(wanted, &mut positions);
                let distinct: BTreeSet<_> = positions.iter().copied().collect();
                assert_eq!((positions.len(), distinct.len()), (wanted.min(1000) as usize, wanted.min(1000) as usize));
            }
            let hottest = scattered(0, 1000);
            let among_ten = (0..100).filter(|_| {
                sampler.draw_distinct(10, &mut positions);
                positions.contains(&hottest)
            });
            let among_ten = among_ten.count();
            assert_eq!(among_ten > 50, distribution != Distribution::Uniform, "{among_ten}");
        }
    }
}
