//! One request and its answer as a machine: told of headers, body and end, it says what the host must do.
//!
//! The order of events is the host's: headers, then perhaps body and trailers, then the response, then the
//! end. A request is decided on exactly once, at whichever event ends it, and its count in flight is given
//! back exactly once. What must be done to the request or response is returned as a list of [`Edit`]s.

use std::ops::Range;

use crate::config::{FailureMode, PoolId};
use crate::gateway::{Gateway, PickRequest};
use crate::hash;
use crate::headers;
use crate::inflight::Ticket;
use crate::refusal::Refusal;
use crate::scan::{self, Model};
use crate::scheduling::{Decision, Tier};
use crate::time::Timestamp;

/// The part of a prompt by which a cold gateway routes: long enough to tell conversations and documents
/// apart, short enough that requests with one system prompt and different questions are not all alike.
const PREFIX_BYTES: usize = 2048;
/// The usual rule of thumb for English text in the tokenizers of today's models.
const BYTES_PER_TOKEN: usize = 4;

/// A header's name in lower case, and its value as it came.
pub type Header = (String, Vec<u8>);

/// What the host shall do next with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Let it go on.
    Continue,
    /// Hold it until the body is complete.
    Buffer,
    /// Read the cluster of the request's route and call [`Exchange::handle_route`].
    Route,
    /// Read this pool's load and call [`Exchange::handle_load`].
    Load(PoolId),
    /// Answer it.
    Refuse(Refusal),
}

/// A change to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Remove a request header.
    RemoveRequestHeader(&'static str),
    /// Set a request header, replacing all of its values.
    SetRequestHeader(&'static str, String),
    /// Replace the request's body. A `content-length` follows.
    ReplaceBody(Vec<u8>),
    /// Remove a response header.
    RemoveResponseHeader(&'static str),
    /// Set a response header, replacing all of its values.
    SetResponseHeader(&'static str, String),
}

/// One request and its answer.
#[derive(Debug, Default)]
pub struct Exchange {
    phase: Phase,
    picked: Option<Picked>,
    ticket: Option<Ticket>,
    tier: Option<Tier>,
}

#[derive(Debug, Default)]
enum Phase {
    /// Nothing was seen yet.
    #[default]
    New,
    /// Waiting for the rest of the body.
    Buffering,
    /// The pool is known, and its load is being read.
    Resolved(Resolved),
    /// Decided, refused, or passed through.
    Done,
}

/// What was learnt from the request.
#[derive(Debug)]
struct Resolved {
    pool: PoolId,
    /// The model to ask for; `None` for a request without one, which keeps its headers and body.
    target: Option<String>,
    rewrite: Option<Rewrite>,
    prefix: u64,
    tokens: u64,
}

/// A body in which the model's value is to be replaced.
#[derive(Debug)]
struct Rewrite {
    body: Vec<u8>,
    span: Range<usize>,
}

#[derive(Debug)]
struct Picked {
    pool: PoolId,
    /// The first choice, which is counted as in flight.
    first: Option<usize>,
    list: Vec<usize>,
    tokens: u64,
}

impl Exchange {
    /// Takes the request's headers in.
    pub fn handle_request_headers(
        &mut self,
        gateway: &mut Gateway,
        request: &[Header],
        end_of_stream: bool,
        edits: &mut Vec<Edit>,
    ) -> Next {
        let mut removed: Vec<&'static str> = Vec::new();
        let mut head = Head::default();
        for (name, value) in request {
            if let Some(control) = headers::control(name) {
                if !removed.contains(&control) {
                    removed.push(control);
                    edits.push(Edit::RemoveRequestHeader(control));
                }
                continue;
            }
            match name.as_str() {
                ":method" => head.method = value,
                ":path" => head.path = value,
                "content-encoding" => head.content_encoding = value,
                "content-length" => head.content_length = ascii_number(value),
                _ => {}
            }
        }
        if !head.is_inference() {
            // A client that names a model in a header has chosen the route; no pick is made on its word.
            let chose_route = removed.contains(&headers::MODEL) || removed.contains(&headers::BASE_MODEL);
            return if chose_route { self.pass_through(gateway) } else { Next::Route };
        }
        if let Some(coding) = head.coding() {
            return self.refuse(gateway, Refusal::EncodedBody { coding });
        }
        if head.content_length.is_some_and(|length| length > gateway.config().max_body_bytes as u64) {
            return self.too_large(gateway);
        }
        if end_of_stream {
            return self.handle_request_end(gateway, Vec::new());
        }
        self.phase = Phase::Buffering;
        Next::Buffer
    }

    /// Takes the cluster of the route of a request that is no inference request.
    pub fn handle_route(&mut self, gateway: &mut Gateway, cluster: Option<&[u8]>) -> Next {
        match cluster.and_then(|cluster| gateway.pool_of_cluster(cluster)) {
            Some(pool) => {
                let resolved = Resolved { pool, target: None, rewrite: None, prefix: 0, tokens: 0 };
                self.phase = Phase::Resolved(resolved);
                Next::Load(pool)
            }
            None => self.pass_through(gateway),
        }
    }

    /// Notes how much of the body is there, while more is to come.
    pub fn handle_request_body(&mut self, gateway: &mut Gateway, buffered: usize) -> Next {
        match self.phase {
            Phase::Buffering if buffered > gateway.config().max_body_bytes => self.too_large(gateway),
            Phase::Buffering => Next::Buffer,
            _ => Next::Continue,
        }
    }

    /// Whether the request still waits for its end.
    pub fn wants_request_end(&self) -> bool {
        matches!(self.phase, Phase::Buffering)
    }

    /// Takes the whole body in, at the event that ends the request.
    pub fn handle_request_end(&mut self, gateway: &mut Gateway, body: Vec<u8>) -> Next {
        if body.len() > gateway.config().max_body_bytes {
            return self.too_large(gateway);
        }
        match resolve(gateway, body) {
            Ok(resolved) => {
                let pool = resolved.pool;
                self.phase = Phase::Resolved(resolved);
                Next::Load(pool)
            }
            Err(refusal) => self.refuse(gateway, refusal),
        }
    }

    /// Decides, once the pool's load was read into the gateway.
    pub fn handle_load(&mut self, gateway: &mut Gateway, now: Timestamp, edits: &mut Vec<Edit>) -> Next {
        let Phase::Resolved(resolved) = std::mem::replace(&mut self.phase, Phase::Done) else { return Next::Continue };
        let Resolved { pool, target, rewrite, prefix, tokens } = resolved;
        let Some(pool_config) = gateway.config().pool(pool) else { return Next::Continue };
        let base_model = pool_config.base_model.clone();
        let adapter = target.as_deref().filter(|target| *target != base_model);
        let decision = gateway.pick(pool, PickRequest { adapter, prefix }, now);
        self.tier = Some(decision.tier());
        let list = match decision {
            Decision::Picked { endpoints, .. } => endpoints,
            Decision::NoOpinion(_) => Vec::new(),
        };
        let first = list.first().copied();
        gateway.stats.picked(pool, self.tier.unwrap_or(Tier::None), first);
        let Some(pool_config) = gateway.config().pool(pool) else { return Next::Continue };
        // Only inference requests are ever refused.
        let may_refuse = target.is_some() && pool_config.failure_mode == FailureMode::FailClose;
        if list.is_empty() && may_refuse {
            let refusal = Refusal::NoEndpoint { pool: pool_config.name.clone() };
            return self.refuse(gateway, refusal);
        }
        let addresses: Vec<&str> =
            list.iter().filter_map(|index| pool_config.endpoints.get(*index)).map(|address| address.as_str()).collect();
        if !addresses.is_empty() {
            edits.push(Edit::SetRequestHeader(headers::DESTINATION, addresses.join(",")));
        }
        if let (Some(rewrite), Some(target)) = (rewrite, &target) {
            let body = scan::with_model(&rewrite.body, &rewrite.span, target);
            let length = body.len().to_string();
            edits.push(Edit::ReplaceBody(body));
            edits.push(Edit::SetRequestHeader("content-length", length));
        }
        if let Some(target) = target {
            edits.push(Edit::SetRequestHeader(headers::MODEL, target));
            edits.push(Edit::SetRequestHeader(headers::BASE_MODEL, base_model));
        }
        if let Some(key) = first.and_then(|first| gateway.endpoint_key(pool, first)) {
            self.ticket = Some(gateway.inflight.acquire(key, tokens));
        }
        self.picked = Some(Picked { pool, first, list, tokens });
        Next::Continue
    }

    /// What the pick rests on; `None` for a request that none was made for.
    pub fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Takes the response's headers in, with the address of the endpoint that sent it; none sent a local reply.
    pub fn handle_response_headers(&mut self, gateway: &mut Gateway, served: Option<&[u8]>, edits: &mut Vec<Edit>) {
        match served.and_then(|address| std::str::from_utf8(address).ok()).filter(|address| !address.is_empty()) {
            Some(address) => {
                edits.push(Edit::SetResponseHeader(headers::SERVED, address.to_owned()));
                self.reconcile(gateway, address.as_bytes());
            }
            None => edits.push(Edit::RemoveResponseHeader(headers::SERVED)),
        }
    }

    /// Notes that the response is complete, or that the stream is gone; may be called more than once.
    pub fn handle_end(&mut self, gateway: &mut Gateway) {
        if let Some(ticket) = self.ticket.take() {
            gateway.inflight.release(ticket);
        }
    }

    /// Moves the count in flight to the endpoint that serves, where a retry went elsewhere.
    fn reconcile(&mut self, gateway: &mut Gateway, address: &[u8]) {
        let Some(picked) = &self.picked else { return };
        let served = gateway.endpoint_at(picked.pool, address);
        if !picked.list.is_empty() && served.is_none_or(|served| !picked.list.contains(&served)) {
            gateway.stats.override_missed(picked.pool);
        }
        if served == picked.first {
            return;
        }
        if let Some(ticket) = self.ticket.take() {
            gateway.inflight.release(ticket);
        }
        if let Some(key) = served.and_then(|served| gateway.endpoint_key(picked.pool, served)) {
            self.ticket = Some(gateway.inflight.acquire(key, picked.tokens));
        }
    }

    fn pass_through(&mut self, gateway: &mut Gateway) -> Next {
        self.phase = Phase::Done;
        gateway.stats.passed_through();
        Next::Continue
    }

    fn too_large(&mut self, gateway: &mut Gateway) -> Next {
        let limit = gateway.config().max_body_bytes;
        self.refuse(gateway, Refusal::TooLarge { limit })
    }

    fn refuse(&mut self, gateway: &mut Gateway, refusal: Refusal) -> Next {
        self.phase = Phase::Done;
        gateway.stats.refused(refusal.reason());
        Next::Refuse(refusal)
    }
}

/// What decides whether and how a request is looked at.
#[derive(Default)]
struct Head<'h> {
    method: &'h [u8],
    path: &'h [u8],
    content_encoding: &'h [u8],
    content_length: Option<u64>,
}

/// The ends of the paths whose bodies name a model, whatever a gateway puts before them. All but the first are
/// common words, which only the version makes an inference request of.
const INFERENCE_PATHS: [&[u8]; 5] =
    [b"/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages"];

impl Head<'_> {
    fn is_inference(&self) -> bool {
        let path = self.path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        self.method == b"POST" && INFERENCE_PATHS.iter().any(|end| path.ends_with(end))
    }

    /// The coding that hides the body, if there is one.
    fn coding(&self) -> Option<String> {
        let coding = self.content_encoding.trim_ascii();
        let plain = coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
        (!plain).then(|| String::from_utf8_lossy(coding).into_owned())
    }
}

fn resolve(gateway: &mut Gateway, body: Vec<u8>) -> Result<Resolved, Refusal> {
    let scan = scan::scan(&body).map_err(Refusal::InvalidBody)?;
    let (name, span) = match scan.model {
        None => return Err(Refusal::NoModel),
        Some(Model::NotAName) => return Err(Refusal::ModelIsNoString),
        Some(Model::Name { name, span }) => (name, span),
    };
    let Some((pool, target)) = gateway.resolve(&name) else {
        return Err(Refusal::UnknownModel { model: name.into_owned() });
    };
    let is_rewritten = name != target;
    let prefix = hash::combine(hash::bytes(target.as_bytes()), prompt_hash(&body, &scan.prompt));
    let tokens = (scan.prompt.total_bytes() / BYTES_PER_TOKEN) as u64;
    let rewrite = is_rewritten.then_some(span);
    Ok(Resolved { pool, target: Some(target), rewrite: rewrite.map(|span| Rewrite { body, span }), prefix, tokens })
}

/// The hash of the first [`PREFIX_BYTES`] of the prompt.
fn prompt_hash(body: &[u8], prompt: &scan::PromptParts) -> u64 {
    let mut left = PREFIX_BYTES;
    let mut hash = 0;
    for part in prompt.iter() {
        let part = body.get(part).unwrap_or_default();
        let taken = part.get(..left.min(part.len())).unwrap_or_default();
        hash = hash::combine(hash, hash::bytes(taken));
        left -= taken.len();
    }
    hash
}

fn ascii_number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
