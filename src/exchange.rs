//! One request and its answer as a machine: told of headers, body and end, it says what the host must do.
//!
//! The order of events is the host's: headers, then perhaps body and trailers, then the response, then the
//! end. A request is decided on exactly once, at whichever event ends it, and its count in flight is given
//! back exactly once. What must be done to the request or response is returned as a list of [`Edit`]s.

mod answer;
mod head;

use std::ops::Range;

use crate::config::{FailureMode, PoolId};
use crate::gateway::{Gateway, PickRequest};
use crate::headers;
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::scan::{self, Model};
use crate::scheduling::{Decision, Tier};
use crate::time::Timestamp;

use answer::Attempt;
pub use answer::ResponseHead;
use head::Head;

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
    /// The request at the endpoint where it is counted, or what was picked for it.
    attempt: Option<Attempt>,
    tier: Option<Tier>,
    session: Option<u64>,
    subset: Option<Vec<u8>>,
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
    prompt: Prompt,
    streams: bool,
}

/// A body in which the model's value is to be replaced.
#[derive(Debug)]
struct Rewrite {
    body: Vec<u8>,
    span: Range<usize>,
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
                if control == headers::SUBSET || (control == headers::SUBSET_TWIN && head.subset.is_none()) {
                    head.subset = Some(value);
                }
                if !removed.contains(&control) {
                    removed.push(control);
                    edits.push(Edit::RemoveRequestHeader(control));
                }
                continue;
            }
            head.note(name, value);
        }
        self.session = head.session;
        self.subset = head.subset.map(<[u8]>::to_vec);
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
                let resolved =
                    Resolved { pool, target: None, rewrite: None, prompt: Prompt::default(), streams: false };
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
        let Resolved { pool, target, rewrite, prompt, streams } = resolved;
        let Some(pool_config) = gateway.config().pool(pool) else { return Next::Continue };
        let base_model = pool_config.base_model.clone();
        let adapter = target.clone().filter(|target| *target != base_model);
        let request = PickRequest {
            adapter: adapter.as_deref(),
            prompt: &prompt,
            session: self.session,
            subset: self.subset.as_deref(),
        };
        let decision = gateway.pick(pool, request, now);
        self.tier = Some(decision.tier());
        let outside_subset = self.subset.is_some() && matches!(decision, Decision::NoOpinion(_));
        let list = match decision {
            Decision::Picked { endpoints, .. } => endpoints,
            Decision::NoOpinion(_) => Vec::new(),
        };
        let first = list.first().copied();
        gateway.stats.picked(pool, self.tier.unwrap_or(Tier::None), first);
        let Some(pool_config) = gateway.config().pool(pool) else { return Next::Continue };
        // Only inference requests are ever refused. A subset is an order, and not advice.
        let fails_closed = outside_subset || pool_config.failure_mode == FailureMode::FailClose;
        if list.is_empty() && target.is_some() && fails_closed {
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
            if gateway.config().poller.in_band {
                edits.push(Edit::SetRequestHeader(headers::LOAD_METRICS_FORMAT, "TEXT".to_owned()));
            }
        }
        let mut attempt = Attempt::new(pool, list, prompt, adapter, streams);
        attempt.send_to(gateway, first, now);
        self.attempt = Some(attempt);
        Next::Continue
    }

    /// What the pick rests on; `None` for a request that none was made for.
    pub fn tier(&self) -> Option<Tier> {
        self.tier
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
    let prompt = Prompt::new(&target, &body, &scan.prompt);
    let (streams, is_rewritten) = (scan.stream, name != target);
    let rewrite = is_rewritten.then_some(span);
    Ok(Resolved { pool, target: Some(target), rewrite: rewrite.map(|span| Rewrite { body, span }), prompt, streams })
}

#[cfg(test)]
mod tests;
