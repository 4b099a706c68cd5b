//! From the name that a client asks for to the pool that serves it and the model that is meant.

use std::collections::BTreeMap;

use crate::config::{Config, PoolId, TargetModel};
use crate::rng::Rng;

/// Every name that clients may ask for.
#[derive(Debug, Default)]
pub struct ModelTable {
    names: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    pool: PoolId,
    targets: Vec<TargetModel>,
    total_weight: u64,
}

/// Where a request goes and what it shall ask for there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved<'t> {
    /// The pool.
    pub pool: PoolId,
    /// The pool's base model or one of its adapters.
    pub target: &'t str,
}

impl ModelTable {
    /// The table of a checked configuration, in which every name is unique.
    pub fn new(config: &Config) -> ModelTable {
        let mut table = ModelTable::default();
        for (id, pool) in config.pools() {
            for name in std::iter::once(&pool.base_model).chain(&pool.adapters) {
                table.insert(name, id, vec![TargetModel { name: name.clone(), weight: 1 }]);
            }
        }
        for alias in &config.aliases {
            let targets = alias.targets.iter().map(|target| TargetModel { name: target.name.clone(), ..*target });
            table.insert(&alias.name, alias.pool, targets.collect());
        }
        table
    }

    /// Looks a name up; where it stands for several models, one is drawn by weight.
    pub fn resolve(&self, name: &str, rng: &mut impl Rng) -> Option<Resolved<'_>> {
        let entry = self.names.get(name)?;
        let mut ticket = if entry.targets.len() > 1 {
            rng.below(usize::try_from(entry.total_weight).unwrap_or(usize::MAX)) as u64
        } else {
            0
        };
        for target in &entry.targets {
            match ticket.checked_sub(u64::from(target.weight)) {
                Some(rest) if entry.targets.len() > 1 => ticket = rest,
                _ => return Some(Resolved { pool: entry.pool, target: &target.name }),
            }
        }
        None
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn insert(&mut self, name: &str, pool: PoolId, targets: Vec<TargetModel>) {
        let total_weight = targets.iter().map(|target| u64::from(target.weight)).sum();
        self.names.insert(name.to_owned(), Entry { pool, targets, total_weight });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;
    use crate::testing::test;

    fn table() -> ModelTable {
        let json = r#"{
            "pools": [
                {"name": "a", "baseModel": "base-a", "adapters": ["x", "y"], "endpoints": {"static": ["10.0.0.1:1"]}},
                {"name": "b", "baseModel": "base-b", "endpoints": {"static": ["10.0.0.2:1"]}}
            ],
            "models": [
                {"modelName": "split", "pool": "a", "targetModels": [
                    {"name": "x", "weight": 90}, {"name": "y", "weight": 10}, {"name": "base-a", "weight": 0}]},
                {"modelName": "plain", "pool": "b"}
            ]
        }"#;
        ModelTable::new(&crate::config::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn base_models_adapters_and_aliases_lead_to_their_pool() {
        let table = table();
        let mut rng = SplitMix64::new(1);
        let mut look_up =
            |name: &str| table.resolve(name, &mut rng).map(|found| (found.pool.0, found.target.to_owned()));
        assert_eq!(look_up("base-a"), Some((0, "base-a".to_owned())));
        assert_eq!(look_up("y"), Some((0, "y".to_owned())));
        assert_eq!(look_up("plain"), Some((1, "base-b".to_owned())));
        assert_eq!(look_up("BASE-A"), None, "model names are case-sensitive, as in the engines");
        assert_eq!(look_up(""), None);
    }

    #[test]
    fn a_split_keeps_its_weights() {
        let table = table();
        let mut rng = SplitMix64::new(2);
        let mut to_x = 0;
        for _ in 0..20_000 {
            match table.resolve("split", &mut rng).unwrap().target {
                "x" => to_x += 1,
                "y" => {}
                other => panic!("a target of weight 0 was drawn: {other}"),
            }
        }
        // 4.5 sigma of a binomial with n = 20,000 and p = 0.9 is 191.
        assert!((18_000i32 - to_x).abs() < 191, "{to_x}");
    }
}
