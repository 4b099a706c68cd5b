//! What others have written, in a form that is safe to show: in filter state, logs, notices, metrics and error messages.
//!
//! A model's name, a content coding or an expression's error may repeat whatever a client has sent. Written as it came, a line
//! feed would forge a line of a log, a quote or a semicolon a field or a label, an escape code would speak to a terminal, and
//! U+2028 or a bidirectional override would deceive the eye. So everything but letters, digits and a few marks is written as
//! the bytes of its UTF-8 in percent-encoding, and there is a bound on the length. What engines get is never changed by this.

use std::fmt::Write;

/// The most bytes of a [`token`]: longer than any name that is configured in earnest, short in a log line.
const MAX_TOKEN: usize = 128;
/// The most bytes of a [`line`]: an expression's error with its place.
const MAX_LINE: usize = 512;
/// What follows a text that was cut.
const CUT: &str = "...";

/// One word: letters and digits of all scripts, and the marks that names of models have. It can neither end a field nor a label.
pub fn token(text: impl AsRef<[u8]>) -> String {
    show(text.as_ref(), MAX_TOKEN, is_plain_char)
}

/// One line: a word's characters, spaces, and ASCII punctuation.
pub fn line(text: impl AsRef<[u8]>) -> String {
    show(text.as_ref(), MAX_LINE, |char| is_plain_char(char) || char == ' ' || char.is_ascii_punctuation())
}

/// Whether a text is its own [`token`].
pub fn is_plain(text: &str) -> bool {
    text.len() <= MAX_TOKEN && text.chars().all(is_plain_char)
}

/// Whether a character cannot be seen, or changes how others are seen: Unicode's control and format characters, and its
/// separators of lines and paragraphs.
pub fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

fn is_plain_char(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '-' | '_' | '.' | '/' | ':' | '@' | '+' | '~')
}

fn show(text: &[u8], limit: usize, keeps: impl Fn(char) -> bool) -> String {
    let mut shown = String::new();
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            let start = shown.len();
            if keeps(char) {
                shown.push(char);
            } else {
                encode(char.encode_utf8(&mut [0; 4]).as_bytes(), &mut shown);
            }
            if shown.len() > limit {
                shown.truncate(start);
                return shown + CUT;
            }
        }
        let start = shown.len();
        encode(chunk.invalid(), &mut shown);
        if shown.len() > limit {
            shown.truncate(start);
            return shown + CUT;
        }
    }
    shown
}

fn encode(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "%{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn names_stay_as_they_are() {
        for name in ["Qwen/Qwen3-32B", "org/model:rev@sha", "gpt-4o-mini", "通义千问", "модель_1", "a~b+c", ""]
        {
            assert_eq!(token(name), name);
            assert!(is_plain(name));
        }
    }

    #[test]
    fn what_forges_is_encoded() {
        for (text, wanted) in [
            ("x end\n200 model=forged", "x%20end%0A200%20model%3Dforged"),
            ("\u{1b}[31mred", "%1B%5B31mred"),
            ("a;pool=b", "a%3Bpool%3Db"),
            ("\"}{'\\|,", "%22%7D%7B%27%5C%7C%2C"),
            ("a\u{2028}b\u{2029}c", "a%E2%80%A8b%E2%80%A9c"),
            ("\u{202e}nimda\u{2066}", "%E2%80%AEnimda%E2%81%A6"),
            ("\u{85}\u{9b}\u{7f}\0", "%C2%85%C2%9B%7F%00"),
            ("\u{feff}a\u{200b}b\u{ad}", "%EF%BB%BFa%E2%80%8Bb%C2%AD"),
            ("100%0A", "100%250A"),
        ] {
            assert_eq!(token(text), wanted);
            assert!(!is_plain(text), "{text:?}");
        }
        assert_eq!(token(b"a\xff\xe2\x80b"), "a%FF%E2%80b");
        assert_eq!(
            line("no such key: \"a\"\r\n\u{1b}]0;x\u{7}\u{2028}"),
            "no such key: \"a\"%0D%0A%1B]0;x%07%E2%80%A8"
        );
    }

    #[test]
    fn the_length_is_bounded_and_no_code_is_cut() {
        for text in ["x".repeat(1 << 20), "\n".repeat(1 << 20), "\u{2028}".repeat(1 << 20), "é".repeat(1 << 20)] {
            let shown = token(&text);
            assert!(shown.len() <= MAX_TOKEN + CUT.len() && shown.ends_with(CUT), "{shown}");
            let digits = shown.trim_end_matches(CUT).rsplit('%').next().unwrap_or_default();
            assert!(!shown.contains('%') || digits.len() == 2, "{shown}");
            assert!(line(&text).len() <= MAX_LINE + CUT.len());
        }
        let exact = "x".repeat(MAX_TOKEN);
        assert_eq!(token(&exact), exact);
    }
}
