//! Reads the target of a request as servers do, and says where they would disagree.
//!
//! Envoy hands a path on as the client wrote it, and what stands behind reads it in its own way: uvicorn and cpp-httplib
//! decode percent-encoding once, proxies merge slashes and resolve dots, others decode twice, cut what follows a semicolon or
//! ignore case. Here is one reading as the engines have it, [`decode`], and one that does everything that some server does,
//! [`loosely`]. Where the two lead to the same place, all servers agree.

use std::borrow::Cow;

/// More rounds of decoding than any chain of servers has.
const MAX_ROUNDS: usize = 8;

/// The path of a target, still encoded, and its query without the question mark. A scheme and an authority in front, as
/// proxies' clients write them, and a fragment behind are left out.
pub fn split(target: &[u8]) -> (&[u8], &[u8]) {
    let target = before(target, b'#');
    let path = before(target, b'?');
    let query = target.get(path.len() + 1..).unwrap_or_default();
    (without_authority(path), query)
}

/// The path with its percent-encoding taken off once. What is no code stands for itself.
pub fn decode(path: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', path).is_none() {
        return Cow::Borrowed(path);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        match code(rest) {
            Some(coded) => {
                decoded.push(coded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    Cow::Owned(decoded)
}

/// A text as one segment of a path, or as a part of one: everything but letters, digits and `-._~` is encoded.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Whether every server reads a path as it stands.
pub fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for byte in path.iter().copied() {
        let is_odd = byte <= b' ' || byte >= 0x7f || byte.is_ascii_uppercase() || matches!(byte, b'%' | b'\\' | b';');
        let is_dot_or_empty = (before == b'/' && matches!(byte, b'/' | b'.')) || (before == b'.' && byte == b'/');
        if is_odd || is_dot_or_empty {
            return false;
        }
        before = byte;
    }
    before != b'.'
}

/// Whether a percent sign in a path begins no code.
pub fn has_bad_code(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| path.get(at..).and_then(code).is_none())
}

/// The path after everything that some server does to one: all rounds of decoding, backslashes as slashes, parameters cut
/// off, slashes merged, dots resolved, and in lower case. It begins with a slash and has none at its end.
pub fn loosely(path: &[u8]) -> Vec<u8> {
    let mut decoded = path.to_vec();
    for _ in 0..MAX_ROUNDS {
        let next = narrow(&decode(&decoded));
        if next == decoded {
            break;
        }
        decoded = next;
    }
    let decoded = before(before(before(&decoded, 0), b'#'), b'?');
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let mut segment = before(segment, b';').to_ascii_lowercase();
        segment.retain(|byte| !byte.is_ascii_control());
        if segment == b".." {
            segments.pop();
            continue;
        }
        while segment.last().is_some_and(|last| matches!(last, b'.' | b' ')) {
            segment.pop();
        }
        if !segment.is_empty() {
            segments.push(segment);
        }
    }
    let mut path = Vec::with_capacity(decoded.len() + 1);
    for segment in segments {
        path.push(b'/');
        path.extend(segment);
    }
    path
}

fn before(text: &[u8], end: u8) -> &[u8] {
    let end = memchr::memchr(end, text).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn without_authority(path: &[u8]) -> &[u8] {
    if path.starts_with(b"/") {
        return path;
    }
    let Some(at) = memchr::memmem::find(path, b"://") else { return path };
    let is_scheme = path.get(..at).is_some_and(|scheme| scheme.iter().all(u8::is_ascii_alphanumeric));
    let rest = path.get(at + 3..).filter(|_| is_scheme);
    let rest = rest.map(|rest| rest.get(before(rest, b'/').len()..).unwrap_or_default());
    rest.unwrap_or(path)
}

/// The byte that a percent sign and two digits stand for.
fn code(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

/// The same with characters of ASCII where some readers see them: in UTF-8 of more bytes than they need, and as `%uXXXX`.
fn narrow(text: &[u8]) -> Vec<u8> {
    let mut narrow = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, length) = match rest {
            [lead @ 0xc0..=0xc1, next @ 0x80..=0xbf, ..] => ((lead & 1) << 6 | (next & 0x3f), 2),
            [0xe0, lead @ 0x80..=0x81, next @ 0x80..=0xbf, ..] => ((lead & 1) << 6 | (next & 0x3f), 3),
            [b'%', b'u' | b'U', b'0', b'0', high, low, ..] => match code(&[b'%', *high, *low]) {
                Some(byte) => (byte, 6),
                None => (b'%', 1),
            },
            _ => (*byte, 1),
        };
        narrow.push(byte);
        rest = after.get(length - 1..).unwrap_or_default();
    }
    narrow
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_target_is_taken_apart() {
        for (target, path, query) in [
            ("/v1/x?a=b?c#d", "/v1/x", "a=b?c"),
            ("/v1/x#a?b", "/v1/x", ""),
            ("http://gateway:80/v1/x?q", "/v1/x", "q"),
            ("https://gateway", "", ""),
            ("/a?u=http://b/c", "/a", "u=http://b/c"),
            ("*", "*", ""),
            ("", "", ""),
        ] {
            let (found, rest) = split(target.as_bytes());
            assert_eq!((text(found), text(rest)), (path.to_owned(), query.to_owned()), "{target}");
        }
    }

    #[test]
    fn codes_are_taken_off_once() {
        for (path, wanted) in
            [("/ch%61t", "/chat"), ("/a%2Fb", "/a/b"), ("/%2561", "/%61"), ("/100%", "/100%"), ("/%zz%4", "/%zz%4")]
        {
            assert_eq!(text(&decode(path.as_bytes())), wanted);
        }
        assert!(has_bad_code(b"/a%") && has_bad_code(b"/%g1/%61") && !has_bad_code(b"/%61%2f"));
        assert_eq!(encode("Qwen/Qwen3 32B:é"), "Qwen%2FQwen3%2032B%3A%C3%A9");
        assert_eq!(decode(encode("a%/é").as_bytes()), "a%/é".as_bytes());
    }

    #[test]
    fn the_loose_reading_does_what_some_server_does() {
        for path in [
            "/v1/chat/completions",
            "//v1///chat/completions/",
            "/v1/./chat/x/../completions",
            "/v1/ch%2561t/completions",
            "/v1/ch%25252561t%25252fcompletions",
            "/v1\\chat%5ccompletions",
            "/v1/chat;a=b/completions;c",
            "/V1/Chat/COMPLETIONS",
            "/v1/chat/completions%00.json",
            "/v1/chat/completions%3fx",
            "/v1/chat/completions%23x",
            "/v1/chat/completions.",
            "/v1/chat/completions%20",
            "/v1/chat%c0%afcompletions",
            "/v1/ch%e0%81%a1t/completions",
            "/v1/ch%u0061t/completions",
            "/v1/ch%0aat/completions",
            "/x/%2e%2e/v1/chat/completions",
            "/../v1/chat/completions",
        ] {
            assert_eq!(text(&loosely(path.as_bytes())), "/v1/chat/completions", "{path}");
            assert_eq!(is_plain(path.as_bytes()), path == "/v1/chat/completions", "{path}");
        }
        assert!(is_plain(b"/v1beta/models/qwen2.5:generatecontent/"));
    }

    #[test]
    fn long_paths_take_time_in_proportion() {
        let hostile = "%25".repeat(20_000) + &"/..".repeat(20_000);
        assert!(loosely(hostile.as_bytes()).len() <= hostile.len());
    }
}
