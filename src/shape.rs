//! The inference APIs: which paths they have, and where in their requests a model and a prompt are.
//!
//! A path is known by its end, the longest one first, whatever a gateway puts before it. The table follows the
//! endpoint picker's parsers and the engines' own routes: vLLM's, SGLang's and llama.cpp's. How a client may spell a path is
//! the matter of [`crate::target`]; a spelling that some servers take for a path of the table and others don't is [`Call::Unclear`].

mod table;

use std::ops::Range;

use crate::scan::{FormFault, Format, ScanErrorKind};
use crate::target;
pub use table::SHAPES;

/// One API.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The end of the path.
    pub suffix: &'static str,
    /// Whether a request must name a model. One that needn't goes where its route leads when it doesn't; where that is no
    /// pool it is never refused, since its path may be another application's.
    pub needs_model: bool,
    /// Whether its body may be a form.
    pub takes_form: bool,
    /// Whether engines take a `PUT` for a `POST`.
    pub takes_put: bool,
    /// The member with the tools.
    tools: &'static str,
    /// The members that may hold the system prompt.
    system: &'static [&'static str],
    /// The members that may hold the prompt.
    prompt: &'static [&'static str],
    /// The member by which an engine keeps tenants' caches apart.
    salt: &'static str,
}

/// What a member of a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Tools that the model may call.
    Tools,
    /// The system prompt.
    System,
    /// The prompt.
    Prompt,
    /// What keeps caches apart.
    Salt,
}

/// Which API a request is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// None that is known.
    Other,
    /// This one, to all servers.
    One {
        /// The API.
        shape: &'static Shape,
        /// The model, where the path names it.
        model: Option<PathModel>,
    },
    /// One of those that some servers would see; others would see another one, or none.
    Unclear(&'static Shape),
}

/// A model that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathModel {
    /// Its name.
    pub name: String,
    /// Where it is in the decoded path.
    at: Range<usize>,
    path: Vec<u8>,
}

impl PathModel {
    /// The same target with another model; `query` is what follows its question mark.
    pub fn target(&self, model: &str, query: &[u8]) -> String {
        let part = |range: Range<usize>| {
            let segments = self.path.get(range).unwrap_or_default().split(|byte| *byte == b'/');
            let encoded: Vec<String> = segments.map(|part| target::encode(&String::from_utf8_lossy(part))).collect();
            // The colon in front of a verb is a mark of the path.
            encoded.join("/").replace("%3A", ":")
        };
        let (before, after) = (part(0..self.at.start), part(self.at.end..self.path.len()));
        let query = if query.is_empty() { String::new() } else { format!("?{}", String::from_utf8_lossy(query)) };
        format!("{before}{}{after}{query}", target::encode(model))
    }
}

impl Call {
    /// Reads which API a request is for.
    pub fn read(method: &[u8], target: &[u8]) -> Call {
        let is_put = method.eq_ignore_ascii_case(b"PUT");
        if !is_put && !method.eq_ignore_ascii_case(b"POST") {
            return Call::Other;
        }
        let (path, _) = target::split(target);
        let find = |path: &[u8], agrees: fn(&[u8], &[u8]) -> bool| {
            let path = path.strip_suffix(b"/").unwrap_or(path);
            let mut shapes = SHAPES.iter().filter(|shape| !is_put || shape.takes_put);
            shapes.find(|shape| agrees(path, shape.suffix.as_bytes()))
        };
        let decoded = target::decode(path);
        let once = find(&decoded, |path, suffix| path.last() == suffix.last() && path.ends_with(suffix));
        let at = once.and_then(|shape| shape.model_at(&decoded));
        if !target::is_plain(path) {
            let loose = target::loosely(path);
            let widely = find(&loose, |path, suffix| {
                let end = path.len().checked_sub(suffix.len()).and_then(|start| path.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            });
            let name = at.clone().map(|at| decoded.get(at).unwrap_or_default().to_ascii_lowercase());
            let loose_name =
                widely.and_then(|shape| shape.model_at(&loose)).map(|at| loose.get(at).unwrap_or_default());
            let is_clear = once == widely && name.as_deref() == loose_name && !target::has_bad_code(path);
            if !is_clear && let Some(shape) = [once, widely].into_iter().flatten().max_by_key(|shape| shape.needs_model)
            {
                return Call::Unclear(shape);
            }
        }
        let Some(shape) = once else { return Call::Other };
        let Some(at) = at else { return Call::One { shape, model: None } };
        match std::str::from_utf8(decoded.get(at.clone()).unwrap_or_default()) {
            Ok(name) => {
                Call::One { shape, model: Some(PathModel { name: name.to_owned(), at, path: decoded.into_owned() }) }
            }
            Err(_) => Call::Unclear(shape),
        }
    }
}

impl Shape {
    /// The API of a request whose path is plain, if it is one.
    pub fn of(method: &[u8], target: &[u8]) -> Option<&'static Shape> {
        match Call::read(method, target) {
            Call::One { shape, .. } => Some(shape),
            Call::Other | Call::Unclear(_) => None,
        }
    }

    /// Where a decoded path names the model.
    ///
    /// Gemini has it between `/models/` and a verb, Azure between `/deployments/` and the end that OpenAI's API has.
    fn model_at(&self, path: &[u8]) -> Option<Range<usize>> {
        let marker = if self.suffix.starts_with(':') { &b"/models/"[..] } else { b"/openai/deployments/" };
        let end = path.strip_suffix(b"/").unwrap_or(path).len().checked_sub(self.suffix.len())?;
        // Most paths end where the API's begins: nothing is searched then.
        let front = path.get(..end).filter(|front| front.len() > marker.len())?;
        let start = memchr::memmem::find(front, marker)? + marker.len();
        (start < end).then_some(start..end)
    }

    /// The boundary of a body of this format, if it is a form; fails where the API takes none, or readers would differ.
    pub(crate) fn form(&self, format: Format) -> Result<Option<String>, ScanErrorKind> {
        match format {
            Format::Json => Ok(None),
            // curl says so of whatever it sends, and where JSON is wanted it is read as JSON.
            Format::Unclear(FormFault::UrlEncoded) if !self.takes_form => Ok(None),
            Format::Form(boundary) if self.takes_form => Ok(Some(boundary)),
            Format::Unclear(fault) if self.takes_form => Err(ScanErrorKind::Form(fault)),
            Format::Form(_) | Format::Unclear(_) => Err(ScanErrorKind::Form(FormFault::NotTaken)),
        }
    }

    /// Whether a member may be one that routing looks at: told by its length, which says no to most names.
    pub(crate) fn may_have(&self, key: &[u8]) -> bool {
        // "text" to "max_completion_tokens".
        (4..=21).contains(&key.len())
    }

    /// What a member of the body is.
    pub fn part(&self, key: &[u8]) -> Option<Part> {
        let is = |name: &str| name.as_bytes() == key;
        if self.prompt.iter().any(|name| is(name)) {
            Some(Part::Prompt)
        } else if key.is_empty() {
            None
        } else if is(self.tools) {
            Some(Part::Tools)
        } else if self.system.iter().any(|name| is(name)) {
            Some(Part::System)
        } else if is(self.salt) {
            Some(Part::Salt)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn of(path: &str) -> Option<&'static str> {
        Shape::of(b"POST", path.as_bytes()).map(|shape| shape.suffix)
    }

    #[test]
    fn the_longest_end_counts() {
        for shape in &SHAPES {
            let path = if shape.suffix.starts_with(':') {
                format!("/v1beta/models/m{}", shape.suffix)
            } else {
                shape.suffix.to_owned()
            };
            assert_eq!(of(&path), Some(shape.suffix), "a shorter one stands before it");
            for odd in ["?x=/v1/messages", "/", "/?x", "#/v1/messages"] {
                assert_eq!(of(&format!("/team-a{path}{odd}")), Some(shape.suffix), "{path}{odd}");
            }
            assert_eq!(of(&format!("http://gateway{path}")), Some(shape.suffix), "{path}");
        }
        for other in
            ["/", "/xcompletions", "/v1/messages/batches", "/v1/models", "/v1/xchat/completion_", "/messages", ""]
        {
            assert_eq!(of(other), None, "{other}");
        }
        for method in ["GET", "PUT", "HEAD", ""] {
            assert_eq!(Shape::of(method.as_bytes(), b"/v1/responses"), None, "{method}");
        }
        for (method, path) in
            [("PUT", "/generate"), ("PUT", "/v1/rerank"), ("post", "/v1/responses"), ("put", "/classify")]
        {
            assert!(Shape::of(method.as_bytes(), path.as_bytes()).is_some(), "{method} {path}");
        }
    }

    #[test]
    fn codes_hide_no_path() {
        for path in [
            "/v1/ch%61t/completions",
            "/v1/chat%2Fcompletions",
            "/v1%2fchat%2fcompletions",
            "/v1/chat/completion%73",
            "%2Fv1/chat/completions/",
        ] {
            assert_eq!(of(path), Some("/chat/completions"), "{path}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_unclear() {
        for (path, shape) in [
            ("/v1/chat//completions", "/chat/completions"),
            ("/v1/./messages/./count_tokens", "/v1/messages/count_tokens"),
            ("/v1/ch%2561t/completions", "/chat/completions"),
            ("/v1/chat/completions;x=1", "/chat/completions"),
            ("/v1/Chat/Completions", "/chat/completions"),
            ("/v1/chat/completions%00", "/chat/completions"),
            ("/v1/chat/completions%3Fx", "/chat/completions"),
            ("/v1/chat\\completions", "/chat/completions"),
            ("/v1/chat/completions/x/..", "/chat/completions"),
            ("/v1/chat/completions//", "/chat/completions"),
            ("/%zz/v1/chat/completions", "/chat/completions"),
            // One server's completion is another one's embedding.
            ("/v1/chat/completions/..%2f../embeddings", "/v1/embeddings"),
            ("/openai//deployments/x/chat/completions", "/chat/completions"),
            ("/Tokenize", "/tokenize"),
            ("//rerank/.", "/rerank"),
            ("/v1beta/models/a;b:generateContent", ":generateContent"),
            ("/v1beta/models/a%2561:generateContent", ":generateContent"),
            ("/openai/deployments/a//b/chat/completions", "/chat/completions"),
            ("/openai/deployments/%ff/chat/completions", "/chat/completions"),
        ] {
            match Call::read(b"POST", path.as_bytes()) {
                Call::Unclear(found) => assert_eq!(found.suffix, shape, "{path}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        for path in ["/v1/Files", "/a%2fb", "/x;y", "/%"] {
            assert_eq!(Call::read(b"POST", path.as_bytes()), Call::Other, "{path}");
        }
    }

    #[test]
    fn a_model_in_the_path_is_found_and_replaced() {
        for (target, model, replaced) in [
            (
                "/openai/deployments/gpt-4o/chat/completions?api-version=1",
                "gpt-4o",
                "/openai/deployments/n%2Fm/chat/completions?api-version=1",
            ),
            ("/x/openai/deployments/Qwen%2FQwen3/embeddings", "Qwen/Qwen3", "/x/openai/deployments/n%2Fm/embeddings"),
            ("/openai/deployments/Qwen/Qwen3/audio/speech/", "Qwen/Qwen3", "/openai/deployments/n%2Fm/audio/speech/"),
            ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini-2.5-pro", "/v1beta/models/n%2Fm:generateContent"),
            ("/v1/models/a%3Ab:streamGenerateContent?alt=sse", "a:b", "/v1/models/n%2Fm:streamGenerateContent?alt=sse"),
            (
                "/v1/projects/p/publishers/google/models/g:countTokens",
                "g",
                "/v1/projects/p/publishers/google/models/n%2Fm:countTokens",
            ),
        ] {
            let Call::One { model: Some(found), .. } = Call::read(b"POST", target.as_bytes()) else {
                panic!("{target}")
            };
            assert_eq!(found.name, model);
            assert_eq!(found.target("n/m", target::split(target.as_bytes()).1), replaced);
        }
        assert!(matches!(Call::read(b"POST", b"/v1/chat/completions"), Call::One { model: None, .. }));
    }

    #[test]
    fn members_are_what_their_api_says() {
        let part = |path: &str, key: &str| Shape::of(b"POST", path.as_bytes()).unwrap().part(key.as_bytes());
        assert_eq!(part("/v1/messages", "system"), Some(Part::System));
        assert_eq!(part("/v1/chat/completions", "system"), None);
        assert_eq!(part("/v1/responses", "text"), None, "an output format, and no prompt");
        assert_eq!(part("/generate", "text"), Some(Part::Prompt));
        assert_eq!(part("/generate", "extra_key"), Some(Part::Salt));
        assert_eq!(part("/v1beta/models/m:generateContent", "system_instruction"), Some(Part::System));
        assert_eq!(part("/v1/completions", ""), None);
    }
}
