//! Points in time, as the host tells them.
//!
//! VMs compare each other's times through shared data, so a point is a wall-clock one: milliseconds since
//! the Unix epoch. Wall clocks may step backwards; differences saturate at zero instead of wrapping.

use std::time::Duration;

/// A wall-clock time in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long after `earlier` this is; zero when the clock went back.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whether `period` has passed since `last`, at this time. A clock that went back is no reason to wait for it.
    pub fn is_due(self, last: Timestamp, period: Duration) -> bool {
        self.since(last) >= period || self < last
    }

    /// This time and `delay` less; the epoch at least.
    pub fn before(self, delay: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(millis(delay)))
    }

    /// This time and `delay` more.
    pub fn after(self, delay: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(millis(delay)))
    }
}

/// A duration in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn a_clock_that_steps_back_makes_no_huge_age() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        let second = Duration::from_secs(1);
        assert!(Timestamp(5).is_due(Timestamp(9), second) && !Timestamp(9).is_due(Timestamp(5), second));
        assert_eq!((Timestamp(5).before(second), Timestamp(1_005).before(second)), (Timestamp(0), Timestamp(5)));
        assert_eq!(Timestamp(u64::MAX).after(Duration::from_secs(1)), Timestamp(u64::MAX));
    }
}
