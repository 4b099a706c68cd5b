//! Checks the names that clients may ask for, what they stand for, and how much they matter.

use std::collections::BTreeMap;

use super::Checker;
use crate::config::checked::{Model, Objective, PoolId, Rewrite, SessionKey, Split, TargetModel};
use crate::config::raw;
use crate::headers;

/// The bound of the Inference Extension's InferenceModel.
const MAX_TARGETS: usize = 10;
/// More places to look at than anybody has names for a session.
const MAX_SESSION_KEYS: usize = 8;

/// A split as it is written, whichever resource it stands in.
struct RawSplit {
    targets: Vec<(String, Option<String>, Option<u64>)>,
    sticky: Option<bool>,
    restores_name: Option<bool>,
}

impl Checker<'_> {
    pub(super) fn models(&mut self, raw: Option<Vec<Option<raw::Model>>>) -> Option<Vec<Model>> {
        let mut models: Vec<Model> = Vec::new();
        let mut paths: BTreeMap<String, String> = BTreeMap::new();
        let mut complete = true;
        for (path, raw) in self.elements("models", raw) {
            let Some(model) = self.model(&path, raw) else {
                complete = false;
                continue;
            };
            if let Some(first) = paths.get(&model.name) {
                let message = format!("{:?} is defined twice", model.name);
                self.contradiction(&format!("{path}.modelName"), first.clone(), message);
            } else {
                paths.insert(model.name.clone(), path);
                models.push(model);
            }
        }
        complete.then_some(models)
    }

    fn model(&mut self, path: &str, raw: raw::Model) -> Option<Model> {
        let name = self.model_name(&format!("{path}.modelName"), raw.model_name);
        if raw.criticality.is_some() && raw.priority.is_some() {
            self.error(&format!("{path}.criticality"), "says the same as priority: give one of the two");
        }
        let criticality = raw.criticality.map(|criticality| match criticality {
            raw::Criticality::Critical => 1,
            raw::Criticality::Standard => 0,
            raw::Criticality::Sheddable => -1,
        });
        let priority = self.priority(&format!("{path}.priority"), raw.priority).or(criticality);
        let pool = self.pool_id(path, raw.pool)?;
        if let Some(name) = &name {
            self.belongs_to(&format!("{path}.modelName"), name, pool);
        }
        let targets = match raw.target_models {
            Some(targets) => {
                let path = format!("{path}.targetModels");
                let targets = self.elements(&path, Some(targets));
                let weighted = targets.iter().filter(|(_, target)| target.weight.is_some()).count();
                if weighted != 0 && weighted != targets.len() {
                    self.error(&path, "some targets have a weight and some have none: give all of them one, or none");
                }
                targets.into_iter().map(|(path, target)| (format!("{path}.name"), target.name, target.weight)).collect()
            }
            None => {
                let sketch = self.sketches.get(pool.0)?;
                let itself = name.as_ref().filter(|name| sketch.serves(name)).or(sketch.models.first());
                vec![(path.to_owned(), Some(itself?.clone()), None)]
            }
        };
        let split = RawSplit { targets, sticky: raw.sticky, restores_name: raw.restore_model_name };
        let split = self.split(&format!("{path}.targetModels"), split, pool);
        Some(Model { name: name?, pool, priority, split: split? })
    }

    pub(super) fn rewrites(&mut self, raw: Option<Vec<Option<raw::ModelRewrite>>>) -> Option<Vec<Rewrite>> {
        let mut rewrites: Vec<Rewrite> = Vec::new();
        let mut complete = true;
        for (path, raw) in self.elements("modelRewrites", raw) {
            let Some(pool) = self.pool_id(&path, raw.pool) else {
                complete = false;
                continue;
            };
            let path = format!("{path}.rules");
            let rules = self.elements(&path, raw.rules);
            if rules.is_empty() {
                self.error(&path, "at least one rule is needed");
            }
            for (path, rule) in rules {
                match self.rewrite(&path, rule, pool) {
                    Some(rewrite) => rewrites.push(rewrite),
                    None => complete = false,
                }
            }
        }
        complete.then_some(rewrites)
    }

    fn rewrite(&mut self, path: &str, raw: raw::RewriteRule, pool: PoolId) -> Option<Rewrite> {
        let mut names = Vec::new();
        for (path, found) in self.elements(&format!("{path}.matches"), raw.matches) {
            let path = format!("{path}.model.value");
            let name = self.model_name(&path, found.model.and_then(|model| model.value))?;
            self.belongs_to(&path, &name, pool);
            names.push(name);
        }
        let path = format!("{path}.targets");
        let targets = self.elements(&path, raw.targets);
        // As the endpoint picker has it: where some have a weight, the others are never chosen.
        let is_weighted = targets.iter().any(|(_, target)| target.weight.is_some());
        let weight = |target: &raw::RewriteTarget| target.weight.or(is_weighted.then_some(0));
        let least = |target: &raw::RewriteTarget| target.weight == Some(0);
        for (path, _) in targets.iter().filter(|(_, target)| least(target)) {
            self.error(&format!("{path}.weight"), "0 is not between 1 and 1000000");
        }
        let targets = targets
            .into_iter()
            .map(|(path, target)| {
                let weight = weight(&target);
                (format!("{path}.modelRewrite"), target.model_rewrite, weight)
            })
            .collect();
        let split = RawSplit { targets, sticky: raw.sticky, restores_name: raw.restore_model_name };
        Some(Rewrite { pool, names, split: self.split(&path, split, pool)? })
    }

    fn split(&mut self, path: &str, raw: RawSplit, pool: PoolId) -> Option<Split> {
        if raw.targets.is_empty() {
            self.error(path, "is empty: name at least one model");
            return None;
        }
        if raw.targets.len() > MAX_TARGETS {
            self.error(path, format!("{} targets, but at most {MAX_TARGETS} are allowed", raw.targets.len()));
        }
        if raw.targets.iter().all(|(_, _, weight)| *weight == Some(0)) {
            self.error(path, "no target has a weight above 0");
        }
        let mut targets = Vec::new();
        for (path, name, weight) in raw.targets {
            let owner = path.rsplit_once('.').map_or(path.as_str(), |(owner, _)| owner);
            let weight = self.integer(&format!("{owner}.weight"), weight, 1, 0..=1_000_000);
            let Some(name) = self.model_name(&path, name) else { continue };
            if self.sketches.get(pool.0).is_some_and(|pool| pool.serves(&name)) {
                targets.push(TargetModel { name, weight: u32::try_from(weight).unwrap_or(0) });
            } else {
                self.error(&path, format!("{name:?} is neither the base model nor an adapter of the pool"));
            }
        }
        let is_sticky = raw.sticky.unwrap_or(false);
        Some(Split { targets, is_sticky, restores_name: raw.restores_name.unwrap_or(false) })
    }

    pub(super) fn objectives(&mut self, raw: Option<Vec<Option<raw::Objective>>>) -> Option<Vec<Objective>> {
        let mut objectives: Vec<Objective> = Vec::new();
        let mut paths: BTreeMap<(PoolId, String), String> = BTreeMap::new();
        let mut complete = true;
        for (path, raw) in self.elements("objectives", raw) {
            let name = self.model_name(&format!("{path}.name"), raw.name);
            let priority = self.priority(&format!("{path}.priority"), raw.priority).unwrap_or(0);
            let pool = self.pool_id(&path, raw.pool);
            let (Some(name), Some(pool)) = (name, pool) else {
                complete = false;
                continue;
            };
            if let Some(first) = paths.get(&(pool, name.clone())) {
                let message = format!("{name:?} is defined twice for the pool");
                self.contradiction(&format!("{path}.name"), first.clone(), message);
            }
            paths.entry((pool, name.clone())).or_insert(path);
            objectives.push(Objective { name, pool, priority });
        }
        complete.then_some(objectives)
    }

    pub(super) fn session_keys(&mut self, raw: Option<Vec<Option<raw::SessionKey>>>) -> Option<Vec<SessionKey>> {
        if raw.is_none() {
            return Some(vec![SessionKey::Header(headers::SESSION.to_owned())]);
        }
        let raw = self.elements("sessionKeys", raw);
        if raw.len() > MAX_SESSION_KEYS {
            self.error("sessionKeys", format!("{} keys, but at most {MAX_SESSION_KEYS} are allowed", raw.len()));
        }
        let mut keys = Vec::new();
        for (path, raw) in raw {
            keys.push(match (raw.header, raw.cookie, raw.body_field) {
                (Some(header), None, None) => SessionKey::Header(self.header_name(&format!("{path}.header"), &header)?),
                (None, Some(cookie), None) => {
                    if !is_token(&cookie) {
                        self.error(&format!("{path}.cookie"), format!("{cookie:?} is not a name of a cookie"));
                    }
                    SessionKey::Cookie(cookie)
                }
                (None, None, Some(field)) if !field.is_empty() => SessionKey::BodyField(field),
                _ => {
                    self.error(&path, "names exactly one of header, cookie and bodyField");
                    return None;
                }
            });
        }
        Some(keys)
    }

    /// The control headers that are believed. A session's header may be listed as well, since it is.
    pub(super) fn trusted_headers(
        &mut self,
        raw: Option<Vec<Option<String>>>,
        session_keys: &[SessionKey],
    ) -> Vec<&'static str> {
        let mut trusted = Vec::new();
        for (path, name) in self.elements("trustedHeaders", raw) {
            let lower = name.to_ascii_lowercase();
            match headers::TRUSTABLE.into_iter().find(|known| *known == lower) {
                Some(known) if trusted.contains(&known) => self.error(&path, format!("{name:?} is listed twice")),
                Some(known) => trusted.push(known),
                None if session_keys.contains(&SessionKey::Header(lower.clone())) => {}
                None if headers::control(&lower).is_some() => {
                    self.error(&path, format!("{name:?} is the plugin's own to set, and is never believed"));
                }
                None => {
                    let names = headers::TRUSTABLE.join(", ");
                    self.error(&path, format!("{name:?} is not a header that the plugin reads; those that may be trusted are {names}; a session's header belongs in sessionKeys"));
                }
            }
        }
        trusted
    }

    /// A header's name in lower case.
    pub(super) fn header_name(&mut self, path: &str, name: &str) -> Option<String> {
        if is_token(name) {
            return Some(name.to_ascii_lowercase());
        }
        self.error(path, format!("{name:?} is not a name of a header"));
        None
    }

    pub(super) fn priority(&mut self, path: &str, priority: Option<i64>) -> Option<i32> {
        let priority = priority?;
        let fits = i32::try_from(priority).ok();
        if fits.is_none() {
            self.error(path, format!("{priority} is not between {} and {}", i32::MIN, i32::MAX));
        }
        fits
    }

    /// The pool that is named under `path`.
    fn pool_id(&mut self, path: &str, name: Option<String>) -> Option<PoolId> {
        let path = format!("{path}.pool");
        let Some(name) = name else {
            self.error(&path, "is required");
            return None;
        };
        let found = self.pool_named(&name);
        if found.is_none() {
            self.error(&path, format!("there is no pool {name:?}"));
        }
        found
    }

    pub(super) fn pool_named(&self, name: &str) -> Option<PoolId> {
        self.sketches.iter().position(|pool| pool.name.as_deref() == Some(name)).map(PoolId)
    }

    /// A name leads to one pool: the one that serves it, or the one that the first to say so names.
    fn belongs_to(&mut self, path: &str, name: &str, pool: PoolId) {
        let other = self.sketches.iter().enumerate().find(|(at, sketch)| *at != pool.0 && sketch.serves(name));
        if let Some((_, other)) = other {
            let message = format!("{name:?} is a model of pool {:?}", other.name.as_deref().unwrap_or(""));
            self.error(path, message);
            return;
        }
        match self.names.get(name).cloned() {
            None => {
                self.names.insert(name.to_owned(), (pool, path.to_owned()));
            }
            Some((first, place)) if first != pool => {
                let other = self.sketches.get(first.0).and_then(|sketch| sketch.name.as_deref()).unwrap_or("");
                let message = format!("{name:?} leads to pool {other:?} already: a name leads to one pool");
                self.contradiction(path, place, message);
            }
            Some(_) => {}
        }
    }
}

/// A token, as RFC 9110 defines it for names of headers and RFC 6265 for names of cookies.
fn is_token(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(allowed)
}
