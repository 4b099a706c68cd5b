//! The body of an answer as the metrics page that it stands for: unpacked, and with a word for what it is when it is not a page.
//!
//! Servers are asked not to compress, and some do all the same, with or without a header that says so. The first bytes tell, since no
//! line of a page begins like them; the header only tells apart what has no such bytes. What comes out is bounded, whatever went in.

use std::borrow::Cow;
use std::fmt;
use std::io::{ErrorKind, Read};

use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};

/// A page of a thousand series has some 100 KB. Much larger ones are not read, packed or unpacked: a VM's memory never shrinks again.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// Gzip may come in several members, one after the other. Servers write one; thousands of tiny ones would cost more than they hold.
const MAX_MEMBERS: usize = 16;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
/// How much of a page is looked at to see what it is.
const SNIFFED_BYTES: usize = 4096;

/// A page to be read by a dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<'b> {
    text: Cow<'b, [u8]>,
    /// Whether it is known that nothing is missing at its end.
    is_whole: bool,
}

/// What a body is that is not a metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Json,
    /// HTML or XML.
    Markup,
    /// Any other text.
    Text,
    /// No text at all.
    Binary,
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Gzip.
    Gzip,
    /// Deflate, with zlib's header or without.
    Deflate,
    /// Zstandard.
    Zstd,
    /// Brotli.
    Brotli,
    /// Something else that a header names.
    Other,
}

/// Why a page gives no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is empty.
    Empty,
    /// Its last line has no end and its length was not said: what is missing might matter.
    Truncated,
    /// It is longer than [`MAX_PAGE_BYTES`] once it is unpacked.
    TooLong,
    /// It is compressed in a way that is not supported.
    Packed(Packing),
    /// It cannot be unpacked.
    Corrupt(Packing),
    /// It is something else.
    NoPage(Kind),
    /// None of the engine's load signals is on it: most likely the pool's `engine` is wrong.
    NoKnownMetric,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Gzip => "gzip",
            Packing::Deflate => "deflate",
            Packing::Zstd => "zstd",
            Packing::Brotli => "br",
            Packing::Other => "an encoding that is not known",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Json => "JSON",
            Kind::Markup => "HTML or XML",
            Kind::Text => "text of another kind",
            Kind::Binary => "binary",
        })
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Empty => f.write_str("the page is empty"),
            Unreadable::Truncated => f.write_str("the page is cut off"),
            Unreadable::TooLong => write!(f, "the page is longer than {MAX_PAGE_BYTES} bytes"),
            Unreadable::Packed(packing) => write!(f, "the page is compressed ({packing}); gzip and deflate are read"),
            Unreadable::Corrupt(packing) => write!(f, "the page is compressed ({packing}) and cannot be unpacked"),
            Unreadable::NoPage(kind) => write!(f, "the page is {kind}, and not Prometheus text"),
            Unreadable::NoKnownMetric => {
                f.write_str("none of the engine's metrics is on the page; check the pool's engine")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

impl<'b> Page<'b> {
    /// Plain text of which nothing but its own end says whether it is whole.
    pub fn text(text: &'b [u8]) -> Page<'b> {
        Page::plain(text, false)
    }

    /// The page in a body. `encoding` is the value of `content-encoding`; `is_whole` says that the body's length was known and kept, by
    /// `content-length` or by chunks.
    pub fn of(body: &'b [u8], encoding: Option<&[u8]>, is_whole: bool) -> Result<Page<'b>, Unreadable> {
        match packing(body, encoding) {
            None => Ok(Page::plain(body, is_whole)),
            Some(Packing::Gzip) => unpack_gzip(body).map(Page::unpacked),
            Some(Packing::Deflate) if has_zlib_header(body) => {
                unpack(ZlibDecoder::new(body), Packing::Deflate, Vec::new()).map(Page::unpacked)
            }
            Some(Packing::Deflate) => {
                unpack(DeflateDecoder::new(body), Packing::Deflate, Vec::new()).map(Page::unpacked)
            }
            Some(packing) => Err(Unreadable::Packed(packing)),
        }
    }

    fn plain(text: &'b [u8], is_whole: bool) -> Page<'b> {
        Page { text: Cow::Borrowed(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)), is_whole }
    }

    /// What is compressed says where it ends.
    fn unpacked(mut text: Vec<u8>) -> Page<'b> {
        if text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        Page { text: Cow::Owned(text), is_whole: true }
    }

    /// The text, if there is any and nothing is missing.
    pub(crate) fn complete(&self) -> Result<&[u8], Unreadable> {
        let end = self.text.trim_ascii_end();
        if end.is_empty() {
            return Err(Unreadable::Empty);
        }
        // OpenMetrics ends in `# EOF`, with a line feed or without.
        let is_whole = self.is_whole || self.text.ends_with(b"\n") || end.ends_with(b"\n# EOF") || end == b"# EOF";
        match self.other_kind() {
            Some(kind) if !is_whole => Err(Unreadable::NoPage(kind)),
            None if !is_whole => Err(Unreadable::Truncated),
            _ => Ok(&self.text),
        }
    }

    /// Why no metric was found.
    pub(crate) fn without_metrics(&self) -> Unreadable {
        self.other_kind().map_or(Unreadable::NoKnownMetric, Unreadable::NoPage)
    }

    /// What it is, if nothing on it looks like Prometheus' format.
    fn other_kind(&self) -> Option<Kind> {
        let text = self.text.get(..SNIFFED_BYTES).unwrap_or(&self.text).trim_ascii_start();
        match text.first() {
            Some(b'{' | b'[') => Some(Kind::Json),
            Some(b'<') => Some(Kind::Markup),
            _ if text.split(|byte| *byte == b'\n').any(looks_like_metrics) => None,
            _ if is_text(text) => Some(Kind::Text),
            _ => Some(Kind::Binary),
        }
    }
}

/// How the body is compressed: by what it is, and then by what the header says, unless it is text after all.
fn packing(body: &[u8], encoding: Option<&[u8]>) -> Option<Packing> {
    if body.starts_with(GZIP) {
        return Some(Packing::Gzip);
    }
    if body.starts_with(ZSTD) {
        return Some(Packing::Zstd);
    }
    if has_zlib_header(body) {
        return Some(Packing::Deflate);
    }
    let encoding = encoding?.trim_ascii().to_ascii_lowercase();
    if encoding.is_empty() || encoding == b"identity" || is_text(body.get(..SNIFFED_BYTES).unwrap_or(body)) {
        return None;
    }
    Some(match encoding.as_slice() {
        b"gzip" | b"x-gzip" => Packing::Gzip,
        b"deflate" => Packing::Deflate,
        b"zstd" => Packing::Zstd,
        b"br" => Packing::Brotli,
        _ => Packing::Other,
    })
}

/// Zlib's header: deflate with a window of 32 KiB, and a check of its two bytes. A line that begins like this names no metric.
fn has_zlib_header(body: &[u8]) -> bool {
    matches!(body, [0x78, flags @ (0x01 | 0x5e | 0x9c | 0xda), ..] if *flags != b'^' || !is_text(body))
}

fn unpack_gzip(body: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut text = Vec::new();
    let mut rest = body;
    for _ in 0..MAX_MEMBERS {
        let mut decoder = GzDecoder::new(rest);
        text = unpack(&mut decoder, Packing::Gzip, text)?;
        rest = decoder.into_inner();
        // What follows and is not gzip is padding.
        if !rest.starts_with(GZIP) {
            return Ok(text);
        }
    }
    Err(Unreadable::Corrupt(Packing::Gzip))
}

/// Adds what a decoder gives to a text, up to the limit.
fn unpack(reader: impl Read, packing: Packing, mut text: Vec<u8>) -> Result<Vec<u8>, Unreadable> {
    let room = (MAX_PAGE_BYTES + 1).saturating_sub(text.len());
    match reader.take(u64::try_from(room).unwrap_or(u64::MAX)).read_to_end(&mut text) {
        Ok(_) if text.len() > MAX_PAGE_BYTES => Err(Unreadable::TooLong),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Unreadable::Truncated),
        Err(_) => Err(Unreadable::Corrupt(packing)),
    }
}

/// Whether a line is a comment as the format has it, or a name and a number.
fn looks_like_metrics(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    if let Some(comment) = line.strip_prefix(b"# ") {
        return [&b"HELP "[..], b"TYPE ", b"UNIT ", b"EOF"].iter().any(|word| comment.starts_with(word));
    }
    let is_name = line.first().is_some_and(|first| first.is_ascii_alphabetic() || b"_:".contains(first));
    let value = line.rsplit(|byte| matches!(byte, b' ' | b'\t')).next().filter(|value| value.len() < line.len());
    is_name && value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<f64>().ok()).is_some()
}

/// Whether these bytes may be text in ASCII or UTF-8, or in an encoding that is like it.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace())
        && std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to() + 4 > bytes.len(), |_| true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::testing::test;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    const TEXT: &[u8] = b"# HELP m m\nm 1\n";

    fn packed<E>(text: &[u8], encoder: impl Fn(Vec<u8>) -> E, finish: impl Fn(E) -> Vec<u8>) -> Vec<u8>
    where
        E: Write,
    {
        let mut encoder = encoder(Vec::new());
        encoder.write_all(text).unwrap();
        finish(encoder)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        packed(text, |out| GzEncoder::new(out, Compression::best()), |encoder| encoder.finish().unwrap())
    }

    fn zlib(text: &[u8], level: u32) -> Vec<u8> {
        packed(text, |out| ZlibEncoder::new(out, Compression::new(level)), |encoder| encoder.finish().unwrap())
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        packed(text, |out| DeflateEncoder::new(out, Compression::best()), |encoder| encoder.finish().unwrap())
    }

    fn read(body: &[u8], encoding: Option<&str>) -> Result<Vec<u8>, Unreadable> {
        Page::of(body, encoding.map(str::as_bytes), true)?.complete().map(<[u8]>::to_vec)
    }

    #[test]
    fn what_is_compressed_is_unpacked_whatever_the_header_says() {
        for encoding in [None, Some("gzip"), Some("identity"), Some("x-gzip"), Some("br")] {
            assert_eq!(read(&gzip(TEXT), encoding).as_deref(), Ok(TEXT), "{encoding:?}");
            for level in [1, 3, 6, 9] {
                assert_eq!(read(&zlib(TEXT, level), encoding).as_deref(), Ok(TEXT), "{encoding:?}");
            }
        }
        assert_eq!(read(&deflate(TEXT), Some("deflate")).as_deref(), Ok(TEXT));
        // The header says that it is compressed, and it is not.
        for encoding in ["gzip", "deflate", "br", "zstd", "aws-chunked", "GZIP"] {
            assert_eq!(read(TEXT, Some(encoding)).as_deref(), Ok(TEXT), "{encoding}");
        }
        let two = [gzip(b"m 1\n"), gzip(b"n 2\n"), b"\0\0padding".to_vec()].concat();
        assert_eq!(read(&two, None).as_deref(), Ok(&b"m 1\nn 2\n"[..]));
    }

    #[test]
    fn a_page_that_unpacks_to_too_much_is_left() {
        let bomb = gzip(&vec![b'\n'; MAX_PAGE_BYTES + 1]);
        assert!(bomb.len() < 10_000, "{}", bomb.len());
        assert_eq!(read(&bomb, Some("gzip")), Err(Unreadable::TooLong));
        assert_eq!(read(&zlib(&vec![b'm'; 64 << 20], 9), None), Err(Unreadable::TooLong));
        let half = gzip(&vec![b'\n'; MAX_PAGE_BYTES / 2 + 1]);
        assert_eq!(read(&[&half[..], &half[..]].concat(), None), Err(Unreadable::TooLong));
        let members = gzip(b"").repeat(MAX_PAGE_BYTES / 20);
        assert_eq!(read(&members, None), Err(Unreadable::Corrupt(Packing::Gzip)));
        let most = [b"m 1\n".to_vec(), vec![b'\n'; MAX_PAGE_BYTES - 4]].concat();
        assert_eq!(read(&gzip(&most), None).map(|text| text.len()), Ok(MAX_PAGE_BYTES));
    }

    #[test]
    fn what_cannot_be_unpacked_is_named() {
        let whole = gzip(TEXT);
        for length in 2..whole.len() {
            let cut = read(&whole[..length], Some("gzip")).unwrap_err();
            assert_eq!(cut, Unreadable::Truncated, "{length}");
        }
        let mut flipped = whole.clone();
        let checksum = flipped.len() - 8;
        flipped[checksum] ^= 1;
        assert_eq!(read(&flipped, None), Err(Unreadable::Corrupt(Packing::Gzip)));
        assert_eq!(read(b"\x28\xb5\x2f\xfd\0\0", None), Err(Unreadable::Packed(Packing::Zstd)));
        assert_eq!(read(b"\x8b\x06\x80m 1\x03", Some("br")), Err(Unreadable::Packed(Packing::Brotli)));
        assert_eq!(read(b"\x00\xff\x80", Some("compress")), Err(Unreadable::Packed(Packing::Other)));
        assert_eq!(read(&[0xff; 40], Some("gzip")), Err(Unreadable::Corrupt(Packing::Gzip)));
    }

    #[test]
    fn the_end_of_a_page() {
        let complete = |text: &[u8], is_whole| Page::of(text, None, is_whole).unwrap().complete().map(|_| ());
        for whole in ["m 1\n", "m 1\r\n", "m 1\n# EOF\n", "m 1\n# EOF", "m 1\r\n# EOF\r", "# EOF", "\u{feff}m 1\n"] {
            assert_eq!(complete(whole.as_bytes(), false), Ok(()), "{whole:?}");
        }
        for open in ["m 1", "m 1\nm 2", "# HELP m m\nm{a=\"b", "m 1\n# EO"] {
            assert_eq!(complete(open.as_bytes(), false), Err(Unreadable::Truncated), "{open:?}");
            assert_eq!(complete(open.as_bytes(), true), Ok(()), "its length was said: {open:?}");
        }
        for empty in ["", "\n", " \r\n\t\n", "\u{feff}", "\u{feff}\n"] {
            assert_eq!(complete(empty.as_bytes(), true), Err(Unreadable::Empty), "{empty:?}");
        }
    }

    #[test]
    fn the_notice_says_what_it_is() {
        let kind = |text: &[u8]| Page::text(text).without_metrics();
        for (text, said) in [
            (&b"[{\"iter\": 5}]"[..], "the page is JSON, and not Prometheus text"),
            (b"\n {\"detail\":\"Not Found\"}\n", "the page is JSON, and not Prometheus text"),
            (b"<!doctype html>\n<html>\n", "the page is HTML or XML, and not Prometheus text"),
            (b"no metrics here\n", "the page is text of another kind, and not Prometheus text"),
            ("né\n".as_bytes(), "the page is text of another kind, and not Prometheus text"),
            (b"\x00\x01\x02", "the page is binary, and not Prometheus text"),
            (b"\x89PNG\r\n\x1a\n", "the page is binary, and not Prometheus text"),
            (b"m{a=\"b\"} 1\n", "none of the engine's metrics is on the page; check the pool's engine"),
            (b"\n# TYPE m gauge\n", "none of the engine's metrics is on the page; check the pool's engine"),
        ] {
            assert_eq!(kind(text).to_string(), said, "{text:?}");
        }
        let gzip_as_text = Page::text(&gzip(TEXT)).complete().unwrap_err();
        assert_eq!(gzip_as_text, Unreadable::NoPage(Kind::Binary));
    }
}
