//! Looks for errors in answers of status 200: an engine that has begun to answer can say so in the body only.
//!
//! In an event stream that is an event `error`, or one whose JSON has an `error`; elsewhere a body that is one. vLLM,
//! SGLang, TensorRT-LLM and llama.cpp write `{"error": {"message": …, "code": 400}}` or `{"object": "error", …}`; the
//! Responses and Messages APIs have events of their own. What cannot be read is not an error.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::acceptance::About;

/// Of a part of an answer, so many bytes are looked at: many events, and the beginning of any body.
pub const WATCHED_BYTES: usize = 4096;
/// An answer that has come so far is not an error from the start.
const CONVINCING_BYTES: usize = 2048;
/// The first event may name nothing but the role.
const CONVINCING_EVENTS: u32 = 2;

/// What an answer has shown so far.
#[derive(Debug)]
pub(super) struct Watch {
    is_event_stream: bool,
    /// A line of which the end has not come; of a body that is not a stream, all of it.
    carry: Vec<u8>,
    /// The rest of a line is passing of which the beginning was looked at.
    in_long_line: bool,
    bytes: usize,
    events: u32,
    /// An event that says that it is an error has begun.
    in_error_event: bool,
    /// The data lines of the event that has begun.
    data: Vec<u8>,
}

impl Watch {
    pub(super) fn new(is_event_stream: bool) -> Watch {
        Watch {
            is_event_stream,
            carry: Vec::new(),
            in_long_line: false,
            bytes: 0,
            events: 0,
            in_error_event: false,
            data: Vec::new(),
        }
    }

    /// Whether no error is expected any more where a good beginning is what counts.
    pub(super) fn is_convinced(&self) -> bool {
        let has_begun = !self.is_event_stream || self.events > 0;
        (has_begun && self.bytes >= CONVINCING_BYTES) || self.events >= CONVINCING_EVENTS
    }

    /// Whether an answer that has ended has said anything.
    pub(super) fn has_content(&self) -> bool {
        if self.is_event_stream { self.events > 0 } else { self.bytes > 0 }
    }

    /// Whether later parts may tell anything.
    pub(super) fn goes_on(&self) -> bool {
        self.is_event_stream || !self.is_convinced()
    }

    /// Takes the beginning of a part in, which is `size` bytes long; gives what an error in it is about.
    pub(super) fn feed(&mut self, part: &[u8], size: usize, end_of_stream: bool) -> Option<About> {
        let is_first = self.bytes == 0;
        self.bytes += size;
        let mut text = std::mem::take(&mut self.carry);
        // Some servers begin with a byte order mark.
        text.extend_from_slice(part.strip_prefix(b"\xef\xbb\xbf").filter(|_| is_first).unwrap_or(part));
        if !self.is_event_stream {
            let found = error_in(&text);
            if found.is_none() && self.goes_on() && !end_of_stream {
                self.carry = text;
            }
            return found;
        }
        let mut rest = text.as_slice();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, after) = rest.split_at(at);
            rest = after.get(1..).unwrap_or_default();
            if !std::mem::take(&mut self.in_long_line)
                && let Some(about) = self.read_line(line)
            {
                return Some(about);
            }
        }
        if self.in_long_line {
            return None;
        }
        // Of a line that is longer, or that was not given to its end, the beginning must do.
        let is_long = rest.len() > WATCHED_BYTES || part.len() < size;
        if is_long || end_of_stream {
            self.in_long_line = is_long;
            let found = self.read_line(rest);
            return found.or((end_of_stream && self.in_error_event).then_some(About::Endpoint));
        }
        self.carry = rest.to_vec();
        None
    }

    fn read_line(&mut self, line: &[u8]) -> Option<About> {
        if let Some(name) = field(line, b"event") {
            self.in_error_event = name.eq_ignore_ascii_case(b"error") || name.eq_ignore_ascii_case(b"response.failed");
        } else if let Some(data) = field(line, b"data") {
            self.events += u32::from(self.data.is_empty() && !data.is_empty() && data != b"[DONE]");
            if self.data.len() < WATCHED_BYTES {
                self.data.extend_from_slice(data);
            }
            let found = error_in(&self.data);
            return if self.in_error_event { found.or(Some(About::Endpoint)) } else { found };
        } else if let Some(error) = field(line, b"error") {
            // As llama.cpp's server has it.
            return Some(error_in(error).unwrap_or(About::Endpoint));
        } else if line.is_empty() {
            self.data.clear();
            return self.in_error_event.then_some(About::Endpoint);
        }
        None
    }
}

/// The value of a field of an event.
fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    line.strip_prefix(name)?.strip_prefix(b":").map(<[u8]>::trim_ascii)
}

/// What a JSON text is about that is an error; the text may be cut off.
fn error_in(json: &[u8]) -> Option<About> {
    let holds = |word: &[u8]| memchr::memmem::find(json, word).is_some();
    if ![&b"\"error\""[..], b"\"errors\"", b"\"detail\"", b"\"response.failed\"", b"\\u00"].into_iter().any(holds) {
        return None;
    }
    let mut found = Found::default();
    // What is not JSON, or not to its end, has said what it has.
    let _ = serde_json::Deserializer::from_slice(json).deserialize_any(&mut found);
    found.is_error.then(|| found.about())
}

/// What the members of a JSON object say, or of the first one of an array.
#[derive(Debug, Default)]
struct Found {
    is_error: bool,
    code: Option<u64>,
    kind: String,
}

impl Found {
    fn about(&self) -> About {
        let names = |words: &[&str]| words.iter().any(|word| self.kind.contains(word));
        match self.code.and_then(|code| u16::try_from(code).ok()) {
            Some(code @ (400..=499 | 503)) => About::of(code),
            Some(_) => About::Endpoint,
            None if names(&["overload", "ratelimit", "unavailable"]) => About::Room,
            None if names(&["invalidrequest", "badrequest", "toolarge"]) => About::Size,
            None if names(&["notfound"]) => About::Asked,
            None => About::Endpoint,
        }
    }

    fn note(&mut self, key: &str, value: &Value) {
        match (key, value) {
            ("code" | "status_code" | "status", Value::Number(code)) => self.code = self.code.or(code.as_u64()),
            ("code", Value::String(code)) if code.parse::<u64>().is_ok() => self.code = self.code.or(code.parse().ok()),
            ("code" | "type", Value::String(kind)) => {
                let kind = kind.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase());
                self.kind.extend(kind);
            }
            _ => {}
        }
    }
}

impl<'de> Visitor<'de> for &mut Found {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "error" | "errors" | "detail" => map.next_value_seed(ErrorValue(self))?,
                "object" | "type" | "code" | "status_code" => {
                    let value: Value = map.next_value()?;
                    self.is_error |= value == "error" || value == "response.failed";
                    self.note(&key, &value);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        seq.next_element_seed(FirstElement(self))?;
        Err(serde::de::Error::custom("the first one tells"))
    }
}

/// The first element of an array, read as an object.
struct FirstElement<'f>(&'f mut Found);

impl<'de> DeserializeSeed<'de> for FirstElement<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self.0)
    }
}

/// The value of a member `error`: as soon as it has begun it is one, unless it says that there is none.
struct ErrorValue<'f>(&'f mut Found);

impl<'de> DeserializeSeed<'de> for ErrorValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ErrorValue<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an error")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.is_error |= value;
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.is_error |= value != 0;
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.is_error = true;
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.is_error |= value != 0.0;
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.is_error |= !value.is_empty();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {
            self.0.is_error = true;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.is_error = true;
        while let Some(key) = map.next_key::<String>()? {
            let value: Value = map.next_value()?;
            self.0.note(&key, &value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// What is seen of an event stream that comes in parts.
    fn stream(parts: &[&str]) -> Option<About> {
        let mut watch = Watch::new(true);
        let last = parts.len() - 1;
        parts.iter().enumerate().find_map(|(at, part)| watch.feed(part.as_bytes(), part.len(), at == last))
    }

    #[test]
    fn errors_in_event_streams_are_seen_wherever_they_come() {
        let token = "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"an \\\"error\\\"\"}}]}\n\n";
        for (error, about) in [
            (
                r#"data: {"error": {"message": "no key", "type": "AuthenticationError", "code": 401}}"#,
                About::Credentials,
            ),
            (r#"data: {"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}"#, About::Size),
            (r#"data: {"object":"error","message":"no such model","type":"NotFoundError","code":404}"#, About::Asked),
            (r#"data: {"error":{"message":"broken","type":"InternalServerError","code":500}}"#, About::Endpoint),
            (r#"data: {"error":"broken"}"#, About::Endpoint),
            ("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}", About::Room),
            ("event:error\r\ndata: broken", About::Endpoint),
            ("event: Error\ndata: broken", About::Endpoint),
            ("error: {\"error\":{\"code\":503}}", About::Room),
            ("data: {\"error\":\ndata: {\"code\":404}}", About::Asked),
            (r#"data: {"\u0065rror":{"message":"broken"}}"#, About::Endpoint),
            (r#"data: {"errors":[{"code":1}]}"#, About::Endpoint),
            (r#"data: {"detail":"Unauthorized"}"#, About::Endpoint),
            (r#"data: [{"error":{"code":401}}]"#, About::Credentials),
            ("event: error\ndata: {\"message\":\"broken\"}", About::Endpoint),
            ("event: response.failed\ndata: {\"response\":{\"error\":{\"code\":\"server_error\"}}}", About::Endpoint),
            (r#"data: {"type":"response.failed","sequence_number":3}"#, About::Endpoint),
        ] {
            let error = format!("{error}\n\n");
            assert_eq!(stream(&[&error, "data: [DONE]\n\n"]), Some(about), "{error}");
            assert_eq!(stream(&[token, token, token, &error]), Some(about), "{error} after tokens");
            assert_eq!(stream(&[&format!("{token}{token}{error}")]), Some(about), "{error} in one part");
            for cut in 1..error.len() - 1 {
                let (first, second) = error.split_at(cut);
                assert_eq!(stream(&[first, second]), Some(about), "{error} cut at {cut}");
            }
            assert_eq!(stream(&[error.trim_end()]), Some(about), "{error} without an end");
        }
    }

    #[test]
    fn what_only_looks_like_an_error_is_none() {
        for good in [
            r#"data: {"choices":[{"delta":{"content":"{\"error\": 1}"}}]}"#,
            r#"data: {"type":"response.created","response":{"error":null,"status":"in_progress"}}"#,
            r#"data: {"error":null,"choices":[]}"#,
            r#"data: {"choices":[{"delta":{"tool_calls":[{"error":{"code":500}}]}}]}"#,
            ": error\nevent: ping\ndata: {}",
            "data: [DONE]",
            "retry: 3\nid: error",
            "data: \"error\"",
        ] {
            assert_eq!(stream(&[&format!("{good}\n\n")]), None, "{good}");
        }
    }

    #[test]
    fn a_body_that_is_an_error_is_seen_although_it_comes_in_parts() {
        let body = r#"{"object": "error", "message": "no room", "code": 429}"#;
        for cut in 1..body.len() {
            let mut watch = Watch::new(false);
            let first = watch.feed(&body.as_bytes()[..cut], cut, false);
            assert!(first.or_else(|| watch.feed(&body.as_bytes()[cut..], body.len() - cut, true)).is_some(), "{cut}");
        }
        let mut watch = Watch::new(false);
        assert_eq!(watch.feed(br#"{"id":"1","choices":[],"error":null}"#, 36, true), None);
    }

    #[test]
    fn long_lines_cost_no_memory_and_hide_nothing_that_follows() {
        let mut watch = Watch::new(true);
        let long = format!("data: {{\"x\":\"{}", "y".repeat(WATCHED_BYTES * 3));
        for _ in 0..10 {
            assert_eq!(watch.feed(&long.as_bytes()[..WATCHED_BYTES], long.len(), false), None);
            assert!(watch.carry.len() <= WATCHED_BYTES);
        }
        let end = b"\n\ndata: {\"error\":{}}\n\n";
        assert_eq!(watch.feed(end, end.len(), false), Some(About::Endpoint));
    }

    #[test]
    fn long_errors_are_seen_by_their_beginning() {
        let message = "y".repeat(WATCHED_BYTES * 2);
        for (is_event_stream, text) in [
            (true, format!("data: {{\"error\":{{\"message\":\"{message}\",\"code\":500}}}}\n\n")),
            (false, format!("{{\"error\":{{\"message\":\"{message}\",\"code\":500}}}}")),
        ] {
            let mut watch = Watch::new(is_event_stream);
            let part = &text.as_bytes()[..WATCHED_BYTES];
            assert_eq!(watch.feed(part, text.len(), false), Some(About::Endpoint));
            let mut watch = Watch::new(is_event_stream);
            let found = text.as_bytes().chunks(1500).find_map(|part| watch.feed(part, part.len(), false));
            assert_eq!(found, Some(About::Endpoint));
        }
    }

    #[test]
    fn a_stream_without_an_event_has_no_content() {
        for (text, has_content) in
            [("", false), ("data: [DONE]\n\n", false), (": ping\n\n", false), ("data: {}\n\n", true)]
        {
            let mut watch = Watch::new(true);
            assert_eq!(watch.feed(text.as_bytes(), text.len(), true), None);
            assert_eq!(watch.has_content(), has_content, "{text:?}");
        }
    }
}
