//! Eight bytes at a time: Wasm has 64-bit arithmetic whatever its pointers' size, and strings between two escapes are too short for
//! a vector search to pay.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// The length of a string whose opening quote is passed, up to its closing one.
pub(super) fn string_length(text: &[u8]) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    // Whether the next byte is escaped, and so neither ends the string nor escapes another.
    let mut is_escaped = false;
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let first = maybe(word, b'"') | maybe(word, b'\\');
        if first == 0 {
            is_escaped = false;
            continue;
        }
        // Mostly it is the end. The test is exact for the first byte that it finds.
        let bit = first.trailing_zeros();
        if !is_escaped && (word >> (bit - 7)) as u8 == b'"' {
            return Some(index * 8 + bit as usize / 8);
        }
        let (quotes, slashes) = (each(word, b'"'), each(word, b'\\'));
        let mut marks = quotes | slashes;
        if is_escaped {
            marks &= !0xff;
            is_escaped = false;
        }
        while marks != 0 {
            let bit = marks.trailing_zeros();
            if quotes >> bit & 1 == 1 {
                return Some(index * 8 + bit as usize / 8);
            }
            // The slash is the last byte: what it escapes is in the next word.
            is_escaped = bit == 63;
            // Its own bit, and that of the byte behind it.
            marks &= !(0x101 << bit);
        }
    }
    for (index, byte) in rest.iter().enumerate() {
        match (is_escaped, byte) {
            (true, _) => is_escaped = false,
            (false, b'"') => return Some(words.len() * 8 + index),
            (false, b'\\') => is_escaped = true,
            (false, _) => {}
        }
    }
    None
}

/// Whether all bytes are such as numbers have, commas or spaces.
pub(super) fn are_numbers(word: [u8; 8]) -> bool {
    let word = u64::from_le_bytes(word);
    // Most lists are of digits and commas.
    if is_from_plus_to_nine(word) {
        return each(word, b'/') == 0;
    }
    // A plus for each letter and space; an E and an e differ in one bit, which no other of these bytes has changed by it.
    let letters = each(word | (ONES * 0x20), b'e');
    let others = (letters | each(word, b' ')) >> 7;
    let word = (word & !(others * 0xff)) | (others * u64::from(b'+'));
    is_from_plus_to_nine(word) && each(word, b'/') == 0
}

/// Whether all bytes are such as numbers have.
pub(super) fn are_of_number(word: [u8; 8]) -> bool {
    let bytes = u64::from_le_bytes(word);
    each(bytes, b',') | each(bytes, b' ') == 0 && are_numbers(word)
}

/// The marks from the plus to the nine: `+,-./` and digits.
fn is_from_plus_to_nine(word: u64) -> bool {
    let too_large = word.wrapping_add(ONES * u64::from(0x80 - b':')) & HIGHS;
    let large_enough = (word | HIGHS).wrapping_sub(ONES * u64::from(b'+')) & HIGHS;
    (word & HIGHS) | too_large == 0 && large_enough == HIGHS
}

/// Whether all bytes are white space.
pub(super) fn are_spaces(word: [u8; 8]) -> bool {
    let word = u64::from_le_bytes(word);
    each(word, b' ') | each(word, b'\n') | each(word, b'\r') | each(word, b'\t') == HIGHS
}

/// Mycroft's test: not 0 if a byte is this one, and cheap.
fn maybe(word: u64, byte: u8) -> u64 {
    let word = word ^ (ONES * u64::from(byte));
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// The high bit of each byte that is this one, and no other.
pub(in crate::scan) fn each(word: u64, byte: u8) -> u64 {
    let word = word ^ (ONES * u64::from(byte));
    !(((word & !HIGHS) + !HIGHS) | word) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// Every byte in every place, among others that are nearly it.
    #[test]
    fn words_are_told_as_bytes_are() {
        for byte in 0..=u8::MAX {
            for at in 0..8 {
                for filling in [b'0', b'9', b',', b' ', b'E', b'"', b'\\', b'\n', 0x80, 0x7f] {
                    let mut word = [filling; 8];
                    word[at] = byte;
                    let is_number = |byte: u8| matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E' | b'0'..=b'9');
                    let is_of_list = |byte: u8| is_number(byte) || matches!(byte, b' ' | b',');
                    assert_eq!(are_numbers(word), word.iter().all(|byte| is_of_list(*byte)), "{word:?}");
                    assert_eq!(are_of_number(word), word.iter().all(|byte| is_number(*byte)), "{word:?}");
                    let is_space = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
                    assert_eq!(are_spaces(word), word.iter().all(|byte| is_space(*byte)), "{word:?}");
                    let found = each(u64::from_le_bytes(word), byte).to_le_bytes();
                    assert!(word.iter().zip(found).all(|(one, bit)| (*one == byte) == (bit == 0x80)), "{word:?}");
                }
            }
        }
    }

    #[test]
    fn a_string_ends_at_the_first_quote_that_is_not_escaped() {
        for before in 0..20 {
            for slashes in 0..20 {
                let text = "a".repeat(before) + &"\\".repeat(slashes) + "\"" + &"b\"".repeat(9);
                let first = before + slashes;
                let wanted = if slashes % 2 == 0 { first } else { first + 2 };
                assert_eq!(string_length(text.as_bytes()), Some(wanted), "{text}");
            }
        }
        assert_eq!(string_length(b"abcdefgh\\\""), None);
    }
}
