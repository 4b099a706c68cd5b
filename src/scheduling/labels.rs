//! What endpoints' labels say to a pool's filters and scorers: worked out when an endpoint becomes known, not for each pick.

use std::collections::BTreeMap;

/// Labels by which filters and scorers tell endpoints of a pool apart.
pub type Labels = BTreeMap<String, String>;

/// More selectors than anybody writes; each is a bit of [`Traits::selected`].
pub const MAX_SELECTORS: usize = 32;

/// The label that says for which prompts an endpoint is meant: `MIN-MAX` in tokens.
pub const CONTEXT_LENGTH: &str = "llm-d.ai/context-length-range";

/// What an endpoint's labels say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Bit n is set where it has all labels of the profile's n-th selector.
    pub selected: u32,
    /// The lengths of the prompts that it is meant for, in tokens, both ends included.
    pub context_length: Option<(u32, u32)>,
}

impl Traits {
    /// What `labels` say, by a profile's selectors.
    pub fn new(labels: &Labels, selectors: &[Labels]) -> Traits {
        let mut selected = 0;
        for (bit, selector) in selectors.iter().take(MAX_SELECTORS).enumerate() {
            let has_all = selector.iter().all(|(name, value)| labels.get(name) == Some(value));
            selected |= u32::from(has_all) << bit;
        }
        Traits { selected, context_length: labels.get(CONTEXT_LENGTH).and_then(|value| parse_range(value)) }
    }
}

/// The range in a label's value.
pub fn parse_range(value: &str) -> Option<(u32, u32)> {
    let (least, most) = value.split_once('-')?;
    let range = (least.trim().parse().ok()?, most.trim().parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_selector_wants_all_of_its_labels() {
        let selectors = [labels(&[("a", "1")]), labels(&[("a", "1"), ("b", "2")]), labels(&[("c", "3")])];
        let traits = |pairs: &[(&str, &str)]| Traits::new(&labels(pairs), &selectors);
        assert_eq!(traits(&[]), Traits::default());
        assert_eq!(traits(&[("a", "1"), ("c", "4")]).selected, 0b001);
        assert_eq!(traits(&[("a", "1"), ("b", "2"), ("c", "3")]).selected, 0b111);
        assert_eq!(traits(&[(CONTEXT_LENGTH, "0-2048")]).context_length, Some((0, 2048)));
        assert_eq!(traits(&[(CONTEXT_LENGTH, "long")]), Traits::default());
    }

    #[test]
    fn a_range_has_two_ends() {
        assert_eq!(parse_range("0-2048"), Some((0, 2048)));
        for bad in ["", "7", "9-3", "a-b", "-5"] {
            assert_eq!(parse_range(bad), None, "{bad:?}");
        }
    }
}
