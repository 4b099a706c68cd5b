//! The names of members, without their quotes and escapes.

use super::unescape;

/// Longer than any name that is looked for, in bytes.
const MAX_KEY: usize = 128;

/// A name that had escapes, or room for one.
pub(crate) struct LongKey([u8; MAX_KEY]);

impl Default for LongKey {
    fn default() -> LongKey {
        LongKey([0; MAX_KEY])
    }
}

/// A key without its quotes and escapes, in `room` where it has any. A key that cannot be unescaped, or is longer than any that is
/// looked for, stands for itself. Nothing is allocated: a body may have a million of them.
pub(crate) fn unescape_key<'k>(key: &'k [u8], room: &'k mut LongKey) -> &'k [u8] {
    let inner = key.get(1..key.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return inner;
    }
    // Six bytes of escapes are one of text at least.
    if inner.len() > MAX_KEY * 6 {
        return inner;
    }
    match short(inner, &mut room.0) {
        Some(length) => room.0.get(..length).unwrap_or_default(),
        None => match unescape(key) {
            Some(text) if text.len() <= MAX_KEY => {
                let length = text.len();
                for (slot, byte) in room.0.iter_mut().zip(text.bytes()) {
                    *slot = byte;
                }
                room.0.get(..length).unwrap_or_default()
            }
            _ => inner,
        },
    }
}

/// The length of a key that has escapes of ASCII alone, written into `room`.
fn short(inner: &[u8], room: &mut [u8; MAX_KEY]) -> Option<usize> {
    let mut slots = room.iter_mut();
    let mut length = 0;
    let mut rest = inner;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, used) = match rest {
            [b'\\', b'u', b'0', b'0', high, low, ..] => {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                let byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
                (Some(byte).filter(u8::is_ascii)?, 6)
            }
            [b'\\', mark @ (b'"' | b'\\' | b'/'), ..] => (*mark, 2),
            [b'\\', ..] => return None,
            _ => (*byte, 1),
        };
        *slots.next()? = byte;
        length += 1;
        rest = after.get(used - 1..)?;
    }
    Some(length)
}
