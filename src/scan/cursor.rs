//! A position in JSON text that moves over whole values.
//!
//! Nesting is kept in a fixed bit set, one bit a level, so that hostile input costs neither stack nor heap.

use std::borrow::Cow;
use std::ops::Range;

use super::{PromptParts, ScanError, ScanErrorKind};

/// Deep enough for any tool schema, and half of what Python's reader takes before it gives up.
pub(super) const MAX_DEPTH: usize = 512;

/// A `data:` URL below this length is taken for text: as a string it is no longer than the image's tokens.
const MIN_MEDIA: usize = 1024;

pub(super) struct Cursor<'b> {
    body: &'b [u8],
    at: usize,
    first_member: bool,
    media: Vec<Range<usize>>,
    /// Where the first elements of the value that was last passed end, if it is an array of several.
    element_ends: Vec<usize>,
}

/// A conversation's first turn is in its first few messages: behind a system prompt, or two of them.
const MAX_ELEMENT_ENDS: usize = 4;

impl<'b> Cursor<'b> {
    pub(super) fn new(body: &'b [u8]) -> Cursor<'b> {
        Cursor { body, at: 0, first_member: true, media: Vec::new(), element_ends: Vec::new() }
    }

    /// Moves past the document's opening brace.
    pub(super) fn open_document(&mut self) -> Result<(), ScanError> {
        self.skip_white_space();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.error(ScanErrorKind::NotAnObject)),
            None => Err(self.error(ScanErrorKind::Empty)),
        }
    }

    /// The range of the next member's key, quotes included, with the cursor before its value; `None` at the
    /// closing brace, which is passed.
    pub(super) fn next_key(&mut self) -> Result<Option<Range<usize>>, ScanError> {
        self.skip_white_space();
        match self.peek() {
            Some(b'}') if self.first_member => {
                self.at += 1;
                return Ok(None);
            }
            Some(b'"') if self.first_member => {}
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !self.first_member => {
                self.at += 1;
                self.skip_white_space();
            }
            _ => return Err(self.unexpected()),
        }
        self.first_member = false;
        self.key().map(Some)
    }

    /// Moves over one value of any kind and gives its range.
    pub(super) fn skip_value(&mut self) -> Result<Range<usize>, ScanError> {
        self.skip_white_space();
        let start = self.at;
        let mut open = Nesting::default();
        self.element_ends.clear();
        loop {
            // Here a value begins.
            match self.peek() {
                Some(b'"') => self.skip_string()?,
                Some(opening @ (b'{' | b'[')) => {
                    if !open.push(opening == b'{') {
                        return Err(self.error(ScanErrorKind::TooDeep));
                    }
                    self.at += 1;
                    self.skip_white_space();
                    match (self.peek(), opening) {
                        (Some(b'}'), b'{') | (Some(b']'), b'[') => {}
                        (Some(_), b'{') => {
                            self.key()?;
                            self.skip_white_space();
                            continue;
                        }
                        (Some(_), _) => continue,
                        (None, _) => return Err(self.unexpected()),
                    }
                }
                Some(b't') => self.skip_word(b"true")?,
                Some(b'f') => self.skip_word(b"false")?,
                Some(b'n') => self.skip_word(b"null")?,
                Some(b'-' | b'0'..=b'9') => self.skip_number(),
                _ => return Err(self.unexpected()),
            }
            // Here a value has ended, or an empty container is about to: close what closes.
            loop {
                let Some(in_object) = open.top() else { return Ok(start..self.at) };
                self.skip_white_space();
                match (self.peek(), in_object) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(b','), _) => {
                        if open.depth == 1 && !in_object && self.element_ends.len() < MAX_ELEMENT_ENDS {
                            self.element_ends.push(self.at);
                        }
                        self.at += 1;
                        self.skip_white_space();
                        if in_object {
                            self.key()?;
                            self.skip_white_space();
                        }
                        break;
                    }
                    _ => return Err(self.unexpected()),
                }
            }
        }
    }

    /// The first elements of the array that was last passed, which lies at `array`; as far as their ends are known.
    pub(super) fn elements(&self, array: &Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(array.start).chain(self.element_ends.iter().copied()).map(|before| before + 1);
        let is_short = self.element_ends.len() < MAX_ELEMENT_ENDS;
        let last = is_short.then(|| array.end.saturating_sub(1));
        starts.zip(self.element_ends.iter().copied().chain(last)).map(|(start, end)| start..end)
    }

    /// Makes sure that only white space follows.
    pub(super) fn close_document(&mut self) -> Result<(), ScanError> {
        self.skip_white_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error(ScanErrorKind::TrailingBytes)),
        }
    }

    /// A string and the colon after it.
    fn key(&mut self) -> Result<Range<usize>, ScanError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let start = self.at;
        self.skip_string()?;
        let key = start..self.at;
        self.skip_white_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(key)
    }

    fn skip_string(&mut self) -> Result<(), ScanError> {
        let mut at = self.at + 1;
        loop {
            let rest = self.body.get(at..).unwrap_or_default();
            match string_end(rest) {
                Some(offset) if rest.get(offset) == Some(&b'"') => {
                    let start = std::mem::replace(&mut self.at, at + offset + 1);
                    if self.at - start >= MIN_MEDIA {
                        self.note_media(start);
                    }
                    return Ok(());
                }
                // What is escaped is skipped unseen, so that \" does not end the string.
                Some(offset) => at += offset + 2,
                None => return Err(ScanError { at: self.body.len(), kind: ScanErrorKind::Truncated }),
            }
        }
    }

    /// Notes the string that ends here, if it is a `data:` URL.
    fn note_media(&mut self, start: usize) {
        let is_media = self.body.get(start..).is_some_and(|string| string.starts_with(b"\"data:"));
        if is_media && self.media.len() < PromptParts::MAX_MEDIA {
            self.media.push(start..self.at);
        }
    }

    /// The long `data:` URLs that were passed.
    pub(super) fn into_media(self) -> Vec<Range<usize>> {
        self.media
    }

    fn skip_word(&mut self, word: &[u8]) -> Result<(), ScanError> {
        if self.body.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn skip_number(&mut self) {
        while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn skip_white_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn unexpected(&self) -> ScanError {
        let kind = if self.at >= self.body.len() { ScanErrorKind::Truncated } else { ScanErrorKind::Unexpected };
        self.error(kind)
    }

    fn error(&self, kind: ScanErrorKind) -> ScanError {
        ScanError { at: self.at, kind }
    }
}

/// The first quote or backslash.
///
/// Eight bytes at a time: Wasm has 64-bit arithmetic whatever its pointers' size, and strings between two
/// escapes are too short for a vector search to pay.
fn string_end(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Mycroft's test: the high bit of each byte that is zero, and of none below the first such byte.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let found = |word: u64| zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = found(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let tail = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(words.len() * 8 + tail)
}

/// Which containers are open: one bit a level, set for an object.
#[derive(Default)]
struct Nesting {
    depth: usize,
    objects: [u64; MAX_DEPTH / 64],
}

impl Nesting {
    fn push(&mut self, object: bool) -> bool {
        let Some(word) = self.objects.get_mut(self.depth / 64) else { return false };
        let bit = 1u64 << (self.depth % 64);
        if object {
            *word |= bit;
        } else {
            *word &= !bit;
        }
        self.depth += 1;
        true
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn top(&self) -> Option<bool> {
        let level = self.depth.checked_sub(1)?;
        self.objects.get(level / 64).map(|word| word >> (level % 64) & 1 == 1)
    }
}

/// The text of a JSON string with its quotes; `None` when it is no string or not UTF-8.
pub(crate) fn unescape(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(value).ok().map(Cow::Owned)
}

/// A key without its quotes and escapes; a key that cannot be unescaped stands for itself and matches nothing.
pub(super) fn unescape_key(key: &[u8]) -> Cow<'_, [u8]> {
    let inner = key.get(1..key.len().saturating_sub(1)).unwrap_or_default();
    if memchr::memchr(b'\\', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    match unescape(key) {
        Some(text) => Cow::Owned(text.into_owned().into_bytes()),
        None => Cow::Borrowed(inner),
    }
}
