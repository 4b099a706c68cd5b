//! Reads the Prometheus text format: a few wanted families out of a long page.
//!
//! An engine's page has some 50 KB and 600 series, of which a picker needs a dozen. A line is looked at
//! only as far as is needed to see that its name is not wanted; labels are taken apart on demand. Pages
//! are bytes: they come from a socket and may hold anything.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::borrow::Cow;

use crate::hash;

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
    /// The lengths of wanted names, as bits: most lines are known by the length of their name to be others.
    lengths: u128,
    malformed: usize,
}

impl<'p, 'w> Samples<'p, 'w> {
    /// Reads `page` for samples whose name is one of `wanted`.
    pub fn new(page: &'p [u8], wanted: &'w [&'w str]) -> Samples<'p, 'w> {
        let lengths = wanted.iter().fold(0, |lengths, name| lengths | length_bit(name.len()));
        Samples { rest: page, wanted, lengths, malformed: 0 }
    }

    /// How many lines with a wanted name could not be read so far.
    pub fn malformed(&self) -> usize {
        self.malformed
    }

    /// The next line; the last one may have no line feed.
    fn next_line(&mut self) -> Option<&'p [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line.trim_ascii())
    }

    fn wanted_name(&self, line: &[u8]) -> Option<&'w str> {
        if line.first() == Some(&b'#') {
            return None;
        }
        let length = memchr::memchr3(b'{', b' ', b'\t', line)?;
        if self.lengths & length_bit(length) == 0 {
            return None;
        }
        let name = line.get(..length)?;
        self.wanted.iter().copied().find(|wanted| wanted.as_bytes() == name)
    }
}

/// A length as a bit; the long ones share the last.
fn length_bit(length: usize) -> u128 {
    1 << length.min(127)
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
    /// A hash of all labels but those of one name. Equal sets have equal hashes, in whatever order they come.
    pub fn hash_without(&self, left_out: &str) -> u64 {
        let mut sum = 0u64;
        let mut rest = self.text;
        while let Some((key, raw, tail)) = label(rest) {
            if key != left_out {
                sum = sum.wrapping_add(hash::combine(hash::bytes(key.as_bytes()), hash::bytes(raw.as_bytes())));
            }
            rest = tail;
        }
        sum
    }

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
    let (labels, rest) = match rest.trim_start().strip_prefix('{') {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use expect_test::{Expect, expect};

    fn check(page: &str, wanted: &[&str], expected: Expect) {
        let mut samples = Samples::new(page.as_bytes(), wanted);
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
        let sample = Samples::new(page.as_bytes(), &["m"]).next().unwrap();
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
    fn blanks_and_the_last_line_feed_may_be_where_they_like() {
        check(
            "  m 1\n\tm {a=\"b\"} 2\nm\t{a=\"b\"}\t3 \r\n\n   \nm   4",
            &["m"],
            expect![[r#"
                m {} 1
                m {a="b"} 2
                m {a="b"} 3
                m {} 4
                malformed 0"#]],
        );
        check("", &["m"], expect!["malformed 0"]);
    }

    #[test]
    fn labels_hash_alike_in_any_order() {
        let hash = |line: &str| Samples::new(line.as_bytes(), &["m"]).next().unwrap().labels.hash_without("pid");
        let alike = [
            r#"m{a="1",b="2"} 0"#,
            r#"m{b="2",a="1",} 0"#,
            r#"m{b="2",pid="7",a="1"} 0 # {x="y"} 1"#,
            r#"m{ pid = "8" , a="1" , b = "2"} 0"#,
        ];
        assert!(alike.iter().all(|line| hash(line) == hash(alike[0])));
        let others = [r#"m{a="2",b="1"} 0"#, r#"m{a="1"} 0"#, "m 0", r#"m{a="1",b="2",c="3"} 0"#];
        assert!(others.iter().all(|line| hash(line) != hash(alike[0])));
        assert_eq!(hash("m 0"), hash(r#"m{pid="1"} 0"#));
    }

    #[test]
    fn a_line_that_is_not_utf_8_spoils_itself_only() {
        let page = b"m{a=\"\xff\"} 1\nm 2\n\xff\xfe 3\n";
        let mut samples = Samples::new(page, &["m"]);
        assert_eq!(samples.next().unwrap().value, 2.0);
        assert!(samples.next().is_none());
        assert_eq!(samples.malformed(), 1);
    }
}
