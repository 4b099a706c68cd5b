//! From the name that a client asks for to the pool that serves it and the model that is meant.
//!
//! The semantics are those of the Inference Extension's InferenceModel, InferenceModelRewrite and InferenceObjective:
//! a rewrite goes before a model's own targets, an exact one before a generic one, and an objective's priority before
//! the model's. Unlike there a name leads to its pool, so it is one pool's or the configuration is refused.

use std::collections::BTreeMap;

use crate::config::{Config, PoolId, Split, TargetModel};
use crate::hash;
use crate::rng::Rng;

/// Every name that clients may ask for.
#[derive(Debug, Default)]
pub struct ModelTable {
    names: BTreeMap<String, Entry>,
    /// Each pool's generic rewrite.
    generic: BTreeMap<PoolId, Split>,
    /// By pool and name.
    objectives: BTreeMap<(PoolId, String), i32>,
}

#[derive(Debug)]
struct Entry {
    pool: PoolId,
    priority: Option<i32>,
    split: Split,
    /// Whether the split is an exact rewrite, which no generic one overrides.
    is_rewritten: bool,
}

/// Where a request goes and what it shall ask for there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved<'t> {
    /// The pool.
    pub pool: PoolId,
    /// The pool's base model or one of its adapters.
    pub target: &'t str,
    /// How much the model's requests matter, if that is said.
    pub priority: Option<i32>,
    /// Whether the answer shall name the model as the client did.
    pub restores_name: bool,
}

impl ModelTable {
    /// The table of a checked configuration, in which every name is unique.
    pub fn new(config: &Config) -> ModelTable {
        let mut table = ModelTable::default();
        for (pool, served) in config.pools() {
            for name in std::iter::once(&served.base_model).chain(&served.adapters) {
                table.names.insert(name.clone(), Entry::itself(pool, name));
            }
        }
        for model in &config.models {
            let entry = Entry { split: model.split.clone(), ..Entry::itself(model.pool, &model.name) };
            table.names.insert(model.name.clone(), Entry { priority: model.priority, ..entry });
        }
        for rewrite in &config.rewrites {
            if rewrite.names.is_empty() {
                table.generic.entry(rewrite.pool).or_insert_with(|| rewrite.split.clone());
            }
            for name in &rewrite.names {
                let entry = table.names.entry(name.clone()).or_insert_with(|| Entry::itself(rewrite.pool, name));
                if !entry.is_rewritten {
                    (entry.split, entry.is_rewritten) = (rewrite.split.clone(), true);
                }
            }
        }
        for objective in &config.objectives {
            table.objectives.insert((objective.pool, objective.name.clone()), objective.priority);
        }
        table
    }

    /// Looks a name up; where it stands for several models, one is drawn by weight, for a `session` always the same
    /// one if the split is sticky.
    pub fn resolve(&self, name: &str, session: Option<u64>, rng: &mut impl Rng) -> Option<Resolved<'_>> {
        let entry = self.names.get(name)?;
        let generic = self.generic.get(&entry.pool).filter(|_| !entry.is_rewritten);
        let split = generic.unwrap_or(&entry.split);
        let target = draw(split, session.filter(|_| split.is_sticky), rng)?;
        let Entry { pool, priority, .. } = *entry;
        Some(Resolved { pool, target, priority, restores_name: split.restores_name })
    }

    /// What a pool's generic rewrite makes of any name, and whether answers shall name the model as the client did.
    pub fn resolve_generic(&self, pool: PoolId, session: Option<u64>, rng: &mut impl Rng) -> Option<(&str, bool)> {
        let split = self.generic.get(&pool)?;
        Some((draw(split, session.filter(|_| split.is_sticky), rng)?, split.restores_name))
    }

    /// Whether clients may ask for this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The priority of a pool's objective.
    pub fn objective(&self, pool: PoolId, name: &str) -> Option<i32> {
        // Most configurations have none: then nothing is copied for the look-up.
        if self.objectives.is_empty() {
            return None;
        }
        self.objectives.get(&(pool, name.to_owned())).copied()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Entry {
    /// A name that stands for itself.
    fn itself(pool: PoolId, name: &str) -> Entry {
        let targets = vec![TargetModel { name: name.to_owned(), weight: 1 }];
        Entry { pool, priority: None, split: Split { targets, ..Split::default() }, is_rewritten: false }
    }
}

fn draw<'s>(split: &'s Split, session: Option<u64>, rng: &mut impl Rng) -> Option<&'s str> {
    if let [only] = split.targets.as_slice() {
        return Some(&only.name);
    }
    if let Some(session) = session {
        return draw_for(split, session);
    }
    let total: u64 = split.targets.iter().map(|target| u64::from(target.weight)).sum();
    let mut ticket = rng.below(usize::try_from(total).unwrap_or(usize::MAX)) as u64;
    split.targets.iter().find_map(|target| match ticket.checked_sub(u64::from(target.weight)) {
        Some(rest) => {
            ticket = rest;
            None
        }
        None => Some(target.name.as_str()),
    })
}

/// A session's own draw: the weighted rendezvous hash of Schindelhauer and Schomaker's logarithmic method. Each target
/// has -ln(u) / weight, u being even in (0, 1) and the target's and session's own; the least wins. A changed weight
/// moves only the sessions that it must.
fn draw_for(split: &Split, session: u64) -> Option<&str> {
    let cost = |target: &TargetModel| {
        let hash = hash::combine(session, hash::bytes(target.name.as_bytes()));
        let even = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -even.ln() / f64::from(target.weight)
    };
    let weighted = split.targets.iter().filter(|target| target.weight > 0);
    weighted.min_by(|a, b| cost(a).total_cmp(&cost(b))).map(|target| target.name.as_str())
}

#[cfg(test)]
mod tests;
