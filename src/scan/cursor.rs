//! A position in JSON text that moves over whole values.
//!
//! Nesting is kept in a fixed bit set, one bit a level, so that hostile input costs neither stack nor heap. What stands between
//! strings is passed by a table, one look-up a byte whatever the bytes are: sixteen megabytes of empty arrays take as long as any
//! other sixteen megabytes of brackets and digits.

mod keys;
mod table;
mod words;

use std::borrow::Cow;
use std::ops::Range;

use super::{PromptParts, ScanError, ScanErrorKind};
pub(super) use keys::{LongKey, unescape_key};
use table::{State, Step, step};
pub(super) use words::each;

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
    element_ends: ElementEnds,
    /// How many strings, words, arrays and objects there may still be.
    values_left: u32,
}

/// More strings, words, arrays and objects than anybody's prompts have, numbers apart: with sixteen megabytes each would have 64
/// bytes. One takes some 50 nanoseconds at worst, so that a body of nothing else holds a worker no longer than one long text.
pub(super) const MAX_VALUES: u32 = 1 << 18;

/// A conversation's first turn is in its first few messages: behind a system prompt, or two of them.
const MAX_ELEMENT_ENDS: usize = 4;

/// Where the first elements of an array end; as many as are known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ElementEnds {
    ends: [usize; MAX_ELEMENT_ENDS],
    count: usize,
}

impl ElementEnds {
    fn push(&mut self, end: usize) {
        if let Some(slot) = self.ends.get_mut(self.count) {
            *slot = end;
            self.count += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.count == MAX_ELEMENT_ENDS
    }

    /// The first elements of the array that lies at `array`.
    pub(super) fn elements(&self, array: &Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let ends = self.ends.iter().take(self.count).copied();
        let starts = std::iter::once(array.start).chain(ends.clone()).map(|before| before + 1);
        let last = (!self.is_full()).then(|| array.end.saturating_sub(1));
        starts.zip(ends.chain(last)).map(|(start, end)| start..end)
    }
}

impl<'b> Cursor<'b> {
    pub(super) fn new(body: &'b [u8]) -> Cursor<'b> {
        Cursor {
            body,
            at: 0,
            first_member: true,
            media: Vec::new(),
            element_ends: ElementEnds::default(),
            values_left: MAX_VALUES,
        }
    }

    /// Moves past the document's opening brace. A byte order mark is passed over, as RFC 8259 allows and Python does.
    pub(super) fn open_document(&mut self) -> Result<(), ScanError> {
        if self.body.starts_with(b"\xef\xbb\xbf") {
            self.at = 3;
        }
        self.skip_white_space();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                Ok(())
            }
            Some(0 | 0xfe | 0xff) => Err(self.error(ScanErrorKind::NotUtf8)),
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
        self.element_ends = ElementEnds::default();
        match self.peek() {
            Some(b'"') => self.skip_string()?,
            Some(b'{' | b'[') => self.skip_container()?,
            Some(b'-' | b'0'..=b'9') => self.skip_number()?,
            Some(_) => self.skip_word()?,
            None => return Err(self.unexpected()),
        }
        Ok(start..self.at)
    }

    /// Moves over an object or an array.
    fn skip_container(&mut self) -> Result<(), ScanError> {
        let mut open = Nesting::default();
        let mut state = table::VALUE;
        loop {
            let Some(byte) = self.peek() else { return Err(self.unexpected()) };
            match step(state, byte) {
                Step::Go(next) => {
                    self.at += 1;
                    state = next;
                }
                Step::Number(next) => {
                    self.at += 1;
                    state = self.skip_numbers(next);
                }
                Step::Space => self.skip_white_space(),
                Step::String(next) => {
                    self.count_value()?;
                    self.skip_string()?;
                    state = next;
                }
                Step::Word(next) => {
                    self.count_value()?;
                    self.skip_word()?;
                    state = next;
                }
                Step::Open => {
                    self.count_value()?;
                    if !open.push(byte == b'{') {
                        return Err(self.error(ScanErrorKind::TooDeep));
                    }
                    self.at += 1;
                    state = table::first(byte == b'{', open.depth == 1);
                }
                Step::Close => {
                    self.at += 1;
                    open.pop();
                    let Some(in_object) = open.top() else { return Ok(()) };
                    state = table::after(in_object, open.depth == 1 && !self.element_ends.is_full());
                }
                Step::Element => {
                    self.element_ends.push(self.at);
                    self.at += 1;
                    state = table::next(self.element_ends.is_full());
                }
                Step::No => return Err(self.unexpected()),
            }
        }
    }

    fn count_value(&mut self) -> Result<(), ScanError> {
        match self.values_left.checked_sub(1) {
            Some(left) => {
                self.values_left = left;
                Ok(())
            }
            None => Err(self.error(ScanErrorKind::TooManyValues)),
        }
    }

    /// Moves on within a number, eight bytes at a time; and in a list within all that is nothing but numbers, commas and spaces. How
    /// those alternate isn't looked at, since the engine will: only where the list goes on counts.
    fn skip_numbers(&mut self, inside: State) -> State {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let words = rest.as_chunks::<8>().0.iter();
        if !table::is_in_list(inside) {
            self.at += words.take_while(|word| words::are_of_number(**word)).count() * 8;
            return inside;
        }
        let passed = words.take_while(|word| words::are_numbers(**word)).count() * 8;
        self.at += passed;
        table::in_numbers(rest.get(..passed).unwrap_or_default(), inside)
    }

    /// Where the first elements of the array that was last passed end.
    pub(super) fn element_ends(&self) -> ElementEnds {
        self.element_ends
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
        let rest = self.body.get(self.at + 1..).unwrap_or_default();
        let Some(length) = words::string_length(rest) else {
            return Err(ScanError { at: self.body.len(), kind: ScanErrorKind::Truncated });
        };
        let start = self.at;
        self.at += length + 2;
        if length + 2 >= MIN_MEDIA {
            self.note_media(start);
        }
        Ok(())
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

    /// Moves over a word; Python's writer has three that JSON doesn't, and its reader takes them.
    fn skip_word(&mut self) -> Result<(), ScanError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let words = [&b"true"[..], b"false", b"null", b"NaN", b"Infinity"];
        match words.into_iter().find(|word| rest.starts_with(word)) {
            Some(word) => {
                self.at += word.len();
                Ok(())
            }
            None => Err(self.unexpected()),
        }
    }

    fn skip_number(&mut self) -> Result<(), ScanError> {
        if self.body.get(self.at..).is_some_and(|rest| rest.starts_with(b"-I")) {
            self.at += 1;
            return self.skip_word();
        }
        let rest = self.body.get(self.at..).unwrap_or_default();
        self.at += rest.as_chunks::<8>().0.iter().take_while(|word| words::are_of_number(**word)).count() * 8;
        while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn skip_white_space(&mut self) {
        // Mostly there is none, or one space.
        let mut is_first = true;
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
            if !std::mem::take(&mut is_first) {
                let rest = self.body.get(self.at..).unwrap_or_default();
                self.at += rest.as_chunks::<8>().0.iter().take_while(|word| words::are_spaces(**word)).count() * 8;
            }
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
