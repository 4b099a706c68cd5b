//! One request and its answer as a machine: told of headers, body and end, it says what the host must do.
//!
//! The order of events is the host's: headers, then perhaps body and trailers, perhaps a wait, then the response, then
//! the end. A request is decided on exactly once, at whichever event ends it, and its count in flight is given
//! back exactly once. What must be done to the request or response is returned as a list of [`Edit`]s.

mod answer;
mod body;
mod content;
mod departure;
mod edit;
mod head;
mod retry;
mod watch;

use crate::config::PoolId;
use crate::gateway::{Admission, Applicant, Gateway};
use crate::headers;
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::restore::Restorer;
use crate::room::Place;
use crate::scan::ScanError;
use crate::scheduling::Tier;
use crate::shape::{Call, Shape};
use crate::time::Timestamp;

use answer::Attempt;
pub use answer::ResponseHead;
use body::{Asked, NamedInPath, Whole};
use departure::{Choice, Claiming};
pub use edit::Edit;
use head::{Head, Wishes};
pub use watch::WATCHED_BYTES;
use watch::Watch;

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
    /// Take this place, if there is one, and call [`Exchange::handle_claimed`].
    Claim(Place),
    /// Hold it until [`Gateway::poll_release`] gives its number; then call [`Exchange::handle_release`].
    Wait(u64),
    /// Answer it.
    Refuse(Refusal),
}

/// One request and its answer.
#[derive(Debug, Default)]
pub struct Exchange {
    phase: Phase,
    wishes: Wishes,
    /// The request at the endpoint where it is counted, or what was picked for it.
    attempt: Option<Attempt>,
    tier: Option<Tier>,
    /// Puts the client's name of the model back into the answer.
    restorer: Option<Restore>,
    /// Looks for errors in an answer that has begun well.
    watch: Option<Watch>,
    /// The request's headers that hold for the exact bytes of its body.
    digests: Vec<&'static str>,
    /// Whether the request's body is another one than the client's.
    is_rewritten: bool,
}

#[derive(Debug, Default)]
enum Phase {
    /// Nothing was seen yet.
    #[default]
    New,
    /// Waiting for the rest of the body.
    Buffering(Box<Asked>),
    /// Waiting for the route, which leads to the pool; and what is wrong with the request if it does.
    Routing(Resolved, Option<Refusal>),
    /// The pool is known, and its load is being read.
    Resolved(PoolId, Resolved),
    /// Waiting for its turn, under this number.
    Waiting(PoolId, Resolved, u64),
    /// An endpoint is chosen, and a place there is asked for.
    Claiming(PoolId, Resolved, Box<Choice>, Claiming),
    /// Decided, refused, or passed through.
    Done,
}

/// What was learnt from the request.
#[derive(Debug, Default)]
struct Resolved {
    /// The model to ask for; `None` for a request without one, which keeps its headers and body.
    target: Option<String>,
    /// A hash of the model and the API, for what endpoints refuse.
    asked: Option<u64>,
    /// The body in which the model's value was replaced.
    rewritten: Option<Vec<u8>>,
    /// The name by which the client has asked, if answers shall name the model so.
    client_model: Option<String>,
    /// Headers that a rule sets.
    headers: Vec<(String, String)>,
    /// What a rule or the model says of it.
    priority: Option<i32>,
    model_priority: Option<i32>,
    prompt: Prompt,
    streams: bool,
    bytes: u64,
    /// Only inference requests are ever refused.
    may_be_refused: bool,
}

/// How the client's name of the model gets back into the answer.
#[derive(Debug)]
enum Restore {
    /// The answer hasn't begun.
    Planned { engine: String, client: String },
    /// It has, and can be read.
    Running(Restorer),
}

impl Exchange {
    /// Takes the request's headers in.
    pub fn handle_request_headers(
        &mut self,
        gateway: &mut Gateway,
        request: Vec<Header>,
        end_of_stream: bool,
        now: Timestamp,
        edits: &mut Vec<Edit>,
    ) -> Next {
        let config = gateway.config();
        let head = Head::read(&request, &config.session_keys, &config.trusted_headers);
        edits.extend(head.removed().map(Edit::RemoveRequestHeader));
        let (shape, path_model) = match Call::read(head.method, head.path) {
            Call::Other => {
                // A client that names a model in a header has chosen the route; no pick is made on its word.
                let chose_route =
                    head.controls.contains(&headers::MODEL) || head.controls.contains(&headers::BASE_MODEL);
                self.wishes = head.wishes;
                return if chose_route { self.pass_through(gateway) } else { self.route(Resolved::default(), None) };
            }
            Call::Unclear(shape) => {
                return self.unreadable(gateway, shape, Refusal::UnclearPath { path: shape.suffix });
            }
            Call::One { shape, model } => (shape, model.map(|model| NamedInPath::new(model, head.path))),
        };
        let limit = gateway.config().max_body_bytes;
        let is_too_large = head.content_length.is_some_and(|length| length > limit as u64);
        let (coding, format) = (head.coding(), head.format());
        (self.wishes, self.digests) = (head.wishes, head.digests);
        if let Some(coding) = coding {
            return self.unreadable(gateway, shape, Refusal::EncodedBody { coding });
        }
        if is_too_large {
            return self.unreadable(gateway, shape, Refusal::TooLarge { limit });
        }
        let boundary = match shape.form(format) {
            Ok(boundary) => boundary,
            Err(kind) => return self.unreadable(gateway, shape, Refusal::InvalidBody(ScanError { at: 0, kind })),
        };
        // Only rules look at headers again, and they see no more of what steers than is believed.
        let mut request = if gateway.config().rules.is_empty() { Vec::new() } else { request };
        request.retain(|(name, _)| {
            headers::control(name).is_none_or(|control| gateway.config().trusted_headers.contains(&control))
        });
        let (pseudo, headers) = request.into_iter().partition(|(name, _)| name.starts_with(':'));
        self.phase = Phase::Buffering(Box::new(Asked { shape, boundary, path_model, pseudo, headers }));
        if end_of_stream {
            return self.handle_request_end(gateway, Vec::new(), now, edits);
        }
        Next::Buffer
    }

    /// Takes the cluster of the route of a request whose pool nothing else tells.
    ///
    /// Edits that came with [`Next::Route`] are to be applied before the route is read: a rule's headers may choose it.
    pub fn handle_route(&mut self, gateway: &mut Gateway, cluster: Option<&[u8]>) -> Next {
        let Phase::Routing(resolved, refusal) = std::mem::take(&mut self.phase) else { return Next::Continue };
        match (cluster.and_then(|cluster| gateway.pool_of_cluster(cluster)), refusal) {
            (Some(_), Some(refusal)) => self.refuse(gateway, refusal),
            (Some(pool), None) => {
                self.phase = Phase::Resolved(pool, resolved);
                Next::Load(pool)
            }
            (None, _) => self.pass_through(gateway),
        }
    }

    /// Notes how much of the body is there, while more is to come.
    pub fn handle_request_body(&mut self, gateway: &mut Gateway, buffered: usize) -> Next {
        let Phase::Buffering(asked) = &self.phase else { return Next::Continue };
        let limit = gateway.config().max_body_bytes;
        if buffered <= limit {
            return Next::Buffer;
        }
        let shape = asked.shape;
        self.unreadable(gateway, shape, Refusal::TooLarge { limit })
    }

    /// Whether the request still waits for its end.
    pub fn wants_request_end(&self) -> bool {
        matches!(self.phase, Phase::Buffering(_))
    }

    /// Takes the whole body in, at the event that ends the request.
    pub fn handle_request_end(
        &mut self,
        gateway: &mut Gateway,
        body: Vec<u8>,
        now: Timestamp,
        edits: &mut Vec<Edit>,
    ) -> Next {
        let Phase::Buffering(asked) = std::mem::take(&mut self.phase) else { return Next::Continue };
        let limit = gateway.config().max_body_bytes;
        if body.len() > limit {
            return self.unreadable(gateway, asked.shape, Refusal::TooLarge { limit });
        }
        match asked.resolve(gateway, &mut self.wishes, body, now) {
            Whole::Pool(pool, resolved) => {
                self.phase = Phase::Resolved(pool, resolved);
                Next::Load(pool)
            }
            Whole::NoPool(mut resolved, refusal) => {
                resolved.edit_headers(edits);
                self.route(resolved, refusal)
            }
            Whole::Unreadable(refusal) => self.unreadable(gateway, asked.shape, refusal),
        }
    }

    /// Decides whether the request may go, once the pool's load was read into the gateway; and if so, where.
    pub fn handle_load(&mut self, gateway: &mut Gateway, now: Timestamp, edits: &mut Vec<Edit>) -> Next {
        let Phase::Resolved(pool, mut resolved) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return Next::Continue;
        };
        if resolved.may_be_refused {
            let objective = self.wishes.objective.as_deref().and_then(|name| gateway.objective(pool, name));
            resolved.priority = resolved.priority.or(objective).or(resolved.model_priority).or(Some(0));
            match gateway.admit(pool, &self.applicant(&resolved), now) {
                Admission::Go => {}
                Admission::Wait(id) => return self.wait(gateway, pool, resolved, id, edits),
                Admission::Refuse(refusal) => return self.refuse(gateway, refusal),
            }
        }
        self.send(gateway, pool, resolved, Claiming::default(), now, edits)
    }

    /// Sends a request that has waited and may go now, once the pool's load was read into the gateway.
    pub fn handle_release(&mut self, gateway: &mut Gateway, now: Timestamp, edits: &mut Vec<Edit>) -> Next {
        let Phase::Waiting(pool, resolved, id) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return Next::Continue;
        };
        self.send(gateway, pool, resolved, Claiming { waited_as: Some(id), ..Claiming::default() }, now, edits)
    }

    /// Notes that a request that has waited is refused.
    pub fn handle_release_refused(&mut self, gateway: &mut Gateway, refusal: &Refusal) {
        self.phase = Phase::Done;
        gateway.stats.refused(refusal.reason());
    }

    /// What the gateway decides by whether a request may go.
    fn applicant(&self, resolved: &Resolved) -> Applicant {
        Applicant {
            priority: resolved.priority.unwrap_or(0),
            flow: self.wishes.flow,
            bytes: resolved.bytes,
            ttl: self.wishes.ttl,
            slo_ttft: self.wishes.slo.ttft,
        }
    }

    /// Holds a request. What doesn't depend on the pick is done now, so that its body lies in one place.
    fn wait(
        &mut self,
        gateway: &mut Gateway,
        pool: PoolId,
        mut resolved: Resolved,
        id: u64,
        edits: &mut Vec<Edit>,
    ) -> Next {
        self.edit(gateway, pool, &mut resolved, edits);
        self.phase = Phase::Waiting(pool, resolved, id);
        Next::Wait(id)
    }

    /// What the pick rests on; `None` for a request that none was made for.
    pub fn tier(&self) -> Option<Tier> {
        self.tier
    }

    fn route(&mut self, resolved: Resolved, refusal: Option<Refusal>) -> Next {
        self.phase = Phase::Routing(resolved, refusal);
        Next::Route
    }

    fn pass_through(&mut self, gateway: &mut Gateway) -> Next {
        self.phase = Phase::Done;
        gateway.stats.passed_through();
        Next::Continue
    }

    /// A request that cannot be read is the client's fault where the path says what it must be; elsewhere it may be
    /// another application's, unless its route leads to a pool.
    fn unreadable(&mut self, gateway: &mut Gateway, shape: &Shape, refusal: Refusal) -> Next {
        if shape.needs_model { self.refuse(gateway, refusal) } else { self.route(Resolved::default(), Some(refusal)) }
    }

    fn refuse(&mut self, gateway: &mut Gateway, refusal: Refusal) -> Next {
        self.phase = Phase::Done;
        gateway.stats.refused(refusal.reason());
        Next::Refuse(refusal)
    }
}

#[cfg(test)]
mod tests;
