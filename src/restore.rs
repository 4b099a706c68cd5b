//! Puts the client's name of a model back into an answer, plain or streamed, however it is cut into chunks.
//!
//! A model's name stands in the member `model` of the answer's object, or of the object in its member `response` or
//! `message`: OpenAI's APIs have it in the first place, but the events of its Responses API in the second, and Anthropic's
//! first event in the third. Nothing else is touched: not a text that quotes such a member, and no `model` in what a
//! tool was called with. At most one name is held back between two chunks.

use memchr::memchr2;

use crate::scan;

/// Replaces a model's name in the chunks of one answer.
#[derive(Debug)]
pub struct Restorer {
    /// The name that the engine says.
    engine: String,
    /// The name that the client has said, as a JSON string.
    client: String,
    /// Lines of server-sent events, of which only `data` is JSON.
    is_event_stream: bool,
    line: Line,
    depth: usize,
    /// What the containers at the first two depths are, and the members that are open there.
    levels: [Level; 2],
    text: Text,
    /// The first bytes of the key that is open.
    key: Vec<u8>,
    /// The name that may have to be replaced, from its opening quote on.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    is_object: bool,
    /// Whether the next string is a key.
    expects_key: bool,
    key: Key,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Model,
    /// Of a member whose object is another answer's.
    Envelope,
}

/// Which kind of string is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    None,
    /// One that means nothing here. In each of these: whether the next byte is escaped.
    Other(bool),
    Key(bool),
    /// A name that may have to be replaced.
    Name(bool),
}

/// How far a line of an event stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So much of `data:` was there.
    Start(usize),
    Data,
    Other,
}

const DATA: &[u8] = b"data:";
/// Longer keys are none of ours.
const LONGEST_KEY: usize = 10;

impl Restorer {
    /// Replaces `engine` by `client`.
    pub fn new(engine: &str, client: &str, is_event_stream: bool) -> Restorer {
        Restorer {
            engine: engine.to_owned(),
            client: serde_json::Value::from(client).to_string(),
            is_event_stream,
            line: if is_event_stream { Line::Start(0) } else { Line::Data },
            depth: 0,
            levels: [Level::default(); 2],
            text: Text::None,
            key: Vec::new(),
            held: Vec::new(),
        }
    }

    /// What to send instead of a chunk; `None` to send it as it is.
    pub fn feed(&mut self, chunk: &[u8], end_of_stream: bool) -> Option<Vec<u8>> {
        let mut is_changed = !self.held.is_empty();
        let mut out: Vec<u8> = Vec::new();
        // Where the part of the chunk begins that is neither in `out` nor held.
        let mut rest = 0;
        let mut at = 0;
        while let Some(byte) = chunk.get(at).copied() {
            let was_name = self.is_name();
            self.step(byte);
            at += 1;
            match (was_name, self.is_name()) {
                (false, false) => {
                    if self.text == Text::Other(false) && !self.is_event_stream {
                        // Answers are mostly text.
                        let text = chunk.get(at..).unwrap_or_default();
                        at += memchr2(b'"', b'\\', text).unwrap_or(text.len());
                    }
                }
                (false, true) => {
                    out.extend_from_slice(chunk.get(rest..at - 1).unwrap_or_default());
                    self.held.push(byte);
                }
                (true, true) if self.held.len() < 2 + 6 * self.engine.len() => self.held.push(byte),
                (true, is_open) => {
                    self.held.push(byte);
                    let is_engines = !is_open && scan::unescape(&self.held).is_some_and(|name| *name == *self.engine);
                    if is_engines {
                        out.extend_from_slice(self.client.as_bytes());
                        is_changed = true;
                    } else {
                        out.extend_from_slice(&self.held);
                    }
                    if let Text::Name(escaped) = self.text {
                        self.text = Text::Other(escaped);
                    }
                    self.held.clear();
                    rest = at;
                }
            }
        }
        if self.held.is_empty() {
            out.extend_from_slice(chunk.get(rest..).unwrap_or_default());
        } else if end_of_stream {
            out.append(&mut self.held);
        } else {
            is_changed = true;
        }
        is_changed.then_some(out)
    }

    fn is_name(&self) -> bool {
        matches!(self.text, Text::Name(_))
    }

    fn step(&mut self, byte: u8) {
        if self.is_event_stream && !self.is_data(byte) {
            return;
        }
        let goes_on = |escaped: bool| match (escaped, byte) {
            (false, b'"') => None,
            (escaped, byte) => Some(!escaped && byte == b'\\'),
        };
        self.text = match self.text {
            Text::None => {
                self.structure(byte);
                return;
            }
            Text::Other(escaped) => goes_on(escaped).map_or(Text::None, Text::Other),
            Text::Name(escaped) => goes_on(escaped).map_or(Text::None, Text::Name),
            Text::Key(escaped) => match goes_on(escaped) {
                Some(escaped) => {
                    if self.key.len() < LONGEST_KEY {
                        self.key.push(byte);
                    }
                    Text::Key(escaped)
                }
                None => {
                    let key = match self.key.as_slice() {
                        b"model" => Key::Model,
                        b"response" | b"message" => Key::Envelope,
                        _ => Key::Other,
                    };
                    self.key.clear();
                    if let Some(level) = self.level() {
                        (level.key, level.expects_key) = (key, false);
                    }
                    Text::None
                }
            },
        };
    }

    /// Whether a byte of an event stream is one of JSON.
    fn is_data(&mut self, byte: u8) -> bool {
        if byte == b'\r' {
            return false;
        }
        if byte == b'\n' {
            // An empty line ends an event, whatever was left open in it.
            if self.line == Line::Start(0) {
                (self.depth, self.text) = (0, Text::None);
            }
            self.line = Line::Start(0);
            return false;
        }
        if let Line::Start(matched) = self.line {
            let matches = DATA.get(matched) == Some(&byte);
            self.line = match matches {
                true if matched + 1 == DATA.len() => Line::Data,
                true => Line::Start(matched + 1),
                false => Line::Other,
            };
            return false;
        }
        self.line == Line::Data
    }

    /// A byte outside of strings.
    fn structure(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                let is_object = byte == b'{';
                if let Some(level) = self.level() {
                    *level = Level { is_object, expects_key: is_object, key: Key::Other };
                }
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' => {
                if let Some(level) = self.level() {
                    level.expects_key = level.is_object;
                }
            }
            b'"' => {
                let is_in_answer = match self.depth {
                    1 => true,
                    2 => self.levels.first().is_some_and(|outer| outer.key == Key::Envelope),
                    _ => false,
                };
                self.text = match self.level() {
                    Some(level) if level.expects_key => Text::Key(false),
                    Some(level) if level.is_object && level.key == Key::Model && is_in_answer => Text::Name(false),
                    _ => Text::Other(false),
                };
            }
            _ => {}
        }
    }

    /// The container that is open, if it is one of the first two.
    fn level(&mut self) -> Option<&mut Level> {
        self.levels.get_mut(self.depth.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// The answer, cut into chunks of `size` bytes.
    fn restored(answer: &str, is_event_stream: bool, size: usize) -> String {
        let mut restorer = Restorer::new("food-review-1", "food \"review\"", is_event_stream);
        let chunks: Vec<&[u8]> = answer.as_bytes().chunks(size).collect();
        let mut out = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            match restorer.feed(chunk, index + 1 == chunks.len()) {
                Some(changed) => out.extend(changed),
                None => out.extend_from_slice(chunk),
            }
        }
        String::from_utf8(out).unwrap()
    }

    fn check(answer: &str, is_event_stream: bool, expected: &str) {
        for size in 1..=answer.len() {
            assert_eq!(restored(answer, is_event_stream, size), expected, "in chunks of {size}");
        }
    }

    const CLIENT: &str = r#""food \"review\"""#;

    #[test]
    fn a_plain_answer() {
        let body = |model: &str| {
            format!(
                r#"{{ "id":"a\"b", "model" : {model} ,"choices":[{{"message":{{"content":"\"model\":\"food-review-1\" model"}},
                "model":"food-review-1"}}],"usage":{{"model":"food-review-1"}},"n":1.50}}"#
            )
        };
        check(&body(r#""food-review-1""#), false, &body(CLIENT));
        check(&body(r#""food\u002dreview-1""#), false, &body(CLIENT));
        for other in [r#""food-review-12""#, r#""food-review""#, r#""""#, "null", r#""food-review-1\\""#] {
            check(&body(other), false, &body(other));
        }
        let long = format!("\"{}\"", "x".repeat(500));
        check(&body(&long), false, &body(&long));
    }

    #[test]
    fn events_of_every_api() {
        let events = |model: &str| {
            format!(
                "event: food-review-1\ndata: {{\"model\":{model},\"choices\":[]}}\n\n: \"model\":\"food-review-1\"\r\n\
                 data:{{\"type\":\"message_start\",\"message\":{{\"role\":\"a\",\"model\":{model}}}}}\r\n\r\n\
                 data: {{\"response\":{{\"tools\":[{{\"model\":\"food-review-1\"}}],\"model\":{model}}}}}\n\n\
                 data: {{\"delta\":{{\"model\":\"food-review-1\"}}}}\n\ndata: {{\"broken\":[{{\"\n\n\
                 data: {{\"model\":{model}}}\n\ndata: [DONE]\n\n"
            )
        };
        check(&events("\"food-review-1\""), true, &events(CLIENT));
    }

    #[test]
    fn what_is_cut_off_is_not_lost() {
        let answer = r#"{"model":"food-review-1","#;
        for end in 0..answer.len() {
            let cut = answer.get(..end).unwrap();
            let whole = cut.replace("\"food-review-1\"", CLIENT);
            for size in 1..=end {
                assert_eq!(restored(cut, false, size), whole);
            }
        }
    }

    #[test]
    fn an_answer_without_the_name_is_not_copied() {
        let mut restorer = Restorer::new("a", "b", false);
        assert_eq!(restorer.feed(br#"{"model":"c","x":"model"}"#, true), None);
    }
}
