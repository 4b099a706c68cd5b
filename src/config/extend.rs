//! Adds models, rewrites and objectives to a configuration that are written down elsewhere, such as custom resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ConfigErrors;
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

/// What the additions make of a document that holds. One that cannot be used is left out: of two that say the same the
/// later one, and of a model and a rewrite that contradict each other the rewrite. `None` only for a document that does not hold.
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
        let before = more.len();
        more.remove_bad(base, &errors, &mut refused);
        if more.len() == before {
            // The mistake is in no single one of them.
            refused.extend(errors.iter().map(|error| error.message.clone()));
            match more.model_rewrites.is_empty() {
                _ if before == 0 => return None,
                false => more.model_rewrites.clear(),
                true => more = Additions::default(),
            }
        }
    }
}

impl Additions {
    fn len(&self) -> usize {
        self.models.len() + self.model_rewrites.len() + self.objectives.len()
    }

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

    /// Removes those that a mistake is in.
    fn remove_bad(&mut self, base: &raw::Config, errors: &ConfigErrors, refused: &mut Vec<String>) {
        remove(&mut self.models, "models", count(&base.models), errors, refused);
        remove(&mut self.model_rewrites, "modelRewrites", count(&base.model_rewrites), errors, refused);
        remove(&mut self.objectives, "objectives", count(&base.objectives), errors, refused);
    }
}

fn count<T>(list: &Option<Vec<T>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

/// Removes the additions with a mistake, of which the document itself has so many before them.
fn remove<T>(list: &mut Vec<Addition<T>>, name: &str, own: usize, errors: &ConfigErrors, refused: &mut Vec<String>) {
    let position = |path: &str| {
        let index: usize = path.strip_prefix(name)?.strip_prefix('[')?.split(']').next()?.parse().ok()?;
        index.checked_sub(own).filter(|at| *at < list.len())
    };
    let mut bad = BTreeMap::new();
    for error in errors.iter() {
        if let Some(at) = position(&error.path) {
            bad.entry(at).or_insert(&error.message);
        }
    }
    for (at, message) in bad.into_iter().rev() {
        refused.push(format!("{}: {message}", list.remove(at).source));
    }
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
