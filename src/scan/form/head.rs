//! The head of a form's part, and the parameters of a header, in the grammar that all readers share.

use super::{FormFault, is_utf8};

/// What python-multipart takes.
const MAX_LINES: usize = 8;
/// More parameters than any header has.
const MAX_PARAMETERS: usize = 16;

/// What a part's head says.
pub(super) struct PartHead<'h> {
    pub(super) name: &'h str,
    pub(super) is_file: bool,
    /// Whether its text must be ASCII, since its charset is another one than UTF-8.
    pub(super) is_ascii: bool,
}

impl<'h> PartHead<'h> {
    /// Reads the lines of a head, without the empty one behind them.
    pub(super) fn read(head: &'h [u8]) -> Result<PartHead<'h>, FormFault> {
        let head = std::str::from_utf8(head).map_err(|_| FormFault::Head)?;
        let (mut disposition, mut kind, mut coding) = (None, None, None);
        let mut lines = 0;
        for line in head.split("\r\n") {
            lines += 1;
            let (name, value) = line.split_once(':').ok_or(FormFault::Head)?;
            let is_plain = name.bytes().all(is_token) && !name.is_empty() && !value.contains(is_control);
            if !is_plain || lines > MAX_LINES {
                return Err(FormFault::Head);
            }
            let (slot, fault) = match name.to_ascii_lowercase().as_str() {
                "content-disposition" => (&mut disposition, FormFault::Disposition),
                "content-type" => (&mut kind, FormFault::Encoding),
                "content-transfer-encoding" => (&mut coding, FormFault::Encoding),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(fault);
            }
        }
        let (form_data, parameters) = disposition.and_then(Parameters::read).ok_or(FormFault::Disposition)?;
        let name = parameters.value("name").filter(|_| form_data.eq_ignore_ascii_case("form-data"));
        let is_file = parameters.value("filename").is_some();
        // Some readers see a file by its extended name, and others a field.
        let is_clear = !parameters.has_extended() || (is_file && parameters.only_extended_is("filename*"));
        let name = name.filter(|_| is_clear).ok_or(FormFault::Disposition)?;
        if name.trim() != name || name.contains(['\\', ';', '%']) || name == "_charset_" {
            return Err(FormFault::Name);
        }
        let is_ascii = if is_file { false } else { must_be_ascii(kind, coding)? };
        Ok(PartHead { name, is_file, is_ascii })
    }
}

/// Whether a field must be ASCII to be read alike, by its content type and its encoding; fails where it never is.
fn must_be_ascii(kind: Option<&str>, coding: Option<&str>) -> Result<bool, FormFault> {
    let coding = coding.unwrap_or("8bit").trim();
    if !["7bit", "8bit", "binary"].iter().any(|plain| plain.eq_ignore_ascii_case(coding)) {
        return Err(FormFault::Encoding);
    }
    let Some(kind) = kind else { return Ok(false) };
    let (essence, parameters) = Parameters::read(kind).ok_or(FormFault::Encoding)?;
    if essence.to_ascii_lowercase().starts_with("multipart/") || parameters.has_extended() {
        return Err(FormFault::Encoding);
    }
    match parameters.value("charset") {
        None => Ok(false),
        Some(charset) if is_utf8(charset) => Ok(false),
        // Apache's client says so of every text.
        Some(charset) if ["us-ascii", "iso-8859-1"].iter().any(|ascii| ascii.eq_ignore_ascii_case(charset)) => Ok(true),
        Some(_) => Err(FormFault::Encoding),
    }
}

/// The parameters of a header's value, each once.
pub(super) struct Parameters<'h> {
    all: Vec<(&'h str, &'h str)>,
}

impl<'h> Parameters<'h> {
    /// A value's first word and its parameters; `None` where readers would take it apart differently.
    pub(super) fn read(text: &'h str) -> Option<(&'h str, Parameters<'h>)> {
        let (kind, mut rest) = match text.find(';') {
            Some(at) => (text.get(..at)?, text.get(at..)?),
            None => (text, ""),
        };
        let kind = trim(kind);
        if kind.is_empty() || !kind.bytes().all(|byte| is_token(byte) || byte == b'/') {
            return None;
        }
        let mut all: Vec<(&str, &str)> = Vec::new();
        while let Some(parameter) = rest.strip_prefix(';') {
            let (name, value) = trim(parameter).split_once('=')?;
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => {
                    let (value, after) = quoted.split_once('"')?;
                    // Escaped, or the end: that is what they differ in.
                    (Some(value).filter(|value| !value.ends_with('\\'))?, trim(after))
                }
                None => {
                    let (value, after) = value.split_at(value.find(';').unwrap_or(value.len()));
                    (Some(trim(value)).filter(|value| !value.is_empty() && !value.contains(is_delimiter))?, after)
                }
            };
            let is_new = !all.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            if !is_new || name.is_empty() || !name.bytes().all(is_token) || all.len() == MAX_PARAMETERS {
                return None;
            }
            all.push((name, value));
            rest = after;
        }
        rest.is_empty().then_some((kind, Parameters { all }))
    }

    pub(super) fn value(&self, wanted: &str) -> Option<&'h str> {
        self.all.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
    }

    /// Whether a name has the star of RFC 5987, which some readers know and others don't.
    pub(super) fn has_extended(&self) -> bool {
        self.all.iter().any(|(name, _)| name.contains('*'))
    }

    pub(super) fn only_extended_is(&self, wanted: &str) -> bool {
        self.all.iter().filter(|(name, _)| name.contains('*')).all(|(name, _)| name.eq_ignore_ascii_case(wanted))
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What ends a word that has no quotes, for some reader.
fn is_delimiter(char: char) -> bool {
    matches!(char, ' ' | '\t' | '"' | '\\' | ',')
}

fn is_control(char: char) -> bool {
    char != '\t' && char.is_control()
}
