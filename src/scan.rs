//! Reads what routing needs out of a request's JSON body, in one pass and without building a document.
//!
//! A prompt of 200 KB is mostly strings that nobody here looks at; they are skipped at memchr's speed and
//! never copied. What is found is borrowed or given as a range of bytes, so that a rewrite can replace the
//! model's value and leave every other byte as it was. Structure is checked in full; the insides of skipped
//! strings and numbers are not, since the engine will judge them anyway.

mod cursor;
pub mod form;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::shape::{Part, Shape};
use cursor::Cursor;
pub(crate) use cursor::unescape;
use cursor::{ElementEnds, LongKey};
pub use form::{FormFault, Format};

/// What a request's body says.
#[derive(Debug, Default, PartialEq)]
pub struct Scan<'b> {
    /// The `model` member. Of several the last counts, as in the engines' JSON readers.
    pub model: Option<Model<'b>>,
    /// Whether the answer shall be streamed.
    pub stream: bool,
    /// The smallest of the limits on generated tokens that the body sets.
    pub max_tokens: Option<u64>,
    /// Where the prompt is: the values of `tools`, `system`, `messages` and their like.
    pub prompt: PromptParts,
    /// The members that were wanted besides, each once.
    pub members: Vec<Member>,
    /// Whether the body is a form, and no JSON.
    pub is_form: bool,
    /// How many wanted members there were, those included that others have replaced.
    noted: usize,
}

/// A member of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, unescaped.
    pub key: String,
    /// Where its value is.
    pub span: Range<usize>,
    /// Whether the value is JSON; a form's is a text.
    pub is_json: bool,
}

/// Members that somebody wants to see besides what routing needs.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'w> {
    /// Those with these names, which are sorted.
    Named(&'w [String]),
    /// All, but for more than anybody has.
    All,
}

impl Wanted<'_> {
    fn has(self, key: &[u8]) -> bool {
        match self {
            Wanted::Named(names) => names.binary_search_by(|name| name.as_bytes().cmp(key)).is_ok(),
            Wanted::All => true,
        }
    }
}

/// More members than anybody's body has.
const MAX_ALL_MEMBERS: usize = 16 << 10;
/// More members than anybody's body has that somebody looks at: the time to find one again grows with them. Each counts as often as
/// it is there, under one name or under several.
const MAX_MEMBERS: usize = 256;

/// The value of a body's `model` member.
#[derive(Debug, PartialEq)]
pub enum Model<'b> {
    /// A string.
    Name {
        /// The name, unescaped.
        name: Cow<'b, str>,
        /// The bytes of the value, quotes included.
        span: Range<usize>,
    },
    /// Something else, or a string that is not UTF-8.
    NotAName,
}

/// Where a body's prompt is: at most [`PromptParts::MAX`] parts, the first ones win.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptParts {
    parts: Vec<(Part, Range<usize>)>,
    /// Strings anywhere in the body that are `data:` URLs, quotes included, in the body's order; the first
    /// [`PromptParts::MAX_MEDIA`] of them.
    pub media: Vec<Range<usize>>,
    /// The first message that is no system prompt, in `messages` or `input`: what tells conversations apart.
    pub first_turn: Option<Range<usize>>,
    /// The value of `cache_salt`, by which vLLM keeps tenants' caches apart.
    pub cache_salt: Option<Range<usize>>,
}

impl PromptParts {
    /// No known request has more than `tools`, `system` or `instructions`, and one of the rest.
    pub const MAX: usize = 8;
    /// More images than any model takes in one request.
    pub const MAX_MEDIA: usize = 256;

    /// The ranges, in the order in which the engine's chat template places them.
    pub fn in_template_order(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.parts.iter().map(|(_, part)| part.clone())
    }

    /// The same, each with what it is.
    pub fn parts(&self) -> impl Iterator<Item = (Part, Range<usize>)> + '_ {
        self.parts.iter().cloned()
    }

    /// Chat templates place tools, the system prompt and messages in the order in which [`Part`] has them.
    fn push(&mut self, part: Part, span: Range<usize>) {
        if self.parts.len() < Self::MAX {
            let index = self.parts.partition_point(|(other, _)| *other <= part);
            self.parts.insert(index, (part, span));
        }
    }
}

/// Why a body could not be read, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanError {
    /// The offset of the offending byte.
    pub at: usize,
    /// What is wrong there.
    pub kind: ScanErrorKind,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanErrorKind {
    /// The body is empty or white space.
    Empty,
    /// The body is JSON, but no object.
    NotAnObject,
    /// It ends too early.
    Truncated,
    /// A byte that cannot stand here.
    Unexpected,
    /// Objects and arrays are nested too deeply.
    TooDeep,
    /// Something follows the object.
    TrailingBytes,
    /// It has more members than anybody's.
    TooManyMembers,
    /// It has more strings, words, arrays and objects than anybody's.
    TooManyValues,
    /// It is in UTF-16, in UTF-32, or no text.
    NotUtf8,
    /// Two members differ in case alone, and are one to some readers.
    TwoModels,
    /// It is a form that readers see differently.
    Form(FormFault),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ScanErrorKind::Empty => f.write_str("the body is empty"),
            ScanErrorKind::NotAnObject => f.write_str("the body is not a JSON object"),
            ScanErrorKind::Unexpected => write!(f, "unexpected byte {} in the JSON", self.at),
            ScanErrorKind::TooDeep => {
                write!(f, "the JSON is nested more than {} deep at byte {}", cursor::MAX_DEPTH, self.at)
            }
            ScanErrorKind::TooManyMembers => write!(f, "more members than the gateway looks at, by byte {}", self.at),
            ScanErrorKind::TooManyValues => {
                write!(f, "more than {} strings, words, arrays and objects, at byte {}", cursor::MAX_VALUES, self.at)
            }
            ScanErrorKind::NotUtf8 => f.write_str("the body is not in UTF-8"),
            ScanErrorKind::TwoModels => {
                write!(f, "the model is named twice, in names that differ in case, at byte {}", self.at)
            }
            ScanErrorKind::Form(fault) => write!(f, "the form is unclear at byte {}: {fault}", self.at),
            ScanErrorKind::Truncated => write!(f, "the body ends too early, at byte {}", self.at),
            ScanErrorKind::TrailingBytes => write!(f, "bytes follow the JSON object, at byte {}", self.at),
        }
    }
}

impl std::error::Error for ScanError {}

/// Reads the body of a request of some API. `boundary` is that of a form.
pub fn scan<'b>(
    body: &'b [u8],
    shape: &Shape,
    boundary: Option<&str>,
    wanted: Wanted<'_>,
) -> Result<Scan<'b>, ScanError> {
    if let Some(boundary) = boundary {
        return form::scan(body, boundary, wanted);
    }
    let mut cursor = Cursor::new(body);
    cursor.open_document()?;
    let mut reader = Reader { scan: Scan::default(), model: None, other_case: None, turns: None };
    let mut room = LongKey::default();
    let mut members = 0;
    while let Some(key) = cursor.next_key()? {
        let span = cursor.skip_value()?;
        members += 1;
        if members > MAX_ALL_MEMBERS {
            return Err(ScanError { at: span.start, kind: ScanErrorKind::TooManyMembers });
        }
        let key = cursor::unescape_key(body.get(key).unwrap_or_default(), &mut room);
        if wanted.has(key) {
            reader.scan.note_member(key, &span)?;
        }
        if shape.may_have(key) {
            reader.member(body, shape, key, span, cursor.element_ends());
        }
    }
    cursor.close_document()?;
    let mut scan = reader.finish(body)?;
    scan.prompt.media = cursor.into_media();
    Ok(scan)
}

/// What a document has said so far. What takes time in proportion to a value is done at the end, for the value that counts.
struct Reader<'b> {
    scan: Scan<'b>,
    model: Option<Range<usize>>,
    /// A member whose name differs from the model's in case.
    other_case: Option<Range<usize>>,
    /// The conversation, and where its first turns end.
    turns: Option<(Range<usize>, ElementEnds)>,
}

impl<'b> Reader<'b> {
    fn member(&mut self, body: &[u8], shape: &Shape, key: &[u8], span: Range<usize>, ends: ElementEnds) {
        let value = body.get(span.clone()).unwrap_or_default();
        match key {
            b"model" => self.model = Some(span),
            b"stream" => self.scan.stream = value == b"true",
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => {
                // More digits than these make no number of 64 bits.
                let digits = value.get(..value.len().min(32)).and_then(|digits| std::str::from_utf8(digits).ok());
                let limit: Option<u64> = digits.and_then(|digits| digits.parse().ok());
                self.scan.max_tokens = [self.scan.max_tokens, limit].into_iter().flatten().min();
            }
            key if key.eq_ignore_ascii_case(b"model") => self.other_case = Some(span),
            key => match shape.part(key) {
                Some(Part::Salt) => self.scan.prompt.cache_salt = Some(span),
                Some(Part::Prompt) => {
                    self.turns = value.starts_with(b"[").then(|| (span.clone(), ends));
                    self.scan.prompt.push(Part::Prompt, span);
                }
                Some(part) => self.scan.prompt.push(part, span),
                None => {}
            },
        }
    }

    fn finish(mut self, body: &'b [u8]) -> Result<Scan<'b>, ScanError> {
        if let (Some(_), Some(other)) = (&self.model, self.other_case) {
            return Err(ScanError { at: other.start, kind: ScanErrorKind::TwoModels });
        }
        self.scan.model = self.model.map(|span| model(body.get(span.clone()).unwrap_or_default(), span));
        if let Some((array, ends)) = self.turns {
            self.scan.prompt.first_turn = ends.elements(&array).find(|message| !is_system(body, message));
        }
        Ok(self.scan)
    }
}

impl Scan<'_> {
    /// Notes a member that is wanted; of several with one name the last counts. Fails when there are more than anybody has.
    fn note_member(&mut self, key: &[u8], span: &Range<usize>) -> Result<(), ScanError> {
        let Ok(key) = std::str::from_utf8(key) else { return Ok(()) };
        self.noted += 1;
        if self.noted > MAX_MEMBERS {
            return Err(ScanError { at: span.start, kind: ScanErrorKind::TooManyMembers });
        }
        let member = Member { key: key.to_owned(), span: span.clone(), is_json: !self.is_form };
        match self.members.iter_mut().find(|known| known.key == key) {
            Some(known) => *known = member,
            None => self.members.push(member),
        }
        Ok(())
    }
}

/// Whether a message is a system prompt: its role stands at its beginning or at its end, around its text.
fn is_system(body: &[u8], message: &Range<usize>) -> bool {
    const AROUND: usize = 48;
    let message = body.get(message.clone()).unwrap_or_default();
    let head = message.get(..AROUND.min(message.len())).unwrap_or_default();
    let tail = message.get(message.len().saturating_sub(AROUND)..).unwrap_or_default();
    let names = |text: &[u8], role: &[u8]| memchr::memmem::find(text, role).is_some();
    [&b"\"system\""[..], b"\"developer\""].iter().any(|role| names(head, role) || names(tail, role))
}

/// The body with the model's value, at `span`, replaced by `model`; every other byte is kept.
pub fn with_model(body: &[u8], span: &Range<usize>, model: &str, is_form: bool) -> Vec<u8> {
    let before = body.get(..span.start).unwrap_or_default();
    let after = body.get(span.end..).unwrap_or_default();
    let value = if is_form { model.to_owned() } else { serde_json::Value::from(model).to_string() };
    [before, value.as_bytes(), after].concat()
}

fn model(value: &[u8], span: Range<usize>) -> Model<'_> {
    match cursor::unescape(value) {
        Some(name) => Model::Name { name, span },
        None => Model::NotAName,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use expect_test::{Expect, expect};

    fn chat(body: &[u8]) -> Result<Scan<'_>, ScanError> {
        let shape = Shape::of(b"POST", b"/v1/chat/completions").unwrap();
        scan(body, shape, None, Wanted::Named(&[]))
    }

    fn check(body: &str, expected: Expect) {
        let text = match chat(body.as_bytes()) {
            Ok(scan) => {
                let parts: Vec<&str> = scan.prompt.in_template_order().filter_map(|part| body.get(part)).collect();
                format!("{:?} stream={} max={:?} {parts:?}", scan.model, scan.stream, scan.max_tokens)
            }
            Err(error) => format!("error: {error}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn finds_what_routing_needs() {
        check(
            r#"{"model":"m","stream":true,"max_tokens":7,"messages":[{"role":"user","content":"hi"}]}"#,
            expect![[
                r#"Some(Name { name: "m", span: 9..12 }) stream=true max=Some(7) ["[{\"role\":\"user\",\"content\":\"hi\"}]"]"#
            ]],
        );
        check(
            r#" { "messages" : "a" , "max_completion_tokens" : 9, "max_tokens":3, "tools":[] } "#,
            expect![[r#"None stream=false max=Some(3) ["[]", "\"a\""]"#]],
        );
    }

    #[test]
    fn a_nested_or_quoted_model_is_not_the_model() {
        check(
            r#"{"metadata":{"model":"no"},"user":"\"model\":\"no\"","messages":"x","model":"yes"}"#,
            expect![[r#"Some(Name { name: "yes", span: 76..81 }) stream=false max=None ["\"x\""]"#]],
        );
    }

    #[test]
    fn of_several_models_the_last_counts_as_it_does_for_the_engine() {
        check(
            r#"{"model":"a","model":"b"}"#,
            expect![[r#"Some(Name { name: "b", span: 21..24 }) stream=false max=None []"#]],
        );
    }

    #[test]
    fn escapes_hide_neither_the_key_nor_the_name() {
        check(
            r#"{"mod\u0065l":"Qwen\/Qwen3\u002d32B"}"#,
            expect![[r#"Some(Name { name: "Qwen/Qwen3-32B", span: 14..36 }) stream=false max=None []"#]],
        );
    }

    #[test]
    fn what_is_no_name_is_said_to_be_none() {
        for body in [r#"{"model":1}"#, r#"{"model":null}"#, r#"{"model":["m"]}"#, r#"{"model":"\ud800"}"#] {
            check(body, expect!["Some(NotAName) stream=false max=None []"]);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        check("", expect!["error: the body is empty"]);
        check("  \n", expect!["error: the body is empty"]);
        check("[1]", expect!["error: the body is not a JSON object"]);
        check(r#"{"model":"m""#, expect!["error: the body ends too early, at byte 12"]);
        check(r#"{"model":"m"#, expect!["error: the body ends too early, at byte 11"]);
        check(r#"{"model" "m"}"#, expect!["error: unexpected byte 9 in the JSON"]);
        check(r#"{"a":1,}"#, expect!["error: unexpected byte 7 in the JSON"]);
        check(r#"{"a":[1,]}"#, expect!["error: unexpected byte 8 in the JSON"]);
        check(r#"{"a":[1}"#, expect!["error: unexpected byte 7 in the JSON"]);
        check(r#"{"a":nul}"#, expect!["error: unexpected byte 5 in the JSON"]);
        check(r#"{"a":1}x"#, expect!["error: bytes follow the JSON object, at byte 7"]);
        check(r#"{a:1}"#, expect!["error: unexpected byte 1 in the JSON"]);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(2000), "]".repeat(2000));
        check(&deep, expect!["error: the JSON is nested more than 512 deep at byte 517"]);
    }

    #[test]
    fn a_byte_order_mark_and_pythons_words_are_no_mistakes() {
        check(
            "\u{feff}{\"model\":\"m\"}",
            expect![[r#"Some(Name { name: "m", span: 12..15 }) stream=false max=None []"#]],
        );
        check(
            r#"{"x":[NaN,-Infinity,1e5],"y":-Infinity,"model":"m"}"#,
            expect![[r#"Some(Name { name: "m", span: 47..50 }) stream=false max=None []"#]],
        );
        check("\u{feff}", expect!["error: the body is empty"]);
        check("{\u{feff}}", expect!["error: unexpected byte 1 in the JSON"]);
        let utf16: Vec<u8> = "{\"model\":\"m\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for body in [[&b"\xff\xfe"[..], &utf16].concat(), [&b"\0"[..], &utf16].concat()] {
            assert_eq!(chat(&body).unwrap_err().kind, ScanErrorKind::NotUtf8);
        }
    }

    #[test]
    fn a_name_in_another_case_is_no_second_model() {
        check(r#"{"Model":"m"}"#, expect!["None stream=false max=None []"]);
        check(
            r#"{"model":"a","MODEL":"b"}"#,
            expect!["error: the model is named twice, in names that differ in case, at byte 21"],
        );
    }

    #[test]
    fn there_is_a_limit_on_all_that_is_counted() {
        let of = |before: &str, middle: &str, count: usize, after: &str| {
            chat(format!("{before}{}{after}", middle.repeat(count)).as_bytes()).map(drop).map_err(|error| error.kind)
        };
        let most = cursor::MAX_VALUES as usize;
        for value in ["[],", "{},", "\"\",", "null,", "true,"] {
            assert_eq!(of("{\"x\":[", value, most - 1, "1]}"), Ok(()), "{value}");
            assert_eq!(of("{\"x\":[", value, most, "1]}"), Err(ScanErrorKind::TooManyValues), "{value}");
        }
        assert_eq!(of("{\"x\":[", "1,", most * 2, "1]}"), Ok(()), "token ids are as many as they like");
        for key in ["\"a\":1,", "\"\":1,", "\"model\":\"m\",", "\"\\u0061\":1,"] {
            assert_eq!(of("{", key, MAX_ALL_MEMBERS - 1, "\"z\":1}"), Ok(()), "{key}");
            assert_eq!(of("{", key, MAX_ALL_MEMBERS, "\"z\":1}"), Err(ScanErrorKind::TooManyMembers), "{key}");
        }
    }

    #[test]
    fn a_rewrite_touches_the_value_alone() {
        let body = br#"{ "n":123456789012345678901234567890, "model" : "a\u0062" ,"x":1.0e5}"#;
        let Some(Model::Name { span, .. }) = chat(body).unwrap().model else { panic!("no model") };
        let rewritten = with_model(body, &span, "with \"quotes\"", false);
        assert_eq!(
            String::from_utf8(rewritten).unwrap(),
            r#"{ "n":123456789012345678901234567890, "model" : "with \"quotes\"" ,"x":1.0e5}"#
        );
    }
}
