//! Reads what routing needs out of a form: `multipart/form-data`, as audio and images are sent.
//!
//! Only the parts' heads are read; files are passed over by looking for the next boundary.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;

use super::{Model, Scan, ScanError, ScanErrorKind, Wanted};

/// Heads above this length are nobody's.
const MAX_HEAD: usize = 8 << 10;

/// The boundary that a content type names, if it is a form's.
pub fn boundary(content_type: &[u8]) -> Option<String> {
    let content_type = std::str::from_utf8(content_type).ok()?;
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(parameters, "boundary").filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
}

/// Reads a form.
pub(super) fn scan<'b>(body: &'b [u8], boundary: &str, wanted: Wanted<'_>) -> Result<Scan<'b>, ScanError> {
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let error = |at, kind| ScanError { at, kind };
    let first = delimiter.get(2..).unwrap_or_default();
    let finder = memmem::Finder::new(&delimiter);
    let mut at = if body.starts_with(first) && ends_line(body.get(first.len()..)) {
        first.len()
    } else {
        // What stands before the first boundary means nothing.
        let mut found = finder.find_iter(body).filter(|at| ends_line(body.get(at + delimiter.len()..)));
        found.next().ok_or(error(0, ScanErrorKind::NoBoundary))? + delimiter.len()
    };
    let mut scan = Scan { is_form: true, ..Scan::default() };
    for _ in 0..super::MAX_MEMBERS {
        let rest = body.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Ok(scan);
        }
        let line = memmem::find(rest.get(..MAX_HEAD.min(rest.len())).unwrap_or_default(), b"\r\n");
        let head_start = at + line.ok_or(error(at, ScanErrorKind::Truncated))?;
        let rest = body.get(head_start..).unwrap_or_default();
        // A part without any head has its empty line at once.
        let head_length = memmem::find(rest.get(..MAX_HEAD.min(rest.len())).unwrap_or_default(), b"\r\n\r\n");
        let head_length = head_length.ok_or(error(head_start, ScanErrorKind::Truncated))?;
        let head = rest.get(..head_length).unwrap_or_default();
        let start = head_start + head_length + 4;
        let value = body.get(start..).unwrap_or_default();
        let mut ends = finder.find_iter(value).filter(|end| ends_line(value.get(end + delimiter.len()..)));
        let length = ends.next().ok_or(error(body.len(), ScanErrorKind::Truncated))?;
        let span = start..start + length;
        if let Some(name) = field_name(head) {
            note(&mut scan, &name, value.get(..length).unwrap_or_default(), span, wanted)?;
        }
        at = start + length + delimiter.len();
    }
    Err(error(at, ScanErrorKind::TooManyMembers))
}

/// Whether a boundary ends there, and not a longer word that begins like it.
fn ends_line(rest: Option<&[u8]>) -> bool {
    let rest = rest.unwrap_or_default();
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    rest.starts_with(b"--") || rest.get(blanks..).is_some_and(|rest| rest.starts_with(b"\r\n"))
}

fn note<'b>(
    scan: &mut Scan<'b>,
    name: &str,
    value: &'b [u8],
    span: Range<usize>,
    wanted: Wanted<'_>,
) -> Result<(), ScanError> {
    scan.note_member(name.as_bytes(), &span, wanted)?;
    match name {
        "model" => {
            scan.model = Some(match std::str::from_utf8(value) {
                Ok(name) => Model::Name { name: Cow::Borrowed(name), span },
                Err(_) => Model::NotAName,
            });
        }
        "stream" => scan.stream = value == b"true",
        _ => {}
    }
    Ok(())
}

/// The name of a part that is no file.
fn field_name(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let disposition = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let (kind, parameters) = disposition.split_once(';')?;
    let is_field = kind.trim().eq_ignore_ascii_case("form-data") && parameter(parameters, "filename").is_none();
    parameter(parameters, "name").filter(|_| is_field)
}

/// A parameter of a header's value, its quotes taken off.
fn parameter(mut text: &str, wanted: &str) -> Option<String> {
    loop {
        let (name, rest) = text.split_once('=')?;
        let name = name.trim_start_matches([';', ' ', '\t']).trim();
        let (value, rest) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, rest) = rest.split_once(';').unwrap_or((rest, ""));
                (value.trim().to_owned(), rest)
            }
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        text = rest;
    }
}

/// A quoted text up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn form(parts: &[(&str, &str)]) -> Vec<u8> {
        let parts: Vec<String> =
            parts.iter().map(|(head, value)| format!("--xyz\r\n{head}\r\n\r\n{value}\r\n")).collect();
        format!("{}--xyz--\r\n", parts.concat()).into_bytes()
    }

    fn model(body: &[u8]) -> Option<(String, Range<usize>)> {
        match scan(body, "xyz", Wanted::Named(&[])).unwrap().model? {
            Model::Name { name, span } => Some((name.into_owned(), span)),
            Model::NotAName => None,
        }
    }

    #[test]
    fn a_field_among_files_is_found() {
        let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a;name=\\\"model\\\".wav\"\r\nContent-Type: audio/wav";
        let audio = "RIFF\r\n--xy\r\n\r\n{\"model\":\"no\"}";
        let body = form(&[(file, audio), ("content-disposition: form-data; name=model", "whisper")]);
        let (name, span) = model(&body).unwrap();
        assert_eq!(name, "whisper");
        assert_eq!(&body[span], b"whisper");
        let file_named_model = "Content-Disposition: form-data; name=\"model\"; filename=\"model\"";
        assert_eq!(model(&form(&[(file_named_model, "x")])), None);
    }

    #[test]
    fn a_longer_word_is_no_boundary_and_parts_have_an_end() {
        let fake = "a\r\n--xyzzy\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nfake";
        let body = form(&[
            ("Content-Disposition: form-data; name=\"prompt\"", fake),
            ("Content-Disposition: form-data; name=\"model\"", "real"),
        ]);
        assert_eq!(model(&body).map(|(name, _)| name).as_deref(), Some("real"));
        let many = vec![("Content-Disposition: form-data; name=\"x\"", "1"); 300];
        assert_eq!(scan(&form(&many), "xyz", Wanted::Named(&[])).unwrap_err().kind, ScanErrorKind::TooManyMembers);
    }

    #[test]
    fn boundaries_are_read_as_they_are_written() {
        let of = |text: &str| boundary(text.as_bytes());
        assert_eq!(of("multipart/form-data; boundary=xyz").as_deref(), Some("xyz"));
        assert_eq!(of("Multipart/Form-Data;charset=utf-8; Boundary=\"a b\\\"c\"").as_deref(), Some("a b\"c"));
        for none in
            ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn damage_is_said_to_be_some() {
        let whole = form(&[("Content-Disposition: form-data; name=\"model\"", "whisper")]);
        for end in 0..whole.len() - 4 {
            assert!(scan(&whole[..end], "xyz", Wanted::Named(&[])).is_err(), "{end}");
        }
        assert_eq!(scan(&whole, "other", Wanted::All).unwrap_err().kind, ScanErrorKind::NoBoundary);
        assert!(model(b"--xyz\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n--xyz--").is_none());
    }
}
