//! A request's prompt as a chain of block hashes: two prompts share a beginning as far as their chains agree.
//!
//! Engines cache the KV entries of a prompt's beginning in blocks of tokens. Tokens are not known here, so the
//! blocks are of bytes, of the JSON text as the client wrote it: a conversation's next turn repeats the text of
//! its earlier turns. The chain goes over the target model, the `cache_salt` and the parts in the order in which
//! chat templates place them: tools, then the system prompt, then messages. A `data:` URL stands for an image
//! or a sound, whose length in characters says nothing about its tokens: it enters the chain by a digest.

use crate::hash;
use crate::scan::PromptParts;
use crate::shape::Part;

/// The usual rule of thumb for English text in the tokenizers of today's models.
pub const BYTES_PER_TOKEN: usize = 4;
/// 64 tokens: four of vLLM's blocks. Smaller ones find little more and fill the table faster.
const SMALLEST_BLOCK: usize = 256;
/// Up to this length blocks have the smallest size; beyond it a block is at most 1/32 of what is before it, so
/// that a prompt of a megabyte has some 250 of them and a match is still exact to 3 %.
const BLOCKS_PER_DOUBLING: usize = 32;
/// What an image or a sound counts for, in bytes of text: about a thousand tokens, between a small image in
/// most vision models (250 to 600) and a large one (1,500 to 3,000).
const MEDIA_BYTES: usize = 1024 * BYTES_PER_TOKEN;
/// A whole prompt's blocks at `maxBodyBytes`' upper limit of 256 MiB are 32 + 15 * 32.
pub const MAX_BLOCKS: usize = 512;

/// A block of a prompt, named by everything up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The hash of the prompt up to the block's end.
    pub hash: u64,
    /// How many tokens the prompt has up to there, as far as that can be told.
    pub tokens: u32,
}

/// What of a prompt matters for a pick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The full blocks, in order; at most [`MAX_BLOCKS`].
    pub blocks: Vec<Block>,
    /// All tokens, as far as that can be told.
    pub tokens: u32,
    /// A hash of what tells conversations and documents apart, by which gateways that know nothing of a prompt still
    /// agree on an endpoint.
    pub opening: u64,
}

/// How much of a prompt, or of a conversation's first turn, [`Prompt::opening`] is about: enough to tell documents
/// apart, and little enough that a question at the end of one doesn't count.
const OPENING_BYTES: usize = 1024;

impl Prompt {
    /// The prompt of a request for `target`, whose parts are in `body`.
    pub fn new(target: &str, body: &[u8], parts: &PromptParts) -> Prompt {
        let salt = parts.cache_salt.clone().and_then(|salt| body.get(salt)).unwrap_or_default();
        let seed = hash::combine(hash::bytes(target.as_bytes()), hash::bytes(salt));
        let opening = parts.first_turn.clone().or_else(|| parts.in_template_order().last()).unwrap_or_default();
        let opening = opening.start..opening.end.min(opening.start + OPENING_BYTES);
        let mut chain = Chain::new(seed);
        chain.prompt.opening = hash::combine(seed, hash::bytes(body.get(opening).unwrap_or_default()));
        for (kind, part) in parts.parts() {
            let mut at = part.start;
            if kind == Part::Prompt
                && let Some(bytes) = bytes_per_token_id(body.get(part.clone()).unwrap_or_default())
            {
                chain.token_ids(body.get(part).unwrap_or_default(), bytes);
                continue;
            }
            for media in parts.media.iter().filter(|media| media.start >= part.start && media.end <= part.end) {
                chain.text(body.get(at..media.start).unwrap_or_default());
                chain.media(body.get(media.clone()).unwrap_or_default());
                at = media.end;
            }
            chain.text(body.get(at..part.end).unwrap_or_default());
        }
        chain.finish()
    }
}

/// The chain under way.
struct Chain {
    hash: u64,
    /// Bytes so far, media at their worth.
    length: usize,
    /// Where the block under way ends.
    boundary: usize,
    prompt: Prompt,
}

impl Chain {
    fn new(seed: u64) -> Chain {
        Chain { hash: seed, length: 0, boundary: SMALLEST_BLOCK, prompt: Prompt::default() }
    }

    fn text(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let (piece, rest) = text.split_at(text.len().min(self.boundary - self.length));
            self.absorb(hash::bytes(piece), piece.len());
            text = rest;
        }
    }

    /// Numbers of tokens: each is worth one, whatever its length.
    fn token_ids(&mut self, mut text: &[u8], bytes_per_id: usize) {
        while !text.is_empty() {
            let room = (self.boundary - self.length) / BYTES_PER_TOKEN * bytes_per_id;
            let (piece, rest) = text.split_at(text.len().min(room.max(1)));
            let worth = (piece.len() * BYTES_PER_TOKEN).div_ceil(bytes_per_id);
            self.absorb(hash::bytes(piece), worth);
            text = rest;
        }
    }

    fn media(&mut self, bytes: &[u8]) {
        self.absorb(hash::bytes(bytes), MEDIA_BYTES);
    }

    fn absorb(&mut self, piece: u64, length: usize) {
        self.hash = hash::combine(self.hash, piece);
        self.length += length;
        if self.length >= self.boundary {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if self.prompt.blocks.len() < MAX_BLOCKS {
            self.prompt.blocks.push(Block { hash: self.hash, tokens: tokens(self.length) });
        }
        self.boundary = self.length + block_bytes(self.length);
    }

    fn finish(mut self) -> Prompt {
        self.prompt.tokens = tokens(self.length.next_multiple_of(BYTES_PER_TOKEN));
        self.prompt
    }
}

/// The size of a block that begins at `at`.
fn block_bytes(at: usize) -> usize {
    let power = 1 << at.max(1).ilog2();
    (power / BLOCKS_PER_DOUBLING).max(SMALLEST_BLOCK)
}

/// How many bytes a number takes with what separates it from the next, if the text is a list of them or of such lists:
/// most numbers in a vocabulary of 100,000 to 250,000 have five or six digits. It is told from the beginning, so that a longer
/// prompt has the shorter one's blocks.
fn bytes_per_token_id(text: &[u8]) -> Option<usize> {
    let numbers = text.strip_prefix(b"[")?.trim_ascii_start();
    let numbers = numbers.strip_prefix(b"[").unwrap_or(numbers).trim_ascii_start();
    if !numbers.first()?.is_ascii_digit() {
        return None;
    }
    // No number of a token is longer.
    let mut first = numbers.iter().take(16);
    let separator = first.position(|byte| *byte == b',').and_then(|at| numbers.get(at + 1));
    Some(if separator == Some(&b' ') { 7 } else { 6 })
}

fn tokens(bytes: usize) -> u32 {
    u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Wanted, scan};
    use crate::shape::Shape;
    use crate::testing::test;

    fn parts(body: &str) -> PromptParts {
        let path = if body.contains("\"prompt\":") { "/v1/completions" } else { "/v1/chat/completions" };
        let shape = Shape::of(b"POST", path.as_bytes()).unwrap();
        scan(body.as_bytes(), shape, None, Wanted::Named(&[])).unwrap().prompt
    }

    fn prompt(body: &str) -> Prompt {
        Prompt::new("m", body.as_bytes(), &parts(body))
    }

    fn shared(a: &Prompt, b: &Prompt) -> usize {
        a.blocks.iter().zip(&b.blocks).take_while(|(a, b)| a == b).count()
    }

    fn message(text: &str) -> String {
        format!(r#"{{"role":"user","content":"{text}"}}"#)
    }

    #[test]
    fn a_next_turn_repeats_the_blocks_of_the_turn_before() {
        let first = message(&"a".repeat(3000));
        let second = message(&"b".repeat(500));
        let (one, two) =
            (prompt(&format!(r#"{{"messages":[{first}]}}"#)), prompt(&format!(r#"{{"messages":[{first},{second}]}}"#)));
        assert_eq!(one.blocks.len(), 3032 / 256);
        assert_eq!(shared(&one, &two), one.blocks.len());
        assert_eq!(one.opening, two.opening);
        assert_eq!((one.blocks[10].tokens, one.tokens), (704, 758));
    }

    #[test]
    fn the_engines_order_counts_and_not_the_bodys() {
        let tools = format!(r#""tools":["{}"]"#, "t".repeat(1000));
        let messages = format!(r#""messages":[{}]"#, message(&"m".repeat(1000)));
        let one = prompt(&format!("{{{tools},{messages}}}"));
        let other = prompt(&format!("{{{messages}, \"n\":1,{tools}}}"));
        assert_eq!(one, other);
    }

    #[test]
    fn model_salt_and_the_first_byte_tell_prompts_apart() {
        let body = format!(r#"{{"prompt":"{}"}}"#, "p".repeat(1000));
        let parts = parts(&body);
        let [one, other] = ["m", "adapter"].map(|target| Prompt::new(target, body.as_bytes(), &parts));
        assert_eq!(shared(&one, &other), 0);
        let salted = format!(r#"{{"cache_salt":"tenant","prompt":"{}"}}"#, "p".repeat(1000));
        assert_eq!(shared(&one, &prompt(&salted)), 0);
        assert_ne!(one.opening, prompt(&salted).opening);
        let changed = format!(r#"{{"prompt":"x{}"}}"#, "p".repeat(999));
        assert_eq!(shared(&one, &prompt(&changed)), 0);
    }

    #[test]
    fn an_image_counts_by_its_digest_and_not_by_its_length() {
        let body = |image: &str| {
            let url = format!("data:image/png;base64,{}", image.repeat(100_000));
            format!(
                r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
            )
        };
        let (cat, dog) = (prompt(&body("cat0")), prompt(&body("dog0")));
        assert!((1024..1100).contains(&cat.tokens), "{} tokens", cat.tokens);
        assert_eq!(cat, prompt(&body("cat0")));
        assert_eq!(shared(&cat, &dog), 0);
    }

    #[test]
    fn token_ids_count_each_as_one_and_share_their_beginnings() {
        let ids = |count: usize, separator: &str| {
            (0..count).map(|id| (10_000 + id * 7).to_string()).collect::<Vec<_>>().join(separator)
        };
        for separator in [",", ", "] {
            let short = prompt(&format!(r#"{{"prompt":[{}]}}"#, ids(2_000, separator)));
            let long = prompt(&format!(r#"{{"prompt":[{}]}}"#, ids(3_000, separator)));
            assert!(short.tokens.abs_diff(2_000) < 40, "{}", short.tokens);
            assert!(shared(&short, &long) >= short.blocks.len() - 1);
            let several = prompt(&format!(r#"{{"prompt":[[{}],[1]]}}"#, ids(2_000, separator)));
            assert!(several.tokens.abs_diff(2_000) < 40, "{}", several.tokens);
        }
    }

    #[test]
    fn long_prompts_have_few_blocks() {
        let long = prompt(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(1 << 20)));
        assert!((240..270).contains(&long.blocks.len()), "{}", long.blocks.len());
        let ends: Vec<u32> = long.blocks.iter().map(|block| block.tokens).collect();
        for pair in ends.windows(2) {
            assert!(pair[1] - pair[0] <= (pair[0] / 32).max(64), "{pair:?}");
        }
    }
}
