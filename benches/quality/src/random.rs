//! Seeded randomness: the same seed gives the same run on every machine.
//!
//! The generator is SplitMix64: one multiplication chain for each draw, and seeds that are close to each other give
//! streams that aren't.

use std::time::Duration;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The stream of a seed and a purpose, independent of the seed's other purposes.
    pub fn with_purpose(seed: u64, purpose: u64) -> Random {
        let mut outer = Random { state: purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        Random { state: outer.bits() ^ seed.wrapping_mul(0xd134_2543_de82_ef95) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Evenly from 0 up to but not 1.
    pub fn even(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly from 0 up to but not `bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.even() * bound as f64) as usize
    }

    /// Evenly from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.even()).ln()
    }

    /// Log-normal with this mean; `sigma` is the standard deviation of its logarithm.
    pub fn log_normal(&mut self, mean: f64, sigma: f64) -> f64 {
        (mean.ln() - sigma * sigma / 2.0 + sigma * self.normal()).exp()
    }

    /// A log-normal length of at least `low` and at most `high`.
    pub fn length(&mut self, mean: f64, sigma: f64, low: usize, high: usize) -> usize {
        (self.log_normal(mean, sigma).round() as usize).clamp(low, high)
    }

    /// A log-normal time.
    pub fn time(&mut self, mean: Duration, sigma: f64) -> Duration {
        Duration::from_secs_f64(self.log_normal(mean.as_secs_f64(), sigma))
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.even()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.even()).cos()
    }
}

/// Draws ranks from 0 with Zipf's frequencies.
#[derive(Clone, Debug)]
pub struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    /// Ranks below `count`; the frequency of the n-th, from 1, is proportional to `1 / n^exponent`.
    pub fn new(count: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let cumulative = (1..=count)
            .map(|rank| {
                sum += 1.0 / (rank as f64).powf(exponent);
                sum
            })
            .collect();
        Zipf { cumulative }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let wanted = random.even() * total;
        self.cumulative.partition_point(|sum| *sum <= wanted).min(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distributions_have_their_means() {
        let mut random = Random::new(1);
        let count = 200_000;
        let mean = |total: f64| total / f64::from(count);
        assert!((mean((0..count).map(|_| random.even()).sum()) - 0.5).abs() < 0.005);
        assert!((mean((0..count).map(|_| random.exponential(3.0)).sum()) - 3.0).abs() < 0.03);
        assert!((mean((0..count).map(|_| random.log_normal(120.0, 0.6)).sum()) - 120.0).abs() < 1.5);
    }

    #[test]
    fn zipf_prefers_low_ranks_in_proportion() {
        let zipf = Zipf::new(4, 1.0);
        let mut random = Random::new(2);
        let mut counts = [0; 4];
        for _ in 0..25_000 {
            counts[zipf.draw(&mut random)] += 1;
        }
        // 12 : 6 : 4 : 3 of 25.
        for (count, wanted) in counts.iter().zip([12_000, 6_000, 4_000, 3_000]) {
            assert!(i32::abs_diff(*count, wanted) < 300, "{counts:?}");
        }
    }
}
