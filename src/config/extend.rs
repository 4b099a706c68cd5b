//! Adds models, rewrites and objectives to a configuration that are written down elsewhere, such as custom resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, ConfigErrors};
use super::{Model, Objective, Rewrite, check, raw};

/// What is added. A pool is named as in the document, or as its InferencePool.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Additions {
    /// More `models`.
    pub models: Vec<Addition<raw::Model>>,
    /// More `modelRewrites`.
    pub model_rewrites: Vec<Addition<raw::ModelRewrite>>,
    /// More `objectives`.
    pub objectives: Vec<Addition<raw::Objective>>,
}

/// An addition and where it comes from.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Addition<T> {
    /// What it is called where it comes from, for messages.
    pub source: String,
    /// What it says.
    pub says: T,
}

/// The configuration's and what was added to them.
#[derive(Debug)]
pub struct Extended {
    /// The models.
    pub models: Vec<Model>,
    /// The rewrites.
    pub rewrites: Vec<Rewrite>,
    /// The objectives.
    pub objectives: Vec<Objective>,
    /// What was left out, and why.
    pub refused: Vec<String>,
}

/// What the additions make of a document that holds. One that cannot be used is left out, and no other: of two that say
/// the same the later one, of a model and a rewrite that contradict each other the rewrite, and never what the document
/// says itself. `None` only for a document that does not hold.
pub fn extend(base: &raw::Config, more: &Additions) -> Option<Extended> {
    let mut more = more.clone();
    more.rename_pools(&base.pools_by_resource());
    let mut refused = Vec::new();
    loop {
        let mut errors = ConfigErrors::default();
        let checked = check::check(more.added_to(base), 0, &mut errors);
        if let (Some(checked), true) = (checked, errors.is_empty()) {
            let (models, rewrites, objectives) = (checked.models, checked.rewrites, checked.objectives);
            return Some(Extended { models, rewrites, objectives, refused });
        }
        if !more.remove_bad(base, &errors, &mut refused) {
            return None;
        }
    }
}

impl Additions {
    fn rename_pools(&mut self, pools: &BTreeMap<String, String>) {
        let models = self.models.iter_mut().map(|model| &mut model.says.pool);
        let rewrites = self.model_rewrites.iter_mut().map(|rewrite| &mut rewrite.says.pool);
        let objectives = self.objectives.iter_mut().map(|objective| &mut objective.says.pool);
        for pool in models.chain(rewrites).chain(objectives).flatten() {
            if let Some(name) = pools.get(pool) {
                pool.clone_from(name);
            }
        }
    }

    fn added_to(&self, base: &raw::Config) -> raw::Config {
        fn add<T: Clone>(list: &mut Option<Vec<Option<T>>>, more: &[Addition<T>]) {
            list.get_or_insert_default().extend(more.iter().map(|addition| Some(addition.says.clone())));
        }
        // Rules have been checked, and depend on none of these.
        let mut document = raw::Config { rules: None, ..base.clone() };
        add(&mut document.models, &self.models);
        add(&mut document.model_rewrites, &self.model_rewrites);
        add(&mut document.objectives, &self.objectives);
        document
    }

    /// Removes those that a mistake is in; false if there is none.
    fn remove_bad(&mut self, base: &raw::Config, errors: &ConfigErrors, refused: &mut Vec<String>) -> bool {
        let lists = [
            Part { name: "models", own: count(&base.models), added: self.models.len() },
            Part { name: "modelRewrites", own: count(&base.model_rewrites), added: self.model_rewrites.len() },
            Part { name: "objectives", own: count(&base.objectives), added: self.objectives.len() },
        ];
        let addition_at = |path: &String| {
            let mut lists = lists.iter().enumerate();
            lists.find_map(|(list, part)| Some((list, part.position(path)?)))
        };
        // One that is wrong by itself contradicts nobody: what is said of contradictions holds when it is gone.
        let is_alone = |error: &&ConfigError| error.other.is_none() && addition_at(&error.path).is_some();
        let any_alone = errors.iter().any(|error| is_alone(&error));
        let mut bad = BTreeMap::new();
        for error in errors.iter().filter(|error| !any_alone || is_alone(error)) {
            if let Some(addition) = addition_at(&error.path).or_else(|| addition_at(error.other.as_ref()?)) {
                bad.entry(addition).or_insert(&error.message);
            }
        }
        // The last first, so that the others keep their places.
        for ((list, at), message) in bad.iter().rev() {
            let source = match list {
                0 => self.models.remove(*at).source,
                1 => self.model_rewrites.remove(*at).source,
                _ => self.objectives.remove(*at).source,
            };
            refused.push(format!("{source}: {message}"));
        }
        !bad.is_empty()
    }
}

/// One of the lists that are added to.
struct Part {
    name: &'static str,
    /// How many elements the document itself has.
    own: usize,
    added: usize,
}

impl Part {
    /// Which addition a path leads to.
    fn position(&self, path: &str) -> Option<usize> {
        let index: usize = path.strip_prefix(self.name)?.strip_prefix('[')?.split(']').next()?.parse().ok()?;
        index.checked_sub(self.own).filter(|at| *at < self.added)
    }
}

fn count<T>(list: &Option<Vec<T>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

impl raw::Config {
    /// The pools' names by those of their InferencePools.
    fn pools_by_resource(&self) -> BTreeMap<String, String> {
        let named = |pool: &raw::Pool| {
            let resource = pool.endpoints.as_ref()?.kubernetes.as_ref()?.inference_pool.clone()?;
            Some((resource, pool.name.clone()?))
        };
        self.pools.iter().flatten().flatten().filter_map(named).collect()
    }
}
