//! The table of the APIs.
//!
//! vLLM's routes are those of its documentation of November 2026, SGLang's those of 0.5.23, llama.cpp's those of its server of
//! November 2026, each with its Cohere-, Ollama-, SageMaker- and Vertex-like ones. Gemini's and Azure's name the model in the path.

use super::Shape;

const NONE: &[&str] = &[];

const fn needs_model(suffix: &'static str, prompt: &'static [&'static str]) -> Shape {
    Shape {
        suffix,
        needs_model: true,
        takes_form: false,
        takes_put: false,
        tools: "",
        system: NONE,
        prompt,
        salt: "cache_salt",
    }
}

const fn may_name_one(suffix: &'static str, prompt: &'static [&'static str]) -> Shape {
    Shape { needs_model: false, ..needs_model(suffix, prompt) }
}

const fn with_tools(shape: Shape, system: &'static [&'static str]) -> Shape {
    Shape { tools: "tools", system, ..shape }
}

const fn or_form(shape: Shape) -> Shape {
    Shape { takes_form: true, ..shape }
}

const fn or_put(shape: Shape) -> Shape {
    Shape { takes_put: true, ..shape }
}

/// Longest first. A model is required where the API requires it and the path is hardly another application's.
pub const SHAPES: [Shape; 71] = [
    with_tools(may_name_one("/chat/completions/input_tokens", &["messages"]), NONE),
    may_name_one("/chat/completions/derender", NONE),
    with_tools(may_name_one("/v1/responses/input_tokens", &["input"]), &["instructions"]),
    with_tools(needs_model("/v1/messages/count_tokens", &["messages"]), &["system"]),
    with_tools(needs_model("/chat/completions/render", &["messages"]), NONE),
    or_form(needs_model("/v1/audio/transcriptions", NONE)),
    may_name_one("/v1/completions/derender", NONE),
    with_tools(may_name_one("/chat/completions/batch", &["messages"]), NONE),
    with_tools(may_name_one("/responses/input_tokens", &["input"]), &["instructions"]),
    may_name_one("/inference/v1/generate", &["token_ids"]),
    or_form(needs_model("/v1/audio/translations", NONE)),
    needs_model("/v1/completions/render", &["prompt"]),
    may_name_one("/v1/images/generations", &["prompt"]),
    with_tools(needs_model(":streamGenerateContent", &["contents"]), &["systemInstruction", "system_instruction"]),
    or_form(may_name_one("/audio/transcriptions", NONE)),
    or_form(may_name_one("/v1/images/variations", NONE)),
    with_tools(may_name_one("/v1/responses/compact", &["input"]), &["instructions"]),
    may_name_one("/audio/speech/batch", NONE),
    or_form(may_name_one("/audio/translations", NONE)),
    may_name_one("/generative_scoring", &["query"]),
    may_name_one("/images/generations", &["prompt"]),
    needs_model(":batchEmbedContents", &["requests"]),
    or_form(may_name_one("/images/variations", NONE)),
    with_tools(may_name_one("/responses/compact", &["input"]), &["instructions"]),
    with_tools(needs_model("/chat/completions", &["messages"]), NONE),
    may_name_one("/v1/conversations", &["items"]),
    may_name_one("/generate_stream", &["text", "inputs", "text_input"]),
    needs_model("/v1/audio/speech", &["input"]),
    or_form(may_name_one("/v1/images/edits", NONE)),
    may_name_one("/vertex_generate", NONE),
    with_tools(needs_model(":generateContent", &["contents"]), &["systemInstruction", "system_instruction"]),
    may_name_one("/apply-template", NONE),
    may_name_one("/audio/generate", &["input"]),
    needs_model("/v1/completions", &["prompt"]),
    or_form(may_name_one("/v1/videos/sync", &["prompt"])),
    needs_model("/v1/embeddings", &["input", "messages"]),
    Shape { system: &["system"], ..may_name_one("/api/generate", &["prompt"]) },
    may_name_one("/audio/speech", &["input"]),
    or_form(may_name_one("/images/edits", NONE)),
    may_name_one("/v1/decisions", &["input"]),
    with_tools(needs_model("/v1/responses", &["input"]), &["instructions"]),
    may_name_one("/v1/systemone", &["input"]),
    needs_model(":embedContent", &["content"]),
    may_name_one("/completions", &["prompt"]),
    with_tools(may_name_one("/invocations", &["messages", "prompt", "input"]), NONE),
    may_name_one("/moderations", &["input"]),
    with_tools(needs_model("/v1/messages", &["messages"]), &["system"]),
    with_tools(needs_model(":countTokens", &["contents"]), &["systemInstruction", "system_instruction"]),
    may_name_one("/completion", &["prompt"]),
    may_name_one("/detokenize", NONE),
    may_name_one("/embeddings", &["input", "messages", "content"]),
    may_name_one("/api/embed", &["input"]),
    may_name_one("/embedding", &["input", "content"]),
    may_name_one("/reranking", &["documents"]),
    with_tools(may_name_one("/responses", &["input"]), &["instructions"]),
    or_put(needs_model("/v1/rerank", &["documents"])),
    or_form(may_name_one("/v1/videos", &["prompt"])),
    needs_model("/v2/rerank", &["documents"]),
    with_tools(may_name_one("/api/chat", &["messages"]), NONE),
    may_name_one("/api/show", NONE),
    or_put(may_name_one("/classify", &["input", "messages", "text"])),
    // SGLang's own; its extra_key is its salt.
    Shape { salt: "extra_key", ..or_put(may_name_one("/generate", &["text", "input_ids"])) },
    may_name_one("/tokenize", NONE),
    may_name_one("/v1/embed", &["texts"]),
    needs_model("/v1/score", &["text_1", "text_2"]),
    may_name_one("/v2/embed", &["texts", "inputs"]),
    may_name_one("/pooling", &["input", "messages"]),
    or_put(may_name_one("/encode", &["text", "input_ids"])),
    may_name_one("/infill", &["input_prefix", "prompt"]),
    may_name_one("/rerank", &["documents"]),
    may_name_one("/score", &["text_1", "text_2", "queries", "documents"]),
];
