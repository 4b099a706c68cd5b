//! Names a metric, or those of its series that have one label's value: `name` or `name{label=value}`.

use std::borrow::Cow;
use std::fmt;

use crate::exposition::Sample;

/// Which series of which family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    name: Cow<'static, str>,
    label: Option<(Cow<'static, str>, Cow<'static, str>)>,
}

/// A text that names no metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    text: String,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a metric: write name or name{{label=value}}", self.text)
    }
}

impl std::error::Error for SelectorError {}

impl Selector {
    /// Parses `name` or `name{label=value}`; the value may stand in quotes.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let error = || SelectorError { text: text.to_owned() };
        let (name, label) = match text.split_once('{') {
            None => (text, None),
            Some((name, rest)) => {
                let (key, value) = rest.strip_suffix('}').and_then(|pair| pair.split_once('=')).ok_or_else(error)?;
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                if !is_name(key) || value.contains(['"', '\\']) {
                    return Err(error());
                }
                (name, Some((Cow::Owned(key.to_owned()), Cow::Owned(value.to_owned()))))
            }
        };
        if !is_name(name) {
            return Err(error());
        }
        Ok(Selector { name: Cow::Owned(name.to_owned()), label })
    }

    pub(super) const fn of(name: &'static str) -> Selector {
        Selector { name: Cow::Borrowed(name), label: None }
    }

    pub(super) const fn with(name: &'static str, key: &'static str, value: &'static str) -> Selector {
        Selector { name: Cow::Borrowed(name), label: Some((Cow::Borrowed(key), Cow::Borrowed(value))) }
    }

    /// The same with an underscore for each colon of the name; `None` when it has none.
    pub(super) fn underscored(&self) -> Option<Selector> {
        let name = Cow::Owned(self.name.replace(':', "_"));
        self.name.contains(':').then(|| Selector { name, label: self.label.clone() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn matches(&self, sample: &Sample<'_>) -> bool {
        sample.name == self.name
            && self.label.as_ref().is_none_or(|(key, value)| sample.labels.value(key).as_deref() == Some(value))
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_' || first == b':')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn mistakes_are_refused() {
        for bad in ["", "1a", "a b", "a{", "a{}", "a{b}", "a{=c}", "a{b=c", "a{b=\"c}", "a{b=c}d"] {
            assert!(Selector::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Selector::parse("vllm:num_requests_waiting").is_ok());
    }
}
