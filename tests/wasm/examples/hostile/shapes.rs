//! The shapes: what a reader might be slow at.

use wasm_tests::{Header, scene};

/// The shape that the others are measured by.
pub const PLAIN: &str = "plain text";

const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=";

/// A body that is made to be slow.
pub struct Shape {
    pub name: &'static str,
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Shape {
    /// The headers of a request with this body.
    pub fn headers(&self) -> Vec<Header> {
        let mut headers = scene::headers();
        headers.retain(|(name, _)| name != ":path" && name != "content-type");
        headers.push(scene::header(":path", self.path));
        headers.push(scene::header("content-type", self.content_type));
        headers
    }
}

/// Every shape, of about so many bytes each. Plain text comes first.
pub fn shapes(bytes: usize) -> Vec<Shape> {
    let mut shapes = json(bytes);
    shapes.extend(members(bytes));
    shapes.extend(forms(bytes));
    shapes
}

/// Values of the one member that a body has: what is repeated in between of what stands around it.
fn json(bytes: usize) -> Vec<Shape> {
    let deep = format!("{}{},", "[".repeat(400), "]".repeat(400));
    let deep_objects = format!("{}1{},", "{\"a\":".repeat(200), "}".repeat(200));
    let media = format!("\"data:image/png;base64,{}\",", "A".repeat(1024));
    // As many as there may be, or a part of a shorter body.
    let lists = format!("\"x\":[{}0],\"prompt\":\"", "[1,22],".repeat((bytes / 32).min(260_000)));
    let chat = "/v1/chat/completions";
    let rows: &[(&'static str, &str, &str, &str)] = &[
        (PLAIN, "\"prompt\":\"", "How long does a token wait? ", "\""),
        ("empty arrays and objects", "\"x\":[", "[],{},", "0]"),
        ("empty arrays and objects, as messages", "\"messages\":[", "[],{},", "0]"),
        ("empty strings", "\"x\":[", "\"\",", "0]"),
        ("strings of a byte", "\"x\":[", "\"a\",", "0]"),
        (
            "mixed, so that branches cannot be predicted",
            "\"x\":[",
            "1,[],\"a\",{},[\"\",2],null,{\"a\":1},-3,[[]],true,",
            "0]",
        ),
        ("token ids of one digit", "\"prompt\":[", "1,", "1]"),
        ("token ids", "\"prompt\":[", "12345,", "1]"),
        ("lists of token ids", "\"prompt\":[", "[1,22],", "[1]]"),
        ("one number", "\"x\":", "1234567890", ""),
        ("one number, as max_tokens", "\"max_tokens\":", "0", ""),
        ("one number, in the prompt", "\"prompt\":[", "7", "]"),
        ("fractions", "\"x\":[", "-1.5e+300,", "0]"),
        ("words", "\"x\":[", "true,false,null,", "0]"),
        ("arrays 400 deep", "\"x\":[", &deep, "0]"),
        ("objects 200 deep", "\"x\":[", &deep_objects, "0]"),
        ("objects of one member", "\"x\":[", "{\"a\":1},", "0]"),
        ("white space", "\"x\":[", " \n\t\r", "0]"),
        ("white space between values", "\"x\":[", "1 , ", "0]"),
        ("escaped quotes", "\"prompt\":\"", "\\\"", "\""),
        ("escapes with text between", "\"prompt\":\"", "abc\\n", "\""),
        ("escapes of Unicode", "\"prompt\":\"", "\\u0041", "\""),
        ("escapes in strings of their own", "\"x\":[", "\"\\n\",", "0]"),
        ("lists up to their limit, and then escapes", &lists, "\\\"", "\""),
        ("messages", "\"messages\":[", "{\"role\":\"user\",\"content\":\"a\"},", "0]"),
        ("system messages", "\"messages\":[", "{\"role\":\"system\"},", "0]"),
        (
            "content parts",
            "\"messages\":[{\"role\":\"user\",\"content\":[",
            "{\"type\":\"text\",\"text\":\"a\"},",
            "0]}]",
        ),
        ("images", "\"messages\":[{\"role\":\"user\",\"content\":[", &media, "0]}]"),
        ("tools", "\"tools\":[", "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}},", "0]"),
        ("a model's name", "\"model\":\"", "a", "\""),
        ("an escaped model name", "\"model\":\"", "\\u0041", "\""),
        ("a cache salt", "\"cache_salt\":\"", "salt", "\""),
        ("a user's name", "\"user\":\"", "a", "\""),
        ("a prompt of text, many times", "\"prompt\":[", "\"tell me\",", "\"\"]"),
    ];
    let body = |before: &str, middle: &str, after: &str| {
        let around = before.len() + after.len() + 16;
        format!("{{{before}{}{after},\"model\":\"m\"}}", middle.repeat((bytes - around) / middle.len()))
    };
    let shape = |row: &(&'static str, &str, &str, &str)| {
        let (name, before, middle, after) = *row;
        let path = if before.starts_with("\"prompt") { "/v1/completions" } else { chat };
        Shape { name, path, content_type: JSON, body: body(before, middle, after).into_bytes() }
    };
    rows.iter().map(shape).collect()
}

/// Many members.
fn members(bytes: usize) -> Vec<Shape> {
    let distinct = |count: usize| -> String { (0..count).map(|index| format!("\"k{index}\":1,")).collect() };
    let rows: Vec<(&'static str, String, &str)> = vec![
        ("252 members, and the last one repeated", distinct(252), "\"k251\":1,"),
        ("one member repeated", String::new(), "\"a\":1,"),
        ("members without a name", String::new(), "\"\":1,"),
        ("\"model\" repeated", String::new(), "\"model\":\"m\","),
        ("\"model\" with escapes repeated", String::new(), "\"mod\\u0065l\":\"m\","),
        ("\"Model\" repeated", String::new(), "\"Model\":1,"),
        ("\"messages\" repeated", String::new(), "\"messages\":[],"),
        ("\"messages\" of five repeated", String::new(), "\"messages\":[{},{},{},{},{}],"),
        ("\"tools\" repeated", String::new(), "\"tools\":0,"),
        ("\"stream\" repeated", String::new(), "\"stream\":0,"),
        ("\"max_tokens\" repeated", String::new(), "\"max_tokens\":1,"),
        ("names that are nearly known", String::new(), "\"mode1\":1,\"streaa\":1,\"message5\":1,"),
        ("names of escapes", String::new(), "\"\\u0061\":1,"),
        ("escaped names that match nothing", String::new(), "\"\\n\":1,"),
        ("a name of escapes, long", String::new(), "\"\\u20ac\\u20ac\\u20ac\\u20ac\\u20ac\\u20ac\":1,"),
        ("\"user\" repeated, which a rule names", String::new(), "\"user\":1,"),
    ];
    let mut shapes: Vec<Shape> = rows
        .into_iter()
        .map(|(name, before, repeated)| {
            let count = (bytes - before.len() - 16) / repeated.len();
            let body = format!("{{{before}{}\"model\":\"m\"}}", repeated.repeat(count)).into_bytes();
            Shape { name, path: "/v1/chat/completions", content_type: JSON, body }
        })
        .collect();
    let all = (0..).map(|index| format!("\"{index:x}\":1,")).scan(0, |length, member| {
        *length += member.len();
        (*length + 16 < bytes).then_some(member)
    });
    let body = format!("{{{}\"model\":\"m\"}}", all.collect::<String>()).into_bytes();
    shapes.push(Shape {
        name: "members, each with another name",
        path: "/v1/chat/completions",
        content_type: JSON,
        body,
    });
    let brackets = (0..64).map(|index| format!("\"k{index}\":[{}0],", "[],".repeat(bytes / 64 / 3 - 8)));
    let body = format!("{{{}\"model\":\"m\"}}", brackets.collect::<String>()).into_bytes();
    shapes.push(Shape {
        name: "64 members of brackets, for the rules",
        path: "/v1/chat/completions",
        content_type: JSON,
        body,
    });
    shapes
}

/// Forms.
fn forms(bytes: usize) -> Vec<Shape> {
    let long = concat!(
        "multipart/form-data; boundary=",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"
    );
    let head = "Content-Disposition: form-data; name=\"";
    let part = format!("--b\r\n{head}x\"\r\n\r\n1\r\n");
    let file = |boundary: &str, filling: &str| {
        let around =
            format!("--{boundary}\r\n{head}model\"\r\n\r\nm\r\n--{boundary}\r\n{head}file\"; filename=\"a\"\r\n\r\n");
        format!("{around}{}\r\n--{boundary}--\r\n", filling.repeat((bytes - 1000) / filling.len()))
    };
    let short = "multipart/form-data; boundary=b";
    let many = format!("{}--b--\r\n", part.repeat((bytes - 8) / part.len()));
    let boundary = |content_type: &str| content_type.trim_start_matches(FORM).to_owned();
    let rows: Vec<(&'static str, &'static str, String)> = vec![
        ("a form: a file of text", short, file("b", "How long does a token wait? ")),
        ("a form: tiny parts", short, many),
        ("a form: nearly boundaries", short, file("b", "\r\n--c")),
        ("a form: hyphens", short, file("b", "-")),
        ("a form: line ends", short, file("b", "\r\n")),
        ("a form: beginnings of a long boundary", long, file(&boundary(long), &format!("\r\n--{}c", "a".repeat(69)))),
        ("a form: what a long boundary is made of", long, file(&boundary(long), "a")),
        ("a form: a head without an end", short, format!("--b\r\n{head}x\"{}", "y".repeat(bytes - 100))),
        ("a form: lines of a head", short, format!("--b\r\n{}", "a: b\r\n".repeat((bytes - 100) / 6))),
        ("a form: no boundary at all", short, "x".repeat(bytes)),
    ];
    let shape = |(name, content_type, body): (&'static str, &'static str, String)| Shape {
        name,
        path: "/v1/audio/transcriptions",
        content_type,
        body: body.into_bytes(),
    };
    rows.into_iter().map(shape).collect()
}
