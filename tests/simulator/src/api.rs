//! The OpenAI-compatible shapes: requests in, answers out, errors as vLLM words them.

use std::hash::{DefaultHasher, Hasher};

use serde_json::{Value, json};

use crate::flags::Flags;

/// Four bytes of text count as a token.
const BYTES_PER_TOKEN: usize = 4;
/// The answer's length where the request sets none.
const DEFAULT_OUTPUT_TOKENS: usize = 32;

/// Which API a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Completions,
    Embeddings,
}

impl Api {
    pub(crate) fn of(path: &str) -> Option<Api> {
        match path {
            "/v1/chat/completions" => Some(Api::Chat),
            "/v1/completions" => Some(Api::Completions),
            "/v1/embeddings" => Some(Api::Embeddings),
            _ => None,
        }
    }
}

/// A request as far as the simulator understands it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) lora: Option<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) prompt_tokens: usize,
    pub(crate) prompt_blocks: Vec<u64>,
    pub(crate) output_tokens: usize,
}

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl ApiError {
    fn new(status: u16, kind: &str, param: Value, message: String) -> ApiError {
        let body = json!({"error": {"message": message, "type": kind, "param": param, "code": status}});
        ApiError { status, body }
    }

    pub(crate) fn queue_full() -> ApiError {
        let message = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.";
        ApiError::new(503, "Service Unavailable", Value::Null, message.to_owned())
    }

    pub(crate) fn refused(status: u16) -> ApiError {
        ApiError::new(status, "Refused", Value::Null, format!("refused with {status}"))
    }

    pub(crate) fn internal(message: &str) -> ApiError {
        ApiError::new(500, "InternalServerError", Value::Null, message.to_owned())
    }
}

pub(crate) fn parse(api: Api, body: &[u8], flags: &Flags) -> Result<Call, ApiError> {
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        let message = format!("1 validation error:\n  {{'type': 'json_invalid', 'msg': '{error}'}}");
        ApiError::new(400, "Bad Request", json!("body"), message)
    })?;
    let model = match body.get("model") {
        None | Some(Value::Null) => flags.model.clone(),
        Some(Value::String(name)) => name.clone(),
        Some(_) => return Err(ApiError::new(400, "Bad Request", json!("model"), "model is not a string".to_owned())),
    };
    let lora = if model == flags.model {
        None
    } else if flags.lora_modules.contains(&model) {
        Some(model.clone())
    } else {
        let message = format!("The model `{model}` does not exist. Valid aliases: {}.", flags.model);
        return Err(ApiError::new(404, "NotFoundError", json!("model"), message));
    };
    let prompt = prompt(api, &body);
    let prompt_tokens = prompt.len().div_ceil(BYTES_PER_TOKEN).max(1);
    let limit = ["max_tokens", "max_completion_tokens"].iter().find_map(|key| body.get(*key)?.as_u64());
    let output_tokens = match api {
        Api::Embeddings => 1,
        _ => limit.map_or(DEFAULT_OUTPUT_TOKENS, |limit| limit as usize).max(1),
    };
    if prompt_tokens.saturating_add(output_tokens) > flags.max_model_len {
        let message = format!(
            "This model's maximum context length is {} tokens. However, you requested {output_tokens} output tokens and your prompt contains {prompt_tokens} input tokens.",
            flags.max_model_len
        );
        return Err(ApiError::new(400, "BadRequestError", json!("input_tokens"), message));
    }
    let blocks = chained_hashes(&model, prompt.as_bytes(), flags.block_size * BYTES_PER_TOKEN);
    Ok(Call {
        api,
        lora,
        stream: body.get("stream") == Some(&Value::Bool(true)) && api != Api::Embeddings,
        include_usage: body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
        model,
        prompt_tokens,
        prompt_blocks: blocks,
        output_tokens,
    })
}

/// The text that the engine would see: tools, then messages, or the plain prompt.
fn prompt(api: Api, body: &Value) -> String {
    let field = |name: &str| body.get(name).map(text).unwrap_or_default();
    match api {
        Api::Completions => field("prompt"),
        Api::Embeddings => field("input"),
        Api::Chat => {
            let mut prompt = body.get("tools").map(Value::to_string).unwrap_or_default();
            for message in body.get("messages").and_then(Value::as_array).into_iter().flatten() {
                prompt.push_str(message.get("role").and_then(Value::as_str).unwrap_or_default());
                prompt.push_str(&message.get("content").map(text).unwrap_or_default());
            }
            prompt
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(|part| part.get("text").map_or_else(|| text(part), text)).collect(),
        other => other.to_string(),
    }
}

/// One hash for each full block, over the model and everything before its end.
fn chained_hashes(model: &str, prompt: &[u8], block_bytes: usize) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    hasher.write(model.as_bytes());
    let blocks = prompt.chunks_exact(block_bytes);
    blocks
        .map(|block| {
            hasher.write(block);
            hasher.finish()
        })
        .collect()
}

/// The text of the n-th token.
fn token(index: usize) -> &'static str {
    const WORDS: [&str; 8] = ["time", " and", " tokens", " wait", " for", " nobody", " here", "."];
    WORDS.get(index % WORDS.len()).copied().unwrap_or_default()
}

impl Call {
    /// One event of a stream.
    pub(crate) fn chunk(&self, id: u64, index: usize) -> String {
        let last = index + 1 == self.output_tokens;
        let finish = if last { json!("length") } else { Value::Null };
        let (object, choice) = match self.api {
            Api::Chat => {
                let delta = if index == 0 {
                    json!({"role": "assistant", "content": token(index)})
                } else {
                    json!({"content": token(index)})
                };
                ("chat.completion.chunk", json!({"index": 0, "delta": delta, "finish_reason": finish}))
            }
            _ => ("text_completion", json!({"index": 0, "text": token(index), "finish_reason": finish})),
        };
        let chunk = json!({"id": format!("cmpl-{id}"), "object": object, "created": 0, "model": self.model, "choices": [choice]});
        format!("data: {chunk}\n\n")
    }

    /// The last events of a stream.
    pub(crate) fn stream_end(&self, id: u64, cached_tokens: usize) -> String {
        if !self.include_usage {
            return "data: [DONE]\n\n".to_owned();
        }
        let chunk = json!({"id": format!("cmpl-{id}"), "object": "chat.completion.chunk", "created": 0,
            "model": self.model, "choices": [], "usage": self.usage(cached_tokens)});
        format!("data: {chunk}\n\ndata: [DONE]\n\n")
    }

    /// The plain answer.
    pub(crate) fn answer(&self, id: u64, cached_tokens: usize) -> Value {
        let text: String = (0..self.output_tokens).map(token).collect();
        let usage = self.usage(cached_tokens);
        let id = format!("cmpl-{id}");
        match self.api {
            Api::Chat => {
                json!({"id": id, "object": "chat.completion", "created": 0, "model": self.model, "usage": usage,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}]})
            }
            Api::Completions => {
                json!({"id": id, "object": "text_completion", "created": 0, "model": self.model, "usage": usage,
                "choices": [{"index": 0, "text": text, "finish_reason": "length"}]})
            }
            Api::Embeddings => json!({"id": id, "object": "list", "model": self.model, "usage": usage,
                "data": [{"index": 0, "object": "embedding", "embedding": [0.0, 0.6, 0.8]}]}),
        }
    }

    fn usage(&self, cached_tokens: usize) -> Value {
        json!({"prompt_tokens": self.prompt_tokens, "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens}})
    }
}

/// The answer of /v1/models.
pub(crate) fn models(flags: &Flags) -> Value {
    let model = |id: &str, parent: Value| json!({"id": id, "object": "model", "created": 0, "owned_by": "vllm", "root": id, "parent": parent});
    let mut data = vec![model(&flags.model, Value::Null)];
    data.extend(flags.lora_modules.iter().map(|lora| model(lora, json!(flags.model))));
    json!({"object": "list", "data": data})
}
