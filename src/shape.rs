//! The inference APIs: which paths they have, and where in their bodies a model and a prompt are.
//!
//! A path is known by its end, the longest one first, whatever a gateway puts before it. The table follows the
//! endpoint picker's parsers and the engines' own routes.

/// One API.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The end of the path.
    pub suffix: &'static str,
    /// Whether a request must name a model. One that needn't goes where its route leads when it doesn't, and is never
    /// refused: its path may be another application's.
    pub needs_model: bool,
    /// The member with the tools.
    tools: &'static str,
    /// The member with the system prompt.
    system: &'static str,
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

const NONE: &[&str] = &[];

const fn needs_model(suffix: &'static str, prompt: &'static [&'static str]) -> Shape {
    Shape { suffix, needs_model: true, tools: "", system: "", prompt, salt: "cache_salt" }
}

const fn may_name_one(suffix: &'static str, prompt: &'static [&'static str]) -> Shape {
    Shape { needs_model: false, ..needs_model(suffix, prompt) }
}

const fn with_tools(shape: Shape, system: &'static str) -> Shape {
    Shape { tools: "tools", system, ..shape }
}

/// Longest first. Common words count only behind a version.
pub const SHAPES: [Shape; 20] = [
    // OpenAI's audio and images: forms, but for speech and generations.
    needs_model("/v1/audio/transcriptions", NONE),
    needs_model("/chat/completions/render", &["messages"]),
    may_name_one("/v1/images/generations", &["prompt"]),
    may_name_one("/v1/images/variations", NONE),
    with_tools(needs_model("/v1/messages/count_tokens", &["messages"]), "system"),
    needs_model("/v1/audio/translations", NONE),
    needs_model("/v1/completions/render", &["prompt"]),
    // vLLM's tokens in, tokens out.
    may_name_one("/inference/v1/generate", &["token_ids"]),
    may_name_one("/v1/images/edits", NONE),
    may_name_one("/v1/conversations", &["items"]),
    with_tools(needs_model("/chat/completions", &["messages"]), ""),
    needs_model("/v1/audio/speech", &["input"]),
    needs_model("/v1/completions", &["prompt"]),
    needs_model("/v1/embeddings", &["input", "messages"]),
    with_tools(needs_model("/v1/responses", &["input"]), "instructions"),
    with_tools(needs_model("/v1/messages", &["messages"]), "system"),
    needs_model("/v1/rerank", &["documents"]),
    needs_model("/v2/rerank", &["documents"]),
    // SGLang's own; its extra_key is its salt.
    Shape { salt: "extra_key", ..may_name_one("/generate", &["text", "input_ids"]) },
    needs_model("/v1/score", &["text_1", "text_2"]),
];

impl Shape {
    /// The API of a request, if it is one.
    pub fn of(method: &[u8], target: &[u8]) -> Option<&'static Shape> {
        if method != b"POST" {
            return None;
        }
        let path = target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        SHAPES.iter().find(|shape| path.ends_with(shape.suffix.as_bytes()))
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
        } else if is(self.system) {
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

    #[test]
    fn the_longest_end_counts() {
        let of = |path: &str| Shape::of(b"POST", path.as_bytes()).map(|shape| shape.suffix);
        for shape in &SHAPES {
            assert_eq!(of(shape.suffix), Some(shape.suffix), "a shorter one stands before it");
            assert_eq!(of(&format!("/team-a{}?x=/v1/messages", shape.suffix)), Some(shape.suffix));
        }
        assert_eq!(of("/openai/deployments/x/chat/completions"), Some("/chat/completions"));
        for other in ["/", "/completions", "/responses/", "/v1/messages/batches", "/v1/models", "/v1/xchat/completion"]
        {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(Shape::of(b"GET", b"/v1/responses"), None);
    }

    #[test]
    fn members_are_what_their_api_says() {
        let part = |path: &str, key: &str| Shape::of(b"POST", path.as_bytes()).unwrap().part(key.as_bytes());
        assert_eq!(part("/v1/messages", "system"), Some(Part::System));
        assert_eq!(part("/v1/chat/completions", "system"), None);
        assert_eq!(part("/v1/responses", "text"), None, "an output format, and no prompt");
        assert_eq!(part("/generate", "text"), Some(Part::Prompt));
        assert_eq!(part("/generate", "extra_key"), Some(Part::Salt));
        assert_eq!(part("/v1/completions", ""), None);
    }
}
