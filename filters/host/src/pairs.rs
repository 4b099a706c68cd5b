//! Names and values as proxy-wasm writes them: a count, the lengths of each name and value, then those, each with a zero
//! byte at its end. Numbers are 32 bits, little-endian.

/// Reads names and values; `None` for bytes that are cut off. A name that is not UTF-8 is read with replacement characters.
pub(crate) fn parse(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (count, rest) = number(bytes)?;
    let (lengths, mut rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    let mut pairs = Vec::with_capacity(count);
    for lengths in lengths.chunks_exact(8) {
        let (name_length, lengths) = number(lengths)?;
        let (value_length, _) = number(lengths)?;
        let (name, after_name) = text(rest, name_length)?;
        let (value, after_value) = text(after_name, value_length)?;
        rest = after_value;
        pairs.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    Some(pairs)
}

/// Writes names and values.
pub(crate) fn serialize(pairs: &[(&str, &str)]) -> Vec<u8> {
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = length(pairs.len()).to_vec();
    for (name, value) in pairs {
        bytes.extend_from_slice(&length(name.len()));
        bytes.extend_from_slice(&length(value.len()));
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u32::from_le_bytes(*number)).ok()?, rest))
}

/// A text of this length, and what comes after the zero byte at its end.
fn text(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(length)?;
    let (_, rest) = rest.split_first()?;
    Some((text, rest))
}
