//! Randomness as an argument: a small trait, and one generator.
//!
//! Ties are broken at random so that equal endpoints share the load. That needs speed and an even spread,
//! not secrecy, so a seeded SplitMix64 does; the host seeds it once per VM.

/// A source of random bits.
pub trait Rng {
    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// An even choice from `0..bound`; zero when `bound` is zero.
    fn below(&mut self, bound: usize) -> usize {
        // The high half of a 64 x 64 bit product is even to within 2^-64 * bound, far below any spread we can see.
        let wide = u128::from(self.next_u64()) * bound as u128;
        (wide >> 64) as usize
    }
}

/// Steele, Lea and Flood's SplitMix64 (OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator whose sequence is fixed by `seed`.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64 { state: seed }
    }
}

impl Rng for SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::hash::mix(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn choices_are_even_and_in_range() {
        let mut rng = SplitMix64::new(7);
        let mut counts = [0u32; 5];
        for _ in 0..50_000 {
            counts[rng.below(5)] += 1;
        }
        // 4.5 sigma of a binomial with n = 50,000 and p = 1/5 is 402.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 402), "{counts:?}");
        assert_eq!(rng.below(0), 0);
    }
}
