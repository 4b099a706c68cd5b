//! Prompts with real bytes, so that policies which hash bytes work as they would on the wire.
//!
//! Four bytes of text are a token, always. Parts that requests have in common (system prompts, documents, earlier
//! turns) are shared strings, so a workload of gigabytes of prompts needs little memory.

use std::sync::Arc;

use serde_json::json;
use xxhash_rust::xxh64::xxh64;

use crate::random::Random;

/// Bytes of text in a token.
pub const BYTES_PER_TOKEN: usize = 4;

/// Tokens in a block of the engines' prefix caches.
pub const BLOCK_TOKENS: usize = 16;

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The client's.
    User,
    /// The model's.
    Assistant,
}

impl Role {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose it is.
    pub role: Role,
    /// Letters, four for each token; nothing that JSON would escape.
    pub text: Arc<str>,
}

/// The messages of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// In the order of the chat.
    pub messages: Vec<Message>,
}

impl Prompt {
    /// Appends a message.
    pub fn push(&mut self, role: Role, text: Arc<str>) {
        self.messages.push(Message { role, text });
    }

    /// The length in tokens.
    pub fn tokens(&self) -> usize {
        self.messages.iter().map(|message| message.text.len()).sum::<usize>() / BYTES_PER_TOKEN
    }

    /// The text of all messages, one after the other.
    pub fn text(&self) -> String {
        self.messages.iter().map(|message| &*message.text).collect()
    }

    /// The request's body for `/v1/chat/completions`.
    pub fn json_body(&self, model: &str, max_tokens: usize, stream: bool) -> Vec<u8> {
        let message = |message: &Message| json!({"role": message.role.name(), "content": &*message.text});
        let messages: Vec<_> = self.messages.iter().map(message).collect();
        let body = json!({"model": model, "messages": messages, "max_tokens": max_tokens, "stream": stream});
        body.to_string().into_bytes()
    }
}

/// Letters for so many tokens.
pub fn letters(random: &mut Random, tokens: usize) -> Arc<str> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyzABCDEF";
    let mut text = String::with_capacity(tokens * BYTES_PER_TOKEN);
    while text.len() < tokens * BYTES_PER_TOKEN {
        let bits = random.bits();
        for shift in [0, 8, 16, 24] {
            let letter = ALPHABET.get((bits >> shift) as usize & 31).copied().unwrap_or(b'a');
            text.push(char::from(letter));
        }
    }
    text.into()
}

/// The engines' chained hashes of the full blocks of a model's text.
pub fn block_hashes(model: &str, text: &str) -> Vec<u64> {
    let mut chain = xxh64(model.as_bytes(), 0);
    let blocks = text.as_bytes().chunks_exact(BLOCK_TOKENS * BYTES_PER_TOKEN);
    blocks
        .map(|block| {
            chain = xxh64(block, chain);
            chain
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_four_letters() {
        let text = letters(&mut Random::new(1), 50);
        assert_eq!(text.len(), 200);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_eq!(text, letters(&mut Random::new(1), 50));
        assert_ne!(text, letters(&mut Random::new(2), 50));
    }

    #[test]
    fn equal_beginnings_have_equal_blocks_and_models_differ() {
        let text = letters(&mut Random::new(1), 40);
        let longer = format!("{text}{}", letters(&mut Random::new(2), 40));
        let (short, long) = (block_hashes("m", &text), block_hashes("m", &longer));
        assert_eq!((short.len(), long.len()), (2, 5));
        assert_eq!(short[..], long[..2]);
        assert_ne!(short, block_hashes("other", &text));
    }

    #[test]
    fn the_body_is_a_chat_completion() {
        let mut prompt = Prompt::default();
        prompt.push(Role::System, "abcd".into());
        prompt.push(Role::User, "efghijkl".into());
        assert_eq!((prompt.tokens(), prompt.text().as_str()), (3, "abcdefghijkl"));
        let body: serde_json::Value = serde_json::from_slice(&prompt.json_body("m", 9, true)).unwrap();
        let messages = json!([{"role": "system", "content": "abcd"}, {"role": "user", "content": "efghijkl"}]);
        assert_eq!(body, json!({"model": "m", "messages": messages, "max_tokens": 9, "stream": true}));
    }
}
