//! What the body of an inference request says: its model, its prompt, and with the rules where it shall go.

use std::ops::Range;

use super::head::Wishes;
use super::{Header, Resolved};
use crate::config::{PoolId, SessionKey};
use crate::gateway::Gateway;
use crate::hash;
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::rules::{Choice, Facts};
use crate::scan::{self, Model, Scan};
use crate::shape::{PathModel, Shape};
use crate::shown;
use crate::target;
use crate::time::Timestamp;

/// What the headers say of how to read the body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) shape: &'static Shape,
    /// That of a form.
    pub(super) boundary: Option<String>,
    /// The model, where the path names it.
    pub(super) path_model: Option<NamedInPath>,
    /// The pseudo-headers and the others, where rules may look at them.
    pub(super) pseudo: Vec<Header>,
    pub(super) headers: Vec<Header>,
}

/// A model that a path names, as Azure's and Gemini's do.
#[derive(Debug)]
pub(super) struct NamedInPath {
    model: PathModel,
    query: Vec<u8>,
}

impl NamedInPath {
    pub(super) fn new(model: PathModel, target: &[u8]) -> NamedInPath {
        NamedInPath { model, query: target::split(target).1.to_vec() }
    }
}

/// What a whole request leads to.
pub(super) enum Whole {
    Pool(PoolId, Resolved),
    /// It names no model that is known, and needn't: its route tells. If that leads to a pool, this is what is wrong.
    NoPool(Resolved, Option<Refusal>),
    Unreadable(Refusal),
}

impl Asked {
    pub(super) fn resolve(&self, gateway: &mut Gateway, wishes: &mut Wishes, body: Vec<u8>, now: Timestamp) -> Whole {
        let scan = match scan::scan(&body, self.shape, self.boundary.as_deref(), gateway.wanted()) {
            Ok(scan) => scan,
            Err(error) => return Whole::Unreadable(Refusal::InvalidBody(error)),
        };
        note_session(gateway, wishes, &scan, &body);
        let choice = if gateway.config().rules.is_empty() { None } else { self.choice(gateway, &scan, &body, now) };
        let Choice { model: chosen, pool: chosen_pool, priority, headers, .. } = choice.unwrap_or_default();
        let (named, span) = match self.named_model(&scan) {
            Ok(named) => named,
            Err(refusal) => return Whole::Unreadable(refusal),
        };
        let mut resolved = Resolved {
            headers,
            priority,
            streams: scan.stream,
            bytes: body.len() as u64,
            may_be_refused: true,
            ..Resolved::default()
        };
        let Some(wanted) = chosen.as_deref().or(named) else {
            resolved.prompt = Prompt::new("", &body, &scan.prompt);
            return match chosen_pool {
                Some(pool) => Whole::Pool(pool, resolved),
                None if self.shape.needs_model => Whole::Unreadable(Refusal::NoModel),
                None => Whole::NoPool(resolved, None),
            };
        };
        let session = wishes.session.map(|(_, session)| session);
        let (pool, target) = match gateway.resolve(wanted, session) {
            Some(found) if chosen_pool.is_none_or(|pool| pool == found.pool) => {
                resolved.model_priority = found.priority;
                let restores = found.restores_name && named.is_some_and(|named| named != found.target);
                resolved.client_model = named.filter(|_| restores).map(str::to_owned);
                (found.pool, found.target.to_owned())
            }
            // A rule knows better which pool it is, and an engine may serve what is not configured. The name goes into a
            // header, and so into logs.
            found if chosen_pool.is_some() && (found.is_some() || may_be_a_name(wanted)) => {
                let pool = chosen_pool.unwrap_or(PoolId(0));
                let generic = gateway.resolve_generic(pool, session);
                resolved.client_model = generic.filter(|(_, restores)| *restores).and(named).map(str::to_owned);
                (pool, generic.map_or(wanted, |(target, _)| target).to_owned())
            }
            _ if self.shape.needs_model || chosen_pool.is_some() => {
                return Whole::Unreadable(Refusal::UnknownModel { model: wanted.to_owned() });
            }
            _ => {
                resolved.prompt = Prompt::new("", &body, &scan.prompt);
                return Whole::NoPool(resolved, Some(Refusal::UnknownModel { model: wanted.to_owned() }));
            }
        };
        resolved.prompt = Prompt::new(&target, &body, &scan.prompt);
        let is_rewritten = named.is_some_and(|named| named != target);
        if is_rewritten {
            self.rename(&mut resolved, &body, span, &scan, &target);
        }
        let api = hash::bytes(self.shape.suffix.as_bytes());
        resolved.asked = Some(hash::combine(api, hash::bytes(target.as_bytes())));
        resolved.target = Some(target);
        Whole::Pool(pool, resolved)
    }

    /// The model that the path or the body names, and where the body does.
    fn named_model<'s>(&'s self, scan: &'s Scan<'_>) -> Result<(Option<&'s str>, Option<Range<usize>>), Refusal> {
        Ok(match (&scan.model, &self.path_model) {
            (Some(Model::Name { name, span }), None) => (Some(name.as_ref()), Some(span.clone())),
            (None, in_path) => (in_path.as_ref().map(|in_path| in_path.model.name.as_str()), None),
            (Some(Model::Name { name, span }), Some(in_path)) => {
                // Gemini's bodies have the name as a path.
                let bare = name.strip_prefix("models/").unwrap_or(name);
                if bare != in_path.model.name {
                    return Err(Refusal::TwoModels { path: in_path.model.name.clone(), body: bare.to_owned() });
                }
                (Some(bare), Some(span.clone()))
            }
            (Some(Model::NotAName), in_path) => {
                if self.shape.needs_model || in_path.is_some() {
                    return Err(Refusal::ModelIsNoString);
                }
                (None, None)
            }
        })
    }

    /// Writes another model into the body and into the path, wherever there is one.
    fn rename(&self, resolved: &mut Resolved, body: &[u8], span: Option<Range<usize>>, scan: &Scan<'_>, target: &str) {
        if let Some(span) = span {
            let is_path = matches!(&scan.model, Some(Model::Name { name, .. }) if name.starts_with("models/"));
            let name =
                if is_path && self.path_model.is_some() { format!("models/{target}") } else { target.to_owned() };
            resolved.rewritten = Some(scan::with_model(body, &span, &name, scan.is_form));
        }
        if let Some(NamedInPath { model, query }) = &self.path_model {
            resolved.headers.push((":path".to_owned(), model.target(target, query)));
        }
    }

    fn choice(&self, gateway: &mut Gateway, scan: &Scan<'_>, body: &[u8], now: Timestamp) -> Option<Choice> {
        let pseudo = |wanted: &str| {
            let found = self.pseudo.iter().find(|(name, _)| name == wanted);
            found.map_or(&b""[..], |(_, value)| value)
        };
        let mut facts = Facts::new(pseudo(":method"), pseudo(":path"), &self.headers, now);
        // The path as engines have it: no spelling of it goes around a rule.
        let path = target::decode(facts.path);
        let path = path.strip_suffix(b"/").unwrap_or(&path);
        facts.path = path;
        gateway.decide(facts.with_body(body, &scan.members))
    }
}

/// Whether an engine may have a model of this name that is not configured.
fn may_be_a_name(name: &str) -> bool {
    !name.is_empty() && shown::is_plain(name)
}

/// Notes the session that the body names, if no session key before has found one.
fn note_session(gateway: &Gateway, wishes: &mut Wishes, scan: &Scan<'_>, body: &[u8]) {
    for (index, key) in gateway.config().session_keys.iter().enumerate() {
        let SessionKey::BodyField(field) = key else { continue };
        if wishes.session.is_some_and(|(other, _)| other < index) {
            return;
        }
        let Some(member) = scan.members.iter().rev().find(|member| member.key == *field) else { continue };
        let value = body.get(member.span.clone()).unwrap_or_default();
        let text = if member.is_json { scan::unescape(value) } else { std::str::from_utf8(value).ok().map(Into::into) };
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            wishes.session = Some((index, hash::bytes(text.as_bytes())));
            return;
        }
    }
}
