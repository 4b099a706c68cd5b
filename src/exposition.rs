//! Reads the Prometheus text format: a few wanted families out of a long page.
//!
//! An engine's page has some 50 KB and 600 series, of which a picker needs a dozen. A line is looked at
//! only as far as is needed to see that its name is not wanted; labels are taken apart on demand. Pages
//! are bytes: they come from a socket and may hold anything.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::borrow::Cow;

/// Why a page as a whole cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// The last line has no line feed: the page was cut off, and what is missing might matter.
    Truncated,
    /// The page is empty.
    Empty,
}

/// One sample of a wanted family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'p> {
    /// The family's name.
    pub name: &'p str,
    /// Its labels.
    pub labels: Labels<'p>,
    /// Its value; may be infinite or NaN.
    pub value: f64,
}

/// The text between a sample's braces.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Labels<'p> {
    text: &'p str,
}

/// Walks over the wanted samples of a page, in the page's order.
#[derive(Debug)]
pub struct Samples<'p, 'w> {
    rest: &'p [u8],
    wanted: &'w [&'w str],
    common_prefix: &'w [u8],
    malformed: usize,
}

impl<'p, 'w> Samples<'p, 'w> {
    /// Reads `page` for samples whose name is one of `wanted`.
    pub fn new(page: &'p [u8], wanted: &'w [&'w str]) -> Result<Samples<'p, 'w>, PageError> {
        match page.last() {
            None => Err(PageError::Empty),
            Some(b'\n') => Ok(Samples { rest: page, wanted, common_prefix: common_prefix(wanted), malformed: 0 }),
            Some(_) => Err(PageError::Truncated),
        }
    }

    /// How many lines with a wanted name could not be read so far.
    pub fn malformed(&self) -> usize {
        self.malformed
    }

    fn next_line(&mut self) -> Option<&'p [u8]> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn wanted_name(&self, line: &[u8]) -> Option<&'w str> {
        if !line.starts_with(self.common_prefix) {
            return None;
        }
        let length = line.iter().position(|byte| matches!(byte, b'{' | b' ' | b'\t'))?;
        let name = line.get(..length)?;
        self.wanted.iter().copied().find(|wanted| wanted.as_bytes() == name)
    }
}

impl<'p> Iterator for Samples<'p, '_> {
    type Item = Sample<'p>;

    fn next(&mut self) -> Option<Sample<'p>> {
        loop {
            let line = self.next_line()?;
            let Some(wanted) = self.wanted_name(line) else { continue };
            match std::str::from_utf8(line).ok().and_then(|line| sample(line, wanted.len())) {
                Some(sample) => return Some(sample),
                None => self.malformed += 1,
            }
        }
    }
}

impl<'p> Labels<'p> {
    /// The value of a label; `None` when the sample has no such label.
    pub fn value(&self, name: &str) -> Option<Cow<'p, str>> {
        let mut rest = self.text;
        while let Some((key, raw, tail)) = label(rest) {
            if key == name {
                return Some(unescape(raw));
            }
            rest = tail;
        }
        None
    }
}

/// A line's sample, given how long its name is.
fn sample(line: &str, name_length: usize) -> Option<Sample<'_>> {
    let (name, rest) = line.split_at_checked(name_length)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let mut tail = inside;
            while let Some((_, _, next)) = label(tail) {
                tail = next;
            }
            let after = tail.trim_start().strip_prefix('}')?;
            let labels = inside.get(..inside.len() - tail.len())?;
            (Labels { text: labels }, after)
        }
        None => (Labels::default(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// The first `name="value"` of a label list, and what follows it and its comma.
fn label(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start();
    // Past the closing brace an exemplar may follow, with labels that are not the sample's.
    if text.starts_with('}') {
        return None;
    }
    let (key, rest) = text.split_once('=')?;
    let value = rest.trim_start().strip_prefix('"')?;
    let mut at = 0;
    loop {
        let found = memchr::memchr2(b'"', b'\\', value.as_bytes().get(at..)?)?;
        if value.as_bytes().get(at + found) == Some(&b'"') {
            at += found;
            break;
        }
        at += found + 2;
    }
    let (value, rest) = value.split_at_checked(at)?;
    let rest = rest.strip_prefix('"')?;
    Some((key.trim_end(), value, rest.trim_start().strip_prefix(',').unwrap_or(rest)))
}

fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some(escaped) => text.push(escaped),
                None => {}
            },
            _ => text.push(char),
        }
    }
    Cow::Owned(text)
}

fn common_prefix<'w>(names: &'w [&'w str]) -> &'w [u8] {
    let Some((first, others)) = names.split_first() else { return &[] };
    let shared = |other: &str| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let length = others.iter().map(|other| shared(other)).min().unwrap_or(first.len());
    first.as_bytes().get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use expect_test::{Expect, expect};

    fn check(page: &str, wanted: &[&str], expected: Expect) {
        let mut samples = match Samples::new(page.as_bytes(), wanted) {
            Ok(samples) => samples,
            Err(error) => return expected.assert_eq(&format!("{error:?}")),
        };
        let mut text = String::new();
        for sample in samples.by_ref() {
            text.push_str(&format!("{} {{{}}} {}\n", sample.name, sample.labels.text, sample.value));
        }
        text.push_str(&format!("malformed {}", samples.malformed()));
        expected.assert_eq(&text);
    }

    #[test]
    fn names_match_whole_and_values_take_every_form() {
        check(
            "# HELP q waiting\n# TYPE q gauge\nq 1\nq_total 2\nq{a=\"b\"} 1.5e3 1700000000000\nq NaN\nq +Inf # {x=\"y\"} 1\nq\t-0\r\n",
            &["q"],
            expect![[r#"
                q {} 1
                q {a="b"} 1500
                q {} NaN
                q {} inf
                q {} -0
                malformed 0"#]],
        );
    }

    #[test]
    fn braces_commas_and_quotes_may_stand_in_a_label() {
        let page = "m{a=\"}\",b=\"x,\\\"y\\\" \\\\ \\n\", c = \"d\" ,} 4\n";
        check(
            page,
            &["m"],
            expect![[r#"
            m {a="}",b="x,\"y\" \\ \n", c = "d" ,} 4
            malformed 0"#]],
        );
        let sample = Samples::new(page.as_bytes(), &["m"]).unwrap().next().unwrap();
        assert_eq!(sample.labels.value("b").as_deref(), Some("x,\"y\" \\ \n"));
        assert_eq!(sample.labels.value("c").as_deref(), Some("d"));
        assert_eq!(sample.labels.value("x"), None);
    }

    #[test]
    fn broken_lines_are_counted_and_the_rest_is_read() {
        check(
            "m{a=\"b} 1\nm{a=b} 1\nm{} \nm x\nm 1\nother{{{ 1\nm{a=\"\\\n",
            &["m"],
            expect![[r#"
                m {} 1
                malformed 5"#]],
        );
    }

    #[test]
    fn half_a_page_is_not_a_page() {
        check("m 1\nm 1", &["m"], expect!["Truncated"]);
        check("", &["m"], expect!["Empty"]);
    }

    #[test]
    fn a_line_that_is_not_utf_8_spoils_itself_only() {
        let page = b"m{a=\"\xff\"} 1\nm 2\n\xff\xfe 3\n";
        let mut samples = Samples::new(page, &["m"]).unwrap();
        assert_eq!(samples.next().unwrap().value, 2.0);
        assert!(samples.next().is_none());
        assert_eq!(samples.malformed(), 1);
    }
}
