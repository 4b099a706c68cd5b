//! Reads what routing needs out of a form: `multipart/form-data`, as audio and images are sent.
//!
//! Readers of forms differ in everything that clients hardly ever do: a second name, a second disposition, a preamble, bare line
//! feeds, escapes in names, a charset. A form that uses any of it could name one model here and another one at the engine, so it is
//! refused, with what to write instead. What is left is read alike by Starlette, multer, busboy, Go and cpp-httplib. Only the parts'
//! heads are read; everything is passed over once, by looking for the next boundary.

mod delimiter;
mod head;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memmem;

use super::{Model, Scan, ScanError, ScanErrorKind, Wanted};
use head::{Parameters, PartHead};

/// Heads above this length are nobody's.
const MAX_HEAD: usize = 8 << 10;
/// The longest boundary that there may be, by RFC 2046.
const MAX_BOUNDARY: usize = 70;

/// What a content type says of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, or what is nobody else's.
    Json,
    /// A form with this boundary.
    Form(String),
    /// A form of another kind, or one that readers would take apart differently.
    Unclear(FormFault),
}

/// What is wrong with a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormFault {
    /// The content type.
    ContentType,
    /// Fields as in a query.
    UrlEncoded,
    /// The API takes JSON only.
    NotTaken,
    /// Something stands in front of the first boundary, or it is not the one that the content type names.
    Start,
    /// A boundary within a part.
    Boundary,
    /// Something follows the last boundary.
    End,
    /// More parts than anybody's form has.
    Parts,
    /// A part's head.
    Head,
    /// A part's `content-disposition`.
    Disposition,
    /// A part's name.
    Name,
    /// A text that is not in UTF-8, or is encoded.
    Encoding,
    /// Two models, or one that is a file.
    Model,
}

impl fmt::Display for FormFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FormFault::ContentType => {
                "its content type must be multipart/form-data with one boundary, and no charset but utf-8"
            }
            FormFault::UrlEncoded => "send it as multipart/form-data or as JSON",
            FormFault::NotTaken => "this path takes JSON",
            FormFault::Start => "it must begin with the boundary that its content type names",
            FormFault::Boundary => "its boundary must stand alone on lines that end in CR LF, and nowhere in a part",
            FormFault::End => "nothing but line ends may follow its last boundary",
            FormFault::Parts => "it must have at most 256 parts",
            FormFault::Head => {
                "a part's head must have at most eight lines \"name: value\" that end in CR LF, with an empty line behind them"
            }
            FormFault::Disposition => {
                "each part needs one content-disposition: form-data with a name, each parameter once, and no escaped quotes"
            }
            FormFault::Name => "a part's name must be plain UTF-8, without backslashes, semicolons, codes or spaces around it",
            FormFault::Encoding => "its fields must be UTF-8, without a content-transfer-encoding",
            FormFault::Model => "the field \"model\" must be there once, as a text",
        })
    }
}

impl Format {
    /// What a content type says; several are joined with commas.
    pub fn of(content_type: &[u8]) -> Format {
        // What nearly all say.
        if matches!(content_type, b"application/json" | b"") {
            return Format::Json;
        }
        let essence = content_type.split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return Format::Unclear(FormFault::UrlEncoded);
        }
        let text = content_type.to_ascii_lowercase();
        if memmem::find(&text, b"multipart").is_none() {
            return Format::Json;
        }
        match boundary(content_type) {
            Some(boundary) => Format::Form(boundary),
            None => Format::Unclear(FormFault::ContentType),
        }
    }
}

/// The boundary that a content type names, if all readers find the same one.
fn boundary(content_type: &[u8]) -> Option<String> {
    let (kind, parameters) = Parameters::read(std::str::from_utf8(content_type).ok()?)?;
    if !kind.eq_ignore_ascii_case("multipart/form-data") || parameters.has_extended() {
        return None;
    }
    let charset = parameters.value("charset").unwrap_or("utf-8");
    let boundary =
        parameters.value("boundary").filter(|boundary| !boundary.is_empty() && boundary.len() <= MAX_BOUNDARY)?;
    let is_plain = boundary.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_-./:=?".contains(&byte));
    (is_plain && is_utf8(charset)).then(|| boundary.to_owned())
}

fn is_utf8(charset: &str) -> bool {
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

/// Reads a form.
pub(super) fn scan<'b>(body: &'b [u8], boundary: &str, wanted: Wanted<'_>) -> Result<Scan<'b>, ScanError> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let fault = |at, fault| ScanError { at, kind: ScanErrorKind::Form(fault) };
    let mut reader = Reader { scan: Scan { is_form: true, ..Scan::default() }, wanted, parts: 0 };
    // Where the part under way begins.
    let mut start = None;
    for at in delimiter::find(body, &delimiter) {
        let rest = body.get(at + delimiter.len()..).unwrap_or_default();
        let is_last = rest.starts_with(b"--");
        if !is_last && !rest.starts_with(b"\r\n") {
            return Err(fault(at, FormFault::Boundary));
        }
        match start {
            None if body.get(..at).is_none_or(|before| !matches!(before, b"" | b"\r\n")) => {
                return Err(fault(at, FormFault::Start));
            }
            None => {}
            Some(start) => {
                let end = at.checked_sub(2).filter(|end| *end >= start && body.get(*end..at) == Some(b"\r\n"));
                reader.part(body, start..end.ok_or(fault(at, FormFault::Boundary))?)?;
            }
        }
        if is_last {
            let end = rest.get(2..).unwrap_or_default();
            let is_end = end.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
            return if is_end { Ok(reader.scan) } else { Err(fault(at, FormFault::End)) };
        }
        start = Some(at + delimiter.len() + 2);
    }
    let kind = if start.is_some() { ScanErrorKind::Truncated } else { ScanErrorKind::Form(FormFault::Start) };
    Err(ScanError { at: if start.is_some() { body.len() } else { 0 }, kind })
}

struct Reader<'b, 'w> {
    scan: Scan<'b>,
    wanted: Wanted<'w>,
    parts: usize,
}

impl<'b> Reader<'b, '_> {
    /// Reads a part that lies at `part`.
    fn part(&mut self, body: &'b [u8], part: Range<usize>) -> Result<(), ScanError> {
        let fault = |fault| ScanError { at: part.start, kind: ScanErrorKind::Form(fault) };
        self.parts += 1;
        if self.parts > super::MAX_MEMBERS {
            return Err(fault(FormFault::Parts));
        }
        let bytes = body.get(part.clone()).unwrap_or_default();
        let within = bytes.get(..MAX_HEAD.min(bytes.len())).unwrap_or_default();
        let length = memmem::find(within, b"\r\n\r\n").ok_or(fault(FormFault::Head))?;
        let head = PartHead::read(bytes.get(..length).unwrap_or_default()).map_err(fault)?;
        let span = part.start + length + 4..part.end;
        let value = body.get(span.clone()).unwrap_or_default();
        let is_model = head.name == "model";
        if is_model && (head.is_file || self.scan.model.is_some()) {
            return Err(fault(FormFault::Model));
        }
        if head.is_file {
            return Ok(());
        }
        if head.is_ascii && !value.is_ascii() {
            return Err(fault(FormFault::Encoding));
        }
        if self.wanted.has(head.name.as_bytes()) {
            self.scan.note_member(head.name.as_bytes(), &span)?;
        }
        if is_model {
            self.scan.model = Some(match std::str::from_utf8(value) {
                Ok(name) => Model::Name { name: Cow::Borrowed(name), span },
                Err(_) => Model::NotAName,
            });
        } else if head.name == "stream" {
            self.scan.stream = value == b"true";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
