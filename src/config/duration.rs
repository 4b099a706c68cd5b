//! Durations as the Gateway API writes them (GEP-2257): `"200ms"`, `"1s"`, `"1m30s"`.

use std::fmt;
use std::time::Duration;

/// A duration that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationError;

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"not a duration: write up to four of a number of at most five digits and h, m, s or ms, such as "200ms" or "1m30s""#)
    }
}

impl std::error::Error for DurationError {}

/// Parses up to four pairs of a number and a unit, such as `1m30s`.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut pairs = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or(DurationError)?;
        if number.len() > 5 || pairs == 4 {
            return Err(DurationError);
        }
        let number: u64 = number.parse().map_err(|_not_a_number| DurationError)?;
        // "ms" before "m": the longer unit would otherwise be read as minutes.
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (tail, scale) = units
            .iter()
            .find_map(|(unit, scale)| tail.strip_prefix(unit).map(|tail| (tail, *scale)))
            .ok_or(DurationError)?;
        total += Duration::from_millis(number * scale);
        rest = tail;
        pairs += 1;
    }
    if pairs == 0 { Err(DurationError) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn reads_what_the_gateway_api_allows_and_nothing_else() {
        let millis = |text: &str| parse(text).ok().map(|duration| duration.as_millis());
        assert_eq!(millis("200ms"), Some(200));
        assert_eq!(millis("1m30s"), Some(90_000));
        assert_eq!(millis("1h1m1s1ms"), Some(3_661_001));
        assert_eq!(millis("0s"), Some(0));
        for bad in ["", "1", "ms", "1.5s", "-1s", " 1s", "1s ", "100000s", "1d", "1s1s1s1s1s", "1 s"] {
            assert_eq!(millis(bad), None, "{bad:?}");
        }
    }
}
